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
const ATTACK: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

const BAD: &[u16] = &[400];
/// A transfer coding that is not understood may also be answered 501 (RFC 9112 section 6.1).
const BAD_CODING: &[u16] = &[400, 501];
const BAD_VERSION: &[u16] = &[400, 505];

pub fn all() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(codings());
    cases.extend(chunks());
    cases.extend(trailers());
    cases.extend(fields());
    cases.extend(request_lines());
    cases.extend(hosts());
    cases.extend(connection_options());
    cases.extend(pipelines());
    cases
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { name, bytes: bytes.into(), expect }
}

/// A POST to `/x` with these field lines and this body, the attack after it.
fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")
}

fn posted(body: &'static [u8]) -> Shape {
    Shape::new("POST", "/x").body(body)
}

fn got() -> Shape {
    Shape::new("GET", "/x")
}

fn get(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: a.example\r\n\r\n{ATTACK}")
}

fn lengths() -> Vec<Case> {
    let both_cl_first = post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{ATTACK}"));
    let both_te_first = post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &format!("0\r\n\r\n{ATTACK}"));
    let te_cl = post(
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        &format!("{:x}\r\n{ATTACK}\r\n0\r\n\r\n", ATTACK.len()),
    );
    let differing = post(&format!("Content-Length: 0\r\nContent-Length: {}\r\n", ATTACK.len()), ATTACK);
    let mut cases = vec![
        case("length and coding, length first", both_cl_first, Refused(BAD)),
        case("length and coding, coding first", both_te_first, Refused(BAD)),
        case("length and coding, attack in the chunk", te_cl, Refused(BAD)),
        case(
            "length zero and coding",
            post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        case("two lengths that differ", differing, Refused(BAD)),
        case(
            "two lengths that differ in case of the name",
            post("CONTENT-LENGTH: 5\r\ncontent-length: 6\r\n", "hello!"),
            Refused(BAD),
        ),
        case(
            "two equal lengths",
            post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            Either(posted(b"hello").with("content-length", "5")),
        ),
        case(
            "a list of equal lengths",
            post("Content-Length: 5, 5\r\n", "hello"),
            Either(posted(b"hello").with("content-length", "5")),
        ),
        case("a list of lengths", post("Content-Length: 5, 6\r\n", "hello!"), Refused(BAD)),
        case("a length and an empty one", post("Content-Length: 5\r\nContent-Length:\r\n", "hello"), Refused(BAD)),
        case(
            "blanks around a length",
            post("Content-Length:  \t 5 \t \r\n", "hello"),
            Once(posted(b"hello").with("content-length", "5")),
        ),
        case(
            "a length that ends short of a second request",
            post("Content-Length: 5\r\n", "helloGET /second HTTP/1.1\r\nHost: a.example\r\n\r\n"),
            Served(&["/x", "/second"]),
        ),
        case(
            "a body after length zero is not a request",
            post("Content-Length: 0\r\n", "hello\r\n\r\n"),
            ServedThenRefused(&["/x"]),
        ),
        case("a length that the body never reaches", post("Content-Length: 100\r\n", "hello"), Cut),
        case("the largest length that fits", post("Content-Length: 9223372036854775807\r\n", "hello"), Cut),
        case(
            "a field that only looks like a length",
            get("Content_Length: 100\r\nContent-Lengthy: 5\r\n"),
            Once(got().without("content-length").without("transfer-encoding")),
        ),
        case(
            "a GET with a body",
            "GET /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
            Once(got().body(b"hello")),
        ),
        case(
            "a DELETE whose body is a request",
            format!("DELETE /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{ATTACK}", ATTACK.len()),
            Once(Shape::new("DELETE", "/x").body(ATTACK.as_bytes())),
        ),
    ];
    for (name, value) in [
        ("a length with a plus", "+5"),
        ("a negative length", "-5"),
        ("a hexadecimal length", "0x5"),
        ("a length with a blank inside", "5 5"),
        ("an empty length", ""),
        ("a length and a comma", "5,"),
        ("a comma and a length", ",5"),
        ("a length with a parameter", "5;q=1"),
        ("a length with an exponent", "1e1"),
        ("a length with a fraction", "5.0"),
        ("a quoted length", "\"5\""),
        ("a length with an underscore", "1_0"),
        ("a length of two to the 64th", "18446744073709551616"),
        ("a length of two to the 64th and 5", "18446744073709551621"),
        ("a length of thirty digits", "000000000999999999999999999999"),
        ("a length after a vertical tab", "\u{b}5"),
        ("a length before a form feed", "5\u{c}"),
        ("a length in full-width digits", "\u{ff15}"),
        ("a length with a no-break space", "5\u{a0}"),
    ] {
        let bytes = post(&format!("Content-Length: {value}\r\n"), &format!("hello{ATTACK}"));
        cases.push(case(name, bytes, Refused(BAD)));
    }
    cases
}

