//! HTTP/3 listeners: QUIC beside TCP, on the same address.
//!
//! Each worker has an endpoint of its own on the address, and serves what that accepts. The endpoints outlive the
//! listener that they were opened for as long as connections of it are drained, and are used again when it comes back
//! before that: sockets that only drain would still be sent a share of the new callers.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::accept::{Accepted, Open, Socket};
use super::worker::Workers;
use super::{ConnectionFactory, connection};
use crate::base::{limits, task};
use crate::net::origin;
use crate::net::quic::{self, Arrival, Server, Station, Steering};

/// The endpoints of all addresses.
#[derive(Debug)]
pub(super) struct Gateways<L> {
    steering: Arc<Steering>,
    open: Mutex<Vec<Gateway<L>>>,
}

/// The endpoints of one address.
#[derive(Debug)]
struct Gateway<L> {
    address: SocketAddr,
    life: Weak<Life>,
    target: Target<L>,
}

/// What new connections are accepted for; nothing: they are refused.
type Target<L> = Arc<ArcSwapOption<Socket<L>>>;

/// Endpoints stay open while somebody holds this: the listener, or a connection.
#[derive(Debug)]
pub(super) struct Life {
    _ended: watch::Sender<()>,
}

/// The UDP side of a listener that is about to be.
#[derive(Debug)]
pub(super) enum Side {
    /// New sockets, one for each worker.
    Bound(Vec<UdpSocket>),
    /// Endpoints that still drain what came before.
    Kept(Arc<Life>),
}

impl<L: Send + Sync + 'static> Gateways<L> {
    pub(super) fn new(steering: Arc<Steering>) -> Self {
        Self { steering, open: Mutex::default() }
    }

    /// Gets hold of an address, and changes nothing yet.
    pub(super) fn prepare(&self, address: SocketAddr, workers: usize) -> io::Result<Side> {
        let open = self.open.lock();
        let life = open.iter().filter(|gateway| gateway.address == address).find_map(|gateway| gateway.life.upgrade());
        match life {
            Some(life) => Ok(Side::Kept(life)),
            None => quic::bind(address, workers).map(Side::Bound),
        }
    }

    /// From now on callers are accepted for this socket.
    pub(super) fn open<F>(
        &self,
        side: Side,
        socket: &Arc<Socket<L>>,
        (workers, factory): (&Workers, &Arc<F>),
    ) -> Arc<Life>
    where
        F: ConnectionFactory<Listener = L>,
    {
        let sockets = match side {
            Side::Bound(sockets) => sockets,
            Side::Kept(life) => {
                self.aim(&life, Some(Arc::clone(socket)));
                return life;
            }
        };
        let (sender, ended) = watch::channel(());
        let life = Arc::new(Life { _ended: sender });
        let target: Target<L> = Arc::new(ArcSwapOption::from(Some(Arc::clone(socket))));
        let gateway = Gateway { address: socket.address, life: Arc::downgrade(&life), target: Arc::clone(&target) };
        let mut open = self.open.lock();
        open.retain(|gateway| gateway.life.strong_count() > 0);
        open.push(gateway);
        drop(open);
        let Some(stations) = Station::join(&self.steering, socket.address.port(), sockets) else {
            tracing::error!(address = %socket.address, "HTTP/3 is not served: the process has too many UDP sockets");
            return life;
        };
        for (worker, station) in stations.into_iter().enumerate() {
            let reception = Reception {
                worker,
                workers: workers.clone(),
                factory: Arc::clone(factory),
                target: Arc::clone(&target),
                life: Arc::downgrade(&life),
                ended: ended.clone(),
            };
            workers.run(worker, move || match station.open() {
                Ok(server) => drop(task::spawn("accept-quic", reception.run(server))),
                Err(error) => {
                    tracing::error!(%error, "a UDP socket cannot be watched; HTTP/3 callers of it wait in vain");
                }
            });
        }
        life
    }

    /// From now on callers are refused. Connections that are open go on.
    pub(super) fn close(&self, life: &Arc<Life>) {
        self.aim(life, None);
    }

    fn aim(&self, life: &Arc<Life>, at: Option<Arc<Socket<L>>>) {
        let open = self.open.lock();
        let of_life = |gateway: &&Gateway<L>| std::ptr::eq(gateway.life.as_ptr(), Arc::as_ptr(life));
        if let Some(gateway) = open.iter().find(of_life) {
            gateway.target.store(at);
        }
    }
}

/// What one worker accepts with.
struct Reception<F: ConnectionFactory> {
    worker: usize,
    workers: Workers,
    factory: Arc<F>,
    target: Target<F::Listener>,
    /// Weak: only listeners and connections keep the endpoints.
    life: Weak<Life>,
    ended: watch::Receiver<()>,
}

impl<F: ConnectionFactory> Reception<F> {
    /// Accepts until nobody needs the endpoint. The socket is closed when its last connection is gone.
    async fn run(mut self, server: Server) {
        loop {
            server.limit_unproved(self.most_unproved());
            // Both arms are cancel safe. The sender says nothing and is dropped.
            let arrival = tokio::select! {
                arrival = server.arrival() => arrival,
                _ = self.ended.changed() => None,
            };
            let (Some(arrival), Some(life)) = (arrival, self.life.upgrade()) else { return };
            self.receive(arrival, life);
        }
    }

    /// How many handshakes the listener bears whose callers may not be there at all.
    fn most_unproved(&self) -> u32 {
        let workers = u32::try_from(self.workers.count()).unwrap_or(u32::MAX);
        let most = limits::QUIC_UNPROVED.saturating_mul(workers);
        // Without a listener they are refused, which takes no place.
        let Some(socket) = self.target.load_full() else { return most };
        let config = &socket.current.load().config;
        let handshakes = config.tls.as_ref().map_or(0, |tls| tls.max_handshakes);
        let connections = config.limits.max_connections;
        most.min(handshakes.min(connections) / limits::QUIC_UNPROVED_SHARE)
    }

    fn receive(&self, arrival: Arrival, life: Arc<Life>) {
        let Some(socket) = self.target.load_full() else { return arrival.refuse() };
        let current = socket.current.load_full();
        let pressure = self.factory.pressure();
        if socket.is_full() || !pressure.has_room() {
            // Nobody waits in the kernel as over TCP, so they are told, and may come over TCP and wait.
            current.service.metrics.held_back();
            return arrival.refuse();
        }
        let open = Open::new(&socket, &current.service, self.workers.seat_on(self.worker), pressure.enter());
        let accepted = Accepted { peer: origin::canonical(arrival.peer()), at: Instant::now(), current, open };
        let (address, factory) = (socket.address, Arc::clone(&self.factory));
        drop(task::spawn("connection", async move {
            connection::serve_quic(arrival, address, accepted, factory).await;
            drop(life);
        }));
    }
}
