//! The bytes of a header, both ways. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use outrigger_config::model::ProxyVersion;

use super::Addresses;
use crate::base::limits;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// They may become a header.
    Incomplete,
    /// They are none.
    Absent,
    /// They are a header.
    Header {
        /// What it says; `None`: nothing.
        addresses: Option<Addresses>,
        /// How many bytes it is.
        length: usize,
    },
    /// They began as one.
    Malformed(&'static str),
}

const LINE: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A line of version 1 with its end: the longest that the specification has.
const LINE_BYTES: usize = 107;
/// What is before the addresses in version 2.
const FIXED: usize = 16;

/// Looks at the first bytes of a connection.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if bytes.starts_with(LINE) {
        return line(bytes);
    }
    if bytes.starts_with(SIGNATURE) {
        return binary(bytes);
    }
    if LINE.starts_with(bytes) || SIGNATURE.starts_with(bytes) { Parsed::Incomplete } else { Parsed::Absent }
}

fn line(bytes: &[u8]) -> Parsed {
    let within = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_BYTES { Parsed::Incomplete } else { Parsed::Malformed("its line does not end") };
    };
    let Ok(text) = std::str::from_utf8(&bytes[LINE.len()..end]) else {
        return Parsed::Malformed("it is no text");
    };
    let length = end + 2;
    let mut parts = text.split(' ');
    let family = parts.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Parsed::Header { addresses: None, length };
    }
    let mut address = || {
        let text = parts.next()?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (Some(source), Some(destination)) = (address(), address()) else {
        return Parsed::Malformed("its addresses are not of the family that it names");
    };
    let (Some(from), Some(to), None) = (parts.next().and_then(port), parts.next().and_then(port), parts.next()) else {
        return Parsed::Malformed("its ports are none, or something follows them");
    };
    let addresses = Addresses { source: (source, from).into(), destination: (destination, to).into() };
    Parsed::Header { addresses: Some(addresses), length }
}

/// Decimal, without a sign or zeros before.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn binary(bytes: &[u8]) -> Parsed {
    let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else { return Parsed::Incomplete };
    if !matches!(command, LOCAL | PROXY) {
        return Parsed::Malformed("its version or command is unknown");
    }
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > limits::PROXY_HEADER {
        return Parsed::Malformed("it is too long");
    }
    let Some(body) = bytes.get(FIXED..length) else { return Parsed::Incomplete };
    let addresses = match (command, family) {
        (PROXY, TCP4) => pair::<4>(body),
        (PROXY, TCP6) => pair::<16>(body),
        // A health check of the proxy before us, or addresses that are none of TCP.
        _ => return Parsed::Header { addresses: None, length },
    };
    match addresses {
        Some(addresses) => Parsed::Header { addresses: Some(addresses), length },
        None => Parsed::Malformed("it is too short for its addresses"),
    }
}

/// Source, destination and both ports. What follows are extensions.
fn pair<const N: usize>(body: &[u8]) -> Option<Addresses>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk::<2>()?;
    let (to, _) = rest.split_first_chunk::<2>()?;
    let address = |ip: &[u8; N], port: &[u8; 2]| SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port));
    Some(Addresses { source: address(source, from), destination: address(destination, to) })
}

/// The header of a connection that is made for somebody else; `None`: for ourselves.
#[must_use]
pub fn encode(version: ProxyVersion, addresses: Option<Addresses>) -> Vec<u8> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let addresses = addresses.map(|Addresses { source, destination }| (canonical(source), canonical(destination)));
    match version {
        ProxyVersion::V1 => match addresses {
            Some((SocketAddr::V4(from), SocketAddr::V4(to))) => {
                format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
            }
            Some((SocketAddr::V6(from), SocketAddr::V6(to))) => {
                format!("PROXY TCP6 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
            }
            // The header can say only one family.
            Some(_) | None => b"PROXY UNKNOWN\r\n".to_vec(),
        },
        ProxyVersion::V2 => {
            let (command, family, body) = match addresses {
                Some((SocketAddr::V4(from), SocketAddr::V4(to))) => {
                    (PROXY, TCP4, block(&from.ip().octets(), &to.ip().octets(), [from.port(), to.port()]))
                }
                Some((SocketAddr::V6(from), SocketAddr::V6(to))) => {
                    (PROXY, TCP6, block(&from.ip().octets(), &to.ip().octets(), [from.port(), to.port()]))
                }
                Some(_) => (PROXY, UNSPECIFIED, Vec::new()),
                None => (LOCAL, UNSPECIFIED, Vec::new()),
            };
            let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
            [&SIGNATURE[..], &[command, family], &length, &body].concat()
        }
    }
}

fn block(source: &[u8], destination: &[u8], [from, to]: [u16; 2]) -> Vec<u8> {
    [source, destination, &from.to_be_bytes(), &to.to_be_bytes()].concat()
}

