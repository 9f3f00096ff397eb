//! The listeners of a proxy, and how they follow the configuration.
//!
//! A change has two halves. [`ListenerSet::prepare`] binds what is new and touches nothing; it is the last step
//! that can fail. [`ListenerSet::commit`], after the new snapshot is published, starts the new sockets, gives
//! kept ones their new settings, and drains what left. Sockets are matched by address alone: name, protocol
//! and limits change without a new socket.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Weak};
use std::time::Duration;

use outrigger_config::model::{Direction, InterceptionMode, Listener, ListenerProtocol, Place};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::accept::{Acceptor, Current, Phase, Socket};
use super::datagrams::{self, Receiver};
use super::directory::Directory;
use super::quic::{Gateways, Life, Side};
use super::service::{Group, Service};
use super::worker::Workers;
use super::{ConnectionFactory, admission};
use crate::base::{limits, task};
use crate::codec::h3;
use crate::net::listen::{self, Reach};
use crate::net::quic::{self, Steering};
use crate::telemetry::Metrics;

/// The listeners of one proxy. Dropping it stops accepting.
#[derive(Debug)]
pub struct ListenerSet<F: ConnectionFactory> {
    workers: Workers,
    factory: Arc<F>,
    metrics: Arc<Metrics>,
    bound: Mutex<Vec<Bound<F::Listener>>>,
    /// The connections of those that are bound no more, as long as there are any.
    leaving: Mutex<Vec<Weak<Service>>>,
    directory: Arc<Directory<F::Listener>>,
    gateways: Gateways<F::Listener>,
    /// On which worker the next acceptor runs.
    next_worker: Mutex<usize>,
}

/// A socket that is accepted on.
#[derive(Debug)]
struct Bound<L> {
    /// The address as configured; with port 0 the name tells sockets apart.
    key: Key,
    socket: Arc<Socket<L>>,
    /// There with HTTP/3.
    quic: Option<Arc<Life>>,
    phase: watch::Sender<Phase>,
    ended: oneshot::Receiver<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    bind: SocketAddr,
    ephemeral: Option<Arc<str>>,
    /// Takes connections to any address: that is settled before a socket is bound.
    transparent: bool,
    /// Takes datagrams.
    udp: bool,
}

/// A change that is ready: everything new is bound. Dropping it changes nothing.
#[derive(Debug)]
pub struct Change {
    kept: Vec<Listener>,
    new: Vec<New>,
    /// HTTP/3 for sockets that are kept and had none, by their addresses.
    added: Vec<(SocketAddr, Side)>,
    leaving: Vec<Leaving>,
}

/// What was bound for a listener.
#[derive(Debug)]
struct New {
    listener: Listener,
    address: SocketAddr,
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    /// With UDP beside it where there is HTTP/3.
    Tcp(TcpListener, Option<Side>),
    /// One for each worker.
    Udp(Vec<UdpSocket>),
}

/// Connections that a change will drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The listener's name so far.
    pub listener: Arc<str>,
    /// Its open connections now.
    pub connections: usize,
}

/// A listener as it is now.
#[derive(Debug, Clone)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Where it really listens, ports filled in.
    pub address: SocketAddr,
    /// Which way its traffic goes.
    pub direction: Direction,
    /// Its open connections.
    pub connections: usize,
}

/// A listener that could not be bound.
#[derive(Debug, Error)]
#[error("listener `{listener}` cannot listen on {address}: {source}")]
pub struct BindError {
    /// The listener.
    pub listener: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// Where it is written.
    pub place: Place,
    /// What the system said.
    pub source: io::Error,
}

impl<F: ConnectionFactory> ListenerSet<F> {
    /// No listeners yet.
    pub fn new(workers: Workers, factory: Arc<F>, metrics: Arc<Metrics>) -> Self {
        let gateways = Gateways::new(Steering::new(Arc::clone(&metrics.quic)));
        Self {
            workers,
            factory,
            metrics,
            bound: Mutex::default(),
            leaving: Mutex::default(),
            directory: Directory::new(),
            gateways,
            next_worker: Mutex::default(),
        }
    }

