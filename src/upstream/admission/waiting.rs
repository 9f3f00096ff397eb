//! Those who wait for a place.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outrigger_config::model;
use tokio::sync::oneshot;

use super::{Admission, Applicant, Cause, LET_IN, Place, Shed};
use crate::base::clock;
use crate::policy::queue::{Joined, Patience, Taken, Ticket};
use crate::upstream::state::ClusterState;

/// What somebody who waits is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A place was taken for it.
    Come,
    /// It has waited too long.
    TooLate,
    /// Another request took its place in the queue.
    PushedOut,
}

/// A request in the queue. Dropping it leaves.
struct Waiting<'a> {
    cluster: &'a Arc<ClusterState>,
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
}

/// Waits for a place. Cancel safe.
pub(super) async fn wait(
    cluster: &Arc<ClusterState>,
    settings: model::Queue,
    applicant: Applicant,
    now: Instant,
) -> Result<Place, Shed> {
    let admission = &cluster.admission;
    let Applicant { class, caller, deadline } = applicant;
    let patience = Patience::new(settings.timeout);
    let max = usize::try_from(settings.max).unwrap_or(usize::MAX);
    let (sender, turn) = oneshot::channel();
    let (ticket, pushed_out, longest) = {
        let mut line = admission.line.lock();
        line.patience = patience;
        // Nobody waits whose turn it were before.
        if !line.queue.is_before(class) && admission.take_room(class, now).is_ok() {
            return Ok(Place { cluster: Arc::clone(cluster), since: now });
        }
        admission.limit.was_reached();
        let longest = line.queue.patience(class, patience, now);
        match line.queue.join((class, caller), sender, max, now) {
            Joined::Waiting { ticket, pushed_out } => {
                admission.note_waiting(&line);
                (ticket, pushed_out, longest)
            }
            Joined::Full(_) => return Err(admission.shed(&mut line, (Cause::QueueFull, class), now)),
        }
    };
    let mut waiting = Waiting { cluster, ticket, turn };
    if let Some(other) = pushed_out {
        // Whoever has left needs not be told.
        let _ = other.send(Turn::PushedOut);
    }
    // A place may have been given back before we were seen in the queue.
    serve(admission, now);
    let answer = waiting.until(now, longest, deadline).await;
    cluster.metrics.queued(clock::now().saturating_duration_since(now));
    answer.map_err(|cause| admission.shed(&mut admission.line.lock(), (cause, class), clock::now()))
}

/// Gives the places that are free to those who wait, and tells those who waited too long.
pub(super) fn serve(admission: &Admission, now: Instant) {
    loop {
        let (waiter, turn) = {
            let mut line = admission.line.lock();
            let patience = line.patience;
            let taken = line.queue.take(|class| admission.has_room(class, now), patience, now);
            admission.note_waiting(&line);
            match taken {
                None => return,
                Some(Taken::TooLate(waiter)) => (waiter, Turn::TooLate),
                Some(Taken::Turn(waiter)) => {
                    // Whoever comes without the lock may just have taken the last one; then there is one too many for
                    // a moment, which is better than to forget whose turn it is.
                    admission.places.fetch_add(LET_IN, Ordering::SeqCst);
                    (waiter, Turn::Come)
                }
            }
        };
        if waiter.send(turn).is_err() && turn == Turn::Come {
            // It left in this moment.
            admission.give_back();
        }
    }
}

impl Waiting<'_> {
    async fn until(&mut self, now: Instant, longest: Duration, deadline: Option<Instant>) -> Result<Place, Cause> {
        let end = now + longest;
        let (end, cause) = match deadline {
            Some(deadline) if deadline <= end => (deadline, Cause::Deadline),
            _ => (end, Cause::QueueTimeout),
        };
        // Both are cancel safe; a turn that comes with the end of the time is found by `leave`.
        let told = tokio::select! {
            biased;
            told = &mut self.turn => told.ok(),
            () = tokio::time::sleep_until(end.into()) => self.leave(),
        };
        match told {
            Some(Turn::Come) => Ok(Place { cluster: Arc::clone(self.cluster), since: clock::now() }),
            Some(Turn::PushedOut) => Err(Cause::QueueFull),
            Some(Turn::TooLate) => Err(Cause::QueueTimeout),
            None => Err(cause),
        }
    }

    /// Leaves the queue, unless its turn came before.
    fn leave(&mut self) -> Option<Turn> {
        let admission = &self.cluster.admission;
        {
            let mut line = admission.line.lock();
            if line.queue.leave(self.ticket).is_some() {
                admission.note_waiting(&line);
                return None;
            }
        }
        // Closed first: from here on nothing is sent that nobody receives.
        self.turn.close();
        self.turn.try_recv().ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.leave() == Some(Turn::Come) {
            drop(Place { cluster: Arc::clone(self.cluster), since: clock::now() });
        }
    }
}
