//! Saying who was refused, and by whom we were, without a line for each.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Instant;

use parking_lot::Mutex;

use crate::base::limits;

/// What was said of the refused connections of one listener, or of one cluster, by reason. Reasons are constants of the program,
/// so there are few.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Vec<Said>>);

#[derive(Debug)]
struct Said {
    reason: &'static str,
    at: Instant,
    /// Those since then that were not said.
    unsaid: u64,
}

impl Refusals {
    /// Says that a caller was refused: what was expected, and what came. At most one line in
    /// [`limits::REFUSAL_LOG`] for each reason; it tells how many were left out.
    pub fn say_refused(&self, listener: &str, peer: SocketAddr, (reason, detail): (&'static str, &dyn Display)) {
        if let Some(not_logged) = self.is_news(reason, Instant::now()) {
            tracing::info!(listener, %peer, reason, %detail, not_logged, "a connection was refused");
        } else {
            tracing::debug!(listener, %peer, reason, %detail, "a connection was refused");
        }
    }

    /// Says that TLS with an endpoint failed, likewise.
    pub fn say_failed(&self, cluster: &str, endpoint: SocketAddr, (reason, detail): (&'static str, &dyn Display)) {
        if let Some(not_logged) = self.is_news(reason, Instant::now()) {
            tracing::warn!(cluster, %endpoint, reason, %detail, not_logged, "TLS with an endpoint failed");
        } else {
            tracing::debug!(cluster, %endpoint, reason, %detail, "TLS with an endpoint failed");
        }
    }

    fn is_news(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut all = self.0.lock();
        let Some(said) = all.iter_mut().find(|said| said.reason == reason) else {
            all.push(Said { reason, at: now, unsaid: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(said.at) < limits::REFUSAL_LOG {
            said.unsaid += 1;
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_reason_is_said_once_in_a_while_with_how_many_were_not() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.is_news("expired", start), Some(0));
        assert_eq!(refusals.is_news("plaintext", start), Some(0));
        for _ in 0..7 {
            assert_eq!(refusals.is_news("expired", start + Duration::from_secs(1)), None);
        }
        assert_eq!(refusals.is_news("expired", start + limits::REFUSAL_LOG), Some(7));
        assert_eq!(refusals.is_news("expired", start + limits::REFUSAL_LOG), None);
        assert_eq!(refusals.is_news("plaintext", start + limits::REFUSAL_LOG), Some(0));
    }
}
