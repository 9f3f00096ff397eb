//! What changes between two configurations, for people and logs. Where something is written does not count: a comment
//! that moves every line down changes nothing.

mod guards;
mod opaque;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::model::{
    AccessRule, Authorization, Breaker, Breakers, Cluster, Config, Endpoint, HostPattern, Listener, Retry, RouteTable,
    Rule, Setting, Target, Timeouts, VirtualHost,
};

/// What changed. Its `Display` has one short line for each thing, `+` added, `-` removed, `~` changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Sections as a whole that changed: `node`, `admin`, `accessLog`, `workers`, `drain`, `rateLimitServices`,
    /// `overload`, `identity`.
    pub settings: Vec<&'static str>,
    /// Listeners by name.
    pub listeners: Changes,
    /// Route tables by name. A table whose rules changed is not listed for that alone.
    pub tables: Changes,
    /// Rules by name, by table; only of tables that are in both.
    pub rules: BTreeMap<Arc<str>, Changes>,
    /// Clusters by name. A cluster whose endpoints changed is not listed for that alone.
    pub clusters: Changes,
    /// Endpoints by address, by cluster; only of clusters that are in both.
    pub endpoints: BTreeMap<Arc<str>, Changes>,
    /// Authorization policies by name. A policy whose rules changed is not listed for that alone.
    pub authorization: Changes,
    /// Authorization rules by name, by policy; only of policies that are in both.
    pub authorization_rules: BTreeMap<Arc<str>, Changes>,
    /// Token providers by name.
    pub jwt_providers: Changes,
    /// External authorizers by name.
    pub external_authorizers: Changes,
}

/// Changes of one kind of thing, each list in the order of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// New.
    pub added: Vec<Arc<str>>,
    /// Gone.
    pub removed: Vec<Arc<str>>,
    /// Different.
    pub changed: Vec<Changed>,
}

/// A thing that is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its name.
    pub name: Arc<str>,
    /// The parts that differ, as they are called in the file.
    pub parts: Vec<&'static str>,
}

impl Changes {
    /// True when nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many things changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.added.len() + self.removed.len() + self.changed.len()
    }

    /// Compares two sets of named things. `parts` tells what differs in a pair.
    fn between<'m, T: 'm>(
        old: impl Iterator<Item = (Arc<str>, &'m T)>,
        new: impl Iterator<Item = (Arc<str>, &'m T)>,
        parts: impl Fn(&T, &T) -> Vec<&'static str>,
    ) -> Self {
        let mut old: BTreeMap<Arc<str>, &T> = old.collect();
        let mut out = Self::default();
        let new: BTreeMap<Arc<str>, &T> = new.collect();
        for (name, value) in new {
            match old.remove(&name) {
                None => out.added.push(name),
                Some(before) => {
                    let parts = parts(before, value);
                    if !parts.is_empty() {
                        out.changed.push(Changed { name, parts });
                    }
                }
            }
        }
        out.removed = old.into_keys().collect();
        out
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        for name in &self.added {
            writeln!(f, "+ {what}{name}")?;
        }
        for name in &self.removed {
            writeln!(f, "- {what}{name}")?;
        }
        for Changed { name, parts } in &self.changed {
            writeln!(f, "~ {what}{name}: {}", parts.join(", "))?;
        }
        Ok(())
    }
}

impl Diff {
    /// True when nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts().iter().all(|(_, count)| *count == 0)
    }

    /// The numbers on one line, such as `listeners 1, rules 2, endpoints 3`; `nothing` when nothing changed.
    #[must_use]
    pub fn summary(&self) -> String {
        let counts = self.counts().into_iter().filter(|(_, count)| *count > 0);
        let parts: Vec<String> = counts.map(|(what, count)| format!("{what} {count}")).collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }

    /// How many things of each kind changed.
    fn counts(&self) -> [(&'static str, usize); 10] {
        let Self {
            settings,
            listeners,
            tables,
            rules,
            clusters,
            endpoints,
            authorization,
            authorization_rules,
            jwt_providers,
            external_authorizers,
        } = self;
        let sum = |of: &BTreeMap<Arc<str>, Changes>| of.values().map(Changes::len).sum::<usize>();
        [
            ("settings", settings.len()),
            ("listeners", listeners.len()),
            ("route tables", tables.len()),
            ("rules", sum(rules)),
            ("clusters", clusters.len()),
            ("endpoints", sum(endpoints)),
            ("authorization policies", authorization.len()),
            ("authorization rules", sum(authorization_rules)),
            ("token providers", jwt_providers.len()),
            ("external authorizers", external_authorizers.len()),
        ]
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            settings,
            listeners,
            tables,
            rules,
            clusters,
            endpoints,
            authorization,
            authorization_rules,
            jwt_providers,
            external_authorizers,
        } = self;
        for name in settings {
            writeln!(f, "~ {name}")?;
        }
        listeners.write(f, "listener ")?;
        tables.write(f, "routes ")?;
        for (table, changes) in rules {
            changes.write(f, &format!("rule {table}/"))?;
        }
        clusters.write(f, "cluster ")?;
        for (cluster, changes) in endpoints {
            changes.write(f, &format!("endpoint {cluster} "))?;
        }
        authorization.write(f, "authorization ")?;
        for (policy, changes) in authorization_rules {
            changes.write(f, &format!("authorization rule {policy}/"))?;
        }
        jwt_providers.write(f, "token provider ")?;
        external_authorizers.write(f, "external authorizer ")?;
        Ok(())
    }
}

