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
    /// The cluster.
    pub upstream_cluster: &'a str,
    /// The endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// The caller.
    pub peer: SocketAddr,
}

impl StreamEntry<'_> {
    /// Appends the line, newline included.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Self {
            start,
            listener,
            server_name,
            reason,
            bytes_received,
            bytes_sent,
            duration,
            upstream_cluster,
            upstream_host,
            peer,
        } = self;
        out.extend_from_slice(b"{\"start_time\":\"");
        push_rfc3339(out, *start);
        text(out, "\",\"protocol\":\"", b"TLS");
        text(out, ",\"response_flags\":\"", if reason.is_empty() { b"-" } else { reason.as_bytes() });
        number(out, ",\"bytes_received\":", *bytes_received);
        number(out, ",\"bytes_sent\":", *bytes_sent);
        millis(out, ",\"duration\":", *duration);
        optional(out, ",\"requested_server_name\":\"", server_name.map(str::as_bytes));
        if let Some(host) = upstream_host {
            address(out, ",\"upstream_host\":\"", *host);
        }
        text(out, ",\"upstream_cluster\":\"", upstream_cluster.as_bytes());
        text(out, ",\"listener\":\"", listener.as_bytes());
        address(out, ",\"downstream_remote_address\":\"", *peer);
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
            listener: "edge",
            server_name: Some("db.\"example\".com"),
            reason: "",
            bytes_received: 10,
            bytes_sent: 20,
            duration: Duration::from_micros(1500),
            upstream_cluster: "db",
            upstream_host: Some(([10, 0, 0, 1], 5432).into()),
            peer: ([10, 0, 0, 2], 1234).into(),
        };
        let mut line = Vec::new();
        entry.write(&mut line);
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(value["requested_server_name"], "db.\"example\".com");
        assert_eq!((&value["response_flags"], &value["duration"]), (&"-".into(), &1.5.into()));
        assert_eq!((&value["upstream_host"], &value["bytes_sent"]), (&"10.0.0.1:5432".into(), &20.into()));
    }
}
