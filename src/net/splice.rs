//! Two connections made one: what either side sends is handed to the other, byte for byte, until both are done.
//!
//! A side that closes is closed on the other side too, while the opposite direction goes on. A side that fails
//! resets the other, so that half a stream never passes for a whole one. Memory is held only while one side is
//! slower than the other, and then at most one read's worth for each direction. However much there is to move, each
//! direction has its turn, and what cuts the connection is looked at first.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::io::Io;
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::base::wake::WakeFlag;
use crate::telemetry::metrics::{Direction, StreamMetrics};

thread_local! {
    /// Where bytes are read to. Nothing stays in it between two calls.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::SPLICE_READ].into_boxed_slice());
}

/// Bytes handed over so far; may be read while it goes on.
#[derive(Debug, Default)]
pub struct Traffic {
    upstream: AtomicU64,
    downstream: AtomicU64,
    /// Where they are counted besides.
    metrics: Option<Arc<StreamMetrics>>,
}

impl Traffic {
    /// Nothing yet; what is handed over is counted there too, as it goes.
    #[must_use]
    pub fn counted(metrics: Arc<StreamMetrics>) -> Self {
        Self { metrics: Some(metrics), ..Self::default() }
    }

    fn add(&self, direction: Direction, bytes: usize) {
        let (count, bytes) = match direction {
            Direction::Received => (&self.upstream, bytes as u64),
            Direction::Sent => (&self.downstream, bytes as u64),
        };
        count.fetch_add(bytes, Ordering::Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.moved(direction, bytes);
        }
    }

    /// Bytes from the caller to the endpoint.
    #[must_use]
    pub fn upstream(&self) -> u64 {
        self.upstream.load(Ordering::Relaxed)
    }

    /// Bytes from the endpoint to the caller.
    #[must_use]
    pub fn downstream(&self) -> u64 {
        self.downstream.load(Ordering::Relaxed)
    }
}

/// Why two connections were parted before both were done.
#[derive(Debug, Error)]
pub enum SpliceError<T> {
    /// Nothing moved for the time allowed.
    #[error("nothing moved for the idle time allowed")]
    Idle,
    /// It was cut on purpose.
    #[error("cut")]
    Cut(T),
    /// The caller's connection failed.
    #[error("the downstream connection failed: {0}")]
    Downstream(io::Error),
    /// The endpoint's connection failed.
    #[error("the upstream connection failed: {0}")]
    Upstream(io::Error),
}

/// Hands bytes both ways until both sides have closed, one fails, nothing moves for `idle` (zero: no limit), or `cut`
/// is ready. Cancel safe: dropping the future closes both; `traffic` tells what was handed over.
///
/// # Errors
/// See [`SpliceError`]; both connections are reset.
pub async fn splice<T>(
    downstream: Io,
    upstream: Io,
    (idle, cut): (Duration, impl Future<Output = T>),
    traffic: &Traffic,
) -> Result<(), SpliceError<T>> {
    let mut cut = pin!(cut);
    let mut splice = Splice { downstream, upstream, up: Way::default(), down: Way::default() };
    let mut timer = Deadline::default();
    let (mut cuts, mut fires) = (WakeFlag::default(), WakeFlag::default());
    let mut moved = (0, Instant::from(tokio::time::Instant::now()));
    let result = poll_fn(|cx| {
        // First: a busy connection leaves nothing of what the runtime grants a task in one turn.
        if let Some(waker) = cuts.take(cx)
            && let Poll::Ready(why) = cut.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return Poll::Ready(Err(SpliceError::Cut(why)));
        }
        if let Poll::Ready(result) = splice.poll(cx, traffic) {
            return Poll::Ready(result.map_err(SpliceError::from));
        }
        if idle.is_zero() {
            return Poll::Pending;
        }
        let total = traffic.upstream().wrapping_add(traffic.downstream());
        if total != moved.0 {
            moved = (total, tokio::time::Instant::now().into());
        }
        // The moment only moves later: until the timer fires it is asked nothing.
        let Some(waker) = fires.take(cx) else { return Poll::Pending };
        timer.poll(&mut Context::from_waker(&waker), moved.1 + idle).map(|()| Err(SpliceError::Idle))
    })
    .await;
    if result.is_err() {
        splice.downstream.reset_on_close();
        splice.upstream.reset_on_close();
    }
    result
}

struct Splice {
    downstream: Io,
    upstream: Io,
    up: Way,
    down: Way,
}

