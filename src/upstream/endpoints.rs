//! The endpoints of a cluster at one moment, grouped for picking when they change, so that a pick looks at few of them.
//!
//! A request goes to the group of its subset; there to a priority, in it to a zone, and there to the endpoint that its
//! hash or the balancer says. Who may be picked at all is for [`Fit`] to say; nothing here overrules it but a panic,
//! and that only what health says.

mod group;
mod tables;
mod tally;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::{self, Condition, SubsetFallback};

pub use self::group::LevelStatus;
use self::group::{Bar, Group, Scene};
pub(super) use self::tables::Tables;
use super::cluster::{Member, PickError, PickHint};
use super::fitness::{Closed, Fit};
use super::state::ClusterState;
use crate::policy::rng::Rng;

/// The endpoints of a cluster at one moment.
#[derive(Debug)]
pub struct EndpointSet {
    members: Vec<Member>,
    places: HashMap<SocketAddr, u32, foldhash::fast::RandomState>,
    everything: Group,
    subsets: Vec<(model::Labels, Group)>,
    balance: model::Balance,
    /// Until when newcomers have less than their share.
    warming: Option<Instant>,
}

/// What bears on the grouping of a cluster's endpoints beside its own configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The proxy's zone.
    pub zone: Option<Arc<str>>,
    /// The subsets that backends ask for.
    pub subsets: Vec<model::Labels>,
}

/// How a set is made.
pub(super) struct Plan<'a> {
    pub(super) balance: &'a model::Balance,
    pub(super) placement: &'a Placement,
    pub(super) tables: &'a Tables,
    /// Where balancers begin.
    pub(super) start: u64,
}

/// Where and when a pick is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) now: Instant,
}

impl EndpointSet {
    /// Groups endpoints. Takes milliseconds for many: not for a worker.
    pub(super) fn new(members: Vec<Member>, plan: &Plan<'_>) -> Self {
        let places = (0..).zip(&members).map(|(place, member)| (member.state.address, place)).collect();
        let all = 0..members.len() as u32;
        let everything = Group::new(&members, all.clone().collect(), plan).shown();
        let subsets = plan.placement.subsets.iter().map(|labels| {
            let within = |index: &u32| has_labels(&members[*index as usize], labels);
            (labels.clone(), Group::new(&members, all.clone().filter(within).collect(), plan))
        });
        let subsets = subsets.collect();
        let window = plan.balance.slow_start.map_or(Duration::ZERO, |settings| settings.window);
        let warming = members.iter().filter_map(|member| member.state.newcomer).max().map(|since| since + window);
        Self { places, everything, subsets, balance: plan.balance.clone(), warming, members }
    }

    /// The endpoints.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What the balancer compares, where it compares: lower is chosen.
    #[must_use]
    pub fn score(&self, index: usize, now: Instant) -> Option<f64> {
        self.everything.score(&self.scene(&PickHint::default(), now), index)
    }

    /// The priorities as they are now.
    pub(super) fn levels(&self, moment: Moment<'_>) -> Vec<LevelStatus> {
        self.everything.levels(&self.scene(&PickHint::default(), moment.now), moment)
    }

