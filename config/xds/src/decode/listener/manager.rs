//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::grammar;
use outrigger_config::model::{
    ClientCertHeader, Connect, EscapedSlashes, ListenerLimits, ListenerProtocol, PathOptions, RouteTable, Trust,
    Upgrades,
};

use super::super::cluster::{http2, positive};
use super::super::filters::{self, Filters};
use super::super::reader::At;
use super::super::route;
use super::over_ads;
use crate::extensions::ListenerExtension;
use crate::pb::{core, hcm};

/// What a connection manager says.
pub(super) struct Http {
    pub(super) protocol: ListenerProtocol,
    pub(super) rds: Option<Arc<str>>,
    pub(super) routes: Option<RouteTable>,
    pub(super) trust: Trust,
    pub(super) path: PathOptions,
    pub(super) limits: ListenerLimits,
    pub(super) client_cert_header: ClientCertHeader,
    pub(super) filters: Filters,
    pub(super) upgrades: Upgrades,
}

impl Default for Http {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            protocol: ListenerProtocol::Auto,
            rds: None,
            routes: None,
            trust: Trust::Local,
            path: PathOptions { merge_slashes: false, escaped_slashes: EscapedSlashes::Keep },
            limits: ListenerLimits {
                max_connections: 16_384,
                max_head_bytes: 60 * 1024,
                max_headers: 100,
                max_concurrent_streams: 1024,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(3600),
                stream_idle_timeout: Duration::from_secs(300),
                max_connection_age: Duration::ZERO,
                detect_timeout: Duration::from_secs(15),
            },
            client_cert_header: ClientCertHeader::Sanitize,
            filters: Filters::default(),
            upgrades: Upgrades::default(),
        }
    }
}

