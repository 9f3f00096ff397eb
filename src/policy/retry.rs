//! Whether a failed attempt is repeated.
//!
//! The invariant: a request that an application may have executed is sent again only if its method is idempotent
//! or its rule says so. What provably was not executed is a different outcome, and may be sent again once for any
//! method, without a policy and outside the budget.

use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderName};
use outrigger_config::model::{Retry, RetryOn};

use super::rng::scale;
use super::route::lines_hold;

mod pushback;

pub use pushback::{Pushback, parse_grpc_pushback, parse_retry_after, pushback_wait};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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
    /// A response head came with a header that the rule names ([`names_header`]).
    Header,
    /// A response came that forbids repeating (`grpc-retry-pushback-ms` below zero).
    Forbidden,
    /// A response came of a hop that has made its retries already, or was not allowed to.
    RetriedBelow,
}

impl Outcome {
    /// Whether something may have been executed for it.
    #[must_use]
    pub fn reached(self) -> bool {
        match self {
            Self::NeverSent(_) => false,
            Self::MaybeSent(_)
            | Self::Status(_)
            | Self::Grpc(_)
            | Self::Header
            | Self::Forbidden
            | Self::RetriedBelow => true,
        }
    }
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
    /// By its method, or because it says so and the rule believes it.
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

    /// By the method, and by `Idempotency-Key` where the rule believes it: only who runs the application knows whether
    /// it honours the key.
    #[must_use]
    pub fn of_request(policy: &Retry, method: &Method, headers: &HeaderMap) -> Self {
        let keyed = || headers.get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty());
        if policy.idempotency_key && keyed() { Self::Idempotent } else { Self::of(method) }
    }
}

/// Whether a request is the first of its kind, as far as hops before this one say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lineage {
    /// No hop before has sent it yet.
    First,
    /// A hop before sends it for the second time or more: it goes on with that, and this one does not begin as well.
    RetriedAbove,
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

    /// A further attempt is made beside the present one. It counts against the same limit of attempts.
    pub fn hedge(&mut self) {
        self.made = self.made.saturating_add(1);
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
    /// A hop nearer to the failure has retried.
    RetriedBelow,
    /// A hop before this one is retrying.
    RetriedAbove,
}

/// What of a request bears on repeating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeatable {
    /// Its body.
    pub replay: Replay,
    /// Its method.
    pub idempotency: Idempotency,
    /// Where it stands among the attempts of the hops before.
    pub lineage: Lineage,
}

/// Decides whether an attempt is repeated.
///
/// `gateway-error` and `server-error` also cover attempts that got no response at all: this proxy would answer
/// them with a 5xx. `reset` does not cover a timeout: nothing ended, the upstream may still be at work. A gRPC code covers the attempts for which this proxy would answer it: `unavailable` a
/// connection or stream that failed, `deadline-exceeded` a timeout.
#[must_use]
pub fn decide(policy: &Retry, attempts: &Attempts, request: Repeatable, outcome: Outcome) -> Verdict {
    decide_where(policy, attempts, request, (outcome, || is_covered(policy, outcome)))
}

/// The same, where it is known whether the rule counts the outcome.
fn decide_where(
    policy: &Retry,
    attempts: &Attempts,
    request: Repeatable,
    (outcome, is_covered): (Outcome, impl FnOnce() -> bool),
) -> Verdict {
    let free = attempts.free == Free::Left && is_free(outcome, request.idempotency);
    let unsafe_to_repeat = outcome.reached() && request.idempotency == Idempotency::NotIdempotent;
    if outcome == Outcome::Forbidden {
        Verdict::Done(Why::Forbidden)
    } else if outcome == Outcome::RetriedBelow {
        Verdict::Done(Why::RetriedBelow)
    } else if !free && !is_covered() {
        Verdict::Done(Why::NotCovered)
    } else if !free && unsafe_to_repeat && !policy.non_idempotent {
        Verdict::Done(Why::NotIdempotent)
    } else if !free && request.lineage == Lineage::RetriedAbove {
        Verdict::Done(Why::RetriedAbove)
    } else if attempts.made >= most_attempts(policy) || (!free && attempts.charged >= policy.attempts.value) {
        Verdict::Done(Why::Exhausted)
    } else if request.replay == Replay::Lost {
        Verdict::Done(Why::NotReplayable)
    } else if free {
        Verdict::RetryFree
    } else {
        Verdict::RetryCharged { step: attempts.charged }
    }
}

