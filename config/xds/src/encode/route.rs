//! Route tables. A rule with several matches is as many routes, one behind the other.

use std::collections::HashMap;

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use outrigger_config::model::{
    Action, BackendRef, Cors, DirectResponse, Filter, HeaderEdit, HostPattern, Match, Mirror, PathMatch, PathRewrite,
    Redirect, Retry, RetryOn, RouteTable, Rule, Setting, Timeouts, UrlRewrite, VirtualHost,
};
use prost::Message as _;

use super::{Form, fitness, matching, merged, resilience};
use crate::extensions::{
    CorsExtension, RegexRewrite, RetryExtension, RewriteExtension, RouteExtension, Step, StepsExtension,
    TimeoutsExtension, UrlRewriteExtension, VirtualHostExtension, rewrite_extension, step,
};
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{self, core, ext_authz, http_cors, matcher, route};
use crate::{Kind, Resource, canonical, wire};

/// A route table.
#[must_use]
pub fn routes(table: &RouteTable, form: Form) -> Resource {
    let head = route::RouteConfiguration {
        name: table.name.to_string(),
        // Where no hostname has one, the port plays no part.
        ignore_port_in_host_matching: !ports_count(table),
        // A cluster that is not there yet is answered 503.
        validate_clusters: wire::flag(false),
        ..Default::default()
    };
    let mut body = head.encode_to_vec();
    for host in &table.hosts {
        merged::field(2, &self::host(host, form, ports_count(table)), &mut body);
    }
    Resource::encoded(Kind::Route, table.name.clone(), body.into())
}

/// The messages are put together by hand, because routes have maps.
fn host(host: &VirtualHost, form: Form, ports_count: bool) -> Vec<u8> {
    let domains: Vec<String> = host.hostnames.iter().flat_map(|pattern| domains(pattern, ports_count)).collect();
    let mut body = route::VirtualHost {
        // Unique, because hostnames are.
        name: domains.first().cloned().unwrap_or_default(),
        domains,
        metadata: (form == Form::Outrigger)
            .then(|| wire::metadata("VirtualHostExtension", &VirtualHostExtension { place: wire::place(&host.place) })),
        ..Default::default()
    }
    .encode_to_vec();
    for rule in &host.rules {
        for (route, filters) in self::rule(rule, form) {
            let parts = filters.into_iter().map(|(name, config)| route::Route {
                typed_per_filter_config: HashMap::from([(name.to_owned(), config)]),
                ..Default::default()
            });
            merged::field(3, &merged::bytes(std::iter::once(route).chain(parts)), &mut body);
        }
    }
    body
}

/// Whether some hostname of the table is for one port only.
fn ports_count(table: &RouteTable) -> bool {
    table.hosts.iter().flat_map(|host| &host.hostnames).any(has_port)
}

fn has_port(pattern: &HostPattern) -> bool {
    match pattern {
        HostPattern::Exact(host) => host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')),
        HostPattern::Any | HostPattern::Wildcard(_) => false,
    }
}

/// A hostname without a port is for any port, which Envoy must be told where ports count.
fn domains(pattern: &HostPattern, ports_count: bool) -> Vec<String> {
    match pattern {
        HostPattern::Any => vec!["*".to_owned()],
        HostPattern::Wildcard(suffix) => vec![format!("*.{suffix}")],
        HostPattern::Exact(host) if ports_count && !has_port(pattern) => vec![host.to_string(), format!("{host}:*")],
        HostPattern::Exact(host) => vec![host.to_string()],
    }
}

