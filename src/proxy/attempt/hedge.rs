//! Attempts beside each other: when one takes long, another is started to another endpoint, and the first good answer
//! wins. All are polled by the task of the request, and those that have not won are dropped at once, which resets their
//! streams.
//!
//! What each of them costs is owned by its [`One`]: an attempt that lost gives its permit back without evidence against
//! its endpoint, which merely is known to take at least that long.
//!
//! Interim responses: those of the only attempt are passed on as they come. From the moment when there are two, they
//! are held, and those of the winner are passed on before its answer; a caller never sees those of two servers mixed.
//! `100 Continue` is passed on at once, because it asks for the body that all of them share.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use outrigger_config::model::Hedge;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::again::Again;
use super::classify::classify;
use super::forward::forward_deadline;
use super::one::{self, InVain, One, Try};
use super::{Exchange, Failure, judge};
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::codec::{Body, Interim, Replay, RequestHead, SendError, SendErrorKind};
use crate::policy::hedge::{self, HedgeTimes};
use crate::policy::retry;
use crate::proxy::reason::Reason;
use crate::proxy::record::Record;
use crate::proxy::with_random;
use crate::upstream::pool::Preference;
use crate::upstream::{Permit, PickHint};

/// What hedging a request needs.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Hedging<'a> {
    pub(in crate::proxy) hedge: &'a Hedge,
    pub(in crate::proxy) times: &'a Arc<HedgeTimes>,
}

/// What the attempts beside each other have in common.
pub(super) struct Race<'r> {
    pub(super) exchange: &'r Exchange<'r>,
    pub(super) hedging: Hedging<'r>,
    pub(super) head: &'r RequestHead,
    pub(super) replay: Option<&'r Replay>,
    pub(super) hold: bool,
    pub(super) interim: &'r dyn Interim,
}

/// An attempt under way, with all that it needs.
struct Runner<'r> {
    attempt: Pin<Box<dyn Future<Output = (One<'r>, Try)> + Send + 'r>>,
    gate: Arc<Gate<'r>>,
}

/// The attempts of a race, and what has become of them.
struct Field<'r> {
    running: SmallVec<[Runner<'r>; 2]>,
    in_vain: InVain,
    /// The best failure so far: the answer when nothing better comes.
    failed: Option<(Try, Permit)>,
    /// How much it says.
    says: Says,
    /// How long the newest is waited for; `None`: no further one.
    delay: Option<Duration>,
    /// When the newest began.
    began: Instant,
    /// Bytes of the upload, and when the last of them came.
    received: u64,
    moved: Instant,
    hedged: bool,
}

