//! What a rehearsal says: for the admin server, and as metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Caller, Peer, Question, Rehearsal, Speaks, Verdict, WINDOW};
use crate::base::limits;
use crate::telemetry::expose::{Kind, Labels, Text};

/// What all rehearsals say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Listeners where something is rehearsed, by name.
    pub listeners: Vec<ListenerReport>,
}

/// What the rehearsal of one listener says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerReport {
    /// The listener.
    pub listener: Arc<str>,
    /// What is rehearsed: `strict`, `trustBundle`.
    pub rehearsed: Vec<&'static str>,
    /// At least one caller was seen, and all that were would pass.
    pub safe: bool,
    /// One sentence for people.
    pub summary: String,
    /// How far back the answer reaches: at most the window.
    pub observed_seconds: u64,
    /// How long callers that went are remembered.
    pub window_seconds: u64,
    /// How many callers.
    pub peers: PeerCounts,
    /// Those that would be refused, the latest first; bounded.
    pub offenders: Vec<Offender>,
    /// How many more there are.
    pub offenders_omitted: usize,
    /// Callers that were given up for want of room, ever.
    pub forgotten: u64,
}

/// How many callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerCounts {
    /// All.
    pub total: usize,
    /// Those that spoke plaintext.
    pub plaintext: usize,
    /// Those that spoke TLS.
    pub tls: usize,
    /// Those whose certificates would be refused.
    pub untrusted: usize,
    /// Those whose certificates were not judged by the proposed trust yet: their connections are older.
    pub unknown: usize,
    /// Open plaintext connections from before the rehearsal, whose callers are not known.
    pub unrecorded_connections: usize,
}

/// A caller that would be refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offender {
    /// Its address.
    pub address: String,
    /// The port that it called.
    pub port: u16,
    /// Who its certificate says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<str>>,
    /// The stable code of the reason.
    pub reason: &'static str,
    /// What was expected and what came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Arc<str>>,
    /// Its connections.
    pub connections: u64,
    /// Of those, open now.
    pub open: u32,
    /// How long ago it was last heard of; 0 while a connection is open.
    pub seen_seconds_ago: u64,
}

/// The code of callers that speak plaintext.
const PLAINTEXT: &str = "plaintext";

impl Rehearsal {
    /// What it says; `None` when nothing is rehearsed.
    #[must_use]
    pub fn report(&self, now: Instant) -> Option<ListenerReport> {
        let mut state = self.state.lock();
        let question = state.question;
        if question == Question::default() {
            return None;
        }
        state.peers.retain(|_, peer| !peer.is_past(now));
        let mut peers = PeerCounts::default();
        let mut offenders = Vec::new();
        for (caller, peer) in &state.peers {
            peers.total += 1;
            let reason = match caller.speaks {
                Speaks::Plaintext => {
                    peers.plaintext += 1;
                    question.strict.then_some((PLAINTEXT, None))
                }
                Speaks::Tls => {
                    peers.tls += 1;
                    match (&peer.verdict, question.trust) {
                        (Some(Verdict::Fail { reason, detail }), Some(_)) => {
                            peers.untrusted += 1;
                            Some((*reason, Some(Arc::clone(detail))))
                        }
                        (None, Some(_)) => {
                            peers.unknown += 1;
                            None
                        }
                        (Some(Verdict::Pass), Some(_)) | (_, None) => None,
                    }
                }
            };
            if let Some((reason, detail)) = reason {
                offenders.push((peer.last, offender(caller, peer, reason, detail, now)));
            }
        }
        if question.strict {
            peers.unrecorded_connections = self.unrecorded.load(Ordering::Relaxed);
        }
        let blind = state.blind.is_some_and(|at| now.saturating_duration_since(at) <= WINDOW);
        let observed = now.saturating_duration_since(state.since).min(WINDOW);
        let forgotten = state.forgotten;
        drop(state);

        offenders.sort_by(|(a, _), (b, _)| b.cmp(a));
        let omitted = offenders.len().saturating_sub(limits::REHEARSAL_OFFENDERS);
        let none = offenders.is_empty() && peers.unknown == 0 && peers.unrecorded_connections == 0 && !blind;
        let safe = none && peers.total > 0;
        Some(ListenerReport {
            listener: Arc::clone(&self.listener),
            rehearsed: words(question),
            safe,
            summary: summary(question, peers, (safe, blind), observed),
            observed_seconds: observed.as_secs(),
            window_seconds: WINDOW.as_secs(),
            peers,
            offenders: offenders.into_iter().take(limits::REHEARSAL_OFFENDERS).map(|(_, offender)| offender).collect(),
            offenders_omitted: omitted,
            forgotten,
        })
    }
}

