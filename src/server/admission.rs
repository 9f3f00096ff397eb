//! How a connection gets in: plaintext or TLS, whatever its listener wants at that moment.
//!
//! What a connection is, is told by its first byte: a TLS handshake begins with 22 (RFC 8446 section 5.1), and
//! no HTTP does. From then on the newest configuration decides, not the one at accept. A connection first takes
//! its place in a group of its service and is judged afterwards: a change of the listener that it was judged
//! too early for finds it in that group and drains it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use outrigger_config::model::{ListenerTls, TlsMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout_at;

use super::ConnectionFactory;
use super::accept::Current;
use super::arrival::silent;
use super::early::Rest;
use super::service::{Membership, Service, Standing};
use crate::base::drain::Watch;
use crate::base::{limits, worker};
use crate::codec::h3::Code;
use crate::net::ConnInfo;
use crate::net::hello::{self, ClientHello, Peeked};
use crate::net::io::Io;
use crate::net::quic::{Arrival, Established, ServerTransport};
use crate::net::tls::{HandshakeError, ServerTls, TlsInfo};
use crate::telemetry::metrics::{Detected, Handshake};
use crate::telemetry::rehearsal::{Caller, Presence, Question, Speaks, Verdict};

/// TLS as a listener has it.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'a> {
    /// Its settings.
    pub config: &'a ListenerTls,
    /// What it shows and whom it believes.
    pub server: Option<&'a Arc<ServerTls>>,
    /// Whether connections for some server names are handed on.
    pub passes: bool,
    /// Whether it has HTTP/3 as well.
    pub http3: bool,
}

/// A connection that is in.
pub(super) struct Admitted {
    pub(super) io: Io,
    pub(super) tls: Option<Arc<TlsInfo>>,
    pub(super) presence: Presence,
}

/// A connection over QUIC that is in.
pub(super) struct AdmittedQuic {
    pub(super) connection: quinn::Connection,
    /// There when early data is taken.
    pub(super) rest: Option<Box<Rest>>,
    pub(super) tls: Arc<TlsInfo>,
    pub(super) presence: Presence,
}

/// A connection at the door.
pub(super) struct Visitor<'a, F: ConnectionFactory> {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// When it was accepted.
    pub(super) at: Instant,
    pub(super) current: &'a Current<F::Listener>,
    pub(super) factory: &'a F,
}

/// The first byte of a TLS handshake record.
const HANDSHAKE: u8 = 22;

/// What a rehearsal of a listener with this TLS asks.
pub(super) fn question(tls: Option<Tls<'_>>) -> Question {
    let Some(tls) = tls else { return Question::default() };
    match tls.config.mode {
        TlsMode::Off | TlsMode::Passthrough => Question::default(),
        mode @ (TlsMode::Permissive | TlsMode::Strict) => {
            Question { strict: mode == TlsMode::Permissive, trust: tls.server.and_then(|server| server.proposal()) }
        }
    }
}

