//! The token filter and the authorizer outside.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, StatusCode};
use outrigger_config::grammar;
use outrigger_config::limits::SHOWN_BODY_BYTES;
use outrigger_config::model::{
    ClaimHeader, ExternalAuthorizer, JwtAlgorithm, JwtProvider, KeySource, ListenerJwt, TokenPlace,
};

use super::cluster::positive;
use super::reader::At;
use crate::extensions::{ListenerExtension, ProviderExtension};
use crate::pb::{core, ext_authz, jwt_authn, route};
use crate::wire;

/// Tokens on a listener, and whose they are.
pub(super) struct Tokens {
    pub(super) listener: ListenerJwt,
    pub(super) providers: Vec<JwtProvider>,
}

pub(super) fn filter(
    at: &At<'_>,
    message: &jwt_authn::JwtAuthentication,
    own: Option<&ListenerExtension>,
) -> Option<Tokens> {
    unpack!(at, message => jwt_authn::JwtAuthentication {
        take: [providers, rules, requirement_map],
        ignore: [
            strip_failure_response, // what is wrong with a token is never told
            stat_prefix, // metrics are ours
        ],
        refuse: [filter_state_rules, bypass_cors_preflight],
    });
    let mut read: HashMap<&str, JwtProvider> = HashMap::new();
    let mut names: Vec<&String> = providers.keys().collect();
    names.sort();
    for name in names {
        let at = at.key("providers", name);
        let own = own.and_then(|own| own.providers.iter().find(|own| own.name == *name));
        if let Some(provider) = provider(&at, name, (&providers[name], own)) {
            read.insert(name, provider);
        }
    }
    let requirement = match &rules[..] {
        [] => return None,
        [rule] => {
            let at = at.item("rules", 0);
            unpack!(at, rule => jwt_authn::RequirementRule {
                take: [r#match, requirement_type],
                ignore: [],
                refuse: [],
            });
            everywhere(&at.field("match"), r#match.as_ref());
            match requirement_type {
                Some(jwt_authn::requirement_rule::RequirementType::Requires(message)) => message,
                Some(jwt_authn::requirement_rule::RequirementType::RequirementName(name)) => {
                    match requirement_map.get(name) {
                        Some(message) => message,
                        None => {
                            at.field("requirement_name").refuse(format!("there is no requirement named `{name}`"));
                            return None;
                        }
                    }
                }
                // No token is needed, and none is looked at.
                None => return None,
            }
        }
        _ => {
            at.field("rules").refuse("one rule is for all requests; say with RBAC what differs between paths");
            return None;
        }
    };
    let mut found = Found::default();
    required(&at.item("rules", 0).field("requires"), requirement, &mut found);
    let mut chosen = Vec::new();
    let mut listed: Vec<Arc<str>> = Vec::new();
    for name in found.providers {
        match read.remove(name) {
            Some(provider) => {
                listed.push(provider.name.clone());
                chosen.push(provider);
            }
            // Refused already, or named twice.
            None if providers.contains_key(name) => {}
            None => at.field("rules").refuse(format!("there is no provider named `{name}`")),
        }
    }
    Some(Tokens { listener: ListenerJwt { providers: listed, required: !found.optional }, providers: chosen })
}

/// A condition that every request meets.
fn everywhere(at: &At<'_>, message: Option<&route::RouteMatch>) {
    use route::route_match::PathSpecifier;
    let everything = message.is_some_and(|message| {
        let empty = route::RouteMatch { path_specifier: message.path_specifier.clone(), ..Default::default() };
        let all =
            matches!(&message.path_specifier, Some(PathSpecifier::Prefix(text)) if text.is_empty() || text == "/");
        all && *message == empty
    });
    if !everything {
        at.refuse("tokens are asked for on all requests of a listener; write `prefix: /`");
    }
}

#[derive(Default)]
struct Found<'m> {
    providers: Vec<&'m str>,
    optional: bool,
}

fn required<'m>(at: &At<'_>, message: &'m jwt_authn::JwtRequirement, found: &mut Found<'m>) {
    use jwt_authn::jwt_requirement::RequiresType;
    unpack!(at, message => jwt_authn::JwtRequirement { take: [requires_type], ignore: [], refuse: [] });
    match requires_type {
        Some(RequiresType::ProviderName(name)) => found.providers.push(name),
        Some(RequiresType::AllowMissing(_)) => found.optional = true,
        Some(RequiresType::RequiresAny(list)) => {
            for (index, message) in list.requirements.iter().enumerate() {
                let at = at.field("requires_any").item("requirements", index);
                // Choices inside choices say nothing more, and would be a way to go as deep as anybody likes.
                if matches!(message.requires_type, Some(RequiresType::RequiresAny(_))) {
                    at.refuse("a choice inside a choice; write one list");
                } else {
                    required(&at, message, found);
                }
            }
        }
        Some(RequiresType::ProviderAndAudiences(_)) => {
            at.field("provider_and_audiences").refuse("audiences belong to the provider; write them there");
        }
        Some(RequiresType::RequiresAll(_)) => {
            at.field("requires_all").refuse("one token is asked for; use `requires_any`");
        }
        Some(RequiresType::AllowMissingOrFailed(_)) => {
            at.field("allow_missing_or_failed").refuse("a token that is there must be valid; use `allow_missing`");
        }
        Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
            at.field("extract_only_without_validation").refuse("a token that is there must be valid");
        }
        None => found.optional = true,
    }
}

