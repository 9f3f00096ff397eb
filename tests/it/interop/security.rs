//! TLS with secrets over SDS, rules on who may call (RBAC) and tokens (JWT), in plain Envoy v3 resources from a control plane
//! that is itself reached with mutual TLS. Envoy is held to the same claims.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::echo::{self, Ask, who};
use super::foreign::{Foreign, Variant};
use super::resources::{
    ads, cluster, endpoints, every, filter, host, inline, listener, manager, route, service, typed, with,
};
use super::subject::{Papers, Plane, Program, Subject};
use crate::support::any::{AnyBackend, Version};
use crate::support::pki::Credential;
use crate::support::proxy::free_port;
use crate::support::signer::{Signer, jwks};
use crate::support::{H1Backend, Mesh, PATIENCE, TlsClient, TlsServer, eventually, within};

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A control plane that shows a certificate and wants one.
async fn secured(mesh: &Mesh) -> (Foreign, Papers) {
    mesh.files.write_credential("control", &mesh.issuing.issue(&mesh.leaf("mesh/control").dns("control.example")));
    mesh.files.write_credential("proxy", &mesh.svid("shop/web"));
    let path = |name: &str| mesh.files.path(name);
    let roots = path("bundle.pem");
    let server = Foreign::with(json!({
        "tls": { "certificate": path("control.pem"), "key": path("control.key"), "roots": roots },
    }))
    .await;
    let name = "control.example".to_owned();
    (server, Papers { certificate: path("proxy.pem"), key: path("proxy.key"), roots, name })
}

fn secret(name: &str, what: &str, content: &Value) -> Value {
    json!({ "@type": typed("extensions.transport_sockets.tls.v3.Secret"), "name": name, what: content })
}

fn certificate(name: &str, credential: &Credential) -> Value {
    let content = json!({
        "certificate_chain": { "inline_string": credential.chain },
        "private_key": { "inline_string": credential.key },
    });
    secret(name, "tls_certificate", &content)
}

fn roots(name: &str, pem: &str) -> Value {
    secret(name, "validation_context", &json!({ "trusted_ca": { "inline_string": pem } }))
}

fn sds(name: &str) -> Value {
    json!({ "name": name, "sds_config": ads() })
}

/// A listener with TLS: it shows the secret `server`, and believes callers whom the other secret vouches for.
fn tls_listener((name, roots): (&str, &str), port: u16, manager: &Value) -> Value {
    let mut listener = listener(name, port, manager);
    listener["filter_chains"][0]["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [sds("server")],
                "validation_context_sds_secret_config": sds(roots),
                "alpn_protocols": ["h2", "http/1.1"],
            },
        },
    });
    listener
}

/// A cluster with TLS: it shows the secret `client`, and wants a server of this name, for whom `servers` vouches.
fn tls_cluster(name: &str, server: &str) -> Value {
    with(
        cluster(name),
        &json!({ "transport_socket": {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": server,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [sds("client")],
                "combined_validation_context": {
                    "default_validation_context": {
                        "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": server } }],
                    },
                    "validation_context_sds_secret_config": sds("servers"),
                },
            },
        },
    } }),
    )
}

/// One RBAC filter.
fn rbac(action: &str, policies: &Value) -> Value {
    filter(
        "rbac",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        json!({ "rules": { "action": action, "policies": policies } }),
    )
}