/// Whether the rule counts an outcome as a reason to try again.
#[must_use]
pub fn is_covered(policy: &Retry, outcome: Outcome) -> bool {
    if policy.attempts.value == 0 {
        return false;
    }
    match outcome {
        Outcome::Header => true,
        // Of nearly all requests, and so without what is asked of other outcomes. No rule names one that is no error.
        Outcome::Status(status) => status >= 400 && policy.on.iter().any(|on| covers_status(*on, status)),
        _ => policy.on.iter().any(|on| covers(*on, outcome)),
    }
}

/// Whether it is worth holding the head of an answer back until its first frame shows how it goes on: a status in
/// trailers before any message could be tried again now, or it must be said that it was.
#[must_use]
pub fn is_worth_holding(policy: &Retry, attempts: &Attempts, request: Repeatable) -> bool {
    // A code is as good as another: none is free, and a rule that has one counts it.
    let Some(code) = policy.on.iter().find_map(|on| match on {
        RetryOn::Grpc(code) => Some(*code),
        _ => None,
    }) else {
        return false;
    };
    let counts = policy.attempts.value > 0;
    let verdict = decide_where(policy, attempts, request, (Outcome::Grpc(code), || counts));
    matches!(verdict, Verdict::RetryCharged { .. } | Verdict::Done(Why::Exhausted))
}

/// Whether a response has a header that the rule names as a reason to try again.
#[must_use]
pub fn names_header(policy: &Retry, headers: &HeaderMap) -> bool {
    policy.on_headers.iter().any(|wanted| lines_hold(wanted, headers))
}

/// Whether a further attempt may be made beside those so far, of which `hedges` are wanted at most. Those that failed
/// and those that are under way count against the same limit.
#[must_use]
pub fn may_hedge(policy: &Retry, attempts: &Attempts, hedges: u8) -> bool {
    attempts.made < most_attempts(policy).max(hedges.saturating_add(1)).min(MOST_ATTEMPTS)
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
        | Outcome::Header
        | Outcome::Forbidden
        | Outcome::RetriedBelow => false,
    }
}

#[inline]
pub(super) fn covers(on: RetryOn, outcome: Outcome) -> bool {
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
        Outcome::Status(status) => covers_status(on, status),
        Outcome::Grpc(code) => on == RetryOn::Grpc(code),
        Outcome::Header | Outcome::Forbidden | Outcome::RetriedBelow => false,
    }
}

#[inline]
fn covers_status(on: RetryOn, status: u16) -> bool {
    match on {
        RetryOn::GatewayError => matches!(status, 502..=504),
        RetryOn::ServerError => matches!(status, 500..=599),
        RetryOn::Status(wanted) => status == wanted,
        RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::Reset | RetryOn::Grpc(_) => false,
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

/// How long to wait before a charged retry: [`backoff`], or [`pushback_wait`] where the server named a time.
///
/// # Errors
/// When that is longer than the rule allows, or than `left` of the request's time: then the outcome stands.
pub fn wait(
    policy: &Retry,
    step: u8,
    times: (Option<Duration>, Option<Duration>),
    random: u64,
) -> Result<Duration, TooLong> {
    let (pushback, left) = times;
    let (least, wait) = match pushback {
        Some(pushback) if pushback > policy.max_pushback => return Err(TooLong::Pushback),
        Some(pushback) => (pushback, pushback_wait(pushback, random)),
        None => {
            let wait = backoff(policy, step, random);
            (wait, wait)
        }
    };
    match left {
        Some(left) if least >= left => Err(TooLong::Deadline),
        // Jitter does not take the time that the attempt needs.
        Some(left) => Ok(wait.min(least + (left - least) / 2)),
        None => Ok(wait),
    }
}

/// Why a retry is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// The server names a time beyond what the rule allows.
    Pushback,
    /// The request's time ends before.
    Deadline,
}

fn part_of(most: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(scale(random, nanos))
}

/// Attempts in all when the rule does not ask for more.
const USUAL_ATTEMPTS: u8 = 3;
/// Attempts in all whatever the rule asks for.
const MOST_ATTEMPTS: u8 = 6;
const GRPC_DEADLINE_EXCEEDED: u8 = 4;
const GRPC_UNAVAILABLE: u8 = 14;

#[cfg(test)]
mod tests;
