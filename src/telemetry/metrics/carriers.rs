//! What carries requests to upstreams: connections and requests by protocol, and how HTTP/3 fails.

use super::cluster::ClusterMetrics;
use super::{AtomicU64, Kind, Ordering, Text, add, gauge};

/// What is spoken on a connection to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
    /// Bytes that are handed on.
    Tcp,
}

/// How HTTP/3 failed where the endpoint advertises it, so that it is left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http3Failure {
    /// No connection could be made.
    Connect,
    /// Nothing was heard on a connection while answers were awaited.
    Silent,
    /// A connection was lost.
    Lost,
    /// It answered that it does not answer for the host there (421).
    Misdirected,
}

/// The numbers of one cluster.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    connects: [AtomicU64; CARRIERS.len()],
    connections: [AtomicU64; CARRIERS.len()],
    requests: [AtomicU64; CARRIERS.len()],
    failures: [AtomicU64; FAILURES.len()],
    fallbacks: AtomicU64,
}

const CARRIERS: [(Carrier, &str); 4] =
    [(Carrier::Http1, "http1"), (Carrier::Http2, "http2"), (Carrier::Http3, "http3"), (Carrier::Tcp, "tcp")];

const FAILURES: [(Http3Failure, &str); 4] = [
    (Http3Failure::Connect, "connect"),
    (Http3Failure::Silent, "silent"),
    (Http3Failure::Lost, "lost"),
    (Http3Failure::Misdirected, "misdirected"),
];

impl Carriers {
    pub(super) fn connected(&self, carrier: Carrier) {
        add(&self.connects[carrier as usize], 1);
        add(&self.connections[carrier as usize], 1);
    }

    pub(super) fn disconnected(&self, carrier: Carrier) {
        self.connections[carrier as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl ClusterMetrics {
    /// A request has a connection, or a stream of one.
    pub fn carried(&self, carrier: Carrier) {
        add(&self.carriers().requests[carrier as usize], 1);
    }

    /// HTTP/3 with an endpoint failed, and is not used there for a while.
    pub fn http3_failed(&self, failure: Http3Failure) {
        add(&self.carriers().failures[failure as usize], 1);
    }

    /// A request under way over HTTP/3 was given up there, to be repeated over TCP if it may be.
    pub fn fell_back(&self) {
        add(&self.carriers().fallbacks, 1);
    }
}

/// Name, help text, and where it is, by protocol.
type Counter = (&'static str, &'static str, fn(&Carriers) -> &[AtomicU64; CARRIERS.len()]);

const COUNTERS: [Counter; 2] = [
    ("outrigger_upstream_protocol_connects_total", "Connections made, by protocol.", |carriers| &carriers.connects),
    (
        "outrigger_upstream_protocol_requests_total",
        "Requests that were given a connection, or a stream of one, by protocol.",
        |carriers| &carriers.requests,
    ),
];

pub(super) fn encode(clusters: &[&ClusterMetrics], text: &mut Text) {
    for (name, help, read) in COUNTERS {
        text.family(name, Kind::Counter, help);
        for cluster in clusters {
            for (carrier, name) in CARRIERS {
                let count = cluster.sum_carriers(|carriers| &read(carriers)[carrier as usize]);
                if count > 0 {
                    text.sample(&cluster.labels().with("protocol", name), count);
                }
            }
        }
    }
    text.family("outrigger_upstream_protocol_connections", Kind::Gauge, "Open connections, by protocol.");
    for cluster in clusters {
        for (carrier, name) in CARRIERS {
            if cluster.sum_carriers(|carriers| &carriers.connects[carrier as usize]) > 0 {
                let open = gauge(cluster.sum_carriers(|carriers| &carriers.connections[carrier as usize]));
                text.sample(&cluster.labels().with("protocol", name), open);
            }
        }
    }
    text.family(
        "outrigger_upstream_http3_failures_total",
        Kind::Counter,
        "Endpoints that advertise HTTP/3 and with which it failed, so that it is not used for a while, by cause.",
    );
    for cluster in clusters {
        for (failure, name) in FAILURES {
            let count = cluster.sum_carriers(|carriers| &carriers.failures[failure as usize]);
            if count > 0 {
                text.sample(&cluster.labels().with("cause", name), count);
            }
        }
    }
    text.family(
        "outrigger_upstream_http3_fallbacks_total",
        Kind::Counter,
        "Requests that were under way over HTTP/3 when it failed, and were given up there to be repeated over TCP.",
    );
    for cluster in clusters {
        text.sample(cluster.labels(), cluster.sum_carriers(|carriers| &carriers.fallbacks));
    }
}
