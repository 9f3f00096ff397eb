//! One attempt: pick, lease, send. Several may be under way beside each other: each has its own of everything here.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Instant;

use super::hold::{self, Ended};
use super::patience::Patience;
use super::{Exchange, Failure, judge};
use crate::codec::{Body, Interim, Replay, RequestHead, Response, SendError};
use crate::proxy::reason::Reason;
use crate::proxy::record::Record;
use crate::proxy::with_random;
use crate::telemetry::metrics::AttemptOutcome;
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
    /// The upload stood still for too long, whoever's fault it was.
    Stalled,
    /// The caller may no longer do this.
    Denied,
}

/// An attempt under way. Dropping it means that it is given up: it is counted as cancelled, and is no evidence.
pub(super) struct One<'a> {
    pub(super) sending: Sending<'a>,
    pub(super) patience: Patience<'a>,
    uncounted: Uncounted<'a>,
}

/// What sending it needs.
pub(super) struct Sending<'a> {
    pub(super) permit: Permit,
    replay: Option<&'a Replay>,
    preference: Preference,
    /// The head of a gRPC answer is held until its first frame.
    hold: bool,
    /// When the head came that is held.
    came: OnceLock<Instant>,
}

impl Sending<'_> {
    /// Whether a head came and is held.
    pub(super) fn is_held(&self) -> bool {
        self.hold && self.came.get().is_some()
    }
}

/// An attempt that is not counted yet. Dropping it means that the caller has left.
struct Uncounted<'a>(&'a Cluster);

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        self.0.state().metrics.attempted(AttemptOutcome::Cancelled);
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
        if replay.is_some() {
            permit.uploads();
        }
        record.attempts += 1;
        record.upstream_host = Some(permit.member().state.address);
        // What went wrong with one kept connection may be wrong with the others.
        let preference = if record.attempts > 1 { Preference::Young } else { Preference::Any };
        let patience = Patience::new(exchange, replay, now);
        let sending = Sending { permit, replay, preference, hold, came: OnceLock::new() };
        Ok(Self { sending, patience, uncounted: Uncounted(cluster) })
    }

    /// It ended like this: evidence, and the cluster's numbers.
    pub(super) fn end(self, exchange: &Exchange<'_>, tried: &Try, record: &mut Record, now: Instant) -> Permit {
        let Self { sending: Sending { permit, came, .. }, patience, uncounted } = self;
        std::mem::forget(uncounted);
        // Not from when it was let go: holding it is our time.
        let now = came.into_inner().unwrap_or(now);
        record.upstream_time = Some(now.saturating_duration_since(permit.started()));
        judge::note(exchange.cluster, &permit, tried, exchange.caller, patience.answered_after(now), now);
        permit
    }
}

/// Sends the request on a connection to the endpoint that was picked. Dropping the future cancels what is under way.
pub(super) fn send<'f>(
    exchange: &Exchange<'f>,
    sending: &'f Sending<'f>,
    head: &'f RequestHead,
    body: Body,
    interim: &'f dyn Interim,
) -> impl Future<Output = Try> + 'f {
    let leasing = exchange.cluster.lease(sending.permit.member(), head.version, sending.preference);
    send_once(leasing, sending, head, body, interim)
}

async fn send_once(
    leasing: impl Future<Output = Result<Lease, LeaseError>>,
    sending: &Sending<'_>,
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Try {
    match leasing.await {
        Err(error) => Try::Lease(error),
        Ok(lease) => match lease.send(head, body, interim).await {
            Ok(response) if sending.hold && hold::is_open(&response) => {
                sending.came.get_or_init(Instant::now);
                Box::pin(hold::first_frame(response, sending.replay)).await
            }
            Ok(response) => Try::Answered(response),
            Err(error) => Try::Send(error),
        },
    }
}
