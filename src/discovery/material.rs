//! Certificates, keys, bundles and revocation lists: what of them is in effect, and what was refused.
//!
//! They are put into effect by [`Applier`](super::Applier), wherever they come from. Here is what is known of them
//! for people, metrics and warnings: dates and names, never a key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::{Diagnostic, Diagnostics};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use super::expiry::{Reminder, Stage, Term, next_look};
use crate::net::tls::{CertificateRole, CertificateStatus, MaterialError, TlsSet};
use crate::telemetry::metrics::{BundleGauge, CertificateGauge};
use crate::telemetry::{Metrics, rfc3339};

/// What is known of certificates, for people and for the admin server.
#[derive(Debug, Default)]
pub struct MaterialStatus(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tls: Option<Arc<TlsSet>>,
    rotations: u64,
    last: Option<Rotation>,
    refusal: Option<RefusedMaterial>,
}

/// A change that took effect.
#[derive(Debug, Clone)]
struct Rotation {
    at: SystemTime,
    files: BTreeSet<PathBuf>,
}

/// Material that was not put into effect.
#[derive(Debug, Clone)]
pub(super) struct RefusedMaterial {
    /// Of all contents.
    pub(super) fingerprint: String,
    pub(super) problems: Vec<MaterialError>,
    pub(super) at: SystemTime,
}

impl MaterialStatus {
    /// What is in effect from now on, with a configuration or after a rotation.
    pub(super) fn applied(&self, tls: &Arc<TlsSet>, metrics: &Metrics) {
        metrics.certificates.show(gauges(tls.certificates()), bundles(tls.certificates()));
        let mut inner = self.0.lock();
        inner.tls = Some(Arc::clone(tls));
        inner.refusal = None;
    }

    /// Counts what [`MaterialStatus::applied`] was told of as a rotation of these files.
    pub(super) fn rotated(&self, files: BTreeSet<PathBuf>, at: SystemTime) {
        let mut inner = self.0.lock();
        inner.rotations += 1;
        inner.last = Some(Rotation { at, files });
    }

    pub(super) fn refused(&self, refused: RefusedMaterial) {
        self.0.lock().refusal = Some(refused);
    }

    /// The files hold again what is in effect. Whether anything was refused before.
    pub(super) fn confirmed(&self) -> bool {
        self.0.lock().refusal.take().is_some()
    }

    /// What was refused since the last change.
    pub(super) fn refusal(&self) -> Option<RefusedMaterial> {
        self.0.lock().refusal.clone()
    }

    /// Everything, keys left out.
    #[must_use]
    pub fn report(&self, now: SystemTime) -> Report {
        let inner = self.0.lock();
        let all = inner.tls.as_ref().map(|tls| tls.certificates()).unwrap_or_default();
        let of = |wanted: fn(&CertificateRole) -> bool| {
            all.iter().filter(|status| wanted(&status.role)).map(|status| Entry::of(status, now)).collect()
        };
        Report {
            identity: inner.tls.as_ref().and_then(|tls| tls.identity()).map(ToString::to_string),
            up_to_date: inner.refusal.is_none(),
            rotations: inner.rotations,
            last_rotation: inner.last.as_ref().map(|last| json!({ "at": rfc3339(last.at), "files": last.files })),
            last_refusal: inner.refusal.as_ref().map(|refused| {
                let problems: Vec<Value> = refused.problems.iter().map(problem).collect();
                json!({ "at": rfc3339(refused.at), "problems": problems })
            }),
            certificates: of(CertificateRole::is_own),
            roots: of(is_root),
            revocation_lists: of(|role| *role == CertificateRole::RevocationList),
        }
    }

    /// What runs out and when.
    fn terms(&self) -> Vec<(Expiring, Term)> {
        self.0.lock().tls.as_ref().map(|tls| terms(tls.certificates())).unwrap_or_default()
    }
}

/// [`MaterialStatus`] for people and programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who this proxy is in the mesh.
    pub identity: Option<String>,
    /// Whether what is in effect is what the files hold.
    pub up_to_date: bool,
    /// Changes put into effect since the start, without a change of the configuration.
    pub rotations: u64,
    /// The last of them.
    pub last_rotation: Option<Value>,
    /// What was refused since.
    pub last_refusal: Option<Value>,
    /// What this proxy shows to others.
    pub certificates: Vec<Entry>,
    /// Whom it believes.
    pub roots: Vec<Entry>,
    /// Whom it no longer believes.
    pub revocation_lists: Vec<Entry>,
}

