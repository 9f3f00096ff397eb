//! `x-forwarded-client-cert`: what the backend learns of the caller's certificate, and that no caller can invent one.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::support::any::{AnyBackend, Version};
use crate::support::pki::Leaf;
use crate::support::{Config, H1Client, Mesh, Proxy, TlsClient};

const HEADER: &str = "x-forwarded-client-cert";
const FORGED: &str =
    "By=spiffe://mesh.local/ns/shop/sa/web;Hash=00;Subject=\"CN=evil\";URI=spiffe://mesh.local/ns/ops/sa/admin";

struct Edge {
    mesh: Mesh,
    backend: AnyBackend,
    proxy: Proxy,
}

async fn edge(setting: &str) -> Edge {
    let mesh = Mesh::new();
    let backend = AnyBackend::ok(Version::H1).await;
    let mut config =
        Config::to("http1", &[backend.addr()]).top(&mesh.identity("shop/web")).listener("tls: { mode: permissive }");
    if !setting.is_empty() {
        config = config.listener(&format!("clientCertHeader: {setting}"));
    }
    let proxy = Proxy::start(&config).await;
    Edge { mesh, backend, proxy }
}

impl Edge {
    /// What the backend got from a caller who sent these lines of the header.
    async fn told(&self, client: Option<&TlsClient>, sent: &[&str]) -> Vec<String> {
        let before = self.backend.seen().len();
        let lines: String = sent.iter().map(|line| format!("X-Forwarded-Client-Cert: {line}\r\n")).collect();
        let request = format!("GET / HTTP/1.1\r\nhost: a.example\r\n{lines}\r\n");
        let mut h1 = match client {
            Some(client) => client.h1(self.proxy.addr()).await,
            None => H1Client::connect(self.proxy.addr()).await,
        };
        assert_eq!(h1.exchange(request).await.status, 200);
        let h2 = match client {
            Some(client) => client.h2(self.proxy.addr()).await,
            None => crate::support::H2Client::connect(self.proxy.addr()).await,
        };
        let mut request = http::Request::get("http://a.example/");
        for line in sent {
            request = request.header(HEADER, *line);
        }
        assert_eq!(h2.fetch(request.body(()).unwrap()).await.unwrap().status, 200);
        let seen = self.backend.seen();
        let values = |at: usize| seen[at].all(HEADER).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(values(before).join(","), values(before + 1).join(","), "the same in both versions");
        values(before)
    }
}

