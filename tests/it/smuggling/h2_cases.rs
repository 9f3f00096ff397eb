//! The HTTP/2 table: fields as they stand in the header block, byte for byte.

use super::{Expect, Shape};
use Expect::{Cut, Either, Once, Refused};

type Field = (Vec<u8>, Vec<u8>);

/// A request and what has to become of it. Whatever the proxy says no with counts as 400.
pub struct Case {
    pub name: &'static str,
    pub fields: Vec<Field>,
    pub data: Vec<Vec<u8>>,
    pub trailers: Vec<Field>,
    pub expect: Expect,
}

const BAD: &[u16] = &[400];

fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Field {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

fn pseudo(method: &str, authority: &str, path: &str) -> Vec<Field> {
    vec![field(":method", method), field(":scheme", "http"), field(":authority", authority), field(":path", path)]
}

/// `GET /x` with more fields.
fn get(name: &'static str, extra: &[(&str, &str)], expect: Expect) -> Case {
    let mut fields = pseudo("GET", "a.example", "/x");
    fields.extend(extra.iter().map(|(n, v)| field(n, v)));
    Case { name, fields, data: Vec::new(), trailers: Vec::new(), expect }
}

/// `POST /x` with more fields and a body.
fn post(name: &'static str, extra: &[(&str, &str)], data: &[&str], expect: Expect) -> Case {
    let mut case = get(name, extra, expect);
    case.fields[0] = field(":method", "POST");
    case.data = data.iter().map(|d| d.as_bytes().to_vec()).collect();
    case
}

/// A request with these fields and nothing else.
fn exact(name: &'static str, fields: &[(&str, &str)], expect: Expect) -> Case {
    let fields = fields.iter().map(|(n, v)| field(n, v)).collect();
    Case { name, fields, data: Vec::new(), trailers: Vec::new(), expect }
}

/// `GET /x` with one pseudo-header replaced.
fn with(name: &'static str, which: &str, value: &str, expect: Expect) -> Case {
    let mut case = get(name, &[], expect);
    for field in &mut case.fields {
        if field.0 == which.as_bytes() {
            field.1 = value.as_bytes().to_vec();
        }
    }
    case
}

fn trailing(name: &'static str, trailers: &[(&str, &str)], expect: Expect) -> Case {
    let mut case = post(name, &[], &["hello"], expect);
    case.trailers = trailers.iter().map(|(n, v)| field(n, v)).collect();
    case
}

fn got() -> Shape {
    Shape::new("GET", "/x")
}

fn posted(body: &'static [u8]) -> Shape {
    Shape::new("POST", "/x").body(body)
}

pub fn all() -> Vec<Case> {
    let mut cases = framing();
    cases.extend(fields());
    cases.extend(pseudo_headers());
    cases.extend(authorities());
    cases
}

fn framing() -> Vec<Case> {
    let mut empty = post("h2 length without a body", &[("content-length", "5")], &[], Cut);
    empty.data.clear();
    vec![
        post("h2 body", &[], &["hel", "lo"], Once(posted(b"hello"))),
        post(
            "h2 body with its length",
            &[("content-length", "5")],
            &["hello"],
            Once(posted(b"hello").with("content-length", "5")),
        ),
        post("h2 length above the body", &[("content-length", "6")], &["hello"], Cut),
        post("h2 length below the body", &[("content-length", "4")], &["hello"], Cut),
        post(
            "h2 length zero and a request as body",
            &[("content-length", "0")],
            &["GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"],
            Cut,
        ),
        empty,
        post(
            "h2 two lengths that differ",
            &[("content-length", "5"), ("content-length", "6")],
            &["hello"],
            Refused(BAD),
        ),
        post(
            "h2 two equal lengths",
            &[("content-length", "5"), ("content-length", "5")],
            &["hello"],
            Either(posted(b"hello").with("content-length", "5")),
        ),
        post(
            "h2 a list of lengths",
            &[("content-length", "5, 5")],
            &["hello"],
            Either(posted(b"hello").with("content-length", "5")),
        ),
        post("h2 length with a plus", &[("content-length", "+5")], &["hello"], Refused(BAD)),
        post(
            "h2 length with a blank",
            &[("content-length", "5 ")],
            &["hello"],
            Either(posted(b"hello").with("content-length", "5")),
        ),
        post("h2 length empty", &[("content-length", "")], &["hello"], Refused(BAD)),
        get("h2 length empty and no body", &[("content-length", "")], Refused(BAD)),
        post("h2 length hexadecimal", &[("content-length", "0x5")], &["hello"], Refused(BAD)),
        post(
            "h2 coding chunked",
            &[("transfer-encoding", "chunked")],
            &["0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"],
            Refused(BAD),
        ),
        post(
            "h2 coding chunked and a length",
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            &["hello"],
            Refused(BAD),
        ),
        post("h2 coding identity", &[("transfer-encoding", "identity")], &["hello"], Refused(BAD)),
        trailing("h2 trailers", &[("x-sum", "7")], Once(posted(b"hello").trailer("x-sum", "7"))),
        trailing("h2 a pseudo-header in trailers", &[(":path", "/smuggled")], Either(posted(b"hello"))),
        trailing("h2 a status in trailers", &[(":status", "200")], Either(posted(b"hello"))),
        trailing("h2 a length in trailers", &[("content-length", "100")], Either(posted(b"hello"))),
        trailing("h2 a coding in trailers", &[("transfer-encoding", "chunked")], Either(posted(b"hello"))),
        trailing("h2 a host in trailers", &[("host", "evil")], Either(posted(b"hello"))),
        trailing("h2 a line end in trailers", &[("x-a", "b\r\nx-b: c")], Cut),
        trailing("h2 a capital in trailers", &[("X-A", "b")], Cut),
    ]
}

fn fields() -> Vec<Case> {
    let smuggle = "b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut cases = vec![
        get("h2 te trailers", &[("te", "trailers")], Once(got().with("te", "trailers"))),
        get("h2 te gzip", &[("te", "gzip")], Either(got().without("te"))),
        get("h2 cookies in crumbs", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], Once(got())),
        get("h2 a value with blanks around", &[("x-a", " b ")], Either(got().with("x-a", "b"))),
        get("h2 an empty value", &[("x-a", "")], Once(got().with("x-a", ""))),
        get("h2 a value with an encoded line end", &[("x-a", "b%0d%0ac")], Once(got().with("x-a", "b%0d%0ac"))),
    ];
    for (name, field) in [
        ("h2 connection", ("connection", "close")),
        ("h2 connection naming a field", ("connection", "x-foo")),
        ("h2 keep-alive", ("keep-alive", "timeout=5")),
        ("h2 proxy-connection", ("proxy-connection", "keep-alive")),
        ("h2 upgrade", ("upgrade", "websocket")),
        ("h2 a request in a value", ("x-a", smuggle)),
        ("h2 a CR in a value", ("x-a", "b\rc")),
        ("h2 an LF in a value", ("x-a", "b\nx-b: c")),
        ("h2 a NUL in a value", ("x-a", "b\0c")),
        ("h2 a CR at the end of a value", ("x-a", "b\r")),
        ("h2 an LF at the start of a value", ("x-a", "\nb")),
        ("h2 a capital in a name", ("X-A", "b")),
        ("h2 a line end in a name", ("x-a\r\nx-b", "c")),
        ("h2 a request in a name", ("x: y\r\n\r\nGET /smuggled HTTP/1.1\r\nz", "c")),
        ("h2 a colon in a name", ("x-a: b", "c")),
        ("h2 a name that ends in a colon", ("content-length:", "5")),
        ("h2 a blank in a name", ("x a", "b")),
        ("h2 a blank at the end of a name", ("x-a ", "b")),
        ("h2 a NUL in a name", ("x\0a", "b")),
        ("h2 an empty name", ("", "b")),
        ("h2 a non-ASCII name", ("x\u{e4}", "b")),
        ("h2 an unknown pseudo-header", (":foo", "bar")),
        ("h2 a pseudo-header of responses", (":status", "200")),
        ("h2 a pseudo-header after a field", (":path", "/smuggled")),
        ("h2 a protocol without CONNECT", (":protocol", "websocket")),
    ] {
        cases.push(get(name, &[("x-first", "1"), field], Refused(BAD)));
    }
    cases
}

