//! Token providers, tokens on listeners, and authorizers outside.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderName, StatusCode, Uri};

use super::access::claim_path;
use super::{Check, Names, References, Wrong, headers, small};
use crate::limits::{self, MAX_WORD_BYTES};
use crate::model::{ClaimHeader, ExternalAuthorizer, JwtAlgorithm, JwtProvider, KeySource, ListenerJwt, TokenPlace};
use crate::raw;
use crate::read::{Entries, Field, Key, List};
use crate::source::Span;
use crate::text::quoted;
use crate::words::CONNECTION_HEADERS;

pub(super) fn providers(
    check: &Check<'_, '_>,
    field: &Field<Entries<raw::JwtProvider>>,
) -> BTreeMap<Arc<str>, JwtProvider> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    let mut out = BTreeMap::new();
    for (key, raw) in check.within(&entries.pairs, limits::MAX_JWT_PROVIDERS, (Some(span), "token providers")) {
        let name = check.name(&key.text, key.span);
        if let Some(provider) = raw.get().and_then(|raw| provider(check, (key, name.clone()), raw)) {
            out.insert(name, provider);
        }
    }
    out
}

pub(super) fn provider(
    check: &Check<'_, '_>,
    (key, name): (&Key, Arc<str>),
    raw: &raw::JwtProvider,
) -> Option<JwtProvider> {
    let raw::JwtProvider { issuer, audiences, jwks, algorithms, clock_skew, from, forward, claims_to_headers } = raw;
    let who = format!("the token provider `{}`", quoted(&name));
    let lack = format!("{who} has no `issuer`");
    let issuer = check
        .required(issuer, key.span, (&lack, "add what `iss` must be: `issuer: https://id.example`"))
        .and_then(|(text, at)| check.parsed(word(text, "issuer"), at));
    let lack = format!("{who} has no `audiences`: tokens that were issued for others would be believed");
    let fix = "add what `aud` must have one of: `audiences: [payments]`";
    let list = check.required_list(audiences, (key.span, (&lack, fix)), ("audiences", limits::MAX_AUDIENCES));
    let audiences = check.each(list, |text| word(text, "audience"));
    let lack = format!("{who} has no `jwks`");
    let fix = "add where its keys are: `jwks: { url: https://… }` or `jwks: { file: /etc/jwks.json }`";
    let keys = check.required(jwks, key.span, (&lack, fix)).and_then(|(raw, at)| keys(check, raw, at));

    let skew = check.duration_or_zero(clock_skew, Duration::from_secs(60));
    if let (true, Some(at)) = (skew > Duration::from_secs(limits::MAX_CLOCK_SKEW_SECONDS), clock_skew.span()) {
        let fix = format!("write at most `{}s`", limits::MAX_CLOCK_SKEW_SECONDS);
        check.error(at, "with a clock skew this long, expired tokens would be believed", fix);
    }
    let from = places(check, from);
    let claims_to_headers = claim_headers(check, claims_to_headers, &from);
    Some(JwtProvider {
        algorithms: self::algorithms(check, algorithms),
        clock_skew: skew,
        from,
        forward: check.flag(forward, false),
        claims_to_headers,
        place: check.place(key.span),
        issuer: issuer?,
        audiences,
        keys: keys?,
        name,
    })
}

/// An issuer or an audience.
pub(crate) fn word(text: &str, what: &str) -> Result<Arc<str>, Wrong> {
    if text.trim().is_empty() || text.trim() != text {
        let fix = "write it exactly as it stands in the tokens, without blanks around it";
        return Err(Wrong::new(format!("`{}` cannot be an {what}", quoted(text)), fix));
    }
    if text.len() > MAX_WORD_BYTES {
        return Err(Wrong::new(format!("this {what} is too long"), format!("use at most {MAX_WORD_BYTES} bytes")));
    }
    Ok(text.into())
}