impl Splice {
    fn poll(&mut self, cx: &mut Context<'_>, traffic: &Traffic) -> Poll<Result<(), Parted>> {
        let Self { downstream, upstream, up, down } = self;
        let up =
            up.poll(cx, (downstream, upstream), (traffic, Direction::Received)).map_err(|failed| match failed {
                Failed::From(error) => Parted::Downstream(error),
                Failed::To(error) => Parted::Upstream(error),
            })?;
        let down =
            down.poll(cx, (upstream, downstream), (traffic, Direction::Sent)).map_err(|failed| match failed {
                Failed::From(error) => Parted::Upstream(error),
                Failed::To(error) => Parted::Downstream(error),
            })?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// Which side has failed.
enum Parted {
    Downstream(io::Error),
    Upstream(io::Error),
}

impl<T> From<Parted> for SpliceError<T> {
    fn from(parted: Parted) -> Self {
        match parted {
            Parted::Downstream(error) => Self::Downstream(error),
            Parted::Upstream(error) => Self::Upstream(error),
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
enum Way {
    /// What is read goes out at once.
    #[default]
    Open,
    /// The other side has not taken all of what was read.
    Blocked {
        left: Vec<u8>,
        written: usize,
    },
    /// The end was read.
    Closing,
    Closed,
}

enum Failed {
    From(io::Error),
    To(io::Error),
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut Io, &mut Io),
        count: (&Traffic, Direction),
    ) -> Poll<Result<(), Failed>> {
        for _ in 0..limits::MOVES {
            match self {
                Self::Open => match SCRATCH
                    .with_borrow_mut(|scratch| Self::poll_move(cx, (&mut *from, &mut *to), scratch, count))
                {
                    Poll::Ready(Ok(next)) => *self = next,
                    Poll::Ready(Err(failed)) => return Poll::Ready(Err(failed)),
                    Poll::Pending => {
                        // What was encrypted and did not go out.
                        return match Pin::new(to).poll_flush(cx) {
                            Poll::Ready(Err(error)) => Poll::Ready(Err(Failed::To(error))),
                            _ => Poll::Pending,
                        };
                    }
                },
                Self::Blocked { left, written } => {
                    let n = ready!(Pin::new(&mut *to).poll_write(cx, &left[*written..])).map_err(Failed::To)?;
                    *written += taken(n)?;
                    count.0.add(count.1, n);
                    if *written == left.len() {
                        *self = Self::Open;
                    }
                }
                Self::Closing => {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Failed::To)?;
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        // It has closed both ways already.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        result => result.map_err(Failed::To)?,
                    }
                    *self = Self::Closed;
                }
                Self::Closed => return Poll::Ready(Ok(())),
            }
        }
        if matches!(self, Self::Closed) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read and what can be written of it.
    fn poll_move(
        cx: &mut Context<'_>,
        (from, to): (&mut Io, &mut Io),
        scratch: &mut [u8],
        (traffic, direction): (&Traffic, Direction),
    ) -> Poll<Result<Self, Failed>> {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Failed::From)?;
        let mut bytes: &[u8] = buffer.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(Self::Closing));
        }
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(result) => {
                    let n = taken(result.map_err(Failed::To)?)?;
                    traffic.add(direction, n);
                    bytes = &bytes[n..];
                }
                Poll::Pending => return Poll::Ready(Ok(Self::Blocked { left: bytes.to_vec(), written: 0 })),
            }
        }
        Poll::Ready(Ok(Self::Open))
    }
}

