//! TLS towards both sides.

use std::path::PathBuf;
use std::sync::Arc;

use outrigger_config::model::{
    CertificateFiles, ClientCertificate, ClientTrust, ClusterTls, ClusterTlsMode, Place, ProxyVersion, TlsVersion,
};
use outrigger_config::spiffe::IdentityPattern;

use super::reader::At;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{self, Any, core, quic, tls, upstream_proxy_protocol as header};
use crate::wire;

const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const QUIC: &str = "envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport";
const HEADER: &str = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// What a transport socket is.
pub(super) enum Socket {
    Plain,
    Tls(Any),
}

pub(super) fn socket(at: &At<'_>, message: Option<&core::TransportSocket>) -> Socket {
    let Some(message) = message else { return Socket::Plain };
    unpack!(at, message => core::TransportSocket {
        take: [config_type],
        ignore: [name], // the type of the configuration says it
        refuse: [],
    });
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = config_type else {
        at.field("typed_config").refuse("the transport socket has no configuration");
        return Socket::Plain;
    };
    match any.type_url.rsplit('/').next() {
        Some(RAW) => Socket::Plain,
        Some(UPSTREAM | DOWNSTREAM) => Socket::Tls(any.clone()),
        _ => {
            let reason = format!("the transport socket `{}` is not supported; use TLS, or none", any.type_url);
            at.field("typed_config").refuse(reason);
            Socket::Plain
        }
    }
}

/// What the transport socket of a cluster is.
pub(super) struct Upstream {
    pub(super) socket: Socket,
    /// The TLS is that of QUIC.
    pub(super) quic: bool,
    /// Connections begin with a PROXY header.
    pub(super) header: Option<ProxyVersion>,
}

pub(super) fn upstream_socket(at: &At<'_>, message: Option<&core::TransportSocket>) -> Upstream {
    let typed = message
        .and_then(|message| message.config_type.as_ref())
        .map(|core::transport_socket::ConfigType::TypedConfig(any)| any);
    let kind = typed.and_then(|any| any.type_url.rsplit('/').next());
    match (typed, kind) {
        (Some(any), Some(QUIC)) => {
            let at = at.field("typed_config");
            let message = at.typed::<quic::QuicUpstreamTransport>(any).unwrap_or_default();
            unpack!(at, &message => quic::QuicUpstreamTransport {
                take: [upstream_tls_context],
                ignore: [],
                refuse: [],
            });
            let socket = match upstream_tls_context {
                Some(context) => Socket::Tls(wire::any(context)),
                None => {
                    at.field("upstream_tls_context").refuse("nothing is said of TLS, which QUIC always has");
                    Socket::Plain
                }
            };
            Upstream { socket, quic: true, header: None }
        }
        (Some(any), Some(HEADER)) => {
            let at = at.field("typed_config");
            let message = at.typed::<header::ProxyProtocolUpstreamTransport>(any).unwrap_or_default();
            unpack!(at, &message => header::ProxyProtocolUpstreamTransport {
                take: [config, transport_socket],
                ignore: [
                    allow_unspecified_address, // what has no address is said to be local
                ],
                refuse: [tlv_as_pool_key],
            });
            let version = config.as_ref().map_or(ProxyVersion::V1, |message| version(&at.field("config"), message));
            let socket = socket(&at.field("transport_socket"), transport_socket.as_ref());
            Upstream { socket, quic: false, header: Some(version) }
        }
        _ => Upstream { socket: socket(at, message), quic: false, header: None },
    }
}

fn version(at: &At<'_>, message: &core::ProxyProtocolConfig) -> ProxyVersion {
    use core::proxy_protocol_config::Version;
    unpack!(at, message => core::ProxyProtocolConfig {
        take: [version],
        ignore: [],
        refuse: [pass_through_tlvs, added_tlvs],
    });
    match Version::try_from(*version) {
        Ok(Version::V2) => ProxyVersion::V2,
        Ok(Version::V1) => ProxyVersion::V1,
        Err(_) => {
            at.field("version").refuse("this version is not known; write V1 or V2");
            ProxyVersion::V1
        }
    }
}

