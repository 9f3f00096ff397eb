//! What the process does because it is short of memory.

use super::{AtomicU64, Kind, Labels, Ordering, Text, add};
use crate::base::pressure::Level;

/// The numbers of the overload of the process.
#[derive(Debug, Default)]
pub struct OverloadMetrics {
    level: AtomicU64,
    limit: AtomicU64,
    changes: [AtomicU64; Level::ALL.len()],
}

impl OverloadMetrics {
    /// How things stand. A limit of zero is none.
    pub fn is_at(&self, level: Level, limit: u64) {
        self.level.store(level as u64, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The level has changed to this one.
    pub fn changed_to(&self, level: Level) {
        add(&self.changes[level as usize], 1);
    }

    /// The level, unless there is enough.
    #[must_use]
    pub fn shortage(&self) -> Option<&'static str> {
        let level = self.level.load(Ordering::Relaxed);
        Level::ALL.into_iter().skip(1).find(|known| *known as u64 == level).map(Level::name)
    }

    pub(super) fn encode(&self, text: &mut Text) {
        text.family(
            "outrigger_overload_level",
            Kind::Gauge,
            "What is done because memory is short: 0 nothing, 1 idle connections are closed, 2 and requests refused, 3 and \
             no connection accepted.",
        );
        text.sample(&Labels::none(), self.level.load(Ordering::Relaxed));
        text.family(
            "outrigger_overload_changes_total",
            Kind::Counter,
            "Changes of the overload level, by the new one.",
        );
        for level in Level::ALL {
            text.sample(&Labels::new(&[("level", level.name())]), self.changes[level as usize].load(Ordering::Relaxed));
        }
        let limit = self.limit.load(Ordering::Relaxed);
        if limit > 0 {
            text.family("outrigger_memory_limit_bytes", Kind::Gauge, "Memory that the process may use.");
            text.sample(&Labels::none(), limit);
        }
    }
}
