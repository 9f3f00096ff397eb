//! Connections and datagrams of which nothing is understood: where they go, who is behind them, where they were going.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{BackendRef, Cidr, Place};

/// Where TCP connections go that are handed on as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpForwarding {
    /// By weight; at least one weight is above zero. Without filters.
    pub backends: Vec<BackendRef>,
    /// A connection on which nothing moves in either direction is closed after this (default 1 h; zero: never).
    pub idle_timeout: Duration,
    /// Where it is written.
    pub place: Place,
}

/// Where datagrams go. What comes from one address and port is one session and goes to one endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpForwarding {
    /// By weight; at least one weight is above zero. Without filters, of clusters without TLS.
    pub backends: Vec<BackendRef>,
    /// A session without datagrams in either direction ends after this (default 60 s).
    pub idle_timeout: Duration,
    /// Sessions at once (default 16384); datagrams that would begin another are dropped.
    pub max_sessions: u32,
    /// Where it is written.
    pub place: Place,
}

/// The header of the PROXY protocol, in which a proxy before us says who its caller is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyProtocol {
    /// Whether there must be one.
    pub mode: ProxyHeader,
    /// Whose headers are believed. Empty: those of everyone who can connect, who can so claim any address. From elsewhere,
    /// connections without a header are taken where it is optional, and no others.
    pub from: Vec<Cidr>,
}

impl ProxyProtocol {
    /// Whether what comes from this address is believed.
    #[must_use]
    pub fn believes(&self, source: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|range| range.contains(source))
    }
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyHeader {
    /// Every one does.
    Strict,
    /// They may.
    Optional,
}

/// Versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Connections that the system redirects here and that keep their original destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interception {
    /// How they get here.
    pub mode: InterceptionMode,
    /// What is done with those whose destination no listener serves.
    pub unknown: Unknown,
}

/// How connections are redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InterceptionMode {
    /// By `REDIRECT` of iptables: the system remembers the destination.
    Redirect,
    /// By `TPROXY` of iptables: the destination is the local address of the connection.
    Tproxy,
}

/// What is done with a destination that no listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// Served by the settings of the listener that caught it (default).
    Serve,
    /// Handed on, untouched, to where it was going.
    PassThrough,
    /// Closed.
    Refuse,
}

/// Destinations of redirected connections that a listener serves. All conditions that are given must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Intercept {
    /// Any of these; empty: any address.
    pub addresses: Vec<Cidr>,
    /// Any of these; empty: any port.
    pub ports: Vec<PortRange>,
    /// Where it is written.
    pub place: Place,
}

impl Intercept {
    /// Whether a destination is one of them.
    #[must_use]
    pub fn takes(&self, destination: SocketAddr) -> bool {
        let Self { addresses, ports, place: _ } = self;
        (addresses.is_empty() || addresses.iter().any(|range| range.contains(destination.ip())))
            && (ports.is_empty() || ports.iter().any(|range| range.contains(destination.port())))
    }
}

/// Ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The first, at least 1.
    pub first: u16,
    /// The last, at least the first.
    pub last: u16,
}

impl PortRange {
    /// Whether a port lies in it.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}
