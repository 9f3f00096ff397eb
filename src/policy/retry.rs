//! Whether a failed attempt is repeated.
//!
//! The invariant: a request that an application may have executed is sent again only if its method is idempotent
//! or its rule says so. What provably was not executed is a different outcome, and may be sent again once for any
//! method, without a policy and outside the budget.

use std::time::{Duration, SystemTime};

use http::Method;
use outrigger_config::model::{Retry, RetryOn};

use super::rng::scale;

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The request provably did not reach an application.
    NeverSent(NeverSent),
    /// It may have been executed, and no response head came.
    MaybeSent(MaybeSent),
    /// A response head with this status came.
    Status(u16),
    /// A gRPC status came, in the head or in trailers before any message.
    Grpc(u8),
    /// A response came that forbids repeating (`grpc-retry-pushback-ms` below zero).
    Forbidden,
}

/// Why an attempt provably did not reach an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeverSent {
    /// No connection could be made.
    ConnectFailure,
    /// A connection of the pool died before a byte of the request was written.
    Unwritten,
    /// The peer refused the stream without processing it (REFUSED_STREAM, or a GOAWAY below it).
    Refused,
}

/// How an attempt ended that may have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaybeSent {
    /// The connection or stream ended.
    Reset,
    /// The same, on a connection that had served earlier requests, before a byte of the response: most likely the
    /// peer was closing it for idleness as the request was sent.
    ReusedClosed,
    /// No response head within the time limit of one attempt.
    Timeout,
}

/// Whether the request body can be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replay {
    /// It is kept, or there is none, or nothing of it was taken yet.
    Whole,
    /// Some of it is gone.
    Lost,
}

/// Whether executing a request twice is the same as once (RFC 9110 section 9.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Idempotency {
    /// By its method.
    Idempotent,
    /// As far as can be told.
    NotIdempotent,
}

impl Idempotency {
    /// By the method alone.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE => {
                Self::Idempotent
            }
            _ => Self::NotIdempotent,
        }
    }
}

/// What was tried for a request so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    made: u8,
    free: Free,
    charged: u8,
}

/// Whether the one repetition outside policy and budget was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Free {
    Left,
    Used,
}

impl Attempts {
    /// The first attempt is being made.
    #[must_use]
    pub const fn first() -> Self {
        Self { made: 1, free: Free::Left, charged: 0 }
    }

    /// How many were made, the present one included.
    #[must_use]
    pub const fn made(&self) -> u8 {
        self.made
    }

    /// Another attempt is made on this verdict. A verdict that says no changes nothing.
    pub fn record(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Done(_) => return,
            Verdict::RetryFree => self.free = Free::Used,
            Verdict::RetryCharged { .. } => self.charged = self.charged.saturating_add(1),
        }
        self.made = self.made.saturating_add(1);
    }
}

impl Default for Attempts {
    fn default() -> Self {
        Self::first()
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The outcome stands.
    Done(Why),
    /// Try again at once. Not counted against the retry budget.
    RetryFree,
    /// Try again after [`backoff`] of this step (0 for the first), if the retry budget allows.
    RetryCharged {
        /// How many of these came before.
        step: u8,
    },
}

/// Why an outcome stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// The rule does not count it as a reason to retry.
    NotCovered,
    /// It does, and the body cannot be sent again.
    NotReplayable,
    /// It does, and the request may have been executed and must not be twice.
    NotIdempotent,
    /// It does, and the attempts are used up.
    Exhausted,
    /// The server forbids it.
    Forbidden,
}

/// What of a request bears on repeating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeatable {
    /// Its body.
    pub replay: Replay,
    /// Its method.
    pub idempotency: Idempotency,
}

/// Decides whether an attempt is repeated.
///
/// `gateway-error` and `server-error` also cover attempts that got no response at all: this proxy would answer
/// them with a 5xx. `reset` does not cover a timeout: nothing ended, the upstream may still be at work. A gRPC code covers the attempts for which this proxy would answer it: `unavailable` a
/// connection or stream that failed, `deadline-exceeded` a timeout.
#[must_use]
pub fn decide(policy: &Retry, attempts: &Attempts, request: Repeatable, outcome: Outcome) -> Verdict {
    let free = attempts.free == Free::Left && is_free(outcome, request.idempotency);
    let covered = policy.attempts.value > 0 && policy.on.iter().any(|on| covers(*on, outcome));
    if outcome == Outcome::Forbidden {
        Verdict::Done(Why::Forbidden)
    } else if !free && !covered {
        Verdict::Done(Why::NotCovered)
    } else if request.replay == Replay::Lost {
        Verdict::Done(Why::NotReplayable)
    } else if attempts.made >= most_attempts(policy) {
        Verdict::Done(Why::Exhausted)
    } else if free {
        Verdict::RetryFree
    } else if may_be_executed(outcome) && request.idempotency == Idempotency::NotIdempotent && !policy.non_idempotent {
        Verdict::Done(Why::NotIdempotent)
    } else if attempts.charged >= policy.attempts.value {
        Verdict::Done(Why::Exhausted)
    } else {
        Verdict::RetryCharged { step: attempts.charged }
    }
}

