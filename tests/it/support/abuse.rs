//! What has to hold while a caller abuses the proxy: its memory stays where it is, and others are served.

use std::time::{Duration, Instant};

use super::{Proxy, process, within};

/// What the proxy may grow by meanwhile.
const MEMORY: u64 = 32 << 20;
/// The longest that another caller may have to wait.
const PATIENT: Duration = Duration::from_secs(5);
/// The longest that an abuse may take.
const LONGEST: Duration = Duration::from_secs(60);

/// Runs an abuse while another caller is served again and again: `serve` is one exchange of it, which fails loudly. Gives what the
/// abuse gave.
pub async fn abused<T>(name: &str, proxy: &Proxy, mut serve: impl AsyncFnMut(), abuse: impl Future<Output = T>) -> T {
    // What a first exchange needs for good does not count.
    serve().await;
    let before = proxy.rss();
    let (mut slowest, mut peak, mut served) = (Duration::ZERO, 0, 0);
    let serving = async {
        loop {
            let start = Instant::now();
            serve().await;
            slowest = slowest.max(start.elapsed());
            peak = peak.max(process::rss(proxy.pid()));
            served += 1;
        }
    };
    let outcome = within(LONGEST, name, async {
        tokio::select! {
            outcome = abuse => outcome,
            () = serving => unreachable!("it asks for ever"),
        }
    })
    .await;
    let start = Instant::now();
    serve().await;
    slowest = slowest.max(start.elapsed());
    let grown = peak.max(proxy.rss()).saturating_sub(before);
    println!("{name}: {} KiB, {served} exchanges of another caller, the slowest {slowest:?}", grown >> 10);
    assert!(slowest < PATIENT, "{name}: another caller waited {slowest:?}");
    assert!(grown < MEMORY, "{name}: memory grew by {} KiB", grown >> 10);
    outcome
}
