//! An open tunnel: its way down, and everything that ends when it ends.
//!
//! What ends it from here (its limits, a drain, a policy that no longer lets it be) ends a WebSocket with a Close frame to
//! the caller where no frame is half sent. A caller answers with its own, which reaches the server as it comes, so that
//! both have closed as RFC 6455 section 7 says; to a server whose caller does not answer in time we say it ourselves.
//! Other tunnels are ended in both directions.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::coop::unconstrained;

use super::{Asked, Kind, Place};
use crate::base::drain::{Notice, Watch};
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::base::wake::WakeFlag;
use crate::codec::tunnel::WayUp;
use crate::codec::websocket::{self, Frames, From, close_frame};
use crate::codec::{Body, BodyError, Frame, PollBody};
use crate::proxy::reason::Reason;
use crate::proxy::record::Record;
use crate::telemetry::metrics::TunnelKind;
use crate::upstream::Permit;

/// The answer's body of an exchange that became a tunnel. Its end, an error, or dropping it is the end of the tunnel, which
/// is told once.
#[derive(Debug)]
pub struct TunnelBody {
    body: Body,
    record: Record,
    up: WayUp,
    /// Of the way down of a WebSocket.
    frames: Option<Frames>,
    kind: TunnelKind,
    idle: Option<Duration>,
    over_at: Option<Instant>,
    drain: Option<Drain>,
    timer: Deadline,
    /// Raised, while the tunnel is open, by whatever may have to end it.
    ends: WakeFlag,
    /// Something moved since the clock was last read.
    moved: bool,
    /// Pieces that came since it was last looked whether the time is over.
    unwatched: u32,
    last_moved: Instant,
    /// Bytes of the way up when the clock was last read.
    received: u64,
    phase: Phase,
    _permit: Option<Permit>,
    _place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// It is to be closed: this is said as soon as a frame may follow.
    Closing {
        code: u16,
        until: Instant,
    },
    /// The caller was told. What the server sends now is for nobody; the answer of the caller is awaited.
    Told {
        until: Instant,
    },
    /// The way down has ended, and has to be let go until then if we ended it.
    Down {
        until: Option<Instant>,
    },
    Over,
}

/// Hears when the tunnel should go.
struct Drain {
    watch: Watch,
    begun: Pin<Box<dyn Future<Output = Notice> + Send>>,
    /// Who was told to be woken.
    waker: Option<std::task::Waker>,
    /// Its own moment of the drain.
    at: Option<Instant>,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Drain {
    fn new(watch: &Watch) -> Self {
        let mut heard = watch.clone();
        // Out of the budget of its task: once that is used up, what waits is not polled, and would hear of nothing,
        // though it was asked to wait.
        let begun = Box::pin(unconstrained(async move { heard.begun().await }));
        Self { watch: watch.clone(), begun, waker: None, at: None }
    }

    /// When it goes, once the drain has begun. Costs a load while there is none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        if self.at.is_none() {
            let registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if registered && !self.watch.has_begun() {
                return None;
            }
            match self.begun.as_mut().poll(cx) {
                Poll::Ready(notice) => self.at = Some(notice.since + notice.own_share()),
                Poll::Pending => self.waker = Some(cx.waker().clone()),
            }
        }
        self.at
    }
}

impl TunnelBody {
    /// A tunnel that an answer with this body has agreed to.
    pub(in crate::proxy) fn new(body: Body, permit: Option<Permit>, mut record: Record, asked: Asked) -> Box<Self> {
        let Asked { kind, up, place, idle, age } = asked;
        let now = Instant::now();
        if let Some(permit) = &permit {
            // The endpoint has done what was asked of it. The tunnel may go on for days, and breakers must not wait for
            // its end.
            permit.answered(now);
        }
        let counted = kind.counted();
        record.begin_tunnel(&up);
        record.listener().metrics.tunnel_opened(counted);
        let drain = record.watch.origin().drain.get().map(Drain::new);
        Box::new(Self {
            body,
            record,
            up,
            frames: (kind == Kind::WebSocket).then(Frames::default),
            kind: counted,
            idle,
            over_at: age.and_then(|age| now.checked_add(age)),
            drain,
            timer: Deadline::default(),
            ends: WakeFlag::default(),
            moved: false,
            unwatched: 0,
            last_moved: now,
            received: 0,
            phase: Phase::Open,
            _permit: permit,
            _place: place,
        })
    }

