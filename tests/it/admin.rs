//! The admin server: probes, what runs, metrics that a scraper can read and that stay bounded.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::support::proxy::metric_in;
use crate::support::{Config, Conn, H1Backend, H1Client, H2Client, PATIENCE, Proxy, h1_backend, h1_client, response};

async fn forwarding() -> (H1Backend, Proxy) {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    (backend, proxy)
}

#[tokio::test]
async fn probes_answer() {
    let (_backend, proxy) = forwarding().await;
    assert_eq!(proxy.admin("/ready").await.0, 200);
    assert_eq!(proxy.admin("/live").await.0, 200);
    assert_eq!(proxy.admin("/nothing").await.0, 404);
    let (status, _) = proxy.admin("/drain").await;
    assert_eq!(status, 405, "a drain is not started by looking");
    let (status, _) = proxy.admin_post("/metrics").await;
    assert_eq!(status, 405);
}

/// One sample of the exposition.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the Prometheus text format (version 0.0.4) strictly.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    let mut types = BTreeMap::new();
    let mut samples = Vec::new();
    let name_ok = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    assert!(text.ends_with('\n'), "the last line is ended");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(name_ok(name), "{line}");
            assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        assert!(!line.starts_with('#'), "neither TYPE nor HELP: {line}");
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = match series.split_once('{') {
            None => (series, BTreeMap::new()),
            Some((name, rest)) => {
                let inner = rest.strip_suffix('}').expect("a closing brace");
                (name, parse_labels(inner))
            }
        };
        assert!(name_ok(name), "{line}");
        let value = match value {
            "+Inf" => f64::INFINITY,
            value => value.parse().unwrap_or_else(|_| panic!("a number: {line}")),
        };
        samples.push(Sample { name: name.to_owned(), labels, value });
    }
    (types, samples)
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect("a label");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("a closing quote") {
                (_, '\\') => match chars.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    other => panic!("escape {other:?} in {text}"),
                },
                (at, '"') => break at,
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "label twice: {text}");
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}

