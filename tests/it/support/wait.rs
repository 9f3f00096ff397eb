//! Waiting for events and conditions, always with a limit and always saying what was waited for.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen at once. Generous, because the machine
/// may be busy; a test about speed states its own limit.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Awaits a future; panics with `what` when it takes longer than `limit`.
#[track_caller]
pub fn within<F: Future>(limit: Duration, what: &str, future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => panic!("{what} did not happen within {limit:?} (waited at {place})"),
        }
    }
}

/// Polls a condition of another process (whose events cannot be subscribed to) until it holds.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < limit, "{what} did not hold within {limit:?} (waited at {place})");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
