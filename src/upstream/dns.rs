//! Names of endpoints, resolved beside the traffic: every A and AAAA record, again when its time to live is
//! over, and the last good answer for as long as there is none better. No request ever waits for a query.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use outrigger_config::model::DnsOptions;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cluster::Cluster;
use super::registry::Clock;

/// Where addresses come from. The real one asks the system's name servers; tests script it.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name, and until when they hold.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Answer, String>>;
}

/// A future that is boxed because queries are rare.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a query gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Sorted, without repetition.
    pub addresses: Vec<IpAddr>,
    /// How long it holds.
    pub ttl: Duration,
}

/// The names in use and what is known of them.
#[derive(Default)]
pub struct Names {
    known: Mutex<HashMap<Arc<str>, Known>>,
    changed: Notify,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Arc<[IpAddr]>,
    due: Instant,
    options: DnsOptions,
    error: Option<Arc<str>>,
    failures: u32,
    /// In the current configuration, and so kept fresh.
    wanted: bool,
    /// A query is under way.
    asked: bool,
}

impl Known {
    fn nothing(options: DnsOptions, now: Instant) -> Self {
        Self { addresses: Arc::default(), due: now, options, error: None, failures: 0, wanted: false, asked: false }
    }
}

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learned {
    Nothing,
    Addresses,
    Failed,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("known", &self.known.lock().len()).finish()
    }
}

impl Names {
    /// What is known of a name now.
    #[must_use]
    pub fn addresses(&self, host: &str) -> Arc<[IpAddr]> {
        self.known.lock().get(host).map(|known| Arc::clone(&known.addresses)).unwrap_or_default()
    }

    /// Why the last query of a name failed, if it did.
    #[must_use]
    pub fn error(&self, host: &str) -> Option<Arc<str>> {
        self.known.lock().get(host).and_then(|known| known.error.clone())
    }

    /// Sets which names are wanted. What is known of others is forgotten.
    pub fn want(&self, names: impl Iterator<Item = (Arc<str>, DnsOptions)>, now: Instant) {
        let mut known = self.known.lock();
        for entry in known.values_mut() {
            entry.wanted = false;
        }
        for (host, options) in names {
            let entry = known.entry(host).or_insert_with(|| Known::nothing(options, now));
            entry.wanted = true;
            entry.options = options;
        }
        known.retain(|_, entry| entry.wanted);
        drop(known);
        self.changed.notify_one();
    }

    /// Asks for the names that are not known yet, so that a new configuration starts with addresses. Bounded by `limit`.
    pub async fn warm(
        &self,
        resolver: &dyn Resolve,
        names: impl Iterator<Item = (Arc<str>, DnsOptions)>,
        now: Instant,
        limit: Duration,
    ) {
        let mut fresh: HashMap<Arc<str>, DnsOptions> = {
            let known = self.known.lock();
            names.filter(|(host, _)| !known.contains_key(host)).collect()
        };
        let mut queue: Vec<Arc<str>> = fresh.keys().cloned().collect();
        let mut queries = Queries::default();
        let asked = async {
            loop {
                while let Some(host) = queue.pop_if(|_| queries.has_room()) {
                    queries.begin(resolver, host);
                }
                if queries.is_empty() {
                    return;
                }
                for (host, answer) in queries.finished().await {
                    // Only for a configuration that is not published yet: it is not wanted until then.
                    if let Some(options) = fresh.remove(&host) {
                        self.known.lock().entry(Arc::clone(&host)).or_insert_with(|| Known::nothing(options, now));
                        self.learn(&host, answer, now);
                    }
                }
            }
        };
        if tokio::time::timeout(limit, asked).await.is_err() {
            tracing::warn!("some names are not resolved yet; their endpoints join when they are");
        }
    }

    /// Records an answer, unless the name was given up meanwhile.
    fn learn(&self, host: &str, answer: Result<Answer, String>, now: Instant) -> Learned {
        let mut known = self.known.lock();
        let Some(entry) = known.get_mut(host) else { return Learned::Nothing };
        entry.asked = false;
        match answer {
            Ok(answer) if !answer.addresses.is_empty() => {
                entry.due = now + answer.ttl.min(entry.options.max_ttl).max(entry.options.min_ttl);
                entry.error = None;
                entry.failures = 0;
                let changed = *entry.addresses != *answer.addresses;
                if !changed {
                    return Learned::Nothing;
                }
                entry.addresses = answer.addresses.into();
                Learned::Addresses
            }
            other => {
                let why = match other {
                    Ok(_) => "the name has no address".to_owned(),
                    Err(why) => why,
                };
                if entry.failures == 0 {
                    tracing::warn!(host = %host, error = %why, "name resolution failed; the last good addresses stay");
                }
                entry.failures = entry.failures.saturating_add(1);
                // 1, 2, 4 … s, never longer than the longest time to live.
                let wait = Duration::from_secs(1 << entry.failures.min(6).saturating_sub(1));
                entry.due = now + wait.min(entry.options.max_ttl.max(Duration::from_secs(1)));
                entry.error = Some(why.into());
                Learned::Failed
            }
        }
    }