fn offender(caller: &Caller, peer: &Peer, reason: &'static str, detail: Option<Arc<str>>, now: Instant) -> Offender {
    let ago = if peer.open > 0 { Duration::ZERO } else { now.saturating_duration_since(peer.last) };
    Offender {
        address: caller.address.to_string(),
        port: caller.port,
        identity: caller.identity.clone(),
        reason,
        detail,
        connections: peer.connections,
        open: peer.open,
        seen_seconds_ago: ago.as_secs(),
    }
}

fn words(Question { strict, trust }: Question) -> Vec<&'static str> {
    let words = [(strict, "strict"), (trust.is_some(), "trustBundle")];
    words.into_iter().filter_map(|(asked, word)| asked.then_some(word)).collect()
}

fn summary(question: Question, peers: PeerCounts, (safe, blind): (bool, bool), observed: Duration) -> String {
    let PeerCounts { total, plaintext, tls: _, untrusted, unknown, unrecorded_connections } = peers;
    let change = match (question.strict, question.trust.is_some()) {
        (true, true) => "turn strict with the proposed trust bundle",
        (true, false) => "turn strict",
        (false, _) => "take the proposed trust bundle",
    };
    let time = span(observed);
    if total == 0 && unrecorded_connections == 0 {
        return format!("nothing to say yet on whether it is safe to {change}: no caller in {time}");
    }
    let mut facts = Vec::new();
    if question.strict {
        facts.push(format!("{plaintext} of {total} peers plaintext"));
    }
    if question.trust.is_some() {
        facts.push(format!("{untrusted} of {total} peers untrusted"));
    }
    let mut text = format!("{} to {change}: {} in {time}", if safe { "safe" } else { "not safe" }, facts.join(", "));
    if unknown > 0 {
        text += &format!("; {unknown} with connections from before the proposal are not judged yet");
    }
    if unrecorded_connections > 0 {
        text += &format!("; {unrecorded_connections} plaintext connections are older than the rehearsal");
    }
    if blind {
        text += "; some callers were forgotten for want of room";
    }
    text
}

/// A time in the largest unit that it fills.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Writes what metrics tell; nothing when nothing is rehearsed.
pub(super) fn encode(report: &Report, text: &mut Text) {
    if report.listeners.is_empty() {
        return;
    }
    let all: Vec<(Labels, &ListenerReport)> =
        report.listeners.iter().map(|one| (Labels::new(&[("listener", &one.listener)]), one)).collect();
    text.family(
        "outrigger_rehearsal_safe",
        Kind::Gauge,
        "1 when every caller of the last 24 hours would pass under the proposed mode or trust.",
    );
    for (labels, one) in &all {
        text.sample(labels, u8::from(one.safe));
    }
    text.family("outrigger_rehearsal_peers", Kind::Gauge, "Callers of the last 24 hours, by what they are.");
    for (labels, one) in &all {
        let PeerCounts { total: _, plaintext, tls, untrusted, unknown, unrecorded_connections: _ } = one.peers;
        let kinds = [("plaintext", plaintext), ("tls", tls), ("untrusted", untrusted), ("unknown", unknown)];
        for (kind, count) in kinds {
            text.sample(&labels.with("kind", kind), count);
        }
    }
    text.family("outrigger_rehearsal_offenders", Kind::Gauge, "Callers that would be refused.");
    for (labels, one) in &all {
        text.sample(labels, one.offenders.len() + one.offenders_omitted);
    }
    text.family("outrigger_rehearsal_forgotten_total", Kind::Counter, "Callers given up for want of room.");
    for (labels, one) in &all {
        text.sample(labels, one.forgotten);
    }
}
