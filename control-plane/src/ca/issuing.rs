//! Whether somebody gets a certificate, and whose.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::spiffe::SpiffeId;
use outrigger_jwt::Refusal;
use rustls::pki_types::CertificateDer;
use thiserror::Error;

use super::accounts::ServiceAccounts;
use super::audit::{Audit, Event, Outcome};
use super::authority::{Authority, AuthorityError};
use super::bundle::Bundle;
use super::limiter::Limiter;
use super::registrations::{Registered, Registrations};
use super::request::{Disagreement, Malformed, SigningRequest};
use super::tokens::{JoinToken, StoreError, Take, TokenDigest, TokenRecord, TokenStore};
use crate::peer::{Peer, WorkloadKey};

/// Issues certificates to those who prove who they are.
pub struct Issuing {
    authority: Arc<Authority>,
    registrations: Arc<dyn Registrations>,
    tokens: Arc<dyn TokenStore>,
    accounts: Option<Arc<ServiceAccounts>>,
    audit: Arc<dyn Audit>,
    limiter: Limiter,
}

/// How a caller proves who it is. Has no `Debug` form: two of three are secrets.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// The certificate that its connection was made with.
    Connection,
    /// A join token.
    JoinToken(&'a str),
    /// The token of a Kubernetes service account.
    ServiceAccount(&'a str),
}

/// A certificate for a workload.
#[derive(Debug, Clone)]
pub struct Issued {
    /// DER, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Every root that is believed now.
    pub bundle: Arc<Bundle>,
    /// Whose it is.
    pub workload: WorkloadKey,
    /// As whom.
    pub id: SpiffeId,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// When to ask for the next one, counted from now.
    pub renew_after: Duration,
}

/// Why there is no certificate. What it says is for the caller, too.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denial {
    /// Neither a proof nor a client certificate.
    #[error("no proof: send a join token or a service account token, or connect with a certificate of the mesh")]
    NoProof,
    /// The client certificate is not that of a workload.
    #[error("the certificate of the connection is not that of a workload")]
    NoWorkload,
    /// Not a join token at all.
    #[error("the join token is malformed")]
    TokenMalformed,
    /// None that was ever given out here.
    #[error("the join token is not known")]
    TokenUnknown,
    /// Used before.
    #[error("the join token has been used: make another with `outrigger-control token create`")]
    TokenSpent,
    /// Too late.
    #[error("the join token has expired: make another with `outrigger-control token create`")]
    TokenExpired,
    /// The token is for another workload than the one that is asked for.
    #[error("the join token is for another workload")]
    TokenWorkload,
    /// The service account token is not believed.
    #[error("the service account token is not believed: {}", .0.sentence())]
    Account(Refusal),
    /// No cluster is configured.
    #[error("service account tokens are not accepted here: no key set of a cluster is configured")]
    NoAccounts,
    /// The service account is not the one that the workload runs as.
    #[error("the workload runs as another service account")]
    WrongAccount,
    /// Nobody registered the workload, or somebody took it back.
    #[error("the workload is not registered")]
    Unregistered,
    /// A service account token is good for every instance, so one must be named.
    #[error("name the workload, as `namespace/name`")]
    NoWorkloadNamed,
    /// Not a name of a workload.
    #[error("the workload must be named as `namespace/name`")]
    WorkloadMalformed,
    /// The name of a workload or service account makes no SPIFFE ID.
    #[error("the service account of the workload cannot be part of a SPIFFE ID")]
    NoIdentity,
    /// The request cannot be used.
    #[error("{0}")]
    Request(RequestProblem),
    /// The request asks for what the caller is not.
    #[error("{0}")]
    Names(RequestMismatch),
    /// Refused too often.
    #[error("too many refusals: try again in {} s", .0.as_secs().max(1))]
    TooMany(Duration),
    /// The store cannot be asked.
    #[error("the store cannot be used now: try again")]
    Store,
    /// What signs has run out, or fails.
    #[error("the authority cannot sign now: try again")]
    Authority,
}

