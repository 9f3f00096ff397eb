//! What the peer says outside of requests: its control stream and those of QPACK.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, RecvStream};

use super::code::Code;
use super::control::{self, Control, Event};
use super::frames::{Broken, Side};
use super::lost;
use super::qpack::{DECODER_STREAM, DecoderStream, ENCODER_STREAM, EncoderStream};
use super::varint::Partial;

/// The type of a stream with a pushed response.
const PUSH: u64 = 0x1;
/// Streams of unknown types, over the life of a connection.
const UNKNOWN_STREAMS: u32 = 1024;
/// Streams that a peer may have open at once: the three that have a meaning, and some that have none.
pub(super) const OPEN_STREAMS: u32 = 16;

/// Listens for as long as the connection lives, and closes it when the peer breaks a rule. Ends with the connection.
/// `requests`: how many the peer has made.
pub(super) async fn listen(
    connection: Connection,
    side: Side,
    requests: impl Fn() -> u64,
    mut hear: impl FnMut(Event),
) -> ConnectionError {
    let connection = &connection;
    let mut accept = pin!(connection.accept_uni());
    let mut peer = Peer { side, streams: Vec::new(), seen: Seen::default(), unknown: 0 };
    poll_fn(move |cx| {
        loop {
            match accept.as_mut().poll(cx) {
                Poll::Ready(Ok(stream)) => {
                    peer.streams.push(Stream { stream, chunk: Bytes::new(), kind: Kind::Unknown(Partial::default()) });
                    accept.set(connection.accept_uni());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => break,
            }
        }
        if let Err(broken) = peer.poll(cx, &requests, &mut hear) {
            lost::close(connection, broken);
            return Poll::Ready(ConnectionError::LocallyClosed);
        }
        Poll::Pending
    })
    .await
}

struct Peer {
    side: Side,
    streams: Vec<Stream>,
    seen: Seen,
    unknown: u32,
}

/// Each may be there once (RFC 9114 section 6.2.1, RFC 9204 section 4.2).
#[derive(Default)]
struct Seen {
    control: bool,
    encoder: bool,
    decoder: bool,
}

struct Stream {
    stream: RecvStream,
    chunk: Bytes,
    kind: Kind,
}

enum Kind {
    /// Its type has not come.
    Unknown(Partial),
    Control(Control),
    Encoder(EncoderStream),
    Decoder(DecoderStream),
}

impl Peer {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        requests: &impl Fn() -> u64,
        hear: &mut impl FnMut(Event),
    ) -> Result<(), Broken> {
        let mut at = 0;
        while at < self.streams.len() {
            match self.streams[at].poll(cx, (self.side, &mut self.seen), requests, hear)? {
                Poll::Pending => at += 1,
                Poll::Ready(Ended::Early) => {
                    self.streams.swap_remove(at);
                }
                Poll::Ready(Ended::Meaningless) => {
                    self.unknown += 1;
                    if self.unknown > UNKNOWN_STREAMS {
                        return Err(Broken::new(Code::EXCESSIVE_LOAD, "too many streams of unknown types"));
                    }
                    // No connection error (RFC 9114 section 6.2.3).
                    let mut unknown = self.streams.swap_remove(at);
                    let _ = unknown.stream.stop(Code::STREAM_CREATION_ERROR.var());
                }
            }
        }
        Ok(())
    }
}

/// A stream that is looked at no more.
enum Ended {
    /// Before its type came, which is allowed (RFC 9114 section 6.2), or with the connection.
    Early,
    /// It has a type that means nothing to us.
    Meaningless,
}

impl Stream {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (side, seen): (Side, &mut Seen),
        requests: &impl Fn() -> u64,
        hear: &mut impl FnMut(Event),
    ) -> Result<Poll<Ended>, Broken> {
        loop {
            let input = &mut self.chunk;
            match &mut self.kind {
                Kind::Unknown(partial) => {
                    if let Some(kind) = partial.take(input) {
                        match kind_of(kind, side, seen)? {
                            Some(kind) => self.kind = kind,
                            None => return Ok(Poll::Ready(Ended::Meaningless)),
                        }
                        continue;
                    }
                }
                Kind::Control(control) => {
                    control.note_requests(requests());
                    while let Some(event) = control.next(input)? {
                        hear(event);
                    }
                }
                Kind::Encoder(instructions) => instructions.feed(&std::mem::take(input))?,
                Kind::Decoder(instructions) => instructions.feed(&std::mem::take(input))?,
            }
            let read = match pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(read) => read,
            };
            match (read, &self.kind) {
                (Ok(Some(chunk)), _) => self.chunk = chunk.bytes,
                // Everything ends with the connection.
                (Err(ReadError::ConnectionLost(_) | ReadError::ZeroRttRejected), _) => return Ok(Poll::Pending),
                (Ok(None) | Err(_), Kind::Unknown(_)) => return Ok(Poll::Ready(Ended::Early)),
                (Ok(None) | Err(_), Kind::Control(_) | Kind::Encoder(_) | Kind::Decoder(_)) => return Err(CLOSED),
            }
        }
    }
}

fn kind_of(kind: u64, side: Side, seen: &mut Seen) -> Result<Option<Kind>, Broken> {
    let (before, kind) = match kind {
        control::STREAM => (&mut seen.control, Kind::Control(Control::new(side))),
        ENCODER_STREAM => (&mut seen.encoder, Kind::Encoder(EncoderStream::default())),
        DECODER_STREAM => (&mut seen.decoder, Kind::Decoder(DecoderStream::default())),
        // RFC 9114 section 6.2.2: only servers push; and we never allow them to (section 4.6).
        PUSH if side == Side::Server => return Err(Broken::new(Code::STREAM_CREATION_ERROR, "a push from a client")),
        PUSH => return Err(Broken::new(Code::ID_ERROR, "a push, which was not allowed")),
        _ => return Ok(None),
    };
    if std::mem::replace(before, true) {
        return Err(Broken::new(Code::STREAM_CREATION_ERROR, "a second stream of a type that may be there once"));
    }
    Ok(Some(kind))
}

/// Sees to it that the peer does not stop our control stream, which ends the connection (RFC 9114 section 6.2.1).
pub(super) async fn keep(connection: Connection, stopped: impl Future<Output = ()>) {
    stopped.await;
    if connection.close_reason().is_none() {
        lost::close(&connection, CLOSED);
    }
}

pub(super) const CLOSED: Broken = Broken::new(Code::CLOSED_CRITICAL_STREAM, "a critical stream was closed");
