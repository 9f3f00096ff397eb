//! The PROXY protocol, versions 1 and 2: the first bytes of a connection say between whom it is, where a proxy
//! before us made it for somebody else.
//!
//! Read strictly: a header that is nearly right is none. Addresses that a header does not give (`LOCAL`, `UNKNOWN`,
//! `UNSPEC`, Unix sockets) are those of the socket. Extensions (TLVs) are passed over.

mod header;

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout_at;

pub use self::header::encode;
use self::header::{Parsed, parse};
use super::io::Io;

/// Between whom a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Who connected.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
}

/// Whether a header must come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Without one the connection is refused.
    Header,
    /// The first bytes tell. Silence until `silent` is no header.
    Maybe {
        /// Until when a first byte is waited for.
        silent: Instant,
    },
    /// Whoever is on the other side is not believed: what begins with one is refused. Silence is no header.
    Nothing {
        /// Until when a first byte is waited for.
        silent: Instant,
    },
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// It begins with something else.
    #[error("a PROXY protocol header was expected, and the connection begins with something else")]
    Absent,
    /// It breaks the rules.
    #[error("a malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
    /// The connection ended before the end of the header.
    #[error("the connection ended before the end of its PROXY protocol header")]
    Closed,
    /// It did not come in time.
    #[error("no whole PROXY protocol header came in time")]
    Timeout,
    /// It came from where none is believed.
    #[error("`proxyProtocol` of the listener names the addresses of proxies, and this is none of them")]
    Untrusted,
}

impl HeaderError {
    /// A constant word for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Absent => "no-proxy-header",
            Self::Malformed(_) => "bad-proxy-header",
            Self::Closed => "proxy-header-closed",
            Self::Timeout => "proxy-header-timeout",
            Self::Untrusted => "proxy-header-untrusted",
        }
    }
}

/// Reads a header and puts back what was read beyond it; `None`: the addresses are those of the socket. Not cancel
/// safe: what was read is lost.
///
/// # Errors
/// See [`HeaderError`]; the connection is closed.
pub async fn read(mut io: Io, expect: Expect, until: Instant) -> Result<(Io, Option<Addresses>), HeaderError> {
    let mut read = BytesMut::new();
    let mut patience = match expect {
        Expect::Header => until,
        Expect::Maybe { silent } | Expect::Nothing { silent } => until.min(silent),
    };
    let (addresses, length) = loop {
        match (parse(&read), expect) {
            (Parsed::Incomplete, _) => {}
            (Parsed::Absent, Expect::Header) => return Err(HeaderError::Absent),
            (Parsed::Absent, Expect::Maybe { .. } | Expect::Nothing { .. }) => break (None, 0),
            (Parsed::Malformed(_) | Parsed::Header { .. }, Expect::Nothing { .. }) => {
                return Err(HeaderError::Untrusted);
            }
            (Parsed::Malformed(why), _) => return Err(HeaderError::Malformed(why)),
            (Parsed::Header { addresses, length }, _) => break (addresses, length),
        }
        read.reserve(READ);
        match (timeout_at(patience.into(), io.read_buf(&mut read)).await, expect) {
            (Ok(Ok(1..)), _) => patience = until,
            // Nothing was said, and nothing need be: who serves the connection will see how it ends.
            (Ok(Ok(0)) | Err(_), Expect::Maybe { .. } | Expect::Nothing { .. }) if read.is_empty() => break (None, 0),
            (Ok(Ok(0) | Err(_)), _) => return Err(HeaderError::Closed),
            (Err(_), _) => return Err(HeaderError::Timeout),
        }
    };
    let mut read: Bytes = read.freeze();
    let rest = read.split_off(length);
    if !rest.is_empty() {
        // Copied, so that the header is not kept with it.
        io.unread(Bytes::copy_from_slice(&rest));
    }
    Ok((io, addresses))
}

