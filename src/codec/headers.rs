//! Header hygiene: hop-by-hop fields (RFC 9110 section 7.6.1).

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes everything that concerns this hop only: the fields that `Connection` names, `Connection` itself,
/// and the ones that are hop-by-hop by definition. `TE: trailers` is kept: it tells the next hop that this one
/// forwards trailers, which is true, and gRPC needs it. `Trailer` is end-to-end advice and stays.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(value) = headers.get(CONNECTION) {
        // By far the most frequent values name no field.
        if value.as_bytes().eq_ignore_ascii_case(b"keep-alive") || value.as_bytes().eq_ignore_ascii_case(b"close") {
            let lines = headers.get_all(CONNECTION).iter().count();
            if lines > 1 {
                strip_connection_fields(headers);
            } else {
                headers.remove(CONNECTION);
            }
        } else {
            strip_connection_fields(headers);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = wants_trailers(headers);
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Whether `TE` lists `trailers`.
#[must_use]
pub fn wants_trailers(headers: &HeaderMap) -> bool {
    has_token(headers, &TE, "trailers")
}

/// Whether a comma-separated field contains a token, ignoring case and parameters.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| tokens(value).any(|t| t.eq_ignore_ascii_case(token)))
}

/// Whether a trailer field may be passed on (RFC 9110 section 6.5.1): framing, routing and
/// authentication fields may not appear behind a body.
#[must_use]
pub fn allowed_in_trailers(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "content-length"
            | "transfer-encoding"
            | "host"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "upgrade"
            | "te"
            | "trailer"
            | "content-encoding"
            | "content-type"
            | "content-range"
            | "authorization"
            | "proxy-authorization"
            | "cookie"
            | "set-cookie"
            | "cache-control"
            | "expect"
            | "max-forwards"
            | "range"
    )
}

/// Removes what may not stand in trailers.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let bad: Vec<HeaderName> = trailers.keys().filter(|name| !allowed_in_trailers(name)).cloned().collect();
    for name in bad {
        trailers.remove(name);
    }
}

/// The members of a comma-separated field, over all its lines, without parameters.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    headers.get_all(name).iter().flat_map(tokens)
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value
        .to_str()
        .unwrap_or("")
        .split(',')
        .map(|item| item.split(';').next().unwrap_or("").trim())
        .filter(|token| !token.is_empty())
}

/// `Connection` may name any field except those without which the message would mean something else. What this
/// proxy sets itself is set after this step, so a caller cannot have it removed.
fn strip_connection_fields(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !matches!(name.as_str(), "content-length" | "te" | "trailer" | "host" | "content-type"))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn fields_named_by_connection_are_removed() {
        let mut headers = map(&[("connection", "close, X-Secret"), ("x-secret", "1"), ("x-kept", "2")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "2")]));
    }

    #[test]
    fn connection_cannot_remove_the_framing() {
        let mut headers = map(&[("connection", "content-length"), ("content-length", "5")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("content-length", "5")]));
    }

    #[test]
    fn te_keeps_trailers_and_nothing_else() {
        let mut headers = map(&[("te", "gzip;q=0.5, trailers")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
        let mut headers = map(&[("te", "gzip")]);
        strip_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
    }
}
