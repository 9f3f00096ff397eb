//! What proxies answer and who is turned away, from streams to the store. Streams do not wait for a disk: what comes is
//! queued for a thread that does. Answers and denials have a queue each, so that whoever is turned away, as often as they
//! like, takes no place from what proxies say. What there is no place for is counted.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::fleet::{Answer, Denial, Lost, Recorder};
use crate::store::{self, AuditEntry, Outcome, Store, Verdict};
use crate::throttle::{self, Throttle};

/// Answers that may wait.
const MAX_ANSWERS: usize = 4_096;
/// Denials that may wait.
const MAX_DENIALS: usize = 512;
/// Answers that are written in one step.
const MAX_BATCH: usize = 256;

/// Puts down what streams tell.
#[derive(Debug)]
pub(super) struct StoreRecorder(Arc<Queue>);

/// The thread that does it.
#[derive(Debug)]
pub(super) struct Recording {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    denied: Throttle,
    lost: Arc<Lost>,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: VecDeque<Answer>,
    denials: VecDeque<AuditEntry>,
    ended: bool,
}

impl StoreRecorder {
    /// Starts the thread. What there is no place for is counted in `lost`.
    pub(super) fn start(store: Arc<dyn Store>, lost: Arc<Lost>) -> io::Result<(Self, Recording)> {
        let denied = Throttle::new(Instant::now());
        let queue = Arc::new(Queue { waiting: Mutex::default(), filled: Condvar::new(), denied, lost });
        let thread = thread::Builder::new().name("recorder".to_owned());
        let work = Arc::clone(&queue);
        let thread = thread.spawn(move || work.record(&*store))?;
        Ok((Self(Arc::clone(&queue)), Recording { queue, thread }))
    }
}

impl Recording {
    /// Ends the thread after what waits. Blocks.
    pub(super) fn end(self) {
        self.queue.waiting.lock().ended = true;
        self.queue.filled.notify_one();
        if self.thread.join().is_err() {
            tracing::error!("the thread that puts answers down has panicked");
        }
    }
}

impl Recorder for StoreRecorder {
    fn answered(&self, answer: Answer) {
        let Queue { waiting, filled, lost, .. } = &*self.0;
        let mut waiting = waiting.lock();
        if waiting.answers.len() >= MAX_ANSWERS {
            lost.answers.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.answers.push_back(answer);
        filled.notify_one();
    }

    fn denied(&self, denial: Denial) {
        let Queue { waiting, filled, denied, lost } = &*self.0;
        let Some(skipped) = denied.take(Instant::now()) else {
            lost.denials.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let entry = entry(denial, skipped);
        tracing::warn!(who = entry.who, from = entry.from, detail = entry.detail, "stream denied");
        let mut waiting = waiting.lock();
        if waiting.denials.len() >= MAX_DENIALS {
            lost.denials.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.denials.push_back(entry);
        filled.notify_one();
    }
}

impl Queue {
    fn record(&self, store: &dyn Store) {
        let mut told = 0;
        loop {
            let (answers, denial) = {
                let mut waiting = self.waiting.lock();
                while waiting.answers.is_empty() && waiting.denials.is_empty() && !waiting.ended {
                    self.filled.wait(&mut waiting);
                }
                let most = waiting.answers.len().min(MAX_BATCH);
                let answers: Vec<Answer> = waiting.answers.drain(..most).collect();
                (answers, waiting.denials.pop_front())
            };
            if answers.is_empty() && denial.is_none() {
                return;
            }
            if !answers.is_empty() {
                let count = u64::try_from(answers.len()).unwrap_or(u64::MAX);
                if let Err(error) = store.record_answers(answers.into_iter().flat_map(verdicts).collect()) {
                    self.lost.answers.fetch_add(count, Ordering::Relaxed);
                    tracing::warn!(%error, "answers of proxies were not put down");
                }
            }
            if let Some(entry) = denial
                && let Err(error) = store.audit(entry)
            {
                self.lost.denials.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "a denied stream could not be put down in the audit log");
            }
            let lost = self.lost.answers.load(Ordering::Relaxed);
            if lost > told {
                tracing::warn!(lost = lost - told, "answers of proxies came faster than they could be put down");
                told = lost;
            }
        }
    }
}

fn verdicts(answer: Answer) -> Vec<store::Answer> {
    let Answer { workload, generation, kind, refusals, at, .. } = answer;
    let one = |verdict| store::Answer { proxy: workload.to_string(), generation, at: at.into(), verdict };
    if refusals.is_empty() {
        return vec![one(Verdict::Accepted)];
    }
    let refused = refusals.into_iter().map(|refused| Verdict::Refused {
        kind: format!("{kind:?}"),
        resource: refused.resource,
        field: refused.field,
        reason: refused.reason,
    });
    refused.map(one).collect()
}

fn entry(denial: Denial, skipped: u64) -> AuditEntry {
    let Denial { peer, cause, message, at } = denial;
    let who =
        peer.as_ref().and_then(|peer| peer.id.as_ref()).map_or_else(|| "anonymous".to_owned(), ToString::to_string);
    let workload = peer.as_ref().and_then(|peer| peer.workload.as_ref());
    let cause = serde_json::to_value(cause).unwrap_or_default();
    AuditEntry {
        at: at.into(),
        who,
        from: peer.as_ref().map(|peer| peer.address.to_string()).unwrap_or_default(),
        action: "stream".to_owned(),
        subject: workload.map(ToString::to_string).unwrap_or_default(),
        outcome: Outcome::Refused,
        detail: throttle::told(format!("{}: {message}", cause.as_str().unwrap_or_default()), skipped),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_xds::Kind;

    use super::*;
    use crate::fleet::{DenialCause, Form};
    use crate::peer::WorkloadKey;
    use crate::store::Sqlite;

    fn denial() -> Denial {
        let (cause, message, at) = (DenialCause::NotAuthorized, "no certificate".to_owned(), SystemTime::UNIX_EPOCH);
        Denial { peer: None, cause, message, at }
    }

    #[test]
    fn a_flood_of_denials_is_counted_and_takes_no_place_from_answers() {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(folder.path()).expect("a store"));
        let lost = Arc::new(Lost::default());
        let (recorder, recording) = StoreRecorder::start(Arc::clone(&store), Arc::clone(&lost)).expect("a thread");
        let flood: u64 = 20_000;
        for _ in 0..flood {
            recorder.denied(denial());
        }
        for generation in 0..100 {
            recorder.answered(Answer {
                workload: WorkloadKey::new("shop", "web-1").expect("a workload"),
                node: String::new(),
                form: Form::Outrigger,
                kind: Kind::Cluster,
                generation,
                version: String::new(),
                refusals: Vec::new(),
                at: SystemTime::UNIX_EPOCH,
            });
        }
        recording.end();
        assert_eq!(store.answers(None, 1_000).expect("answers").len(), 100);
        let audited = u64::try_from(store.audit_log(None, 1_000).expect("entries").len()).expect("small");
        assert_eq!(audited + lost.denials.load(Ordering::Relaxed), flood, "each is put down or counted");
        assert!((1..1_000).contains(&audited), "{audited}");
        assert_eq!(lost.answers.load(Ordering::Relaxed), 0);
    }
}