fn pseudo_headers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, value) in [
        ("h2 a path with a blank", "/x y"),
        ("h2 a path that is a request line", "/x HTTP/1.1\r\nHost: evil\r\n\r\nGET /smuggled"),
        ("h2 a path with a version", "/x HTTP/1.1"),
        ("h2 a path with a CR", "/x\r"),
        ("h2 a path with an LF", "/x\ny"),
        ("h2 a path with a NUL", "/x\0"),
        ("h2 a path with a tab", "/x\ty"),
        ("h2 a path with a DEL", "/x\u{7f}"),
        ("h2 an empty path", ""),
        ("h2 a relative path", "x"),
        ("h2 an asterisk as path of GET", "*"),
    ] {
        cases.push(with(name, ":path", value, Refused(BAD)));
    }
    for (name, value) in [
        ("h2 a method that is a request line", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET"),
        ("h2 a method with a blank", "GET /smuggled"),
        ("h2 a method with an LF", "GET\n"),
        ("h2 an empty method", ""),
        ("h2 a method with a parenthesis", "G(T"),
    ] {
        cases.push(with(name, ":method", value, Refused(BAD)));
    }
    for (name, value) in [
        ("h2 an absolute URL as scheme", "http://evil.example/smuggled?"),
        ("h2 a scheme with a blank", "ht tp"),
        ("h2 an empty scheme", ""),
        ("h2 a scheme with a line end", "http\r\nx: y"),
    ] {
        cases.push(with(name, ":scheme", value, Refused(BAD)));
    }
    cases.extend([
        with("h2 an absolute path", ":path", "http://evil.example/smuggled", Refused(BAD)),
        with("h2 a fragment", ":path", "/x#/smuggled", Either(got())),
        with(
            "h2 a path of two slashes",
            ":path",
            "//evil.example/x",
            Once(Shape::new("GET", "/evil.example/x").with("host", "a.example")),
        ),
        with("h2 dot segments", ":path", "/a/../x", Once(got())),
        with(
            "h2 a path with an encoded line end",
            ":path",
            "/x%0D%0AHost:%20b",
            Either(Shape::new("GET", "/x%0D%0AHost:%20b").with("host", "a.example")),
        ),
        with("h2 a scheme of ftp", ":scheme", "ftp", Either(got())),
        with("h2 an unknown method", ":method", "FOO", Once(Shape::new("FOO", "/x"))),
        exact("h2 no path", &[(":method", "GET"), (":scheme", "http"), (":authority", "a.example")], Refused(BAD)),
        exact("h2 no method", &[(":scheme", "http"), (":authority", "a.example"), (":path", "/x")], Refused(BAD)),
        exact("h2 no scheme", &[(":method", "GET"), (":authority", "a.example"), (":path", "/x")], Refused(BAD)),
        exact(
            "h2 two paths",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "a.example"),
                (":path", "/x"),
                (":path", "/smuggled"),
            ],
            Refused(BAD),
        ),
        exact(
            "h2 two methods",
            &[
                (":method", "GET"),
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "a.example"),
                (":path", "/x"),
            ],
            Refused(BAD),
        ),
        exact(
            "h2 two authorities",
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "a.example"),
                (":authority", "b.example"),
                (":path", "/x"),
            ],
            Refused(BAD),
        ),
        exact(
            "h2 CONNECT with a path",
            &[(":method", "CONNECT"), (":scheme", "http"), (":authority", "a.example"), (":path", "/x")],
            Refused(&[400, 404, 405, 501]),
        ),
        exact("h2 CONNECT", &[(":method", "CONNECT"), (":authority", "a.example:443")], Refused(&[400, 404, 405, 501])),
        exact(
            "h2 a path before the method",
            &[(":path", "/x"), (":authority", "a.example"), (":scheme", "http"), (":method", "GET")],
            Once(got().with("host", "a.example")),
        ),
    ]);
    cases
}

