//! A bound socket and the task that accepts on it.
//!
//! One task per socket takes connections and gives each to the worker with the fewest. At the limit of open
//! connections it stops taking: the next ones wait in the kernel. What a connection gets (name, protocol,
//! limits) is read when it is accepted, so a reload needs no new socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use outrigger_config::model;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::directory::Directory;
use super::service::{Membership, Service};
use super::worker::{Seat, Workers};
use super::{ConnectionFactory, connection};
use crate::base::pressure::OpenConnection;
use crate::base::{limits, task, worker};
use crate::net::listen::{self, AcceptError};
use crate::net::origin;

/// A bound socket, for as long as something is accepted on it or open from it.
#[derive(Debug)]
pub(super) struct Socket<L> {
    /// Where it was bound, ports filled in.
    pub(super) address: SocketAddr,
    /// What new connections get.
    pub(super) current: ArcSwap<Current<L>>,
    room: Arc<Room>,
}

/// The open connections accepted on a socket, under any name.
#[derive(Debug, Default)]
struct Room {
    open: AtomicUsize,
    /// The acceptor waits for one of them to end.
    full: AtomicBool,
    changed: Notify,
}

/// What new connections get.
#[derive(Debug)]
pub(super) struct Current<L> {
    pub(super) config: model::Listener,
    pub(super) view: Arc<L>,
    pub(super) service: Arc<Service>,
}

/// One open connection in every count it is part of, until dropped.
#[derive(Debug)]
pub(super) struct Open {
    room: Arc<Room>,
    /// Where it was accepted.
    address: SocketAddr,
    pub(super) member: Membership,
    seat: Seat,
    _counted: OpenConnection,
}

/// A connection on its way to its worker.
pub(super) struct Accepted<L> {
    /// A caller over IPv4 has such an address, also at a socket of both families.
    pub(super) peer: SocketAddr,
    pub(super) at: Instant,
    pub(super) current: Arc<Current<L>>,
    pub(super) open: Open,
}

/// How an acceptor is told to end: the sender says so or is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Accepting,
    /// Takes what already waits, then closes the socket.
    HandOver,
}

impl<L> Socket<L> {
    pub(super) fn new(address: SocketAddr, current: Current<L>) -> Arc<Self> {
        Arc::new(Self { address, current: ArcSwap::from_pointee(current), room: Arc::default() })
    }

    /// Replaces what new connections get.
    pub(super) fn update(&self, current: Current<L>) {
        self.current.store(Arc::new(current));
        // The limit may have been raised.
        self.room.changed.notify_one();
    }

    /// Whether the limit of open connections is reached.
    pub(super) fn is_full(&self) -> bool {
        let limit = usize::try_from(self.current.load().config.limits.max_connections).unwrap_or(usize::MAX);
        self.room.open.load(Ordering::SeqCst) >= limit
    }

    /// Waits while the limit of open connections is reached. Cancel safe.
    async fn has_room(&self) {
        let mut told = false;
        loop {
            let current = self.current.load();
            let limit = usize::try_from(current.config.limits.max_connections).unwrap_or(usize::MAX);
            if self.room.open.load(Ordering::SeqCst) < limit {
                return;
            }
            if !told {
                current.service.metrics.held_back();
                told = true;
            }
            drop(current);
            // `full` is set before the count is read again, and a connection that ends lowers the count
            // before it reads `full`: one of the two sees the other.
            self.room.full.store(true, Ordering::SeqCst);
            if self.room.open.load(Ordering::SeqCst) >= limit {
                self.room.changed.notified().await;
            }
            self.room.full.store(false, Ordering::SeqCst);
        }
    }
}

impl Open {
    pub(super) fn new<L>(socket: &Socket<L>, service: &Arc<Service>, seat: Seat, counted: OpenConnection) -> Self {
        let room = &socket.room;
        room.open.fetch_add(1, Ordering::SeqCst);
        Self { room: Arc::clone(room), address: socket.address, member: service.join(), seat, _counted: counted }
    }

    /// Where the socket that it was accepted on listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn worker(&self) -> usize {
        self.seat.index()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.room.open.fetch_sub(1, Ordering::SeqCst);
        if self.room.full.load(Ordering::SeqCst) {
            self.room.changed.notify_one();
        }
    }
}

/// What the accept task works with.
pub(super) struct Acceptor<F: ConnectionFactory> {
    pub(super) socket: Arc<Socket<F::Listener>>,
    pub(super) workers: Workers,
    pub(super) factory: Arc<F>,
    pub(super) directory: Arc<Directory<F::Listener>>,
    pub(super) phase: watch::Receiver<Phase>,
}

