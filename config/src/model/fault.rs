//! Faults that are injected on purpose, and copies of requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use super::HeaderMatch;

/// Delays and aborts a share of the requests that pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Only requests with all of these headers.
    pub headers: Vec<HeaderMatch>,
    /// Held up before anything else is done with them.
    pub delay: Option<FaultDelay>,
    /// Answered here.
    pub abort: Option<FaultAbort>,
    /// After this moment nothing is injected any more: a forgotten experiment ends by itself. Required.
    pub until: SystemTime,
}

/// Holds requests up.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultDelay {
    /// Share of the requests.
    pub share: Share,
    /// How long (at most 1 h).
    pub by: Duration,
}

/// Answers requests instead of an upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultAbort {
    /// Share of the requests.
    pub share: Share,
    /// With this.
    pub with: Abort,
}

/// The answer of an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// This status, 200..=599. gRPC callers get the status that it means to them.
    Status(StatusCode),
    /// This gRPC status, as a response without messages. Other callers get 503.
    Grpc(u8),
}

/// A share of the requests in millionths (0..=1,000,000): fractions of a percent are usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

/// Sends copies of a share of the requests elsewhere. Their answers are thrown away, and nothing waits for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Exists in [`super::Config::clusters`].
    pub cluster: Arc<str>,
    /// Share of the requests (default all).
    pub share: Share,
}
