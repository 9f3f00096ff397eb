//! What is remembered of one request until its end, and told exactly once: to the metrics and the access log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Version};
use outrigger_config::spiffe::SpiffeId;

use super::early::Early;
use super::origin::Origin;
use super::reason::Reason;
use super::watch::Watch;
use crate::codec::{Replay, RequestHead, WayUp};
use crate::policy::authz::{Decision, RuleId};
use crate::snapshot::{Listener, Rule};
use crate::telemetry::access_log::{AccessLog, Entry};
use crate::telemetry::metrics::{Finished, Injected, RouteMetrics};

/// The record of one request. Dropping it ends the request: metrics and log are written then, so every way out
/// is counted, also the one where the caller leaves and the future is dropped.
#[derive(Debug)]
pub(super) struct Record {
    listener: Arc<Listener>,
    metrics: Option<Arc<RouteMetrics>>,
    started: Instant,
    log: Option<Box<Facts>>,
    upload: Upload,
    /// Sees to it that the exchange ends when it is no longer allowed.
    pub(super) watch: Watch,
    /// 0 until the caller has been given a status.
    pub(super) status: u16,
    pub(super) grpc_status: Option<u8>,
    pub(super) reason: Option<Reason>,
    pub(super) details: &'static str,
    pub(super) bytes_sent: u64,
    /// How it stands to the handshake of its connection.
    pub(super) early: Early,
    pub(super) attempts: u32,
    pub(super) upstream_time: Option<Duration>,
    pub(super) upstream_host: Option<SocketAddr>,
    /// The response was given to the caller whole.
    complete: bool,
    /// When it ended, where that was seen before this is dropped.
    ended: Option<Instant>,
}

/// What the caller sends.
#[derive(Debug)]
enum Upload {
    None,
    Body(Replay),
    Tunnel(WayUp),
}

