//! What policies and routes say of requests: hashing, sessions, rate limits, classes, faults, copies.

use std::path::Path;

use outrigger_config::model::{
    BalancePolicy, ClusterProtocol, Criticality, Filter, HashSource, Mirror, RateKey, SessionCarrier, Share,
};

use super::{checked, compile, host, with};
use crate::manifest::{Document, load};

/// A policy of `shop/b`.
fn policy(rest: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: p, namespace: shop }}\nspec:\n  \
         targetRef: {{ group: \"\", kind: Service, name: b }}\n{rest}"
    )
}

/// An HTTPRoute of `shop/b`.
fn route(rule: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r, namespace: shop }}\nspec:\n  \
         parentRefs: [{{ group: \"\", kind: Service, name: b }}]\n  rules: [{{ {rule} }}]\n"
    )
}

const ALL: &str = "  loadBalancing: { policy: ringHash }
  hash: [{ header: x-user, terminal: true }, sourceAddress]
  sessionPersistence: { cookie: { name: sid }, keyFile: /etc/outrigger/session.key, strict: true }
  rateLimits: [{ name: each, by: [identity], requests: 10, per: 1s, burst: 20, shadow: true }]
  criticality: sheddable
  faults: [{ delay: { percent: 0.5, duration: 100ms }, until: 2099-01-01T00:00:00Z }]
";

#[test]
fn callers_hash_keep_sessions_and_inject_and_servers_limit() {
    let compiled = compile(&with(&policy(ALL)));
    let caller = checked(&compiled, "shop/a-1");
    let rule = &host(&caller, "b").rules[0];
    assert_eq!(caller.clusters["shop/b:80"].balance.policy, BalancePolicy::RingHash);
    assert_eq!((&rule.hash[1].source, rule.hash[0].terminal), (&HashSource::SourceAddress, true));
    let session = rule.session.as_ref().expect("sessions");
    assert_eq!((&*session.key_file, session.strict), (Path::new("/etc/outrigger/session.key"), true));
    assert_eq!(rule.criticality, Some(Criticality::Sheddable));
    let [Filter::Fault(fault)] = &rule.filters[..] else { panic!("{:?}", rule.filters) };
    assert_eq!(fault.delay.as_ref().expect("a delay").share, Share(5_000));
    assert!(rule.rate_limits.is_empty(), "callers keep no limit");
    // Only of `b`.
    assert!(host(&caller, "a").rules[0].session.is_none());

    let server = checked(&compiled, "shop/b-1");
    let [limit] = &server.routes["inbound:8080"].hosts[0].rules[0].rate_limits[..] else { panic!("one limit") };
    assert_eq!((&*limit.name, &limit.by[..]), ("shop/b:80/each", &[RateKey::Identity][..]));
    assert_eq!((limit.requests, limit.burst, limit.shadow), (10, 20, true));
    assert!(caller.routes["inbound:8080"].hosts[0].rules[0].rate_limits.is_empty(), "nor does another server");
}

#[test]
fn limits_of_several_services_of_one_workload_have_names_of_their_own() {
    let other = "---\napiVersion: v1\nkind: Service\nmetadata: { name: b2, namespace: shop }\n\
                 spec: { selector: { app: b }, ports: [{ port: 81, targetPort: 8080 }] }\n";
    let defaults = "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: { name: m, namespace: outrigger-system }\nspec:\n  \
                    defaults: { rateLimits: [{ name: each, by: [address], requests: 10, per: 1s }] }\n";
    let server = checked(&compile(&with(&format!("{defaults}{other}"))), "shop/b-1");
    let limits = &server.routes["inbound:8080"].hosts[0].rules[0].rate_limits;
    let names: Vec<&str> = limits.iter().map(|limit| &*limit.name).collect();
    assert_eq!(names, ["shop/b:80/each", "shop/b2:81/each"]);
}

#[test]
fn services_that_keep_limits_are_asked_by_the_proxies_of_servers() {
    let services = "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: { name: m, namespace: outrigger-system }\nspec:\n  \
                    rateLimitServices: { rls: { backendRef: { name: limits, namespace: ops, port: 8081 }, domain: mesh, onFailure: allow } }\n\
                    ---\napiVersion: v1\nkind: Service\nmetadata: { name: limits, namespace: ops }\nspec: { ports: [{ port: 8081 }] }\n\
                    ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: { name: l, namespace: ops, labels: { \
                    kubernetes.io/service-name: limits } }\naddressType: IPv4\nports: [{ port: 8081 }]\nendpoints: [{ addresses: [10.0.0.8] }]\n---\n";
    let asks = "  globalRateLimits:\n    - { service: rls, descriptor: [{ key: who, from: identity }] }\n    \
                - { service: gone, descriptor: [{ key: who, from: identity }] }\n";
    let text = format!("{services}{}", policy(asks));
    let compiled = compile(&with(&text));
    let server = checked(&compiled, "shop/b-1");
    let rule = &server.routes["inbound:8080"].hosts[0].rules[0];
    let [limit] = &rule.global_rate_limits[..] else { panic!("{:?}", rule.global_rate_limits) };
    assert_eq!(&*limit.service, "rls");
    let service = &server.rate_limit_services["rls"];
    assert_eq!(
        (&*service.cluster, &*service.domain, service.allow_on_failure),
        ("rate-limit-service:rls", "mesh", true)
    );
    let cluster = &server.clusters["rate-limit-service:rls"];
    assert_eq!((cluster.protocol, cluster.endpoints.len()), (ClusterProtocol::Http2, 1));
    let caller = checked(&compiled, "shop/a-1");
    assert!(caller.rate_limit_services.is_empty() && !caller.clusters.contains_key("rate-limit-service:rls"));
    let said = load(&[Document::new("m.yaml", &with(&text))], None);
    let said: Vec<_> = said.problems.iter().map(|problem| problem.diagnostic.message.clone()).collect();
    assert_eq!(said, ["nobody is asked: no MeshPolicy has the rate limit service `gone`"]);
}

#[test]
fn a_route_names_its_sessions_and_the_policy_their_key() {
    let own = "sessionPersistence: { sessionName: x-session, type: Header, idleTimeout: 1h }, backendRefs: [{ name: b, port: 80 }]";
    let config = checked(&compile(&with(&format!("{}{}", policy(ALL), route(own)))), "shop/a-1");
    let rule = &host(&config, "b").rules[0];
    let session = rule.session.as_ref().expect("sessions");
    assert_eq!(session.carrier, SessionCarrier::Header(http::HeaderName::from_static("x-session")));
    assert_eq!((session.strict, session.idle_timeout.is_some()), (true, true));
    assert_eq!(session.key_file, Path::new("/etc/outrigger/session.key"));
    assert!(!rule.hash.is_empty(), "what the route does not say is the policy's");
    // Without a key there are none.
    let config = checked(&compile(&with(route(own).trim_start_matches("---\n"))), "shop/a-1");
    assert_eq!(host(&config, "b").rules[0].session, None);
}

#[test]
fn copies_go_to_the_clusters_of_services() {
    let mirror =
        |rest: &str| format!("type: RequestMirror, requestMirror: {{ backendRef: {{ name: a, port: 80 }}{rest} }}");
    let rule = format!(
        "filters: [{{ {} }}, {{ {} }}, {{ {} }}], backendRefs: [{{ name: b, port: 80 }}]",
        mirror(""),
        mirror(", percent: 5"),
        mirror(", fraction: { numerator: 1, denominator: 1000 }"),
    );
    let outside = "apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: { name: only-b, namespace: other }\n\
                   spec: { serviceAccount: x, address: 10.0.0.9, uses: [shop/b] }\n";
    let config = checked(&compile(&with(&format!("{outside}{}", route(&rule)))), "other/only-b");
    let rule = &host(&config, "b.shop").rules[0];
    let shares: Vec<u32> = rule
        .filters
        .iter()
        .map(|filter| match filter {
            Filter::Mirror(Mirror { cluster, share }) if &**cluster == "shop/a:80" => share.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(shares, [1_000_000, 50_000, 1_000]);
    assert!(config.clusters.contains_key("shop/a:80"), "the caller is given the cluster");
}
