//! What proxies answer and who is turned away, from streams to the store. Streams do not wait for a disk: what comes is
//! queued for a thread that does. When the queue is full, answers are dropped and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::fleet::{Answer, Denial, Recorder};
use crate::store::{self, AuditEntry, Outcome, Store, Verdict};

/// Answers and denials that may wait.
const MAX_QUEUE: usize = 4_096;
/// Answers that are written in one step.
const MAX_BATCH: usize = 256;

/// Puts down what streams tell.
#[derive(Debug)]
pub(super) struct StoreRecorder {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

/// The thread that does it.
#[derive(Debug)]
pub(super) struct Recording {
    queue: SyncSender<Item>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Item {
    Answer(Answer),
    Denial(Denial),
    End,
}

impl StoreRecorder {
    /// Starts the thread.
    pub(super) fn start(store: Arc<dyn Store>) -> io::Result<(Self, Recording)> {
        let (queue, items) = sync_channel(MAX_QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        let thread = thread::Builder::new().name("recorder".to_owned());
        let thread = thread.spawn(move || record(&*store, &items, &lost))?;
        Ok((Self { queue: queue.clone(), dropped }, Recording { queue, thread }))
    }

    fn push(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Recording {
    /// Ends the thread after what waits. Blocks.
    pub(super) fn end(self) {
        // A thread that is gone needs no end.
        let _ = self.queue.send(Item::End);
        if self.thread.join().is_err() {
            tracing::error!("the thread that puts answers down has panicked");
        }
    }
}

impl Recorder for StoreRecorder {
    fn answered(&self, answer: Answer) {
        self.push(Item::Answer(answer));
    }

    fn denied(&self, denial: Denial) {
        self.push(Item::Denial(denial));
    }
}

fn record(store: &dyn Store, items: &Receiver<Item>, dropped: &AtomicU64) {
    let mut ended = false;
    while !ended && let Ok(first) = items.recv() {
        let rest = std::iter::from_fn(|| items.try_recv().ok()).take(MAX_BATCH - 1);
        let mut answers = Vec::new();
        for item in std::iter::once(first).chain(rest) {
            match item {
                Item::End => ended = true,
                Item::Answer(answer) => answers.extend(verdicts(answer)),
                Item::Denial(denial) => {
                    if let Err(error) = store.audit(entry(denial)) {
                        tracing::error!(%error, "a denied stream could not be put down in the audit log");
                    }
                }
            }
        }
        if !answers.is_empty()
            && let Err(error) = store.record_answers(answers)
        {
            tracing::warn!(%error, "answers of proxies were not put down");
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "answers of proxies came faster than they could be put down");
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

fn entry(denial: Denial) -> AuditEntry {
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
        detail: format!("{}: {message}", cause.as_str().unwrap_or_default()),
    }
}
