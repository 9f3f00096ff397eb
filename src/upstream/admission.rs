//! A place among the requests of a cluster, taken once before a request's first attempt and held until its response
//! ends: how many there are, who gets one, and who waits.
//!
//! Without a queue and without an adaptive limit there is nothing here: the ceilings hold, attempt by attempt. With one
//! of them there are as many places as the ceiling of requests or the adaptive limit says, whichever is lower. While there
//! is room and nobody waits, a place costs a few atomic operations. At the limit a lock of the cluster is taken; it is
//! never held across an await, and nobody is woken under it.
//!
//! Where there is no queue, in which they would be first, less critical classes get a part of the places, so that there is
//! room when a more critical request comes; but only while such requests come: a cluster whose callers do not say how much
//! their requests matter has all its places.

mod limit;
mod waiting;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outrigger_config::model::{Admission as Settings, Criticality};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::limit::Limit;
use self::waiting::Turn;
use super::cluster::Cluster;
use super::state::ClusterState;
use crate::base::clock;
use crate::policy::concurrency::Sample;
use crate::policy::overload::{self, Demand};
use crate::policy::queue::{self, Patience, Queue};
use crate::policy::rng::Rng;
use crate::telemetry::ClusterMetrics;
pub use crate::telemetry::metrics::ShedCause as Cause;

/// Who asks for a place.
#[derive(Debug, Clone, Copy)]
pub struct Applicant {
    /// How much the request matters.
    pub class: Criticality,
    /// Tells callers apart.
    pub caller: u64,
    /// When the request is over.
    pub deadline: Option<Instant>,
}

/// A place among the requests of a cluster, until dropped.
#[derive(Debug)]
pub struct Place {
    cluster: Arc<ClusterState>,
    since: Instant,
}

/// There was no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    /// Why.
    pub cause: Cause,
    /// When it is worth asking again.
    pub retry_after: Duration,
}

/// The places of a cluster: part of its state, which outlives configurations.
#[derive(Debug)]
pub struct Admission {
    /// In the upper half requests that were let in (wrapping), in the lower places taken.
    places: AtomicU64,
    limit: Limit,
    /// Requests in the queue.
    waiting: AtomicU32,
    /// Requests that have a place go on under the ceiling that it was given under, whatever configuration they began with.
    /// Zero: there are no places.
    ceiling: AtomicU32,
    /// Whether there is a queue.
    queues: AtomicBool,
    /// In which second a class last asked, from 1; 0: never.
    asked: [AtomicU32; queue::CLASSES],
    epoch: u64,
    line: Mutex<Line>,
    metrics: Arc<ClusterMetrics>,
}

/// What happens at the limit, one after another.
#[derive(Debug)]
struct Line {
    queue: Queue<oneshot::Sender<Turn>>,
    patience: Patience,
    demand: Demand,
    rng: Rng,
}

/// What is shown of the places of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupation {
    /// Places taken.
    pub taken: u32,
    /// Places there are.
    pub limit: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// What an answer takes when nothing waits in the upstream, where that is known.
    pub baseline: Option<Duration>,
}

impl Cluster {
    /// A place for a request; `None` where the cluster has neither a queue nor an adaptive limit. Waits as long as the
    /// queue allows. Cancel safe: dropping the future leaves the queue, or gives the place back.
    ///
    /// # Errors
    /// [`Shed`], when there is no place in time.
    pub async fn admit(&self, applicant: Applicant, now: Instant) -> Result<Option<Place>, Shed> {
        let Settings { queue, concurrency } = &self.config().admission;
        if queue.is_none() && concurrency.is_none() {
            return Ok(None);
        }
        let state = self.state();
        match state.admission.try_take(applicant.class, now) {
            Ok(()) => Ok(Some(Place { cluster: Arc::clone(state), since: now })),
            Err(cause) => match queue {
                Some(queue) => Box::pin(waiting::wait(state, *queue, applicant, now)).await.map(Some),
                None => Err(state.admission.shed(&mut state.admission.line.lock(), (cause, applicant.class), now)),
            },
        }
    }

    /// The places now; `None` where there is neither a queue nor an adaptive limit.
    #[must_use]
    pub fn occupation(&self) -> Option<Occupation> {
        let Settings { queue, concurrency } = &self.config().admission;
        let admission = &self.state().admission;
        (queue.is_some() || concurrency.is_some()).then(|| Occupation {
            taken: admission.taken(),
            limit: admission.limit.get(),
            waiting: admission.waiting.load(Ordering::Relaxed),
            baseline: admission.limit.baseline(),
        })
    }
}

impl ClusterState {
    /// Puts the settings of a configuration into effect.
    pub(super) fn configure_admission(self: &Arc<Self>, settings: &Settings, max_requests: u32, now: Instant) {
        let admission = &self.admission;
        let is_on = settings.queue.is_some() || settings.concurrency.is_some();
        if let Some(queue) = settings.queue {
            admission.line.lock().patience = Patience::new(queue.timeout);
        }
        admission.ceiling.store(if is_on { max_requests } else { 0 }, Ordering::Relaxed);
        admission.queues.store(settings.queue.is_some(), Ordering::Relaxed);
        admission.limit.configure(settings.concurrency, max_requests);
        self.metrics.places(if is_on { admission.limit.get() } else { 0 });
        self.after_more_room(now);
    }

