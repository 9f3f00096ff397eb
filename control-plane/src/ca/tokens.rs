//! Join tokens: how a proxy proves once, for the first time, which workload it is.
//!
//! A token is 256 random bits, shown when it is made and never again; what is kept is its SHA-256. It is bound to one
//! workload, has an end, and is good once. Whoever uses it takes it: of several at the same moment exactly one.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use thiserror::Error;

use super::audit::{Audit, Event, Outcome};
use super::clock::Clock;
use super::limits;
use super::registrations::Registrations;
use crate::peer::WorkloadKey;

/// Makes tokens.
#[derive(Clone)]
pub struct JoinTokens {
    store: Arc<dyn TokenStore>,
    registrations: Arc<dyn Registrations>,
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
}

/// A token in clear. It has no `Debug` form; [`JoinToken::reveal`] is the only way to see it.
pub struct JoinToken(String);

/// What a token is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest(pub [u8; 32]);

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// What it is known by.
    pub digest: TokenDigest,
    /// The only workload that it is good for.
    pub workload: WorkloadKey,
    /// When it was made.
    pub created: SystemTime,
    /// From when on it is not good any more.
    pub expires: SystemTime,
    /// Who made it.
    pub by: String,
    /// When it was used.
    pub used: Option<SystemTime>,
}

/// Keeps tokens. Survives restarts where the control plane does.
pub trait TokenStore: Send + Sync {
    /// Keeps a new token.
    ///
    /// # Errors
    /// When it is not kept.
    fn insert(&self, record: &TokenRecord) -> Result<(), StoreError>;

    /// What is known of a token, used or not.
    ///
    /// # Errors
    /// When that cannot be told.
    fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError>;

    /// Uses a token up, in one step that is on disk when this returns: of several callers exactly one gets
    /// [`Take::Taken`], whatever happens in between.
    ///
    /// # Errors
    /// When that cannot be told. The token must then be taken for used up.
    fn take(&self, digest: &TokenDigest, now: SystemTime) -> Result<Take, StoreError>;
}

/// What came of using a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It was good, and is not any more.
    Taken,
    /// It has been used before.
    Spent,
    /// Its time is over.
    Expired,
    /// There is none.
    Unknown,
}

/// The store failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the store cannot be used: {0}")]
pub struct StoreError(pub String);

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It would be for nobody.
    #[error("there is no workload {0}: register it first (kind Workload)")]
    Unregistered(WorkloadKey),
    /// Too long, or no time at all.
    #[error("a join token is good for 1 s to {max:?}, not for {0:?}", max = limits::TOKEN_LIFETIME_MAX)]
    Lifetime(Duration),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no random numbers.
    #[error("there are no random numbers")]
    Random,
}

impl JoinTokens {
    /// Over a store.
    #[must_use]
    pub fn new(
        store: Arc<dyn TokenStore>,
        registrations: Arc<dyn Registrations>,
        audit: Arc<dyn Audit>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, registrations, audit, clock }
    }

    /// Makes a token for a registered workload. `by` is who asked for it, for the record.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn create(
        &self,
        workload: &WorkloadKey,
        valid_for: Duration,
        by: &str,
    ) -> Result<(JoinToken, TokenRecord), TokenError> {
        if valid_for < Duration::from_secs(1) || valid_for > limits::TOKEN_LIFETIME_MAX {
            return Err(TokenError::Lifetime(valid_for));
        }
        if self.registrations.workload(workload).is_none() {
            return Err(TokenError::Unregistered(workload.clone()));
        }
        let token = JoinToken::random().ok_or(TokenError::Random)?;
        let created = self.clock.now();
        let record = TokenRecord {
            digest: token.digest(),
            workload: workload.clone(),
            created,
            expires: created + valid_for,
            by: by.to_owned(),
            used: None,
        };
        self.store.insert(&record)?;
        self.audit.record(Event {
            at: created,
            action: "token.create",
            by: Some(by.to_owned()),
            address: None,
            subject: Some(workload.to_string()),
            outcome: Outcome::Done,
            detail: format!("join token {}, good once, for {} s", record.digest.short(), valid_for.as_secs()),
        });
        Ok((token, record))
    }
}

impl JoinToken {
    fn random() -> Option<Self> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Self(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))))
    }

    /// Reads what somebody presents; `None` when it cannot be one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX)?;
        // Checked before it is hashed: nobody makes us hash what is too long.
        (BASE64URL_NOPAD.decode_len(body.len()) == Ok(32) && BASE64URL_NOPAD.decode(body.as_bytes()).is_ok())
            .then(|| Self(text.to_owned()))
    }

    /// The token itself, to be handed to whoever starts the proxy.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What it is known by.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, self.0.as_bytes()).as_ref());
        TokenDigest(bytes)
    }
}

impl TokenDigest {
    /// Enough of it to tell tokens apart in a log.
    #[must_use]
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0[..6])
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenDigest").field(&self.short()).finish()
    }
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokens").finish_non_exhaustive()
    }
}

/// What every token begins with, so that scanners for secrets find those that were left lying about.
const PREFIX: &str = "outrigger-join-";
