//! Who the proxy is: its certificate comes from the control plane and is renewed in time.
//!
//! The key is made here and never leaves; what is sent is a signing request. A key, its certificate and the bundle are
//! checked as a rotation of certificates would check them, before they replace anything on disk; from there they are
//! taken up like any other files that change. A certificate that is still valid is used at a start also when nobody can
//! be asked; a token is shown only when there is none.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::model::{self, CertificateFiles, Config, ControlPlane, Join};
use outrigger_xds::control::identity_client::IdentityClient;
use outrigger_xds::control::issue_request::Proof;
use outrigger_xds::control::{IssueRequest, IssueResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;
use tokio::sync::watch;
use tonic::Code;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::backoff::jitter;
use super::dial::{DialError, Papers, described, dial};
use super::folder::{IdentityFolder, IdentitySet};
use crate::base::limits;
use crate::net::tls::{Secrets, TlsSet};
use crate::policy::rng::Rng;
use crate::telemetry::Metrics;
use crate::upstream::Registry;

/// The proxy's identity towards the control plane, and in the mesh.
#[derive(Debug)]
pub(crate) struct Identity {
    plane: Arc<ControlPlane>,
    /// The process's settings.
    bootstrap: Config,
    folder: IdentityFolder,
    /// Whether it is known who we are, be it nobody.
    ready: watch::Sender<bool>,
}

/// Certificates for a connection to the control plane.
#[derive(Debug)]
pub(crate) struct Held {
    roots: PathBuf,
    own: Option<CertificateFiles>,
}

impl Held {
    pub(crate) fn papers(&self) -> Papers<'_> {
        Papers { roots: &self.roots, own: self.own.as_ref() }
    }
}