/// Attempts in all: 3, or as many as the rule asks for, and 6 at the very most.
fn most_attempts(policy: &Retry) -> u8 {
    policy.attempts.value.saturating_add(1).clamp(USUAL_ATTEMPTS, MOST_ATTEMPTS)
}

fn is_free(outcome: Outcome, idempotency: Idempotency) -> bool {
    match outcome {
        Outcome::NeverSent(_) => true,
        Outcome::MaybeSent(MaybeSent::ReusedClosed) => idempotency == Idempotency::Idempotent,
        Outcome::MaybeSent(MaybeSent::Reset | MaybeSent::Timeout)
        | Outcome::Status(_)
        | Outcome::Grpc(_)
        | Outcome::Forbidden => false,
    }
}

fn may_be_executed(outcome: Outcome) -> bool {
    match outcome {
        Outcome::NeverSent(_) => false,
        Outcome::MaybeSent(_) | Outcome::Status(_) | Outcome::Grpc(_) | Outcome::Forbidden => true,
    }
}

fn covers(on: RetryOn, outcome: Outcome) -> bool {
    match outcome {
        Outcome::NeverSent(how) => match on {
            RetryOn::ConnectFailure => how == NeverSent::ConnectFailure,
            RetryOn::RefusedStream => how == NeverSent::Refused,
            RetryOn::Reset => how != NeverSent::ConnectFailure,
            RetryOn::GatewayError | RetryOn::ServerError => true,
            RetryOn::Grpc(code) => code == GRPC_UNAVAILABLE,
            RetryOn::Status(_) => false,
        },
        Outcome::MaybeSent(how) => match on {
            RetryOn::Reset => how != MaybeSent::Timeout,
            RetryOn::GatewayError | RetryOn::ServerError => true,
            RetryOn::Grpc(code) => match how {
                MaybeSent::Reset | MaybeSent::ReusedClosed => code == GRPC_UNAVAILABLE,
                MaybeSent::Timeout => code == GRPC_DEADLINE_EXCEEDED,
            },
            RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::Status(_) => false,
        },
        Outcome::Status(status) => match on {
            RetryOn::GatewayError => matches!(status, 502..=504),
            RetryOn::ServerError => matches!(status, 500..=599),
            RetryOn::Status(wanted) => status == wanted,
            RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::Reset | RetryOn::Grpc(_) => false,
        },
        Outcome::Grpc(code) => on == RetryOn::Grpc(code),
        Outcome::Forbidden => false,
    }
}

/// How long to wait before a charged retry: anything up to `base * 2^step`, and up to the cap ("full jitter"), so
/// that callers who failed together do not come back together. `random` is from the whole range.
#[must_use]
pub fn backoff(policy: &Retry, step: u8, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(u32::from(step)).unwrap_or(u32::MAX);
    let most = policy.backoff_base.saturating_mul(factor).min(policy.backoff_max);
    part_of(most, random)
}

/// How long to wait when the server named a time: that long, and up to half of it more, at most 300 s in all.
#[must_use]
pub fn pushback_wait(wait: Duration, random: u64) -> Duration {
    let wait = wait.min(MOST_PUSHBACK);
    wait.saturating_add(part_of(wait / 2, random)).min(MOST_PUSHBACK)
}

/// What a server says about when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// After this long, at most 300 s.
    After(Duration),
    /// Not at all ([`Outcome::Forbidden`]).
    Never,
}

/// Reads `grpc-retry-pushback-ms` (gRFC A6): a negative number means never, as does what is no number.
#[must_use]
pub fn parse_grpc_pushback(value: &str) -> Pushback {
    match value.trim().parse::<i32>() {
        Ok(millis) => match u64::try_from(millis) {
            Ok(millis) => Pushback::After(Duration::from_millis(millis).min(MOST_PUSHBACK)),
            Err(_) => Pushback::Never,
        },
        Err(_) => Pushback::Never,
    }
}

/// Reads `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date that is compared with `now`. What is neither
/// is ignored.
#[must_use]
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits for a number are a long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(MOST_PUSHBACK))
}

fn part_of(most: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(scale(random, nanos))
}

/// Attempts in all when the rule does not ask for more.
const USUAL_ATTEMPTS: u8 = 3;
/// Attempts in all whatever the rule asks for.
const MOST_ATTEMPTS: u8 = 6;
const MOST_PUSHBACK: Duration = Duration::from_secs(300);
const GRPC_DEADLINE_EXCEEDED: u8 = 4;
const GRPC_UNAVAILABLE: u8 = 14;

#[cfg(test)]
mod tests;