impl<F: ConnectionFactory> Visitor<'_, F> {
    /// Admits a connection to a listener without TLS. `None`: it has become stricter meanwhile.
    pub(super) fn admit_plaintext(&self, io: Io, member: &mut Membership) -> Option<Admitted> {
        member.stand(Standing::Plaintext);
        if self.is_fit(Standing::Plaintext) {
            let presence = member.service().rehearsal.unrecorded();
            return Some(Admitted { io, tls: None, presence });
        }
        refuse(member.service(), self.peer, (PLAINTEXT, &"the listener has just become strict"));
        None
    }

    /// Admits a connection to a listener with TLS, or hands it on. `None`: it is over.
    pub(super) async fn admit(&self, io: Io, member: &mut Membership) -> Option<Admitted> {
        let mut closed = member.closed();
        tokio::select! {
            admitted = self.tell_apart(io, member) => admitted,
            _ = closed.wait_for(|closed| *closed) => None,
        }
    }

    async fn tell_apart(&self, io: Io, member: &mut Membership) -> Option<Admitted> {
        let first = self.first_byte(&io, member).await?;
        let listener = self.listener();
        let tls = self.factory.tls(&listener).filter(|tls| tls.config.mode != TlsMode::Off);
        match tls {
            Some(tls) if first == Some(HANDSHAKE) => {
                let server = tls.server.filter(|server| server.terminates()).cloned();
                if !tls.passes && tls.config.mode != TlsMode::Passthrough {
                    return self.terminate(io, server, member).await;
                }
                self.pass_or_terminate(io, (&listener, server), member).await
            }
            _ => {
                member.stand(Standing::Plaintext);
                if self.is_fit(Standing::Plaintext) {
                    let presence = self.record(member.service(), Speaks::Plaintext, None);
                    return Some(Admitted { io, tls: None, presence });
                }
                let detail = match first {
                    Some(first) => format!("expected a TLS handshake, and the first byte was {first:#04x}"),
                    None => "expected a TLS handshake, and nothing came".to_owned(),
                };
                refuse(member.service(), self.peer, (PLAINTEXT, &detail));
                None
            }
        }
    }

    /// The first byte, which stays where it is; `Some(None)`: the caller waits for the server to begin.
    async fn first_byte(&self, io: &Io, member: &Membership) -> Option<Option<u8>> {
        let limits = &self.current.config.limits;
        let strict = self.current.config.tls.as_ref().filter(|tls| tls.mode != TlsMode::Permissive);
        // A caller that opens a plaintext connection ahead of use is given the time of a request head.
        let patience = strict.map_or_else(|| silent(self.current, limits.header_timeout), |tls| tls.handshake_timeout);
        let metrics = &member.service().metrics;
        let came = tokio::select! {
            came = timeout_at((self.at + patience).into(), io.first_byte()) => came,
            () = retired_unused(member.watch()) => return None,
        };
        match came {
            Ok(Ok(Some(first))) => Some(Some(first)),
            Ok(Ok(None) | Err(_)) => {
                metrics.detected(Detected::Closed);
                None
            }
            Err(_) if strict.is_none() && self.current.config.tcp.is_some() => Some(None),
            Err(_) => {
                metrics.detected(Detected::Timeout);
                None
            }
        }
    }

    /// Hands the connection on if its server name says so; otherwise it is terminated, where that is done.
    async fn pass_or_terminate(
        &self,
        mut io: Io,
        (listener, server): (&Arc<F::Listener>, Option<Arc<ServerTls>>),
        member: &mut Membership,
    ) -> Option<Admitted> {
        let service = Arc::clone(member.service());
        let patience = self.factory.tls(listener)?.config.handshake_timeout;
        let Ok(Ok(hello)) = timeout_at((self.at + patience).into(), read_hello(&mut io)).await else {
            refuse(&service, self.peer, (NO_HELLO, &"a TLS handshake began, and no whole ClientHello came"));
            return None;
        };
        let name = hello.as_ref().and_then(|hello| hello.sni.as_deref());
        if hello.is_some()
            && let Some(passage) = self.factory.passage(listener, name)
        {
            member.stand(Standing::Passed);
            let (listener, worker) = (Arc::clone(&service.name), worker::index());
            let (peer, local) = (self.peer, self.local);
            let caller = ConnInfo { listener, peer, local, worker, tls: None, handshake: None };
            Box::pin(passage.run(io, Arc::new(caller), name, member.closed())).await;
            return None;
        }
        if server.is_some() {
            return self.terminate(io, server, member).await;
        }
        match (&hello, name) {
            (None, _) => {
                refuse(&service, self.peer, (NO_HELLO, &"it began as a TLS handshake and was none"));
                return None;
            }
            (_, Some(name)) => {
                let detail = format!("no passthrough for the server name {name:?}");
                refuse(&service, self.peer, (UNRECOGNIZED_NAME, &detail));
            }
            (_, None) => refuse(&service, self.peer, (UNRECOGNIZED_NAME, &"no passthrough without a server name")),
        }
        // The peer may be gone; then there is nobody to tell.
        let _ = io.write_all(&UNRECOGNIZED_NAME_ALERT).await;
        let _ = io.shutdown().await;
        None
    }

    async fn terminate(&self, io: Io, server: Option<Arc<ServerTls>>, member: &mut Membership) -> Option<Admitted> {
        let service = Arc::clone(member.service());
        let Some(server) = server else {
            refuse(&service, self.peer, (NO_CERTIFICATE, &"the listener has no certificate to show"));
            return None;
        };
        let asked = service.rehearsal.question();
        let counted = Handshake::of_caller(&service.metrics);
        // From accept to the end: waiting for the first byte was part of it.
        let until = self.at + server.config().handshake_timeout;
        let error = match timeout_at(until.into(), server.accept(io)).await {
            Ok(Ok((io, info))) => {
                counted.completed(info.resumed);
                return self.judge(io, (info, asked), member);
            }
            Ok(Err(error)) => error,
            Err(_) => HandshakeError::Timeout,
        };
        counted.failed(error.code());
        say_failed(&service, self.peer, &error);
        None
    }

    /// Admits a caller over QUIC. `None`: it is over.
    pub(super) async fn admit_quic(&self, arrival: Arrival, member: &mut Membership) -> Option<AdmittedQuic> {
        let mut closed = member.closed();
        tokio::select! {
            admitted = self.shake_over_quic(arrival, member) => admitted,
            _ = closed.wait_for(|closed| *closed) => None,
        }
    }

    async fn shake_over_quic(&self, arrival: Arrival, member: &mut Membership) -> Option<AdmittedQuic> {
        let service = Arc::clone(member.service());
        let listener = self.listener();
        let tls = self.factory.tls(&listener).filter(|tls| tls.http3 && tls.config.mode != TlsMode::Off);
        let server = tls.and_then(|tls| tls.server.cloned());
        let Some(server) = server.filter(|server| server.terminates()) else {
            refuse(&service, self.peer, (NO_CERTIFICATE, &"the listener does not have HTTP/3 any more"));
            arrival.refuse();
            return None;
        };
        let asked = service.rehearsal.question();
        let counted = Handshake::of_caller(&service.metrics);
        let limits = &self.current.config.limits;
        let settings = ServerTransport { idle: limits.idle_timeout, max_streams: limits.max_concurrent_streams };
        match arrival.accept(&server, &settings).await {
            Ok(Established { connection, tls, rest }) => {
                let rest = match rest {
                    Some(rest) => Some(Box::new(Rest::new(rest, counted))),
                    None => {
                        counted.completed(tls.resumed);
                        None
                    }
                };
                self.judge_over_quic((connection, rest), (tls, asked), member)
            }
            Err(error) => {
                counted.failed(error.code());
                say_failed(&service, self.peer, &error);
                None
            }
        }
    }

    fn judge_over_quic(
        &self,
        (connection, rest): (quinn::Connection, Option<Box<Rest>>),
        (info, asked): (TlsInfo, Question),
        member: &mut Membership,
    ) -> Option<AdmittedQuic> {
        let standing = if info.peer.is_some() { Standing::QuicVerified } else { Standing::QuicAnonymous };
        member.stand(standing);
        if !self.is_fit(standing) {
            let detail = "the listener has just come to require client certificates, or to do without HTTP/3";
            refuse(member.service(), self.peer, (NO_CLIENT_CERTIFICATE, &detail));
            // It may come back, and then hears why not.
            connection.close(Code::NO_ERROR.into(), b"");
            return None;
        }
        let presence = self.record(member.service(), Speaks::Tls, Some((&info, asked)));
        Some(AdmittedQuic { connection, rest, tls: Arc::new(info), presence })
    }

    /// The handshake is done; is that still enough?
    fn judge(&self, io: Io, (info, asked): (TlsInfo, Question), member: &mut Membership) -> Option<Admitted> {
        let standing = if info.peer.is_some() { Standing::Verified } else { Standing::Anonymous };
        member.stand(standing);
        if !self.is_fit(standing) {
            let detail = "the listener has just come to require client certificates";
            refuse(member.service(), self.peer, (NO_CLIENT_CERTIFICATE, &detail));
            return None;
        }
        let presence = self.record(member.service(), Speaks::Tls, Some((&info, asked)));
        Some(Admitted { io, tls: Some(Arc::new(info)), presence })
    }

    /// Into the rehearsal.
    fn record(&self, service: &Service, speaks: Speaks, tls: Option<(&TlsInfo, Question)>) -> Presence {
        let identity = tls.and_then(|(info, _)| info.peer.as_ref()?.identity.as_ref()).map(|id| id.as_str().into());
        let caller = Caller { address: self.peer.ip().to_canonical(), port: self.local.port(), identity, speaks };
        let verdict = tls.map(|(info, asked)| {
            let verdict = match &info.rehearsal {
                // Who shows no certificate has none to be refused: whether one is required does not change.
                None | Some(Ok(())) => Verdict::Pass,
                Some(Err(refusal)) => {
                    Verdict::Fail { reason: refusal.reason.code(), detail: refusal.detail.as_ref().into() }
                }
            };
            (verdict, asked)
        });
        service.rehearsal.present(caller, verdict, Instant::now())
    }

    fn is_fit(&self, standing: Standing) -> bool {
        let listener = self.listener();
        let tls = self.factory.tls(&listener);
        standing.fits(tls.map(|tls| tls.config), tls.is_some_and(|tls| tls.http3))
    }

    /// As the newest configuration has it; one that has left it is as it was last.
    fn listener(&self) -> Arc<F::Listener> {
        let name = &self.current.config.name;
        self.factory.listener(name).unwrap_or_else(|| Arc::clone(&self.current.view))
    }
}

