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

/// What is spoken where connections that are not HTTP are handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// A version of HTTP.
    Http(Protocol),
    /// Something else, or nothing: the server speaks first.
    Other,
}

/// Reads until it is known whether HTTP is spoken, and puts what was read back. Who says nothing for as long as
/// `patience` waits for the server to begin, which no client of HTTP does. Not cancel safe: bytes read are lost.
///
/// # Errors
/// [`Undetected::Closed`] when the caller closed before it said anything.
pub async fn detect_any(mut io: Io, patience: Duration) -> Result<(Io, Spoken), Undetected> {
    let until = Instant::now() + patience;
    let mut head = Bytes::new();
    let spoken = loop {
        if let Some(spoken) = spoken(&head) {
            break spoken;
        }
        match timeout_at(until, read_some(&mut io)).await {
            Ok(Ok(more)) => head = [head, more].concat().into(),
            // The end is read again by whoever gets the connection.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof && !head.is_empty() => break Spoken::Other,
            Ok(Err(_)) => return Err(Undetected::Closed),
            Err(_) => break Spoken::Other,
        }
    };
    if !head.is_empty() {
        io.unread(head);
    }
    Ok((io, spoken))
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

/// `None` while the bytes may become a request line (RFC 9112 section 3) or the preface.
fn spoken(bytes: &[u8]) -> Option<Spoken> {
    if bytes.starts_with(PREFACE) {
        return Some(Spoken::Http(Protocol::Http2));
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    // One empty line before it may be left over from a request before (RFC 9112 section 2.2).
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if matches!(bytes, b"" | b"\r") {
        return None;
    }
    let method = bytes.iter().position(|byte| !is_token(*byte)).unwrap_or(bytes.len());
    if method > LONGEST_METHOD {
        return Some(Spoken::Other);
    }
    let (method, rest) = bytes.split_at(method);
    match rest {
        [] => return None,
        [b' ', ..] if !method.is_empty() => {}
        _ => return Some(Spoken::Other),
    }
    let target = &rest[1..];
    // No other protocol that is known begins like this, and a long path need not be waited for.
    if METHODS.contains(&method) && target.starts_with(b"/") {
        return Some(Spoken::Http(Protocol::Http1));
    }
    let Some(end) = target.iter().position(|byte| *byte == b'\n') else {
        return (target.len() >= LONGEST_LINE || target.first() == Some(&b' ')).then_some(Spoken::Other);
    };
    let line = target[..end].strip_suffix(b"\r").unwrap_or(&target[..end]);
    let mut words = line.split(|byte| *byte == b' ');
    let version = words.nth(1).filter(|version| version.starts_with(b"HTTP/")).filter(|_| words.next().is_none());
    Some(version.map_or(Spoken::Other, |_| Spoken::Http(Protocol::Http1)))
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Methods that make a request of what begins with them and a path.
const METHODS: [&[u8]; 8] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"];
/// The longest registered method has 16 letters.
const LONGEST_METHOD: usize = 32;
/// What is looked at of a request line with an unusual method or target.
const LONGEST_LINE: usize = 4096;

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

    #[test]
    fn requests_are_told_from_other_protocols() {
        let http = Some(Spoken::Http(Protocol::Http1));
        for (text, expected) in [
            ("", None),
            ("\r\n", None),
            ("G", None),
            ("GET", None),
            ("GET ", None),
            ("GET /", http),
            ("\r\nGET /", http),
            ("GET http://a/", None),
            ("GET http://a/ HTTP/1.1\r\n", http),
            ("OPTIONS * HTTP/1.1\r\n", http),
            ("CONNECT a:1 HTTP/1.1\n", http),
            ("CONNECT a:1", None),
            ("PROPFIND / HTTP/1.1\r\nhost: a\r\n", http),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http(Protocol::Http2))),
            ("PRI * HTTP/2.0\r\n", None),
            // Redis, both ways; SMTP; memcached; SSH; PostgreSQL; MySQL never says anything first.
            ("*1\r\n$4\r\nPING\r\n", Some(Spoken::Other)),
            ("PING\r\n", Some(Spoken::Other)),
            ("GET key\r\n", Some(Spoken::Other)),
            ("SET key value\r\n", Some(Spoken::Other)),
            ("EHLO mail.example\r\n", Some(Spoken::Other)),
            ("get key\r\n", Some(Spoken::Other)),
            ("SSH-2.0-OpenSSH_9\r\n", Some(Spoken::Other)),
            ("\0\0\0\u{8}\u{4}\u{2}\u{16}/", Some(Spoken::Other)),
            ("\u{16}\u{3}\u{1}", Some(Spoken::Other)),
            (" GET / HTTP/1.1\r\n", Some(Spoken::Other)),
            ("GET  / HTTP/1.1\r\n", Some(Spoken::Other)),
            ("GET a HTTP/1.1 b\r\n", Some(Spoken::Other)),
        ] {
            assert_eq!(spoken(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(spoken(&[b'A'; 33]), Some(Spoken::Other));
        assert_eq!(spoken([&b"A "[..], &[b'x'; 5000]].concat().as_slice()), Some(Spoken::Other));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_what_is_left_unfinished_are_no_http() {
        let patience = Duration::from_secs(1);
        let (mut client, io) = pair().await;
        let (mut io, spoken) = detect_any(io, patience).await.expect("decided");
        assert_eq!(spoken, Spoken::Other);
        // The server begins, and nothing was lost.
        io.write_all(b"220 ready").await.expect("sent");
        client.read_exact(&mut [0; 9]).await.expect("received");

        for (bytes, close) in [(&b"GE"[..], false), (b"GET", true), (b"PRI * HTTP", false)] {
            let (mut client, io) = pair().await;
            client.write_all(bytes).await.expect("sent");
            if close {
                client.shutdown().await.expect("closed");
            }
            let (io, spoken) = detect_any(io, patience).await.expect("decided");
            assert_eq!(spoken, Spoken::Other, "{bytes:?}");
            drop(client);
            assert_eq!(read_all(io).await, bytes);
        }
        let (client, io) = pair().await;
        drop(client);
        assert_eq!(detect_any(io, patience).await.err(), Some(Undetected::Closed));
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
