//! What policies and routes say of requests, pushed to proxies and seen in traffic: rate limits, faults, copies, hashing and
//! sessions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::load;
use super::plane::Plane;
use super::town::{API, Town, WEB};
use crate::global_limits::Service;
use crate::support::http1::Response;
use crate::support::{H1Backend, PATIENCE, h1_client, ms};

/// A Service whose endpoints are these, outside the mesh.
fn outside(name: &str, backends: &[&H1Backend]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ ports: [{{ name: http, port: 80 }}] }}\n"
    );
    for (at, backend) in backends.iter().enumerate() {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}-{at}, namespace: shop, \
             labels: {{ kubernetes.io/service-name: {name} }} }}\naddressType: IPv4\n\
             ports: [{{ name: http, port: {} }}]\nendpoints: [{{ addresses: [127.0.0.1] }}]\n",
            backend.addr.port()
        );
    }
    text
}

/// A policy of a Service.
fn policy(service: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: {service}, namespace: shop }}\nspec:\n  \
         targetRef: {{ group: \"\", kind: Service, name: {service} }}\n{spec}"
    )
}

/// An HTTPRoute of a Service with one rule.
fn route(service: &str, rule: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {service}, namespace: shop }}\nspec:\n  \
         parentRefs: [{{ group: \"\", kind: Service, name: {service}, port: 80 }}]\n  rules:\n    - {rule}\n"
    )
}

async fn get(town: &Town, host: &str, headers: &str) -> Response {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n");
    h1_client::exchange(town.addr(), request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limits_hold_at_the_server_and_faults_and_copies_at_the_caller() {
    let copies = H1Backend::named("copies").await;
    let town = Town::found(Plane::start().await, load::application().await).await;
    let limits = "  rateLimits:\n    - { name: per-caller, by: [identity], requests: 5, per: 1h }\n    \
                  - { name: all, requests: 1000, per: 1h }\n  criticality: critical\n  faults:\n    \
                  - headers: [{ name: x-chaos, exact: abort }]\n      abort: { percent: 100, status: 418 }\n      \
                  until: 2099-01-01T00:00:00Z\n    \
                  - headers: [{ name: x-chaos, exact: over }]\n      abort: { percent: 100, status: 418 }\n      \
                  until: 2020-01-01T00:00:00Z\n";
    let mirror = "filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: copies, port: 80 } } }]\n      \
                  backendRefs: [{ name: api, port: 80 }]";
    let manifests = outside("copies", &[&copies]) + &policy("api", limits) + &route("api", mirror);
    let generation = town.plane.apply(&manifests).await;
    let (_web, api) = town.proxies().await;
    for workload in [WEB, API] {
        town.plane.synced(workload, generation).await;
    }

    let aborted = get(&town, "api", "x-chaos: abort\r\n").await;
    assert_eq!((aborted.status, aborted.reason()), (418, Some("FI")), "{}", aborted.text());
    for number in 0..5 {
        let answer = get(&town, "api", if number == 0 { "x-chaos: over\r\n" } else { "" }).await;
        assert_eq!(answer.status, 200, "request {number}: {:?} {}", answer.reason(), answer.text());
    }
    let refused = get(&town, "api", "").await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.head.get("retry-after").is_some(), "{:?}", refused.head);
    assert_eq!(town.app.requests().len(), 5, "the application sees what passed and nothing else");
    // The proxy of the server keeps the limit, and by who calls.
    let counted = async |limit: &str, result: &str| {
        let labels = [format!("limit=\"shop/api:80/{limit}\""), format!("result=\"{result}\"")];
        api.metric("outrigger_rate_limit_requests_total", &labels.each_ref().map(String::as_str)).await
    };
    assert_eq!((counted("per-caller", "admitted").await, counted("per-caller", "refused").await), (5.0, 1.0));
    assert_eq!(counted("all", "admitted").await, 5.0);
    // What was aborted was never on its way.
    let start = std::time::Instant::now();
    while copies.requests().len() < 6 {
        assert!(start.elapsed() < PATIENCE, "six requests are copied: {}", copies.requests().len());
        tokio::time::sleep(ms(5)).await;
    }
    assert!(copies.requests().iter().all(|copy| copy.head.get("x-outrigger-mirror").is_some()));

    // Another limit takes effect for the same connections; one of the same name would go on with its counts.
    let more = limits.replace("per-caller, ", "per-someone, ");
    let generation = town.plane.apply(&policy("api", &more)).await;
    town.plane.synced(API, generation).await;
    assert_eq!(get(&town, "api", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_service_are_asked_for_by_the_proxy_of_the_server() {
    let mut service = Service::start().await;
    let town = Town::found(Plane::start().await, load::application().await).await;
    let services = format!(
        "---\napiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: {{ name: limits, namespace: outrigger-system }}\nspec:\n  \
         rateLimitServices: {{ rls: {{ backendRef: {{ name: limits, namespace: shop, port: 80 }}, domain: mesh, timeout: 10s, \
         onFailure: deny }} }}\n---\napiVersion: v1\nkind: Service\nmetadata: {{ name: limits, namespace: shop }}\nspec: {{ ports: \
         [{{ name: grpc, port: 80 }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: limits, \
         namespace: shop, labels: {{ kubernetes.io/service-name: limits }} }}\naddressType: IPv4\nports: [{{ name: grpc, port: {} }}]\n\
         endpoints: [{{ addresses: [127.0.0.1] }}]\n",
        service.addr.port()
    );
    let asks = "  globalRateLimits:\n    - service: rls\n      descriptor: [{ key: ask, header: x-ask }, { key: who, from: identity }]\n";
    let generation = town.plane.apply(&(services + &policy("api", asks))).await;
    let (_web, _api) = town.proxies().await;
    for workload in [WEB, API] {
        town.plane.synced(workload, generation).await;
    }
    assert_eq!(get(&town, "api", "x-ask: fine\r\n").await.status, 200);
    let question = service.question().await;
    let who = "spiffe://mesh.local/ns/shop/sa/web";
    let entries = json!([{ "key": "ask", "value": "fine" }, { "key": "who", "value": who }]);
    assert_eq!(
        (&question["domain"], &question["descriptors"][0]["entries"]),
        (&json!("mesh"), &entries),
        "{question:#}"
    );
    assert_eq!(get(&town, "api", "x-ask: over\r\n").await.status, 429);
    assert_eq!(town.app.requests().len(), 1);
    // What lacks a value is not asked about.
    assert_eq!(get(&town, "api", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashing_and_sessions_are_pushed() {
    let (a, b) = (H1Backend::named("a").await, H1Backend::named("b").await);
    let town = Town::found(Plane::start().await, load::application().await).await;
    let key = town.plane.path("session.key");
    std::fs::write(&key, [7; 48]).expect("write the key");
    let hash = "  loadBalancing: { policy: maglev, boundedLoad: off }\n  hash: [{ header: x-user }]\n";
    let session = format!("  sessionPersistence: {{ cookie: {{ name: sid }}, keyFile: {key:?} }}\n");
    let own =
        "sessionPersistence: { sessionName: x-session, type: Header }\n      backendRefs: [{ name: routed, port: 80 }]";
    let mut manifests = policy("hashed", hash) + &policy("kept", &session) + &policy("routed", &session);
    for service in ["hashed", "kept", "routed"] {
        manifests += &outside(service, &[&a, &b]);
    }
    let generation = town.plane.apply(&(manifests + &route("routed", own))).await;
    let (_web, _api) = town.proxies().await;
    town.plane.synced(WEB, generation).await;

    let at = |answer: &Response| answer.head.get("x-backend").expect("it says who").to_owned();
    let mut of_user: BTreeMap<usize, String> = BTreeMap::new();
    for round in 0..3 {
        for user in 0..20 {
            let answer = get(&town, "hashed", &format!("x-user: u{user}\r\n")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let before = of_user.insert(user, at(&answer));
            assert!(round == 0 || before.as_deref() == Some(&*at(&answer)), "user {user} stays");
        }
    }
    assert_eq!(of_user.values().collect::<BTreeSet<_>>().len(), 2, "users are spread: {of_user:?}");

    for (service, header) in [("kept", "set-cookie"), ("routed", "x-session")] {
        let first = get(&town, service, "").await;
        let named = first.head.get(header).unwrap_or_else(|| panic!("{service} names a session: {:?}", first.head));
        let named = named.split(';').next().expect("a name").to_owned();
        let sent =
            if header == "set-cookie" { format!("cookie: {named}\r\n") } else { format!("{header}: {named}\r\n") };
        for _ in 0..10 {
            assert_eq!(at(&get(&town, service, &sent).await), at(&first), "{service}");
        }
    }
}
