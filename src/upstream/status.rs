//! Clusters and endpoints as people see them (`/clusters`).

use std::sync::atomic::Ordering;
use std::time::Instant;

use outrigger_config::model::{self, Condition};
use serde::Serialize;

use super::breakers::BreakerStatus;
use super::cluster::Cluster;
use super::dns::Names;
use super::endpoints::{LevelStatus, Moment};

/// A cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// How an endpoint is chosen.
    pub policy: String,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Retries in flight.
    pub retries: u32,
    /// Open connections.
    pub connections: u32,
    /// Its breaker, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStatus>,
    /// Its priorities, and how its traffic is divided among them.
    pub priorities: Vec<LevelStatus>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// Names whose last query failed, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolution_errors: Vec<String>,
}

/// An endpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Its address.
    pub address: String,
    /// The name it was resolved from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its share.
    pub weight: u32,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its priority; 0 is used first.
    pub priority: u8,
    /// Its labels.
    #[serde(skip_serializing_if = "model::Labels::is_empty")]
    pub labels: model::Labels,
    /// What was said of it: `healthy`, `draining` or `unhealthy`.
    pub condition: &'static str,
    /// Why it is not picked now, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_picked: Option<&'static str>,
    /// `healthy`, or `failing` after consecutive failures.
    pub health: &'static str,
    /// Requests in flight.
    pub in_flight: u32,
    /// Peak EWMA of the time to the response head, milliseconds.
    pub latency_ms: f64,
    /// What the balancer compares, where it compares: lower is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Requests sent.
    pub requests: u64,
    /// Of those, failed.
    pub failures: u64,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Open connections.
    pub connections: u32,
    /// Its breaker.
    pub breaker: BreakerStatus,
}

impl ClusterStatus {
    pub(super) fn of(cluster: &Cluster, names: &Names, now: Instant) -> Self {
        let set = cluster.endpoints();
        let endpoints = set
            .members()
            .iter()
            .enumerate()
            .map(|(index, member)| {
                let state = &member.state;
                let consecutive_failures = state.consecutive_failures.load(Ordering::Relaxed);
                EndpointStatus {
                    address: state.address.to_string(),
                    hostname: member.hostname.as_deref().map(str::to_owned),
                    weight: member.weight,
                    zone: member.zone.as_deref().map(str::to_owned),
                    priority: member.priority,
                    labels: (*member.labels).clone(),
                    condition: condition(member.condition),
                    not_picked: set.why_not(index, Moment { state: cluster.state(), now }),
                    health: if consecutive_failures == 0 { "healthy" } else { "failing" },
                    in_flight: state.in_flight.load(Ordering::Relaxed),
                    latency_ms: state.latency.read(now) * 1e3,
                    score: set.score(index, now),
                    requests: state.requests.load(Ordering::Relaxed),
                    failures: state.failures.load(Ordering::Relaxed),
                    consecutive_failures,
                    connections: state.connections.load(Ordering::Relaxed),
                    breaker: member.breaker_status(now),
                }
            })
            .collect();
        let state = cluster.state();
        Self {
            name: state.name.to_string(),
            policy: format!("{:?}", cluster.config().balance.policy),
            in_flight: state.in_flight.get(),
            pending: state.pending.get(),
            retries: state.retries.get(),
            connections: state.connections.get(),
            breaker: cluster.breaker_status(now),
            priorities: set.levels(Moment { state, now }),
            endpoints,
            resolution_errors: cluster
                .names()
                .filter_map(|host| names.error(host).map(|error| format!("{host}: {error}")))
                .collect(),
        }
    }
}

fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Healthy => "healthy",
        Condition::Draining => "draining",
        Condition::Unhealthy => "unhealthy",
    }
}
