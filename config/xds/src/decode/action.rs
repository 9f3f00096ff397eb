//! What is done with a request.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use outrigger_config::limits::RETRY_ATTEMPTS;
use outrigger_config::model::{
    Action, BackendRef, DirectResponse, Filter, HashKey, HeaderMatch, Hedge, HedgeAfter, Labels, Mirror, PathMatch,
    PathRewrite, Redirect, Retry, RetryOn, Setting, Timeouts, UrlRewrite,
};
use outrigger_config::{grammar, pattern};

use super::matching::{self, Header};
use super::reader::At;
use super::route::{Edits, in_steps};
use super::{endpoint, fitness, resilience};
use crate::extensions::{RetryExtension, RewriteExtension, RouteExtension, rewrite_extension};
use crate::pb::{core, matcher, route};
use crate::{canonical, wire};

/// What an action becomes.
pub(super) struct Done {
    pub(super) action: Action,
    pub(super) rewrite: Option<UrlRewrite>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Retry,
    pub(super) hedge: Option<Hedge>,
    pub(super) hash: Vec<HashKey>,
    pub(super) mirrors: Vec<Mirror>,
}

/// Beside what: the condition on the path, our own extension, the retry policy of the virtual host.
pub(super) struct Beside<'m> {
    pub(super) path: &'m PathMatch,
    pub(super) own: Option<&'m RouteExtension>,
    pub(super) host_retry: Option<&'m route::RetryPolicy>,
}

pub(super) fn action(at: &At<'_>, message: Option<&route::route::Action>, beside: &Beside<'_>) -> Option<Done> {
    use route::route::Action as Message;
    match message {
        Some(Message::Route(message)) => forward(&at.field("route"), message, beside),
        Some(Message::Redirect(message)) => {
            let redirect = redirect(&at.field("redirect"), message, beside)?;
            Some(answered(at, Action::Redirect(redirect), beside.own))
        }
        Some(Message::DirectResponse(message)) => {
            let direct = direct(&at.field("direct_response"), message, beside.own)?;
            Some(answered(at, Action::Direct(direct), beside.own))
        }
        Some(Message::FilterAction(_)) => {
            at.field("filter_action").refuse("this is not supported; forward, redirect or answer");
            None
        }
        Some(Message::NonForwardingAction(_)) => {
            at.field("non_forwarding_action").refuse("this is for gRPC servers; forward, redirect or answer");
            None
        }
        None => {
            at.refuse("the route does nothing; forward, redirect or answer");
            None
        }
    }
}

/// An answer is given at once: time limits and retries are only kept.
fn answered(at: &At<'_>, action: Action, own: Option<&RouteExtension>) -> Done {
    let mut timeouts = defaults();
    if let Some(own) = own {
        let kept = own.timeouts.unwrap_or_default();
        let read = |value: &Option<prost_types::Duration>| value.as_ref().and_then(wire::read_own_duration);
        timeouts.request.value = read(&kept.request);
        timeouts.backend_request.value = read(&kept.backend_request);
        timeouts.idle.value = read(&kept.idle);
        places(&mut timeouts, own);
    }
    let retry = own.map_or_else(canonical::none, |own| own_retry(at, own, canonical::none()));
    let rewrite = own.and_then(|own| own.unused_rewrite.as_ref()).map(|unused| UrlRewrite {
        hostname: unused.hostname.as_deref().and_then(|text| HeaderValue::from_str(text).ok()),
        path: unused.path.as_ref().and_then(|path| own_rewrite(at, path)),
    });
    Done { action, rewrite, timeouts, retry, hedge: None, hash: Vec::new(), mirrors: Vec::new() }
}

/// As where nothing is written.
fn defaults() -> Timeouts {
    Timeouts {
        request: Setting { value: Some(Duration::from_secs(15)), place: None },
        backend_request: Setting { value: None, place: None },
        idle: Setting { value: None, place: None },
    }
}

