//! What concerns the whole proxy: build, configuration, draining, the access log.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{AtomicU64, Kind, Labels, Ordering, Text, add};

/// The numbers of the whole proxy.
#[derive(Debug, Default)]
pub struct ProxyMetrics {
    generation: AtomicU64,
    reloads: AtomicU64,
    refused: AtomicU64,
    last_refused: AtomicBool,
    last_success: OnceLock<AtomicU64>,
    draining: AtomicBool,
    log_dropped: AtomicU64,
}

impl ProxyMetrics {
    /// A configuration took effect at `at`.
    pub fn applied(&self, generation: u64, at: SystemTime) {
        let millis = at.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        self.last_success.get_or_init(AtomicU64::default).store(millis, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Relaxed);
        self.last_refused.store(false, Ordering::Relaxed);
        add(&self.reloads, 1);
    }

    /// A configuration was refused; the one before stays in effect.
    pub fn refused(&self) {
        self.last_refused.store(true, Ordering::Relaxed);
        add(&self.refused, 1);
    }

    /// The newest configuration is again the one in effect: the refused one was taken back.
    pub fn confirmed(&self) {
        self.last_refused.store(false, Ordering::Relaxed);
    }

    /// The proxy is going down.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Access-log lines were thrown away.
    pub fn log_dropped(&self, lines: u64) {
        add(&self.log_dropped, lines);
    }

    /// How many access-log lines were thrown away so far.
    #[must_use]
    pub fn log_dropped_total(&self) -> u64 {
        self.log_dropped.load(Ordering::Relaxed)
    }

    pub(super) fn encode(&self, text: &mut Text) {
        let none = Labels::none();
        text.family("outrigger_build_info", Kind::Gauge, "Always 1; the version is a label.");
        text.sample(&Labels::new(&[("version", env!("CARGO_PKG_VERSION"))]), 1);
        text.family("outrigger_config_generation", Kind::Gauge, "Number of the configuration in effect.");
        text.sample(&none, self.generation.load(Ordering::Relaxed));
        text.family("outrigger_config_reloads_total", Kind::Counter, "Configurations put into effect or refused.");
        let results = Labels::new(&[("result", "applied")]);
        text.sample(&results, self.reloads.load(Ordering::Relaxed));
        text.sample(&Labels::new(&[("result", "refused")]), self.refused.load(Ordering::Relaxed));
        text.family(
            "outrigger_config_last_reload_successful",
            Kind::Gauge,
            "1 when the newest configuration is in effect, 0 when it was refused.",
        );
        text.sample(&none, u8::from(!self.last_refused.load(Ordering::Relaxed)));
        if let Some(millis) = self.last_success.get() {
            text.family(
                "outrigger_config_last_reload_success_timestamp_seconds",
                Kind::Gauge,
                "When a configuration last took effect, in seconds since 1970.",
            );
            let millis = millis.load(Ordering::Relaxed);
            text.sample(&none, format_args!("{}.{:03}", millis / 1000, millis % 1000));
        }
        text.family("outrigger_draining", Kind::Gauge, "1 once the proxy is going down.");
        text.sample(&none, u8::from(self.draining.load(Ordering::Relaxed)));
        text.family("outrigger_access_log_dropped_total", Kind::Counter, "Access-log lines thrown away.");
        text.sample(&none, self.log_dropped.load(Ordering::Relaxed));
    }
}
