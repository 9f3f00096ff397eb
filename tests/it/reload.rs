//! Configuration changes: they cost no request and no connection, live state survives
//! them, and a broken file changes nothing. 100 changes here; `OUTRIGGER_FULL=1` makes it 1,000.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::any::{AnyClient, Message, Version};
use crate::support::http1::chunk;
use crate::support::proxy::Launch;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, eventually, full, gate, h1_client,
    h2_client, ms, response, within,
};

/// A configuration that says in every response which one it is.
fn numbered(number: usize, h1: &H1Backend, h2: &H2Backend) -> Config {
    let mut hosts = format!(
        r"
        - hostnames: [h1.example]
          rules:
            - filters: [{{ responseHeaders: {{ set: {{ x-number: '{number}' }} }} }}]
              timeouts: {{ request: 0s, idle: {}s }}
              backendRefs: [{{ cluster: one, weight: {} }}, {{ cluster: three, weight: 1 }}]
        - rules:
            - filters: [{{ responseHeaders: {{ set: {{ x-number: '{number}' }} }} }}]
              timeouts: {{ request: 0s }}
              retry: {{ attempts: {}, on: [connect-failure, refused-stream] }}
              backendRefs: [{{ cluster: two }}]
        ",
        60 + number % 10,
        1 + number % 7,
        number % 3,
    );
    for extra in 0..number % 5 {
        hosts +=
            &format!("- {{ hostnames: [extra-{extra}.example], rules: [{{ backendRefs: [{{ cluster: one }}] }}] }}\n");
    }
    let hosts: Vec<&str> = hosts.lines().map(|l| l.strip_prefix("        ").unwrap_or(l)).collect();
    let policies = ["roundRobin", "leastRequest", "peakEwma", "random"];
    let policy = policies[number % policies.len()];
    Config::new()
        .routes(&hosts.join("\n"))
        .cluster("one", "http1", &[h1.addr])
        .upstream(&format!("circuitBreaker: {{ maxRequests: {} }}", 500 + number))
        .upstream(&format!("loadBalancing: {{ policy: {policy} }}"))
        .cluster("two", "http2", &[h2.addr])
        .upstream(&format!("loadBalancing: {{ policy: {policy} }}"))
        .cluster("three", "http1", &[h1.addr])
}

