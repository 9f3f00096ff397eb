//! Who the proxy is, whom it believes, and where TLS is spoken. Only names of files are held here: what they
//! contain changes without a change of the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{BackendRef, HostPattern, Place};
use crate::spiffe::{IdentityPattern, TrustDomain};

/// The mesh identity: an X.509-SVID and the bundles that peers are verified against.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The SVID and its key.
    pub certificate: CertificateFiles,
    /// Roots of the identity's own trust domain (PEM).
    pub trust_bundle: PathBuf,
    /// Roots of other trust domains whose workloads are believed.
    pub federated_bundles: BTreeMap<TrustDomain, PathBuf>,
    /// Certificate revocation lists (PEM or DER).
    pub revocation_lists: Vec<PathBuf>,
    /// The bundle that is to replace `trust_bundle`: every handshake is rehearsed against it.
    pub proposed_trust_bundle: Option<PathBuf>,
    /// Where it is written.
    pub place: Place,
}

/// A certificate chain, leaf first, and its private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub private_key: PathBuf,
    /// Where it is written.
    pub place: Place,
}

/// TLS on a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTls {
    /// What is accepted.
    pub mode: TlsMode,
    /// A stricter mode that is rehearsed: who could no longer connect is reported.
    pub proposed_mode: Option<TlsMode>,
    /// Certificates chosen by SNI; the first serves everybody else. Empty: the mesh identity's.
    pub certificates: Vec<CertificateFiles>,
    /// Whether callers show a certificate.
    pub client_certificate: ClientCertificate,
    /// Whose certificates are believed.
    pub client_trust: ClientTrust,
    /// The oldest version (default 1.3).
    pub min_version: TlsVersion,
    /// How long a handshake may take (default 10 s).
    pub handshake_timeout: Duration,
    /// Handshakes at a time (default 1024); further connections are closed.
    pub max_handshakes: u32,
    /// Server names whose connections are handed on without being terminated, before anything else.
    pub passthrough: Vec<Passthrough>,
    /// Where it is written.
    pub place: Place,
}

/// What a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Plaintext only. A listener whose mode is written so has no [`ListenerTls`] at all.
    Off,
    /// TLS and plaintext, told apart by the first byte.
    Permissive,
    /// TLS only.
    Strict,
    /// TLS that is handed on by server name, never terminated.
    Passthrough,
}

/// Whether callers show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificate {
    /// Not asked for (default with certificates of the listener's own).
    None,
    /// Asked for; verified where shown.
    Optional,
    /// No connection without (default with the mesh identity).
    Required,
}

/// Whose client certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientTrust {
    /// SPIFFE workloads of the mesh identity's bundles.
    Mesh,
    /// Any certificate issued below these roots (PEM).
    Roots(PathBuf),
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Connections handed on by server name.
#[derive(Debug, Clone, PartialEq)]
pub struct Passthrough {
    /// Server names; [`HostPattern::Any`] also takes connections without one. The most specific wins.
    pub hostnames: Vec<HostPattern>,
    /// Where they go, by weight. Clusters without TLS of their own, or of TCP with mutual TLS, inside which it goes.
    pub backends: Vec<BackendRef>,
    /// Where it is written.
    pub place: Place,
}

/// TLS to the endpoints of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterTls {
    /// Who is expected, and what is shown to it.
    pub mode: ClusterTlsMode,
    /// The server name sent. `None`: the endpoint's host name; an address is not sent.
    pub sni: Option<Arc<str>>,
    /// The oldest version (default 1.3).
    pub min_version: TlsVersion,
    /// Where it is written.
    pub place: Place,
}

/// Who is expected at the endpoints.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterTlsMode {
    /// A workload of the mesh; the mesh identity is shown to it.
    Mutual {
        /// One of these, at least one.
        peer_identities: Vec<IdentityPattern>,
    },
    /// A server with a certificate for a name, issued below given roots.
    Simple {
        /// The roots (PEM).
        trust_bundle: PathBuf,
        /// Names of which the certificate must have one. Empty: the SNI, or the endpoint's host name or address.
        subject_names: Vec<Arc<str>>,
        /// Shown when the server asks for one.
        certificate: Option<CertificateFiles>,
    },
}

/// What is done with `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertHeader {
    /// Removed (default).
    Sanitize,
    /// Kept as the caller sent it; only from callers with a verified certificate.
    Forward,
    /// The caller's certificate is appended to what it sent; only from callers with a verified certificate.
    Append,
    /// Replaced by the caller's certificate.
    Set,
}
