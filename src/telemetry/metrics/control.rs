//! The control plane: whether it is there, what it says, and how old what runs is.

use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{AtomicU64, Kind, Labels, Ordering, Tally, Text, add};

/// The numbers of a proxy that takes its configuration from a control plane; nothing is shown without one.
#[derive(Debug, Default)]
pub struct ControlMetrics {
    used: AtomicBool,
    connected: AtomicBool,
    from_disk: AtomicBool,
    /// When what is in effect was last known to be the newest, in milliseconds since 1970; 0: never.
    confirmed: AtomicU64,
    synced: AtomicU64,
    connects: AtomicU64,
    failures: AtomicU64,
    responses: Tally,
    refusals: Tally,
    endpoint_updates: AtomicU64,
    issued: AtomicU64,
    issue_failures: AtomicU64,
}

impl ControlMetrics {
    /// There is a control plane.
    pub fn expect(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// A stream is open; what is in effect is what the control plane wants from here on.
    pub fn connected(&self) {
        self.connected.store(true, Ordering::Relaxed);
        add(&self.connects, 1);
    }

    /// The stream ended.
    pub fn disconnected(&self, at: SystemTime) {
        if self.connected.swap(false, Ordering::Relaxed) && !self.from_disk.load(Ordering::Relaxed) {
            self.confirmed.store(millis(at), Ordering::Relaxed);
        }
    }

    /// A server could not be reached, or did not do.
    pub fn failed(&self) {
        add(&self.failures, 1);
    }

    /// What the server said is in effect.
    pub fn synced(&self, at: SystemTime) {
        self.from_disk.store(false, Ordering::Relaxed);
        self.confirmed.store(millis(at), Ordering::Relaxed);
        self.synced.store(millis(at), Ordering::Relaxed);
    }

    /// The last good state is in effect, which was saved at `at`.
    pub fn from_disk(&self, at: SystemTime) {
        self.from_disk.store(true, Ordering::Relaxed);
        self.confirmed.store(millis(at), Ordering::Relaxed);
    }

    /// A response of a kind came.
    pub fn response(&self, kind: &'static str) {
        self.responses.add(kind);
    }

    /// A resource of a kind was refused.
    pub fn refused(&self, kind: &'static str) {
        self.refusals.add(kind);
    }

    /// Endpoints of a cluster were changed in place.
    pub fn endpoints(&self) {
        add(&self.endpoint_updates, 1);
    }

    /// A certificate was issued.
    pub fn issued(&self) {
        add(&self.issued, 1);
    }

    /// A certificate was asked for in vain.
    pub fn not_issued(&self) {
        add(&self.issue_failures, 1);
    }

    pub(super) fn encode(&self, text: &mut Text, now: SystemTime) {
        if !self.used.load(Ordering::Relaxed) {
            return;
        }
        let none = Labels::none();
        let (connected, disk) = (self.connected.load(Ordering::Relaxed), self.from_disk.load(Ordering::Relaxed));
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        text.family("outrigger_control_connected", Kind::Gauge, "1 while a stream to the control plane is open.");
        text.sample(&none, u8::from(connected));
        if confirmed > 0 {
            text.family(
                "outrigger_config_age_seconds",
                Kind::Gauge,
                "How long ago what is in effect was known to be the newest; 0 while the control plane is connected.",
            );
            let age = if connected && !disk { 0 } else { millis(now).saturating_sub(confirmed) };
            text.sample(&none, format_args!("{}.{:03}", age / 1000, age % 1000));
            text.family("outrigger_config_source", Kind::Gauge, "1 for where what is in effect came from.");
            text.sample(&Labels::new(&[("source", "live")]), u8::from(!disk));
            text.sample(&Labels::new(&[("source", "disk")]), u8::from(disk));
        }
        let synced = self.synced.load(Ordering::Relaxed);
        if synced > 0 {
            text.family(
                "outrigger_control_last_sync_timestamp_seconds",
                Kind::Gauge,
                "When something that the control plane said last took effect, in seconds since 1970.",
            );
            text.sample(&none, format_args!("{}.{:03}", synced / 1000, synced % 1000));
        }
        text.family("outrigger_control_connects_total", Kind::Counter, "Streams to a control plane, opened or failed.");
        text.sample(&Labels::new(&[("result", "opened")]), self.connects.load(Ordering::Relaxed));
        text.sample(&Labels::new(&[("result", "failed")]), self.failures.load(Ordering::Relaxed));
        for (name, help, tally) in [
            ("outrigger_control_responses_total", "Responses of the control plane by kind.", &self.responses),
            ("outrigger_control_refusals_total", "Resources that were refused by kind.", &self.refusals),
        ] {
            let mut counts = Vec::new();
            tally.read(&mut counts);
            counts.sort_unstable();
            text.family(name, Kind::Counter, help);
            for (kind, count) in counts {
                text.sample(&Labels::new(&[("kind", kind)]), count);
            }
        }
        text.family(
            "outrigger_control_endpoint_updates_total",
            Kind::Counter,
            "Changes of a cluster's endpoints that took effect without a new configuration.",
        );
        text.sample(&none, self.endpoint_updates.load(Ordering::Relaxed));
        text.family(
            "outrigger_control_certificates_total",
            Kind::Counter,
            "Certificates that the control plane was asked for, issued or not.",
        );
        text.sample(&Labels::new(&[("result", "issued")]), self.issued.load(Ordering::Relaxed));
        text.sample(&Labels::new(&[("result", "failed")]), self.issue_failures.load(Ordering::Relaxed));
    }
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn encoded(metrics: &ControlMetrics, now: u64) -> String {
        let mut text = Text::default();
        metrics.encode(&mut text, at(now));
        text.finish()
    }

    #[test]
    fn without_a_control_plane_nothing_is_shown() {
        assert!(!encoded(&ControlMetrics::default(), 1).contains("outrigger_control"));
    }

    #[test]
    fn the_age_counts_from_the_disk_copy_or_from_the_end_of_the_stream() {
        let metrics = ControlMetrics::default();
        metrics.expect();
        assert!(!encoded(&metrics, 5).contains("age_seconds "), "there is no configuration yet");
        metrics.from_disk(at(100));
        let text = encoded(&metrics, 160);
        assert!(text.contains("outrigger_config_age_seconds 60.000\n"), "{text}");
        assert!(text.contains("outrigger_config_source{source=\"disk\"} 1\n"), "{text}");
        metrics.connected();
        assert!(encoded(&metrics, 161).contains("outrigger_config_age_seconds 61.000\n"), "it says nothing yet");
        metrics.synced(at(162));
        let text = encoded(&metrics, 200);
        assert!(text.contains("outrigger_config_age_seconds 0.000\n"), "{text}");
        assert!(text.contains("outrigger_config_source{source=\"live\"} 1\n"), "{text}");
        metrics.disconnected(at(200));
        let text = encoded(&metrics, 230);
        assert!(text.contains("outrigger_config_age_seconds 30.000\n"), "{text}");
        assert!(text.contains("outrigger_control_connected 0\n"), "{text}");
    }
}