    /// It ends from here.
    fn close(&mut self, reason: Reason, details: &'static str) {
        self.record.reason = Some(reason);
        if !details.is_empty() {
            self.record.details = details;
        }
        if reason == Reason::Denied {
            self.record.note_ended();
        }
        let until = Instant::now() + limits::TUNNEL_CLOSE;
        let code = if reason == Reason::Denied { websocket::POLICY_VIOLATION } else { websocket::GOING_AWAY };
        match self.phase {
            Phase::Open if self.frames.as_ref().is_some_and(|frames| !frames.has_closed()) => {
                self.phase = Phase::Closing { code, until };
            }
            Phase::Open => self.end_down(None),
            // The caller has been told everything already.
            Phase::Down { until: None } => {
                self.up.close(None);
                self.phase = Phase::Down { until: Some(Instant::now() + limits::TUNNEL_END) };
            }
            Phase::Closing { .. } | Phase::Told { .. } | Phase::Down { .. } | Phase::Over => {}
        }
    }

    /// Ends both directions.
    fn end_down(&mut self, last: Option<Bytes>) {
        self.up.close(last);
        self.phase = Phase::Down { until: Some(Instant::now() + limits::TUNNEL_END) };
    }

    /// The time has come for something.
    fn act(&mut self, due: Due) -> Result<(), BodyError> {
        match due {
            Due::Denied => self.close(Reason::Denied, ""),
            Due::Idle => self.close(Reason::Idle, "tunnel_idle"),
            Due::Age => self.close(Reason::MaxDuration, "tunnel_age"),
            Due::Drain => self.close(Reason::Drained, ""),
            Due::Given => match self.phase {
                Phase::Closing { code, .. } => self.end_down(Some(close_frame(code, From::Client))),
                Phase::Told { .. } => self.end_down(Some(close_frame(websocket::GOING_AWAY, From::Client))),
                Phase::Open | Phase::Down { .. } | Phase::Over => return Err(BodyError::Timeout(UNFINISHED)),
            },
        }
        Ok(())
    }

    /// Whether it is to be looked, before anything more moves, if the tunnel must end: while something comes without a
    /// pause, nothing else asks.
    fn must_look(&self) -> bool {
        self.unwatched >= limits::TUNNEL_LOOK || self.phase == Phase::Open && self.record.watch.ended().is_some()
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        self.unwatched = 0;
        let received = self.up.received();
        if self.moved || received != self.received {
            self.moved = false;
            self.received = received;
            self.last_moved = Instant::now();
        }
        if self.phase != Phase::Open {
            return self.poll_ends(cx);
        }
        // While it is open its ends only move later, and each of them wakes us: whoever is woken by bytes need not ask.
        let Some(waker) = self.ends.take(cx) else { return Poll::Pending };
        let polled = self.poll_ends(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            self.ends.reset();
        }
        polled
    }

    fn poll_ends(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        loop {
            let (at, due) = match self.phase {
                Phase::Open | Phase::Down { until: None } => {
                    if self.record.watch.poll_ended(cx).is_some() {
                        return Poll::Ready(Due::Denied);
                    }
                    let idle = self.idle.map(|idle| (self.last_moved + idle, Due::Idle));
                    let age = self.over_at.map(|at| (at, Due::Age));
                    let drain = self.drain.as_mut().and_then(|drain| drain.poll(cx)).map(|at| (at, Due::Drain));
                    let watched = self.record.watch.due();
                    let end = [idle, age, drain].into_iter().flatten().min_by_key(|(at, _)| *at);
                    if let Some(watched) = watched.filter(|watched| end.is_none_or(|(at, _)| *watched < at)) {
                        ready!(self.timer.poll(cx, watched));
                        self.record.enter_watch(None);
                        continue;
                    }
                    match end {
                        Some(end) => end,
                        None => return Poll::Pending,
                    }
                }
                Phase::Closing { until, .. } | Phase::Told { until } | Phase::Down { until: Some(until) } => {
                    (until, Due::Given)
                }
                Phase::Over => return Poll::Pending,
            };
            return self.timer.poll(cx, at).map(|()| due);
        }
    }

    fn break_off(&mut self, error: BodyError) -> BodyError {
        self.phase = Phase::Over;
        if self.record.reason.is_none() {
            self.record.reason = Some(match error {
                BodyError::Abandoned | BodyError::Outrun => Reason::Cancelled,
                BodyError::Reset(_) => Reason::UpstreamReset,
                BodyError::Malformed(_) => Reason::UpstreamProtocol,
                BodyError::Incomplete | BodyError::Io(_) => Reason::UpstreamClosed,
                BodyError::Timeout(_) => Reason::Timeout,
                BodyError::Denied => Reason::Denied,
            });
        }
        error
    }

