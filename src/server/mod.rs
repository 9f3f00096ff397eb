//! Layer 7: worker threads, the listeners on them, and how both go down.

mod accept;
mod admission;
mod arrival;
mod connection;
pub mod cpu;
mod datagrams;
mod directory;
mod early;
pub mod files;
mod memory;
pub mod overload;
mod quic;
mod service;
pub mod set;
pub mod shutdown;
pub mod worker;

pub use admission::Tls;
pub use set::{BindError, Change, ListenerSet, ListenerStatus};
pub use worker::Workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::net::UdpSocket;

use crate::base::pressure::Pressure;
use crate::codec::Handler;
use crate::net::ConnInfo;
use crate::proxy::{ConnectionHandler, Datagrams, Passage, Proxy, View};
use crate::snapshot::Listener;

/// Makes the handler of each connection.
pub trait ConnectionFactory: Send + Sync + 'static {
    /// A listener as the published configuration has it.
    type Listener: Send + Sync + 'static;
    /// What answers the requests of a connection.
    type Handler: Handler;

    /// How short the process is of what it needs.
    fn pressure(&self) -> &Arc<Pressure>;

    /// A listener of the published configuration.
    fn listener(&self, name: &str) -> Option<Arc<Self::Listener>>;

    /// TLS as a listener has it; `None` is plaintext.
    fn tls<'a>(&self, _listener: &'a Self::Listener) -> Option<Tls<'a>> {
        None
    }

    /// Where a connection whose TLS handshake asks for this server name is handed on to; `None` when it is not.
    fn passage(&self, _listener: &Arc<Self::Listener>, _name: Option<&str>) -> Option<Passage> {
        None
    }

    /// Where a connection is handed on to that is not HTTP; `None` where there is no place for it.
    fn tcp(&self, _listener: &Arc<Self::Listener>) -> Option<Passage> {
        None
    }

    /// The way on to where a redirected connection was going; `None` when it has none.
    fn onward(&self, _listener: &Arc<Self::Listener>, _destination: SocketAddr) -> Option<Passage> {
        None
    }

    /// What hands the datagrams of a socket on; `None` when nothing does. `listener` is the listener as it is now, `open`
    /// counts the sessions of all its sockets.
    ///
    /// # Errors
    /// When the socket cannot be used.
    fn datagrams(
        &self,
        _listener: Box<dyn Fn() -> Arc<Self::Listener> + Send + Sync>,
        _socket: UdpSocket,
        _open: Arc<AtomicUsize>,
    ) -> io::Result<Option<Datagrams>> {
        Ok(None)
    }

    /// The handler of one connection, on the worker that the connection lives on. `listener` is what the
    /// configuration said when the connection was accepted: it may just have left, and then serves those
    /// that it still drains.
    fn handler(&self, listener: Arc<Self::Listener>, info: ConnInfo) -> Arc<Self::Handler>;
}

impl ConnectionFactory for Proxy {
    type Listener = Listener;
    type Handler = ConnectionHandler;

    fn pressure(&self) -> &Arc<Pressure> {
        Proxy::pressure(self)
    }

    fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        Proxy::listener(self, name)
    }

    fn tls<'a>(&self, listener: &'a Listener) -> Option<Tls<'a>> {
        let config = listener.config.tls.as_ref()?;
        Some(Tls {
            config,
            server: listener.tls.as_ref(),
            passes: !listener.passthrough.is_empty(),
            http3: listener.config.http3.is_some(),
        })
    }

    fn passage(&self, listener: &Arc<Listener>, name: Option<&str>) -> Option<Passage> {
        Proxy::passage(self, listener, name)
    }

    fn tcp(&self, listener: &Arc<Listener>) -> Option<Passage> {
        self.tcp_passage(listener)
    }

    fn onward(&self, listener: &Arc<Listener>, destination: SocketAddr) -> Option<Passage> {
        Some(self.passage_onward(listener, destination))
    }

    fn datagrams(&self, listener: View, socket: UdpSocket, open: Arc<AtomicUsize>) -> io::Result<Option<Datagrams>> {
        Proxy::datagrams(self, listener, socket, open).map(Some)
    }

    fn handler(&self, listener: Arc<Listener>, info: ConnInfo) -> Arc<ConnectionHandler> {
        self.connection(&listener, info)
    }
}
