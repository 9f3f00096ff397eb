//! What a cluster speaks, and how its connections are kept.

use outrigger_config::model::{ClusterProtocol, ConnectionOptions};

use super::super::reader::At;
use super::positive;
use crate::pb::{self, core, upstream};

/// Streams on a connection where nobody says.
pub(super) const MAX_STREAMS: u32 = 1024;

pub(super) type Extensions = std::collections::HashMap<String, pb::Any>;

pub(super) fn automatic(options: &Extensions) -> bool {
    use prost::Message as _;
    use upstream::http_protocol_options::UpstreamProtocolOptions::AutoConfig;
    options
        .get(pb::HTTP_OPTIONS)
        .and_then(|any| upstream::HttpProtocolOptions::decode(&*any.value).ok())
        .is_some_and(|options| matches!(options.upstream_protocol_options, Some(AutoConfig(_))))
}

pub(super) fn protocol(
    at: &At<'_>,
    (typed, common, http2): (&Extensions, Option<&core::HttpProtocolOptions>, Option<&core::Http2ProtocolOptions>),
    connection: &mut ConnectionOptions,
) -> ClusterProtocol {
    use upstream::http_protocol_options::UseDownstreamHttpConfig;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions};
    let outer = at;
    let mut keys: Vec<&String> = typed.keys().collect();
    keys.sort();
    for key in keys {
        if key != pb::HTTP_OPTIONS {
            at.key("typed_extension_protocol_options", key).refuse("these options are not supported; remove them");
        }
    }
    let at = outer.key("typed_extension_protocol_options", pb::HTTP_OPTIONS);
    let Some(message) = typed.get(pb::HTTP_OPTIONS).and_then(|any| at.typed::<upstream::HttpProtocolOptions>(any))
    else {
        // The way it was said before.
        if let Some(common) = common {
            common_options(&outer.field("common_http_protocol_options"), common, connection);
        }
        return match http2 {
            Some(http2) => {
                http2_options(&outer.field("http2_protocol_options"), http2, connection);
                ClusterProtocol::Http2
            }
            None => ClusterProtocol::Http1,
        };
    };
    outer.unset("common_http_protocol_options", &common);
    outer.unset("http2_protocol_options", &http2);
    unpack!(at, &message => upstream::HttpProtocolOptions {
        take: [common_http_protocol_options, upstream_protocol_options],
        ignore: [],
        refuse: [
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
        ],
    });
    if let Some(common) = common_http_protocol_options {
        common_options(&at.field("common_http_protocol_options"), common, connection);
    }
    match upstream_protocol_options {
        None => ClusterProtocol::Http1,
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(message)) => {
            let at = at.field("explicit_http_config");
            unpack!(at, message => ExplicitHttpConfig { take: [protocol_config], ignore: [], refuse: [] });
            match protocol_config {
                None | Some(ProtocolConfig::HttpProtocolOptions(_)) => ClusterProtocol::Http1,
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    http2_options(&at.field("http2_protocol_options"), http2, connection);
                    ClusterProtocol::Http2
                }
                Some(ProtocolConfig::Http3ProtocolOptions(http3)) => {
                    http3_options(&at.field("http3_protocol_options"), http3, connection);
                    ClusterProtocol::Http3
                }
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(message)) => {
            let at = at.field("use_downstream_protocol_config");
            unpack!(at, message => UseDownstreamHttpConfig {
                take: [http2_protocol_options],
                ignore: [http_protocol_options], // they change nothing of what is sent
                refuse: [http3_protocol_options],
            });
            match http2_protocol_options {
                Some(http2) => {
                    http2_options(&at.field("http2_protocol_options"), http2, connection);
                    ClusterProtocol::Auto
                }
                // Envoy speaks HTTP/2 here only where options for it are given.
                None => ClusterProtocol::Http1,
            }
        }
        Some(UpstreamProtocolOptions::AutoConfig(message)) => {
            let at = at.field("auto_config");
            unpack!(at, message => AutoHttpConfig {
                take: [http2_protocol_options],
                ignore: [
                    http_protocol_options, // they change nothing of what is sent
                    http3_protocol_options, // HTTP/3 is used with endpoints that offer it
                    alternate_protocols_cache_options, // what they offer is remembered
                ],
                refuse: [],
            });
            if let Some(http2) = http2_protocol_options {
                http2_options(&at.field("http2_protocol_options"), http2, connection);
            }
            ClusterProtocol::Auto
        }
    }
}