fn keys(check: &Check<'_, '_>, raw: &raw::Jwks, span: Span) -> Option<KeySource> {
    let raw::Jwks { file, url, refresh, timeout, trust_bundle } = raw;
    if let (false, Some(second)) = (file.is_absent(), url.span()) {
        check.error(second, "keys come from exactly one of `file` and `url`", "keep one of the two");
        return None;
    }
    if let Some((text, at)) = url.here() {
        let url = check.parsed(jwks_url(text), at);
        let plain = text.starts_with("http://");
        if let (true, Some(at)) = (plain, trust_bundle.span()) {
            check.error(at, "`trustBundle` has no effect: the keys are fetched without TLS", "remove it, or use https");
        }
        let every = check.duration(refresh, Duration::from_secs(600));
        if let (true, Some(at)) = (every < Duration::from_secs(limits::MIN_JWKS_REFRESH_SECONDS), refresh.span()) {
            let fix = format!("write at least `{}s`", limits::MIN_JWKS_REFRESH_SECONDS);
            check.error(at, "keys would be fetched too often", fix);
        }
        let (timeout, trust_bundle) =
            (check.duration(timeout, Duration::from_secs(5)), check.optional_file(trust_bundle));
        return Some(KeySource::Url { url: url?, refresh: every, timeout, trust_bundle });
    }
    if url.is_bad() {
        return None;
    }
    let lack = ("`jwks` names neither a file nor a URL", "add `url: https://…` or `file: /etc/jwks.json`");
    let file = check.file(file, span, lack);
    for (name, at) in [("refresh", refresh.span()), ("timeout", timeout.span()), ("trustBundle", trust_bundle.span())] {
        if let Some(at) = at {
            let message = format!("`{name}` has no effect: the file is read again when it changes");
            check.error(at, message, "remove it");
        }
    }
    file.map(KeySource::File)
}

/// `https://…`, or `http://` to this host: with keys from the clear network anybody on it could sign tokens.
pub(crate) fn jwks_url(text: &str) -> Result<Arc<str>, Wrong> {
    let wrong = |what: &str, fix: &str| Err(Wrong::new(format!("the URL `{}` {what}", quoted(text)), fix));
    let general = "write a URL such as `https://id.example/.well-known/jwks.json`";
    if text.len() > MAX_WORD_BYTES {
        return wrong("is too long", "use a shorter one");
    }
    if text.contains('#') {
        return wrong("has a fragment, which is never sent", "leave out `#` and what follows");
    }
    let Ok(uri) = text.parse::<Uri>() else { return wrong("is malformed", general) };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return wrong("has no scheme or no host", general);
    };
    if authority.as_str().contains('@') {
        // Not quoted: it is a credential.
        return Err(Wrong::new("this URL has a user or a password in it", "leave them out"));
    }
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default().strip_prefix(':');
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return wrong("has no valid port", "ports go from 1 to 65535");
    }
    if super::names::host(authority.host()).is_err() {
        return wrong("has no valid host", general);
    }
    match scheme {
        "https" => Ok(text.into()),
        "http" => {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            match host.parse::<IpAddr>() {
                Ok(ip) if ip.is_loopback() => Ok(text.into()),
                _ if host == "localhost" => wrong("names a host that may be elsewhere", "write `127.0.0.1`"),
                _ => wrong(
                    "is not encrypted: whoever changes the answer on its way could sign tokens",
                    "write `https://…`; `http://` is for loopback addresses only",
                ),
            }
        }
        _ => wrong("is neither https nor http", general),
    }
}

fn algorithms(check: &Check<'_, '_>, field: &Field<List<raw::JwtAlgorithm>>) -> Vec<JwtAlgorithm> {
    if field.is_absent() {
        return JwtAlgorithm::ALL.to_vec();
    }
    let mut out = Vec::new();
    for (raw, at) in check.filled(field, "algorithms", limits::MAX_AUDIENCES).iter().filter_map(Field::here) {
        let algorithm = match raw {
            raw::JwtAlgorithm::Rs256 => JwtAlgorithm::Rs256,
            raw::JwtAlgorithm::Rs384 => JwtAlgorithm::Rs384,
            raw::JwtAlgorithm::Rs512 => JwtAlgorithm::Rs512,
            raw::JwtAlgorithm::Es256 => JwtAlgorithm::Es256,
            raw::JwtAlgorithm::Es384 => JwtAlgorithm::Es384,
            raw::JwtAlgorithm::EdDsa => JwtAlgorithm::EdDsa,
        };
        if out.contains(&algorithm) {
            check.error(at, format!("`{}` comes twice", algorithm.as_str()), "remove one of the two");
        } else {
            out.push(algorithm);
        }
    }
    out
}

fn places(check: &Check<'_, '_>, field: &Field<List<raw::TokenPlace>>) -> Vec<TokenPlace> {
    if field.is_absent() {
        return vec![TokenPlace::Header { name: AUTHORIZATION, prefix: BEARER.into() }];
    }
    let list = check.filled(field, "from", limits::MAX_TOKEN_PLACES);
    list.iter().filter_map(Field::here).filter_map(|(raw, span)| place(check, raw, span)).collect()
}

/// What stands before a token in `authorization` (RFC 6750 section 2.1).
const BEARER: &str = "Bearer ";