async fn backends() -> (H1Backend, H2Backend) {
    let h1 = H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            if request.target != "/stream" {
                conn.send(response(200, &[], b"ok")).await.ok();
                continue;
            }
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok();
            let mut tick = tokio::time::interval(ms(10));
            loop {
                tick.tick().await;
                if conn.send(chunk(b"tick")).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let h2 = H2Backend::start(|mut call: Call| async move {
        if call.path() != "/stream" {
            if call.body().await.is_ok() {
                call.reply(200, "ok").await;
            }
            return;
        }
        let Ok(mut out) = call.respond(http::Response::new(()), false) else {
            return;
        };
        let mut tick = tokio::time::interval(ms(10));
        loop {
            tick.tick().await;
            out.reserve_capacity(4);
            if out.send_data("tick".into(), false).is_err() {
                return;
            }
        }
    })
    .await;
    (h1, h2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_cost_no_request_and_no_connection() {
    gate::exclusive();
    let changes = if full() { 1000 } else { 100 };
    let (h1, h2) = backends().await;
    let proxy = Proxy::start(&numbered(0, &h1, &h2)).await;
    let addr = proxy.addr();
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));

    // Callers that each keep one connection through everything; an error of any kind fails the test.
    let mut callers = JoinSet::new();
    for caller in 0..6 {
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        let version = if caller % 2 == 0 { Version::H1 } else { Version::H2 };
        callers.spawn(async move {
            let mut client = AnyClient::connect(version, addr).await;
            let host = if caller % 3 == 0 { "h1.example" } else { "h2.example" };
            let ask = Message::body("hello").field("host", host);
            while !stop.load(Ordering::Relaxed) {
                let told = client.try_call("POST", "/", &ask).await;
                let told = told.unwrap_or_else(|e| panic!("caller {caller} ({version:?}): {e}"));
                assert_eq!((told.status, told.text().as_str()), (200, "ok"), "{told:?}");
                assert_eq!(told.get("connection"), None, "the connection is kept");
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    // Streams that stay open, over both versions.
    let mut h1_stream = H1Client::connect(addr).await;
    h1_stream.send("GET /stream HTTP/1.1\r\nhost: h1.example\r\n\r\n").await;
    assert_eq!(h1_stream.response_head().await.status, 200);
    let h2_client = H2Client::connect(addr).await;
    let (reply, _) = h2_client.open(h2_client::get("/stream"), true).await.unwrap();
    let mut h2_stream = within(PATIENCE, "a head", reply).await.unwrap().into_body();
    let idle = H1Client::connect(addr).await;
    drop(idle);
    let mut kept = H1Client::connect(addr).await;
    assert_eq!(kept.get("/").await.head.get("x-number"), Some("0"));

    let start = Instant::now();
    let mut probe = H1Client::connect(addr).await;
    for number in 1..=changes {
        proxy.replace_config(&numbered(number, &h1, &h2));
        let changed = Instant::now();
        loop {
            let reply = probe.get("/").await;
            assert_eq!(reply.status, 200);
            if reply.head.get("x-number") == Some(number.to_string().as_str()) {
                break;
            }
            assert!(changed.elapsed() < PATIENCE, "change {number} took effect:\n{}", proxy.stderr());
        }
        // The open streams go on.
        within(PATIENCE, "a tick", h1_stream.wire.chunk()).await.unwrap().expect("no end");
        let data = within(PATIENCE, "a tick", h2_stream.data()).await.expect("no end").unwrap();
        h2_stream.flow_control().release_capacity(data.len()).unwrap();
    }
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = within(PATIENCE, "the callers", callers.join_next()).await {
        done.unwrap();
    }
    let served = served.load(Ordering::Relaxed);
    println!("{changes} changes in {took:?}, {served} requests beside them");
    assert!(took < ms(60) * u32::try_from(changes).unwrap(), "60 ms a change: {took:?}");
    assert!(served > changes as u64, "there was load: {served}");
    assert_eq!(kept.get("/").await.status, 200, "a connection that idled through all changes lives");
    assert_eq!(h2.connections(), h2.open_connections(), "no upstream connection was dropped either");
}

/// The state of a cluster belongs to its name and endpoints, not to one configuration.
#[tokio::test]
async fn requests_in_flight_still_count_after_a_change() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.closed().await;
        }
    })
    .await;
    let config = |number: usize, limit: usize| {
        Config::to("http1", &[backend.addr])
            .upstream(&format!("circuitBreaker: {{ maxRequests: {limit} }}"))
            .rule(&format!("filters: [{{ responseHeaders: {{ set: {{ x-number: '{number}' }} }} }}]"))
    };
    let proxy = Proxy::start(&config(1, 2)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        held.push(client);
    }
    backend.until(PATIENCE, "two requests", |r| r.iter().filter(|r| !r.requests.is_empty()).count() == 2).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.reason(), reply.head.get("x-number")), (Some("UO"), Some("1")));

    proxy.replace_config(&config(2, 2));
    let start = Instant::now();
    loop {
        let reply = h1_client::get(proxy.addr(), "/").await;
        assert_eq!(reply.reason(), Some("UO"), "the two from before still count");
        if reply.head.get("x-number") == Some("2") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the change took effect");
    }

    // A raised limit is read at once, with the same two counted.
    proxy.replace_config(&config(3, 3));
    let start = Instant::now();
    let third = loop {
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        match tokio::time::timeout(ms(200), client.wire.response("GET")).await {
            Err(_) => break client,
            Ok(reply) => assert_eq!(reply.unwrap().reason(), Some("UO")),
        }
        assert!(start.elapsed() < PATIENCE, "the change took effect");
    };
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!(reply.reason(), Some("UO"), "three of three");
    third.wire.reset_on_close();
    third.wire.finish();
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_reported_with_its_place() {
    let backend = H1Backend::named("good").await;
    let good = Config::to("http1", &[backend.addr]);
    let proxy = Proxy::start(&good).await;
    let before = proxy.admin_json("/config").await;
    let yaml = good.render();
    for (name, broken, hint) in [
        ("an unknown field", yaml.replace("workers: 2", "workers: 2\nwurkers: 3"), "wurkers"),
        ("a dangling reference", yaml.replace("cluster: c", "cluster: missing"), "missing"),
        ("no YAML at all", "listeners: [".to_owned(), ""),
        ("a wrong unit", format!("{yaml}drain: {{ deadline: 5parsecs }}\n"), "parsecs"),
        ("an empty file", String::new(), ""),
    ] {
        let reports = proxy.stderr().len();
        proxy.replace_yaml(&broken);
        let start = Instant::now();
        loop {
            let fresh = proxy.stderr()[reports..].to_owned();
            if !fresh.is_empty() && fresh.contains(hint) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{name} is reported: {fresh}");
            tokio::task::yield_now().await;
        }
        assert_eq!(h1_client::get(proxy.addr(), "/").await.text(), "good", "{name}");
        let (status, shown) = proxy.admin("/config").await;
        assert_eq!(status, 200);
        assert!(shown.contains(hint), "{name}: `/config` shows why: {shown}");
        let now = proxy.admin_json("/config").await;
        assert_eq!(now["generation"], before["generation"], "{name}: the generation stays");
        assert_eq!(now["hash"], before["hash"], "{name}: the hash stays");
    }
    let fresh = H1Backend::named("fresh").await;
    proxy.replace_config(&Config::to("http1", &[fresh.addr]));
    let start = Instant::now();
    while h1_client::get(proxy.addr(), "/").await.text() != "fresh" {
        assert!(start.elapsed() < PATIENCE, "a good file is taken again:\n{}", proxy.stderr());
    }
    let now = proxy.admin_json("/config").await;
    assert_ne!(now["generation"], before["generation"]);
    assert_ne!(now["hash"], before["hash"]);
}

