//! The ClientHello at the beginning of a connection: read the same as by who will terminate it, however it arrives.

use std::io::Cursor;

use outrigger::net::hello::{ClientHello, MAX_BYTES, Peeked, peek};
use rustls::server::Acceptor;

/// The input is the beginning of a connection.
pub fn check(input: &[u8]) {
    let peeked = peek(input);
    // What is known stays as it is when more arrives.
    for at in [input.len() / 3, input.len() / 2, input.len().saturating_sub(1)] {
        let before = peek(&input[..at]);
        assert!(before == Peeked::Incomplete || before == peeked, "{before:?} became {peeked:?}");
    }
    if let Peeked::Hello(hello) = &peeked {
        check_parts(hello);
        check_fragments(input, hello);
    }
    // What is refused here may be accepted by others; what is accepted must not be read in two ways.
    if let Peeked::Hello(hello) = &peeked
        && let Some((sni, alpn)) = terminated(input)
    {
        // An address is no server name (RFC 6066 section 3): who terminates takes it for none.
        if hello.sni.as_ref().is_none_or(|name| !is_address(name)) {
            assert_eq!(hello.sni.as_deref(), sni.as_deref());
        }
        assert!(hello.alpn.iter().map(|name| &**name).eq(alpn.iter().map(Vec::as_slice)), "{hello:?} {alpn:?}");
    }
}

fn check_parts(hello: &ClientHello) {
    if let Some(name) = &hello.sni {
        assert!((1..=253).contains(&name.len()) && !name.ends_with('.') && !name.contains(".."), "{name:?}");
        assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_')), "{name:?}");
    }
    assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
}

/// The same message in one record for each few bytes.
fn check_fragments(input: &[u8], hello: &ClientHello) {
    let mut message = Vec::new();
    let mut rest = input;
    while let [_, _, _, high, low, body @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(body.len());
        message.extend_from_slice(&body[..length]);
        rest = &body[length..];
    }
    let split = |size: usize| -> Vec<u8> {
        let record = |part: &[u8]| {
            let [high, low] = u16::try_from(part.len()).unwrap_or_default().to_be_bytes();
            [&[0x16, 3, 1, high, low], part].concat()
        };
        message.chunks(size).flat_map(record).collect()
    };
    for records in [split(1000), split(17)] {
        if records.len() <= MAX_BYTES {
            assert_eq!(peek(&records), Peeked::Hello(hello.clone()));
        }
    }
}

/// Server name and protocols as the TLS library reads them, if it would go on.
fn terminated(input: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    let mut unread = Cursor::new(input);
    while acceptor.read_tls(&mut unread).ok()? > 0 {
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let sni = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
            return Some((sni, hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect()).unwrap_or_default()));
        }
    }
    None
}

fn is_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}
