//! CONNECT that ends here: its tunnel is a TCP connection to an endpoint.

use std::net::SocketAddr;
use std::time::Instant;

use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;
use tokio::time::timeout_at;

use super::Asked;
use crate::codec::h1::ClientTunnel;
use crate::codec::{Body, Response, ResponseHead};
use crate::net::proxy_protocol::Addresses;
use crate::proxy::attempt::{Answered, Exchange, Failure};
use crate::proxy::reason::Reason;
use crate::proxy::record::Record;
use crate::proxy::with_random;
use crate::telemetry::metrics::AttemptOutcome;
use crate::upstream::{LeaseError, Outcome, Permit, PickError, PickHint};

/// Endpoints that are tried. Nothing was sent to the ones before the last.
const ATTEMPTS: usize = 2;

/// Connects to an endpoint of the cluster. The answer agrees to the tunnel. Cancel safe.
pub(in crate::proxy) async fn connect(
    exchange: &Exchange<'_>,
    asked: &Asked,
    record: &mut Record,
) -> Result<Answered, Failure> {
    let cluster = exchange.cluster;
    let metrics = &cluster.state().metrics;
    let info = &record.watch.origin().info;
    let caller = Addresses { source: info.peer, destination: info.local };
    let mut tried: SmallVec<[SocketAddr; ATTEMPTS]> = SmallVec::new();
    let one = exchange.attempt_limit;
    loop {
        let hint = PickHint { tried: &tried, ..exchange.hint };
        let permit = with_random(|random| cluster.pick(&hint, random, Instant::now()));
        let permit = permit.map(Permit::untimed).map_err(|error| match error {
            PickError::NoEndpoint => Reason::NoEndpoint.into(),
            PickError::Overflow => Reason::Overflow.into(),
            PickError::Open { scope, retry_after } => Failure::open(scope, retry_after),
        })?;
        let address = permit.member().state.address;
        record.attempts += 1;
        record.upstream_host = Some(address);
        // The bytes are the caller's own, and go as the cluster says.
        let connecting = cluster.tunnel(permit.member(), caller);
        let until = one.map(|one| permit.started() + one).into_iter().chain(exchange.limits.answer_until()).min();
        let connected = match until {
            Some(until) => timeout_at(until.into(), connecting).await,
            None => Ok(connecting.await),
        };
        let failed = match connected {
            // Our own limit says nothing of the endpoint.
            Err(_) => {
                metrics.attempted(AttemptOutcome::Timeout);
                if exchange.limits.is_late(Instant::now()) {
                    return Err(Reason::Timeout.into());
                }
                Reason::Timeout
            }
            Ok(Ok(tunnel)) => {
                let now = Instant::now();
                let took = now.saturating_duration_since(permit.started());
                record.upstream_time = Some(took);
                permit.report(Outcome::Success(took), now);
                metrics.attempted(AttemptOutcome::Success);
                let (io, open) = tunnel.into_parts();
                let body = Body::H1ClientTunnel(Box::new(ClientTunnel::over(io, Box::new(open), asked.up.attempt())));
                let head = ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() };
                return Ok(Answered { response: Response { head, body }, permit, at: now });
            }
            Ok(Err(LeaseError::Overflow(kind))) => {
                metrics.overflowed(kind);
                return Err(Reason::Overflow.into());
            }
            Ok(Err(LeaseError::Connect(_) | LeaseError::Retired)) => {
                permit.report(Outcome::Broken, Instant::now());
                metrics.attempted(AttemptOutcome::ConnectFailure);
                Reason::ConnectFailure
            }
        };
        tried.push(address);
        if tried.len() == ATTEMPTS {
            return Err(failed.into());
        }
    }
}