fn provider(
    at: &At<'_>,
    name: &str,
    (message, own): (&jwt_authn::JwtProvider, Option<&ProviderExtension>),
) -> Option<JwtProvider> {
    unpack!(at, message => jwt_authn::JwtProvider {
        take: [
            issuer,
            audiences,
            forward,
            from_headers,
            from_params,
            clock_skew_seconds,
            claim_to_headers,
            jwks_source_specifier,
        ],
        ignore: [
            require_expiration, // tokens without an end are never believed
            payload_in_metadata, // read by RBAC, where conditions on it are refused
            normalize_payload_in_metadata, // likewise
            header_in_metadata, // likewise
            failed_status_in_metadata, // likewise
            jwt_cache_config, // the cache is ours
            clear_route_cache, // routes are found after tokens are verified
        ],
        refuse: [
            subjects,
            max_lifetime,
            from_cookies,
            forward_payload_header,
            pad_forward_payload_header,
        ],
    });
    let keys = keys(&at, jwks_source_specifier.as_ref(), own);
    let mut headers: Vec<TokenPlace> = Vec::new();
    for (index, message) in from_headers.iter().enumerate() {
        let at = at.item("from_headers", index);
        unpack!(at, message => jwt_authn::JwtHeader { take: [name, value_prefix], ignore: [], refuse: [] });
        let name = at
            .field("name")
            .held(HeaderName::from_bytes(name.as_bytes()).map_err(|_| "this is not the name of a header".to_owned()));
        headers.extend(name.map(|name| TokenPlace::Header { name, prefix: value_prefix.as_str().into() }));
    }
    let mut queries: Vec<TokenPlace> = from_params.iter().map(|name| TokenPlace::Query(name.as_str().into())).collect();
    if headers.is_empty() && queries.is_empty() {
        // Envoy's defaults.
        headers.push(TokenPlace::Header { name: AUTHORIZATION, prefix: "Bearer ".into() });
        queries.push(TokenPlace::Query("access_token".into()));
    }
    let from = match own {
        Some(own) if own.query.len() == headers.len() + queries.len() => {
            let (mut headers, mut queries) = (headers.into_iter(), queries.into_iter());
            own.query.iter().filter_map(|query| if *query { queries.next() } else { headers.next() }).collect()
        }
        _ => headers.into_iter().chain(queries).collect(),
    };
    let mut claims = Vec::new();
    for (index, message) in claim_to_headers.iter().enumerate() {
        claims.extend(claim_header(&at.item("claim_to_headers", index), message));
    }
    let name = at.held(grammar::name(name))?;
    let algorithms = match own {
        Some(own) if !own.algorithms.is_empty() => {
            let known = |text: &String| JwtAlgorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
            own.algorithms.iter().filter_map(known).collect()
        }
        _ => JwtAlgorithm::ALL.to_vec(),
    };
    let skew = own.and_then(|own| own.clock_skew.as_ref()).and_then(wire::read_own_duration);
    Some(JwtProvider {
        name,
        issuer: issuer.as_str().into(),
        audiences: audiences.iter().map(|audience| Arc::from(audience.as_str())).collect(),
        keys: keys?,
        algorithms,
        clock_skew: skew.unwrap_or(Duration::from_secs(match clock_skew_seconds {
            0 => 60,
            seconds => u64::from(*seconds),
        })),
        from,
        forward: *forward,
        claims_to_headers: claims,
        place: at.place_of(own.and_then(|own| own.place.as_ref())),
    })
}

