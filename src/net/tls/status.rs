//! What is told of certificates: for the admin server, metrics and warnings. Never key material.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;

use super::certificate::{Facts, hex, moment, name_text, sha256};

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateRole {
    /// The mesh identity's own.
    Identity,
    /// A listener's own, chosen by server name.
    Listener(Arc<str>),
    /// Shown to the servers of a cluster.
    Client(Arc<str>),
    /// A root of our trust domain.
    TrustBundle,
    /// A root of another trust domain.
    FederatedBundle(Arc<str>),
    /// A root of the bundle that is rehearsed.
    ProposedTrustBundle,
    /// A root for the clients of a listener.
    ClientTrustBundle(Arc<str>),
    /// A root for the servers of a cluster.
    ServerTrustBundle(Arc<str>),
    /// A revocation list; the times are those of the list.
    RevocationList,
}

impl CertificateRole {
    /// A stable label.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Listener(_) => "listener",
            Self::Client(_) => "client",
            Self::TrustBundle => "trust-bundle",
            Self::FederatedBundle(_) => "federated-bundle",
            Self::ProposedTrustBundle => "proposed-trust-bundle",
            Self::ClientTrustBundle(_) => "client-trust-bundle",
            Self::ServerTrustBundle(_) => "server-trust-bundle",
            Self::RevocationList => "revocation-list",
        }
    }

    /// The listener, cluster or trust domain that it is for, where it is for one.
    #[must_use]
    pub fn owner(&self) -> Option<&Arc<str>> {
        match self {
            Self::Listener(name)
            | Self::Client(name)
            | Self::FederatedBundle(name)
            | Self::ClientTrustBundle(name)
            | Self::ServerTrustBundle(name) => Some(name),
            Self::Identity | Self::TrustBundle | Self::ProposedTrustBundle | Self::RevocationList => None,
        }
    }

    /// Whether it is shown to others, with a key of ours.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Identity | Self::Listener(_) | Self::Client(_))
    }
}

/// One certificate, or one revocation list, that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// The file it came from.
    pub file: PathBuf,
    /// What it is for.
    pub role: CertificateRole,
    /// Its SPIFFE ID, if it has exactly one.
    pub identity: Option<SpiffeId>,
    /// Its DNS names.
    pub dns_names: Vec<String>,
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// Its serial number in hexadecimal digits.
    pub serial: String,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// The last moment at which it is valid; of a revocation list, when the next one is due.
    pub not_after: SystemTime,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// What is odd about it though it is used, or why it is not used though the file is.
    pub warnings: Vec<String>,
}

impl CertificateStatus {
    pub(super) fn of(file: PathBuf, role: CertificateRole, der: &CertificateDer<'_>, facts: &Facts<'_>) -> Self {
        Self {
            file,
            role,
            identity: super::verify::uri_identity(facts).ok(),
            dns_names: facts.dns_names().map(str::to_owned).collect(),
            subject: name_text(facts.subject),
            issuer: name_text(facts.issuer),
            serial: hex(facts.serial),
            not_before: moment(facts.not_before),
            not_after: moment(facts.not_after),
            sha256: hex(&sha256(der)),
            warnings: Vec::new(),
        }
    }
}
