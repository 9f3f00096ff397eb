use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::codec::h3::code::Code;
use crate::codec::h3::varint::MAX;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex"))
        .collect()
}

fn decoded(text: &str) -> Result<Section, DecodeError> {
    decode(&hex(text), 64 * 1024)
}

fn error(text: &str) -> DecodeError {
    decoded(text).expect_err("an error")
}

fn encoded(fill: impl FnOnce(&mut Encoder<'_>)) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    fill(&mut Encoder::new(&mut buffer));
    buffer.to_vec()
}

#[test]
fn the_integers_of_the_rfc() {
    // RFC 7541 appendix C.1.
    for (prefix, value, wire) in [(5, 10, "0a"), (5, 1337, "1f9a0a"), (8, 42, "2a")] {
        let mut buffer = BytesMut::new();
        integer::put(&mut buffer, 0, prefix, value);
        assert_eq!(buffer.to_vec(), hex(wire));
        assert_eq!(integer::take(&mut &hex(wire)[..], prefix), Ok(value));
    }
}

#[test]
fn integers_have_62_bits_and_end() {
    let mut buffer = BytesMut::new();
    integer::put(&mut buffer, 0, 3, MAX);
    assert_eq!(integer::take(&mut &buffer[..], 3), Ok(MAX));
    for wire in ["07ffffffffffffffff7f", "0780808080808080808080", "07ffffffffffffffffffff01"] {
        assert_eq!(integer::take(&mut &hex(wire)[..], 3), Err(integer::Error::Overflow), "{wire}");
    }
    for wire in ["", "07", "07ff"] {
        assert_eq!(integer::take(&mut &hex(wire)[..], 3), Err(integer::Error::Truncated), "{wire}");
    }
}

#[test]
fn the_strings_of_the_rfc() {
    // RFC 7541 appendices C.4 and C.6.
    for (text, wire) in [
        ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        ("no-cache", "a8eb10649cbf"),
        ("custom-key", "25a849e95ba97d7f"),
        ("custom-value", "25a849e95bb8e8b4bf"),
        ("302", "6402"),
        ("private", "aec3771a4b"),
        ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
        ("307", "640eff"),
        ("gzip", "9bd9ab"),
        (
            "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ),
    ] {
        let mut buffer = BytesMut::new();
        huffman::encode(text.as_bytes(), &mut buffer);
        assert_eq!(buffer.to_vec(), hex(wire), "{text}");
        assert_eq!(huffman::encoded_len(text.as_bytes()), buffer.len());
        let mut back = BytesMut::new();
        assert_eq!(huffman::decode(&hex(wire), &mut back), Ok(()));
        assert_eq!(back, text.as_bytes());
    }
}

#[test]
fn padding_is_up_to_seven_ones_and_the_end_is_no_character() {
    // RFC 7541 section 5.2: "0" and three ones are right.
    assert_eq!(huffman::decode(&hex("07"), &mut BytesMut::new()), Ok(()));
    for wire in ["06", "ff", "07ff", "fffffffc", "ffffffff", "03ffffffff"] {
        assert_eq!(huffman::decode(&hex(wire), &mut BytesMut::new()), Err(()), "{wire}");
    }
}

#[test]
fn the_section_of_the_rfc() {
    // RFC 9204 appendix B.1.
    let mut section = decoded("0000 510b 2f69 6e64 6578 2e68 746d 6c").expect("a section");
    assert_eq!(section.take(Pseudo::Path).as_deref(), Some(&b"/index.html"[..]));
    assert!(!section.has_pseudo() && section.headers.is_empty());
}

#[test]
fn frequent_lines_are_one_byte() {
    let wire = encoded(|section| {
        section.method(&Method::GET);
        section.scheme(&http::uri::Scheme::HTTPS);
        section.path("/");
        section.status(StatusCode::OK);
        section.fields(&HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("*/*"))]));
    });
    assert_eq!(wire, hex("0000 d1 d7 c1 d9 dd"));
    let mut section = decode(&wire, 1024).expect("a section");
    assert_eq!(section.take(Pseudo::Method).as_deref(), Some(&b"GET"[..]));
    assert_eq!(section.headers["accept"], "*/*");
}

#[test]
fn secrets_are_marked_and_never_looked_up() {
    let mut value = HeaderValue::from_static("clear");
    value.set_sensitive(true);
    let headers =
        HeaderMap::from_iter([(http::header::ALT_SVC, value.clone()), (HeaderName::from_static("x-a"), value)]);
    let wire = encoded(|section| section.fields(&headers));
    assert_eq!(wire[2] & 0b1111_0000, 0b0111_0000);
    let section = decode(&wire, 1024).expect("a section");
    assert!(section.headers.values().all(HeaderValue::is_sensitive));
}

#[test]
fn whatever_refers_to_the_dynamic_table_fails() {
    for wire in [
        "0100 d1",      // a required insert count
        "0080 d1",      // a negative base
        "0000 80",      // an indexed line
        "0000 10",      // an indexed line behind the base
        "0000 40 0161", // the name of a line
        "0000 00 0161", // the name of a line behind the base
        "0000 ff24",    // line 99 of the static table
        "0000 5f54 00", // its name
    ] {
        assert!(matches!(error(wire), DecodeError::Failed(_)), "{wire}");
    }
}

