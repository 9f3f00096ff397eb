//! What is found out about a connection before anything is read of what it is for: which listener serves it, and
//! between whom it is.
//!
//! First comes the destination that a redirected connection had, which decides the listener; then the header of the
//! PROXY protocol, where that listener looks for one and believes it, which decides the addresses. A destination that the
//! system knows stays what it is: a caller does not choose it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::{Interception, ProxyHeader, TlsMode, Unknown};

use super::accept::{Current, Open};
use super::admission::{refuse, retired_unused};
use super::directory::Directory;
use super::{ConnectionFactory, admission};
use crate::base::worker;
use crate::net::ConnInfo;
use crate::net::io::Io;
use crate::net::origin;
use crate::net::proxy_protocol::{self, Expect, HeaderError};
use crate::telemetry::metrics::Caught;

/// A connection that has arrived.
pub(super) struct Arrival<L> {
    pub(super) io: Io,
    /// Who is behind it.
    pub(super) peer: SocketAddr,
    /// Where it was made to.
    pub(super) local: SocketAddr,
    /// It was redirected here, and that is where it was going.
    pub(super) redirected: bool,
    /// When it was accepted.
    pub(super) at: Instant,
    /// Whose settings serve it.
    pub(super) current: Arc<Current<L>>,
}

impl<L: Send + Sync + 'static> Arrival<L> {
    /// Whether there is anything to find out.
    pub(super) fn is_plain(&self) -> bool {
        self.current.config.interception.is_none() && self.current.config.proxy_protocol.is_none()
    }

    /// Finds it out. `None`: it is over.
    pub(super) async fn settle<F>(mut self, open: &mut Open, directory: &Directory<L>, factory: &F) -> Option<Self>
    where
        F: ConnectionFactory<Listener = L>,
    {
        if let Some(interception) = self.current.config.interception {
            self = self.caught(interception, open, directory, factory).await?;
        }
        if self.current.config.proxy_protocol.is_some() { self.introduced(open).await } else { Some(self) }
    }

    /// Goes by where the connection was going.
    async fn caught<F>(
        mut self,
        interception: Interception,
        open: &mut Open,
        directory: &Directory<L>,
        factory: &F,
    ) -> Option<Self>
    where
        F: ConnectionFactory<Listener = L>,
    {
        let Interception { mode, unknown } = interception;
        let service = Arc::clone(open.member.service());
        let metrics = &service.metrics;
        let destination = self.io.original_destination(mode).filter(|to| *to != origin::canonical(open.address()));
        let serving = destination.and_then(|destination| directory.serving(destination));
        match (destination, serving, unknown) {
            (Some(destination), Some(socket), _) => {
                metrics.caught(Caught::Served);
                (self.local, self.redirected) = (destination, true);
                let current = socket.current.load_full();
                if !Arc::ptr_eq(&current.service, &service) {
                    let most = usize::try_from(current.config.limits.max_connections).unwrap_or(usize::MAX);
                    if current.service.open() >= most {
                        return self
                            .refused(&current.service, (FULL, &"the listener has as many connections as it may"));
                    }
                    // From here on it is a connection of that listener.
                    open.member = current.service.join();
                }
                self.current = current;
                Some(self)
            }
            (Some(destination), None, Unknown::Serve) => {
                metrics.caught(Caught::Unknown);
                (self.local, self.redirected) = (destination, true);
                Some(self)
            }
            (None, _, Unknown::Serve) => {
                metrics.caught(Caught::Direct);
                Some(self)
            }
            (Some(destination), None, Unknown::PassThrough) if !directory.is_own(destination) => {
                metrics.caught(Caught::PassedThrough);
                self.pass_through(destination, open, factory).await;
                None
            }
            (Some(destination), None, Unknown::PassThrough) => {
                metrics.caught(Caught::Loop);
                let detail = format!("{destination} is this proxy itself");
                self.refused(&service, (LOOP, &detail))
            }
            (Some(destination), None, Unknown::Refuse) => {
                metrics.caught(Caught::Refused);
                let detail = format!("no listener serves the destination {destination}");
                self.refused(&service, (UNKNOWN_DESTINATION, &detail))
            }
            (None, _, Unknown::PassThrough | Unknown::Refuse) => {
                metrics.caught(Caught::Direct);
                self.refused(&service, (NOT_REDIRECTED, &"nothing redirected it: it has no other destination"))
            }
        }
    }

    async fn pass_through<F>(self, destination: SocketAddr, open: &Open, factory: &F)
    where
        F: ConnectionFactory<Listener = L>,
    {
        let Self { io, peer, current, .. } = self;
        let name = &current.config.name;
        let listener = factory.listener(name).unwrap_or_else(|| Arc::clone(&current.view));
        let Some(passage) = factory.onward(&listener, destination) else { return };
        let (listener, worker) = (Arc::clone(name), worker::index());
        let caller = ConnInfo { listener, peer, local: destination, worker, tls: None, handshake: None };
        drop(current);
        passage.run(io, Arc::new(caller), None, open.member.closed()).await;
    }

    /// Reads who is behind it.
    async fn introduced(self, open: &Open) -> Option<Self> {
        let Self { io, peer, local, redirected, at, current } = self;
        let rule = current.config.proxy_protocol.as_ref()?;
        let service = open.member.service();
        let limits = &current.config.limits;
        let tls = current.config.tls.as_ref().filter(|tls| tls.mode != TlsMode::Off);
        let patience = tls.map_or(limits.header_timeout, |tls| tls.handshake_timeout);
        let silent = at + silent(&current, patience);
        let expect = match (rule.mode, rule.believes(peer.ip())) {
            (ProxyHeader::Strict, true) => Expect::Header,
            (ProxyHeader::Optional, true) => Expect::Maybe { silent },
            (ProxyHeader::Optional, false) => Expect::Nothing { silent },
            (ProxyHeader::Strict, false) => {
                let error = HeaderError::Untrusted;
                io.reset_on_close();
                refuse(service, peer, (error.code(), &error));
                return None;
            }
        };
        let mut closed = open.member.closed();
        let read = tokio::select! {
            read = proxy_protocol::read(io, expect, at + patience) => read,
            () = retired_unused(open.member.watch()) => return None,
            _ = closed.wait_for(|closed| *closed) => return None,
        };
        match read {
            Ok((io, addresses)) => {
                let (peer, given) = addresses.map_or((peer, local), |given| (given.source, given.destination));
                let local = if redirected { local } else { given };
                Some(Self { io, peer, local, redirected, at, current })
            }
            Err(error @ HeaderError::Closed) => {
                // As a port scan or a health check does.
                service.metrics.connection_refused(error.code());
                None
            }
            Err(error) => {
                refuse(service, peer, (error.code(), &error));
                None
            }
        }
    }

    fn refused(
        self,
        service: &super::service::Service,
        (reason, detail): (&'static str, &dyn std::fmt::Display),
    ) -> Option<Self> {
        self.io.reset_on_close();
        admission::refuse(service, self.peer, (reason, detail));
        None
    }
}

/// How long a caller that need not say anything first is waited for.
pub(super) fn silent<L>(current: &Current<L>, patience: Duration) -> Duration {
    if current.config.tcp.is_some() { current.config.limits.detect_timeout.min(patience) } else { patience }
}

/// The codes of redirected connections that are refused.
const UNKNOWN_DESTINATION: &str = "unknown-destination";
const NOT_REDIRECTED: &str = "not-redirected";
const LOOP: &str = "destination-is-self";
const FULL: &str = "too-many-connections";
