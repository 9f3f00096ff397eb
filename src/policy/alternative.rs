//! Whether an endpoint is reached over HTTP/3: what it advertised (RFC 7838), and how that went.
//!
//! An endpoint of which nothing is known is asked over TCP. One that advertises HTTP/3 is tried over QUIC beside the
//! traffic, and used so when a connection was made. When QUIC fails there it is left alone for a while, twice as long each
//! time; then one connection is tried before others are. A connection that was good for as long as the last pause is a new
//! start.

mod field;

use std::time::{Duration, Instant};

use super::rng::scale;

pub use field::{LONGEST, Said, parse};

/// What is known of HTTP/3 at an endpoint.
#[derive(Debug, Clone, Default)]
pub struct Alternative {
    advertised: Option<Advertised>,
    trouble: Option<Trouble>,
    generation: u32,
}

#[derive(Debug, Clone, Copy)]
struct Advertised {
    port: u16,
    until: Instant,
}

/// It failed.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    /// For the how many-th time in a row, beginning with 0.
    streak: u8,
    pause: Duration,
    until: Instant,
    trial: Trial,
}

/// The first connection after a failure.
#[derive(Debug, Clone, Copy)]
enum Trial {
    Due,
    Begun(Instant),
    /// It was made.
    Passed(Instant),
}

/// How things stand, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is advertised.
    Unknown,
    /// It may be used at this port until then.
    Advertised {
        /// The UDP port.
        port: u16,
        /// When the advertisement ends.
        until: Instant,
    },
    /// It failed, and is not tried before then.
    Broken {
        /// When it may be tried again.
        until: Instant,
    },
}

impl Alternative {
    /// An answer said this.
    pub fn learn(&mut self, said: Said, now: Instant) {
        self.advertised = match said {
            Said::Http3 { port, max_age } => Some(Advertised { port, until: now + max_age.min(LONGEST) }),
            Said::Nothing => None,
        };
    }

    /// Which connections are in use: those of an older generation are not, because QUIC failed since.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Until when connections may be used; `None`: not now.
    #[must_use]
    pub fn usable_until(&self, now: Instant) -> Option<Instant> {
        self.advertised.map(|advertised| advertised.until).filter(|until| now < *until)
    }

    /// From when on a connection may be tried; `None`: nobody knows.
    #[must_use]
    pub fn triable_from(&self) -> Option<Instant> {
        self.advertised?;
        self.trouble.map(|trouble| match trouble.trial {
            Trial::Due | Trial::Passed(_) => trouble.until,
            Trial::Begun(at) => trouble.until.max(at + TRIAL),
        })
    }

    /// A connection is about to be tried, at this port. After a failure one is tried at a time.
    pub fn begin(&mut self, now: Instant) -> Option<u16> {
        let Advertised { port, until } = self.advertised?;
        if now >= until {
            return None;
        }
        if let Some(trouble) = &mut self.trouble {
            match trouble.trial {
                _ if now < trouble.until => return None,
                Trial::Begun(at) if now < at + TRIAL => return None,
                Trial::Due | Trial::Begun(_) => trouble.trial = Trial::Begun(now),
                Trial::Passed(_) => {}
            }
        }
        Some(port)
    }

    /// A connection of this generation was made. Whether it may be used.
    pub fn made(&mut self, generation: u32, now: Instant) -> bool {
        if generation != self.generation {
            return false;
        }
        if let Some(trouble) = &mut self.trouble
            && !matches!(trouble.trial, Trial::Passed(_))
        {
            trouble.trial = Trial::Passed(now);
        }
        true
    }

    /// A trial was given up, and says nothing.
    pub fn abandon(&mut self, generation: u32) {
        if generation == self.generation
            && let Some(trouble) = &mut self.trouble
            && matches!(trouble.trial, Trial::Begun(_))
        {
            trouble.trial = Trial::Due;
        }
    }

    /// A connection of this generation could not be made, or was lost. Whether that is news: one path that fails takes all
    /// connections of its time with it. `random` is from the whole range.
    pub fn fail(&mut self, generation: u32, now: Instant, random: u64) -> bool {
        if generation != self.generation {
            return false;
        }
        self.generation = self.generation.wrapping_add(1);
        let streak = match self.trouble {
            Some(Trouble { trial: Trial::Passed(at), pause, .. }) if now >= at + pause => 0,
            Some(Trouble { streak, .. }) => streak.saturating_add(1),
            None => 0,
        };
        let pause = pause(streak, random);
        self.trouble = Some(Trouble { streak, pause, until: now + pause, trial: Trial::Due });
        true
    }

    /// How things stand.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        match (self.trouble, self.advertised) {
            (Some(Trouble { until, .. }), _) if now < until => Standing::Broken { until },
            (_, Some(Advertised { port, until })) if now < until => Standing::Advertised { port, until },
            _ => Standing::Unknown,
        }
    }
}

/// Twice as long each time, and up to a fifth longer, so that proxies that lost the same path do not come back together.
fn pause(streak: u8, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(u32::from(streak)).unwrap_or(u32::MAX);
    let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
    pause + Duration::from_millis(scale(random, pause.as_millis() as u64 / 5))
}

/// How long QUIC is left alone after its first failure.
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// And at most, before jitter.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// After this a trial of which nothing was heard is begun anew: whoever made it is gone.
const TRIAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
