//! The client side of HTTP/3: one connection shared by many exchanges.

mod driver;
mod exchange;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendStream, VarInt};

pub use driver::H3Driver;
pub use exchange::H3ClientBody;

use super::code::Code;
use super::control::{self, Settings};
use super::frames::Side;
use super::lost;
use super::now;
use super::outbound::{Outbound, SectionLimit};
use super::peer;
use crate::base::limits;
use crate::codec::h2::OnRelease;
use crate::codec::waiting::Places;

/// How a connection to an upstream is used.
#[derive(Clone)]
pub struct H3ClientOptions {
    /// Most streams at once; the server may allow fewer.
    pub max_streams: usize,
    /// For whoever waits for a stream. It is called as that of HTTP/2 is.
    pub on_release: Option<OnRelease>,
}

impl fmt::Debug for H3ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_streams, on_release: _ } = self;
        f.debug_struct("H3ClientOptions").field("max_streams", max_streams).finish_non_exhaustive()
    }
}

/// A handle on a connection. Cheap to clone; when the last handle is gone the connection ends with its last
/// stream.
#[derive(Debug, Clone)]
pub struct H3Connection {
    handle: Arc<Handle>,
}

/// While it is there, streams may be opened.
#[derive(Debug)]
struct Handle {
    link: Arc<Link>,
}

/// What handles, streams and the driver share. Holding it does not keep the connection open.
struct Link {
    connection: Connection,
    max_streams: usize,
    opened: Instant,
    active: AtomicUsize,
    /// Requests sent so far.
    served: AtomicU64,
    /// A response has begun, on any stream.
    answered: AtomicBool,
    /// When the last stream ended, in nanoseconds after `opened`.
    idle_since: AtomicU64,
    /// No new stream may be opened.
    closing: AtomicBool,
    /// The server allowed no stream at the last look.
    full: AtomicBool,
    /// The first stream that the server will not look at.
    rejected_from: AtomicU64,
    limit: SectionLimit,
    state: Mutex<State>,
    on_release: Option<OnRelease>,
}

#[derive(Default)]
struct State {
    /// Opened, and not used: the next to be used, since a later stream would open it too.
    spare: Option<Streams>,
    /// The last stream that was reserved.
    newest: Option<u64>,
    settings: Option<Settings>,
    /// Exchanges without a response head, which want to know of GOAWAY and SETTINGS.
    waiting: Places,
    driver: Option<Waker>,
}

/// Both directions of a stream that nothing was sent on.
struct Streams {
    out: SendStream,
    inbound: RecvStream,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H3Connection")
            .field("active", &self.active)
            .field("served", &self.served)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

impl H3Connection {
    /// Opens HTTP/3 on a connection of QUIC, which may still be in its handshake if it takes early data. Requests may
    /// be sent at once, without waiting for the server's settings. The connection is listened to only while the driver
    /// is polled.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn handshake(connection: Connection, options: &H3ClientOptions) -> io::Result<(Self, H3Driver)> {
        connection.set_max_concurrent_uni_streams(peer::OPEN_STREAMS.into());
        // Room for it there is in every server that speaks HTTP/3 (RFC 9114 section 6.2).
        let control = connection.open_uni().await?;
        let limit = SectionLimit::default();
        let mut control = Outbound::new(control, Code::INTERNAL_ERROR, &limit);
        control.queue_raw(control::opening(Side::Client, limits::RESPONSE_HEAD_BYTES));
        let flushed = std::future::poll_fn(|cx| control.poll_flush(cx)).await;
        flushed.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
        let link = Arc::new(Link {
            connection,
            max_streams: options.max_streams.max(1),
            opened: now(),
            active: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            full: AtomicBool::new(false),
            rejected_from: AtomicU64::new(u64::MAX),
            limit,
            state: Mutex::default(),
            on_release: options.on_release.clone(),
        });
        let driver = H3Driver::new(Arc::clone(&link), control);
        Ok((Self { handle: Arc::new(Handle { link }) }, driver))
    }

    /// A stream, if one is free. It is open from now on, so that no request waits unseen for the server to allow it.
    #[must_use]
    pub fn reserve(&self) -> Option<StreamSlot> {
        let link = &self.handle.link;
        if !link.is_usable() || link.active.load(Ordering::Relaxed) >= link.max_streams {
            return None;
        }
        let streams = link.open()?;
        link.active.fetch_add(1, Ordering::Relaxed);
        Some(StreamSlot { _handle: Arc::clone(&self.handle), link: Arc::clone(link), streams: Some(streams) })
    }

    /// Streams reserved or open.
    #[must_use]
    pub fn active(&self) -> usize {
        self.handle.link.active.load(Ordering::Relaxed)
    }