impl<'r> Race<'r> {
    /// Makes one attempt, and further ones beside it. The end of the best of them: the first good answer, or a failure
    /// when all have failed.
    pub(super) async fn run(
        &self,
        first: One<'r>,
        tried: &mut SmallVec<[SocketAddr; 4]>,
        (again, record): (&mut Again<'_>, &mut Record),
    ) -> Result<(Try, Permit), Failure> {
        let now = Instant::now();
        let delay = hedge::delay(self.hedging.hedge, self.hedging.times, now)
            .filter(|_| again.may_hedge(self.hedging.hedge.max));
        let in_vain = InVain::shared(Arc::clone(self.hedging.times), delay);
        let mut field = Field {
            running: SmallVec::new(),
            in_vain,
            failed: None,
            says: Says::Nothing,
            delay,
            began: now,
            received: 0,
            moved: now,
            hedged: false,
        };
        field.running.push(self.runner(first, Cow::Borrowed(self.head), &field.in_vain));
        let mut timer = Deadline::default();
        let end = poll_fn(|cx| self.poll(cx, &mut field, (&mut timer, &mut *tried), (&mut *again, &mut *record))).await;
        // Those still running have lost, or nobody waits for them.
        drop(field);
        end
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        field: &mut Field<'r>,
        (timer, tried): (&mut Deadline, &mut SmallVec<[SocketAddr; 4]>),
        (again, record): (&mut Again<'_>, &mut Record),
    ) -> Poll<Result<(Try, Permit), Failure>> {
        loop {
            if let Poll::Ready(end) = self.poll_attempts(cx, field, record) {
                if field.hedged {
                    record.details = HEDGED;
                }
                return Poll::Ready(Ok(end));
            }
            if record.watch.poll_ended(cx).is_some() {
                record.note_ended();
                return Poll::Ready(Err(Reason::Denied.into()));
            }
            let now = Instant::now();
            if record.watch.due().is_some_and(|due| due <= now) {
                record.enter_watch(Some(self.head));
                continue;
            }
            let due = field.due(self.replay, now);
            if due.is_some_and(|due| due <= now) {
                match self.start(field, tried, (&mut *again, &mut *record), now) {
                    Some(runner) => field.running.push(runner),
                    // Whatever stood against it will stand against it later.
                    None => field.delay = None,
                }
                continue;
            }
            let next = due.into_iter().chain(record.watch.due()).min();
            if timer.poll_opt(cx, next).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Ready with the answer, or with the best failure when no attempt is left.
    fn poll_attempts(&self, cx: &mut Context<'_>, field: &mut Field<'r>, record: &mut Record) -> Poll<(Try, Permit)> {
        let mut at = 0;
        while let Some(runner) = field.running.get_mut(at) {
            let Poll::Ready((one, tried)) = runner.attempt.as_mut().poll(cx) else {
                at += 1;
                continue;
            };
            let gate = field.running.remove(at).gate;
            let was_hedged = one.is_hedge;
            let permit = one.end(self.exchange, &tried, record, Instant::now());
            let outcome = classify(&tried, self.exchange, &permit);
            if outcome.is_some_and(|outcome| hedge::is_good(&self.exchange.rule.retry, outcome)) {
                field.in_vain.decide();
                field.running.clear();
                field.give_up_failure();
                gate.open();
                if was_hedged {
                    self.exchange.cluster.state().metrics.hedge_won();
                }
                return Poll::Ready((tried, permit));
            }
            if outcome == Some(retry::Outcome::Forbidden) {
                field.delay = None;
            }
            field.keep_failure(tried, permit, outcome);
        }
        if !field.running.is_empty() {
            return Poll::Pending;
        }
        let (tried, permit) = field.failed.take().expect("an attempt that ended without an answer is kept");
        record.upstream_host = Some(permit.member().state.address);
        Poll::Ready((tried, permit))
    }

    /// A further attempt to another endpoint; `None` when there must not be one.
    fn start(
        &self,
        field: &mut Field<'r>,
        tried: &mut SmallVec<[SocketAddr; 4]>,
        (again, record): (&mut Again<'_>, &mut Record),
        now: Instant,
    ) -> Option<Runner<'r>> {
        let Exchange { cluster, rule, caller: _, .. } = *self.exchange;
        let state = cluster.state();
        let is_whole = self.replay.is_none_or(Replay::is_whole);
        if !is_whole || !again.may_hedge(self.hedging.hedge.max) || cluster.endpoints().members().len() <= tried.len() {
            return None;
        }
        let mut head = self.head.clone();
        if !forward_deadline(self.exchange, &mut head.headers, now) {
            return None;
        }
        if !state.budget.try_withdraw_hedge(self.hedging.hedge.budget_percent, now) {
            state.metrics.hedge_budget_exhausted();
            return None;
        }
        let hint = PickHint { tried, other_zone: rule.retry.other_locality, ..self.exchange.hint };
        let picked = with_random(|random| cluster.pick(&hint, random, now)).ok();
        let Some(permit) = picked.filter(|permit| !tried.contains(&permit.member().state.address)) else {
            state.budget.give_back_hedge(now);
            return None;
        };
        // Whoever is under way may be executing the request.
        let beside = field.running.len() as u32 + u32::from(field.says >= Says::Answer);
        again.stamp(self.exchange, &mut head, beside, record);
        again.hedged();
        state.metrics.hedged();
        tried.push(permit.member().state.address);
        let mut one = One::on(self.exchange, (permit, Preference::Any), (self.replay, self.hold), record, now);
        one.is_hedge = true;
        field.hedged = true;
        field.began = now;
        field.running.iter().for_each(|runner| runner.gate.close());
        let runner = self.runner(one, Cow::Owned(head), &field.in_vain);
        runner.gate.close();
        Some(runner)
    }

    fn runner(&self, mut one: One<'r>, head: Cow<'r, RequestHead>, in_vain: &InVain) -> Runner<'r> {
        one.in_vain = in_vain.clone();
        let gate = Arc::new(Gate { to: self.interim, held: Mutex::new(None) });
        let body = self.replay.map_or(Body::Empty, Replay::attempt);
        let (exchange, interim) = (self.exchange, Arc::clone(&gate));
        let attempt = Box::pin(async move {
            let mut timer = Deadline::default();
            let tried = {
                let One { sending, patience, .. } = &mut one;
                let mut sent = pin!(one::send(exchange, sending, &head, body, &*interim));
                poll_fn(|cx| match sent.as_mut().poll(cx) {
                    Poll::Ready(end) => Poll::Ready(end),
                    Poll::Pending => {
                        let held = sending.is_held();
                        timer.poll_opt(cx, patience.until(held)).map(|()| patience.over(held))
                    }
                })
                .await
            };
            (one, tried)
        });
        Runner { attempt, gate }
    }
}

impl Field<'_> {
    /// When a further attempt is due: so long after the newest began, or after the last of the upload came, because a
    /// caller that sends slowly makes no endpoint slow.
    fn due(&mut self, replay: Option<&Replay>, now: Instant) -> Option<Instant> {
        let delay = self.delay?;
        let asked = match replay {
            None => self.began,
            Some(replay) => match replay.ended() {
                Some(ended) => ended.max(self.began),
                None => {
                    let received = replay.received();
                    if received != self.received {
                        self.received = received;
                        self.moved = now;
                    }
                    self.moved.max(self.began)
                }
            },
        };
        Some(asked + delay)
    }

    /// The one that says most stays, and of two that say the same the first.
    fn keep_failure(&mut self, tried: Try, permit: Permit, outcome: Option<retry::Outcome>) {
        let says = Says::of(&tried, outcome);
        let dropped = if self.failed.is_some() && says <= self.says {
            Some((tried, permit))
        } else {
            self.says = says;
            self.failed.replace((tried, permit))
        };
        if let Some((tried, permit)) = dropped {
            judge::discard(&permit, &tried, Instant::now());
        }
    }

    fn give_up_failure(&mut self) {
        if let Some((tried, permit)) = self.failed.take() {
            judge::discard(&permit, &tried, Instant::now());
        }
    }
}

/// How much a failure says, from little to much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Says {
    /// The upload could not be read on: the attempt beside it may have taken it away, so the caller is not to blame.
    Nothing,
    /// There is no answer.
    NoAnswer,
    /// An answer is better than none.
    Answer,
    /// One that says that the request must not be tried again.
    NotAgain,
}

impl Says {
    fn of(tried: &Try, outcome: Option<retry::Outcome>) -> Self {
        match (tried, outcome) {
            (_, Some(retry::Outcome::Forbidden | retry::Outcome::RetriedBelow)) => Self::NotAgain,
            (Try::Answered(_) | Try::Ended(_), _) => Self::Answer,
            (Try::Send(SendError { kind: SendErrorKind::RequestBody(_), .. }), _) => Self::Nothing,
            _ => Self::NoAnswer,
        }
    }
}

/// Interim responses of one attempt on their way to the caller.
struct Gate<'r> {
    to: &'r dyn Interim,
    /// `None`: passed on as they come.
    held: Mutex<Option<Vec<(StatusCode, HeaderMap)>>>,
}

