//! The sockets of a proxy as redirected connections need them: which listener serves a destination, and which
//! destinations are this proxy itself.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::accept::Socket;
use crate::net::origin;
use crate::policy::intercept::Intercepts;

/// Follows the set of listeners; read once for each redirected connection.
#[derive(Debug)]
pub(super) struct Directory<L> {
    current: ArcSwap<Entries<L>>,
}

#[derive(Debug)]
struct Entries<L> {
    intercepts: Intercepts<Arc<Socket<L>>>,
    own: Vec<SocketAddr>,
}

impl<L> Directory<L> {
    pub(super) fn new() -> Arc<Self> {
        let entries = Entries { intercepts: Intercepts::default(), own: Vec::new() };
        Arc::new(Self { current: ArcSwap::from_pointee(entries) })
    }

    /// These are the sockets now.
    pub(super) fn update<'a>(&self, sockets: impl Iterator<Item = &'a Arc<Socket<L>>>)
    where
        L: 'a,
    {
        let sockets: Vec<_> = sockets.map(|socket| (socket, socket.current.load_full())).collect();
        let intercepts = sockets.iter().flat_map(|(socket, current)| {
            current.config.intercepts.iter().map(|intercept| (intercept, Arc::clone(socket)))
        });
        let own = sockets.iter().map(|(socket, _)| origin::canonical(socket.address)).collect();
        self.current.store(Arc::new(Entries { intercepts: Intercepts::new(intercepts), own }));
    }

    /// The socket whose listener serves a destination.
    pub(super) fn serving(&self, destination: SocketAddr) -> Option<Arc<Socket<L>>> {
        self.current.load().intercepts.find(destination).cloned()
    }

    /// Whether a connection to this address would come back to this proxy.
    pub(super) fn is_own(&self, destination: SocketAddr) -> bool {
        let destination = origin::canonical(destination);
        let of_port = |own: &&SocketAddr| own.port() == destination.port();
        let takes = |own: &SocketAddr| {
            own.ip() == destination.ip() || (own.ip().is_unspecified() && origin::is_local(destination.ip()))
        };
        self.current.load().own.iter().filter(of_port).any(takes)
    }
}
