//! Copies of requests, over real sockets.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use crate::support::h1_backend::Refusing;
use crate::support::{
    Config, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, eventually, h1_client, h2_client, within,
};

fn config(backend: std::net::SocketAddr, mirror: std::net::SocketAddr, settings: &str) -> Config {
    Config::to("http1", &[backend])
        .cluster("m", "http1", &[mirror])
        .rule(&format!("filters: [{{ mirror: {{ cluster: m{settings} }} }}]"))
}

async fn mirrored(proxy: &Proxy, result: &str, wanted: f64) {
    let labels = [r#"cluster="m""#, &*format!("result=\"{result}\"")];
    within(PATIENCE, &format!("{wanted} copies {result}"), async {
        while proxy.metric("outrigger_mirrored_requests_total", &labels).await != wanted
            || proxy.metric("outrigger_mirrored_requests_in_flight", &[]).await > 0.0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_copy_has_the_same_head_and_body_and_says_that_it_is_one() {
    let (backend, mirror) = (H1Backend::ok().await, H1Backend::named("other").await);
    let proxy = Proxy::start(&config(backend.addr, mirror.addr, "")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for body in ["", "hello"] {
        let request =
            format!("POST /p?q=1 HTTP/1.1\r\nhost: a\r\nx-a: 1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer = client.exchange(request).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "the mirror's answer is nobody's");
    }
    mirrored(&proxy, "answered", 2.0).await;
    for (original, copy) in backend.requests().iter().zip(&mirror.requests()) {
        assert_eq!((&original.target, &original.body), (&copy.target, &copy.body));
        for name in ["host", "x-a", "x-request-id", "content-length", "x-forwarded-for"] {
            assert_eq!(original.head.all(name), copy.head.all(name), "{name}");
        }
        assert_eq!((original.head.get("x-outrigger-mirror"), copy.head.get("x-outrigger-mirror")), (None, Some("1")));
    }
    assert_eq!((backend.requests().len(), mirror.requests().len()), (2, 2));
    backend.assert_clean();
    mirror.assert_clean();
}

#[tokio::test]
async fn a_share_of_the_requests_is_copied() {
    let (backend, mirror) = (H1Backend::ok().await, H1Backend::ok().await);
    let proxy = Proxy::start(&config(backend.addr, mirror.addr, ", percent: 25")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..400 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    }
    let copies = mirror.requests().len();
    // Standard deviation 9; a few may be on the way.
    assert!((50..=150).contains(&copies), "{copies}");
}

#[tokio::test]
async fn a_mirror_that_fails_or_hangs_costs_the_request_nothing() {
    let backend = H1Backend::ok().await;
    let silent = H1Backend::start(|mut connection| async move {
        connection.request().await;
        connection.closed().await;
    })
    .await;
    let resets = H1Backend::start(|mut connection| async move {
        connection.request().await;
        connection.reset();
    })
    .await;
    let nobody = Refusing::new();
    for (mirror, failed) in [(silent.addr, 0.0), (resets.addr, 3.0), (nobody.addr, 3.0)] {
        let proxy = Proxy::start(&config(backend.addr, mirror, "")).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        for _ in 0..3 {
            let answer = client.exchange("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
            assert_eq!(answer.status, 200);
        }
        if failed > 0.0 {
            mirrored(&proxy, "failed", failed).await;
        } else {
            assert_eq!(proxy.metric("outrigger_mirrored_requests_in_flight", &[]).await, 3.0);
        }
    }
    backend.assert_clean();
}

#[tokio::test]
async fn only_so_many_copies_are_on_the_way_at_a_time() {
    let backend = H1Backend::ok().await;
    let silent = H1Backend::start(|mut connection| async move {
        connection.request().await;
        connection.closed().await;
    })
    .await;
    let proxy = Proxy::start(&config(backend.addr, silent.addr, "")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..260 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    }
    assert_eq!(proxy.metric("outrigger_mirrored_requests_in_flight", &[]).await, 256.0);
    assert_eq!(proxy.metric("outrigger_mirrored_requests_total", &[r#"result="left_out""#]).await, 4.0);
}

#[tokio::test]
async fn a_mirror_that_takes_no_body_loses_the_copy_and_the_upload_goes_on() {
    let backend = H1Backend::ok().await;
    // Reads the head and nothing more.
    let stuck = H1Backend::start(|mut connection| async move {
        connection.request_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::start(&config(backend.addr, stuck.addr, "")).await;
    let before = proxy.rss();
    let mut client = H1Client::connect(proxy.addr()).await;
    let size = 32 * 1024 * 1024;
    client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n")).await;
    for _ in 0..size / 65_536 {
        client.send(vec![b'x'; 65_536]).await;
    }
    assert_eq!(client.response().await.status, 200);
    assert_eq!(backend.only_request().body.len(), size);
    mirrored(&proxy, "given_up", 1.0).await;
    let grown = proxy.rss().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes");
}

#[tokio::test]
async fn a_request_that_breaks_off_breaks_its_copy_off_and_never_ends_it_short() {
    let (backend, mirror) = (H2Backend::ok().await, H2Backend::ok().await);
    let config = Config::to("http2", &[backend.addr])
        .cluster("m", "http2", &[mirror.addr])
        .rule("filters: [{ mirror: { cluster: m } }]");
    let proxy = Proxy::start(&config).await;
    let client = H2Client::connect(proxy.addr()).await;
    let (response, mut stream) = client.open(h2_client::post("/"), false).await.expect("a stream");
    stream.send_data(Bytes::from_static(b"half"), false).expect("sent");
    eventually(PATIENCE, "both have the request", || backend.count() == 1 && mirror.count() == 1).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    mirrored(&proxy, "given_up", 1.0).await;
    eventually(PATIENCE, "the copy is reset", || mirror.calls()[0].reset.is_some()).await;
    assert_eq!(mirror.calls()[0].body, None);
}

#[tokio::test]
async fn copies_are_not_copied_again() {
    // The mirror is the listener itself: were copies copied, there would be no end.
    let backend = H1Backend::ok().await;
    let config = Config::new()
        .first_listener("in")
        .listener("trust: local")
        .add_listener("again")
        .listener("trust: local")
        .routes("- rules: [{ filters: [{ mirror: { cluster: m } }], backendRefs: [{ cluster: c }] }]")
        .cluster("c", "http1", &[backend.addr])
        .cluster_yaml("m", "endpoints: [\"127.0.0.1:$PORT_again\"]");
    let proxy = Proxy::start(&config).await;
    let answer = h1_client::exchange(proxy.addr(), "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    mirrored(&proxy, "answered", 1.0).await;
    assert_eq!(backend.requests().len(), 2);
}