/// What is wrong with a signing request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(transparent)]
pub struct RequestProblem(#[from] pub(super) Malformed);

/// What a signing request asks for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(transparent)]
pub struct RequestMismatch(#[from] pub(super) Disagreement);

/// Who a caller has proven to be.
struct Proven {
    workload: WorkloadKey,
    registered: Registered,
    /// What has to be used up for it.
    token: Option<TokenDigest>,
}

impl Issuing {
    /// With join tokens; and service account tokens of a cluster, where there is one.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        registrations: Arc<dyn Registrations>,
        tokens: Arc<dyn TokenStore>,
        audit: Arc<dyn Audit>,
    ) -> Self {
        Self { authority, registrations, tokens, accounts: None, audit, limiter: Limiter::default() }
    }

    /// Believes the service account tokens of a cluster as well.
    #[must_use]
    pub fn with_accounts(mut self, accounts: Arc<ServiceAccounts>) -> Self {
        self.accounts = Some(accounts);
        self
    }

    /// Issues a certificate for the key in a signing request. `named` is the workload that the caller names, or empty.
    /// Blocks for as long as the token store and the audit do.
    ///
    /// The token is used up after everything else has been checked, so that a mistake in the request does not cost it;
    /// and before the certificate is handed out, so that it is good once.
    ///
    /// # Errors
    /// See [`Denial`]. Every one is audited.
    pub fn issue(&self, peer: &Peer, request: &[u8], proof: Proof<'_>, named: &str) -> Result<Issued, Denial> {
        let now = self.authority.clock().now();
        let mut subject = (!named.is_empty()).then(|| WorkloadKey::parse(named)).flatten();
        let result = self
            .limiter
            .check(peer.address.ip(), now)
            .map_err(Denial::TooMany)
            .and_then(|()| self.decide(peer, request, proof, named, &mut subject));
        let (outcome, detail) = match &result {
            Ok(issued) => {
                let until = issued.not_after.duration_since(now).unwrap_or_default();
                (Outcome::Done, format!("{} by {}, for {} s", issued.id, proof.name(), until.as_secs()))
            }
            Err(denial) => {
                // Somebody who is refused for what is not their doing is not counted.
                if !matches!(denial, Denial::TooMany(_) | Denial::Store | Denial::Authority) {
                    self.limiter.count(peer.address.ip(), now);
                }
                (Outcome::Refused(denial.code()), format!("by {}: {denial}", proof.name()))
            }
        };
        self.audit.record(Event {
            at: now,
            action: "certificate.issue",
            by: peer.id.as_ref().map(ToString::to_string),
            address: Some(peer.address),
            subject: subject.map(|workload| workload.to_string()),
            outcome,
            detail,
        });
        result
    }

    /// Somebody sent what could not be read, or too much of it.
    pub(super) fn unread(&self, peer: &Peer) {
        let now = self.authority.clock().now();
        self.limiter.count(peer.address.ip(), now);
        self.audit.record(Event {
            at: now,
            action: "certificate.issue",
            by: peer.id.as_ref().map(ToString::to_string),
            address: Some(peer.address),
            subject: None,
            outcome: Outcome::Refused("unreadable"),
            detail: "the message is malformed or too large".to_owned(),
        });
    }

    fn decide(
        &self,
        peer: &Peer,
        request: &[u8],
        proof: Proof<'_>,
        named: &str,
        subject: &mut Option<WorkloadKey>,
    ) -> Result<Issued, Denial> {
        let named = match named {
            "" => None,
            named => Some(WorkloadKey::parse(named).ok_or(Denial::WorkloadMalformed)?),
        };
        let Proven { workload, registered, token } = match proof {
            Proof::Connection => self.by_connection(peer, named, subject)?,
            Proof::JoinToken(token) => self.by_token(token, named, subject)?,
            Proof::ServiceAccount(token) => self.by_account(token, named.ok_or(Denial::NoWorkloadNamed)?)?,
        };
        let id = self.authority.identity(&registered.namespace, &registered.service_account);
        let id = id.ok_or(Denial::NoIdentity)?;
        let request = SigningRequest::parse(request).map_err(|problem| Denial::Request(problem.into()))?;
        request.agrees(&id, &workload).map_err(|problem| Denial::Names(problem.into()))?;
        let signed = self.authority.sign(request.key(), id.clone(), &workload)?;
        if let Some(token) = token {
            self.use_up(&token)?;
        }
        Ok(Issued {
            chain: signed.chain,
            bundle: self.authority.bundle(),
            workload,
            id,
            not_before: signed.not_before,
            not_after: signed.not_after,
            renew_after: signed.renew_after,
        })
    }

    /// Renewal: the workload of the certificate, if it is still registered, and still as who it was.
    fn by_connection(
        &self,
        peer: &Peer,
        named: Option<WorkloadKey>,
        subject: &mut Option<WorkloadKey>,
    ) -> Result<Proven, Denial> {
        let id = peer.id.as_ref().ok_or(Denial::NoProof)?;
        let workload = peer.workload.clone().ok_or(Denial::NoWorkload)?;
        *subject = Some(workload.clone());
        if named.is_some_and(|named| named != workload) {
            return Err(Denial::Names(Disagreement::Identity.into()));
        }
        let registered = self.registered(&workload)?;
        let same = self.authority.identity(&registered.namespace, &registered.service_account);
        if same.as_ref() != Some(id) {
            return Err(Denial::WrongAccount);
        }
        Ok(Proven { workload, registered, token: None })
    }

    fn by_token(
        &self,
        token: &str,
        named: Option<WorkloadKey>,
        subject: &mut Option<WorkloadKey>,
    ) -> Result<Proven, Denial> {
        let digest = JoinToken::read(token).ok_or(Denial::TokenMalformed)?.digest();
        let record = self.tokens.find(&digest)?.ok_or(Denial::TokenUnknown)?;
        let TokenRecord { workload, expires, used, .. } = record;
        *subject = Some(workload.clone());
        if used.is_some() {
            return Err(Denial::TokenSpent);
        }
        if expires <= self.authority.clock().now() {
            return Err(Denial::TokenExpired);
        }
        if named.is_some_and(|named| named != workload) {
            return Err(Denial::TokenWorkload);
        }
        let registered = self.registered(&workload)?;
        Ok(Proven { workload, registered, token: Some(digest) })
    }

    fn by_account(&self, token: &str, workload: WorkloadKey) -> Result<Proven, Denial> {
        let accounts = self.accounts.as_ref().ok_or(Denial::NoAccounts)?;
        let account = accounts.verify(token, self.authority.clock().now()).map_err(Denial::Account)?;
        // The namespace first: who may ask in one namespace learns nothing of what is registered in another.
        if account.namespace != workload.namespace {
            return Err(Denial::WrongAccount);
        }
        let registered = self.registered(&workload)?;
        if account.name != registered.service_account {
            return Err(Denial::WrongAccount);
        }
        Ok(Proven { workload, registered, token: None })
    }

    fn registered(&self, workload: &WorkloadKey) -> Result<Registered, Denial> {
        let registered = self.registrations.workload(workload).ok_or(Denial::Unregistered)?;
        let same = registered.namespace == workload.namespace && registered.name == workload.name;
        if same { Ok(registered) } else { Err(Denial::Unregistered) }
    }

    fn use_up(&self, token: &TokenDigest) -> Result<(), Denial> {
        match self.tokens.take(token, self.authority.clock().now())? {
            Take::Taken => Ok(()),
            Take::Spent => Err(Denial::TokenSpent),
            Take::Expired => Err(Denial::TokenExpired),
            Take::Unknown => Err(Denial::TokenUnknown),
        }
    }
}

impl Proof<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Connection => "certificate",
            Self::JoinToken(_) => "join token",
            Self::ServiceAccount(_) => "service account token",
        }
    }
}

