//! Strictness rehearsed: a permissive listener says who could no longer connect if it were strict, or if another
//! trust bundle were in effect, and harms nobody.

use std::time::Instant;

use crate::support::pki::Authority;
use crate::support::{Config, H1Backend, H1Client, H2Client, Mesh, PATIENCE, Proxy, TlsClient, h1_client, ms};

struct Rehearsed {
    mesh: Mesh,
    next: Authority,
    proxy: Proxy,
    _backend: H1Backend,
}

/// A permissive listener with these proposals: `proposedMode: strict`, and a proposed bundle if `bundle`.
async fn rehearsed(mode: &str, bundle: bool) -> Rehearsed {
    let mesh = Mesh::new();
    let next = Authority::root("next root");
    mesh.files.write("next.pem", &next.pem);
    // What is in effect believes both.
    mesh.files.write("bundle.pem", format!("{}{}", mesh.root.pem, next.pem));
    let mut identity = mesh.identity_open("shop/web");
    if bundle {
        identity += &format!(", proposedTrustBundle: {}", mesh.files.quoted("next.pem"));
    }
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr])
        .top(&format!("{identity} }}"))
        .listener(&format!("tls: {{ mode: permissive{mode} }}"));
    Rehearsed { mesh, next, proxy: Proxy::start(&config).await, _backend: backend }
}

impl Rehearsed {
    /// What the admin server says of the listener `in`.
    async fn report(&self) -> serde_json::Value {
        let report = self.proxy.admin_json("/rehearsal").await;
        let listeners = report["listeners"].as_array().unwrap_or_else(|| panic!("a list: {report}"));
        listeners.iter().find(|l| l["listener"] == "in").unwrap_or_else(|| panic!("the listener: {report}")).clone()
    }