fn place(check: &Check<'_, '_>, raw: &raw::TokenPlace, span: Span) -> Option<TokenPlace> {
    let raw::TokenPlace { header, prefix, query } = raw;
    match (header.span(), query.span()) {
        (None, None) => {
            let fix = "add `header: authorization` or `query: access_token`";
            check.error(span, "this place names neither a header nor a query parameter", fix);
            None
        }
        (Some(_), Some(second)) => {
            let fix = "begin each place with `- ` of its own";
            check.error(second, "a place is exactly one of `header` and `query`", fix);
            None
        }
        (None, Some(_)) => {
            if let Some(at) = prefix.span() {
                check.error(at, "`prefix` has no effect on a query parameter", "remove it");
            }
            let (text, at) = query.here()?;
            if text.is_empty() || text.len() > limits::MAX_NAME_BYTES {
                check.error(at, "this is not the name of a query parameter", "write its name, decoded");
                return None;
            }
            Some(TokenPlace::Query(text.as_str().into()))
        }
        (Some(_), None) => {
            let (text, at) = header.here()?;
            let name = check.parsed(end_to_end(text), at)?;
            let prefix = match prefix.here() {
                None if name == AUTHORIZATION => BEARER,
                None => "",
                Some((text, at)) => {
                    if text.len() > limits::MAX_NAME_BYTES || text.bytes().any(|b| !(b' '..0x7f).contains(&b)) {
                        let fix = "write what comes before the token, such as `\"Bearer \"`";
                        check.error(at, "this cannot come before a token", fix);
                    }
                    text
                }
            };
            Some(TokenPlace::Header { name, prefix: prefix.into() })
        }
    }
}

fn claim_headers(
    check: &Check<'_, '_>,
    field: &Field<List<raw::ClaimHeader>>,
    from: &[TokenPlace],
) -> Vec<ClaimHeader> {
    let mut seen: HashMap<HeaderName, Span> = HashMap::new();
    let mut out = Vec::new();
    let list = check.filled(field, "claimsToHeaders", limits::MAX_CLAIM_HEADERS);
    for (raw::ClaimHeader { claim, header }, span) in list.iter().filter_map(Field::here) {
        let lack = ("this entry has no `claim`", "add the name of a claim, such as `claim: sub`");
        let path = check.required(claim, span, lack).and_then(|(raw, at)| claim_path(check, raw, at));
        let lack = ("this entry has no `header`", "add the name of a header, such as `header: x-user`");
        let Some((text, at)) = check.required(header, span, lack) else { continue };
        let Some(name) = check.parsed(claim_header(text), at) else { continue };
        let carries = |place: &TokenPlace| matches!(place, TokenPlace::Header { name: other, .. } if *other == name);
        if from.iter().any(carries) {
            let fix = "use a header of its own, such as `x-user`";
            check.error(at, format!("`{name}` carries the token, so it cannot carry a claim"), fix);
            continue;
        }
        if let Some(first) = seen.get(&name) {
            let text = (format!("the header `{name}` comes twice"), "give each claim a header of its own".to_owned());
            check.sink.error_with(at, (*first, "the first one is here"), text);
            continue;
        }
        seen.insert(name.clone(), at);
        out.extend(path.map(|path| ClaimHeader { path, header: name }));
    }
    out
}

/// A header that is the message's own and no business of the connection.
pub(crate) fn end_to_end(text: &str) -> Result<HeaderName, Wrong> {
    let name = headers::name(text)?;
    if name == HOST || CONNECTION_HEADERS.contains(&name.as_str()) {
        let message = format!("`{name}` belongs to the connection or frames the message");
        return Err(Wrong::new(message, "use another header"));
    }
    Ok(name)
}

/// A header that may carry a claim: not one that the proxy itself speaks by.
pub(crate) fn claim_header(text: &str) -> Result<HeaderName, Wrong> {
    let name = end_to_end(text)?;
    let own = ["x-outrigger-", "x-forwarded-"].iter().any(|prefix| name.as_str().starts_with(prefix));
    if own || matches!(name.as_str(), "forwarded" | "x-request-id" | "x-real-ip") {
        let message = format!("`{name}` is one of the headers that the proxy itself sets");
        return Err(Wrong::new(message, "use a header of its own, such as `x-user`"));
    }
    Ok(name)
}

/// Tokens on a listener.
pub(super) fn of_listener(
    check: &Check<'_, '_>,
    field: &Field<raw::ListenerJwt>,
    providers: &Names<'_>,
) -> Option<ListenerJwt> {
    let (raw::ListenerJwt { providers: named, required }, span) = field.here()?;
    let lack = ("`jwt` has no `providers`", "add the names of token providers: `providers: [NAME]`");
    let list = check.required_list(named, (span, lack), ("providers", limits::MAX_JWT_PROVIDERS));
    let mut seen: HashSet<&str> = HashSet::new();
    let mut out = Vec::new();
    for (name, at) in list.iter().filter_map(Field::here) {
        providers.refer(check, name, at);
        if seen.insert(name) {
            out.push(Arc::from(name.as_str()));
        } else {
            let message = format!("the token provider `{}` comes twice", quoted(name));
            check.error(at, message, "remove one of the two");
        }
    }
    Some(ListenerJwt { providers: out, required: check.flag(required, true) })
}

