//! Identities, TLS, authorization, tokens and authorizers in the words of the file. Keys and certificates are files
//! that are named; what is in them is not part of a configuration.

use std::path::Path;

use outrigger_config::model;
use serde_json::{Value, json};

use super::routes::{named, path_condition, unanchored};
use super::{backend_ref, duration, host_pattern, some, unless_secret};

pub(super) fn identity(identity: &model::Identity) -> Value {
    let model::Identity {
        certificate: model::CertificateFiles { certificate, private_key, place: _ },
        trust_bundle,
        federated_bundles,
        revocation_lists,
        proposed_trust_bundle,
        place: _,
    } = identity;
    let federated = federated_bundles.iter().map(|(domain, bundle)| (domain.to_string(), file(bundle))).collect();
    some([
        ("certificate", file(certificate)),
        ("privateKey", file(private_key)),
        ("trustBundle", file(trust_bundle)),
        ("federatedBundles", if federated_bundles.is_empty() { Value::Null } else { federated }),
        ("revocationLists", revocation_lists.iter().map(|list| file(list)).collect()),
        ("proposedTrustBundle", proposed_trust_bundle.as_deref().map_or(Value::Null, file)),
    ])
}

fn file(path: &Path) -> Value {
    json!(path.display().to_string())
}

fn files(files: &model::CertificateFiles) -> Value {
    let model::CertificateFiles { certificate, private_key, place: _ } = files;
    json!({ "certificate": file(certificate), "privateKey": file(private_key) })
}

pub(super) fn listener_tls(tls: &model::ListenerTls) -> Value {
    let model::ListenerTls {
        mode,
        proposed_mode,
        certificates,
        client_certificate,
        client_trust,
        min_version,
        handshake_timeout,
        max_handshakes,
        passthrough,
        place: _,
    } = tls;
    // What says nothing where nothing is decrypted is refused there.
    let terminates = |value: Value| if *mode == model::TlsMode::Passthrough { Value::Null } else { value };
    some([
        ("mode", json!(tls_mode(*mode))),
        ("proposedMode", proposed_mode.map_or(Value::Null, |mode| json!(tls_mode(mode)))),
        ("certificates", certificates.iter().map(files).collect()),
        ("clientCertificate", terminates(json!(client_certificate_mode(*client_certificate)))),
        (
            "clientTrustBundle",
            match client_trust {
                model::ClientTrust::Mesh => Value::Null,
                model::ClientTrust::Roots(roots) => file(roots),
            },
        ),
        ("minVersion", terminates(json!(tls_version(*min_version)))),
        ("handshakeTimeout", json!(duration(*handshake_timeout))),
        ("maxHandshakes", json!(max_handshakes)),
        ("passthrough", passthrough.iter().map(self::passthrough).collect()),
    ])
}

fn passthrough(entry: &model::Passthrough) -> Value {
    let model::Passthrough { hostnames, backends, place: _ } = entry;
    let mut refs: Vec<Value> = backends.iter().map(backend_ref).collect();
    for backend in refs.iter_mut().filter_map(Value::as_object_mut) {
        // Filters are refused where nothing is decrypted, also an empty list of them.
        backend.remove("filters");
    }
    json!({ "hostnames": hostnames.iter().map(host_pattern).collect::<Vec<_>>(), "backendRefs": refs })
}

/// What a listener accepts, in the words of the file.
pub(crate) fn tls_mode(mode: model::TlsMode) -> &'static str {
    match mode {
        model::TlsMode::Off => "off",
        model::TlsMode::Permissive => "permissive",
        model::TlsMode::Strict => "strict",
        model::TlsMode::Passthrough => "passthrough",
    }
}

fn client_certificate_mode(mode: model::ClientCertificate) -> &'static str {
    match mode {
        model::ClientCertificate::None => "none",
        model::ClientCertificate::Optional => "optional",
        model::ClientCertificate::Required => "required",
    }
}