#[tokio::test]
async fn the_report_of_a_broken_file_has_line_and_caret() {
    let backend = H1Backend::ok().await;
    let good = Config::to("http1", &[backend.addr]);
    let proxy = Proxy::start(&good).await;
    let yaml = proxy.render(&good).replace("cluster: c", "cluster: missing");
    let line = yaml.lines().position(|l| l.contains("cluster: missing")).unwrap() + 1;
    proxy.replace_yaml(&yaml);
    proxy.logged(&format!(":{line}:")).await;
    proxy.logged("^").await;
    proxy.logged("missing").await;
}

/// How a Kubernetes ConfigMap changes: the file is a link through `..data`, which is swapped.
#[tokio::test]
async fn the_symlink_swap_of_a_configmap_is_noticed() {
    let (a, b) = (H1Backend::named("a").await, H1Backend::named("b").await);
    let proxy = Proxy::start(&Config::to("http1", &[a.addr])).await;
    let folder = proxy.folder();
    // Turn the plain file into the layout of a mounted ConfigMap.
    let version = |number: usize, backend: &H1Backend| {
        let inner = folder.join(format!("..2026_{number}"));
        std::fs::create_dir(&inner).unwrap();
        let yaml = proxy.render(&Config::to("http1", &[backend.addr]));
        std::fs::write(inner.join("outrigger.yaml"), yaml).unwrap();
        let link = folder.join("..data_tmp");
        std::os::unix::fs::symlink(&inner, &link).unwrap();
        std::fs::rename(&link, folder.join("..data")).unwrap();
    };
    version(0, &a);
    let link = folder.join("link.tmp");
    std::os::unix::fs::symlink("..data/outrigger.yaml", &link).unwrap();
    std::fs::rename(&link, proxy.config_path()).unwrap();
    let mut client = H1Client::connect(proxy.addr()).await;
    for round in 1..=4 {
        let (backend, name) = if round % 2 == 1 { (&b, "b") } else { (&a, "a") };
        version(round, backend);
        let start = Instant::now();
        while client.get("/").await.text() != name {
            assert!(start.elapsed() < PATIENCE, "swap {round} is noticed:\n{}", proxy.stderr());
        }
    }
}

