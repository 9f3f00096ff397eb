//! HTTP/3 to upstreams: between two proxies over QUIC with mutual TLS, by order or because it is offered, and what happens
//! when datagrams are lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::any::{AnyBackend, AnyClient, Message, Version};
use crate::support::relay::Relay;
use crate::support::{Config, H1Backend, H1Client, Mesh, PATIENCE, Proxy, h1_client, ms, response, within};

/// Two proxies on the way to an application: mutual TLS between them, over TCP and over QUIC.
pub struct Hop {
    pub mesh: Mesh,
    /// Beside the caller.
    pub outbound: Proxy,
    /// Beside the application.
    pub inbound: Proxy,
}

impl Hop {
    /// `between` the proxies, and to the application.
    pub async fn start((between, protocol): (&str, &str), application: SocketAddr) -> Self {
        Self::with((between, protocol), application, "http3: true").await
    }

    async fn with((between, protocol): (&str, &str), application: SocketAddr, http3: &str) -> Self {
        let mesh = Mesh::new();
        let inbound = Config::to(protocol, &[application])
            .top(&mesh.identity("shop/pay"))
            .listener("tls: { mode: strict }")
            .listener(http3)
            .listener("clientCertHeader: set");
        let inbound = Proxy::start(&inbound).await;
        let outbound = Config::to(between, &[inbound.addr()])
            .top(&mesh.identity("shop/cart"))
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/pay")));
        let outbound = Proxy::start(&outbound).await;
        Self { mesh, outbound, inbound }
    }

    /// Where the calling application connects.
    pub fn addr(&self) -> SocketAddr {
        self.outbound.addr()
    }

    /// Requests that the outbound proxy sent over a protocol.
    async fn requests(&self, protocol: &str) -> f64 {
        let label = format!("protocol=\"{protocol}\"");
        self.outbound.metric("outrigger_upstream_protocol_requests_total", &[&label]).await
    }

    async fn connects(&self, protocol: &str) -> f64 {
        let label = format!("protocol=\"{protocol}\"");
        self.outbound.metric("outrigger_upstream_protocol_connects_total", &[&label]).await
    }

    /// What `/clusters` says of HTTP/3 at the only endpoint.
    async fn standing(&self) -> Option<String> {
        let clusters = self.outbound.admin_json("/clusters").await;
        clusters[0]["endpoints"][0]["http3"]["state"].as_str().map(str::to_owned)
    }

    /// Asks until `requests` more went over HTTP/3.
    async fn goes_over_http3(&self, requests: f64) {
        let before = self.requests("http3").await;
        let mut client = H1Client::connect(self.addr()).await;
        let asked = async {
            while self.requests("http3").await < before + requests {
                let told = client.get("/").await;
                assert_eq!(told.status, 200, "{}", told.text());
            }
        };
        within(PATIENCE, "requests over HTTP/3", asked).await;
    }
}

#[tokio::test]
async fn the_mesh_speaks_http3_with_mutual_tls() {
    for (down, up) in [(Version::H1, Version::H2), (Version::H2, Version::H1)] {
        let application = AnyBackend::with(up, |seen| {
            let mut answer = Message::body(format!("{} {}", seen.method, seen.body.len())).field("x-answer", "yes");
            if seen.target == "/trailers" {
                answer = answer.trailer("x-sum", "42");
            }
            (201, answer)
        })
        .await;
        let hop = Hop::start(("http3", up.protocol()), application.addr()).await;
        let mut client = AnyClient::connect(down, hop.addr()).await;
        let told =
            client.call("POST", "/v1/charges?q=1", &Message::body(vec![b'x'; 1_000_000]).field("x-asked", "a")).await;
        assert_eq!((told.status, told.text().as_str()), (201, "POST 1000000"), "{down:?}");
        assert_eq!(told.get("x-answer"), Some("yes"), "{down:?}");
        let seen = application.only();
        assert_eq!((seen.target.as_str(), seen.get("host")), ("/v1/charges?q=1", Some("a.example")), "{down:?}");
        assert_eq!(seen.get("x-asked"), Some("a"), "{down:?}");
        let header = seen.get("x-forwarded-client-cert").expect("who called").to_owned();
        assert!(header.contains(&format!("URI={}", hop.mesh.id("shop/cart"))), "{down:?}: {header}");
        let told = client.get("/trailers").await;
        if down == Version::H2 {
            assert_eq!(told.trailers, [("x-sum".to_owned(), "42".to_owned())]);
        }
        assert_eq!((hop.requests("http3").await, hop.requests("http2").await), (2.0, 0.0));
        assert!((1.0..=2.0).contains(&hop.connects("http3").await), "one for each worker at most");
    }
}

#[tokio::test]
async fn a_proxy_that_ends_tells_its_upstreams_over_quic() {
    for signals in [1, 2] {
        let application = H1Backend::ok().await;
        let mut hop = Hop::start(("http3", "http1"), application.addr).await;
        assert_eq!(h1_client::get(hop.addr(), "/").await.status, 200);
        assert!(hop.inbound.metric("outrigger_quic_connections", &["listener=\"in\""]).await >= 1.0);
        for _ in 0..signals {
            hop.outbound.signal("TERM");
        }
        hop.outbound.exit(Duration::from_secs(10)).await;
        // Without a word it would be there for as long as idle connections are borne.
        let told =
            async { while hop.inbound.metric("outrigger_quic_connections", &["listener=\"in\""]).await > 0.0 {} };
        within(ms(1000), "the end of the connection", told).await;
    }
}

