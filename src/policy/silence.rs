//! When a connection on which answers are awaited, and nothing comes, is asked whether it lives, doubted and given up.
//!
//! A transport over UDP has nobody between two programs who says that the way is blocked: silence is all there is.

use std::time::{Duration, Instant};

/// How silence is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// After so much of it the peer is asked for a sign of life; zero: never.
    pub ask: Duration,
    /// So long after the question new requests go another way, and those that may be repeated are; `None`: there is no
    /// other way.
    pub doubt: Option<Duration>,
    /// So long after the question the connection is dead.
    pub give_up: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing until there is a request.
    Rest,
    /// Look again then.
    Wait(Instant),
    /// Ask for a sign of life, and look again.
    Ask,
    /// Doubt it, and look again.
    Doubt,
    /// It is dead.
    GiveUp,
}

/// The silence of one connection.
#[derive(Debug)]
pub struct Silence {
    bounds: Bounds,
    heard: u64,
    phase: Phase,
    /// When the next look was to be.
    due: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nothing is awaited.
    Idle,
    /// Awaiting something since.
    Awaiting(Instant),
    Asked(Instant),
    Doubted(Instant),
}

impl Silence {
    /// Nothing is awaited yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, heard: 0, phase: Phase::Idle, due: None }
    }

    /// `heard` is another number whenever something shows that the peer hears us, `busy`: answers are awaited, `round_trip`
    /// is what the way to the peer and back takes.
    pub fn look(&mut self, heard: u64, busy: bool, round_trip: Duration, now: Instant) -> Step {
        let late = self.due.take().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if !busy || self.bounds.ask.is_zero() {
            (self.phase, self.heard) = (Phase::Idle, heard);
            return Step::Rest;
        }
        if heard != self.heard || matches!(self.phase, Phase::Idle) {
            (self.phase, self.heard) = (Phase::Awaiting(now), heard);
        } else if late >= OUR_OWN {
            // We were kept from looking, and so from reading what may have come.
            self.phase = self.phase.later(late + CATCH_UP);
        }
        // Answers to questions that are lost come after a few round trips.
        let least = round_trip * 3 + ACKNOWLEDGED;
        let until = match self.phase {
            Phase::Idle => return Step::Rest,
            Phase::Awaiting(since) if now >= since + self.bounds.ask => {
                self.phase = Phase::Asked(now);
                return Step::Ask;
            }
            Phase::Awaiting(since) => since + self.bounds.ask,
            Phase::Asked(at) => match self.bounds.doubt {
                Some(doubt) if now >= at + doubt.max(least) => {
                    self.phase = Phase::Doubted(at);
                    return Step::Doubt;
                }
                Some(doubt) => at + doubt.max(least),
                None if now >= at + self.bounds.give_up.max(least) => return Step::GiveUp,
                None => at + self.bounds.give_up.max(least),
            },
            Phase::Doubted(at) if now >= at + self.bounds.give_up.max(least) => return Step::GiveUp,
            Phase::Doubted(at) => at + self.bounds.give_up.max(least),
        };
        self.due = Some(until);
        Step::Wait(until)
    }
}

impl Phase {
    fn later(self, late: Duration) -> Self {
        match self {
            Self::Idle => Self::Idle,
            Self::Awaiting(at) => Self::Awaiting(at + late),
            Self::Asked(at) => Self::Asked(at + late),
            Self::Doubted(at) => Self::Doubted(at + late),
        }
    }
}

