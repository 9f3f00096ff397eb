//! Outlier detection of one cluster: what came of requests is noted where they end, an endpoint that failed too often in
//! a row is ejected by the worker that saw it, and what takes an interval is done by the control thread.
//!
//! How many may be out is decided under one lock that workers only try: one that finds it taken leaves the failures
//! counted, and the next failure tries again. So a worker never waits, and the share is never exceeded.

use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use outrigger_config::model::{Condition, OutlierDetection};
use parking_lot::Mutex;

use super::cluster::Member;
use super::permit::Outcome;
use super::standing::Against;
use super::state::{ClusterState, EndpointState};
use crate::policy::outlier::{Cause, Conduct, Ejection, Ejections, Evidence, below_the_others, may_be_out};
use crate::policy::rng::Rng;

/// Outlier detection of a cluster. Survives configurations; settings are those of the newest.
#[derive(Debug)]
pub struct Outliers {
    settings: ArcSwapOption<OutlierDetection>,
    seats: Mutex<Seats>,
}

/// What an endpoint did, and its ejections.
#[derive(Debug, Default)]
pub struct OutlierRecord {
    conduct: Conduct,
    /// Held for a few instructions, and never while another lock is taken.
    ejections: Mutex<Ejections>,
}

/// The endpoints of the cluster.
#[derive(Debug)]
struct Seats {
    all: Vec<Seat>,
    /// How many of them are out.
    out: usize,
    /// When rates are looked at next.
    due: Option<Instant>,
    rng: Rng,
}

#[derive(Debug)]
struct Seat {
    /// The registry decides how long it is kept.
    state: Weak<EndpointState>,
    condition: Condition,
}

impl OutlierRecord {
    /// The ejection under way.
    #[must_use]
    pub fn ejection(&self) -> Option<Ejection> {
        self.ejections.lock().now
    }

    /// How many ejections lengthen the next one.
    #[must_use]
    pub fn ejections(&self) -> u32 {
        self.ejections.lock().times
    }
}

impl Outliers {
    pub(super) fn new(cluster: &str) -> Self {
        let seed = cluster.bytes().fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(byte));
        let seats = Seats { all: Vec::new(), out: 0, due: None, rng: Rng::new(seed) };
        Self { settings: ArcSwapOption::empty(), seats: Mutex::new(seats) }
    }

    /// The settings in effect.
    #[must_use]
    pub fn settings(&self) -> Option<Arc<OutlierDetection>> {
        self.settings.load_full()
    }

    /// How many endpoints are out.
    #[must_use]
    pub fn out(&self) -> usize {
        self.seats.lock().out
    }
}

impl ClusterState {
    /// Evidence about an endpoint. Never waits.
    pub(super) fn note_outcome(&self, endpoint: &EndpointState, outcome: Outcome, now: Instant) {
        let settings = self.outliers.settings.load();
        let Some(settings) = &*settings else { return };
        let evidence = match outcome {
            // What asks for less is no error.
            Outcome::Success(_) | Outcome::Done | Outcome::Busy => Evidence::Success,
            Outcome::Answering(_) => return,
            Outcome::ServerError => Evidence::ServerError,
            Outcome::GatewayError => Evidence::GatewayError,
            Outcome::Broken => Evidence::LocalFailure,
        };
        if let Some(cause) = endpoint.outlier.conduct.note(evidence, settings) {
            self.eject_at_once(endpoint, cause, now);
        }
    }

    #[cold]
    fn eject_at_once(&self, endpoint: &EndpointState, cause: Cause, now: Instant) {
        let Some(mut seats) = self.outliers.seats.try_lock() else { return };
        endpoint.outlier.conduct.forgive(cause);
        // Those that are in effect while the lock is held: what was just switched off ejects nobody.
        let Some(settings) = self.outliers.settings.load_full() else { return };
        // A request may end after its endpoint has left.
        if seats.all.iter().any(|seat| seat.is_of(endpoint)) {
            self.eject(&mut seats, endpoint, cause, (&settings, now));
        }
    }

    fn eject(
        &self,
        seats: &mut Seats,
        endpoint: &EndpointState,
        cause: Cause,
        (settings, now): (&OutlierDetection, Instant),
    ) {
        if endpoint.standing.has(Against::Ejected) {
            return;
        }
        let room = seats.out < may_be_out(seats.all.len(), settings);
        // Checks and what is said of endpoints may have taken out the others.
        if !room || !seats.all.iter().any(|seat| !seat.is_of(endpoint) && seat.is_fit()) {
            self.metrics.ejection_overflowed();
            return;
        }
        seats.out += 1;
        let mut ejections = endpoint.outlier.ejections.lock();
        let ejection = ejections.begin(cause, settings, now, &mut seats.rng);
        let times = ejections.times;
        drop(ejections);
        endpoint.standing.set(Against::Ejected);
        self.health_epoch.advance();
        self.metrics.ejected(cause.name());
        if let Some(not_logged) = self.health_news.is_news(now) {
            let (cluster, endpoint, cause) = (&self.name, endpoint.address, cause.name());
            let lasts = ejection.until.saturating_duration_since(now);
            tracing::warn!(%cluster, %endpoint, cause, times, ?lasts, not_logged, "an endpoint was ejected");
        }
    }

