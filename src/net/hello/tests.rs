//! Hellos of the library that we speak TLS with, hellos made by hand, and nonsense.

use super::*;
use proptest::prelude::*;
use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// What a real client sends first.
fn real(name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(crate::net::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("written");
    bytes
}

fn hello(sni: Option<&str>, alpn: &[&[u8]]) -> Peeked {
    Peeked::Hello(ClientHello { sni: sni.map(Box::from), alpn: alpn.iter().map(|name| Box::from(*name)).collect() })
}

/// A record of this type with these contents.
fn record(kind: u8, contents: &[u8]) -> Vec<u8> {
    let len = u16::try_from(contents.len()).expect("a record's length");
    [&[kind, 3, 1], &len.to_be_bytes()[..], contents].concat()
}

/// The same message, in records of at most `size` bytes.
fn refragmented(bytes: &[u8], size: usize) -> Vec<u8> {
    bytes[5..].chunks(size).flat_map(|chunk| record(HANDSHAKE, chunk)).collect()
}

/// A hello with these extensions.
fn crafted(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, contents) in extensions {
        list.extend_from_slice(&kind.to_be_bytes());
        list.extend_from_slice(&u16::try_from(contents.len()).expect("short").to_be_bytes());
        list.extend_from_slice(contents);
    }
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(&u16::try_from(list.len()).expect("short").to_be_bytes());
    body.extend_from_slice(&list);
    let len = u32::try_from(body.len()).expect("short").to_be_bytes();
    record(HANDSHAKE, &[&[CLIENT_HELLO], &len[1..], &body[..]].concat())
}

fn name(text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("short");
    [&(len + 3).to_be_bytes()[..], &[HOST_NAME], &len.to_be_bytes(), text].concat()
}

#[test]
fn a_real_hello_gives_its_name_and_protocols() {
    assert_eq!(
        peek(&real("Db.Example.com", &[b"h2", b"http/1.1"])),
        hello(Some("db.example.com"), &[b"h2", b"http/1.1"])
    );
    assert_eq!(peek(&real("10.0.0.1", &[])), hello(None, &[]), "an address is not sent");
}

#[test]
fn every_part_of_a_hello_is_incomplete() {
    let bytes = real("a.example", &[b"h2"]);
    for cut in 0..bytes.len() {
        assert_eq!(peek(&bytes[..cut]), Peeked::Incomplete, "{cut} bytes");
    }
    let more = [&bytes[..], b"whatever follows"].concat();
    assert_eq!(peek(&more), hello(Some("a.example"), &[b"h2"]));
}

#[test]
fn a_hello_may_be_spread_over_records() {
    let bytes = real("a.example", &[]);
    for size in [1, 3, 4, 5, 64, 1000] {
        assert_eq!(peek(&refragmented(&bytes, size)), hello(Some("a.example"), &[]), "{size} bytes each");
    }
}

#[test]
fn what_is_not_tls_is_told_by_its_first_bytes() {
    for bytes in [&b"G"[..], b"PRI * HTTP/2.0", b"\x16\x02", b"\x16\x04", b"\x15\x03\x01", b"\x80\x2e\x01\x03"] {
        assert_eq!(is_tls(bytes), Some(false), "{bytes:?}");
        assert_eq!(peek(bytes), Peeked::NotTls, "{bytes:?}");
    }
    assert_eq!((is_tls(b""), is_tls(b"\x16"), is_tls(b"\x16\x03")), (None, None, Some(true)));
}

#[test]
fn records_that_break_the_rules_are_refused_at_once() {
    let bytes = real("a.example", &[]);
    let other_message = record(HANDSHAKE, &[2, 0, 0, 4, 0, 0, 0, 0]);
    let huge_message = record(HANDSHAKE, &[CLIENT_HELLO, 1, 0, 0]);
    let alert_between = [&record(HANDSHAKE, &bytes[5..50])[..], &record(0x15, &[1, 0])].concat();
    for bytes in [record(HANDSHAKE, &[]), vec![0x16, 3, 1, 0x40, 0x01], other_message, huge_message, alert_between] {
        assert_eq!(peek(&bytes), Peeked::NotTls, "{bytes:?}");
    }
}

#[test]
fn a_hello_that_does_not_end_is_not_waited_for_beyond_the_limit() {
    let mut bytes = record(HANDSHAKE, &[&[CLIENT_HELLO, 0, 0x3f, 0xff][..], &[0; 100]].concat());
    while bytes.len() < MAX_BYTES {
        assert_eq!(peek(&bytes), Peeked::Incomplete);
        bytes.extend_from_slice(&record(HANDSHAKE, &[0]));
    }
    assert_eq!(peek(&bytes), Peeked::NotTls);
}

#[test]
fn names_are_checked() {
    for (text, expected) in [
        (&b"a.example."[..], Some("a.example")),
        (b"A_B.example", Some("a_b.example")),
        (b"localhost", Some("localhost")),
    ] {
        assert_eq!(peek(&crafted(&[(SERVER_NAME, name(text))])), hello(expected, &[]));
    }
    let long = vec![b'a'; 64];
    for text in [&b""[..], b".", b"a..b", b".a", b"a b", b"a\0.example", b"*.example", b"\xc3\xa9", &long] {
        assert_eq!(peek(&crafted(&[(SERVER_NAME, name(text))])), Peeked::NotTls, "{text:?}");
    }
}

#[test]
fn nothing_may_be_said_twice() {
    let two_names = [name(b"a"), name(b"b")].iter().flat_map(|one| one[2..].to_vec()).collect::<Vec<u8>>();
    let two_names = [&u16::try_from(two_names.len()).expect("short").to_be_bytes()[..], &two_names].concat();
    let h2: Vec<u8> = vec![0, 3, 2, b'h', b'2'];
    for extensions in [
        vec![(SERVER_NAME, name(b"a")), (SERVER_NAME, name(b"b"))],
        vec![(SERVER_NAME, two_names)],
        vec![(ALPN, h2.clone()), (ALPN, h2)],
    ] {
        assert_eq!(peek(&crafted(&extensions)), Peeked::NotTls);
    }
}

proptest! {
    #[test]
    fn whatever_comes_peeking_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = peek(&bytes);
        let _ = peek(&[&[HANDSHAKE, 3, 1], &bytes[..]].concat());
        if let Ok(len) = u16::try_from(bytes.len()) {
            let record = [&[HANDSHAKE, 3, 1][..], &len.to_be_bytes(), &bytes].concat();
            let _ = peek(&record);
        }
    }

    #[test]
    fn a_damaged_hello_is_read_or_refused_and_never_changes_its_mind(at in 5usize..400, to: u8, cut in 0usize..400) {
        let mut bytes = crafted(&[(SERVER_NAME, name(b"a.example")), (ALPN, vec![0, 3, 2, b'h', b'2']), (43, vec![2, 3, 4])]);
        let at = at % bytes.len();
        bytes[at] = to;
        let whole = peek(&bytes);
        // What was decided on a part holds for the whole.
        let part = peek(&bytes[..cut % bytes.len()]);
        prop_assert!(part == Peeked::Incomplete || part == whole);
    }

    #[test]
    fn fragments_do_not_matter(size in 1usize..600) {
        let bytes = crafted(&[(SERVER_NAME, name(b"a.example"))]);
        prop_assert_eq!(peek(&refragmented(&bytes, size)), hello(Some("a.example"), &[]));
    }
}
