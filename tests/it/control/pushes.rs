//! Pushes under load: whoever is connected notices nothing but the new configuration.

use std::time::Instant;

use super::load::{self, Load};
use super::plane::Plane;
use super::town::{API, Town, WEB};
use crate::support::{PATIENCE, full, gate, h1_client, ms};

/// Routes, a policy of who may call, and one of how, all different in each version.
fn changed(version: usize) -> String {
    let (timeout, budget) = (5 + version % 20, 400 + version % 300);
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: api, namespace: shop }}
spec:
  parentRefs: [{{ group: \"\", kind: Service, name: api, port: 80 }}]
  rules:
    - name: unused-{version}
      matches: [{{ path: {{ type: Exact, value: /unused/{version} }} }}]
      backendRefs: [{{ name: api, port: 80 }}]
    - name: all
      filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier: {{ set: [{{ name: x-version, value: \"{version}\" }}] }}
      timeouts: {{ backendRequest: {timeout}s }}
      backendRefs: [{{ name: api, port: 80 }}]
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {{ name: api, namespace: shop }}
spec:
  targetRef: {{ group: \"\", kind: Service, name: api }}
  circuitBreaker: {{ maxRequests: {budget} }}
---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {{ name: api, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: api }} }}
  default: deny
  rules:
    - name: web
      action: allow
      from: [{{ identities: [\"spiffe://mesh.local/ns/shop/sa/web\"] }}]
    - name: nobody
      action: deny
      from: [{{ identities: [\"spiffe://mesh.local/ns/shop/sa/never-{version}\"] }}]
"
    )
}

async fn version(town: &Town) -> Option<String> {
    let reply = h1_client::exchange(town.addr(), "GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.head.get("x-version").map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_under_load_fail_no_request_and_close_no_connection() {
    gate::exclusive();
    let pushes = if full() { 300 } else { 40 };
    let town = Town::found(Plane::start().await, load::application().await).await;
    let mut generation = town.plane.apply(&changed(0)).await;
    let (web, api) = town.proxies().await;
    for workload in [WEB, API] {
        town.plane.synced(workload, generation).await;
    }
    let load = Load::all(town.addr());
    load.more(50).await;
    let (kept, inner) = (web.metric("outrigger_upstream_connects_total", &[]).await, town.rpc.connections());
    let began = Instant::now();
    let mut slowest = ms(0);
    for number in 1..=pushes {
        generation = town.plane.apply(&changed(number)).await;
        // Some pushes come one behind the other, and some when the one before is in effect.
        if number % 4 == 0 || number == pushes {
            let start = Instant::now();
            while version(&town).await.as_deref() != Some(&*number.to_string()) {
                assert!(start.elapsed() < PATIENCE, "version {number} takes effect");
                tokio::time::sleep(ms(2)).await;
            }
            slowest = slowest.max(start.elapsed());
        }
        load.check();
    }
    for workload in [WEB, API] {
        town.plane.synced(workload, generation).await;
    }
    let took = began.elapsed();
    load.more(50).await;
    let connects = web.metric("outrigger_upstream_connects_total", &[]).await - kept;
    let connected = town.rpc.connections();
    let (requests, events) = load.end().await;
    println!(
        "{pushes} pushes in {took:?}, in effect after {slowest:?} at most: {requests} requests, {events} events and messages, \
         0 failures; {connects} more connections between the proxies"
    );
    assert!(requests > pushes * 4 && events > pushes, "there was load: {requests} requests, {events} events");
    assert_eq!(connected, inner, "the application's connections with streams are those from before");
    let again = web.metric("outrigger_upstream_retries_total", &[]).await;
    assert_eq!(again, 0.0, "nothing had to be tried again");
    assert!(connects <= 4.0, "the proxies keep their connections: {connects} more");
    for (name, proxy) in [("web", &web), ("api", &api)] {
        let reloads = proxy.metric("outrigger_control_responses_total", &[]).await;
        assert!(reloads >= pushes as f64 / 4.0, "{name} was told: {reloads}");
        assert_eq!(proxy.metric("outrigger_control_refusals_total", &[]).await, 0.0, "{name}");
    }
}