/// A peer may wait this long before it acknowledges something (RFC 9000 section 18.2), and a busy machine longer.
const ACKNOWLEDGED: Duration = Duration::from_millis(100);
/// A look that is this late is our own fault ...
const OUR_OWN: Duration = Duration::from_millis(20);
/// ... and what has come meanwhile is read within this time.
const CATCH_UP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { ask: millis(200), doubt: Some(millis(300)), give_up: Duration::from_secs(3) };
    const NEAR: Duration = millis(1);

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Looks whenever it is told to, until it says something else, or `most` has gone by.
    fn next(silence: &mut Silence, heard: u64, round_trip: Duration, (now, most): (&mut Instant, Duration)) -> Step {
        let end = *now + most;
        loop {
            match silence.look(heard, true, round_trip, *now) {
                Step::Wait(until) if until > end => {
                    *now = end;
                    return Step::Wait(until);
                }
                Step::Wait(until) => *now = until,
                step => return step,
            }
        }
    }

    #[test]
    fn silence_is_asked_doubted_and_given_up_within_its_bounds() {
        let begun = Instant::now();
        let mut now = begun;
        let mut silence = Silence::new(BOUNDS);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let step = next(&mut silence, 7, NEAR, (&mut now, Duration::from_secs(10)));
            seen.push((step, (now - begun).as_millis()));
        }
        assert_eq!(seen, [(Step::Ask, 200), (Step::Doubt, 500), (Step::GiveUp, 3200)]);
    }

    #[test]
    fn whatever_comes_is_a_sign_of_life() {
        let mut now = Instant::now();
        let mut silence = Silence::new(BOUNDS);
        for heard in 0..100 {
            assert!(matches!(silence.look(heard, true, NEAR, now), Step::Wait(_)));
            now += millis(190);
        }
        assert_eq!(next(&mut silence, 99, NEAR, (&mut now, millis(250))), Step::Ask);
        now += millis(10);
        assert_eq!(silence.look(100, true, NEAR, now), Step::Wait(now + BOUNDS.ask), "it answered");
    }

    #[test]
    fn a_connection_without_requests_may_be_silent() {
        let mut now = Instant::now();
        let mut silence = Silence::new(BOUNDS);
        assert_eq!(silence.look(5, false, NEAR, now), Step::Rest);
        now += Duration::from_secs(60);
        assert_eq!(silence.look(5, true, NEAR, now), Step::Wait(now + BOUNDS.ask), "counted from the request on");
        assert_eq!(silence.look(5, false, NEAR, now + Duration::from_secs(1)), Step::Rest);
    }

    #[test]
    fn a_long_way_is_given_the_time_it_takes() {
        let begun = Instant::now();
        let mut now = begun;
        let mut silence = Silence::new(BOUNDS);
        let far = millis(400);
        assert_eq!(next(&mut silence, 1, far, (&mut now, Duration::from_secs(10))), Step::Ask);
        assert_eq!(next(&mut silence, 1, far, (&mut now, Duration::from_secs(10))), Step::Doubt);
        assert_eq!(now - begun, millis(200 + 3 * 400 + 100));
    }

    #[test]
    fn time_in_which_we_did_not_look_is_not_held_against_the_peer() {
        let mut now = Instant::now();
        let mut silence = Silence::new(BOUNDS);
        assert_eq!(next(&mut silence, 1, NEAR, (&mut now, millis(250))), Step::Ask);
        let Step::Wait(until) = silence.look(1, true, NEAR, now) else { panic!("{silence:?}") };
        now = until + millis(500);
        let Step::Wait(until) = silence.look(1, true, NEAR, now) else { panic!("{silence:?}") };
        assert_eq!(until, now + CATCH_UP, "time to read what has come");
        assert_eq!(silence.look(1, true, NEAR, until), Step::Doubt);
    }

    #[test]
    fn without_another_way_there_is_no_doubt_and_without_a_question_no_end() {
        let begun = Instant::now();
        let mut now = begun;
        let mut silence = Silence::new(Bounds { doubt: None, ..BOUNDS });
        assert_eq!(next(&mut silence, 1, NEAR, (&mut now, Duration::from_secs(10))), Step::Ask);
        assert_eq!(next(&mut silence, 1, NEAR, (&mut now, Duration::from_secs(10))), Step::GiveUp);
        assert_eq!(now - begun, millis(3200));
        let mut silence = Silence::new(Bounds { ask: Duration::ZERO, ..BOUNDS });
        assert_eq!(silence.look(1, true, NEAR, now), Step::Rest);
    }
}