fn places(timeouts: &mut Timeouts, own: &RouteExtension) {
    timeouts.request.place = own.request.as_ref().map(wire::read_place);
    timeouts.backend_request.place = own.backend_request.as_ref().map(wire::read_place);
    timeouts.idle.place = own.idle.as_ref().map(wire::read_place);
}

fn own_retry(at: &At<'_>, own: &RouteExtension, read: Retry) -> Retry {
    let place = own.attempts.as_ref().map(wire::read_place);
    let Some(RetryExtension { attempts, on, non_idempotent, backoff_base, backoff_max }) = &own.retry else {
        return Retry { attempts: Setting { value: read.attempts.value, place }, ..read };
    };
    let at = at.field("metadata");
    let duration = |value: &Option<prost_types::Duration>| value.as_ref().and_then(wire::read_own_duration);
    let condition = |text: &String| {
        let numbered = text.split_once(':').map(|(kind, number)| (kind, number.parse::<u16>()));
        match numbered {
            Some(("status", Ok(status))) => Some(RetryOn::Status(status)),
            Some(("grpc", Ok(code))) => u8::try_from(code).ok().map(RetryOn::Grpc),
            _ => match word(text) {
                Some(&[first, ..]) => Some(first),
                _ => {
                    at.refuse(format!("`{text}` is not a condition for a retry"));
                    None
                }
            },
        }
    };
    Retry {
        attempts: Setting { value: u8::try_from(*attempts).unwrap_or(u8::MAX), place },
        on: on.iter().filter_map(condition).collect(),
        non_idempotent: *non_idempotent,
        backoff_base: duration(backoff_base).unwrap_or(read.backoff_base),
        backoff_max: duration(backoff_max).unwrap_or(read.backoff_max),
        ..read
    }
}

