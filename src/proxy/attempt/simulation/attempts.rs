//! The attempts of requests: the loop of [`super::super::run`] and the race of [`super::super::hedge`], cut into events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::classify::classify;
use super::super::conclude::conclude;
use super::super::forward::forward_deadline;
use super::super::judge::note;
use super::super::patience::Patience;
use super::super::slot::RetrySlot;
use super::fleet::{Ending, exponential};
use super::ledger::{Room, Wish};
use super::requests::{Phase, Request};
use super::world::{Event, World};
use crate::policy::hedge;
use crate::policy::retry::{self, Lineage, Outcome, Repeatable, Verdict, Why};
use crate::proxy::reason::Reason;
use crate::upstream::{Cluster, Permit};

/// Attempts under way beside each other, usually one.
pub(super) struct Running {
    pub(super) attempts: Vec<Attempt>,
    /// The best that has failed.
    failed: Option<Attempt>,
    /// How the attempts are hedged, if they are.
    race: Option<Race>,
}

/// One of them, which will end like this.
pub(super) struct Attempt {
    /// No other has it.
    pub(super) number: u64,
    pub(super) permit: Permit,
    pub(super) ending: Ending,
}

#[derive(Debug, Clone, Copy)]
struct Race {
    /// How long the newest is waited for; `None`: no further one.
    delay: Option<Duration>,
}

/// The attempt whose answer is on its way.
pub(super) struct Streaming {
    pub(super) permit: Permit,
    pub(super) number: u64,
}

