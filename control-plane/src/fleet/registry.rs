//! Who is connected, and who was lately.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::status::{Names, millis};
use super::{Client, Denial, DenialCause, Live, Protocol, ProxyState, ProxyStatus, Recorder, Report};
use crate::peer::{Peer, WorkloadKey};
use crate::xds::limits::{MAX_REMEMBERED, MAX_STREAMS, MAX_STREAMS_PER_WORKLOAD, REMEMBERED_FOR};

/// The proxies of the mesh. Clones are the same fleet.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

/// What came of waiting for a generation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Synced {
    /// How many connected proxies took it.
    pub synced: usize,
    /// Those that refused something of it.
    pub refused: Vec<ProxyStatus>,
    /// Those that have not answered.
    pub waiting: Vec<ProxyStatus>,
}

impl Synced {
    /// True when every connected proxy took it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.waiting.is_empty()
    }
}

impl Fleet {
    /// An empty fleet, whose answers and denials go to `recorder`.
    #[must_use]
    pub fn new(recorder: Arc<dyn Recorder>) -> Self {
        let (progress, _) = watch::channel(());
        Self { inner: Arc::new(Inner { recorder, entries: Mutex::default(), progress }) }
    }

    /// Every proxy, connected or lately seen, by workload, node and time of connection. Names of resources are left out.
    #[must_use]
    pub fn status(&self) -> Vec<ProxyStatus> {
        self.rows(|_| true, Names::Counted)
    }

    /// The streams of one workload, with the names of all resources.
    #[must_use]
    pub fn status_of(&self, workload: &WorkloadKey) -> Vec<ProxyStatus> {
        self.rows(|entry| entry.client.workload == *workload, Names::Listed)
    }

    /// How many streams are open.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.inner.entries.lock().live
    }

    /// Waits until every connected proxy has answered all of `generation`, or a newer one, or until `limit` has passed.
    ///
    /// Cancel safe: nothing is lost by giving up.
    pub async fn await_synced(&self, generation: u64, limit: Duration) -> Synced {
        let mut progress = self.inner.progress.subscribe();
        let answered = async {
            while !self.is_answered(generation) {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whether all have answered or not is told by the rows.
        let _ = tokio::time::timeout(limit, answered).await;
        self.standing(generation)
    }

    /// Enters a stream.
    pub(crate) fn connect(&self, client: Client, node: Node, live: Arc<dyn Live>) -> Result<Connection, String> {
        let workload = client.workload.clone();
        let mut entries = self.inner.entries.lock();
        if entries.live >= MAX_STREAMS {
            return Err(format!("there are {MAX_STREAMS} streams already; try another control plane, or later"));
        }
        let of_workload = entries.by_workload.get(&workload).map_or(&[][..], Vec::as_slice);
        if of_workload.iter().filter(|entry| entry.is_live()).count() >= MAX_STREAMS_PER_WORKLOAD {
            return Err(format!("workload {workload} has {MAX_STREAMS_PER_WORKLOAD} streams already; close one first"));
        }
        entries.next_id += 1;
        let id = entries.next_id;
        let entry = Entry { id, client, node, connected_at: SystemTime::now(), presence: Presence::Live(live) };
        entries.enter(entry);
        drop(entries);
        self.progressed();
        Ok(Connection { fleet: self.clone(), workload, id })
    }

    /// Says that some stream has moved on.
    pub(crate) fn progressed(&self) {
        // Nobody may be waiting.
        let _ = self.inner.progress.send(());
    }

    pub(crate) fn recorder(&self) -> &dyn Recorder {
        &*self.inner.recorder
    }

    /// Records that a stream was turned away.
    pub(crate) fn denied(&self, peer: Option<&Peer>, cause: DenialCause, message: &str) {
        let denial = Denial { peer: peer.cloned(), cause, message: message.to_owned(), at: SystemTime::now() };
        self.inner.recorder.denied(denial);
    }

    fn is_answered(&self, generation: u64) -> bool {
        let live: Vec<Arc<dyn Live>> = self.inner.entries.lock().all().filter_map(Entry::live).collect();
        live.iter().all(|live| Standing::at(live.progress(), generation) != Standing::Waiting)
    }

    fn standing(&self, generation: u64) -> Synced {
        let mut all = Synced { synced: 0, refused: Vec::new(), waiting: Vec::new() };
        for row in self.status() {
            match Standing::at((row.state, row.generation, row.accepted_generation), generation) {
                Standing::Synced => all.synced += 1,
                Standing::Refused => all.refused.push(row),
                Standing::Waiting => all.waiting.push(row),
                Standing::Away => {}
            }
        }
        all
    }

    fn rows(&self, wanted: impl Fn(&Entry) -> bool, names: Names) -> Vec<ProxyStatus> {
        let now = SystemTime::now();
        let mut entries = self.inner.entries.lock();
        entries.forget(now);
        let wanted: Vec<Entry> = entries.all().filter(|entry| wanted(entry)).cloned().collect();
        // Streams are asked when the registry is free again.
        drop(entries);
        let mut rows: Vec<_> = wanted.iter().map(|entry| (entry.id, entry.row(now, names))).collect();
        rows.sort_by(|(a_id, a), (b_id, b)| (&a.workload, &a.node, a_id).cmp(&(&b.workload, &b.node, b_id)));
        rows.into_iter().map(|(_, row)| row).collect()
    }

    fn disconnect(&self, workload: &WorkloadKey, id: u64) {
        let live = self.inner.entries.lock().find(workload, id).and_then(|entry| entry.live());
        let Some(live) = live else { return };
        let mut report = live.report();
        // What it held is of no use any more, and would be kept for as long as it is remembered.
        for kind in &mut report.kinds {
            kind.names = Vec::new();
        }
        let now = SystemTime::now();
        let mut entries = self.inner.entries.lock();
        if let Some(entry) = entries.find(workload, id) {
            entry.presence = Presence::Gone { at: now, report: Arc::new(report) };
            entries.live -= 1;
            entries.gone += 1;
        }
        if entries.gone > MAX_REMEMBERED {
            entries.forget(now);
        }
        drop(entries);
        self.progressed();
    }
}

/// A stream's place in the fleet. Dropping it means that the stream is gone.
pub(crate) struct Connection {
    fleet: Fleet,
    workload: WorkloadKey,
    id: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.fleet.disconnect(&self.workload, self.id);
    }
}

