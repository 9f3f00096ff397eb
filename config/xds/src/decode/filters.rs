//! HTTP filters: which there are on a listener, and what routes say to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::model::{Cors, ExternalAuthorizer};

use super::access::Guards;
use super::reader::At;
use super::tokens::{self, Tokens};
use crate::encode::route::origin_pattern;
use crate::extensions::{CorsExtension, ListenerExtension};
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{Any, ext_authz, hcm, http_cors, http_rbac, jwt_authn, matcher, route, router};
use crate::wire;

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const CORS_POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const JWT: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const EXT_AUTHZ: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const EXT_AUTHZ_ROUTE: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";

/// The filters of a listener.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) guards: Guards,
    pub(super) tokens: Option<Tokens>,
    pub(super) authorizer: Option<ExternalAuthorizer>,
}

pub(super) fn http(at: &At<'_>, list: &[hcm::HttpFilter], own: Option<&ListenerExtension>) -> Filters {
    let mut out = Filters::default();
    let mut routed = false;
    for (index, message) in list.iter().enumerate() {
        let at = at.item("http_filters", index);
        unpack!(at, message => hcm::HttpFilter {
            take: [is_optional, config_type],
            ignore: [name], // the type of the configuration says which it is
            refuse: [disabled],
        });
        if routed {
            at.refuse("a filter behind the router is never reached");
        }
        let any = match config_type {
            Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
            Some(hcm::http_filter::ConfigType::ConfigDiscovery(_)) if *is_optional => continue,
            Some(hcm::http_filter::ConfigType::ConfigDiscovery(_)) => {
                at.field("config_discovery").refuse("this is not supported; give the configuration itself");
                continue;
            }
            None if *is_optional => continue,
            None => {
                at.field("typed_config").refuse("the filter has no configuration");
                continue;
            }
        };
        let inner = at.field("typed_config");
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            ROUTER => {
                routed = true;
                self::router(&inner, any);
            }
            CORS => {
                let message: Option<http_cors::Cors> = inner.typed(any);
                if let Some(message) = &message {
                    unpack!(inner, message => http_cors::Cors { take: [], ignore: [], refuse: [] });
                }
            }
            RBAC => {
                if let Some(message) = inner.typed::<http_rbac::Rbac>(any) {
                    out.guards.add(&inner, &message, own.and_then(|own| own.authorization.as_ref()));
                }
            }
            JWT if out.tokens.is_some() => at.refuse("a second filter for tokens; put both into one"),
            JWT => {
                if let Some(message) = inner.typed::<jwt_authn::JwtAuthentication>(any) {
                    out.tokens = tokens::filter(&inner, &message, own);
                }
            }
            EXT_AUTHZ if out.authorizer.is_some() => at.refuse("a second authorizer outside; ask one"),
            EXT_AUTHZ => {
                if let Some(message) = inner.typed::<ext_authz::ExtAuthz>(any) {
                    out.authorizer = tokens::authorizer(&inner, &message, own);
                }
            }
            // So it says itself.
            _ if *is_optional => {}
            other => at.refuse(format!("the filter `{other}` is not supported; remove it, or mark it optional")),
        }
    }
    if !routed {
        at.field("http_filters").refuse("the last filter is the router");
    }
    out
}

fn router(at: &At<'_>, any: &Any) {
    let Some(message) = at.typed::<router::Router>(any) else { return };
    unpack!(at, &message => router::Router {
        take: [],
        ignore: [
            dynamic_stats, // metrics are ours
            start_child_span, // of traces
            upstream_log, // the access log is the proxy's
            upstream_log_options, // likewise
            suppress_envoy_headers, // there are none
            suppress_grpc_request_failure_code_stats, // metrics are ours
            reject_connect_request_early_data, // CONNECT in early data is not taken
        ],
        refuse: [strict_check_headers, respect_expected_rq_timeout, upstream_http_filters],
    });
}

/// What a route, a host or a table says to filters.
#[derive(Debug, Default, Clone)]
pub(super) struct PerRoute {
    pub(super) cors: Option<Cors>,
    /// The authorizer outside is not asked.
    pub(super) unasked: bool,
    asked: bool,
}

impl PerRoute {
    /// With what a less specific level says about the rest.
    pub(super) fn over(self, outer: &Self) -> Self {
        Self {
            cors: self.cors.or_else(|| outer.cors.clone()),
            unasked: self.unasked || (outer.unasked && !self.asked),
            asked: self.asked || outer.asked,
        }
    }
}