impl World<'_> {
    /// The loop body up to the sending.
    pub(super) fn attempt(&mut self, id: u64) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        let now = self.now();
        let mut head = request.head.clone();
        if !forward_deadline(&request.exchange(), &mut head.headers, None, now) {
            self.trace.counts.late += 1;
            let reason = if request.tried.is_empty() { Reason::Deadline } else { Reason::Timeout };
            return self.fail(id, request, (reason, "too late"));
        }
        let permit = match self.pick(&request) {
            Ok(permit) => permit,
            Err(why) => return self.finish(id, request, why),
        };
        self.check_sending(&request, &head);
        let hedges = request.rule.config.hedge.filter(|_| request.ties.bound.is_none());
        let race = hedges.zip(request.hedge_times.as_deref()).filter(|(hedge, _)| may_hedge(&request, hedge.max));
        let race = race.map(|(hedge, times)| Race { delay: hedge::delay(&hedge, times, now) });
        let attempt = self.send(id, &mut request, permit);
        if let Some(delay) = race.and_then(|race| race.delay) {
            self.at(now + delay, Event::HedgeIsDue(id, attempt.number));
        }
        request.phase = Phase::Trying(Running { attempts: vec![attempt], failed: None, race });
        self.requests.insert(id, request);
    }

    /// How it will end is drawn.
    fn send(&mut self, id: u64, request: &mut Request, permit: Permit) -> Attempt {
        let now = self.now();
        let address = permit.member().state.address;
        request.tried.push(address);
        let (takes, ending) = self.fleet.answer(address, request.caller, &mut self.rng);
        let patience = Patience::new(&request.exchange(), None, now).until(false);
        let (ends, ending) = match patience {
            Some(until) if until <= now + takes => (until, Ending::TimedOut),
            _ => (now + takes, ending),
        };
        self.sequence += 1;
        let number = self.sequence;
        self.ledger.admitted(&request.cluster, &permit, number, now);
        self.trace.counts.probes += u64::from(permit.is_probe());
        self.trace.counts.probes_of_clusters += u64::from(permit.is_probe_of_cluster());
        self.note(&format!("{id} attempt {number} on {address} will end {ending:?}, probe: {}", permit.is_probe()));
        self.at(ends, Event::AttemptEnds(id, number));
        Attempt { number, permit, ending }
    }

    /// The newest attempt has taken long enough to start another beside it.
    pub(super) fn hedge(&mut self, id: u64, newest: u64) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        match std::mem::replace(&mut request.phase, Phase::Pausing) {
            Phase::Trying(mut running) if running.attempts.last().is_some_and(|last| last.number == newest) => {
                if let Some(delay) = running.race.and_then(|race| race.delay) {
                    match self.beside(id, &mut request) {
                        Some(attempt) => {
                            self.at(self.now() + delay, Event::HedgeIsDue(id, attempt.number));
                            running.attempts.push(attempt);
                        }
                        None => running.race = Some(Race { delay: None }),
                    }
                }
                request.phase = Phase::Trying(running);
            }
            phase => request.phase = phase,
        }
        self.requests.insert(id, request);
    }

    fn beside(&mut self, id: u64, request: &mut Request) -> Option<Attempt> {
        let now = self.now();
        let cluster = Arc::clone(&request.cluster);
        let hedge = request.rule.config.hedge.expect("it hedges");
        let others = cluster.endpoints().members().len() > request.tried.len();
        let mut head = request.head.clone();
        if request.replay != retry::Replay::Whole
            || !may_hedge(request, hedge.max)
            || !others
            || !forward_deadline(&request.exchange(), &mut head.headers, None, now)
        {
            return None;
        }
        let budget = &cluster.state().budget;
        let granted = budget.try_withdraw_hedge(hedge.budget_percent, now);
        assert_eq!(granted, self.ledger.hedge(&cluster, hedge.budget_percent, now), "the budget of hedged attempts");
        if !granted {
            self.trace.counts.hedges_over_the_budget += 1;
            return None;
        }
        let picked = self.pick_beside(request);
        let Some(permit) = picked else {
            budget.give_back_hedge(now);
            self.ledger.hedge_not_made(&cluster, now);
            return None;
        };
        request.attempts.hedge();
        request.hedged += 1;
        assert!(request.is_repeatable() && request.lineage == Lineage::First, "what must not be repeated was hedged");
        self.check_sending(request, &head);
        self.trace.counts.hedged += 1;
        Some(self.send(id, request, permit))
    }

    /// The loop body from the end of the sending.
    pub(super) fn attempt_ends(&mut self, id: u64, number: u64) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        let phase = std::mem::replace(&mut request.phase, Phase::Pausing);
        let Phase::Trying(mut running) = phase else {
            request.phase = phase;
            self.requests.insert(id, request);
            return;
        };
        let Some(at) = running.attempts.iter().position(|attempt| attempt.number == number) else {
            request.phase = Phase::Trying(running);
            self.requests.insert(id, request);
            return;
        };
        let attempt = running.attempts.remove(at);
        self.judge(&mut request, &attempt);
        let Some(race) = running.race else { return self.decide(id, request, attempt) };
        let outcome = classify(&attempt.ending.into_try(), &request.exchange(), &attempt.permit);
        if outcome.is_some_and(|outcome| hedge::is_good(&request.rule.config.retry, outcome)) {
            self.trace.counts.hedges_lost += running.attempts.len() as u64;
            self.lose(&request, &mut running, race);
            self.give_up(&request.cluster, running);
            return self.decide(id, request, attempt);
        }
        if outcome == Some(Outcome::Forbidden) {
            running.race = Some(Race { delay: None });
        }
        let dropped = match running.failed.take() {
            Some(kept) if kept.ending.is_answer() || !attempt.ending.is_answer() => {
                running.failed = Some(kept);
                Some(attempt)
            }
            worse => {
                running.failed = Some(attempt);
                worse
            }
        };
        if let Some(Attempt { permit, number, .. }) = dropped {
            self.release(&request.cluster, permit, number);
        }
        if !running.attempts.is_empty() {
            request.phase = Phase::Trying(running);
            self.requests.insert(id, request);
            return;
        }
        let best = running.failed.take().expect("one has failed");
        self.decide(id, request, best);
    }

    /// The end of an attempt is evidence.
    fn judge(&mut self, request: &mut Request, attempt: &Attempt) {
        let now = self.now();
        let Attempt { number, permit, ending } = attempt;
        let (cluster, latency) = (&request.cluster, now - permit.started());
        note(cluster, permit, &ending.into_try(), request.caller, latency, now);
        self.ledger.reported(cluster, permit, *ending, now);
        self.ledger.told(cluster, permit.member().state.address, *number, false);
        if let Some(times) = request.hedge_times.as_ref().filter(|_| ending.is_answer() && !ending.is_error()) {
            times.record(latency, now);
        }
        self.trace.counts.timed_out += u64::from(*ending == Ending::TimedOut);
        request.maybe_executed |= ending.may_be_executed();
        self.see_ejections(cluster);
    }

    /// Those that another was faster than.
    fn lose(&mut self, request: &Request, running: &mut Running, race: Race) {
        let now = self.now();
        for Attempt { permit, number, .. } in &running.attempts {
            let waited = now - permit.started();
            permit.unanswered(waited, now);
            self.ledger.told(&request.cluster, permit.member().state.address, *number, false);
            if let Some(times) = &request.hedge_times
                && race.delay.is_some_and(|delay| waited >= delay)
            {
                times.record(waited, now);
            }
        }
    }

    /// Whether a request is tried again after an attempt that ended.
    fn decide(&mut self, id: u64, mut request: Request, attempt: Attempt) {
        let now = self.now();
        let Attempt { number, permit, ending } = attempt;
        let cluster = Arc::clone(&request.cluster);
        let tried_once = ending.into_try();
        let overall_over = request.limits.is_late(now);
        let verdict = classify(&tried_once, &request.exchange(), &permit).map(|outcome| {
            let idempotency = request.idempotency();
            let repeatable = Repeatable { replay: request.replay, idempotency, lineage: request.lineage };
            retry::decide(&request.rule.config.retry, &request.attempts, repeatable, outcome)
        });
        match verdict {
            Some(Verdict::Done(Why::NotIdempotent)) => self.trace.counts.not_repeated_for_idempotency += 1,
            Some(Verdict::Done(Why::RetriedAbove)) => self.trace.counts.left_to_the_hop_before += 1,
            _ => {}
        }
        let wait = verdict.and_then(|verdict| self.wait(&request, verdict, now));
        if let (Some(verdict), Some(wait)) = (verdict, wait)
            && let Some(slot) = self.room_for_retry(&mut request, verdict)
        {
            request.retrying = Some(slot);
            request.attempts.record(verdict);
            *(if verdict == Verdict::RetryFree { &mut request.free } else { &mut request.charged }) += 1;
            self.release(&cluster, permit, number);
            self.note(&format!("{id} is tried again: {verdict:?}"));
            self.requests.insert(id, request);
            return self.at(now + wait, Event::TryAgain(id));
        }
        // The place is given back with the response head.
        self.drop_retry(&mut request);
        if let Err(failure) = conclude(tried_once, overall_over) {
            self.trace.counts.failed += 1;
            self.release(&cluster, permit, number);
            return self.fail(id, request, (failure.reason, "failed"));
        }
        let takes = exponential(Duration::from_millis(100), &mut self.rng);
        let over = request.limits.deadline.map_or(now + takes, |deadline| deadline.min(now + takes));
        self.note(&format!("{id} is answered"));
        let mut permit = permit.holding(request.place.take());
        if let Some(passage) = request.passage.take() {
            permit = permit.answering(passage, now);
            let breaker = request.rule.breaker.as_ref().expect("it has let it pass");
            self.ledger.see_rule(breaker, super::invariants::Step::Told(id), now);
        }
        request.phase = Phase::Streaming(Streaming { permit, number });
        self.requests.insert(id, request);
        self.at(over, Event::ResponseEnds(id));
    }

    /// How long a retry is waited for; some servers name a time. `None`: there is none.
    fn wait(&mut self, request: &Request, verdict: Verdict, now: Instant) -> Option<Duration> {
        let left = request.exchange().time_left(request.began, now);
        let step = match verdict {
            Verdict::Done(_) => return None,
            Verdict::RetryFree => return (left != Some(Duration::ZERO)).then_some(Duration::ZERO),
            Verdict::RetryCharged { step } => step,
        };
        let named = Duration::from_millis(self.rng.below(3_000));
        let pushback = (self.rng.below(6) == 0).then_some(named);
        let random = self.rng.next_u64();
        let wait = retry::wait(&request.rule.config.retry, step, (pushback, left), random).ok();
        match wait {
            Some(wait) => {
                assert!(pushback.is_none_or(|named| named <= wait), "{wait:?} is sooner than {pushback:?}");
                assert!(left.is_none_or(|left| wait < left), "{wait:?} is waited for with {left:?} left");
            }
            None => self.trace.counts.retries_too_late += 1,
        }
        wait
    }

    /// Asks for a retry, and whether the books agree.
    fn room_for_retry(&mut self, request: &mut Request, verdict: Verdict) -> Option<RetrySlot> {
        let now = self.now();
        let charged = matches!(verdict, Verdict::RetryCharged { .. });
        let wish = Wish { holds_place: request.holds_retry_place(), charged };
        let room = self.ledger.retry(&request.cluster, wish, now);
        let slot = RetrySlot::enter(&request.cluster, request.retrying.take(), verdict, now).ok();
        assert_eq!(slot.is_some(), room == Room::Yes, "{room:?}");
        let counts = &mut self.trace.counts;
        *match room {
            Room::Yes if charged => &mut counts.retried_charged,
            Room::Yes => &mut counts.retried_free,
            Room::CeilingReached => &mut counts.retries_over_the_ceiling,
            Room::BudgetUsed => &mut counts.retries_over_the_budget,
        } += 1;
        slot
    }

    /// Attempts are given up.
    pub(super) fn give_up(&mut self, cluster: &Arc<Cluster>, running: Running) {
        for Attempt { permit, number, .. } in running.attempts.into_iter().chain(running.failed) {
            self.release(cluster, permit, number);
        }
    }

    /// Everything that an attempt held is given back by being dropped.
    pub(super) fn release(&mut self, cluster: &Arc<Cluster>, permit: Permit, number: u64) {
        let address: SocketAddr = permit.member().state.address;
        self.ledger.ended(cluster, &permit, self.now());
        drop(permit);
        self.ledger.told(cluster, address, number, true);
    }
}

fn may_hedge(request: &Request, most: u8) -> bool {
    request.is_repeatable()
        && request.lineage == Lineage::First
        && retry::may_hedge(&request.rule.config.retry, &request.attempts, most)
}
