//! The lives of requests, up to their first attempt and from their last: what [`crate::proxy::pipeline`] does around
//! the attempts, cut into events.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use outrigger_config::model::{Criticality, Labels};

use super::super::forward::GRPC_TIMEOUT;
use super::super::slot::RetrySlot;
use super::super::{Carried, DEADLINE, Exchange};
use super::attempts::{Running, Streaming};
use super::fleet::exponential;
use super::invariants::{self, Admitted, Step, TIMER};
use super::ledger::hold;
use super::plan;
use super::world::{Event, World};
use crate::codec::RequestHead;
use crate::policy::deadline::{format_grpc_timeout, format_millis};
use crate::policy::hedge::HedgeTimes;
use crate::policy::retry::{self, Attempts, Idempotency, Lineage};
use crate::policy::route::RouteQuery;
use crate::proxy::local::Caller;
use crate::proxy::pipeline::{tell_breaker, time_limits};
use crate::proxy::reason::Reason;
use crate::proxy::tracked::Limits;
use crate::snapshot::{Action, Listener, Rule};
use crate::upstream::{Applicant, Cluster, Passage, PickHint, Place, Shed};

/// A request under way.
pub(super) struct Request {
    pub(super) listener: Arc<Listener>,
    pub(super) rule: Arc<Rule>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) hedge_times: Option<Arc<HedgeTimes>>,
    pub(super) ties: Ties,
    pub(super) head: RequestHead,
    pub(super) caller: Caller,
    pub(super) limits: Limits,
    attempt_limit: Option<Duration>,
    carried: Carried,
    pub(super) began: Instant,
    pub(super) lineage: Lineage,
    pub(super) replay: retry::Replay,
    pub(super) attempts: Attempts,
    pub(super) tried: Vec<SocketAddr>,
    pub(super) retrying: Option<RetrySlot>,
    /// Repetitions outside policy and budget.
    pub(super) free: u8,
    /// Repetitions that the policy asks for.
    pub(super) charged: u8,
    /// Attempts beside others.
    pub(super) hedged: u8,
    /// An attempt so far may have been executed.
    pub(super) maybe_executed: bool,
    /// The permission of the rule's breaker, until there is an answer.
    pub(super) passage: Option<Passage>,
    /// The place among the requests of the cluster, until there is an answer.
    pub(super) place: Option<Place>,
    holds_place: bool,
    pub(super) phase: Phase,
}

/// What binds a request to some endpoints.
#[derive(Debug, Default)]
pub(super) struct Ties {
    pub(super) subset: Option<Labels>,
    pub(super) hash: Option<u64>,
    pub(super) bound: Option<SocketAddr>,
    pub(super) strict: bool,
}

pub(super) enum Phase {
    /// For a place.
    Waiting(Admission),
    /// Between attempts.
    Pausing,
    /// With attempts under way.
    Trying(Running),
    /// The response is on its way.
    Streaming(Streaming),
}

type Admission = Pin<Box<dyn Future<Output = Result<Option<Place>, Shed>>>>;

impl Request {
    pub(super) fn exchange(&self) -> Exchange<'_> {
        Exchange {
            tunnel: None,
            cluster: &self.cluster,
            rule: &self.rule.config,
            limits: self.limits,
            attempt_limit: self.attempt_limit,
            carried: self.carried,
            caller: self.caller,
            hedging: None,
            hint: PickHint::default(),
            early: false,
        }
    }

    pub(super) fn hint(&self) -> PickHint<'_> {
        PickHint {
            tried: &self.tried,
            hash: self.ties.hash,
            bound: self.ties.bound,
            strict: self.ties.strict,
            subset: self.ties.subset.as_ref(),
            other_zone: self.rule.config.retry.other_locality,
        }
    }

    pub(super) fn holds_retry_place(&self) -> bool {
        self.retrying.as_ref().is_some_and(RetrySlot::is_counted)
    }

    pub(super) fn idempotency(&self) -> Idempotency {
        Idempotency::of(&self.head.method)
    }

    /// Whether it may be executed twice.
    pub(super) fn is_repeatable(&self) -> bool {
        self.idempotency() == Idempotency::Idempotent || self.rule.config.retry.non_idempotent
    }
}