/// What is said of TLS in one of both directions.
pub(super) struct Common {
    pub(super) min_version: TlsVersion,
    /// Files; empty: the proxy's own.
    pub(super) certificates: Vec<CertificateFiles>,
    pub(super) mesh_certificate: bool,
    pub(super) trust: Option<Trust>,
    pub(super) names: Vec<tls::SubjectAltNameMatcher>,
    pub(super) alpn: Vec<String>,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Trust {
    Mesh,
    Roots(PathBuf),
}

/// The TLS of a listener without what only it knows.
pub(super) struct Downstream {
    pub(super) common: Common,
    pub(super) client_certificate: ClientCertificate,
    pub(super) client_trust: ClientTrust,
}

pub(super) fn downstream(at: &At<'_>, any: &Any) -> Option<Downstream> {
    let at = at.field("typed_config");
    if any.type_url.rsplit('/').next() != Some(DOWNSTREAM) {
        at.refuse("a listener takes a DownstreamTlsContext");
        return None;
    }
    let message: tls::DownstreamTlsContext = at.typed(any)?;
    unpack!(at, &message => tls::DownstreamTlsContext {
        take: [common_tls_context, require_client_certificate, require_sni, ocsp_staple_policy],
        ignore: [
            disable_stateful_session_resumption, // resumed sessions are verified as new ones
            session_timeout, // likewise
            full_scan_certs_on_sni_mismatch, // the first certificate serves who asks for none
            prefer_client_ciphers, // TLS 1.3 suites are all strong
            session_ticket_keys_type, // tickets have keys of their own
        ],
        refuse: [],
    });
    if require_sni.as_ref().is_some_and(|flag| flag.value) {
        at.field("require_sni").refuse("this is not supported; remove it");
    }
    if *ocsp_staple_policy != 0 {
        at.field("ocsp_staple_policy").refuse("stapling is not supported; remove it");
    }
    let common = common(&at.field("common_tls_context"), common_tls_context.as_ref());
    if !common.names.is_empty() {
        let fix = "say who may call with the RBAC filter";
        at.field("common_tls_context").refuse(format!("conditions on names of callers are not supported here; {fix}"));
    }
    if common.certificates.is_empty() && !common.mesh_certificate {
        at.field("common_tls_context").refuse("there is no certificate");
    }
    let required = require_client_certificate.as_ref().is_some_and(|flag| flag.value);
    let (client_certificate, client_trust) = match (&common.trust, required) {
        (None, false) => (ClientCertificate::None, ClientTrust::Mesh),
        (None, true) => {
            let reason = "certificates are asked for, and nobody vouches for them; add a validation context";
            at.field("require_client_certificate").refuse(reason);
            (ClientCertificate::None, ClientTrust::Mesh)
        }
        (Some(trust), required) => {
            let asked = if required { ClientCertificate::Required } else { ClientCertificate::Optional };
            let trust = match trust {
                Trust::Mesh => ClientTrust::Mesh,
                Trust::Roots(path) => ClientTrust::Roots(path.clone()),
            };
            (asked, trust)
        }
    };
    Some(Downstream { common, client_certificate, client_trust })
}

/// TLS of a cluster, and its ALPN. `places`: its own, and that of its certificate.
pub(super) fn upstream(at: &At<'_>, any: &Any, places: (Place, Option<Place>)) -> Option<(ClusterTls, Vec<String>)> {
    let at = at.field("typed_config");
    if any.type_url.rsplit('/').next() != Some(UPSTREAM) {
        at.refuse("a cluster takes an UpstreamTlsContext");
        return None;
    }
    let message: tls::UpstreamTlsContext = at.typed(any)?;
    unpack!(at, &message => tls::UpstreamTlsContext {
        take: [common_tls_context, sni, auto_sni_san_validation, auto_host_sni],
        ignore: [
            max_session_keys, // how many sessions are remembered
            enforce_rsa_key_usage, // verified anyway
        ],
        refuse: [allow_renegotiation],
    });
    if *auto_host_sni && !sni.is_empty() {
        at.field("auto_host_sni").refuse("`sni` says what is asked for; keep one of the two");
    }
    let common = common(&at.field("common_tls_context"), common_tls_context.as_ref());
    let at_names = at.field("common_tls_context").field("match_typed_subject_alt_names");
    let uris = common.names.iter().filter(|name| name.san_type == tls::subject_alt_name_matcher::SanType::Uri as i32);
    let sni = (!sni.is_empty()).then(|| Arc::from(sni.as_str()));
    let (place, certificate_place) = places;
    let mode = if uris.count() > 0 {
        let mutual = common.mesh_certificate && common.trust == Some(Trust::Mesh);
        if !mutual {
            let reason = format!(
                "URI names are those of workloads of the mesh: use the secrets `{}` and `{}`",
                pb::SVID,
                pb::ROOTS
            );
            at_names.refuse(reason);
        }
        if *auto_sni_san_validation {
            let reason = "a workload of the mesh is known by its identity, not by a server name; remove it";
            at.field("auto_sni_san_validation").refuse(reason);
        }
        let identities = common.names.iter().filter_map(|name| identity(&at_names, name));
        ClusterTlsMode::Mutual { peer_identities: identities.collect() }
    } else {
        let mut names = Vec::new();
        for name in &common.names {
            names.extend(subject_name(&at_names, name));
        }
        if common.names.is_empty() && !auto_sni_san_validation {
            let reason = "no name is looked for in the certificate, so that any server could stand in; say which, or set \
                          `auto_sni_san_validation`";
            at_names.refuse(reason);
        }
        let trust_bundle = match &common.trust {
            Some(Trust::Roots(path)) => path.clone(),
            Some(Trust::Mesh) => at.reader.context.bundle(pb::ROOTS),
            None => {
                at.field("common_tls_context").field("validation_context").refuse("nobody vouches for the server");
                return None;
            }
        };
        let mut certificates = common.certificates.into_iter();
        let mut certificate = certificates.next();
        if certificates.next().is_some() {
            at.field("common_tls_context").field("tls_certificates").refuse("one certificate is shown to servers");
        }
        if common.mesh_certificate {
            certificate = Some(super::secret_files(at.reader.context, pb::SVID, &place));
        }
        let certificate =
            certificate.map(|files| CertificateFiles { place: certificate_place.unwrap_or(files.place), ..files });
        ClusterTlsMode::Simple { trust_bundle, subject_names: names, certificate }
    };
    Some((ClusterTls { mode, sni, min_version: common.min_version, place }, common.alpn))
}

fn identity(at: &At<'_>, message: &tls::SubjectAltNameMatcher) -> Option<IdentityPattern> {
    let pattern = match matcher(at, message)? {
        MatchPattern::Exact(text) => IdentityPattern::parse(text),
        MatchPattern::Prefix(text) if text.ends_with('/') => IdentityPattern::parse(&format!("{text}*")),
        _ => {
            at.refuse("identities are matched by `exact`, or by a `prefix` that ends in `/`");
            return None;
        }
    };
    at.held(pattern.map_err(|error| format!("this is not a SPIFFE identity: {error}")))
}

fn subject_name(at: &At<'_>, message: &tls::SubjectAltNameMatcher) -> Option<Arc<str>> {
    use tls::subject_alt_name_matcher::SanType;
    let kind = SanType::try_from(message.san_type);
    if !matches!(kind, Ok(SanType::Dns | SanType::IpAddress)) {
        at.refuse("only names of the types URI, DNS and IP_ADDRESS are supported");
        return None;
    }
    match matcher(at, message)? {
        MatchPattern::Exact(text) => Some(Arc::from(text.as_str())),
        _ => {
            at.refuse("names are matched by `exact`");
            None
        }
    }
}

fn matcher<'m>(at: &At<'_>, message: &'m tls::SubjectAltNameMatcher) -> Option<&'m MatchPattern> {
    unpack!(at, message => tls::SubjectAltNameMatcher { take: [matcher, san_type], ignore: [], refuse: [oid] });
    let _ = san_type;
    let message = matcher.as_ref().or_else(|| {
        at.refuse("there is no condition");
        None
    })?;
    unpack!(at, message => pb::matcher::StringMatcher { take: [match_pattern], ignore: [], refuse: [ignore_case] });
    if match_pattern.is_none() {
        at.refuse("there is no condition");
    }
    match_pattern.as_ref()
}

fn common(at: &At<'_>, message: Option<&tls::CommonTlsContext>) -> Common {
    use tls::common_tls_context::ValidationContextType;
    let mut out = Common {
        min_version: TlsVersion::V1_2,
        certificates: Vec::new(),
        mesh_certificate: false,
        trust: None,
        names: Vec::new(),
        alpn: Vec::new(),
    };
    let Some(message) = message else { return out };
    unpack!(at, message => tls::CommonTlsContext {
        take: [tls_params, tls_certificates, tls_certificate_sds_secret_configs, alpn_protocols, validation_context_type],
        ignore: [],
        refuse: [
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            custom_handshaker,
            key_log,
        ],
    });
    if let Some(message) = tls_params {
        out.min_version = parameters(&at.field("tls_params"), message);
    }
    for (index, message) in tls_certificates.iter().enumerate() {
        let at = at.item("tls_certificates", index);
        if let Some((chain, key)) = certificate_sources(&at, message) {
            let chain = at.field("certificate_chain").source(chain, "pem");
            let key = at.field("private_key").source(key, "key");
            if let (Some(certificate), Some(private_key)) = (chain, key) {
                out.certificates.push(CertificateFiles { certificate, private_key, place: at.place() });
            }
        }
    }
    for (index, message) in tls_certificate_sds_secret_configs.iter().enumerate() {
        let at = at.item("tls_certificate_sds_secret_configs", index);
        match secret(&at, message) {
            Some(pb::SVID) => out.mesh_certificate = true,
            Some(name) => {
                at.refers_to_secret(name);
                out.certificates.push(super::secret_files(at.reader.context, name, &at.place()));
            }
            None => {}
        }
    }
    if out.mesh_certificate && !out.certificates.is_empty() {
        at.refuse("the certificate of the mesh stands beside others; keep one");
    }
    out.alpn.clone_from(alpn_protocols);
    let roots = |at: &At<'_>, source: Option<&core::DataSource>| {
        source.and_then(|source| at.field("trusted_ca").source(source, "ca.pem")).map(Trust::Roots)
    };
    match validation_context_type {
        None => {}
        Some(ValidationContextType::ValidationContext(context)) => {
            let at = at.field("validation_context");
            let (ca, names) = validation(&at, context);
            if ca.is_none() {
                at.field("trusted_ca").refuse("nobody vouches for the certificate; name roots");
            }
            out.trust = roots(&at, ca);
            out.names = names;
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            out.trust = trust(&at.field("validation_context_sds_secret_config"), config);
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let at = at.field("combined_validation_context");
            unpack!(at, combined => tls::common_tls_context::CombinedCertificateValidationContext {
                take: [default_validation_context, validation_context_sds_secret_config],
                ignore: [],
                refuse: [
                    validation_context_certificate_provider,
                    validation_context_certificate_provider_instance,
                ],
            });
            if let Some(context) = default_validation_context {
                let at = at.field("default_validation_context");
                let (ca, names) = validation(&at, context);
                if ca.is_some() {
                    at.field("trusted_ca").refuse("the secret has the roots; keep one of the two");
                }
                out.names = names;
            }
            match validation_context_sds_secret_config {
                Some(config) => out.trust = trust(&at.field("validation_context_sds_secret_config"), config),
                None => at.field("validation_context_sds_secret_config").refuse("there is no secret"),
            }
        }
        Some(ValidationContextType::ValidationContextCertificateProvider(_)) => {
            at.field("validation_context_certificate_provider").refuse("this is not supported; use a secret");
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(_)) => {
            at.field("validation_context_certificate_provider_instance").refuse("this is not supported; use a secret");
        }
    }
    out
}

