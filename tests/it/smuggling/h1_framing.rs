//! The HTTP/1.1 table: where a body ends.

use super::h1_cases::{ATTACK, BAD, Case, case, get, got, post, posted};
use super::{Expect, Shape};
use Expect::{Cut, Either, Once, Refused, Served, ServedThenRefused};

/// A transfer coding that is not understood may also be answered 501 (RFC 9112 section 6.1).
const BAD_CODING: &[u16] = &[400, 501];

pub fn all() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(codings());
    cases.extend(chunks());
    cases.extend(trailers());
    cases
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
