//! Small pieces that both directions need: wrappers, packed messages, metadata, text in Envoy's grammars.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outrigger_config::model::Place;
use prost::{Message, Name};

use crate::extensions;
use crate::pb::{self, Any, core};

/// A packed message.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A packed message of ours.
pub(crate) fn own_any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/outrigger.config.v1.{name}"), value: message.encode_to_vec() }
}

/// Metadata that carries a message of ours.
pub(crate) fn metadata(name: &str, message: &impl Message) -> core::Metadata {
    core::Metadata {
        filter_metadata: HashMap::new(),
        typed_filter_metadata: HashMap::from([(pb::OWN.to_owned(), own_any(name, message))]),
    }
}

pub(crate) fn number(value: u32) -> Option<pb::UInt32Value> {
    Some(pb::UInt32Value { value })
}

pub(crate) fn flag(value: bool) -> Option<pb::BoolValue> {
    Some(pb::BoolValue { value })
}

pub(crate) fn duration(value: Duration) -> Option<pb::Duration> {
    Some(pb::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    })
}

/// The duration of a message; `None` for one that is negative or malformed.
pub(crate) fn read_duration(value: &pb::Duration) -> Option<Duration> {
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(value.seconds).ok()?, nanos))
}

pub(crate) fn own_duration(value: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    })
}

pub(crate) fn read_own_duration(value: &prost_types::Duration) -> Option<Duration> {
    read_duration(&pb::Duration { seconds: value.seconds, nanos: value.nanos })
}

pub(crate) fn place(place: &Place) -> Option<extensions::Place> {
    let Place { file, line, column } = place;
    Some(extensions::Place { file: file.to_string(), line: *line, column: *column })
}

pub(crate) fn read_place(place: &extensions::Place) -> Place {
    let extensions::Place { file, line, column } = place;
    Place { file: file.as_str().into(), line: *line, column: *column }
}

/// Resources that come over the aggregated stream.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        authorities: Vec::new(),
        initial_fetch_timeout: None,
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
    }
}

pub(crate) fn address(host: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            protocol: core::socket_address::Protocol::Tcp as i32,
            address: host.to_owned(),
            resolver_name: String::new(),
            ipv4_compat: false,
            network_namespace_filepath: String::new(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
        })),
    }
}

pub(crate) fn filename(path: &std::path::Path) -> core::DataSource {
    core::DataSource {
        watched_directory: None,
        specifier: Some(core::data_source::Specifier::Filename(path.to_string_lossy().into_owned())),
    }
}

pub(crate) fn regex(text: &str) -> pb::matcher::RegexMatcher {
    pb::matcher::RegexMatcher { regex: text.to_owned(), engine_type: None }
}

pub(crate) fn string(pattern: pb::matcher::string_matcher::MatchPattern) -> pb::matcher::StringMatcher {
    pb::matcher::StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
}

/// A header that is put into a message. In Envoy's values a percent sign begins a command.
pub(crate) fn header_option(name: &HeaderName, value: &HeaderValue, append: bool) -> core::HeaderValueOption {
    use core::header_value_option::HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    let action = if append { AppendIfExistsOrAdd } else { OverwriteIfExistsOrAdd };
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.as_str().to_owned(),
            value: value.to_str().unwrap_or_default().replace('%', "%%"),
            raw_value: Vec::new(),
        }),
        append: None,
        append_action: action as i32,
        keep_empty_value: value.is_empty(),
    }
}

/// Envoy's form of what replaces a pattern: `\1` for a group, `\\` for a backslash.
pub(crate) fn substitution(text: &str, pattern: &::regex::Regex) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(&before.replace('\\', "\\\\"));
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (group, tail) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(split) => split,
            None => {
                after.split_at(after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len()))
            }
        };
        let number =
            group.parse::<usize>().ok().or_else(|| pattern.capture_names().position(|name| name == Some(group)));
        if let Some(number) = number {
            out.push_str(&format!("\\{number}"));
        }
        rest = tail;
    }
    out.push_str(&rest.replace('\\', "\\\\"));
    out
}

/// Ours of Envoy's; `None` where it is malformed.
pub(crate) fn read_substitution(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next()? {
                '\\' => out.push('\\'),
                digit if digit.is_ascii_digit() => out.push_str(&format!("${{{digit}}}")),
                _ => return None,
            },
            other => out.push(other),
        }
    }
    Some(out)
}
