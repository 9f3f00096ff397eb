//! Counts refusals by address, so that nobody tries proofs as fast as they like.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::limits;

/// A bucket of refusals for each address: it fills with them and empties with time.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<HashMap<IpAddr, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    refusals: u32,
    /// Up to when what has emptied was counted.
    at: SystemTime,
}

impl Limiter {
    /// `Err` with how long to wait when an address has been refused too often.
    pub(super) fn check(&self, address: IpAddr, now: SystemTime) -> Result<(), Duration> {
        let mut buckets = self.0.lock();
        let Some(bucket) = buckets.get_mut(&network(address)) else { return Ok(()) };
        bucket.empty(now);
        if bucket.refusals < limits::REFUSALS {
            return Ok(());
        }
        let since = now.duration_since(bucket.at).unwrap_or_default();
        Err(limits::REFUSAL_EVERY.saturating_sub(since))
    }

    /// Counts a refusal.
    pub(super) fn count(&self, address: IpAddr, now: SystemTime) {
        let address = network(address);
        let mut buckets = self.0.lock();
        if buckets.len() >= limits::REFUSED_ADDRESSES && !buckets.contains_key(&address) {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                buckets.remove(&oldest);
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { refusals: 0, at: now });
        bucket.empty(now);
        bucket.refusals = bucket.refusals.saturating_add(1).min(limits::REFUSALS);
    }
}

impl Bucket {
    fn empty(&mut self, now: SystemTime) {
        // A clock that was set back must not lock anybody out for long.
        let since = now.duration_since(self.at).unwrap_or(Duration::MAX);
        let emptied = u32::try_from(since.as_secs() / limits::REFUSAL_EVERY.as_secs()).unwrap_or(u32::MAX);
        self.refusals = self.refusals.saturating_sub(emptied);
        self.at = if self.refusals == 0 { now } else { self.at + limits::REFUSAL_EVERY * emptied };
    }
}

/// One host often has a whole /64 of IPv6 addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    #[test]
    fn who_is_refused_too_often_has_to_wait_and_others_do_not() {
        let limiter = Limiter::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..limits::REFUSALS {
            assert_eq!(limiter.check(one, at(0)), Ok(()));
            limiter.count(one, at(0));
        }
        assert_eq!(limiter.check(one, at(0)), Err(limits::REFUSAL_EVERY));
        assert_eq!(limiter.check(other, at(0)), Ok(()));
        assert_eq!(limiter.check(one, at(5)), Err(Duration::from_secs(1)));
        assert_eq!(limiter.check(one, at(6)), Ok(()), "one more after a while");
        limiter.count(one, at(6));
        assert!(limiter.check(one, at(7)).is_err());
        assert_eq!(limiter.check(one, at(10_000)), Ok(()));
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let limiter = Limiter::default();
        let one = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..limits::REFUSALS {
            limiter.count(one, at(1000));
        }
        assert_eq!(limiter.check(one, at(0)), Ok(()));
    }

    #[test]
    fn addresses_of_one_host_count_together_and_their_number_is_bounded() {
        let limiter = Limiter::default();
        for low in 0..u16::try_from(limits::REFUSALS).expect("small") {
            limiter.count(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, low]), at(0));
        }
        assert!(limiter.check(IpAddr::from([0x2001, 0xdb8, 0, 1, 9, 9, 9, 9]), at(0)).is_err());
        assert!(limiter.check(IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]), at(0)).is_ok());
        for n in 0..u32::try_from(2 * limits::REFUSED_ADDRESSES).expect("small") {
            limiter.count(IpAddr::from(n.to_be_bytes()), at(u64::from(n)));
        }
        assert_eq!(limiter.0.lock().len(), limits::REFUSED_ADDRESSES);
    }
}