#[tokio::test]
async fn a_signal_rereads_the_file() {
    let (a, b) = (H1Backend::named("a").await, H1Backend::named("b").await);
    let proxy = Proxy::start(&Config::to("http1", &[a.addr])).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.text(), "a");
    // Written in place, as some editors do, and then signalled.
    std::fs::write(proxy.config_path(), proxy.render(&Config::to("http1", &[b.addr]))).unwrap();
    proxy.signal("HUP");
    let start = Instant::now();
    while h1_client::get(proxy.addr(), "/").await.text() != "b" {
        assert!(start.elapsed() < PATIENCE, "the file was read again:\n{}", proxy.stderr());
    }
}

#[tokio::test]
async fn listeners_come_and_go_without_touching_the_others() {
    let backend = H1Backend::ok().await;
    let both = Config::to("http1", &[backend.addr]).add_listener("more");
    let proxy = Proxy::start(&both).await;
    let one = Config::to("http1", &[backend.addr]);
    let mut client = H1Client::connect(proxy.addr()).await;
    let mut other = H1Client::connect(proxy.listener("more")).await;
    assert_eq!((client.get("/").await.status, other.get("/").await.status), (200, 200));
    for _ in 0..3 {
        proxy.replace_config(&one);
        let start = Instant::now();
        while tokio::net::TcpStream::connect(proxy.listener("more")).await.is_ok() {
            assert!(start.elapsed() < PATIENCE, "the listener is closed");
        }
        assert_eq!(client.get("/").await.status, 200, "the kept connection of the other one lives");
        proxy.replace_config(&both);
        let start = Instant::now();
        while tokio::net::TcpStream::connect(proxy.listener("more")).await.is_err() {
            assert!(start.elapsed() < PATIENCE, "the listener is back");
        }
        assert_eq!(h1_client::get(proxy.listener("more"), "/").await.status, 200);
        assert_eq!(client.get("/").await.status, 200);
    }
    // A connection of a removed listener is drained, not cut: it may finish what it does.
    assert!(proxy.stderr().len() < 1 << 20);
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_refuses_the_change() {
    let backend = H1Backend::named("before").await;
    let other = H1Backend::named("after").await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).add_listener("more")).await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let yaml = proxy
        .render(&Config::to("http1", &[other.addr]).add_listener("more"))
        .replace(&format!(":{}\"", proxy.listener("more").port()), &format!(":{port}\""));
    let reports = proxy.stderr().len();
    proxy.replace_yaml(&yaml);
    let start = Instant::now();
    while !proxy.stderr()[reports..].contains(&port.to_string()) {
        assert!(start.elapsed() < PATIENCE, "the failure is reported");
        tokio::task::yield_now().await;
    }
    assert_eq!(h1_client::get(proxy.addr(), "/").await.text(), "before", "refused whole");
    assert_eq!(h1_client::get(proxy.listener("more"), "/").await.text(), "before");
    drop(taken);
}

#[tokio::test]
async fn endpoints_that_are_removed_get_no_new_requests_and_finish_old_ones() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let old = H1Backend::start(move |mut conn: Conn| {
        let mut gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                gate.wait_for(|open| *open).await.ok();
                conn.send(response(200, &[], b"old")).await.ok();
            }
        }
    })
    .await;
    let new = H1Backend::named("new").await;
    let proxy = Proxy::start(&Config::to("http1", &[old.addr])).await;
    let mut waiting = H1Client::connect(proxy.addr()).await;
    waiting.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    old.until(PATIENCE, "the request", |r| r.iter().any(|r| !r.requests.is_empty())).await;
    proxy.replace_config(&Config::to("http1", &[new.addr]));
    let start = Instant::now();
    let mut client = H1Client::connect(proxy.addr()).await;
    loop {
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        match tokio::time::timeout(Duration::from_millis(200), client.wire.response("GET")).await {
            Ok(reply) => {
                assert_eq!(reply.unwrap().text(), "new");
                break;
            }
            Err(_) => client = H1Client::connect(proxy.addr()).await,
        }
        assert!(start.elapsed() < PATIENCE, "the change took effect");
    }
    let reached = old.requests().len();
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "new");
    }
    assert_eq!(old.requests().len(), reached);
    release.send_replace(true);
    assert_eq!(waiting.response().await.text(), "old", "what was begun is finished");
}

