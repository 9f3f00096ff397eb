//! The thread that writes.
//!
//! Jobs that wait are written in one transaction, each in a savepoint of its own: one that fails takes nothing with it,
//! and one wait for the disk serves all. A job is answered after the commit.

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, TransactionBehavior};

use crate::store::StoreError;

/// Jobs that may wait.
const MAX_QUEUE: usize = 1_024;
/// Jobs in one transaction.
const MAX_BATCH: usize = 128;

/// The thread, and the way to it. Dropping ends it after the jobs that wait.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Does its work inside a savepoint, and gives what answers its caller once the transaction has ended.
type Job = Box<dyn FnOnce(&Connection) -> Work + Send>;

/// What a job did.
struct Work {
    /// Whether it is to be kept.
    keep: bool,
    /// Tells the caller. With an error when the commit failed.
    answer: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, jobs) = mpsc::sync_channel(MAX_QUEUE);
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || write(connection, &jobs));
        let thread = thread.map_err(|error| StoreError::File(format!("the writer cannot be started: {error}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Runs `job` and waits for the commit.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.push(Box::new(move |connection| {
            let result = job(connection);
            Work {
                keep: result.is_ok(),
                answer: Box::new(move |committed| {
                    // A caller that is gone does not wait for the answer.
                    let _ = sender.send(committed.and(result));
                }),
            }
        }))?;
        receiver.recv().map_err(|_| StoreError::Closed)?
    }

    /// Has `job` run, and waits for nothing. A failure is logged.
    pub(super) fn send(
        &self,
        job: impl FnOnce(&Connection) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.push(Box::new(move |connection| {
            let result = job(connection);
            Work {
                keep: result.is_ok(),
                answer: Box::new(move |committed| {
                    if let Err(error) = result.and(committed) {
                        tracing::warn!(%error, "something could not be put down in the store");
                    }
                }),
            }
        }))
    }

    fn push(&self, job: Job) -> Result<(), StoreError> {
        match self.queue.as_ref().ok_or(StoreError::Closed)?.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(StoreError::Closed),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the store has panicked");
        }
    }
}

fn write(mut connection: Connection, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let rest = std::iter::from_fn(|| jobs.try_recv().ok()).take(MAX_BATCH - 1);
        let batch: Vec<Job> = std::iter::once(first).chain(rest).collect();
        transact(&mut connection, batch);
    }
    // With an orderly end there is one file, not three.
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "the store could not be closed in order; nothing is lost");
    }
}

/// Runs jobs in one transaction and answers their callers.
fn transact(connection: &mut Connection, batch: Vec<Job>) {
    let mut done = Vec::with_capacity(batch.len());
    let committed = (|| {
        let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for job in batch {
            let savepoint = transaction.savepoint()?;
            let work = job(&savepoint);
            let keep = work.keep;
            done.push(work);
            if keep {
                savepoint.commit()?;
            } else {
                savepoint.finish()?;
            }
        }
        transaction.commit()
    })();
    let failure = committed.err().map(|error| error.to_string());
    for work in done {
        (work.answer)(match &failure {
            None => Ok(()),
            Some(error) => Err(StoreError::File(format!("the change could not be written: {error}"))),
        });
    }
}
