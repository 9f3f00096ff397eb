//! What is removed from trust: it is gone for new connections, for pools, and for sessions that could be resumed.

use super::{Generation, id, until_served};
use crate::support::pki::Files;
use crate::support::{Call, Config, Conn, H1Backend, H2Backend, PATIENCE, Proxy, TlsClient, TlsServer, h1_client, ms};

fn identity(files: &Files, more: &str) -> String {
    format!(
        "identity: {{ certificate: {}, privateKey: {}, trustBundle: {}{more} }}",
        files.quoted("own.pem"),
        files.quoted("own.key"),
        files.quoted("bundle.pem"),
    )
}

/// A caller that is connected stays; a new connection of the same caller, resumed or not, is refused.
#[tokio::test]
async fn live_connections_outlast_their_root_and_new_ones_do_not_begin_under_it() {
    let (old, new) = (Generation::new(), Generation::new());
    let files = Files::new();
    files.write("bundle.pem", format!("{}{}", old.root.pem, new.root.pem));
    files.write_credential("own", &new.issue("own"));
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(&identity(&files, "")).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    let caller = TlsClient::with(&old.issue("caller")).resuming();
    let mut h1 = caller.h1(proxy.addr()).await;
    assert_eq!(h1.get("/").await.status, 200);
    let h2 = caller.h2(proxy.addr()).await;
    assert_eq!(h2.get("/").await.status, 200);
    // As many sessions as anybody would want to resume, of both versions of the protocol.
    for _ in 0..4 {
        caller.served(proxy.addr()).await;
        caller.h2(proxy.addr()).await.get("/").await;
    }

    files.write("bundle.pem", &new.root.pem);
    until_served(&proxy, &TlsClient::with(&old.issue("caller")), false).await;
    for _ in 0..8 {
        caller.refused(proxy.addr()).await;
        caller.refused_over_h2(proxy.addr()).await;
    }
    assert_eq!(h1.get("/").await.status, 200, "a live connection stays");
    assert_eq!(h2.get("/").await.status, 200, "a live connection stays");
    // Adding the root again makes the old caller welcome again.
    files.write("bundle.pem", format!("{}{}", new.root.pem, old.root.pem));
    until_served(&proxy, &caller, true).await;
}

/// The same for a certificate that was revoked.
#[tokio::test]
async fn a_certificate_is_revoked_while_the_proxy_runs() {
    let ours = Generation::new();
    let files = Files::new();
    files.write("bundle.pem", &ours.root.pem);
    files.write_credential("own", &ours.issue("own"));
    files.write("issuing.crl", ours.issuing.revocations(&[]));
    files.write("root.crl", ours.root.revocations(&[]));
    let lists = format!(", revocationLists: [{}, {}]", files.quoted("issuing.crl"), files.quoted("root.crl"));
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(&identity(&files, &lists)).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    let (credential, neighbour) = (ours.issue("caller"), ours.issue("caller"));
    let caller = TlsClient::with(&credential).resuming();
    for _ in 0..4 {
        caller.served(proxy.addr()).await;
    }
    files.write("issuing.crl", ours.issuing.revocations(&[credential.serial]));
    until_served(&proxy, &TlsClient::with(&credential), false).await;
    for _ in 0..4 {
        caller.refused(proxy.addr()).await;
    }
    TlsClient::with(&neighbour).served(proxy.addr()).await;
    // A list that cannot be read must not undo what the last one said.
    for garbage in ["", "garbage", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
        let before = refusals(&proxy).await;
        files.write("issuing.crl", garbage);
        let start = std::time::Instant::now();
        while refusals(&proxy).await <= before {
            assert!(start.elapsed() < PATIENCE, "the bad list {garbage:?} is refused:\n{}", proxy.stderr());
            tokio::time::sleep(ms(2)).await;
        }
        TlsClient::with(&credential).refused(proxy.addr()).await;
        TlsClient::with(&neighbour).served(proxy.addr()).await;
    }
    // One by somebody else says nothing about ours.
    files.write("issuing.crl", Generation::new().issuing.revocations(&[neighbour.serial]));
    TlsClient::with(&neighbour).served(proxy.addr()).await;
}

async fn refusals(proxy: &Proxy) -> f64 {
    proxy.metric("outrigger_certificate_rotations_total", &["result=\"refused\""]).await
}

