//! What concerns the process as a whole: node, admin server, access log, drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Check, names};
use crate::model::{AccessLog, Admin, Drain, Node};
use crate::raw;
use crate::read::Field;
use crate::source::Span;
use crate::text::quoted;

pub(super) fn node(check: &Check<'_, '_>, field: &Field<raw::Node>) -> Node {
    let Some(raw::Node { id, service, zone }) = field.get() else {
        return Node { id: default_id(), service: None, zone: None };
    };
    Node {
        id: check.optional_name(id).unwrap_or_else(default_id),
        service: check.optional_name(service),
        zone: check.optional_name(zone),
    }
}

/// Host name and process id.
fn default_id() -> Arc<str> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|host| host.trim().to_owned())
        .filter(|host| names::name(host).is_ok())
        .unwrap_or_else(|| "localhost".to_owned());
    format!("{host}-{}", std::process::id()).into()
}

pub(super) struct CheckedAdmin {
    pub(super) settings: Admin,
    /// The address with where it is written, for the check of overlapping binds.
    pub(super) bound: Option<(SocketAddr, Option<Span>)>,
}

pub(super) fn admin(check: &Check<'_, '_>, field: &Field<raw::Admin>) -> CheckedAdmin {
    let default =
        || CheckedAdmin { settings: Admin { address: Some(DEFAULT_ADMIN) }, bound: Some((DEFAULT_ADMIN, None)) };
    match field.here() {
        None => default(),
        // A tool that follows YAML 1.1 writes `off` back as false.
        Some((raw::Admin::Text(text), _)) if text == "off" || text == "false" => {
            CheckedAdmin { settings: Admin { address: None }, bound: None }
        }
        Some((raw::Admin::Text(text), span)) => {
            let message = format!("`{}` is not a setting of the admin server", quoted(text));
            check.error(span, message, "write `off`, or `{ address: 127.0.0.1:15000 }`");
            default()
        }
        Some((raw::Admin::Map(raw::AdminServer { address, allow_remote }), _)) => {
            let Some((text, span)) = address.here() else { return default() };
            let Some(address) = check.parsed(names::bind(text), span) else { return default() };
            if !address.ip().is_loopback() && !check.flag(allow_remote, false) && !allow_remote.is_bad() {
                check.error(
                    span,
                    format!("the admin server would be reachable from other hosts at {address}"),
                    "listen on 127.0.0.1, or add `allowRemote: true` if the network in front of it is guarded",
                );
            }
            CheckedAdmin { settings: Admin { address: Some(address) }, bound: Some((address, Some(span))) }
        }
    }
}

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15000);

pub(super) fn access_log(check: &Check<'_, '_>, field: &Field<raw::AccessLog>) -> AccessLog {
    match field.here() {
        None => AccessLog::Stdout,
        Some((raw::AccessLog::Text(text), span)) => match text.as_str() {
            "off" | "false" => AccessLog::Off,
            "stdout" => AccessLog::Stdout,
            path if path.starts_with('/') || path.starts_with("./") => log_file(path),
            other => {
                // A bare word is more likely a slip than a file in an unknown directory.
                let message = format!("`{}` is not a place for the access log", quoted(other));
                let fix = "write `stdout`, `off`, or a path that begins with `/`";
                check.error(span, message, fix);
                AccessLog::Stdout
            }
        },
        Some((raw::AccessLog::Map(raw::AccessLogFile { path }), span)) => {
            let lack = ("`accessLog` has no `path`", "write `accessLog: { path: /var/log/outrigger/access.log }`");
            match check.required(path, span, lack) {
                Some((path, span)) if path.is_empty() || path.contains('\0') => {
                    check.error(span, "this is not the path of a file", "write a path such as `/var/log/access.log`");
                    AccessLog::Stdout
                }
                Some((path, _)) => log_file(path),
                None => AccessLog::Stdout,
            }
        }
    }
}

fn log_file(path: &str) -> AccessLog {
    if path == "/dev/stdout" { AccessLog::Stdout } else { AccessLog::File(PathBuf::from(path)) }
}

pub(super) fn drain(check: &Check<'_, '_>, field: &Field<raw::Drain>) -> Drain {
    let default = Drain { accept_for: Duration::from_secs(5), deadline: Duration::from_secs(30) };
    let Some(raw::Drain { accept_for, deadline }) = field.get() else { return default };
    let end = check.duration(deadline, default.deadline);
    // A short deadline alone shortens what comes before it.
    let accept = check.duration_or_zero(accept_for, default.accept_for.min(end));
    if let (true, Some(span)) = (accept > end, accept_for.span()) {
        check.error(
            span,
            "new connections would be accepted beyond the end of the drain",
            "make `acceptFor` shorter than `deadline`",
        );
    }
    Drain { accept_for: accept, deadline: end }
}
