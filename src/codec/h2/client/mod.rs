//! The client side of HTTP/2: one connection shared by many exchanges.

mod driver;
mod exchange;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

pub use driver::H2Driver;
pub use exchange::H2ClientBody;

use super::now;
use super::wire::{Traffic, Wire};
use crate::base::limits;
use crate::codec::waiting::Places;

/// Streams assumed to be allowed before the server has said (RFC 9113 section 6.5.2 asks for no fewer).
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// Streams reset by us that are remembered, so that what is still in flight on them is ignored rather than
/// answered with another reset each.
const REMEMBERED_RESETS: usize = 1024;
/// Stream identifiers run out at 2^30 requests; the connection retires a little earlier.
const MAX_REQUESTS: u64 = (1 << 30) - 1024;
/// Response heads and trailers up to this many times our limits are received whole and then judged by us,
/// because the library cuts trailers off silently at its own limit.
const HEADER_LIST_MARGIN: u32 = 4;

/// Called whenever a stream may have become free, or the connection has stopped taking requests: from the driver,
/// from [`H2Connection::close_gracefully`] and wherever a [`StreamSlot`] is dropped. It must not take a lock that
/// is held in one of these places.
pub type OnRelease = Arc<dyn Fn() + Send + Sync>;

/// How a connection to an upstream is used.
#[derive(Clone)]
pub struct H2ClientOptions {
    /// Most streams at once; the server may allow fewer.
    pub max_streams: usize,
    /// Silence on a connection with open streams after which it is asked whether it lives. `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// How long the answer may take.
    pub keepalive_timeout: Duration,
    /// For whoever waits for a stream.
    pub on_release: Option<OnRelease>,
}

impl fmt::Debug for H2ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_streams, keepalive_interval, keepalive_timeout, on_release: _ } = self;
        f.debug_struct("H2ClientOptions")
            .field("max_streams", max_streams)
            .field("keepalive_interval", keepalive_interval)
            .field("keepalive_timeout", keepalive_timeout)
            .finish_non_exhaustive()
    }
}

/// A handle on a connection. Cheap to clone; when the last handle is gone the connection ends with its last
/// stream.
#[derive(Debug, Clone)]
pub struct H2Connection {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once no new stream may be opened. While it is there the library keeps the connection open.
    requests: Mutex<Option<SendRequest<Bytes>>>,
    max_streams: usize,
    link: Arc<Link>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2Connection").field("link", &self.link).finish_non_exhaustive()
    }
}

/// What handles, streams and the driver share. Holding it does not keep the connection open.
struct Link {
    active: AtomicUsize,
    /// Requests sent so far.
    served: AtomicU64,
    /// When the last stream ended, in nanoseconds after `opened`.
    idle_since: AtomicU64,
    opened: Instant,
    /// A PING was not answered.
    unresponsive: AtomicBool,
    greeting: Mutex<Greeting>,
    traffic: Arc<Traffic>,
    on_release: Option<OnRelease>,
}

/// Whether the server's settings are known, and who waits for them: requests that need one of them.
#[derive(Debug, Default)]
struct Greeting {
    /// They are, or will not be.
    settled: bool,
    waiting: Places,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("active", &self.active)
            .field("served", &self.served)
            .field("unresponsive", &self.unresponsive)
            .finish_non_exhaustive()
    }
}

impl H2Connection {
    /// Opens HTTP/2 on a byte stream. Requests may be sent at once, without waiting for the server's settings.
    /// The connection moves only while the driver is polled.
    ///
    /// # Errors
    /// When the preface cannot be written.
    pub async fn handshake<IO>(io: IO, options: &H2ClientOptions) -> io::Result<(Self, H2Driver<IO>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let max_streams = options.max_streams.max(1);
        let wire = Wire::new(io);
        wire.take_turns();
        let (requests, connection) = builder(max_streams)
            .handshake(wire.clone())
            .await
            .map_err(|error| error.into_io().unwrap_or_else(|| io::ErrorKind::InvalidData.into()))?;
        let link = Arc::new(Link {
            active: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            opened: now(),
            unresponsive: AtomicBool::new(false),
            greeting: Mutex::default(),
            traffic: wire.traffic(),
            on_release: options.on_release.clone(),
        });
        let shared = Arc::new(Shared { requests: Mutex::new(Some(requests)), max_streams, link });
        let driver = H2Driver::new(connection, wire, &shared, options);
        Ok((Self { shared }, driver))
    }

    /// A stream, if one is free. Counted from now on, so that no request waits unseen inside the library.
    #[must_use]
    pub fn reserve(&self) -> Option<StreamSlot> {
        let mut requests = self.shared.requests.lock();
        let allowed = self.shared.allowed(&mut requests)?;
        let link = &self.shared.link;
        if link.active.load(Ordering::Relaxed) >= allowed {
            return None;
        }
        link.active.fetch_add(1, Ordering::Relaxed);
        Some(StreamSlot { shared: Arc::clone(&self.shared) })
    }

