//! Upgrades and CONNECT: exchanges that turn into tunnels.

use std::sync::Arc;
use std::time::Duration;

/// Which tunnels a listener opens and how long they may last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrades {
    /// Tokens of `Upgrade` and values of `:protocol` that are let through, lower case (default `websocket`). Never `h2c`.
    pub allow: Vec<Arc<str>>,
    /// What is done with CONNECT that names no protocol.
    pub connect: Connect,
    /// A tunnel in which nothing moves in either direction is closed after this (default 1 h; zero: never).
    pub idle_timeout: Duration,
    /// A tunnel is closed at this age (default zero: never).
    pub max_duration: Duration,
    /// Tunnels open at once on the listener (default 65536); more are answered 503.
    pub max_tunnels: u32,
    /// Tunnels open at once of one caller, by its identity, or its address without one (default 0: no limit).
    pub max_per_caller: u32,
}

/// What is done with CONNECT that names no protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Connect {
    /// Refused (default).
    #[default]
    Deny,
    /// Routed by its authority and sent on as CONNECT: the upstream opens the tunnel.
    Route,
    /// Routed by its authority; the tunnel ends here, and its bytes go over a TCP connection to the endpoint.
    Tunnel,
}

impl Default for Upgrades {
    fn default() -> Self {
        Self {
            allow: vec![Arc::from("websocket")],
            connect: Connect::Deny,
            idle_timeout: Duration::from_secs(3600),
            max_duration: Duration::ZERO,
            max_tunnels: 65_536,
            max_per_caller: 0,
        }
    }
}
