//! The body of an answer on its way to the caller, with everything that ends when it ends: the permit, the time
//! limits and the record.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::local::{Caller, grpc_status, grpc_trailers};
use super::reason::Reason;
use super::record::Record;
use crate::base::timer::Deadline;
use crate::codec::{Body, BodyError, Frame, PollBody};
use crate::telemetry::metrics::Waste;
use crate::upstream::{Outcome, Permit};

/// A response body that is counted, limited in time, and reported at its end, error or drop, exactly once.
#[derive(Debug)]
pub struct TrackedBody {
    body: Body,
    caller: Caller,
    permit: Option<Permit>,
    record: Record,
    limits: Limits,
    timer: Deadline,
    /// Something moved since the clock was last read.
    moved: bool,
    last_moved: Instant,
    /// Bytes of the upload when the clock was last read.
    received: u64,
    ended: bool,
}

/// The time limits of a response body.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// The end of the whole request.
    pub(super) deadline: Option<Instant>,
    /// The caller waits for a response head until then.
    pub(super) answer_by: Option<Instant>,
    /// From the end of the upload to the response head: the default, which does not cut a long transfer.
    pub(super) answer: Option<Duration>,
    /// Nothing may be still for longer.
    pub(super) idle: Option<Duration>,
}

impl Limits {
    /// Nobody waits for a response head any more.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.answer_until().is_some_and(|until| until <= now)
    }

    /// Until when a response head is waited for, over all attempts.
    pub(super) fn answer_until(&self) -> Option<Instant> {
        match (self.deadline, self.answer_by) {
            (Some(deadline), Some(answer_by)) => Some(deadline.min(answer_by)),
            (deadline, answer_by) => deadline.or(answer_by),
        }
    }
}

impl Limits {
    /// The same for a request for a tunnel: all of them end with the answer that opens it.
    pub(super) fn to_the_answer(self) -> Self {
        Self { deadline: None, answer_by: self.answer_until(), ..self }
    }
}

impl TrackedBody {
    /// Takes over an answer's body. An answer without one is over at once, and so is one whose body the caller is
    /// not given (`bodiless`: HEAD, 204, 304).
    pub(super) fn new(
        body: Body,
        bodiless: bool,
        caller: Caller,
        permit: Option<Permit>,
        record: Record,
        limits: Limits,
    ) -> Self {
        let mut tracked = Self {
            body,
            caller,
            permit,
            limits,
            timer: Deadline::default(),
            moved: true,
            // Read anew before it counts: its head moved.
            last_moved: record.started(),
            record,
            received: 0,
            ended: false,
        };
        if bodiless || tracked.body.is_end() {
            tracked.end();
        }
        tracked
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(permit) = self.permit.take()
            && self.caller == Caller::Http
        {
            permit.answered(Instant::now());
        }
        self.record.complete();
    }