fn tls_version(version: model::TlsVersion) -> &'static str {
    match version {
        model::TlsVersion::V1_2 => "1.2",
        model::TlsVersion::V1_3 => "1.3",
    }
}

pub(super) fn client_cert_header(header: model::ClientCertHeader) -> &'static str {
    match header {
        model::ClientCertHeader::Sanitize => "sanitize",
        model::ClientCertHeader::Forward => "forward",
        model::ClientCertHeader::Append => "append",
        model::ClientCertHeader::Set => "set",
    }
}

pub(super) fn listener_jwt(jwt: &model::ListenerJwt) -> Value {
    let model::ListenerJwt { providers, required } = jwt;
    json!({ "providers": providers, "required": required })
}

pub(super) fn cluster_tls(tls: &model::ClusterTls) -> Value {
    let model::ClusterTls { mode, sni, min_version, place: _ } = tls;
    let (sni, version) = (json!(sni), json!(tls_version(*min_version)));
    match mode {
        model::ClusterTlsMode::Mutual { peer_identities } => some([
            ("mode", json!("mutual")),
            ("peerIdentities", peer_identities.iter().map(|identity| json!(identity.to_string())).collect()),
            ("sni", sni),
            ("minVersion", version),
        ]),
        model::ClusterTlsMode::Simple { trust_bundle, subject_names, certificate } => some([
            ("mode", json!("simple")),
            ("trustBundle", file(trust_bundle)),
            ("subjectNames", json!(subject_names)),
            ("certificate", certificate.as_ref().map_or(Value::Null, |own| file(&own.certificate))),
            ("privateKey", certificate.as_ref().map_or(Value::Null, |own| file(&own.private_key))),
            ("sni", sni),
            ("minVersion", version),
        ]),
    }
}

pub(super) fn authorization(policy: &model::Authorization) -> Value {
    let model::Authorization { name: _, default, rules, place: _ } = policy;
    let default = match default {
        model::Access::Allow => "allow",
        model::Access::Deny => "deny",
    };
    some([("default", json!(default)), ("rules", rules.iter().map(rule).collect())])
}

fn rule(rule: &model::AccessRule) -> Value {
    let model::AccessRule { name, action, shadow, from, to, claims, place: _ } = rule;
    let action = match action {
        model::AccessAction::Allow => "allow",
        model::AccessAction::Deny => "deny",
        model::AccessAction::Audit => "audit",
    };
    some([
        ("name", json!(name)),
        ("action", json!(action)),
        ("shadow", json!(shadow)),
        ("from", from.iter().map(source).collect()),
        ("to", to.iter().map(operation).collect()),
        ("claims", claims.iter().map(claim).collect()),
    ])
}

fn source(source: &model::AccessSource) -> Value {
    let model::AccessSource {
        identities,
        not_identities,
        namespaces,
        not_namespaces,
        trust_domains,
        not_trust_domains,
        addresses,
        not_addresses,
    } = source;
    some([
        ("identities", texts(identities)),
        ("notIdentities", texts(not_identities)),
        ("namespaces", json!(namespaces)),
        ("notNamespaces", json!(not_namespaces)),
        ("trustDomains", texts(trust_domains)),
        ("notTrustDomains", texts(not_trust_domains)),
        ("addresses", texts(addresses)),
        ("notAddresses", texts(not_addresses)),
    ])
}

fn texts<T: ToString>(list: &[T]) -> Value {
    list.iter().map(T::to_string).collect()
}

