//! Keeps the keys of token providers: files are watched, URLs are fetched again and again. On the control thread; no
//! request ever waits for it.
//!
//! What cannot be had or read leaves the keys that are there in use, is counted, and is tried again: a provider that
//! is down for an hour costs nobody a request, unless its keys were never had.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::model::{self, KeySource};
use outrigger_jwt::limits::JWKS_BYTES;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::fetch::{self, Source};
use super::watch::Watch;
use crate::base::{limits, task};
use crate::policy::jwt::{KeySet, Skipped};
use crate::policy::rng::Rng;
use crate::upstream::{KeySlot, Registry};

/// How long a file must be still before it is read.
const QUIET: Duration = Duration::from_millis(10);
/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures while there are keys; without any it is shorter.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause while tokens are refused for want of keys.
const LONGEST_PAUSE_WITHOUT: Duration = Duration::from_secs(15);
/// How long a new configuration waits for the keys of its new providers.
const SETTLE: Duration = Duration::from_millis(1500);

/// Reads the files of providers that are new, so that their first request finds keys. Before a configuration is put
/// into effect.
pub fn prime(config: &model::Config, registry: &Registry) {
    for provider in config.jwt_providers.values() {
        let slot = registry.keys().slot(provider);
        if let (KeySource::File(path), None) = (&provider.keys, &*slot.current()) {
            Keeper::new(Arc::clone(&slot)).read(path);
        }
    }
}

/// Waits a moment for the keys of providers that are new.
pub async fn settle(registry: &Registry) {
    registry.keys().settle(SETTLE).await;
}

/// Keeps all keys for ever; run once.
pub async fn keep(registry: Arc<Registry>) {
    let mut followed: Vec<Followed> = Vec::new();
    loop {
        let slots = registry.keys().slots();
        followed.retain(|known| slots.iter().any(|slot| known.is(slot)));
        for slot in slots {
            if !followed.iter().any(|known| known.is(&slot)) {
                let source = slot.source();
                let task = task::spawn("keep-keys", follow(Arc::clone(&slot), source.clone(), Arc::clone(&registry)));
                followed.push(Followed { slot, source, task });
            }
        }
        registry.keys().changed().await;
    }
}

/// A slot that is kept. The work ends when it is dropped.
struct Followed {
    slot: Arc<KeySlot>,
    source: KeySource,
    task: JoinHandle<()>,
}

impl Followed {
    /// Whether it is this slot, had in the same way.
    fn is(&self, slot: &Arc<KeySlot>) -> bool {
        Arc::ptr_eq(&self.slot, slot) && self.source == slot.source()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(slot: Arc<KeySlot>, source: KeySource, registry: Arc<Registry>) {
    let keeper = Keeper::new(slot);
    match source {
        KeySource::File(path) => follow_file(keeper, &path).await,
        KeySource::Url { url, refresh, timeout, trust_bundle } => {
            let source = Source { url, roots: trust_bundle, limit: JWKS_BYTES };
            follow_url(keeper, &source, Pace { refresh, timeout }, &registry).await;
        }
    }
}

async fn follow_file(mut keeper: Keeper, path: &Path) {
    let mut watch = Watch::new("token keys", QUIET);
    watch.set(BTreeSet::from([path.to_owned()]));
    loop {
        keeper.read(path);
        watch.changed().await;
    }
}

/// How often and how long.
#[derive(Debug, Clone, Copy)]
struct Pace {
    refresh: Duration,
    timeout: Duration,
}

async fn follow_url(mut keeper: Keeper, source: &Source, pace: Pace, registry: &Registry) {
    let mut random = Rng::new(RandomState::new().build_hasher().finish());
    loop {
        let began = Instant::now();
        match timeout(pace.timeout, fetch::fetch(source, registry)).await {
            Ok(Ok(document)) => keeper.take(&document),
            Ok(Err(error)) => keeper.fail(&error.to_string()),
            Err(_) => keeper.fail("it took longer than its timeout"),
        }
        let next = began + jittered(keeper.pause(pace.refresh), &mut random);
        tokio::select! {
            () = sleep_until(next) => {}
            // Not more often than that, however many tokens name keys that are not there.
            () = keeper.slot.asked() => sleep_until((began + limits::JWKS_EARLY).min(next)).await,
        }
    }
}

/// Within a tenth, so that many proxies do not ask at once.
fn jittered(pause: Duration, random: &mut Rng) -> Duration {
    const STEPS: u32 = 1 << 16;
    let step = u32::try_from(random.below(u64::from(STEPS))).unwrap_or(0);
    pause.mul_f64(0.9 + 0.2 * f64::from(step) / f64::from(STEPS))
}

/// One slot, and what is known of the attempts to fill it.
struct Keeper {
    slot: Arc<KeySlot>,
    /// Of the document in use.
    hash: Option<[u8; 32]>,
    failures: u32,
    /// What was said last, so that it is said once.
    said: Option<String>,
}

impl Keeper {
    fn new(slot: Arc<KeySlot>) -> Self {
        Self { slot, hash: None, failures: 0, said: None }
    }

    fn read(&mut self, path: &Path) {
        match read_file(path) {
            Ok(document) => self.take(&document),
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Puts a document into effect. The same document again changes nothing: tokens that were verified with its keys
    /// stay verified.
    fn take(&mut self, document: &[u8]) {
        let hash: [u8; 32] = Sha256::digest(document).into();
        let now = SystemTime::now();
        if self.hash == Some(hash)
            && let Some(keys) = &*self.slot.current()
        {
            self.succeed(keys.len(), now);
            return;
        }
        match KeySet::parse(document) {
            Ok((keys, skipped)) => {
                let (provider, count) = (self.slot.provider(), keys.len());
                tracing::info!(%provider, keys = count, "the keys of a token provider are in use");
                for Skipped { index, kid, why } in skipped {
                    tracing::warn!(%provider, index, kid, why, "a key of a token provider is left out");
                }
                self.slot.store(keys);
                self.hash = Some(hash);
                self.succeed(count, now);
            }
            Err(error) => self.fail(&error.to_string()),
        }
    }

    fn succeed(&mut self, keys: usize, now: SystemTime) {
        self.slot.metrics().loaded(keys, now);
        self.failures = 0;
        self.said = None;
        self.slot.settled();
    }

    fn fail(&mut self, problem: &str) {
        self.failures = self.failures.saturating_add(1);
        self.slot.metrics().failed();
        if self.said.as_deref() != Some(problem) {
            let provider = self.slot.provider();
            if self.slot.current().is_some() {
                tracing::warn!(%provider, problem, "the keys of a token provider cannot be had; those from before stay");
            } else {
                tracing::error!(%provider, problem, "the keys of a token provider cannot be had; its tokens are refused");
            }
            self.said = Some(problem.to_owned());
        }
        self.slot.settled();
    }

    /// Until the next attempt.
    fn pause(&self, refresh: Duration) -> Duration {
        let longest = if self.slot.current().is_some() { LONGEST_PAUSE } else { LONGEST_PAUSE_WITHOUT };
        match self.failures {
            0 => refresh,
            failures => FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(longest).min(refresh),
        }
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut document = Vec::new();
    File::open(path)?.take(JWKS_BYTES as u64 + 1).read_to_end(&mut document)?;
    if document.len() > JWKS_BYTES {
        let problem = format!("it is larger than {} bytes", JWKS_BYTES);
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(document)
}

#[cfg(test)]
mod tests;
