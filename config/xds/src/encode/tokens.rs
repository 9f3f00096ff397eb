//! Tokens and the authorizer outside, as Envoy's filters.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_config::model::{
    ClaimHeader, ExternalAuthorizer, JwtAlgorithm, JwtProvider, KeySource, ListenerJwt, TokenPlace,
};

use super::{Policies, cluster, matching, merged};
use crate::extensions::{AuthorizerExtension, Pair, ProviderExtension};
use crate::pb::{self, core, ext_authz, hcm, jwt_authn, kind};
use crate::wire;

/// The name of the token filter, under which it leaves claims in the metadata of a request.
pub(crate) const FILTER: &str = "envoy.filters.http.jwt_authn";

pub(super) fn filter(config: &ListenerJwt, policies: &Policies<'_>) -> hcm::HttpFilter {
    use jwt_authn::jwt_requirement::RequiresType;
    let ListenerJwt { providers, required } = config;
    let one = |kind: RequiresType| jwt_authn::JwtRequirement { requires_type: Some(kind) };
    let mut ways: Vec<jwt_authn::JwtRequirement> =
        providers.iter().map(|name| one(RequiresType::ProviderName(name.to_string()))).collect();
    if !required {
        ways.push(one(RequiresType::AllowMissing(pb::Empty {})));
    }
    let requirement = match (ways.len(), ways.pop()) {
        // Envoy takes a choice only of two or more.
        (1, Some(way)) => way,
        (_, last) => {
            ways.extend(last);
            one(RequiresType::RequiresAny(jwt_authn::JwtRequirementOrList { requirements: ways }))
        }
    };
    let rules = jwt_authn::JwtAuthentication {
        rules: vec![jwt_authn::RequirementRule {
            r#match: Some(matching::everything()),
            requirement_type: Some(jwt_authn::requirement_rule::RequirementType::Requires(requirement)),
        }],
        ..Default::default()
    };
    let mut known: Vec<&JwtProvider> = providers.iter().filter_map(|name| policies.jwt_providers.get(name)).collect();
    known.sort_by(|a, b| a.name.cmp(&b.name));
    let parts = known.into_iter().map(|config| jwt_authn::JwtAuthentication {
        providers: HashMap::from([(config.name.to_string(), provider(config))]),
        ..Default::default()
    });
    hcm::HttpFilter {
        name: FILTER.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(merged::any(std::iter::once(rules).chain(parts)))),
        ..Default::default()
    }
}

fn provider(config: &JwtProvider) -> jwt_authn::JwtProvider {
    use jwt_authn::jwt_provider::JwksSourceSpecifier::{LocalJwks, RemoteJwks};
    let JwtProvider {
        name,
        issuer,
        audiences,
        keys,
        algorithms: _,
        clock_skew,
        from,
        forward,
        claims_to_headers,
        place: _,
    } = config;
    let keys = match keys {
        KeySource::File(path) => LocalJwks(wire::filename(path)),
        KeySource::Url { url, refresh, timeout, trust_bundle: _ } => RemoteJwks(jwt_authn::RemoteJwks {
            http_uri: Some(core::HttpUri {
                uri: url.to_string(),
                timeout: wire::duration(*timeout),
                http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster::keys_cluster_name(name))),
            }),
            cache_duration: wire::duration(*refresh),
            ..Default::default()
        }),
    };
    let mut out = jwt_authn::JwtProvider {
        issuer: issuer.to_string(),
        audiences: audiences.iter().map(ToString::to_string).collect(),
        forward: *forward,
        // So that conditions on claims find them.
        payload_in_metadata: name.to_string(),
        // Nothing would mean a minute.
        clock_skew_seconds: seconds(*clock_skew).unwrap_or(1),
        jwks_source_specifier: Some(keys),
        claim_to_headers: claims_to_headers.iter().map(claim_header).collect(),
        ..Default::default()
    };
    for place in from {
        match place {
            TokenPlace::Header { name, prefix } => out
                .from_headers
                .push(jwt_authn::JwtHeader { name: name.as_str().to_owned(), value_prefix: prefix.to_string() }),
            TokenPlace::Query(name) => out.from_params.push(name.to_string()),
        }
    }
    out
}

/// A clock skew that Envoy can say.
pub(super) fn seconds(skew: Duration) -> Option<u32> {
    let seconds = u32::try_from(skew.as_secs()).ok()?;
    (seconds > 0 && skew.subsec_nanos() == 0).then_some(seconds)
}

fn claim_header(ClaimHeader { path, header }: &ClaimHeader) -> jwt_authn::JwtClaimToHeader {
    // Dots lead into objects.
    let dotted = path.iter().any(|name| name.contains('.'));
    jwt_authn::JwtClaimToHeader {
        header_name: header.as_str().to_owned(),
        claim_name: if dotted { String::new() } else { path.join(".") },
        claim_path: if dotted {
            path.iter().map(|name| jwt_authn::jwt_claim_to_header::PathSegment { key: name.to_string() }).collect()
        } else {
            Vec::new()
        },
    }
}

pub(super) fn provider_extension(config: &JwtProvider) -> ProviderExtension {
    let query: Vec<bool> = config.from.iter().map(|place| matches!(place, TokenPlace::Query(_))).collect();
    ProviderExtension {
        name: config.name.to_string(),
        place: wire::place(&config.place),
        algorithms: if config.algorithms == JwtAlgorithm::ALL {
            Vec::new()
        } else {
            config.algorithms.iter().map(|algorithm| algorithm.as_str().to_owned()).collect()
        },
        clock_skew: match seconds(config.clock_skew) {
            Some(_) => None,
            None => wire::own_duration(config.clock_skew),
        },
        trust_bundle: match &config.keys {
            KeySource::Url { trust_bundle: Some(path), .. } => Some(path.to_string_lossy().into_owned()),
            KeySource::Url { trust_bundle: None, .. } | KeySource::File(_) => None,
        },
        query: if query.is_sorted() { Vec::new() } else { query },
    }
}

pub(super) fn authorizer(config: &ExternalAuthorizer) -> hcm::HttpFilter {
    let ExternalAuthorizer {
        name: _,
        cluster,
        timeout,
        fail_open,
        status_on_error,
        max_body_bytes,
        context: _,
        place: _,
    } = config;
    let message = ext_authz::ExtAuthz {
        transport_api_version: core::ApiVersion::V3 as i32,
        failure_mode_allow: *fail_open,
        with_request_body: (*max_body_bytes > 0).then_some(ext_authz::BufferSettings {
            max_request_bytes: *max_body_bytes,
            allow_partial_message: true,
            pack_as_bytes: true,
        }),
        status_on_error: Some(kind::HttpStatus { code: i32::from(status_on_error.as_u16()) }),
        services: Some(ext_authz::ext_authz::Services::GrpcService(core::GrpcService {
            timeout: wire::duration(*timeout),
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
                cluster_name: cluster.to_string(),
                ..Default::default()
            })),
            ..Default::default()
        })),
        ..Default::default()
    };
    hcm::HttpFilter {
        name: pb::EXT_AUTHZ.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(wire::any(&message))),
        ..Default::default()
    }
}

pub(super) fn authorizer_extension(config: &ExternalAuthorizer) -> AuthorizerExtension {
    let context = config.context.iter();
    AuthorizerExtension {
        name: config.name.to_string(),
        place: wire::place(&config.place),
        context: context.map(|(key, value)| Pair { key: key.to_string(), value: value.to_string() }).collect(),
    }
}
