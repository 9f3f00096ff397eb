//! A connection that is no longer HTTP: bytes both ways until both sides have ended theirs. The end of one direction is
//! a half-close; anything that breaks off is a reset.
//!
//! An idle tunnel holds no buffer: it waits for its sockets to have something before it makes room for that.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use tokio::io::AsyncWrite;

use super::buffer::{ReadBuffer, WriteBuffer};
use super::client::ClientConn;
use super::encode;
use super::server::{Connection, Shared};
use super::upgrade::Switch;
use crate::base::limits;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::message::{Response, ResponseHead};
use crate::net::io::Io;

/// What a server connection has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// HTTP.
    None,
    /// It was asked to become a tunnel: what has come behind the request waits for the answer.
    Asked,
    /// It is one.
    Open,
}

/// Writes the answer that agrees, and is the tunnel until it ends.
pub(super) async fn run<B: PollBody>(shared: Arc<Shared>, response: Response<B>, switch: Switch, version: Version) {
    let Response { head, mut body } = response;
    begin(&shared, &head, &switch, version);
    drop((head, switch));
    let mut down = Down::Open;
    let ended = poll_fn(|cx| poll_down(&shared, &mut body, &mut down, cx)).await;
    drop(body);
    if ended.is_err() && down != Down::Ended {
        let mut connection = shared.connection.lock();
        let connection = &mut *connection;
        // What came before the failure is the caller's; a close would pass for the end.
        let _ = connection.write.poll_flush(&mut connection.io, &mut Context::from_waker(std::task::Waker::noop()));
        connection.io.reset_on_close();
    }
}

fn begin(shared: &Shared, head: &ResponseHead, switch: &Switch, version: Version) {
    let mut connection = shared.connection.lock();
    encode::agreement(connection.write.head_mut(), head, switch, version);
    connection.tunnel = Tunnel::Open;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    Open,
    /// Everything is written but the end.
    Ending,
    Ended,
}

/// Ready when both directions have ended, or one has failed.
fn poll_down<B: PollBody>(
    shared: &Shared,
    body: &mut B,
    down: &mut Down,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BodyError>> {
    loop {
        // Whether there is no more: whoever has it will wake us.
        let mut waits = false;
        while *down == Down::Open && shared.connection.lock().write.len() < limits::H1_WRITE_HIGH_WATER {
            match body.poll_frame(cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => shared.connection.lock().write.push_piece(data),
                // A tunnel has no trailers: what came so was an end.
                Poll::Ready(Some(Ok(Frame::Trailers(_))) | None) => *down = Down::Ending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    waits = true;
                    break;
                }
            }
        }
        // Not within the match: the body takes the lock as well.
        let wrote = poll_write(&mut shared.connection.lock(), (down, waits), cx);
        match wrote {
            Poll::Ready(Ok(Wrote::Some)) => {}
            Poll::Ready(Ok(Wrote::All)) => return Poll::Pending,
            Poll::Ready(Ok(Wrote::End)) => return body.poll_rest(cx),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending if waits => return Poll::Pending,
            // Blocked on the caller: the other direction may still move.
            Poll::Pending => {
                return body.poll_progress(cx).map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending);
            }
        }
    }
}

enum Wrote {
    /// There may be more.
    Some,
    /// All there is so far.
    All,
    /// All, and the end.
    End,
}

fn poll_write(
    connection: &mut Connection,
    (down, waits): (&mut Down, bool),
    cx: &mut Context<'_>,
) -> Poll<Result<Wrote, BodyError>> {
    let Connection { io, write, .. } = connection;
    if !write.is_empty() {
        ready!(write.poll_write(io, cx))?;
        if !waits || !write.is_empty() {
            return Poll::Ready(Ok(Wrote::Some));
        }
    }
    write.release();
    Poll::Ready(Ok(match down {
        Down::Open => {
            ready!(Pin::new(io).poll_flush(cx))?;
            Wrote::All
        }
        Down::Ending => {
            ready!(Pin::new(io).poll_shutdown(cx))?;
            *down = Down::Ended;
            Wrote::End
        }
        Down::Ended => Wrote::End,
    }))
}

/// What a caller sends through a tunnel.
#[derive(Debug)]
pub struct ServerTunnel {
    shared: Arc<Shared>,
    ended: bool,
}

impl ServerTunnel {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), ended: false }
    }
}

