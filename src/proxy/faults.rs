//! Faults that are injected into requests on purpose.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use outrigger_config::model::{Abort, Fault};

use super::gates::Arrival;
use super::local::Caller;
use super::pipeline::{Answer, Local, time_limits};
use super::reason::Reason;
use super::record::Record;
use super::{ConnectionHandler, external, prepare, with_random};
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::codec::RequestHead;
use crate::policy::fault::{self, Injection};
use crate::telemetry::metrics::Injected;
use crate::upstream::state::Usage;

/// Requests of the whole proxy that are held up on purpose.
#[derive(Debug, Default)]
pub(super) struct HeldUp(Usage);

/// One of them.
struct Hold<'a>(&'a HeldUp);

impl HeldUp {
    fn hold(&self) -> Option<Hold<'_>> {
        self.0.try_acquire(limits::FAULT_DELAYS).then(|| Hold(self))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.0.release();
    }
}

impl ConnectionHandler {
    /// Lets a request pass the faults of its rule. Most pass unharmed, and at once.
    ///
    /// # Errors
    /// The answer of a fault.
    pub(super) async fn suffer(
        &self,
        faults: &[Arc<Fault>],
        arrival: Arrival<'_>,
        head: &RequestHead,
        record: &mut Record,
    ) -> Result<(), Box<Answer>> {
        for fault in faults {
            // The host could be read: the request has a route.
            let host = prepare::host_of(head).map(|authority| authority.host).unwrap_or_default();
            let injection =
                with_random(|random| fault::inject(fault, (&head.headers, &host), SystemTime::now(), random));
            if !injection.is_none() {
                Box::pin(self.inject(injection, arrival, head, record)).await?;
            }
        }
        Ok(())
    }

    async fn inject(
        &self,
        injection: Injection,
        arrival: Arrival<'_>,
        head: &RequestHead,
        record: &mut Record,
    ) -> Result<(), Box<Answer>> {
        let Injection { delay, abort } = injection;
        if let Some(by) = delay {
            match self.origin.proxy.held_up.hold() {
                Some(_hold) => {
                    record.injected(Injected::Delay);
                    self.hold_up(by, arrival, head, record).await?;
                }
                None => record.injected(Injected::DelayLeftOut),
            }
        }
        let Some(abort) = abort else { return Ok(()) };
        record.injected(Injected::Abort);
        let (status, grpc) = match abort {
            Abort::Status(status) => (status, external::grpc_status_of(status)),
            Abort::Grpc(grpc) => (Reason::Fault.status(), grpc),
        };
        let local = Local { status, ..Reason::Fault.into() };
        let mut answer = self.local(arrival.listener, &local, arrival.caller, record);
        if arrival.caller == Caller::Grpc {
            answer.set_grpc_status(grpc, record);
        }
        Err(Box::new(answer))
    }

    /// Waits, but not longer than the request may take. Dropping the future ends it.
    async fn hold_up(
        &self,
        by: Duration,
        arrival: Arrival<'_>,
        head: &RequestHead,
        record: &mut Record,
    ) -> Result<(), Box<Answer>> {
        let Arrival { listener, rule, caller, .. } = arrival;
        record.details = DELAYED;
        let now = Instant::now();
        let (limits, ..) = time_limits(listener, rule, head, caller, record.started());
        // The file allows no time that would not fit.
        let until = now.checked_add(by).unwrap_or(now);
        let until = limits.deadline.map_or(until, |deadline| until.min(deadline));
        let mut timer = Deadline::default();
        let denied = poll_fn(|cx| {
            loop {
                if record.watch.poll_ended(cx).is_some() {
                    return Poll::Ready(true);
                }
                match record.watch.due().filter(|due| *due < until) {
                    Some(due) if timer.poll(cx, due).is_ready() => record.enter_watch(Some(head)),
                    Some(_) => return Poll::Pending,
                    None => return timer.poll(cx, until).map(|()| false),
                }
            }
        })
        .await;
        if denied {
            record.note_ended();
            return Err(Box::new(self.local(listener, &Reason::Denied.into(), caller, record)));
        }
        Ok(())
    }
}

/// In the access log.
const DELAYED: &str = "fault_delay";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_requests_are_held_up_at_a_time() {
        let held_up = HeldUp::default();
        let mut holds: Vec<_> = (0..limits::FAULT_DELAYS).map(|_| held_up.hold().expect("room")).collect();
        assert!(held_up.hold().is_none());
        holds.pop();
        assert!(held_up.hold().is_some());
    }
}