#[tokio::test]
async fn metrics_are_well_formed() {
    let (_backend, proxy) = forwarding().await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..10 {
        client.get("/").await;
    }
    h1_client::exchange(proxy.addr(), "GET / HTTP/1.1\r\n\r\n").await;
    let reply = h1_client::exchange(
        proxy.admin_addr(),
        "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
    )
    .await;
    let content_type = reply.head.get("content-type").unwrap_or_default().to_owned();
    assert!(
        content_type.starts_with("text/plain") || content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    let (types, samples) = parse(&reply.text());
    assert!(!samples.is_empty());
    for sample in &samples {
        assert!(sample.name.starts_with("outrigger_") || sample.name.starts_with("process_"), "{sample:?}");
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| sample.name.strip_suffix(suffix))
            .find(|base| types.get(*base).is_some_and(|kind| kind == "histogram"));
        let family = base.unwrap_or(&sample.name);
        assert!(types.contains_key(family), "{} has a TYPE", sample.name);
        if types[family] == "counter" {
            assert!(sample.name.ends_with("_total"), "{sample:?}");
        }
    }
    // A histogram's buckets only grow, and end in its count.
    for (name, _) in types.iter().filter(|(_, kind)| *kind == "histogram") {
        let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in samples.iter().filter(|s| s.name == format!("{name}_bucket")) {
            let mut labels = sample.labels.clone();
            let le = labels.remove("le").expect("a bound");
            let le = if le == "+Inf" { f64::INFINITY } else { le.parse().expect("a bound") };
            buckets.entry(format!("{labels:?}")).or_default().push((le, sample.value));
        }
        for (labels, list) in buckets {
            assert!(list.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{name} {labels}: {list:?}");
            let count = samples
                .iter()
                .find(|s| s.name == format!("{name}_count") && format!("{:?}", s.labels) == labels)
                .expect("a count");
            assert_eq!(list.last(), Some(&(f64::INFINITY, count.value)), "{name} {labels}");
        }
    }
}

#[tokio::test]
async fn what_happened_is_counted() {
    let backend = H1Backend::answering(|request| match request.target.as_str() {
        "/500" => response(500, &[], b"broken"),
        _ => response(200, &[], &[b'x'; 1000]),
    })
    .await;
    let proxy = Proxy::start(
        &Config::new()
            .routes("- hostnames: [a.example]\n  rules: [{ name: all, backendRefs: [{ cluster: c }] }]")
            .cluster("c", "http1", &[backend.addr]),
    )
    .await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..7 {
        client.get("/").await;
    }
    client.get("/500").await;
    client
        .exchange("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 500\r\n\r\n".to_owned() + &"y".repeat(500))
        .await;
    let other = client.exchange("GET / HTTP/1.1\r\nhost: other\r\n\r\n").await;
    assert_eq!(other.reason(), Some("NR"));
    let here = ["listener=\"in\"", "route=\"all\"", "cluster=\"c\""];
    let start = Instant::now();
    let text = loop {
        let (_, text) = proxy.admin("/metrics").await;
        if metric_in(&text, "outrigger_requests_total", &[]) >= 10.0 {
            break text;
        }
        assert!(start.elapsed() < PATIENCE, "ten requests are counted: {text}");
    };
    let count = |name: &str, label: &str| metric_in(&text, name, &[here[0], here[1], here[2], label]);
    assert_eq!(count("outrigger_requests_total", "class=\"2xx\""), 8.0);
    assert_eq!(count("outrigger_requests_total", "class=\"5xx\""), 1.0);
    assert_eq!(count("outrigger_request_duration_seconds_count", ""), 9.0);
    assert_eq!(count("outrigger_requests_in_flight", ""), 0.0);
    assert_eq!(count("outrigger_request_bytes_total", ""), 500.0);
    assert_eq!(count("outrigger_response_bytes_total", ""), 8006.0);
    assert_eq!(metric_in(&text, "outrigger_local_responses_total", &["reason=\"NR\""]), 1.0);
    assert_eq!(metric_in(&text, "outrigger_connections", &["listener=\"in\""]), 1.0);
    assert_eq!(metric_in(&text, "outrigger_upstream_connects_total", &["cluster=\"c\""]), 1.0);
}

#[tokio::test]
async fn refused_requests_are_counted_by_reason() {
    let (_backend, proxy) = forwarding().await;
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(h1_client::exchange(proxy.addr(), bad).await.status, 400);
    }
    let (_, samples) = parse(&proxy.admin("/metrics").await.1);
    let codes: Vec<_> = samples
        .iter()
        .filter(|s| s.name == "outrigger_requests_refused_total" && s.value > 0.0)
        .map(|s| s.labels["code"].clone())
        .collect();
    assert_eq!(codes.len(), 3, "three different reasons: {codes:?}");
}

/// Nothing that a caller says becomes a label.
#[tokio::test]
async fn callers_cannot_grow_the_series() {
    let (_backend, proxy) = forwarding().await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let h2 = H2Client::connect(proxy.addr()).await;
    client.get("/").await;
    h2.get("/").await;
    h1_client::exchange(proxy.addr(), "GET /x y HTTP/1.1\r\n\r\n").await;
    let before = parse(&proxy.admin("/metrics").await.1).1.len();
    for number in 0..300 {
        client
            .exchange(format!(
                "M{number} /path/{number}?q={number} HTTP/1.1\r\nhost: h{number}.example\r\nuser-agent: u{number}\r\n\r\n"
            ))
            .await;
        h2.fetch(
            http::Request::get(format!("http://h{number}.example/{number}"))
                .header("content-type", format!("application/grpc+{number}"))
                .body(())
                .unwrap(),
        )
        .await
        .unwrap();
        h1_client::exchange(proxy.addr(), format!("GET /{number} y HTTP/1.1\r\n\r\n")).await;
    }
    let (_, samples) = parse(&proxy.admin("/metrics").await.1);
    assert!(samples.len() < before + 40, "{before} series became {}", samples.len());
    let spoken = samples.iter().flat_map(|s| s.labels.values()).find(|v| v.contains("example"));
    assert_eq!(spoken, None, "a caller's host is no label");
}

