//! Worker threads: each runs its own single-threaded runtime, and a connection lives and dies on one of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime;
use tokio::sync::mpsc;

use crate::base::worker;

/// The worker threads. They end when the last clone of this is dropped; what still ran on them is cancelled.
#[derive(Debug, Clone)]
pub struct Workers {
    /// Not bounded: the senders are the control thread and the acceptors, and those are bounded by the
    /// connection limits of their listeners.
    jobs: Arc<[mpsc::UnboundedSender<Job>]>,
    connections: Arc<[AtomicUsize]>,
}

type Job = Box<dyn FnOnce() + Send>;

/// A place for a connection on a worker: counted until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    connections: Arc<[AtomicUsize]>,
    index: usize,
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(count: usize) -> io::Result<Self> {
        let count = count.max(1);
        Ok(Self {
            jobs: (0..count).map(|index| start_worker(index, count)).collect::<io::Result<_>>()?,
            connections: (0..count).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.jobs.len()
    }

    /// Runs a job on a worker, inside its runtime. A job must not block: connections wait behind it.
    pub fn run(&self, index: usize, job: impl FnOnce() + Send + 'static) {
        // A worker ends only with the last clone of its senders, of which this is one.
        let sent = self.jobs[index % self.jobs.len()].send(Box::new(job));
        debug_assert!(sent.is_ok(), "a worker lives as long as its senders");
    }

    /// Takes a place on the worker with the fewest connections; among equals the current one, then in order.
    pub(super) fn take_seat(&self) -> Seat {
        let count = self.connections.len();
        let here = worker::index();
        let load = |index: &usize| self.connections[*index].load(Ordering::Relaxed);
        let index = (here..here + count).map(|index| index % count).min_by_key(load).unwrap_or(0);
        self.connections[index].fetch_add(1, Ordering::Relaxed);
        Seat { connections: Arc::clone(&self.connections), index }
    }

    /// Takes a place on one worker, whatever the others have.
    pub(super) fn seat_on(&self, index: usize) -> Seat {
        let index = index % self.connections.len();
        self.connections[index].fetch_add(1, Ordering::Relaxed);
        Seat { connections: Arc::clone(&self.connections), index }
    }

    /// Open connections of each worker.
    #[must_use]
    pub fn loads(&self) -> Vec<usize> {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Seat {
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections[self.index].fetch_sub(1, Ordering::Relaxed);
    }
}

fn start_worker(index: usize, count: usize) -> io::Result<mpsc::UnboundedSender<Job>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        worker::enter(index, count);
        runtime.block_on(async {
            while let Some(job) = queue.recv().await {
                job();
            }
        });
    })?;
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn jobs_run_inside_the_runtime_of_their_worker() {
        let workers = Workers::start(2).expect("workers");
        let (report, reports) = channel();
        for index in 0..2 {
            let report = report.clone();
            workers.run(index, move || {
                tokio::spawn(async move {
                    let _ = report.send((index, worker::index(), worker::count()));
                });
            });
        }
        let mut seen: Vec<_> = (0..2).map(|_| reports.recv_timeout(LONG).expect("a report")).collect();
        seen.sort_unstable();
        assert_eq!(seen, [(0, 0, 2), (1, 1, 2)]);
    }

    #[test]
    fn seats_go_to_the_least_loaded_worker_and_are_given_back() {
        let workers = Workers::start(3).expect("workers");
        let mut seats: Vec<Seat> = (0..6).map(|_| workers.take_seat()).collect();
        assert_eq!(workers.loads(), [2, 2, 2]);
        seats.retain(|seat| seat.index() != 1);
        assert_eq!(workers.loads(), [2, 0, 2]);
        assert_eq!(workers.loads(), [2, 0, 2]);
        assert_eq!(workers.take_seat().index(), 1);
        assert_eq!(workers.loads(), [2, 0, 2]);
    }

    #[test]
    fn dropping_the_workers_cancels_what_runs_on_them() {
        struct Tell(std::sync::mpsc::Sender<()>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let workers = Workers::start(1).expect("a worker");
        let (cancelled, was_cancelled) = channel();
        let tell = Tell(cancelled);
        workers.run(0, move || {
            tokio::spawn(async move {
                let _tell = tell;
                std::future::pending::<()>().await;
            });
        });
        drop(workers);
        was_cancelled.recv_timeout(LONG).expect("the task is dropped with its runtime");
    }
}