/// A certificate or a list, for people and programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// What it is for.
    pub role: &'static str,
    /// The listener, cluster or trust domain that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    /// Where it was read.
    pub file: PathBuf,
    /// Its SPIFFE ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its DNS names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// From when on it is valid.
    pub not_before: String,
    /// Until when; of a list, when the next one is due.
    pub not_after: String,
    /// Days left, rounded down to hundredths; negative afterwards.
    pub remaining_days: f64,
    /// Its fingerprint, hexadecimal.
    pub sha256: String,
    /// What is odd about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Entry {
    /// As it is `now`.
    #[must_use]
    pub fn of(status: &CertificateStatus, now: SystemTime) -> Self {
        let CertificateStatus {
            file,
            role,
            identity,
            dns_names,
            subject,
            issuer,
            serial,
            not_before,
            not_after,
            sha256,
            warnings,
        } = status;
        Self {
            role: role.code(),
            owner: role.owner().cloned(),
            file: file.clone(),
            identity: identity.as_ref().map(ToString::to_string),
            dns_names: dns_names.clone(),
            subject: subject.clone(),
            issuer: issuer.clone(),
            serial: serial.clone(),
            not_before: date(*not_before),
            not_after: date(*not_after),
            remaining_days: remaining_days(*not_after, now),
            sha256: sha256.clone(),
            warnings: warnings.clone(),
        }
    }
}

/// Makes the places of problems exact: a configuration names several files in one setting, and `text` is its text.
pub(crate) fn locate(problems: &mut [MaterialError], text: &str) {
    for MaterialError { place, file, .. } in problems {
        let file = file.display().to_string();
        let setting = text.lines().enumerate().skip(usize::try_from(place.line).unwrap_or(1).saturating_sub(1));
        let found = setting.take(LINES_OF_A_SETTING).find_map(|(line, content)| Some((line, column(content, &file)?)));
        if let Some((line, column)) = found {
            place.line = u32::try_from(line + 1).unwrap_or(u32::MAX);
            place.column = u32::try_from(column + 1).unwrap_or(u32::MAX);
        }
    }
}

/// Characters before the name of a file in a line; not before that of another file that only begins or ends alike.
fn column(line: &str, file: &str) -> Option<usize> {
    let goes_on = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    let whole = |at: &usize| {
        !line[..*at].ends_with(goes_on) && !line[at + file.len()..].starts_with(goes_on) && !file.is_empty()
    };
    let at = line.match_indices(file).map(|(at, _)| at).find(whole)?;
    Some(line[..at].chars().count())
}

/// How far below the beginning of a setting its files are looked for.
const LINES_OF_A_SETTING: usize = 200;

/// Problems of files as those of the configuration that names them, whose text is `text`.
pub(crate) fn diagnostics(problems: &[MaterialError], text: &str) -> Diagnostics {
    let diagnostic = |error: &MaterialError| {
        let MaterialError { place, file, problem, fix, reason: _ } = error;
        Diagnostic::at(place, text, format!("`{}`: {problem}", file.display()), fix.clone())
    };
    problems.iter().map(diagnostic).collect()
}

/// For the log.
pub(super) fn describe(problems: &[MaterialError], text: &str) -> String {
    format!("\n{}", diagnostics(problems, text))
}

fn problem(error: &MaterialError) -> Value {
    let MaterialError { place, file, problem, fix, reason } = error;
    let place = json!({ "file": place.file, "line": place.line, "column": place.column });
    json!({ "file": file, "reason": reason.code(), "problem": problem, "fix": fix, "place": place })
}

fn is_root(role: &CertificateRole) -> bool {
    !role.is_own() && *role != CertificateRole::RevocationList
}

/// A date and time; those in certificates have whole seconds.
pub(crate) fn date(at: SystemTime) -> String {
    let text = rfc3339(at);
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

fn remaining_days(not_after: SystemTime, now: SystemTime) -> f64 {
    let days = match not_after.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    } / 86_400.0;
    (days * 100.0).floor() / 100.0
}

/// Whose a certificate is, in a word.
fn subject(status: &CertificateStatus) -> String {
    let identity = status.identity.as_ref().map(ToString::to_string);
    identity.or_else(|| status.dns_names.first().cloned()).unwrap_or_else(|| status.subject.clone())
}

fn gauges(all: &[CertificateStatus]) -> Vec<CertificateGauge> {
    all.iter()
        .map(|status| CertificateGauge {
            role: status.role.code(),
            owner: owner(&status.role),
            subject: subject(status),
            file: status.file.display().to_string(),
            not_before: status.not_before,
            not_after: status.not_after,
        })
        .collect()
}

fn bundles(all: &[CertificateStatus]) -> Vec<BundleGauge> {
    let mut counts = BTreeMap::<(&CertificateRole, &Path), usize>::new();
    for status in all.iter().filter(|status| is_root(&status.role)) {
        *counts.entry((&status.role, &status.file)).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|((role, file), roots)| BundleGauge {
            role: role.code(),
            owner: owner(role),
            file: file.display().to_string(),
            roots,
        })
        .collect()
}

fn owner(role: &CertificateRole) -> String {
    role.owner().map(ToString::to_string).unwrap_or_default()
}

/// Something that runs out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Expiring {
    kind: Kind,
    file: PathBuf,
    subject: String,
    sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Certificate,
    /// A trust bundle; its last root.
    Bundle,
    RevocationList,
}

