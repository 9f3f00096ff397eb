//! One line of the access log. Field names follow Istio's JSON access log where they mean the same.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::Version;

use crate::base::limits;
use crate::telemetry::clock::{push_padded, push_rfc3339};

/// What is known about a request at its end. What is `None` is left out of the line.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// When its first byte came.
    pub start: SystemTime,
    /// The method.
    pub method: &'a str,
    /// The host that the caller named.
    pub authority: Option<&'a str>,
    /// The path; a query behind it is not logged.
    pub path: &'a str,
    /// The version spoken with the caller.
    pub protocol: Version,
    /// The status that the caller got; 0 when it left before one.
    pub status: u16,
    /// The reason code, empty for none (logged as `-`).
    pub reason: &'a str,
    /// One more constant word or sentence about the outcome.
    pub details: &'a str,
    /// Request body bytes received.
    pub bytes_received: u64,
    /// Response body bytes sent.
    pub bytes_sent: u64,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// From the last attempt's start to its response head.
    pub upstream_time: Option<Duration>,
    /// The endpoint of the last attempt.
    pub upstream_host: Option<SocketAddr>,
    /// The cluster.
    pub upstream_cluster: Option<&'a str>,
    /// The rule's name.
    pub route: Option<&'a str>,
    /// The listener's name.
    pub listener: &'a str,
    /// `x-request-id`.
    pub request_id: Option<&'a [u8]>,
    /// `x-forwarded-for` as sent on.
    pub x_forwarded_for: Option<&'a [u8]>,
    /// `user-agent`.
    pub user_agent: Option<&'a [u8]>,
    /// The caller.
    pub peer: SocketAddr,
    /// How many times an upstream was tried.
    pub attempts: u32,
    /// The gRPC status, for gRPC calls.
    pub grpc_status: Option<u8>,
    /// The caller's verified identity.
    pub peer_identity: Option<&'a str>,
    /// The version of TLS spoken with the caller.
    pub tls_version: Option<&'a str>,
    /// The authorization rule that decided.
    pub authz_rule: Option<&'a str>,
    /// The shadow rule that would have decided otherwise.
    pub authz_shadow: Option<&'a str>,
    /// The audit rules that matched, comma-separated.
    pub authz_audit: Option<&'a str>,
}

impl Entry<'_> {
    /// Appends the line, newline included.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"start_time\":\"");
        push_rfc3339(out, self.start);
        out.push(b'"');
        text(out, ",\"method\":\"", self.method.as_bytes());
        optional(out, ",\"authority\":\"", self.authority.map(str::as_bytes));
        text(out, ",\"path\":\"", self.path.split('?').next().unwrap_or_default().as_bytes());
        out.extend_from_slice(protocol(self.protocol).as_bytes());
        number(out, ",\"response_code\":", u64::from(self.status));
        text(out, ",\"response_flags\":\"", if self.reason.is_empty() { b"-" } else { self.reason.as_bytes() });
        text(out, ",\"response_code_details\":\"", self.details.as_bytes());
        number(out, ",\"bytes_received\":", self.bytes_received);
        number(out, ",\"bytes_sent\":", self.bytes_sent);
        millis(out, ",\"duration\":", self.duration);
        if let Some(time) = self.upstream_time {
            millis(out, ",\"upstream_service_time\":", time);
        }
        if let Some(host) = self.upstream_host {
            address(out, ",\"upstream_host\":\"", host);
        }
        optional(out, ",\"upstream_cluster\":\"", self.upstream_cluster.map(str::as_bytes));
        optional(out, ",\"route_name\":\"", self.route.map(str::as_bytes));
        text(out, ",\"listener\":\"", self.listener.as_bytes());
        optional(out, ",\"request_id\":\"", self.request_id);
        optional(out, ",\"x_forwarded_for\":\"", self.x_forwarded_for);
        optional(out, ",\"user_agent\":\"", self.user_agent);
        address(out, ",\"downstream_remote_address\":\"", self.peer);
        number(out, ",\"attempts\":", u64::from(self.attempts));
        if let Some(status) = self.grpc_status {
            number(out, ",\"grpc_status\":", u64::from(status));
        }
        optional(out, ",\"peerIdentity\":\"", self.peer_identity.map(str::as_bytes));
        optional(out, ",\"tlsVersion\":\"", self.tls_version.map(str::as_bytes));
        optional(out, ",\"authzRule\":\"", self.authz_rule.map(str::as_bytes));
        optional(out, ",\"authzShadow\":\"", self.authz_shadow.map(str::as_bytes));
        optional(out, ",\"authzAudit\":\"", self.authz_audit.map(str::as_bytes));
        out.extend_from_slice(b"}\n");
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => ",\"protocol\":\"HTTP/0.9\"",
        Version::HTTP_10 => ",\"protocol\":\"HTTP/1.0\"",
        Version::HTTP_2 => ",\"protocol\":\"HTTP/2\"",
        Version::HTTP_3 => ",\"protocol\":\"HTTP/3\"",
        _ => ",\"protocol\":\"HTTP/1.1\"",
    }
}

// Every one of these takes the whole text before the value, opening quote included: one copy instead of three.

pub(super) fn text(out: &mut Vec<u8>, before: &'static str, value: &[u8]) {
    out.extend_from_slice(before.as_bytes());
    push_escaped(out, value);
    out.push(b'"');
}

pub(super) fn optional(out: &mut Vec<u8>, before: &'static str, value: Option<&[u8]>) {
    if let Some(value) = value {
        text(out, before, value);
    }
}

pub(super) fn number(out: &mut Vec<u8>, before: &'static str, value: u64) {
    out.extend_from_slice(before.as_bytes());
    push_number(out, value);
}

fn push_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
pub(super) fn millis(out: &mut Vec<u8>, before: &'static str, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    number(out, before, micros / 1000);
    out.push(b'.');
    push_padded(out, micros % 1000, 3);
}

pub(super) fn address(out: &mut Vec<u8>, before: &'static str, value: SocketAddr) {
    out.extend_from_slice(before.as_bytes());
    match value {
        // Formatting one through `Display` costs as much as a quarter of the line.
        SocketAddr::V4(address) => {
            for (at, octet) in address.ip().octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                push_number(out, u64::from(octet));
            }
            out.push(b':');
            push_number(out, u64::from(address.port()));
        }
        // Writing to a vector cannot fail.
        SocketAddr::V6(address) => drop(write!(out, "{address}")),
    }
    out.push(b'"');
}

/// Appends a value that a caller may have chosen: cut to a length, controls escaped, and what is not UTF-8
/// replaced, so that the line is valid JSON and stays one line.
fn push_escaped(out: &mut Vec<u8>, value: &[u8]) {
    let (value, cut) = match value.get(..limits::ACCESS_LOG_FIELD) {
        Some(head) if value.len() > head.len() => (head, true),
        _ => (value, false),
    };
    // Without an early exit the compiler looks at many bytes at once.
    if value.iter().fold(true, |plain, &byte| plain & is_plain(byte)) {
        out.extend_from_slice(value);
    } else {
        for chunk in value.utf8_chunks() {
            for &byte in chunk.valid().as_bytes() {
                push_byte(out, byte);
            }
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    if cut {
        out.extend_from_slice("\u{2026}".as_bytes());
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// A byte of valid UTF-8: those above ASCII are parts of characters and pass.
fn push_byte(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0..0x20 | 0x7f => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
        _ => out.push(byte),
    }
}
