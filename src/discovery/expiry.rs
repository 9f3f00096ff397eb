//! When what is in effect runs out: what is to be said of it, and when. Pure: the time is an argument.
//!
//! A certificate is spoken of as its life passes one half, three quarters, nine tenths and its end, and every hour
//! from then on. One that was renewed in time is never spoken of. Of a trust bundle the root that lasts longest
//! counts: an old one beside it is the overlap of a rotation.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// The time between two dates, of something that is in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Where it begins.
    pub not_before: SystemTime,
    /// Where it ends.
    pub not_after: SystemTime,
    /// From when on it is spoken of.
    pub from: Stage,
}

/// How much of a term is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Less than half.
    Fresh,
    /// Half. With certificates, that is when they should have been renewed.
    Half,
    /// Three quarters: 25 % is left.
    Quarter,
    /// Nine tenths: 10 % is left.
    Tenth,
    /// All.
    Expired,
}

/// Knows what was said of which term.
#[derive(Debug)]
pub struct Reminder<K> {
    said: HashMap<K, (Stage, SystemTime)>,
}

/// How often it is said that something has expired.
pub const REPEAT: Duration = Duration::from_secs(3600);
/// The longest time between two looks: clocks are set, and machines sleep.
const LOOK: Duration = Duration::from_secs(60);

impl Term {
    /// How much of it is over.
    #[must_use]
    pub fn stage(&self, now: SystemTime) -> Stage {
        if now >= self.not_after {
            return Stage::Expired;
        }
        let past = |stage: &Stage| self.begin_of(*stage).is_some_and(|begin| now >= begin);
        [Stage::Tenth, Stage::Quarter, Stage::Half].into_iter().find(past).unwrap_or(Stage::Fresh)
    }

    /// When a stage begins; `None` for a term that ends before it begins.
    fn begin_of(&self, stage: Stage) -> Option<SystemTime> {
        let life = self.not_after.duration_since(self.not_before).ok()?;
        let left = match stage {
            Stage::Fresh => life,
            Stage::Half => life / 2,
            Stage::Quarter => life / 4,
            Stage::Tenth => life / 10,
            Stage::Expired => Duration::ZERO,
        };
        self.not_after.checked_sub(left)
    }
}

impl<K: std::hash::Hash + Eq + Clone> Reminder<K> {
    /// Nothing was said yet.
    #[must_use]
    pub fn new() -> Self {
        Self { said: HashMap::new() }
    }

    /// What is to be said now of the terms in effect. What is no longer in effect is forgotten.
    pub fn due(&mut self, terms: &[(K, Term)], now: SystemTime) -> Vec<(K, Stage)> {
        let before = std::mem::take(&mut self.said);
        let mut due = Vec::new();
        for (key, term) in terms {
            let stage = term.stage(now);
            let said = before.get(key).copied();
            let news = match said {
                _ if stage < term.from => false,
                // A clock that was set back makes nothing fresh again.
                Some((known, _)) if stage > known => true,
                Some((Stage::Expired, at)) => now.duration_since(at).is_ok_and(|since| since >= REPEAT),
                Some(_) => false,
                None => true,
            };
            if news {
                due.push((key.clone(), stage));
                self.said.insert(key.clone(), (stage, now));
            } else if let Some(said) = said {
                self.said.insert(key.clone(), said);
            }
        }
        due
    }
}

impl<K: std::hash::Hash + Eq + Clone> Default for Reminder<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// How long until something may be due.
#[must_use]
pub fn next_look<K>(terms: &[(K, Term)], now: SystemTime) -> Duration {
    let stages = [Stage::Half, Stage::Quarter, Stage::Tenth, Stage::Expired];
    terms
        .iter()
        .flat_map(|(_, term)| stages.iter().filter_map(|stage| term.begin_of(*stage)))
        .filter_map(|begin| begin.duration_since(now).ok())
        .filter(|wait| !wait.is_zero())
        .fold(LOOK, Duration::min)
        // A wait that ends a moment early finds nothing and is followed by another.
        .max(Duration::from_millis(10))
}

#[cfg(test)]
mod tests;
