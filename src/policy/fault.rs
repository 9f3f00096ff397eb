//! Which faults a request gets. An experiment that is forgotten ends by itself: after its time nothing is injected.

use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderMap};
use outrigger_config::model::{Abort, Fault, HeaderMatch, Share};

use super::rng::Rng;
use super::route::{lines_hold, value_holds};

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injection {
    /// It is held up first.
    pub delay: Option<Duration>,
    /// Then it is answered.
    pub abort: Option<Abort>,
}

impl Injection {
    /// Nothing is done.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }
}

/// Draws lots for a request; `host` without port. A delay and an abort are drawn apart.
pub fn inject(fault: &Fault, (headers, host): (&HeaderMap, &str), now: SystemTime, random: &mut Rng) -> Injection {
    let Fault { headers: conditions, delay, abort, until } = fault;
    if now >= *until || !conditions.iter().all(|condition| holds(condition, headers, host)) {
        return Injection::default();
    }
    Injection {
        delay: delay.as_ref().filter(|delay| falls_into(delay.share, random)).map(|delay| delay.by),
        abort: abort.as_ref().filter(|abort| falls_into(abort.share, random)).map(|abort| abort.with),
    }
}

/// Whether one of many falls into a share of them.
pub fn falls_into(share: Share, random: &mut Rng) -> bool {
    random.below(u64::from(WHOLE)) < u64::from(share.0)
}

fn holds(condition: &HeaderMatch, headers: &HeaderMap, host: &str) -> bool {
    if condition.name == HOST {
        return value_holds(&condition.value, (!host.is_empty()).then_some(host.as_bytes()));
    }
    lines_hold(condition, headers)
}

/// A share of all.
const WHOLE: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::model::{FaultAbort, FaultDelay, ValueMatch};

    fn fault(delay: u32, abort: u32) -> Fault {
        Fault {
            headers: Vec::new(),
            delay: Some(FaultDelay { share: Share(delay), by: Duration::from_millis(5) }),
            abort: Some(FaultAbort { share: Share(abort), with: Abort::Grpc(14) }),
            until: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn draw(fault: &Fault, headers: &HeaderMap, second: u64, random: &mut Rng) -> (bool, bool) {
        let Injection { delay, abort } = inject(fault, (headers, "a.example"), at(second), random);
        (delay.is_some(), abort.is_some())
    }

    #[test]
    fn shares_are_met_and_drawn_apart() {
        let (fault, mut random, none) = (fault(100_000, 500_000), Rng::new(1), HeaderMap::new());
        let mut counts = [0_u32; 3];
        for _ in 0..100_000 {
            let (delayed, aborted) = draw(&fault, &none, 1, &mut random);
            for (count, hit) in counts.iter_mut().zip([delayed, aborted, delayed && aborted]) {
                *count += u32::from(hit);
            }
        }
        for (count, expected) in counts.into_iter().zip([10_000_u32, 50_000, 5_000]) {
            assert!(count.abs_diff(expected) < 1_000, "{counts:?}");
        }
    }

    #[test]
    fn nothing_and_all_are_exact() {
        let mut random = Rng::new(2);
        let none = HeaderMap::new();
        assert!((0..10_000).all(|_| draw(&fault(0, WHOLE), &none, 1, &mut random) == (false, true)));
        assert!((0..10_000).all(|_| draw(&fault(WHOLE, 0), &none, 1, &mut random) == (true, false)));
    }

    #[test]
    fn an_experiment_ends_by_itself() {
        let (fault, mut random, none) = (fault(WHOLE, WHOLE), Rng::new(3), HeaderMap::new());
        assert_eq!(draw(&fault, &none, 99, &mut random), (true, true));
        assert_eq!(draw(&fault, &none, 100, &mut random), (false, false));
    }

    #[test]
    fn only_requests_with_all_of_its_headers_are_meant() {
        let condition = |name: &str, value: &str| HeaderMatch {
            name: name.parse().expect("a name"),
            value: ValueMatch::Exact(value.into()),
        };
        let mut fault = fault(WHOLE, 0);
        fault.headers = vec![condition("x-canary", "1,2"), condition("host", "a.example")];
        let mut random = Rng::new(4);
        let mut headers = HeaderMap::new();
        assert_eq!(draw(&fault, &headers, 1, &mut random), (false, false));
        headers.append("x-canary", "1".parse().expect("a value"));
        headers.append("x-canary", "2".parse().expect("a value"));
        assert_eq!(draw(&fault, &headers, 1, &mut random), (true, false));
        fault.headers[1] = condition("host", "b.example");
        assert_eq!(draw(&fault, &headers, 1, &mut random), (false, false));
    }
}
