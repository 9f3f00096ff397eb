//! One check of one endpoint: what is asked, and what the answer means.

use std::borrow::Cow;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use outrigger_config::model::{ClusterProtocol, EndpointCeilings, HealthCheck, Probe};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::LastCheck;
use super::grpc;
use crate::base::limits;
use crate::codec::{Body, Frame, Interim, PollBody as _, RequestHead, Response, SendError, SendErrorKind};
use crate::net::io::Io;
use crate::net::proxy_protocol;
use crate::net::tls::Alpn;
use crate::telemetry::ClusterMetrics;
use crate::telemetry::metrics::CheckResult;
use crate::upstream::cluster::Cluster;
use crate::upstream::lease::{Lease, LeaseError};
use crate::upstream::pool::{Ceilings, Pool, PoolKey, Preference, Terms, Wire};
use crate::upstream::state::{ClusterState, EndpointState};

/// A check that is due.
pub(super) struct Due {
    pub(super) cluster: Arc<Cluster>,
    pub(super) endpoint: Arc<EndpointState>,
    pub(super) hostname: Option<Arc<str>>,
    /// Kept from the last one.
    pub(super) line: Option<Line>,
}

/// A check that ended.
pub(super) struct Ended {
    pub(super) last: LastCheck,
    /// May be kept for the next one.
    pub(super) line: Option<Line>,
}

/// What is kept from one check of an endpoint to the next: a pool of one connection, of checks alone.
pub(super) struct Line(Pool);

/// What an answer, or the want of one, says.
pub(super) struct Said {
    pub(super) result: CheckResult,
    pub(super) words: Cow<'static, str>,
}

impl Said {
    pub(super) fn new(result: CheckResult, words: impl Into<Cow<'static, str>>) -> Self {
        Self { result, words: words.into() }
    }
}

/// Asks, and waits for the answer no longer than the check's timeout. Connections are counted into `unseen`.
pub(super) async fn run(due: Due, unseen: Arc<ClusterMetrics>) -> Ended {
    let Due { cluster, endpoint, hostname, line } = due;
    let began = Instant::now();
    let Some(check) = cluster.config().health_check.as_ref() else {
        // It was due under a configuration that had one, and the cluster is of that configuration.
        return Ended { last: last(began, Said::new(CheckResult::Failure, "not checked")), line: None };
    };
    let mut address = endpoint.address;
    address.set_port(check.port.unwrap_or(address.port()));
    let target = Target { cluster: &cluster, check, address, hostname: hostname.as_ref(), unseen: &unseen };
    let mut line = line.filter(|line| *line.0.key() == target.key() && !line.0.is_retired());
    let said = match tokio::time::timeout(check.timeout, target.ask(&mut line)).await {
        Ok(said) => said,
        Err(_) => Said::new(CheckResult::Timeout, format!("no answer within {:?}", check.timeout)),
    };
    // What was wrong may be the connection: the next check makes another.
    let keep = said.result == CheckResult::Success && check.interval < cluster.config().connection.idle_timeout;
    Ended { last: last(began, said), line: line.filter(|_| keep) }
}

fn last(began: Instant, said: Said) -> LastCheck {
    let at = Instant::now();
    LastCheck { at, took: at.saturating_duration_since(began), result: said.result, reason: said.words.into() }
}

/// Who is asked.
struct Target<'a> {
    cluster: &'a Cluster,
    check: &'a HealthCheck,
    address: SocketAddr,
    hostname: Option<&'a Arc<str>>,
    unseen: &'a Arc<ClusterMetrics>,
}

