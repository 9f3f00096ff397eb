//! Breakers and ceilings as picks meet them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::{self, Breaker, EndpointCeilings, LatencyTrip, Place, Setting};

use super::BreakerOrder;
use crate::policy::breaker::Force;
use crate::policy::rng::Rng;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::dns::{Answer, BoxFuture, Resolve};
use crate::upstream::permit::{Outcome, Permit};
use crate::upstream::registry::{LINGER, Registry};
use crate::upstream::{Cluster, PickError, PickHint};

struct Nobody;

impl Resolve for Nobody {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("no names here".to_owned()) })
    }
}

/// One cluster `c` whose endpoints have the ports from 1 on.
struct Bench {
    registry: Arc<Registry>,
    config: model::Config,
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    rng: Rng,
    now: Instant,
}

fn written(threshold: u32) -> Setting<u32> {
    Setting { value: threshold, place: Some(Place { file: "test".into(), line: 1, column: 1 }) }
}

impl Bench {
    fn new(endpoints: u16, change: impl FnOnce(&mut model::Cluster)) -> Self {
        let list: Vec<String> = (1..=endpoints).map(|port| format!("127.0.0.1:{port}")).collect();
        let text = format!(
            "listeners: [{{ name: l, bind: 127.0.0.1:0, routes: r }}]\n\
             routes: {{ r: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
             clusters: {{ c: {{ endpoints: [{}] }} }}\n",
            list.join(", ")
        );
        let mut config = (*outrigger_config::load("test.yaml", &text).expect("valid").config).clone();
        change(config.clusters.values_mut().next().expect("one"));
        let metrics = Metrics::new();
        let registry = Registry::new(1, Arc::clone(&metrics), Box::new(Nobody));
        let cluster = registry.cluster(config.clusters.values().next().expect("one"), None);
        let now = Instant::now();
        registry.activate(&config, &[Arc::clone(&cluster)], now);
        Self { registry, config, cluster, metrics, rng: Rng::new(1), now }
    }

    /// The same configuration once more, with a change.
    fn reload(&mut self, change: impl FnOnce(&mut model::Cluster)) {
        let config = self.config.clusters.values_mut().next().expect("one");
        change(config);
        self.cluster = self.registry.cluster(config, None);
        self.registry.activate(&self.config, &[Arc::clone(&self.cluster)], self.now);
    }

    fn pick(&mut self) -> Result<Permit, PickError> {
        self.cluster.pick(&PickHint::default(), &mut self.rng, self.now)
    }

    fn picked(&mut self) -> Permit {
        self.pick().expect("somebody is picked")
    }

    /// Requests until so many went to an endpoint; all that go there end like this.
    fn requests_to(&mut self, port: u16, count: usize, outcome: Outcome) {
        let mut met = 0;
        for _ in 0..1_000 {
            let permit = self.picked();
            if permit.member().state.address.port() == port {
                permit.report(outcome, self.now);
                met += 1;
            } else {
                permit.report(GOOD, self.now);
            }
            if met == count {
                return;
            }
        }
        panic!("{port} was picked {met} times only");
    }

    fn state_of(&self, port: u16) -> &'static str {
        let endpoints = self.cluster.endpoints();
        let member = endpoints.members().iter().find(|member| member.state.address.port() == port).expect("there");
        member.breaker_status(self.now).state
    }

    fn ports(&mut self, count: usize) -> Vec<u16> {
        let mut ports = Vec::new();
        for _ in 0..count {
            let permit = self.picked();
            permit.report(GOOD, self.now);
            ports.push(permit.member().state.address.port());
        }
        ports
    }
}

const GOOD: Outcome = Outcome::Success(Duration::from_millis(1));
const MOST: Duration = Duration::from_secs(33);

