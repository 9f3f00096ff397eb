//! HTTP/1.1 whose host or path changes with every request; each connection has one request open at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{micros, report, response, share};

/// A prime larger than any count in use, hence coprime to it: stepping by it visits every number once.
const STRIDE: usize = 1_000_003;

/// What to ask for.
#[derive(Debug)]
pub struct Routes {
    /// Where.
    pub address: SocketAddr,
    /// How many connections.
    pub connections: usize,
    /// How many requests, over all connections.
    pub requests: usize,
    /// How many numbers `{}` in host or path runs through, scattered so that neighbours in the route table are not neighbours in time.
    pub count: usize,
    /// The host, with or without `{}`.
    pub host: String,
    /// The path, with or without `{}`.
    pub path: String,
}

/// Runs it to the end; the answer is one line of JSON.
///
/// # Errors
/// When a task fails.
pub async fn run(load: Routes) -> anyhow::Result<String> {
    let heads = Arc::new(heads(&load));
    let started = Instant::now();
    let tasks: Vec<_> = (0..load.connections)
        .map(|at| {
            let first = at * heads.len() / load.connections;
            let share = share(load.requests, load.connections, at);
            tokio::spawn(drive(load.address, Arc::clone(&heads), first, share))
        })
        .collect();
    let mut latencies = Vec::with_capacity(load.requests);
    for task in tasks {
        latencies.extend(task.await?);
    }
    Ok(report(latencies, load.requests, started.elapsed()))
}

fn heads(load: &Routes) -> Vec<Vec<u8>> {
    (0..load.count)
        .map(|at| {
            let number = (at * STRIDE % load.count).to_string();
            let (host, path) = (load.host.replace("{}", &number), load.path.replace("{}", &number));
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: compare-load\r\n\r\n").into_bytes()
        })
        .collect()
}

/// The latencies of the requests that were answered. A broken connection ends its task: whatever it had left is missing from
/// the result and thereby counted as failed.
async fn drive(address: SocketAddr, heads: Arc<Vec<Vec<u8>>>, first: usize, share: usize) -> Vec<u32> {
    let mut latencies = Vec::with_capacity(share);
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return latencies;
    };
    if stream.set_nodelay(true).is_err() {
        return latencies;
    }
    let mut buffer = vec![0; 16 * 1024];
    for at in 0..share {
        let started = Instant::now();
        if stream.write_all(&heads[(first + at) % heads.len()]).await.is_err() {
            break;
        }
        match response(&mut stream, &mut buffer).await {
            Some(true) => latencies.push(micros(started.elapsed())),
            Some(false) => {}
            None => break,
        }
    }
    latencies
}
