//! Datagrams and handshakes of QUIC, of all listeners.

use super::{AtomicU64, Kind, Labels, Ordering, Text, add};

/// The numbers of QUIC of the process.
#[derive(Debug, Default)]
pub struct QuicMetrics {
    handed_over: AtomicU64,
    dropped: AtomicU64,
    retries: AtomicU64,
}

impl QuicMetrics {
    /// Datagrams came to one worker and were given to the worker of their connection.
    pub fn handed_over(&self, datagrams: u64) {
        add(&self.handed_over, datagrams);
    }

    /// Datagrams were thrown away because the worker of their connection is behind.
    pub fn dropped(&self, datagrams: u64) {
        add(&self.dropped, datagrams);
    }

    /// A caller was asked to show that its address is its own before anything is done for it.
    pub fn retried(&self) {
        add(&self.retries, 1);
    }

    /// Datagrams handed over, datagrams dropped, callers asked.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.handed_over, &self.dropped, &self.retries].map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn encode(&self, text: &mut Text) {
        let counters = [
            (
                "outrigger_quic_datagrams_handed_over_total",
                "Datagrams that came to another worker than that of their connection, and were given to it.",
                &self.handed_over,
            ),
            (
                "outrigger_quic_datagrams_dropped_total",
                "Datagrams that came to another worker than that of their connection, which was behind.",
                &self.dropped,
            ),
            (
                "outrigger_quic_retries_total",
                "Callers that were asked to show that their address is their own, because many handshakes were under way.",
                &self.retries,
            ),
        ];
        if counters.iter().all(|(_, _, count)| count.load(Ordering::Relaxed) == 0) {
            return;
        }
        for (name, help, count) in counters {
            text.family(name, Kind::Counter, help);
            text.sample(&Labels::none(), count.load(Ordering::Relaxed));
        }
    }
}
