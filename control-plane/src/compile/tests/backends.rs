//! Services to clusters: in the mesh, outside of it, both, and nowhere.

use outrigger_config::model::{Action, BalancePolicy, ClusterProtocol, ClusterTlsMode, Condition, HostPattern, Target};

use super::{checked, compile, host, weights, with};
use crate::compile::{Compiler, INVALID_BACKEND};
use crate::manifest::{Document, load};

fn route(rules: &str) -> String {
    with(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r, namespace: shop }}\n\
         spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: b }}]\n  rules: [{rules}]\n"
    ))
}

fn action(text: &str) -> Action {
    let compiled = compile(text);
    let config = checked(&compiled, "shop/a-1");
    host(&config, "b").rules[0].action.clone()
}

#[test]
fn a_workload_is_reached_at_its_proxy_with_mutual_tls_over_http2() {
    let compiled = compile(&with(""));
    let config = checked(&compiled, "shop/a-1");
    let cluster = &config.clusters["shop/b:80"];
    assert_eq!(cluster.protocol, ClusterProtocol::Http2);
    assert_eq!(cluster.endpoints[0].target, Target::Address("10.0.0.2:15006".parse().expect("address")));
    assert_eq!(cluster.endpoints[0].zone.as_deref(), Some("z2"));
    let ClusterTlsMode::Mutual { peer_identities } = &cluster.tls.as_ref().expect("TLS").mode else { panic!("mutual") };
    assert_eq!(peer_identities.len(), 1);
    assert_eq!(&*cluster.place.file, "mesh.yaml");
}

const SLICE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: b-1, namespace: shop, labels: { kubernetes.io/service-name: b } }
addressType: IPv4
ports: [{ port: 8080 }]
endpoints:
  - { addresses: [10.0.0.2], zone: z2 }
  - { addresses: [10.9.9.9], zone: z9 }
  - { addresses: [10.9.9.8], conditions: { ready: false } }
";

#[test]
fn a_service_with_endpoints_in_the_mesh_and_outside_is_two_clusters_by_weight() {
    let compiled = compile(&with(SLICE));
    let config = checked(&compiled, "shop/a-1");
    let Action::Forward(backends) = &host(&config, "b").rules[0].action else { panic!("forwards") };
    let [(inside, x), (outside, y)] = weights(backends)[..] else { panic!("two") };
    assert_eq!((inside, outside), ("shop/b:80", "shop/b:80@outside"));
    assert_eq!(x, y, "one endpoint each");
    let (inside, outside) = (&config.clusters[inside], &config.clusters[outside]);
    assert!(inside.tls.is_some() && outside.tls.is_none());
    assert_eq!(inside.endpoints.len(), 1);
    assert_eq!(outside.endpoints.len(), 1, "what is not ready is not called");
    assert_eq!(outside.protocol, ClusterProtocol::Http1);
}

