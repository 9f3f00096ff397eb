//! What is given up first when there is too much: parts of a limit by class, when the refused should come back, and what
//! the process does as its memory runs short.

use std::time::{Duration, Instant};

use outrigger_config::model::{Criticality, Overload};

use crate::base::pressure::Level;

/// Of a limit, found so that a backend at three times its capacity loses less than one in a hundred critical requests
/// (`tests/it/overload/capacity.rs`): what requests of the lowest class may use while more critical ones come in too, in percent.
const SHEDDABLE: u64 = 60;
/// The same of the class in the middle while critical ones come in.
const DEFAULT: u64 = 75;

/// How many of `limit` places requests of a class may use. `others`: more critical requests come in as well, and need
/// room to be there when they come. Without them a class has all places.
#[must_use]
pub fn share(limit: u32, class: Criticality, others: bool) -> u32 {
    let percent = match class {
        Criticality::Sheddable if others => SHEDDABLE,
        Criticality::Default if others => DEFAULT,
        Criticality::Sheddable | Criticality::Default | Criticality::Critical => return limit,
    };
    // At most `limit`, so it fits.
    ((u64::from(limit) * percent / 100) as u32).max(1)
}

/// How much more is asked for than there is: what `Retry-After` is sized by.
#[derive(Debug)]
pub struct Demand {
    since: Instant,
    admitted_before: u32,
    refused: u64,
    /// Asked for to let in, of the second before.
    times: f64,
    /// Let in a second.
    rate: f64,
}

impl Demand {
    /// Nothing was asked for yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, admitted_before: 0, refused: 0, times: 1.0, rate: 0.0 }
    }

    /// A request is refused, of which `waiting` others are in a queue and `admitted` were let in since the beginning
    /// (wrapping).
    /// When it is worth asking again: if all who were refused came back within this time, there would be room for them.
    pub fn refuse(&mut self, waiting: usize, admitted: u32, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= SECOND {
            let let_in = f64::from(admitted.wrapping_sub(self.admitted_before));
            self.times = 1.0 + self.refused as f64 / let_in.max(1.0);
            self.rate = let_in / elapsed.as_secs_f64();
            (self.since, self.admitted_before, self.refused) = (now, admitted, 0);
        }
        self.refused += 1;
        let queue = waiting as f64 / self.rate.max(1.0);
        Duration::from_secs_f64((self.times + queue).min(RETRY_AFTER_MOST))
    }
}

/// A time to come back after, spread from half of it to two and a half times as much, so that those who were refused
/// together do not come back together. Wide, because `Retry-After` is in whole seconds.
#[must_use]
pub fn spread(after: Duration, random: u64) -> Duration {
    // 53 bits are what fits.
    after.mul_f64(0.5 + 2.0 * (random >> 11) as f64 / (1_u64 << 53) as f64)
}

/// What is done about memory, of which `used` out of `limit` bytes are used. A level ends only when some less is used than
/// it began at, so that it does not come and go with every request.
#[must_use]
pub fn level(now: Level, used: u64, limit: u64, settings: &Overload) -> Level {
    let Overload { memory_limit: _, shrink_at, refuse_at, stop_accepting_at, max_connections: _ } = *settings;
    let reaches = |percent: u8| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
    let begins_at = [(Level::StopAccepting, stop_accepting_at), (Level::Refuse, refuse_at), (Level::Shrink, shrink_at)];
    let holds = |(level, percent): &(Level, u8)| {
        reaches(if *level <= now { percent - HYSTERESIS.min(percent / 2) } else { *percent })
    };
    begins_at.into_iter().find(holds).map_or(Level::None, |(level, _)| level)
}

/// A level ends this many percent below where it begins, or at half of that: never at nothing, which nobody gets below.
const HYSTERESIS: u8 = 5;
const SECOND: Duration = Duration::from_secs(1);
/// Whoever comes back later than this has given up.
const RETRY_AFTER_MOST: f64 = 30.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_classes_leave_room_and_only_for_others() {
        for (class, others, places) in [
            (Criticality::Critical, true, 100),
            (Criticality::Default, true, 75),
            (Criticality::Sheddable, true, 60),
            (Criticality::Default, false, 100),
            (Criticality::Sheddable, false, 100),
        ] {
            assert_eq!(share(100, class, others), places, "{class:?}");
        }
        assert_eq!(share(3, Criticality::Default, true), 2, "one is left");
        assert_eq!(share(1, Criticality::Sheddable, true), 1, "nobody is shut out for ever");
        assert_eq!(share(u32::MAX, Criticality::Critical, true), u32::MAX);
    }

    #[test]
    fn the_more_is_refused_the_later_one_should_come_back() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        assert_eq!(demand.refuse(0, 0, start), SECOND);
        for _ in 0..199 {
            let _ = demand.refuse(0, 50, start);
        }
        let later = start + SECOND;
        assert_eq!(demand.refuse(0, 100, later), SECOND * 3, "three times as much was asked for as was let in");
        assert_eq!(demand.refuse(200, 100, later), SECOND * 5, "those who wait go first");
        assert_eq!(demand.refuse(1_000_000, 100, later), Duration::from_secs(30));
    }

    #[test]
    fn a_level_begins_where_it_is_set_and_ends_five_percent_below() {
        let settings = Overload::default();
        let mut now = Level::None;
        let mut steps = Vec::new();
        for used in [79, 80, 90, 95, 91, 89, 86, 84, 76, 74, 100, 0] {
            now = level(now, used, 100, &settings);
            steps.push((used, now));
        }
        let (none, shrink, refuse, stop) = (Level::None, Level::Shrink, Level::Refuse, Level::StopAccepting);
        let expected = [
            (79, none),
            (80, shrink),
            (90, refuse),
            (95, stop),
            (91, stop),
            (89, refuse),
            (86, refuse),
            (84, shrink),
            (76, shrink),
            (74, none),
            (100, stop),
            (0, none),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn the_lowest_level_ends_too() {
        for percent in 1..10 {
            let settings =
                Overload { shrink_at: percent, refuse_at: percent, stop_accepting_at: percent, ..Overload::default() };
            assert_eq!(level(Level::None, percent.into(), 100, &settings), Level::StopAccepting, "{percent}");
            assert_eq!(level(Level::StopAccepting, 0, 100, &settings), Level::None, "{percent}");
        }
    }

    #[test]
    fn times_to_come_back_after_are_spread_over_whole_seconds() {
        assert_eq!(spread(SECOND, 0), SECOND / 2);
        assert!(spread(SECOND, u64::MAX) > Duration::from_millis(2499));
        assert_eq!(spread(SECOND, u64::MAX / 2 + 1), SECOND * 3 / 2);
    }
}
