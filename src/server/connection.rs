//! One downstream connection, from the accepted socket to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use outrigger_config::model::{ListenerLimits, ListenerProtocol};
use tokio::net::TcpStream;

use super::ConnectionFactory;
use super::accept::Accepted;
use crate::base::drain::{Notice, Watch};
use crate::base::limits;
use crate::codec::{ServerOptions, h1, h2};
use crate::net::ConnInfo;
use crate::net::io::Io;
use crate::net::sniff::{self, Patience, Protocol, Undetected};
use crate::telemetry::metrics::Detected;

/// Serves a connection. Dropping the future closes it.
pub(super) async fn serve<F: ConnectionFactory>(stream: TcpStream, accepted: Accepted<F::Listener>, factory: Arc<F>) {
    let Accepted { peer, current, watch, open } = accepted;
    let mut closed = current.service.closed();
    let Ok(local) = stream.local_addr() else { return };
    let io = Io::tcp(stream);
    let info = ConnInfo { listener: Arc::clone(&current.service.name), peer, local, worker: open.worker(), tls: None };
    let options = options(&current.config.limits, watch);
    let metrics = Arc::clone(&current.service.metrics);
    let (io, protocol) = match current.config.protocol {
        ListenerProtocol::Http1 => (io, Protocol::Http1),
        ListenerProtocol::Http2 => (io, Protocol::Http2),
        ListenerProtocol::Auto => {
            let limits = &current.config.limits;
            let patience = Patience { silent: limits.header_timeout, started: limits.detect_timeout };
            let detected = tokio::select! {
                detected = sniff::detect(io, patience) => detected,
                () = retired_unused(options.drain.clone()) => return,
            };
            match detected {
                Ok((io, protocol)) => {
                    metrics.detected(match protocol {
                        Protocol::Http1 => Detected::Http1,
                        Protocol::Http2 => Detected::Http2,
                    });
                    (io, protocol)
                }
                Err(Undetected::Closed) => return metrics.detected(Detected::Closed),
                Err(Undetected::Silent | Undetected::Stalled) => return metrics.detected(Detected::Timeout),
            }
        }
    };
    let handler = factory.handler(Arc::clone(&current.view), info);
    // The settings of the listener are not held for the life of the connection.
    drop(current);
    drop(metrics);
    let serving = async {
        match protocol {
            Protocol::Http1 => h1::serve(io, handler, options).await,
            // Boxed, so that a connection of the one kind does not carry the size of the other.
            Protocol::Http2 => Box::pin(h2::serve(io, handler, options)).await,
        }
    };
    tokio::select! {
        () = serving => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
    drop(open);
}

/// When a drain closes a connection that has not said anything. One accepted just now is about to speak.
async fn retired_unused(mut drain: Watch) {
    let opened = Instant::now();
    let notice = drain.begun().await;
    let at = (notice.since + notice.own_share()).max(opened + limits::DRAIN_GRACE);
    tokio::time::sleep_until(at.into()).await;
}

fn options(limits: &ListenerLimits, drain: Watch) -> ServerOptions {
    ServerOptions {
        max_head_bytes: usize::try_from(limits.max_head_bytes).unwrap_or(usize::MAX),
        max_headers: usize::from(limits.max_headers),
        max_concurrent_streams: limits.max_concurrent_streams,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        retire_at: retire_at(limits.max_connection_age),
        scheme: Scheme::HTTP,
        drain,
    }
}

/// Now plus the age, give or take a tenth, so that connections opened together do not go together.
fn retire_at(age: Duration) -> Option<Instant> {
    let now = Instant::now();
    let jitter = Notice { since: now, spread: age.mul_f64(0.2) }.own_share();
    (!age.is_zero()).then(|| now + age.mul_f64(0.9) + jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_retires_within_a_tenth_of_its_age() {
        let age = Duration::from_secs(1000);
        let mut retired: Vec<Duration> =
            (0..50).filter_map(|_| retire_at(age)).map(|at| at.saturating_duration_since(Instant::now())).collect();
        retired.sort_unstable();
        assert!(retired[0] > Duration::from_secs(899) && retired[49] <= Duration::from_secs(1100));
        assert!(retired[49] - retired[0] > Duration::from_secs(20), "they are spread: {retired:?}");
        assert_eq!(retire_at(Duration::ZERO), None);
    }
}