#[test]
fn a_backend_tls_policy_secures_what_is_outside() {
    let policy = "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: { name: b, namespace: shop }
spec:
  targetRefs: [{ group: \"\", kind: Service, name: b }]
  validation: { hostname: b.example, wellKnownCACertificates: System }
";
    let compiled = compile(&with(&format!("{SLICE}---\n{policy}")));
    let config = checked(&compiled, "shop/a-1");
    let tls = config.clusters["shop/b:80@outside"].tls.as_ref().expect("TLS");
    assert_eq!(tls.sni.as_deref(), Some("b.example"));
    assert!(matches!(tls.mode, ClusterTlsMode::Simple { .. }));
}

#[test]
fn what_is_outside_is_not_called_while_a_policy_that_may_secure_it_cannot_be_read() {
    let policy = |ca: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{ name: b, namespace: shop }}\nspec:\n  \
             targetRefs: [{{ group: \"\", kind: Service, name: b }}]\n  validation: {{ hostname: b.example, {ca} }}\n"
        )
    };
    let broken = policy("caCertificateRefs: [{ group: \"\", kind: ConfigMap, name: ca }]");
    let mesh = |policy: &str| {
        let text = with(&format!("{SLICE}---\n{policy}"));
        load(&[Document::new("mesh.yaml", &text)], None).mesh
    };
    let mut compiler = Compiler::new();
    let secured = "wellKnownCACertificates: System";
    // It is made anew when the policy becomes readable, and not before.
    for (policy, outside) in [(broken.clone(), false), (policy(secured), true), (broken, false)] {
        let compiled = compiler.compile(&mesh(&policy));
        let config = checked(&compiled, "shop/a-1");
        let cluster = config.clusters.get("shop/b:80@outside");
        assert_eq!(cluster.is_some_and(|cluster| !cluster.endpoints.is_empty()), outside, "{policy}");
        // In the mesh it is always mutual TLS.
        assert_eq!(config.clusters["shop/b:80"].endpoints.len(), 1);
    }
}

#[test]
fn names_are_endpoints_that_stand_in_the_cluster() {
    let text = SLICE.replace("IPv4", "FQDN").replace("10.0.0.2", "b.example").replace("10.9.9.9", "c.example");
    let text = text.replace("10.9.9.8", "d.example").replace("name: b }", "name: x }").replace(": b }", ": x }");
    let service =
        "---\napiVersion: v1\nkind: Service\nmetadata: { name: x, namespace: shop }\nspec: { ports: [{ port: 80 }] }\n";
    let compiled = compile(&with(&(text + service)));
    let config = checked(&compiled, "shop/a-1");
    assert_eq!(config.clusters["shop/x:80"].endpoints.len(), 2);
    let proxy = super::proxy(&compiled, "shop/a-1");
    assert!(proxy.endpoints.iter().all(|part| &*part.value.cluster != "shop/x:80"));
}

#[test]
fn a_service_without_endpoints_has_an_empty_cluster() {
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: { name: x, namespace: shop }\nspec: { ports: [{ port: 80 }] }\n";
    let compiled = compile(&with(service));
    let config = checked(&compiled, "shop/a-1");
    assert!(config.clusters["shop/x:80"].endpoints.is_empty());
}

#[test]
fn weights_are_kept_and_zero_gets_nothing() {
    let text = route("{ backendRefs: [{ name: a, port: 80, weight: 3 }, { name: b, port: 80, weight: 0 }] }");
    let Action::Forward(backends) = action(&text) else { panic!("forwards") };
    assert_eq!(weights(&backends), [("shop/a:80", 3)]);
}

#[test]
fn a_rule_that_leads_nowhere_is_answered_500() {
    for rules in [
        "{ backendRefs: [{ name: missing, port: 80 }] }",
        "{ backendRefs: [{ name: b, port: 81 }] }",
        "{ backendRefs: [{ name: b, port: 80, weight: 0 }] }",
        "{ backendRefs: [{ group: example.com, kind: Bucket, name: b }] }",
        "{ backendRefs: [{ name: b, namespace: other, port: 80 }] }",
        "{ matches: [{}] }",
    ] {
        let Action::Direct(direct) = action(&route(rules)) else { panic!("{rules}: answered here") };
        assert_eq!(direct.status, 500, "{rules}");
    }
}

#[test]
fn the_share_of_a_backend_that_leads_nowhere_is_refused() {
    let text = route("{ backendRefs: [{ name: a, port: 80 }, { name: missing, port: 80 }] }");
    let compiled = compile(&text);
    let config = checked(&compiled, "shop/a-1");
    let Action::Forward(backends) = &host(&config, "b").rules[0].action else { panic!("forwards") };
    assert_eq!(weights(backends), [("shop/a:80", 1), (INVALID_BACKEND, 1)]);
    assert!(config.clusters[INVALID_BACKEND].endpoints.is_empty());
}

#[test]
fn other_namespaces_need_a_grant() {
    let other = "
---
apiVersion: v1
kind: Service
metadata: { name: c, namespace: other }
spec: { ports: [{ port: 80 }] }
";
    let grant = "
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: { name: g, namespace: other }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop }]
  to: [{ group: \"\", kind: Service, name: c }]
";
    let text = route("{ backendRefs: [{ name: c, namespace: other, port: 80 }] }") + other;
    assert!(matches!(action(&text), Action::Direct(_)));
    let Action::Forward(backends) = action(&(text.clone() + grant)) else { panic!("forwards") };
    assert_eq!(weights(&backends), [("other/c:80", 1)]);
    for wrong in [grant.replace("name: c }", "name: d }"), grant.replace("namespace: shop", "namespace: third")] {
        assert!(matches!(action(&(text.clone() + &wrong)), Action::Direct(_)));
    }
}

#[test]
fn the_default_port_has_the_plain_names_and_others_have_theirs_in_them() {
    let service = "
apiVersion: v1
kind: Service
metadata: { name: x, namespace: shop }
spec: { ports: [{ name: admin, port: 9000 }, { name: http, port: 80 }] }
";
    let compiled = compile(&with(service));
    let config = checked(&compiled, "shop/a-1");
    let names = |name: &str| -> Vec<HostPattern> { host(&config, name).hostnames.clone() };
    let exact = |name: &str| HostPattern::Exact(name.into());
    assert!(names("x.shop.svc").contains(&exact("x")) && names("x.shop.svc").contains(&exact("x:80")));
    assert!(names("x.shop:9000").contains(&exact("x:9000")));
    let Action::Forward(backends) = &host(&config, "x").rules[0].action else { panic!("forwards") };
    assert_eq!(weights(backends), [("shop/x:80", 1)]);
}

#[test]
fn short_names_are_for_the_own_namespace() {
    let caller = "apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: { name: c-1, namespace: other }\n\
                  spec: { serviceAccount: c, address: 10.0.0.3, uses: [shop/b] }\n";
    let compiled = compile(&with(caller));
    let config = checked(&compiled, "other/c-1");
    let host = host(&config, "b.shop");
    assert!(!host.hostnames.contains(&HostPattern::Exact("b".into())));
    assert!(!config.clusters.contains_key("shop/a:80"), "it gets what it uses and nothing else");
}

#[test]
fn policies_are_layered_from_the_mesh_to_the_route() {
    let policies = "
apiVersion: outrigger.dev/v1
kind: MeshPolicy
metadata: { name: mesh, namespace: outrigger-system }
spec:
  defaults:
    circuitBreaker: { maxRequests: 1, maxPending: 1, maxRetries: 1, maxConnections: 1 }
    timeouts: { request: 1s, backendRequest: 1s, idle: 1s }
---
apiVersion: outrigger.dev/v1
kind: MeshPolicy
metadata: { name: shop, namespace: shop }
spec:
  defaults:
    circuitBreaker: { maxPending: 2, maxRetries: 2, maxConnections: 2 }
    timeouts: { backendRequest: 900ms }
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: { name: b, namespace: shop }
spec:
  targetRef: { kind: Service, name: b }
  circuitBreaker: { maxRetries: 3, maxConnections: 3 }
  retry: { attempts: 2, nonIdempotent: true }
";
    let text = route(
        "{ timeouts: { request: 5s }, retry: { attempts: 4, codes: [503] }, backendRefs: [{ name: b, port: 80 }] }",
    );
    let compiled = compile(&format!("{text}---\n{policies}"));
    let config = checked(&compiled, "shop/a-1");
    let ceilings = config.clusters["shop/b:80"].ceilings;
    assert_eq!(
        (ceilings.max_requests, ceilings.max_pending, ceilings.max_retries, ceilings.max_connections),
        (1, 2, 3, 3)
    );
    let rule = &host(&config, "b").rules[0];
    let seconds = |setting: &outrigger_config::model::Setting<Option<std::time::Duration>>| setting.value;
    assert_eq!(seconds(&rule.timeouts.request), Some(std::time::Duration::from_secs(5)));
    assert_eq!(seconds(&rule.timeouts.backend_request), Some(std::time::Duration::from_millis(900)));
    assert_eq!(seconds(&rule.timeouts.idle), Some(std::time::Duration::from_secs(1)));
    assert_eq!(rule.retry.attempts.value, 4);
    assert!(rule.retry.non_idempotent, "what the route does not say comes from the policy");
    let plain = &host(&config, "a").rules[0];
    assert_eq!(plain.timeouts.request.value, Some(std::time::Duration::from_secs(1)));
    assert_eq!(plain.retry.attempts.value, 0);
}

#[test]
fn what_goes_down_and_still_serves_is_drained() {
    let slice = SLICE.replace("{ ready: false }", "{ ready: false, serving: true, terminating: true }");
    let compiled = compile(&with(&slice));
    let config = checked(&compiled, "shop/a-1");
    let outside = &config.clusters["shop/b:80@outside"];
    let conditions: Vec<_> = outside.endpoints.iter().map(|endpoint| endpoint.condition).collect();
    assert_eq!(conditions, [Condition::Draining, Condition::Healthy], "10.9.9.8 comes first without a zone");
    let Action::Forward(backends) = &host(&config, "b").rules[0].action else { panic!("forwards") };
    let [(_, inside), (_, outside)] = weights(backends)[..] else { panic!("two") };
    assert_eq!(inside, outside, "it adds nothing to the share");
    let gone = SLICE.replace("{ ready: false }", "{ ready: false, serving: false, terminating: true }");
    let compiled = compile(&with(&gone));
    assert_eq!(checked(&compiled, "shop/a-1").clusters["shop/b:80@outside"].endpoints.len(), 1);
}

#[test]
fn a_traffic_policy_speaks_of_resilience_as_a_file_does() {
    let policy = "apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: { name: t, namespace: shop }\nspec:\n  \
                  targetRef: { group: \"\", kind: Service, name: b }\n  loadBalancing: { policy: peakEwma, panicThreshold: 30 }\n  \
                  circuitBreaker: { maxRequests: 7, failureThreshold: 3, perEndpoint: { maxRequests: 2 } }\n  healthCheck: \
                  { grpc: {} }\n  outlierDetection: {}\n  queue: { max: 9 }\n  concurrency: adaptive\n  retry: { attempts: \
                  2, idempotencyKey: true }\n  hedge: { after: 50ms }\n";
    let defaults = "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: { name: m, namespace: shop }\nspec: { defaults: \
                    { queue: { max: 1 }, circuitBreaker: { ramp: 5s } } }\n";
    let compiled = compile(&with(&format!("{policy}---\n{defaults}---\n{}", SLICE.trim_start())));
    let config = checked(&compiled, "shop/a-1");
    let (inside, outside) = (&config.clusters["shop/b:80"], &config.clusters["shop/b:80@outside"]);
    assert_eq!((inside.balance.policy, inside.balance.panic_threshold), (BalancePolicy::PeakEwma, 30));
    assert_eq!((inside.ceilings.max_requests, inside.endpoint_ceilings.max_requests), (7, Some(2)));
    let breaker = &inside.breakers.endpoint;
    assert!(breaker.failure_threshold.value == 3 && breaker.failure_threshold.place.is_some());
    assert!(breaker.ramp.is_zero(), "the nearer policy's breakers count as a whole");
    assert_eq!(inside.admission.queue.map(|queue| queue.max), Some(9));
    assert!(inside.admission.concurrency.is_some() && inside.outlier_detection.is_some());
    assert!(inside.health_check.is_some());
    assert_eq!(outside.health_check, None, "it speaks HTTP/1, and is asked over gRPC");
    let rule = &host(&config, "b").rules[0];
    assert!(rule.hedge.is_some() && rule.retry.idempotency_key && rule.retry.attempts.value == 2);
}