fn forward(at: &At<'_>, message: &route::RouteAction, beside: &Beside<'_>) -> Option<Done> {
    use route::route_action::HostRewriteSpecifier;
    unpack!(at, message => route::RouteAction {
        take: [
            cluster_not_found_response_code,
            prefix_rewrite,
            regex_rewrite,
            timeout,
            idle_timeout,
            retry_policy,
            upgrade_configs,
            internal_redirect_action,
            max_stream_duration,
            cluster_specifier,
            host_rewrite_specifier,
            metadata_match,
            request_mirror_policies,
            hash_policy,
            hedge_policy,
        ],
        ignore: [
            include_vh_rate_limits, // rate limits are refused
            max_internal_redirects, // internal redirects are refused
            append_x_forwarded_host, // always, where forwarding headers are kept
            early_data_policy, // early data is not taken
        ],
        refuse: [
            path_rewrite_policy,
            path_rewrite,
            flush_timeout,
            retry_policy_typed_config,
            priority,
            rate_limits,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            internal_redirect_policy,
        ],
    });
    if *cluster_not_found_response_code != 0 {
        at.field("cluster_not_found_response_code").refuse("a route to a missing cluster is answered 503; remove it");
    }
    if *internal_redirect_action != 0 {
        at.field("internal_redirect_action").refuse("this is not supported; remove it");
    }
    for (index, upgrade) in upgrade_configs.iter().enumerate() {
        let off = upgrade.enabled.as_ref().is_some_and(|flag| !flag.value);
        if !upgrade.upgrade_type.eq_ignore_ascii_case("websocket") || off || upgrade.connect_config.is_some() {
            let reason = "what may be upgraded to is said by the connection manager, for all its routes, and tunnels of \
                          CONNECT end where the ListenerExtension says so; remove it";
            at.item("upgrade_configs", index).refuse(reason);
        }
    }
    let list = clusters(at, cluster_specifier.as_ref(), beside.own).map(|mut list| {
        let subset = endpoint::labels(metadata_match.as_ref());
        for backend in &mut list {
            for (key, value) in &subset {
                // What a cluster of its own says goes before.
                backend.subset.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        if let Some(given) = beside.own.and_then(|own| own.resilience.as_ref()) {
            for (backend, labels) in list.iter_mut().zip(&given.subsets) {
                backend.subset = resilience::labels(labels);
            }
        }
        list
    });
    let mirrors = request_mirror_policies
        .iter()
        .enumerate()
        .filter_map(|(index, message)| mirror(&at.item("request_mirror_policies", index), message));
    let mirrors: Vec<Mirror> = mirrors.collect();
    let hash = fitness::hash_policy(at, hash_policy);
    let path = match beside.own.and_then(|own| own.rewrite.as_ref()) {
        Some(own) => own_rewrite(at, own),
        None => match (prefix_rewrite.as_str(), regex_rewrite) {
            ("", None) => None,
            ("", Some(regex)) => regex_rewritten(&at.field("regex_rewrite"), regex),
            (prefix, None) => prefix_rewritten(&at.field("prefix_rewrite"), prefix, beside.path),
            (_, Some(_)) => {
                at.field("regex_rewrite").refuse("`prefix_rewrite` stands beside it; keep one of the two");
                None
            }
        },
    };
    let hostname = match host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(text)) => {
            let at = at.field("host_rewrite_literal");
            at.held(HeaderValue::from_str(text).map_err(|_| format!("`{}` is not a host", text.escape_debug())))
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(flag)) if !flag.value => None,
        Some(_) => {
            at.field("host_rewrite_specifier").refuse("hosts are rewritten by `host_rewrite_literal` only");
            None
        }
    };
    let mut timeouts = defaults();
    let mut whole = at.duration("timeout", timeout.as_ref());
    if let Some(message) = max_stream_duration {
        whole = stream_limit(&at.field("max_stream_duration"), message, whole);
    }
    if let Some(whole) = whole {
        timeouts.request = Setting { value: Some(whole).filter(|limit| !limit.is_zero()), place: Some(at.place()) };
    }
    if let Some(idle) = at.duration("idle_timeout", idle_timeout.as_ref()) {
        timeouts.idle = Setting { value: Some(idle).filter(|limit| !limit.is_zero()), place: Some(at.place()) };
    }
    let policy = retry_policy.as_ref().or(beside.host_retry);
    let mut retry = self::retry(&at.field("retry_policy"), policy, &mut timeouts);
    if let Some(own) = beside.own {
        places(&mut timeouts, own);
        retry = own_retry(at, own, retry);
    }
    let rewrite = (hostname.is_some() || path.is_some()).then_some(UrlRewrite { hostname, path });
    let hedge = hedge_policy.as_ref().and_then(|message| hedge(&at.field("hedge_policy"), message, &mut timeouts));
    Some(Done { action: Action::Forward(list?), rewrite, timeouts, retry, hedge, hash, mirrors })
}

/// A second attempt after the time limit of one, which goes on. The limit is then none.
fn hedge(at: &At<'_>, message: &route::HedgePolicy, timeouts: &mut Timeouts) -> Option<Hedge> {
    unpack!(at, message => route::HedgePolicy {
        take: [initial_requests, hedge_on_per_try_timeout],
        ignore: [],
        refuse: [additional_request_chance],
    });
    if initial_requests.as_ref().is_some_and(|number| number.value > 1) {
        at.field("initial_requests").refuse("a request begins with one attempt; write 1, or remove it");
    }
    if !hedge_on_per_try_timeout {
        return None;
    }
    let Some(delay) = timeouts.backend_request.value.take() else {
        at.field("hedge_on_per_try_timeout").refuse("there is no `per_try_timeout` to start a second attempt at");
        return None;
    };
    timeouts.backend_request.place = None;
    Some(Hedge { after: HedgeAfter::Delay(delay), max: 1, budget_percent: 10 })
}