type PerFilter = Vec<(&'static str, pb::Any)>;

/// The routes of a rule, each with what it says to filters, in the order of their names.
pub(super) fn rule(rule: &Rule, form: Form) -> Vec<(route::Route, PerFilter)> {
    if form == Form::Grpc
        && (!matches!(rule.action, Action::Forward(_)) || rule.matches.iter().any(|one| !one.query.is_empty()))
    {
        return Vec::new();
    }
    let matches: Vec<Option<&Match>> =
        if rule.matches.is_empty() { vec![None] } else { rule.matches.iter().map(Some).collect() };
    matches.into_iter().enumerate().map(|(at, one)| self::route(rule, (at, one), form)).collect()
}

fn route(rule: &Rule, (at, one): (usize, Option<&Match>), form: Form) -> (route::Route, PerFilter) {
    let parts = Parts::of(&rule.filters);
    let mut out = route::Route {
        name: rule.name.to_string(),
        r#match: Some(one.map_or_else(matching::everything, |one| matching::route_match(one, form))),
        action: Some(match &rule.action {
            Action::Forward(list) => route::route::Action::Route(forward(rule, (list, one), &parts, form)),
            Action::Redirect(redirect) => route::route::Action::Redirect(self::redirect(redirect, one)),
            Action::Direct(direct) => route::route::Action::DirectResponse(self::direct(direct)),
        }),
        ..Default::default()
    };
    let mut filters: PerFilter = Vec::new();
    if form == Form::Grpc {
        return (out, filters);
    }
    out.request_headers_to_add = parts.headers.request_add;
    out.request_headers_to_remove = parts.headers.request_remove;
    out.response_headers_to_add = parts.headers.response_add;
    out.response_headers_to_remove = parts.headers.response_remove;
    if let (Action::Direct(direct), Form::Envoy) = (&rule.action, form) {
        out.response_headers_to_add.push(wire::header_option(&CONTENT_TYPE, &direct.content_type, false));
    }
    if let Some(cors) = parts.cors {
        filters.push((pb::CORS, wire::any(&self::cors(cors))));
    }
    if !rule.external_authorization {
        let disabled =
            ext_authz::ExtAuthzPerRoute { r#override: Some(ext_authz::ext_authz_per_route::Override::Disabled(true)) };
        filters.push((pb::EXT_AUTHZ, wire::any(&disabled)));
    }
    if form == Form::Outrigger {
        let extension = if at == 0 {
            RouteExtension { grpc_method: grpc_method(one), ..extension(rule, one) }
        } else {
            // What belongs to the rule has been said.
            RouteExtension { grpc_method: grpc_method(one), continues: true, ..Default::default() }
        };
        out.metadata = Some(wire::metadata("RouteExtension", &extension));
    }
    (out, filters)
}

fn grpc_method(one: Option<&Match>) -> Option<String> {
    match one.map(|one| &one.path) {
        Some(PathMatch::GrpcMethod(method)) => Some(method.to_string()),
        _ => None,
    }
}

/// Header changes of several filters in Envoy's lists.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Headers {
    pub(crate) request_add: Vec<core::HeaderValueOption>,
    pub(crate) request_remove: Vec<String>,
    pub(crate) response_add: Vec<core::HeaderValueOption>,
    pub(crate) response_remove: Vec<String>,
}

/// The filters of a rule or a backend, by what Envoy has fields for.
struct Parts<'a> {
    headers: Headers,
    rewrite: Option<&'a UrlRewrite>,
    cors: Option<&'a Cors>,
    steps: StepsExtension,
}

impl<'a> Parts<'a> {
    fn of(filters: &'a [Filter]) -> Self {
        let mut headers = Headers::default();
        let (mut rewrite, mut cors) = (None, None);
        let mut steps = Vec::with_capacity(filters.len());
        for filter in filters {
            let nothing = HeaderEdit::default();
            let (kind, edit) = match filter {
                Filter::RequestHeaders(edit) => {
                    put(edit, &mut headers.request_add, &mut headers.request_remove);
                    (step::Kind::RequestHeaders, edit)
                }
                Filter::ResponseHeaders(edit) => {
                    put(edit, &mut headers.response_add, &mut headers.response_remove);
                    (step::Kind::ResponseHeaders, edit)
                }
                Filter::UrlRewrite(one) => {
                    rewrite = Some(one);
                    (step::Kind::UrlRewrite, &nothing)
                }
                Filter::Cors(one) => {
                    cors = Some(&**one);
                    (step::Kind::Cors, &nothing)
                }
                Filter::Fault(_) => (step::Kind::Fault, &nothing),
                Filter::Mirror(_) => (step::Kind::Mirror, &nothing),
            };
            let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
            steps.push(Step {
                kind: kind as i32,
                remove: count(edit.remove.len()),
                set: count(edit.set.len()),
                add: count(edit.add.len()),
            });
        }
        Self { headers, rewrite, cors, steps: StepsExtension { steps } }
    }
}

