//! Draining: one side says "finish", many connections hear it, and the first side waits until all are done.
//!
//! A [`Drain`] is held by what is drained (a listener); every connection holds a [`Watch`]. A connection
//! counts as live while its watch lives. Closing is spread: each connection is told a moment of its own
//! inside the spread window, so that clients do not reconnect all at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

/// When and how fast connections should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// When the drain began.
    pub since: Instant,
    /// Idle connections close, and busy ones are told, at a random moment within this time.
    pub spread: Duration,
}

impl Notice {
    /// A random share of the spread: how long after [`Notice::since`] one connection goes.
    #[must_use]
    pub fn own_share(&self) -> Duration {
        let random = RandomState::new().build_hasher().finish();
        self.spread.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// The side that starts a drain and waits for it.
#[derive(Debug)]
pub struct Drain {
    notice: watch::Sender<Option<Notice>>,
    begun: Arc<AtomicBool>,
    live: mpsc::Sender<()>,
    gone: mpsc::Receiver<()>,
}

/// The side of one connection.
#[derive(Debug, Clone)]
pub struct Watch {
    notice: watch::Receiver<Option<Notice>>,
    begun: Arc<AtomicBool>,
    _live: mpsc::Sender<()>,
}

impl Default for Drain {
    fn default() -> Self {
        let (notice, _) = watch::channel(None);
        let (live, gone) = mpsc::channel(1);
        Self { notice, begun: Arc::default(), live, gone }
    }
}

impl Drain {
    /// A new watch for one connection.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { notice: self.notice.subscribe(), begun: Arc::clone(&self.begun), _live: self.live.clone() }
    }

    /// Tells every connection, present and future, to finish. The first call counts.
    pub fn start(&self, spread: Duration) {
        // First, so that whoever is woken by the notice sees it.
        self.begun.store(true, Ordering::Release);
        self.notice.send_if_modified(|notice| {
            if notice.is_some() {
                return false;
            }
            *notice = Some(Notice { since: Instant::now(), spread });
            true
        });
    }

    /// Waits until the last watch is gone. Cancel safe only in that it consumes the drain.
    pub async fn finished(self) {
        let Self { notice: _notice, begun: _, live, mut gone } = self;
        drop(live);
        while gone.recv().await.is_some() {}
    }
}

impl Watch {
    /// The notice, if the drain has begun.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        *self.notice.borrow()
    }

    /// Whether the drain has begun. One atomic load, for every request.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits for the drain to begin; never returns if the [`Drain`] was dropped without one. Cancel safe.
    pub async fn begun(&mut self) -> Notice {
        loop {
            if let Some(notice) = *self.notice.borrow_and_update() {
                return notice;
            }
            if self.notice.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finished_waits_for_the_last_watch() {
        let drain = Drain::default();
        let mut watch = drain.watch();
        drain.start(Duration::ZERO);
        watch.begun().await;
        let waiter = tokio::spawn(drain.finished());
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(watch);
        waiter.await.expect("the drain finishes");
    }

    #[tokio::test]
    async fn a_watch_taken_after_the_start_sees_the_notice() {
        let drain = Drain::default();
        drain.start(Duration::from_secs(1));
        assert!(drain.watch().has_begun());
        assert_eq!(drain.watch().notice().map(|n| n.spread), Some(Duration::from_secs(1)));
    }
}
