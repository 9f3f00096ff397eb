//! HTTP/3 on listeners.

use super::{Check, small};
use crate::limits;
use crate::model::{EarlyData, Http3, ListenerProtocol, ListenerTls, TlsMode};
use crate::raw;
use crate::source::Span;

/// `tls`: that of the listener, and whether it could be read.
pub(super) fn of_listener(
    check: &Check<'_, '_>,
    raw: &raw::Listener,
    protocol: ListenerProtocol,
    (tls, readable): (Option<&ListenerTls>, bool),
) -> Option<Http3> {
    let (http3, at) = raw.http3.here()?;
    let short = raw::Http3Settings::default();
    let raw::Http3Settings { advertise, max_age, early_data } = match http3 {
        raw::Http3::Text(false) => return None,
        raw::Http3::Text(true) => &short,
        raw::Http3::Map(settings) => settings,
    };
    encrypted(check, at, (protocol, tls, readable));
    if let Some(header) = raw.proxy_protocol.span() {
        let message = "callers over HTTP/3 have no PROXY header: they are known by the address that their datagrams \
                       come from";
        let help = "remove it, or `http3` where a proxy stands before this one";
        let mode = match raw.proxy_protocol.get() {
            Some(raw::ProxyProtocol::Text(mode)) => Some(mode),
            Some(raw::ProxyProtocol::Map(settings)) => settings.mode.get(),
            None => None,
        };
        match mode {
            // It says that nobody gets in without one.
            Some(raw::ProxyHeader::Strict) => check.error(header, message, help),
            Some(raw::ProxyHeader::Optional) | None => check.warning(header, message, help),
        }
    }
    let default = Http3::default();
    Some(Http3 {
        advertise: advertise.get().map(|_| small(check.number(advertise, 443, limits::PORT))),
        max_age: check.duration_or_zero(max_age, default.max_age),
        early_data: match early_data.get() {
            None | Some(raw::EarlyData::Off) => EarlyData::Off,
            Some(raw::EarlyData::SafeMethods) => {
                all_may_wait(check, raw, early_data.span().unwrap_or(at));
                EarlyData::SafeMethods
            }
        },
    })
}

/// Requests wait where somebody decides by who their caller is.
fn all_may_wait(check: &Check<'_, '_>, raw: &raw::Listener, at: Span) {
    let decided =
        [("authorization", raw.authorization.span()), ("externalAuthorization", raw.external_authorization.span())];
    let Some((by, _)) = decided.into_iter().find(|(_, span)| span.is_some()) else { return };
    let message = format!(
        "early data wins nothing here: before the handshake neither the certificate nor the address of a caller is proved, \
         and requests wait for it where `{by}` decides"
    );
    check.warning(at, message, format!("remove `earlyData`, or set it on a listener without `{by}`"));
}

fn encrypted(
    check: &Check<'_, '_>,
    at: Span,
    (protocol, tls, readable): (ListenerProtocol, Option<&ListenerTls>, bool),
) {
    match (protocol, tls.map(|tls| tls.mode)) {
        // Reported as a setting that has no effect there.
        (ListenerProtocol::Tcp | ListenerProtocol::Udp, _) | (_, Some(TlsMode::Passthrough)) => {}
        (_, Some(TlsMode::Strict | TlsMode::Permissive)) => {}
        (_, Some(TlsMode::Off) | None) if readable => {
            let message = "HTTP/3 is always encrypted, and this listener has no TLS";
            check.error(at, message, "add `tls: { mode: strict }`, or remove `http3`");
        }
        (_, Some(TlsMode::Off) | None) => {}
    }
}
