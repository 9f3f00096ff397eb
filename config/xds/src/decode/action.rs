//! What is done with a request.

mod redirect;
mod retry;

use std::time::Duration;

use http::HeaderValue;
use outrigger_config::grammar;
use outrigger_config::model::{
    Action, BackendRef, Filter, HashKey, Hedge, Labels, Mirror, PathMatch, Retry, Setting, Timeouts, UrlRewrite,
};

use self::redirect::{direct, own_rewrite, prefix_rewritten, redirect, regex_rewritten};
pub(crate) use self::retry::conditions;
use self::retry::{hedge, own_retry, retry};
use super::reader::At;
use super::route::{Edits, in_steps};
use super::{endpoint, fitness, resilience};
use crate::extensions::RouteExtension;
use crate::pb::route;
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
