//! Autobahn's WebSocket suite against a server, and against the same server behind the proxy: case for case the same verdicts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::mesh::Hop;
use crate::support::proxy::free_port;
use crate::support::{Config, PATIENCE, Proxy, full, ms, process, within};

/// The verdict on each case: on its behaviour, and on how the connection was closed.
type Verdicts = BTreeMap<String, (String, String)>;

/// Autobahn's own server, which answers each frame before it looks at the next; gone when dropped. (What a server that puts off its
/// answers does depends on how many frames arrive at once, which a proxy may change.)
struct Server {
    addr: SocketAddr,
    _child: Child,
}

impl Server {
    async fn start() -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = Command::new(process::tool("wstest"))
            .args(["--mode", "testeeserver", "--webport", "0", "--wsuri", &format!("ws://{addr}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("start wstest");
        let start = std::time::Instant::now();
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            assert!(start.elapsed() < PATIENCE, "the server listens");
            tokio::time::sleep(ms(20)).await;
        }
        Self { addr, _child: child }
    }
}

/// What is run, part by part: without the full form the large messages (9) are left out, and most of the many messages with
/// compression (12, 13), which take a minute each part. `OUTRIGGER_AUTOBAHN` names others: `9.*,12.1.*`.
fn parts() -> Vec<Vec<String>> {
    let split = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
    if let Some(chosen) = chosen() {
        return split(&chosen).into_iter().map(|part| vec![part]).collect();
    }
    let short = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,10.*,9.1.1,9.7.1,12.1.1,12.2.1,13.1.1";
    if !full() {
        return vec![split(short)];
    }
    let mut parts = vec![split("1.*,2.*,3.*,4.*,5.*,6.*,7.*,10.*")];
    parts.extend((1..=8).map(|part| vec![format!("9.{part}.*")]));
    parts.extend((1..=5).map(|part| vec![format!("12.{part}.*")]));
    parts.extend((1..=7).map(|part| vec![format!("13.{part}.*")]));
    parts
}

fn chosen() -> Option<String> {
    std::env::var("OUTRIGGER_AUTOBAHN").ok()
}

/// Runs a part of the suite.
async fn suite(addr: SocketAddr, cases: Vec<String>) -> Verdicts {
    let folder = tempfile::tempdir().expect("make a folder");
    let spec = json!({
        "outdir": folder.path().join("reports"),
        "servers": [{ "agent": "server", "url": format!("ws://{addr}") }],
        "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
    });
    let path = folder.path().join("spec.json");
    std::fs::write(&path, spec.to_string()).expect("write the specification");
    let run = Command::new(process::tool("wstest"))
        .args(["--mode", "fuzzingclient", "--spec"])
        .arg(&path)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let limit = Duration::from_secs(if full() || chosen().is_some() { 1800 } else { 150 });
    let output = within(limit, "the suite", run).await.expect("run wstest");
    let said = String::from_utf8_lossy(&output.stderr);
    let index =
        std::fs::read(folder.path().join("reports/index.json")).unwrap_or_else(|e| panic!("no report: {e}\n{said}"));
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let text = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let verdicts = index["server"].as_object().expect("the agent");
    verdicts.iter().map(|(name, case)| (name.clone(), (text(case, "behavior"), text(case, "behaviorClose")))).collect()
}

fn differences(alone: &Verdicts, behind: &Verdicts) -> Vec<String> {
    let mut names: Vec<_> = alone.keys().chain(behind.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| alone.get(*name) != behind.get(*name))
        .map(|name| format!("{name}: {:?} alone, {:?} behind the proxy", alone.get(name), behind.get(name)))
        .collect()
}

/// One proxy, two with HTTP/2 between them, two with HTTP/3 between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autobahn_judges_a_server_behind_the_proxy_as_it_judges_it_alone() {
    let server = Server::start().await;
    // It wants to be asked for by its own name.
    let named =
        |config: Config| config.rule(&format!("filters: [{{ urlRewrite: {{ hostname: \"{}\" }} }}]", server.addr));
    let one = Proxy::start(&named(Config::to("http1", &[server.addr]))).await;
    let h2 = Hop::with("http1", server.addr, named).await;
    let h3 = Hop::between("http3", "http1", server.addr, named).await;
    let ways = [server.addr, one.addr(), h2.addr(), h3.addr()];
    let mut verdicts = <[Verdicts; 4]>::default();
    for part in parts() {
        let start = std::time::Instant::now();
        // Most of the time is waiting, so all go at once.
        let runs = ways.map(|addr| tokio::spawn(suite(addr, part.clone())));
        for (all, run) in verdicts.iter_mut().zip(runs) {
            all.append(&mut run.await.expect("the suite runs"));
        }
        println!("{part:?}: {} cases so far, {:?}", verdicts[0].len(), start.elapsed());
    }
    let [alone, behind @ ..] = &verdicts;
    let ok = alone.values().filter(|verdict| verdict.0 == "OK").count();
    println!("{} cases, {ok} of them OK", alone.len());
    assert!(!alone.is_empty() && (chosen().is_some() || alone.len() >= 250 && ok >= 245), "{alone:?}");
    for (way, behind) in ["one proxy", "HTTP/2 between two", "HTTP/3 between two"].into_iter().zip(behind) {
        assert_eq!(differences(alone, behind), Vec::<String>::new(), "{way}");
    }
}