fn trust(at: &At<'_>, config: &tls::SdsSecretConfig) -> Option<Trust> {
    match secret(at, config)? {
        pb::ROOTS => Some(Trust::Mesh),
        name => {
            at.refers_to_secret(name);
            Some(Trust::Roots(at.reader.context.bundle(name)))
        }
    }
}

/// The name of a secret. All of them come over the one stream.
fn secret<'m>(at: &At<'_>, config: &'m tls::SdsSecretConfig) -> Option<&'m str> {
    unpack!(at, config => tls::SdsSecretConfig { take: [name, sds_config], ignore: [], refuse: [] });
    match sds_config {
        Some(source) => super::listener::over_ads(&at.field("sds_config"), source),
        None => at.field("sds_config").refuse("secrets that the bootstrap file names are not supported; use ADS"),
    }
    if name.is_empty() {
        at.field("name").refuse("the secret has no name");
        return None;
    }
    Some(name)
}

pub(super) fn certificate_sources<'m>(
    at: &At<'_>,
    message: &'m tls::TlsCertificate,
) -> Option<(&'m core::DataSource, &'m core::DataSource)> {
    unpack!(at, message => tls::TlsCertificate {
        take: [certificate_chain, private_key],
        ignore: [watched_directory], // files are watched anyway
        refuse: [pkcs12, private_key_provider, password, ocsp_staple, signed_certificate_timestamp, tls_params],
    });
    match (certificate_chain, private_key) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (chain, _) => {
            let missing = if chain.is_none() { "certificate_chain" } else { "private_key" };
            at.field(missing).refuse("this is missing");
            None
        }
    }
}