/// What only the access log needs.
#[derive(Debug)]
struct Facts {
    to: Arc<AccessLog>,
    wall: SystemTime,
    method: Method,
    authority: Option<Authority>,
    path: PathAndQuery,
    version: Version,
    request_id: Option<HeaderValue>,
    x_forwarded_for: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    rule: Option<Arc<Rule>>,
    cluster: Option<Arc<str>>,
    decision: Option<Decision>,
    /// The rule that ended the exchange after it had been allowed.
    ended_by: Option<Arc<str>>,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Record {
    /// Begins a record. `head` is `None` for a request that the codec refused.
    pub(super) fn new(
        listener: Arc<Listener>,
        log: &Arc<AccessLog>,
        head: Option<&RequestHead>,
        started: Instant,
        origin: &Arc<Origin>,
    ) -> Self {
        let log = log.is_on().then(|| {
            Box::new(Facts {
                to: Arc::clone(log),
                wall: SystemTime::now() - started.elapsed(),
                method: head.map_or(Method::GET, |head| head.method.clone()),
                authority: head.and_then(|head| head.authority.clone()),
                path: head.map_or(PathAndQuery::from_static("/"), |head| head.path.clone()),
                version: head.map_or(Version::HTTP_11, |head| head.version),
                request_id: None,
                x_forwarded_for: None,
                user_agent: head.and_then(|head| head.headers.get(USER_AGENT).cloned()),
                rule: None,
                cluster: None,
                decision: None,
                ended_by: None,
            })
        });
        Self {
            listener,
            metrics: None,
            started,
            log,
            upload: Upload::None,
            watch: Watch::new(Arc::clone(origin)),
            status: 0,
            grpc_status: None,
            reason: None,
            details: "",
            bytes_sent: 0,
            early: Early::No,
            attempts: 0,
            upstream_time: None,
            upstream_host: None,
            complete: false,
            ended: None,
        }
    }

    /// The request is now fit to be sent on: its forwarding fields are final.
    pub(super) fn note_head(&mut self, head: &RequestHead) {
        if let Some(log) = &mut self.log {
            log.path = head.path.clone();
            log.request_id = head.headers.get(REQUEST_ID).cloned();
            log.x_forwarded_for = head.headers.get(FORWARDED_FOR).cloned();
        }
    }

    /// What authorization said.
    pub(super) fn note_decision(&mut self, decision: Decision) {
        if let Some(log) = &mut self.log {
            log.decision = Some(decision);
        }
    }

    /// The exchange is old enough to be watched. Without `head`, that which the watch has kept.
    pub(super) fn enter_watch(&mut self, head: Option<&RequestHead>) {
        self.watch.enter(&self.listener, head);
    }

    /// The exchange is no longer allowed.
    pub(super) fn note_ended(&mut self) {
        if let Some(log) = &mut self.log {
            log.ended_by = self.watch.ended().cloned();
        }
    }

    /// The rule, and the cluster if one was chosen.
    pub(super) fn note_route(&mut self, rule: &Arc<Rule>, metrics: &Arc<RouteMetrics>, cluster: Option<&Arc<str>>) {
        metrics.started();
        self.metrics = Some(Arc::clone(metrics));
        if let Some(log) = &mut self.log {
            log.rule = Some(Arc::clone(rule));
            log.cluster = cluster.cloned();
        }
    }

    /// A fault was injected, after the rule was noted.
    pub(super) fn injected(&mut self, what: Injected) {
        if let Some(metrics) = &self.metrics {
            metrics.injected(what);
        }
    }

    /// Where the bytes of the upload are counted.
    pub(super) fn note_upload(&mut self, upload: &Replay) {
        self.upload = Upload::Body(upload.clone());
    }

    /// The exchange became a tunnel, and this is its way up. It may live for days: what is kept of its head is kept alone,
    /// not with the buffer that the head was read into.
    pub(super) fn begin_tunnel(&mut self, up: &WayUp) {
        self.upload = Upload::Tunnel(up.clone());
        let Some(log) = &mut self.log else { return };
        log.authority = log.authority.as_ref().and_then(|authority| authority.as_str().parse().ok());
        log.path = log.path.as_str().parse().unwrap_or(PathAndQuery::from_static("/"));
        for value in [&mut log.request_id, &mut log.x_forwarded_for, &mut log.user_agent].into_iter().flatten() {
            if let Ok(alone) = HeaderValue::from_bytes(value.as_bytes()) {
                *value = alone;
            }
        }
    }

    /// The listener that the request came to.
    pub(super) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Bytes of the upload so far.
    pub(super) fn received(&self) -> u64 {
        match &self.upload {
            Upload::None => 0,
            Upload::Body(body) => body.received(),
            Upload::Tunnel(up) => up.received(),
        }
    }

    /// The last of the response is there, and what writes it takes it whatever the caller does.
    pub(super) fn note_end(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// The caller was given everything.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete && self.reason.is_none() {
            self.reason = Some(Reason::Cancelled);
        }
        let reason = self.reason.map_or("", Reason::code);
        let duration = self.ended.unwrap_or_else(Instant::now).saturating_duration_since(self.started);
        let bytes_received = self.received();
        let metrics = self.metrics.take().unwrap_or_else(|| {
            let metrics = self.listener.unrouted_metrics();
            metrics.started();
            Arc::clone(metrics)
        });
        metrics.finished(&Finished {
            status: self.status,
            grpc_status: self.grpc_status,
            reason,
            duration,
            request_bytes: bytes_received,
            response_bytes: self.bytes_sent,
        });
        let Some(log) = self.log.take() else { return };
        let origin = self.watch.origin();
        let authorization = self.listener.authorization.as_ref();
        let name = |rule: Option<RuleId>| authorization.map(|authorization| authorization.policy.name(rule));
        let decided = log.decision.as_ref();
        let audits: Vec<&str> = decided.iter().flat_map(|d| &d.audits).filter_map(|&audit| name(Some(audit))).collect();
        let audits = audits.join(",");
        log.to.submit(&Entry {
            start: log.wall,
            method: log.method.as_str(),
            authority: log.authority.as_ref().map(Authority::as_str),
            path: log.path.path(),
            protocol: log.version,
            status: self.status,
            reason,
            details: self.details,
            bytes_received,
            bytes_sent: self.bytes_sent,
            duration,
            upstream_time: self.upstream_time,
            upstream_host: self.upstream_host,
            upstream_cluster: log.cluster.as_deref(),
            route: log.rule.as_ref().map(|rule| &*rule.config.name),
            listener: &self.listener.config.name,
            request_id: log.request_id.as_ref().map(HeaderValue::as_bytes),
            x_forwarded_for: log.x_forwarded_for.as_ref().map(HeaderValue::as_bytes),
            user_agent: log.user_agent.as_ref().map(HeaderValue::as_bytes),
            peer: origin.info.peer,
            attempts: self.attempts,
            grpc_status: self.grpc_status,
            peer_identity: origin.identity().map(SpiffeId::as_str),
            tls_version: origin.tls_version(),
            authz_rule: log.ended_by.as_deref().or_else(|| name(decided?.rule)),
            authz_shadow: decided.and_then(|decision| decision.shadow).and_then(|shadow| name(Some(shadow))),
            authz_audit: (!audits.is_empty()).then_some(&*audits),
        });
    }
}
