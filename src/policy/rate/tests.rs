use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn limit(requests: u32, per: Duration, burst: u32) -> RateLimit {
    RateLimit { name: Arc::from("l"), by: Vec::new(), requests, per, burst, shadow: false }
}

fn rate(requests: u32, per_millis: u64, burst: u32) -> Rate {
    Rate::of(&limit(requests, Duration::from_millis(per_millis), burst))
}

fn passes(bucket: &Bucket, rate: &Rate, now: u64) -> bool {
    matches!(bucket.take(rate, now), Verdict::Admitted(_))
}

#[test]
fn a_burst_passes_at_once_and_then_one_at_a_time() {
    let (bucket, rate) = (Bucket::default(), rate(10, 1000, 3));
    let now = 7 * SECOND;
    for left in [2, 1, 0] {
        let Verdict::Admitted(standing) = bucket.take(&rate, now) else { panic!("the burst has room") };
        assert_eq!(standing.remaining, left);
        assert_eq!(standing.full_after, Duration::from_millis(100) * (3 - left));
    }
    let refused = Verdict::Refused {
        after: Duration::from_millis(100),
        standing: Standing { remaining: 0, full_after: Duration::from_millis(300) },
    };
    assert_eq!(bucket.take(&rate, now), refused);
    assert_eq!(bucket.look(&rate, now), refused);
    let next = now + SECOND / 10;
    assert!(!passes(&bucket, &rate, next - 1));
    assert!(passes(&bucket, &rate, next));
    assert!(!passes(&bucket, &rate, next));
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let (bucket, rate) = (Bucket::default(), rate(1, 60_000, 1));
    assert!(passes(&bucket, &rate, 5));
    assert!(!passes(&bucket, &rate, 6));
    bucket.give_back(&rate);
    assert!(passes(&bucket, &rate, 6));
}

#[test]
fn a_change_of_the_rate_keeps_the_level_and_clamps_it() {
    let bucket = Bucket::default();
    let slow = rate(1, 60_000, 10);
    (0..10).for_each(|_| assert!(passes(&bucket, &slow, 0)));
    // Ten minutes are owed: under the new rate it is the second that the new burst takes.
    let fast = rate(10, 1000, 10);
    let Verdict::Refused { after, standing } = bucket.look(&fast, 0) else { panic!("nothing is left") };
    assert_eq!((after, standing.full_after), (Duration::from_millis(100), Duration::from_secs(1)));

    let bucket = Bucket::default();
    (0..5).for_each(|_| assert!(passes(&bucket, &fast, 0)));
    let smaller = rate(10, 1000, 6);
    let Verdict::Admitted(standing) = bucket.take(&smaller, 0) else { panic!("one is left") };
    assert_eq!(standing.remaining, 0, "what was used counts against the smaller burst");
}

#[test]
fn the_extremes_neither_overflow_nor_divide_by_zero() {
    for (requests, per, burst) in [
        (u32::MAX, Duration::from_nanos(1), u32::MAX),
        (1, Duration::MAX, u32::MAX),
        (0, Duration::ZERO, 0),
        (1, Duration::from_secs(86_400), 1),
    ] {
        let rate = Rate::of(&limit(requests, per, burst));
        let bucket = Bucket::default();
        for now in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            bucket.look(&rate, now);
            bucket.take(&rate, now);
        }
    }
}

#[test]
fn a_rate_that_does_not_come_out_even_is_never_exceeded() {
    let rate = rate(3, 1000, 1);
    let bucket = Bucket::default();
    let admitted = (0..SECOND * 10).step_by(1_000_000).filter(|&now| passes(&bucket, &rate, now)).count();
    assert!((29..=30).contains(&admitted), "{admitted}");
}

#[test]
fn workers_share_one_rate() {
    let rate = rate(1, 1000, 1000);
    let bucket = Bucket::default();
    let admitted = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mine = (0..1000).filter(|_| passes(&bucket, &rate, 0)).count();
                admitted.fetch_add(mine as u32, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(admitted.into_inner(), 1000);
}

/// The same rule kept the long way: every request that passed with the moment at which what it took is back again.
struct Model {
    interval: u64,
    burst: usize,
    /// When each of the requests under way is paid off, one after the other.
    owed: VecDeque<u64>,
}

impl Model {
    fn take(&mut self, now: u64) -> bool {
        while self.owed.front().is_some_and(|&paid| paid <= now) {
            self.owed.pop_front();
        }
        // The oldest may be partly paid off; what is left of it counts, so there is room for whole requests only.
        if self.owed.len() >= self.burst {
            return false;
        }
        let last = self.owed.back().copied().unwrap_or(now);
        self.owed.push_back(last + self.interval);
        true
    }
}

proptest! {
    #[test]
    fn it_decides_as_the_long_way_does(
        requests in 1..50_u32,
        per in 1..5_000_u64,
        burst in 1..20_u32,
        steps in prop::collection::vec(prop_oneof![Just(0), 0..200_u64, 0..20_000_u64], 1..300),
    ) {
        let rate = rate(requests, per, burst);
        let bucket = Bucket::default();
        let mut model = Model { interval: rate.interval, burst: burst as usize, owed: VecDeque::new() };
        let mut now = SECOND;
        for step in steps {
            now += step * 100_000;
            prop_assert_eq!(passes(&bucket, &rate, now), model.take(now));
        }
    }

    #[test]
    fn no_window_ever_sees_more_than_the_burst_and_the_rate(
        requests in 1..50_u32,
        per in 1..5_000_u64,
        burst in 1..20_u32,
        steps in prop::collection::vec(prop_oneof![Just(0), 0..200_u64, 0..20_000_u64], 1..200),
    ) {
        let rate = rate(requests, per, burst);
        let bucket = Bucket::default();
        let mut now = 0;
        let mut admitted = Vec::new();
        for step in steps {
            now += step * 100_000;
            if passes(&bucket, &rate, now) {
                admitted.push(now);
            }
        }
        for (i, from) in admitted.iter().enumerate() {
            for (j, to) in admitted.iter().enumerate().skip(i) {
                let allowed = f64::from(burst) + f64::from(requests) * ((to - from) as f64 / (per as f64 * 1e6));
                prop_assert!((j - i + 1) as f64 <= allowed + 1e-9);
            }
        }
    }

    #[test]
    fn whoever_waits_as_long_as_was_said_passes(
        requests in 1..50_u32,
        per in 1..5_000_u64,
        burst in 1..20_u32,
        steps in prop::collection::vec(0..200_u64, 1..100),
    ) {
        let rate = rate(requests, per, burst);
        let bucket = Bucket::default();
        let mut now = 0;
        for step in steps {
            now += step * 1_000;
            if let Verdict::Refused { after, standing } = bucket.take(&rate, now) {
                prop_assert_eq!(standing.remaining, 0);
                let later = now + after.as_nanos() as u64;
                let passes = |now| matches!(bucket.look(&rate, now), Verdict::Admitted(_));
                prop_assert!(!passes(later - 1) && passes(later));
            }
        }
    }
}