#[test]
fn an_endpoint_that_fails_is_passed_over_then_probed_by_the_next_request_and_used_again() {
    let mut bench = Bench::new(20, |_| {});
    bench.requests_to(7, 5, Outcome::Broken);
    assert_eq!(bench.state_of(7), "open");
    assert!(!bench.ports(1_000).contains(&7));
    bench.now += MOST;
    let probe = bench.picked();
    assert_eq!(probe.member().state.address.port(), 7, "it is not left to chance");
    assert_eq!(bench.state_of(7), "half_open");
    assert!(!bench.ports(1_000).contains(&7), "one probe only");
    probe.report(GOOD, bench.now);
    assert_eq!(bench.state_of(7), "closed");
    drop(probe);
    assert!(bench.ports(1_000).contains(&7));
}

#[test]
fn a_probe_whose_caller_leaves_is_followed_by_another() {
    let mut bench = Bench::new(3, |_| {});
    bench.requests_to(2, 5, Outcome::Broken);
    bench.now += MOST;
    for _ in 0..3 {
        let probe = bench.picked();
        assert_eq!(probe.member().state.address.port(), 2);
        assert!(!bench.ports(50).contains(&2));
        drop(probe);
        assert_eq!(bench.state_of(2), "half_open");
    }
    let probe = bench.picked();
    probe.unanswered(Duration::from_secs(15), bench.now);
    drop(probe);
    assert_eq!(bench.state_of(2), "half_open", "nor is our own time limit evidence");
    let probe = bench.picked();
    probe.report(Outcome::Answering(Duration::from_millis(1)), bench.now);
    assert_eq!(bench.state_of(2), "half_open", "a call that has only begun is not decided");
    probe.report(Outcome::GatewayError, bench.now);
    assert_eq!(bench.state_of(2), "open");
}

#[test]
fn a_retry_and_a_bound_request_are_not_sent_to_be_probes() {
    let mut bench = Bench::new(3, |_| {});
    bench.requests_to(2, 5, Outcome::Broken);
    bench.now += MOST;
    let other = "127.0.0.1:1".parse().expect("an address");
    let bound = PickHint { bound: Some(other), ..PickHint::default() };
    let permit = bench.cluster.pick(&bound, &mut bench.rng, bench.now).expect("somebody");
    assert!(permit.member().state.address.port() != 2 || bench.state_of(2) == "half_open");
    drop(permit);
    bench.now += Duration::from_millis(20);
    assert_eq!(bench.picked().member().state.address.port(), 2, "the next one that suits is");
}

#[test]
fn when_all_are_open_it_fails_at_once_and_says_until_when() {
    let mut bench = Bench::new(2, |cluster| cluster.breakers.endpoint.failure_threshold = written(5));
    bench.requests_to(1, 5, Outcome::Broken);
    bench.now += Duration::from_secs(10);
    (0..5).for_each(|_| bench.picked().report(Outcome::Broken, bench.now));
    let Err(PickError::Open { scope, retry_after }) = bench.pick() else { panic!("all are open") };
    assert_eq!(scope, BreakerScope::Endpoint);
    let seconds = retry_after.as_secs_f64();
    assert!((20.0..=23.0).contains(&seconds), "the first of them: {seconds}");
    assert_eq!(bench.cluster.state().in_flight.get(), 0, "nothing stays counted");
    let text = bench.metrics.encode();
    assert!(text.contains("outrigger_breaker_state{scope=\"endpoint\",cluster=\"c\",state=\"open\"} 2"), "{text}");
    assert!(text.contains("outrigger_breaker_rejected_total{scope=\"endpoint\",cluster=\"c\"} 1"), "{text}");
}

#[test]
fn the_last_endpoint_goes_on_being_asked_where_nobody_wrote_a_threshold() {
    for outcome in [Outcome::GatewayError, Outcome::Broken] {
        let mut bench = Bench::new(1, |_| {});
        (0..20).for_each(|_| bench.picked().report(outcome, bench.now));
        assert_eq!(bench.state_of(1), "open");
        bench.picked().report(Outcome::Success(Duration::from_millis(1)), bench.now);
        assert_eq!(bench.state_of(1), "closed", "it is back");
    }

    let mut bench = Bench::new(1, |cluster| cluster.breakers.endpoint.failure_threshold = written(5));
    (0..5).for_each(|_| bench.picked().report(Outcome::GatewayError, bench.now));
    assert!(matches!(bench.pick(), Err(PickError::Open { .. })), "somebody asked for it");
}

