//! What there is to say of one proxy, as rows that the API and the command line show.

use std::sync::Arc;
use std::time::SystemTime;

use outrigger_xds::Kind;
use serde::Serialize;

use super::{Form, Refused};

/// Where a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyState {
    /// It took everything that there is for it.
    Synced,
    /// Something is to be sent, or was sent and is not answered.
    Sent,
    /// It refused something that it was sent, and that has not changed since.
    Refused,
    /// It is not connected.
    Disconnected,
}

/// The two ways of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Only what changed.
    Delta,
    /// All listeners and all clusters whenever one changes.
    StateOfTheWorld,
}

/// One stream of one proxy. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// The workload, `namespace/name`, from the certificate.
    pub workload: String,
    /// The identity, from the certificate.
    pub spiffe_id: Option<String>,
    /// What the proxy calls itself.
    pub node: String,
    /// The program, in its own words.
    pub user_agent: String,
    /// What it reads: `outrigger`, `envoy` or `grpc`.
    #[serde(serialize_with = "word")]
    #[schema(value_type = String)]
    pub form: Form,
    /// How it is served.
    pub protocol: Protocol,
    /// Where it connected from.
    pub address: Option<String>,
    /// Where it stands.
    pub state: ProxyState,
    /// The generation of what it gets.
    pub generation: u64,
    /// The newest generation that it took whole.
    pub accepted_generation: Option<u64>,
    /// Since when it is connected.
    pub connected_at: u64,
    /// Since when it is not.
    pub disconnected_at: Option<u64>,
    /// When it last answered.
    pub answered_at: Option<u64>,
    /// For how long, in milliseconds, it has stood where it stands: since its last answer, or since it connected or left.
    pub age: u64,
    /// Each kind that it asked for.
    pub kinds: Vec<KindStatus>,
}

/// One kind of resources of one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KindStatus {
    /// The type URL.
    pub type_url: String,
    /// How many resources it was sent and has not been told to drop.
    pub resources: usize,
    /// The version of the last response.
    pub sent_version: Option<String>,
    /// The version of the last response that it took.
    pub accepted_version: Option<String>,
    /// What it refused and what has not changed since.
    pub refusals: Vec<Refused>,
    /// The version of the response that it last refused.
    pub refused_version: Option<String>,
    /// When that was.
    pub refused_at: Option<u64>,
    /// The names of the resources. Empty in overviews.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// A stream that can be asked where it stands. Both lock it for a moment.
pub(crate) trait Live: Send + Sync {
    /// State, the generation that it is to get, and the one that it took.
    fn progress(&self) -> (ProxyState, u64, Option<u64>);

    /// All of it.
    fn report(&self) -> Report;
}

/// What a stream says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) state: ProxyState,
    pub(crate) generation: u64,
    pub(crate) accepted_generation: Option<u64>,
    pub(crate) answered_at: Option<SystemTime>,
    pub(crate) kinds: Vec<KindReport>,
}

/// What a stream says of one kind.
#[derive(Debug, Clone)]
pub(crate) struct KindReport {
    pub(crate) kind: Kind,
    pub(crate) sent_version: Option<Arc<str>>,
    pub(crate) accepted_version: Option<Arc<str>>,
    pub(crate) refusals: Vec<Refused>,
    pub(crate) refused: Option<(Arc<str>, SystemTime)>,
    pub(crate) names: Vec<Arc<str>>,
}

impl KindReport {
    pub(crate) fn status(&self, names: Names) -> KindStatus {
        KindStatus {
            type_url: self.kind.type_url().to_owned(),
            resources: self.names.len(),
            sent_version: self.sent_version.as_deref().map(str::to_owned),
            accepted_version: self.accepted_version.as_deref().map(str::to_owned),
            refusals: self.refusals.clone(),
            refused_version: self.refused.as_ref().map(|(version, _)| version.to_string()),
            refused_at: self.refused.as_ref().map(|(_, at)| millis(*at)),
            names: match names {
                Names::Listed => self.names.iter().map(ToString::to_string).collect(),
                Names::Counted => Vec::new(),
            },
        }
    }
}

/// Whether the names of resources are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Names {
    Listed,
    Counted,
}

fn word<S: serde::Serializer>(form: &Form, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match form {
        Form::Outrigger => "outrigger",
        Form::Envoy => "envoy",
        Form::Grpc => "grpc",
    })
}

/// Milliseconds since 1970.
pub(crate) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
