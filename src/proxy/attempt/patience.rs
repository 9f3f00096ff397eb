//! The time limits of one attempt.

use std::time::{Duration, Instant};

use super::Exchange;
use super::one::Try;
use crate::codec::Replay;

/// How long one attempt may take to its response head.
pub(super) struct Patience<'a> {
    /// The limits that run from a fixed moment.
    fixed: Option<Instant>,
    /// That of the whole request.
    deadline: Option<Instant>,
    /// The default limit: it runs from the end of the upload, so that a long upload is not cut.
    answer: Option<Duration>,
    /// Nothing moves for longer: the upload while it goes on, and then an answer must come.
    idle: Option<Duration>,
    upload: Option<&'a Replay>,
    began: Instant,
    received: u64,
    moved: Instant,
}

impl<'a> Patience<'a> {
    pub(super) fn new(exchange: &Exchange<'_>, upload: Option<&'a Replay>, now: Instant) -> Self {
        let one = exchange.attempt_limit.map(|limit| now + limit);
        Self {
            fixed: earlier(one, exchange.limits.answer_until()),
            deadline: exchange.limits.deadline,
            answer: exchange.limits.answer,
            idle: exchange.limits.idle,
            upload,
            began: now,
            received: 0,
            moved: now,
        }
    }

    /// `came`: the response head did, and is held.
    pub(super) fn until(&mut self, came: bool) -> Option<Instant> {
        if came {
            return self.deadline;
        }
        let silent = earlier(self.answer, self.idle);
        let Some(upload) = self.upload else {
            return earlier(self.fixed, silent.map(|silent| self.began + silent));
        };
        let soft = match upload.ended() {
            Some(ended) => silent.map(|silent| ended.max(self.began) + silent),
            None => {
                let received = upload.received();
                if received != self.received {
                    self.received = received;
                    self.moved = Instant::now();
                }
                self.idle.map(|idle| self.moved + idle)
            }
        };
        earlier(self.fixed, soft)
    }

    /// What it means that [`Patience::until`] has passed.
    pub(super) fn over(&self, came: bool) -> Try {
        if came {
            return Try::TimedOut;
        }
        let uploading = self.upload.is_some_and(|upload| upload.ended().is_none());
        let silent = self.idle.is_some_and(|idle| self.answer.is_none_or(|answer| idle < answer));
        let stalled = (uploading || silent) && self.fixed.is_none_or(|fixed| Instant::now() < fixed);
        if stalled { Try::Stalled } else { Try::TimedOut }
    }

    /// How long the upstream took to answer: not from before it had the whole request, because a caller that
    /// sends slowly must not make an endpoint look slow.
    pub(super) fn answered_after(&self, now: Instant) -> Duration {
        let asked = self.upload.and_then(Replay::ended).map_or(self.began, |ended| ended.max(self.began));
        now.saturating_duration_since(asked)
    }
}

fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