#[test]
fn what_cannot_be_decoded_fails() {
    for wire in
        ["", "00", "0000 51", "0000 5105 2f", "0000 ffffffffffffffffffff7f", "0000 5181 00", "0000 23 61", "0000 2161"]
    {
        assert!(matches!(error(wire), DecodeError::Failed(_)), "{wire}");
    }
}

#[test]
fn malformed_sections_are_told_from_what_cannot_be_decoded() {
    for (name, wire) in [
        ("an upper-case name", "0000 2158 0161"),
        ("a name that is no token", "0000 2120 0161"),
        ("an empty name", "0000 20 0161"),
        ("an unknown pseudo-header field", "0000 223a61 0161"),
        ("a pseudo-header field twice", "0000 d1 d4"),
        ("a pseudo-header field behind a field", "0000 dd d1"),
        ("a line break in a value", "0000 2161 010a"),
        ("a zero byte in a value", "0000 2161 0100"),
    ] {
        assert!(matches!(error(wire), DecodeError::Malformed(_)), "{name}");
    }
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ] {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
        let wire = encoded(|section| section.fields(&headers));
        assert!(matches!(decode(&wire, 1024), Err(DecodeError::Malformed(_))), "{name}: {value}");
    }
}

#[test]
fn sizes_count_as_the_rfc_counts() {
    // RFC 9114 section 4.2.2: name, value and 32 for each.
    let wire = hex("0000 2161 0161");
    assert!(decode(&wire, 34).is_ok());
    assert!(matches!(decode(&wire, 33), Err(DecodeError::TooLarge)));
}

#[test]
fn encoders_may_say_nothing_but_that_they_need_no_table() {
    for (wire, good) in [
        ("", true),
        ("20", true),
        ("2020", true),
        ("21", false),
        ("3f00", false),
        ("c00161", false),
        ("41610161", false),
        ("00", false),
    ] {
        let result = EncoderStream::default().feed(&hex(wire));
        assert_eq!(
            result.map_err(|broken| broken.code),
            if good { Ok(()) } else { Err(Code::QPACK_ENCODER_STREAM_ERROR) },
            "{wire}"
        );
    }
}

#[test]
fn decoders_may_only_cancel_streams() {
    for (wire, good) in [
        ("", true),
        ("40", true),
        ("7f8001 40", true),
        ("7f", true),
        ("00", false),
        ("01", false),
        ("80", false),
        ("7fffffffffffffffffffffff01", false),
    ] {
        let bytes = hex(wire);
        let whole = DecoderStream::default().feed(&bytes);
        let mut piecewise = DecoderStream::default();
        let pieces = bytes.chunks(1).try_for_each(|byte| piecewise.feed(byte));
        assert_eq!(whole, pieces, "{wire}");
        let expected = if good { Ok(()) } else { Err(Code::QPACK_DECODER_STREAM_ERROR) };
        assert_eq!(whole.map_err(|broken| broken.code), expected, "{wire}");
    }
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let names = prop_oneof![
        prop::sample::select(vec!["accept", "vary", "content-type", "x-frame-options", "cookie", "age", "user-agent"])
            .prop_map(str::to_owned),
        "[a-z0-9!#$%&'*+.^_`|~-]{1,20}",
    ];
    let values = prop_oneof![
        prop::sample::select(vec!["*/*", "0", "deny", "text/css", "gzip", ""])
            .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(prop_oneof![32_u8..127, 128_u8..=255, Just(9_u8)], 0..200),
    ];
    prop::collection::vec((names, values, any::<bool>()), 0..20).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value, sensitive) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            let mut value = HeaderValue::from_bytes(&value).expect("a value");
            value.set_sensitive(sensitive);
            if !crate::codec::heads::fields::is_forbidden(&name, &value) {
                headers.append(name, value);
            }
        }
        headers
    })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(headers in any_headers(), path in "/[ -~]{0,50}", status in 100_u16..1000) {
        let status = StatusCode::from_u16(status).expect("a status");
        let wire = encoded(|section| {
            section.path(&path);
            section.status(status);
            section.protocol("websocket");
            section.authority("a.test:8443");
            section.fields(&headers);
        });
        let mut section = decode(&wire, usize::MAX).expect("a section");
        prop_assert_eq!(section.take(Pseudo::Path), Some(Bytes::from(path)));
        prop_assert_eq!(section.take(Pseudo::Status), Some(Bytes::copy_from_slice(status.as_str().as_bytes())));
        prop_assert_eq!(section.take(Pseudo::Protocol), Some(Bytes::from("websocket")));
        prop_assert_eq!(section.take(Pseudo::Authority), Some(Bytes::from("a.test:8443")));
        prop_assert_eq!(&section.headers, &headers);
        for (name, value) in &headers {
            let same = section.headers.get_all(name).iter().zip(headers.get_all(name));
            prop_assert!(same.into_iter().all(|(one, other)| one.is_sensitive() == other.is_sensitive()), "{name}: {value:?}");
        }
    }

    #[test]
    fn every_text_survives_huffman_coding(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut coded = BytesMut::new();
        huffman::encode(&text, &mut coded);
        prop_assert_eq!(huffman::encoded_len(&text), coded.len());
        let mut back = BytesMut::new();
        prop_assert_eq!(huffman::decode(&coded, &mut back), Ok(()));
        prop_assert_eq!(back.to_vec(), text);
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, 4096);
        let _ = decode(&[&[0, 0][..], &bytes].concat(), 4096);
        let _ = EncoderStream::default().feed(&bytes);
        let _ = DecoderStream::default().feed(&bytes);
    }
}
