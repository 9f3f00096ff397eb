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

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use outrigger_config::model::Hedge;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::again::Again;
use super::classify::classify;
use super::forward::forward_deadline;
use super::one::{self, InVain, One, Try};
use super::patience::Patience;
use super::{Exchange, judge, poll_limits};
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::codec::{Body, Interim, Replay, RequestHead, SendError, SendErrorKind};
use crate::policy::hedge::{self, HedgeTimes};
use crate::policy::retry;
use crate::proxy::record::Record;
use crate::proxy::with_random;
use crate::upstream::pool::Preference;
use crate::upstream::{Permit, PickHint};

/// What hedging a request needs.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Hedging<'a> {
    pub(in crate::proxy) hedge: &'a Hedge,
    pub(in crate::proxy) times: &'a HedgeTimes,
}

/// What the attempts beside each other have in common.
#[derive(Clone, Copy)]
pub(super) struct Plan<'r> {
    pub(super) exchange: &'r Exchange<'r>,
    /// `None`: none is begun beside the first one.
    pub(super) hedging: Option<Hedging<'r>>,
    pub(super) head: &'r RequestHead,
    pub(super) replay: Option<&'r Replay>,
    pub(super) hold: bool,
    pub(super) interim: &'r dyn Interim,
}

/// The attempts beside a first one. That one is polled where it is, as if it were alone, which nearly all are to their
/// end; the race is made when another is begun.
pub(super) struct Hedges<'r> {
    plan: Plan<'r>,
    /// How long the newest is waited for; `None`: no further one.
    delay: Option<Duration>,
    /// When the newest began.
    began: Instant,
    /// Bytes of the upload, and when the last of them came.
    received: u64,
    moved: Instant,
    race: Option<Box<Race<'r>>>,
}

/// The first attempt, as long as it is under way.
pub(super) struct First<'l, 'r> {
    pub(super) patience: &'l mut Patience<'r>,
    /// The head of its answer came, and is held.
    pub(super) held: bool,
    pub(super) in_vain: &'l mut InVain<'r>,
    pub(super) gate: &'l Gate<'r>,
}

/// How the wait for the first attempt ended.
pub(super) enum Led {
    /// It ended, or was given up.
    Ended(Try),
    /// Another one has the answer.
    Outrun(Box<(Try, Permit)>),
}

/// The further attempts under way, and what has become of all.
struct Race<'r> {
    running: SmallVec<[Runner<'r>; 1]>,
    decided: Arc<AtomicBool>,
    /// The best failure so far: the answer when nothing better comes.
    failed: Option<(Try, Permit)>,
    /// How much it says.
    says: Says,
}

/// An attempt under way, with all that it needs.
struct Runner<'r> {
    attempt: Pin<Box<dyn Future<Output = (One<'r>, Try)> + Send + 'r>>,
    gate: Arc<Gate<'r>>,
}

impl<'r> Hedges<'r> {
    /// For an attempt that begins.
    pub(super) fn new(plan: Plan<'r>, now: Instant) -> Self {
        let delay = plan.hedging.and_then(|Hedging { hedge, times }| hedge::delay(hedge, times, now));
        Self { plan, delay, began: now, received: 0, moved: now, race: None }
    }

