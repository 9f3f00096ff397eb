//! Connections and datagrams of which nothing is understood, the PROXY protocol, and interception, as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{BackendRef, DurationText};
use crate::limits;
use crate::read::{Field, List};

/// Where TCP connections go that are handed on as they are.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpForwarding {
    /// Where they go, by weight.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub backend_refs: Field<List<BackendRef>>,
    /// A connection on which nothing moves in either direction is closed after this. `0s`: never.
    #[schemars(extend("default" = "1h"))]
    pub idle_timeout: Field<DurationText>,
}

/// Where datagrams go. What comes from one address and port is a session, and goes to one endpoint.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct UdpForwarding {
    /// Where they go, by weight. Clusters without `tls`.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub backend_refs: Field<List<BackendRef>>,
    /// A session without datagrams in either direction ends after this.
    #[schemars(extend("default" = "60s"))]
    pub idle_timeout: Field<DurationText>,
    /// Sessions at once; datagrams that would begin another are dropped.
    #[schemars(range(min = limits::SESSIONS.min, max = limits::SESSIONS.max), extend("default" = 16384))]
    pub max_sessions: Field<u64>,
}

/// Whether connections begin with a header of the PROXY protocol, by which a proxy before this one says who its caller
/// is. Its version is told by itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum ProxyProtocol {
    /// `strict`: all do; others are closed. `optional`: they may. Headers are believed of everyone who can connect, who
    /// can so claim any address.
    #[serde(rename = "$text")]
    Text(ProxyHeader),
    /// The same, of some callers only.
    #[serde(rename = "$map")]
    Map(ProxyProtocolSettings),
}

/// Whose headers of the PROXY protocol are believed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocolSettings {
    /// Whether there must be one.
    #[schemars(extend("x-required" = true))]
    pub mode: Field<ProxyHeader>,
    /// The addresses of the proxies before this one: `10.0.0.0/8`, `192.0.2.7`. With `strict`, connections from elsewhere
    /// are closed. With `optional` they are taken without a header, and closed with one. Without `from`, everyone is
    /// believed.
    #[schemars(length(min = 1))]
    pub from: Field<List<String>>,
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProxyHeader {
    /// All do; others are closed.
    Strict,
    /// They may.
    Optional,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Connections that the system redirects to a listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Interception {
    /// How they are redirected.
    #[schemars(extend("default" = "redirect"))]
    pub mode: Field<InterceptionMode>,
    /// What is done with those whose destination is in no listener's `intercepts`.
    #[schemars(extend("default" = "serve"))]
    pub unknown: Field<Unknown>,
}

/// How connections are redirected.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum InterceptionMode {
    /// By `REDIRECT` of iptables.
    Redirect,
    /// By `TPROXY` of iptables.
    Tproxy,
}

/// What is done with a destination that no listener serves.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Unknown {
    /// It is served by the listener that caught it.
    Serve,
    /// It is handed on, untouched, to where it was going.
    PassThrough,
    /// It is closed.
    Refuse,
}

/// Destinations of redirected connections. All conditions that are given must hold; one at least is given.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Intercept {
    /// Any of these ranges: `10.0.0.0/8`, `192.0.2.7`. Without it: any address.
    #[schemars(length(min = 1))]
    pub addresses: Field<List<String>>,
    /// Any of these: `5432`, `8000-8999`. Without it: any port.
    #[schemars(length(min = 1))]
    pub ports: Field<List<PortText>>,
}

/// A port, or a range of them.
#[derive(Debug, Clone, Deserialize)]
pub struct PortText(pub String);

impl JsonSchema for PortText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let limits::Bounds { min, max } = limits::PORT;
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": "^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$", "examples": ["8000-8999"] },
        ] })
    }
}
