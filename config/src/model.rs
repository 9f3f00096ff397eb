//! The validated model: what the data path reads. Every value here has been checked; nothing is
//! optional that has a default. A [`Config`] reaches the outside only wrapped in [`Validated`],
//! which only [`crate::load`] and [`crate::built::check`] make, so holding one is the proof that the rules were applied.
//!
//! Units: durations are [`Duration`], sizes are bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

mod access;
mod balance;
mod breaker;
mod cluster;
mod control_plane;
mod fault;
mod health;
mod http3;
mod identity;
mod listener;
mod opaque;
mod overload;
mod retry;
mod route;
mod tunnel;

pub use access::*;
pub use balance::*;
pub use breaker::*;
pub use cluster::*;
pub use control_plane::*;
pub use fault::*;
pub use health::*;
pub use http3::*;
pub use identity::*;
pub use listener::*;
pub use opaque::*;
pub use overload::*;
pub use retry::*;
pub use route::*;
pub use tunnel::*;

/// Proof that a value passed validation: read-only, and made only by this crate.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated<T>(T);

impl<T> Validated<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for Validated<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A place in a configuration file, 1-based.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file as it was named when loaded.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// A setting together with where it was set; no place means that it is the built-in default.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting<T> {
    /// The effective value.
    pub value: T,
    /// Where it was written, or `None` for the default.
    pub place: Option<Place>,
}

/// A whole proxy configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who this proxy is.
    pub node: Node,
    /// The admin server.
    pub admin: Admin,
    /// The access log.
    pub access_log: AccessLog,
    /// Worker threads; `None` follows the CPU quota.
    pub workers: Option<u16>,
    /// Drain timing.
    pub drain: Drain,
    /// Listeners, in file order; names and binds are unique.
    pub listeners: Vec<Listener>,
    /// Route tables by name.
    pub routes: BTreeMap<Arc<str>, RouteTable>,
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Cluster>,
    /// The mesh identity. There whenever something refers to it.
    pub identity: Option<Identity>,
    /// Authorization policies by name.
    pub authorization: BTreeMap<Arc<str>, Authorization>,
    /// Token providers by name.
    pub jwt_providers: BTreeMap<Arc<str>, JwtProvider>,
    /// Authorizers outside by name.
    pub external_authorizers: BTreeMap<Arc<str>, ExternalAuthorizer>,
    /// Rate limit services by name.
    pub rate_limit_services: BTreeMap<Arc<str>, RateLimitService>,
    /// What is done when the process runs short.
    pub overload: Overload,
}

/// Who this proxy is; used in logs, metrics and the loop check.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique name of this instance (default: host name and process id).
    pub id: Arc<str>,
    /// The service it stands beside.
    pub service: Option<Arc<str>>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
}

/// The admin server.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// `None`: no admin server. Loopback unless `allowRemote` was said.
    pub address: Option<SocketAddr>,
}

/// Where the JSON access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Not written.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file, reopened on SIGHUP.
    File(std::path::PathBuf),
}

/// How the process goes down (DESIGN section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long new connections are still accepted after readiness is withdrawn (default 5 s).
    pub accept_for: Duration,
    /// Exit at the latest this long after the drain began (default 30 s).
    pub deadline: Duration,
}
