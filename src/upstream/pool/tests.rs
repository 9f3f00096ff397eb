//! Over sockets of this machine: who is counted, who waits, and who is woken.

mod h3;
mod mesh;
mod relay;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::{Ceilings, ConnectionOptions, EndpointCeilings, Pool, PoolKey, Preference, Terms, Wire};
use crate::net::tls::TlsKey;
use crate::telemetry::Metrics;
use crate::upstream::{ClusterState, EndpointState, Lease, LeaseError, Overflow};

const CEILINGS: Ceilings = Ceilings { pending: 100, connections: 100, endpoint: FREE };
const FREE: EndpointCeilings =
    EndpointCeilings { max_requests: None, max_pending: None, max_retries: None, max_connections: None };

fn plain(ceilings: Ceilings) -> Terms<'static> {
    Terms { ceilings, tls: None }
}

struct Setup {
    cluster: Arc<ClusterState>,
    endpoint: Arc<EndpointState>,
    pool: Pool,
}

fn setup(address: SocketAddr, max_streams: u32) -> Setup {
    setup_with(address, max_streams, None)
}

fn setup_with(address: SocketAddr, max_streams: u32, tls: Option<Arc<TlsKey>>) -> Setup {
    setup_in_time(address, max_streams, (tls, Duration::from_secs(5)))
}

fn setup_in_time(address: SocketAddr, max_streams: u32, (tls, connect): (Option<Arc<TlsKey>>, Duration)) -> Setup {
    let options = ConnectionOptions {
        connect_timeout: connect,
        idle_timeout: Duration::from_secs(55),
        keepalive_interval: Duration::ZERO,
        keepalive_timeout: Duration::from_secs(3),
        max_streams,
        max_age: Duration::ZERO,
        proxy_protocol: None,
    };
    let now = Instant::now();
    let name: Arc<str> = Arc::from("c");
    let cluster = Arc::new(ClusterState::unused(&name, &Metrics::new(), now));
    let endpoint = Arc::new(EndpointState::new(address, 0.001, &cluster.board, now));
    let pool = Pool::new(&PoolKey { cluster: name, address, options, tls, host: None }, 1, &cluster, &endpoint);
    Setup { cluster, endpoint, pool }
}

/// Accepts and keeps what it accepts; says nothing.
async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

async fn lease(setup: &Setup, wire: Wire) -> Result<Lease, LeaseError> {
    setup.pool.lease(wire, Preference::Any, plain(CEILINGS)).await
}

/// Lets everything that is ready run until `done`.
async fn until(mut done: impl FnMut() -> bool) {
    let settled = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), settled).await.expect("it comes to that");
}

