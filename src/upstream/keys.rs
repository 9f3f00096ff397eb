//! The keys that tokens are verified with. They outlive configurations, and are fetched beside the traffic: a
//! request reads what is there and waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use outrigger_config::model::{JwtProvider, KeySource};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::policy::jwt::KeySet;
use crate::telemetry::metrics::{KeyMetrics, Metrics};

/// The key sets of all providers.
#[derive(Debug)]
pub struct KeyStore {
    metrics: Arc<Metrics>,
    slots: Mutex<Vec<Arc<KeySlot>>>,
    changed: Notify,
}

/// The keys of one provider from one place. Another place, or other roots to verify it by, is another slot: keys from
/// the one before must not pass for its.
#[derive(Debug)]
pub struct KeySlot {
    provider: Arc<str>,
    /// How it is had; what may change without making it another slot is taken from the newest configuration.
    source: Mutex<KeySource>,
    current: ArcSwapOption<KeySet>,
    /// Whether a first attempt to have keys has ended.
    tried: watch::Sender<bool>,
    early: Notify,
    metrics: Arc<KeyMetrics>,
}

impl KeyStore {
    /// A store without keys.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), slots: Mutex::default(), changed: Notify::new() }
    }

    /// The slot of a provider, old or new.
    #[must_use]
    pub fn slot(&self, provider: &JwtProvider) -> Arc<KeySlot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.iter().find(|slot| slot.is_of(provider)) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(KeySlot {
            provider: Arc::clone(&provider.name),
            source: Mutex::new(provider.keys.clone()),
            current: ArcSwapOption::empty(),
            tried: watch::Sender::new(false),
            early: Notify::new(),
            metrics: self.metrics.keys(&provider.name),
        });
        slots.push(Arc::clone(&slot));
        drop(slots);
        self.changed.notify_one();
        slot
    }

    /// Keeps the slots of these providers, as they are configured now, and forgets all others.
    pub fn want<'a>(&self, providers: impl Iterator<Item = &'a JwtProvider>) {
        let wanted: Vec<Arc<KeySlot>> = providers
            .map(|provider| {
                let slot = self.slot(provider);
                *slot.source.lock() = provider.keys.clone();
                slot
            })
            .collect();
        *self.slots.lock() = wanted;
        self.changed.notify_one();
    }

    /// The slots now.
    #[must_use]
    pub fn slots(&self) -> Vec<Arc<KeySlot>> {
        self.slots.lock().clone()
    }

    /// Waits until the slots may be others, or had another way. Cancel safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until every slot has keys or has tried once, at most `limit`.
    pub async fn settle(&self, limit: Duration) {
        let all = async {
            for slot in self.slots() {
                // Only an error when the slot is gone, and it is held here.
                let _ = slot.tried.subscribe().wait_for(|tried| *tried).await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("the keys of some token providers are not there yet; their tokens are refused until then");
        }
    }
}

impl KeySlot {
    fn is_of(&self, provider: &JwtProvider) -> bool {
        self.provider == provider.name
            && match (&*self.source.lock(), &provider.keys) {
                (KeySource::File(old), KeySource::File(new)) => old == new,
                (
                    KeySource::Url { url: old_url, trust_bundle: old_roots, refresh: _, timeout: _ },
                    KeySource::Url { url, trust_bundle, refresh: _, timeout: _ },
                ) => old_url == url && old_roots == trust_bundle,
                (KeySource::File(_), KeySource::Url { .. }) | (KeySource::Url { .. }, KeySource::File(_)) => false,
            }
    }

    /// The provider's name.
    #[must_use]
    pub fn provider(&self) -> &Arc<str> {
        &self.provider
    }

    /// Where the keys are, as configured now.
    #[must_use]
    pub fn source(&self) -> KeySource {
        self.source.lock().clone()
    }

    /// The keys now. For the life of one request at most.
    #[must_use]
    pub fn current(&self) -> Guard<Option<Arc<KeySet>>> {
        self.current.load()
    }

    /// Puts keys into effect.
    pub fn store(&self, keys: KeySet) {
        self.current.store(Some(Arc::new(keys)));
    }

    /// An attempt to have keys has ended, well or not.
    pub fn settled(&self) {
        self.tried.send_replace(true);
    }

    /// A token was seen whose key is not there: perhaps there is a new one. Never waits.
    pub fn ask(&self) {
        self.early.notify_one();
    }

    /// Waits until somebody asked. Cancel safe.
    pub async fn asked(&self) {
        self.early.notified().await;
    }

    /// Its numbers.
    #[must_use]
    pub fn metrics(&self) -> &KeyMetrics {
        &self.metrics
    }
}
