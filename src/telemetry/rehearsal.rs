//! The rehearsal: who would be refused if a listener became stricter.
//!
//! Of every caller of a listener with TLS it is remembered whether it spoke TLS, and whether its certificate
//! would also pass under the *proposed* trust. From that follows whether the change is safe, and if it is not,
//! whom it would hit. What is not known (a caller that was forgotten for want of room, a connection from before
//! the proposal) is never taken for safe.
//!
//! The clock is an argument everywhere; only a [`Presence`] that is dropped reads it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

mod report;

pub use report::{ListenerReport, Offender, PeerCounts, Report};

use super::expose::Text;
use crate::base::limits;

/// The rehearsals of all listeners of a proxy.
#[derive(Debug, Default)]
pub struct Rehearsals(Mutex<HashMap<Arc<str>, Arc<Rehearsal>>>);

/// The rehearsal of one listener.
#[derive(Debug)]
pub struct Rehearsal {
    listener: Arc<str>,
    /// Plaintext connections that are open and were not recorded, because there was no TLS to rehearse then.
    unrecorded: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    question: Question,
    /// Since when callers are recorded.
    since: Instant,
    peers: HashMap<Caller, Peer>,
    /// Callers given up for want of room, ever.
    forgotten: u64,
    /// When a caller was last given up whose answer is not "it would pass".
    blind: Option<Instant>,
}

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Question {
    /// Plaintext would be refused.
    pub strict: bool,
    /// Certificates would be judged by other roots: which, told apart by a fingerprint.
    pub trust: Option<u64>,
}

/// One caller, as it will come back: the port of its own end differs every time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Its address.
    pub address: IpAddr,
    /// The port that it called.
    pub port: u16,
    /// Who its certificate says it is.
    pub identity: Option<Arc<str>>,
    /// What it speaks.
    pub speaks: Speaks,
}

/// What a caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// Plaintext.
    Plaintext,
    /// TLS.
    Tls,
}

/// Whether a certificate would pass under the proposed trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It would, or there is nothing to prove.
    Pass,
    /// It would not.
    Fail {
        /// The stable code of the reason.
        reason: &'static str,
        /// What was expected and what came.
        detail: Arc<str>,
    },
}

#[derive(Debug)]
struct Peer {
    connections: u64,
    open: u32,
    last: Instant,
    /// Under the trust that is proposed now; `None` when it was not judged by that.
    verdict: Option<Verdict>,
}

/// An open connection in the rehearsal. Dropping it says that the connection is gone.
#[derive(Debug)]
pub struct Presence {
    rehearsal: Arc<Rehearsal>,
    /// `None`: not recorded.
    caller: Option<Caller>,
}

/// How long a caller that went is remembered.
pub const WINDOW: Duration = Duration::from_secs(24 * 3600);

impl Rehearsals {
    /// The rehearsal of a listener, begun `now` if there was none.
    #[must_use]
    pub fn listener(&self, name: &Arc<str>, now: Instant) -> Arc<Rehearsal> {
        let mut all = self.0.lock();
        Arc::clone(all.entry(Arc::clone(name)).or_insert_with(|| Arc::new(Rehearsal::new(name, now))))
    }

    /// Forgets listeners that nobody serves any more.
    pub fn sweep(&self) {
        self.0.lock().retain(|_, rehearsal| Arc::strong_count(rehearsal) > 1);
    }

    /// What the rehearsals say, of listeners where something is rehearsed.
    #[must_use]
    pub fn report(&self, now: Instant) -> Report {
        let mut listeners: Vec<_> = self.all().iter().filter_map(|rehearsal| rehearsal.report(now)).collect();
        listeners.sort_by(|a, b| a.listener.cmp(&b.listener));
        Report { listeners }
    }

    pub(super) fn encode(&self, text: &mut Text, now: Instant) {
        report::encode(&self.report(now), text);
    }