    /// Why an endpoint is not picked for a request of no session and no subset; `None`: it may be.
    pub(super) fn why_not(&self, index: usize, moment: Moment<'_>) -> Option<&'static str> {
        let member = &self.members[index];
        let panics = || self.everything.panics(member.priority, &self.scene(&PickHint::default(), moment.now), moment);
        match Fit::of(member, moment.now) {
            Fit::Closed(Closed::Breaker { .. }) => Some("breakerOpen"),
            Fit::Closed(Closed::Ceiling) => Some("atItsCeiling"),
            Fit::Draining => Some("draining"),
            _ if !takes_new(member) => Some("draining"),
            Fit::Unwell if !panics() => Some("unwell"),
            Fit::Unchecked if !panics() => Some("unchecked"),
            Fit::Fit | Fit::Unwell | Fit::Unchecked => {
                match self.levels(moment).iter().find(|level| level.priority == member.priority) {
                    Some(level) if level.percent == 0 => Some("otherPriority"),
                    _ => None,
                }
            }
        }
    }

    /// Chooses a member, other than those that have turned the request away.
    pub(super) fn pick(
        &self,
        hint: &PickHint<'_>,
        turned: &[SocketAddr],
        moment: Moment<'_>,
        rng: &mut Rng,
    ) -> Result<usize, PickError> {
        let scene = Scene { turned, ..self.scene(hint, moment.now) };
        let group = self.group(hint.subset);
        if let Some(address) = hint.bound {
            let bound = self.find(address, hint.subset);
            if let Some(index) = bound.filter(|index| self.serves_its_session(*index, group, &scene, moment)) {
                return Ok(index);
            }
            if hint.strict {
                let state = bound.map(|index| Fit::of(&self.members[index], moment.now));
                return Err(refusal(state));
            }
        }
        let group = group.ok_or(PickError::NoEndpoint)?;
        group.pick(&scene, moment, rng).ok_or_else(|| self.why_none(group, moment.now))
    }

    /// Those that a request may go to, were nothing against them.
    pub(super) fn candidates(&self, hint: &PickHint<'_>) -> impl Iterator<Item = &Member> {
        let only = hint.bound.filter(|_| hint.strict);
        let bound = only.and_then(|address| self.find(address, hint.subset)).map(|index| &self.members[index]);
        let group = if only.is_none() { self.group(hint.subset) } else { None };
        bound.into_iter().chain(group.into_iter().flat_map(|group| group.members(&self.members)))
    }

    /// Whether a member is among those that a subset means.
    pub(super) fn offers(&self, member: &Member, subset: Option<&model::Labels>) -> bool {
        let falls_back = || self.group(subset).is_some_and(|group| std::ptr::eq(group, &self.everything));
        subset.is_none_or(|labels| has_labels(member, labels) || falls_back())
    }

    /// The group of those with these labels; `None` where there is none and that means none.
    fn group(&self, subset: Option<&model::Labels>) -> Option<&Group> {
        let Some(wanted) = subset.filter(|labels| !labels.is_empty()) else { return Some(&self.everything) };
        let found = self.subsets.iter().find(|(labels, _)| labels == wanted).map(|(_, group)| group);
        match self.balance.subset_fallback {
            SubsetFallback::None => found,
            SubsetFallback::Any => found.filter(|group| !group.is_empty()).or(Some(&self.everything)),
        }
    }

    fn find(&self, address: SocketAddr, subset: Option<&model::Labels>) -> Option<usize> {
        let index = *self.places.get(&address)? as usize;
        self.offers(&self.members[index], subset).then_some(index)
    }

    /// Whether an endpoint gets the requests of a session that is bound to it. Draining ones do. An attempt after one
    /// that failed there goes elsewhere, unless the session may not.
    fn serves_its_session(&self, index: usize, group: Option<&Group>, scene: &Scene<'_>, moment: Moment<'_>) -> bool {
        let member = &self.members[index];
        let address = &member.state.address;
        if scene.turned.contains(address) || (!scene.hint.strict && scene.hint.tried.contains(address)) {
            return false;
        }
        match Fit::of(member, moment.now) {
            Fit::Fit | Fit::Draining | Fit::Unchecked => true,
            Fit::Unwell => group.is_some_and(|group| group.panics(member.priority, scene, moment)),
            Fit::Closed(_) => false,
        }
    }

    /// What stands in the way of all of a group.
    fn why_none(&self, group: &Group, now: Instant) -> PickError {
        let reasons = group.members(&self.members).map(|member| refusal(Some(Fit::of(member, now))));
        reasons.fold(PickError::NoEndpoint, PickError::weigh)
    }

    fn scene<'a>(&'a self, hint: &'a PickHint<'a>, now: Instant) -> Scene<'a> {
        let slow_start = self.balance.slow_start.as_ref().filter(|_| self.warming.is_some_and(|until| now < until));
        Scene {
            members: &self.members,
            balance: &self.balance,
            slow_start,
            hint,
            turned: &[],
            now,
            bar: Bar::default(),
        }
    }
}

fn refusal(fit: Option<Fit>) -> PickError {
    match fit {
        Some(Fit::Closed(closed)) => closed.into(),
        Some(Fit::Fit | Fit::Unwell | Fit::Unchecked | Fit::Draining) | None => PickError::NoEndpoint,
    }
}

fn has_labels(member: &Member, wanted: &model::Labels) -> bool {
    wanted.iter().all(|(name, value)| member.labels.get(name) == Some(value))
}

/// Whether it may be picked for requests that are not bound to it, ever.
fn takes_new(member: &Member) -> bool {
    match member.condition {
        Condition::Healthy | Condition::Unhealthy => true,
        Condition::Draining => false,
    }
}

#[cfg(test)]
mod tests;