#[test]
fn where_all_endpoints_answer_badly_none_gets_the_load_of_all() {
    let mut bench = Bench::new(4, |_| {});
    for port in 1..=4 {
        bench.requests_to(port, 5, Outcome::GatewayError);
    }
    assert!((1..=4).all(|port| bench.state_of(port) == "open"));
    let mut met = [0; 4];
    for _ in 0..400 {
        let permit = bench.picked();
        permit.report(Outcome::GatewayError, bench.now);
        met[usize::from(permit.member().state.address.port()) - 1] += 1;
    }
    assert!(met.iter().all(|met| (50..=150).contains(met)), "{met:?}");
    let tried = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:4"].map(|address| address.parse().expect("an address"));
    let hint = PickHint { tried: &tried, ..PickHint::default() };
    for _ in 0..20 {
        let retry = bench.cluster.pick(&hint, &mut bench.rng, bench.now).expect("somebody");
        assert_eq!(retry.member().state.address.port(), 3, "the one that was not tried");
    }
}

#[test]
fn a_stream_that_flows_decides_the_probe_and_others_need_not_wait_for_its_end() {
    let mut bench = Bench::new(1, |cluster| cluster.breakers.endpoint.failure_threshold = written(5));
    (0..5).for_each(|_| bench.picked().report(Outcome::Broken, bench.now));
    bench.now += MOST;
    let probe = bench.picked();
    probe.report(Outcome::Answering(Duration::from_millis(1)), bench.now);
    assert_eq!(bench.state_of(1), "half_open", "its head says nothing yet");
    assert!(bench.pick().is_err());
    probe.flows(bench.now);
    assert_eq!(bench.state_of(1), "closed");
    let streams: Vec<Permit> = (0..4).map(|_| bench.picked()).collect();
    for stream in &streams {
        stream.report(Outcome::Broken, bench.now);
        stream.flows(bench.now);
    }
    bench.picked().report(Outcome::Broken, bench.now);
    assert_eq!(bench.state_of(1), "open", "that others flow makes good for no failure");
}

#[test]
fn a_time_limit_shorter_than_what_is_too_slow_does_not_make_an_endpoint_look_fast() {
    let trip = LatencyTrip {
        quantile: 50,
        above: Duration::from_millis(100),
        window: Duration::from_secs(10),
        min_requests: 20,
    };
    let mut bench = Bench::new(1, |cluster| cluster.breakers.endpoint.latency = Some(trip));
    let slow = Outcome::Success(Duration::from_millis(200));
    (0..19).for_each(|_| bench.picked().report(slow, bench.now));
    (0..40).for_each(|_| bench.picked().unanswered(Duration::from_millis(1), bench.now));
    assert_eq!(bench.state_of(1), "closed");
    bench.picked().unanswered(Duration::from_millis(101), bench.now);
    assert_eq!(bench.state_of(1), "open", "twenty were too slow, and of the others nothing is known");
}

#[test]
fn an_endpoint_that_answers_badly_is_passed_over_as_long_as_another_is_left() {
    let mut bench = Bench::new(2, |_| {});
    bench.requests_to(1, 5, Outcome::GatewayError);
    assert_eq!(bench.state_of(1), "open");
    assert!(!bench.ports(100).contains(&1));
    let tried = ["127.0.0.1:2".parse().expect("an address")];
    let hint = PickHint { tried: &tried, ..PickHint::default() };
    let retry = bench.cluster.pick(&hint, &mut bench.rng, bench.now).expect("somebody");
    assert_eq!(retry.member().state.address.port(), 2, "rather the same again than one that is given up");
}