#[tokio::test]
async fn a_dial_that_fails_fails_all_who_wait_and_leaves_nothing_counted() {
    let (listener, address) = listener().await;
    drop(listener);
    let setup = setup(address, 10);
    let (a, b) = tokio::join!(lease(&setup, Wire::Http2), lease(&setup, Wire::Http2));
    assert!(matches!((a, b), (Err(LeaseError::Connect(_)), Err(LeaseError::Connect(_)))));
    assert!(matches!(lease(&setup, Wire::Http1).await, Err(LeaseError::Connect(_))));
    let left = (setup.cluster.pending.get(), setup.cluster.connections.get());
    assert_eq!(left, (0, 0));
    assert_eq!(setup.endpoint.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn callers_who_leave_are_counted_out() {
    // Full backlogs are hard to make; a lease that was never polled to its end is as good.
    let (_listener, address) = listener().await;
    let setup = setup(address, 10);
    {
        let mut leasing = Box::pin(lease(&setup, Wire::Http1));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(leasing.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        assert_eq!((setup.cluster.pending.get(), setup.cluster.connections.get()), (1, 1));
    }
    assert_eq!((setup.cluster.pending.get(), setup.cluster.connections.get()), (0, 0));
}

#[tokio::test]
async fn one_dial_serves_all_who_wait_for_it() {
    let (listener, address) = listener().await;
    let setup = setup(address, 10);
    let leases =
        tokio::join!(lease(&setup, Wire::Http2), lease(&setup, Wire::Http2), lease(&setup, Wire::Http2), async {
            listener.accept().await.expect("a connection")
        },);
    assert!(matches!((&leases.0, &leases.1, &leases.2), (Ok(_), Ok(_), Ok(_))));
    assert_eq!(setup.cluster.connections.get(), 1);
}

#[tokio::test]
async fn one_who_leaves_when_called_lets_the_next_go_on() {
    let (_listener, address) = listener().await;
    let setup = setup(address, 1);
    let only = Ceilings { connections: 1, ..CEILINGS };
    let first = setup.pool.lease(Wire::Http2, Preference::Any, plain(only)).await.expect("a stream");
    let mut second = Box::pin(setup.pool.lease(Wire::Http2, Preference::Any, plain(only)));
    let mut third = Box::pin(setup.pool.lease(Wire::Http2, Preference::Any, plain(only)));
    for waiting in [&mut second, &mut third] {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "the one stream is taken, and no other connection may be opened");
    }
    drop(first);
    // The second was told, and its caller leaves before it has heard.
    drop(second);
    let third = tokio::time::timeout(Duration::from_secs(5), third).await.expect("it is woken");
    assert!(matches!(third, Ok(Lease::H2(_))));
}

#[tokio::test]
async fn those_a_connection_has_no_room_for_get_another() {
    let (_listener, address) = listener().await;
    // Before the server has said what it allows, 100 are assumed; we would put 1000 on one connection.
    let setup = Arc::new(setup(address, 1000));
    let all = Ceilings { pending: 1000, ..CEILINGS };
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let setup = Arc::clone(&setup);
        waiting.spawn(async move { setup.pool.lease(Wire::Http2, Preference::Any, plain(all)).await });
    }
    let mut leases = Vec::new();
    let served = async {
        while let Some(lease) = waiting.join_next().await {
            leases.push(lease.expect("no panic").expect("a stream"));
        }
    };
    tokio::time::timeout(Duration::from_secs(5), served).await.expect("nobody waits for a stream to end");
    assert_eq!((leases.len(), setup.cluster.connections.get()), (150, 2));
}

#[tokio::test]
async fn at_the_ceiling_a_request_overflows_and_leaves_nothing_counted() {
    let (_listener, address) = listener().await;
    let setup = setup(address, 10);
    let none = Ceilings { connections: 0, ..CEILINGS };
    for wire in [Wire::Http1, Wire::Http2] {
        let refused = setup.pool.lease(wire, Preference::Any, plain(none)).await;
        assert!(matches!(refused, Err(LeaseError::Overflow(Overflow::Connections))), "{refused:?}");
    }
    let none = Ceilings { pending: 0, ..CEILINGS };
    let refused = setup.pool.lease(Wire::Http1, Preference::Any, plain(none)).await;
    assert!(matches!(refused, Err(LeaseError::Overflow(Overflow::Pending))), "{refused:?}");
    assert_eq!((setup.cluster.pending.get(), setup.cluster.connections.get()), (0, 0));
}

#[tokio::test]
async fn a_pool_that_is_gone_keeps_no_connection_and_no_connection_keeps_it() {
    let (_listener, address) = listener().await;
    let setup = setup(address, 10);
    let Ok(Lease::H1(idle)) = lease(&setup, Wire::Http1).await else { panic!("a connection") };
    let Ok(Lease::H1(busy)) = lease(&setup, Wire::Http1).await else { panic!("a connection") };
    let stream = lease(&setup, Wire::Http2).await.expect("a stream");
    let worker = Arc::clone(&setup.pool.workers[0]);
    crate::codec::h1::Home::take_back(&*worker, idle);
    assert_eq!(setup.cluster.connections.get(), 3);
    drop(setup.pool);
    assert_eq!(setup.cluster.connections.get(), 2, "the idle one is closed");
    crate::codec::h1::Home::take_back(&*worker, busy);
    assert_eq!(setup.cluster.connections.get(), 1, "nothing is taken back");
    drop(stream);
    let cluster = Arc::clone(&setup.cluster);
    until(|| cluster.connections.get() == 0).await;
    let weak = Arc::downgrade(&worker);
    drop(worker);
    assert!(weak.upgrade().is_none());
}
