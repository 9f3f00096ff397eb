//! Section 8: requests and responses.

use super::List;
use crate::frame::{self, code, flag};
use crate::hpack::{self, Form};
use crate::script::{Expect, Requests, Script, opened};

pub(super) fn add(list: &mut List, requests: &Requests) {
    framing(list, requests);
    malformed_fields(list, requests);
    connection_fields(list, requests);
    pseudo_fields(list, requests);
    authority(list, requests);
    content_length(list, requests);
}

/// A malformed request is a stream error (section 8.1.1), as h2spec demands: an answer may come before the reset but not instead.
fn malformed(script: Script) -> Script {
    script.stream_error(1, &[code::PROTOCOL_ERROR])
}

fn request(fields: &[(&str, &str)]) -> Script {
    opened().send(frame::headers(1, flag::END_STREAM, &hpack::block(fields)))
}

fn framing(list: &mut List, requests: &Requests) {
    let trailers = hpack::block(&[("x-sum", "1")]);
    list.section("8.1");
    list.case("HEAD is answered without a body", {
        let block = requests.block("HEAD", &[]);
        opened().send(frame::headers(1, flag::END_STREAM, &block)).expecting(Expect::AnswerOf(1, 0))
    });
    list.case(
        "A POST with trailers is answered",
        opened()
            .send(requests.post(1))
            .send(frame::data(1, flag::NONE, b"body"))
            .send(frame::headers(1, flag::END_STREAM, &trailers))
            .answer(1),
    );
    list.wider(
        "A POST with trailers and no body is answered",
        opened().send(requests.post(1)).send(frame::headers(1, flag::END_STREAM, &trailers)).answer(1),
    );
    list.case(
        "A second HEADERS without END_STREAM is malformed",
        malformed(opened().send(requests.post(1)).send(frame::data(1, flag::NONE, b"body")).send(frame::headers(
            1,
            flag::NONE,
            &trailers,
        ))),
    );
    list.wider(
        "Requests on one connection are answered concurrently",
        opened()
            .send(requests.post(1))
            .send(requests.get(3))
            .await_end(3)
            .send(frame::data(1, flag::END_STREAM, b"body"))
            .answer(1),
    );
}

fn malformed_fields(list: &mut List, requests: &Requests) {
    let with =
        |name: &[u8], value: &[u8]| opened().send(requests.get_encoded(1, &hpack::literal(Form::Plain, name, value)));
    list.section("8.2.1");
    list.case("A field name in upper case is malformed", malformed(with(b"X-Test", b"ok")));
    for (rule, name) in [
        ("A space in a field name is malformed", &b"x test"[..]),
        ("A colon in a field name is malformed", b"x:test"),
        ("NUL in a field name is malformed", b"x\0test"),
        ("DEL in a field name is malformed", b"x\x7ftest"),
        ("A field name outside ASCII is malformed", b"x-t\xe9st"),
        ("An empty field name is malformed", b""),
    ] {
        list.wider(rule, with(name, b"ok").refused(1));
    }
    for (rule, value) in [
        ("NUL in a field value is malformed", &b"o\0k"[..]),
        ("CR in a field value is malformed", b"o\rk"),
        ("LF in a field value is malformed", b"o\nk"),
        ("CR LF and another field in a field value are malformed", b"ok\r\nx-smuggled: 1"),
        ("A space before a field value is malformed", b" ok"),
        ("A tab after a field value is malformed", b"ok\t"),
    ] {
        list.wider(rule, with(b"x-test", value).refused(1));
    }

    list.section("8.2.3");
    list.wider(
        "A cookie may come in pieces",
        opened().send(requests.get_with(1, &[("cookie", "a=1"), ("cookie", "b=2")])).answer(1),
    );
}

fn connection_fields(list: &mut List, requests: &Requests) {
    let with = |name, value| malformed(opened().send(requests.get_with(1, &[(name, value)])));
    list.section("8.2.2");
    list.case("The field connection is malformed", with("connection", "keep-alive"));
    list.case("The field te with anything but trailers is malformed", with("te", "trailers, deflate"));
    for (rule, name, value) in [
        ("The field keep-alive is malformed", "keep-alive", "timeout=5"),
        ("The field proxy-connection is malformed", "proxy-connection", "keep-alive"),
        ("The field transfer-encoding is malformed", "transfer-encoding", "chunked"),
        ("The field upgrade is malformed", "upgrade", "websocket"),
    ] {
        list.wider(rule, with(name, value));
    }
    list.wider(
        "The field te with trailers is accepted",
        opened().send(requests.get_with(1, &[("te", "trailers")])).answer(1),
    );
}

