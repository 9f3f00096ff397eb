//! What is configured, and how it changes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::names::Names;
use super::settings::{self, ClusterSettings};
use crate::policy::rng::Rng;

/// A configuration before it is written down.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) clusters: BTreeMap<String, ClusterPlan>,
    pub(super) rules: BTreeMap<String, RulePlan>,
}

/// A cluster.
#[derive(Debug, Clone)]
pub(super) struct ClusterPlan {
    settings: ClusterSettings,
    endpoints: BTreeMap<Where, EndpointPlan>,
    max_requests: u64,
    max_retries: u64,
    budget_percent: u64,
    budget_per_second: u64,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    Address(u8),
    Name(&'static str),
}

/// An endpoint.
#[derive(Debug, Clone, Copy)]
struct EndpointPlan {
    weight: u32,
    zone: &'static str,
    priority: u8,
    version: u64,
    condition: &'static str,
}

/// A rule.
#[derive(Debug, Clone)]
pub(super) struct RulePlan {
    request: &'static str,
    attempt: &'static str,
    pub(super) retries: u64,
    pub(super) non_idempotent: bool,
    on: &'static str,
    other_locality: bool,
    settings: String,
    /// Clusters with their weights, and the version that is asked for.
    pub(super) backends: BTreeMap<String, (u64, Option<u64>)>,
}

impl Plan {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut plan = Self { clusters: BTreeMap::new(), rules: BTreeMap::new() };
        for n in 0..2 + rng.below(3) {
            plan.clusters.insert(format!("c{n}"), ClusterPlan::new(rng));
        }
        for n in 0..1 + rng.below(RULES) {
            let rule = RulePlan::new(&plan.clusters, rng);
            plan.rules.insert(format!("r{n}"), rule);
        }
        plan
    }

    /// Something else than before.
    pub(super) fn change(&mut self, rng: &mut Rng) {
        for _ in 0..1 + rng.below(3) {
            match rng.below(10) {
                0 => {
                    self.clusters.insert(format!("c{}", rng.below(4)), ClusterPlan::new(rng));
                }
                1 if self.clusters.len() > 1 => {
                    let gone = choose(self.clusters.keys(), rng).clone();
                    self.clusters.remove(&gone);
                    for rule in self.rules.values_mut() {
                        rule.backends.remove(&gone);
                        if rule.backends.is_empty() {
                            *rule = RulePlan::new(&self.clusters, rng);
                        }
                    }
                }
                2 => {
                    let name = format!("r{}", rng.below(RULES));
                    self.rules.insert(name, RulePlan::new(&self.clusters, rng));
                }
                3 if self.rules.len() > 1 => {
                    let gone = choose(self.rules.keys(), rng).clone();
                    self.rules.remove(&gone);
                }
                _ => {
                    let name = choose(self.clusters.keys(), rng).clone();
                    self.clusters.entry(name).and_modify(|cluster| cluster.change(rng));
                }
            }
        }
    }

    pub(super) fn yaml(&self) -> String {
        let mut text = String::from(
            "node: { id: simulated, zone: a }\nadmin: off\naccessLog: off\nlisteners:\n  \
             - { name: inbound, bind: 127.0.0.1:15006, routes: all }\nroutes:\n  all:\n    - rules:\n",
        );
        let write = &mut text;
        for (name, rule) in &self.rules {
            let RulePlan { request, attempt, retries, non_idempotent, on, other_locality, settings, backends } = rule;
            let backends: Vec<String> = backends
                .iter()
                .map(|(cluster, (weight, version))| {
                    let subset = version.map(|version| format!(", subset: {{ version: \"{version}\" }}"));
                    format!("{{ cluster: {cluster}, weight: {weight}{} }}", subset.unwrap_or_default())
                })
                .collect();
            let backends = backends.join(", ");
            let _ = writeln!(
                write,
                "        - name: {name}\n          matches: [{{ path: {{ prefix: /{name} }} }}]\n          \
                 timeouts: {{ {request}{attempt} }}\n          \
                 retry: {{ attempts: {retries}, on: [{on}], nonIdempotent: {non_idempotent}, \
                 otherLocality: {other_locality} }}\n{settings}          backendRefs: [{backends}]"
            );
        }
        text.push_str("clusters:\n");
        for (name, cluster) in &self.clusters {
            cluster.write(name, &mut text);
        }
        text
    }
}

impl ClusterPlan {
    fn new(rng: &mut Rng) -> Self {
        let mut cluster = Self {
            settings: ClusterSettings::default(),
            endpoints: BTreeMap::new(),
            max_requests: 0,
            max_retries: 0,
            budget_percent: 0,
            budget_per_second: 0,
        };
        for _ in 0..1 + rng.below(5) {
            cluster.add_endpoint(rng);
        }
        cluster.choose_policies(rng);
        cluster
    }

    fn change(&mut self, rng: &mut Rng) {
        match rng.below(5) {
            0 | 1 if self.endpoints.len() > 1 => {
                let gone = choose(self.endpoints.keys(), rng).clone();
                self.endpoints.remove(&gone);
            }
            0..3 => self.add_endpoint(rng),
            3 => {
                let one = choose(self.endpoints.keys(), rng).clone();
                self.endpoints.insert(one, EndpointPlan::new(rng));
            }
            _ => self.choose_policies(rng),
        }
    }