fn mirror(at: &At<'_>, message: &route::route_action::RequestMirrorPolicy) -> Option<Mirror> {
    unpack!(at, message => route::route_action::RequestMirrorPolicy {
        take: [cluster, runtime_fraction],
        ignore: [
            trace_sampled, // of traces
            disable_shadow_host_suffix_append, // the host of a copy is that of the request
        ],
        refuse: [cluster_header, request_headers_mutations, host_rewrite_literal],
    });
    let share = fitness::fraction(&at.field("runtime_fraction"), runtime_fraction.as_ref());
    Some(Mirror { cluster: at.field("cluster").held(grammar::name(cluster))?, share })
}

/// A limit for the whole stream, beside one for the answer.
fn stream_limit(
    at: &At<'_>,
    message: &route::route_action::MaxStreamDuration,
    whole: Option<Duration>,
) -> Option<Duration> {
    unpack!(at, message => route::route_action::MaxStreamDuration {
        take: [max_stream_duration, grpc_timeout_header_max],
        ignore: [],
        refuse: [grpc_timeout_header_offset],
    });
    let most = at.duration("grpc_timeout_header_max", grpc_timeout_header_max.as_ref());
    if most.is_some_and(|most| !most.is_zero()) {
        at.field("grpc_timeout_header_max").refuse("the caller's deadline is kept as it is; write 0, or remove it");
    }
    let stream = at.duration("max_stream_duration", max_stream_duration.as_ref()).filter(|limit| !limit.is_zero());
    match (stream, whole.filter(|limit| !limit.is_zero())) {
        (None, _) => whole,
        (Some(stream), None) => Some(stream),
        (Some(stream), Some(whole)) => Some(stream.min(whole)),
    }
}

fn clusters(
    at: &At<'_>,
    specifier: Option<&route::route_action::ClusterSpecifier>,
    own: Option<&RouteExtension>,
) -> Option<Vec<BackendRef>> {
    use route::route_action::ClusterSpecifier;
    let refuse = |field: &str| {
        at.field(field).refuse("this is not supported; use `cluster` or `weighted_clusters`");
        None
    };
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) => {
            let cluster = at.field("cluster").held(grammar::name(name))?;
            Some(vec![BackendRef { cluster, weight: 1, subset: Labels::new(), filters: Vec::new() }])
        }
        Some(ClusterSpecifier::WeightedClusters(message)) => {
            let at = at.field("weighted_clusters");
            unpack!(at, message => route::WeightedCluster {
                take: [clusters],
                ignore: [
                    total_weight, // the sum
                    runtime_key_prefix, // there is no runtime
                ],
                refuse: [random_value_specifier],
            });
            let list = clusters.iter().enumerate();
            Some(
                list.filter_map(|(index, message)| weighted(&at.item("clusters", index), message, (own, index)))
                    .collect(),
            )
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => refuse("cluster_header"),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => refuse("cluster_specifier_plugin"),
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => refuse("inline_cluster_specifier_plugin"),
        None => {
            at.refuse("the route leads nowhere; add `cluster` or `weighted_clusters`");
            None
        }
    }
}

fn weighted(
    at: &At<'_>,
    message: &route::weighted_cluster::ClusterWeight,
    (own, index): (Option<&RouteExtension>, usize),
) -> Option<BackendRef> {
    unpack!(at, message => route::weighted_cluster::ClusterWeight {
        take: [
            name,
            weight,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            metadata_match,
        ],
        ignore: [],
        refuse: [cluster_header, typed_per_filter_config, host_rewrite_specifier],
    });
    let request = Edits::read(at, "request", (request_headers_to_add, request_headers_to_remove));
    let response = Edits::read(at, "response", (response_headers_to_add, response_headers_to_remove));
    let filters = match own.and_then(|own| own.backend_steps.get(index)) {
        Some(steps) => in_steps(at, steps, (request, response), (None, None), (Vec::new(), Vec::new())),
        None => {
            let request = request.whole(at).map(Filter::RequestHeaders);
            request.into_iter().chain(response.whole(at).map(Filter::ResponseHeaders)).collect()
        }
    };
    let cluster = at.field("name").held(grammar::name(name))?;
    Some(BackendRef {
        cluster,
        weight: weight.as_ref().map_or(0, |weight| weight.value),
        subset: endpoint::labels(metadata_match.as_ref()),
        filters,
    })
}