#[tokio::test]
async fn an_http3_cluster_has_no_other_way() {
    let application = H1Backend::ok().await;
    let mesh = Mesh::new();
    // It speaks HTTP/2 with TLS at the same port.
    let inbound =
        Config::to("http1", &[application.addr]).top(&mesh.identity("shop/pay")).listener("tls: { mode: strict }");
    let inbound = Proxy::start(&inbound).await;
    let outbound = Config::to("http3", &[inbound.addr()])
        .top(&mesh.identity("shop/cart"))
        .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/pay")))
        .upstream("connection: { connectTimeout: 200ms }");
    let outbound = Proxy::start(&outbound).await;
    let told = h1_client::get(outbound.addr(), "/").await;
    assert_eq!((told.status, told.reason()), (503, Some("UF")), "{}", told.text());
    assert!(application.requests().is_empty());
}

#[tokio::test]
async fn what_is_offered_is_learned_and_not_passed_on() {
    let application = H1Backend::ok().await;
    let hop = Hop::start(("auto", "http1"), application.addr).await;
    let first = h1_client::get(hop.addr(), "/").await;
    assert_eq!((first.status, first.head.get("alt-svc")), (200, None), "it is meant for the proxy");
    assert_eq!(hop.standing().await.as_deref(), Some("advertised"));
    hop.goes_over_http3(5.0).await;
    assert!(hop.requests("http2").await >= 1.0, "the first could not know");
    assert_eq!(hop.outbound.metric("outrigger_upstream_http3_failures_total", &[]).await, 0.0);
}

#[tokio::test]
async fn what_a_cluster_of_one_protocol_is_offered_is_passed_on() {
    let application = H1Backend::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send(response(200, &[("alt-svc", "h3=\":443\"")], b"ok")).await.ok();
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("auto", &[application.addr])).await;
    let told = h1_client::get(proxy.addr(), "/").await;
    assert_eq!(told.head.get("alt-svc"), Some("h3=\":443\""), "without TLS it was not for the proxy");
}

#[tokio::test]
async fn when_datagrams_are_lost_requests_go_on_over_tcp_within_a_second_and_come_back() {
    let application = H1Backend::ok().await;
    let relay = Relay::start().await;
    let http3 = format!("http3: {{ advertise: {} }}", relay.port());
    let hop = Hop::with(("auto", "http1"), application.addr, &http3).await;
    relay.lead_to(hop.inbound.addr());
    assert_eq!(h1_client::get(hop.addr(), "/").await.status, 200);
    hop.goes_over_http3(10.0).await;

    let load = Load::start(hop.addr(), 8);
    load.until(200).await;
    let over_tcp = hop.requests("http2").await;
    relay.block(true);
    let blocked = load.done();
    load.until(blocked + 400).await;
    assert_eq!(hop.standing().await.as_deref(), Some("broken"));
    assert!(hop.requests("http2").await >= over_tcp + 300.0, "they went over TCP");
    assert!(hop.outbound.metric("outrigger_upstream_http3_failures_total", &["cause=\"silent\""]).await >= 1.0);
    assert!(hop.outbound.metric("outrigger_upstream_http3_fallbacks_total", &[]).await >= 1.0);

    relay.block(false);
    let before = hop.requests("http3").await;
    let back = async {
        while hop.requests("http3").await < before + 100.0 {
            tokio::time::sleep(ms(20)).await;
        }
    };
    within(PATIENCE, "requests over HTTP/3 again", back).await;
    let slowest = load.end().await;
    assert!(slowest < Duration::from_secs(1), "the slowest took {slowest:?}");
}

/// Callers that ask again and again, and take nothing but 200.
struct Load {
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    callers: JoinSet<Duration>,
}

impl Load {
    fn start(addr: SocketAddr, callers: usize) -> Self {
        let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut all = JoinSet::new();
        for _ in 0..callers {
            let (done, over) = (Arc::clone(&done), Arc::clone(&over));
            all.spawn(async move {
                let mut client = H1Client::connect(addr).await;
                let mut slowest = Duration::ZERO;
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let told = client.get("/").await;
                    assert_eq!(told.status, 200, "{}", told.text());
                    slowest = slowest.max(asked.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                slowest
            });
        }
        Self { done, over, callers: all }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    async fn until(&self, done: u64) {
        let asked = async {
            while self.done() < done {
                tokio::time::sleep(ms(5)).await;
            }
        };
        within(PATIENCE, "answers", asked).await;
    }

    /// What the slowest answer took.
    async fn end(mut self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        let mut slowest = Duration::ZERO;
        while let Some(ended) = within(PATIENCE, "the callers", self.callers.join_next()).await {
            slowest = slowest.max(ended.expect("no panic"));
        }
        slowest
    }
}