    /// What the first attempt needs to know for the case that it is given up.
    pub(super) fn in_vain(&self) -> InVain<'r> {
        let learning = self.plan.hedging.filter(|hedging| hedge::learns(hedging.hedge));
        InVain::learning(learning.map(|hedging| hedging.times), self.delay)
    }

    /// Whether others than the first one are under way.
    pub(super) fn are_under_way(&self) -> bool {
        self.race.is_some()
    }

    /// Begins further attempts and waits for them, and for the limits of the first one. Ready when the first one must be
    /// given up, or another has the answer; without a first one, also when all have failed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut first: Option<First<'_, 'r>>,
        (timer, tried): (&mut Deadline, &mut SmallVec<[SocketAddr; 4]>),
        (again, record): (&mut Again<'_>, &mut Record),
    ) -> Poll<Led> {
        loop {
            if let Some(race) = &mut self.race
                && let Poll::Ready(end) = race.poll(cx, (&self.plan, &mut self.delay), first.is_some(), record)
            {
                return Poll::Ready(Led::Outrun(Box::new(end)));
            }
            let due = self.due();
            let own = first.as_mut().map(|first| (&mut *first.patience, first.held));
            if let Some(end) = ready!(poll_limits(cx, own, due, timer, record, self.plan.head)) {
                return Poll::Ready(Led::Ended(end));
            }
            if !self.start(first.as_mut(), tried, (&mut *again, &mut *record)) {
                // Whatever stood against it will stand against it later.
                self.delay = None;
            }
        }
    }

    /// The first attempt has ended beside others: the end of the best of all.
    pub(super) async fn rest(
        mut self,
        (end, permit): (Try, Permit),
        gate: &Gate<'r>,
        (timer, tried): (&mut Deadline, &mut SmallVec<[SocketAddr; 4]>),
        (again, record): (&mut Again<'_>, &mut Record),
    ) -> (Try, Permit) {
        let Some(race) = &mut self.race else { return (end, permit) };
        if matches!(end, Try::Denied) {
            return (end, permit);
        }
        if let Some(end) = race.ended((end, permit), (&self.plan, &mut self.delay), gate) {
            return end;
        }
        let led = poll_fn(|cx| self.poll(cx, None, (&mut *timer, &mut *tried), (&mut *again, &mut *record))).await;
        match (led, self.race) {
            (Led::Outrun(end), _) => *end,
            (Led::Ended(end), race) => {
                let (failed, permit) = race.and_then(|race| race.failed).expect("the first one has failed");
                judge::discard(&permit, &failed, Instant::now());
                (end, permit)
            }
        }
    }

    /// When a further attempt is due: so long after the newest began, or after the last of the upload came, because a
    /// caller that sends slowly makes no endpoint slow.
    fn due(&mut self) -> Option<Instant> {
        let delay = self.delay?;
        let asked = match self.plan.replay {
            None => self.began,
            Some(replay) => match replay.ended() {
                Some(ended) => ended.max(self.began),
                None => {
                    let received = replay.received();
                    if received != self.received {
                        self.received = received;
                        self.moved = Instant::now();
                    }
                    self.moved.max(self.began)
                }
            },
        };
        Some(asked + delay)
    }

    /// Begins a further attempt to another endpoint; false when there must not be one.
    fn start(
        &mut self,
        first: Option<&mut First<'_, 'r>>,
        tried: &mut SmallVec<[SocketAddr; 4]>,
        (again, record): (&mut Again<'_>, &mut Record),
    ) -> bool {
        let now = Instant::now();
        let Plan { exchange, hedging: Some(hedging), replay, hold, .. } = self.plan else { return false };
        let Exchange { cluster, rule, .. } = *exchange;
        let state = cluster.state();
        let is_whole = replay.is_none_or(Replay::is_whole);
        if !is_whole || !again.may_hedge(hedging.hedge.max) || cluster.endpoints().members().len() <= tried.len() {
            return false;
        }
        let mut head = self.plan.head.clone();
        if !forward_deadline(exchange, &mut head.headers, Some(&mut record.watch), now) {
            return false;
        }
        if !state.budget.try_withdraw_hedge(hedging.hedge.budget_percent, now) {
            state.metrics.hedge_budget_exhausted();
            return false;
        }
        let hint = PickHint { tried, other_zone: rule.retry.other_locality, ..exchange.hint };
        let picked = with_random(|random| cluster.pick(&hint, random, now)).ok();
        let Some(permit) = picked.filter(|permit| !tried.contains(&permit.member().state.address)) else {
            state.budget.give_back_hedge(now);
            return false;
        };
        let mut in_vain = self.in_vain();
        let race = self.race.get_or_insert_with(|| Box::new(Race::new()));
        in_vain.shares(&race.decided);
        // Whoever is under way may be executing the request.
        let beside = u32::from(first.is_some()) + race.running.len() as u32 + u32::from(race.says >= Says::Answer);
        again.stamp(exchange, &mut head, beside, record);
        again.hedged();
        state.metrics.hedged();
        tried.push(permit.member().state.address);
        let mut one = One::on(exchange, (permit, Preference::Any), (replay, hold), record, now);
        one.is_hedge = true;
        one.in_vain = in_vain;
        record.details = HEDGED;
        self.began = now;
        if let Some(first) = first {
            first.in_vain.shares(&race.decided);
            first.gate.close();
        }
        race.running.iter().for_each(|runner| runner.gate.close());
        let runner = self.plan.runner(one, head);
        runner.gate.close();
        race.running.push(runner);
        true
    }
}

impl<'r> Plan<'r> {
    fn runner(self, mut one: One<'r>, head: RequestHead) -> Runner<'r> {
        let Plan { exchange, replay, interim, .. } = self;
        let gate = Arc::new(Gate::new(interim));
        let body = replay.map_or(Body::Empty, Replay::attempt);
        let interim = Arc::clone(&gate);
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

impl<'r> Race<'r> {
    fn new() -> Self {
        Self { running: SmallVec::new(), decided: Arc::default(), failed: None, says: Says::Nothing }
    }

    /// Ready with the answer, or with the best failure when no attempt is left; `led`: the first one is.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (plan, delay): (&Plan<'r>, &mut Option<Duration>),
        led: bool,
        record: &mut Record,
    ) -> Poll<(Try, Permit)> {
        let mut at = 0;
        while let Some(runner) = self.running.get_mut(at) {
            let Poll::Ready((one, tried)) = runner.attempt.as_mut().poll(cx) else {
                at += 1;
                continue;
            };
            let gate = self.running.remove(at).gate;
            let permit = one.end(plan.exchange, &tried, record, Instant::now());
            if let Some(end) = self.ended((tried, permit), (plan, &mut *delay), &gate) {
                plan.exchange.cluster.state().metrics.hedge_won();
                return Poll::Ready(end);
            }
        }
        if led || !self.running.is_empty() {
            return Poll::Pending;
        }
        let (tried, permit) = self.failed.take().expect("an attempt that ended without an answer is kept");
        record.upstream_host = Some(permit.member().state.address);
        Poll::Ready((tried, permit))
    }

    /// One of them has ended: it is the answer if it is good, and then the others have lost.
    fn ended(
        &mut self,
        (tried, permit): (Try, Permit),
        (plan, delay): (&Plan<'r>, &mut Option<Duration>),
        gate: &Gate<'r>,
    ) -> Option<(Try, Permit)> {
        let outcome = classify(&tried, plan.exchange, &permit);
        if outcome.is_some_and(|outcome| hedge::is_good(&plan.exchange.rule.retry, outcome)) {
            self.decided.store(true, Ordering::Relaxed);
            self.running.clear();
            if let Some((tried, permit)) = self.failed.take() {
                judge::discard(&permit, &tried, Instant::now());
            }
            gate.open();
            return Some((tried, permit));
        }
        if outcome == Some(retry::Outcome::Forbidden) {
            *delay = None;
        }
        self.keep_failure(tried, permit, outcome);
        None
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
pub(super) struct Gate<'r> {
    to: &'r dyn Interim,
    /// `None`: passed on as they come.
    held: Mutex<Option<Vec<(StatusCode, HeaderMap)>>>,
}

impl<'r> Gate<'r> {
    pub(super) fn new(to: &'r dyn Interim) -> Self {
        Self { to, held: Mutex::new(None) }
    }

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
        let gate = Gate::new(&caller);
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
        let gate = Gate::new(&caller);
        gate.close();
        (0..1_000).for_each(|_| gate.send(StatusCode::PROCESSING, &HeaderMap::new()));
        gate.open();
        assert_eq!(caller.0.lock().len(), limits::INTERIM_RESPONSES as usize);
    }
}
