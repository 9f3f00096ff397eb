//! One attempt: pick, lease, send. Several may be under way beside each other: each has its own of everything here.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::patience::Patience;
use super::{Exchange, Failure, judge};
use crate::codec::{Body, Interim, Replay, RequestHead, Response, SendError};
use crate::proxy::reason::Reason;
use crate::proxy::record::Record;
use crate::proxy::with_random;
use crate::telemetry::metrics::{AttemptOutcome, Waste};
use crate::upstream::pool::Preference;
use crate::upstream::{Cluster, Lease, LeaseError, Overflow, Permit, PickError, PickHint};

/// How one attempt ended.
pub(super) enum Try {
    Answered(Response<Body>),
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
    pub(super) way: Way,
    pub(super) patience: Patience<'a>,
    cluster: &'a Cluster,
    /// Why it is given up, if it is.
    pub(super) in_vain: InVain,
}

/// Where an attempt goes, and whether it has gone.
pub(super) struct Way {
    /// Until the attempt has ended.
    permit: Option<Permit>,
    preference: Preference,
    sent: Sent,
}

/// When an attempt had a connection and its request was sent: microseconds after its begin, one higher, zero before.
#[derive(Default)]
struct Sent(AtomicU64);

/// Why an attempt was given up before its end. Attempts beside each other share it: those that are dropped when one of
/// them has won have lost.
#[derive(Clone, Default)]
pub(super) struct InVain(Option<Arc<AtomicBool>>);

impl InVain {
    /// For attempts beside each other.
    pub(super) fn shared() -> Self {
        Self(Some(Arc::default()))
    }

    /// One has won.
    pub(super) fn decide(&self) {
        if let Some(decided) = &self.0 {
            decided.store(true, Ordering::Relaxed);
        }
    }

    fn cause(&self) -> Waste {
        match &self.0 {
            Some(decided) if decided.load(Ordering::Relaxed) => Waste::HedgeLost,
            _ => Waste::CallerLeft,
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

impl Way {
    fn permit(&self) -> &Permit {
        self.permit.as_ref().expect("it is taken when the attempt ends, and then the attempt is gone")
    }

    fn under_way(&self, now: Instant) -> Option<Duration> {
        self.permit.as_ref().and_then(|permit| self.sent.since(permit.started(), now))
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        let Some(permit) = &self.way.permit else { return };
        let now = Instant::now();
        let metrics = &self.cluster.state().metrics;
        metrics.attempted(AttemptOutcome::Cancelled);
        let Some(spent) = self.way.under_way(now) else { return };
        let cause = self.in_vain.cause();
        metrics.wasted(cause, spent);
        if cause == Waste::HedgeLost {
            // It was too slow, and that is all that is known of it.
            permit.unanswered(self.patience.answered_after(now), now);
        }
    }
}

impl<'a> One<'a> {
    /// Picks an endpoint, and notes in the record that it is tried.
    pub(super) fn begin(
        exchange: &Exchange<'a>,
        replay: Option<&'a Replay>,
        tried: &[SocketAddr],
        record: &mut Record,
        now: Instant,
    ) -> Result<Self, Failure> {
        let cluster = exchange.cluster;
        let hint = PickHint { tried, ..exchange.hint };
        let permit = match with_random(|random| cluster.pick(&hint, random, now)) {
            Ok(permit) => permit,
            Err(PickError::NoEndpoint) => return Err(Reason::NoEndpoint.into()),
            Err(PickError::Open { retry_after }) => {
                let open = Failure { retry_after: Some(retry_after), ..Reason::BreakerOpen.into() };
                return Err(Failure { details: "breaker_endpoint", ..open });
            }
            Err(PickError::Overflow) => {
                cluster.state().metrics.overflowed(Overflow::Requests);
                return Err(Reason::Overflow.into());
            }
        };
        // What went wrong with one kept connection may be wrong with the others.
        let preference = if record.attempts > 0 { Preference::Young } else { Preference::Any };
        Ok(Self::on(permit, preference, (exchange, replay, now), record))
    }

    /// To an endpoint that was picked already.
    pub(super) fn on(
        permit: Permit,
        preference: Preference,
        (exchange, replay, now): (&Exchange<'a>, Option<&'a Replay>, Instant),
        record: &mut Record,
    ) -> Self {
        if replay.is_some() {
            permit.uploads();
        }
        record.attempts += 1;
        record.upstream_host = Some(permit.member().state.address);
        Self {
            way: Way { permit: Some(permit), preference, sent: Sent::default() },
            patience: Patience::new(exchange, replay, now),
            cluster: exchange.cluster,
            in_vain: InVain::default(),
        }
    }

    /// The endpoint.
    pub(super) fn address(&self) -> SocketAddr {
        self.way.permit().member().state.address
    }

    /// It ended like this: evidence, and the cluster's numbers.
    pub(super) fn end(mut self, exchange: &Exchange<'_>, tried: &Try, record: &mut Record, now: Instant) -> Permit {
        let spent = self.way.under_way(now);
        let permit = self.way.permit.take().expect("an attempt ends once");
        record.upstream_host = Some(permit.member().state.address);
        record.upstream_time = Some(now.saturating_duration_since(permit.started()));
        // Zero: nothing was sent.
        let latency = if spent.is_some() { self.patience.answered_after(now) } else { Duration::ZERO };
        judge::note(exchange.cluster, &permit, tried, exchange.caller, latency, now);
        if let (Try::TimedOut, Some(spent)) = (tried, spent) {
            let waste = if exchange.limits.is_late(now) { Waste::Deadline } else { Waste::AttemptLimit };
            exchange.cluster.state().metrics.wasted(waste, spent);
        }
        permit
    }
}

/// Sends the request on a connection to the endpoint that was picked. Dropping the future cancels what is under way.
pub(super) fn send<'f>(
    exchange: &'f Exchange<'f>,
    way: &'f Way,
    head: &'f RequestHead,
    body: Body,
    interim: &'f dyn Interim,
) -> impl Future<Output = Try> + 'f {
    let leasing = exchange.cluster.lease(way.permit().member(), head.version, way.preference);
    send_once(leasing, (exchange, way), head, body, interim)
}

async fn send_once(
    leasing: impl Future<Output = Result<Lease, LeaseError>>,
    (exchange, way): (&Exchange<'_>, &Way),
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Try {
    match leasing.await {
        Err(error) => Try::Lease(error),
        Ok(lease) => {
            let now = Instant::now();
            if exchange.limits.is_late(now) {
                return Try::Late;
            }
            way.sent.note(way.permit().started(), now);
            match lease.send(head, body, interim).await {
                Ok(response) => Try::Answered(response),
                Err(error) => Try::Send(error),
            }
        }
    }
}
