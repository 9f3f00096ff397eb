//! One line of the access log for a connection whose bytes were handed on unread.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::entry::{address, millis, number, optional, text};
use crate::telemetry::clock::push_rfc3339;

/// What is known of such a connection at its end. What is `None` is left out of the line.
#[derive(Debug, Clone)]
pub struct StreamEntry<'a> {
    /// When it was accepted.
    pub start: SystemTime,
    /// What was handed on: `TLS` of others, `TCP`, `UDP`.
    pub protocol: &'static str,
    /// The listener's name.
    pub listener: &'a str,
    /// The server name of its TLS handshake.
    pub server_name: Option<&'a str>,
    /// The reason code, empty for none (logged as `-`).
    pub reason: &'a str,
    /// Bytes received from the caller.
    pub bytes_received: u64,
    /// Bytes sent to the caller.
    pub bytes_sent: u64,
    /// How long it was open.
    pub duration: Duration,
    /// The cluster; `None` where it was handed on to where it was going.
    pub upstream_cluster: Option<&'a str>,
    /// The endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// The caller.
    pub peer: SocketAddr,
    /// Where it was made to.
    pub local: SocketAddr,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// The caller's verified identity.
    pub peer_identity: Option<&'a str>,
    /// The version of TLS that was terminated.
    pub tls_version: Option<&'a str>,
    /// The authorization rule that decided.
    pub authz_rule: Option<&'a str>,
    /// The shadow rule that would have decided otherwise.
    pub authz_shadow: Option<&'a str>,
    /// The audit rules that matched, comma-separated.
    pub authz_audit: Option<&'a str>,
}

impl StreamEntry<'_> {
    /// Appends the line, newline included.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Self {
            start,
            protocol,
            listener,
            server_name,
            reason,
            bytes_received,
            bytes_sent,
            duration,
            upstream_cluster,
            upstream_host,
            peer,
            local,
            attempts,
            peer_identity,
            tls_version,
            authz_rule,
            authz_shadow,
            authz_audit,
        } = self;
        out.extend_from_slice(b"{\"start_time\":\"");
        push_rfc3339(out, *start);
        text(out, "\",\"protocol\":\"", protocol.as_bytes());
        text(out, ",\"response_flags\":\"", if reason.is_empty() { b"-" } else { reason.as_bytes() });
        number(out, ",\"bytes_received\":", *bytes_received);
        number(out, ",\"bytes_sent\":", *bytes_sent);
        millis(out, ",\"duration\":", *duration);
        optional(out, ",\"requested_server_name\":\"", server_name.map(str::as_bytes));
        if let Some(host) = upstream_host {
            address(out, ",\"upstream_host\":\"", *host);
        }
        optional(out, ",\"upstream_cluster\":\"", upstream_cluster.map(str::as_bytes));
        text(out, ",\"listener\":\"", listener.as_bytes());
        address(out, ",\"downstream_remote_address\":\"", *peer);
        address(out, ",\"downstream_local_address\":\"", *local);
        number(out, ",\"attempts\":", u64::from(*attempts));
        optional(out, ",\"peerIdentity\":\"", peer_identity.map(str::as_bytes));
        optional(out, ",\"tlsVersion\":\"", tls_version.map(str::as_bytes));
        optional(out, ",\"authzRule\":\"", authz_rule.map(str::as_bytes));
        optional(out, ",\"authzShadow\":\"", authz_shadow.map(str::as_bytes));
        optional(out, ",\"authzAudit\":\"", authz_audit.map(str::as_bytes));
        out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_and_says_where_the_bytes_went() {
        let entry = StreamEntry {
            start: SystemTime::UNIX_EPOCH,
            protocol: "TLS",
            listener: "edge",
            server_name: Some("db.\"example\".com"),
            reason: "",
            bytes_received: 10,
            bytes_sent: 20,
            duration: Duration::from_micros(1500),
            upstream_cluster: Some("db"),
            upstream_host: Some(([10, 0, 0, 1], 5432).into()),
            peer: ([10, 0, 0, 2], 1234).into(),
            local: ([10, 0, 0, 3], 443).into(),
            attempts: 1,
            peer_identity: None,
            tls_version: None,
            authz_rule: Some("db"),
            authz_shadow: None,
            authz_audit: None,
        };
        let mut line = Vec::new();
        entry.write(&mut line);
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(value["requested_server_name"], "db.\"example\".com");
        assert_eq!((&value["downstream_local_address"], &value["authzRule"]), (&"10.0.0.3:443".into(), &"db".into()));
        assert_eq!((&value["response_flags"], &value["duration"]), (&"-".into(), &1.5.into()));
        assert_eq!((&value["upstream_host"], &value["bytes_sent"]), (&"10.0.0.1:5432".into(), &20.into()));
    }
}
