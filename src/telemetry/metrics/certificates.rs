//! Certificates in effect: when they end, and how rotations went.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{AtomicU64, Kind, Labels, Mutex, Ordering, Tally, Text, add, limits};

/// The numbers of certificates and their rotation.
#[derive(Debug, Default)]
pub struct CertificateMetrics {
    shown: Mutex<Shown>,
    applied: AtomicU64,
    refused: AtomicU64,
    reasons: Tally,
    last_refused: AtomicBool,
    last_success: OnceLock<AtomicU64>,
}

/// A certificate in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateGauge {
    /// What it is for.
    pub role: &'static str,
    /// The listener, cluster or trust domain that it is for; empty for the proxy's own.
    pub owner: String,
    /// Whose it is: an identity, a name, or a subject.
    pub subject: String,
    /// Where it was read.
    pub file: String,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

/// A trust bundle in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleGauge {
    /// What it is for.
    pub role: &'static str,
    /// The listener, cluster or trust domain that it is for; empty for the proxy's own.
    pub owner: String,
    /// Where it was read.
    pub file: String,
    /// Roots in it.
    pub roots: usize,
}

#[derive(Debug, Default)]
struct Shown {
    certificates: Vec<CertificateGauge>,
    bundles: Vec<BundleGauge>,
}

impl CertificateMetrics {
    /// What is in effect now. Of several with the same labels the first to end is shown, and of more than [`limits::METRIC_CERTIFICATES`] certificates, those that end first are
    /// shown.
    pub fn show(&self, mut certificates: Vec<CertificateGauge>, bundles: Vec<BundleGauge>) {
        certificates.sort_by(|a, b| (a.not_after, a.role, &a.subject).cmp(&(b.not_after, b.role, &b.subject)));
        // Two roots of a bundle may have one subject, and a scrape must not hold two samples of one name.
        let mut known = std::collections::HashSet::new();
        certificates.retain(|c| known.insert((c.role, c.owner.clone(), c.subject.clone(), c.file.clone())));
        certificates.truncate(limits::METRIC_CERTIFICATES);
        *self.shown.lock() = Shown { certificates, bundles };
    }

    /// New material took effect.
    pub fn rotated(&self, at: SystemTime) {
        self.last_success.get_or_init(AtomicU64::default).store(seconds(at), Ordering::Relaxed);
        self.last_refused.store(false, Ordering::Relaxed);
        add(&self.applied, 1);
    }

    /// New material was refused, for these reasons; what was there stays in effect.
    pub fn refused(&self, reasons: impl IntoIterator<Item = &'static str>) {
        self.last_refused.store(true, Ordering::Relaxed);
        add(&self.refused, 1);
        for reason in reasons {
            self.reasons.add(reason);
        }
    }

    /// The files hold again what is in effect.
    pub fn confirmed(&self) {
        self.last_refused.store(false, Ordering::Relaxed);
    }

