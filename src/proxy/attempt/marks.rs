//! What proxies tell each other of retries, so that those of several hops do not multiply: requests say which attempt
//! they are, and answers that retrying is over.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Carried, Failure};
use crate::codec::headers::has;
use crate::codec::{Body, Response};
use crate::proxy::local::Caller;
use crate::proxy::record::Record;

/// On requests: which attempt it is, counted over all hops. Only on those of which one before may have been executed.
pub(super) const ATTEMPT: HeaderName = HeaderName::from_static("x-outrigger-attempt");
/// The same for gRPC (gRFC A6): how many attempts came before.
pub(super) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// On failed answers: the proxy that sends it has retried, or was not allowed to. All that it can do is to keep
/// proxies before that one from trying again, so it is taken from anyone.
pub(in crate::proxy) const RETRIED: HeaderName = HeaderName::from_static("x-outrigger-retried");

/// Why a hop does not try again what it would try again otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Spent {
    /// Its attempts are used up.
    Exhausted,
    /// The retry budget of the cluster is.
    Budget,
    /// As many retries as may be are in flight.
    Ceiling,
    /// The server asks for more time than the rule allows.
    Pushback,
    /// The time of the request would be over.
    Deadline,
    /// The head of the answer was held for as long as it may be. Nothing has failed yet.
    Held,
}

impl Spent {
    fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Budget => "budget",
            Self::Ceiling => "ceiling",
            Self::Pushback => "pushback",
            Self::Deadline => "deadline",
            Self::Held => "held",
        }
    }
}

/// Whether an answer, or its trailers, says that retrying is over.
pub(super) fn is_spent(headers: &HeaderMap) -> bool {
    has(headers, &RETRIED)
}

/// Says in an answer that retrying is over, unless a hop below has said so.
pub(in crate::proxy) fn mark(headers: &mut HeaderMap, why: Spent) {
    headers.entry(RETRIED).or_insert(HeaderValue::from_static(why.as_str()));
}

/// The same in what is going to be the answer.
pub(super) fn mark_end(end: &mut Result<Response<Body>, Failure>, why: Spent) {
    match end {
        Ok(response) => mark(&mut response.head.headers, why),
        Err(failure) => failure.retried = Some(why),
    }
}

/// Which attempts a request stood for when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incoming {
    /// Of hops before this one, 1 for a first attempt.
    pub(super) attempt: u32,
    /// Of gRPC, 0 for a first attempt. The caller's own count as well.
    previous: u32,
}

impl Incoming {
    /// `carried` is what is known of the head.
    pub(super) fn of(headers: &HeaderMap, caller: Caller, carried: Carried) -> Self {
        if !carried.counts_attempts() {
            return Self { attempt: 1, previous: 0 };
        }
        let number = |name: &HeaderName| -> Option<u32> {
            let number: u32 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            Some(number.min(MOST))
        };
        let previous = match caller {
            Caller::Grpc => number(&PREVIOUS_ATTEMPTS),
            Caller::Http => None,
        };
        Self { attempt: number(&ATTEMPT).unwrap_or(1).max(1), previous: previous.unwrap_or(0) }
    }

    /// Says in the head of a further attempt which one it is; `made` before it.
    pub(super) fn stamp(self, headers: &mut HeaderMap, caller: Caller, made: u32, record: &mut Record) {
        record.watch.before_edit(&ATTEMPT, headers);
        headers.insert(ATTEMPT, HeaderValue::from(self.attempt.saturating_add(made)));
        if caller == Caller::Grpc {
            record.watch.before_edit(&PREVIOUS_ATTEMPTS, headers);
            headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(self.previous.saturating_add(made)));
        }
    }
}

/// What is believed of such a number.
const MOST: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::super::CarriedField;
    use super::*;

    fn incoming(caller: Caller, fields: &[(&'static str, &'static str)]) -> (u32, u32) {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let carried = headers.keys().filter_map(CarriedField::of).collect();
        let Incoming { attempt, previous } = Incoming::of(&headers, caller, carried);
        (attempt, previous)
    }

    #[test]
    fn a_request_says_which_attempt_it_is_or_is_the_first() {
        for (value, attempt) in
            [("2", 2), (" 3 ", 3), ("1", 1), ("0", 1), ("-1", 1), ("x", 1), ("", 1), ("4000000000", MOST), ("9e9", 1)]
        {
            assert_eq!(incoming(Caller::Http, &[("x-outrigger-attempt", value)]), (attempt, 0), "{value}");
        }
        let both = [("x-outrigger-attempt", "2"), ("grpc-previous-rpc-attempts", "3")];
        assert_eq!(incoming(Caller::Grpc, &both), (2, 3));
        assert_eq!(incoming(Caller::Http, &both), (2, 0), "of gRPC callers only");
        assert_eq!(incoming(Caller::Grpc, &[]), (1, 0));
    }

    #[test]
    fn the_hop_nearest_to_the_failure_has_the_word() {
        let mut headers = HeaderMap::new();
        mark(&mut headers, Spent::Budget);
        mark(&mut headers, Spent::Exhausted);
        assert_eq!(headers[RETRIED], "budget");
    }
}