    fn break_off(&mut self, error: BodyError) -> Option<Result<Frame, BodyError>> {
        self.ended = true;
        let reason = match error {
            BodyError::Denied => {
                self.record.note_ended();
                Reason::Denied
            }
            BodyError::Timeout(IDLE) => Reason::Idle,
            BodyError::Timeout(_) => Reason::Timeout,
            BodyError::Reset(_) => Reason::UpstreamReset,
            BodyError::Malformed(_) => Reason::UpstreamProtocol,
            BodyError::Incomplete | BodyError::Io(_) => Reason::UpstreamClosed,
            BodyError::Abandoned | BodyError::Outrun => Reason::RequestBody,
        };
        self.record.reason = Some(reason);
        let permit = self.permit.take();
        if let (Some(permit), BodyError::Timeout(LATE)) = (&permit, error) {
            permit.cluster().metrics.wasted(Waste::Deadline, permit.started().elapsed());
        }
        // Our own time limits and the caller's mistakes are no evidence against the endpoint.
        if let (Some(permit), Reason::UpstreamReset | Reason::UpstreamProtocol | Reason::UpstreamClosed) =
            (permit, reason)
        {
            permit.report(Outcome::Broken, Instant::now());
        }
        if self.caller == Caller::Grpc {
            // A gRPC caller can be told in trailers what happened; a reset says less.
            self.body = Body::Empty;
            self.record.grpc_status = Some(reason.grpc_status());
            return Some(Ok(Frame::Trailers(grpc_trailers(reason))));
        }
        Some(Err(error))
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let received = self.record.received();
        if self.moved || received != self.received {
            self.moved = false;
            self.received = received;
            self.last_moved = Instant::now();
            self.note_that_it_lasts();
        }
        let idle_at = self.limits.idle.map(|idle| self.last_moved + idle);
        let at = match (self.limits.deadline, idle_at) {
            (Some(deadline), Some(idle)) => Some(deadline.min(idle)),
            (deadline, idle) => deadline.or(idle),
        };
        loop {
            if self.record.watch.poll_ended(cx).is_some() {
                return Err(BodyError::Denied);
            }
            let watched = match self.record.watch.due().filter(|due| at.is_none_or(|at| *due < at)) {
                Some(due) => self.timer.poll(cx, due),
                None => break,
            };
            if watched.is_pending() {
                return Ok(());
            }
            self.record.enter_watch(None);
        }
        if self.timer.poll_opt(cx, at).is_pending() {
            return Ok(());
        }
        let late = self.limits.deadline.is_some_and(|deadline| at == Some(deadline));
        Err(BodyError::Timeout(if late { LATE } else { IDLE }))
    }

    fn note_first_message(&self) {
        if self.caller == Caller::Grpc
            && let Some(permit) = self.permit.as_ref().filter(|permit| permit.probes())
        {
            permit.flows(Instant::now());
        }
    }

    /// Events may follow each other for hours: an answer that has gone on for a while is a good one.
    fn note_that_it_lasts(&self) {
        if let Some(permit) = self.permit.as_ref().filter(|_| self.caller == Caller::Http)
            && self.last_moved.saturating_duration_since(permit.started()) >= LASTING
        {
            permit.answered(self.last_moved);
        }
    }

    fn note_end_of_grpc(&mut self, status: Option<u8>) {
        if self.caller != Caller::Grpc {
            return;
        }
        self.record.grpc_status = status.or(self.record.grpc_status);
        if let (Some(permit), Some(status)) = (&self.permit, status) {
            let now = Instant::now();
            permit.report(Outcome::of_grpc_failure(status).unwrap_or(Outcome::Done), now);
            self.record.note_end(now);
        }
    }
}

impl PollBody for TrackedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Also while data comes without a pause.
        if self.record.watch.ended().is_some() {
            return Poll::Ready(self.break_off(BodyError::Denied));
        }
        match self.body.poll_frame(cx) {
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                self.moved = true;
                if self.record.bytes_sent == 0 {
                    self.note_first_message();
                }
                self.record.bytes_sent += data.len() as u64;
                if self.body.is_end() {
                    self.end();
                }
                Poll::Ready(Some(Ok(Frame::Data(data))))
            }
            Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                self.note_end_of_grpc(grpc_status(&trailers));
                self.end();
                Poll::Ready(Some(Ok(Frame::Trailers(trailers))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.break_off(error)),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => match self.poll_limits(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(self.break_off(error)),
            },
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if self.ended {
            return Ok(());
        }
        let result = self.body.poll_progress(cx).and_then(|()| self.poll_limits(cx));
        if let Err(error) = result {
            self.break_off(error);
            return Err(error);
        }
        Ok(())
    }

    fn is_end(&self) -> bool {
        self.ended
    }

    fn exact_len(&self) -> Option<u64> {
        if self.ended { Some(0) } else { self.body.exact_len() }
    }
}

/// gRPC statuses that say that the server, not the call, is in trouble.
pub(super) fn is_server_failure(grpc_status: u8) -> bool {
    Outcome::of_grpc_failure(grpc_status).is_some()
}

/// An answer of HTTP that lasts longer counts as good while it goes on.
const LASTING: Duration = Duration::from_secs(2);
const IDLE: &str = "nothing moved on the stream for too long";
const LATE: &str = "the time limit of the request ran out";
