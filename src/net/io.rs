//! One connection's bytes, whatever carries them.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use outrigger_config::model::InterceptionMode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::origin;
use super::tls::TlsStream;

/// A byte stream, with whatever was already read from it while its protocol was being told apart.
#[derive(Debug)]
pub struct Io {
    prefix: Bytes,
    stream: Stream,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    /// Boxed: most connections inside a pod are plain.
    Tls(Box<TlsStream>),
}

impl Io {
    /// A plain TCP connection.
    #[must_use]
    pub fn tcp(stream: TcpStream) -> Self {
        Self { prefix: Bytes::new(), stream: Stream::Tcp(stream) }
    }

    /// A connection whose TLS handshake is done.
    pub(super) fn tls(stream: Box<TlsStream>) -> Self {
        Self { prefix: Bytes::new(), stream: Stream::Tls(stream) }
    }

    /// The socket of a plain connection, and what was read ahead.
    ///
    /// # Panics
    /// When it carries TLS: that cannot be taken apart.
    #[must_use]
    pub fn into_tcp(self) -> (Bytes, TcpStream) {
        match self.stream {
            Stream::Tcp(stream) => (self.prefix, stream),
            Stream::Tls(_) => panic!("a TLS connection is more than its socket"),
        }
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// What is under it, with TLS taken off.
    #[cfg(test)]
    pub(super) fn into_socket(self) -> TcpStream {
        match self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.into_tcp(),
        }
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.tcp(),
        }
    }

    /// Gives back bytes that were read ahead; they are read again first.
    pub fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.prefix.is_empty(), "only one prefix is ever put back");
        self.prefix = bytes;
    }

    /// Takes what was put back and not read yet.
    pub fn take_prefix(&mut self) -> Bytes {
        std::mem::take(&mut self.prefix)
    }

    /// From now on closing resets the connection, so that what was sent does not pass for all there was.
    pub fn reset_on_close(&self) {
        if let Err(error) = self.socket().set_zero_linger() {
            tracing::debug!(%error, "a connection will be closed instead of reset");
        }
    }

    /// The other side's address.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    /// Where a plain connection was going before it was redirected; `None`: nothing redirected it.
    #[must_use]
    pub fn original_destination(&self, mode: InterceptionMode) -> Option<SocketAddr> {
        origin::destination(self.socket(), mode)
    }

    /// Waits for the first byte of a plain connection, which stays where it is; `None`: it has ended. Cancel safe.
    ///
    /// # Errors
    /// When the connection has failed.
    pub async fn first_byte(&self) -> io::Result<Option<u8>> {
        if let Some(first) = self.prefix.first() {
            return Ok(Some(*first));
        }
        let mut first = [0];
        Ok(match self.socket().peek(&mut first).await? {
            0 => None,
            _ => Some(first[0]),
        })
    }

    /// Ready when a read would give something (bytes, the end or an error) without waiting, so that an idle
    /// connection needs no buffer.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Tls(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Whether an idle connection is still usable: open, and nothing unexpected came in.
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        if !self.prefix.is_empty() {
            return false;
        }
        let mut probe = [0u8; 1];
        match &mut self.stream {
            Stream::Tcp(stream) => {
                matches!(stream.try_read(&mut probe), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
            Stream::Tls(stream) => stream.is_quiet(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..n]);
            self.prefix.advance(n);
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