/// A write that takes nothing would be tried for ever.
fn taken(n: usize) -> Result<usize, Failed> {
    if n == 0 { Err(Failed::To(io::ErrorKind::WriteZero.into())) } else { Ok(n) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("a connection");
        (client, Io::tcp(server))
    }

    type Task = tokio::task::JoinHandle<Result<(), SpliceError<()>>>;

    async fn spliced(idle: Duration) -> (TcpStream, TcpStream, Task, Arc<Traffic>) {
        let ((caller, downstream), (endpoint, upstream)) = (pair().await, pair().await);
        let traffic = Arc::new(Traffic::default());
        let counted = Arc::clone(&traffic);
        let task =
            tokio::spawn(async move { splice(downstream, upstream, (idle, std::future::pending()), &counted).await });
        (caller, endpoint, task, traffic)
    }

    #[tokio::test]
    async fn a_side_that_closes_still_hears_the_other() {
        let (mut caller, mut endpoint, task, traffic) = spliced(Duration::ZERO).await;
        caller.write_all(b"question").await.expect("sent");
        caller.shutdown().await.expect("closed");
        let mut heard = Vec::new();
        endpoint.read_to_end(&mut heard).await.expect("to the end");
        assert_eq!(heard, b"question");
        endpoint.write_all(b"the answer").await.expect("sent");
        drop(endpoint);
        heard.clear();
        caller.read_to_end(&mut heard).await.expect("to the end");
        assert_eq!(heard, b"the answer");
        task.await.expect("no panic").expect("both are done");
        assert_eq!((traffic.upstream(), traffic.downstream()), (8, 10));
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_back_and_gets_every_byte() {
        const ALL: usize = 24 * 1024 * 1024;
        let (caller, mut endpoint, task, traffic) = spliced(Duration::ZERO).await;
        let (mut answers, mut caller) = caller.into_split();
        let writer = tokio::spawn(async move {
            let block: Vec<u8> = (0..=250).collect();
            let mut sent = 0;
            while sent < ALL {
                let n = block.len().min(ALL - sent);
                caller.write_all(&block[..n]).await.expect("sent");
                sent += n;
            }
            caller.shutdown().await.expect("closed");
        });
        // Until nothing moves any more: sockets and one buffer are full.
        let mut before = u64::MAX;
        while before != traffic.upstream() || before == 0 {
            before = traffic.upstream();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(before < ALL as u64 / 2, "{before} bytes were taken though nobody reads");
        let mut heard = Vec::new();
        endpoint.read_to_end(&mut heard).await.expect("to the end");
        writer.await.expect("no panic");
        assert_eq!(heard.len(), ALL);
        assert!(heard.chunks(251).all(|chunk| chunk.iter().enumerate().all(|(at, byte)| at == usize::from(*byte))));
        drop(endpoint);
        assert_eq!(answers.read(&mut [0; 8]).await.expect("the end"), 0);
        task.await.expect("no panic").expect("both are done");
    }

    #[tokio::test]
    async fn a_side_that_fails_resets_the_other() {
        let (caller, mut endpoint, task, _) = spliced(Duration::ZERO).await;
        caller.set_zero_linger().expect("set");
        drop(caller);
        let error = endpoint.read(&mut [0; 8]).await.expect_err("not a clean end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(task.await.expect("no panic"), Err(SpliceError::Downstream(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_every_byte_starts_the_clock_again() {
        let idle = Duration::from_secs(60);
        let start = tokio::time::Instant::now();
        let (mut caller, mut endpoint, task, _) = spliced(idle).await;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            caller.write_all(b"x").await.expect("sent");
            endpoint.read_exact(&mut [0]).await.expect("received");
        }
        assert!(matches!(task.await.expect("no panic"), Err(SpliceError::Idle)));
        let lasted = start.elapsed();
        assert!(lasted >= Duration::from_secs(179) && lasted < Duration::from_secs(185), "{lasted:?}");
    }

    #[tokio::test]
    async fn what_cuts_it_is_looked_at_before_anything_moves() {
        let ((mut caller, downstream), (mut endpoint, upstream)) = (pair().await, pair().await);
        for side in [&mut caller, &mut endpoint] {
            side.write_all(&[7; 100_000]).await.expect("sent");
        }
        let (tell, mut told) = tokio::sync::watch::channel(false);
        tell.send(true).expect("somebody listens");
        let traffic = Traffic::default();
        let cut = async move { told.wait_for(|told| *told).await.map(|_| ()) };
        let result = splice(downstream, upstream, (Duration::ZERO, cut), &traffic).await;
        assert!(matches!(result, Err(SpliceError::Cut(Ok(())))), "{result:?}");
        assert_eq!((traffic.upstream(), traffic.downstream()), (0, 0));
    }

    #[tokio::test]
    async fn what_cuts_it_later_is_heard_after_bytes_have_moved() {
        let ((mut caller, downstream), (mut endpoint, upstream)) = (pair().await, pair().await);
        let (tell, mut told) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            let cut = async move { told.wait_for(|told| *told).await.map(|_| ()) };
            splice(downstream, upstream, (Duration::from_secs(60), cut), &Traffic::default()).await
        });
        for _ in 0..3 {
            caller.write_all(b"x").await.expect("sent");
            endpoint.read_exact(&mut [0]).await.expect("received");
        }
        tell.send(true).expect("somebody listens");
        assert!(matches!(task.await.expect("no panic"), Err(SpliceError::Cut(Ok(())))));
    }

    #[tokio::test]
    async fn dropping_it_closes_both() {
        let (mut caller, mut endpoint, task, _) = spliced(Duration::ZERO).await;
        caller.write_all(b"x").await.expect("sent");
        endpoint.read_exact(&mut [0]).await.expect("received");
        task.abort();
        assert!(task.await.expect_err("aborted").is_cancelled());
        assert_eq!(caller.read(&mut [0; 8]).await.expect("the end"), 0);
        assert_eq!(endpoint.read(&mut [0; 8]).await.expect("the end"), 0);
    }
}