impl Gate<'_> {
    /// From now on they are held.
    fn close(&self) {
        self.held.lock().get_or_insert_default();
    }

    /// This attempt has won: they are passed on.
    fn open(&self) {
        for (status, headers) in self.held.lock().take().into_iter().flatten() {
            self.to.send(status, &headers);
        }
    }
}

impl Interim for Gate<'_> {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut held = self.held.lock();
        match &mut *held {
            Some(held) if status != StatusCode::CONTINUE => {
                if held.len() < limits::INTERIM_RESPONSES as usize {
                    held.push((status, headers.clone()));
                }
            }
            _ => {
                drop(held);
                self.to.send(status, headers);
            }
        }
    }
}

/// In the details of the access log: an attempt was made beside another one.
const HEDGED: &str = "hedged";

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Caller(Mutex<Vec<u16>>);

    impl Interim for Caller {
        fn send(&self, status: StatusCode, _: &HeaderMap) {
            self.0.lock().push(status.as_u16());
        }
    }

    #[test]
    fn interim_responses_of_two_attempts_are_held_until_one_has_won() {
        let caller = Caller::default();
        let gate = Gate { to: &caller, held: Mutex::new(None) };
        let fields = HeaderMap::new();
        gate.send(StatusCode::EARLY_HINTS, &fields);
        assert_eq!(*caller.0.lock(), [103], "alone");
        gate.close();
        gate.send(StatusCode::PROCESSING, &fields);
        gate.send(StatusCode::EARLY_HINTS, &fields);
        gate.send(StatusCode::CONTINUE, &fields);
        assert_eq!(*caller.0.lock(), [103, 100], "the body is asked for at once");
        gate.open();
        assert_eq!(*caller.0.lock(), [103, 100, 102, 103]);
    }

    #[test]
    fn held_interim_responses_are_bounded() {
        let caller = Caller::default();
        let gate = Gate { to: &caller, held: Mutex::new(None) };
        gate.close();
        (0..1_000).for_each(|_| gate.send(StatusCode::PROCESSING, &HeaderMap::new()));
        gate.open();
        assert_eq!(caller.0.lock().len(), limits::INTERIM_RESPONSES as usize);
    }
}
