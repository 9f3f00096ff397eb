//! What happens to configurations, names and endpoints, and what must hold afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use outrigger_config::{Loaded, load, model};

use super::fleet::Ending;
use super::invariants::Step;
use super::plan;
use super::requests::Phase;
use super::world::World;
use crate::net::tls::TlsSet;
use crate::policy::breaker::{Force, State};
use crate::snapshot::Snapshot;
use crate::upstream::breakers::BreakerOrder;
use crate::upstream::health::LastCheck;
use crate::upstream::{Cluster, Fit, Member, PickHint};

impl World<'_> {
    pub(super) fn reload(&mut self) {
        self.mark_used();
        let mut next = self.plan.clone();
        next.change(&mut self.rng);
        if self.rng.below(12) == 0 {
            let broken = next.yaml().replace("policy: ", "polizy: ");
            load("simulated.yaml", &broken).expect_err("a broken configuration is refused");
            self.trace.counts.refused_reloads += 1;
            return self.compare_all(false);
        }
        let loaded = Arc::new(load("simulated.yaml", &next.yaml()).expect("a good configuration"));
        self.runtime.block_on(self.registry.warm(&loaded.config));
        let generation = self.cell.load().generation + 1;
        let snapshot = Snapshot::compile((&loaded, &TlsSet::default()), &self.registry, &self.metrics, generation);
        if self.rng.below(12) == 0 {
            // An address could not be bound: it never takes effect.
            self.ledger.adopt(&sorted(&snapshot), self.now(), &mut self.trace.counts);
            self.trace.counts.abandoned_reloads += 1;
            self.note("a reload is abandoned");
            return self.compare_all(false);
        }
        self.plan = next;
        self.cell.store(snapshot);
        self.activate(&loaded);
        self.trace.counts.reloads += 1;
        self.note(&format!("generation {generation} with {}", loaded.hash));
    }

    /// The rest of a reload: the snapshot is in the cell.
    pub(super) fn activate(&mut self, loaded: &Loaded) {
        let snapshot = self.cell.load();
        self.snapshots.push(Arc::downgrade(&snapshot));
        let clusters = sorted(&snapshot);
        self.registry.activate(&loaded.config, &clusters, self.now());
        self.names.keep_for(&self.plan);
        self.ledger.adopt(&clusters, self.now(), &mut self.trace.counts);
        self.check_endpoints(&clusters);
        for cluster in &clusters {
            self.ledger.see_ejections(cluster);
        }
        self.compare_all(false);
    }

    pub(super) fn refresh_names(&mut self) {
        self.mark_used();
        self.runtime.block_on(self.registry.refresh());
        let clusters = sorted(&self.cell.load());
        self.ledger.adopt(&clusters, self.now(), &mut self.trace.counts);
        self.check_endpoints(&clusters);
    }

    /// The clusters in use have the endpoints that are configured, with their weights, and no others.
    fn check_endpoints(&mut self, clusters: &[Arc<Cluster>]) {
        let generation = self.cell.load().generation;
        for cluster in clusters {
            let name = &cluster.config().name;
            let expected = self.plan.clusters[&**name].expected(&self.names);
            let members = cluster.endpoints();
            let found: BTreeMap<SocketAddr, u32> =
                members.members().iter().map(|member| (member.state.address, member.weight)).collect();
            assert_eq!(found, expected, "the endpoints of {name}");
            let before = self.endpoints.insert((generation, Arc::clone(name)), expected);
            if before.is_some_and(|before| before != found) {
                self.trace.counts.names_changed += 1;
                self.note(&format!("{name} has {found:?}"));
            }
        }
    }

    /// An endpoint restarts: what it was doing breaks off.
    pub(super) fn restart(&mut self) {
        let address = plan::any_address(&mut self.rng);
        let mut ending = Vec::new();
        for (id, request) in &mut self.requests {
            let Phase::Trying(running) = &mut request.phase else { continue };
            for attempt in &mut running.attempts {
                if attempt.permit.member().state.address == address {
                    attempt.ending = Ending::Closed { reused: self.rng.below(2) == 0 };
                    ending.push((*id, attempt.number));
                }
            }
        }
        self.note(&format!("{address} restarts with {} attempts", ending.len()));
        self.trace.counts.restarts += ending.len() as u64;
        for (id, attempt) in ending {
            self.attempt_ends(id, attempt);
        }
    }

    /// In a moment without anything else, everyone gets exactly its turns.
    pub(super) fn count_turns(&mut self) {
        let now = self.now();
        for cluster in sorted(&self.cell.load()) {
            let ceiling = cluster.state().admission.ceiling(cluster.config().ceilings.max_requests);
            let room = self.ledger.in_flight(&cluster) < ceiling;
            let set = cluster.endpoints();
            if cluster.config().balance.policy != model::BalancePolicy::RoundRobin || !room || set.members().is_empty()
            {
                continue;
            }
            let model::Balance { locality, slow_start, .. } = &cluster.config().balance;
            let plain = |member: &Member| {
                let breaker = member.state.breaker.machine();
                let is_closed = breaker.force == Force::Auto && breaker.state == State::Closed;
                Fit::of(member, now) == Fit::Fit && is_closed && member.priority == 0
            };
            let zones = *locality == model::Locality::PreferZone;
            let ceiling = cluster.config().endpoint_ceilings.max_requests.is_some();
            let is_closed = self.ledger.of(&cluster).breaker.is_closed();
            if zones || slow_start.is_some() || ceiling || !is_closed || !set.members().iter().all(plain) {
                continue;
            }
            let weights: BTreeMap<SocketAddr, u32> =
                set.members().iter().map(|member| (member.state.address, member.weight)).collect();
            let equal = set.members().windows(2).all(|pair| pair[0].weight == pair[1].weight);
            let share = |weight: u32| if equal { ROUNDS } else { ROUNDS * weight };
            let mut turns: BTreeMap<SocketAddr, u32> = BTreeMap::new();
            for _ in 0..weights.values().map(|weight| share(*weight)).sum() {
                let permit = cluster.pick(&PickHint::default(), &mut self.picks, now).expect("there is room");
                self.ledger.picked(&cluster, &permit, now);
                permit.uploads();
                self.ledger.ended(&cluster, &permit, now);
                *turns.entry(permit.member().state.address).or_default() += 1;
            }
            for (address, weight) in weights {
                let (got, due) = (turns.get(&address).copied().unwrap_or(0), share(weight));
                // Spread by the golden ratio, unequal shares may be off by a turn or two at any moment.
                let most_off = if equal { 0 } else { 2 };
                assert!(got.abs_diff(due) <= most_off, "{address} got {got} of {due} turns");
            }
            *(if equal { &mut self.trace.counts.equal_turns } else { &mut self.trace.counts.weighted_turns }) += 1;
        }
    }

    /// Active checks of all endpoints end, and intervals of outlier detection are over.
    pub(super) fn check_health(&mut self) {
        let now = self.now();
        for cluster in sorted(&self.cell.load()) {
            if let Some(check) = &cluster.config().health_check {
                for member in cluster.endpoints().members() {
                    let result = self.fleet.check(member.state.address, &mut self.rng);
                    let took = Duration::from_millis(1);
                    let last = LastCheck { at: now, took, result, reason: "simulated".into() };
                    let was_bad = member.state.standing.is_bad();
                    cluster.state().check_ended(&member.state, check, last);
                    let counts = &mut self.trace.counts;
                    counts.checked += 1;
                    counts.health_changed += u64::from(was_bad != member.state.standing.is_bad());
                }
            }
        }
        self.registry.judge_outliers(now);
        for cluster in sorted(&self.cell.load()) {
            self.trace.counts.ejected += self.ledger.see_ejections(&cluster);
            for member in cluster.endpoints().members() {
                if !member.state.standing.is_good() {
                    self.note(&format!(
                        "{} of {}: {:?}",
                        member.state.address,
                        cluster.config().name,
                        member.state.standing
                    ));
                }
            }
        }
    }

    /// Somebody orders a breaker to be open or closed, or takes that back.
    pub(super) fn order(&mut self) {
        let now = self.now();
        let clusters = sorted(&self.cell.load());
        let cluster = &clusters[self.rng.below(clusters.len() as u64) as usize];
        let name = cluster.config().name.to_string();
        let listener = self.cell.listener("inbound").expect("the listener stays");
        let wanted = format!("r{}", self.rng.below(plan::RULES));
        // One that only an older configuration has is nobody's to order.
        let rule = listener.rules.iter().filter_map(|rule| rule.breaker.as_ref()).find(|rule| *rule.rule == *wanted);
        let order = match (self.rng.below(4), rule) {
            (0, _) => BreakerOrder::Cluster(name),
            (1, Some(_)) => BreakerOrder::Rule(None, wanted),
            _ => BreakerOrder::Endpoint(name, plan::any_address(&mut self.rng)),
        };
        // Most orders are taken back soon.
        let force = [Force::Auto, Force::Auto, Force::Auto, Force::Open, Force::Closed][self.rng.below(5) as usize];
        if self.registry.order_breaker(&order, force, now).is_ok() {
            self.trace.counts.ordered += u64::from(force != Force::Auto);
            self.note(&format!("{order:?} is ordered: {force:?}"));
        }
        self.ledger.see_breakers(cluster, Step::Ordered);
        if let Some(rule) = rule {
            self.ledger.see_rule(rule, Step::Ordered, now);
        }
    }

    pub(super) fn sweep(&mut self) {
        self.mark_used();
        self.cell.sweep();
        self.registry.sweep(self.now());
        self.compare_all(true);
    }

    pub(super) fn compare_all(&mut self, swept: bool) {
        self.ledger.compare_all(self.now(), swept);
    }

    /// The configuration in effect, and those that requests run on or did until just now, are in use until now.
    fn mark_used(&mut self) {
        let now = self.now();
        self.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        for snapshot in self.snapshots.iter().filter_map(Weak::upgrade) {
            self.ledger.used(snapshot.clusters(), now);
        }
    }
}

/// How often each endpoint's turn comes.
const ROUNDS: u32 = 4;

/// In an order that is the same every time.
fn sorted(snapshot: &Snapshot) -> Vec<Arc<Cluster>> {
    let mut clusters = snapshot.clusters().to_vec();
    clusters.sort_by(|a, b| a.config().name.cmp(&b.config().name));
    clusters
}