/// Why there is no certificate.
#[derive(Debug, Error)]
enum IssueError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("the join token cannot be read: {0}")]
    Token(String),
    #[error("the key could not be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the control plane refused it ({code:?}): {message}")]
    Refused { code: Code, message: String },
    #[error("what the control plane issued is not good: {0}")]
    Bad(String),
    #[error("it cannot be written to the state folder: {0}")]
    Write(#[from] io::Error),
}

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Identity {
    /// Of a process with these settings, whose state is in `folder`.
    pub(crate) fn new(plane: Arc<ControlPlane>, bootstrap: Config, folder: IdentityFolder) -> Self {
        Self { plane, bootstrap, folder, ready: watch::channel(false).0 }
    }

    /// The identity for a configuration; `None` while there is none.
    pub(crate) fn configured(&self) -> Option<model::Identity> {
        let own = || self.current().ok().flatten().map(|_| self.folder.identity());
        self.bootstrap.identity.clone().or_else(own)
    }

    /// What to show to the control plane, and whom to believe, now.
    pub(crate) fn papers(&self, now: SystemTime) -> Option<Held> {
        let configured = self.plane.trust_bundle.clone();
        if let Some(identity) = &self.bootstrap.identity {
            return Some(Held { roots: configured?, own: Some(identity.certificate.clone()) });
        }
        if self.validity(now).is_some() {
            let model::Identity { certificate, trust_bundle, .. } = self.folder.identity();
            return Some(Held { roots: trust_bundle, own: Some(certificate) });
        }
        configured.map(|roots| Held { roots, own: None })
    }

    /// Waits until it is known who we are. Cancel safe.
    pub(crate) async fn ready(&self) {
        // The sender is ours: this cannot end otherwise.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Roots that came over the stream: they are written beside certificate and key, if they are others.
    ///
    /// # Errors
    /// What is wrong with them, or with the disk; nothing has changed then.
    pub(crate) fn take_bundle(&self, pem: &str) -> Result<(), String> {
        if self.bootstrap.identity.is_some() {
            return Ok(());
        }
        self.folder.change(|set| {
            if set.bundle == pem {
                return Ok(None);
            }
            let set = IdentitySet { bundle: pem.to_owned(), ..set };
            self.check(&set, SystemTime::now())?;
            Ok(Some(set))
        })
    }

    /// Gets a certificate and renews it, for ever; returns when certificates come another way.
    pub(crate) async fn keep(&self, registry: &Registry, metrics: &Metrics, mut rng: Rng) {
        if self.bootstrap.identity.is_some() {
            self.ready.send_replace(true);
            return;
        }
        let mut failures = 0;
        let mut told: Option<SystemTime> = None;
        loop {
            let now = SystemTime::now();
            let valid = self.validity(now);
            if valid.is_some() || self.plane.join.is_none() {
                self.ready.send_replace(true);
            }
            if valid.is_none() && self.plane.join.is_none() {
                return;
            }
            let due = valid.map_or(now, |validity| told.unwrap_or_else(|| renew_at(validity, rng.next_u64())));
            if let Ok(wait) = due.duration_since(now)
                && !wait.is_zero()
            {
                // The clock of the system may be set meanwhile.
                tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
                continue;
            }
            match self.issue(valid.is_some(), registry).await {
                Ok(after) => {
                    failures = 0;
                    told = Some(SystemTime::now() + earlier(after, rng.next_u64()));
                    metrics.control.issued();
                    tracing::info!(renew_after = ?after, "the control plane issued a certificate");
                }
                Err(error) => {
                    metrics.control.not_issued();
                    if matches!(error, IssueError::Refused { code: Code::Unimplemented, .. }) {
                        // A control plane of somebody else: it has to do without.
                        self.ready.send_replace(true);
                    }
                    let valid_until = valid.map(|validity| validity.not_after);
                    tracing::warn!(%error, ?valid_until, "no certificate from the control plane; it is asked again");
                    let ceiling = RETRY.saturating_mul(1 << failures.min(8)).min(RETRY_CAP);
                    failures += 1;
                    tokio::time::sleep(jitter(ceiling, rng.next_u64())).await;
                }
            }
        }
    }

    /// Asks the servers in order, until one issues. After what time to ask again.
    async fn issue(&self, renewal: bool, registry: &Registry) -> Result<Duration, IssueError> {
        let proof = if renewal { None } else { self.proof()? };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = IssueRequest {
            certificate_signing_request: params.serialize_request(&key)?.der().to_vec(),
            proof,
            workload: self.plane.workload.as_deref().unwrap_or_default().to_owned(),
        };
        let mut last = None;
        for server in &self.plane.servers {
            let papers = self.papers(SystemTime::now());
            let channel = match dial(&self.plane, server, papers.as_ref().map(Held::papers), registry).await {
                Ok(channel) => channel,
                Err(error) => {
                    tracing::debug!(%server, %error, "no connection for a certificate");
                    last = Some(IssueError::Dial(error));
                    continue;
                }
            };
            let mut client = IdentityClient::new(channel).max_decoding_message_size(limits::CONTROL_CERTIFICATE);
            let answer = tokio::time::timeout(limits::CONTROL_CONNECT, client.issue(request.clone())).await;
            let refused = |code, message: &str| IssueError::Refused { code, message: message.to_owned() };
            match answer {
                Ok(Ok(response)) => return self.take(response.into_inner(), &key).await,
                Ok(Err(status)) if status.code() == Code::Unavailable => {
                    last = Some(refused(status.code(), status.message()));
                }
                Ok(Err(status)) => return Err(refused(status.code(), status.message())),
                Err(_) => last = Some(refused(Code::DeadlineExceeded, "it did not answer in time")),
            }
        }
        Err(last.unwrap_or_else(|| IssueError::Bad("there is no server".to_owned())))
    }

    fn proof(&self) -> Result<Option<Proof>, IssueError> {
        let read = |file: &std::path::Path| {
            let text = std::fs::read_to_string(file);
            text.map_err(|error| IssueError::Token(format!("`{}`: {error}", file.display())))
        };
        let (text, of): (String, fn(String) -> Proof) = match &self.plane.join {
            None => return Ok(None),
            Some(Join::TokenFile(file)) => (read(file)?, Proof::JoinToken),
            Some(Join::ServiceAccount(file)) => (read(file)?, Proof::ServiceAccountToken),
            Some(Join::TokenVariable(name)) => {
                let missing = |_| IssueError::Token(format!("the environment variable {name} is not set"));
                (std::env::var(&**name).map_err(missing)?, Proof::JoinToken)
            }
        };
        match text.trim() {
            "" => Err(IssueError::Token("it is empty".to_owned())),
            token => Ok(Some(of(token.to_owned()))),
        }
    }

    /// Checks what was issued and puts it in the place of what is there.
    async fn take(&self, response: IssueResponse, key: &KeyPair) -> Result<Duration, IssueError> {
        let IssueResponse { certificate_chain, trust_bundle, workload, renew_after } = response;
        if let Some(own) = &self.plane.workload
            && **own != workload
        {
            return Err(IssueError::Bad(format!("it is for the workload `{workload}`, and this one is `{own}`")));
        }
        let set = IdentitySet {
            chain: certificate_chain.iter().map(|der| pem(der)).collect(),
            key: key.serialize_pem(),
            bundle: trust_bundle.iter().map(|der| pem(der)).collect(),
        };
        let now = SystemTime::now();
        self.check(&set, now).map_err(IssueError::Bad)?;
        let validity = validity_of(&set.chain).ok_or_else(|| IssueError::Bad("it has no dates".to_owned()))?;
        let half = validity.not_after.duration_since(now).unwrap_or_default() / 2;
        let told = renew_after.and_then(|after| Duration::try_from(after).ok()).filter(|after| *after < half * 2);
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || folder.write(&set)).await;
        written.map_err(|error| io::Error::other(error.to_string()))??;
        Ok(told.unwrap_or(half).max(SOONEST))
    }

    /// Whether a set could be an identity in effect.
    fn check(&self, set: &IdentitySet, now: SystemTime) -> Result<(), String> {
        let identity = self.folder.identity();
        let contents = [
            (identity.certificate.certificate.clone(), set.chain.clone().into_bytes()),
            (identity.certificate.private_key.clone(), set.key.clone().into_bytes()),
            (identity.trust_bundle.clone(), set.bundle.clone().into_bytes()),
        ];
        let config = Config { identity: Some(identity), ..self.bootstrap.clone() };
        let secrets = Secrets::from_contents(contents);
        TlsSet::build(&config, &secrets, None, now).map(|_| ()).map_err(|errors| described(&errors))
    }

    fn current(&self) -> io::Result<Option<IdentitySet>> {
        self.folder.read().inspect_err(|error| tracing::error!(%error, "the certificate on disk cannot be read"))
    }

    /// Of the certificate on disk, while it is valid.
    fn validity(&self, now: SystemTime) -> Option<Validity> {
        let set = self.current().ok().flatten()?;
        let validity = validity_of(&set.chain)?;
        (validity.not_before <= now && now < validity.not_after).then_some(validity)
    }
}