    fn add_endpoint(&mut self, rng: &mut Rng) {
        let place = match rng.below(5) {
            0 => Where::Name(NAMES[rng.below(NAMES.len() as u64) as usize]),
            _ => Where::Address(rng.below(ADDRESSES) as u8),
        };
        self.endpoints.insert(place, EndpointPlan::new(rng));
    }

    fn choose_policies(&mut self, rng: &mut Rng) {
        self.settings = ClusterSettings::new(rng);
        self.max_requests = 1 + rng.below(40);
        self.max_retries = rng.below(6);
        self.budget_percent = rng.below(40);
        self.budget_per_second = rng.below(4);
    }

    fn write(&self, name: &str, text: &mut String) {
        let Self { settings, endpoints, max_requests, max_retries, budget_percent, budget_per_second } = self;
        let endpoints: Vec<String> = endpoints
            .iter()
            .map(|(place, endpoint)| {
                let address = match place {
                    Where::Address(n) => address(*n).to_string(),
                    Where::Name(name) => format!("{name}:{PORT}"),
                };
                endpoint.text(&address)
            })
            .collect();
        let endpoints = endpoints.join(", ");
        let (balance, breaker, more) = (settings.balance(), settings.breaker(), settings.more());
        let _ = writeln!(
            text,
            "  {name}:\n    loadBalancing: {{ {balance} }}\n    \
             circuitBreaker: {{ maxRequests: {max_requests}, maxRetries: {max_retries}, {breaker} }}\n    \
             retryBudget: {{ percent: {budget_percent}, minPerSecond: {budget_per_second} }}\n    \
             dns: {{ minTtl: 1s, maxTtl: 8s }}\n    endpoints: [{endpoints}]\n{more}"
        );
    }

    /// The endpoints that it should have now, with their weights.
    pub(super) fn expected(&self, names: &Names) -> BTreeMap<SocketAddr, u32> {
        let mut expected = BTreeMap::new();
        // The order is that of the text: of two mentions the first counts.
        for (place, EndpointPlan { weight, .. }) in &self.endpoints {
            match place {
                Where::Address(n) => {
                    expected.entry(address(*n)).or_insert(*weight);
                }
                Where::Name(name) => {
                    for ip in names.last_good(name) {
                        expected.entry(SocketAddr::new(ip, PORT)).or_insert(*weight);
                    }
                }
            }
        }
        expected
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.endpoints.keys().filter_map(|place| match place {
            Where::Address(_) => None,
            Where::Name(name) => Some(*name),
        })
    }
}

impl EndpointPlan {
    fn new(rng: &mut Rng) -> Self {
        Self {
            weight: [1, 1, 1, 3][rng.below(4) as usize],
            zone: ["a", "a", "b"][rng.below(3) as usize],
            priority: u8::from(rng.below(6) == 0),
            version: rng.below(2),
            condition: match rng.below(20) {
                0 => "draining",
                1 => "unhealthy",
                _ => "healthy",
            },
        }
    }

    fn text(&self, address: &str) -> String {
        let Self { weight, zone, priority, version, condition } = self;
        format!(
            "{{ address: \"{address}\", weight: {weight}, zone: {zone}, priority: {priority}, \
             labels: {{ version: \"{version}\" }}, condition: {condition} }}"
        )
    }
}

impl RulePlan {
    fn new(clusters: &BTreeMap<String, ClusterPlan>, rng: &mut Rng) -> Self {
        let mut backends = BTreeMap::new();
        for _ in 0..1 + rng.below(2) {
            let version = (rng.below(5) == 0).then(|| rng.below(2));
            backends.insert(choose(clusters.keys(), rng).clone(), (1 + rng.below(9), version));
        }
        Self {
            request: ["", "request: 300ms, ", "request: 2s, ", "request: 0s, "][rng.below(4) as usize],
            attempt: ["", "backendRequest: 100ms", "backendRequest: 1s"][rng.below(3) as usize],
            retries: rng.below(6),
            non_idempotent: rng.below(4) == 0,
            on: [
                "connect-failure, refused-stream",
                "reset, gateway-error, unavailable",
                "5xx, deadline-exceeded, 429",
                "reset, 503",
            ][rng.below(4) as usize],
            other_locality: rng.below(4) == 0,
            settings: settings::of_rule(rng),
            backends,
        }
    }
}

fn choose<'a, T>(of: impl ExactSizeIterator<Item = &'a T>, rng: &mut Rng) -> &'a T {
    let at = rng.below(of.len() as u64) as usize;
    of.into_iter().nth(at).expect("not empty")
}

/// One of the addresses, by name or not.
pub(super) fn any_address(rng: &mut Rng) -> SocketAddr {
    address(rng.below(ADDRESSES) as u8)
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), PORT)
}

const PORT: u16 = 8080;
const ADDRESSES: u64 = 14;
/// Rules there can be; requests are made for all of them.
pub(super) const RULES: u64 = 4;
pub(super) const NAMES: [&str; 2] = ["red.test", "blue.test"];
