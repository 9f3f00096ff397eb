//! The HTTP/1.1 table.

use super::{Expect, Shape};
use Expect::{Answered, Cut, Either, Once, Refused, Served, ServedThenRefused};

/// A request, byte for byte, and what has to become of it.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

/// What an attacker appends: if it ever arrives, something was smuggled.
pub const ATTACK: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

pub const BAD: &[u16] = &[400];
const BAD_VERSION: &[u16] = &[400, 505];

pub fn all() -> Vec<Case> {
    let mut cases = super::h1_framing::all();
    cases.extend(fields());
    cases.extend(request_lines());
    cases.extend(hosts());
    cases.extend(connection_options());
    cases.extend(pipelines());
    cases
}

pub fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { name, bytes: bytes.into(), expect }
}

/// A POST to `/x` with these field lines and this body, the attack after it.
pub fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")
}

pub fn posted(body: &'static [u8]) -> Shape {
    Shape::new("POST", "/x").body(body)
}

pub fn got() -> Shape {
    Shape::new("GET", "/x")
}

pub fn get(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: a.example\r\n\r\n{ATTACK}")
}

fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, fields) in [
        ("a folded field", "X-A: b\r\n c\r\n"),
        ("a field folded with a tab", "X-A: b\r\n\tc\r\n"),
        ("a first field that is folded", " X-A: b\r\n"),
        ("a blank before a colon", "X-A : b\r\n"),
        ("a tab before a colon", "X-A\t: b\r\n"),
        ("a line without a colon", "X-A\r\n"),
        ("a field without a name", ": b\r\n"),
        ("a pseudo-header", ":authority: evil.example\r\n"),
        ("a name with a blank", "X A: b\r\n"),
        ("a name with a parenthesis", "X(A): b\r\n"),
        ("a name with an at sign", "X@A: b\r\n"),
        ("a name with a slash", "X/A: b\r\n"),
        ("a name in quotes", "\"X\": b\r\n"),
        ("a name with a non-ASCII letter", "X\u{e4}: b\r\n"),
        ("a name with a DEL", "X\u{7f}: b\r\n"),
        ("a name with a NUL", "X\0A: b\r\n"),
        ("a value with a NUL", "X-A: b\0c\r\n"),
        ("a value with a bell", "X-A: b\u{7}c\r\n"),
        ("a value with an escape", "X-A: \u{1b}[1m\r\n"),
        ("a value with a DEL", "X-A: b\u{7f}\r\n"),
        ("a value with a vertical tab", "X-A: b\u{b}c\r\n"),
        ("a value with a bare CR", "X-A: b\rc\r\n"),
        ("a value that ends in CR", "X-A: b\r\r\n"),
        ("an empty line of one CR", "X-A: b\r\n\rGET /smuggled HTTP/1.1\r\n"),
    ] {
        cases.push(case(name, format!("{}{ATTACK}", get(fields)), Refused(BAD)));
    }
    let mut obs_text = b"GET /x HTTP/1.1\r\nHost: a.example\r\nX-A: \xe4\xff\r\n\r\n".to_vec();
    cases.extend([
        case("a value with bytes above 0x7f", std::mem::take(&mut obs_text), Once(got().with("x-a", "\u{e4}\u{ff}"))),
        case("a value with a tab inside", get("X-A: b\tc\r\n"), Once(got().with("x-a", "b\tc"))),
        case("an empty value", get("X-A:\r\n"), Once(got().with("x-a", ""))),
        case("a value of blanks", get("X-A: \t \r\n"), Once(got().with("x-a", ""))),
        case("lines ended by bare LFs", "GET /x HTTP/1.1\nHost: a.example\n\n", Either(got())),
        case(
            "a bare LF inside a head",
            "GET /x HTTP/1.1\r\nHost: a.example\r\nX-A: b\nX-B: c\r\n\r\n",
            Either(got().with("x-a", "b").with("x-b", "c")),
        ),
        case(
            "a head that ends in LF CR LF",
            "GET /x HTTP/1.1\r\nHost: a.example\r\nX-A: b\n\r\n",
            Either(got().with("x-a", "b")),
        ),
        case(
            "a value with an encoded line end",
            get("X-A: b%0d%0aX-B: c\r\n"),
            Once(got().with("x-a", "b%0d%0aX-B: c").without("x-b")),
        ),
        case("a head that is not finished", "GET /x HTTP/1.1\r\nHost: a.example\r\n", Cut),
    ]);
    cases
}

