//! Retries and hedged requests.

use std::time::Duration;

use super::{HeaderMatch, Setting};

/// Retries of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Extra attempts beyond the first for the conditions in `on` (0 = none, at most 5).
    pub attempts: Setting<u8>,
    /// Conditions.
    pub on: Vec<RetryOn>,
    /// Also: responses with any of these headers.
    pub on_headers: Vec<HeaderMatch>,
    /// Also retry requests that are not idempotent and may have been executed.
    pub non_idempotent: bool,
    /// A request with an `Idempotency-Key` counts as idempotent, whatever its method (default false: only the
    /// application knows whether it honours the key).
    pub idempotency_key: bool,
    /// Full-jitter backoff base (default 25 ms).
    pub backoff_base: Duration,
    /// Backoff cap (default 250 ms).
    pub backoff_max: Duration,
    /// `Retry-After` and `grpc-retry-pushback-ms` are waited for up to this long; a longer one ends the retries
    /// (default 300 s; the request's deadline ends them in any case).
    pub max_pushback: Duration,
    /// Prefer an endpoint in another zone than those tried (default false).
    pub other_locality: bool,
    /// Bytes of a request body kept for a replay (default 64 KiB, at most 16 MiB).
    pub buffer: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: Setting { value: 0, place: None },
            on: Vec::new(),
            on_headers: Vec::new(),
            non_idempotent: false,
            idempotency_key: false,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            max_pushback: Duration::from_secs(300),
            other_locality: false,
            buffer: 64 * 1024,
        }
    }
}

/// When an attempt is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RetryOn {
    /// The connection could not be made.
    ConnectFailure,
    /// The peer refused the stream without processing it (REFUSED_STREAM, or a GOAWAY below it).
    RefusedStream,
    /// The connection or stream ended before a response head.
    Reset,
    /// 502, 503, 504.
    GatewayError,
    /// Any 5xx.
    ServerError,
    /// This status.
    Status(u16),
    /// This gRPC status code (in headers, or in trailers before any message).
    Grpc(u8),
}

/// A second attempt is started while the first is under way, and the first good answer wins. Idempotent requests only,
/// unless the rule's retry says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedge {
    /// When.
    pub after: HedgeAfter,
    /// Attempts beside the first (1..=3, default 1).
    pub max: u8,
    /// Hedged attempts of the cluster are at most this share of its requests, in percent (default 10).
    pub budget_percent: u8,
}

/// When a hedged attempt is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HedgeAfter {
    /// So long after the attempt before.
    Delay(Duration),
    /// After this percentile of the recent times to the response head, but not before `min`.
    Percentile {
        /// 50..=99.
        percent: u8,
        /// Not before (default 1 ms).
        min: Duration,
    },
}
