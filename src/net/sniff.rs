//! Telling HTTP/2 with prior knowledge (RFC 9113 section 3.3) from HTTP/1 by the first bytes.
//!
//! A connection that says nothing is given the time of a request head: clients open connections ahead of use,
//! and closing one early costs them a request. Once a byte came there is no reason to dawdle: what still could
//! be the preface must become it within the detection timeout. Anything else is HTTP/1 from its first
//! differing byte on.
//!
//! And telling TLS from plaintext, where both are allowed, and reading a ClientHello where TLS is handed on.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::hello::{self, ClientHello, Peeked};
use super::io::Io;

/// The bytes that every HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Read at once: most request heads fit, and the codec then need not read again.
const FIRST_READ: usize = 512;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Why the protocol could not be told. The connection is closed without an answer, because there is no
/// protocol to answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undetected {
    /// The caller closed before it said anything that decides.
    Closed,
    /// Nothing came in time.
    Silent,
    /// A part of the preface came and no more.
    Stalled,
}

/// How long detection may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To the first byte.
    pub silent: Duration,
    /// From the first byte to the decision.
    pub started: Duration,
}

/// Reads until the protocol is known and puts what was read back. Not cancel safe: bytes read are lost.
///
/// # Errors
/// When it cannot be told; the connection is closed then.
pub async fn detect(io: Io, patience: Patience) -> Result<(Io, Protocol), Undetected> {
    read_until(io, patience, decide).await
}

/// Whether a connection begins as TLS does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// A TLS handshake.
    Tls,
    /// Anything else.
    Plain,
}

/// Reads until it is known whether TLS is spoken, and puts what was read back. Not cancel safe: bytes read are
/// lost.
///
/// # Errors
/// When it cannot be told; the connection is closed then.
pub async fn first(io: Io, patience: Patience) -> Result<(Io, First), Undetected> {
    let decide = |bytes: &[u8]| hello::is_tls(bytes).map(|tls| if tls { First::Tls } else { First::Plain });
    read_until(io, patience, decide).await
}

/// Reads a ClientHello and puts what was read back; `None` is something else, or a ClientHello that breaks the
/// rules. Not cancel safe: bytes read are lost.
///
/// # Errors
/// When it does not come; the connection is closed then.
pub async fn client_hello(io: Io, patience: Patience) -> Result<(Io, Option<ClientHello>), Undetected> {
    let decide = |bytes: &[u8]| match hello::peek(bytes) {
        Peeked::Incomplete => None,
        Peeked::NotTls => Some(None),
        Peeked::Hello(hello) => Some(Some(hello)),
    };
    read_until(io, patience, decide).await
}

async fn read_until<T>(
    mut io: Io,
    patience: Patience,
    decide: impl Fn(&[u8]) -> Option<T>,
) -> Result<(Io, T), Undetected> {
    let first = timeout(patience.silent, read_some(&mut io)).await.map_err(|_| Undetected::Silent)?;
    let mut head = first.map_err(|_| Undetected::Closed)?;
    let until = Instant::now() + patience.started;
    let decided = loop {
        if let Some(decided) = decide(&head) {
            break decided;
        }
        let more = timeout_at(until, read_some(&mut io)).await.map_err(|_| Undetected::Stalled)?;
        head = [head, more.map_err(|_| Undetected::Closed)?].concat().into();
    };
    io.unread(head);
    Ok((io, decided))
}

/// One read that gives at least a byte. The buffer is on the stack of the poll, so that a connection opened
/// ahead of use costs only itself while it is silent.
async fn read_some(io: &mut Io) -> io::Result<Bytes> {
    poll_fn(|cx| {
        let mut space = [0; FIRST_READ];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer))?;
        Poll::Ready(match buffer.filled() {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok(Bytes::copy_from_slice(bytes)),
        })
    })
    .await
}

