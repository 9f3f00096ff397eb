//! What moves a connection to an upstream.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{H2ClientOptions, Link, Shared};
use crate::base::timer::Deadline;
use crate::codec::h2::now;
use crate::codec::h2::wire::Wire;

/// Reads and writes for every exchange of one connection. Spawn it; it ends with the connection, and dropping it
/// ends the connection.
#[must_use = "a connection moves only while its driver is polled"]
pub struct H2Driver<IO> {
    /// `None` once the connection has ended.
    connection: Option<client::Connection<Wire<IO>, Bytes>>,
    wire: Wire<IO>,
    /// Does not keep the connection open.
    shared: Weak<Shared>,
    link: Arc<Link>,
    /// Streams that were allowed at the last look; 0 once no more requests are taken.
    allowed: usize,
    /// The server's settings are known.
    settled: bool,
    keepalive: Option<Keepalive>,
}

impl<IO> std::fmt::Debug for H2Driver<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Driver").field("link", &self.link).finish_non_exhaustive()
    }
}

impl<IO> H2Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        mut connection: client::Connection<Wire<IO>, Bytes>,
        wire: Wire<IO>,
        shared: &Arc<Shared>,
        options: &H2ClientOptions,
    ) -> Self {
        let keepalive = options
            .keepalive_interval
            .zip(connection.ping_pong())
            .map(|(interval, ping)| Keepalive::new(ping, interval, options.keepalive_timeout));
        Self {
            connection: Some(connection),
            wire,
            shared: Arc::downgrade(shared),
            link: Arc::clone(&shared.link),
            allowed: usize::MAX,
            settled: false,
            keepalive,
        }
    }

    /// Waits until the server has said something, which RFC 9113 section 3.4 has it do unasked. Drives the
    /// connection meanwhile. Cancel safe.
    ///
    /// # Errors
    /// What ended the connection before that.
    pub async fn greeted(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            if Pin::new(&mut *self).poll(cx).is_ready() {
                return Poll::Ready(Err(self
                    .wire
                    .take_failure()
                    .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())));
            }
            if self.link.traffic.read() > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(()) };
            if let Poll::Ready(ended) = Pin::new(connection).poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP/2 upstream connection failed");
                }
                return Poll::Ready(());
            }
            self.watch_limit();
            if !self.settled && self.link.traffic.is_greeted() {
                self.settled = true;
                self.link.settle();
            }
            let Some(keepalive) = &mut self.keepalive else { break };
            match keepalive.poll(cx, &self.link) {
                Poll::Ready(Verdict::Ping) => {}
                Poll::Ready(Verdict::Dead) => {
                    tracing::debug!("an HTTP/2 upstream connection does not answer");
                    self.link.unresponsive.store(true, Ordering::Relaxed);
                    return Poll::Ready(());
                }
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = self.wire.poll_release(cx) {
            tracing::debug!(%error, "writing to an HTTP/2 upstream failed");
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Lets waiters know as soon as the server allows more streams, or takes no more requests.
    fn watch_limit(&mut self) {
        if self.allowed == 0 {
            return;
        }
        let before = self.allowed;
        self.allowed = match self.shared.upgrade() {
            // A server that allows none for now has not closed: it is looked at again.
            Some(shared) => shared.allowed(&mut shared.requests.lock()).map_or(0, |allowed| allowed.max(1)),
            None => 0,
        };
        if self.allowed > before || self.allowed == 0 {
            self.link.released();
        }
    }
}

impl<IO> Future for H2Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_connection(cx));
        // Fails every stream that is still open.
        self.connection = None;
        self.link.settle();
        if let Some(shared) = self.shared.upgrade() {
            shared.close();
        }
        Poll::Ready(())
    }
}

enum Verdict {
    /// A PING is to be sent: poll the connection.
    Ping,
    Dead,
}

/// Asks a silent connection whether it lives.
struct Keepalive {
    ping: PingPong,
    interval: Duration,
    timeout: Duration,
    /// A PING is on its way.
    asked: bool,
    /// When something was last heard, asked, or expected for the first time.
    since: Instant,
    heard: u64,
    busy: bool,
    timer: Deadline,
}

impl Keepalive {
    fn new(ping: PingPong, interval: Duration, timeout: Duration) -> Self {
        let since = now();
        Self { ping, interval, timeout, asked: false, since, heard: 0, busy: false, timer: Deadline::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<Verdict> {
        let heard = link.traffic.read();
        let busy = link.active.load(Ordering::Relaxed) > 0;
        // Any byte is a sign of life: the answer itself may stand behind a lot of data.
        if heard != self.heard || (busy && !self.busy) {
            self.heard = heard;
            self.since = now();
        }
        self.busy = busy;
        if self.asked {
            match self.ping.poll_pong(cx) {
                Poll::Ready(Ok(_)) => self.asked = false,
                // The connection is ending by itself.
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.timer.poll(cx, self.since + self.timeout));
                    return Poll::Ready(Verdict::Dead);
                }
            }
        }
        if !busy {
            return Poll::Pending;
        }
        ready!(self.timer.poll(cx, self.since + self.interval));
        if self.ping.send_ping(Ping::opaque()).is_err() {
            return Poll::Pending;
        }
        self.asked = true;
        self.since = now();
        Poll::Ready(Verdict::Ping)
    }
}