fn request_lines() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, start) in [
        ("two blanks after the method", "GET  /x HTTP/1.1"),
        ("a tab after the method", "GET\t/x HTTP/1.1"),
        ("a tab after the target", "GET /x\tHTTP/1.1"),
        ("a vertical tab after the method", "GET\u{b}/x HTTP/1.1"),
        ("a blank before the method", " GET /x HTTP/1.1"),
        ("a blank after the version", "GET /x HTTP/1.1 "),
        ("no target", "GET HTTP/1.1"),
        ("an empty target", "GET  HTTP/1.1"),
        ("a relative target", "GET x HTTP/1.1"),
        ("a target of dots", "GET ../x HTTP/1.1"),
        ("an asterisk for GET", "GET * HTTP/1.1"),
        ("no version", "GET /x"),
        ("an empty method", " /x HTTP/1.1"),
        ("a method with an at sign", "G@T /x HTTP/1.1"),
        ("a method with a colon", "GET: /x HTTP/1.1"),
        ("a method with a NUL", "G\0T /x HTTP/1.1"),
        ("a method in quotes", "\"GET\" /x HTTP/1.1"),
        ("a NUL in the target", "GET /x\0y HTTP/1.1"),
        ("a DEL in the target", "GET /x\u{7f} HTTP/1.1"),
        ("a bell in the target", "GET /x\u{7} HTTP/1.1"),
        ("a bare CR in the target", "GET /x\ry HTTP/1.1"),
    ] {
        cases.push(case(name, line(start), Refused(BAD)));
    }
    // Where a version should be stands something else, so either status fits.
    for (name, start) in [
        ("two blanks after the target", "GET /x  HTTP/1.1"),
        ("a blank in the target", "GET /x y HTTP/1.1"),
        ("a request inside the target", "GET /x HTTP/1.1 GET /smuggled HTTP/1.1"),
        ("version 2.0", "GET /x HTTP/2.0"),
        ("version 3.0", "GET /x HTTP/3.0"),
        ("version 0.9", "GET /x HTTP/0.9"),
        ("a version in lower case", "GET /x http/1.1"),
        ("a version with a long minor", "GET /x HTTP/1.10"),
        ("a version with a long major", "GET /x HTTP/01.1"),
        ("a version with a comma", "GET /x HTTP/1,1"),
        ("a version without a minor", "GET /x HTTP/1"),
        ("a version with a letter after it", "GET /x HTTP/1.1x"),
        ("another protocol", "GET /x ICY/1.1"),
        ("a version with a plus", "GET /x HTTP/1.+1"),
    ] {
        cases.push(case(name, line(start), Refused(BAD_VERSION)));
    }
    let host = "Host: a.example\r\n\r\n";
    cases.extend([
        case("version 1.2", format!("GET /x HTTP/1.2\r\n{host}"), Either(got())),
        case("a method in lower case", format!("get /x HTTP/1.1\r\n{host}"), Once(Shape::new("get", "/x"))),
        case("an unknown method", format!("FOO /x HTTP/1.1\r\n{host}"), Once(Shape::new("FOO", "/x"))),
        case("empty lines before a request", format!("\r\n\r\nGET /x HTTP/1.1\r\n{host}"), Once(got())),
        case("a fragment", format!("GET /x#/smuggled HTTP/1.1\r\n{host}"), Either(got())),
        case(
            "two slashes at the start",
            format!("GET //evil.example/x HTTP/1.1\r\n{host}"),
            Once(Shape::new("GET", "/evil.example/x").with("host", "a.example")),
        ),
        case("dot segments", format!("GET /a/../b/./../x HTTP/1.1\r\n{host}"), Once(got())),
        case("encoded dot segments", format!("GET /a/%2e%2E/x HTTP/1.1\r\n{host}"), Once(got())),
        case("dot segments above the root", format!("GET /../../x HTTP/1.1\r\n{host}"), Either(got())),
        case(
            "an encoded slash stays encoded",
            format!("GET /a%2F..%2fx HTTP/1.1\r\n{host}"),
            Either(Shape::new("GET", "/a%2F..%2Fx")),
        ),
        case(
            "a request in an encoded target",
            format!("GET /x%20HTTP/1.1%0D%0AHost:%20b HTTP/1.1\r\n{host}"),
            Either(Shape::new("GET", "/x%20HTTP/1.1%0D%0AHost:%20b").with("host", "a.example")),
        ),
        case("a broken percent sequence", format!("GET /x%zz HTTP/1.1\r\n{host}"), Answered(BAD)),
        case("an encoded NUL", format!("GET /x%00 HTTP/1.1\r\n{host}"), Either(Shape::new("GET", "/x%00"))),
        case("CONNECT", format!("CONNECT a.example:443 HTTP/1.1\r\n{host}{ATTACK}"), Refused(&[400, 404, 405, 501])),
        case("CONNECT with a path", format!("CONNECT /x HTTP/1.1\r\n{host}{ATTACK}"), Refused(&[400, 404, 405, 501])),
        case("a target in raw UTF-8", format!("GET /\u{e4} HTTP/1.1\r\n{host}"), Either(Shape::new("GET", "/%C3%A4"))),
        case("a bad HTTP/2 preface", format!("PRI * HTTP/2.0\r\n\r\n{ATTACK}"), Cut),
        case(
            "HTTP/1.0 with a length",
            "POST /x HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            Once(posted(b"hello").with("host", "a.example")),
        ),
        case(
            "HTTP/1.0 with a body but no length",
            "POST /x HTTP/1.0\r\nHost: a.example\r\n\r\nhello\r\n\r\n",
            Once(posted(b"")),
        ),
    ]);
    cases
}

