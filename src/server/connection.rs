//! One downstream connection, from the accepted socket to its end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::uri::Scheme;
use outrigger_config::model::{ListenerLimits, ListenerProtocol, TlsMode};
use tokio::net::TcpStream;

use super::ConnectionFactory;
use super::accept::Accepted;
use super::admission::{Admitted, AdmittedQuic, Visitor, retired_unused};
use super::arrival::Arrival;
use super::directory::Directory;
use crate::base::drain::{Notice, Watch};
use crate::base::pressure::PressureWatch;
use crate::base::task;
use crate::base::wake::WakeFlag;
use crate::codec::{Handler as _, ServerOptions, h1, h2, h3};
use crate::net::ConnInfo;
use crate::net::io::Io;
use crate::net::origin;
use crate::net::quic;
use crate::net::sniff::{self, Patience, Protocol, Spoken, Undetected};
use crate::net::tls::{AlpnProtocol, TlsInfo};
use crate::telemetry::metrics::Detected;

/// Serves a connection. Dropping the future closes it.
pub(super) async fn serve<F: ConnectionFactory>(
    stream: TcpStream,
    accepted: Accepted<F::Listener>,
    directory: Arc<Directory<F::Listener>>,
    factory: Arc<F>,
) {
    let Accepted { peer, at, current, mut open } = accepted;
    let Ok(local) = stream.local_addr().map(origin::canonical) else { return };
    let worker = open.worker();
    let mut arrival = Arrival { io: Io::tcp(stream), peer, local, redirected: false, at, current };
    if !arrival.is_plain() {
        // Boxed: it is gone, and its memory with it, when the connection goes on.
        match Box::pin(arrival.settle(&mut open, &directory, &*factory)).await {
            Some(settled) => arrival = settled,
            None => return,
        }
    }
    drop(directory);
    let Arrival { io, peer, local, redirected: _, at, current } = arrival;
    let visitor = Visitor { peer, local, at, current: &current, factory: &*factory };
    let admitted = if current.config.tls.as_ref().is_none_or(|tls| tls.mode == TlsMode::Off) {
        visitor.admit_plaintext(io, &mut open.member)
    } else {
        Box::pin(visitor.admit(io, &mut open.member)).await
    };
    let Some(Admitted { io, tls, presence }) = admitted else { return };
    let mut closed = open.member.closed();
    let watches = (open.member.watch(), factory.pressure().watch());
    let options = options(&current.config.limits, watches, tls.as_deref());
    let metrics = Arc::clone(&current.service.metrics);
    let negotiated = tls.as_ref().and_then(|tls| tls.alpn);
    let (io, spoken) = match (negotiated, current.config.protocol) {
        (Some(AlpnProtocol::Http1), _) | (None, ListenerProtocol::Http1) => (io, Spoken::Http(Protocol::Http1)),
        (Some(AlpnProtocol::Http2), _) | (None, ListenerProtocol::Http2) => (io, Spoken::Http(Protocol::Http2)),
        (None, ListenerProtocol::Tcp) => (io, Spoken::Other),
        // Datagrams come another way; HTTP/3 is not offered over TCP.
        (None, ListenerProtocol::Udp) | (Some(AlpnProtocol::Http3), _) => return,
        (None, ListenerProtocol::Auto) => {
            let limits = &current.config.limits;
            let patience = Patience { silent: limits.header_timeout, started: limits.detect_timeout };
            let detecting = async {
                if current.config.tcp.is_some() {
                    return sniff::detect_any(io, limits.detect_timeout).await;
                }
                sniff::detect(io, patience).await.map(|(io, protocol)| (io, Spoken::Http(protocol)))
            };
            let detected = tokio::select! {
                detected = detecting => detected,
                () = retired_unused(options.drain.clone()) => return,
            };
            match detected {
                Ok((io, spoken)) => {
                    metrics.detected(match spoken {
                        Spoken::Http(Protocol::Http1) => Detected::Http1,
                        Spoken::Http(Protocol::Http2) => Detected::Http2,
                        Spoken::Other => Detected::Tcp,
                    });
                    (io, spoken)
                }
                Err(Undetected::Closed) => return metrics.detected(Detected::Closed),
                Err(Undetected::Silent | Undetected::Stalled) => return metrics.detected(Detected::Timeout),
            }
        }
    };
    let info = ConnInfo { listener: Arc::clone(&current.service.name), peer, local, worker, tls, handshake: None };
    let protocol = match spoken {
        Spoken::Http(protocol) => protocol,
        Spoken::Other => {
            let listener = factory.listener(&info.listener).unwrap_or_else(|| Arc::clone(&current.view));
            // It may have lost its place for such connections just now.
            let Some(passage) = factory.tcp(&listener) else { return };
            drop(task::spawn("passage", async move {
                passage.run(io, Arc::new(info), None, closed).await;
                drop((open, presence));
            }));
            return;
        }
    };
    let handler = factory.handler(Arc::clone(&current.view), info);
    handler.drained_by(&options.drain);
    // The settings of the listener are not held for the life of the connection.
    drop(current);
    drop(metrics);
    let serving = async {
        match protocol {
            Protocol::Http1 => h1::serve_requests(io, handler, options).await,
            // Boxed, so that a connection of the one kind does not carry the size of the other.
            Protocol::Http2 => {
                Box::pin(h2::serve(io, handler, options)).await;
                None
            }
        }
    };
    let tunnel = tokio::select! {
        tunnel = serving => tunnel,
        _ = closed.wait_for(|closed| *closed) => None,
    };
    if let Some(tunnel) = tunnel {
        // A task of its own, and a smaller one: this one is as large as all that a connection of requests may need.
        drop(task::spawn("tunnel", async move {
            let (mut tunnel, mut cut) = (pin!(tunnel), pin!(closed.wait_for(|closed| *closed)));
            let mut cuts = WakeFlag::default();
            poll_fn(|cx| match cuts.take(cx) {
                Some(waker) if cut.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() => Poll::Ready(()),
                _ => tunnel.as_mut().poll(cx),
            })
            .await;
            drop((open, presence));
        }));
        return;
    }
    drop((open, presence));
}

