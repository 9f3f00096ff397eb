//! What others than our own proxy are not told, because their messages have no word for it, or another meaning.
//!
//! Each is a short text: what it is of, and what is missing. Settings that stand at their default are not named.

use outrigger_config::model::{
    Action, Admission, BackendRef, Balance, BalancePolicy, Breakers, Cluster, Connect, EndpointCeilings, Filter,
    Interception, Listener, ListenerTls, Locality, RouteTable, Rule, SubsetFallback, UdpForwarding, Unknown, Upgrades,
};

use super::Form;

/// What a listener loses. gRPC clients have no listeners of their own.
#[must_use]
pub fn of_listener(config: &Listener, form: Form) -> Vec<String> {
    if form != Form::Envoy {
        return Vec::new();
    }
    let Listener { name, rate_limits, http3, upgrades, udp, interception, intercepts, tls, .. } = config;
    let Upgrades { allow: _, connect, idle_timeout: _, max_duration, max_tunnels, max_per_caller } = upgrades;
    let default = Upgrades::default();
    let tunnels = (*max_duration, *max_tunnels, *max_per_caller)
        != (default.max_duration, default.max_tunnels, default.max_per_caller);
    let unknown = interception.as_ref().is_some_and(|Interception { unknown, .. }| *unknown != Unknown::Serve);
    let several = udp.as_ref().is_some_and(|UdpForwarding { backends, .. }| backends.len() > 1);
    let rehearsed = tls.as_ref().is_some_and(|ListenerTls { proposed_mode, .. }| proposed_mode.is_some());
    told(
        &format!("the listener {name}"),
        [
            (http3.is_some(), "HTTP/3"),
            (!rate_limits.is_empty(), "rate limits"),
            (*connect == Connect::Tunnel, "CONNECT that ends at the proxy"),
            (tunnels, "limits of tunnels"),
            (unknown, "what becomes of destinations that no listener serves"),
            (!intercepts.is_empty(), "redirected connections for these destinations: it catches none"),
            (several, "all backends of datagrams but the one with the largest weight"),
            (rehearsed, "the rehearsal of a stricter mode"),
        ],
    )
}

/// What the rules of a table lose.
#[must_use]
pub fn of_routes(table: &RouteTable, form: Form) -> Vec<String> {
    let rules = table.hosts.iter().flat_map(|host| &host.rules);
    rules.flat_map(|rule| self::rule(rule, form)).collect()
}

fn rule(rule: &Rule, form: Form) -> Vec<String> {
    let whose = format!("the rule {}", rule.name);
    if form == Form::Outrigger {
        return Vec::new();
    }
    let Rule {
        name: _, filters, action, hedge, breaker, session, rate_limits, global_rate_limits, criticality, ..
    } = rule;
    let backends: &[BackendRef] = match action {
        Action::Forward(list) => list,
        Action::Redirect(_) | Action::Direct(_) => &[],
    };
    let has = |of: fn(&Filter) -> bool| filters.iter().any(of);
    let grpc = form == Form::Grpc;
    if grpc && (!matches!(action, Action::Forward(_)) || rule.matches.iter().any(|one| !one.query.is_empty())) {
        return vec![format!("{whose}: all of it: a gRPC client knows no answers and no query parameters")];
    }
    let changes =
        has(|filter| matches!(filter, Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) | Filter::UrlRewrite(_)));
    told(
        &whose,
        [
            (has(|filter| matches!(filter, Filter::Fault(_))), "faults, which would not end by themselves there"),
            (grpc && has(|filter| matches!(filter, Filter::Mirror(_))), "copies of requests"),
            (grpc && (changes || backends.iter().any(|one| !one.filters.is_empty())), "changes of headers and paths"),
            (!rate_limits.is_empty(), "rate limits"),
            (!global_rate_limits.is_empty(), "rate limits that a service keeps"),
            (session.is_some(), "sessions"),
            (criticality.is_some(), "criticality"),
            (hedge.is_some(), "hedged attempts"),
            (breaker.is_some(), "its circuit breaker"),
            (backends.iter().any(|one| !one.subset.is_empty()), "subsets of endpoints"),
        ],
    )
}