fn hosts() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, fields) in [
        ("no host", ""),
        ("two hosts", "Host: a.example\r\nHost: b.example\r\n"),
        ("two equal hosts", "Host: a.example\r\nHost: a.example\r\n"),
        ("two hosts around another field", "Host: a.example\r\nX-A: b\r\nHost: b.example\r\n"),
        ("a host with user information", "Host: user@a.example\r\n"),
        ("a host with user and password", "Host: user:pw@a.example\r\n"),
        ("a host with a path", "Host: a.example/x\r\n"),
        ("a host with a query", "Host: a.example?x\r\n"),
        ("a host with a fragment", "Host: a.example#x\r\n"),
        ("a list of hosts", "Host: a.example, b.example\r\n"),
        ("a host with a blank", "Host: a.example b.example\r\n"),
        ("a host with a tab", "Host: a\tb\r\n"),
        ("a host with a backslash", "Host: a.example\\b\r\n"),
        ("a host with a port that is no number", "Host: a.example:x\r\n"),
        ("a host with a port too large", "Host: a.example:65536\r\n"),
        ("a host with two ports", "Host: a.example:80:81\r\n"),
        ("a host with an open bracket", "Host: [::1\r\n"),
        ("a host that is a URL", "Host: http://a.example\r\n"),
        ("a host with a NUL", "Host: a.example\0.evil\r\n"),
        ("a host on a folded line", "Host:\r\n a.example\r\n"),
        ("a host with a blank before the colon", "Host : a.example\r\n"),
    ] {
        cases.push(case(name, format!("GET /x HTTP/1.1\r\n{fields}\r\n{ATTACK}"), Refused(BAD)));
    }
    cases.extend([
        case("an empty host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n", Either(got())),
        case(
            "a host with a port",
            "GET /x HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
            Once(got().with("host", "a.example:8080")),
        ),
        case("a host in brackets", "GET /x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Once(got().with("host", "[::1]:80"))),
        case(
            "an absolute target",
            "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Once(got().with("host", "a.example")),
        ),
        case(
            "an absolute target against its host",
            "GET http://a.example/x HTTP/1.1\r\nHost: b.example\r\n\r\n",
            Either(got().with("host", "a.example")),
        ),
        case(
            "an absolute target with another port than its host",
            "GET http://a.example:81/x HTTP/1.1\r\nHost: a.example:82\r\n\r\n",
            Either(got().with("host", "a.example:81")),
        ),
        case(
            "an absolute target without a path",
            "GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Once(Shape::new("GET", "/").with("host", "a.example")),
        ),
        case(
            "an absolute target with only a query",
            "GET http://a.example?q=1 HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Either(Shape::new("GET", "/?q=1").with("host", "a.example")),
        ),
        case(
            "an absolute target with user information",
            format!("GET http://u@a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n{ATTACK}"),
            Refused(BAD),
        ),
        case(
            "an absolute target that is ftp",
            format!("GET ftp://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n{ATTACK}"),
            Refused(BAD),
        ),
        case(
            "an absolute target without a host",
            format!("GET http:///x HTTP/1.1\r\nHost: a.example\r\n\r\n{ATTACK}"),
            Refused(BAD),
        ),
        case(
            "an absolute target with no Host field",
            format!("GET http://a.example/x HTTP/1.1\r\n\r\n{ATTACK}"),
            Refused(BAD),
        ),
        case("no host in HTTP/1.0", "GET /x HTTP/1.0\r\n\r\n", Either(got())),
    ]);
    cases
}

