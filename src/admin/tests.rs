use std::sync::Mutex;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

struct Fake {
    readiness: Mutex<Readiness>,
    filter: Mutex<String>,
}

impl Subject for Fake {
    fn readiness(&self) -> Readiness {
        *self.readiness.lock().expect("not poisoned")
    }
    fn shortage(&self) -> Option<&'static str> {
        None
    }
    fn config(&self) -> impl Serialize {
        json!({ "generation": 7 })
    }
    fn clusters(&self) -> impl Serialize {
        json!([{ "name": "c" }])
    }
    fn breakers(&self) -> impl Serialize {
        ["closed"]
    }

    fn order_breaker(&self, name: &BreakerName, state: BreakerState) -> Result<impl Serialize + use<>, String> {
        match name {
            BreakerName::Cluster(cluster) if cluster == "none" => Err("There is none.".to_owned()),
            name => Ok(format!("{name:?} {state:?}")),
        }
    }

    fn listeners(&self) -> impl Serialize {
        json!([{ "name": "l" }])
    }
    fn certificates(&self) -> impl Serialize {
        json!({ "rotations": 3 })
    }
    fn rehearsal(&self) -> impl Serialize {
        json!({ "listeners": [] })
    }
    fn metrics(&self) -> (String, &'static str) {
        ("a_total 1\n".to_owned(), "text/plain; version=0.0.4")
    }
    fn drain(&self) {
        *self.readiness.lock().expect("not poisoned") = Readiness::Draining;
    }
    fn log_filter(&self) -> String {
        self.filter.lock().expect("not poisoned").clone()
    }
    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        if filter == "loudest" {
            return Err("no".to_owned());
        }
        *self.filter.lock().expect("not poisoned") = filter.to_owned();
        Ok(())
    }
}

async fn server() -> (SocketAddr, Arc<Fake>) {
    let fake = Arc::new(Fake { readiness: Mutex::new(Readiness::Starting), filter: Mutex::new("info".to_owned()) });
    let server = Server::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = server.address();
    drop(server.start(Arc::clone(&fake)));
    (address, fake)
}

async fn ask(address: SocketAddr, line: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("an answer");
    let status = reply.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, reply)
}

#[tokio::test]
async fn readiness_follows_the_proxy() {
    let (address, fake) = server().await;
    assert_eq!(ask(address, "GET /ready", "localhost").await.0, 503);
    *fake.readiness.lock().expect("not poisoned") = Readiness::Ready;
    assert_eq!(ask(address, "GET /ready", "localhost").await.0, 200);
    assert_eq!(ask(address, "POST /drain", "localhost").await.0, 202);
    let (status, reply) = ask(address, "GET /ready", "localhost").await;
    assert!(status == 503 && reply.ends_with("draining\n"), "{reply}");
    assert_eq!(ask(address, "GET /live", "localhost").await.0, 200);
}

#[tokio::test]
async fn what_is_shown_is_json_or_prometheus_text() {
    let (address, _) = server().await;
    for (path, kind, content) in [
        ("/config", "application/json", "\"generation\": 7"),
        ("/clusters", "application/json", "\"name\": \"c\""),
        ("/listeners", "application/json", "\"name\": \"l\""),
        ("/certs", "application/json", "\"rotations\": 3"),
        ("/rehearsal", "application/json", "\"listeners\": []"),
        ("/metrics", "text/plain; version=0.0.4", "a_total 1\n"),
        ("/", "text/plain; charset=utf-8", "POST /drain"),
    ] {
        let (status, reply) = ask(address, &format!("GET {path}"), "127.0.0.1:15000").await;
        assert!(status == 200 && reply.contains(&format!("content-type: {kind}\r\n")), "{path}: {reply}");
        assert!(reply.contains(content), "{path}: {reply}");
    }
}

#[tokio::test]
async fn a_wrong_path_or_method_is_answered_with_a_sentence() {
    let (address, fake) = server().await;
    for (line, status) in [("GET /nothing", 404), ("GET /drain", 405), ("POST /metrics", 405), ("POST /log", 400)] {
        let (got, reply) = ask(address, line, "localhost").await;
        assert_eq!(got, status, "{line}");
        assert!(reply.split("\r\n\r\n").nth(1).is_some_and(|body| body.len() > 20), "{reply}");
    }
    assert_eq!(fake.readiness(), Readiness::Starting, "looking at /drain drains nothing");
}

#[tokio::test]
async fn the_log_filter_is_shown_and_changed() {
    let (address, _) = server().await;
    assert!(ask(address, "GET /log", "localhost").await.1.ends_with("info\n"));
    assert_eq!(ask(address, "POST /log?level=debug", "localhost").await.0, 200);
    assert_eq!(ask(address, "POST /log?level=loudest", "localhost").await.0, 400);
    assert!(ask(address, "GET /log", "localhost").await.1.ends_with("debug\n"));
}

#[tokio::test]
async fn a_host_that_is_not_this_machine_is_refused() {
    let (address, _) = server().await;
    assert_eq!(ask(address, "GET /live", "evil.example").await.0, 403);
    assert_eq!(ask(address, "GET /live", "[::1]:15000").await.0, 200);
}

#[test]
fn only_loopback_hosts_are_local() {
    for host in ["localhost", "LocalHost:15000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:80", "[::ffff:127.0.0.1]"]
    {
        assert!(is_local(host), "{host}");
    }
    for host in
        ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", "[::2]", "[::1]x", "localhost:x"]
    {
        assert!(!is_local(host), "{host}");
    }
}

#[tokio::test]
async fn connections_over_the_limit_wait_until_one_ends() {
    let (address, _) = server().await;
    let mut held = Vec::new();
    for _ in 0..crate::base::limits::ADMIN_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
        stream.read_exact(&mut [0; 12]).await.expect("an answer");
        held.push(stream);
    }
    let mut waiting = tokio::spawn(async move { ask(address, "GET /live", "localhost").await });
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "it has to wait");
    held.pop();
    assert_eq!(waiting.await.expect("no panic").0, 200);
}

#[tokio::test]
async fn orders_to_breakers_name_one_and_say_what_it_is_to_be() {
    let (address, _) = server().await;
    let order = async |query: &str| ask(address, &format!("POST /breakers?{query}"), "localhost").await;
    for (query, understood) in [
        ("cluster=c&state=open", "Cluster(\\\"c\\\") Open"),
        ("cluster=c&endpoint=127.0.0.1:80&state=closed", "Endpoint(\\\"c\\\", 127.0.0.1:80) Closed"),
        ("rule=charges&state=auto", "Rule(None, \\\"charges\\\") Auto"),
        ("routes=out&rule=charges&state=auto", "Rule(Some(\\\"out\\\"), \\\"charges\\\") Auto"),
    ] {
        let (status, reply) = order(query).await;
        assert!(status == 200 && reply.contains(understood), "{query}: {reply}");
    }
    for query in ["", "state=open", "cluster=c", "cluster=c&state=ajar", "cluster=c&endpoint=here&state=open"] {
        assert_eq!(order(query).await.0, 400, "{query}");
    }
    assert_eq!(order("cluster=none&state=open").await.0, 404);
    assert_eq!(ask(address, "GET /breakers", "localhost").await.0, 200);
}