    fn bring_back(&self, seats: &mut Seats, endpoint: &EndpointState, why: &'static str, now: Instant) {
        endpoint.outlier.ejections.lock().end(now);
        endpoint.outlier.conduct.reset();
        if endpoint.standing.clear(Against::Ejected) {
            seats.out = seats.out.saturating_sub(1);
            self.health_epoch.advance();
            if let Some(not_logged) = self.health_news.is_news(now) {
                let (cluster, endpoint) = (&self.name, endpoint.address);
                tracing::info!(%cluster, %endpoint, why, not_logged, "an ejected endpoint is back");
            }
        }
    }

    /// Its checks, which had failed, succeed again.
    pub(super) fn checks_recovered(&self, endpoint: &EndpointState, now: Instant) {
        if endpoint.standing.has(Against::Ejected) {
            self.bring_back(&mut self.outliers.seats.lock(), endpoint, "its health checks succeed again", now);
        }
    }

    /// These are the endpoints from now on, and these the settings. Ejections that no longer fit end: all of them
    /// without settings, and those that would be over soonest where more are out than may be.
    pub(super) fn seat(&self, members: &[Member], settings: Option<&OutlierDetection>, now: Instant) {
        let mut seats = self.outliers.seats.lock();
        let known = self.outliers.settings.load_full();
        if known.as_deref() != settings {
            self.outliers.settings.store(settings.cloned().map(Arc::new));
            seats.due = None;
        }
        seats.all = members
            .iter()
            .map(|member| Seat { state: Arc::downgrade(&member.state), condition: member.condition })
            .collect();
        let Some(settings) = settings else {
            for member in members {
                // Also one that was ejected, left, and has come back.
                if known.is_some() || member.state.standing.has(Against::Ejected) {
                    self.bring_back(&mut seats, &member.state, "outlier detection is off", now);
                    *member.state.outlier.ejections.lock() = Ejections::default();
                }
            }
            seats.out = 0;
            return;
        };
        seats.due.get_or_insert(now + settings.interval);
        let mut out: Vec<(Instant, &Arc<EndpointState>)> = members
            .iter()
            .filter(|member| member.state.standing.has(Against::Ejected))
            .filter_map(|member| Some((member.state.outlier.ejection()?.until, &member.state)))
            .collect();
        seats.out = out.len();
        out.sort_by_key(|(until, state)| (*until, state.address));
        let too_many = out.len().saturating_sub(may_be_out(members.len(), settings));
        for (_, endpoint) in &out[..too_many] {
            self.bring_back(&mut seats, endpoint, "too few endpoints are left", now);
        }
    }

    /// What an interval asks for, if it is over: ejections end, and success rates are looked at. When the next one is.
    pub(super) fn judge_outliers(&self, now: Instant) -> Option<Instant> {
        let settings = self.outliers.settings.load_full()?;
        let mut seats = self.outliers.seats.lock();
        let due = seats.due?;
        if now < due {
            return Some(due);
        }
        let next = now + settings.interval;
        seats.due = Some(next);
        let endpoints: Vec<Arc<EndpointState>> = seats.all.iter().filter_map(|seat| seat.state.upgrade()).collect();
        let mut rates = (Vec::with_capacity(endpoints.len()), Vec::with_capacity(endpoints.len()));
        for endpoint in &endpoints {
            let taken = endpoint.outlier.conduct.take_rates();
            let out = endpoint.standing.has(Against::Ejected);
            let due = {
                let mut ejections = endpoint.outlier.ejections.lock();
                ejections.got_through(settings.interval, now);
                ejections.is_due(now)
            };
            if due {
                self.bring_back(&mut seats, endpoint, "its time is over", now);
            }
            // Those that were out had other requests than the others, if any.
            let (answers, local) = if out { Default::default() } else { taken };
            rates.0.push(answers);
            rates.1.push(local);
        }
        for (rates, cause) in [(&rates.0, Cause::SuccessRate), (&rates.1, Cause::LocalSuccessRate)] {
            for at in below_the_others(rates, &settings) {
                self.eject(&mut seats, &endpoints[at], cause, (&settings, now));
            }
        }
        Some(next)
    }
}

impl Seat {
    fn is_of(&self, endpoint: &EndpointState) -> bool {
        std::ptr::eq(self.state.as_ptr(), endpoint)
    }

    /// Whether requests may go there.
    fn is_fit(&self) -> bool {
        self.condition == Condition::Healthy && self.state.upgrade().is_some_and(|state| state.standing.is_good())
    }
}

#[cfg(test)]
mod tests;
