//! A unary gRPC call of the proxy's own, over a cluster: its endpoints, pools, TLS and ceilings.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Version};
use prost::Message;
use smallvec::SmallVec;

use super::local::{Caller, grpc_status};
use super::with_random;
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::codec::{Body, Frame, Interim, PollBody as _, RequestHead, SendError, SendErrorKind, Sent};
use crate::telemetry::metrics::AttemptOutcome;
use crate::upstream::pool::Preference;
use crate::upstream::{Cluster, LeaseError, Outcome, Overflow, Permit, PickHint};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallError {
    /// Not in time.
    Timeout,
    /// Nobody to ask, or nothing that could be read.
    Failed,
}

/// A method, and how it is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// Its path.
    pub(super) path: &'static str,
    /// Asking twice does no harm: asked again also when the first question may have been heard.
    pub(super) idempotent: bool,
    /// An answer must come within.
    pub(super) limit: Duration,
}

/// A message with its prefix (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(super) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    // Heads and shown bodies are bounded far below 4 GiB.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room: the buffer grows.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// Asks. A question that got no answer is asked once more, of another endpoint where there is one: a server that is
/// restarted must not cost a request. Dropping the future takes the question back.
///
/// # Errors
/// See [`CallError`].
pub(super) async fn call<A: Message + Default>(cluster: &Cluster, message: Bytes, call: Call) -> Result<A, CallError> {
    let until = Instant::now() + call.limit;
    let mut timer = Deadline::default();
    let mut tried: SmallVec<[SocketAddr; 2]> = SmallVec::new();
    loop {
        let hint = PickHint { tried: &tried, ..PickHint::default() };
        let picked = with_random(|random| cluster.pick(&hint, random, Instant::now()));
        let Ok(permit) = picked else { return Err(CallError::Failed) };
        tried.push(permit.member().state.address);
        let ended = {
            let mut uncounted = Uncounted { cluster, outcome: Some(AttemptOutcome::Cancelled) };
            // What went wrong with one kept connection may be wrong with the others.
            let preference = if tried.len() > 1 { Preference::Young } else { Preference::Any };
            let mut exchange = pin!(exchange(cluster, &permit, (&message, call), preference));
            let ended = poll_fn(|cx| match exchange.as_mut().poll(cx) {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending => timer.poll(cx, until).map(|()| Err(Fault::TimedOut)),
            })
            .await;
            uncounted.outcome = note(cluster, &permit, &ended);
            ended
        };
        match ended {
            Ok(answer) => return Ok(answer),
            // It keeps the time as well, and may be the first to say so.
            Err(Fault::TimedOut | Fault::Status(DEADLINE_EXCEEDED)) => return Err(CallError::Timeout),
            Err(Fault::NeverSent(_)) if tried.len() < 2 => {}
            Err(Fault::Broken) if call.idempotent && tried.len() < 2 => {}
            Err(_) => return Err(CallError::Failed),
        }
    }
}

/// How one attempt ended without an answer.
enum Fault {
    /// A ceiling of the cluster is reached.
    Overflow(Overflow),
    NeverSent(AttemptOutcome),
    Broken,
    /// It answered that it has failed.
    Status(u8),
    /// It answered with something else than a message.
    Invalid,
    TimedOut,
}

/// Counts an attempt at its end. One that is dropped before was given up because the caller left.
struct Uncounted<'a> {
    cluster: &'a Cluster,
    outcome: Option<AttemptOutcome>,
}

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.cluster.state().metrics.attempted(outcome);
        }
    }
}

/// Evidence about the endpoint, and what the attempt is counted as.
fn note<A>(cluster: &Cluster, permit: &Permit, ended: &Result<A, Fault>) -> Option<AttemptOutcome> {
    let now = Instant::now();
    let latency = now.saturating_duration_since(permit.started());
    let (evidence, outcome) = match ended {
        Ok(_) => (Some(Outcome::Success(latency)), AttemptOutcome::Success),
        Err(Fault::Status(status)) => match Outcome::of_grpc_failure(*status) {
            Some(failure) => (Some(failure), AttemptOutcome::ServerError),
            None => (Some(Outcome::Success(latency)), AttemptOutcome::Success),
        },
        Err(Fault::Overflow(kind)) => {
            cluster.state().metrics.overflowed(*kind);
            return None;
        }
        Err(Fault::NeverSent(AttemptOutcome::Refused)) => (None, AttemptOutcome::Refused),
        Err(Fault::NeverSent(outcome)) => (Some(Outcome::Broken), *outcome),
        Err(Fault::Broken) => (Some(Outcome::Broken), AttemptOutcome::Reset),
        Err(Fault::Invalid) => (Some(Outcome::Broken), AttemptOutcome::Invalid),
        // Our own limit: no failure, but a slow endpoint must look slow.
        Err(Fault::TimedOut) => {
            permit.member().state.latency.observe(latency, now);
            (None, AttemptOutcome::Timeout)
        }
    };
    if let Some(evidence) = evidence {
        permit.report(evidence, now);
    }
    Some(outcome)
}