pub(super) fn manager(
    at: &At<'_>,
    message: &hcm::HttpConnectionManager,
    own: Option<&ListenerExtension>,
) -> Option<Http> {
    use hcm::http_connection_manager::{
        CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    };
    unpack!(at, message => hcm::HttpConnectionManager {
        take: [
            codec_type,
            http_filters,
            common_http_protocol_options,
            http2_protocol_options,
            max_request_headers_kb,
            stream_idle_timeout,
            request_timeout,
            request_headers_timeout,
            use_remote_address,
            xff_num_trusted_hops,
            forward_client_cert_details,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            route_specifier,
            server_header_transformation,
        ],
        ignore: [
            stat_prefix, // labels have the name
            add_user_agent, // no user agent is added
            tracing, // traces are the proxy's own settings
            http1_safe_max_connection_duration, // connections end between requests
            http_protocol_options, // HTTP/1.0 is always taken, and nothing else is optional
            server_name, // no server header is set
            drain_timeout, // drains have limits of their own
            drain_timeout_jitter, // likewise
            delayed_close_timeout, // likewise
            stream_flush_timeout, // a stream on which nothing moves ends
            access_log, // the access log is the proxy's
            access_log_flush_interval, // likewise
            flush_access_log_on_new_request, // likewise
            access_log_options, // likewise
            internal_address_config, // nobody is internal
            skip_xff_append, // forwarding headers go with the trust of the caller
            generate_request_id, // requests always have one
            preserve_external_request_id, // one of a trusted caller is kept
            always_set_request_id_in_response, // not told
            set_current_client_cert_details, // By, Hash, Subject, URI and DNS
            proxy_100_continue, // always
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6, // never
            request_id_extension, // one kind of id
            stream_error_on_invalid_http_message, // a stream where that is enough, else the connection
            strip_matching_host_port, // the port plays no part
            strip_trailing_host_dot, // always
            strip_port_mode, // the port plays no part
            append_x_forwarded_port, // not told
            append_local_overload, // not told
            forward_proto_config, // told as it was seen
        ],
        refuse: [
            http3_protocol_options,
            scheme_header_transformation,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            via,
            forward_client_cert_matcher,
            local_reply_config,
            path_normalization_options,
            proxy_status_config,
            typed_header_validation_config,
            add_proxy_protocol_connection_state,
        ],
    });
    let protocol = match CodecType::try_from(*codec_type) {
        Ok(CodecType::Auto) => ListenerProtocol::Auto,
        Ok(CodecType::Http1) => ListenerProtocol::Http1,
        Ok(CodecType::Http2) => ListenerProtocol::Http2,
        Ok(CodecType::Http3) | Err(_) => {
            at.field("codec_type").refuse("a listener of HTTP/3 alone is not supported; write AUTO");
            ListenerProtocol::Auto
        }
    };
    let mut out = Http { protocol, ..Http::default() };
    // What the server header says is left to the application.
    let _ = server_header_transformation;
    match route_specifier {
        Some(RouteSpecifier::Rds(message)) => {
            let at = at.field("rds");
            unpack!(at, message => hcm::Rds { take: [config_source, route_config_name], ignore: [], refuse: [] });
            match config_source {
                Some(source) => over_ads(&at.field("config_source"), source),
                None => at.field("config_source").refuse("there is no source"),
            }
            out.rds = at.field("route_config_name").held(grammar::name(route_config_name));
        }
        Some(RouteSpecifier::RouteConfig(message)) => {
            let at = at.field("route_config");
            // Nobody refers to it, so it may have no name.
            let named = crate::pb::route::RouteConfiguration { name: "routes".to_owned(), ..message.clone() };
            out.routes = route::table(&at, &named);
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            at.field("scoped_routes").refuse("this is not supported; use `rds` or `route_config`");
        }
        None if own.is_some_and(|own| own.manager.is_some()) => {}
        None => at.refuse("there are no routes; add `rds` or `route_config`"),
    }
    if let Some(message) = common_http_protocol_options {
        common(&at.field("common_http_protocol_options"), message, &mut out.limits);
    }
    if let Some(message) = http2_protocol_options {
        let at = at.field("http2_protocol_options");
        let (streams, keepalive) = http2(&at, message);
        if let Some(streams) = streams {
            out.limits.max_concurrent_streams = streams;
        }
        at.unset("connection_keepalive", &keepalive);
    }
    if let Some(kilobytes) = max_request_headers_kb {
        out.limits.max_head_bytes = kilobytes.value.saturating_mul(1024);
    }
    if let Some(idle) = at.duration("stream_idle_timeout", stream_idle_timeout.as_ref()) {
        out.limits.stream_idle_timeout = idle;
    }
    if at.duration("request_timeout", request_timeout.as_ref()).is_some_and(|limit| !limit.is_zero()) {
        at.field("request_timeout").refuse("this is not supported; limit requests in their routes");
    }
    // Zero is Envoy's "none"; heads that never end are not waited for.
    let head = at.duration("request_headers_timeout", request_headers_timeout.as_ref());
    if let Some(head) = head.filter(|limit| !limit.is_zero()) {
        out.limits.header_timeout = head;
    }
    out.trust = match (use_remote_address.as_ref().is_some_and(|flag| flag.value), xff_num_trusted_hops) {
        (false, 0) => Trust::Local,
        (true, 0) => Trust::None,
        (_, hops) => match u8::try_from(*hops) {
            Ok(hops) => Trust::Hops(hops),
            Err(_) => {
                at.field("xff_num_trusted_hops").refuse("so many proxies are not trusted; write a smaller number");
                Trust::None
            }
        },
    };
    out.client_cert_header = match ForwardClientCertDetails::try_from(*forward_client_cert_details) {
        Ok(ForwardClientCertDetails::Sanitize) => ClientCertHeader::Sanitize,
        Ok(ForwardClientCertDetails::ForwardOnly) => ClientCertHeader::Forward,
        Ok(ForwardClientCertDetails::AppendForward) => ClientCertHeader::Append,
        Ok(ForwardClientCertDetails::SanitizeSet) => ClientCertHeader::Set,
        Ok(ForwardClientCertDetails::AlwaysForwardOnly) | Err(_) => {
            let reason = "anybody could write this header; forward it from callers with a certificate: FORWARD_ONLY";
            at.field("forward_client_cert_details").refuse(reason);
            ClientCertHeader::Sanitize
        }
    };
    out.upgrades = upgrades(at, upgrade_configs, out.limits.stream_idle_timeout);
    if normalize_path.as_ref().is_some_and(|flag| !flag.value) {
        at.field("normalize_path").refuse("paths are always brought into their normal form; remove it");
    }
    let escaped = match PathWithEscapedSlashesAction::try_from(*path_with_escaped_slashes_action) {
        Ok(
            PathWithEscapedSlashesAction::ImplementationSpecificDefault | PathWithEscapedSlashesAction::KeepUnchanged,
        ) => EscapedSlashes::Keep,
        Ok(PathWithEscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
        _ => {
            let reason = "escaped slashes are kept or refused; write KEEP_UNCHANGED or REJECT_REQUEST";
            at.field("path_with_escaped_slashes_action").refuse(reason);
            EscapedSlashes::Keep
        }
    };
    out.path = PathOptions { merge_slashes: *merge_slashes, escaped_slashes: escaped };
    out.filters = filters::http(at, http_filters, own);
    Some(out)
}

/// Envoy lets nothing be upgraded to that is not listed.
fn upgrades(at: &At<'_>, list: &[hcm::http_connection_manager::UpgradeConfig], idle: Duration) -> Upgrades {
    let mut out = Upgrades { allow: Vec::new(), idle_timeout: idle, ..Upgrades::default() };
    for (index, message) in list.iter().enumerate() {
        let at = at.item("upgrade_configs", index);
        unpack!(at, message => hcm::http_connection_manager::UpgradeConfig {
            take: [upgrade_type, enabled],
            ignore: [],
            refuse: [filters],
        });
        if enabled.as_ref().is_some_and(|flag| !flag.value) {
            // A route could switch it on, and routes that do are refused.
            continue;
        }
        if upgrade_type.eq_ignore_ascii_case("connect") {
            out.connect = Connect::Route;
        } else if let Some(token) = at.field("upgrade_type").held(grammar::upgrade(&upgrade_type.to_ascii_lowercase()))
            && !out.allow.contains(&token)
        {
            out.allow.push(token);
        }
    }
    out
}

fn common(at: &At<'_>, message: &core::HttpProtocolOptions, limits: &mut ListenerLimits) {
    unpack!(at, message => core::HttpProtocolOptions {
        take: [idle_timeout, max_connection_duration, max_headers_count, headers_with_underscores_action],
        ignore: [
            max_connection_duration_jitter, // the age has a jitter of its own
            max_response_headers_kb, // of responses
        ],
        refuse: [max_stream_duration, max_requests_per_connection],
    });
    if *headers_with_underscores_action != 0 {
        at.field("headers_with_underscores_action").refuse("such headers are kept; remove it");
    }
    if let Some(idle) = positive(at, "idle_timeout", idle_timeout.as_ref()) {
        limits.idle_timeout = idle;
    }
    if let Some(age) = at.duration("max_connection_duration", max_connection_duration.as_ref()) {
        limits.max_connection_age = age;
    }
    if let Some(count) = max_headers_count {
        limits.max_headers = u16::try_from(count.value).unwrap_or_else(|_| {
            at.field("max_headers_count").refuse("so many headers are not taken; write at most 1000");
            100
        });
    }
}