impl PollBody for ServerTunnel {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut connection = self.shared.connection.lock();
        let connection = &mut *connection;
        if connection.tunnel != Tunnel::Open {
            // The task of the connection polls this again when it has answered.
            return Poll::Pending;
        }
        let polled = if connection.read_closed && connection.read.bytes.is_empty() {
            Poll::Ready(None)
        } else {
            poll_bytes(&mut connection.read, &mut connection.io, cx)
        };
        self.ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled.map(|read| read.map(|read| read.map(Frame::Data)))
    }

    fn poll_progress(&mut self, _cx: &mut Context<'_>) -> Result<(), BodyError> {
        Ok(())
    }

    fn is_end(&self) -> bool {
        self.ended
    }

    fn exact_len(&self) -> Option<u64> {
        None
    }
}

/// What an upstream sends through a tunnel, and the other direction. Dropping it before the way up has ended resets the
/// connection.
pub struct ClientTunnel {
    io: Io,
    read: ReadBuffer,
    write: WriteBuffer,
    upload: Body,
    up: Up,
    /// Pieces that came down since the way up had its turn.
    since_up: u32,
    down_ended: bool,
    _guard: Box<dyn Send + Sync>,
}

impl std::fmt::Debug for ClientTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTunnel")
            .field("up", &self.up)
            .field("down_ended", &self.down_ended)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Up {
    Open,
    /// Everything is written but the end.
    Ending,
    Ended,
    /// The upstream takes nothing more. What it has sent is still read.
    Failed(std::io::ErrorKind),
}

impl ClientTunnel {
    /// Of a connection that has answered so.
    pub(super) fn of(connection: ClientConn, upload: Body) -> Self {
        let ClientConn { io, read, write, guard, .. } = connection;
        Self { io, read, write, upload, up: Up::Open, since_up: 0, down_ended: false, _guard: guard }
    }

    /// A connection that was never anything else. `guard` lives as long as it does.
    #[must_use]
    pub fn over(io: Io, guard: Box<dyn Send + Sync>, upload: Body) -> Self {
        let (read, write) = (ReadBuffer::default(), WriteBuffer::default());
        Self { io, read, write, upload, up: Up::Open, since_up: 0, down_ended: false, _guard: guard }
    }