    /// An attempt has shown how the upstream is doing.
    pub(super) fn observe(self: &Arc<Self>, sample: Sample, now: Instant) {
        if self.admission.limit.observe(sample, now) {
            self.metrics.places(self.admission.limit.get());
            self.after_more_room(now);
        }
    }

    fn after_more_room(self: &Arc<Self>, now: Instant) {
        if self.admission.waiting.load(Ordering::SeqCst) > 0 {
            waiting::serve(&self.admission, now);
        }
    }
}

impl Place {
    /// When it was given: at once, or after a wait.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cluster.admission.give_back();
        if self.cluster.admission.waiting.load(Ordering::SeqCst) > 0 {
            waiting::serve(&self.cluster.admission, clock::now());
        }
    }
}

impl Admission {
    /// Nothing is taken, and nothing known.
    #[must_use]
    pub fn new(metrics: Arc<ClusterMetrics>, now: Instant) -> Self {
        let line = Line {
            queue: Queue::default(),
            patience: Patience::new(Duration::ZERO),
            demand: Demand::new(now),
            rng: Rng::new(RandomState::new().build_hasher().finish()),
        };
        Self {
            places: AtomicU64::new(0),
            limit: Limit::default(),
            waiting: AtomicU32::new(0),
            ceiling: AtomicU32::new(0),
            queues: AtomicBool::new(false),
            asked: Default::default(),
            epoch: clock::nanos(now),
            line: Mutex::new(line),
            metrics,
        }
    }

    /// How many attempts may be in flight, for a request whose configuration says `own`.
    pub(crate) fn ceiling(&self, own: u32) -> u32 {
        self.ceiling.load(Ordering::Relaxed).max(own)
    }

    /// Places taken, and requests in the queue.
    #[cfg(test)]
    pub(crate) fn usage(&self) -> (u32, u32) {
        (self.taken(), self.waiting.load(Ordering::SeqCst))
    }

    /// Takes a place, unless there is none or somebody waits for it.
    fn try_take(&self, class: Criticality, now: Instant) -> Result<(), Cause> {
        self.note_asked(class, now);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return Err(Cause::Limit);
        }
        self.take_room(class, now)
    }

    /// Takes a place, unless there is none.
    fn take_room(&self, class: Criticality, now: Instant) -> Result<(), Cause> {
        let room = self.room(class, now);
        let take = |places| (taken(places) < room).then(|| places.wrapping_add(LET_IN));
        match self.places.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Ok(()),
            Err(places) => {
                self.limit.was_reached();
                Err(if taken(places) < self.limit.for_critical() { Cause::Class } else { Cause::Limit })
            }
        }
    }

    fn taken(&self) -> u32 {
        taken(self.places.load(Ordering::SeqCst))
    }

    fn has_room(&self, class: Criticality, now: Instant) -> bool {
        self.taken() < self.room(class, now)
    }

    /// Places that a class may use.
    fn room(&self, class: Criticality, now: Instant) -> u32 {
        if class == Criticality::Critical {
            return self.limit.for_critical();
        }
        if self.queues.load(Ordering::Relaxed) {
            return self.limit.get();
        }
        let second = self.second(now);
        let asks = |asked: &AtomicU32| match asked.load(Ordering::Relaxed) {
            0 => false,
            last => second.saturating_sub(last) <= ASKED_LATELY,
        };
        let others = self.asked[queue::index(class) + 1..].iter().any(asks);
        overload::share(self.limit.get(), class, others)
    }

    fn note_asked(&self, class: Criticality, now: Instant) {
        let (asked, second) = (&self.asked[queue::index(class)], self.second(now));
        // Nearly always: so that the line stays shared among the workers.
        if asked.load(Ordering::Relaxed) != second {
            asked.store(second, Ordering::Relaxed);
        }
    }

    fn second(&self, now: Instant) -> u32 {
        u32::try_from(clock::nanos(now).saturating_sub(self.epoch) / 1_000_000_000)
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }

    /// The queue has changed.
    fn note_waiting(&self, line: &Line) {
        let waiting = u32::try_from(line.queue.len()).unwrap_or(u32::MAX);
        self.waiting.store(waiting, Ordering::SeqCst);
        self.metrics.waiting(waiting);
    }

    fn give_back(&self) {
        let before = self.places.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(taken(before) > 0, "more places were given back than taken");
    }

    fn shed(&self, line: &mut Line, (cause, class): (Cause, Criticality), now: Instant) -> Shed {
        self.metrics.shed(cause, class);
        let after = line.demand.refuse(line.queue.len(), (self.places.load(Ordering::Relaxed) >> 32) as u32, now);
        Shed { cause, retry_after: overload::spread(after, line.rng.next_u64()) }
    }
}

const fn taken(places: u64) -> u32 {
    places as u32
}

/// One more was let in, and has taken a place.
const LET_IN: u64 = 1 << 32 | 1;

/// Room is kept for a class that asked within so many seconds.
const ASKED_LATELY: u32 = 10;

#[cfg(test)]
mod tests;
