//! Read and write buffers of a connection. Both give their memory back when the connection is idle.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead as _, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::base::limits;
use crate::net::io::Io;

thread_local! {
    /// Where little is read to. Nothing stays in it between two calls.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::H1_READ_BUFFER].into_boxed_slice());
}

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

    /// Whether the peer fills more than the smallest read.
    pub(super) fn is_filled(&self) -> bool {
        self.next > limits::H1_READ_BUFFER
    }

    /// Reads once, from a peer that sends little at a time and of which nothing is held: the bytes, in memory of just
    /// their size, so that what waits for them needs none. Empty at the end of the stream.
    pub(super) fn poll_little(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        debug_assert!(self.bytes.is_empty(), "what was read before comes first");
        self.rest();
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
            if buffer.remaining() == 0 {
                self.next = limits::H1_READ_BUFFER * 2;
            }
            Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
        })
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
    /// What comes alone needs no queue.
    first: Bytes,
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

    /// Queues a piece as it comes, however small, when nothing is before it: it mostly leaves at once. Small ones behind
    /// others are put together: each may keep a whole buffer alive that it came in.
    pub(super) fn push_piece(&mut self, data: Bytes) {
        if self.is_empty() { self.push_shared(data) } else { self.push(data) }
    }

    /// Queues a chunk as it is.
    fn push_shared(&mut self, data: Bytes) {
        if !self.tail.is_empty() {
            self.queued += self.tail.len();
            self.queue.push_back(self.tail.split().freeze());
        }
        self.queued += data.len();
        if self.queued == data.len() {
            self.first = data;
        } else {
            self.queue.push_back(data);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// Pieces that are kept as they came.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.queue.len() + usize::from(!self.first.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes once. `Ok(0)` never comes: it is an error here.
    pub(super) fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        const SLICES: usize = 16;
        let n = if self.queued == 0 {
            ready!(Pin::new(io).poll_write(cx, &self.tail))?
        } else if self.len() == self.first.len() {
            ready!(Pin::new(io).poll_write(cx, &self.first))?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            let queued = Some(&self.first).filter(|first| !first.is_empty()).into_iter().chain(&self.queue);
            for (slice, bytes) in slices.iter_mut().zip(queued) {
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
        if self.is_held() && self.is_empty() {
            *self = Self::default();
        }
    }

    fn consume(&mut self, mut n: usize) {
        if n < self.first.len() {
            self.first.advance(n);
            self.queued -= n;
            return;
        }
        n -= self.first.len();
        self.queued -= self.first.len();
        self.first = Bytes::new();
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        (peer, Io::tcp(stream))
    }

    #[tokio::test]
    async fn little_is_read_into_memory_of_its_size() {
        let (mut peer, mut io) = pair().await;
        let mut read = ReadBuffer::default();
        for message in [&b"one"[..], b"and another"] {
            peer.write_all(message).await.expect("sent");
            assert_eq!(poll_fn(|cx| read.poll_little(&mut io, cx)).await.expect("read"), message);
            assert!(!read.is_held() && !read.is_filled());
        }
        drop(peer);
        assert!(poll_fn(|cx| read.poll_little(&mut io, cx)).await.expect("the end").is_empty());
    }

    #[tokio::test]
    async fn whoever_fills_the_smallest_read_is_given_more_until_it_does_not() {
        let (_peer, mut io) = pair().await;
        let mut read = ReadBuffer::default();
        io.unread(Bytes::from(vec![7; limits::H1_READ_BUFFER]));
        let piece = poll_fn(|cx| read.poll_little(&mut io, cx)).await.expect("read");
        assert_eq!((piece.len(), read.is_filled()), (limits::H1_READ_BUFFER, true));
        read.adapt(100);
        assert!(!read.is_filled());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Head(usize),
        Shared(usize),
        Consume(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..40).prop_map(Step::Head),
            (1usize..40).prop_map(Step::Shared),
            (1usize..100).prop_map(Step::Consume),
        ]
    }

    proptest! {
        #[test]
        fn what_is_queued_leaves_in_order(steps in proptest::collection::vec(step(), 1..60)) {
            let mut next = 0u8;
            let mut some = |n: usize| -> Vec<u8> {
                (0..n).map(|_| { next = next.wrapping_add(1); next }).collect()
            };
            let (mut buffer, mut expected) = (WriteBuffer::default(), VecDeque::new());
            for step in steps {
                match step {
                    Step::Head(n) => {
                        let bytes = some(n);
                        buffer.head_mut().extend_from_slice(&bytes);
                        expected.extend(bytes);
                    }
                    Step::Shared(n) => {
                        let bytes = some(n);
                        buffer.push_shared(bytes.clone().into());
                        expected.extend(bytes);
                    }
                    Step::Consume(n) => {
                        let n = n.min(expected.len());
                        buffer.consume(n);
                        expected.drain(..n);
                    }
                }
                prop_assert_eq!(buffer.len(), expected.len());
                let slices = std::iter::once(&buffer.first[..])
                    .chain(buffer.queue.iter().map(|bytes| &bytes[..]))
                    .chain([&buffer.tail[..]]);
                prop_assert_eq!(slices.flatten().copied().collect::<VecDeque<u8>>(), expected.clone());
            }
        }
    }

    #[tokio::test]
    async fn one_piece_and_several_are_written_alike() {
        use tokio::io::AsyncReadExt as _;
        let (mut peer, mut io) = pair().await;
        let mut buffer = WriteBuffer::default();
        let mut written = Vec::new();
        for pieces in [&["alone"][..], &["first", "second", "third"], &["again"]] {
            for piece in pieces {
                buffer.push_shared(Bytes::from_static(piece.as_bytes()));
                written.extend_from_slice(piece.as_bytes());
            }
            buffer.head_mut().extend_from_slice(b"|");
            written.push(b'|');
            poll_fn(|cx| buffer.poll_flush(&mut io, cx)).await.expect("written");
            buffer.release();
            assert!(buffer.is_empty() && !buffer.is_held());
        }
        drop(io);
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.expect("to the end");
        assert_eq!(heard, written);
    }
}