/// Compares two configurations.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Diff {
    // Destructured, so that a new section cannot be forgotten here.
    let Config {
        node,
        admin,
        access_log,
        workers,
        drain,
        listeners,
        routes,
        clusters,
        identity,
        authorization,
        jwt_providers,
        external_authorizers,
        rate_limit_services,
        overload,
    } = new;
    let settings = Parts::default()
        .add("node", old.node == *node)
        .add("admin", old.admin == *admin)
        .add("accessLog", old.access_log == *access_log)
        .add("workers", old.workers == *workers)
        .add("drain", old.drain == *drain)
        .add("rateLimitServices", old.rate_limit_services == *rate_limit_services)
        .add("overload", old.overload == *overload)
        .add("identity", guards::same_identity(old.identity.as_ref(), identity.as_ref()))
        .list;

    fn named(list: &[Listener]) -> impl Iterator<Item = (Arc<str>, &Listener)> {
        list.iter().map(|listener| (Arc::clone(&listener.name), listener))
    }
    let listeners = Changes::between(named(&old.listeners), named(listeners), listener);
    let tables = Changes::between(by_name(&old.routes), by_name(routes), table);
    let rules = in_both(&old.routes, routes, |old, new| Changes::between(self::rules(old), self::rules(new), rule));
    let endpoints = in_both(&old.clusters, clusters, |old, new| {
        Changes::between(self::endpoints(old), self::endpoints(new), endpoint)
    });
    let clusters = Changes::between(by_name(&old.clusters), by_name(clusters), cluster);
    let authorization_rules = in_both(&old.authorization, authorization, |old, new| {
        Changes::between(access_rules(old), access_rules(new), guards::access_rule)
    });
    let authorization = Changes::between(by_name(&old.authorization), by_name(authorization), guards::policy);
    let jwt_providers = Changes::between(by_name(&old.jwt_providers), by_name(jwt_providers), guards::jwt_provider);
    let external_authorizers = Changes::between(
        by_name(&old.external_authorizers),
        by_name(external_authorizers),
        guards::external_authorizer,
    );
    Diff {
        settings,
        listeners,
        tables,
        rules,
        clusters,
        endpoints,
        authorization,
        authorization_rules,
        jwt_providers,
        external_authorizers,
    }
}

fn by_name<T>(map: &BTreeMap<Arc<str>, T>) -> impl Iterator<Item = (Arc<str>, &T)> {
    map.iter().map(|(name, value)| (Arc::clone(name), value))
}

fn in_both<T>(
    old: &BTreeMap<Arc<str>, T>,
    new: &BTreeMap<Arc<str>, T>,
    compare: impl Fn(&T, &T) -> Changes,
) -> BTreeMap<Arc<str>, Changes> {
    let pairs = new.iter().filter_map(|(name, new)| Some((Arc::clone(name), compare(old.get(name)?, new))));
    pairs.filter(|(_, changes)| !changes.is_empty()).collect()
}

fn rules(table: &RouteTable) -> impl Iterator<Item = (Arc<str>, &Rule)> {
    table.hosts.iter().flat_map(|host| host.rules.iter()).map(|rule| (Arc::clone(&rule.name), rule))
}

fn access_rules(policy: &Authorization) -> impl Iterator<Item = (Arc<str>, &AccessRule)> {
    policy.rules.iter().map(|rule| (Arc::clone(&rule.name), rule))
}

