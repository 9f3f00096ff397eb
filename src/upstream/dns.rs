//! Names of endpoints, resolved beside the traffic: every A and AAAA record, again when its time to live is
//! over, and the last good answer for as long as there is none better. No request ever waits for a query.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use outrigger_config::model::DnsOptions;
use parking_lot::Mutex;
use tokio::sync::Notify;

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
    /// In the current configuration.
    wanted: bool,
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
            let entry = known.entry(host).or_insert_with(|| Known::new(options, now));
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
        let fresh: Vec<_> = {
            let known = self.known.lock();
            names.filter(|(host, _)| !known.contains_key(host)).collect()
        };
        let asked = async {
            for group in fresh.chunks(PARALLEL) {
                let answers = join_all(group.iter().map(|(host, _)| resolver.resolve(host)).collect()).await;
                let mut known = self.known.lock();
                for ((host, options), answer) in group.iter().zip(answers) {
                    known.entry(Arc::clone(host)).or_insert_with(|| Known::new(*options, now)).learn(host, answer, now);
                }
            }
        };
        if tokio::time::timeout(limit, asked).await.is_err() {
            tracing::warn!("some names are not resolved yet; their endpoints join when they are");
        }
    }

    /// Asks for every name whose answer no longer holds. Gives those whose addresses changed.
    pub async fn refresh(&self, resolver: &dyn Resolve, clock: &Clock) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        for group in self.due(clock()).chunks(PARALLEL) {
            let answers = join_all(group.iter().map(|host| resolver.resolve(host)).collect()).await;
            let now = clock();
            let mut known = self.known.lock();
            for (host, answer) in group.iter().zip(answers) {
                // What nobody wants any more by now is not to come back.
                if known.get_mut(host).is_some_and(|entry| entry.learn(host, answer, now)) {
                    changed.push(Arc::clone(host));
                }
            }
        }
        changed
    }

    /// When the next answer stops holding.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.known.lock().values().map(|entry| entry.due).min()
    }

    /// Waits until other names are wanted. Cancel safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let known = self.known.lock();
        known.iter().filter(|(_, entry)| entry.due <= now).map(|(host, _)| Arc::clone(host)).collect()
    }
}

impl Known {
    fn new(options: DnsOptions, now: Instant) -> Self {
        Self { addresses: Arc::default(), due: now, options, error: None, failures: 0, wanted: true }
    }

    /// Records an answer. Whether the addresses changed.
    fn learn(&mut self, host: &str, answer: Result<Answer, String>, now: Instant) -> bool {
        let why = match answer {
            Ok(answer) if !answer.addresses.is_empty() => {
                self.due = now + answer.ttl.clamp(self.options.min_ttl, self.options.max_ttl);
                self.error = None;
                self.failures = 0;
                let changed = *self.addresses != *answer.addresses;
                if changed {
                    self.addresses = answer.addresses.into();
                }
                return changed;
            }
            Ok(_) => "the name has no address".to_owned(),
            Err(why) => why,
        };
        if self.failures == 0 {
            tracing::warn!(host, error = %why, "name resolution failed; the last good addresses stay");
        }
        self.failures = self.failures.saturating_add(1);
        // 1, 2, 4 … s, never longer than the longest time to live.
        let wait = Duration::from_secs(1 << self.failures.min(6).saturating_sub(1));
        self.due = now + wait.min(self.options.max_ttl.max(Duration::from_secs(1)));
        self.error = Some(why.into());
        false
    }
}

/// Queries at once.
const PARALLEL: usize = 16;

async fn join_all<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut waiting = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}

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
