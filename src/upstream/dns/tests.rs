//! Over a resolver that answers when it is told to, in simulated time.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use outrigger_config::model::DnsOptions;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Answer, BoxFuture, Clock, Names, PARALLEL, Resolve};

const OPTIONS: DnsOptions = DnsOptions { min_ttl: Duration::from_secs(2), max_ttl: Duration::from_secs(30) };

/// Where the test puts the answer to a query.
type Waiting = oneshot::Sender<Result<Answer, String>>;

/// Queries that wait for the test to answer them.
#[derive(Default)]
struct Script {
    open: Mutex<HashMap<String, Vec<Waiting>>>,
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        let (sender, receiver) = oneshot::channel();
        self.open.lock().entry(host.to_owned()).or_default().push(sender);
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err("the script ended".to_owned())) })
    }
}

impl Script {
    fn asked(&self) -> usize {
        self.open.lock().values().map(Vec::len).sum()
    }

    fn answer(&self, host: &str, last: u8, ttl: u64) {
        let answer = Answer { addresses: vec![IpAddr::from([127, 0, 0, last])], ttl: Duration::from_secs(ttl) };
        self.give(host, Ok(answer));
    }

    fn give(&self, host: &str, answer: Result<Answer, String>) {
        let asked = self.open.lock().get_mut(host).and_then(Vec::pop).expect("it was asked for");
        asked.send(answer).expect("somebody waits");
    }
}

fn poll(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn clock() -> Clock {
    Box::new(|| tokio::time::Instant::now().into_std())
}

fn want(names: &Names, hosts: &[&str]) {
    names.want(hosts.iter().map(|host| (Arc::from(*host), OPTIONS)), tokio::time::Instant::now().into_std());
}

#[tokio::test(start_paused = true)]
async fn a_slow_name_holds_up_no_other() {
    let (names, script, clock) = (Names::default(), Script::default(), clock());
    let hosts: Vec<String> = (0..PARALLEL + 4).map(|i| format!("h{i}")).collect();
    want(&names, &hosts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut fresh = pin!(names.keep_fresh(&script, &clock, Vec::new));
    assert!(poll(fresh.as_mut()).is_pending());
    assert_eq!(script.asked(), PARALLEL, "no more at once");
    // All but one of those asked are answered, and the rest follow without it.
    let asked: Vec<String> = script.open.lock().keys().cloned().collect();
    for host in &asked[1..] {
        script.answer(host, 1, 30);
    }
    assert!(poll(fresh.as_mut()).is_pending());
    for host in hosts.iter().filter(|host| !asked.contains(host)) {
        script.answer(host, 2, 30);
    }
    assert!(poll(fresh.as_mut()).is_pending());
    let known = hosts.iter().filter(|host| !names.addresses(host).is_empty()).count();
    assert_eq!(known, hosts.len() - 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_given_up_while_it_is_resolved_stays_given_up() {
    let (names, script, clock) = (Names::default(), Script::default(), clock());
    want(&names, &["old"]);
    let mut fresh = pin!(names.keep_fresh(&script, &clock, Vec::new));
    assert!(poll(fresh.as_mut()).is_pending());
    want(&names, &["new"]);
    script.answer("old", 1, 30);
    assert!(poll(fresh.as_mut()).is_pending());
    assert!(names.addresses("old").is_empty());
    assert!(!names.known.lock().contains_key("old"));
    script.answer("new", 2, 30);
    assert!(poll(fresh.as_mut()).is_pending());
    assert_eq!(names.addresses("new").len(), 1);
}

#[test]
fn times_to_live_stay_in_their_bounds_and_failures_wait_longer_each_time() {
    let names = Names::default();
    want(&names, &["a"]);
    let now = Instant::now();
    let due = |names: &Names| names.known.lock()["a"].due - now;
    let good = |ttl| Ok(Answer { addresses: vec![IpAddr::from([127, 0, 0, 1])], ttl: Duration::from_secs(ttl) });
    for (ttl, bounded) in [(0, 2), (10, 10), (86_400, 30)] {
        names.learn("a", good(ttl), now);
        assert_eq!(due(&names), Duration::from_secs(bounded));
    }
    for wait in [1, 2, 4, 8, 16, 30, 30] {
        names.learn("a", Err("no".to_owned()), now);
        assert_eq!(due(&names), Duration::from_secs(wait));
    }
    assert_eq!(names.addresses("a").len(), 1, "the last good answer stays");
    assert!(names.error("a").is_some());
    names.learn("a", Ok(Answer { addresses: Vec::new(), ttl: Duration::ZERO }), now);
    assert_eq!(names.addresses("a").len(), 1, "no address is no better answer");
}

#[tokio::test(start_paused = true)]
async fn warming_keeps_what_came_in_time_and_refreshes_nothing_that_is_not_wanted() {
    let (names, script, clock) = (Names::default(), Script::default(), clock());
    let hosts = ["fast", "slow", "fast"].map(|host| (Arc::from(host), OPTIONS));
    {
        let mut warm = pin!(names.warm(&script, hosts.into_iter(), clock(), Duration::from_secs(1)));
        assert!(poll(warm.as_mut()).is_pending());
        assert_eq!(script.asked(), 2, "each name once");
        script.answer("fast", 1, 30);
        let started = tokio::time::Instant::now();
        warm.await;
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }
    assert_eq!(names.addresses("fast").len(), 1);
    assert!(names.addresses("slow").is_empty());
    // The configuration was given up: nothing is asked for it.
    let later = Instant::now() + Duration::from_secs(3600);
    assert_eq!(names.take_due(later, |host| panic!("{host} is not wanted")), None);
    want(&names, &["fast"]);
    let mut due = Vec::new();
    names.take_due(later, |host| {
        due.push(Arc::clone(host));
        true
    });
    assert_eq!(due, [Arc::from("fast")]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_asks_once_for_what_is_due() {
    let (names, script, clock) = (Names::default(), Script::default(), clock());
    want(&names, &["a", "b"]);
    let mut refresh = pin!(names.refresh(&script, &clock, Vec::new));
    assert!(poll(refresh.as_mut()).is_pending());
    script.answer("a", 1, 0);
    assert!(poll(refresh.as_mut()).is_pending(), "it waits for all");
    script.give("b", Err("no".to_owned()));
    refresh.await;
    assert_eq!((names.addresses("a").len(), script.asked()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_never_answers_is_given_up() {
    let (names, script, clock) = (Names::default(), Script::default(), clock());
    want(&names, &["a"]);
    let fresh = names.keep_fresh(&script, &clock, Vec::new);
    let waited = tokio::time::timeout(super::QUERY_LIMIT + Duration::from_secs(1), fresh).await;
    assert!(waited.is_err(), "it goes on");
    assert!(names.error("a").is_some());
}