fn put(edit: &HeaderEdit, add: &mut Vec<core::HeaderValueOption>, remove: &mut Vec<String>) {
    let HeaderEdit { remove: removed, set, add: added } = edit;
    remove.extend(removed.iter().map(|name| name.as_str().to_owned()));
    add.extend(set.iter().map(|(name, value)| wire::header_option(name, value, false)));
    add.extend(added.iter().map(|(name, value)| wire::header_option(name, value, true)));
}

fn forward(
    rule: &Rule,
    (list, one): (&[BackendRef], Option<&Match>),
    parts: &Parts<'_>,
    form: Form,
) -> route::RouteAction {
    use route::route_action::{ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration};
    let single = match list {
        [BackendRef { cluster, weight: 1, subset: _, filters }] if filters.is_empty() => Some(cluster),
        _ => None,
    };
    let destination = match single {
        Some(cluster) => ClusterSpecifier::Cluster(cluster.to_string()),
        None => ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: list.iter().map(|backend| weighted(backend, form)).collect(),
            ..Default::default()
        }),
    };
    let out = route::RouteAction {
        cluster_specifier: Some(destination),
        retry_policy: retry_policy(&rule.retry, &rule.timeouts),
        hash_policy: fitness::hash_policy(&rule.hash),
        ..Default::default()
    };
    if form == Form::Grpc {
        let limit = rule.timeouts.request.place.as_ref().and(rule.timeouts.request.value);
        return route::RouteAction {
            max_stream_duration: limit
                .map(|limit| MaxStreamDuration { max_stream_duration: wire::duration(limit), ..Default::default() }),
            ..out
        };
    }
    let mut out = route::RouteAction {
        timeout: timeout(&rule.timeouts.request, one, form),
        idle_timeout: match &rule.timeouts.idle {
            Setting { value: Some(idle), .. } => wire::duration(*idle),
            Setting { value: None, place: Some(_) } => wire::duration(std::time::Duration::ZERO),
            Setting { value: None, place: None } => None,
        },
        host_rewrite_specifier: parts
            .rewrite
            .and_then(|rewrite| rewrite.hostname.as_ref())
            .map(|hostname| HostRewriteSpecifier::HostRewriteLiteral(hostname.to_str().unwrap_or_default().to_owned())),
        request_mirror_policies: rule.filters.iter().filter_map(mirrored).collect(),
        ..out
    };
    match parts.rewrite.and_then(|rewrite| rewrite.path.as_ref()).map(|path| envoy_rewrite(path, one)) {
        None => {}
        Some(EnvoyRewrite::Prefix(prefix)) => out.prefix_rewrite = prefix,
        Some(EnvoyRewrite::Regex(regex)) => out.regex_rewrite = Some(regex),
    }
    out
}

