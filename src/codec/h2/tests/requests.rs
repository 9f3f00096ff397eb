//! What the server side makes of requests.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, Version};
use parking_lot::Mutex;

use super::support::*;
use crate::base::drain::Drain;
use crate::codec::body::Body;
use crate::codec::h2::serve;
use crate::codec::message::RequestHead;

/// A handler that keeps the heads it sees.
fn recorder() -> (Arc<TestHandler>, Arc<Mutex<Vec<RequestHead>>>) {
    let heads: Arc<Mutex<Vec<RequestHead>>> = Arc::default();
    let seen = Arc::clone(&heads);
    let handler = handler(move |request, _| {
        seen.lock().push(request.head);
        Box::pin(async { ok(Body::Empty) })
    });
    (handler, heads)
}

/// The status and the refusal code of one request.
async fn refusal_of(request: Request<()>) -> (StatusCode, Option<&'static str>) {
    let (handler, heads) = recorder();
    let mut down = downstream(Arc::clone(&handler)).await;
    let (response, _) = down.client.send_request(request, true).expect("sent");
    let status = within(response).await.expect("a response").status();
    let code = handler.refused.lock().first().map(|refusal| refusal.code);
    assert_eq!(heads.lock().is_empty(), code.is_some(), "it was either handled or refused");
    (status, code)
}

/// The head that the handler sees.
async fn head_of(request: Request<()>) -> RequestHead {
    let (handler, heads) = recorder();
    let mut down = downstream(handler).await;
    let (response, _) = down.client.send_request(request, true).expect("sent");
    assert_eq!(within(response).await.expect("a response").status(), StatusCode::OK);
    heads.lock().pop().expect("the handler saw it")
}

