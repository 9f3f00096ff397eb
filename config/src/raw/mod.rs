//! The configuration as written: a mirror of the YAML, one type for one shape, nothing interpreted.
//!
//! The same types give the JSON Schema, so descriptions here are what an editor shows. Every field is a [`Field`]:
//! what must be there is decided by validation, which can say more than "missing".
//!
//! An enum whose variants are named `$text`, `$list` and `$map` takes whichever shape was written (a short and a
//! long form); all others are tagged by their key.

mod access;
mod balance;
mod breaker;
mod cluster;
mod control_plane;
mod fault;
mod filter;
mod health;
mod http3;
mod identity;
mod listener;
pub(crate) mod names;
mod opaque;
mod overload;
mod route;
mod session;
mod tunnel;

pub use access::*;
pub use balance::*;
pub use breaker::*;
pub use cluster::*;
pub use control_plane::*;
pub use fault::*;
pub use filter::*;
pub use health::*;
pub use http3::*;
pub use identity::*;
pub use listener::*;
pub use opaque::*;
pub use overload::*;
pub use route::*;
pub use session::*;
pub use tunnel::*;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::limits;
use crate::read::{Entries, Field, List};

/// The configuration of one Outrigger proxy.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Who this proxy is, for logs, metrics and the loop check.
    pub node: Field<Node>,
    /// The admin server, or `off`. Without it: an admin server on 127.0.0.1:15000.
    pub admin: Field<Admin>,
    /// Where the JSON access log goes: `stdout`, `off`, a path, or `{ path: … }`.
    #[schemars(extend("default" = "stdout"))]
    pub access_log: Field<AccessLog>,
    /// Worker threads. Without it: as many as the CPU quota allows.
    #[schemars(range(min = limits::WORKERS.min, max = limits::WORKERS.max))]
    pub workers: Field<u64>,
    /// How the process goes down.
    pub drain: Field<Drain>,
    /// What is done when the process runs short of memory or connections.
    pub overload: Field<Overload>,
    /// Who this proxy is to other workloads. Needed where TLS is spoken in the mesh.
    pub identity: Field<Identity>,
    /// Where connections are accepted. At least one, unless there is a `controlPlane`.
    #[schemars(length(min = 1))]
    pub listeners: Field<List<Listener>>,
    /// Route tables by name. Listeners refer to them.
    pub routes: Field<Entries<List<VirtualHost>>>,
    /// Clusters by name: groups of equal endpoints. Rules refer to them in `backendRefs`.
    pub clusters: Field<Entries<Cluster>>,
    /// Authorization policies by name. Listeners refer to them in `authorization`.
    pub authorization: Field<Entries<Authorization>>,
    /// Issuers of tokens by name. Listeners refer to them in `jwt`.
    pub jwt_providers: Field<Entries<JwtProvider>>,
    /// Authorizers outside by name. Listeners refer to them in `externalAuthorization`.
    pub external_authorizers: Field<Entries<ExternalAuthorizer>>,
    /// Rate limit services by name. Rules refer to them in `globalRateLimits`.
    pub rate_limit_services: Field<Entries<RateLimitService>>,
    /// The control plane that says the rest, instead of this file.
    pub control_plane: Field<ControlPlane>,
}

/// Who this proxy is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Unique name of this instance. Without it: host name and process id.
    pub id: Field<String>,
    /// The service that this proxy stands beside.
    pub service: Field<String>,
    /// Its zone.
    pub zone: Field<String>,
}

/// The admin server, or `off`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum Admin {
    /// `off`: no admin server.
    #[serde(rename = "$text")]
    Text(#[schemars(schema_with = "off")] String),
    /// Its settings.
    #[serde(rename = "$map")]
    Map(AdminServer),
}

/// Settings of the admin server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AdminServer {
    /// Where it listens, `IP:PORT`.
    #[schemars(extend("default" = "127.0.0.1:15000"))]
    pub address: Field<String>,
    /// Must be true when the address is not a loopback address: whoever reaches the admin server can drain this
    /// proxy and read its configuration.
    #[schemars(extend("default" = false))]
    pub allow_remote: Field<bool>,
}

/// Where the JSON access log goes.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum AccessLog {
    /// `stdout`, `off`, or the path of a file.
    #[serde(rename = "$text")]
    Text(#[schemars(schema_with = "text_or_off")] String),
    /// A file.
    #[serde(rename = "$map")]
    Map(AccessLogFile),
}

/// A file for the access log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogFile {
    /// Its path; reopened on SIGHUP. `/dev/stdout` is standard output.
    #[schemars(extend("x-required" = true))]
    pub path: Field<String>,
}

/// How the process goes down: readiness is withdrawn, connections are still accepted for a while, open ones are
/// closed gracefully, and it ends when nothing is active or at the deadline.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Drain {
    /// How long new connections are still accepted after readiness was withdrawn.
    #[schemars(extend("default" = "5s"))]
    pub accept_for: Field<DurationText>,
    /// When the process ends at the latest, counted from the beginning of the drain.
    #[schemars(extend("default" = "30s"))]
    pub deadline: Field<DurationText>,
}

/// A length of time as written: `2s`, `250ms`, `1h30m`.
#[derive(Debug, Clone, Deserialize)]
pub struct DurationText(pub String);

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]{1,12}(h|m|s|ms|us))+$", "examples": ["250ms", "2s", "5m", "1h"] })
    }
}

/// A number of bytes as written: `64KiB`, `1MiB`, `512B`.
#[derive(Debug, Clone, Deserialize)]
pub struct SizeText(pub String);

impl JsonSchema for SizeText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{1,12}(B|KiB|MiB|GiB)$", "examples": ["64KiB", "1MiB"] })
    }
}

/// A decimal number as written: `1.5`.
#[derive(Debug, Clone, Deserialize)]
pub struct Decimal(pub String);

impl JsonSchema for Decimal {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Decimal".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0 })
    }
}

/// `off`; an editor that follows YAML 1.1 sees it as false.
fn off(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["off", false] })
}

fn text_or_off(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "string" }, { "const": false }], "examples": ["stdout", "off", "/var/log/outrigger/access.log"] })
}
