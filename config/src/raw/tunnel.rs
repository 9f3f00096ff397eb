//! Upgrades and CONNECT as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::DurationText;
use crate::limits;
use crate::read::{Field, List};

/// Exchanges that turn into tunnels: `Upgrade` of HTTP/1.1, extended CONNECT of HTTP/2 and HTTP/3, and CONNECT.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Upgrades {
    /// Protocols that may be upgraded to, in lower case. `h2c` is never among them. `[]`: none.
    #[schemars(extend("default" = ["websocket"]))]
    pub allow: Field<List<String>>,
    /// What is done with CONNECT that names no protocol.
    #[schemars(extend("default" = "deny"))]
    pub connect: Field<Connect>,
    /// A tunnel in which nothing moves in either direction is closed after this. `0s`: never.
    #[schemars(extend("default" = "1h"))]
    pub idle_timeout: Field<DurationText>,
    /// A tunnel is closed at this age. `0s`: never.
    #[schemars(extend("default" = "0s"))]
    pub max_duration: Field<DurationText>,
    /// Tunnels open at once on this listener; more are answered with 503.
    #[schemars(range(min = limits::TUNNELS.min, max = limits::TUNNELS.max), extend("default" = 65536))]
    pub max_tunnels: Field<u64>,
    /// Tunnels open at once of one caller, who is known by the identity of its certificate, or without one by its
    /// address. 0: no limit.
    #[schemars(range(min = limits::CALLER_TUNNELS.min, max = limits::CALLER_TUNNELS.max), extend("default" = 0))]
    pub max_tunnels_per_caller: Field<u64>,
}

/// What is done with CONNECT that names no protocol.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Connect {
    /// It is refused.
    Deny,
    /// It is routed by its authority and sent on as CONNECT.
    Route,
    /// It is routed by its authority, and its bytes go over a TCP connection to the endpoint.
    Tunnel,
}
