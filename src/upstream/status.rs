//! Clusters and endpoints as people see them (`/clusters`).

use std::sync::atomic::Ordering;
use std::time::Instant;

use outrigger_config::model::{self, Condition};
use serde::Serialize;

use super::admission::Occupation;
use super::breakers::BreakerStatus;
use super::cluster::{Cluster, Member};
use super::dns::Names;
use super::endpoints::{LevelStatus, Moment};
use super::health::LastCheck;
use super::standing::Against;
use crate::policy::alternative::Standing;
use crate::telemetry::metrics::EndpointHealth;

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
    /// Places for requests, where a queue or the latency limits them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<AdmissionStatus>,
    /// Its priorities, and how its traffic is divided among them.
    pub priorities: Vec<LevelStatus>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// Names whose last query failed, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolution_errors: Vec<String>,
}

/// Places for the requests of a cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionStatus {
    /// Taken.
    pub taken: u32,
    /// There are.
    pub limit: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// What an answer takes when nothing waits in the upstream, where that is known, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_ms: Option<f64>,
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
    /// `healthy`, `unhealthy`, `ejected`, `draining` or `unchecked`.
    pub health: &'static str,
    /// Why it is not healthy, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_reason: Option<String>,
    /// Its last health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_check: Option<CheckStatus>,
    /// Its ejection, while it is out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionStatus>,
    /// How many ejections lengthen the next one.
    #[serde(skip_serializing_if = "is_zero")]
    pub ejections: u32,
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
    /// Whether it is reached over HTTP/3, where it has offered that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http3: Option<Http3Status>,
    /// Its breaker.
    pub breaker: BreakerStatus,
}

/// How HTTP/3 stands with an endpoint of a cluster that leaves it the choice.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Http3Status {
    /// `advertised`: it is used as soon as a connection is made. `broken`: it failed, and requests go over TCP for a while.
    pub state: &'static str,
    /// The UDP port that was advertised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Until that ends, seconds.
    pub seconds_left: f64,
}

/// A health check that ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckStatus {
    /// How it went: `success`, `failure`, `timeout` or `unreachable`.
    pub result: &'static str,
    /// The answer, or why there is none.
    pub reason: String,
    /// How long ago, seconds.
    pub seconds_ago: f64,
    /// What it took, milliseconds.
    pub took_ms: f64,
}

/// An ejection under way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EjectionStatus {
    /// Why.
    pub cause: &'static str,
    /// How long ago it began, seconds.
    pub seconds_ago: f64,
    /// How long it still lasts at least, seconds: it ends with the interval after.
    pub seconds_left: f64,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Http3Status {
    fn of(standing: Standing, now: Instant) -> Option<Self> {
        let left = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
        match standing {
            Standing::Unknown => None,
            Standing::Advertised { port, until } => {
                Some(Self { state: "advertised", port: Some(port), seconds_left: left(until) })
            }
            Standing::Broken { until } => Some(Self { state: "broken", port: None, seconds_left: left(until) }),
        }
    }
}

/// What is said of an endpoint's health: what counts most of what is against it.
pub(super) fn health_of(member: &Member) -> EndpointHealth {
    let standing = &member.state.standing;
    match member.condition {
        Condition::Unhealthy => EndpointHealth::Unhealthy,
        _ if standing.has(Against::Unhealthy) => EndpointHealth::Unhealthy,
        _ if standing.has(Against::Ejected) => EndpointHealth::Ejected,
        Condition::Draining => EndpointHealth::Draining,
        Condition::Healthy if standing.has(Against::Unchecked) => EndpointHealth::Unchecked,
        Condition::Healthy => EndpointHealth::Healthy,
    }
}

fn reason_of(member: &Member, health: EndpointHealth, last: Option<&LastCheck>, now: Instant) -> Option<String> {
    let standing = &member.state.standing;
    match health {
        EndpointHealth::Healthy => None,
        EndpointHealth::Unhealthy if member.condition == Condition::Unhealthy => {
            Some("its configuration or discovery says so".to_owned())
        }
        EndpointHealth::Unhealthy => {
            let last = last.map_or("", |last| &*last.reason);
            let also = if standing.has(Against::Ejected) { "; it is ejected too" } else { "" };
            Some(format!("its health checks fail; the last one: {last}{also}"))
        }
        EndpointHealth::Ejected => {
            let ejection = member.state.outlier.ejection()?;
            let left = ejection.until.saturating_duration_since(now).as_secs_f64();
            Some(format!("ejected for {left:.1} s more by {}", ejection.cause.name()))
        }
        EndpointHealth::Draining => Some("it goes away: only sessions that are bound to it go there".to_owned()),
        EndpointHealth::Unchecked => Some("its first health check has not ended".to_owned()),
    }
}

impl From<Occupation> for AdmissionStatus {
    fn from(occupation: Occupation) -> Self {
        let Occupation { taken, limit, waiting, baseline } = occupation;
        Self { taken, limit, waiting, baseline_ms: baseline.map(|baseline| baseline.as_secs_f64() * 1e3) }
    }
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
                let health = health_of(member);
                let last = state.checked.get().last;
                let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
                let consecutive_failures = state.consecutive_failures.load(Ordering::Relaxed);
                EndpointStatus {
                    address: state.address.to_string(),
                    hostname: member.hostname.as_deref().map(str::to_owned),
                    weight: member.weight,
                    zone: member.zone.as_deref().map(str::to_owned),
                    priority: member.priority,
                    labels: (*member.labels).clone(),
                    condition: member.condition.word(),
                    not_picked: set.why_not(index, Moment { state: cluster.state(), now }),
                    health: health.name(),
                    health_reason: reason_of(member, health, last.as_ref(), now),
                    last_check: last.map(|last| CheckStatus {
                        result: last.result.name(),
                        reason: last.reason.to_string(),
                        seconds_ago: ago(last.at),
                        took_ms: last.took.as_secs_f64() * 1e3,
                    }),
                    ejection: state.outlier.ejection().map(|ejection| EjectionStatus {
                        cause: ejection.cause.name(),
                        seconds_ago: ago(ejection.began),
                        seconds_left: ejection.until.saturating_duration_since(now).as_secs_f64(),
                    }),
                    ejections: state.outlier.ejections(),
                    in_flight: state.in_flight.load(Ordering::Relaxed),
                    latency_ms: state.latency.read(now) * 1e3,
                    score: set.score(index, now),
                    requests: state.requests.load(Ordering::Relaxed),
                    failures: state.failures.load(Ordering::Relaxed),
                    consecutive_failures,
                    connections: state.connections.load(Ordering::Relaxed),
                    http3: Http3Status::of(state.http3.standing(now), now),
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
            admission: cluster.occupation().map(AdmissionStatus::from),
            priorities: set.levels(Moment { state, now }),
            endpoints,
            resolution_errors: cluster
                .names()
                .filter_map(|host| names.error(host).map(|error| format!("{host}: {error}")))
                .collect(),
        }
    }
}
