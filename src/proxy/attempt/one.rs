//! One attempt: pick, lease, send. Several may be under way beside each other: each has its own of everything here.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::uri::Authority;

use super::hold::{self, Ended};
use super::patience::Patience;
use super::{Exchange, Failure, judge};
use crate::codec::{Body, Interim, PollBody as _, Replay, RequestHead, Response, SendError, SendErrorKind};
use crate::policy::hedge::HedgeTimes;
use crate::proxy::reason::Reason;
use crate::proxy::record::Record;
use crate::proxy::with_random;
use crate::telemetry::metrics::{AttemptOutcome, Carrier, Waste};
use crate::upstream::pool::Preference;
use crate::upstream::{Cluster, Lease, LeaseError, Overflow, Permit, PickError, PickHint};

/// How one attempt ended.
pub(super) enum Try {
    Answered(Response<Body>),
    /// The head of the answer was held, and trailers came before any message.
    Ended(Box<Ended>),
    Lease(LeaseError),
    Send(SendError),
    /// The limit of one attempt, or of the request, ran out.
    TimedOut,
    /// The time of the request had run out when there was a connection for it: nothing was sent.
    Late,
    /// The upload stood still for too long, whoever's fault it was.
    Stalled,
    /// The caller may no longer do this.
    Denied,
}

/// An attempt under way. Dropping it means that it is given up: it is counted as cancelled, and is no evidence.
pub(super) struct One<'a> {
    pub(super) sending: Sending<'a>,
    pub(super) patience: Patience<'a>,
    cluster: &'a Cluster,
    /// Why it is given up, if it is.
    pub(super) in_vain: InVain<'a>,
    /// It was begun beside another.
    pub(super) is_hedge: bool,
}

/// What sending it needs.
pub(super) struct Sending<'a> {
    /// Until the attempt has ended.
    permit: Option<Permit>,
    replay: Option<&'a Replay>,
    preference: Preference,
    /// The head of a gRPC answer is held until its first frame.
    hold: bool,
    sent: Sent,
    /// When the head came that is held.
    came: OnceLock<Instant>,
}

impl Sending<'_> {
    /// Whether a head came and is held.
    pub(super) fn is_held(&self) -> bool {
        self.hold && self.came.get().is_some()
    }

    fn permit(&self) -> &Permit {
        self.permit.as_ref().expect("it is taken when the attempt ends, and then the attempt is gone")
    }

    /// Whether there was a connection, and the request was sent.
    fn is_sent(&self) -> bool {
        self.sent.0.load(Ordering::Relaxed) != 0
    }

    /// For how long it had been under way since.
    fn under_way(&self, now: Instant) -> Option<Duration> {
        self.permit.as_ref().and_then(|permit| self.sent.since(permit.started(), now))
    }
}

/// When an attempt had a connection and its request was sent: microseconds after its begin, one higher, zero before.
#[derive(Default)]
struct Sent(AtomicU64);

/// What an attempt says when it is given up before its end. Attempts beside each other share it: those that are dropped
/// when one of them has won have lost.
#[derive(Clone, Default)]
pub(super) struct InVain<'a> {
    /// One has won. `None`: there is no other.
    decided: Option<Arc<AtomicBool>>,
    /// Who learns what attempts take.
    times: Option<&'a HedgeTimes>,
    /// What an attempt takes when it is waited for no longer without another.
    delay: Option<Duration>,
}

impl<'a> InVain<'a> {
    /// Of attempts whose times are told to `times`.
    pub(super) fn learning(times: Option<&'a HedgeTimes>, delay: Option<Duration>) -> Self {
        Self { decided: None, times, delay }
    }

    /// There are others beside it.
    pub(super) fn shares(&mut self, decided: &Arc<AtomicBool>) {
        self.decided = Some(Arc::clone(decided));
    }

    fn cause(&self) -> Waste {
        match &self.decided {
            Some(decided) if decided.load(Ordering::Relaxed) => Waste::HedgeLost,
            _ => Waste::CallerLeft,
        }
    }