impl Denial {
    /// One stable word for the record.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoProof => "no-proof",
            Self::NoWorkload => "no-workload",
            Self::TokenMalformed => "token-malformed",
            Self::TokenUnknown => "token-unknown",
            Self::TokenSpent => "token-spent",
            Self::TokenExpired => "token-expired",
            Self::TokenWorkload => "token-workload",
            Self::Account(refusal) => refusal.code(),
            Self::NoAccounts => "no-accounts",
            Self::WrongAccount => "wrong-account",
            Self::Unregistered => "unregistered",
            Self::NoWorkloadNamed => "no-workload-named",
            Self::WorkloadMalformed => "workload-malformed",
            Self::NoIdentity => "no-identity",
            Self::Request(RequestProblem(problem)) => match problem {
                Malformed::WeakKey => "weak-key",
                Malformed::Signature => "bad-request-signature",
                Malformed::TooLarge => "request-too-large",
                Malformed::Missing | Malformed::NotPkcs10 | Malformed::Unreadable => "malformed-request",
            },
            Self::Names(RequestMismatch(_)) => "other-identity",
            Self::TooMany(_) => "too-many-refusals",
            Self::Store => "store",
            Self::Authority => "authority",
        }
    }
}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a join token could not be looked at");
        Self::Store
    }
}

impl From<AuthorityError> for Denial {
    fn from(error: AuthorityError) -> Self {
        tracing::error!(%error, "a certificate could not be issued");
        Self::Authority
    }
}

impl fmt::Debug for Issuing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuing").field("authority", &self.authority).finish_non_exhaustive()
    }
}