/// What a proxy says of itself, and how it came. For display alone.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) user_agent: String,
    pub(crate) protocol: Protocol,
    pub(crate) address: Option<std::net::SocketAddr>,
}

struct Inner {
    recorder: Arc<dyn Recorder>,
    entries: Mutex<Entries>,
    progress: watch::Sender<()>,
}

#[derive(Default)]
struct Entries {
    by_workload: HashMap<WorkloadKey, Vec<Entry>>,
    next_id: u64,
    live: usize,
    gone: usize,
}

impl Entries {
    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.by_workload.values().flatten()
    }

    fn find(&mut self, workload: &WorkloadKey, id: u64) -> Option<&mut Entry> {
        self.by_workload.get_mut(workload)?.iter_mut().find(|entry| entry.id == id)
    }

    /// Adds a stream, in place of the one that the same proxy had before.
    fn enter(&mut self, new: Entry) {
        let of_workload = self.by_workload.entry(new.client.workload.clone()).or_default();
        let before = of_workload.len();
        of_workload.retain(|entry| entry.is_live() || !entry.is_same_proxy(&new));
        self.gone -= before - of_workload.len();
        of_workload.push(new);
        self.live += 1;
    }

    /// Forgets those that left too long ago, and the longest gone of too many.
    fn forget(&mut self, now: SystemTime) {
        let mut left: Vec<SystemTime> = self.all().filter_map(Entry::left_at).collect();
        left.sort_unstable();
        let oldest_kept = left.len().checked_sub(MAX_REMEMBERED).and_then(|first| left.get(first)).copied();
        let is_kept = |at: SystemTime| {
            now.duration_since(at).unwrap_or_default() <= REMEMBERED_FOR
                && oldest_kept.is_none_or(|oldest| at >= oldest)
        };
        let mut gone = 0;
        self.by_workload.retain(|_, entries| {
            entries.retain(|entry| entry.left_at().is_none_or(is_kept));
            gone += entries.iter().filter(|entry| !entry.is_live()).count();
            !entries.is_empty()
        });
        self.gone = gone;
    }
}

#[derive(Clone)]
struct Entry {
    id: u64,
    client: Client,
    node: Node,
    connected_at: SystemTime,
    presence: Presence,
}

#[derive(Clone)]
enum Presence {
    Live(Arc<dyn Live>),
    Gone { at: SystemTime, report: Arc<Report> },
}

impl Entry {
    fn live(&self) -> Option<Arc<dyn Live>> {
        match &self.presence {
            Presence::Live(live) => Some(Arc::clone(live)),
            Presence::Gone { .. } => None,
        }
    }

    fn is_live(&self) -> bool {
        self.left_at().is_none()
    }

    fn left_at(&self) -> Option<SystemTime> {
        match &self.presence {
            Presence::Live(_) => None,
            Presence::Gone { at, .. } => Some(*at),
        }
    }

    fn is_same_proxy(&self, other: &Self) -> bool {
        self.client == other.client && self.node.id == other.node.id && self.node.protocol == other.node.protocol
    }

    fn row(&self, now: SystemTime, names: Names) -> ProxyStatus {
        let report = match &self.presence {
            Presence::Live(live) => Arc::new(live.report()),
            Presence::Gone { report, .. } => Arc::clone(report),
        };
        let left_at = self.left_at();
        let since = left_at.or(report.answered_at).unwrap_or(self.connected_at);
        ProxyStatus {
            workload: self.client.workload.to_string(),
            spiffe_id: self.client.spiffe_id.as_deref().map(str::to_owned),
            node: self.node.id.clone(),
            user_agent: self.node.user_agent.clone(),
            form: self.client.form,
            protocol: self.node.protocol,
            address: self.node.address.map(|address| address.to_string()),
            state: if left_at.is_some() { ProxyState::Disconnected } else { report.state },
            generation: report.generation,
            accepted_generation: report.accepted_generation,
            connected_at: millis(self.connected_at),
            disconnected_at: left_at.map(millis),
            answered_at: report.answered_at.map(millis),
            age: millis(now).saturating_sub(millis(since)),
            kinds: report.kinds.iter().map(|kind| kind.status(names)).collect(),
        }
    }
}

/// How a proxy stands to a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Synced,
    Refused,
    Waiting,
    Away,
}

impl Standing {
    fn at((state, generation, accepted): (ProxyState, u64, Option<u64>), wanted: u64) -> Self {
        match state {
            ProxyState::Disconnected => Self::Away,
            ProxyState::Refused if generation >= wanted => Self::Refused,
            ProxyState::Synced if accepted.is_some_and(|accepted| accepted >= wanted) => Self::Synced,
            ProxyState::Synced | ProxyState::Sent | ProxyState::Refused => Self::Waiting,
        }
    }
}