    fn answered(&self, took: Duration, now: Instant) {
        if let Some(times) = self.times {
            times.record(took, now);
        }
    }

    /// It would have taken longer. One that had hardly begun says nothing.
    fn unanswered(&self, waited: Duration, now: Instant) {
        if let Some(times) = self.times
            && self.delay.is_some_and(|delay| waited >= delay)
        {
            times.record(waited, now);
        }
    }
}

impl Sent {
    fn note(&self, began: Instant, now: Instant) {
        self.0.store(now.saturating_duration_since(began).as_micros() as u64 + 1, Ordering::Relaxed);
    }

    /// For how long the request had been under way; `None` when it was not sent.
    fn since(&self, began: Instant, now: Instant) -> Option<Duration> {
        let micros = self.0.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(began + Duration::from_micros(micros)))
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        let Some(permit) = &self.sending.permit else { return };
        let now = Instant::now();
        let metrics = &self.cluster.state().metrics;
        metrics.attempted(AttemptOutcome::Cancelled);
        let Some(spent) = self.sending.under_way(now) else { return };
        let cause = self.in_vain.cause();
        metrics.wasted(cause, spent);
        if cause == Waste::HedgeLost {
            // It was too slow, and that is all that is known of it.
            let waited = self.patience.answered_after(now);
            permit.unanswered(waited, now);
            self.in_vain.unanswered(waited, now);
        }
    }
}

impl<'a> One<'a> {
    /// Picks an endpoint, and notes in the record that it is tried.
    pub(super) fn begin(
        exchange: &Exchange<'a>,
        (replay, hold): (Option<&'a Replay>, bool),
        tried: &[SocketAddr],
        record: &mut Record,
        now: Instant,
    ) -> Result<Self, Failure> {
        let cluster = exchange.cluster;
        let hint = PickHint { tried, other_zone: exchange.rule.retry.other_locality, ..exchange.hint };
        let permit = match with_random(|random| cluster.pick(&hint, random, now)) {
            Ok(permit) => permit,
            Err(PickError::NoEndpoint) => return Err(Reason::NoEndpoint.into()),
            Err(PickError::Open { scope, retry_after }) => return Err(Failure::open(scope, retry_after)),
            Err(PickError::Overflow) => {
                cluster.state().metrics.overflowed(Overflow::Requests);
                return Err(Reason::Overflow.into());
            }
        };
        // What went wrong with one kept connection may be wrong with the others.
        let preference = if record.attempts > 0 { Preference::Young } else { Preference::Any };
        Ok(Self::on(exchange, (permit, preference), (replay, hold), record, now))
    }

    /// To an endpoint that was picked.
    pub(super) fn on(
        exchange: &Exchange<'a>,
        (permit, preference): (Permit, Preference),
        (replay, hold): (Option<&'a Replay>, bool),
        record: &mut Record,
        now: Instant,
    ) -> Self {
        if replay.is_some() {
            permit.uploads();
        }
        record.attempts += 1;
        record.upstream_host = Some(permit.member().state.address);
        let (sent, came) = (Sent::default(), OnceLock::new());
        Self {
            sending: Sending { permit: Some(permit), replay, preference, hold, sent, came },
            patience: Patience::new(exchange, replay, now),
            cluster: exchange.cluster,
            in_vain: InVain::default(),
            is_hedge: false,
        }
    }

    /// The endpoint.
    pub(super) fn address(&self) -> SocketAddr {
        self.sending.permit().member().state.address
    }

    /// It ended like this: evidence, and the cluster's numbers.
    pub(super) fn end(mut self, exchange: &Exchange<'_>, tried: &Try, record: &mut Record, now: Instant) -> Permit {
        if matches!(tried, Try::TimedOut)
            && let Some(spent) = self.sending.under_way(now)
        {
            let waste = if exchange.limits.is_late(now) { Waste::Deadline } else { Waste::AttemptLimit };
            self.cluster.state().metrics.wasted(waste, spent);
        }
        let permit = self.sending.permit.take().expect("an attempt ends once");
        // Not from when it was let go: holding it is our time.
        let now = self.sending.came.get().copied().unwrap_or(now);
        record.upstream_host = Some(permit.member().state.address);
        record.upstream_time = Some(now.saturating_duration_since(permit.started()));
        // Zero: nothing was sent.
        let latency = if self.sending.is_sent() { self.patience.answered_after(now) } else { Duration::ZERO };
        judge::note(exchange.cluster, &permit, tried, exchange.caller, latency, now);
        match tried {
            Try::Answered(response) if response.head.status.as_u16() < 500 => self.in_vain.answered(latency, now),
            Try::TimedOut => self.in_vain.unanswered(latency, now),
            _ => {}
        }
        permit
    }
}

/// Sends the request on a connection to the endpoint that was picked. Dropping the future cancels what is under way.
pub(super) fn send<'f>(
    exchange: &'f Exchange<'f>,
    sending: &'f Sending<'f>,
    head: &'f RequestHead,
    body: Body,
    interim: &'f dyn Interim,
) -> impl Future<Output = Try> + 'f {
    // At once: nobody waits, so no time passes.
    let (permit, preference) = (sending.permit(), sending.preference);
    let at_hand = exchange.cluster.lease_at_hand(permit.member(), head.version, preference, permit.started());
    send_once(at_hand, (exchange, sending), head, body, interim)
}