/// Read at once: a header without extensions, and the first message behind it.
const READ: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::model::ProxyVersion;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("a connection");
        (client, Io::tcp(server))
    }

    fn later(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 1234 443\r\n";

    #[tokio::test]
    async fn what_follows_the_header_is_read_next() {
        let (mut client, io) = pair().await;
        client.write_all(&[HEADER, b"hello"].concat()).await.expect("sent");
        let (mut io, addresses) = read(io, Expect::Header, later(30)).await.expect("a header");
        client.write_all(b" world").await.expect("sent");
        drop(client);
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.expect("the rest");
        assert_eq!(rest, b"hello world");
        let addresses = addresses.expect("given");
        assert_eq!(addresses.source.to_string(), "192.0.2.1:1234");
        assert_eq!(addresses.destination.to_string(), "198.51.100.7:443");
    }

    #[tokio::test]
    async fn a_header_may_come_byte_by_byte() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let addresses = Addresses {
                source: "[2001:db8::1]:5".parse().expect("an address"),
                destination: "[2001:db8::2]:6".parse().expect("an address"),
            };
            let bytes = encode(version, Some(addresses));
            let (mut client, io) = pair().await;
            let reading = tokio::spawn(read(io, Expect::Header, later(30)));
            for byte in bytes {
                client.write_all(&[byte]).await.expect("sent");
                tokio::task::yield_now().await;
            }
            let (_, given) = reading.await.expect("no panic").expect("a header");
            assert_eq!(given, Some(addresses), "{version:?}");
        }
    }

    #[tokio::test]
    async fn without_a_header_only_an_optional_one_goes_on() {
        let (mut client, io) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
        assert_eq!(read(io, Expect::Header, later(30)).await.err(), Some(HeaderError::Absent));

        let (mut client, io) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
        drop(client);
        let (mut io, addresses) = read(io, Expect::Maybe { silent: later(30) }, later(30)).await.expect("goes on");
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.expect("the rest");
        assert_eq!((addresses, &rest[..]), (None, &b"GET / HTTP/1.1\r\n"[..]));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_no_header_and_half_a_header_is_not_waited_for() {
        let (_client, io) = pair().await;
        assert_eq!(read(io, Expect::Header, later(5)).await.err(), Some(HeaderError::Timeout));

        let (_client, io) = pair().await;
        let (_, addresses) = read(io, Expect::Maybe { silent: later(1) }, later(5)).await.expect("goes on");
        assert_eq!(addresses, None);

        let (mut client, io) = pair().await;
        client.write_all(b"PROXY TCP4 ").await.expect("sent");
        let error = read(io, Expect::Maybe { silent: later(1) }, later(5)).await.err();
        assert_eq!(error, Some(HeaderError::Timeout));
    }

    #[tokio::test]
    async fn where_none_is_believed_what_begins_with_one_is_refused() {
        for bytes in [HEADER, b"PROXY UNKNOWN\r\n", b"PROXY nonsense\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
            let (mut client, io) = pair().await;
            client.write_all(bytes).await.expect("sent");
            let error = read(io, Expect::Nothing { silent: later(30) }, later(30)).await.err();
            assert_eq!(error, Some(HeaderError::Untrusted), "{bytes:?}");
        }
        let (mut client, io) = pair().await;
        client.write_all(b"PUT / HTTP/1.1\r\n").await.expect("sent");
        drop(client);
        let (mut io, addresses) = read(io, Expect::Nothing { silent: later(30) }, later(30)).await.expect("goes on");
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.expect("the rest");
        assert_eq!((addresses, &rest[..]), (None, &b"PUT / HTTP/1.1\r\n"[..]));
    }

    #[tokio::test]
    async fn an_end_within_the_header_is_told() {
        let (mut client, io) = pair().await;
        client.write_all(&HEADER[..20]).await.expect("sent");
        drop(client);
        assert_eq!(read(io, Expect::Header, later(30)).await.err(), Some(HeaderError::Closed));
    }
}
