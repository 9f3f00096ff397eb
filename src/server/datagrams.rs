//! UDP listeners: a socket for each worker, and what runs on it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::{oneshot, watch};

use super::ConnectionFactory;
use super::accept::{Phase, Socket};
use super::worker::Workers;
use crate::base::task;
use crate::net::listen;
use crate::proxy::Joined;

/// Binds a socket for each worker. The kernel gives all datagrams of a caller to the same one.
pub(super) fn bind(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<UdpSocket>)> {
    let first = listen::bind_datagrams(address)?;
    // With port 0 the others share the port that the first one got.
    let address = first.local_addr()?;
    let others = (1..workers).map(|_| listen::bind_datagrams(address));
    let sockets: io::Result<Vec<_>> = std::iter::once(Ok(first)).chain(others).collect();
    Ok((address, sockets?))
}

/// What runs on the sockets of one listener.
pub(super) struct Receiver<F: ConnectionFactory> {
    pub(super) socket: Arc<Socket<F::Listener>>,
    pub(super) workers: Workers,
    pub(super) factory: Arc<F>,
    pub(super) phase: watch::Receiver<Phase>,
}

impl<F: ConnectionFactory> Receiver<F> {
    /// Begins on every worker; `end` is told when all are done.
    pub(super) fn start(self, sockets: Vec<UdpSocket>, end: oneshot::Sender<()>) {
        let open = Arc::new(AtomicUsize::new(0));
        let end = Arc::new(End(Some(end)));
        for (worker, socket) in sockets.into_iter().enumerate() {
            let (shared, factory, open) = (Arc::clone(&self.socket), Arc::clone(&self.factory), Arc::clone(&open));
            let (mut phase, end) = (self.phase.clone(), Arc::clone(&end));
            self.workers.run(worker, move || {
                let address = shared.address;
                let view = {
                    let shared = Arc::clone(&shared);
                    Box::new(move || Arc::clone(&shared.current.load().view))
                };
                let begun =
                    tokio::net::UdpSocket::from_std(socket).and_then(|socket| factory.datagrams(view, socket, open));
                let datagrams = match begun {
                    Ok(Some(datagrams)) => Arc::new(datagrams),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!(%address, %error, "a listener cannot be watched for datagrams");
                        return;
                    }
                };
                drop(task::spawn("datagrams", async move {
                    let join = || {
                        let guard = shared.current.load().service.join();
                        let (drain, closed) = (guard.watch(), guard.closed());
                        Joined { guard, drain, closed }
                    };
                    let told = tokio::select! {
                        told = phase.wait_for(|phase| *phase == Phase::HandOver) => told.is_ok(),
                        () = datagrams.serve(join) => false,
                    };
                    drop(end);
                    if told {
                        datagrams.finish().await;
                    }
                }));
            });
        }
    }
}

/// Told when the last socket is closed.
struct End(Option<oneshot::Sender<()>>);

impl Drop for End {
    fn drop(&mut self) {
        // Nobody waits when the set was dropped.
        let _ = self.0.take().map(|end| end.send(()));
    }
}