fn endpoints(cluster: &Cluster) -> impl Iterator<Item = (Arc<str>, &Endpoint)> {
    cluster.endpoints.iter().map(|endpoint| {
        let name = match &endpoint.target {
            Target::Address(address) => address.to_string(),
            Target::Name { host, port } => format!("{host}:{port}"),
        };
        (name.into(), endpoint)
    })
}

/// Names of what differs.
#[derive(Default)]
struct Parts {
    list: Vec<&'static str>,
}

impl Parts {
    fn add(mut self, name: &'static str, same: bool) -> Self {
        if !same {
            self.list.push(name);
        }
        self
    }
}

fn listener(old: &Listener, new: &Listener) -> Vec<&'static str> {
    let Listener {
        name: _,
        bind,
        protocol,
        routes,
        direction,
        trust,
        path,
        limits,
        tls,
        client_cert_header,
        authorization,
        jwt,
        external_authorization,
        rate_limits,
        http3,
        upgrades,
        tcp,
        udp,
        proxy_protocol,
        interception,
        intercepts,
        place: _,
    } = new;
    Parts::default()
        .add("bind", old.bind == *bind)
        .add("protocol", old.protocol == *protocol)
        .add("routes", old.routes == *routes)
        .add("direction", old.direction == *direction)
        .add("trust", old.trust == *trust)
        .add("path", old.path == *path)
        .add("limits", old.limits == *limits)
        .add("tls", guards::same_listener_tls(old.tls.as_ref(), tls.as_ref()))
        .add("clientCertHeader", old.client_cert_header == *client_cert_header)
        .add("authorization", old.authorization == *authorization)
        .add("jwt", old.jwt == *jwt)
        .add("externalAuthorization", old.external_authorization == *external_authorization)
        .add("rateLimits", old.rate_limits == *rate_limits)
        .add("http3", old.http3 == *http3)
        .add("upgrades", old.upgrades == *upgrades)
        .add("tcp", opaque::same_tcp(old.tcp.as_ref(), tcp.as_ref()))
        .add("udp", opaque::same_udp(old.udp.as_ref(), udp.as_ref()))
        .add("proxyProtocol", old.proxy_protocol == *proxy_protocol)
        .add("interception", old.interception == *interception)
        .add("intercepts", opaque::same_intercepts(&old.intercepts, intercepts))
        .list
}

fn table(old: &RouteTable, new: &RouteTable) -> Vec<&'static str> {
    let (RouteTable { name: _, hosts: old }, RouteTable { name: _, hosts: new }) = (old, new);
    let (old, new) = (by_host(old), by_host(new));
    if !old.keys().eq(new.keys()) {
        return vec!["hostnames"];
    }
    Parts::default().add("order of rules", same_order(&old, &new)).list
}

/// Names of rules by host. The order of hosts means nothing: the most specific name wins.
fn by_host(hosts: &[VirtualHost]) -> BTreeMap<BTreeSet<String>, Vec<&str>> {
    let entries = hosts.iter().map(|VirtualHost { hostnames, rules, place: _ }| {
        (hostnames.iter().map(show_host).collect(), rules.iter().map(|rule| &*rule.name).collect())
    });
    entries.collect()
}

fn show_host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
        HostPattern::Exact(host) => host.to_string(),
    }
}

/// Whether the rules that are in both stand under the same host and in the same order: the first match wins, so an
/// order is a meaning.
fn same_order(old: &BTreeMap<BTreeSet<String>, Vec<&str>>, new: &BTreeMap<BTreeSet<String>, Vec<&str>>) -> bool {
    let in_old: HashSet<&str> = old.values().flatten().copied().collect();
    let in_new: HashSet<&str> = new.values().flatten().copied().collect();
    old.values().zip(new.values()).all(|(old, new)| {
        let old = old.iter().filter(|name| in_new.contains(*name));
        old.eq(new.iter().filter(|name| in_old.contains(*name)))
    })
}

