//! What is known of the control plane, for the admin server and for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::model::ControlPlane;
use outrigger_xds::Kind;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::session::{Refusal, Variant, Versions};
use super::store::Id;
use crate::telemetry::rfc3339;

/// What is known of the control plane.
#[derive(Debug)]
pub struct ControlStatus {
    plane: Arc<ControlPlane>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stream: Option<Stream>,
    last_problem: Option<(SystemTime, String)>,
    last_sync: Option<SystemTime>,
    versions: Versions,
    refusals: BTreeMap<Id, Refused>,
    /// Resources that wait for others, with what they wait for.
    waiting: BTreeMap<Id, String>,
    /// What is in effect was confirmed on the stream that is open.
    confirmed: bool,
}

#[derive(Debug)]
struct Stream {
    server: Arc<str>,
    variant: Variant,
    since: SystemTime,
}

/// A refused resource.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) version: Arc<str>,
    pub(crate) at: SystemTime,
}

impl ControlStatus {
    pub(crate) fn new(plane: Arc<ControlPlane>) -> Self {
        Self { plane, inner: Mutex::default() }
    }

    /// Whether what is in effect is what the control plane wants, as far as can be known.
    pub(crate) fn is_current(&self) -> bool {
        let inner = self.inner.lock();
        inner.stream.is_some() && inner.confirmed && inner.refusals.is_empty() && inner.waiting.is_empty()
    }

    pub(crate) fn opened(&self, server: Arc<str>, variant: Variant) {
        let mut inner = self.inner.lock();
        inner.stream = Some(Stream { server, variant, since: SystemTime::now() });
        inner.confirmed = false;
    }

    pub(crate) fn failed(&self, server: &str, problem: &str) {
        let mut inner = self.inner.lock();
        inner.stream = None;
        inner.last_problem = Some((SystemTime::now(), format!("{server}: {problem}")));
    }

    pub(crate) fn confirmed(&self) {
        self.inner.lock().confirmed = true;
    }

    /// Endpoints of clusters changed in place.
    pub(crate) fn endpoints(&self, changed: impl Iterator<Item = (Id, Arc<str>)>) {
        let mut inner = self.inner.lock();
        for ((kind, name), version) in changed {
            inner.versions.entry(kind).or_default().insert(name, version);
        }
        inner.last_sync = Some(SystemTime::now());
    }

    /// What the control plane said is in effect, apart from what is refused or waits.
    pub(crate) fn applied(&self, versions: Versions, refusals: BTreeMap<Id, Refused>, waiting: BTreeMap<Id, String>) {
        let mut inner = self.inner.lock();
        (inner.versions, inner.refusals, inner.waiting) = (versions, refusals, waiting);
        inner.last_sync = Some(SystemTime::now());
    }

    /// For people and programs.
    pub(crate) fn report(&self) -> Value {
        let inner = self.inner.lock();
        let Inner { stream, last_problem, last_sync, versions, refusals, waiting, confirmed } = &*inner;
        let refusals: Vec<Value> = refusals
            .values()
            .flat_map(|of| of.refusals.iter().map(move |refusal| (of, refusal)))
            .map(|(of, refusal)| {
                let Refusal { kind, name, field, reason } = refusal;
                let (version, at) = (&of.version, rfc3339(of.at));
                json!({ "kind": label(*kind), "name": name, "field": field, "reason": reason, "version": version, "at": at })
            })
            .collect();
        let waiting: Vec<Value> = waiting
            .iter()
            .map(|((kind, name), what)| json!({ "kind": label(*kind), "name": name, "for": what }))
            .collect();
        let versions: serde_json::Map<String, Value> =
            versions.iter().map(|(kind, of)| (label(*kind).to_owned(), json!(of))).collect();
        json!({
            "servers": self.plane.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "connected": stream.is_some(),
            "confirmed": stream.is_some() && *confirmed,
            "server": stream.as_ref().map(|stream| &stream.server),
            "protocol": stream.as_ref().map(|stream| stream.variant.as_str()),
            "since": stream.as_ref().map(|stream| rfc3339(stream.since)),
            "lastSync": last_sync.map(rfc3339),
            "lastProblem": last_problem.as_ref().map(|(at, what)| json!({ "at": rfc3339(*at), "problem": what })),
            "versions": versions,
            "refusals": refusals,
            "waiting": waiting,
        })
    }
}

/// A kind as it is called in reports and metrics.
pub(crate) fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Secret => "secret",
        Kind::Cluster => "cluster",
        Kind::Endpoints => "endpoints",
        Kind::Listener => "listener",
        Kind::Route => "route",
    }
}
