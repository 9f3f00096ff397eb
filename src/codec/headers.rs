//! Header hygiene: hop-by-hop fields (RFC 9110 section 7.6.1).

use http::header::{CONNECTION, Entry, HeaderMap, HeaderName, HeaderValue, TE};
use smallvec::SmallVec;

/// Removes everything that concerns this hop only: the fields that `Connection` names, `Connection` itself,
/// and the ones that are hop-by-hop by definition. `TE: trailers` is kept: it tells the next hop that this one
/// forwards trailers, which is true, and gRPC needs it. `Trailer` is end-to-end advice and stays.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One pass: most messages have none of them, and a look-up of each costs more than all the names together.
    let found: SmallVec<[HeaderName; 2]> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in found {
        match name {
            CONNECTION => strip_connection(headers),
            TE => strip_te(headers),
            _ => drop(headers.remove(name)),
        }
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "te" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

fn strip_te(headers: &mut HeaderMap) {
    let Entry::Occupied(mut te) = headers.entry(TE) else { return };
    let mut lines = te.iter();
    // As every gRPC client says it.
    if lines.next().is_some_and(|line| line == "trailers") && lines.next().is_none() {
        return;
    }
    if te.iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("trailers")) {
        te.insert(HeaderValue::from_static("trailers"));
    } else {
        te.remove();
    }
}

/// Whether there is such a field. Messages have few: comparing them costs less than hashing a long name.
#[must_use]
pub fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    if headers.keys_len() <= FEW { headers.keys().any(|key| key == name) } else { headers.contains_key(name) }
}

/// The first value of a field that few messages have.
#[must_use]
pub fn rare<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    if has(headers, name) { headers.get(name) } else { None }
}

/// Removes a field that few messages have.
pub fn remove_rare(headers: &mut HeaderMap, name: &HeaderName) {
    if has(headers, name) {
        headers.remove(name);
    }
}

/// So many names are compared at most.
const FEW: usize = 32;

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
fn strip_connection(headers: &mut HeaderMap) {
    let named: SmallVec<[HeaderName; 2]> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        // By far the most frequent values name no field.
        .filter(|token| !token.eq_ignore_ascii_case("keep-alive") && !token.eq_ignore_ascii_case("close"))
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
        let mut headers = map(&[("te", "trailers"), ("te", "deflate")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
        let mut headers = map(&[("te", "gzip"), ("te", "deflate")]);
        strip_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
    }
}
