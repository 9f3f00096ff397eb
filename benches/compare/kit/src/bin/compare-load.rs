//! `compare-load ADDRESS CONNECTIONS REQUESTS COUNT HOST PATH`: HTTP/1.1 load whose host or path changes with every request.
//!
//! `{}` in HOST or PATH becomes a number below COUNT, all of them in turn, scattered so that neighbours in the route table are
//! not neighbours in time. Each connection has one request open at a time. Prints one line of JSON; a response
//! counts as failed unless its status is 200 and its body arrived whole. (h2load, which drives the other scenarios, sends one host only.)

use std::io::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A prime larger than any COUNT in use, hence coprime to it: stepping by it visits every number once.
const STRIDE: usize = 1_000_003;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, requests, count, host, path] = arguments.as_slice() else {
        anyhow::bail!("usage: compare-load ADDRESS CONNECTIONS REQUESTS COUNT HOST PATH");
    };
    let load = Load {
        address: number("ADDRESS", address)?,
        connections: number("CONNECTIONS", connections)?,
        requests: number("REQUESTS", requests)?,
        heads: heads(number("COUNT", count)?, host, path),
    };
    anyhow::ensure!(load.connections > 0 && !load.heads.is_empty(), "CONNECTIONS and COUNT start at 1");
    let report = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(load))?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str, text: &str) -> anyhow::Result<T> {
    text.parse().with_context(|| format!("{name}: {text}"))
}

struct Load {
    address: SocketAddr,
    connections: usize,
    requests: usize,
    heads: Vec<Vec<u8>>,
}

fn heads(count: usize, host: &str, path: &str) -> Vec<Vec<u8>> {
    (0..count)
        .map(|at| {
            let number = (at * STRIDE % count).to_string();
            let (host, path) = (host.replace("{}", &number), path.replace("{}", &number));
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: compare-load\r\n\r\n").into_bytes()
        })
        .collect()
}

async fn run(load: Load) -> anyhow::Result<String> {
    let heads = Arc::new(load.heads);
    let started = Instant::now();
    let tasks: Vec<_> = (0..load.connections)
        .map(|at| {
            let share = load.requests / load.connections + usize::from(at < load.requests % load.connections);
            let first = at * heads.len() / load.connections;
            tokio::spawn(drive(load.address, Arc::clone(&heads), first, share))
        })
        .collect();
    let mut latencies = Vec::with_capacity(load.requests);
    for task in tasks {
        latencies.extend(task.await?);
    }
    let seconds = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let quantile = |share: f64| {
        let rank = (latencies.len() as f64 * share).ceil() as usize;
        latencies.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    Ok(format!(
        r#"{{"requests":{},"failed":{},"seconds":{seconds:.6},"p50_us":{},"p99_us":{}}}"#,
        load.requests,
        load.requests - latencies.len(),
        quantile(0.50),
        quantile(0.99),
    ))
}

/// The latencies, in microseconds, of the requests that were answered. A broken connection ends its task: whatever it had
/// left is missing from the result and thereby counted as failed.
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
            Some(true) => latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX)),
            Some(false) => {}
            None => break,
        }
    }
    latencies
}

/// Reads one response: whether its status was 200, or `None` when the connection cannot be used any more.
async fn response(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<bool> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.ok().filter(|&read| read > 0)?;
        filled += read;
        let Some(head) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&buffer[..head]).ok()?;
        let length = text.split("\r\n").skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        })?;
        let success = text.split(' ').nth(1) == Some("200");
        let whole = head + 4 + length;
        while filled < whole {
            let read = stream.read(buffer.get_mut(filled..)?).await.ok().filter(|&read| read > 0)?;
            filled += read;
        }
        return Some(success);
    }
}
