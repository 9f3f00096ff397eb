//! Active health checks: run on the control thread with connections of their own, bounded in number, and spread.
//!
//! What checks say stays with the endpoint whatever the configuration does; what is asked, how often, and how many
//! answers it takes follow the configuration. A check that is slow holds up no other as long as fewer than
//! [`limits::HEALTH_PROBES`] are.

mod grpc;
mod news;
mod probe;
mod record;
mod schedule;
mod traffic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::probe::Ended;
use self::schedule::{PlaceId, Schedule};
use super::cluster::Cluster;
use super::registry::Clock;
use crate::base::limits;
use crate::telemetry::ClusterMetrics;

pub use self::news::News;
pub use self::record::{CheckRecord, Checked, LastCheck};
pub use self::traffic::Traffic;

/// Keeps what is known of the health of endpoints fresh.
#[derive(Debug, Default)]
pub struct HealthKeeper {
    changed: Notify,
}

impl HealthKeeper {
    /// Endpoints or settings are others than before.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Runs checks and the intervals of outlier detection for ever, for the clusters in use. Dropping it stops all
    /// checks.
    pub(super) async fn run(&self, clock: &Clock, seed: u64, clusters: impl Fn() -> Vec<Arc<Cluster>>) {
        let mut work = Work {
            schedule: Schedule::new(seed, limits::HEALTH_KEPT),
            probes: JoinSet::new(),
            unseen: ClusterMetrics::unseen(),
        };
        let mut looked: Option<Instant> = None;
        let mut changed = true;
        let mut judge_at: Option<Instant> = None;
        loop {
            let now = clock();
            let look_at = looked.map_or(now, |looked| looked + GATHER);
            if changed && look_at <= now {
                work.schedule.follow(&clusters(), now);
                (changed, looked, judge_at) = (false, Some(now), Some(now));
            }
            if judge_at.is_some_and(|at| at <= now) {
                judge_at = clusters().iter().filter_map(|cluster| cluster.state().judge_outliers(now)).min();
            }
            let check_at = work.begin_due(now);
            let wake = [check_at, judge_at, changed.then_some(look_at)].into_iter().flatten().min();
            let wait = wake.map_or(NOTHING_DUE, |at| at.saturating_duration_since(now));
            tokio::select! {
                () = self.changed.notified() => changed = true,
                Some(ended) = work.probes.join_next_with_id() => match ended {
                    Ok((_, (place, ended))) => work.schedule.ended(place, ended, clock()),
                    // It was stopped, or there is a bug in it: its endpoint is checked again all the same.
                    Err(error) => work.schedule.lost(error.id(), clock()),
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

struct Work {
    schedule: Schedule,
    probes: JoinSet<(PlaceId, Ended)>,
    /// Connections of checks are no connections of the cluster.
    unseen: Arc<ClusterMetrics>,
}

impl Work {
    /// Begins as many of the checks that are due as there may be. When the next one is due; `None` also when there is
    /// no room: the end of one wakes.
    fn begin_due(&mut self, now: Instant) -> Option<Instant> {
        while self.probes.len() < limits::HEALTH_PROBES {
            let Some((place, due)) = self.schedule.take_due(now) else { return self.schedule.next(now) };
            let unseen = Arc::clone(&self.unseen);
            let running = self.probes.spawn(async move { (place, probe::run(due, unseen).await) });
            self.schedule.began(place, running);
        }
        None
    }
}

/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// Sleep without anything to do; a change wakes.
const NOTHING_DUE: Duration = Duration::from_secs(3600);
