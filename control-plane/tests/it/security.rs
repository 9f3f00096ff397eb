//! Who is refused, what that leaves in the audit log, and that nothing changes.

use http::StatusCode;
use outrigger_control::store::{Role, Timestamp};
use serde_json::{Value, json};

use crate::support::{Control, SERVICE, documents};

/// Every path and method that needs a caller, from the API's own description.
async fn guarded(control: &Control) -> Vec<(String, String)> {
    let (_, document) = control.ask("", "GET", "/v1/openapi.json", &Value::Null).await;
    let mut out = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let open = ["/v1/health", "/v1/ready", "/v1/openapi.json"].contains(&&**path);
        for method in methods.as_object().expect("methods").keys().filter(|_| !open) {
            let path = path.replace("{number}", "1").replace("{namespace}", "shop").replace("{name}", "a");
            out.push((method.to_uppercase(), path.replace("{id}", "0123")));
        }
    }
    assert!(out.len() >= 20, "{out:?}");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_every_path_is_refused() {
    let control = Control::start().await;
    let expired = control.token("late", Role::Admin, Some(Timestamp::from_millis(1)));
    let last = if control.admin.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{last}", &control.admin[..control.admin.len() - 1]);
    for (method, path) in guarded(&control).await {
        for token in ["", "nonsense", &expired, &forged] {
            let (status, body) = control.ask(token, &method, &path, &json!({})).await;
            assert_eq!(
                (status, &body["code"]),
                (StatusCode::UNAUTHORIZED, &json!("unauthenticated")),
                "{method} {path}"
            );
            assert!(!body.to_string().contains("outrigger-api-"), "{body}");
        }
    }
    for authorization in ["", "Bearer", "Basic YTpi", "bearer  ", "Bearer \u{fc}"] {
        let (status, _) = control.raw("GET", "/v1/status", &[("authorization", authorization.to_owned())], "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{authorization:?}");
    }
    let (_, log) = control.ask(&control.admin, "GET", "/v1/audit?limit=1000", &Value::Null).await;
    let refused = log.as_array().expect("a list").iter().filter(|entry| entry["outcome"] == "refused").count();
    assert!(refused >= 80, "{refused}");
    assert!(!log.to_string().contains("outrigger-api-"), "no token is ever in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_not_enough_is_refused_and_audited() {
    let control = Control::start().await;
    let viewer = control.token("eyes", Role::Viewer, None);
    let pusher = control.token("ci", Role::Pusher { namespaces: vec!["shop".to_owned()] }, None);
    let admin_only = [
        ("POST", "/v1/generations/1/rollback"),
        ("POST", "/v1/tokens"),
        ("GET", "/v1/tokens"),
        ("DELETE", "/v1/tokens/0123"),
        ("POST", "/v1/join-tokens"),
        ("POST", "/v1/ca/rotate"),
        ("GET", "/v1/audit"),
    ];
    for (method, path) in admin_only {
        for token in [&viewer, &pusher] {
            let (status, body) = control.ask(token, method, path, &json!({})).await;
            assert_eq!((status, &body["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")), "{method} {path}");
        }
    }
    for path in ["/v1/apply", "/v1/delete"] {
        let (status, _) = control.ask(&viewer, "POST", path, &documents(&[("a.yaml", SERVICE)])).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
    }
    let (status, _) = control.ask(&viewer, "GET", "/v1/status", &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(control.generation().await, 0);
    let (_, log) = control.ask(&control.admin, "GET", "/v1/audit", &Value::Null).await;
    let entry = &log[0];
    assert_eq!((&entry["who"], &entry["action"]), (&json!("token:eyes"), &json!("POST /v1/delete")), "{entry:#}");
    assert!(entry["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{entry:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_changes_its_namespaces_and_no_others() {
    let control = Control::start().await;
    let pusher = control.token("ci", Role::Pusher { namespaces: vec!["shop".to_owned()] }, None);
    let every = control.token("all", Role::Pusher { namespaces: vec!["*".to_owned()] }, None);
    let other = SERVICE.replace("namespace: shop", "namespace: bank");
    let mesh_wide = "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: { name: m, namespace: outrigger-system }\nspec: {}\n";
    let both = format!("{SERVICE}---\n{other}");
    for (token, text) in [(&pusher, &*other), (&pusher, &both), (&pusher, mesh_wide), (&every, mesh_wide)] {
        let (status, body) = control.ask(token, "POST", "/v1/apply", &documents(&[("a.yaml", text)])).await;
        assert_eq!((status, &body["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")), "{body:#}");
        // Also when nothing would be changed.
        let mut dry = documents(&[("a.yaml", text)]);
        dry["dryRun"] = json!(true);
        assert_eq!(control.ask(token, "POST", "/v1/apply", &dry).await.0, StatusCode::FORBIDDEN);
    }
    let mut prune = documents(&[("a.yaml", SERVICE)]);
    prune["prune"] = json!(["bank"]);
    assert_eq!(control.ask(&pusher, "POST", "/v1/apply", &prune).await.0, StatusCode::FORBIDDEN);
    control.apply(&[("bank.yaml", &other)]).await;
    let foreign = json!({ "objects": [{ "kind": "Service", "namespace": "bank", "name": "payments" }] });
    assert_eq!(control.ask(&pusher, "POST", "/v1/delete", &foreign).await.0, StatusCode::FORBIDDEN);
    assert_eq!(control.generation().await, 1);
    let (status, body) = control.ask(&pusher, "POST", "/v1/apply", &documents(&[("a.yaml", SERVICE)])).await;
    assert_eq!((status, &body["generation"]), (StatusCode::OK, &json!(2)), "{body:#}");
    let (_, log) = control.ask(&control.admin, "GET", "/v1/audit", &Value::Null).await;
    let done =
        log.as_array().expect("a list").iter().find(|entry| entry["who"] == "token:ci" && entry["outcome"] == "done");
    assert_eq!(done.expect("it is audited")["subject"], "generation 2", "{log:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_or_too_large_is_refused_by_name() {
    let control = Control::start().await;
    let json = |body: &'static str| (body, "application/json", StatusCode::BAD_REQUEST, "malformed");
    let cases = [
        json(""),
        json("{"),
        json("[]"),
        json("{\"documents\": 1}"),
        json("{\"documents\": [], \"what\": 1}"),
        ("{\"documents\": []}", "text/plain", StatusCode::BAD_REQUEST, "malformed"),
        ("{\"documents\": []}", "application/json", StatusCode::NOT_FOUND, "not-found"),
    ];
    let with = |kind: &str| [("content-type", kind.to_owned()), ("authorization", format!("Bearer {}", control.admin))];
    for (body, kind, status, code) in cases {
        let answer = control.raw("POST", "/v1/apply", &with(kind), body).await;
        assert_eq!((answer.0, &answer.1["code"]), (status, &json!(code)), "{body}");
    }
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(70 * 1024));
    let answer = control.raw("POST", "/v1/tokens", &with("application/json"), large).await;
    assert_eq!((answer.0, &answer.1["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too-large")));
    for (method, path, status) in [
        ("GET", "/v1/nothing", StatusCode::NOT_FOUND),
        ("PUT", "/v1/apply", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/v1/generations?limit=many", StatusCode::BAD_REQUEST),
        ("GET", "/v1/generations?what=1", StatusCode::BAD_REQUEST),
        ("GET", "/v1/objects?kind=Pod", StatusCode::BAD_REQUEST),
        ("GET", "/v1/proxies/Shop/a", StatusCode::BAD_REQUEST),
        ("GET", "/v1/sync?generation=9", StatusCode::NOT_FOUND),
    ] {
        let (answer, body) = control.ask(&control.admin, method, path, &Value::Null).await;
        assert_eq!(answer, status, "{method} {path}: {body}");
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{method} {path}: {body}");
    }
    assert_eq!(control.generation().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_and_ends_when_it_is_revoked() {
    let control = Control::start().await;
    let request = json!({ "name": "ci", "role": "pusher", "namespaces": ["shop"], "validForSeconds": 600 });
    let (status, created) = control.ask(&control.admin, "POST", "/v1/tokens", &request).await;
    assert_eq!(status, StatusCode::OK, "{created:#}");
    let token = created["token"].as_str().expect("a token").to_owned();
    assert_eq!(control.ask(&token, "GET", "/v1/status", &Value::Null).await.0, StatusCode::OK);
    let (_, list) = control.ask(&control.admin, "GET", "/v1/tokens", &Value::Null).await;
    let secret = token.rsplit_once('-').expect("id and secret").1;
    assert!(!list.to_string().contains(secret), "{list:#}");
    let path = format!("/v1/tokens/{}", created["id"].as_str().expect("an id"));
    assert_eq!(control.ask(&control.admin, "DELETE", &path, &Value::Null).await.0, StatusCode::OK);
    assert_eq!(control.ask(&token, "GET", "/v1/status", &Value::Null).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(control.ask(&control.admin, "DELETE", &path, &Value::Null).await.0, StatusCode::NOT_FOUND);
    for wrong in [
        json!({ "name": "", "role": "viewer" }),
        json!({ "name": "a b", "role": "viewer" }),
        json!({ "name": "a", "role": "king" }),
        json!({ "name": "a", "role": "pusher" }),
        json!({ "name": "a", "role": "viewer", "namespaces": ["shop"] }),
        json!({ "name": "a", "role": "viewer", "validForSeconds": 0 }),
        json!({ "name": "a", "role": "viewer", "validForSeconds": 99_999_999_999_u64 }),
    ] {
        let (status, body) = control.ask(&control.admin, "POST", "/v1/tokens", &wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {body}");
    }
}