fn connection_options() -> Vec<Case> {
    vec![
        case(
            "connection names the length",
            post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
            Either(posted(b"hello")),
        ),
        case(
            "connection names the coding",
            post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Either(posted(b"hello")),
        ),
        case("connection names the host", get("Connection: host\r\n"), Either(got().with("host", "a.example"))),
        case(
            "connection names a field",
            get("Connection: x-foo\r\nX-Foo: 1\r\nX-Bar: 2\r\n"),
            Once(got().without("x-foo").with("x-bar", "2").without("connection")),
        ),
        case(
            "connection names fields in two lines and odd lists",
            get("X-A: 1\r\nX-B: 2\r\nConnection: , x-a ,,\r\nConnection: keep-alive,X-B\r\n"),
            Once(got().without("x-a").without("x-b").without("connection")),
        ),
        case(
            "hop-by-hop fields",
            get("Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nTrailer: x\r\n"),
            Once(got().without("keep-alive").without("proxy-connection").without("te")),
        ),
        case(
            "an upgrade to h2c",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            Once(got().without("upgrade").without("http2-settings")),
        ),
        case(
            "an upgrade to h2c that connection does not name",
            get("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            Once(got().without("upgrade").without("http2-settings")),
        ),
        case(
            "an upgrade to another TLS",
            get("Connection: upgrade\r\nUpgrade: TLS/1.0\r\n"),
            Once(got().without("upgrade")),
        ),
        case(
            "an unknown expectation",
            post("Expect: banana\r\nContent-Length: 5\r\n", "hello"),
            Either(posted(b"hello")),
        ),
    ]
}

fn pipelines() -> Vec<Case> {
    let good = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    vec![
        case("two requests", good("/1") + &good("/2"), Served(&["/1", "/2"])),
        case("two requests with an empty line between", good("/1") + "\r\n" + &good("/2"), Served(&["/1", "/2"])),
        case("a good and a bad request", good("/1") + "GET /bad HTTP/1.1\r\n\r\n" + ATTACK, ServedThenRefused(&["/1"])),
        case("a request after a refused one", "GET /x HTTP/1.1\r\n\r\n".to_owned() + ATTACK, Refused(BAD)),
        case(
            "a request after one with both framings",
            post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{ATTACK}")),
            Refused(BAD),
        ),
        case(
            "a request after close",
            format!("GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n{ATTACK}"),
            Served(&["/x"]),
        ),
        case(
            "a request after HTTP/1.0",
            format!("GET /x HTTP/1.0\r\nHost: a.example\r\n\r\n{ATTACK}"),
            Served(&["/x"]),
        ),
        case(
            "a body and a request, pipelined",
            post("Content-Length: 5\r\n", "hello") + &good("/2") + &good("/3"),
            Served(&["/x", "/2", "/3"]),
        ),
    ]
}