#[test]
fn the_breaker_of_the_cluster_counts_all_endpoints() {
    let breaker = Breaker { failure_threshold: written(6), ..Breaker::default() };
    let mut bench = Bench::new(3, |cluster| cluster.breakers.cluster = Some(breaker));
    (0..6).for_each(|_| bench.picked().report(Outcome::Broken, bench.now));
    let Err(PickError::Open { scope: BreakerScope::Cluster, .. }) = bench.pick() else { panic!("it is open") };
    bench.now += MOST;
    let probe = bench.picked();
    assert!(bench.pick().is_err(), "one");
    drop(probe);
    bench.picked().report(GOOD, bench.now);
    assert_eq!(bench.cluster.breaker_status(bench.now).expect("configured").state, "closed");
}

#[test]
fn an_open_breaker_survives_reloads_and_flapping() {
    let mut bench = Bench::new(1, |cluster| cluster.breakers.endpoint.failure_threshold = written(5));
    (0..5).for_each(|_| bench.picked().report(Outcome::Broken, bench.now));
    bench.reload(|cluster| cluster.ceilings.max_requests = 7);
    assert!(bench.pick().is_err());
    let endpoints = std::mem::take(&mut bench.config.clusters.values_mut().next().expect("one").endpoints);
    bench.reload(|_| {});
    bench.now += LINGER / 4;
    bench.registry.sweep(bench.now);
    bench.reload(|cluster| cluster.endpoints = endpoints);
    assert!(matches!(bench.pick(), Err(PickError::Open { .. })));
    bench.reload(|cluster| cluster.breakers.endpoint.failure_threshold = written(0));
    assert!(bench.pick().is_ok(), "settings are those of the request");
}

#[test]
fn orders_are_obeyed_whatever_is_configured() {
    let mut bench = Bench::new(2, |_| {});
    let cluster = BreakerOrder::Cluster("c".to_owned());
    let endpoint = BreakerOrder::Endpoint("c".to_owned(), "127.0.0.1:2".parse().expect("an address"));
    let order = |bench: &Bench, order: &BreakerOrder, force| bench.registry.order_breaker(order, force, bench.now);
    assert_eq!(order(&bench, &endpoint, Force::Open).expect("there").state, "forced_open");
    assert!(!bench.ports(100).contains(&2));
    bench.now += Duration::from_secs(3_600);
    bench.reload(|_| {});
    assert!(!bench.ports(100).contains(&2));
    order(&bench, &endpoint, Force::Auto).expect("there");
    assert_eq!(bench.ports(1), [2], "it is probed");
    order(&bench, &cluster, Force::Open).expect("there");
    assert!(matches!(bench.pick(), Err(PickError::Open { scope: BreakerScope::Cluster, .. })));
    order(&bench, &cluster, Force::Auto).expect("there");
    assert!(bench.pick().is_ok());
    order(&bench, &endpoint, Force::Closed).expect("there");
    bench.requests_to(2, 50, Outcome::Broken);
    assert_eq!(bench.state_of(2), "forced_closed");
    assert!(order(&bench, &BreakerOrder::Cluster("d".to_owned()), Force::Auto).is_err());
    assert!(order(&bench, &BreakerOrder::Rule(None, "d".to_owned()), Force::Auto).is_err());
}

#[test]
fn an_endpoint_at_its_ceiling_is_passed_over_and_when_all_are_it_is_an_overflow() {
    let ceilings = EndpointCeilings { max_requests: Some(2), ..EndpointCeilings::default() };
    let mut bench = Bench::new(2, |cluster| cluster.endpoint_ceilings = ceilings);
    let held: Vec<Permit> = (0..4).map(|_| bench.picked()).collect();
    let to_first = held.iter().filter(|permit| permit.member().state.address.port() == 1).count();
    assert_eq!(to_first, 2);
    assert!(matches!(bench.pick(), Err(PickError::Overflow)));
    drop(held);
    assert!(bench.pick().is_ok());
}