    fn all(&self) -> Vec<Arc<Rehearsal>> {
        self.0.lock().values().cloned().collect()
    }
}

impl Rehearsal {
    fn new(listener: &Arc<str>, now: Instant) -> Self {
        let state =
            State { question: Question::default(), since: now, peers: HashMap::new(), forgotten: 0, blind: None };
        Self { listener: Arc::clone(listener), unrecorded: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    /// What is rehearsed from now on. Under other roots earlier verdicts say nothing.
    pub fn ask(&self, question: Question) {
        let mut state = self.state.lock();
        if state.question.trust != question.trust {
            state.peers.values_mut().for_each(|peer| peer.verdict = None);
        }
        state.question = question;
    }

    /// The question now.
    #[must_use]
    pub fn question(&self) -> Question {
        self.state.lock().question
    }

    /// A plaintext connection to a listener without TLS: counted for as long as it is open, and not more.
    #[must_use]
    pub fn unrecorded(self: &Arc<Self>) -> Presence {
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
        Presence { rehearsal: Arc::clone(self), caller: None }
    }

    /// A caller is here. `verdict` is that of the trust in `question`; it is left out if another is proposed by now.
    #[must_use]
    pub fn present(self: &Arc<Self>, caller: Caller, verdict: Option<(Verdict, Question)>, now: Instant) -> Presence {
        let mut state = self.state.lock();
        let verdict = verdict.filter(|(_, asked)| asked.trust == state.question.trust).map(|(verdict, _)| verdict);
        if !state.peers.contains_key(&caller) {
            state.make_room(now);
        }
        let peer = state.peers.entry(caller.clone()).or_insert_with(|| Peer::new(now));
        peer.connections += 1;
        peer.open += 1;
        peer.last = now;
        peer.verdict = verdict;
        drop(state);
        Presence { rehearsal: Arc::clone(self), caller: Some(caller) }
    }

    /// A connection of a caller is gone.
    fn left(&self, caller: &Caller, now: Instant) {
        // One that was forgotten meanwhile is not there.
        if let Some(peer) = self.state.lock().peers.get_mut(caller) {
            peer.open = peer.open.saturating_sub(1);
            peer.last = now;
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        match &self.caller {
            Some(caller) => self.rehearsal.left(caller, Instant::now()),
            None => drop(self.rehearsal.unrecorded.fetch_sub(1, Ordering::Relaxed)),
        }
    }
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self { connections: 0, open: 0, last: now, verdict: None }
    }

    fn is_past(&self, now: Instant) -> bool {
        self.open == 0 && now.saturating_duration_since(self.last) > WINDOW
    }
}

impl State {
    /// Makes room for one more: those whose time is over, else the sixteenth of them that was seen longest ago,
    /// so that the search is paid for once in many callers.
    fn make_room(&mut self, now: Instant) {
        if self.peers.len() < limits::REHEARSAL_PEERS {
            return;
        }
        self.peers.retain(|_, peer| !peer.is_past(now));
        if self.peers.len() < limits::REHEARSAL_PEERS {
            return;
        }
        let mut seen: Vec<(bool, Instant)> = self.peers.values().map(Peer::age).collect();
        let (_, last_to_go, _) = seen.select_nth_unstable(limits::REHEARSAL_PEERS / 16);
        let last_to_go = *last_to_go;
        let Self { peers, forgotten, blind, .. } = self;
        peers.retain(|caller, peer| {
            if peer.age() > last_to_go {
                return true;
            }
            *forgotten += 1;
            let passes = caller.speaks == Speaks::Tls && peer.verdict == Some(Verdict::Pass);
            if !passes {
                *blind = Some(now);
            }
            false
        });
    }
}

impl Peer {
    /// In the order in which they are given up: those that are gone first.
    fn age(&self) -> (bool, Instant) {
        (self.open > 0, self.last)
    }
}

#[cfg(test)]
mod tests;
