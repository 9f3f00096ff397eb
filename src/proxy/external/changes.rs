//! What an authorizer asks to be changed: headers of the request, of the answer, and parameters of the query. It may
//! not touch what says where the request goes or how it is framed: such changes are passed over. What is no field at
//! all makes the whole answer unusable, because a change that is silently missing may be the one that matters.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::wire::{HeaderOption, OkResponse};
use crate::codec::RequestHead;
use crate::policy::query;
use crate::proxy::field::is_ours;

/// One change of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    name: HeaderName,
    value: HeaderValue,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Beside what is there.
    Append,
    /// Only where there is none.
    IfAbsent,
    /// Instead of what is there.
    Overwrite,
    /// Instead of what is there, and only then.
    IfPresent,
}

/// What a header is changed in; the meaning of a change that does not say how depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Overwrites: appended to a caller's own, a header like `x-user` would say two things.
    Request,
    /// Appends: an answer may set several cookies.
    Response,
}

/// An answer that asks for something that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unusable;

/// What is done with a request that may pass.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Changes {
    remove: Vec<HeaderName>,
    request: Vec<Change>,
    response: Vec<Change>,
    query_remove: Vec<String>,
    query_set: Vec<(String, String)>,
}

impl Changes {
    pub(super) fn read(answer: OkResponse) -> Result<Self, Unusable> {
        let OkResponse {
            headers,
            headers_to_remove,
            response_headers_to_add,
            query_parameters_to_set,
            query_parameters_to_remove,
        } = answer;
        // A name that is none (`:path`) cannot be there to be removed.
        let remove = headers_to_remove
            .iter()
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .filter(|name| !is_ours(name))
            .collect();
        Ok(Self {
            remove,
            request: read(headers, Side::Request)?,
            response: read(response_headers_to_add, Side::Response)?,
            query_remove: query_parameters_to_remove,
            query_set: query_parameters_to_set.into_iter().map(|parameter| (parameter.key, parameter.value)).collect(),
        })
    }

    /// The headers of the request that are changed.
    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.remove.iter().chain(self.request.iter().map(|change| &change.name))
    }

    /// Changes the headers of an answer.
    pub(in crate::proxy) fn apply_to_response(&self, headers: &mut HeaderMap) {
        apply(&self.response, headers);
    }

    /// Changes a request. Removals come first, so that what is set stays.
    pub(super) fn apply_to_request(&self, head: &mut RequestHead) {
        for name in &self.remove {
            head.headers.remove(name);
        }
        apply(&self.request, &mut head.headers);
        let mut path = None;
        let names: Vec<&str> = self.query_remove.iter().map(String::as_str).collect();
        if let Some(left) = query::without(head.path.as_str(), &names) {
            path = Some(left);
        }
        for (name, value) in &self.query_set {
            path = Some(query::with(path.as_deref().unwrap_or(head.path.as_str()), name, value));
        }
        // What is encoded and what was there before is a path and query.
        if let Some(Ok(path)) = path.map(|path| PathAndQuery::from_maybe_shared(Bytes::from(path))) {
            head.path = path;
        }
    }
}

/// Changes headers, in order.
fn apply(changes: &[Change], headers: &mut HeaderMap) {
    for Change { name, value, how } in changes {
        match how {
            How::Append => drop(headers.append(name, value.clone())),
            How::IfAbsent if headers.contains_key(name) => {}
            How::IfPresent if !headers.contains_key(name) => {}
            How::IfAbsent | How::IfPresent | How::Overwrite => drop(headers.insert(name, value.clone())),
        }
    }
}

/// The headers of an answer that an authorizer made.
pub(super) fn response_headers(options: Vec<HeaderOption>) -> Result<HeaderMap, Unusable> {
    let mut headers = HeaderMap::with_capacity(options.len() + 3);
    apply(&read(options, Side::Response)?, &mut headers);
    Ok(headers)
}