fn authorities() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, value) in [
        ("h2 an authority with a line end", "a.example\r\nx: y"),
        ("h2 an authority with a path", "a.example/x"),
        ("h2 an authority with user information", "user@a.example"),
        ("h2 an authority with a blank", "a.example b"),
        ("h2 an authority with a query", "a.example?x"),
        ("h2 an authority with a fragment", "a.example#x"),
        ("h2 an authority with a comma", "a.example, b.example"),
        ("h2 an authority with a bad port", "a.example:x"),
        ("h2 an authority that is a URL", "http://a.example"),
        ("h2 an authority with a backslash", "a.example\\b"),
    ] {
        cases.push(with(name, ":authority", value, Refused(BAD)));
    }
    cases.extend([
        get("h2 a host beside the same authority", &[("host", "a.example")], Once(got().with("host", "a.example"))),
        get("h2 a host against the authority", &[("host", "evil.example")], Refused(BAD)),
        get("h2 two hosts beside the authority", &[("host", "a.example"), ("host", "evil.example")], Refused(BAD)),
        exact(
            "h2 a host and no authority",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "a.example")],
            Once(got().with("host", "a.example")),
        ),
        exact(
            "h2 two hosts and no authority",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "a.example"), ("host", "b.example")],
            Refused(BAD),
        ),
        exact(
            "h2 neither host nor authority",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/x")],
            Refused(BAD),
        ),
        exact(
            "h2 a host with user information and no authority",
            &[(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "u@a.example")],
            Refused(BAD),
        ),
    ]);
    cases
}
