use std::time::Duration;

use outrigger_config::model::RateLimit;

use super::*;
use crate::telemetry::Metrics;

fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
    Rate::of(&RateLimit { name: Arc::from("l"), by: Vec::new(), requests, per, burst, shadow: false })
}

fn state(now: Instant) -> RateState {
    RateState::new(Metrics::new().rate_limit(&Arc::from("l")), now)
}

fn key(state: &RateState, of: usize) -> Option<RateKey> {
    Some(state.key(|hasher| std::hash::Hash::hash(&of, hasher)))
}

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Admitted(_))
}

#[test]
fn each_key_has_a_rate_of_its_own() {
    let (now, one) = (Instant::now(), rate(1, Duration::from_secs(60), 1));
    let state = state(now);
    for of in [Some(1), Some(2), None] {
        let key = of.and_then(|of| key(&state, of));
        assert!(passes(state.look(key, &one, now)) && passes(state.take(key, &one, now)), "{of:?}");
        assert!(!passes(state.look(key, &one, now)) && !passes(state.take(key, &one, now)), "{of:?}");
    }
    state.give_back(key(&state, 1), &one);
    assert!(passes(state.take(key(&state, 1), &one, now)));
    assert!(!passes(state.take(key(&state, 2), &one, now)));
    assert_eq!(state.keys(), 2);
}

#[test]
fn strangers_with_new_keys_push_out_neither_the_busy_nor_the_newcomer() {
    let (now, one) = (Instant::now(), rate(10, Duration::from_secs(600), 10));
    let state = state(now);
    let busy = key(&state, usize::MAX);
    (0..10).for_each(|_| assert!(passes(state.take(busy, &one, now))));
    for stranger in 0..limits::RATE_KEYS * 2 {
        assert!(passes(state.take(key(&state, stranger), &one, now)), "the map is never a reason to refuse");
    }
    assert!(state.keys() <= limits::RATE_KEYS, "{}", state.keys());
    assert!(state.keys() > limits::RATE_KEYS / 2, "{}", state.keys());
    assert!(!passes(state.take(busy, &one, now)), "it is still at its limit");
    assert!(passes(state.take(key(&state, usize::MAX - 1), &one, now)), "a newcomer has its whole burst");
}

#[test]
fn keys_with_nothing_used_are_forgotten() {
    let (now, one) = (Instant::now(), rate(1, Duration::from_secs(1), 5));
    let state = state(now);
    (0..1000).for_each(|of| assert!(passes(state.take(key(&state, of), &one, now))));
    (0..3).for_each(|_| assert!(passes(state.take(key(&state, 7), &one, now))));
    state.sweep(now + Duration::from_millis(999));
    assert_eq!(state.keys(), 1000);
    state.sweep(now + Duration::from_secs(1));
    assert_eq!(state.keys(), 1, "of four requests three are still to be paid off");
    state.sweep(now + Duration::from_secs(4));
    assert_eq!(state.keys(), 0);
}

#[test]
fn room_is_made_first_of_what_is_lost_without_loss() {
    let (now, short, long) = (Instant::now(), rate(1, Duration::from_secs(1), 1), rate(1, Duration::from_secs(60), 1));
    let state = state(now);
    let half = limits::RATE_KEYS / 2;
    (0..half).for_each(|of| assert!(passes(state.take(key(&state, of), &short, now))));
    let later = now + Duration::from_secs(2);
    let many = half..half + limits::RATE_KEYS / 3;
    many.clone().for_each(|of| assert!(passes(state.take(key(&state, of), &long, later))));
    (many.end..many.end + half / 2).for_each(|of| assert!(passes(state.take(key(&state, of), &short, later))));
    assert!(many.clone().all(|of| !passes(state.look(key(&state, of), &long, later))));
}

#[test]
fn a_state_older_than_the_clock_does_not_go_back() {
    let now = Instant::now();
    let (state, one) = (state(now + Duration::from_secs(5)), rate(1, Duration::from_secs(1), 1));
    assert!(passes(state.take(None, &one, now)));
    assert!(!passes(state.take(None, &one, now)));
}
