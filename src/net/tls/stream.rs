//! A TLS connection over TCP, after and during its handshake.
//!
//! Written plaintext is encrypted at once and may wait here for the socket: a writer that has nothing more to
//! write must flush, read, or wait to read, all of which push it out. The next write waits until it is out, so
//! that never more than one write is held.

use std::cell::RefCell;
use std::io::{self, BufRead as _, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::gate;
use super::peer::Peer;
use super::refusal::{HandshakeError, PeerAlert, Refusal, noted};
use crate::base::limits;

thread_local! {
    /// Where records are read to, whole ones (RFC 8446 section 5.1): the library alone reads 4 KiB. Nothing stays in it between two calls.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::TLS_READ].into_boxed_slice());
}

/// A TLS connection.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Connection,
    /// Records that were read and not yet taken by the session.
    ahead: Bytes,
    closing: bool,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl TlsStream {
    /// A connection whose handshake is yet to come. `ahead` was already read from the socket.
    pub(super) fn new(tcp: TcpStream, ahead: Bytes, session: Connection) -> Box<Self> {
        Box::new(Self { tcp, session, ahead, closing: false })
    }

    pub(super) fn session(&self) -> &Connection {
        &self.session
    }

    pub(super) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Runs the handshake to its end, each step in its turn. The peer, if a certificate was verified in it.
    pub(super) async fn handshake(&mut self) -> Result<Option<Peer>, HandshakeError> {
        let mut peer = None;
        loop {
            std::future::poll_fn(|cx| self.poll_drain(cx)).await.map_err(HandshakeError::Io)?;
            if !self.session.is_handshaking() {
                return Ok(peer);
            }
            let read = std::future::poll_fn(|cx| self.poll_records(cx)).await.map_err(HandshakeError::Io)?;
            if read == 0 {
                return Err(HandshakeError::Closed);
            }
            let (result, verdict) = gate::step(|| {
                let _ = noted();
                (self.session.process_new_packets(), noted())
            })
            .await;
            let refused: Option<Refusal> = match verdict {
                Some(Ok(verified)) => {
                    peer = Some(verified);
                    None
                }
                Some(Err(refusal)) => Some(refusal),
                None => None,
            };
            if let Err(error) = result {
                // The alert, as far as the socket takes it.
                let _ = std::future::poll_fn(|cx| Poll::Ready(self.poll_drain(cx))).await;
                return Err(HandshakeError::from_tls(error, refused));
            }
        }
    }

    /// Reads into the session without processing. `Ok(0)` is the end.
    fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ahead.is_empty() {
            let mut socket = Socket { tcp: &mut self.tcp, cx };
            return match self.session.read_tls(&mut socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                result => Poll::Ready(result),
            };
        }
        let n = self.session.read_tls(&mut self.ahead.as_ref())?;
        self.ahead.advance(n);
        Poll::Ready(Ok(n))
    }

    /// Ready when plaintext, the end or an error can be taken from the session.
    fn poll_plaintext(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.session.wants_write() {
            // What was written before may be stuck; whoever reads waits for the answer to it.
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        while self.session.wants_read() {
            if self.ahead.is_empty() {
                let received = ready!(SCRATCH.with_borrow_mut(|scratch| {
                    let mut buffer = ReadBuf::new(scratch);
                    ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buffer))?;
                    Poll::Ready(self.take(buffer.filled()))
                }))?;
                if received == 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let ahead = std::mem::take(&mut self.ahead);
                self.take(&ahead)?;
            }
            if self.session.wants_write() {
                // An answer to a key update.
                if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives records to the session; what it does not take is kept. An empty slice is the end.
    fn take(&mut self, mut records: &[u8]) -> io::Result<usize> {
        let all = records.len();
        loop {
            self.session.read_tls(&mut records)?;
            if let Err(error) = self.session.process_new_packets() {
                let mut socket = TrySocket(&self.tcp);
                // The alert, as far as the socket takes it.
                let _ = self.session.write_tls(&mut socket);
                return Err(failure(error));
            }
            if records.is_empty() {
                return Ok(all);
            }
            if !self.session.wants_read() {
                self.ahead = Bytes::copy_from_slice(records);
                return Ok(all);
            }
        }
    }

    /// Writes out what is encrypted.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut socket = Socket { tcp: &mut self.tcp, cx };
            match self.session.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// See [`Io::poll_read_ready`](crate::net::io::Io::poll_read_ready). Records without plaintext (session
    /// tickets, key updates) are processed and do not count.
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_plaintext(cx)
    }

    /// See [`Io::is_quiet`](crate::net::io::Io::is_quiet). Session tickets are taken and do not count.
    pub(crate) fn is_quiet(&mut self) -> bool {
        while self.session.wants_read() && self.ahead.is_empty() {
            let received = SCRATCH.with_borrow_mut(|scratch| match self.tcp.try_read(scratch) {
                Ok(n) => self.take(&scratch[..n]).map(|_| n),
                Err(error) => Err(error),
            });
            match received {
                Ok(n) if n > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                _ => return false,
            }
        }
        false
    }

    fn encrypt(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut Connection) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let n = write(&mut self.session)?;
        let mut sent = false;
        while self.session.wants_write() {
            let mut socket = Socket { tcp: &mut self.tcp, cx };
            match self.session.write_tls(&mut socket) {
                Ok(written) if written > 0 => sent = true,
                // Whoever is told of a failure may send the same to somebody else: so it is told here only if
                // nothing went out, and by the next call otherwise.
                Err(error) if !sent && error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => break,
            }
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_plaintext(cx))?;
            let mut reader = self.session.reader();
            let plaintext = match reader.fill_buf() {
                // The end without notice is an error of this kind: what came before may have been cut short.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                result => result?,
            };
            let n = plaintext.len().min(buf.remaining());
            buf.put_slice(&plaintext[..n]);
            reader.consume(n);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.encrypt(cx, |session| session.writer().write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.encrypt(cx, |session| session.writer().write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            self.session.send_close_notify();
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What ended a connection after its handshake.
fn failure(error: rustls::Error) -> io::Error {
    match error {
        rustls::Error::AlertReceived(alert) => io::Error::new(io::ErrorKind::ConnectionAborted, PeerAlert(alert)),
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// The socket for the library, which knows blocking calls only.
struct Socket<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn blocking<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Socket<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        blocking(Pin::new(&mut *self.tcp).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.tcp).poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket where nobody waits.
struct TrySocket<'a>(&'a TcpStream);

impl Write for TrySocket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