    /// Moves the way up as far as it goes in one turn. An error is the caller's.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.since_up = 0;
        let Self { io, write, .. } = self;
        let mut moves = 0;
        loop {
            let mut waits = false;
            while self.up == Up::Open && write.len() < limits::H1_WRITE_HIGH_WATER && moves < limits::MOVES {
                moves += 1;
                match self.upload.poll_frame(cx) {
                    Poll::Ready(Some(Ok(Frame::Data(data)))) => write.push_piece(data),
                    Poll::Ready(Some(Ok(Frame::Trailers(_))) | None) => self.up = Up::Ending,
                    Poll::Ready(Some(Err(_))) => return Err(BodyError::Abandoned),
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            if matches!(self.up, Up::Ended | Up::Failed(_)) {
                return Ok(());
            }
            let polled = if !write.is_empty() {
                moves += 1;
                let polled = write.poll_write(io, cx).map_ok(|_| ());
                if waits && write.is_empty() && matches!(polled, Poll::Ready(Ok(()))) {
                    // Whoever has more will wake us.
                    write.release();
                    let _ = Pin::new(&mut *io).poll_flush(cx);
                    return Ok(());
                }
                polled
            } else if self.up == Up::Ending {
                Pin::new(&mut *io).poll_shutdown(cx).map_ok(|()| self.up = Up::Ended)
            } else {
                write.release();
                let _ = Pin::new(&mut *io).poll_flush(cx);
                return Ok(());
            };
            match polled {
                Poll::Ready(Ok(())) if moves < limits::MOVES => {}
                Poll::Ready(Ok(())) => {
                    // The way down has its turn, and so have other tasks.
                    cx.waker().wake_by_ref();
                    return Ok(());
                }
                Poll::Ready(Err(error)) => {
                    self.up = Up::Failed(error.kind());
                    *write = WriteBuffer::default();
                    self.upload = Body::Empty;
                    return Ok(());
                }
                Poll::Pending if waits => return Ok(()),
                Poll::Pending => return self.upload.poll_progress(cx).map_err(|_| BodyError::Abandoned),
            }
        }
    }
}

impl PollBody for ClientTunnel {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.down_ended {
            return Poll::Ready(None);
        }
        // Whoever is given a piece asks for the next one, or for progress: the way up has its turn then, and while one
        // follows the other here.
        if self.since_up >= limits::MOVES
            && let Err(error) = self.poll_up(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = poll_bytes(&mut self.read, &mut self.io, cx);
        match polled {
            Poll::Ready(Some(Ok(data))) => {
                self.since_up += 1;
                return Poll::Ready(Some(Ok(Frame::Data(data))));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(None) | Poll::Pending => {}
        }
        if let Err(error) = self.poll_up(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        ready!(polled);
        self.down_ended = true;
        Poll::Ready(match self.up {
            Up::Failed(kind) => Some(Err(BodyError::Io(kind))),
            Up::Open | Up::Ending | Up::Ended => None,
        })
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.poll_up(cx)
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Err(error) = self.poll_up(cx) {
            return Poll::Ready(Err(error));
        }
        match self.up {
            Up::Ended => Poll::Ready(Ok(())),
            Up::Failed(kind) => Poll::Ready(Err(BodyError::Io(kind))),
            Up::Open | Up::Ending => Poll::Pending,
        }
    }

    fn is_end(&self) -> bool {
        self.down_ended
    }

    fn exact_len(&self) -> Option<u64> {
        None
    }
}

impl Drop for ClientTunnel {
    fn drop(&mut self) {
        if self.up != Up::Ended {
            self.io.reset_on_close();
        }
    }
}

/// The next bytes of a connection; `None` at their end. Buffers are given back while there is nothing.
fn poll_bytes(read: &mut ReadBuffer, io: &mut Io, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
    loop {
        if !read.bytes.is_empty() {
            return Poll::Ready(Some(Ok(read.bytes.split().freeze())));
        }
        if !read.is_filled() {
            return read.poll_little(io, cx).map(|result| match result {
                Ok(bytes) if bytes.is_empty() => None,
                Ok(bytes) => Some(Ok(bytes)),
                Err(error) => Some(Err(BodyError::Io(error.kind()))),
            });
        }
        if io.poll_read_ready(cx).is_pending() {
            read.rest();
            return Poll::Pending;
        }
        match read.poll_fill(io, cx, limits::H1_BODY_READ) {
            Poll::Ready(Ok(0)) => return Poll::Ready(None),
            Poll::Ready(Ok(n)) => read.adapt(n),
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(BodyError::Io(error.kind())))),
            Poll::Pending => {
                read.rest();
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::codec::prefixed::PrefixedBody;

    #[tokio::test]
    async fn small_pieces_that_a_server_does_not_take_are_put_together() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let _deaf = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        // The way is full, and what comes are single bytes, each out of a large buffer.
        let buffer = Bytes::from(vec![7; 64 << 10]);
        while tokio::time::timeout(Duration::from_millis(100), stream.writable()).await.is_ok() {
            let _ = stream.try_write(&buffer);
        }
        let upload = PrefixedBody::of((0..buffer.len()).map(move |at| buffer.slice(at..=at)), None);
        let mut tunnel = ClientTunnel::over(Io::tcp(stream), Box::new(()), upload);
        let mut held = 0;
        while tunnel.write.len() < 10_000 {
            let polled = poll_fn(|cx| Poll::Ready(tunnel.poll_frame(cx))).await;
            assert!(polled.is_pending(), "{polled:?}");
            held = held.max(tunnel.write.pieces());
        }
        assert!(held < 5, "{held} pieces are held");
    }

    #[tokio::test]
    async fn the_way_up_has_its_turn_while_pieces_come_down_without_a_pause() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut server = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut io = Io::tcp(stream);
        io.unread(Bytes::from(vec![7; 4 << 20]));
        let upload = Body::Full(Bytes::from_static(b"heard"));
        let mut tunnel = ClientTunnel::over(io, Box::new(()), upload);
        for _ in 0..=limits::MOVES {
            let piece = poll_fn(|cx| Poll::Ready(tunnel.poll_frame(cx))).await;
            assert!(matches!(piece, Poll::Ready(Some(Ok(Frame::Data(_))))), "{piece:?}");
        }
        assert_eq!(tunnel.up, Up::Ended);
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.expect("received");
        assert_eq!(&heard, b"heard");
    }
}