    /// Binds what is new in `listeners`.
    ///
    /// # Errors
    /// When an address cannot be bound; nothing has changed then.
    pub fn prepare(&self, listeners: &[Listener]) -> Result<Change, BindError> {
        let bound = self.bound.lock();
        let (mut kept, mut new, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for listener in listeners {
            let key = Key::of(listener);
            let error = |source| BindError {
                listener: Arc::clone(&listener.name),
                address: listener.bind,
                place: listener.place.clone(),
                source,
            };
            if let Some(bound) = bound.iter().find(|bound| bound.key == key) {
                if listener.http3.is_some() && bound.quic.is_none() {
                    let address = bound.socket.address;
                    added.push((address, self.gateways.prepare(address, self.workers.count()).map_err(error)?));
                }
                kept.push(listener.clone());
                continue;
            }
            new.push(self.bind(listener).map_err(error)?);
        }
        let leaving = bound.iter().filter_map(|bound| bound.leaving(&kept)).collect();
        Ok(Change { kept, new, added, leaving })
    }

    /// Binds TCP, and UDP on the same port where there is HTTP/3; or UDP alone.
    fn bind(&self, listener: &Listener) -> io::Result<New> {
        if is_udp(listener) {
            let (address, sockets) = datagrams::bind(listener.bind, self.workers.count())?;
            return Ok(New { listener: listener.clone(), address, sockets: Sockets::Udp(sockets) });
        }
        let reach = if is_transparent(listener) { Reach::Any } else { Reach::Own };
        let mut tries = if listener.bind.port() == 0 { EPHEMERAL_TRIES } else { 1 };
        loop {
            let tcp = listen::bind(listener.bind, reach)?;
            let address = tcp.local_addr()?;
            tries -= 1;
            let quic = match listener.http3 {
                None => None,
                Some(_) => match self.gateways.prepare(address, self.workers.count()) {
                    Ok(side) => Some(side),
                    // The port that is free for the one is taken for the other.
                    Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => continue,
                    Err(error) => return Err(error),
                },
            };
            return Ok(New { listener: listener.clone(), address, sockets: Sockets::Tcp(tcp, quic) });
        }
    }

    /// Puts a change into effect. Called once the configuration it belongs to is what requests see.
    ///
    /// # Panics
    /// Outside a runtime: what leaves is drained in a task of the caller's.
    pub fn commit(&self, change: Change) {
        let Change { kept, new, mut added, leaving: _ } = change;
        let mut bound = self.bound.lock();
        let mut gone = Vec::new();
        for mut current in std::mem::take(&mut *bound) {
            match kept.iter().find(|listener| Key::of(listener) == current.key) {
                Some(listener) => {
                    let address = current.socket.address;
                    let side = added.iter().position(|(of, _)| *of == address).map(|at| added.swap_remove(at).1);
                    self.update_quic(&mut current, listener, side);
                    self.update(&current.socket, listener);
                    bound.push(current);
                }
                None => gone.push(current),
            }
        }
        for new in new {
            bound.push(self.start(new));
        }
        self.directory.update(bound.iter().filter(|bound| !bound.key.udp).map(|bound| &bound.socket));
        drop(bound);
        for leaving in gone {
            self.close_quic(&leaving);
            leaving.phase.send_replace(Phase::HandOver);
            let service = Arc::clone(&leaving.socket.current.load().service);
            self.note_leaving(&service);
            begin_leaving(&service);
            drop(task::spawn("drain-listener", async move {
                leaving.hand_over().await;
                wait_for_leaving(&service).await;
            }));
        }
    }

    /// The listeners now, in configuration order as far as they were bound together.
    pub fn status(&self) -> Vec<ListenerStatus> {
        self.bound
            .lock()
            .iter()
            .map(|bound| {
                let current = bound.socket.current.load();
                ListenerStatus {
                    name: Arc::clone(&current.service.name),
                    address: bound.socket.address,
                    direction: current.config.direction,
                    connections: current.service.open(),
                }
            })
            .collect()
    }

    /// Tells the sockets of one direction to take what waits in them and close. Their connections are given
    /// back to be drained, and the end of each socket to be waited for.
    pub(super) fn stop(&self, direction: Direction) -> (Vec<Arc<Service>>, impl Future<Output = ()> + use<F>) {
        let mut bound = self.bound.lock();
        let (stopped, others): (Vec<_>, Vec<_>) = std::mem::take(&mut *bound)
            .into_iter()
            .partition(|bound| bound.socket.current.load().config.direction == direction);
        *bound = others;
        drop(bound);
        for bound in &stopped {
            self.close_quic(bound);
            bound.phase.send_replace(Phase::HandOver);
        }
        let services: Vec<_> = stopped.iter().map(|bound| Arc::clone(&bound.socket.current.load().service)).collect();
        services.iter().for_each(|service| self.note_leaving(service));
        let ended = async move {
            for bound in stopped {
                bound.hand_over().await;
            }
        };
        (services, ended)
    }

    /// The connections of one direction, whose listeners go on accepting.
    pub(super) fn services(&self, direction: Direction) -> Vec<Arc<Service>> {
        let bound = self.bound.lock();
        let current = bound.iter().map(|bound| bound.socket.current.load());
        current.filter(|c| c.config.direction == direction).map(|c| Arc::clone(&c.service)).collect()
    }

    /// Closes all sockets, and all connections that were ever accepted on one and are still open. They are given back, to
    /// be waited for.
    pub(super) fn close_all(&self) -> Vec<Arc<Service>> {
        let bound = std::mem::take(&mut *self.bound.lock());
        bound.iter().for_each(|bound| self.close_quic(bound));
        let mut services: Vec<_> = std::mem::take(&mut *self.leaving.lock()).iter().filter_map(Weak::upgrade).collect();
        services.extend(bound.iter().map(|bound| Arc::clone(&bound.socket.current.load().service)));
        services.iter().for_each(|service| service.close());
        services
    }

    /// Closes connections over QUIC to others: the end of a process would tell them nothing. Resolves when that was said.
    pub(super) async fn close_upstream(&self) {
        let (done, mut all_done) = mpsc::channel::<()>(1);
        for worker in 0..self.workers.count() {
            let done = done.clone();
            self.workers.run(worker, move || {
                drop(task::spawn("close-quic", async move {
                    quic::close_all(h3::Code::NO_ERROR.into()).await;
                    drop(done);
                }));
            });
        }
        drop(done);
        quic::close_all(h3::Code::NO_ERROR.into()).await;
        // Nothing is ever sent: it ends with the last sender.
        all_done.recv().await;
    }

    fn note_leaving(&self, service: &Arc<Service>) {
        let mut leaving = self.leaving.lock();
        leaving.retain(|service| service.strong_count() > 0);
        leaving.push(Arc::downgrade(service));
    }

    /// Gives new connections what the published configuration says now of the listeners that are there. For
    /// whoever publishes one that has the same listeners: certificates were renewed, for instance.
    pub fn refresh(&self) {
        for bound in &*self.bound.lock() {
            let current = bound.socket.current.load_full();
            bound.socket.update(self.current(&current.config, Arc::clone(&current.service)));
        }
    }

    /// Gives a kept socket its new settings. Drains what was accepted under an old name, and what the new
    /// settings no longer want.
    fn update(&self, socket: &Socket<F::Listener>, listener: &Listener) {
        let before = socket.current.load_full();
        if before.service.name != listener.name {
            socket.update(self.current(listener, self.service(listener)));
            let old = Arc::clone(&before.service);
            self.note_leaving(&old);
            begin_leaving(&old);
            drop(task::spawn("drain-renamed", async move { wait_for_leaving(&old).await }));
            return;
        }
        socket.update(self.current(listener, Arc::clone(&before.service)));
        for group in before.service.set_unfit_apart(&before.config, listener) {
            let (name, connections) = (Arc::clone(&listener.name), group.open());
            tracing::info!(listener = %name, connections, "draining connections that the stricter listener refuses");
            group.begin_drain(spread_of(connections, limits::LISTENER_DRAIN_SPREAD));
            drop(task::spawn("drain-unfit", async move { wait_for_unfit(&name, &group).await }));
        }
    }

    /// Opens or closes HTTP/3 on a socket that is kept. What is open goes with the settings.
    fn update_quic(&self, bound: &mut Bound<F::Listener>, listener: &Listener, side: Option<Side>) {
        match (side, &bound.quic) {
            (Some(side), _) => {
                bound.quic = Some(self.gateways.open(side, &bound.socket, (&self.workers, &self.factory)));
            }
            (None, Some(life)) if listener.http3.is_none() => {
                self.gateways.close(life);
                bound.quic = None;
            }
            (None, _) => {}
        }
    }

    fn close_quic(&self, bound: &Bound<F::Listener>) {
        if let Some(life) = &bound.quic {
            self.gateways.close(life);
        }
    }

    fn start(&self, new: New) -> Bound<F::Listener> {
        let New { listener, address, sockets } = new;
        let current = self.current(&listener, self.service(&listener));
        let (phase, phases) = watch::channel(Phase::Accepting);
        let (end, ended) = oneshot::channel();
        let socket = Socket::new(address, current);
        let (workers, factory) = (self.workers.clone(), Arc::clone(&self.factory));
        let quic = match sockets {
            Sockets::Udp(sockets) => {
                let receiver = Receiver { socket: Arc::clone(&socket), workers, factory, phase: phases };
                receiver.start(sockets, end);
                tracing::info!(listener = %listener.name, %address, "listening for datagrams");
                None
            }
            Sockets::Tcp(tcp, side) => {
                let directory = Arc::clone(&self.directory);
                let acceptor = Acceptor { socket: Arc::clone(&socket), workers, factory, directory, phase: phases };
                let quic = side.map(|side| self.gateways.open(side, &socket, (&self.workers, &self.factory)));
                let worker = {
                    let mut next = self.next_worker.lock();
                    *next += 1;
                    *next - 1
                };
                self.workers.run(worker, move || {
                    drop(task::spawn("accept", async move {
                        acceptor.run(tcp).await;
                        // Nobody waits when the set was dropped.
                        let _ = end.send(());
                    }));
                });
                tracing::info!(listener = %listener.name, %address, http3 = quic.is_some(), "listening");
                quic
            }
        };
        Bound { key: Key::of(&listener), socket, quic, phase, ended }
    }

    /// # Panics
    /// When the listener is not part of the published configuration: the caller publishes before it commits.
    fn current(&self, listener: &Listener, service: Arc<Service>) -> Current<F::Listener> {
        let view = self.factory.listener(&listener.name).expect("a listener is committed after it is published");
        service.rehearsal.ask(admission::question(self.factory.tls(&view)));
        Current { config: listener.clone(), view, service }
    }

    fn service(&self, listener: &Listener) -> Arc<Service> {
        Service::new(&listener.name, &self.metrics)
    }
}

impl<L> Bound<L> {
    /// Whose connections go when `kept` are the listeners of the sockets that stay.
    fn leaving(&self, kept: &[Listener]) -> Option<Leaving> {
        let current = self.socket.current.load();
        let service = &current.service;
        let kept = kept.iter().find(|listener| Key::of(listener) == self.key && listener.name == service.name);
        let connections = match kept {
            Some(listener) => service.unfit(&current.config, listener)?,
            None => service.open(),
        };
        Some(Leaving { listener: Arc::clone(&service.name), connections })
    }