#[tokio::test]
async fn the_last_good_configuration_survives_a_restart() {
    let backend = H1Backend::named("good").await;
    let state = tempfile::tempdir().unwrap();
    let launch =
        Launch { arguments: vec!["--state-dir".to_owned(), state.path().display().to_string()], ..Launch::default() };
    let config = Config::to("http1", &[backend.addr]).top("drain: { acceptFor: 0s, deadline: 1s }");
    let mut first = Proxy::start_as(&config, &launch).await;
    assert_eq!(h1_client::get(first.addr(), "/").await.text(), "good");
    first.signal("TERM");
    assert!(first.exit(PATIENCE).await.success());

    let broken = config.render().replace("cluster: c", "cluster: missing");
    let second = first.start_again(&broken, &launch).await;
    assert_eq!(h1_client::get(second.addr(), "/").await.text(), "good");
    let log = second.stderr();
    assert!(log.contains("missing") && log.contains('^'), "the log says what is broken: {log}");
    assert!(second.admin("/config").await.1.contains("missing"), "so does `/config`");

    // Once the file is right again it counts.
    let fresh = H1Backend::named("fresh").await;
    second.replace_config(&Config::to("http1", &[fresh.addr]));
    let start = Instant::now();
    while h1_client::get(second.addr(), "/").await.text() != "fresh" {
        assert!(start.elapsed() < PATIENCE, "a good file is taken:\n{}", second.stderr());
    }
}

/// What was learned about endpoints (peak EWMA) is kept: a slow one gets little traffic right after a change too.
#[tokio::test]
async fn what_was_learned_about_endpoints_survives_a_change() {
    let answering = |delay: Duration| {
        H2Backend::start(move |mut call: Call| async move {
            if call.body().await.is_ok() {
                tokio::time::sleep(delay).await;
                call.reply(200, "ok").await;
            }
        })
    };
    let (fast, slow) = (answering(ms(1)).await, answering(ms(300)).await);
    let config = |number: usize| {
        Config::to("http2", &[fast.addr, slow.addr])
            .upstream("loadBalancing: { policy: peakEwma }")
            .rule(&format!("filters: [{{ responseHeaders: {{ set: {{ x-number: '{number}' }} }} }}]"))
    };
    let proxy = Proxy::start(&config(1)).await;
    let client = H2Client::connect(proxy.addr()).await;
    for _ in 0..30 {
        client.get("/").await;
    }
    let (before, learned) = (slow.count(), fast.count());
    assert!(learned > 20, "it has learned which one is fast: {learned} of 30");
    // Endpoints without history would share the first calls after every change until both are measured.
    for number in 2..=12 {
        proxy.replace_config(&config(number));
        let start = Instant::now();
        while client.get("/").await.header("x-number") != Some(number.to_string().as_str()) {
            assert!(start.elapsed() < PATIENCE, "the change took effect");
        }
        for _ in 0..4 {
            assert_eq!(client.get("/").await.status, 200);
        }
    }
    let more = slow.count() - before;
    assert!(more <= 2, "{more} calls went to the slow endpoint after eleven changes");
}

#[tokio::test]
async fn the_access_log_is_reopened_on_a_signal() {
    let backend = H1Backend::ok().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).top(&format!("accessLog: {}", path.display()))).await;
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    h1_client::get(proxy.addr(), "/1").await;
    eventually(PATIENCE, "the first line", || lines(&path) == 1).await;
    let rotated = folder.path().join("access.log.1");
    std::fs::rename(&path, &rotated).unwrap();
    proxy.signal("HUP");
    eventually(PATIENCE, "a new file", || path.exists()).await;
    h1_client::get(proxy.addr(), "/2").await;
    eventually(PATIENCE, "the second line in the new file", || lines(&path) == 1).await;
    assert_eq!(lines(&rotated), 1);
}
