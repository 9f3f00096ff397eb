//! What a refused caller is told, and what operators learn.

use crate::support::any::{AnyBackend, Version};
use crate::support::{Config, H1Client, H2Client, Mesh, PATIENCE, Proxy, TlsClient, eventually, h2_client, process};

struct Guarded {
    mesh: Mesh,
    backend: AnyBackend,
    proxy: Proxy,
}

/// `/secret-stuff` is denied by a rule with a telling name, `/closed` by the default of another listener.
async fn guarded() -> Guarded {
    let mesh = Mesh::new();
    let backend = AnyBackend::ok(Version::H1).await;
    let config = Config::to("http1", &[backend.addr()])
        .top(&mesh.identity("shop/web"))
        .top("accessLog: stdout")
        .top(
            "authorization:\n  telling-policy: { default: allow, rules: [\
             { name: telling-rule, action: deny, to: [{ paths: [{ prefix: /secret }, { prefix: /test.Secret }] }] }, \
             { name: telling-audit, action: audit, to: [{ paths: [{ prefix: /seen }] }] }, \
             { name: telling-shadow, action: deny, shadow: true, to: [{ paths: [{ prefix: /soon }] }] }] }\n  \
             telling-none: { default: deny, rules: [\
             { name: telling-allow, action: allow, from: [{ namespaces: [shop] }] }] }",
        )
        .listener("tls: { mode: permissive }")
        .listener("authorization: telling-policy")
        .add_listener("closed")
        .listener("tls: { mode: permissive }")
        .listener("authorization: telling-none");
    Guarded { mesh, backend, proxy: Proxy::start(&config).await }
}

#[tokio::test]
async fn a_refused_caller_learns_that_it_is_refused_and_not_why() {
    let guarded = guarded().await;
    for (listener, path) in [("in", "/secret?token=abc"), ("closed", "/")] {
        let addr = guarded.proxy.listener(listener);
        let mut client = H1Client::connect(addr).await;
        let reply = client.get(path).await;
        assert_eq!((reply.status, reply.reason()), (403, Some("RBAC")));
        assert!(!String::from_utf8_lossy(&client.wire.seen).contains("telling"), "{reply:?}");
        assert!(!reply.head.has("connection"), "the connection is kept: {reply:?}");
        assert_eq!(client.get(path).await.status, 403, "and goes on being used");
        let h2 = H2Client::connect(addr).await;
        let reply = h2.get(path).await;
        assert_eq!((reply.status, reply.reason()), (403, Some("RBAC")));
        let told = format!("{:?} {:?}", reply.headers, reply.body);
        assert!(!told.contains("telling") && !told.contains("spiffe"), "{told}");
        let reply = h2.fetch(h2_client::grpc(path)).await.unwrap();
        assert_eq!((reply.status, reply.grpc_status()), (200, Some("7")), "{reply:?}");
        assert!(!format!("{:?}", reply.headers).contains("telling"), "{reply:?}");
    }
    assert!(guarded.backend.seen().is_empty());
    assert_eq!(guarded.backend.connections(), 0, "not even a connection was made");
}

#[tokio::test]
async fn a_body_of_a_refused_request_is_not_waited_for() {
    let guarded = guarded().await;
    let mut client = H1Client::connect(guarded.proxy.addr()).await;
    client
        .send("POST /secret HTTP/1.1\r\nhost: a.example\r\nexpect: 100-continue\r\ncontent-length: 100000\r\n\r\n")
        .await;
    let reply = client.response_to("POST").await;
    assert_eq!(reply.status, 403);
    assert!(reply.informational.is_empty(), "it is not asked to send its body: {reply:?}");
}

#[tokio::test]
async fn the_access_log_names_the_rule_and_the_caller() {
    let guarded = guarded().await;
    let cart = TlsClient::with(&guarded.mesh.svid("shop/cart"));
    let mut client = cart.h1(guarded.proxy.addr()).await;
    assert_eq!(client.get("/secret").await.status, 403);
    assert_eq!(client.get("/seen").await.status, 200);
    assert_eq!(client.get("/soon").await.status, 200);
    let mut closed = cart.h1(guarded.proxy.listener("closed")).await;
    assert_eq!(closed.get("/allowed").await.status, 200);
    assert_eq!(H1Client::connect(guarded.proxy.listener("closed")).await.get("/default").await.status, 403);
    eventually(PATIENCE, "five lines", || guarded.proxy.stdout().lines().count() >= 5).await;
    let lines: Vec<serde_json::Value> =
        guarded.proxy.stdout().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let line = |path: &str| {
        let found: Vec<_> = lines.iter().filter(|line| line["path"] == path).collect();
        assert_eq!(found.len(), 1, "{path}: {lines:#?}");
        found[0]
    };
    let denied = line("/secret");
    assert_eq!(denied["authzRule"], "telling-rule");
    assert_eq!(denied["response_flags"], "RBAC");
    assert_eq!(denied["peerIdentity"], guarded.mesh.id("shop/cart"));
    assert!(denied["tlsVersion"].as_str().is_some_and(|version| version.contains("1.3")), "{denied}");
    assert!(line("/seen").to_string().contains("telling-audit"), "{}", line("/seen"));
    assert_eq!(line("/soon")["authzShadow"], "telling-shadow");
    assert_eq!(line("/soon")["response_code"], 200);
    assert_eq!(line("/allowed")["authzRule"], "telling-allow");
    let plain = line("/default");
    assert!(plain.get("peerIdentity").is_none() && plain.get("tlsVersion").is_none(), "{plain}");
    assert_eq!(plain["response_flags"], "RBAC");
}