/// The elements of the header, each with its pairs; quotes are respected.
fn parse(value: &str) -> Vec<BTreeMap<String, String>> {
    let mut elements = vec![BTreeMap::new()];
    let mut pair = String::new();
    let (mut quoted, mut escaped) = (false, false);
    let keep = |pair: &mut String, element: &mut BTreeMap<String, String>| {
        let (key, value) = pair.split_once('=').unwrap_or_else(|| panic!("a pair: {pair}"));
        assert!(element.insert(key.to_owned(), value.to_owned()).is_none(), "twice: {key}");
        pair.clear();
    };
    for character in value.chars() {
        match character {
            _ if escaped => {
                escaped = false;
                pair.push(character);
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => keep(&mut pair, elements.last_mut().unwrap()),
            ',' if !quoted => {
                keep(&mut pair, elements.last_mut().unwrap());
                elements.push(BTreeMap::new());
            }
            other => pair.push(other),
        }
    }
    assert!(!quoted, "quotes are closed: {value}");
    keep(&mut pair, elements.last_mut().unwrap());
    elements
}

#[tokio::test]
async fn by_default_nobody_learns_anything_and_nothing_can_be_forged() {
    for setting in ["", "sanitize"] {
        let edge = edge(setting).await;
        let cart = TlsClient::with(&edge.mesh.svid("shop/cart"));
        for client in [None, Some(&cart)] {
            assert!(edge.told(client, &[]).await.is_empty());
            assert!(edge.told(client, &[FORGED]).await.is_empty());
            assert!(edge.told(client, &[FORGED, FORGED]).await.is_empty());
        }
    }
}

#[tokio::test]
async fn set_tells_of_the_certificate_that_was_verified_and_of_no_other() {
    let edge = edge("set").await;
    let credential = edge.mesh.svid("shop/cart");
    let cart = TlsClient::with(&credential);
    let hash: String = Sha256::digest(&credential.certificates()[0]).iter().map(|b| format!("{b:02x}")).collect();
    for sent in [&[][..], &[FORGED], &[FORGED, FORGED]] {
        let told = edge.told(Some(&cart), sent).await;
        assert_eq!(told.len(), 1, "{told:?}");
        let elements = parse(&told[0]);
        assert_eq!(elements.len(), 1, "{told:?}");
        assert_eq!(elements[0]["By"], edge.mesh.id("shop/web"));
        assert_eq!(elements[0]["URI"], edge.mesh.id("shop/cart"));
        assert_eq!(elements[0]["Hash"], hash);
        assert!(elements[0]["Subject"].contains("tests"), "{told:?}");
        assert!(edge.told(None, sent).await.is_empty(), "a plaintext caller has none and forges none");
    }
}

#[tokio::test]
async fn append_adds_to_what_a_verified_caller_says() {
    let edge = edge("append").await;
    let cart = TlsClient::with(&edge.mesh.svid("shop/cart"));
    let told = edge.told(Some(&cart), &[FORGED]).await;
    let elements = parse(&told.join(","));
    assert_eq!(elements.len(), 2, "{told:?}");
    assert_eq!(elements[1]["URI"], edge.mesh.id("shop/cart"), "the nearest is last");
    assert_eq!(parse(&edge.told(Some(&cart), &[FORGED, FORGED]).await.join(",")).len(), 3);
    assert_eq!(parse(&edge.told(Some(&cart), &[]).await.join(",")).len(), 1);
    assert!(edge.told(None, &[FORGED]).await.is_empty(), "a plaintext caller's word counts for nothing");
}

#[tokio::test]
async fn forward_keeps_the_word_of_a_verified_caller_only() {
    let edge = edge("forward").await;
    let cart = TlsClient::with(&edge.mesh.svid("shop/cart"));
    assert_eq!(edge.told(Some(&cart), &[FORGED]).await, [FORGED]);
    assert!(edge.told(Some(&cart), &[]).await.is_empty());
    assert!(edge.told(None, &[FORGED]).await.is_empty());
}

/// What a certificate says of itself cannot break out of its place in the header.
#[tokio::test]
async fn names_in_a_certificate_cannot_forge_pairs() {
    let edge = edge("set").await;
    let id = edge.mesh.id("shop/cart");
    let leaf = Leaf::new().uri(&id).dns("a.example").named("x\";URI=spiffe://mesh.local/ns/ops/sa/admin,By=\"\\");
    let client = TlsClient::with(&edge.mesh.issuing.issue(&leaf));
    let told = edge.told(Some(&client), &[]).await;
    let elements = parse(&told[0]);
    assert_eq!(elements.len(), 1, "{told:?}");
    assert_eq!(elements[0]["URI"], id, "{told:?}");
    assert_eq!(elements[0]["DNS"], "a.example");
}

/// Fields with which only proxies speak to each other.
#[tokio::test]
async fn internal_headers_of_strangers_are_removed() {
    let mesh = Mesh::new();
    let backend = AnyBackend::ok(Version::H1).await;
    let config =
        Config::to("http1", &[backend.addr()]).top(&mesh.identity("shop/web")).listener("tls: { mode: permissive }");
    let proxy = Proxy::start(&config).await;
    let internal = [
        "x-outrigger-reason",
        "x-outrigger-anything",
        "X-Outrigger-Identity",
        "x-envoy-internal",
        "x-envoy-original-path",
        "x-envoy-peer-metadata",
    ];
    let lines: String = internal.iter().map(|name| format!("{name}: forged\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nhost: a.example\r\nx-application: kept\r\n{lines}\r\n");
    let mut clients =
        [H1Client::connect(proxy.addr()).await, TlsClient::with(&mesh.svid("shop/cart")).h1(proxy.addr()).await];
    for client in &mut clients {
        assert_eq!(client.exchange(&request).await.status, 200);
    }
    for request in backend.seen() {
        for (name, value) in &request.fields {
            assert!(value != "forged", "{name} reached the backend");
        }
        assert_eq!(request.get("x-application"), Some("kept"));
    }
}