    pub(super) fn encode(&self, text: &mut Text) {
        let Shown { certificates, bundles } = &*self.shown.lock();
        let labels: Vec<Labels> = certificates
            .iter()
            .map(|c| Labels::new(&[("role", c.role), ("owner", &c.owner), ("subject", &c.subject), ("file", &c.file)]))
            .collect();
        text.family(
            "outrigger_certificate_expiry_timestamp_seconds",
            Kind::Gauge,
            "When a certificate in effect ends, in seconds since 1970.",
        );
        for (certificate, labels) in certificates.iter().zip(&labels) {
            text.sample(labels, seconds(certificate.not_after));
        }
        text.family(
            "outrigger_certificate_not_before_timestamp_seconds",
            Kind::Gauge,
            "When the validity of a certificate in effect began, in seconds since 1970.",
        );
        for (certificate, labels) in certificates.iter().zip(&labels) {
            text.sample(labels, seconds(certificate.not_before));
        }
        text.family("outrigger_trust_bundle_roots", Kind::Gauge, "Roots in a trust bundle in effect.");
        for bundle in bundles {
            text.sample(
                &Labels::new(&[("role", bundle.role), ("owner", &bundle.owner), ("file", &bundle.file)]),
                bundle.roots,
            );
        }
        text.family(
            "outrigger_certificate_rotations_total",
            Kind::Counter,
            "Changes of certificates, keys, bundles and revocation lists, put into effect or refused.",
        );
        text.sample(&Labels::new(&[("result", "applied")]), self.applied.load(Ordering::Relaxed));
        text.sample(&Labels::new(&[("result", "refused")]), self.refused.load(Ordering::Relaxed));
        text.family(
            "outrigger_certificate_rotation_problems_total",
            Kind::Counter,
            "Problems for which changes of certificates were refused.",
        );
        let mut reasons = Vec::new();
        self.reasons.read(&mut reasons);
        reasons.sort_unstable();
        for (reason, count) in reasons {
            text.sample(&Labels::new(&[("reason", reason)]), count);
        }
        text.family(
            "outrigger_certificate_last_rotation_successful",
            Kind::Gauge,
            "1 when what the files hold is in effect, 0 when it was refused.",
        );
        text.sample(&Labels::none(), u8::from(!self.last_refused.load(Ordering::Relaxed)));
        if let Some(at) = self.last_success.get() {
            text.family(
                "outrigger_certificate_last_rotation_success_timestamp_seconds",
                Kind::Gauge,
                "When new certificates last took effect, in seconds since 1970.",
            );
            text.sample(&Labels::none(), at.load(Ordering::Relaxed));
        }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn gauge(subject: &str, not_after: u64) -> CertificateGauge {
        CertificateGauge {
            role: "identity",
            owner: String::new(),
            subject: subject.to_owned(),
            file: "/certs/a.pem".to_owned(),
            not_before: at(5),
            not_after: at(not_after),
        }
    }

    fn encoded(metrics: &CertificateMetrics) -> String {
        let mut text = Text::default();
        metrics.encode(&mut text);
        text.finish()
    }

    #[test]
    fn certificates_are_shown_with_their_dates_and_replaced_as_a_whole() {
        let metrics = CertificateMetrics::default();
        let bundle =
            BundleGauge { role: "federated-bundle", owner: "a".to_owned(), file: "/b.pem".to_owned(), roots: 2 };
        metrics.show(vec![gauge("spiffe://a/b", 1000)], vec![bundle]);
        let text = encoded(&metrics);
        let labels = "{role=\"identity\",owner=\"\",subject=\"spiffe://a/b\",file=\"/certs/a.pem\"}";
        assert!(text.contains(&format!("outrigger_certificate_expiry_timestamp_seconds{labels} 1000\n")), "{text}");
        assert!(text.contains(&format!("outrigger_certificate_not_before_timestamp_seconds{labels} 5\n")), "{text}");
        assert!(
            text.contains("outrigger_trust_bundle_roots{role=\"federated-bundle\",owner=\"a\",file=\"/b.pem\"} 2\n"),
            "{text}"
        );
        metrics.show(vec![gauge("spiffe://a/c", 2000)], vec![]);
        let text = encoded(&metrics);
        assert!(!text.contains("spiffe://a/b") && text.contains("spiffe://a/c"), "{text}");
    }

    #[test]
    fn of_two_roots_with_one_subject_the_first_to_end_is_shown() {
        let metrics = CertificateMetrics::default();
        metrics.show(vec![gauge("CN=root", 2000), gauge("CN=root", 1000)], vec![]);
        let text = encoded(&metrics);
        let samples: Vec<&str> = text.lines().filter(|line| line.starts_with("outrigger_certificate_expiry")).collect();
        assert!(samples.len() == 1 && samples[0].ends_with(" 1000"), "{samples:?}");
    }

    #[test]
    fn over_the_limit_those_that_end_first_are_shown() {
        let metrics = CertificateMetrics::default();
        let count = limits::METRIC_CERTIFICATES as u64 + 1;
        metrics.show((0..count).rev().map(|n| gauge(&format!("s{n}"), n)).collect(), vec![]);
        let text = encoded(&metrics);
        let last = count - 1;
        assert!(text.contains("subject=\"s0\"") && !text.contains(&format!("subject=\"s{last}\"")));
    }

    #[test]
    fn rotations_are_counted_by_result_and_reason_until_one_succeeds() {
        let metrics = CertificateMetrics::default();
        assert!(!encoded(&metrics).contains("success_timestamp"));
        metrics.refused(["expired", "key-mismatch"]);
        metrics.refused(["expired"]);
        let text = encoded(&metrics);
        for line in [
            "outrigger_certificate_rotations_total{result=\"refused\"} 2\n",
            "outrigger_certificate_rotation_problems_total{reason=\"expired\"} 2\n",
            "outrigger_certificate_rotation_problems_total{reason=\"key-mismatch\"} 1\n",
            "outrigger_certificate_last_rotation_successful 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        metrics.rotated(at(77));
        let text = encoded(&metrics);
        for line in [
            "outrigger_certificate_rotations_total{result=\"applied\"} 1\n",
            "outrigger_certificate_last_rotation_successful 1\n",
            "outrigger_certificate_last_rotation_success_timestamp_seconds 77\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
