//! What listens to a connection to an upstream.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::{Link, Streams};
use crate::codec::h3::code::Code;
use crate::codec::h3::control::Event;
use crate::codec::h3::frames::{Broken, Side};
use crate::codec::h3::lost;
use crate::codec::h3::outbound::Outbound;
use crate::codec::h3::peer;

/// Listens to what the server says beside its responses: settings, GOAWAY, streams that become free. Spawn it; it ends with
/// the connection, and dropping it ends the connection.
#[must_use = "a connection is listened to only while its driver is polled"]
pub struct H3Driver {
    link: Arc<Link>,
    running: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for H3Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H3Driver").field("link", &self.link).finish_non_exhaustive()
    }
}

impl H3Driver {
    pub(super) fn new(link: Arc<Link>, control: Outbound) -> Self {
        let running = Box::pin(run(Arc::clone(&link), control));
        Self { link, running }
    }

    /// Waits until the server has sent its settings, which RFC 9114 section 6.2.1 has it do unasked. Drives the
    /// connection meanwhile. Cancel safe.
    ///
    /// # Errors
    /// What ended the connection before that.
    pub async fn greeted(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            let ended = Pin::new(&mut *self).poll(cx).is_ready();
            if self.link.state.lock().settings.is_some() {
                return Poll::Ready(Ok(()));
            }
            if ended { Poll::Ready(Err(self.failure())) } else { Poll::Pending }
        })
        .await
    }

    fn failure(&self) -> io::Error {
        let reason = self.link.connection.close_reason();
        reason.as_ref().and_then(lost::of_connection).unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Future for H3Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.running.as_mut().poll(cx)
    }
}

impl Drop for H3Driver {
    fn drop(&mut self) {
        lost::end(&self.link.connection);
        self.link.close();
    }
}

async fn run(link: Arc<Link>, control: Outbound) {
    let connection = link.connection.clone();
    let mut listening = pin!(peer::listen(connection.clone(), Side::Client, |event| link.hear(event)));
    let mut kept = pin!(peer::keep(connection.clone(), control.stopped()));
    let mut accepting = pin!(connection.accept_bi());
    let mut opening = pin!(connection.open_bi());
    let mut accept_failed = false;
    poll_fn(|cx| {
        link.state.lock().driver = Some(cx.waker().clone());
        if listening.as_mut().poll(cx).is_ready() || kept.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !accept_failed && let Poll::Ready(accepted) = accepting.as_mut().poll(cx) {
            accept_failed = true;
            if accepted.is_ok() {
                // RFC 9114 section 6.1.
                lost::close(&connection, Broken::new(Code::STREAM_CREATION_ERROR, "a request from a server"));
                return Poll::Ready(());
            }
        }
        if link.full.load(Ordering::Relaxed)
            && link.is_usable()
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            opening.set(connection.open_bi());
            if let Ok((out, inbound)) = opened {
                let unused = link.state.lock().spare.replace(Streams { out, inbound });
                if let Some(unused) = unused {
                    unused.cancel();
                }
                link.full.store(false, Ordering::Relaxed);
                link.released();
            }
        }
        if link.closing.load(Ordering::SeqCst) && link.active.load(Ordering::SeqCst) == 0 {
            lost::end(&connection);
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
    link.close();
    drop(control);
}

impl Link {
    fn hear(&self, event: Event) {
        match event {
            Event::Settings(settings) => {
                self.limit.hear(&settings);
                self.state.lock().settings = Some(settings);
            }
            Event::GoAway(first_rejected) => {
                self.rejected_from.store(first_rejected, Ordering::Relaxed);
                self.close();
            }
        }
        self.wake_waiting();
    }
}