fn operation(operation: &model::AccessOperation) -> Value {
    let model::AccessOperation {
        hosts,
        not_hosts,
        paths,
        not_paths,
        methods,
        not_methods,
        ports,
        not_ports,
        headers,
        grpc,
    } = operation;
    some([
        ("hosts", hosts.iter().map(host_pattern).collect()),
        ("notHosts", not_hosts.iter().map(host_pattern).collect()),
        ("paths", paths.iter().map(path_condition).collect()),
        ("notPaths", not_paths.iter().map(path_condition).collect()),
        ("methods", texts(methods)),
        ("notMethods", texts(not_methods)),
        ("ports", json!(ports)),
        ("notPorts", json!(not_ports)),
        ("headers", headers.iter().map(|header| named(header.name.as_str(), &header.value)).collect()),
        ("grpc", grpc.iter().map(rpc).collect()),
    ])
}

fn rpc(rpc: &model::GrpcOperation) -> Value {
    let model::GrpcOperation { service, method } = rpc;
    some([("service", json!(service)), ("method", json!(method))])
}

fn claim(condition: &model::ClaimMatch) -> Value {
    let model::ClaimMatch { provider, path, values } = condition;
    let values = values.iter().map(|value| match value {
        // In short form it would not be clear whether the star stands for itself.
        model::ValueMatch::Exact(text) if text.ends_with('*') => json!({ "exact": text }),
        model::ValueMatch::Exact(text) => json!(text),
        model::ValueMatch::Prefix(text) => json!({ "prefix": text }),
        model::ValueMatch::Regex(pattern) => json!({ "regex": unanchored(pattern) }),
        model::ValueMatch::Present(present) => json!({ "present": present }),
    });
    some([("provider", json!(provider)), ("claim", json!(path)), ("values", values.collect())])
}

pub(super) fn jwt_provider(provider: &model::JwtProvider) -> Value {
    let model::JwtProvider {
        name: _,
        issuer,
        audiences,
        keys,
        algorithms,
        clock_skew,
        from,
        forward,
        claims_to_headers,
        place: _,
    } = provider;
    let keys = match keys {
        model::KeySource::File(path) => json!({ "file": file(path) }),
        model::KeySource::Url { url, refresh, timeout, trust_bundle } => some([
            ("url", json!(url)),
            ("refresh", json!(duration(*refresh))),
            ("timeout", json!(duration(*timeout))),
            ("trustBundle", trust_bundle.as_deref().map_or(Value::Null, file)),
        ]),
    };
    let claims = claims_to_headers
        .iter()
        .map(|model::ClaimHeader { path, header }| json!({ "claim": path, "header": header.as_str() }));
    some([
        ("issuer", json!(issuer)),
        ("audiences", json!(audiences)),
        ("jwks", keys),
        ("algorithms", algorithms.iter().map(|algorithm| json!(algorithm.as_str())).collect()),
        ("clockSkew", json!(duration(*clock_skew))),
        ("from", from.iter().map(token_place).collect()),
        ("forward", json!(forward)),
        ("claimsToHeaders", claims.collect()),
    ])
}

fn token_place(place: &model::TokenPlace) -> Value {
    match place {
        model::TokenPlace::Header { name, prefix } => json!({ "header": name.as_str(), "prefix": prefix }),
        model::TokenPlace::Query(name) => json!({ "query": name }),
    }
}

pub(super) fn external_authorizer(authorizer: &model::ExternalAuthorizer) -> Value {
    let model::ExternalAuthorizer {
        name: _,
        cluster,
        timeout,
        fail_open,
        status_on_error,
        max_body_bytes,
        context,
        place: _,
    } = authorizer;
    let entry = |(name, value): &(std::sync::Arc<str>, std::sync::Arc<str>)| {
        (name.to_string(), json!(unless_secret(name, value)))
    };
    some([
        ("cluster", json!(cluster)),
        ("timeout", json!(duration(*timeout))),
        ("failOpen", json!(fail_open)),
        // It says nothing where a request passes instead.
        ("statusOnError", if *fail_open { Value::Null } else { json!(status_on_error.as_u16()) }),
        ("maxBodyBytes", json!(format!("{max_body_bytes}B"))),
        ("context", if context.is_empty() { Value::Null } else { context.iter().map(entry).collect() }),
    ])
}