/// Headers of responses that are tried again.
fn answers(at: &At<'_>, list: &[route::HeaderMatcher]) -> Vec<HeaderMatch> {
    let each = list.iter().enumerate().filter_map(|(index, message)| {
        let at = at.item("retriable_headers", index);
        match matching::header(&at, message)? {
            Header::Other(condition) => Some(condition),
            Header::Method(_) => {
                at.refuse("a response has no method");
                None
            }
        }
    });
    each.collect()
}

/// How long an answer's own word on when to come back is waited for.
fn pushback(at: &At<'_>, message: &route::retry_policy::RateLimitedRetryBackOff) -> Duration {
    unpack!(at, message => route::retry_policy::RateLimitedRetryBackOff {
        take: [reset_headers, max_interval],
        ignore: [],
        refuse: [],
    });
    for (index, header) in reset_headers.iter().enumerate() {
        // Always read, in seconds.
        if !header.name.eq_ignore_ascii_case("retry-after") || header.format != 0 {
            at.item("reset_headers", index).refuse("only `retry-after` in seconds is supported");
        }
    }
    super::cluster::positive(at, "max_interval", max_interval.as_ref()).unwrap_or(Duration::from_secs(300))
}

/// A retry policy; the limit of one attempt goes to where ours keeps it.
fn retry(at: &At<'_>, message: Option<&route::RetryPolicy>, timeouts: &mut Timeouts) -> Retry {
    let Some(message) = message else { return canonical::none() };
    unpack!(at, message => route::RetryPolicy {
        take: [
            retry_on,
            num_retries,
            per_try_timeout,
            retry_host_predicate,
            retriable_status_codes,
            retry_back_off,
            retriable_request_headers,
            rate_limited_retry_back_off,
            retriable_headers,
        ],
        ignore: [host_selection_retry_max_attempts], // one pick leaves out what has been tried
        refuse: [
            per_try_idle_timeout,
            retry_priority,
            retry_options_predicates,
            refresh_cluster_on_retry,
        ],
    });
    for (index, predicate) in retry_host_predicate.iter().enumerate() {
        // Always so.
        if predicate.name != "envoy.retry_host_predicates.previous_hosts" {
            at.item("retry_host_predicate", index).refuse("only `previous_hosts` is supported");
        }
    }
    if let Some(limit) = at.duration("per_try_timeout", per_try_timeout.as_ref()).filter(|limit| !limit.is_zero()) {
        timeouts.backend_request = Setting { value: Some(limit), place: Some(at.place()) };
    }
    if let Err(reason) = conditions(retry_on, retriable_status_codes) {
        at.field("retry_on").refuse(reason);
        return canonical::none();
    }
    let most = u32::try_from(RETRY_ATTEMPTS.max).unwrap_or(u32::MAX);
    if num_retries.as_ref().is_some_and(|number| number.value > most) {
        at.field("num_retries").refuse(format!("more than {most} retries of one request are not made"));
        return canonical::none();
    }
    if let Some(message) = retry_back_off {
        let at = at.field("retry_back_off");
        unpack!(at, message => route::retry_policy::RetryBackOff {
            take: [base_interval, max_interval],
            ignore: [],
            refuse: [],
        });
        super::cluster::positive(&at, "base_interval", base_interval.as_ref());
        super::cluster::positive(&at, "max_interval", max_interval.as_ref());
    }
    match canonical::retry(Some(message)) {
        Some(mut retry) => {
            retry.attempts.place = Some(at.place());
            retry.on_headers = answers(at, retriable_headers);
            if let Some(message) = rate_limited_retry_back_off {
                retry.max_pushback = pushback(&at.field("rate_limited_retry_back_off"), message);
            }
            retry
        }
        None => {
            if !retriable_request_headers.is_empty() {
                at.field("retriable_request_headers").refuse("this is not supported; remove it");
            }
            canonical::none()
        }
    }
}