fn with(fields: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = get("/");
    for (name, value) in fields {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    request
}

/// Without `:authority`.
fn without_authority(fields: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = with(fields);
    *request.uri_mut() = Uri::from_static("/");
    *request.version_mut() = Version::HTTP_11;
    request
}

fn to(uri: &'static str, method: &str) -> Request<()> {
    Request::builder().method(method).uri(Uri::from_static(uri)).body(()).expect("a request")
}

#[tokio::test]
async fn the_head_is_taken_over_and_host_becomes_the_authority() {
    let head =
        head_of(with(&[("host", "A.test"), ("x-one", "1"), ("expect", "100-continue"), ("te", "trailers")])).await;
    assert_eq!(head.authority.as_ref().map(http::uri::Authority::as_str), Some("a.test"));
    assert_eq!(head.path.as_str(), "/");
    assert_eq!(head.version, Version::HTTP_2);
    assert_eq!(head.scheme.as_str(), "http");
    let mut expected = HeaderMap::new();
    expected.insert("x-one", HeaderValue::from_static("1"));
    expected.insert("expect", HeaderValue::from_static("100-continue"));
    expected.insert("te", HeaderValue::from_static("trailers"));
    assert_eq!(head.headers, expected);
}

#[tokio::test]
async fn host_alone_names_the_authority() {
    let head = head_of(without_authority(&[("host", "b.test:8080")])).await;
    assert_eq!(head.authority.as_ref().map(http::uri::Authority::as_str), Some("b.test:8080"));
    assert!(head.headers.is_empty());
}

#[tokio::test]
async fn a_default_port_makes_no_difference_between_host_and_authority() {
    let head = head_of(with(&[("host", "a.test:80")])).await;
    assert_eq!(head.authority.as_ref().map(http::uri::Authority::as_str), Some("a.test"));
}

#[tokio::test]
async fn cookie_crumbs_are_joined() {
    let head = head_of(with(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")])).await;
    let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn a_server_wide_options_is_accepted() {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some("a.test".parse().expect("an authority"));
    parts.path_and_query = Some("*".parse().expect("a path"));
    let mut request = to("http://a.test/", "OPTIONS");
    *request.uri_mut() = Uri::from_parts(parts).expect("a uri");
    assert_eq!(head_of(request).await.path.as_str(), "*");
}

#[tokio::test]
async fn an_ipv6_authority_is_accepted() {
    let head = head_of(to("http://[::1]:8080/x?y=z", "GET")).await;
    assert_eq!(head.authority.as_ref().map(http::uri::Authority::as_str), Some("[::1]:8080"));
    assert_eq!(head.path.as_str(), "/x?y=z");
}

#[tokio::test]
async fn ambiguous_requests_are_refused_each_for_its_own_reason() {
    let star = {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some("a.test".parse().expect("an authority"));
        parts.path_and_query = Some("*".parse().expect("a path"));
        let mut request = get("/");
        *request.uri_mut() = Uri::from_parts(parts).expect("a uri");
        request
    };
    let cases = [
        (without_authority(&[]), 400, "missing_host"),
        (with(&[("host", "b.test")]), 400, "host_mismatch"),
        (with(&[("host", "a.test:8080")]), 400, "host_mismatch"),
        (with(&[("host", "")]), 400, "bad_host"),
        (with(&[("host", "user@a.test")]), 400, "bad_host"),
        (with(&[("host", "a.test, a.test")]), 400, "bad_host"),
        (with(&[("host", "a.test"), ("host", "a.test")]), 400, "duplicate_host"),
        (without_authority(&[("host", "a.test"), ("host", "b.test")]), 400, "duplicate_host"),
        (without_authority(&[("host", "a b")]), 400, "bad_host"),
        (without_authority(&[("host", "a.test:http")]), 400, "bad_host"),
        (to("http://user:secret@a.test/", "GET"), 400, "bad_host"),
        (to("http://a.test:99999/", "GET"), 400, "bad_host"),
        (to("ftp://a.test/", "GET"), 400, "bad_scheme"),
        (star, 400, "bad_target"),
        (with(&[("content-length", "0"), ("content-length", "0")]), 400, "duplicate_content_length"),
    ];
    for (request, status, code) in cases {
        let shown = format!("{request:?}");
        let (got, refusal) = refusal_of(request).await;
        assert_eq!((got.as_u16(), refusal), (status, Some(code)), "{shown}");
    }
}

#[tokio::test]
async fn too_many_fields_are_refused() {
    let mut request = get("/");
    for n in 0..101 {
        request.headers_mut().append("x-many", HeaderValue::from(n));
    }
    assert_eq!(refusal_of(request).await, (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Some("too_many_fields")));
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused_and_counted() {
    let mut request = get("/");
    let value = HeaderValue::from_maybe_shared(Bytes::from(vec![b'a'; 66 * 1024])).expect("a value");
    request.headers_mut().append("x-large", value);
    assert_eq!(refusal_of(request).await, (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Some("head_too_large")));
}

#[tokio::test]
async fn a_value_with_outer_blanks_is_malformed() {
    for value in [" a", "a ", "\ta", "a\t"] {
        let (handler, heads) = recorder();
        let mut down = downstream(handler).await;
        let (response, _) = down.client.send_request(with(&[("x-blank", value)]), true).expect("sent");
        let error = within(response).await.expect_err("a reset");
        assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR), "{value:?}");
        assert!(error.is_remote());
        assert!(heads.lock().is_empty());
    }
}

#[tokio::test]
async fn a_request_without_a_path_is_malformed() {
    let (handler, heads) = recorder();
    let (near, far) = pipe();
    let drain = Drain::default();
    tokio::spawn(serve(near, handler, options(&drain)));
    let mut raw = Raw::client(far).await;
    // :method GET and :scheme http, by index of the static table, and nothing else.
    let flags = RawFrame::END_HEADERS | RawFrame::END_STREAM;
    raw.send(&[RawFrame::new(RawFrame::HEADERS, flags, 1, &[0x82, 0x86])]).await;
    let reset = raw.next_of(RawFrame::RST_STREAM).await;
    assert_eq!((reset.stream, reset.reason()), (1, Reason::PROTOCOL_ERROR));
    assert!(heads.lock().is_empty());
}

#[tokio::test]
async fn request_trailers_reach_the_handler_cleaned() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let mut down = downstream(handler(move |mut request, _| {
        let sender = sender.clone();
        Box::pin(async move {
            let _ = sender.send(drain_body(&mut request.body).await);
            ok(Body::Empty)
        })
    }))
    .await;
    let (_response, mut upload) = down.client.send_request(post("/"), false).expect("sent");
    upload.send_data(Bytes::from_static(b"data"), false).expect("sent");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    trailers.insert("content-length", HeaderValue::from_static("9"));
    upload.send_trailers(trailers).expect("sent");
    let (bytes, trailers) = within(seen.recv()).await.expect("handled").expect("whole");
    assert_eq!(bytes, b"data");
    let trailers = trailers.expect("trailers");
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-sum"], "42");
}

#[tokio::test]
async fn oversized_trailers_fail_the_upload() {
    let mut large = HeaderMap::new();
    let value = HeaderValue::from_maybe_shared(Bytes::from(vec![b'a'; 20 * 1024])).expect("a value");
    large.insert("x-large", value);
    let many = (0..65).map(|n| (http::HeaderName::from_static("x-many"), HeaderValue::from(n))).collect();
    for trailers in [large, many] {
        let outcome = upload_with(trailers).await;
        assert!(matches!(outcome, Err(crate::codec::body::BodyError::Malformed(_))), "{outcome:?}");
    }
}

type Uploaded = Result<(Vec<u8>, Option<HeaderMap>), crate::codec::body::BodyError>;

async fn upload_with(trailers: HeaderMap) -> Uploaded {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let mut down = downstream(handler(move |mut request, _| {
        let sender = sender.clone();
        Box::pin(async move {
            let _ = sender.send(drain_body(&mut request.body).await);
            ok(Body::Empty)
        })
    }))
    .await;
    let (_response, mut upload) = down.client.send_request(post("/"), false).expect("sent");
    upload.send_trailers(trailers).expect("sent");
    within(seen.recv()).await.expect("handled")
}

#[tokio::test]
async fn the_length_of_an_upload_is_known() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let mut down = downstream(handler(move |mut request, _| {
        let sender = sender.clone();
        Box::pin(async move {
            use crate::codec::body::PollBody;
            let before = request.body.exact_len();
            let _ = drain_body(&mut request.body).await;
            let _ = sender.send((before, request.body.exact_len(), request.body.is_end()));
            ok(Body::Empty)
        })
    }))
    .await;
    let mut request = post("/");
    request.headers_mut().insert("content-length", HeaderValue::from_static("5"));
    let (_response, mut upload) = down.client.send_request(request, false).expect("sent");
    upload.send_data(Bytes::from_static(b"hello"), true).expect("sent");
    assert_eq!(within(seen.recv()).await, Some((Some(5), Some(0), true)));
}