/// Says that a handshake failed, unless the caller only went.
pub(super) fn say_failed(service: &Service, peer: SocketAddr, error: &HandshakeError) {
    let code = error.code();
    match error {
        HandshakeError::Closed | HandshakeError::Io(_) => {
            tracing::debug!(listener = %service.name, %peer, reason = code, "a handshake ended early");
        }
        error => service.refusals.say_refused(&service.name, peer, (code, error)),
    }
}

/// Counts and says that a connection was refused before or instead of a handshake.
pub(super) fn refuse(service: &Service, peer: SocketAddr, (reason, detail): (&'static str, &dyn std::fmt::Display)) {
    service.metrics.connection_refused(reason);
    service.refusals.say_refused(&service.name, peer, (reason, detail));
}

/// Reads until the ClientHello is whole, and puts it back. `None`: it is none. Not cancel safe: what was read is
/// lost.
async fn read_hello(io: &mut Io) -> io::Result<Option<ClientHello>> {
    let mut read = BytesMut::new();
    let hello = loop {
        match hello::peek(&read) {
            Peeked::Incomplete => {}
            Peeked::NotTls => break None,
            Peeked::Hello(hello) => break Some(hello),
        }
        read.reserve(HELLO_READ);
        if io.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    io.unread(read.freeze());
    Ok(hello)
}

/// When a drain closes a connection that has not said anything. One accepted just now is about to speak.
pub(super) async fn retired_unused(mut drain: Watch) {
    let opened = Instant::now();
    let notice = drain.begun().await;
    let at = (notice.since + notice.own_share()).max(opened + limits::DRAIN_GRACE);
    tokio::time::sleep_until(at.into()).await;
}

/// Read at once of a ClientHello: one with post-quantum key shares fits.
const HELLO_READ: usize = 2048;

/// A fatal alert (RFC 8446 section 6, RFC 6066 section 3): nobody of that name is here.
const UNRECOGNIZED_NAME_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The codes of connections that are refused without a handshake.
const PLAINTEXT: &str = "plaintext";
const NO_CERTIFICATE: &str = "nothing-to-show";
const NO_CLIENT_CERTIFICATE: &str = "no-certificate";
const UNRECOGNIZED_NAME: &str = "unrecognized-name";
const NO_HELLO: &str = "no-hello";