/// Version 2 and command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Family and transport.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(line: &str) -> Parsed {
        parse(line.as_bytes())
    }

    fn given(source: &str, destination: &str, length: usize) -> Parsed {
        let address = |text: &str| text.parse().expect("an address");
        let addresses = Addresses { source: address(source), destination: address(destination) };
        Parsed::Header { addresses: Some(addresses), length }
    }

    #[test]
    fn lines_of_version_1() {
        let line = "PROXY TCP4 192.0.2.1 198.51.100.7 1234 443\r\n";
        assert_eq!(text(line), given("192.0.2.1:1234", "198.51.100.7:443", line.len()));
        let line = "PROXY TCP6 2001:db8::1 ::1 0 65535\r\nGET /";
        assert_eq!(text(line), given("[2001:db8::1]:0", "[::1]:65535", line.len() - 5));
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ::1 1 2\r\n"] {
            assert_eq!(text(line), Parsed::Header { addresses: None, length: line.len() }, "{line:?}");
        }
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                       ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), LINE_BYTES);
        assert_eq!(text(longest), Parsed::Header { addresses: None, length: LINE_BYTES });
    }

    #[test]
    fn nearly_a_line_is_malformed() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        ] {
            assert!(matches!(text(line), Parsed::Malformed(_)), "{line:?}: {:?}", text(line));
        }
        assert!(matches!(text(&format!("PROXY {}", "x".repeat(200))), Parsed::Malformed(_)), "no end");
        assert!(matches!(parse(b"PROXY TCP4 \xff\r\n"), Parsed::Malformed(_)));
    }

    #[test]
    fn other_first_bytes_are_no_header() {
        for line in ["GET / HTTP/1.1\r\n", "PROXX", "\r\n\r\nGET", "\r\nGET", "\u{16}\u{3}\u{1}", "proxy TCP4", "\0"] {
            assert_eq!(text(line), Parsed::Absent, "{line:?}");
        }
        for line in ["", "P", "PROXY", "\r", "\r\n\r\n\0\r\nQUIT"] {
            assert_eq!(text(line), Parsed::Incomplete, "{line:?}");
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn headers_of_version_2() {
        let body = [192, 0, 2, 1, 198, 51, 100, 7, 4, 210, 1, 187];
        let header = v2(PROXY, TCP4, &body);
        assert_eq!(parse(&header), given("192.0.2.1:1234", "198.51.100.7:443", 28));
        // An extension, as a cloud's load balancer adds it, and the first bytes of the message.
        let extended = [&body[..], &[0xea, 0, 3, 1, 2, 3]].concat();
        let header = [&v2(PROXY, TCP4, &extended)[..], b"hello"].concat();
        assert_eq!(parse(&header), given("192.0.2.1:1234", "198.51.100.7:443", 34));
        for (command, family) in [(LOCAL, TCP4), (LOCAL, UNSPECIFIED), (PROXY, UNSPECIFIED), (PROXY, 0x31)] {
            let header = v2(command, family, &body);
            assert_eq!(parse(&header), Parsed::Header { addresses: None, length: 28 }, "{command} {family}");
        }
        for header in
            [v2(0x22, TCP4, &body), v2(0x11, TCP4, &body), v2(PROXY, TCP4, &body[1..]), v2(PROXY, TCP6, &body)]
        {
            assert!(matches!(parse(&header), Parsed::Malformed(_)), "{header:?}");
        }
        assert!(matches!(parse(&v2(LOCAL, 0, &vec![0; limits::PROXY_HEADER])), Parsed::Malformed(_)), "too long");
    }

    #[test]
    fn two_families_in_one_header_are_left_out() {
        let addresses = Addresses {
            source: "192.0.2.1:1".parse().expect("an address"),
            destination: "[2001:db8::1]:2".parse().expect("an address"),
        };
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let bytes = encode(version, Some(addresses));
            assert_eq!(parse(&bytes), Parsed::Header { addresses: None, length: bytes.len() });
        }
        let mapped = Addresses { destination: "[::ffff:192.0.2.9]:2".parse().expect("an address"), ..addresses };
        assert_eq!(encode(ProxyVersion::V1, Some(mapped)), b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n");
    }

    fn addresses() -> impl Strategy<Value = Addresses> {
        let port = any::<[u16; 2]>();
        let v4 = (any::<[[u8; 4]; 2]>(), port).prop_map(|([source, destination], [from, to])| Addresses {
            source: (source, from).into(),
            destination: (destination, to).into(),
        });
        let v6 = (any::<[[u16; 8]; 2]>(), port)
            .prop_map(|([source, destination], [from, to])| Addresses {
                source: (source, from).into(),
                destination: (destination, to).into(),
            })
            .prop_filter("not IPv4 in disguise", |a| a.source.ip().to_canonical().is_ipv6())
            .prop_filter("not IPv4 in disguise", |a| a.destination.ip().to_canonical().is_ipv6());
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(addresses in addresses(), v2: bool, rest: Vec<u8>) {
            let version = if v2 { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let header = encode(version, Some(addresses));
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&header[..cut]), Parsed::Incomplete);
            }
            let bytes = [&header[..], &rest].concat();
            let expected = Parsed::Header { addresses: Some(addresses), length: header.len() };
            prop_assert_eq!(parse(&bytes), expected);
        }

        #[test]
        fn garbage_never_panics_and_a_verdict_stays(start in 0..4usize, bytes: Vec<u8>, more: Vec<u8>) {
            let begun: &[u8] = [&b""[..], LINE, SIGNATURE, b"PROXY TCP4 1.2.3.4 "][start];
            let bytes = [begun, &bytes].concat();
            let verdict = parse(&bytes);
            if let Parsed::Header { length, .. } = verdict {
                prop_assert!(length <= bytes.len());
            }
            if verdict != Parsed::Incomplete {
                prop_assert_eq!(parse(&[bytes, more].concat()), verdict);
            } else {
                prop_assert!(bytes.len() < limits::PROXY_HEADER);
            }
        }
    }
}