pub(super) fn authorizers(
    check: &Check<'_, '_>,
    field: &Field<Entries<raw::ExternalAuthorizer>>,
    references: &References<'_>,
) -> BTreeMap<Arc<str>, ExternalAuthorizer> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    let max = limits::MAX_EXTERNAL_AUTHORIZERS;
    let mut out = BTreeMap::new();
    for (key, raw) in check.within(&entries.pairs, max, (Some(span), "external authorizers")) {
        let name = check.name(&key.text, key.span);
        if let Some(raw) = raw.get()
            && let Some(authorizer) = authorizer(check, (key, name.clone()), (raw, references))
        {
            out.insert(name, authorizer);
        }
    }
    out
}

fn authorizer(
    check: &Check<'_, '_>,
    (key, name): (&Key, Arc<str>),
    (raw, references): (&raw::ExternalAuthorizer, &References<'_>),
) -> Option<ExternalAuthorizer> {
    let raw::ExternalAuthorizer { cluster, timeout, fail_open, status_on_error, max_body_bytes, context } = raw;
    let lack = format!("the external authorizer `{}` has no `cluster`", quoted(&name));
    let cluster = check.required(cluster, key.span, (&lack, "add the name of a cluster: `cluster: NAME`"));
    if let Some((cluster, at)) = cluster {
        references.clusters.refer(check, cluster, at);
        if let Some(group) = references.groups.get(cluster.as_str())
            && !matches!(group.protocol.get(), Some(raw::ClusterProtocol::Http2))
            && !group.protocol.is_bad()
        {
            let message =
                format!("the cluster `{}` does not speak HTTP/2, and authorizers are asked over gRPC", quoted(cluster));
            check.error(at, message, "add `protocol: http2` to the cluster");
        }
    }
    let open = check.flag(fail_open, false);
    if let (true, Some(at)) = (open, status_on_error.span()) {
        let message = "`statusOnError` has no effect with `failOpen: true`: the request passes instead";
        check.warning(at, message, "remove one of the two");
    }
    let status: u16 = small(check.number(status_on_error, 403, limits::ERROR_STATUS));
    Some(ExternalAuthorizer {
        timeout: check.duration(timeout, Duration::from_millis(200)),
        fail_open: open,
        status_on_error: StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN),
        max_body_bytes: small(check.size(max_body_bytes, 0, limits::SHOWN_BODY_BYTES)),
        context: self::context(check, context),
        place: check.place(key.span),
        cluster: Arc::from(cluster?.0.as_str()),
        name,
    })
}

fn context(check: &Check<'_, '_>, field: &Field<Entries<String>>) -> Vec<(Arc<str>, Arc<str>)> {
    let Some((entries, span)) = field.here() else { return Vec::new() };
    let mut out = Vec::with_capacity(entries.pairs.len());
    for (key, value) in check.within(&entries.pairs, limits::MAX_CONTEXT, (Some(span), "entries of `context`")) {
        let name = check.name(&key.text, key.span);
        let Some((text, at)) = value.here() else { continue };
        if text.len() > MAX_WORD_BYTES {
            check.error(at, "this value is too long", format!("use at most {MAX_WORD_BYTES} bytes"));
        }
        out.push((name, Arc::from(text.as_str())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_host() {
        for good in [
            "https://id.example/jwks.json",
            "https://id.example:8443/a?b=c",
            "https://[::1]/a",
            "http://127.0.0.1:8080/jwks",
            "http://[::1]:8080/jwks",
        ] {
            assert_eq!(jwks_url(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "id.example/jwks.json",
            "/jwks.json",
            "http://id.example/a",
            "http://localhost/a",
            "http://127.0.0.1.evil.example/a",
            "http://127.0.0.1@evil.example/a",
            "https://user:pass@id.example/a",
            "https:///a",
            "https://id.example:0/a",
            "https://id.example:99999/a",
            "https://id.example:/a",
            "https://id.example/a#b",
            "https://id example/a",
            "ftp://id.example/a",
            "file:///etc/jwks.json",
        ] {
            assert!(jwks_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims_go_into_headers_that_nobody_else_speaks_by() {
        for good in ["x-user", "x-claim-sub", "cookie2"] {
            assert!(claim_header(good).is_ok(), "{good}");
        }
        for bad in ["host", "Connection", "te", "x-outrigger-hop", "X-Forwarded-Client-Cert", "forwarded", "a b", ""] {
            assert!(claim_header(bad).is_err(), "{bad}");
        }
    }
}