#[tokio::test]
async fn decisions_are_counted_by_rule() {
    let guarded = guarded().await;
    let mut client = H1Client::connect(guarded.proxy.addr()).await;
    for path in ["/secret", "/secret/2", "/seen", "/soon", "/"] {
        client.get(path).await;
    }
    let count = async |rule: &str, decision: &str| {
        let labels = [format!("rule=\"{rule}\""), format!("decision=\"{decision}\"")];
        let name = "outrigger_authorization_decisions_total";
        guarded.proxy.metric(name, &["listener=\"in\"", "policy=\"telling-policy\"", &labels[0], &labels[1]]).await
    };
    assert_eq!(count("telling-rule", "deny").await, 2.0);
    assert_eq!(count("default", "allow").await, 3.0);
    assert_eq!(count("telling-audit", "audit").await, 1.0);
    assert_eq!(count("telling-shadow", "shadow_deny").await, 1.0);
    assert_eq!(count("telling-shadow", "deny").await, 0.0);
    let refused = guarded.proxy.metric("outrigger_local_responses_total", &["reason=\"RBAC\""]).await;
    assert_eq!(refused, 2.0);
}

/// An edit of a rule acts on the next request of a connection that is open.
#[tokio::test]
async fn an_edit_acts_on_the_next_request_of_a_live_connection() {
    let backend = AnyBackend::ok(Version::H1).await;
    let config = |default: &str| {
        Config::to("http1", &[backend.addr()]).listener("authorization: p").top(&format!(
            "authorization: {{ p: {{ default: {default}, rules: [{{ name: none, action: audit, to: [{{ ports: [1] }}] }}] }} }}"
        ))
    };
    let proxy = Proxy::start(&config("allow")).await;
    let mut h1 = H1Client::connect(proxy.addr()).await;
    let h2 = H2Client::connect(proxy.addr()).await;
    for (default, status) in [("allow", 200), ("deny", 403), ("allow", 200), ("deny", 403)] {
        proxy.replace_config(&config(default));
        let start = std::time::Instant::now();
        while h1.get("/").await.status != status {
            assert!(start.elapsed() < PATIENCE, "{default} takes effect");
            tokio::time::sleep(crate::support::ms(2)).await;
        }
        assert_eq!(h2.get("/").await.status, status);
        assert_eq!(h1.get("/").await.status, status);
    }
}

/// Refusal comes before anything that a rule of the route would do.
#[tokio::test]
async fn authorization_comes_before_redirects_and_other_effects() {
    let config = Config::new()
        .routes(
            r#"
            - rules:
                - matches: [{ path: { prefix: /redirect } }]
                  filters: [{ redirect: { hostname: elsewhere.example } }]
                - filters: [{ directResponse: { status: 200, body: here } }]
            "#,
        )
        .listener("authorization: p")
        .top("authorization: { p: { default: deny, rules: [{ name: none, action: audit, to: [{ ports: [1] }] }] } }");
    let proxy = Proxy::start(&config).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for path in ["/", "/redirect"] {
        let reply = client.get(path).await;
        assert_eq!((reply.status, reply.reason()), (403, Some("RBAC")), "{path}");
        assert!(!reply.head.has("location"), "{reply:?}");
    }
}

#[tokio::test]
async fn python_grpcio_is_told_permission_denied() {
    let guarded = guarded().await;
    let script = "import sys, grpc\n\
        channel = grpc.insecure_channel(sys.argv[1])\n\
        for call in (channel.unary_unary('/test.Secret/Get'), channel.unary_stream('/test.Secret/List')):\n\
        \x20   try:\n\
        \x20       result = call(b'x', timeout=10)\n\
        \x20       list(result) if not isinstance(result, bytes) else None\n\
        \x20       print('no error')\n\
        \x20   except grpc.RpcError as error:\n\
        \x20       print(error.code().name, '|', error.details())\n";
    let run = tokio::process::Command::new(process::python())
        .args(["-c", script, &guarded.proxy.addr().to_string()])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = crate::support::within(std::time::Duration::from_secs(60), "Python", run).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text} {}", String::from_utf8_lossy(&output.stderr));
    for line in lines {
        assert!(line.starts_with("PERMISSION_DENIED |"), "{text}");
        assert!(!line.contains("telling"), "{text}");
    }
    assert!(guarded.backend.seen().is_empty());
}