fn read(options: Vec<HeaderOption>, into: Side) -> Result<Vec<Change>, Unusable> {
    let mut changes = Vec::with_capacity(options.len());
    for HeaderOption { header, append, append_action } in options {
        let header = header.ok_or(Unusable)?;
        let Some((name, value)) = header.read().map_err(|_| Unusable)? else { continue };
        // The older field wins where it is there, as in Envoy. Where both are missing the newer one reads as "append",
        // which for requests is not what the API's text says (overwrite).
        let how = match (append.map(|append| append.value), append_action, into) {
            (Some(true), ..) => How::Append,
            (Some(false), ..) | (None, 0, Side::Request) | (None, 2, _) => How::Overwrite,
            (None, 0, Side::Response) => How::Append,
            (None, 1, _) => How::IfAbsent,
            (None, 3, _) => How::IfPresent,
            (None, ..) => return Err(Unusable),
        };
        if !is_ours(&name) {
            changes.push(Change { name, value, how });
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::wire::{BoolValue, QueryParameter};
    use super::*;
    use crate::proxy::field::Field;

    fn option(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderOption {
        let header = Field { key: key.into(), value: value.into(), raw_value: Bytes::new() };
        HeaderOption { header: Some(header), append: append.map(|value| BoolValue { value }), append_action }
    }

    fn changed(into: Side, options: Vec<HeaderOption>) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("old"));
        headers.insert("content-length", HeaderValue::from_static("5"));
        apply(&read(options, into).expect("usable"), &mut headers);
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        lines.sort();
        lines
    }

    #[test]
    fn every_way_to_change_a_header_is_known() {
        let one = |into, append, action| {
            let options = vec![option("X-A", "new", append, action), option("x-b", "b", append, action)];
            changed(into, options).join("; ")
        };
        let overwritten = "content-length: 5; x-a: new; x-b: b";
        let appended = "content-length: 5; x-a: new; x-a: old; x-b: b";
        assert_eq!(one(Side::Request, None, 0), overwritten);
        assert_eq!(one(Side::Response, None, 0), appended);
        for into in [Side::Request, Side::Response] {
            assert_eq!(one(into, Some(false), 0), overwritten);
            assert_eq!(one(into, Some(true), 0), appended);
            assert_eq!(one(into, None, 1), "content-length: 5; x-a: old; x-b: b");
            assert_eq!(one(into, None, 2), overwritten);
            assert_eq!(one(into, None, 3), "content-length: 5; x-a: new");
        }
    }

    #[test]
    fn where_a_request_goes_and_how_it_is_framed_cannot_be_changed() {
        let names = [
            "host",
            ":authority",
            ":path",
            "Content-Length",
            "transfer-encoding",
            "connection",
            "upgrade",
            "te",
            "x-outrigger-via",
            "keep-alive",
        ];
        let options = names.iter().map(|name| option(name, "7", None, 0)).collect();
        assert_eq!(changed(Side::Request, options), ["content-length: 5", "x-a: old"]);
        let removing = OkResponse {
            headers_to_remove: names.iter().chain(&["x-a"]).map(|&name| name.to_owned()).collect(),
            ..OkResponse::default()
        };
        assert_eq!(Changes::read(removing).expect("usable").remove, ["x-a"]);
    }

    #[test]
    fn what_is_no_header_makes_the_answer_unusable() {
        for (key, value) in [("x a", "1"), ("", "1"), ("x-a", "1\r\nx-b: 2"), ("x-a\r\nx-b", "2"), ("x-a", "\0")] {
            assert_eq!(read(vec![option(key, value, None, 0)], Side::Request), Err(Unusable), "{key:?} {value:?}");
        }
        assert_eq!(read(vec![option("x-a", "1", None, 9)], Side::Request), Err(Unusable));
        assert_eq!(read(vec![HeaderOption::default()], Side::Request), Err(Unusable));
    }

    #[test]
    fn parameters_are_taken_out_and_set() {
        let answer = OkResponse {
            query_parameters_to_remove: vec!["token".into()],
            query_parameters_to_set: vec![QueryParameter { key: "user".into(), value: "a&b".into() }],
            headers_to_remove: vec!["x-old".into()],
            headers: vec![option("x-old", "new", None, 0)],
            ..OkResponse::default()
        };
        let mut head = RequestHead {
            method: http::Method::GET,
            scheme: http::uri::Scheme::HTTP,
            authority: None,
            path: PathAndQuery::from_static("/p?token=t&user=eve&x=1"),
            version: http::Version::HTTP_11,
            headers: HeaderMap::new(),
            upgrade: None,
        };
        Changes::read(answer).expect("usable").apply_to_request(&mut head);
        assert_eq!(head.path.as_str(), "/p?x=1&user=a%26b");
        assert_eq!(head.headers["x-old"], "new", "what is set stays");
    }
}