fn codings() -> Vec<Case> {
    let body = format!("0\r\n\r\n{ATTACK}");
    let mut cases = Vec::new();
    for (name, value) in [
        ("coding identity", "identity"),
        ("coding chunked, identity", "chunked, identity"),
        ("coding identity, chunked", "identity, chunked"),
        ("coding gzip, chunked", "gzip, chunked"),
        ("coding chunked, gzip", "chunked, gzip"),
        ("coding gzip alone", "gzip"),
        ("coding chunked twice", "chunked, chunked"),
        ("coding xchunked", "xchunked"),
        ("coding chunkedx", "chunkedx"),
        ("coding chunked with a parameter", "chunked;q=1"),
        ("coding in quotes", "\"chunked\""),
        ("coding in apostrophes", "'chunked'"),
        ("coding empty", ""),
        ("coding after a vertical tab", "\u{b}chunked"),
        ("coding before a vertical tab", "chunked\u{b}"),
        ("coding before a NUL", "chunked\0"),
        ("coding with a dotless i", "\u{131}dentity"),
        ("coding chunk with a Kelvin sign", "chun\u{212a}ed"),
        ("coding chunked and a word", "chunked foo"),
        ("coding with a colon before it", ": chunked"),
    ] {
        let bytes = post(&format!("Transfer-Encoding: {value}\r\n"), &body);
        cases.push(case(name, bytes, Refused(BAD_CODING)));
    }
    for (name, fields) in [
        ("coding in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("coding gzip and chunked", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        ("coding chunked and x", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
        ("coding x and chunked", "Transfer-encoding: x\r\nTransfer-Encoding: chunked\r\n"),
        ("length and identity", "Content-Length: 5\r\nTransfer-Encoding: identity\r\n"),
        ("length and empty coding", "Content-Length: 5\r\nTransfer-Encoding:\r\n"),
        ("length and xchunked", "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n"),
    ] {
        cases.push(case(name, post(fields, &body), Refused(BAD_CODING)));
    }
    for (name, fields) in [
        ("coding with a blank before the colon", "Transfer-Encoding : chunked\r\n"),
        ("coding with a tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("coding with a NUL in the name", "Transfer-Encoding\0: chunked\r\n"),
        ("coding on a folded line", "Transfer-Encoding:\r\n chunked\r\n"),
        ("coding as a folded line", "X-A: b\r\n Transfer-Encoding: chunked\r\n"),
        ("coding after a tab", "\tTransfer-Encoding: chunked\r\n"),
        ("coding hidden behind a bare CR", "X-A: b\rTransfer-Encoding: chunked\r\n"),
        ("coding hidden behind CR CR", "X-A: b\r\rTransfer-Encoding: chunked\r\n"),
        ("coding ended by a bare CR", "Transfer-Encoding: chunked\r\r\n"),
        ("coding hidden behind LF CR", "X-A: b\n\rTransfer-Encoding: chunked\r\n"),
        ("length with a blank before the colon", "Content-Length : 5\r\n"),
        ("length on a folded line", "Content-Length:\r\n 5\r\n"),
    ] {
        cases.push(case(name, post(fields, &body), Refused(BAD)));
    }
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    cases.extend([
        case(
            "coding in capitals",
            post("TRANSFER-ENCODING: CHUNKED\r\n", chunked),
            Once(posted(b"hello").without("content-length")),
        ),
        case(
            "coding with blanks around",
            post("Transfer-Encoding: \t chunked \t\r\n", chunked),
            Once(posted(b"hello").without("content-length")),
        ),
        case(
            "coding with an empty list element",
            post("Transfer-Encoding: chunked,\r\n", chunked),
            Either(posted(b"hello")),
        ),
        case(
            "coding in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
            Refused(BAD),
        ),
        case(
            "coding and length in HTTP/1.0",
            format!(
                "POST /x HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            ),
            Refused(BAD),
        ),
        case(
            "coding hidden behind a bare LF",
            post("X-A: b\nTransfer-Encoding: chunked\r\n", chunked),
            Either(posted(b"hello")),
        ),
        case(
            "coding with an underscore",
            get("Transfer_Encoding: chunked\r\n"),
            Once(got().without("transfer-encoding").without("content-length")),
        ),
        case(
            "a GET with a chunked body",
            format!("{}{chunked}", get("Transfer-Encoding: chunked\r\n")),
            Once(got().body(b"hello")),
        ),
    ]);
    cases
}

fn chunks() -> Vec<Case> {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let mut cases = Vec::new();
    for (name, body) in [
        ("chunk size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size after a blank", " 5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size after a tab", "\t5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size empty", "\r\nhello\r\n0\r\n\r\n"),
        ("chunk size of only an extension", ";a=b\r\nhello\r\n0\r\n\r\n"),
        ("chunk size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size with a comma", "5,\r\nhello\r\n0\r\n\r\n"),
        ("chunk size not hexadecimal", "5g\r\nhello\r\n0\r\n\r\n"),
        ("chunk size of two to the 64th", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("chunk size of two to the 64th and 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("chunk size of two to the 32nd and 5", "100000005\r\nhello\r\n0\r\n\r\n"),
        ("chunk size of sixteen Fs", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("chunk size of eight Fs", "ffffffff\r\nhello\r\n0\r\n\r\n"),
        ("chunk size ended by a bare CR", "5\rhello\r\n0\r\n\r\n"),
        ("chunk size followed by a NUL", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("chunk size too large for the data", "6\r\nhello\r\n0\r\n\r\n"),
        ("chunk size too small for the data", "4\r\nhello\r\n0\r\n\r\n"),
        ("chunk data without line end", "5\r\nhello0\r\n\r\n"),
        ("chunk data with two other bytes at its end", "5\r\nhelloXX0\r\n\r\n"),
        ("chunk data ended by a bare CR", "5\r\nhello\r0\r\n\r\n"),
        ("chunk data ended by LF CR", "5\r\nhello\n\r0\r\n\r\n"),
        ("chunk extension ended by a bare LF, smuggling a size", "5;a=\n5\r\nhello\r\n0\r\n\r\n"),
        ("chunk extension with a bare CR", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("chunk extension with a NUL", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("a body without its last chunk", "5\r\nhello\r\n"),
        ("a last chunk without the empty line", "5\r\nhello\r\n0\r\n"),
        ("chunk framing that ends in the size", "5\r\nhello\r\n0"),
        ("garbage instead of a chunk", "hello\r\n\r\n"),
    ] {
        let attack = if body.ends_with("0\r\n\r\n") { ATTACK } else { "" };
        cases.push(case(name, chunked(&format!("{body}{attack}")), Cut));
    }
    for (name, body) in [
        ("chunk size with blanks after it", "5 \t\r\nhello\r\n0\r\n\r\n"),
        ("chunk lines ended by bare LFs", "5\nhello\n0\n\n"),
        ("chunk size ended by a bare LF", "5\nhello\r\n0\r\n\r\n"),
        ("chunk data ended by a bare LF", "5\r\nhello\n0\r\n\r\n"),
        ("last chunk ended by a bare LF", "5\r\nhello\r\n0\n\r\n"),
        ("empty line after the last chunk is a bare LF", "5\r\nhello\r\n0\r\n\n"),
        ("chunk size with many zeros", "00000000000000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("chunk extension", "5;name=value\r\nhello\r\n0;last\r\n\r\n"),
        ("chunk extension quoted", "5;name=\"va;lue\"\r\nhello\r\n0\r\n\r\n"),
        ("chunk extension with a quoted line end", "5;a=\"\r\nhello\r\n0\r\n\r\n"),
    ] {
        cases.push(case(name, chunked(body), Either(posted(b"hello"))));
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(200_000));
    cases.extend([
        case("chunk extension of 200 kB", chunked(&long), Either(posted(b"hello"))),
        case(
            "chunks in several pieces and cases",
            chunked("2\r\nhe\r\n0000000003\r\nllo\r\nA\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
            Once(posted(b"hello01234567890123456789")),
        ),
        case(
            "chunk data that is a request",
            chunked(&format!("{:X}\r\n{ATTACK}\r\n0\r\n\r\n", ATTACK.len())),
            Once(posted(ATTACK.as_bytes())),
        ),
        case(
            "a request after the last chunk",
            chunked("0\r\n\r\nGET /second HTTP/1.1\r\nHost: a.example\r\n\r\n"),
            Served(&["/x", "/second"]),
        ),
    ]);
    cases
}

fn trailers() -> Vec<Case> {
    let trailing = |trailer: &str| post("Transfer-Encoding: chunked\r\n", &format!("5\r\nhello\r\n0\r\n{trailer}\r\n"));
    let mut cases = vec![case("a trailer", trailing("X-Sum: 7\r\n"), Once(posted(b"hello").trailer("x-sum", "7")))];
    // RFC 9110 section 6.5.1: fields for framing, routing and the like do not belong there. They are
    // dropped, or the message is.
    for (name, trailer) in [
        ("a length in trailers", "Content-Length: 100\r\n"),
        ("a coding in trailers", "Transfer-Encoding: chunked\r\n"),
        ("a host in trailers", "Host: evil.example\r\n"),
        ("connection in trailers", "Connection: close\r\n"),
        ("upgrade in trailers", "Upgrade: h2c\r\n"),
        ("te in trailers", "TE: trailers\r\n"),
        ("a nominated trailer", "Trailer: x\r\n"),
    ] {
        cases.push(case(name, trailing(trailer), Either(posted(b"hello"))));
    }
    for (name, trailer) in [
        ("a trailer with a blank in its name", "x y: z\r\n"),
        ("a trailer with a blank before the colon", "x : z\r\n"),
        ("a trailer without a colon", "xyz\r\n"),
        ("a trailer without a name", ": z\r\n"),
        ("a folded trailer", "x: y\r\n z\r\n"),
        ("a trailer with a NUL", "x: y\0\r\n"),
        ("a trailer with a bare CR", "x: y\rz: a\r\n"),
    ] {
        cases.push(case(name, trailing(&format!("{trailer}\r\n{ATTACK}")), Cut));
    }
    cases
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