    /// Streams that may be open at once, as far as is known; 0 also when the connection takes no more requests.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let link = &self.handle.link;
        if !link.is_usable() {
            0
        } else if link.full.load(Ordering::Relaxed) {
            self.active().clamp(1, link.max_streams)
        } else {
            link.max_streams
        }
    }

    /// Whether the connection takes no more requests: it was told to close, the server said GOAWAY, or it
    /// is dead. Open streams may still be in use.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        !self.handle.link.is_usable()
    }

    /// Takes no more requests and ends the connection when the last stream has ended.
    pub fn close_gracefully(&self) {
        self.handle.link.close();
    }

    /// Since when no stream is open; `None` while one is.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        let link = &self.handle.link;
        (self.active() == 0).then(|| link.opened + Duration::from_nanos(link.idle_since.load(Ordering::Relaxed)))
    }

    /// Whether the server takes extended CONNECT (RFC 9220), which its settings say; `None` until they are here.
    #[cfg(test)]
    pub(super) fn takes_extended_connect(&self) -> Option<bool> {
        self.handle.link.state.lock().settings.map(|settings| settings.enable_connect_protocol)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody can open a stream any more; those that are open hold this.
        self.link.close();
    }
}

impl Link {
    fn is_usable(&self) -> bool {
        !self.closing.load(Ordering::Relaxed)
    }

    /// Whether the server has accepted our certificate, or does without: it has answered something, or confirmed the
    /// handshake (RFC 9001 section 4.1.2).
    fn is_let_in(&self) -> bool {
        self.answered.load(Ordering::Relaxed) || self.connection.stats().frame_rx.handshake_done > 0
    }

    /// Opens a stream, if the server allows one.
    fn open(&self) -> Option<Streams> {
        let mut state = self.state.lock();
        let streams = match state.spare.take() {
            Some(streams) => Some(streams),
            None => match pin!(self.connection.open_bi()).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok((out, inbound))) => Some(Streams { out, inbound }),
                Poll::Ready(Err(_)) => None,
                Poll::Pending => {
                    if !self.full.swap(true, Ordering::Relaxed)
                        && let Some(driver) = state.driver.take()
                    {
                        driver.wake();
                    }
                    None
                }
            },
        };
        if let Some(streams) = &streams {
            state.newest = Some(streams.id());
        }
        streams
    }

    /// A stream was not used after all.
    fn give_back(&self, streams: Streams) {
        let mut state = self.state.lock();
        if state.newest == Some(streams.id()) && state.spare.is_none() && self.is_usable() {
            state.spare = Some(streams);
            return;
        }
        drop(state);
        streams.cancel();
    }

    fn close(&self) {
        if self.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        let (driver, spare) = {
            let mut state = self.state.lock();
            (state.driver.take(), state.spare.take())
        };
        if let Some(spare) = spare {
            spare.cancel();
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        self.released();
    }

    fn released(&self) {
        if let Some(on_release) = &self.on_release {
            on_release();
        }
    }

    /// Wakes every exchange that waits for its response head.
    fn wake_waiting(&self) {
        let waiting = self.state.lock().waiting.take();
        for waker in waiting {
            waker.wake();
        }
    }
}

impl Streams {
    fn id(&self) -> u64 {
        VarInt::from(self.inbound.id()).into_inner()
    }

    /// Nothing was asked.
    fn cancel(mut self) {
        let _ = self.out.reset(Code::REQUEST_CANCELLED.var());
        let _ = self.inbound.stop(Code::REQUEST_CANCELLED.var());
    }
}

/// The right to use one stream. Held for as long as the stream is in use; dropping it frees the place.
#[derive(Debug)]
pub struct StreamSlot {
    _handle: Arc<Handle>,
    link: Arc<Link>,
    /// `None` once it is used.
    streams: Option<Streams>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Streams").field(&self.id()).finish()
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let link = &self.link;
        if let Some(streams) = self.streams.take() {
            link.give_back(streams);
        }
        if link.active.load(Ordering::Relaxed) == 1 {
            let idle = u64::try_from((now() - link.opened).as_nanos()).unwrap_or(u64::MAX);
            link.idle_since.store(idle, Ordering::Relaxed);
        }
        if link.active.fetch_sub(1, Ordering::SeqCst) == 1 && link.closing.load(Ordering::SeqCst) {
            let driver = link.state.lock().driver.take();
            if let Some(driver) = driver {
                driver.wake();
            }
        }
        link.released();
    }
}

/// Ends a connection that nobody polls.
impl Drop for Link {
    fn drop(&mut self) {
        lost::end(&self.connection);
    }
}