    /// What may be passed on of a piece of the way down; the rest is for nobody.
    fn pass(&mut self, data: Bytes) -> Bytes {
        let Some(frames) = &mut self.frames else { return data };
        let data = match self.phase {
            Phase::Open => data,
            Phase::Closing { .. } => data.slice(..frames.rest_of_frame(&data)),
            Phase::Told { .. } | Phase::Down { .. } | Phase::Over => Bytes::new(),
        };
        frames.pass(&data);
        data
    }

    /// The Close frame, when it is time for it.
    fn last_words(&mut self) -> Option<Bytes> {
        let Phase::Closing { code, until } = self.phase else { return None };
        let frames = self.frames.as_mut()?;
        if !frames.at_boundary() {
            return None;
        }
        self.phase = Phase::Told { until };
        if frames.has_closed() {
            return None;
        }
        let frame = close_frame(code, From::Server);
        frames.pass(&frame);
        Some(frame)
    }
}

impl PollBody for TunnelBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            if matches!(self.phase, Phase::Down { .. } | Phase::Over) {
                return Poll::Ready(None);
            }
            if let Some(frame) = self.last_words() {
                self.record.bytes_sent += frame.len() as u64;
                return Poll::Ready(Some(Ok(Frame::Data(frame))));
            }
            if self.must_look()
                && let Poll::Ready(due) = self.poll_due(cx)
            {
                if let Err(error) = self.act(due) {
                    return Poll::Ready(Some(Err(self.break_off(error))));
                }
                continue;
            }
            match self.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    self.moved = true;
                    self.unwatched += 1;
                    let data = self.pass(data);
                    if data.is_empty() {
                        continue;
                    }
                    self.record.bytes_sent += data.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Poll::Ready(Some(Ok(Frame::Trailers(_))) | None) => {
                    let until = matches!(self.phase, Phase::Told { .. } | Phase::Closing { .. })
                        .then(|| Instant::now() + limits::TUNNEL_END);
                    self.phase = Phase::Down { until };
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(self.break_off(error)))),
                Poll::Pending => {}
            }
            let due = ready!(self.poll_due(cx));
            if let Err(error) = self.act(due) {
                return Poll::Ready(Some(Err(self.break_off(error))));
            }
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.body.poll_progress(cx).map_err(|error| self.break_off(error))?;
        while let Poll::Ready(due) = self.poll_due(cx) {
            // The writer is blocked: nothing can be said, and nobody waits for it.
            if due == Due::Given {
                return Err(self.break_off(BodyError::Timeout(UNFINISHED)));
            }
            self.act(due).map_err(|error| self.break_off(error))?;
        }
        Ok(())
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            match self.body.poll_rest(cx) {
                Poll::Ready(Ok(())) => {
                    self.phase = Phase::Over;
                    self.record.complete();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.break_off(error))),
                Poll::Pending => {}
            }
            let due = ready!(self.poll_due(cx));
            if let Err(error) = self.act(due) {
                return Poll::Ready(Err(self.break_off(error)));
            }
        }
    }

    fn is_end(&self) -> bool {
        matches!(self.phase, Phase::Down { .. } | Phase::Over)
    }

    fn exact_len(&self) -> Option<u64> {
        None
    }
}

impl Drop for TunnelBody {
    fn drop(&mut self) {
        self.record.listener().metrics.tunnel_closed(self.kind);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Denied,
    Idle,
    Age,
    Drain,
    /// The time for the end that is under way.
    Given,
}

const UNFINISHED: &str = "the tunnel did not end in time";

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_drain_is_heard_by_a_tunnel_that_asked_when_its_turn_was_used_up() {
        let drain = crate::base::drain::Drain::default();
        let mut hearing = Drain::new(&drain.watch());
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        poll_fn(|cx| {
            while let Poll::Ready(turn) = tokio::task::coop::poll_proceed(cx) {
                turn.made_progress();
            }
            assert_eq!(hearing.poll(&mut Context::from_waker(&waker)), None);
            Poll::Ready(())
        })
        .await;
        let before = woken.0.load(Ordering::Relaxed);
        drain.start(Duration::ZERO);
        assert_eq!(woken.0.load(Ordering::Relaxed), before + 1, "nothing else will wake an idle tunnel");
        assert!(hearing.poll(&mut Context::from_waker(&waker)).is_some());
    }
}
