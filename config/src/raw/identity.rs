//! The mesh identity and TLS as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{BackendRef, DurationText};
use crate::limits;
use crate::read::{Entries, Field, List};

/// Who this proxy is to other workloads: an X.509-SVID and the bundles that peers are verified against. All files are
/// PEM and are read again when they change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// The certificate chain, leaf first. The leaf names exactly one SPIFFE ID.
    #[schemars(extend("x-required" = true))]
    pub certificate: Field<String>,
    /// The key of the leaf.
    #[schemars(extend("x-required" = true))]
    pub private_key: Field<String>,
    /// Roots of the identity's own trust domain.
    #[schemars(extend("x-required" = true))]
    pub trust_bundle: Field<String>,
    /// Roots of other trust domains whose workloads are believed, by trust domain.
    pub federated_bundles: Field<Entries<String>>,
    /// Certificate revocation lists (PEM or DER).
    #[schemars(length(min = 1))]
    pub revocation_lists: Field<List<String>>,
    /// The bundle that is to replace `trustBundle`: every handshake is rehearsed against it, and who would fail is
    /// reported.
    pub proposed_trust_bundle: Field<String>,
}

/// A certificate and its key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate chain, leaf first (PEM).
    #[schemars(extend("x-required" = true))]
    pub certificate: Field<String>,
    /// The key of the leaf (PEM).
    #[schemars(extend("x-required" = true))]
    pub private_key: Field<String>,
}

/// TLS on a listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// What is accepted.
    #[schemars(extend("x-required" = true))]
    pub mode: Field<TlsMode>,
    /// `strict`, rehearsed while `mode` is `permissive`: who could no longer connect is reported.
    pub proposed_mode: Field<TlsMode>,
    /// Certificates by server name (those that each names); the first serves everybody else. Without it: the mesh
    /// identity's.
    #[schemars(length(min = 1))]
    pub certificates: Field<List<CertificateFiles>>,
    /// Whether callers show a certificate. Without it: `required` with the mesh identity, `none` with `certificates`.
    pub client_certificate: Field<ClientCertificate>,
    /// Roots of client certificates (PEM). Without it: workloads of the mesh, by the bundles of `identity`.
    pub client_trust_bundle: Field<String>,
    /// The oldest version of TLS.
    #[schemars(extend("default" = "1.3"))]
    pub min_version: Field<TlsVersion>,
    /// How long a handshake may take.
    #[schemars(extend("default" = "10s"))]
    pub handshake_timeout: Field<DurationText>,
    /// Handshakes at a time; further connections are closed.
    #[schemars(range(min = limits::HANDSHAKES.min, max = limits::HANDSHAKES.max), extend("default" = 1024))]
    pub max_handshakes: Field<u64>,
    /// Server names whose connections are handed on without being decrypted, before anything else.
    #[schemars(length(min = 1))]
    pub passthrough: Field<List<Passthrough>>,
}

/// What a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsMode {
    /// TLS only.
    Strict,
    /// TLS and plaintext.
    Permissive,
    /// Plaintext only.
    Off,
    /// TLS that is handed on by server name.
    Passthrough,
}

impl JsonSchema for TlsMode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TlsMode".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `off` is false to an editor that follows YAML 1.1.
        json_schema!({
            "description": "`strict`: TLS only. `permissive`: TLS and plaintext, told apart by the first byte. `off`: \
                            plaintext only. `passthrough`: TLS that is handed on by server name, never decrypted.",
            "enum": ["strict", "permissive", "off", "passthrough", false],
        })
    }
}

/// Whether callers show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertificate {
    /// No connection without one.
    Required,
    /// Verified where one is shown.
    Optional,
    /// Not asked for.
    None,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

impl JsonSchema for TlsVersion {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TlsVersion".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Without quotes an editor sees a number.
        json_schema!({ "description": "A version of TLS.", "enum": ["1.2", "1.3", 1.2, 1.3] })
    }
}

/// Connections that are handed on by server name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Passthrough {
    /// Server names: exact, by suffix (`*.example.com`), or `*`, which also takes connections without one. The most
    /// specific one wins.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub hostnames: Field<List<String>>,
    /// Where they go, by weight. Clusters without `tls`, or between proxies with `protocol: tcp` and mutual TLS.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub backend_refs: Field<List<BackendRef>>,
}

/// What is done with `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertHeader {
    /// Removed.
    Sanitize,
    /// Kept as the caller sent it; only from callers with a verified certificate.
    Forward,
    /// The caller's certificate is appended to what it sent; only from callers with a verified certificate.
    Append,
    /// Replaced by the caller's certificate.
    Set,
}

/// TLS to the endpoints of a cluster.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterTls {
    /// Who is expected there. Without it: `mutual`, by `peerIdentities`.
    pub mode: Field<ClusterTlsMode>,
    /// `mutual`: the peer is one of these: a SPIFFE ID, or all below one (`spiffe://mesh.local/ns/shop/*`).
    #[schemars(length(min = 1))]
    pub peer_identities: Field<List<String>>,
    /// The server name sent. Without it: the endpoint's host name; none for an address.
    pub sni: Field<String>,
    /// The oldest version of TLS.
    #[schemars(extend("default" = "1.3"))]
    pub min_version: Field<TlsVersion>,
    /// `simple`: roots that the server is verified by (PEM).
    pub trust_bundle: Field<String>,
    /// `simple`: names of which the server's certificate must have one. Without it: `sni`, or the endpoint's host
    /// name or address.
    #[schemars(length(min = 1))]
    pub subject_names: Field<List<String>>,
    /// `simple`: the certificate chain that is shown when the server asks for one (PEM).
    pub certificate: Field<String>,
    /// `simple`: its key (PEM).
    pub private_key: Field<String>,
}

/// Who is expected at the endpoints of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClusterTlsMode {
    /// A workload of the mesh, to which the mesh identity is shown.
    Mutual,
    /// A server with a certificate for a name.
    Simple,
}