fn pseudo_fields(list: &mut List, requests: &Requests) {
    let (authority, path) = (&*requests.authority, &*requests.path);
    let [method, scheme, host, target] =
        [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)];

    list.section("8.3");
    list.case(
        "An unknown pseudo-header field is malformed",
        malformed(request(&[method, scheme, host, target, (":test", "ok")])),
    );
    list.case(
        "A pseudo-header field of responses is malformed in a request",
        malformed(request(&[method, scheme, host, target, (":status", "200")])),
    );
    list.case(
        "A pseudo-header field after a regular one is malformed",
        malformed(request(&[method, scheme, host, ("x-test", "ok"), target])),
    );
    list.case(
        "A pseudo-header field in a second HEADERS without END_STREAM is malformed",
        malformed(opened().send(requests.post(1)).send(frame::data(1, flag::NONE, b"body")).send(frame::headers(
            1,
            flag::NONE,
            &hpack::block(&[method]),
        ))),
    );
    list.wider(
        "A pseudo-header field in trailers is malformed",
        malformed(opened().send(requests.post(1)).send(frame::data(1, flag::NONE, b"body")).send(frame::headers(
            1,
            flag::END_STREAM,
            &hpack::block(&[target]),
        ))),
    );

    list.section("8.3.1");
    list.case("An empty :path is malformed", malformed(request(&[method, scheme, host, (":path", "")])));
    list.case("A request without :method is malformed", malformed(request(&[scheme, host, target])));
    list.case("A request without :scheme is malformed", malformed(request(&[method, host, target])));
    list.case("A request without :path is malformed", malformed(request(&[method, scheme, host])));
    list.case("Two :method are malformed", malformed(request(&[method, method, scheme, host, target])));
    list.case("Two :scheme are malformed", malformed(request(&[method, scheme, scheme, host, target])));
    list.case("Two :path are malformed", malformed(request(&[method, scheme, host, target, target])));
    list.wider("Two :authority are malformed", malformed(request(&[method, scheme, host, host, target])));
    list.wider(
        "A :path that does not begin with a slash is malformed",
        request(&[method, scheme, host, (":path", "index")]).refused(1),
    );
    list.wider(
        "A :path of * is malformed outside OPTIONS",
        request(&[method, scheme, host, (":path", "*")]).refused(1),
    );
}

fn authority(list: &mut List, requests: &Requests) {
    let (authority, path) = (&*requests.authority, &*requests.path);
    let [method, scheme, host, target] =
        [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)];
    list.wider(
        "A request with host instead of :authority is accepted",
        request(&[method, scheme, target, ("host", authority)]).answer(1),
    );
    list.wider(
        "A host equal to :authority is accepted",
        request(&[method, scheme, host, target, ("host", authority)]).answer(1),
    );
    list.wider(
        "A host that differs from :authority is refused",
        request(&[method, scheme, host, target, ("host", "other.test")]).refused(1),
    );
    list.wider("A request with neither :authority nor host is refused", request(&[method, scheme, target]).refused(1));
    list.wider("User information in :authority is refused", {
        request(&[method, scheme, (":authority", "user@conformance.test"), target]).refused(1)
    });

    list.section("8.5");
    list.wider(
        "CONNECT with :scheme and :path is malformed",
        request(&[(":method", "CONNECT"), scheme, host, target]).refused(1),
    );
    list.wider("CONNECT without :authority is malformed", request(&[(":method", "CONNECT")]).refused(1));
}

fn content_length(list: &mut List, requests: &Requests) {
    let posted = |length| opened().send(requests.post_with(1, &[("content-length", length)]));
    list.section("8.1.1");
    list.wider(
        "A content-length equal to the body is accepted",
        posted("4").send(frame::data(1, flag::END_STREAM, b"body")).answer(1),
    );
    list.case(
        "A content-length below the body is malformed",
        malformed(posted("1").send(frame::data(1, flag::END_STREAM, b"body"))),
    );
    list.case(
        "A content-length below the sum of several DATA frames is malformed",
        malformed(posted("5").send(frame::data(1, flag::NONE, b"body")).send(frame::data(
            1,
            flag::END_STREAM,
            b"body",
        ))),
    );
    list.wider(
        "A content-length above the body is malformed",
        malformed(posted("10").send(frame::data(1, flag::END_STREAM, b"body"))),
    );
    list.wider(
        "A content-length above 0 without a body is malformed",
        opened().send(requests.get_with(1, &[("content-length", "4")])).refused(1),
    );
    list.wider(
        "Two content-length that differ are malformed",
        opened()
            .send(requests.post_with(1, &[("content-length", "4"), ("content-length", "5")]))
            .send(frame::data(1, flag::END_STREAM, b"body"))
            .refused(1),
    );
    list.wider(
        "A content-length that is no number is malformed",
        posted("four").send(frame::data(1, flag::END_STREAM, b"body")).refused(1),
    );
}
