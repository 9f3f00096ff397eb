//! A caller that leaves: the upstream sees the reset or close within 100 ms.

use std::time::{Duration, Instant};

use crate::support::any::{COMBINATIONS, Version};
use crate::support::h1_backend::End;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, gate, h2_client, ms, response,
    within,
};

/// Where the caller is when it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// It waits for the head of the response.
    Waiting,
    /// It has had the head and a part of the body.
    MidResponse,
    /// It has sent a part of its own body.
    MidUpload,
}

enum Upstream {
    H1(H1Backend),
    H2(H2Backend),
}

impl Upstream {
    async fn start(version: Version, moment: Moment) -> Self {
        match version {
            Version::H1 => Self::H1(
                H1Backend::start(move |mut conn: Conn| async move {
                    if conn.request_head().await.is_none() {
                        return;
                    }
                    if moment == Moment::MidResponse {
                        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart").await.ok();
                    }
                    conn.closed().await;
                })
                .await,
            ),
            Version::H2 => Self::H2(
                H2Backend::start(move |mut call: Call| async move {
                    if moment == Moment::MidResponse {
                        let head = http::Response::builder().header("content-length", 1000).body(()).unwrap();
                        let Ok(mut out) = call.respond(head, false) else { return };
                        out.send_data("part".into(), false).ok();
                        call.reset_while_sending(&mut out).await;
                    } else if moment == Moment::MidUpload {
                        call.body().await.ok();
                    } else {
                        call.reset_by_caller().await;
                    }
                })
                .await,
            ),
        }
    }

    fn addr(&self) -> std::net::SocketAddr {
        match self {
            Self::H1(backend) => backend.addr,
            Self::H2(backend) => backend.addr,
        }
    }

    async fn reached(&self) {
        match self {
            Self::H1(backend) => {
                backend.until(PATIENCE, "the request", |r| r.iter().any(|r| !r.requests.is_empty())).await;
            }
            Self::H2(backend) => {
                backend.until(PATIENCE, "the request", |calls| !calls.is_empty()).await;
            }
        }
    }

    /// When the upstream saw that the caller is gone.
    async fn left(&self) -> Instant {
        match self {
            Self::H1(backend) => {
                backend
                    .until(PATIENCE, "the close", |r| r.iter().any(|r| r.end.is_some_and(|(_, end)| end != End::Ours)))
                    .await;
                backend.records().iter().find_map(|r| r.end).expect("it ended").0
            }
            Self::H2(backend) => {
                backend.until(PATIENCE, "the reset", |c| c.iter().any(|c| c.reset.is_some())).await;
                backend.calls().iter().find_map(|c| c.reset).expect("it was reset").0
            }
        }
    }
}

/// How the caller leaves.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// HTTP/1.1 closes, HTTP/2 resets the stream and keeps the connection.
    Politely,
    /// The connection is reset or dropped.
    Rudely,
}

async fn leave(down: Version, proxy: &Proxy, upstream: &Upstream, moment: Moment, way: Way) -> Instant {
    match down {
        Version::H1 => {
            let mut client = H1Client::connect(proxy.addr()).await;
            client
                .send(match moment {
                    Moment::MidUpload => "POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 1000\r\n\r\npart",
                    _ => "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n",
                })
                .await;
            upstream.reached().await;
            if moment == Moment::MidResponse {
                client.response_head().await;
                assert_eq!(within(PATIENCE, "data", client.wire.take(4)).await.unwrap(), b"part");
            }
            if matches!(way, Way::Rudely) {
                client.wire.reset_on_close();
            }
            let at = Instant::now();
            drop(client);
            at
        }
        Version::H2 => {
            let client = H2Client::connect(proxy.addr()).await;
            let upload = moment == Moment::MidUpload;
            let request = if upload { h2_client::post("/") } else { h2_client::get("/") };
            let (reply, mut stream) = client.open(request, !upload).await.unwrap();
            if upload {
                stream.send_data("part".into(), false).unwrap();
            }
            upstream.reached().await;
            let mut body = None;
            let mut waiting = Some(reply);
            if moment == Moment::MidResponse {
                let reply = waiting.take().expect("a future");
                let mut stream = within(PATIENCE, "a head", reply).await.unwrap().into_body();
                within(PATIENCE, "data", stream.data()).await.unwrap().unwrap();
                body = Some(stream);
            }
            let at = Instant::now();
            match way {
                Way::Politely => {
                    stream.send_reset(h2::Reason::CANCEL);
                    drop((waiting, body));
                    upstream.left().await;
                    assert!(!client.driver.is_finished(), "the connection itself goes on");
                }
                Way::Rudely => client.driver.abort(),
            }
            at
        }
    }
}

async fn measure(moment: Moment) {
    gate::exclusive();
    for (down, up) in COMBINATIONS {
        for way in [Way::Politely, Way::Rudely] {
            let upstream = Upstream::start(up, moment).await;
            let proxy = Proxy::start(&Config::to(up.protocol(), &[upstream.addr()])).await;
            let at = leave(down, &proxy, &upstream, moment, way).await;
            let took = upstream.left().await.saturating_duration_since(at);
            println!("{moment:?}, {down:?} to {up:?}, {way:?}: {took:?}");
            assert!(took < ms(100), "{moment:?}, {down:?} to {up:?}, {way:?}: {took:?}");
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_waits_cancels_the_upstream() {
    measure(Moment::Waiting).await;
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_a_response_cancels_the_upstream() {
    measure(Moment::MidResponse).await;
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_its_upload_cancels_the_upstream() {
    measure(Moment::MidUpload).await;
}

/// What was cancelled leaves nothing behind: no in-flight count, no connection, no task.
#[tokio::test]
async fn cancelled_requests_give_everything_back() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            if request.target == "/hang" {
                conn.closed().await;
                return;
            }
            conn.send(response(200, &[], b"ok")).await.ok();
        }
    })
    .await;
    let proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).upstream("circuitBreaker: { maxRequests: 60 }")).await;
    for _ in 0..5 {
        let mut clients = Vec::new();
        for _ in 0..50 {
            let client = H1Client::connect(proxy.addr()).await;
            client.send("GET /hang HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
            clients.push(client);
        }
        let h2 = H2Client::connect(proxy.addr()).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            streams.push(h2.open(h2_client::get("/hang"), true).await.unwrap());
        }
        backend
            .until(PATIENCE, "60 hanging requests", |r| {
                r.iter().filter(|r| !r.requests.is_empty() && r.end.is_none()).count() >= 60
            })
            .await;
        drop(clients);
        for (_, stream) in &mut streams {
            stream.send_reset(h2::Reason::CANCEL);
        }
        drop(streams);
        backend
            .until(PATIENCE, "all upstream connections closed", |r| {
                r.iter().all(|r| r.end.is_some() || r.requests.iter().all(|q| q.target != "/hang"))
            })
            .await;
    }
    // All 60 slots are there again.
    let h2 = H2Client::connect(proxy.addr()).await;
    for _ in 0..60 {
        assert_eq!(h2.get("/").await.status, 200);
    }
    let start = Instant::now();
    while proxy.metric("outrigger_requests_in_flight", &[]).await > 0.0 {
        assert!(start.elapsed() < Duration::from_secs(5), "nothing is in flight any more");
    }
}
