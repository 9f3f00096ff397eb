//! The store and the fleet, as the authority wants them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outrigger_xds::Kind;

use crate::ca::{self, Audit, Confirmations, Event, Take, TokenDigest, TokenRecord, TokenStore};
use crate::engine::Publisher;
use crate::fleet::{Fleet, Form, ProxyState};
use crate::peer::WorkloadKey;
use crate::store::{AuditEntry, JoinToken, Outcome, Store, Timestamp, TokenId};
use crate::throttle::{self, Throttle};

/// Events of the authority in the audit log. Of refusals beyond what a [`Throttle`] lets through only the number is.
pub(super) struct AuditStore {
    store: Arc<dyn Store>,
    refusals: Throttle,
}

impl AuditStore {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, refusals: Throttle::new(Instant::now()) }
    }
}

impl Audit for AuditStore {
    fn record(&self, event: Event) {
        let Event { at, action, by, address, subject, outcome, detail } = event;
        let (outcome, detail) = match outcome {
            ca::Outcome::Done => (Outcome::Done, detail),
            ca::Outcome::Refused(why) => {
                let Some(skipped) = self.refusals.take(Instant::now()) else { return };
                (Outcome::Refused, throttle::told(format!("{why}: {detail}"), skipped))
            }
        };
        let entry = AuditEntry {
            at: at.into(),
            who: by.unwrap_or_else(|| "anonymous".to_owned()),
            from: address.map(|address| address.to_string()).unwrap_or_default(),
            action: action.to_owned(),
            subject: subject.unwrap_or_default(),
            outcome,
            detail,
        };
        if let Err(error) = self.store.audit(entry.clone()) {
            // The log of the process is the second place where it is looked for.
            tracing::error!(%error, ?entry, "an event could not be put down in the audit log");
        }
    }
}

impl fmt::Debug for AuditStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditStore")
    }
}

/// Join tokens in the store. A token is found by the beginning of its digest, and believed by all of it.
pub(super) struct JoinTokenStore(Arc<dyn Store>);

impl JoinTokenStore {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    fn known(&self, digest: &TokenDigest) -> Result<Option<JoinToken>, ca::StoreError> {
        let token = self.0.join_token(&id(digest)).map_err(|error| failed(&error))?;
        Ok(token.filter(|token| token.hash == digest.0))
    }
}

impl TokenStore for JoinTokenStore {
    fn insert(&self, record: &TokenRecord) -> Result<(), ca::StoreError> {
        let TokenRecord { digest, workload, created, expires, by, used } = record;
        let token = JoinToken {
            id: id(digest),
            hash: digest.0,
            workload: workload.to_string(),
            created_by: by.clone(),
            created: (*created).into(),
            expires: (*expires).into(),
            used: used.map(Timestamp::from),
            used_by: None,
            revoked: None,
        };
        self.0.add_join_token(token).map_err(|error| failed(&error))
    }

    fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, ca::StoreError> {
        // One that was revoked is as good as none.
        let Some(token) = self.known(digest)?.filter(|token| token.revoked.is_none()) else { return Ok(None) };
        let workload = WorkloadKey::parse(&token.workload)
            .ok_or_else(|| ca::StoreError(format!("token {} is for no workload", token.id)))?;
        Ok(Some(TokenRecord {
            digest: *digest,
            workload,
            created: moment(token.created),
            expires: moment(token.expires),
            by: token.created_by,
            used: token.used.map(moment),
        }))
    }

    fn take(&self, digest: &TokenDigest, now: SystemTime) -> Result<Take, ca::StoreError> {
        let Some(token) = self.known(digest)?.filter(|token| token.revoked.is_none()) else {
            return Ok(Take::Unknown);
        };
        let now = Timestamp::from(now);
        if self.0.use_join_token(&token.id, now, &token.workload).map_err(|error| failed(&error))? {
            return Ok(Take::Taken);
        }
        Ok(if token.expires <= now && token.used.is_none() { Take::Expired } else { Take::Spent })
    }
}

fn id(digest: &TokenDigest) -> TokenId {
    TokenId(digest.short())
}

fn failed(error: &crate::store::StoreError) -> ca::StoreError {
    ca::StoreError(error.to_string())
}

fn moment(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at.millis()).unwrap_or(0))
}

/// Which proxies have taken the roots of now, by what they acknowledged.
pub(super) struct Confirmed {
    fleet: Fleet,
    publisher: Publisher,
}

impl Confirmed {
    pub(super) fn new(fleet: Fleet, publisher: Publisher) -> Self {
        Self { fleet, publisher }
    }
}

impl Confirmations for Confirmed {
    fn unconfirmed(&self, bundle: &str) -> Vec<WorkloadKey> {
        let published = self.publisher.has_roots(bundle);
        let connected = self.fleet.status().into_iter().filter(|proxy| proxy.state != ProxyState::Disconnected);
        let unconfirmed = connected.filter_map(|proxy| {
            let workload = WorkloadKey::parse(&proxy.workload)?;
            let secrets = self.publisher.resources_of(&workload, proxy.form);
            let wanted = secrets.map(|set| set.of(Kind::Secret).version().to_string());
            let kind = proxy.kinds.iter().find(|kind| kind.type_url == Kind::Secret.type_url());
            let took = kind.and_then(|kind| kind.accepted_version.clone());
            (!published || took.is_none() || took != wanted).then_some(workload)
        });
        let mut unconfirmed: Vec<WorkloadKey> = unconfirmed.collect();
        unconfirmed.sort();
        unconfirmed.dedup();
        unconfirmed
    }

    fn silent(&self) -> Vec<WorkloadKey> {
        let connected = self.fleet.status().into_iter().filter(|proxy| proxy.state != ProxyState::Disconnected);
        let silent = connected.filter(|proxy| {
            // Our own proxies always ask, the moment after they have come as well.
            proxy.form != Form::Outrigger && !proxy.kinds.iter().any(|kind| kind.type_url == Kind::Secret.type_url())
        });
        let mut silent: Vec<WorkloadKey> = silent.filter_map(|proxy| WorkloadKey::parse(&proxy.workload)).collect();
        silent.sort();
        silent.dedup();
        silent
    }
}