impl Target<'_> {
    async fn ask(&self, line: &mut Option<Line>) -> Said {
        let (head, body) = match &self.check.probe {
            Probe::Tcp if self.wire() == Wire::Http3 => return self.connect_over_quic(line).await,
            Probe::Tcp => return self.connect().await,
            Probe::Http { path, host, method, headers, expected: _ } => {
                let Ok(path) = PathAndQuery::try_from(&**path) else {
                    return Said::new(CheckResult::Failure, "the path of the check is none");
                };
                let mut fields = HeaderMap::with_capacity(headers.len() + 1);
                fields.insert(header::USER_AGENT, USER_AGENT);
                for (name, value) in headers {
                    fields.insert(name.clone(), value.clone());
                }
                (self.head(method.clone(), path, host.as_ref(), fields), Body::Empty)
            }
            Probe::Grpc { service, authority } => {
                let (path, mut fields, message) = grpc::question(service, self.check.timeout);
                fields.insert(header::USER_AGENT, USER_AGENT);
                (self.head(http::Method::POST, path, authority.as_ref(), fields), Body::Full(message))
            }
        };
        // A connection that was kept may have been closed just now, which says nothing.
        for _ in 0..2 {
            let message = match &body {
                Body::Full(message) => Body::Full(message.clone()),
                _ => Body::Empty,
            };
            match self.exchange(line, &head, message).await {
                Exchanged::Said(said) => return said,
                Exchanged::ClosedMeanwhile => *line = None,
            }
        }
        Said::new(CheckResult::Unreachable, "the connection was closed before an answer")
    }

    /// A connection over QUIC, which comes with a handshake.
    async fn connect_over_quic(&self, line: &mut Option<Line>) -> Said {
        match self.lease(line).await {
            Ok(_) => Said::new(CheckResult::Success, "connected, over QUIC"),
            Err(error) => Said::new(CheckResult::Unreachable, in_words(&error)),
        }
    }

    async fn lease(&self, line: &mut Option<Line>) -> Result<Lease, LeaseError> {
        let terms = Terms {
            ceilings: Ceilings { pending: 2, connections: 2, endpoint: EndpointCeilings::default() },
            tls: self.cluster.tls(),
        };
        let pool = &line.get_or_insert_with(|| self.line()).0;
        pool.lease(self.wire(), Preference::Any, terms).await
    }

    async fn exchange(&self, line: &mut Option<Line>, head: &RequestHead, body: Body) -> Exchanged {
        let lease = match self.lease(line).await {
            Ok(lease) => lease,
            Err(LeaseError::Retired) => return Exchanged::ClosedMeanwhile,
            Err(error) => return Exchanged::Said(Said::new(CheckResult::Unreachable, in_words(&error))),
        };
        match lease.send(head, body, &Nobody).await {
            Ok(response) => Exchanged::Said(self.judge(response).await),
            Err(SendError { reused: true, .. }) => Exchanged::ClosedMeanwhile,
            Err(error) => Exchanged::Said(Said::new(CheckResult::Unreachable, error.to_string())),
        }
    }

    async fn judge(&self, response: Response<Body>) -> Said {
        let Response { head, body } = response;
        match &self.check.probe {
            Probe::Grpc { .. } => grpc::judge(head, body).await,
            Probe::Http { expected, .. } => {
                let status = head.status.as_u16();
                if !expected.iter().any(|range| range.contains(&status)) {
                    return Said::new(CheckResult::Failure, format!("status {status}"));
                }
                match read(body).await {
                    Ok(_) => Said::new(CheckResult::Success, format!("status {status}")),
                    Err(error) => Said::new(
                        CheckResult::Unreachable,
                        format!("status {status}, and the answer broke off: {error}"),
                    ),
                }
            }
            Probe::Tcp => Said::new(CheckResult::Success, "connected"),
        }
    }

    /// A connection, and with TLS a handshake. Under TLS 1.3 a server that does not accept our certificate says so
    /// only afterwards, which this does not wait for.
    async fn connect(&self) -> Said {
        let mut stream = match TcpStream::connect(self.address).await {
            Ok(stream) => stream,
            Err(error) => return Said::new(CheckResult::Unreachable, format!("could not connect: {error}")),
        };
        if let Some(version) = self.cluster.config().connection.proxy_protocol
            && let Err(error) = stream.write_all(&proxy_protocol::encode(version, None)).await
        {
            return Said::new(CheckResult::Unreachable, format!("the connection was closed at once: {error}"));
        }
        let Some(tls) = self.cluster.tls() else { return Said::new(CheckResult::Success, "connected") };
        match tls.connect(Io::tcp(stream), self.hostname.map(|host| &**host), self.address, self.alpn()).await {
            Ok(_) => Said::new(CheckResult::Success, "connected, with TLS"),
            Err(error) => Said::new(CheckResult::Unreachable, format!("TLS failed ({}): {error}", error.code())),
        }
    }

    fn head(
        &self,
        method: http::Method,
        path: PathAndQuery,
        authority: Option<&Arc<str>>,
        headers: HeaderMap,
    ) -> RequestHead {
        RequestHead {
            method,
            scheme: if self.cluster.tls().is_some() { Scheme::HTTPS } else { Scheme::HTTP },
            authority: self.authority(authority),
            path,
            version: if self.wire() == Wire::Http2 { Version::HTTP_2 } else { Version::HTTP_11 },
            headers,
            upgrade: None,
        }
    }

    /// As written, or where it is: with its port, unless that is the one that everybody expects.
    fn authority(&self, written: Option<&Arc<str>>) -> Option<Authority> {
        let usual = if self.cluster.tls().is_some() { 443 } else { 80 };
        let text = match (written, self.hostname, self.address.port()) {
            (Some(written), _, _) => written.to_string(),
            (None, Some(host), port) if port == usual => host.to_string(),
            (None, Some(host), port) => format!("{host}:{port}"),
            (None, None, _) => self.address.to_string(),
        };
        Authority::try_from(text).or_else(|_| Authority::try_from(self.address.to_string())).ok()
    }

    fn wire(&self) -> Wire {
        match (&self.check.probe, self.cluster.config().protocol) {
            (_, ClusterProtocol::Http3) => Wire::Http3,
            (Probe::Grpc { .. }, _) | (_, ClusterProtocol::Http2) => Wire::Http2,
            (_, ClusterProtocol::Auto) if self.cluster.tls().is_some() => Wire::Negotiated,
            (_, ClusterProtocol::Http1 | ClusterProtocol::Tcp | ClusterProtocol::Auto) => Wire::Http1,
        }
    }

    fn alpn(&self) -> Alpn {
        match self.cluster.config().protocol {
            ClusterProtocol::Tcp => Alpn::None,
            ClusterProtocol::Http1 => Alpn::Http1,
            ClusterProtocol::Http2 => Alpn::Http2,
            ClusterProtocol::Http3 | ClusterProtocol::Auto => Alpn::Either,
        }
    }

    fn key(&self) -> PoolKey {
        let config = self.cluster.config();
        let mut options = config.connection;
        options.connect_timeout = self.check.timeout;
        let tls = self.cluster.tls();
        PoolKey {
            cluster: Arc::clone(&config.name),
            address: self.address,
            options,
            tls: tls.map(|tls| Arc::clone(tls.key())),
            host: tls.and(self.hostname).cloned(),
        }
    }

    fn line(&self) -> Line {
        let now = Instant::now();
        let cluster = ClusterState::unseen(&self.cluster.config().name, Arc::clone(self.unseen), now);
        let endpoint = EndpointState::new(self.address, 0.0, &cluster.board, now);
        Line(Pool::new(&self.key(), 1, &Arc::new(cluster), &Arc::new(endpoint)))
    }
}

