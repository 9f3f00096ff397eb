//! What is told of a connection that was handed on, when it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use outrigger_config::model::TlsVersion;

use super::{Load, Passage, Target};
use crate::net::ConnInfo;
use crate::net::splice::Traffic;
use crate::policy::authz::{Decision, Policy};
use crate::proxy::reason::Reason;
use crate::telemetry::access_log::StreamEntry;
use crate::telemetry::{AccessLog, ListenerMetrics, StreamMetrics};

/// The end of a connection is told when this is dropped, also when the connection was closed from outside.
pub(super) struct Record {
    pub(super) traffic: Traffic,
    metrics: Arc<StreamMetrics>,
    /// Of TLS that is handed on.
    sealed: Option<Arc<ListenerMetrics>>,
    caller: Arc<ConnInfo>,
    begun: (SystemTime, Instant),
    upstream: Option<SocketAddr>,
    attempts: u32,
    reason: &'static str,
    line: Option<Box<Line>>,
}

/// What only the access log needs.
struct Line {
    log: Arc<AccessLog>,
    listener: Arc<str>,
    cluster: Option<Arc<str>>,
    name: Option<Box<str>>,
    rule: Option<Arc<str>>,
    shadow: Option<Box<str>>,
    audits: Option<Box<str>>,
}

impl Record {
    pub(super) fn new(passage: &Passage, caller: &Arc<ConnInfo>, name: Option<&str>) -> Self {
        let Passage { proxy, listener, metrics, to } = passage;
        let (cluster, sealed) = match to {
            Target::Cluster { cluster, load, .. } => {
                let sealed = (*load == Load::Sealed).then(|| Arc::clone(&listener.metrics));
                (Some(Arc::clone(&cluster.config().name)), sealed)
            }
            Target::Address(_) => (None, None),
        };
        let line = proxy.log.is_on().then(|| {
            Box::new(Line {
                log: Arc::clone(&proxy.log),
                listener: Arc::clone(&listener.config.name),
                cluster,
                name: name.map(Into::into),
                rule: None,
                shadow: None,
                audits: None,
            })
        });
        metrics.opened();
        Self {
            traffic: Traffic::counted(Arc::clone(metrics)),
            metrics: Arc::clone(metrics),
            sealed,
            caller: Arc::clone(caller),
            begun: (SystemTime::now(), Instant::now()),
            upstream: None,
            attempts: 0,
            reason: Reason::Cancelled.code(),
            line,
        }
    }

    /// An endpoint is tried.
    pub(super) fn tried(&mut self, address: SocketAddr) {
        self.upstream = Some(address);
        self.attempts += 1;
    }

    /// What authorization has decided.
    pub(super) fn decided(&mut self, policy: &Policy, decision: &Decision) {
        let Some(line) = &mut self.line else { return };
        let Decision { access: _, rule, shadow, audits } = decision;
        line.rule = Some(policy.name(*rule).into());
        line.shadow = shadow.map(|rule| policy.name(Some(rule)).into());
        let names: Vec<&str> = audits.iter().map(|rule| policy.name(Some(*rule))).collect();
        line.audits = (!names.is_empty()).then(|| names.join(",").into());
    }

    /// The rule that has ended it.
    pub(super) fn ended_by(&mut self, rule: Arc<str>) {
        if let Some(line) = &mut self.line {
            line.rule = Some(rule);
        }
    }

    /// It is over. `reason` is empty where both sides have said all.
    pub(super) fn ended(mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (bytes_received, bytes_sent) = (self.traffic.upstream(), self.traffic.downstream());
        let duration = self.begun.1.elapsed();
        self.metrics.closed(self.reason, duration);
        if let Some(listener) = &self.sealed {
            listener.passed_through(bytes_received, bytes_sent);
        }
        let Some(line) = &self.line else { return };
        let tls = self.caller.tls.as_deref();
        line.log.submit_stream(&StreamEntry {
            start: self.begun.0,
            protocol: if self.sealed.is_some() { "TLS" } else { "TCP" },
            listener: &line.listener,
            server_name: line.name.as_deref(),
            reason: self.reason,
            bytes_received,
            bytes_sent,
            duration,
            upstream_cluster: line.cluster.as_deref(),
            upstream_host: self.upstream,
            peer: self.caller.peer,
            local: self.caller.local,
            attempts: self.attempts,
            peer_identity: tls.and_then(|tls| Some(tls.peer.as_ref()?.identity.as_ref()?.as_str())),
            tls_version: tls.map(|tls| match tls.version {
                TlsVersion::V1_2 => "TLSv1.2",
                TlsVersion::V1_3 => "TLSv1.3",
            }),
            authz_rule: line.rule.as_deref(),
            authz_shadow: line.shadow.as_deref(),
            authz_audit: line.audits.as_deref(),
        });
    }
}
