//! The same mesh gives the same configurations, whatever order it was written in and whatever was compiled before.

use std::sync::Arc;

use outrigger_config::model::Config;
use proptest::prelude::*;

use super::{TWO, checked};
use crate::compile::{Compiled, Compiler};
use crate::manifest::{Document, load};

/// Manifests that refer to each other in every way.
fn documents() -> Vec<Document> {
    let more = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r1, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: b }]
  rules:
    - { matches: [{ path: { value: /v1 } }, { method: GET }], backendRefs: [{ name: a, port: 80 }, { name: b, port: 80 }] }
    - { backendRefs: [{ name: missing, port: 80 }, { name: b, port: 80 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r0, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: b }]
  rules: [{ matches: [{ path: { value: /v1 } }], backendRefs: [{ name: b, port: 80 }] }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: s1, namespace: shop, labels: { kubernetes.io/service-name: b } }
addressType: IPv4
ports: [{ port: 8080 }]
endpoints: [{ addresses: [10.9.9.9] }, { addresses: [10.0.0.2] }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: s0, namespace: shop, labels: { kubernetes.io/service-name: b } }
addressType: IPv4
ports: [{ port: 8080 }]
endpoints: [{ addresses: [10.9.9.8] }, { addresses: [10.9.9.9] }]
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: { name: t1, namespace: shop }
spec: { targetRef: { kind: Service, name: b }, circuitBreaker: { maxRequests: 7 } }
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: { name: t0, namespace: shop }
spec: { targetRef: { kind: Service, name: b }, circuitBreaker: { maxRequests: 9 } }
---
apiVersion: outrigger.dev/v1
kind: MeshPolicy
metadata: { name: m, namespace: outrigger-system }
spec: { mtls: { mode: strict }, defaults: { timeouts: { request: 3s } } }
---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: { name: p, namespace: shop }
spec: { default: deny, rules: [{ name: r, action: allow, from: [{ namespaces: [shop] }] }] }
";
    let text = format!("{TWO}---{more}");
    let parts = text.split("---\n").filter(|part| !part.trim().is_empty());
    parts.enumerate().map(|(number, part)| Document::new(&format!("{number:02}.yaml"), part)).collect()
}

fn configs(compiled: &Arc<Compiled>) -> Vec<Config> {
    ["shop/a-1", "shop/b-1"].iter().map(|name| Config::clone(&checked(compiled, name))).collect()
}

#[test]
fn what_was_compiled_before_plays_no_part() {
    let all = documents();
    let expected = configs(&Compiler::new().compile(&load(&all, None).mesh));
    for left_out in 0..all.len() {
        let mut compiler = Compiler::new();
        let fewer: Vec<Document> =
            all.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, document)| document.clone()).collect();
        let before = load(&fewer, None).mesh;
        compiler.compile(&before);
        let after = load(&all, Some(&before)).mesh;
        assert_eq!(configs(&compiler.compile(&after)), expected, "without {left_out} before");
        // And back.
        let back = load(&fewer, Some(&after)).mesh;
        let fresh = Compiler::new().compile(&back);
        let kept = compiler.compile(&back);
        for (name, config) in kept.workloads() {
            assert_eq!(config.config(None), fresh.workload(name).expect("the same workloads").config(None));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_order_of_documents_plays_no_part(order in Just(documents()).prop_shuffle()) {
        let expected = load(&documents(), None);
        let outcome = load(&order, None);
        prop_assert_eq!(&outcome.problems, &expected.problems);
        prop_assert_eq!(&outcome.statuses, &expected.statuses);
        let expected = configs(&Compiler::new().compile(&expected.mesh));
        prop_assert_eq!(configs(&Compiler::new().compile(&outcome.mesh)), expected);
    }
}
