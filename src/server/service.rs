//! The connections accepted under one listener name, and in which groups they can be told to finish.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::model::{ClientCertificate, Listener, ListenerTls, TlsMode};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::base::drain::{Drain, Watch};
use crate::telemetry::rehearsal::Rehearsal;
use crate::telemetry::{ListenerMetrics, Metrics, Refusals};

/// The connections accepted under one listener name. They drain together when the name leaves the
/// configuration, also when its socket stays; and in groups when the listener becomes stricter.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: Arc<str>,
    pub(super) metrics: Arc<ListenerMetrics>,
    pub(super) rehearsal: Arc<Rehearsal>,
    pub(super) refusals: Refusals,
    open: AtomicUsize,
    empty: Notify,
    groups: Mutex<Groups>,
}

/// The groups of a service.
#[derive(Debug, Default)]
struct Groups {
    /// By standing.
    now: [Arc<Group>; Standing::ALL.len()],
    /// Those that were set apart, as long as they have connections.
    apart: Vec<Weak<Group>>,
}

/// How well a connection is secured: what decides whether a stricter listener still wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not said enough yet. It will be judged by the newest configuration.
    Unknown,
    /// Plaintext.
    Plaintext,
    /// TLS without a certificate of the caller's.
    Anonymous,
    /// TLS with a verified certificate of the caller's.
    Verified,
    /// Handed on without being terminated.
    Passed,
    /// As [`Standing::Anonymous`], over QUIC.
    QuicAnonymous,
    /// As [`Standing::Verified`], over QUIC.
    QuicVerified,
}

/// Connections of one standing that were told nothing yet, or that were told to finish together.
#[derive(Debug, Default)]
pub(super) struct Group {
    open: AtomicUsize,
    empty: Notify,
    drain: Drain,
    closed: watch::Sender<bool>,
}

/// A place in a service and in one of its groups, until dropped.
#[derive(Debug)]
pub(super) struct Membership {
    service: Arc<Service>,
    group: Arc<Group>,
}

impl Standing {
    const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Plaintext,
        Self::Anonymous,
        Self::Verified,
        Self::Passed,
        Self::QuicAnonymous,
        Self::QuicVerified,
    ];

    /// Whether a listener with this TLS takes such connections, and with HTTP/3 where it has that.
    pub(super) fn fits(self, tls: Option<&ListenerTls>, http3: bool) -> bool {
        let over_quic = matches!(self, Self::QuicAnonymous | Self::QuicVerified);
        if over_quic && !http3 {
            return false;
        }
        let Some(tls) = tls else { return true };
        match self {
            Self::Unknown | Self::Verified | Self::Passed | Self::QuicVerified => true,
            Self::Plaintext => matches!(tls.mode, TlsMode::Off | TlsMode::Permissive),
            Self::Anonymous | Self::QuicAnonymous => {
                tls.mode == TlsMode::Off || tls.client_certificate != ClientCertificate::Required
            }
        }
    }
}

impl Service {
    pub(super) fn new(name: &Arc<str>, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::clone(name),
            metrics: metrics.listener(name),
            rehearsal: metrics.rehearsals.listener(name, Instant::now()),
            refusals: Refusals::default(),
            open: AtomicUsize::new(0),
            empty: Notify::new(),
            groups: Mutex::default(),
        })
    }

    /// Counts a connection in. What it is will be seen.
    pub(super) fn join(self: &Arc<Self>) -> Membership {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.metrics.accepted();
        Membership { service: Arc::clone(self), group: self.enter(Standing::Unknown) }
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many connections a change of a listener's settings makes unfit.
    pub(super) fn unfit(&self, before: &Listener, after: &Listener) -> Option<usize> {
        let groups = self.groups.lock();
        let mut unfit = newly_unfit(before, after).map(|at| groups.now[at].open.load(Ordering::SeqCst)).peekable();
        unfit.peek()?;
        Some(unfit.sum())
    }

    /// Sets those apart that a change of the listener's settings, which are in effect now, makes unfit.
    pub(super) fn set_unfit_apart(&self, before: &Listener, after: &Listener) -> Vec<Arc<Group>> {
        let mut groups = self.groups.lock();
        let apart: Vec<_> = newly_unfit(before, after).map(|at| std::mem::take(&mut groups.now[at])).collect();
        groups.apart.retain(|group| group.strong_count() > 0);
        groups.apart.extend(apart.iter().map(Arc::downgrade));
        apart
    }

    /// Tells connections to finish, within `spread`; those accepted later are told at once.
    pub(super) fn begin_drain(&self, spread: Duration) {
        for group in &self.groups.lock().now {
            group.drain.start(spread);
        }
    }

    /// Waits until no connection is open. Cancel safe.
    pub(super) async fn drained(&self) {
        until_none(&self.open, &self.empty).await;
    }

    /// Closes what is still open, also what was set apart, and what comes later.
    pub(super) fn close(&self) {
        let groups = self.groups.lock();
        groups.now.iter().for_each(|group| group.close());
        groups.apart.iter().filter_map(Weak::upgrade).for_each(|group| group.close());
    }

    fn enter(&self, standing: Standing) -> Arc<Group> {
        let groups = self.groups.lock();
        // Under the lock: one that enters while the group is set apart is in the one or in the other.
        let group = &groups.now[standing as usize];
        group.open.fetch_add(1, Ordering::SeqCst);
        Arc::clone(group)
    }
}

/// The standings that fit a listener before a change and not after it, by index.
fn newly_unfit(before: &Listener, after: &Listener) -> impl Iterator<Item = usize> {
    let fits = |standing: Standing, listener: &Listener| standing.fits(listener.tls.as_ref(), listener.http3.is_some());
    Standing::ALL
        .into_iter()
        .filter(move |standing| fits(*standing, before) && !fits(*standing, after))
        .map(|standing| standing as usize)
}

async fn until_none(open: &AtomicUsize, empty: &Notify) {
    loop {
        // Enabled before the count is read, so that the last connection's end is not missed in between.
        let mut told = pin!(empty.notified());
        told.as_mut().enable();
        if open.load(Ordering::SeqCst) == 0 {
            return;
        }
        told.await;
    }
}

impl Group {
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn begin_drain(&self, spread: Duration) {
        self.drain.start(spread);
    }

    /// Waits until none of its connections is open. Cancel safe.
    pub(super) async fn drained(&self) {
        until_none(&self.open, &self.empty).await;
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn leave(&self) {
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.empty.notify_waiters();
        }
    }
}

impl Membership {
    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The connection has shown what it is. Whether it fits must be asked of the configuration after this: a
    /// change that comes later finds it in its group.
    pub(super) fn stand(&mut self, standing: Standing) {
        let group = self.service.enter(standing);
        std::mem::replace(&mut self.group, group).leave();
    }

    /// Tells when the connection should finish.
    pub(super) fn watch(&self) -> Watch {
        self.group.drain.watch()
    }

    /// Tells when it must be gone.
    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.group.closed.subscribe()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.group.leave();
        self.service.metrics.closed();
        if self.service.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.service.empty.notify_waiters();
        }
    }
}