pub(super) fn http3_options(at: &At<'_>, message: &core::Http3ProtocolOptions, connection: &mut ConnectionOptions) {
    unpack!(at, message => core::Http3ProtocolOptions {
        take: [quic_protocol_options],
        ignore: [
            override_stream_error_on_invalid_http_message, // a stream where that is enough, else the connection
            allow_extended_connect, // where the endpoint allows it
            disable_qpack, // what is sent is not compressed by a dynamic table
            disable_connection_flow_control_for_streams, // tuning
            disallow_obs_text, // header values are as in HTTP/1
        ],
        refuse: [allow_metadata],
    });
    if let Some(quic) = quic_protocol_options {
        unpack!(at, quic => core::QuicProtocolOptions {
            take: [max_concurrent_streams],
            ignore: [
                initial_stream_window_size, // tuning
                initial_connection_window_size, // likewise
                num_timeouts_to_trigger_port_migration, // paths are changed when the network says so
                connection_keepalive, // connections have limits of idleness
                connection_options, // of one implementation
                client_connection_options, // likewise
                idle_network_timeout, // connections have limits of idleness
                max_packet_length, // found out
                client_packet_writer, // tuning
                connection_migration, // paths are changed when the network says so
                memory_reduction_timeout, // tuning
                enable_scone, // not told
            ],
            refuse: [],
        });
        if let Some(streams) = max_concurrent_streams {
            connection.max_streams = streams.value;
        }
    }
}

pub(super) fn common_options(at: &At<'_>, message: &core::HttpProtocolOptions, connection: &mut ConnectionOptions) {
    unpack!(at, message => core::HttpProtocolOptions {
        take: [idle_timeout, max_connection_duration],
        ignore: [
            max_connection_duration_jitter, // the age has a jitter of its own
            max_headers_count, // responses have limits of their own
            max_response_headers_kb, // likewise
            headers_with_underscores_action, // of requests only
        ],
        refuse: [max_stream_duration, max_requests_per_connection],
    });
    if let Some(idle) = positive(at, "idle_timeout", idle_timeout.as_ref()) {
        connection.idle_timeout = idle;
    }
    if let Some(age) = at.duration("max_connection_duration", max_connection_duration.as_ref()) {
        connection.max_age = age;
    }
}

pub(super) fn http2_options(at: &At<'_>, message: &core::Http2ProtocolOptions, connection: &mut ConnectionOptions) {
    let (streams, keepalive) = http2(at, message);
    if let Some(streams) = streams {
        connection.max_streams = streams;
    }
    let Some(message) = keepalive else { return };
    let at = at.field("connection_keepalive");
    unpack!(at, message => core::KeepaliveSettings {
        take: [interval, timeout],
        ignore: [
            interval_jitter, // pings follow silence, which is no rhythm
            connection_idle_interval, // a connection that was idle is tried before it is used
        ],
        refuse: [],
    });
    connection.keepalive_interval = at.duration("interval", interval.as_ref()).unwrap_or_default();
    if let Some(timeout) = positive(&at, "timeout", timeout.as_ref()) {
        connection.keepalive_timeout = timeout;
    }
}

/// Streams of a connection, and its keepalive.
pub(in crate::decode) fn http2<'m>(
    at: &At<'_>,
    message: &'m core::Http2ProtocolOptions,
) -> (Option<u32>, Option<&'m core::KeepaliveSettings>) {
    unpack!(at, message => core::Http2ProtocolOptions {
        take: [max_concurrent_streams, connection_keepalive],
        ignore: [
            hpack_table_size, // tuning
            initial_stream_window_size, // likewise
            initial_connection_window_size, // likewise
            allow_connect, // websockets are always taken
            max_outbound_frames, // floods have limits of their own
            max_outbound_control_frames, // likewise
            max_consecutive_inbound_frames_with_empty_payload, // likewise
            max_inbound_priority_frames_per_stream, // likewise
            max_inbound_window_update_frames_per_data_frame_sent, // likewise
            stream_error_on_invalid_http_messaging, // only the stream ends
            override_stream_error_on_invalid_http_message, // likewise
            use_oghttp2_codec, // which library
            enable_huffman_encoding, // tuning
            max_header_field_size_kb, // heads have a limit of their own
            disallow_obs_text, // tuning
            stream_reset_burst, // floods have limits of their own
            stream_reset_rate, // likewise
        ],
        refuse: [allow_metadata, custom_settings_parameters, max_metadata_size],
    });
    let streams = max_concurrent_streams.as_ref().map(|streams| streams.value);
    // Envoy's older default is all there are.
    (
        streams.map(|streams| if streams > i32::MAX as u32 - 1 { MAX_STREAMS } else { streams }),
        connection_keepalive.as_ref(),
    )
}

/// What ALPN offers must be what is spoken.
pub(super) fn speaks(at: &At<'_>, protocol: ClusterProtocol, alpn: &[String]) {
    let fits = match protocol {
        ClusterProtocol::Http1 => alpn.iter().all(|name| name.starts_with("http/1")),
        ClusterProtocol::Http2 => alpn.iter().any(|name| name == "h2") || alpn.is_empty(),
        ClusterProtocol::Http3 => alpn.iter().any(|name| name == "h3") || alpn.is_empty(),
        ClusterProtocol::Auto | ClusterProtocol::Tcp => true,
    };
    if !fits {
        at.field("transport_socket")
            .field("typed_config")
            .field("common_tls_context")
            .field("alpn_protocols")
            .refuse("ALPN offers another protocol than the cluster speaks; leave it out, or offer that one");
    }
}