pub(super) fn per_route(at: &At<'_>, map: &HashMap<String, Any>) -> PerRoute {
    const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";
    let mut out = PerRoute::default();
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    for key in keys {
        let at = at.key("typed_per_filter_config", key);
        let any = &map[key];
        let kind = any.type_url.rsplit('/').next().unwrap_or_default();
        if kind != FILTER_CONFIG {
            one(&at, kind, any, &mut out);
            continue;
        }
        let Some(message) = at.typed::<route::FilterConfig>(any) else { continue };
        unpack!(at, &message => route::FilterConfig { take: [config, is_optional], ignore: [], refuse: [disabled] });
        match config {
            Some(any) => {
                let kind = any.type_url.rsplit('/').next().unwrap_or_default();
                if !*is_optional || matches!(kind, CORS_POLICY | EXT_AUTHZ_ROUTE) {
                    one(&at.field("config"), kind, any, &mut out);
                }
            }
            None if *is_optional => {}
            None => at.refuse("there is no configuration"),
        }
    }
    out
}

fn one(at: &At<'_>, kind: &str, any: &Any, out: &mut PerRoute) {
    match kind {
        CORS_POLICY => {
            out.cors = at.typed::<http_cors::CorsPolicy>(any).and_then(|message| cors(at, &message));
        }
        EXT_AUTHZ_ROUTE => {
            use ext_authz::ext_authz_per_route::Override;
            let Some(message) = at.typed::<ext_authz::ExtAuthzPerRoute>(any) else { return };
            unpack!(at, &message => ext_authz::ExtAuthzPerRoute { take: [r#override], ignore: [], refuse: [] });
            match r#override {
                Some(Override::Disabled(true)) => out.unasked = true,
                Some(Override::Disabled(false)) => at.field("disabled").refuse("this is true, or not there"),
                Some(Override::CheckSettings(message)) => {
                    let at = at.field("check_settings");
                    unpack!(at, message => ext_authz::CheckSettings {
                        take: [],
                        ignore: [emit_client_span], // of traces
                        refuse: [
                            context_extensions,
                            disable_request_body_buffering,
                            with_request_body,
                            service_override,
                        ],
                    });
                    out.asked = true;
                }
                None => at.refuse("there is no configuration"),
            }
        }
        other => at.refuse(format!("settings of the type `{other}` are not supported; remove them")),
    }
}

fn cors(at: &At<'_>, message: &http_cors::CorsPolicy) -> Option<Cors> {
    unpack!(at, message => http_cors::CorsPolicy {
        take: [
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            forward_not_matching_preflights,
        ],
        ignore: [],
        refuse: [filter_enabled, shadow_enabled, allow_private_network_access],
    });
    // Unset means true in Envoy; preflights of strangers are answered here, and without permission, which is what a
    // browser needs to know.
    let _ = forward_not_matching_preflights;
    let origins = allow_origin_string_match
        .iter()
        .enumerate()
        .filter_map(|(index, message)| origin(&at.item("allow_origin_string_match", index), message));
    let list = |text: &str| -> Vec<Arc<str>> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Arc::from).collect()
    };
    let max_age = match max_age.as_str() {
        // Browsers keep a preflight for five seconds then (Fetch standard, "max-age").
        "" => Some(Duration::from_secs(5)),
        text => at
            .field("max_age")
            .held(text.parse().map(Duration::from_secs).map_err(|_| "this is a number of seconds".to_owned())),
    };
    Some(Cors {
        allow_origins: origins.collect(),
        allow_methods: list(allow_methods),
        allow_headers: list(allow_headers),
        expose_headers: list(expose_headers),
        allow_credentials: allow_credentials.as_ref().is_some_and(|flag| flag.value),
        max_age: max_age?,
    })
}

fn origin(at: &At<'_>, message: &matcher::StringMatcher) -> Option<Arc<str>> {
    unpack!(at, message => matcher::StringMatcher { take: [match_pattern], ignore: [], refuse: [ignore_case] });
    match match_pattern {
        Some(MatchPattern::Exact(text)) => Some(Arc::from(text.as_str())),
        Some(MatchPattern::SafeRegex(regex)) => match wildcard(&regex.regex) {
            Some(origin) => Some(origin.into()),
            None => {
                at.field("safe_regex")
                    .refuse("origins are matched by `exact`, `*` among them, or by one wildcard label");
                None
            }
        },
        _ => {
            at.refuse("origins are matched by `exact`, `*` among them, or by one wildcard label");
            None
        }
    }
}

/// `https://*.example` of the pattern that means it.
fn wildcard(text: &str) -> Option<String> {
    let (before, after) = text.split_once("[^/]+")?;
    let origin = format!("{}*{}", unescaped(before)?, unescaped(after)?);
    (origin_pattern(&origin).as_deref() == Some(text)).then_some(origin)
}

/// A text without the escapes of patterns; `None` where it is more than an escaped text.
pub(super) fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    (regex_syntax::escape(&out) == text).then_some(out)
}

/// With what only our own extension says.
pub(super) fn own_cors(cors: Cors, own: Option<&CorsExtension>) -> Cors {
    let Some(own) = own else { return cors };
    Cors {
        allow_origins: own.allow_origins.iter().map(|origin| Arc::from(origin.as_str())).collect(),
        max_age: own.max_age.as_ref().and_then(wire::read_own_duration).unwrap_or(cors.max_age),
        ..cors
    }
}