/// `None` while the bytes are a beginning of the preface.
fn decide(bytes: &[u8]) -> Option<Protocol> {
    if bytes.starts_with(PREFACE) {
        Some(Protocol::Http2)
    } else if PREFACE.starts_with(bytes) {
        None
    } else {
        Some(Protocol::Http1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const PATIENT: Patience = Patience { silent: Duration::from_secs(30), started: Duration::from_secs(30) };

    async fn pair() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("a connection");
        (client, Io::tcp(server))
    }

    async fn read_all(mut io: Io) -> Vec<u8> {
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.expect("the bytes");
        all
    }

    #[test]
    fn only_the_whole_preface_is_http2() {
        for cut in 0..PREFACE.len() {
            assert_eq!(decide(&PREFACE[..cut]), None, "{cut} bytes");
        }
        assert_eq!(decide(PREFACE), Some(Protocol::Http2));
        assert_eq!(decide(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Some(Protocol::Http2));
        for text in ["GET / HTTP/1.1\r\n", "POST", "PRI * HTTP/1.1", "PRIX", "\x16\x03\x01", "\0"] {
            assert_eq!(decide(text.as_bytes()), Some(Protocol::Http1), "{text:?}");
        }
    }

    #[tokio::test]
    async fn tls_and_plaintext_are_told_apart() {
        for (bytes, expected) in
            [(&b"\x16\x03\x01rest"[..], First::Tls), (b"GET /", First::Plain), (b"\x16G", First::Plain)]
        {
            let (mut client, io) = pair().await;
            client.write_all(bytes).await.expect("sent");
            client.shutdown().await.expect("closed");
            let (io, first) = first(io, PATIENT).await.expect("detected");
            assert_eq!(first, expected, "{bytes:?}");
            assert_eq!(read_all(io).await, bytes, "and nothing is lost");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_hello_that_stops_is_not_waited_for() {
        let (mut client, io) = pair().await;
        client.write_all(b"\x16\x03\x01\x02\x00\x01").await.expect("sent");
        let error = client_hello(io, PATIENT).await.expect_err("not detected");
        assert_eq!(error, Undetected::Stalled);
        let (mut client, io) = pair().await;
        client.write_all(b"\x16\x03\x01\x02\x00\x02").await.expect("sent");
        let (_, hello) = client_hello(io, PATIENT).await.expect("decided");
        assert_eq!(hello, None, "another message");
    }

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let (mut client, io) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
        let (io, protocol) = detect(io, PATIENT).await.expect("detected");
        client.write_all(b"rest").await.expect("sent");
        drop(client);
        assert_eq!(protocol, Protocol::Http1);
        assert_eq!(read_all(io).await, b"GET / HTTP/1.1\r\n\r\nrest");
    }

    #[tokio::test]
    async fn a_preface_in_single_bytes_is_http2() {
        let (mut client, io) = pair().await;
        let detecting = tokio::spawn(detect(io, PATIENT));
        for byte in PREFACE {
            client.write_all(&[*byte]).await.expect("sent");
            client.flush().await.expect("sent");
            tokio::task::yield_now().await;
        }
        let (io, protocol) = detecting.await.expect("no panic").expect("detected");
        drop(client);
        assert_eq!(protocol, Protocol::Http2);
        assert_eq!(read_all(io).await, PREFACE);
    }

    #[tokio::test]
    async fn a_caller_that_closes_early_is_told_apart_from_one_that_dawdles() {
        let (client, io) = pair().await;
        drop(client);
        assert_eq!(detect(io, PATIENT).await.err(), Some(Undetected::Closed));

        let (mut client, io) = pair().await;
        client.write_all(b"PRI * ").await.expect("sent");
        drop(client);
        assert_eq!(detect(io, PATIENT).await.err(), Some(Undetected::Closed));
    }

    #[tokio::test]
    async fn silence_ends_after_its_time() {
        let (_client, io) = pair().await;
        let patience = Patience { silent: Duration::from_millis(20), ..PATIENT };
        assert_eq!(detect(io, patience).await.err(), Some(Undetected::Silent));
    }

    #[tokio::test]
    async fn half_a_preface_ends_after_its_own_time() {
        let (mut client, io) = pair().await;
        client.write_all(b"PRI * HTTP/2.0\r\n").await.expect("sent");
        let patience = Patience { started: Duration::from_millis(20), ..PATIENT };
        assert_eq!(detect(io, patience).await.err(), Some(Undetected::Stalled));
    }
}