/// A pool under a root that is removed takes no new request, though its connections are up; and the endpoint is not
/// reached by resuming a session either.
#[tokio::test]
async fn a_pool_made_under_a_removed_root_takes_no_new_request() {
    for protocol in ["http1", "http2"] {
        let (old, new) = (Generation::new(), Generation::new());
        let files = Files::new();
        files.write("bundle.pem", format!("{}{}", old.root.pem, new.root.pem));
        files.write_credential("own", &new.issue("own"));
        let h1 = H1Backend::ok().await;
        let h2 = H2Backend::ok().await;
        let backend = if protocol == "http1" { h1.addr } else { h2.addr };
        let front = TlsServer::asking(&old.issue("payments")).front(backend).await;
        let config = Config::to(protocol, &[front.addr])
            .top(&identity(&files, ""))
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", id("payments")));
        let proxy = Proxy::start(&config).await;
        for _ in 0..8 {
            assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
        }
        // A root more changes nothing for the pools.
        let another = Generation::new();
        files.write("bundle.pem", format!("{}{}{}", old.root.pem, new.root.pem, another.root.pem));
        wait_for(&proxy, 1.0).await;
        let connections = front.seen().len();
        for _ in 0..8 {
            assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
        }
        assert!(front.seen().len() <= connections + 1, "{protocol}: pools stay when a root is added");

        files.write("bundle.pem", &new.root.pem);
        wait_for(&proxy, 2.0).await;
        let before = h1.requests().len() + h2.count();
        for _ in 0..4 {
            let reply = h1_client::get(proxy.addr(), "/").await;
            assert_eq!(reply.reason(), Some("UF"), "{protocol}: {} {}", reply.status, reply.text());
        }
        assert_eq!(h1.requests().len() + h2.count(), before, "{protocol}: nothing reached the old endpoint");
        front.change(TlsServer::asking(&new.issue("payments")));
        assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200, "{protocol}: under the new root all is well");
    }
}

/// A request under way when its root is removed ends as if nothing had happened.
#[tokio::test]
async fn a_request_under_way_outlasts_the_root_of_its_connection() {
    let (old, new) = (Generation::new(), Generation::new());
    let files = Files::new();
    files.write("bundle.pem", format!("{}{}", old.root.pem, new.root.pem));
    files.write_credential("own", &new.issue("own"));
    let (go, gate) = tokio::sync::watch::channel(false);
    let backend = H2Backend::start(move |mut call: Call| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.ok();
            call.reply(200, "late").await;
        }
    })
    .await;
    let front = TlsServer::asking(&old.issue("payments")).front(backend.addr).await;
    let config = Config::to("http2", &[front.addr])
        .top(&identity(&files, ""))
        .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", id("payments")));
    let proxy = Proxy::start(&config).await;
    let addr = proxy.addr();
    let waiting = tokio::spawn(async move { h1_client::get(addr, "/").await });
    backend.until(PATIENCE, "the request", |calls| calls.len() == 1).await;
    files.write("bundle.pem", &new.root.pem);
    wait_for(&proxy, 1.0).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.reason(), Some("UF"));
    go.send_replace(true);
    assert_eq!(waiting.await.unwrap().text(), "late");
}

/// A rotated leaf keeps the connections that are up: the endpoint does not see the caller again.
#[tokio::test]
async fn a_new_leaf_keeps_the_connections_of_the_old() {
    let ours = Generation::new();
    let files = Files::new();
    files.write("bundle.pem", &ours.root.pem);
    files.write_credential("own", &ours.issue("own"));
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.send(crate::support::response(200, &[], b"ok")).await.ok();
        }
    })
    .await;
    let front = TlsServer::asking(&ours.issue("payments")).front(backend.addr).await;
    let config = Config::to("http1", &[front.addr])
        .top("workers: 1")
        .top(&identity(&files, ""))
        .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", id("payments")));
    let proxy = Proxy::start(&config).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    files.write_credential("own", &ours.issue("own"));
    wait_for(&proxy, 1.0).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    assert_eq!(front.seen().len(), 1, "one handshake");
}

/// Waits until this many rotations were applied.
async fn wait_for(proxy: &Proxy, applied: f64) {
    let start = std::time::Instant::now();
    while proxy.metric("outrigger_certificate_rotations_total", &["result=\"applied\""]).await < applied {
        assert!(start.elapsed() < PATIENCE, "{applied} rotations are applied:\n{}", proxy.stderr());
        tokio::time::sleep(ms(2)).await;
    }
}