fn rule(old: &Rule, new: &Rule) -> Vec<&'static str> {
    let Rule {
        name: _,
        matches,
        filters,
        action,
        timeouts,
        retry,
        hedge,
        breaker,
        hash,
        session,
        rate_limits,
        global_rate_limits,
        criticality,
        external_authorization,
        place: _,
    } = new;
    Parts::default()
        .add("matches", old.matches == *matches)
        .add("filters", old.filters == *filters)
        .add("backendRefs", old.action == *action)
        .add("timeouts", same_timeouts(&old.timeouts, timeouts))
        .add("retry", same_retry(&old.retry, retry))
        .add("hedge", old.hedge == *hedge)
        .add("circuitBreaker", same_rule_breaker(old.breaker.as_ref(), breaker.as_ref()))
        .add("hash", old.hash == *hash)
        .add("sessionPersistence", old.session == *session)
        .add("rateLimits", old.rate_limits == *rate_limits)
        .add("globalRateLimits", old.global_rate_limits == *global_rate_limits)
        .add("criticality", old.criticality == *criticality)
        .add("externalAuthorization", old.external_authorization == *external_authorization)
        .list
}

fn same_timeouts(old: &Timeouts, new: &Timeouts) -> bool {
    let Timeouts { request, backend_request, idle } = new;
    same(&old.request, request) && same(&old.backend_request, backend_request) && same(&old.idle, idle)
}

fn same_retry(old: &Retry, new: &Retry) -> bool {
    let Retry {
        attempts,
        on,
        on_headers,
        non_idempotent,
        idempotency_key,
        backoff_base,
        backoff_max,
        max_pushback,
        other_locality,
        buffer,
    } = new;
    same(&old.attempts, attempts)
        && old.on == *on
        && old.non_idempotent == *non_idempotent
        && old.backoff_base == *backoff_base
        && old.backoff_max == *backoff_max
        && old.on_headers == *on_headers
        && old.idempotency_key == *idempotency_key
        && old.max_pushback == *max_pushback
        && old.other_locality == *other_locality
        && old.buffer == *buffer
}

fn same_breaker(old: &Breaker, new: &Breaker) -> bool {
    let Breaker { failure_threshold, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp } = new;
    same(&old.failure_threshold, failure_threshold)
        && old.failure_ratio == *failure_ratio
        && old.latency == *latency
        && old.reset_timeout == *reset_timeout
        && old.max_reset_timeout == *max_reset_timeout
        && old.ramp == *ramp
}

fn same_rule_breaker(old: Option<&Breaker>, new: Option<&Breaker>) -> bool {
    match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => same_breaker(old, new),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn same_breakers(old: &Breakers, new: &Breakers) -> bool {
    let Breakers { endpoint, cluster } = new;
    same_breaker(&old.endpoint, endpoint) && same_rule_breaker(old.cluster.as_ref(), cluster.as_ref())
}

/// Where a setting is written does not count; whether it is written does: a default gives way to other rules, such as
/// "no time limit for streaming".
fn same<T: PartialEq>(old: &Setting<T>, new: &Setting<T>) -> bool {
    let Setting { value, place } = new;
    old.value == *value && old.place.is_some() == place.is_some()
}

fn cluster(old: &Cluster, new: &Cluster) -> Vec<&'static str> {
    let Cluster {
        name: _,
        protocol,
        balance,
        endpoints: _,
        ceilings,
        endpoint_ceilings,
        breakers,
        health_check,
        outlier_detection,
        admission,
        retry_budget,
        connection,
        tls,
        dns,
        place: _,
    } = new;
    let breaker = old.ceilings == *ceilings
        && old.endpoint_ceilings == *endpoint_ceilings
        && same_breakers(&old.breakers, breakers);
    Parts::default()
        .add("protocol", old.protocol == *protocol)
        .add("loadBalancing", old.balance == *balance)
        .add("circuitBreaker", breaker)
        .add("healthCheck", old.health_check == *health_check)
        .add("outlierDetection", old.outlier_detection == *outlier_detection)
        .add("queue", old.admission.queue == admission.queue)
        .add("concurrency", old.admission.concurrency == admission.concurrency)
        .add("retryBudget", old.retry_budget == *retry_budget)
        .add("connection", old.connection == *connection)
        .add("tls", guards::same_cluster_tls(old.tls.as_ref(), tls.as_ref()))
        .add("dns", old.dns == *dns)
        .list
}

fn endpoint(old: &Endpoint, new: &Endpoint) -> Vec<&'static str> {
    let Endpoint { target: _, weight, zone, priority, labels, condition } = new;
    Parts::default()
        .add("weight", old.weight == *weight)
        .add("zone", old.zone == *zone)
        .add("priority", old.priority == *priority)
        .add("labels", old.labels == *labels)
        .add("condition", old.condition == *condition)
        .list
}
