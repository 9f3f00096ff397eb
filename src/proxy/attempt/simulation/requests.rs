//! The lives of requests: the loop of [`super::super::run`], cut into events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::super::classify::classify;
use super::super::forward::forward_deadline;
use super::super::judge::note;
use super::super::patience::Patience;
use super::super::slot::RetrySlot;
use super::super::{DEADLINE, Exchange, GRPC_TIMEOUT};
use super::fleet::{Ending, exponential};
use super::ledger::{Room, Wish};
use super::plan;
use super::world::{Event, World};
use crate::codec::RequestHead;
use crate::policy::deadline::{format_grpc_timeout, format_millis, parse_grpc_timeout, parse_millis};
use crate::policy::retry::{self, Attempts, Idempotency, Lineage, Repeatable, Verdict, Why};
use crate::policy::route::RouteQuery;
use crate::proxy::local::Caller;
use crate::proxy::pipeline::time_limits;
use crate::proxy::tracked::Limits;
use crate::snapshot::{Action, Listener, Rule};
use crate::upstream::{Cluster, EndpointSet, Fit, Permit, PickError, PickHint};

/// A request under way.
pub(super) struct Request {
    listener: Arc<Listener>,
    rule: Arc<Rule>,
    cluster: Arc<Cluster>,
    head: RequestHead,
    caller: Caller,
    limits: Limits,
    attempt_limit: Option<Duration>,
    began: Instant,
    lineage: Lineage,
    replay: retry::Replay,
    pub(super) attempts: Attempts,
    tried: Vec<SocketAddr>,
    retrying: Option<RetrySlot>,
    /// Repetitions outside policy and budget.
    free: u8,
    /// Repetitions that the policy asks for.
    charged: u8,
    /// An attempt so far may have been executed.
    maybe_executed: bool,
    pub(super) phase: Phase,
}

pub(super) enum Phase {
    /// Between attempts.
    Pausing,
    /// An attempt that will end like this.
    Trying(Permit, Ending),
    /// The response is on its way.
    Streaming(Permit),
}

impl Request {
    fn exchange(&self) -> Exchange<'_> {
        Exchange {
            cluster: &self.cluster,
            rule: &self.rule.config,
            limits: self.limits,
            attempt_limit: self.attempt_limit,
            caller: self.caller,
            hedging: None,
            hint: PickHint::default(),
        }
    }

    fn holds_retry_place(&self) -> bool {
        self.retrying.as_ref().is_some_and(RetrySlot::is_counted)
    }

    fn idempotency(&self) -> Idempotency {
        Idempotency::of(&self.head.method)
    }
}

