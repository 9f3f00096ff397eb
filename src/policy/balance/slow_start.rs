//! How much of its share a newcomer gets.

use std::time::Duration;

use outrigger_config::model::SlowStart;

/// The part of its weight that an endpoint of this age has, of [`FULL`]: `max(min, (age / window) ^ (1 / aggression))`.
#[must_use]
pub fn ramp(age: Duration, settings: &SlowStart) -> u32 {
    let SlowStart { window, min_weight, aggression } = settings;
    if age >= *window {
        return FULL;
    }
    let passed = age.as_secs_f64() / window.as_secs_f64();
    let part = passed.powf(1.0 / aggression.max(LEAST_AGGRESSION)).max(f64::from(*min_weight) / 100.0);
    // Never nothing: a newcomer that gets no request never shows what it can do.
    ((part * f64::from(FULL)) as u32).clamp(1, FULL)
}

/// All of it.
pub const FULL: u32 = 1024;

const LEAST_AGGRESSION: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64, aggression: f64) -> u32 {
        let settings = SlowStart { window: Duration::from_secs(100), min_weight: 10, aggression };
        ramp(Duration::from_secs_f64(seconds), &settings) * 100 / FULL
    }

    #[test]
    fn it_grows_in_a_line_from_the_least_to_all() {
        assert_eq!([0.0, 5.0, 50.0, 75.0, 100.0, 1e6].map(|age| at(age, 1.0)), [9, 9, 50, 75, 100, 100]);
    }

    #[test]
    fn aggression_lets_it_grow_faster_at_first() {
        assert_eq!([25.0, 50.0].map(|age| at(age, 2.0)), [50, 70]);
        assert!(at(50.0, 0.5) == 25, "below one it grows slower");
    }

    #[test]
    fn settings_without_meaning_do_no_harm() {
        let settings = SlowStart { window: Duration::ZERO, min_weight: 0, aggression: 0.0 };
        assert_eq!(ramp(Duration::ZERO, &settings), FULL);
        assert!((1..=FULL).contains(&at(1.0, f64::NAN)));
    }
}