impl World<'_> {
    pub(super) fn arrive(&mut self) {
        let now = self.now();
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
        let (cluster, hedge_times, subset) =
            (Arc::clone(&backend.cluster), backend.hedge_times.clone(), backend.subset.clone());
        let configured = &self.plan.rules[&wanted].backends;
        assert!(configured.contains_key(&*cluster.config().name), "a configured backend is chosen");
        let (limits, attempt_limit, carried) = time_limits(&listener, &rule, &head, caller, now);
        let lineage = if self.rng.below(10) == 0 { Lineage::RetriedAbove } else { Lineage::First };
        let ties = self.ties(&cluster, subset);
        self.sequence += 1;
        let id = self.sequence;
        self.note(&format!("{id} arrives: {} {wanted} to {} {ties:?}", head.method, cluster.config().name));
        let Ok(passage) = self.pass_breakers(id, &cluster, &rule) else { return };
        let classes = [Criticality::Sheddable, Criticality::Default, Criticality::Default, Criticality::Critical];
        let class = classes[self.rng.below(4) as usize];
        let applicant = Applicant { class, caller: self.rng.below(3), deadline: limits.answer_until() };
        let admission = {
            let cluster = Arc::clone(&cluster);
            Box::pin(async move { cluster.admit(applicant, now).await })
        };
        let request = Request {
            listener,
            rule,
            cluster,
            hedge_times,
            ties,
            head,
            caller,
            limits,
            attempt_limit,
            carried,
            began: now,
            lineage,
            replay: if self.rng.below(8) == 0 { retry::Replay::Lost } else { retry::Replay::Whole },
            attempts: Attempts::first(),
            tried: Vec::new(),
            retrying: None,
            free: 0,
            charged: 0,
            hedged: 0,
            maybe_executed: false,
            passage,
            place: None,
            holds_place: false,
            phase: Phase::Waiting(admission),
        };
        if self.rng.below(10) == 0 {
            let patience = exponential(Duration::from_millis(200), &mut self.rng);
            self.after(patience, Event::Leaves(id));
        }
        self.ledger.of(&request.cluster).waiting.up();
        self.waiting.insert(id);
        let waits = request.cluster.config().admission.queue.map_or(Duration::ZERO, |queue| queue.timeout);
        let until = (now + waits).min(request.limits.answer_until().unwrap_or(now + waits)) + TIMER;
        self.requests.insert(id, request);
        self.settle();
        if self.waiting.contains(&id) {
            self.trace.counts.queued += 1;
            self.at(until, Event::PlacesAreLookedAt);
        }
    }

    /// Half of the requests are bound to nothing.
    fn ties(&mut self, cluster: &Cluster, subset: Option<Labels>) -> Ties {
        let mut ties = Ties { subset, ..Ties::default() };
        match self.rng.below(6) {
            0 | 1 => ties.hash = Some(self.rng.below(50)),
            2 => {
                let set = cluster.endpoints();
                let at = self.rng.below(set.members().len() as u64) as usize;
                ties.bound = set.members().get(at).map(|member| member.state.address);
                ties.strict = ties.bound.is_some() && self.rng.below(3) == 0;
            }
            _ => {}
        }
        ties
    }

    /// Whether the breakers of the cluster and the rule let a request through.
    fn pass_breakers(&mut self, id: u64, cluster: &Cluster, rule: &Rule) -> Result<Option<Passage>, ()> {
        let now = self.now();
        if cluster.refuses(now).is_some() {
            assert!(!self.ledger.of(cluster).breaker.is_closed(), "refused by a breaker that is closed");
            self.trace.counts.refused_by_clusters += 1;
            return Err(());
        }
        let Some(breaker) = &rule.breaker else { return Ok(None) };
        self.ledger.see_rule(breaker, Step::Asked, now);
        let entered = breaker.enter(&mut self.picks, now);
        let watched = self.ledger.see_rule(breaker, Step::Asked, now);
        let Ok(passage) = entered else {
            assert!(!watched.is_closed(), "refused by a breaker that is closed");
            self.trace.counts.refused_by_rules += 1;
            return Err(());
        };
        let settings = rule.config.breaker.as_ref().expect("it has one");
        hold(watched.admit(Admitted { number: id, is_probe: passage.is_probe(), settings, now }));
        self.trace.counts.probes_of_rules += u64::from(passage.is_probe());
        Ok(Some(passage))
    }

    /// Those who wait for a place get it, or learn that they will not.
    pub(super) fn settle(&mut self) {
        while !self.waiting.is_empty() {
            self.turn_timers();
            let handle = self.runtime.handle().clone();
            let mut ready = BTreeMap::new();
            for id in &self.waiting {
                let request = self.requests.get_mut(id).expect("who waits is there");
                let Phase::Waiting(admission) = &mut request.phase else { panic!("{id} waits") };
                let _inside = handle.enter();
                if let Poll::Ready(end) = admission.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    ready.insert(*id, end);
                }
            }
            if ready.is_empty() {
                break;
            }
            for (id, end) in ready {
                self.placed(id, end);
            }
        }
    }

    fn placed(&mut self, id: u64, end: Result<Option<Place>, Shed>) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        let now = self.now();
        self.waiting.remove(&id);
        request.phase = Phase::Pausing;
        let (cluster, began, limits) = (Arc::clone(&request.cluster), request.began, request.limits);
        let most = cluster.config().admission.queue.map_or(Duration::ZERO, |queue| queue.timeout);
        hold(invariants::waited(began, now, most, limits.answer_until()));
        let book = self.ledger.of(&cluster);
        hold(book.waiting.down());
        match end {
            Ok(place) => {
                if place.is_some() {
                    book.places.up();
                    self.trace.counts.placed += 1;
                }
                request.holds_place = place.is_some();
                request.place = place;
                match request.lineage {
                    Lineage::First => cluster.state().budget.deposit(now),
                    Lineage::RetriedAbove => cluster.state().budget.note_retry(now),
                }
                self.ledger.request(&cluster, request.lineage, now);
                self.requests.insert(id, request);
                self.attempt(id);
            }
            Err(Shed { cause, .. }) => {
                self.trace.counts.shed += 1;
                self.finish(id, request, &format!("shed: {cause:?}"));
            }
        }
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
        let head = RequestHead {
            method,
            scheme: Scheme::HTTP,
            authority: None,
            path,
            version: Version::HTTP_2,
            headers,
            upgrade: None,
        };
        (head, caller)
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
            self.trace.counts.left_the_queue += u64::from(matches!(request.phase, Phase::Waiting(_)));
            self.finish(id, request, "left");
        }
    }

    /// No answer can be had: the rule's breaker is told.
    pub(super) fn fail(&mut self, id: u64, request: Request, (reason, how): (Reason, &str)) {
        if let (Some(passage), Some(breaker)) = (&request.passage, &request.rule.breaker) {
            tell_breaker(passage, reason, request.began);
            self.ledger.see_rule(breaker, Step::Told(id), self.now());
        }
        self.finish(id, request, how);
    }

    /// A request ends, wherever it was: everything that it held is given back by being dropped.
    pub(super) fn finish(&mut self, id: u64, mut request: Request, how: &str) {
        self.note(&format!("{id} ends: {how}"));
        self.drop_retry(&mut request);
        if request.holds_place {
            hold(self.ledger.of(&request.cluster).places.down());
        }
        match std::mem::replace(&mut request.phase, Phase::Pausing) {
            Phase::Waiting(admission) => {
                if self.waiting.remove(&id) {
                    hold(self.ledger.of(&request.cluster).waiting.down());
                }
                drop(admission);
            }
            Phase::Pausing => {}
            Phase::Trying(running) => self.give_up(&request.cluster, running),
            Phase::Streaming(Streaming { permit, number }) => self.release(&request.cluster, permit, number),
        }
        request.passage = None;
        if let Some(breaker) = &request.rule.breaker {
            let now = self.now();
            self.ledger.see_rule(breaker, Step::Told(id), now).ended(id);
        }
    }

    pub(super) fn drop_retry(&mut self, request: &mut Request) {
        if request.holds_retry_place() {
            self.ledger.retry_ended(&request.cluster);
        }
        request.retrying = None;
    }
}