    /// Takes what waits in the socket and closes it.
    async fn hand_over(self) {
        self.phase.send_replace(Phase::HandOver);
        // An error means that the acceptor is gone, and the socket with it.
        let _ = self.ended.await;
        tracing::info!(address = %self.socket.address, "no longer listening");
    }
}

impl Key {
    fn of(listener: &Listener) -> Self {
        let ephemeral = (listener.bind.port() == 0).then(|| Arc::clone(&listener.name));
        Self { bind: listener.bind, ephemeral, transparent: is_transparent(listener), udp: is_udp(listener) }
    }
}

impl Change {
    /// Whose connections will be drained, and how many there are now.
    #[must_use]
    pub fn leaving(&self) -> &[Leaving] {
        &self.leaving
    }
}

fn is_udp(listener: &Listener) -> bool {
    listener.protocol == ListenerProtocol::Udp
}

fn is_transparent(listener: &Listener) -> bool {
    listener.interception.is_some_and(|interception| interception.mode == InterceptionMode::Tproxy)
}

/// Tells the connections of a name that left the configuration to finish.
fn begin_leaving(service: &Arc<Service>) {
    let connections = service.open();
    tracing::info!(listener = %service.name, connections, "draining connections of a listener that left");
    begin_drains(std::slice::from_ref(service), limits::LISTENER_DRAIN_SPREAD);
}

/// Closes in the end what did not finish.
async fn wait_for_leaving(service: &Service) {
    if tokio::time::timeout(limits::LISTENER_DRAIN, service.drained()).await.is_err() {
        let connections = service.open();
        tracing::warn!(listener = %service.name, connections, "closing connections that did not finish in time");
        service.close();
    }
}

/// Closes in the end what did not finish.
async fn wait_for_unfit(listener: &str, group: &Group) {
    if tokio::time::timeout(limits::LISTENER_DRAIN, group.drained()).await.is_err() {
        let connections = group.open();
        tracing::warn!(listener, connections, "closing connections that did not finish in time");
        group.close();
    }
}

/// Waits until all connections of all services are gone, or the time is up. True when all are gone.
pub(super) async fn all_drained(services: &[Arc<Service>], until: tokio::time::Instant) -> bool {
    tokio::time::timeout_at(until, async {
        for service in services {
            service.drained().await;
        }
    })
    .await
    .is_ok()
}

/// Tells the connections of all services to finish, within `most`, and sooner when they are few.
pub(super) fn begin_drains(services: &[Arc<Service>], most: Duration) {
    let open: usize = services.iter().map(|service| service.open()).sum();
    for service in services {
        service.begin_drain(spread_of(open, most));
    }
}

/// How often another port is tried where any will do.
const EPHEMERAL_TRIES: usize = 16;

fn spread_of(connections: usize, most: Duration) -> Duration {
    most.min(limits::DRAIN_STEP * u32::try_from(connections).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
