//! Places, and the queue for them, with a real cluster and simulated time.

use super::*;
use crate::telemetry::Metrics;
use crate::upstream::Registry;
use crate::upstream::dns::{Answer, BoxFuture, Resolve};
use outrigger_config::model::{AdaptiveConcurrency, Queue as QueueSettings};

struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("there are no names here".to_owned()) })
    }
}

const TIMEOUT: Duration = Duration::from_millis(100);

/// A registry and a cluster of it with so many places.
struct Town {
    registry: Arc<Registry>,
    cluster: Arc<Cluster>,
}

fn queue(max: u32) -> Settings {
    Settings { queue: Some(QueueSettings { timeout: TIMEOUT, max }), concurrency: None }
}

fn adaptive() -> Settings {
    let settings = AdaptiveConcurrency { min: 2, max: 4, ..AdaptiveConcurrency::default() };
    Settings { queue: None, concurrency: Some(settings) }
}

impl Town {
    fn new(places: u32, settings: Settings) -> Self {
        let registry = Registry::new(1, Metrics::new(), Box::new(NoNames));
        let cluster = Self::apply(&registry, places, settings);
        Self { registry, cluster }
    }

    fn apply(registry: &Arc<Registry>, places: u32, settings: Settings) -> Arc<Cluster> {
        let text = "listeners: [{ name: l, bind: 127.0.0.1:0, routes: r }]\n\
                    routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }\n\
                    clusters: { c: { endpoints: [127.0.0.1:1] } }\n";
        let loaded = outrigger_config::load("test.yaml", text).expect("valid");
        let mut config = loaded.config.clusters["c"].clone();
        config.ceilings.max_requests = places;
        config.admission = settings;
        let cluster = registry.cluster(&config, None);
        registry.activate(&loaded.config, &[Arc::clone(&cluster)], Instant::now());
        cluster
    }

    fn ask(&self, class: Criticality, caller: u64) -> tokio::task::JoinHandle<Result<Option<Place>, Shed>> {
        let cluster = Arc::clone(&self.cluster);
        let applicant = Applicant { class, caller, deadline: None };
        tokio::spawn(async move { cluster.admit(applicant, now()).await })
    }

    async fn take(&self, class: Criticality) -> Result<Place, Cause> {
        let applicant = Applicant { class, caller: 1, deadline: None };
        self.cluster
            .admit(applicant, now())
            .await
            .map(|place| place.expect("admission is on"))
            .map_err(|shed| shed.cause)
    }

