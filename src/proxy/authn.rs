//! Who a request says that it is: its tokens are found, verified, and turned into what the next steps read.
//!
//! Every token in a place where the listener's providers take tokens from must be valid, also where none is
//! required: what is there and wrong is an attack or a fault, and in neither case anonymous. The first one, in the
//! order of the listener's providers, is the one that authorization reads.
//!
//! A verified token goes no further unless its provider says so: it would let whoever sees it act for the caller.
//! Neither a token nor a part of one is ever written anywhere by the proxy.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::uri::PathAndQuery;
use outrigger_config::model::{ClaimHeader, JwtProvider, TokenPlace};
use smallvec::SmallVec;

use super::external::FAILED_OPEN;
use crate::base::limits;
use crate::codec::RequestHead;
use crate::policy::authz::ClaimSource;
use crate::policy::jwt::{Claims, Refusal, Value};
use crate::policy::query;
use crate::snapshot::{Listener, Tokens};

/// What the token of a request claims, if it has one.
pub(super) type Token = Option<Arc<dyn ClaimSource>>;

/// Removes what only this proxy may say about a caller. Before anything reads the headers.
pub(super) fn remove_forged(listener: &Listener, headers: &mut HeaderMap) {
    if let Some(tokens) = &listener.jwt {
        for name in tokens.claim_headers() {
            headers.remove(name);
        }
    }
    if listener.external.is_some() {
        headers.remove(FAILED_OPEN);
    }
}

/// Verifies the tokens of a request, takes them out of it and puts the claims that are asked for in. Gives the claims
/// of the first token.
///
/// # Errors
/// See [`Refusal`]; the request is as it was.
pub(super) fn authenticate(listener: &Listener, head: &mut RequestHead) -> Result<Token, Refusal> {
    let Some(tokens) = &listener.jwt else { return Ok(None) };
    let judged = judge(tokens, head);
    listener.metrics.tokens(match &judged {
        Ok(believed) if !believed.is_empty() => "valid",
        Ok(_) if tokens.required() => return Ok(None),
        Ok(_) => "none",
        Err(refusal) => refusal.code(),
    });
    let believed = judged?;
    for (index, _) in &believed {
        if let Some(provider) = tokens.provider(*index).filter(|provider| !provider.forward) {
            remove_token(provider, head);
        }
    }
    for (index, claims) in &believed {
        for ClaimHeader { path, header } in tokens.provider(*index).map_or(&[][..], |p| &p.claims_to_headers) {
            if let Some(value) = claims.get(path).and_then(header_value)
                && !head.headers.contains_key(header)
            {
                head.headers.insert(header, value);
            }
        }
    }
    Ok(believed.into_iter().next().map(|(_, claims)| claims as Arc<dyn ClaimSource>))
}

/// Refuses a request without a token where one is required. Not for a CORS preflight, which never carries one and
/// never reaches an upstream.
///
/// # Errors
/// [`Refusal::Missing`].
pub(super) fn require(listener: &Listener, token: &Token) -> Result<(), Refusal> {
    match &listener.jwt {
        Some(tokens) if tokens.required() && token.is_none() => {
            listener.metrics.tokens(Refusal::Missing.code());
            Err(Refusal::Missing)
        }
        _ => Ok(()),
    }
}

/// RFC 6750 section 3: what a caller without a valid token is told in `www-authenticate`. Says nothing where the token
/// was not judged.
pub(super) fn challenge(head: &RequestHead, refusal: Refusal) -> Option<(HeaderName, HeaderValue)> {
    let realm = head.authority.as_ref().map_or("", |authority| authority.host());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    let realm = if !realm.is_empty() && realm.bytes().all(plain) { realm } else { "-" };
    let value = match refusal {
        Refusal::NoKeys => return None,
        // RFC 6750 section 3.1: no error code where there was no token.
        Refusal::Missing => format!("Bearer realm=\"{realm}\""),
        _ => format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{}\"", refusal.sentence()),
    };
    Some((WWW_AUTHENTICATE, HeaderValue::try_from(value).ok()?))
}

/// A verified token: the provider's place in the listener's order, and what it says.
type Believed = SmallVec<[(usize, Arc<Claims>); 1]>;

fn judge(tokens: &Tokens, head: &RequestHead) -> Result<Believed, Refusal> {
    let found = find(tokens, head)?;
    let mut believed = Believed::new();
    for Found { token, candidates } in &found {
        let (index, verified) = tokens.verify(token, candidates, SystemTime::now())?;
        believed.push((index, verified.claims));
    }
    believed.sort_by_key(|(index, _)| *index);
    Ok(believed)
}

/// A token, and the providers that take tokens from where it was.
struct Found<'a> {
    token: Cow<'a, str>,
    candidates: SmallVec<[usize; 4]>,
}

fn find<'a>(tokens: &Tokens, head: &'a RequestHead) -> Result<SmallVec<[Found<'a>; 1]>, Refusal> {
    let mut found: SmallVec<[Found<'a>; 1]> = SmallVec::new();
    for (index, provider) in tokens.providers().enumerate() {
        for place in &provider.from {
            for token in tokens_at(place, head) {
                let token = token?;
                let known = found.iter().position(|known| known.token == token);
                let at = match known {
                    Some(at) => at,
                    None if found.len() < limits::JWT_TOKENS => {
                        found.push(Found { token, candidates: SmallVec::new() });
                        found.len() - 1
                    }
                    None => return Err(Refusal::Malformed),
                };
                let candidates = &mut found[at].candidates;
                if !candidates.contains(&index) {
                    candidates.push(index);
                }
            }
        }
    }
    Ok(found)
}

type Texts<'a> = SmallVec<[Result<Cow<'a, str>, Refusal>; 1]>;