#[tokio::test]
async fn what_runs_is_shown_with_generation_and_hash() {
    let (backend, proxy) = forwarding().await;
    let shown = proxy.admin_json("/config").await;
    assert!(shown["generation"].is_u64(), "{shown}");
    assert!(shown["hash"].as_str().is_some_and(|hash| hash.len() >= 16), "{shown}");
    assert!(shown.to_string().contains(&backend.addr.to_string()), "{shown}");
    assert_eq!(shown["hash"], proxy.admin_json("/config").await["hash"]);
}

#[tokio::test]
async fn credentials_in_headers_are_not_shown() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr]).rule(
            "filters: [{ requestHeaders: { set: { authorization: \"Bearer hunter2\", x-api-key: \"hunter2\", cookie: \"s=hunter2\" } } }]",
        ),
    )
    .await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    assert_eq!(backend.only_request().head.get("authorization"), Some("Bearer hunter2"));
    for path in ["/config", "/clusters", "/metrics"] {
        let (_, text) = proxy.admin(path).await;
        assert!(!text.contains("hunter2"), "{path}: {text}");
    }
    assert!(!proxy.stderr().contains("hunter2"));
}

#[tokio::test]
async fn clusters_show_their_endpoints() {
    let backend = H1Backend::ok().await;
    let dead = h1_backend::Refusing::new();
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr, dead.addr]).upstream("loadBalancing: { policy: roundRobin }"),
    )
    .await;
    for _ in 0..6 {
        assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    }
    let text = proxy.admin_json("/clusters").await.to_string();
    for addr in [backend.addr, dead.addr] {
        assert!(text.contains(&addr.to_string()), "{text}");
    }
}

#[tokio::test]
async fn the_log_level_can_be_changed() {
    let (_backend, proxy) = forwarding().await;
    let (status, body) = proxy.admin_post("/log?level=debug").await;
    assert!((200..300).contains(&status), "{status}: {body}");
    let (status, _) = proxy.admin_post("/log?level=loudest").await;
    assert_eq!(status, 400);
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
}

/// A web page in a browser on this machine can reach 127.0.0.1 under a name of its own.
#[tokio::test]
async fn a_foreign_host_is_refused() {
    let (_backend, proxy) = forwarding().await;
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example"] {
        let ask = format!("GET /config HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let reply = h1_client::exchange(proxy.admin_addr(), ask).await;
        assert!(matches!(reply.status, 400 | 403 | 421), "{host}: {}", reply.status);
    }
    for host in ["127.0.0.1", "localhost", "localhost:15000", "[::1]:1"] {
        let ask = format!("GET /ready HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(h1_client::exchange(proxy.admin_addr(), ask).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn the_access_log_has_one_line_of_json_for_each_request() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.send(response(200, &[], b"ok")).await.ok();
        }
    })
    .await;
    for target in ["stdout", "file"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let setting = if target == "stdout" {
            "accessLog: stdout".to_owned()
        } else {
            format!("accessLog: {}", file.path().display())
        };
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).top(&setting)).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        client.get("/one?secret=1").await;
        client.exchange("GET /two HTTP/1.1\r\nhost: a.example\r\nuser-agent: \"quo\\ted\" \u{e4}\r\n\r\n").await;
        client.exchange("GET / HTTP/1.1\r\n\r\n").await;
        let read = || match target {
            "stdout" => proxy.stdout(),
            _ => std::fs::read_to_string(file.path()).unwrap_or_default(),
        };
        crate::support::eventually(PATIENCE, "three lines", || read().lines().count() >= 3).await;
        let lines: Vec<serde_json::Value> =
            read().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[0].to_string().contains("/one"), "{}", lines[0]);
        assert!(!lines[0].to_string().contains("secret"), "a query is not logged: {}", lines[0]);
        assert!(lines[2].to_string().contains("DPE"), "{}", lines[2]);
    }
}
