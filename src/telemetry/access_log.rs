//! The access log: one JSON object a line, one line a request.
//!
//! The data path never waits for it. A line is formatted on the worker and copied into the worker's own
//! buffer; one thread empties the buffers and writes. When the buffers are full (the disk or the reader of
//! standard output is slow) lines are dropped and counted, never waited for.
//!
//! The thread is woken for the first line after a quiet time. While lines keep coming it looks by itself every
//! few milliseconds, so that a busy worker makes no system call for a line.
//!
//! Queries are not logged: they carry tokens and personal data more often than not. `path` ends at the `?`.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use outrigger_config::model;
use parking_lot::Mutex;

use super::Metrics;
use crate::base::{limits, worker};

mod entry;
mod stream;

pub use entry::Entry;
pub use stream::StreamEntry;

/// The access log of one proxy. Where it goes can be changed at any time ([`AccessLog::switch`]).
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: OnceLock<Thread>,
}

/// An opened destination, so that a file that cannot be opened is known before anything is changed.
#[derive(Debug)]
pub struct Sink(Output);

#[derive(Debug)]
enum Output {
    Off,
    Stdout,
    File { file: File, path: PathBuf },
}

#[derive(Debug)]
struct Shared {
    enabled: AtomicBool,
    queued: AtomicUsize,
    shards: [Mutex<Batch>; SHARDS],
    /// The writer sleeps until it is woken.
    idle: AtomicBool,
    commands: Mutex<Vec<(Batch, Command)>>,
    metrics: Arc<Metrics>,
}

/// Whole lines and how many.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: usize,
}

#[derive(Debug)]
enum Command {
    Switch(Sink),
    Reopen,
    Flush(mpsc::Sender<()>),
    Stop,
}

