//! Where keys come from: files and servers that change, fail and come back.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::{Keys, bearer, claims, config, get, judged, now, provider, provider_at};
use crate::support::h1_backend::Refusing;
use crate::support::pki::{Authority, Leaf};
use crate::support::signer::{Signer, jwks};
use crate::support::tls::TlsServer;
use crate::support::{Config, H1Backend, H1Client, PATIENCE, Proxy, response};

/// A key set on the web, changed at will; `None` answers 500.
struct Web {
    server: H1Backend,
    document: Arc<Mutex<Option<String>>>,
}

impl Web {
    async fn with(document: Option<String>) -> Self {
        Self::on(Refusing::new(), document)
    }

    fn on(place: Refusing, document: Option<String>) -> Self {
        let document = Arc::new(Mutex::new(document));
        let shared = Arc::clone(&document);
        let server = H1Backend::on(place.listen(), move |mut conn| {
            let shared = Arc::clone(&shared);
            async move {
                while conn.request().await.is_some() {
                    let document = shared.lock().expect("no panic").clone();
                    let answer = match &document {
                        Some(document) => response(200, &[("content-type", "application/json")], document.as_bytes()),
                        None => response(500, &[], b""),
                    };
                    if conn.send(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { server, document }
    }

    fn replace(&self, document: Option<String>) {
        *self.document.lock().expect("no panic") = document;
    }

    fn url(&self) -> String {
        format!("http://{}/keys", self.server.addr)
    }
}

async fn loads(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric("outrigger_jwks_loads_total", &[r#"provider="corp""#, &format!("result=\"{result}\"")]).await
}

async fn until_loads(proxy: &Proxy, result: &str, count: f64) {
    let begun = std::time::Instant::now();
    while loads(proxy, result).await < count {
        assert!(begun.elapsed() < PATIENCE, "{count} times {result}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_keys_nobody_is_believed_and_with_the_last_good_ones_everybody_still_is() {
    let signer = Signer::new("ES256", "one");
    let (backend, place) = (H1Backend::ok().await, Refusing::new());
    let jwks_at = format!("{{ url: \"http://{}/keys\", refresh: 1s }}", place.addr);
    let proxy =
        Proxy::start(&config(&backend, &provider_at(&jwks_at, ""), "{ providers: [corp], required: false }")).await;
    let token = signer.token(&claims());
    until_loads(&proxy, "failure", 1.0).await;
    let told = bearer(&proxy, &token).await;
    assert_eq!((told.status, told.reason()), (503, Some("JWT")), "the token was not judged");
    assert!(!told.head.has("www-authenticate"));
    assert_eq!(judged(&proxy, "no-keys").await, 1.0);
    assert_eq!(get(&proxy, "/", "").await.status, 200, "who has no token needs no keys");
    assert_eq!(proxy.metric("outrigger_jwks_keys", &[]).await, 0.0);

    let web = Web::on(place, Some(jwks(&[&signer])));
    until_loads(&proxy, "success", 1.0).await;
    assert_eq!(bearer(&proxy, &token).await.status, 200);
    assert_eq!(proxy.metric("outrigger_jwks_keys", &[]).await, 1.0);
    let since = proxy.metric("outrigger_jwks_last_success_timestamp_seconds", &[]).await;
    assert!((since - now() as f64).abs() < 60.0);

    for document in [None, Some("<html>".to_owned()), Some(r#"{"keys":[]}"#.to_owned())] {
        web.replace(document);
        let before = loads(&proxy, "failure").await;
        until_loads(&proxy, "failure", before + 1.0).await;
        assert_eq!(bearer(&proxy, &signer.token(&claims())).await.status, 200, "the last good keys stay");
    }
    assert!(proxy.stderr().contains("the keys of a token provider cannot be had"), "{}", proxy.stderr());
}

#[tokio::test]
async fn a_key_that_is_not_there_yet_is_asked_for_once() {
    let (old, new) = (Signer::new("ES256", "old"), Signer::new("EdDSA", "new"));
    let backend = H1Backend::ok().await;
    let web = Web::with(Some(jwks(&[&old]))).await;
    let jwks_at = format!("{{ url: \"{}\", refresh: 10m }}", web.url());
    let proxy = Proxy::start(&config(&backend, &provider_at(&jwks_at, ""), "{ providers: [corp] }")).await;
    until_loads(&proxy, "success", 1.0).await;
    assert_eq!(bearer(&proxy, &old.token(&claims())).await.status, 200);

    web.replace(Some(jwks(&[&new, &old])));
    for _ in 0..50 {
        assert_eq!(bearer(&proxy, &new.token(&claims())).await.status, 401, "no request waits for keys");
    }
    until_loads(&proxy, "success", 2.0).await;
    assert_eq!(bearer(&proxy, &new.token(&claims())).await.status, 200);
    assert_eq!(bearer(&proxy, &old.token(&claims())).await.status, 200);
    assert_eq!(web.server.requests().len(), 2, "fifty tokens are one question");
}

#[tokio::test]
async fn keys_that_a_file_no_longer_has_are_not_believed_any_more() {
    let (old, new) = (Signer::new("ES256", "old"), Signer::new("EdDSA", "new"));
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&old]));
    let proxy = Proxy::start(&config(&backend, &provider(&keys.path(), ""), "{ providers: [corp] }")).await;
    let (first, second) = (old.token(&claims()), new.token(&claims()));
    let mut client = H1Client::connect(proxy.addr()).await;
    let request = |token: &str| format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
    assert_eq!(client.exchange(request(&first)).await.status, 200);
    assert_eq!(client.exchange(request(&second)).await.status, 401);
    keys.replace(&[&old, &new]);
    let begun = std::time::Instant::now();
    while client.exchange(request(&second)).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "the new key is read");
    }
    assert_eq!(client.exchange(request(&first)).await.status, 200, "both, while they overlap");
    keys.replace(&[&new]);
    let begun = std::time::Instant::now();
    while client.exchange(request(&first)).await.status != 401 {
        assert!(begun.elapsed() < PATIENCE, "the old key is forgotten, and what was verified with it");
    }
    assert_eq!(client.exchange(request(&second)).await.status, 200);
}

#[tokio::test]
async fn keys_come_over_tls_from_a_server_that_is_believed() {
    let signer = Signer::new("ES256", "one");
    let backend = H1Backend::ok().await;
    let web = Web::with(Some(jwks(&[&signer]))).await;
    let (root, other) = (Authority::root("web"), Authority::root("other"));
    let leaf = Leaf::new().address("127.0.0.1".parse().expect("an address"));
    let front = TlsServer::with(&root.issue(&leaf)).front(web.server.addr).await;
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("roots.pem");
    std::fs::write(&bundle, &other.pem).expect("written");
    let url = format!("https://{}/keys", front.addr);
    let jwks_at = format!("{{ url: \"{url}\", refresh: 1s, trustBundle: {} }}", bundle.display());
    let proxy = Proxy::start(&config(&backend, &provider_at(&jwks_at, ""), "{ providers: [corp] }")).await;
    until_loads(&proxy, "failure", 1.0).await;
    assert_eq!(bearer(&proxy, &signer.token(&claims())).await.status, 503);
    assert_eq!(web.server.requests().len(), 0, "nothing is asked of a stranger");
    std::fs::write(&bundle, &root.pem).expect("written");
    until_loads(&proxy, "success", 1.0).await;
    assert_eq!(bearer(&proxy, &signer.token(&claims())).await.status, 200);
}

#[tokio::test]
async fn a_provider_that_a_change_brings_has_its_keys_with_the_first_request() {
    let (corp, partner) = (Signer::new("ES256", "k"), Signer::new("EdDSA", "k"));
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&corp]));
    let web = Web::with(Some(jwks(&[&partner]))).await;
    let before = provider(&keys.path(), "");
    let proxy = Proxy::start(&config(&backend, &before, "{ providers: [corp] }")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let request = |token: &str| format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
    let theirs = json!({ "iss": "https://partner.example", "aud": "payments", "exp": now() + 600 });
    let (ours, theirs) = (corp.token(&claims()), partner.token(&theirs));
    assert_eq!(client.exchange(request(&theirs)).await.status, 401);
    let after = format!(
        "{before}  partner: {{ issuer: https://partner.example, audiences: [payments], jwks: {{ url: \"{}\" }} }}\n",
        web.url()
    );
    proxy.replace_config(&config(&backend, &after, "{ providers: [corp, partner] }"));
    proxy.logged("generation=2").await;
    assert_eq!(client.exchange(request(&theirs)).await.status, 200);
    assert_eq!(client.exchange(request(&ours)).await.status, 200);
    proxy.replace_config(&Config::to("http1", &[backend.addr]));
    proxy.logged("generation=3").await;
    assert_eq!(client.exchange(request("x")).await.status, 200);
    let (_, metrics) = proxy.admin("/metrics").await;
    assert!(metrics.contains("outrigger_jwks_keys"), "the last scrape still sees them");
}