/// Serves a caller over QUIC, from its first packet to the end of its connection. `address` is where it was accepted.
/// Dropping the future closes the connection.
pub(super) async fn serve_quic<F: ConnectionFactory>(
    arrival: quic::Arrival,
    address: SocketAddr,
    accepted: Accepted<F::Listener>,
    factory: Arc<F>,
) {
    let Accepted { peer, at, current, mut open } = accepted;
    let local = origin::canonical(SocketAddr::new(arrival.local_ip().unwrap_or(address.ip()), address.port()));
    let worker = open.worker();
    let visitor = Visitor { peer, local, at, current: &current, factory: &*factory };
    let admitted = Box::pin(visitor.admit_quic(arrival, &mut open.member)).await;
    let Some(AdmittedQuic { connection, rest, tls, presence }) = admitted else { return };
    let _counted = current.service.metrics.over_quic();
    let mut closed = open.member.closed();
    let watches = (open.member.watch(), factory.pressure().watch());
    let options = options(&current.config.limits, watches, Some(&tls));
    let handshake = rest.as_ref().map(|rest| rest.end());
    let info = ConnInfo { listener: Arc::clone(&current.service.name), peer, local, worker, tls: Some(tls), handshake };
    let handler = factory.handler(Arc::clone(&current.view), info);
    handler.drained_by(&options.drain);
    drop(current);
    let service = Arc::clone(open.member.service());
    let finishing = async {
        if let Some(rest) = rest {
            Box::pin(rest.finish(&service, peer)).await;
        }
        // The connection lives on; with a handshake that failed it has ended by itself.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = finishing => {}
        () = Box::pin(h3::serve(connection.clone(), handler, options)) => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
    // Whoever closed before has said why.
    connection.close(h3::Code::NO_ERROR.into(), b"");
    // The transport says it in its next turn, and whoever waits for this connection to be gone may end the process.
    tokio::task::yield_now().await;
    drop((open, presence));
}

fn options(limits: &ListenerLimits, (drain, pressure): (Watch, PressureWatch), tls: Option<&TlsInfo>) -> ServerOptions {
    let not_after = tls.and_then(|tls| tls.peer.as_ref()).map(|peer| peer.not_after);
    ServerOptions {
        max_head_bytes: usize::try_from(limits.max_head_bytes).unwrap_or(usize::MAX),
        max_headers: usize::from(limits.max_headers),
        max_concurrent_streams: limits.max_concurrent_streams,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        retire_at: earlier(retire_at(limits.max_connection_age), not_after.and_then(moment_of)),
        scheme: if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP },
        drain,
        pressure,
    }
}

/// Now plus the age, give or take a tenth, so that connections opened together do not go together.
fn retire_at(age: Duration) -> Option<Instant> {
    let now = Instant::now();
    let jitter = Notice { since: now, spread: age.mul_f64(0.2) }.own_share();
    (!age.is_zero()).then(|| now + age.mul_f64(0.9) + jitter)
}

/// When the clock on the wall will show `at`; now if that is past, and `None` if it is beyond all measure.
fn moment_of(at: SystemTime) -> Option<Instant> {
    Instant::now().checked_add(at.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO))
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
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