fn claim_header(at: &At<'_>, message: &jwt_authn::JwtClaimToHeader) -> Option<ClaimHeader> {
    unpack!(at, message => jwt_authn::JwtClaimToHeader {
        take: [header_name, claim_name, claim_path],
        ignore: [],
        refuse: [],
    });
    let path: Vec<Arc<str>> = if claim_path.is_empty() {
        claim_name.split('.').map(Arc::from).collect()
    } else {
        claim_path.iter().map(|segment| Arc::from(segment.key.as_str())).collect()
    };
    let header = HeaderName::from_bytes(header_name.as_bytes());
    let header = at.field("header_name").held(header.map_err(|_| "this is not the name of a header".to_owned()))?;
    Some(ClaimHeader { path, header })
}

fn keys(
    at: &At<'_>,
    source: Option<&jwt_authn::jwt_provider::JwksSourceSpecifier>,
    own: Option<&ProviderExtension>,
) -> Option<KeySource> {
    use jwt_authn::jwt_provider::JwksSourceSpecifier::{LocalJwks, RemoteJwks};
    match source {
        Some(LocalJwks(source)) => at.field("local_jwks").source(source, "jwks.json").map(KeySource::File),
        Some(RemoteJwks(message)) => {
            let at = at.field("remote_jwks");
            unpack!(at, message => jwt_authn::RemoteJwks {
                take: [http_uri, cache_duration],
                ignore: [async_fetch], // keys are always fetched ahead
                refuse: [retry_policy],
            });
            let Some(message) = http_uri else {
                at.field("http_uri").refuse("there is no address");
                return None;
            };
            let inner = at.field("http_uri");
            unpack!(inner, message => core::HttpUri {
                take: [uri, timeout],
                ignore: [http_upstream_type], // the URI says where, and TLS is verified by its host
                refuse: [],
            });
            Some(KeySource::Url {
                url: uri.as_str().into(),
                refresh: positive(&at, "cache_duration", cache_duration.as_ref()).unwrap_or(Duration::from_secs(600)),
                timeout: positive(&inner, "timeout", timeout.as_ref()).unwrap_or(Duration::from_secs(5)),
                trust_bundle: own.and_then(|own| own.trust_bundle.as_ref()).map(PathBuf::from),
            })
        }
        None => {
            at.refuse("there are no keys; add `remote_jwks` or `local_jwks`");
            None
        }
    }
}