/// The conditions of Envoy's `retry_on`, in ours.
pub(crate) fn conditions(retry_on: &str, statuses: &[u32]) -> Result<Vec<RetryOn>, String> {
    let mut out: Vec<RetryOn> = Vec::new();
    let mut add = |condition: RetryOn| {
        if !out.contains(&condition) {
            out.push(condition);
        }
    };
    for text in retry_on.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        // What they are is in a list of its own.
        if text == "retriable-headers" {
            continue;
        }
        if text == "retriable-status-codes" {
            for status in statuses {
                let status = u16::try_from(*status).ok().filter(|status| (400..=599).contains(status));
                add(RetryOn::Status(status.ok_or("only statuses from 400 to 599 are tried again")?));
            }
            continue;
        }
        let words = word(text).ok_or_else(|| format!("the condition `{text}` is not supported; remove it"))?;
        words.iter().copied().for_each(&mut add);
    }
    Ok(out)
}

/// What a word of Envoy's means: some contain others.
fn word(text: &str) -> Option<&'static [RetryOn]> {
    use RetryOn::{ConnectFailure, GatewayError, Grpc, RefusedStream, Reset, ServerError, Status};
    Some(match text {
        "connect-failure" => &[ConnectFailure],
        "refused-stream" => &[RefusedStream],
        "reset" => &[Reset, ConnectFailure, RefusedStream],
        "gateway-error" => &[GatewayError, Reset, ConnectFailure, RefusedStream],
        "5xx" => &[ServerError, Reset, ConnectFailure, RefusedStream],
        "retriable-4xx" => &[Status(409)],
        "cancelled" => &[Grpc(1)],
        "deadline-exceeded" => &[Grpc(4)],
        "resource-exhausted" => &[Grpc(8)],
        "internal" => &[Grpc(13)],
        "unavailable" => &[Grpc(14)],
        _ => return None,
    })
}

fn own_rewrite(at: &At<'_>, own: &RewriteExtension) -> Option<PathRewrite> {
    match own.path.as_ref()? {
        rewrite_extension::Path::Full(path) => Some(PathRewrite::Full(path.as_str().into())),
        rewrite_extension::Path::Prefix(path) => Some(PathRewrite::Prefix(path.as_str().into())),
        rewrite_extension::Path::Regex(rewrite) => {
            let pattern = at.held(pattern::inside(&rewrite.pattern).map_err(|error| error.to_string()))?;
            Some(PathRewrite::Regex { pattern, substitution: rewrite.substitution.as_str().into() })
        }
    }
}

fn regex_rewritten(at: &At<'_>, message: &matcher::RegexMatchAndSubstitute) -> Option<PathRewrite> {
    unpack!(at, message => matcher::RegexMatchAndSubstitute { take: [pattern, substitution], ignore: [], refuse: [] });
    let Some(message) = pattern else {
        at.field("pattern").refuse("there is no pattern");
        return None;
    };
    unpack!(at, message => matcher::RegexMatcher {
        take: [regex],
        ignore: [engine_type], // there is one
        refuse: [],
    });
    let pattern = at.field("pattern").held(pattern::inside(regex).map_err(|error| error.to_string()));
    let read = wire::read_substitution(substitution).ok_or_else(|| "this has a `\\` that means nothing".to_owned());
    let substitution = at.field("substitution").held(read);
    Some(PathRewrite::Regex { pattern: pattern?, substitution: substitution?.into() })
}

