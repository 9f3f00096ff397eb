//! A fleet of simulated proxies against the discovery service: memory for each, and how soon a change is applied.
//!
//! `cargo bench -p outrigger-control --bench fleet` measures; `-- --proxies N` changes how many there are,
//! and `-- --rounds N` how often each change is made. Without `--bench`
//! (`cargo test --benches`) a small fleet only shows that everything runs.
//!
//! The server is a process of its own, started from this same program; its memory is what the system says of it. The
//! proxies are in this process, each with its own connection from an address of its own, over loopback without TLS.
//! A change carries the time at which it was made; a proxy notes how old it is when it has been decoded and kept.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::unwrap_used, reason = "a measurement that fails ends")]

mod mesh;
mod proxy;

use std::io::{BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_control::fleet::{Fleet, NoRecorder};
use outrigger_control::xds::{Ads, tune};
use tonic::transport::Server;

use crate::mesh::{Mesh, Shape, incoming, peer_at, workload};
use crate::proxy::{Proxy, versions};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long a fleet may take to be in sync.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)?.parse::<usize>().ok()
    };
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let proxies = number("--proxies").unwrap_or(if is_bench { 500 } else { 20 });
    let shape = Shape { proxies, services: 40, uses: 20, endpoints: 10 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if arguments.iter().any(|argument| argument == "--serve") {
        runtime.block_on(serve(shape));
    } else {
        let rounds = number("--rounds").unwrap_or(if is_bench { 20 } else { 2 });
        runtime.block_on(measure(shape, rounds));
    }
}

/// The server: commands come in by lines, and each is answered by one.
async fn serve(shape: Shape) {
    let mut mesh = Mesh::new(shape);
    let fleet = Fleet::new(Arc::new(NoRecorder));
    let (address, connections) = incoming(peer_at).await;
    let service = Ads::new(Arc::clone(&mesh.source) as _, fleet.clone()).into_service();
    tokio::spawn(tune(Server::builder()).serve_with_incoming(service, connections));
    println!("{address}");
    let (lines, mut commands) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    while let Some(command) = commands.recv().await {
        match command.as_str() {
            "endpoints" => println!("{}", mesh.change_endpoints()),
            "routes" => {
                mesh.change_routes();
                println!("{}", shape.proxies);
            }
            "everything" => {
                mesh.change_everything();
                println!("{}", shape.proxies);
            }
            "memory" => println!("{}", memory_kib()),
            "synced" => {
                let outcome = fleet.await_synced(mesh.generation(), PATIENCE).await;
                println!("{}", if outcome.is_complete() { outcome.synced } else { 0 });
            }
            proxy => {
                let set = mesh.source.get(&workload(proxy.parse().unwrap())).unwrap();
                println!("{}", versions(&set).join(" "));
            }
        }
    }
}

/// Resident memory of this process.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn measure(shape: Shape, rounds: usize) {
    let Shape { proxies, services, uses, endpoints } = shape;
    println!("{proxies} proxies; {services} services of {endpoints} endpoints, {uses} used by each proxy");
    let mut server = Process::start(proxies);
    let address = server.line().parse().unwrap();
    let before: u64 = server.ask("memory").parse().unwrap();

    let began = Instant::now();
    let mut fleet = Vec::with_capacity(proxies);
    for number in 0..proxies {
        fleet.push(Proxy::connect(number, address).await.unwrap());
    }
    wait_for_sync(&mut server, &fleet).await;
    println!("connected and in sync after {:.2} s", began.elapsed().as_secs_f64());
    check(&mut server, &fleet);
    let connected: u64 = server.ask("memory").parse().unwrap();

    println!(
        "\n{:<44} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "ms from change to applied", "proxies", "p50", "p90", "p99", "max"
    );
    for (command, name) in [
        ("endpoints", "endpoints of one service, sent at once"),
        ("routes", "routes of every proxy, after up to 100 ms"),
        ("everything", "clusters and routes of every proxy, likewise"),
    ] {
        let mut ages = Vec::new();
        let mut concerned = 0;
        fleet.iter().for_each(|proxy| drop(proxy.take_ages()));
        for _ in 0..rounds {
            concerned = server.ask(command).parse().unwrap();
            let mut all: Vec<Duration> = Vec::new();
            let deadline = Instant::now() + PATIENCE;
            // Everything is clusters first and routes after them: two for each proxy.
            let expected = if command == "everything" { 2 * concerned } else { concerned };
            while all.len() < expected {
                assert!(Instant::now() < deadline, "{} of {expected} changes were applied", all.len());
                tokio::time::sleep(Duration::from_millis(10)).await;
                all.extend(fleet.iter().flat_map(Proxy::take_ages));
            }
            wait_for_sync(&mut server, &fleet).await;
            check(&mut server, &fleet);
            ages.extend(all);
        }
        ages.sort_unstable();
        let at = |share: f64| ages[((ages.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(at);
        println!("{name:<44} {concerned:>8} {p50:>8.1} {p90:>8.1} {p99:>8.1} {max:>8.1}");
    }
    let after: u64 = server.ask("memory").parse().unwrap();
    let each = |kib: u64| kib.saturating_sub(before) as f64 / proxies as f64;
    println!("\nresident memory of the server                     MiB  KiB a proxy");
    println!("{:<44} {:>8.1}", "before the first proxy", before as f64 / 1024.0);
    println!("{:<44} {:>8.1} {:>12.1}", "all connected and in sync", connected as f64 / 1024.0, each(connected));
    println!("{:<44} {:>8.1} {:>12.1}", format!("after {} changes", 3 * rounds), after as f64 / 1024.0, each(after));
    println!("\nall {proxies} proxies are connected and have exactly what the server has for them");
}

async fn wait_for_sync(server: &mut Process, fleet: &[Proxy]) {
    let deadline = Instant::now() + PATIENCE;
    // The last answers may be on their way.
    while server.ask("synced") != fleet.len().to_string() {
        assert!(Instant::now() < deadline, "the fleet is not in sync");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every proxy has exactly what the server has for it.
fn check(server: &mut Process, fleet: &[Proxy]) {
    for (number, proxy) in fleet.iter().enumerate() {
        assert!(proxy.is_connected(), "proxy {number} is not connected");
        assert_eq!(proxy.versions().join(" "), server.ask(&number.to_string()), "proxy {number}");
    }
}

/// The server, stopped when it is dropped.
struct Process {
    child: Child,
    commands: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(proxies: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--serve", "--proxies", &proxies.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let lines = std::io::BufRead::lines(BufReader::new(child.stdout.take().unwrap()));
        Self { child, commands, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the server is there").unwrap()
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").unwrap();
        self.line()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
