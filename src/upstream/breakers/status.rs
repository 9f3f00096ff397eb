//! Breakers as people see them (`/breakers`, `/clusters`), and what they may order.

use std::net::SocketAddr;
use std::time::Instant;

use outrigger_config::model::Breaker;
use serde::Serialize;
use thiserror::Error;

use super::{CircuitBreaker, stand};
use crate::policy::breaker::{Force, Standing, State, is_on};
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::cluster::{Cluster, Member};
use crate::upstream::registry::Registry;

/// A breaker.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// `closed`, `open`, `half_open`, `ramp`, `forced_open` or `forced_closed`; `off` where nothing would open it.
    pub state: &'static str,
    /// How long it has been so, in seconds.
    pub since_seconds: f64,
    /// How often it has opened.
    pub opens: u32,
    /// Why it opened last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cause: Option<&'static str>,
    /// When the next request is let through to find out, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_probe_seconds: Option<f64>,
    /// A request is finding out.
    pub probing: bool,
    /// Somebody ordered its state: `POST /breakers?…&state=auto` takes that back.
    pub forced: bool,
}

/// A breaker with its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedBreaker {
    /// `endpoint`, `cluster` or `rule`.
    pub scope: &'static str,
    /// The cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The route table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<String>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where it stands.
    #[serde(flatten)]
    pub status: BreakerStatus,
}

/// An order to a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BreakerOrder {
    /// To that of a cluster.
    Cluster(String),
    /// To that of an endpoint of a cluster.
    Endpoint(String, SocketAddr),
    /// To that of a rule; `None`: of whichever table has it.
    Rule(Option<String>, String),
}

/// Why an order cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoBreaker {
    /// There is no such cluster.
    #[error("No cluster in use is called `{0}`; see /clusters.")]
    Cluster(String),
    /// The cluster has no such endpoint.
    #[error("The cluster `{0}` has no endpoint {1}; see /clusters.")]
    Endpoint(String, SocketAddr),
    /// No rule of that name has a breaker.
    #[error("No rule called `{0}` has a breaker; see /breakers.")]
    Rule(String),
    /// Several have.
    #[error("Several route tables have a rule `{0}` with a breaker; say which: &routes=…")]
    Ambiguous(String),
}

impl BreakerStatus {
    fn of(breaker: &CircuitBreaker, settings: &Breaker, now: Instant) -> Self {
        let Standing { machine, since, opens, cause, next_probe } = breaker.standing(settings, now);
        let off = machine.force == Force::Auto && !is_on(settings);
        let waits = !off && machine.force == Force::Auto && matches!(machine.state, State::Open { .. });
        Self {
            state: if off { "off" } else { stand(machine).as_str() },
            since_seconds: since.as_secs_f64(),
            opens,
            last_cause: cause.as_str(),
            next_probe_seconds: next_probe.filter(|_| waits).map(|wait| wait.as_secs_f64()),
            probing: !off && matches!(machine.state, State::HalfOpen { probe: Some(_) }),
            forced: machine.force != Force::Auto,
        }
    }
}

impl Cluster {
    /// The breaker of the cluster; `None` where none is configured and nobody ordered anything.
    pub(in crate::upstream) fn breaker_status(&self, now: Instant) -> Option<BreakerStatus> {
        let status = BreakerStatus::of(&self.state().breaker, &self.terms().cluster_breaker, now);
        (self.config().breakers.cluster.is_some() || status.forced).then_some(status)
    }
}

impl Member {
    /// Its breaker, for people.
    #[must_use]
    pub fn breaker_status(&self, now: Instant) -> BreakerStatus {
        BreakerStatus::of(&self.state.breaker, &self.terms.endpoint_breaker, now)
    }
}

impl Registry {
    /// The breakers in use.
    #[must_use]
    pub fn breakers(&self, now: Instant) -> Vec<NamedBreaker> {
        let named = |scope: BreakerScope, cluster, status| NamedBreaker {
            scope: scope.as_str(),
            cluster,
            endpoint: None,
            routes: None,
            rule: None,
            status,
        };
        let mut all = Vec::new();
        for cluster in self.clusters() {
            let name = || Some(cluster.config().name.to_string());
            all.extend(cluster.breaker_status(now).map(|status| named(BreakerScope::Cluster, name(), status)));
            all.extend(cluster.endpoints().members().iter().map(|member| NamedBreaker {
                endpoint: Some(member.state.address),
                ..named(BreakerScope::Endpoint, name(), member.breaker_status(now))
            }));
        }
        all.extend(self.rule_breakers().in_use().iter().map(|rule| NamedBreaker {
            routes: Some(rule.table.to_string()),
            rule: Some(rule.rule.to_string()),
            ..named(BreakerScope::Rule, None, BreakerStatus::of(&rule.breaker, &rule.settings, now))
        }));
        all
    }

    /// Orders a breaker to be open or closed whatever happens, or to follow evidence again. Holds until it is taken back,
    /// whatever configurations come.
    ///
    /// # Errors
    /// See [`NoBreaker`].
    pub fn order_breaker(&self, order: &BreakerOrder, force: Force, now: Instant) -> Result<BreakerStatus, NoBreaker> {
        let cluster = |name: &str| {
            let found = self.clusters().into_iter().find(|cluster| &*cluster.config().name == name);
            found.ok_or_else(|| NoBreaker::Cluster(name.to_owned()))
        };
        let obey = |breaker: &CircuitBreaker, settings: &Breaker| {
            breaker.order(force, settings, now);
            BreakerStatus::of(breaker, settings, now)
        };
        match order {
            BreakerOrder::Cluster(name) => {
                let cluster = cluster(name)?;
                Ok(obey(&cluster.state().breaker, &cluster.terms().cluster_breaker))
            }
            BreakerOrder::Endpoint(name, address) => {
                let endpoints = cluster(name)?.endpoints();
                let member = endpoints.members().iter().find(|member| member.state.address == *address);
                let member = member.ok_or_else(|| NoBreaker::Endpoint(name.clone(), *address))?;
                Ok(obey(&member.state.breaker, &member.terms.endpoint_breaker))
            }
            BreakerOrder::Rule(table, name) => {
                let rules = self.rule_breakers().in_use();
                let mut named = rules
                    .iter()
                    .filter(|rule| &*rule.rule == name && table.as_ref().is_none_or(|table| &*rule.table == table));
                let rule = named.next().ok_or_else(|| NoBreaker::Rule(name.clone()))?;
                if named.next().is_some() {
                    return Err(NoBreaker::Ambiguous(name.clone()));
                }
                Ok(obey(&rule.breaker, &rule.settings))
            }
        }
    }
}