/// Envoy replaces the bytes that matched. Where that is not what replacing whole segments does, a pattern does it.
fn prefix_rewritten(at: &At<'_>, new: &str, path: &PathMatch) -> Option<PathRewrite> {
    let bytes = |old: &str| {
        let pattern = pattern::inside(&format!("^{}", regex_syntax::escape(old))).map_err(|error| error.to_string());
        let pattern = at.held(pattern)?;
        Some(PathRewrite::Regex { pattern, substitution: new.replace('$', "$$").into() })
    };
    match path {
        PathMatch::Prefix(old) if old.is_empty() => bytes("/"),
        PathMatch::Prefix(_) if !new.ends_with('/') => Some(PathRewrite::Prefix(new.into())),
        PathMatch::Prefix(old) | PathMatch::Start(old) => bytes(old),
        PathMatch::Exact(_) => Some(PathRewrite::Full(new.into())),
        PathMatch::Any | PathMatch::Regex(_) | PathMatch::GrpcMethod(_) => {
            at.refuse("there is no prefix that could be replaced; use `regex_rewrite`");
            None
        }
    }
}

fn redirect(at: &At<'_>, message: &route::RedirectAction, beside: &Beside<'_>) -> Option<Redirect> {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    unpack!(at, message => route::RedirectAction {
        take: [host_redirect, port_redirect, response_code, scheme_rewrite_specifier, path_rewrite_specifier],
        ignore: [],
        refuse: [strip_query],
    });
    let scheme: Option<Arc<str>> = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.to_ascii_lowercase().into()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
    };
    let hostname = match host_redirect.as_str() {
        "" => None,
        host => at.field("host_redirect").held(grammar::host(host)),
    };
    let port = match u16::try_from(*port_redirect) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => {
            at.field("port_redirect").refuse("this is not a port");
            None
        }
    };
    let path = match (beside.own.and_then(|own| own.rewrite.as_ref()), path_rewrite_specifier) {
        (Some(own), _) => own_rewrite(at, own),
        (None, None) => None,
        (None, Some(PathRewriteSpecifier::PathRedirect(path))) => {
            if path.contains('?') {
                at.field("path_redirect").refuse("the query of the request is kept; leave out `?` and what follows");
            }
            Some(PathRewrite::Full(path.as_str().into()))
        }
        (None, Some(PathRewriteSpecifier::PrefixRewrite(prefix))) => {
            prefix_rewritten(&at.field("prefix_rewrite"), prefix, beside.path)
        }
        (None, Some(PathRewriteSpecifier::RegexRewrite(regex))) => regex_rewritten(&at.field("regex_rewrite"), regex),
        (None, Some(PathRewriteSpecifier::PathRewrite(_))) => {
            at.field("path_rewrite").refuse("this is not supported; use `path_redirect`");
            None
        }
    };
    let status = match RedirectResponseCode::try_from(*response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => {
            at.field("response_code").refuse("this is not the status of a redirect");
            return None;
        }
    };
    Some(Redirect { scheme, hostname, port, path, status })
}

fn direct(at: &At<'_>, message: &route::DirectResponseAction, own: Option<&RouteExtension>) -> Option<DirectResponse> {
    use core::data_source::Specifier;
    unpack!(at, message => route::DirectResponseAction { take: [status, body], ignore: [], refuse: [body_format] });
    let body: Arc<[u8]> = match body.as_ref().map(|source| &source.specifier) {
        None | Some(None) => Arc::from([]),
        Some(Some(Specifier::InlineBytes(bytes))) => Arc::from(&bytes[..]),
        Some(Some(Specifier::InlineString(text))) => Arc::from(text.as_bytes()),
        Some(Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_))) => {
            at.field("body").refuse("the body travels with the route; give it as `inline_string`");
            return None;
        }
    };
    let code = u16::try_from(*status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = code else {
        at.field("status").refuse(format!("{status} is not a status"));
        return None;
    };
    // As Envoy says it.
    let media = own.and_then(|own| own.content_type.as_deref()).unwrap_or("text/plain");
    let content_type = at.held(HeaderValue::from_str(media).map_err(|_| "this is not a media type".to_owned()))?;
    Some(DirectResponse { status, body, content_type })
}