async fn secrets(program: Program) {
    let mesh = Mesh::new();
    let backend = H1Backend::named("behind").await;
    let upstream = mesh.issuing.issue(&mesh.leaf("shop/backend").dns("backend.example"));
    let front = TlsServer::asking(&upstream).front(backend.addr).await;
    let (mut server, papers) = secured(&mesh).await;
    let (port, ruled) = (free_port(), free_port());
    let only_cart = rbac(
        "ALLOW",
        &json!({ "cart": {
        "permissions": [{ "any": true }],
        "principals": [{ "authenticated": { "principal_name": { "exact": mesh.id("shop/cart") } } }],
    } }),
    );
    let to_behind = inline(&[host("*", &[route(&every(), "behind")])]);
    let first = mesh.svid("shop/web");
    server
        .set(&[
            certificate("server", &first),
            certificate("client", &mesh.svid("shop/web")),
            roots("clients", &mesh.root.pem),
            roots("servers", &mesh.root.pem),
            tls_cluster("behind", "backend.example"),
            endpoints("behind", &[front.addr]),
            // The roots of the mesh, below which a certificate is an identity.
            roots("ROOTCA", &mesh.root.pem),
            tls_listener(("tls", "clients"), port, &manager(&to_behind, &[])),
            tls_listener(("ruled", "ROOTCA"), ruled, &manager(&to_behind, std::slice::from_ref(&only_cart))),
        ])
        .await;
    let plane = Plane { addr: server.addr, variant: Variant::Delta, tls: Some(papers) };
    let _subject = Subject::start(program, &plane).await;
    assert!(server.settled(0).await.is_empty(), "everything is taken");
    assert_eq!(server.of("open")[0]["peer"], json!([mesh.id("shop/web")]), "the control plane knows who asks");

    let cart = TlsClient::with(&mesh.svid("shop/cart"));
    let (session, reply) = cart.served(local(port)).await;
    assert_eq!((reply.status, &*reply.text(), session.peer_serial()), (200, "behind", first.serial));
    assert_eq!(front.sessions()[0].peer_uris(), [mesh.id("shop/web")], "the cluster's certificate is shown");
    assert_eq!(front.sessions()[0].sni.as_deref(), Some("backend.example"));
    assert_eq!(cart.served(local(ruled)).await.1.text(), "behind");
    let thief = TlsClient::with(&mesh.svid("shop/thief")).attempt(local(ruled)).await;
    let (_, reply) = thief.expect("the handshake is fine");
    assert_eq!(reply.status, 403, "who is believed may still not call");
    TlsClient::anonymous().refused(local(port)).await;

    // A new certificate is shown to new connections, and old ones go on.
    let mut kept = cart.h1(local(port)).await;
    assert_eq!(kept.get("/").await.status, 200);
    let second = mesh.svid("shop/web");
    server.set(&[certificate("server", &second)]).await;
    within(PATIENCE, "the new certificate", async {
        while cart.served(local(port)).await.0.peer_serial() != second.serial {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(kept.get("/").await.status, 200);

    if program == Program::Outrigger {
        // Below other roots a certificate is no identity: rules about identities would not mean what they say.
        let mark = server.mark();
        server.set(&[tls_listener(("odd", "clients"), free_port(), &manager(&to_behind, &[only_cart]))]).await;
        let refused = server.refusal(mark).await;
        assert_eq!((&*refused.named[0].name, &*refused.named[0].field), ("odd", "filter_chains"), "{refused:?}");
        assert!(refused.message.contains("ROOTCA"), "{refused:?}");
    }

    // Other roots, and nobody is believed any more.
    let other = Mesh::named("other.local");
    server.set(&[roots("clients", &other.root.pem)]).await;
    within(PATIENCE, "the new roots", async {
        while cart.attempt(local(port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn secrets_over_sds_secure_both_sides_and_are_replaced() {
    secrets(Program::Outrigger).await;
}

#[tokio::test]
async fn secrets_over_sds_secure_both_sides_of_envoy() {
    secrets(Program::Envoy).await;
}

fn claims(issuer: &str, audience: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    json!({ "iss": issuer, "aud": audience, "sub": "ann", "exp": now + 600 })
}

async fn rules(program: Program) {
    let backend = echo::start(Version::H1, "a").await;
    let mut server = Foreign::start().await;
    let (ruled, tokens) = (free_port(), free_port());
    let path = |prefix: &str| json!({ "url_path": { "path": { "prefix": prefix } } });
    let header = |name: &str, value: &str| json!({ "header": { "name": name, "string_match": { "exact": value } } });
    let any = json!([{ "any": true }]);
    let deny = rbac("DENY", &json!({ "hands off": { "permissions": [path("/admin")], "principals": any } }));
    let allow = rbac(
        "ALLOW",
        &json!({
            "readers": { "permissions": [{ "and_rules": { "rules": [path("/read"), header(":method", "GET")] } }], "principals": any },
            "writers": { "permissions": [{ "and_rules": { "rules": [path("/write"), header("x-team", "shop")] } }], "principals": any },
            "all": { "permissions": [path("/admin"), path("/open")], "principals": any },
        }),
    );
    let key = Signer::new("ES256", "one");
    let jwt = filter(
        "jwt_authn",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        json!({
            "providers": { "corp": {
                "issuer": "https://id.example",
                "audiences": ["payments"],
                "forward": true,
                "local_jwks": { "inline_string": jwks(&[&key]) },
            } },
            "rules": [{ "match": every(), "requires": { "provider_name": "corp" } }],
        }),
    );
    // Envoy looks at paths as they come unless it is told to clean them up; our proxy always does.
    let routes = with(inline(&[host("*", &[route(&every(), "a")])]), &json!({ "normalize_path": true }));
    let mut resources = service("a", &[backend.addr()]).to_vec();
    resources.push(listener("ruled", ruled, &manager(&routes, &[deny, allow])));
    resources.push(listener("tokens", tokens, &manager(&routes, &[jwt])));
    server.set(&resources).await;
    let _subject = Subject::start(program, &Plane::of(&server, Variant::Delta)).await;
    let refused = server.settled(0).await;
    assert!(refused.is_empty(), "{refused:#?}");

    let token = |issuer: &str, audience: &str| format!("Bearer {}", key.token(&claims(issuer, audience)));
    let stranger = Signer::new("ES256", "one");
    // Who is not meant by a token has none that is good, says RFC 6750; Envoy says that the caller may not.
    let audience = if program == Program::Envoy { 403 } else { 401 };
    let cases = [
        (ruled, Ask::get("a.example/read/1"), 200),
        (ruled, Ask::new("POST", "a.example/read/1"), 403),
        (ruled, Ask::new("POST", "a.example/write").with("x-team", "shop"), 200),
        (ruled, Ask::new("POST", "a.example/write").with("x-team", "other"), 403),
        (ruled, Ask::get("a.example/open"), 200),
        (ruled, Ask::get("a.example/admin"), 403),
        (ruled, Ask::get("a.example/open/../admin"), 403),
        (ruled, Ask::get("a.example/"), 403),
        (tokens, Ask::get("a.example/"), 401),
        (tokens, Ask::get("a.example/").with("authorization", &token("https://id.example", "payments")), 200),
        (tokens, Ask::get("a.example/").with("authorization", &token("https://id.example", "other")), audience),
        (tokens, Ask::get("a.example/").with("authorization", &token("https://evil.example", "payments")), 401),
        (tokens, Ask::get("a.example/").with("authorization", "Bearer nonsense"), 401),
        (
            tokens,
            Ask::get("a.example/").with(
                "authorization",
                &format!("Bearer {}", stranger.token(&claims("https://id.example", "payments"))),
            ),
            401,
        ),
    ];
    let mut wrong = Vec::new();
    for (port, ask, status) in cases {
        let told = ask.of(Version::H1, local(port)).await;
        if told.status != status || (status == 200) != (who(&told) == "a") {
            wrong.push(format!("{ask:?}: {} instead of {status}: {}", told.status, told.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    passed(&backend, 4).await;
}

/// Only so many requests reached the backend.
async fn passed(backend: &AnyBackend, count: usize) {
    eventually(PATIENCE, "the requests that may pass", || backend.seen().len() == count).await;
}

#[tokio::test]
async fn rules_and_tokens_in_plain_resources_decide_who_may_call() {
    rules(Program::Outrigger).await;
}

#[tokio::test]
async fn rules_and_tokens_decide_the_same_in_envoy() {
    rules(Program::Envoy).await;
}