    fn occupation(&self) -> (u32, u32) {
        let Occupation { taken, waiting, .. } = self.cluster.occupation().expect("admission is on");
        (taken, waiting)
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Lets every task go as far as it can.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_queue_and_limit_there_are_no_places_to_take() {
    let town = Town::new(1, Settings::default());
    let applicant = Applicant { class: Criticality::Default, caller: 1, deadline: None };
    for _ in 0..3 {
        assert!(town.cluster.admit(applicant, now()).await.expect("everybody may come").is_none());
    }
    assert!(town.cluster.occupation().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_taken_until_it_is_dropped_and_then_goes_to_who_waits() {
    let town = Town::new(1, queue(10));
    let place = town.take(Criticality::Default).await.expect("room");
    let waiting = town.ask(Criticality::Default, 1);
    settle().await;
    assert_eq!(town.occupation(), (1, 1));
    drop(place);
    let next = waiting.await.expect("no panic").expect("its turn").expect("a place");
    assert_eq!(town.occupation(), (1, 0));
    drop(next);
    assert_eq!(town.occupation(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_so() {
    let town = Town::new(1, queue(10));
    let _place = town.take(Criticality::Default).await.expect("room");
    let began = tokio::time::Instant::now();
    assert_eq!(town.take(Criticality::Default).await.expect_err("no room"), Cause::QueueTimeout);
    assert!(began.elapsed() >= TIMEOUT && began.elapsed() < TIMEOUT * 2, "{:?}", began.elapsed());
    assert_eq!(town.occupation(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_beyond_the_deadline_of_the_request() {
    let town = Town::new(1, queue(10));
    let _place = town.take(Criticality::Default).await.expect("room");
    let deadline = now() + TIMEOUT / 4;
    let applicant = Applicant { class: Criticality::Default, caller: 1, deadline: Some(deadline) };
    let shed = town.cluster.admit(applicant, now()).await.expect_err("no room");
    assert_eq!(shed.cause, Cause::Deadline);
    assert!(now() < deadline + TIMEOUT / 8);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_leaves_the_queue_at_once() {
    let town = Town::new(1, queue(10));
    let place = town.take(Criticality::Default).await.expect("room");
    let leaving = town.ask(Criticality::Default, 1);
    let staying = town.ask(Criticality::Default, 2);
    settle().await;
    leaving.abort();
    settle().await;
    assert_eq!(town.occupation(), (1, 1));
    drop(place);
    assert!(staying.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_when_its_turn_has_come_gives_the_place_to_the_next() {
    let town = Town::new(1, queue(10));
    let place = town.take(Criticality::Default).await.expect("room");
    let leaving = town.ask(Criticality::Default, 1);
    let staying = town.ask(Criticality::Default, 2);
    settle().await;
    // Its turn comes, and it is gone before it can hear of it.
    drop(place);
    leaving.abort();
    let next = staying.await.expect("no panic").expect("its turn");
    drop(next);
    assert_eq!(town.occupation(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_pushes_out_for_who_matters_more() {
    let town = Town::new(1, queue(1));
    let place = town.take(Criticality::Critical).await.expect("room");
    let lower = town.ask(Criticality::Sheddable, 1);
    settle().await;
    assert_eq!(town.take(Criticality::Sheddable).await.expect_err("full"), Cause::QueueFull);
    let higher = town.ask(Criticality::Critical, 2);
    settle().await;
    assert_eq!(lower.await.expect("no panic").expect_err("pushed out").cause, Cause::QueueFull);
    drop(place);
    assert!(higher.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn lower_classes_leave_room_while_higher_ones_ask() {
    let concurrency = AdaptiveConcurrency { min: 10, max: 10, ..AdaptiveConcurrency::default() };
    let town = Town::new(1024, Settings { queue: None, concurrency: Some(concurrency) });
    let alone: Vec<Place> = futures_places(&town, Criticality::Sheddable, 10).await;
    assert_eq!(alone.len(), 10, "nobody else asks");
    drop(alone);
    drop(town.take(Criticality::Critical).await.expect("room"));
    let sheddable = futures_places(&town, Criticality::Sheddable, 10).await;
    assert_eq!(sheddable.len(), 6);
    let default = futures_places(&town, Criticality::Default, 10).await;
    assert_eq!(default.len(), 1, "75 % of ten places");
    let critical = futures_places(&town, Criticality::Critical, 10).await;
    assert_eq!(critical.len(), 3);
}

async fn futures_places(town: &Town, class: Criticality, count: usize) -> Vec<Place> {
    let mut places = Vec::new();
    for _ in 0..count {
        places.extend(town.take(class).await.ok());
    }
    places
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_refuses_at_once_and_says_when_to_come_back() {
    let town = Town::new(1024, adaptive());
    let places = futures_places(&town, Criticality::Default, 4).await;
    assert_eq!(places.len(), 4, "it begins at its most");
    let applicant = Applicant { class: Criticality::Default, caller: 1, deadline: None };
    let shed = town.cluster.admit(applicant, now()).await.expect_err("no room");
    assert_eq!(shed.cause, Cause::Limit);
    assert!(shed.retry_after >= Duration::from_millis(500), "{shed:?}");
}

#[tokio::test(start_paused = true)]
async fn more_places_in_a_new_configuration_go_to_those_who_wait() {
    let town = Town::new(1, queue(10));
    let _place = town.take(Criticality::Default).await.expect("room");
    let waiting = town.ask(Criticality::Default, 1);
    settle().await;
    let _next = Town::apply(&town.registry, 2, queue(10));
    assert!(waiting.await.expect("no panic").is_ok());
}

/// Several threads take and give back as fast as they can: no place is lost, none is given twice, and nobody who waits is
/// forgotten.
#[test]
fn threads_that_contend_lose_no_place_and_forget_nobody() {
    let town = Arc::new(Town::new(2, queue(64)));
    let threads: Vec<_> = (0..4_u64)
        .map(|caller| {
            let town = Arc::clone(&town);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(work(Arc::clone(&town), caller))).collect();
                    let mut served = 0;
                    for task in tasks {
                        served += task.await.expect("no panic");
                    }
                    served
                })
            })
        })
        .collect();
    let served: u32 = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    assert!(served > 1000, "{served}");
    assert_eq!(town.occupation(), (0, 0));
}

async fn work(town: Arc<Town>, caller: u64) -> u32 {
    let mut served = 0;
    for _ in 0..500 {
        let applicant = Applicant { class: Criticality::Default, caller, deadline: None };
        if let Ok(place) = town.cluster.admit(applicant, Instant::now()).await {
            assert!(town.occupation().0 <= 2 + 4, "few more than there are, for a moment");
            tokio::task::yield_now().await;
            drop(place);
            served += 1;
        }
    }
    served
}