/// Buffers of workers; more workers than that share.
const SHARDS: usize = 8;
/// How long lines are gathered while they keep coming.
const GATHER: Duration = Duration::from_millis(10);
/// Buffers above this are given back after they were emptied.
const KEPT_CAPACITY: usize = 64 * 1024;

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    /// A log that is off and has no thread until it is switched on.
    #[must_use]
    pub fn off(metrics: &Arc<Metrics>) -> Arc<Self> {
        let shared = Shared {
            enabled: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            shards: Default::default(),
            idle: AtomicBool::new(false),
            commands: Mutex::default(),
            metrics: Arc::clone(metrics),
        };
        Arc::new(Self { shared: Arc::new(shared), writer: OnceLock::new() })
    }

    /// Opens a destination without changing anything yet.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(target: &model::AccessLog) -> io::Result<Sink> {
        Ok(Sink(match target {
            model::AccessLog::Off => Output::Off,
            model::AccessLog::Stdout => Output::Stdout,
            model::AccessLog::File(path) => Output::File { file: append(path)?, path: path.clone() },
        }))
    }

    /// Sends lines to another destination from now on. Lines already taken go to the one before.
    ///
    /// # Errors
    /// When the writer thread cannot be started.
    pub fn switch(&self, sink: Sink) -> io::Result<()> {
        let on = !matches!(sink.0, Output::Off);
        if !on && self.writer.get().is_none() {
            return Ok(());
        }
        if self.writer.get().is_none() {
            let shared = Arc::clone(&self.shared);
            let handle = thread::Builder::new().name("access-log".into()).spawn(move || write_loop(&shared))?;
            // Only the control thread switches, so nobody can have been faster.
            let _ = self.writer.set(handle.thread().clone());
        }
        self.command(Command::Switch(sink));
        self.shared.enabled.store(on, Ordering::Release);
        Ok(())
    }

    /// Takes one line, or drops and counts it when the writer is behind. Never waits.
    pub fn submit(&self, entry: &Entry<'_>) {
        self.submit_line(|line| entry.write(line));
    }

    /// As [`AccessLog::submit`], for a connection whose bytes were handed on unread.
    pub fn submit_stream(&self, entry: &StreamEntry<'_>) {
        self.submit_line(|line| entry.write(line));
    }

    fn submit_line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_on() {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            write(line);
            self.push(line);
        });
    }

    /// Whether lines are wanted, for callers that would have to gather something for one.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.enabled.load(Ordering::Relaxed)
    }

    /// Opens the file again under its name (after a rotation moved it). A failure keeps the open one.
    pub fn reopen(&self) {
        // Without a writer there is no file, and nobody to take the command.
        if self.writer.get().is_some() {
            self.command(Command::Reopen);
        }
    }

    /// Waits until everything taken so far is written, at most `limit`. True when it is.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        if self.writer.get().is_none() {
            return true;
        }
        let (done, written) = mpsc::channel();
        self.command(Command::Flush(done));
        written.recv_timeout(limit).is_ok()
    }

    fn push(&self, line: &[u8]) {
        let shared = &*self.shared;
        let queued = shared.queued.fetch_add(1, Ordering::Relaxed) + 1;
        let mut shard = shared.shards[worker::index() % SHARDS].lock();
        if queued > limits::ACCESS_LOG_QUEUE || shard.bytes.len() + line.len() > limits::ACCESS_LOG_BYTES {
            drop(shard);
            shared.queued.fetch_sub(1, Ordering::Relaxed);
            shared.metrics.proxy.log_dropped(1);
            return;
        }
        shard.bytes.extend_from_slice(line);
        shard.lines += 1;
        drop(shard);
        // The writer sets `idle` before it looks into the shards for the last time, and both sides take the
        // shard's lock in between: either it saw this line, or `idle` is seen here.
        if shared.idle.load(Ordering::Relaxed) || queued == limits::ACCESS_LOG_QUEUE / 2 {
            self.wake();
        }
    }

    fn command(&self, command: Command) {
        // The lines from before the command go with it, so that each is written where it belongs.
        let mut commands = self.shared.commands.lock();
        let mut before = Batch::default();
        self.shared.take(&mut before);
        commands.push((before, command));
        drop(commands);
        self.wake();
    }

    fn wake(&self) {
        self.shared.idle.store(false, Ordering::Relaxed);
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        if self.writer.get().is_some() {
            self.command(Command::Stop);
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn write_loop(shared: &Shared) {
    let mut writer = Writer { shared, output: Output::Off, failing: false };
    let mut batch = Batch::default();
    loop {
        let commands = {
            let mut commands = shared.commands.lock();
            shared.take(&mut batch);
            std::mem::take(&mut *commands)
        };
        let nothing_to_do = batch.lines == 0 && commands.is_empty();
        for (before, command) in commands {
            writer.write(&before);
            match command {
                Command::Switch(sink) => writer.output = sink.0,
                Command::Reopen => writer.output.reopen(),
                Command::Flush(done) => drop(done.send(())),
                Command::Stop => return,
            }
        }
        writer.write(&batch);
        batch.lines = 0;
        batch.bytes.clear();
        batch.bytes.shrink_to(KEPT_CAPACITY);
        if nothing_to_do {
            shared.idle.store(true, Ordering::Relaxed);
            if shared.is_empty() {
                thread::park();
            }
            shared.idle.store(false, Ordering::Relaxed);
        } else {
            thread::park_timeout(GATHER);
        }
    }
}

/// The state of the writing thread.
struct Writer<'a> {
    shared: &'a Shared,
    output: Output,
    failing: bool,
}

impl Writer<'_> {
    fn write(&mut self, batch: &Batch) {
        if batch.lines == 0 {
            return;
        }
        let result = self.output.write(&batch.bytes);
        if let Err(error) = &result {
            self.shared.metrics.proxy.log_dropped(batch.lines as u64);
            if !self.failing {
                tracing::error!(%error, "writing the access log failed; lines are dropped until it works again");
            }
        }
        self.failing = result.is_err();
    }
}

impl Shared {
    /// Moves all waiting lines to the end of `batch`.
    fn take(&self, batch: &mut Batch) {
        let mut taken = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            taken += std::mem::take(&mut shard.lines);
            if batch.bytes.is_empty() {
                std::mem::swap(&mut batch.bytes, &mut shard.bytes);
            } else {
                batch.bytes.extend_from_slice(&shard.bytes);
                shard.bytes.clear();
            }
        }
        batch.lines += taken;
        self.queued.fetch_sub(taken, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().lines == 0) && self.commands.lock().is_empty()
    }
}

impl Output {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Off => Ok(()),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File { file, .. } => file.write_all(lines),
        }
    }

    fn reopen(&mut self) {
        match self {
            Self::Off | Self::Stdout => {}
            Self::File { file, path } => match append(path) {
                Ok(new) => *file = new,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "the access log could not be reopened");
                }
            },
        }
    }
}

#[cfg(test)]
mod tests;
