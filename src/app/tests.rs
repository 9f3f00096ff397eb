use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;

use super::*;

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct NoLog;

impl LogFilter for NoLog {
    fn get(&self) -> String {
        "off".to_owned()
    }
    fn set(&self, _: &str) -> Result<(), String> {
        Err("there is no log".to_owned())
    }
}

fn config(body: &str) -> String {
    format!(
        "
admin: {{ address: '127.0.0.1:0' }}
accessLog: off
workers: 1
drain: {{ acceptFor: 0s, deadline: 5s }}
listeners: [{{ name: in, bind: '127.0.0.1:0', routes: r }}]
routes: {{ r: [{{ rules: [{{ filters: [{{ directResponse: {{ body: {body} }} }}] }}] }}] }}
"
    )
}

fn options(path: &Path) -> Options {
    Options { config: Source::File(path.to_owned()), state_dir: None, log_filter: Arc::new(NoLog) }
}

/// Replaces a file in one step.
fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).expect("written");
    std::fs::rename(fresh, path).expect("replaced");
}

fn exchange(address: SocketAddr, line: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    write!(stream, "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("an answer");
    reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).expect("a body")
}

/// As [`exchange`], off the control thread, which has to go on.
async fn ask(address: SocketAddr, line: &'static str) -> String {
    tokio::task::spawn_blocking(move || exchange(address, line)).await.expect("no panic")
}

async fn until(address: SocketAddr, body: &str) {
    let end = Instant::now() + LONG;
    while ask(address, "GET /").await != body {
        assert!(Instant::now() < end, "{body} never came");
    }
}

async fn report(app: &App) -> Value {
    let admin = app.admin().expect("an admin server");
    serde_json::from_str(&ask(admin, "GET /config").await).expect("JSON")
}

#[tokio::test]
async fn a_saved_file_takes_effect_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.yaml");
    replace(&path, &config("one"));
    let app = App::start(options(&path)).await.expect("it starts");
    let address = app.listeners()[0].address;
    until(address, "one").await;
    replace(&path, &config("two"));
    until(address, "two").await;
    assert_eq!(app.listeners()[0].address, address, "the socket stays");

    replace(&path, &config("three").replace("routes: r", "routes: nowhere"));
    let end = Instant::now() + LONG;
    let shown = loop {
        let shown = report(&app).await;
        if !shown["lastRefusal"].is_null() {
            break shown;
        }
        assert!(Instant::now() < end, "the refusal is never shown");
    };
    assert_eq!((shown["generation"].as_u64(), shown["upToDate"].as_bool()), (Some(2), Some(false)));
    let problem = &shown["lastRefusal"]["diagnostics"][0];
    assert!(problem["message"].as_str().is_some_and(|message| message.contains("nowhere")), "{shown}");
    assert_eq!(problem["place"]["line"], 6);
    until(address, "two").await;

    replace(&path, &config("four"));
    until(address, "four").await;
    let shown = report(&app).await;
    assert!(shown["lastRefusal"].is_null() && shown["upToDate"] == true, "{shown}");
}

#[tokio::test]
async fn a_broken_file_at_the_start_is_an_error_without_a_copy_and_the_copy_with_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.yaml");
    let options = Options { state_dir: Some(folder.path().join("state")), ..options(&path) };
    replace(&path, "listeners: [");
    assert!(matches!(App::start(options.clone()).await, Err(StartError::Config(_))));

    replace(&path, &config("good"));
    drop(App::start(options.clone()).await.expect("it starts"));
    replace(&path, "listeners: [");
    let app = App::start(options.clone()).await.expect("it starts with the copy");
    let address = app.listeners()[0].address;
    until(address, "good").await;
    let shown = report(&app).await;
    assert!(shown["source"]["lastGood"].is_string() && shown["upToDate"] == false, "{shown}");
    assert!(!shown["lastRefusal"].is_null(), "{shown}");

    // The file is repaired to what runs already.
    replace(&path, &config("good"));
    let end = Instant::now() + LONG;
    while report(&app).await["upToDate"] != true {
        assert!(Instant::now() < end, "it is never up to date");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_the_listener() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.yaml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    replace(&path, &config("x").replace("bind: '127.0.0.1:0'", &format!("bind: '127.0.0.1:{port}'")));
    let error = App::start(options(&path)).await.expect_err("the port is taken").to_string();
    assert!(error.contains("`in`") && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn the_admin_server_can_begin_a_drain() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.yaml");
    replace(&path, &config("x"));
    let app = App::start(options(&path)).await.expect("it starts");
    let (admin, address) = (app.admin().expect("an admin server"), app.listeners()[0].address);
    assert_eq!(ask(admin, "GET /ready").await, "ready\n");
    assert_eq!(ask(admin, "POST /drain").await, "draining\n");
    tokio::time::timeout(LONG, app.drain_requested()).await.expect("it is heard");
    assert_eq!(ask(admin, "GET /ready").await, "draining\n");
    assert_eq!(app.shutdown().await, Outcome::Finished);
    let refused = TcpStream::connect(address).expect_err("closed");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn two_proxies_live_in_one_process_and_end_with_their_handle() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("1.yaml"), folder.path().join("2.yaml"));
    replace(&first, &config("one"));
    replace(&second, &config("two"));
    let one = App::start(options(&first)).await.expect("it starts");
    let two = App::start(options(&second)).await.expect("it starts");
    let (a, b) = (one.listeners()[0].address, two.listeners()[0].address);
    until(a, "one").await;
    until(b, "two").await;
    drop(one);
    let end = Instant::now() + LONG;
    while TcpStream::connect(a).is_ok() {
        assert!(Instant::now() < end, "it still listens");
        tokio::task::yield_now().await;
    }
    until(b, "two").await;
}

mod certificates;