    /// Streams reserved or open.
    #[must_use]
    pub fn active(&self) -> usize {
        self.shared.link.active.load(Ordering::Relaxed)
    }

    /// Streams that may be open at once, as far as is known; 0 also when the connection takes no more requests.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.allowed(&mut self.shared.requests.lock()).unwrap_or(0)
    }

    /// Whether the connection takes no more requests: it was told to close, the server said GOAWAY, or it
    /// is dead. Open streams may still be in use.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.shared.allowed(&mut self.shared.requests.lock()).is_none()
    }

    /// Takes no more requests and ends the connection when the last stream has ended.
    pub fn close_gracefully(&self) {
        self.shared.close();
    }

    /// Since when no stream is open; `None` while one is.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        let link = &self.shared.link;
        (link.active.load(Ordering::Relaxed) == 0)
            .then(|| link.opened + Duration::from_nanos(link.idle_since.load(Ordering::Relaxed)))
    }

    /// Requests that wait for the server's settings, and the places there are for them.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        self.shared.link.greeting.lock().waiting.counts()
    }

    /// When the connection was opened.
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.shared.link.opened
    }
}

impl Shared {
    /// The current limit on streams, or `None` when no new one may be opened.
    fn allowed(&self, requests: &mut Option<SendRequest<Bytes>>) -> Option<usize> {
        let sender = requests.as_mut()?;
        // Ready at once in every case: it waits only for a stream that this handle has queued, and it has none.
        let usable = sender.poll_ready(&mut Context::from_waker(Waker::noop())).map(|ready| ready.is_ok());
        let spent = self.link.served.load(Ordering::Relaxed) >= MAX_REQUESTS;
        if usable != Poll::Ready(true) || spent {
            *requests = None;
            return None;
        }
        Some(self.max_streams.min(sender.current_max_send_streams()))
    }

    fn close(&self) {
        let sender = self.requests.lock().take();
        if sender.is_some() {
            drop(sender);
            self.link.released();
        }
    }
}

impl Link {
    /// Ready when the server's settings are known, or there will be none. Whoever waits has a place from the first call
    /// on, and gives it back with [`Link::leave`].
    fn poll_settled(&self, place: &mut Option<usize>, cx: &mut Context<'_>) -> Poll<()> {
        let mut greeting = self.greeting.lock();
        if greeting.settled {
            return Poll::Ready(());
        }
        match *place {
            Some(place) => greeting.waiting.update(place, cx.waker()),
            None => *place = Some(greeting.waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }

    fn leave(&self, place: Option<usize>) {
        if let Some(place) = place {
            self.greeting.lock().waiting.remove(place);
        }
    }

    fn settle(&self) {
        let mut greeting = self.greeting.lock();
        greeting.settled = true;
        let waiting = greeting.waiting.take();
        drop(greeting);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn released(&self) {
        if let Some(on_release) = &self.on_release {
            on_release();
        }
    }
}

/// The right to open one stream. Held for as long as the stream is in use; dropping it frees the place.
#[derive(Debug)]
pub struct StreamSlot {
    shared: Arc<Shared>,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let link = &self.shared.link;
        if link.active.load(Ordering::Relaxed) == 1 {
            let idle = u64::try_from((now() - link.opened).as_nanos()).unwrap_or(u64::MAX);
            link.idle_since.store(idle, Ordering::Relaxed);
        }
        link.active.fetch_sub(1, Ordering::Relaxed);
        link.released();
    }
}

fn builder(max_streams: usize) -> client::Builder {
    // Wide enough for every stream to stall with a full window of its own and leave the others theirs.
    let connection_window = u32::try_from(max_streams)
        .unwrap_or(u32::MAX)
        .saturating_mul(limits::H2_CLIENT_STREAM_WINDOW)
        .clamp(limits::H2_CLIENT_CONNECTION_WINDOW, i32::MAX as u32);
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .max_header_list_size(limits::H2_HEADER_LIST * HEADER_LIST_MARGIN)
        .initial_window_size(limits::H2_CLIENT_STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
        .max_send_buffer_size(limits::H2_SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        // Counts every frame that arrives for a forgotten stream, over the life of the connection: callers that
        // cancel would end it for all others.
        .max_local_error_reset_streams(None)
        // Also spent by frames that are ignored because their stream was reset, and then never refunded. The
        // memory it guards is bounded by the stream windows, and bodies pack what they cannot pass on.
        .data_frame_budget(usize::MAX);
    builder
}