async fn exchange<A: Message + Default>(
    cluster: &Cluster,
    permit: &Permit,
    (message, call): (&Bytes, Call),
    preference: Preference,
) -> Result<A, Fault> {
    let lease = cluster.lease(permit.member(), Version::HTTP_2, preference).await.map_err(|error| match error {
        LeaseError::Overflow(kind) => Fault::Overflow(kind),
        LeaseError::Connect(SendErrorKind::ConnectTimeout) => Fault::NeverSent(AttemptOutcome::ConnectTimeout),
        LeaseError::Connect(_) | LeaseError::Retired => Fault::NeverSent(AttemptOutcome::ConnectFailure),
    })?;
    let head = head(cluster, permit, call);
    let sent = lease.send(&head, Body::Full(message.clone()), &Nobody).await;
    let response = sent.map_err(|error: SendError| match (error.kind, error.sent) {
        // Found out by the question itself: the pool does not know.
        (SendErrorKind::Handshake { code, detail }, _) => {
            cluster.refused_by(permit.member(), code, &detail);
            Fault::NeverSent(AttemptOutcome::ConnectFailure)
        }
        (_, Sent::Never) => Fault::NeverSent(AttemptOutcome::Refused),
        (_, Sent::Maybe) => Fault::Broken,
    })?;
    if response.head.status != StatusCode::OK || Caller::of(&response.head.headers) != Caller::Grpc {
        return Err(Fault::Invalid);
    }
    read(response.head.headers, response.body).await
}

/// Reads exactly one message and a status of 0.
async fn read<A: Message + Default>(headers: HeaderMap, mut body: Body) -> Result<A, Fault> {
    let mut message = BytesMut::new();
    let mut ending = headers;
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame {
            Ok(Frame::Data(data)) if message.len() + data.len() <= limits::EXTERNAL_ANSWER => {
                message.extend_from_slice(&data);
            }
            Ok(Frame::Data(_)) => return Err(Fault::Invalid),
            Ok(Frame::Trailers(trailers)) => {
                ending = trailers;
                break;
            }
            Err(_) => return Err(Fault::Broken),
        }
    }
    match grpc_status(&ending) {
        Some(0) => {}
        Some(status) => return Err(Fault::Status(status)),
        None => return Err(Fault::Invalid),
    }
    let (Some(0), true) = (message.first(), message.len() >= PREFIX) else { return Err(Fault::Invalid) };
    message.advance(1);
    if message.get_u32() as usize != message.len() {
        return Err(Fault::Invalid);
    }
    A::decode(message).map_err(|_| Fault::Invalid)
}

fn head(cluster: &Cluster, permit: &Permit, call: Call) -> RequestHead {
    let address = permit.member().state.address;
    let authority = Authority::try_from(&*cluster.config().name)
        .or_else(|_| Authority::try_from(address.to_string()))
        .unwrap_or(Authority::from_static("service"));
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("outrigger/", env!("CARGO_PKG_VERSION"))));
    // At most eight digits (gRPC over HTTP/2, "TimeoutValue"): in milliseconds that is a day.
    let millis = call.limit.as_millis().clamp(1, 99_999_999);
    if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
    RequestHead {
        method: Method::POST,
        scheme: if cluster.config().tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP },
        authority: Some(authority),
        path: PathAndQuery::from_static(call.path),
        version: Version::HTTP_2,
        headers,
        upgrade: None,
    }
}

/// The gRPC status of a call that took too long.
const DEADLINE_EXCEEDED: u8 = 4;

/// Hears what a server says before its answer.
struct Nobody;

impl Interim for Nobody {
    fn send(&self, _: StatusCode, _: &HeaderMap) {}
}

/// A flag and the length.
const PREFIX: usize = 5;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
