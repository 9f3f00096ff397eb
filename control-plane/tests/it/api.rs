//! What changes the mesh, and what is told of it.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Control, SERVICE, WORKLOADS, documents, route};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_three_mistakes_tells_all_three_with_their_places_and_changes_nothing() {
    let control = Control::start().await;
    control.apply(&[("service.yaml", SERVICE)]).await;
    let bad = route("2s")
        .replace("type: PathPrefix", "type: Prefix")
        .replace("request: 2s", "request: soon")
        .replace("name: payments, port: 80", "name: payments, prot: 80");
    let good =
        "apiVersion: v1\nkind: Service\nmetadata: { name: other, namespace: shop }\nspec: { ports: [{ port: 80 }] }\n";
    let (status, body) = control
        .ask(&control.admin, "POST", "/v1/apply", &documents(&[("good.yaml", good), ("shop/route.yaml", &bad)]))
        .await;
    assert_eq!((status, &body["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid")), "{body:#}");
    let problems = body["problems"].as_array().expect("a list");
    let places: Vec<(&str, u64)> = problems
        .iter()
        .map(|one| (one["file"].as_str().expect("a file"), one["line"].as_u64().expect("a line")))
        .collect();
    for line in [8, 9, 10] {
        assert!(places.contains(&("shop/route.yaml", line)), "line {line}: {body:#}");
    }
    for problem in problems {
        assert!(problem["excerpt"].as_str().is_some_and(|excerpt| excerpt.contains('^')), "{problem:#}");
        assert!(problem["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{problem:#}");
        assert!(problem["column"].as_u64().is_some_and(|column| column > 1), "{problem:#}");
    }
    assert_eq!(control.generation().await, 1);
    let (_, objects) = control.ask(&control.admin, "GET", "/v1/objects", &Value::Null).await;
    assert_eq!(objects.as_array().map(Vec::len), Some(1), "{objects:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_makes_a_generation_that_survives_a_restart_and_can_be_brought_back() {
    let control = Control::start().await;
    control.apply(&[("all.yaml", &format!("{SERVICE}---\n{WORKLOADS}"))]).await;
    let body = control.apply(&[("route.yaml", &route("2s"))]).await;
    assert_eq!((&body["generation"], &body["changes"][0]["how"]), (&json!(2), &json!("added")));
    control.apply(&[("route.yaml", &route("9s"))]).await;
    // The same once more is no change.
    assert_eq!(control.apply(&[("route.yaml", &route("9s"))]).await["generation"], Value::Null);

    let control = control.restart().await;
    assert_eq!(control.generation().await, 3);
    let (_, detail) = control.ask(&control.admin, "GET", "/v1/generations/3", &Value::Null).await;
    assert_eq!((&detail["who"], &detail["changed"]), (&json!("token:admin"), &json!(1)), "{detail:#}");
    let diff = detail["changes"][0]["diff"].as_str().expect("a diff");
    assert!(
        diff.contains("-      timeouts: { request: 2s }") && diff.contains("+      timeouts: { request: 9s }"),
        "{diff}"
    );

    let (status, body) =
        control.ask(&control.admin, "POST", "/v1/generations/2/rollback", &json!({ "message": "too slow" })).await;
    assert_eq!((status, &body["generation"]), (StatusCode::OK, &json!(4)), "{body:#}");
    let (_, objects) = control.ask(&control.admin, "GET", "/v1/objects?kind=httproutes", &Value::Null).await;
    assert!(objects[0]["text"].as_str().is_some_and(|text| text.contains("request: 2s")), "{objects:#}");
    let (_, history) = control.ask(&control.admin, "GET", "/v1/generations", &Value::Null).await;
    assert_eq!((&history[0]["source"], &history[0]["restores"]), (&json!("rollback"), &json!(2)));
    let (status, body) = control.ask(&control.admin, "POST", "/v1/generations/77/rollback", &json!({})).await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("not-found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_the_blast_radius_and_changes_nothing() {
    let control = Control::start().await;
    let all = format!("{SERVICE}---\n{WORKLOADS}---\n{}", route("2s"));
    control.apply(&[("all.yaml", &all)]).await;
    let mut request = documents(&[("route.yaml", &route("9s"))]);
    request["dryRun"] = json!(true);
    let (status, body) = control.ask(&control.admin, "POST", "/v1/apply", &request).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    assert_eq!(body["impact"]["summary"], "1 route on 2 proxies, 0 connections dropped, 0 pools rebuilt", "{body:#}");
    assert_eq!(body["generation"], Value::Null);
    assert_eq!(control.generation().await, 1);
    let (_, objects) = control.ask(&control.admin, "GET", "/v1/objects?kind=HTTPRoute", &Value::Null).await;
    assert!(objects[0]["text"].as_str().is_some_and(|text| text.contains("request: 2s")), "{objects:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_and_pruning_remove_what_was_pushed() {
    let control = Control::start().await;
    control.apply(&[("all.yaml", &format!("{SERVICE}---\n{}", route("2s")))]).await;
    let mut request = documents(&[("service.yaml", SERVICE)]);
    request["prune"] = json!(["shop"]);
    let (status, body) = control.ask(&control.admin, "POST", "/v1/apply", &request).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    let removed: Vec<&Value> =
        body["changes"].as_array().expect("a list").iter().filter(|change| change["how"] == "removed").collect();
    assert_eq!((removed.len(), &removed[0]["kind"]), (1, &json!("HTTPRoute")), "{body:#}");

    let object = json!({ "objects": [{ "kind": "Service", "namespace": "shop", "name": "payments" }] });
    let (status, _) = control.ask(&control.admin, "POST", "/v1/delete", &object).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = control.ask(&control.admin, "POST", "/v1/delete", &object).await;
    assert_eq!((status, &body["message"]), (StatusCode::NOT_FOUND, &json!("there is no Service shop/payments")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_names_the_manifest_that_set_each_value() {
    let control = Control::start().await;
    control.apply(&[("all.yaml", &format!("{SERVICE}---\n{WORKLOADS}")), ("shop/route.yaml", &route("2s"))]).await;
    let asked = json!({ "method": "POST", "url": "http://payments/v1/charges/7" });
    // The ports are open as soon as a push is answered; what it means is compiled right after.
    let story = crate::support::until("the route is compiled", async || {
        let (status, story) = control.ask(&control.admin, "POST", "/v1/proxies/shop/web-1/explain", &asked).await;
        (status == StatusCode::OK && story["decision"]["action"] == "forward").then_some(story)
    })
    .await;
    let settings = story["decision"]["settings"].as_array().expect("a list");
    let request = settings.iter().find(|setting| setting["name"] == "request timeout").expect("it is told");
    assert_eq!(request["value"], "2s", "{story:#}");
    assert!(request["setBy"].as_str().is_some_and(|place| place.starts_with("shop/route.yaml:9:")), "{story:#}");
    let (status, _) = control.ask(&control.admin, "POST", "/v1/proxies/shop/nobody/explain", &asked).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_openapi_are_served() {
    let control = Control::start().await;
    control.apply(&[("service.yaml", SERVICE)]).await;
    let (status, text) = control.ask(&control.admin, "GET", "/v1/metrics", &Value::Null).await;
    let text = text.as_str().expect("text");
    assert_eq!(status, StatusCode::OK);
    for line in [
        "outrigger_control_generation 1",
        "outrigger_control_objects 1",
        "outrigger_control_proxies{state=\"synced\"} 0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    let (status, document) = control.ask("", "GET", "/v1/openapi.json", &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert!(document["components"]["schemas"]["ApplyRequest"].is_object(), "{document:#}");
}
