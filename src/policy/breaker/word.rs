//! A [`Machine`] in 64 bits, so that all workers can share it without a lock.

use super::{Force, Machine, State};

/// From the lowest bit: state (3), force (2), row (4), generation (16), milliseconds (38: eight years).
pub(super) fn pack(machine: Machine) -> u64 {
    let Machine { state, force, generation, row } = machine;
    let (kind, millis) = match state {
        State::Closed => (CLOSED, 0),
        State::Ramp { since } => (RAMP, since),
        State::Open { until } => (OPEN, until),
        State::HalfOpen { probe: None } => (FREE, 0),
        State::HalfOpen { probe: Some(since) } => (PROBING, since),
    };
    let force = match force {
        Force::Auto => AUTO,
        Force::Open => FORCED_OPEN,
        Force::Closed => FORCED_CLOSED,
    };
    kind | force << 3 | u64::from(row & 0xF) << 5 | u64::from(generation) << 9 | millis.min(MOST_MILLIS) << 25
}

pub(super) fn unpack(word: u64) -> Machine {
    let millis = word >> 25 & MOST_MILLIS;
    let state = match word & 0b111 {
        RAMP => State::Ramp { since: millis },
        OPEN => State::Open { until: millis },
        FREE => State::HalfOpen { probe: None },
        PROBING => State::HalfOpen { probe: Some(millis) },
        _ => State::Closed,
    };
    let force = match word >> 3 & 0b11 {
        FORCED_OPEN => Force::Open,
        FORCED_CLOSED => Force::Closed,
        _ => Force::Auto,
    };
    Machine { state, force, generation: generation(word), row: (word >> 5 & 0xF) as u8 }
}

/// Closed, and nobody ordered anything: the case that must cost nothing.
pub(super) fn is_plainly_closed(word: u64) -> bool {
    word & 0b1_1111 == CLOSED | AUTO << 3
}

pub(super) fn generation(word: u64) -> u16 {
    (word >> 9 & 0xFFFF) as u16
}

const CLOSED: u64 = 0;
const RAMP: u64 = 1;
const OPEN: u64 = 2;
const FREE: u64 = 3;
const PROBING: u64 = 4;
const AUTO: u64 = 0;
const FORCED_OPEN: u64 = 1;
const FORCED_CLOSED: u64 = 2;
const MOST_MILLIS: u64 = (1 << 38) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine() -> impl Strategy<Value = Machine> {
        let state = prop_oneof![
            Just(State::Closed),
            (0..=MOST_MILLIS).prop_map(|since| State::Ramp { since }),
            (0..=MOST_MILLIS).prop_map(|until| State::Open { until }),
            proptest::option::of(0..=MOST_MILLIS).prop_map(|probe| State::HalfOpen { probe }),
        ];
        let force = prop_oneof![Just(Force::Auto), Just(Force::Open), Just(Force::Closed)];
        (state, force, any::<u16>(), 0..16_u8).prop_map(|(state, force, generation, row)| Machine {
            state,
            force,
            generation,
            row,
        })
    }

    proptest! {
        #[test]
        fn a_machine_comes_back_as_it_was(machine in machine()) {
            let word = pack(machine);
            prop_assert_eq!(unpack(word), machine);
            let plain = machine.state == State::Closed && machine.force == Force::Auto;
            prop_assert_eq!(is_plainly_closed(word), plain);
            prop_assert_eq!(generation(word), machine.generation);
        }
    }
}