/// The roots and the names of a validation context.
pub(super) fn validation<'m>(
    at: &At<'_>,
    message: &'m tls::CertificateValidationContext,
) -> (Option<&'m core::DataSource>, Vec<tls::SubjectAltNameMatcher>) {
    unpack!(at, message => tls::CertificateValidationContext {
        take: [trusted_ca, match_typed_subject_alt_names, trust_chain_verification],
        ignore: [
            watched_directory, // files are watched anyway
            only_verify_leaf_cert_crl, // without lists there is nothing to verify
            suppress_client_ca_list, // a hint for callers
        ],
        refuse: [
            ca_certificate_provider_instance,
            system_root_certs,
            verify_certificate_spki,
            verify_certificate_hash,
            match_subject_alt_names,
            require_signed_certificate_timestamp,
            crl,
            allow_expired_certificate,
            custom_validator_config,
            max_verify_depth,
        ],
    });
    if *trust_chain_verification != 0 {
        at.field("trust_chain_verification").refuse("certificates are always verified");
    }
    (trusted_ca.as_ref(), match_typed_subject_alt_names.clone())
}

fn parameters(at: &At<'_>, message: &tls::TlsParameters) -> TlsVersion {
    use tls::tls_parameters::TlsProtocol;
    unpack!(at, message => tls::TlsParameters {
        take: [tls_minimum_protocol_version, tls_maximum_protocol_version],
        ignore: [],
        refuse: [cipher_suites, ecdh_curves, signature_algorithms, compliance_policies],
    });
    match TlsProtocol::try_from(*tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => {}
        _ => at.field("tls_maximum_protocol_version").refuse("TLS 1.3 cannot be switched off; remove it"),
    }
    match TlsProtocol::try_from(*tls_minimum_protocol_version) {
        Ok(TlsProtocol::TlSv13) => TlsVersion::V1_3,
        // Envoy's default.
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv12) => TlsVersion::V1_2,
        _ => {
            at.field("tls_minimum_protocol_version").refuse("versions before 1.2 are not spoken; write TLSv1_2");
            TlsVersion::V1_2
        }
    }
}
