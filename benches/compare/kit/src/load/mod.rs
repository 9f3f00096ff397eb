//! Load: closed loops that count only what was answered with 200 and arrived whole.

pub mod handshakes;
pub mod hold;
pub mod http2;
pub mod http3;
pub mod messages;
pub mod routes;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The size of the backend's answer.
pub const BODY: usize = 1024;

/// The result of a run as one line of JSON. `latencies` (microseconds) holds one figure for each good answer; the rest failed.
#[must_use]
pub fn report(mut latencies: Vec<u32>, requests: usize, took: Duration) -> String {
    latencies.sort_unstable();
    let quantile = |share: f64| {
        let rank = (latencies.len() as f64 * share).ceil() as usize;
        latencies.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    format!(
        r#"{{"requests":{requests},"failed":{},"seconds":{:.6},"p50_us":{},"p99_us":{}}}"#,
        requests - latencies.len(),
        took.as_secs_f64(),
        quantile(0.50),
        quantile(0.99),
    )
}

/// How many of `total` fall to part `at` of `parts`.
fn share(total: usize, parts: usize, at: usize) -> usize {
    total / parts + usize::from(at < total % parts)
}

/// A duration in whole microseconds.
fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

/// Reads one HTTP/1.1 response: whether its status was 200, or `None` when the connection cannot be used any more.
async fn response(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Option<bool> {
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