fn validity_of(chain: &str) -> Option<Validity> {
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&leaf).ok()?;
    let at = |seconds: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some(Validity { not_before: at(validity.not_before.timestamp())?, not_after: at(validity.not_after.timestamp())? })
}

/// When a certificate is renewed that was issued before this process began: at half of its life.
fn renew_at(validity: Validity, random: u64) -> SystemTime {
    let Validity { not_before, not_after } = validity;
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + earlier(life / 2, random)
}

/// Up to a tenth earlier, so that proxies that started together do not come together.
fn earlier(after: Duration, random: u64) -> Duration {
    after.saturating_sub(jitter(after / 10, random))
}

fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = &*text;
    while !rest.is_empty() {
        // Base64 is ASCII.
        let (line, after) = rest.split_at(rest.len().min(64));
        out += line;
        out.push('\n');
        rest = after;
    }
    out + "-----END CERTIFICATE-----\n"
}

/// The system's clock is looked at this often while nothing is due.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(60);
/// A certificate is used for so long at least, whatever is told.
const SOONEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600)
    }

    #[test]
    fn a_day_long_certificate_is_renewed_at_half_of_its_life_and_a_little_before() {
        let validity = Validity { not_before: at(100), not_after: at(124) };
        assert_eq!(renew_at(validity, 0), at(112));
        let earliest = renew_at(validity, u64::MAX);
        assert!(earliest > at(110) && earliest < at(111), "{earliest:?}");
        // Simulated days: each certificate is replaced while it is valid.
        let (mut now, mut current) = (at(100), validity);
        for step in 0..100_u64 {
            let due = renew_at(current, step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(due > now && due < current.not_after - Duration::from_secs(11 * 3600), "{step}");
            now = due;
            current = Validity { not_before: now, not_after: now + Duration::from_secs(24 * 3600) };
        }
    }

    #[test]
    fn the_dates_of_a_chain_are_those_of_its_leaf() {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["a".to_owned()]).expect("parameters");
        (params.not_before, params.not_after) = (at(500_000).into(), at(500_024).into());
        let leaf = params.self_signed(&key).expect("signed");
        assert_eq!(validity_of(&pem(leaf.der())), Some(Validity { not_before: at(500_000), not_after: at(500_024) }));
        assert_eq!(validity_of("nothing"), None);
    }
}