fn mirrored(filter: &Filter) -> Option<route::route_action::RequestMirrorPolicy> {
    let Filter::Mirror(Mirror { cluster, share }) = filter else { return None };
    Some(route::route_action::RequestMirrorPolicy {
        cluster: cluster.to_string(),
        runtime_fraction: Some(fitness::fraction(*share)),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

/// Envoy's default cuts off streams, ours does not: a rule for gRPC says so.
fn timeout(request: &Setting<Option<std::time::Duration>>, one: Option<&Match>, form: Form) -> Option<pb::Duration> {
    let streams = request.place.is_none() && one.is_some_and(|one| one.grpc);
    match request.value {
        Some(_) if streams && form == Form::Envoy => wire::duration(std::time::Duration::ZERO),
        value => wire::duration(value.unwrap_or_default()),
    }
}

fn weighted(backend: &BackendRef, form: Form) -> route::weighted_cluster::ClusterWeight {
    let BackendRef { cluster, weight, subset: _, filters } = backend;
    let headers = if form == Form::Grpc { Headers::default() } else { Parts::of(filters).headers };
    route::weighted_cluster::ClusterWeight {
        name: cluster.to_string(),
        weight: wire::number(*weight),
        request_headers_to_add: headers.request_add,
        request_headers_to_remove: headers.request_remove,
        response_headers_to_add: headers.response_add,
        response_headers_to_remove: headers.response_remove,
        ..Default::default()
    }
}

/// What a path rewrite is in Envoy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EnvoyRewrite {
    Prefix(String),
    Regex(matcher::RegexMatchAndSubstitute),
}

/// Envoy replaces the bytes of the prefix, and ours are whole segments: where that differs, a pattern does the same.
pub(crate) fn envoy_rewrite(path: &PathRewrite, one: Option<&Match>) -> EnvoyRewrite {
    let regex = |pattern: String, substitution: String| {
        EnvoyRewrite::Regex(matcher::RegexMatchAndSubstitute { pattern: Some(wire::regex(&pattern)), substitution })
    };
    match path {
        PathRewrite::Full(path) => regex("^.+$".to_owned(), path.replace('\\', "\\\\")),
        PathRewrite::Regex { pattern, substitution } => {
            regex(pattern.as_str().to_owned(), wire::substitution(substitution, pattern))
        }
        PathRewrite::Prefix(new) => {
            let old = match one.map(|one| &one.path) {
                Some(PathMatch::Prefix(old)) => old,
                _ => "",
            };
            let new = new.strip_suffix('/').unwrap_or(new);
            match (old, new) {
                ("", "") => EnvoyRewrite::Prefix("/".to_owned()),
                ("", new) => EnvoyRewrite::Prefix(format!("{new}/")),
                // `/v1` and `/v1/` become `/`, `/v1/x` becomes `/x`.
                (old, "") => regex(format!("^{}/?", regex_syntax::escape(old)), "/".to_owned()),
                (_, new) => EnvoyRewrite::Prefix(new.to_owned()),
            }
        }
    }
}

fn redirect(redirect: &Redirect, one: Option<&Match>) -> route::RedirectAction {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let Redirect { scheme, hostname, port, path, status } = redirect;
    route::RedirectAction {
        host_redirect: hostname.as_deref().unwrap_or_default().to_owned(),
        port_redirect: port.map_or(0, u32::from),
        response_code: match status.as_u16() {
            301 => RedirectResponseCode::MovedPermanently,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::Found,
        } as i32,
        strip_query: false,
        scheme_rewrite_specifier: scheme
            .as_deref()
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        path_rewrite_specifier: path.as_ref().map(|path| match path {
            PathRewrite::Full(path) => PathRewriteSpecifier::PathRedirect(path.to_string()),
            path => match envoy_rewrite(path, one) {
                EnvoyRewrite::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
                EnvoyRewrite::Regex(regex) => PathRewriteSpecifier::RegexRewrite(regex),
            },
        }),
    }
}

fn direct(direct: &DirectResponse) -> route::DirectResponseAction {
    let DirectResponse { status, body, content_type: _ } = direct;
    let specifier = match std::str::from_utf8(body) {
        Ok(text) => core::data_source::Specifier::InlineString(text.to_owned()),
        Err(_) => core::data_source::Specifier::InlineBytes(body.to_vec()),
    };
    route::DirectResponseAction {
        status: u32::from(status.as_u16()),
        body: (!body.is_empty()).then_some(core::DataSource { watched_directory: None, specifier: Some(specifier) }),
        body_format: None,
    }
}

/// Between the two parts of an origin with a wildcard: one label or more.
pub(crate) fn origin_pattern(origin: &str) -> Option<String> {
    let (before, after) = origin.split_once('*')?;
    Some(format!("{}[^/]+{}", regex_syntax::escape(before), regex_syntax::escape(after)))
}

pub(crate) fn cors(cors: &Cors) -> http_cors::CorsPolicy {
    let Cors { allow_origins, allow_methods, allow_headers, expose_headers, allow_credentials, max_age } = cors;
    let joined = |list: &[std::sync::Arc<str>]| list.join(",");
    let origin = |origin: &std::sync::Arc<str>| {
        wire::string(match origin_pattern(origin) {
            Some(pattern) if &**origin != "*" => MatchPattern::SafeRegex(wire::regex(&pattern)),
            _ => MatchPattern::Exact(origin.to_string()),
        })
    };
    http_cors::CorsPolicy {
        allow_origin_string_match: allow_origins.iter().map(origin).collect(),
        allow_methods: joined(allow_methods),
        allow_headers: joined(allow_headers),
        expose_headers: joined(expose_headers),
        max_age: max_age.as_secs().to_string(),
        allow_credentials: wire::flag(*allow_credentials),
        // Ours answers every preflight itself.
        forward_not_matching_preflights: wire::flag(false),
        ..Default::default()
    }
}

/// Retries, with the limit of one attempt, which Envoy keeps there.
pub(crate) fn retry_policy(retry: &Retry, timeouts: &Timeouts) -> Option<route::RetryPolicy> {
    let Retry { attempts, on, non_idempotent, backoff_base, backoff_max, .. } = retry;
    let limit = timeouts.backend_request.value;
    if attempts.value == 0 && limit.is_none() {
        return None;
    }
    let mut words: Vec<&str> = Vec::new();
    let mut statuses = Vec::new();
    for condition in on {
        let word = match condition {
            RetryOn::Status(status) => {
                statuses.push(u32::from(*status));
                Some("retriable-status-codes")
            }
            condition => retry_word(*condition),
        };
        words.extend(word.filter(|word| !words.contains(word)));
    }
    // These never reached an application, so any method may be sent again.
    let unsent = on.iter().all(|on| matches!(on, RetryOn::ConnectFailure | RetryOn::RefusedStream));
    Some(route::RetryPolicy {
        retry_on: words.join(","),
        num_retries: wire::number(u32::from(attempts.value)),
        per_try_timeout: limit.and_then(wire::duration),
        retriable_status_codes: statuses,
        retry_back_off: Some(route::retry_policy::RetryBackOff {
            base_interval: wire::duration(*backoff_base),
            max_interval: wire::duration(*backoff_max),
        }),
        retriable_request_headers: if *non_idempotent || unsent { Vec::new() } else { vec![idempotent()] },
        ..Default::default()
    })
}

/// Methods that may be sent again (RFC 9110 section 9.2.2).
pub(crate) fn idempotent() -> route::HeaderMatcher {
    let methods = MatchPattern::SafeRegex(wire::regex("GET|HEAD|OPTIONS|TRACE|PUT|DELETE"));
    matching::string_header(":method", wire::string(methods), false)
}

/// A condition that is one word in Envoy; the other gRPC statuses are not.
fn retry_word(condition: RetryOn) -> Option<&'static str> {
    Some(match condition {
        RetryOn::ConnectFailure => "connect-failure",
        RetryOn::RefusedStream => "refused-stream",
        RetryOn::Reset => "reset",
        RetryOn::GatewayError => "gateway-error",
        RetryOn::ServerError => "5xx",
        RetryOn::Grpc(1) => "cancelled",
        RetryOn::Grpc(4) => "deadline-exceeded",
        RetryOn::Grpc(8) => "resource-exhausted",
        RetryOn::Grpc(13) => "internal",
        RetryOn::Grpc(14) => "unavailable",
        RetryOn::Status(_) | RetryOn::Grpc(_) => return None,
    })
}

/// What Envoy's fields leave unsaid about a rule. Whatever reading them back would give is not repeated.
fn extension(rule: &Rule, one: Option<&Match>) -> RouteExtension {
    let Timeouts { request, backend_request, idle } = &rule.timeouts;
    let forwards = matches!(rule.action, Action::Forward(_));
    let place_of = |place: &Option<outrigger_config::model::Place>| place.as_ref().and_then(wire::place);
    let parts = Parts::of(&rule.filters);
    let read = canonical::retry(retry_policy(&rule.retry, &rule.timeouts).as_ref());
    let same = forwards
        && read.is_some_and(|read| {
            let Retry { attempts, on, non_idempotent, backoff_base, backoff_max, .. } = &rule.retry;
            (read.attempts.value, &read.on, read.non_idempotent, &read.backoff_base, &read.backoff_max)
                == (attempts.value, on, *non_idempotent, backoff_base, backoff_max)
        });
    let rewrite = match &rule.action {
        Action::Redirect(redirect) => redirect.path.as_ref(),
        Action::Forward(_) => parts.rewrite.and_then(|rewrite| rewrite.path.as_ref()),
        Action::Direct(_) => None,
    };
    // With more than one match, each of its routes may say it in another way.
    let rewrite = rewrite.map(rewrite_extension);
    let unused = parts.rewrite.filter(|_| !forwards).map(|UrlRewrite { hostname, path }| UrlRewriteExtension {
        hostname: hostname.as_ref().map(text_of),
        path: path.as_ref().map(rewrite_extension),
    });
    let backends: &[BackendRef] = match &rule.action {
        Action::Forward(list) => list,
        Action::Redirect(_) | Action::Direct(_) => &[],
    };
    let backend_steps: Vec<StepsExtension> = backends.iter().map(|backend| Parts::of(&backend.filters).steps).collect();
    RouteExtension {
        place: wire::place(&rule.place),
        continues: false,
        everything: one.is_none(),
        grpc_method: None,
        request: place_of(&request.place),
        backend_request: place_of(&backend_request.place),
        idle: place_of(&idle.place),
        attempts: place_of(&rule.retry.attempts.place),
        retry: (!same).then(|| retry_extension(&rule.retry)),
        timeouts: (!forwards).then(|| TimeoutsExtension {
            request: request.value.and_then(wire::own_duration),
            backend_request: backend_request.value.and_then(wire::own_duration),
            idle: idle.value.and_then(wire::own_duration),
        }),
        steps: (!parts.steps.steps.is_empty()).then_some(parts.steps),
        backend_steps: if backend_steps.iter().all(|steps| steps.steps.is_empty()) {
            Vec::new()
        } else {
            backend_steps
        },
        rewrite,
        content_type: match &rule.action {
            Action::Direct(direct) => Some(text_of(&direct.content_type)),
            Action::Forward(_) | Action::Redirect(_) => None,
        },
        cors: parts.cors.map(|cors| CorsExtension {
            allow_origins: cors.allow_origins.iter().map(ToString::to_string).collect(),
            max_age: wire::own_duration(cors.max_age),
        }),
        unused_rewrite: unused,
        resilience: resilience::rule(rule),
    }
}

fn rewrite_extension(path: &PathRewrite) -> RewriteExtension {
    RewriteExtension {
        path: Some(match path {
            PathRewrite::Full(path) => rewrite_extension::Path::Full(path.to_string()),
            PathRewrite::Prefix(path) => rewrite_extension::Path::Prefix(path.to_string()),
            PathRewrite::Regex { pattern, substitution } => rewrite_extension::Path::Regex(RegexRewrite {
                pattern: pattern.as_str().to_owned(),
                substitution: substitution.to_string(),
            }),
        }),
    }
}

fn text_of(value: &HeaderValue) -> String {
    value.to_str().unwrap_or_default().to_owned()
}

fn retry_extension(retry: &Retry) -> RetryExtension {
    let Retry { attempts, on, non_idempotent, backoff_base, backoff_max, .. } = retry;
    RetryExtension {
        attempts: u32::from(attempts.value),
        on: on
            .iter()
            .map(|on| match on {
                RetryOn::Status(status) => format!("status:{status}"),
                RetryOn::Grpc(code) => format!("grpc:{code}"),
                on => retry_word(*on).unwrap_or_default().to_owned(),
            })
            .collect(),
        non_idempotent: *non_idempotent,
        backoff_base: wire::own_duration(*backoff_base),
        backoff_max: wire::own_duration(*backoff_max),
    }
}