    /// Waits for a report that satisfies a condition: a connection is known a moment after it was served.
    async fn until(&self, what: &str, condition: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let start = Instant::now();
        loop {
            let report = self.report().await;
            if condition(&report) {
                return report;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {report:#}");
            tokio::time::sleep(ms(5)).await;
        }
    }

    async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.proxy.metric(name, &[&["listener=\"in\""], labels].concat()).await
    }
}

#[tokio::test]
async fn plaintext_callers_are_named_before_the_listener_is_strict() {
    let rehearsed = rehearsed(", proposedMode: strict", false).await;
    let report = rehearsed.report().await;
    assert_eq!(report["safe"], false, "without a caller nothing is known: {report:#}");

    let cart = TlsClient::with(&rehearsed.mesh.svid("shop/cart"));
    let web = TlsClient::with(&rehearsed.mesh.svid("shop/web"));
    cart.served(rehearsed.proxy.addr()).await;
    web.served(rehearsed.proxy.addr()).await;
    let report = rehearsed.until("two peers", |r| r["peers"]["total"] == 2).await;
    assert_eq!(report["safe"], true, "{report:#}");
    assert!(report["summary"].as_str().unwrap().contains("0 of 2 peers plaintext"), "{report:#}");
    assert_eq!(rehearsed.metric("outrigger_rehearsal_safe", &[]).await, 1.0);

    // One caller in plaintext, of either version: that is who would be hit.
    assert_eq!(h1_client::get(rehearsed.proxy.addr(), "/").await.status, 200);
    assert_eq!(H2Client::connect(rehearsed.proxy.addr()).await.get("/").await.status, 200);
    let report = rehearsed.until("plaintext peers", |r| r["peers"]["plaintext"].as_u64() > Some(0)).await;
    assert_eq!(report["safe"], false, "{report:#}");
    assert!(report["summary"].as_str().unwrap().contains("1 of 3 peers plaintext"), "{report:#}");
    let offender = &report["offenders"][0];
    assert_eq!(offender["address"], "127.0.0.1", "{report:#}");
    assert_eq!(offender["port"], rehearsed.proxy.addr().port(), "{report:#}");
    assert_eq!(offender["reason"], "plaintext", "{report:#}");
    rehearsed.until("both connections", |r| r["offenders"][0]["connections"] == 2).await;
    assert_eq!(rehearsed.metric("outrigger_rehearsal_safe", &[]).await, 0.0);
    assert_eq!(rehearsed.metric("outrigger_rehearsal_peers", &["kind=\"plaintext\""]).await, 1.0);
    assert_eq!(rehearsed.metric("outrigger_rehearsal_peers", &["kind=\"tls\""]).await, 2.0);
}

#[tokio::test]
async fn callers_that_a_proposed_bundle_would_refuse_are_named_and_served() {
    let rehearsed = rehearsed(", proposedMode: strict", true).await;
    let addr = rehearsed.proxy.addr();
    let new = TlsClient::with(&rehearsed.next.issue(&rehearsed.mesh.leaf("shop/pay")));
    let old = TlsClient::with(&rehearsed.mesh.svid("shop/cart"));
    new.served(addr).await;
    let report = rehearsed.until("the new one", |r| r["peers"]["total"] == 1).await;
    assert_eq!(report["safe"], true, "{report:#}");
    old.served(addr).await;
    old.served(addr).await;
    let report = rehearsed.until("the old one", |r| r["peers"]["untrusted"] == 1).await;
    assert_eq!(report["safe"], false, "{report:#}");
    let offender = &report["offenders"][0];
    assert_eq!(offender["identity"], rehearsed.mesh.id("shop/cart"), "{report:#}");
    assert_eq!(offender["reason"], "unknown-issuer", "{report:#}");
    assert!(report["summary"].as_str().unwrap().contains("1 of 2 peers untrusted"), "{report:#}");
    assert_eq!(rehearsed.metric("outrigger_rehearsal_peers", &["kind=\"untrusted\""]).await, 1.0);
    assert_eq!(rehearsed.metric("outrigger_rehearsal_offenders", &[]).await, 1.0);

    // Once the caller has a certificate under the proposed root, it is no longer in the way.
    TlsClient::with(&rehearsed.next.issue(&rehearsed.mesh.leaf("shop/cart"))).served(addr).await;
    let report = rehearsed.until("nobody in the way", |r| r["safe"] == true).await;
    assert!(report["summary"].as_str().unwrap().contains("0 of 2"), "{report:#}");
}

/// The prophecy comes true: whom the rehearsal named is refused when the proposal takes effect, and no other.
#[tokio::test]
async fn what_was_rehearsed_is_what_happens() {
    let rehearsed = rehearsed(", proposedMode: strict", true).await;
    let addr = rehearsed.proxy.addr();
    let new = TlsClient::with(&rehearsed.next.issue(&rehearsed.mesh.leaf("shop/pay")));
    let old = TlsClient::with(&rehearsed.mesh.svid("shop/cart"));
    new.served(addr).await;
    old.served(addr).await;
    assert_eq!(h1_client::get(addr, "/").await.status, 200);
    rehearsed.until("all three", |r| r["offenders"].as_array().map(Vec::len) == Some(2)).await;
    // The proposal becomes the rule.
    rehearsed.mesh.files.write("bundle.pem", &rehearsed.next.pem);
    rehearsed.mesh.files.write_credential("shop-web", &rehearsed.next.issue(&rehearsed.mesh.leaf("shop/web")));
    let text = std::fs::read_to_string(rehearsed.proxy.config_path()).unwrap();
    rehearsed.proxy.replace_yaml(&text.replace("mode: permissive, proposedMode: strict", "mode: strict"));
    let start = Instant::now();
    while old.attempt(addr).await.is_ok() || plain_is_served(addr).await {
        assert!(start.elapsed() < PATIENCE, "the offenders are refused:\n{}", rehearsed.proxy.stderr());
        tokio::time::sleep(ms(5)).await;
    }
    new.served(addr).await;
}

async fn plain_is_served(addr: std::net::SocketAddr) -> bool {
    let mut client = H1Client::connect(addr).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
    client.rest(PATIENCE).await.starts_with(b"HTTP/1.1 200")
}

/// A permissive listener is always on its way to strict; one that is strict already rehearses nothing but trust.
#[tokio::test]
async fn a_permissive_listener_counts_plaintext_without_being_asked_to() {
    let rehearsed = rehearsed("", false).await;
    h1_client::get(rehearsed.proxy.addr(), "/").await;
    rehearsed.until("the caller", |r| r["peers"]["plaintext"] == 1).await;

    let mesh = Mesh::new();
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(&mesh.identity("shop/web")).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    TlsClient::with(&mesh.svid("shop/cart")).served(proxy.addr()).await;
    let report = proxy.admin_json("/rehearsal").await;
    assert!(report["listeners"].as_array().is_some_and(Vec::is_empty), "{report:#}");
    assert!(!proxy.admin("/metrics").await.1.contains("outrigger_rehearsal"));
}

/// Refused already, a caller is not in the way of anything.
#[tokio::test]
async fn callers_that_are_refused_now_are_not_counted() {
    let rehearsed = rehearsed(", proposedMode: strict", true).await;
    let stranger = Mesh::named("stranger.example");
    TlsClient::with(&stranger.svid("shop/cart")).refused(rehearsed.proxy.addr()).await;
    TlsClient::anonymous().refused(rehearsed.proxy.addr()).await;
    TlsClient::with(&rehearsed.next.issue(&rehearsed.mesh.leaf("shop/pay"))).served(rehearsed.proxy.addr()).await;
    let report = rehearsed.until("the good one", |r| r["peers"]["total"].as_u64() > Some(0)).await;
    assert_eq!(report["peers"]["total"], 1, "{report:#}");
    assert_eq!(report["safe"], true, "{report:#}");
}
