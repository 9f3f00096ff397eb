//! What must hold of every choice of an endpoint, and of everything that is sent.

use std::sync::Arc;

use outrigger_config::model::{Condition, Labels, Locality, SubsetFallback};

use super::invariants;
use super::ledger::hold;
use super::requests::Request;
use super::world::World;
use crate::codec::RequestHead;
use crate::policy::breaker::State;
use crate::policy::deadline::{parse_grpc_timeout, parse_millis};
use crate::policy::retry::{self, Lineage};
use crate::proxy::attempt::DEADLINE;
use crate::proxy::attempt::forward::GRPC_TIMEOUT;
use crate::proxy::local::Caller;
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::{Closed, Cluster, EndpointSet, Fit, Member, Permit, PickError};

/// The endpoints just before a choice among them.
struct Before {
    set: Arc<EndpointSet>,
    fit: Vec<Fit>,
    scores: Vec<Option<f64>>,
    /// Those that would not turn the request away, and that it may go to.
    open: Vec<bool>,
    /// As many requests as may be are in flight.
    full: bool,
}

impl World<'_> {
    /// Chooses an endpoint, as configured. Or why there is none.
    pub(super) fn pick(&mut self, request: &Request) -> Result<Permit, &'static str> {
        let (before, now) = (self.look(request), self.now());
        match request.cluster.pick(&request.hint(), &mut self.picks, now) {
            Ok(permit) => {
                assert!(!before.full, "picked at the ceiling");
                self.ledger.picked(&request.cluster, &permit, self.now());
                self.check_pick(request, &permit, &before);
                Ok(permit)
            }
            Err(error) => {
                self.ledger.see_breakers(&request.cluster, invariants::Step::Asked);
                Err(self.check_refusal(request, error, &before))
            }
        }
    }

    /// The same for an attempt beside others: at another endpoint, or not at all.
    pub(super) fn pick_beside(&mut self, request: &Request) -> Option<Permit> {
        let now = self.now();
        let permit = self.pick(request).ok()?;
        if !request.tried.contains(&permit.member().state.address) {
            return Some(permit);
        }
        self.sequence += 1;
        let number = self.sequence;
        self.ledger.admitted(&request.cluster, &permit, number, now);
        self.release(&request.cluster, permit, number);
        None
    }

    fn look(&mut self, request: &Request) -> Before {
        let (now, cluster) = (self.now(), &request.cluster);
        let set = cluster.endpoints();
        let fit: Vec<Fit> = set.members().iter().map(|member| Fit::of(member, now)).collect();
        let scores = (0..set.members().len()).map(|index| set.score(index, now)).collect();
        let group = |member: &Member| request.ties.subset.as_ref().is_none_or(|labels| has_labels(member, labels));
        let falls_back = cluster.config().balance.subset_fallback == SubsetFallback::Any;
        let asks_for_a_retry = cluster.config().endpoint_ceilings.max_retries.is_some() && !request.tried.is_empty();
        let bound = request.ties.bound.filter(|_| request.ties.strict);
        let takes = |member: &Member| {
            (group(member) || (falls_back && !set.members().iter().any(|member| takes_new(member) && group(member))))
                && bound.is_none_or(|bound| bound == member.state.address)
        };
        let lets_in = |member: &Member| {
            let ramps = matches!(member.state.breaker.machine().state, State::Ramp { .. });
            !ramps && !asks_for_a_retry
        };
        let is_open = |(member, fit): (&Member, &Fit)| *fit == Fit::Fit && takes(member) && lets_in(member);
        let open = set.members().iter().zip(&fit).map(is_open).collect();
        let ceiling = cluster.state().admission.ceiling(cluster.config().ceilings.max_requests);
        let full = self.ledger.in_flight(cluster) >= ceiling;
        Before { set, fit, scores, open, full }
    }

    fn check_refusal(&mut self, request: &Request, error: PickError, before: &Before) -> &'static str {
        let Before { fit, open, full, .. } = before;
        let counts = &mut self.trace.counts;
        let book = self.ledger.of(&request.cluster);
        match error {
            PickError::Open { scope: BreakerScope::Cluster, .. } => {
                assert!(!book.breaker.is_closed(), "refused by a breaker that is closed");
                counts.refused_by_clusters += 1;
                "the breaker of the cluster is open"
            }
            PickError::Open { .. } => {
                assert!(!open.contains(&true), "refused by breakers although some let it in: {fit:?}");
                counts.refused_by_breakers += 1;
                "breakers are open"
            }
            PickError::Overflow => {
                assert!(*full || !open.contains(&true), "refused below the ceilings: {fit:?}");
                counts.over_the_ceiling += 1;
                "overflow"
            }
            PickError::NoEndpoint => {
                assert!(!open.contains(&true), "no endpoint was picked although some are fit: {fit:?}");
                counts.without_endpoint += 1;
                "no endpoint"
            }
        }
    }

    fn check_pick(&mut self, request: &Request, permit: &Permit, before: &Before) {
        let Before { set, fit, scores, open, .. } = before;
        let member = permit.member();
        let address = member.state.address;
        let (cluster, generation) = (&request.cluster, request.listener.generation);
        let configured = &self.endpoints[&(generation, Arc::clone(&cluster.config().name))];
        assert!(configured.contains_key(&address), "{address} is not one of {configured:?}");
        let counts = &mut self.trace.counts;
        if generation < self.cell.load().generation {
            counts.picks_after_a_reload_on_an_old_configuration += 1;
        }
        let balance = &cluster.config().balance;
        let members = set.members();
        let index = members.iter().position(|member| member.state.address == address).expect("a member");
        let is_bound = request.ties.bound == Some(address);
        match fit[index] {
            Fit::Fit => {}
            // Whether its breaker may let it in is for the breaker's watch to say.
            Fit::Closed(Closed::Breaker { .. }) => counts.tolerated += 1,
            Fit::Closed(Closed::Ceiling) => panic!("{address} was picked at its ceiling"),
            Fit::Draining => {
                assert!(is_bound, "{address} goes away and was picked for a request that is not bound to it");
                counts.picked_draining += 1;
            }
            Fit::Unwell => {
                assert!(balance.panic_threshold > 0, "{address} is not well and was picked without a panic");
                counts.picked_in_panic += 1;
            }
            Fit::Unchecked => counts.picked_unchecked += 1,
        }
        if let Some(labels) = &request.ties.subset {
            let found = members.iter().any(|member| takes_new(member) && has_labels(member, labels));
            let falls_back = balance.subset_fallback == SubsetFallback::Any && !found;
            assert!(falls_back || has_labels(member, labels), "{address} is not of {labels:?}");
            counts.picked_of_a_subset += 1;
        }
        let tried = |member: &Member| request.tried.contains(&member.state.address);
        let untried = members.iter().zip(open).any(|(member, open)| *open && !tried(member));
        if untried && !request.ties.strict {
            assert!(!tried(member), "{address} was tried before, and there are others: {fit:?}");
        }
        let bound = members.iter().position(|member| Some(member.state.address) == request.ties.bound);
        if let Some(bound) = bound.filter(|bound| open[*bound] && request.tried.is_empty()) {
            assert!(bound == index, "the session is bound to {:?}, and {address} was picked", request.ties.bound);
            counts.sessions_kept += 1;
        }
        let plain = balance.locality == Locality::Any
            && balance.slow_start.is_none()
            && open.iter().all(|open| *open)
            && members.iter().all(|member| member.priority == 0)
            && request.ties.bound.is_none()
            && request.ties.subset.is_none();
        // Of up to three all are compared.
        if let Some(score) = scores[index]
            && plain
            && members.len() <= 3
            && request.tried.is_empty()
            && !permit.is_probe()
        {
            let lowest = scores.iter().flatten().copied().fold(f64::INFINITY, f64::min);
            assert!(score <= lowest, "{address} scores {score}, another {lowest}");
            counts.lowest_scores += 1;
        }
    }

    /// What must hold of every attempt that is sent.
    pub(super) fn check_sending(&self, request: &Request, head: &RequestHead) {
        let now = self.now();
        let policy = &request.rule.config.retry;
        hold(invariants::sent(now, request.limits.answer_until()));
        if let Some(deadline) = request.limits.deadline {
            let told = match request.caller {
                Caller::Grpc => parse_grpc_timeout(head.headers[GRPC_TIMEOUT].as_bytes()).expect("a timeout"),
                Caller::Http => parse_millis(head.headers[DEADLINE].as_bytes()).expect("milliseconds"),
            };
            hold(invariants::told(told, now, deadline));
        }
        assert!(request.free <= 1, "repeated {} times outside the policy", request.free);
        let most = if request.lineage == Lineage::First { policy.attempts.value } else { 0 };
        assert!(request.charged <= most, "repeated {} of at most {most} times", request.charged);
        let hedges = request.rule.config.hedge.map_or(0, |hedge| hedge.max);
        let most = usize::from((policy.attempts.value + 1).max(hedges + 1)).max(3);
        assert!(request.tried.len() < most, "attempt {} of at most {most}", request.tried.len() + 1);
        if !request.tried.is_empty() {
            assert_eq!(request.replay, retry::Replay::Whole, "a body that is gone was sent again");
            let safe = request.is_repeatable();
            assert!(safe || !request.maybe_executed, "what may have been executed was sent again");
        }
    }

    /// Whether outlier detection has ejected somebody, and whether it might.
    pub(super) fn see_ejections(&mut self, cluster: &Cluster) {
        let snapshot = self.cell.load();
        let newest = snapshot.clusters().iter().find(|known| known.config().name == cluster.config().name);
        if let Some(newest) = newest {
            self.trace.counts.ejected += self.ledger.see_ejections(newest);
        }
    }
}

/// A subset of endpoints that all go away is none.
fn takes_new(member: &Member) -> bool {
    member.condition != Condition::Draining
}

fn has_labels(member: &Member, labels: &Labels) -> bool {
    labels.iter().all(|(name, value)| member.labels.get(name) == Some(value))
}