    /// Keeps the names fresh for ever. `clusters` gives the clusters in use; those whose name changed are rebuilt,
    /// for all answers that come close together at once. A name server that is slow for one name holds up no other.
    pub async fn keep_fresh(&self, resolver: &dyn Resolve, clock: &Clock, clusters: impl Fn() -> Vec<Arc<Cluster>>) {
        let mut queries = Queries::default();
        let mut news = News::default();
        loop {
            let now = clock();
            let next = self.begin_due(&mut queries, resolver, now);
            if news.since.is_some_and(|since| queries.is_empty() || now >= since + GATHER) {
                std::mem::take(&mut news).tell(&clusters(), self);
            }
            let wake = [next, news.since.map(|since| since + GATHER)].into_iter().flatten().min();
            let wait = wake.map_or(NOTHING_DUE, |at| at.saturating_duration_since(now));
            tokio::select! {
                finished = queries.finished() => self.learn_all(finished, &mut news, clock()),
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Asks once for every name that is due, and tells `clusters` what changed.
    pub async fn refresh(&self, resolver: &dyn Resolve, clock: &Clock, clusters: impl Fn() -> Vec<Arc<Cluster>>) {
        let mut queries = Queries::default();
        let mut news = News::default();
        let now = clock();
        loop {
            self.begin_due(&mut queries, resolver, now);
            if queries.is_empty() {
                break;
            }
            self.learn_all(queries.finished().await, &mut news, clock());
        }
        news.tell(&clusters(), self);
    }

    fn learn_all(&self, finished: Vec<Finished>, news: &mut News, now: Instant) {
        for (host, answer) in finished {
            let learned = self.learn(&host, answer, now);
            news.note(host, learned, now);
        }
    }

    fn begin_due<'a>(&self, queries: &mut Queries<'a>, resolver: &'a dyn Resolve, now: Instant) -> Option<Instant> {
        self.take_due(now, |host| {
            let room = queries.has_room();
            if room {
                queries.begin(resolver, Arc::clone(host));
            }
            room
        })
    }

    /// Gives every name that is due to `begin`, as long as it takes them. When the next one is due.
    fn take_due(&self, now: Instant, mut begin: impl FnMut(&Arc<str>) -> bool) -> Option<Instant> {
        let mut known = self.known.lock();
        let mut next: Option<Instant> = None;
        for (host, entry) in known.iter_mut().filter(|(_, entry)| entry.wanted && !entry.asked) {
            if entry.due > now {
                next = Some(next.map_or(entry.due, |at| at.min(entry.due)));
            } else {
                // Those there is no room for begin when a query has finished.
                entry.asked = begin(host);
            }
        }
        next
    }
}

/// What answers changed that clusters have not been told yet.
#[derive(Debug, Default)]
struct News {
    since: Option<Instant>,
    changed: HashSet<Arc<str>>,
    failed: HashSet<Arc<str>>,
}

impl News {
    fn note(&mut self, host: Arc<str>, learned: Learned, now: Instant) {
        let told = match learned {
            Learned::Nothing => return,
            Learned::Addresses => self.changed.insert(host),
            Learned::Failed => self.failed.insert(host),
        };
        debug_assert!(told || self.since.is_some(), "news have a beginning");
        self.since.get_or_insert(now);
    }

    fn tell(self, clusters: &[Arc<Cluster>], names: &Names) {
        let Self { since: _, changed, failed } = self;
        for cluster in clusters {
            if cluster.names().any(|host| changed.contains(host)) {
                cluster.rebuild(names);
            }
            for _ in cluster.names().filter(|host| failed.contains(*host)) {
                cluster.state().metrics.resolve_failed();
            }
        }
    }
}

/// A name with what a query gave.
type Finished = (Arc<str>, Result<Answer, String>);

/// Queries under way.
#[derive(Default)]
struct Queries<'a>(Vec<BoxFuture<'a, Finished>>);

impl<'a> Queries<'a> {
    fn has_room(&self) -> bool {
        self.0.len() < PARALLEL
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn begin(&mut self, resolver: &'a dyn Resolve, host: Arc<str>) {
        self.0.push(Box::pin(async move {
            let answer = tokio::time::timeout(QUERY_LIMIT, resolver.resolve(&host)).await;
            (host, answer.unwrap_or_else(|_| Err("the name servers did not answer in time".to_owned())))
        }));
    }

    /// Those that have finished; waits for the first, for ever if there is none. Cancel safe.
    async fn finished(&mut self) -> Vec<Finished> {
        std::future::poll_fn(|cx| {
            let mut finished = Vec::new();
            self.0.retain_mut(|query| match query.as_mut().poll(cx) {
                Poll::Ready(answer) => {
                    finished.push(answer);
                    false
                }
                Poll::Pending => true,
            });
            if finished.is_empty() { Poll::Pending } else { Poll::Ready(finished) }
        })
        .await
    }
}

/// Queries at once.
const PARALLEL: usize = 16;
/// How long one query may take.
const QUERY_LIMIT: Duration = Duration::from_secs(10);
/// Answers within this time change the endpoints of a cluster once.
const GATHER: Duration = Duration::from_millis(100);
/// Sleep without any name; a change of the configuration wakes.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// The system's name servers and hosts file.
pub struct SystemResolver(Result<TokioResolver, String>);

impl std::fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SystemResolver").finish()
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        let made = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
        Self(made.map_err(|error| format!("the system's resolver configuration cannot be used: {error}")))
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async move {
            let resolver = self.0.as_ref().map_err(Clone::clone)?;
            let lookup = resolver.lookup_ip(host).await.map_err(|error| error.to_string())?;
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            let mut addresses: Vec<IpAddr> = lookup.iter().collect();
            addresses.sort_unstable();
            addresses.dedup();
            Ok(Answer { addresses, ttl })
        })
    }
}

#[cfg(test)]
mod tests;