enum Exchanged {
    Said(Said),
    /// The kept connection was closed before an answer.
    ClosedMeanwhile,
}

/// Reads a body to its end, or to a limit: so that the connection can be kept, and so that half an answer is none.
/// The beginning, and the trailers if any came.
pub(super) async fn read(mut body: Body) -> Result<(Vec<u8>, Option<HeaderMap>), crate::codec::BodyError> {
    let mut start = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame? {
            Frame::Data(data) if start.len() + data.len() <= limits::HEALTH_BODY => start.extend_from_slice(&data),
            Frame::Data(_) => break,
            Frame::Trailers(trailers) => return Ok((start, Some(trailers))),
        }
    }
    Ok((start, None))
}

fn in_words(error: &LeaseError) -> String {
    match error {
        LeaseError::Connect(SendErrorKind::ConnectTimeout) => "no connection in time".to_owned(),
        LeaseError::Connect(kind) => kind.to_string(),
        LeaseError::Overflow(_) | LeaseError::Retired => error.to_string(),
    }
}

/// Hears what an endpoint says before its answer.
struct Nobody;

impl Interim for Nobody {
    fn send(&self, _: StatusCode, _: &HeaderMap) {}
}

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("outrigger/", env!("CARGO_PKG_VERSION"), " (health check)"));

#[cfg(test)]
impl Line {
    /// Without a connection.
    pub(super) fn idle(endpoint: &Arc<EndpointState>) -> Self {
        let unseen = ClusterMetrics::unseen();
        let cluster = Arc::new(ClusterState::unseen(&"c".into(), unseen, Instant::now()));
        let text = "listeners: [{ name: l, bind: 127.0.0.1:0, routes: r }]\n\
                    routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }\n\
                    clusters: { c: { endpoints: [127.0.0.1:1] } }\n";
        let options = outrigger_config::load("test.yaml", text).expect("valid").config.clusters["c"].connection;
        let key = PoolKey { cluster: "c".into(), address: endpoint.address, options, tls: None, host: None };
        Self(Pool::new(&key, 1, &cluster, endpoint))
    }
}