#[test]
fn retries_have_a_ceiling_at_each_endpoint() {
    let ceilings = EndpointCeilings { max_retries: Some(1), ..EndpointCeilings::default() };
    let bench = Bench::new(2, |cluster| cluster.endpoint_ceilings = ceilings);
    let mut rng = Rng::new(2);
    let tried = ["127.0.0.1:9".parse().expect("an address")];
    let hint = PickHint { tried: &tried, ..PickHint::default() };
    let mut retry = || bench.cluster.pick(&hint, &mut rng, bench.now);
    let (first, second) = (retry().expect("room"), retry().expect("room"));
    assert_ne!(first.member().state.address, second.member().state.address);
    assert!(matches!(retry(), Err(PickError::Overflow)));
    let first_attempt = bench.cluster.pick(&PickHint::default(), &mut Rng::new(3), bench.now);
    assert!(first_attempt.is_ok(), "only retries");
    drop(first);
    assert!(retry().is_ok());
}

#[test]
fn an_endpoint_is_full_when_its_connections_are_and_all_are_busy() {
    let ceilings = EndpointCeilings { max_connections: Some(1), max_pending: Some(1), ..EndpointCeilings::default() };
    let mut bench = Bench::new(1, |cluster| {
        cluster.endpoint_ceilings = ceilings;
        cluster.protocol = model::ClusterProtocol::Http1;
    });
    let endpoints = bench.cluster.endpoints();
    let state = &endpoints.members()[0].state;
    state.connections.store(1, std::sync::atomic::Ordering::Relaxed);
    let held = bench.picked();
    assert!(matches!(bench.pick(), Err(PickError::Overflow)));
    drop(held);
    assert!(state.pending.try_acquire(1));
    assert!(matches!(bench.pick(), Err(PickError::Overflow)));
    state.pending.release();
    assert!(bench.pick().is_ok());
}

#[test]
fn the_breaker_of_a_rule_is_kept_across_configurations_and_then_forgotten() {
    let bench = Bench::new(1, |_| {});
    let (table, rule) = (Arc::from("r"), Arc::from("charges"));
    let settings = Breaker { failure_threshold: written(2), ..Breaker::default() };
    let mut rng = Rng::new(1);
    let get = |settings: &Breaker| bench.registry.rule_breaker((&table, &rule), settings);
    let breaker = get(&settings);
    assert!(Arc::ptr_eq(&breaker, &get(&settings)));
    (0..2).for_each(|_| breaker.enter(&mut rng, bench.now).expect("closed").report(Outcome::Broken, bench.now));
    assert!(breaker.enter(&mut rng, bench.now).is_err());
    drop(breaker);
    bench.registry.sweep(bench.now);
    let breaker = get(&Breaker { failure_threshold: written(3), ..settings.clone() });
    assert!(breaker.enter(&mut rng, bench.now).is_err(), "it is still open");
    assert_eq!(bench.registry.breakers(bench.now).last().map(|b| (b.scope, b.status.state)), Some(("rule", "open")));
    drop(breaker);
    bench.registry.sweep(bench.now);
    bench.registry.sweep(bench.now + LINGER);
    assert!(get(&settings).enter(&mut rng, bench.now).is_ok());
}

#[test]
fn what_is_known_of_an_answer_is_told_to_the_breaker_of_its_rule() {
    let mut bench = Bench::new(1, |_| {});
    let (table, rule) = (Arc::from("r"), Arc::from("charges"));
    let settings = Breaker { failure_threshold: written(1), ..Breaker::default() };
    let breaker = bench.registry.rule_breaker((&table, &rule), &settings);
    let mut rng = Rng::new(1);
    let mut answered = |bench: &mut Bench| {
        let passage = breaker.enter(&mut rng, bench.now).expect("it lets it through");
        let permit = bench.picked();
        permit.report(Outcome::Answering(Duration::from_millis(1)), bench.now);
        permit.answering(passage, bench.now)
    };
    answered(&mut bench).report(Outcome::Done, bench.now);
    answered(&mut bench).report(Outcome::GatewayError, bench.now);
    assert!(breaker.enter(&mut Rng::new(1), bench.now).is_err(), "the trailers said so");
}
