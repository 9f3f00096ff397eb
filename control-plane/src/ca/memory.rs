//! The traits of the authority kept in memory: gone with the process. For `outrigger dev` and for tests; a control
//! plane that is restarted would believe a used token to be unknown, which refuses it all the same.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use super::audit::{Audit, Event};
use super::limits;
use super::registrations::{Registered, Registrations};
use super::tokens::{StoreError, Take, TokenDigest, TokenRecord, TokenStore};
use crate::peer::WorkloadKey;

/// Join tokens, at most [`limits::TOKENS_IN_MEMORY`].
#[derive(Debug, Default)]
pub struct MemoryTokens(Mutex<HashMap<TokenDigest, TokenRecord>>);

impl TokenStore for MemoryTokens {
    fn insert(&self, record: &TokenRecord) -> Result<(), StoreError> {
        let mut tokens = self.0.lock();
        if tokens.len() >= limits::TOKENS_IN_MEMORY {
            tokens.retain(|_, token| record.created < token.expires);
        }
        if tokens.len() >= limits::TOKENS_IN_MEMORY {
            return Err(StoreError(format!("it holds {} join tokens already", limits::TOKENS_IN_MEMORY)));
        }
        tokens.insert(record.digest, record.clone());
        Ok(())
    }

    fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.0.lock().get(digest).cloned())
    }

    fn take(&self, digest: &TokenDigest, now: SystemTime) -> Result<Take, StoreError> {
        let mut tokens = self.0.lock();
        let Some(token) = tokens.get_mut(digest) else { return Ok(Take::Unknown) };
        if token.used.is_some() {
            return Ok(Take::Spent);
        }
        if token.expires <= now {
            return Ok(Take::Expired);
        }
        token.used = Some(now);
        Ok(Take::Taken)
    }
}

/// Workloads, added and removed by hand.
#[derive(Debug, Default)]
pub struct MemoryRegistrations(RwLock<BTreeMap<WorkloadKey, Registered>>);

impl MemoryRegistrations {
    /// Registers a workload, or changes it.
    pub fn insert(&self, workload: Registered) {
        let key = WorkloadKey { namespace: workload.namespace.clone(), name: workload.name.clone() };
        self.0.write().insert(key, workload);
    }

    /// Takes a registration back.
    pub fn remove(&self, key: &WorkloadKey) {
        self.0.write().remove(key);
    }
}

impl Registrations for MemoryRegistrations {
    fn workload(&self, key: &WorkloadKey) -> Option<Registered> {
        self.0.read().get(key).cloned()
    }
}

/// The last [`limits::EVENTS_IN_MEMORY`] events.
#[derive(Debug, Default)]
pub struct MemoryAudit(Mutex<VecDeque<Event>>);

impl MemoryAudit {
    /// Every event that is still there, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().iter().cloned().collect()
    }
}

impl Audit for MemoryAudit {
    fn record(&self, event: Event) {
        let mut events = self.0.lock();
        if events.len() >= limits::EVENTS_IN_MEMORY {
            events.pop_front();
        }
        events.push_back(event);
    }
}