async fn send_once(
    at_hand: Option<Lease>,
    (exchange, sending): (&Exchange<'_>, &Sending<'_>),
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Try {
    let permit = sending.permit();
    let (lease, now) = match at_hand {
        Some(lease) => (lease, permit.started()),
        None => {
            let leasing = exchange.cluster.lease(permit.member(), head.version, sending.preference);
            match Box::pin(leasing).await {
                Err(error) => return Try::Lease(error),
                Ok(lease) => (lease, Instant::now()),
            }
        }
    };
    if exchange.limits.is_late(now) {
        return Try::Late;
    }
    sending.sent.note(permit.started(), now);
    let (carrier, mut response) = match send_on(lease, (exchange, sending), head, body, interim).await {
        Ok(answered) => answered,
        Err(error) => return Try::Send(error),
    };
    let host = head.authority.as_ref().map(Authority::host);
    exchange.cluster.learn(sending.permit().member(), (carrier, host), &mut response.head);
    if !(sending.hold && hold::is_open(&response)) {
        return Try::Answered(response);
    }
    // Mostly it came with the head.
    match poll_fn(|cx| Poll::Ready(response.body.poll_frame(cx))).await {
        Poll::Ready(first) => hold::shown(response, first),
        Poll::Pending => {
            let came = *sending.came.get_or_init(Instant::now);
            Box::pin(hold::first_frame(response, sending.replay, came)).await
        }
    }
}

/// Sends it on this connection, or a tunnel that this takes not on one that does. What answered is said as well.
async fn send_on(
    lease: Lease,
    (exchange, sending): (&Exchange<'_>, &Sending<'_>),
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Result<(Carrier, Response<Body>), SendError> {
    let carrier = lease.carrier();
    let error = match (lease.send(head, body, interim).await, exchange.tunnel) {
        (Ok(response), _) => return Ok((carrier, response)),
        (Err(error), Some(_)) if matches!(error.kind, SendErrorKind::NoExtendedConnect) => error,
        (Err(error), _) => return Err(error),
    };
    let leasing = Box::pin(exchange.cluster.lease_http1(sending.permit().member(), sending.preference));
    match (leasing.await, exchange.tunnel) {
        (Some(Ok(lease)), Some(up)) => {
            let carrier = lease.carrier();
            Ok((carrier, Box::pin(lease.send(head, up.attempt(), interim)).await?))
        }
        (Some(Err(LeaseError::Connect(kind))), _) => Err(SendError::never(kind)),
        (None | Some(Ok(_) | Err(LeaseError::Overflow(_) | LeaseError::Retired)), _) => Err(error),
    }
}