fn tokens_at<'a>(place: &TokenPlace, head: &'a RequestHead) -> Texts<'a> {
    match place {
        TokenPlace::Header { name, prefix } => {
            let lines = head.headers.get_all(name).iter();
            lines.filter_map(|line| after_prefix(line.as_bytes(), prefix)).map(|token| text(token.into())).collect()
        }
        TokenPlace::Query(name) => {
            let query = head.path.query().unwrap_or_default();
            query::values(query, name).map(text).collect()
        }
    }
}

fn text(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Refusal> {
    Ok(match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| Refusal::Malformed)?),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| Refusal::Malformed)?),
    })
}

/// The rest of a value that begins with a prefix in any case, as the names of authentication schemes do (RFC 9110
/// section 11.1). Further spaces do not count.
fn after_prefix<'a>(value: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix.as_bytes()).then(|| rest.trim_ascii())
}

/// Takes the tokens of a provider out of a request, wherever it takes them from.
fn remove_token(provider: &JwtProvider, head: &mut RequestHead) {
    for place in &provider.from {
        match place {
            TokenPlace::Header { name, prefix } => remove_lines(&mut head.headers, name, prefix),
            TokenPlace::Query(name) => {
                // What is left of a path and query is one.
                if let Some(left) = query::without(head.path.as_str(), &[name])
                    && let Ok(left) = PathAndQuery::from_maybe_shared(Bytes::from(left))
                {
                    head.path = left;
                }
            }
        }
    }
}

/// Lines without the prefix are no tokens and stay (`authorization: Basic …`).
fn remove_lines(headers: &mut HeaderMap, name: &HeaderName, prefix: &str) {
    let is_token = |line: &HeaderValue| after_prefix(line.as_bytes(), prefix).is_some();
    if !headers.get_all(name).iter().any(is_token) {
        return;
    }
    let others: Vec<HeaderValue> = headers.get_all(name).iter().filter(|line| !is_token(line)).cloned().collect();
    headers.remove(name);
    for line in others {
        headers.append(name, line);
    }
}

/// A claim as the value of a header: a text as it is, everything else as JSON. A list is JSON too, because of a list
/// with commas between nobody could tell the entry `a,b` from the entries `a` and `b`. What is no field value (RFC
/// 9110 section 5.5), such as a text with a line break, gives no header.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    match claim {
        Value::Null => None,
        Value::String(text) if text.trim_ascii().len() == text.len() => HeaderValue::from_bytes(text.as_bytes()).ok(),
        Value::String(_) => None,
        other => HeaderValue::try_from(other.to_string().into_bytes()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_prefix_is_told_in_any_case_and_nothing_else_is_a_token() {
        for (value, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bEARER a.b.c", Some("a.b.c")),
            ("Bearer   a.b.c", Some("a.b.c")),
            ("Bearer ", Some("")),
            ("Bearer", None),
            ("Bearera.b.c", None),
            ("Basic a.b.c", None),
            ("", None),
        ] {
            let found = after_prefix(value.as_bytes(), "Bearer ").map(|t| std::str::from_utf8(t).expect("text"));
            assert_eq!(found, token, "{value:?}");
        }
        assert_eq!(after_prefix(b"x", ""), Some(&b"x"[..]));
    }

    #[test]
    fn only_lines_with_a_token_are_removed() {
        let mut headers = HeaderMap::new();
        for line in ["Basic eDp5", "bearer t", "Digest x"] {
            headers.append("authorization", HeaderValue::from_static(line));
        }
        remove_lines(&mut headers, &http::header::AUTHORIZATION, "Bearer ");
        let left: Vec<_> = headers.get_all("authorization").iter().collect();
        assert_eq!(left, ["Basic eDp5", "Digest x"]);
    }

    #[test]
    fn claims_become_values_and_never_more_than_one_line() {
        let value =
            |claim: Value| header_value(&claim).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        for (claim, expected) in [
            (json!("ann"), Some("ann")),
            (json!("Zo\u{eb}"), Some("Zo\u{eb}")),
            (json!(""), Some("")),
            (json!(7), Some("7")),
            (json!(true), Some("true")),
            (json!(["a", "b,c"]), Some(r#"["a","b,c"]"#)),
            (json!({ "a": [1] }), Some(r#"{"a":[1]}"#)),
            (json!(["a\r\nx-admin: 1"]), Some(r#"["a\r\nx-admin: 1"]"#)),
            (json!("a\r\nx-admin: 1"), None),
            (json!("a\nb"), None),
            (json!("a\u{0}b"), None),
            (json!("\u{7f}"), None),
            (json!(" a"), None),
            (json!(null), None),
        ] {
            assert_eq!(value(claim.clone()).as_deref(), expected, "{claim}");
        }
    }

    #[test]
    fn the_challenge_says_an_error_only_of_a_token() {
        let head = |authority: &'static str| RequestHead {
            method: http::Method::GET,
            scheme: http::uri::Scheme::HTTP,
            authority: Some(http::uri::Authority::from_static(authority)),
            path: PathAndQuery::from_static("/"),
            version: http::Version::HTTP_11,
            headers: HeaderMap::new(),
            upgrade: None,
        };
        let text = |authority, refusal| {
            challenge(&head(authority), refusal).map(|(_, value)| value.to_str().expect("plain").to_owned())
        };
        assert_eq!(text("a.example:80", Refusal::Missing).as_deref(), Some(r#"Bearer realm="a.example""#));
        assert_eq!(
            text("a.example", Refusal::Expired).as_deref(),
            Some(r#"Bearer realm="a.example", error="invalid_token", error_description="The token has expired.""#)
        );
        assert_eq!(text("a'b", Refusal::Missing).as_deref(), Some(r#"Bearer realm="-""#));
        assert_eq!(text("a.example", Refusal::NoKeys), None);
    }
}
