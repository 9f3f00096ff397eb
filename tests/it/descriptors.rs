//! Out of file descriptors: callers wait, the processor does not spin, and it is said once.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Config, H1Client, PATIENCE, Proxy, eventually, h1_client, ms, within};

/// User and system time so far, from /proc, in milliseconds.
fn cpu_ms(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_ascii_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    ticks * 10
}

fn open_files(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count() as u64
}

#[tokio::test]
async fn without_descriptors_callers_wait_and_the_proxy_does_not_spin() {
    let config = Config::new().routes("- rules: [{ filters: [{ directResponse: { status: 200, body: here } }] }]");
    let proxy = Proxy::start(&config).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.text(), "here");
    let pid = proxy.pid();
    let room = open_files(pid) + 4;
    let limit = Rlimit { current: Some(room), maximum: Some(room) };
    prlimit(Pid::from_raw(i32::try_from(pid).expect("a pid")), Resource::Nofile, limit).expect("the limit is set");

    let mut served = Vec::new();
    let mut waiting = Vec::new();
    for _ in 0..16 {
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        match tokio::time::timeout(ms(300), client.wire.response("GET")).await {
            Ok(reply) => {
                assert_eq!(reply.expect("an answer").text(), "here");
                served.push(client);
            }
            Err(_) => waiting.push(client),
        }
    }
    assert!(!served.is_empty() && !waiting.is_empty(), "{} served, {} wait", served.len(), waiting.len());

    let before = cpu_ms(pid);
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = cpu_ms(pid) - before;
    assert!(spent < 200, "{spent} ms of processor time in {:?}", start.elapsed());
    let said = proxy.stderr().matches("connections cannot be accepted").count();
    assert!((1..=2).contains(&said), "at most once by each of the two that accept here: {said}");

    // Every connection that ends lets one in.
    served.clear();
    for mut client in waiting {
        assert_eq!(client.response().await.text(), "here");
    }
    eventually(PATIENCE, "the admin server is reached again", || open_files(pid) < room).await;
    within(PATIENCE, "the last connection is gone", async {
        while proxy.metric("outrigger_connections", &["listener=\"in\""]).await != 0.0 {
            tokio::time::sleep(ms(2)).await;
        }
    })
    .await;
}