/// One term for each certificate of our own, for each bundle (that of the root which lasts longest) and for each
/// revocation list.
fn terms(all: &[CertificateStatus]) -> Vec<(Expiring, Term)> {
    let mut terms = Vec::<(Expiring, Term)>::new();
    for status in all {
        let (kind, from) = match &status.role {
            role if role.is_own() => (Kind::Certificate, Stage::Half),
            // A list is replaced when the next one is there, however late that is in its life.
            CertificateRole::RevocationList => (Kind::RevocationList, Stage::Expired),
            // A root is valid for years: half of that is no news.
            _ => (Kind::Bundle, Stage::Quarter),
        };
        let expiring =
            Expiring { kind, file: status.file.clone(), subject: subject(status), sha256: status.sha256.clone() };
        let term = Term { not_before: status.not_before, not_after: status.not_after, from };
        let known = terms.iter().position(|(known, _)| match kind {
            Kind::Bundle => known.kind == kind && known.file == expiring.file,
            // One file may be used in several places.
            Kind::Certificate | Kind::RevocationList => *known == expiring,
        });
        match known {
            Some(at) if kind == Kind::Bundle && terms[at].1.not_after < term.not_after => terms[at] = (expiring, term),
            Some(_) => {}
            None => terms.push((expiring, term)),
        }
    }
    terms
}

/// Logs what is about to end, for ever.
pub async fn watch_expiry(status: Arc<MaterialStatus>) {
    let mut reminder = Reminder::new();
    loop {
        let (terms, now) = (status.terms(), SystemTime::now());
        for (expiring, stage) in reminder.due(&terms, now) {
            let end = terms.iter().find(|(known, _)| *known == expiring).map(|(_, term)| term.not_after);
            say(&expiring, stage, end.unwrap_or(now));
        }
        tokio::time::sleep(next_look(&terms, now)).await;
    }
}

fn say(expiring: &Expiring, stage: Stage, end: SystemTime) {
    let Expiring { kind, file, subject, sha256: _ } = expiring;
    let (file, not_after) = (file.display(), date(end));
    match (kind, stage) {
        (_, Stage::Fresh) => {}
        (Kind::Certificate, Stage::Half) => {
            tracing::warn!(%file, subject, not_after, "a certificate is past half of its life and was not renewed");
        }
        (Kind::Certificate, Stage::Quarter) => {
            tracing::warn!(%file, subject, not_after, "a certificate has 25 % of its life left and was not renewed");
        }
        (Kind::Certificate, Stage::Tenth) => {
            tracing::warn!(%file, subject, not_after, "a certificate has 10 % of its life left and was not renewed");
        }
        (Kind::Certificate, Stage::Expired) => {
            tracing::error!(%file, subject, not_after, "a certificate has expired: peers refuse it until it is renewed");
        }
        (Kind::Bundle, Stage::Half | Stage::Quarter) => {
            tracing::warn!(%file, subject, not_after, "the last root of a trust bundle has 25 % of its life left");
        }
        (Kind::Bundle, Stage::Tenth) => {
            tracing::warn!(%file, subject, not_after, "the last root of a trust bundle has 10 % of its life left");
        }
        (Kind::Bundle, Stage::Expired) => {
            tracing::error!(%file, subject, not_after, "every root of a trust bundle has expired: nobody is believed by it");
        }
        (Kind::RevocationList, _) => {
            tracing::warn!(%file, issuer = subject, due = not_after, "a revocation list is older than its issuer says");
        }
    }
}

/// Says in the log what a rotation changed, and gives the files that did.
pub(super) fn log_changes(before: &[CertificateStatus], now: &[CertificateStatus]) -> BTreeSet<PathBuf> {
    let missing_in = |others: &[CertificateStatus], status: &CertificateStatus| {
        !others.iter().any(|other| other.sha256 == status.sha256 && other.file == status.file)
    };
    let mut files = BTreeSet::new();
    for status in now.iter().filter(|status| missing_in(before, status)) {
        let CertificateStatus { file, serial, .. } = status;
        let (path, subject, not_after) = (file.display(), subject(status), date(status.not_after));
        match &status.role {
            role if role.is_own() => {
                tracing::info!(file = %path, subject, serial, not_after, "a new certificate is in effect");
            }
            CertificateRole::RevocationList => {
                tracing::info!(file = %path, issuer = subject, due = not_after, "a new revocation list is in effect");
            }
            _ => tracing::info!(file = %path, subject, not_after, "a root is trusted from now on"),
        }
        files.insert(file.clone());
    }
    for status in before.iter().filter(|status| missing_in(now, status)) {
        if is_root(&status.role) {
            let (path, subject) = (status.file.display(), subject(status));
            tracing::info!(file = %path, subject, "a root is no longer trusted");
        }
        files.insert(status.file.clone());
    }
    files
}

/// How long files may contradict each other before that is a problem: they are replaced one after another.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How often they are read within that time.
pub(super) const RETRY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
