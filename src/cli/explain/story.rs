//! What `explain` found out, ready to be shown as text or JSON.

use http::Method;
use outrigger_config::model::{self, Condition, Labels, Listener, Place, Retry, Target};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::discovery::dump;
use crate::policy::deadline::{self, Source};
use crate::policy::retry::Idempotency;

/// The whole story of a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Story {
    pub(super) method: String,
    /// In normal form, without port.
    pub(super) host: String,
    /// In normal form, with the query.
    pub(super) path: String,
    pub(super) grpc: bool,
    pub(super) listener: ListenerPart,
    pub(super) virtual_host: HostPart,
    pub(super) rules: Vec<RulePart>,
    /// `None`: the listener has no policy, and everybody may do everything.
    pub(super) authorization: Option<AccessPart>,
    pub(super) decision: Decision,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListenerPart {
    pub(super) name: String,
    pub(super) bind: String,
    pub(super) routes: String,
    pub(super) why: String,
    pub(super) place: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HostPart {
    pub(super) hostnames: Vec<String>,
    pub(super) why: String,
    pub(super) place: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RulePart {
    pub(super) name: String,
    pub(super) won: bool,
    /// For a loser, what failed first in each of its matches.
    pub(super) why: Vec<String>,
    pub(super) place: String,
}

/// What the listener's policy says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccessPart {
    pub(super) policy: String,
    /// Who is taken to ask.
    pub(super) caller: String,
    pub(super) allowed: bool,
    /// The rule that decides; `default` where none does.
    pub(super) rule: String,
    pub(super) place: String,
    /// The shadow rule that would turn the decision around.
    pub(super) shadow: Option<AccessRulePart>,
    /// Audit rules that match.
    pub(super) audits: Vec<AccessRulePart>,
    /// Whether a token could change the decision; `explain` has none.
    pub(super) reads_token: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccessRulePart {
    pub(super) name: String,
    pub(super) place: String,
}

#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Decision {
    Denied {
        status: u16,
        reason: &'static str,
        sentence: &'static str,
    },
    NoRoute {
        status: u16,
        reason: &'static str,
        sentence: &'static str,
    },
    Redirect {
        status: u16,
        location: Option<String>,
    },
    Direct {
        status: u16,
        content_type: String,
        bytes: usize,
    },
    Forward {
        backends: Vec<Backend>,
        filters: Vec<String>,
        timeouts: Vec<Limit>,
        retries: Retries,
        /// Hedging, breakers, hashing, sessions and rate limits of the rule, in the words of the file.
        settings: Map<String, Value>,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backend {
    pub(super) cluster: String,
    pub(super) weight: u32,
    pub(super) share_percent: f64,
    pub(super) protocol: &'static str,
    pub(super) policy: &'static str,
    pub(super) sends_authority: String,
    pub(super) sends_path: String,
    pub(super) filters: Vec<String>,
    pub(super) connect_timeout: String,
    /// Labels that endpoints must have, `NAME=VALUE`.
    pub(super) subset: Vec<String>,
    /// Breakers, health and admission of the cluster, in the words of the file.
    pub(super) settings: Map<String, Value>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) place: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    pub(super) address: String,
    /// A name: each of its addresses is an endpoint.
    pub(super) resolved: bool,
    pub(super) weight: u32,
    pub(super) zone: Option<String>,
    pub(super) priority: u8,
    pub(super) labels: Labels,
    pub(super) condition: &'static str,
    /// Why no request of this backend goes there, whatever health says.
    pub(super) never: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limit {
    pub(super) name: &'static str,
    /// `None`: no limit.
    pub(super) value: Option<String>,
    /// From what to what it is counted.
    pub(super) span: &'static str,
    pub(super) set_by: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Retries {
    /// Attempts beyond the first.
    pub(super) attempts: u8,
    pub(super) set_by: String,
    pub(super) on: Vec<String>,
    /// Whether a request of this method that may have been executed is sent again.
    pub(super) after_sent: bool,
    pub(super) why: &'static str,
    pub(super) backoff: String,
}

/// `file:line:column`.
pub(super) fn place(place: &Place) -> String {
    format!("{}:{}:{}", place.file, place.line, place.column)
}

impl Endpoint {
    pub(super) fn of(endpoint: &model::Endpoint, subset: &Labels) -> Self {
        let model::Endpoint { target, weight, zone, priority, labels, condition } = endpoint;
        let (address, resolved) = match target {
            Target::Address(address) => (address.to_string(), false),
            Target::Name { host, port } => (format!("{host}:{port}"), true),
        };
        let never = match condition {
            _ if subset.iter().any(|(name, value)| labels.get(name) != Some(value)) => Some("not of the subset"),
            Condition::Draining => Some("draining: only what is bound to it"),
            Condition::Unhealthy => Some("unhealthy: only in a panic"),
            Condition::Healthy => None,
        };
        Self {
            address,
            resolved,
            weight: *weight,
            zone: zone.as_ref().map(ToString::to_string),
            priority: *priority,
            labels: labels.clone(),
            condition: condition.word(),
            never,
        }
    }
}

impl Limit {
    pub(super) fn of(name: &'static str, span: &'static str, limit: &deadline::Limit<'_>, listener: &Listener) -> Self {
        let deadline::Limit { value, source } = limit;
        let set_by = match source {
            Source::Written(at) => place(at),
            Source::Default => "default".to_owned(),
            Source::Listener => format!("the streamIdle timeout of listener `{}`", listener.name),
            Source::GrpcTimeout => "the caller's grpc-timeout".to_owned(),
            Source::Caller => "the caller's x-outrigger-deadline".to_owned(),
            Source::Streaming => "default for what may stream".to_owned(),
        };
        Self { name, value: value.map(dump::duration), span, set_by }
    }
}

impl Retries {
    pub(super) fn of(retry: &Retry, method: &Method) -> Self {
        let Retry { attempts, on, non_idempotent, idempotency_key, backoff_base, backoff_max, .. } = retry;
        let idempotent = Idempotency::of(method) == Idempotency::Idempotent;
        let why = match (idempotent, non_idempotent) {
            (true, _) => "the method is idempotent",
            (false, true) => "the rule says nonIdempotent: true",
            (false, false) if *idempotency_key => "the method is not idempotent, unless an Idempotency-Key is there",
            (false, false) => "the method is not idempotent",
        };
        Self {
            attempts: attempts.value,
            set_by: attempts.place.as_ref().map_or_else(|| "default".to_owned(), place),
            on: on.iter().map(|condition| dump::retry_on(condition).to_string().replace('"', "")).collect(),
            after_sent: idempotent || *non_idempotent,
            why,
            backoff: format!("{} to {}", dump::duration(*backoff_base), dump::duration(*backoff_max)),
        }
    }
}