impl World<'_> {
    pub(super) fn arrive(&mut self) {
        let listener = self.cell.listener("inbound").expect("the listener stays");
        assert_eq!(listener.generation, self.cell.load().generation, "a new request sees the new configuration");
        let wanted = format!("r{}", self.rng.below(plan::RULES));
        let (head, caller) = self.head(&wanted);
        let hit = listener.table.find(&RouteQuery {
            host: "service.test",
            port: None,
            path: head.path.path(),
            query: None,
            method: &head.method,
            headers: &head.headers,
            is_grpc: caller == Caller::Grpc,
        });
        assert_eq!(hit.is_some(), self.plan.rules.contains_key(&wanted), "{wanted} is routed as configured");
        let Some(hit) = hit else {
            self.trace.counts.unrouted += 1;
            return;
        };
        let rule = Arc::clone(&listener.rules[hit.rule]);
        assert_eq!(*rule.config.name, *wanted, "the right rule is found");
        let Action::Forward(backends) = &rule.action else { panic!("every rule forwards") };
        let backend = backends.choose(self.rng.next_u64()).expect("every weight is positive");
        let cluster = Arc::clone(&backend.cluster);
        let configured = &self.plan.rules[&wanted].backends;
        assert!(configured.contains_key(&*cluster.config().name), "a configured backend is chosen");
        let (limits, attempt_limit) = time_limits(&listener, &rule, &head, caller, self.now());
        let lineage = if self.rng.below(10) == 0 { Lineage::RetriedAbove } else { Lineage::First };
        match lineage {
            Lineage::First => cluster.state().budget.deposit(self.now()),
            Lineage::RetriedAbove => cluster.state().budget.note_retry(self.now()),
        }
        self.ledger.request(&cluster, lineage, self.now());
        self.sequence += 1;
        let id = self.sequence;
        self.note(&format!("{id} arrives: {} {wanted} to {}", head.method, cluster.config().name));
        let request = Request {
            listener,
            rule,
            cluster,
            head,
            caller,
            limits,
            attempt_limit,
            began: self.now(),
            lineage,
            replay: if self.rng.below(8) == 0 { retry::Replay::Lost } else { retry::Replay::Whole },
            attempts: Attempts::first(),
            tried: Vec::new(),
            retrying: None,
            free: 0,
            charged: 0,
            maybe_executed: false,
            phase: Phase::Pausing,
        };
        self.requests.insert(id, request);
        if self.rng.below(10) == 0 {
            let patience = exponential(Duration::from_millis(200), &mut self.rng);
            self.after(patience, Event::Leaves(id));
        }
        self.attempt(id);
    }

    fn head(&mut self, rule: &str) -> (RequestHead, Caller) {
        let mut headers = HeaderMap::new();
        let (method, caller) = match self.rng.below(3) {
            0 => (Method::GET, Caller::Http),
            1 => (Method::POST, Caller::Http),
            _ => (Method::POST, Caller::Grpc),
        };
        if caller == Caller::Grpc && self.rng.below(2) == 0 {
            let timeout = exponential(Duration::from_millis(300), &mut self.rng);
            if let Some(value) = format_grpc_timeout(timeout) {
                headers.insert(GRPC_TIMEOUT, value);
            }
        }
        if caller == Caller::Http && self.rng.below(4) == 0 {
            let deadline = exponential(Duration::from_millis(300), &mut self.rng);
            if let Some(value) = format_millis(deadline) {
                headers.insert(DEADLINE, value);
            }
        }
        if caller == Caller::Http && self.rng.below(10) == 0 {
            headers.insert(HeaderName::from_static("accept"), HeaderValue::from_static("text/event-stream"));
        }
        let path = PathAndQuery::try_from(format!("/{rule}/x")).expect("a path");
        let head =
            RequestHead { method, scheme: Scheme::HTTP, authority: None, path, version: Version::HTTP_2, headers };
        (head, caller)
    }

    /// The loop body of [`super::super::run`] up to the sending.
    pub(super) fn attempt(&mut self, id: u64) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        let now = self.now();
        let mut head = request.head.clone();
        if !forward_deadline(&request.exchange(), &mut head.headers, now) {
            self.trace.counts.late += 1;
            return self.finish(id, request, "too late");
        }
        let set = request.cluster.endpoints();
        let scores: Vec<Option<f64>> = (0..set.members().len()).map(|index| set.score(index, now)).collect();
        let fit: Vec<bool> = set.members().iter().map(|member| Fit::of(member, now) == Fit::Fit).collect();
        let full = self.ledger.in_flight(&request.cluster) >= request.cluster.config().ceilings.max_requests;
        let hint = PickHint { tried: &request.tried, ..PickHint::default() };
        let permit = match request.cluster.pick(&hint, &mut self.picks, now) {
            Ok(permit) => permit,
            Err(PickError::Overflow) => {
                assert!(full, "refused below the ceiling");
                self.trace.counts.over_the_ceiling += 1;
                return self.finish(id, request, "overflow");
            }
            Err(PickError::Open { .. }) => {
                assert!(!fit.contains(&true), "refused although {fit:?} may be picked");
                self.trace.counts.refused_by_breakers += 1;
                return self.finish(id, request, "breakers are open");
            }
            Err(PickError::NoEndpoint) => {
                assert!(set.members().is_empty(), "no endpoint was picked of {}", set.members().len());
                self.trace.counts.without_endpoint += 1;
                return self.finish(id, request, "no endpoint");
            }
        };
        assert!(!full, "picked at the ceiling");
        self.ledger.picked(&request.cluster, &permit, now);
        self.check_pick(&request, &permit, &set, (&scores, &fit));
        self.check_sending(&request, &head);
        let address = permit.member().state.address;
        request.tried.push(address);
        let (takes, ending) = self.fleet.answer(address, request.caller, &mut self.rng);
        let patience = Patience::new(&request.exchange(), None, now).until(false);
        let (ends, ending) = match patience {
            Some(until) if until <= now + takes => (until, Ending::TimedOut),
            _ => (now + takes, ending),
        };
        let attempt = request.attempts.made();
        self.note(&format!("{id} attempt {attempt} on {address} will end {ending:?}"));
        request.phase = Phase::Trying(permit, ending);
        self.requests.insert(id, request);
        self.at(ends, Event::AttemptEnds(id, attempt));
    }

    fn check_pick(
        &mut self,
        request: &Request,
        permit: &Permit,
        set: &EndpointSet,
        (scores, fit): (&[Option<f64>], &[bool]),
    ) {
        let address = permit.member().state.address;
        let generation = request.listener.generation;
        let configured = &self.endpoints[&(generation, Arc::clone(&request.cluster.config().name))];
        assert!(configured.contains_key(&address), "{address} is not one of {configured:?}");
        if generation < self.cell.load().generation {
            self.trace.counts.picks_after_a_reload_on_an_old_configuration += 1;
        }
        let members = set.members();
        if members.iter().zip(fit).any(|(member, fit)| *fit && !request.tried.contains(&member.state.address)) {
            assert!(!request.tried.contains(&address), "{address} was tried before, and there are others");
        }
        let index = members.iter().position(|member| member.state.address == address).expect("a member");
        // Of up to three all are compared.
        if let Some(score) = scores[index]
            && members.len() <= 3
            && request.tried.is_empty()
            && !permit.is_probe()
        {
            let of_fit = scores.iter().zip(fit).filter(|(_, fit)| **fit).filter_map(|(score, _)| *score);
            let lowest = of_fit.fold(f64::INFINITY, f64::min);
            assert!(score <= lowest, "{address} scores {score}, another {lowest}");
            self.trace.counts.lowest_scores += 1;
        }
    }

    /// What must hold of every attempt that is sent.
    fn check_sending(&self, request: &Request, head: &RequestHead) {
        let now = self.now();
        let policy = &request.rule.config.retry;
        if let Some(deadline) = request.limits.deadline {
            assert!(now < deadline, "sent after the deadline");
            let told = match request.caller {
                Caller::Grpc => parse_grpc_timeout(head.headers[GRPC_TIMEOUT].as_bytes()).expect("a timeout"),
                Caller::Http => parse_millis(head.headers[DEADLINE].as_bytes()).expect("milliseconds"),
            };
            assert!(told <= deadline - now, "the upstream is told {told:?} of {:?}", deadline - now);
        }
        assert!(request.free <= 1, "repeated {} times outside the policy", request.free);
        let most = if request.lineage == Lineage::First { policy.attempts.value } else { 0 };
        assert!(request.charged <= most, "repeated {} of at most {most} times", request.charged);
        let most = usize::from(policy.attempts.value + 1).max(3);
        assert!(request.tried.len() < most, "attempt {} of at most {most}", request.tried.len() + 1);
        if !request.tried.is_empty() {
            assert_eq!(request.replay, retry::Replay::Whole, "a body that is gone was sent again");
            let safe = request.idempotency() == Idempotency::Idempotent || policy.non_idempotent;
            assert!(safe || !request.maybe_executed, "what may have been executed was sent again");
        }
    }

    /// The loop body of [`super::super::run`] from the end of the sending.
    pub(super) fn attempt_ends(&mut self, id: u64, attempt: u8) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        let (permit, ending) = match request.phase {
            Phase::Trying(permit, ending) if request.attempts.made() == attempt => (permit, ending),
            phase => {
                request.phase = phase;
                self.requests.insert(id, request);
                return;
            }
        };
        request.phase = Phase::Pausing;
        let now = self.now();
        let cluster = Arc::clone(&request.cluster);
        let tried_once = ending.into_try();
        note(&cluster, &permit, &tried_once, request.caller, now - permit.started(), now);
        self.ledger.reported(&cluster, &permit, ending, now);
        self.trace.counts.timed_out += u64::from(ending == Ending::TimedOut);
        request.maybe_executed |= ending.may_be_executed();
        let overall_over = request.limits.deadline.is_some_and(|deadline| deadline <= now);
        let verdict = match classify(&tried_once, &request.exchange(), &permit) {
            Some(outcome) if !overall_over => {
                let idempotency = request.idempotency();
                let repeatable = Repeatable { replay: request.replay, idempotency, lineage: request.lineage };
                Some(retry::decide(&request.rule.config.retry, &request.attempts, repeatable, outcome))
            }
            _ => None,
        };
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
            self.ledger.ended(&cluster, &permit, now);
            drop(permit);
            self.note(&format!("{id} is tried again: {verdict:?}"));
            self.requests.insert(id, request);
            return self.at(now + wait, Event::TryAgain(id));
        }
        // The place is given back with the response head.
        self.drop_retry(&mut request);
        if !ending.is_answer() {
            request.phase = Phase::Trying(permit, ending);
            self.trace.counts.failed += 1;
            return self.finish(id, request, "failed");
        }
        let takes = exponential(Duration::from_millis(100), &mut self.rng);
        let over = request.limits.deadline.map_or(now + takes, |deadline| deadline.min(now + takes));
        self.note(&format!("{id} is answered"));
        request.phase = Phase::Streaming(permit);
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

    pub(super) fn response_ends(&mut self, id: u64) {
        if let Some(request) = self.requests.remove(&id) {
            self.trace.counts.answered += 1;
            self.finish(id, request, "over");
        }
    }

    pub(super) fn leaves(&mut self, id: u64) {
        if let Some(request) = self.requests.remove(&id) {
            self.trace.counts.left_early += 1;
            self.finish(id, request, "left");
        }
    }

    /// A request ends, wherever it was: everything that it held is given back by being dropped.
    fn finish(&mut self, id: u64, mut request: Request, how: &str) {
        self.note(&format!("{id} ends: {how}"));
        let now = self.now();
        self.drop_retry(&mut request);
        match &request.phase {
            Phase::Pausing => {}
            Phase::Trying(permit, _) | Phase::Streaming(permit) => self.ledger.ended(&request.cluster, permit, now),
        }
    }

    fn drop_retry(&mut self, request: &mut Request) {
        if request.holds_retry_place() {
            self.ledger.retry_ended(&request.cluster);
        }
        request.retrying = None;
    }
}