impl<F: ConnectionFactory> Acceptor<F> {
    /// Accepts until told to end. The socket is closed when this returns.
    pub(super) async fn run(self, listener: std::net::TcpListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                let address = self.socket.address;
                tracing::error!(%address, %error, "a listener cannot be watched for connections");
                return;
            }
        };
        let mut phase = self.phase.clone();
        // Both arms are cancel safe: a connection is given away in the same poll that took it.
        let told = tokio::select! {
            told = phase.wait_for(|phase| *phase == Phase::HandOver) => told.is_ok(),
            () = self.accept_for_ever(&listener) => false,
        };
        if told {
            self.hand_over(listener).await;
        }
    }

    /// Never returns.
    async fn accept_for_ever(&self, listener: &TcpListener) {
        let mut trouble = Trouble::default();
        let mut burst = 0;
        loop {
            self.socket.has_room().await;
            let pressure = self.factory.pressure();
            if !pressure.has_room() {
                self.socket.current.load().service.metrics.held_back();
                pressure.room().await;
                continue;
            }
            // Both are cancel safe.
            let accepted = tokio::select! {
                biased;
                () = pressure.no_room() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted.map_err(AcceptError::from) {
                Ok((stream, peer)) => {
                    self.dispatch(stream, peer);
                    trouble.passed();
                    burst += 1;
                    if burst == limits::ACCEPT_BURST {
                        burst = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Err(AcceptError::WouldBlock) => {}
                Err(AcceptError::Gone(error)) => tracing::trace!(%error, "a caller left before it was accepted"),
                Err(AcceptError::Exhausted(error)) => {
                    self.socket.current.load().service.metrics.accept_failed();
                    if trouble.is_news(Instant::now()) {
                        let address = self.socket.address;
                        tracing::warn!(%address, %error, "connections cannot be accepted; they wait in the kernel");
                    }
                    tokio::time::sleep(trouble.next_pause()).await;
                }
            }
        }
    }

    /// Takes everything that the kernel already accepted for us, beyond the limit too, and closes the socket:
    /// whoever is left in the queue of a closed socket is reset.
    async fn hand_over(&self, listener: TcpListener) {
        listen::stop_handshakes(&listener);
        tokio::time::sleep(limits::HANDSHAKE_GRACE).await;
        // Asked of the kernel itself: the runtime may not have heard of the newest ones. From here to the end
        // there is no await.
        let Ok(listener) = listener.into_std() else { return };
        loop {
            match listener.accept().map_err(AcceptError::from) {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    match stream {
                        Ok(stream) => self.dispatch(stream, peer),
                        Err(error) => tracing::debug!(%error, "a connection was lost before it was served"),
                    }
                }
                Err(AcceptError::Gone(_)) => {}
                Err(AcceptError::WouldBlock) => return,
                Err(AcceptError::Exhausted(error)) => {
                    tracing::warn!(address = %self.socket.address, %error, "waiting connections are lost");
                    return;
                }
            }
        }
    }

    fn dispatch(&self, stream: TcpStream, peer: SocketAddr) {
        // A socket that is already reset may refuse its options; serving it finds out.
        let _ = stream.set_nodelay(true);
        let current = self.socket.current.load_full();
        let seat = self.workers.take_seat();
        let chosen = seat.index();
        let open = Open::new(&self.socket, &current.service, seat, self.factory.pressure().enter());
        let directory = Arc::clone(&self.directory);
        let accepted = Accepted { peer: origin::canonical(peer), at: Instant::now(), current, open };
        let factory = Arc::clone(&self.factory);
        if chosen == worker::index() {
            drop(task::spawn("connection", connection::serve(stream, accepted, directory, factory)));
            return;
        }
        // The stream is known to the runtime of this worker; it is taken out and made known to the other.
        let Ok(stream) = stream.into_std() else { return };
        self.workers.run(chosen, move || match TcpStream::from_std(stream) {
            Ok(stream) => drop(task::spawn("connection", connection::serve(stream, accepted, directory, factory))),
            Err(error) => tracing::debug!(%error, "a connection was lost before it was served"),
        });
    }
}

/// The machine has no descriptors or memory left for a connection: how long to wait, and whether to say it.
#[derive(Debug, Default)]
struct Trouble {
    pause: Option<Duration>,
    said: Option<Instant>,
}

impl Trouble {
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);
    /// At the limit every connection that ends lets one in, and the next one fails again.
    const SAID_FOR: Duration = Duration::from_secs(60);

    fn passed(&mut self) {
        self.pause = None;
    }

    fn next_pause(&mut self) -> Duration {
        let next = self.pause.map_or(Self::FIRST_PAUSE, |last| Self::LONGEST_PAUSE.min(last * 2));
        self.pause = Some(next);
        next
    }

    fn is_news(&mut self, now: Instant) -> bool {
        let news = self.said.is_none_or(|said| now.saturating_duration_since(said) >= Self::SAID_FOR);
        if news {
            self.said = Some(now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_begin_again_after_a_success() {
        let mut trouble = Trouble::default();
        let pauses: Vec<u128> = (0..9).map(|_| trouble.next_pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        trouble.passed();
        assert_eq!(trouble.next_pause().as_millis(), 10);
    }

    #[test]
    fn trouble_is_said_once_a_minute() {
        let mut trouble = Trouble::default();
        let start = Instant::now();
        assert!(trouble.is_news(start));
        trouble.passed();
        assert!(!trouble.is_news(start + Duration::from_secs(59)));
        assert!(trouble.is_news(start + Duration::from_secs(60)));
    }
}