pub(super) fn authorizer(
    at: &At<'_>,
    message: &ext_authz::ExtAuthz,
    own: Option<&ListenerExtension>,
) -> Option<ExternalAuthorizer> {
    use ext_authz::ext_authz::Services;
    unpack!(at, message => ext_authz::ExtAuthz {
        take: [
            transport_api_version,
            failure_mode_allow,
            with_request_body,
            status_on_error,
            services,
        ],
        ignore: [
            validate_mutations, // changes that cannot be made are never made
            stat_prefix, // metrics are ours
            charge_cluster_response_stats, // likewise
            clear_route_cache, // routes are found before, and stay
            include_tls_session, // the server name, which tells nothing more than the host
            encode_raw_headers, // headers that are no text are told as they are
            emit_filter_state_stats, // metrics are ours
            emit_client_span, // of traces
            enforce_response_header_limits, // always
        ],
        refuse: [
            failure_mode_allow_header_add,
            metadata_context_namespaces,
            typed_metadata_context_namespaces,
            route_metadata_context_namespaces,
            route_typed_metadata_context_namespaces,
            filter_enabled,
            filter_enabled_metadata,
            deny_at_disable,
            include_peer_certificate,
            bootstrap_metadata_labels_key,
            allowed_headers,
            disallowed_headers,
            decoder_header_mutation_rules,
            enable_dynamic_metadata_ingestion,
            filter_metadata,
            max_denied_response_body_bytes,
            shadow_mode,
        ],
    });
    if !matches!(core::ApiVersion::try_from(*transport_api_version), Ok(core::ApiVersion::V3)) {
        at.field("transport_api_version").refuse("authorizers speak V3");
    }
    let own = own.and_then(|own| own.external_authorization.as_ref());
    let (cluster, timeout) = match services {
        Some(Services::GrpcService(message)) => grpc(&at.field("grpc_service"), message)?,
        Some(Services::HttpService(_)) => {
            at.field("http_service").refuse("authorizers are asked over gRPC; use `grpc_service`");
            return None;
        }
        None => {
            at.refuse("nobody is asked; add `grpc_service`");
            return None;
        }
    };
    let body = with_request_body.as_ref().map_or(0, |message| {
        let at = at.field("with_request_body");
        unpack!(at, message => ext_authz::BufferSettings {
            take: [max_request_bytes, allow_partial_message],
            ignore: [pack_as_bytes], // bodies are told as bytes
            refuse: [],
        });
        if !allow_partial_message {
            at.field("allow_partial_message").refuse("a longer body is shown in part, never refused; set it");
        }
        if u64::from(*max_request_bytes) > SHOWN_BODY_BYTES.max {
            at.field("max_request_bytes").refuse(format!("at most {} bytes are shown", SHOWN_BODY_BYTES.max));
        }
        *max_request_bytes
    });
    let status = status_on_error.as_ref().map_or(403, |status| status.code);
    let status = u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = at.field("status_on_error").held(status.ok_or_else(|| "this is not a status".to_owned()))?;
    let name = match own {
        Some(own) => at.held(grammar::name(&own.name))?,
        None => cluster.clone(),
    };
    let context = own.map_or(&[][..], |own| &own.context);
    Some(ExternalAuthorizer {
        name,
        cluster,
        timeout,
        fail_open: *failure_mode_allow,
        status_on_error: status,
        max_body_bytes: body,
        context: context.iter().map(|pair| (Arc::from(pair.key.as_str()), Arc::from(pair.value.as_str()))).collect(),
        place: at.place_of(own.and_then(|own| own.place.as_ref())),
    })
}

/// The cluster that is asked, and how long it may take.
fn grpc(at: &At<'_>, message: &core::GrpcService) -> Option<(Arc<str>, Duration)> {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    unpack!(at, message => core::GrpcService {
        take: [timeout, target_specifier],
        ignore: [],
        refuse: [initial_metadata, retry_policy],
    });
    // Envoy's default.
    let timeout = positive(at, "timeout", timeout.as_ref()).unwrap_or(Duration::from_millis(200));
    match target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(message)) => {
            let at = at.field("envoy_grpc");
            unpack!(at, message => EnvoyGrpc {
                take: [cluster_name],
                ignore: [
                    max_receive_message_length, // answers have a limit of their own
                    skip_envoy_headers, // there are none
                ],
                refuse: [authority, retry_policy],
            });
            Some((at.field("cluster_name").held(grammar::name(cluster_name))?, timeout))
        }
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            at.field("google_grpc").refuse("this is not supported; name a cluster in `envoy_grpc`");
            None
        }
        None => {
            at.refuse("nobody is asked; add `envoy_grpc`");
            None
        }
    }
}
