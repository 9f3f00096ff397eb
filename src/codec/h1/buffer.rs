//! Read and write buffers of a connection. Both give their memory back when the connection is idle.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::base::limits;
use crate::net::io::Io;

/// Bytes read and not yet understood. Reads grow from 8 KiB to 64 KiB while the peer fills them.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    pub(super) bytes: BytesMut,
    next: usize,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), next: limits::H1_READ_BUFFER }
    }
}

impl ReadBuffer {
    /// Reads once, at most `limit` bytes. `Ok(0)` is the end of the stream.
    pub(super) fn poll_fill(&mut self, io: &mut Io, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        let mut want = self.next.min(limit).max(1);
        let spare = self.bytes.capacity() - self.bytes.len();
        // What was taken out keeps its block in memory. The rest of the block is used before a new one is made:
        // a peer that sends a byte at a time would otherwise hold a block with each of them.
        if spare < want && spare >= want / 4 && spare > 0 {
            want = spare;
        } else {
            self.bytes.reserve(want);
        }
        let mut window = (&mut self.bytes).limit(want);
        let n = ready!(pin!(io.read_buf(&mut window)).poll(cx))?;
        if n == self.next && self.next < limits::H1_BODY_READ {
            self.next *= 2;
        }
        Poll::Ready(Ok(n))
    }

    /// Whether it holds memory.
    pub(super) fn is_held(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.bytes.is_empty() {
            *self = Self::default();
        }
    }

    /// Gives the memory back, of which nothing is in use. What is known of the peer's habits stays.
    pub(super) fn rest(&mut self) {
        if self.is_held() {
            self.bytes = BytesMut::new();
        }
    }

    /// A peer that fills little of what it is given is given less.
    pub(super) fn adapt(&mut self, n: usize) {
        if n < self.next / 4 && self.next > limits::H1_READ_BUFFER {
            self.next /= 2;
        }
    }
}

/// Bytes to write: heads and small chunks are copied together, large chunks are kept as they are and written
/// vectored.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    queue: VecDeque<Bytes>,
    queued: usize,
    tail: BytesMut,
}

impl WriteBuffer {
    /// Where heads are written.
    pub(super) fn head_mut(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Queues a chunk.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= limits::H1_COPY_CHUNK {
            self.tail.extend_from_slice(&data);
            return;
        }
        self.push_shared(data);
    }

    /// Queues a chunk as it is, however small: what comes one at a time and leaves at once.
    pub(super) fn push_shared(&mut self, data: Bytes) {
        if !self.tail.is_empty() {
            self.queued += self.tail.len();
            self.queue.push_back(self.tail.split().freeze());
        }
        self.queued += data.len();
        self.queue.push_back(data);
    }

    pub(super) fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes once. `Ok(0)` never comes: it is an error here.
    pub(super) fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        const SLICES: usize = 16;
        let n = if self.queue.is_empty() {
            ready!(Pin::new(io).poll_write(cx, &self.tail))?
        } else if self.queue.len() == 1 && self.tail.is_empty() {
            ready!(Pin::new(io).poll_write(cx, &self.queue[0]))?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(bytes);
                used += 1;
            }
            if used < SLICES && !self.tail.is_empty() {
                slices[used] = IoSlice::new(&self.tail);
                used += 1;
            }
            ready!(Pin::new(io).poll_write_vectored(cx, &slices[..used]))?
        };
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.consume(n);
        Poll::Ready(Ok(n))
    }

    /// Writes until nothing is left.
    pub(super) fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            ready!(self.poll_write(io, cx))?;
        }
        Pin::new(io).poll_flush(cx)
    }

    /// Whether it holds memory.
    pub(super) fn is_held(&self) -> bool {
        self.tail.capacity() > 0 || self.queue.capacity() > 0
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    fn consume(&mut self, mut n: usize) {
        while let Some(front) = self.queue.front_mut() {
            if n < front.len() {
                front.advance(n);
                self.queued -= n;
                return;
            }
            n -= front.len();
            self.queued -= front.len();
            self.queue.pop_front();
        }
        self.tail.advance(n);
        if self.tail.is_empty() {
            self.tail.clear();
        }
    }
}