/// What a cluster loses.
#[must_use]
pub fn of_cluster(config: &Cluster, form: Form) -> Vec<String> {
    if form == Form::Outrigger {
        return Vec::new();
    }
    let Cluster { name, balance, endpoint_ceilings, breakers, health_check, admission, .. } = config;
    let Admission { queue, concurrency } = admission;
    let EndpointCeilings { max_requests, max_pending, max_retries, max_connections: _ } = endpoint_ceilings;
    let ceilings = [max_requests, max_pending, max_retries].iter().any(|ceiling| ceiling.is_some());
    let Balance { policy, locality, subset_fallback, .. } = balance;
    let grpc = form == Form::Grpc;
    told(
        &format!("the cluster {name}"),
        [
            (*breakers != Breakers::default(), "circuit breakers with states"),
            (queue.is_some(), "the queue"),
            (concurrency.is_some(), "the limit that follows the latency"),
            (ceilings, "ceilings of each endpoint beside connections"),
            (*policy == BalancePolicy::PeakEwma, "balancing by latency: it takes the less loaded of two"),
            (*subset_fallback == SubsetFallback::Any, "what becomes of subsets without endpoints"),
            (grpc && health_check.is_some(), "health checks"),
            (grpc && *locality == Locality::PreferZone, "the preference of a zone"),
        ],
    )
}

fn told<const N: usize>(whose: &str, all: [(bool, &str); N]) -> Vec<String> {
    all.into_iter().filter(|(there, _)| *there).map(|(_, what)| format!("{whose}: {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
identity: { certificate: a.pem, privateKey: a.key, trustBundle: b.pem }
listeners:
  - name: in
    bind: 127.0.0.1:1
    tls: { mode: permissive, proposedMode: strict }
    http3: true
    routes: r
    upgrades: { connect: tunnel, maxTunnelsPerCaller: 3 }
    rateLimits: [{ name: a, requests: 1, per: 1s }]
routes:
  r:
    - rules:
        - name: first
          filters: [{ fault: { abort: { percent: 1, status: 503 }, until: 2099-01-01T00:00:00Z } }]
          criticality: critical
          rateLimits: [{ name: b, requests: 1, per: 1s }]
          backendRefs: [{ cluster: c, subset: { v: \"1\" } }]
        - { name: answers, filters: [{ directResponse: { status: 404 } }] }
clusters:
  c:
    endpoints: [{ address: 127.0.0.1:2, labels: { v: \"1\" } }]
    loadBalancing: { policy: peakEwma }
    queue: {}
    circuitBreaker: { failureThreshold: 3 }
";

    #[test]
    fn others_are_not_told_everything_and_our_own_proxy_is() {
        let config = outrigger_config::load("p.yaml", TEXT).expect("it is valid").config;
        let of = |form| -> Vec<String> {
            let listeners = config.listeners.iter().flat_map(move |one| of_listener(one, form));
            let routes = config.routes.values().flat_map(move |one| of_routes(one, form));
            listeners.chain(routes).chain(config.clusters.values().flat_map(move |one| of_cluster(one, form))).collect()
        };
        assert!(of(Form::Outrigger).is_empty());
        assert_eq!(
            of(Form::Envoy),
            [
                "the listener in: HTTP/3",
                "the listener in: rate limits",
                "the listener in: CONNECT that ends at the proxy",
                "the listener in: limits of tunnels",
                "the listener in: the rehearsal of a stricter mode",
                "the rule first: faults, which would not end by themselves there",
                "the rule first: rate limits",
                "the rule first: criticality",
                "the rule first: subsets of endpoints",
                "the cluster c: circuit breakers with states",
                "the cluster c: the queue",
                "the cluster c: balancing by latency: it takes the less loaded of two",
            ]
        );
        let grpc = of(Form::Grpc);
        assert!(!grpc.iter().any(|line| line.contains("listener")), "{grpc:?}");
        assert!(grpc.iter().any(|line| line.starts_with("the rule answers: all of it")), "{grpc:?}");
    }
}
