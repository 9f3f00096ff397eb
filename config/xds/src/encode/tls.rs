//! TLS towards both sides.

use outrigger_config::model::{
    CertificateFiles, ClientCertificate, ClientTrust, ClusterProtocol, ClusterTls, ClusterTlsMode, ListenerProtocol,
    ListenerTls, TlsVersion,
};
use outrigger_config::spiffe::IdentityPattern;

use super::Form;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{self, core, quic, tls};
use crate::wire;

/// TLS that a listener terminates.
pub(super) fn downstream(config: &ListenerTls, protocol: ListenerProtocol, form: Form) -> core::TransportSocket {
    let alpn: &[&str] = match protocol {
        ListenerProtocol::Auto => &["h2", "http/1.1"],
        ListenerProtocol::Http1 => &["http/1.1"],
        ListenerProtocol::Http2 => &["h2"],
        ListenerProtocol::Tcp | ListenerProtocol::Udp => &[],
    };
    let trust = match (config.client_certificate, &config.client_trust) {
        (ClientCertificate::None, _) => None,
        (_, ClientTrust::Mesh) => {
            Some(tls::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(secret(pb::ROOTS)))
        }
        (_, ClientTrust::Roots(path)) => {
            let context =
                tls::CertificateValidationContext { trusted_ca: Some(wire::filename(path)), ..Default::default() };
            Some(tls::common_tls_context::ValidationContextType::ValidationContext(context))
        }
    };
    let mut common = tls::CommonTlsContext {
        tls_params: Some(parameters(config.min_version)),
        alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
        validation_context_type: trust,
        ..Default::default()
    };
    if config.certificates.is_empty() {
        common.tls_certificate_sds_secret_configs = vec![own(form)];
    } else {
        common.tls_certificates = config.certificates.iter().map(certificate).collect();
    }
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: wire::flag(config.client_certificate == ClientCertificate::Required),
        ..Default::default()
    };
    socket(wire::any(&context))
}

/// TLS to the endpoints of a cluster.
pub(super) fn upstream(config: &ClusterTls, protocol: ClusterProtocol, form: Form) -> core::TransportSocket {
    use tls::common_tls_context::ValidationContextType::{CombinedValidationContext, ValidationContext};
    use tls::subject_alt_name_matcher::SanType;

    let ClusterTls { mode, sni, min_version, place: _ } = config;
    let alpn: &[&str] = match protocol {
        ClusterProtocol::Http1 => &["http/1.1"],
        ClusterProtocol::Http2 => &["h2"],
        ClusterProtocol::Http3 => &["h3"],
        ClusterProtocol::Tcp => &[],
        ClusterProtocol::Auto => &["h2", "http/1.1"],
    };
    let mut common = tls::CommonTlsContext {
        tls_params: Some(parameters(*min_version)),
        alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    };
    let mut implied = false;
    match mode {
        ClusterTlsMode::Mutual { peer_identities } => {
            let names = peer_identities.iter().map(|pattern| {
                let pattern = match pattern {
                    IdentityPattern::Exact(id) => MatchPattern::Exact(id.as_str().to_owned()),
                    IdentityPattern::Prefix(prefix) => MatchPattern::Prefix(prefix.to_string()),
                };
                alt_name(SanType::Uri, pattern)
            });
            common.tls_certificate_sds_secret_configs = vec![own(form)];
            let default = tls::CertificateValidationContext {
                match_typed_subject_alt_names: names.collect(),
                ..Default::default()
            };
            common.validation_context_type =
                Some(CombinedValidationContext(tls::common_tls_context::CombinedCertificateValidationContext {
                    default_validation_context: Some(default),
                    validation_context_sds_secret_config: Some(secret(pb::ROOTS)),
                    ..Default::default()
                }));
        }
        ClusterTlsMode::Simple { trust_bundle, subject_names, certificate: shown } => {
            let names = subject_names.iter().map(|name| {
                let kind = match name.parse::<std::net::IpAddr>() {
                    Ok(_) => SanType::IpAddress,
                    Err(_) => SanType::Dns,
                };
                alt_name(kind, MatchPattern::Exact(name.to_string()))
            });
            implied = subject_names.is_empty();
            common.validation_context_type = Some(ValidationContext(tls::CertificateValidationContext {
                trusted_ca: Some(wire::filename(trust_bundle)),
                match_typed_subject_alt_names: names.collect(),
                ..Default::default()
            }));
            common.tls_certificates = shown.iter().map(certificate).collect();
        }
    }
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: sni.as_deref().unwrap_or_default().to_owned(),
        // Without it, Envoy sends no server name and looks at no name in the certificate.
        auto_host_sni: sni.is_none(),
        auto_sni_san_validation: implied,
        ..Default::default()
    };
    if protocol == ClusterProtocol::Http3 {
        let context = quic::QuicUpstreamTransport { upstream_tls_context: Some(context) };
        return super::opaque::socket("envoy.transport_sockets.quic", wire::any(&context));
    }
    socket(wire::any(&context))
}

fn socket(config: crate::pb::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// The certificate of the proxy itself. Its key never travels: our own proxy takes the name for what it has, and Envoy looks
/// a secret without a source up in its bootstrap file.
fn own(form: Form) -> tls::SdsSecretConfig {
    match form {
        Form::Outrigger => secret(pb::SVID),
        Form::Envoy | Form::Grpc => tls::SdsSecretConfig { name: pb::SVID.to_owned(), sds_config: None },
    }
}

fn secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig { name: name.to_owned(), sds_config: Some(wire::ads()) }
}

fn certificate(CertificateFiles { certificate, private_key, place: _ }: &CertificateFiles) -> tls::TlsCertificate {
    tls::TlsCertificate {
        certificate_chain: Some(wire::filename(certificate)),
        private_key: Some(wire::filename(private_key)),
        ..Default::default()
    }
}

fn alt_name(kind: tls::subject_alt_name_matcher::SanType, pattern: MatchPattern) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher { san_type: kind as i32, matcher: Some(wire::string(pattern)), oid: String::new() }
}

fn parameters(version: TlsVersion) -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol::{TlSv12, TlSv13};
    tls::TlsParameters {
        tls_minimum_protocol_version: match version {
            TlsVersion::V1_2 => TlSv12,
            TlsVersion::V1_3 => TlSv13,
        } as i32,
        // Envoy's default for servers and clients stops at 1.2 for clients.
        tls_maximum_protocol_version: TlSv13 as i32,
        ..Default::default()
    }
}

/// TLS to a server on the web; without a bundle, by the system's roots.
pub(super) fn web(host: &str, bundle: Option<&std::path::Path>) -> core::TransportSocket {
    use tls::certificate_validation_context::SystemRootCerts;
    let address = host.parse::<std::net::IpAddr>().is_ok();
    let context = tls::CertificateValidationContext {
        trusted_ca: bundle.map(wire::filename),
        system_root_certs: bundle.is_none().then(SystemRootCerts::default),
        match_typed_subject_alt_names: vec![alt_name(
            if address {
                tls::subject_alt_name_matcher::SanType::IpAddress
            } else {
                tls::subject_alt_name_matcher::SanType::Dns
            },
            MatchPattern::Exact(host.to_owned()),
        )],
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(context)),
            ..Default::default()
        }),
        sni: if address { String::new() } else { host.to_owned() },
        ..Default::default()
    };
    socket(wire::any(&context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoy_is_not_told_to_ask_for_a_key() {
        assert_eq!(own(Form::Outrigger), secret(pb::SVID));
        let envoy = own(Form::Envoy);
        assert_eq!((&*envoy.name, envoy.sds_config), ("default", None));
    }
}
