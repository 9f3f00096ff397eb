//! The control plane is killed while it is pushed to, over and over, and proxies are started meanwhile.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::load::{self, Load};
use super::plane::{Plane, push};
use super::town::{API, Town, WEB};
use crate::support::proxy::Until;
use crate::support::{PATIENCE, full, h1_client};

/// Two objects of one push, which must always say the same.
fn pair(number: u64) -> String {
    let route = |name: &str, path: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name}, namespace: shop }}
spec:
  parentRefs: [{{ group: \"\", kind: Service, name: api, port: 80 }}]
  rules:
    - name: {name}
      matches: [{{ path: {{ type: PathPrefix, value: {path} }} }}]
      filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier: {{ set: [{{ name: x-number, value: \"{number}\" }}] }}
      backendRefs: [{{ name: api, port: 80 }}]
"
        )
    };
    format!("{}---\n{}", route("one", "/"), route("two", "/two"))
}

/// What both routes say of the push that they came with.
async fn numbers(town: &Town) -> [Option<u64>; 2] {
    let mut told = [None, None];
    for (path, told) in ["/", "/two"].into_iter().zip(&mut told) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n");
        let reply = h1_client::exchange(town.addr(), request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        *told = reply.head.get("x-number").and_then(|text| text.parse().ok());
    }
    told
}

/// What an object in force says.
fn number_of(object: &Value) -> u64 {
    let text = object["text"].as_str().expect("a text");
    let (_, rest) = text.split_once("x-number, value: \"").expect("its number");
    rest.split('"').next().and_then(|text| text.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_of_a_push_it_loses_nothing_and_proxies_start_without_it() {
    let kills = if full() { 100 } else { 10 };
    let mut town = Town::found(Plane::start().await, load::application().await).await;
    let first = town.plane.apply(&pair(0)).await;
    let (mut web, mut api) = town.proxies().await;
    for workload in [WEB, API] {
        town.plane.synced(workload, first).await;
    }
    let token = town.plane.admin();
    let (mut number, mut acknowledged) = (0, Vec::new());
    let (mut accepted, mut unanswered, began) = (first, 0, Instant::now());
    for kill in 0..kills {
        let load = Load::requests(town.addr());
        load.more(8).await;
        // Some pushes that are answered, and one during which it dies: at any part of the time that the last one took.
        let (mut said, mut took) = (None, Duration::from_millis(10));
        for _ in 0..1 + kill % 2 {
            number += 1;
            let start = Instant::now();
            accepted = town.plane.apply(&pair(number)).await;
            took = start.elapsed();
            acknowledged.push((accepted, number));
            said = Some(number);
        }
        number += 1;
        let (killed, body) = (number, push(&pair(number)));
        let plane = &mut town.plane;
        let answer = tokio::select! {
            answer = plane.try_ask(&token, "POST", "/v1/apply", &body) => answer,
            () = tokio::time::sleep(took * ((kill as u32 * 37) % 120) / 100) => None,
        };
        plane.kill();
        if let Some((status, body)) = answer {
            assert_eq!(status, 200, "a push is taken: {body:#}");
            accepted = body["generation"].as_u64().expect("a new generation");
            acknowledged.push((accepted, number));
            said = Some(number);
        }
        // Requests go on, and what proxies have is one push or another, never parts of two.
        load.more(20).await;
        load.end().await;
        let [one, two] = numbers(&town).await;
        assert_eq!(one, two, "a push takes effect whole");
        // A proxy that is started now serves what it had, from its disk.
        let (workload, proxy) = if kill % 2 == 0 { (WEB, &mut web) } else { (API, &mut api) };
        proxy.signal("KILL");
        proxy.exit(PATIENCE).await;
        *proxy = town.proxy(workload, Until::Ready).await;
        let [one, two] = numbers(&town).await;
        assert_eq!(one, two, "{workload} has one push whole on its disk");

        town.plane.again().await;
        let status = town.plane.get("/v1/status").await;
        let generation = status["generation"].as_u64().expect("a number");
        assert!(
            generation == accepted || generation == accepted + 1,
            "kill {kill}: {accepted} was the last that was acknowledged, and there is {generation}"
        );
        let objects = town.plane.get("/v1/objects?kind=HTTPRoute&namespace=shop").await;
        let routes = objects.as_array().expect("a list").iter().filter(|one| one["kind"] == "HTTPRoute");
        let held: Vec<u64> = routes.map(number_of).collect();
        assert_eq!(held.len(), 2, "{objects:#}");
        assert_eq!(held[0], held[1], "kill {kill}: a push is there whole or not at all");
        let wanted = if generation == accepted { said.unwrap_or(held[0]) } else { killed };
        assert_eq!(held[0], wanted, "kill {kill}: what is in force is what generation {generation} said");
        unanswered += u64::from(generation > accepted);
        accepted = generation;
        for workload in [WEB, API] {
            town.plane.synced(workload, generation).await;
        }
        assert_eq!(numbers(&town).await, [Some(held[0]); 2], "kill {kill}");
    }
    // Every generation that was ever acknowledged is in the history, as it was.
    for (generation, number) in &acknowledged {
        let detail = town.plane.get(&format!("/v1/generations/{generation}")).await;
        assert_eq!(detail["changed"], 2, "{detail:#}");
        assert!(detail.to_string().contains(&format!("\\\"{number}\\\"")), "generation {generation}: {detail:#}");
    }
    println!(
        "{kills} kills in {:?}: {} pushes acknowledged, {unanswered} kept without an answer, 0 lost",
        began.elapsed(),
        acknowledged.len()
    );
    assert!(acknowledged.len() >= kills / 2, "pushes were acknowledged: {}", acknowledged.len());
}
