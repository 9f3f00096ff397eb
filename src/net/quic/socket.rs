//! UDP sockets, and the one that an endpoint reads: its own, and what the others read for it.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};

use super::steering::Desk;
use crate::base::limits;

/// Binds `count` sockets to one address, so that each worker has its own. `[::]` also takes IPv4 where the system says so.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let one = || {
        let socket = udp(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    (0..count).map(|_| one()).collect()
}

/// A socket for connections of ours to others.
pub(super) fn bind_client(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket with buffers as large as the system allows (`net.core.rmem_max`, `net.core.wmem_max`): a burst that does not
/// fit is lost, and sent again.
fn udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    let wanted = limits::QUIC_SOCKET_BUFFER;
    let (receive, send) = (socket.set_recv_buffer_size(wanted), socket.set_send_buffer_size(wanted));
    if let Err(error) = receive.and(send) {
        tracing::debug!(%error, "the buffers of a UDP socket stay as they are");
    }
    Ok(socket)
}

/// What an endpoint reads from and writes to.
#[derive(Debug)]
pub(super) struct Steered {
    socket: Arc<dyn AsyncUdpSocket>,
    desk: Desk,
    /// Whose turn it is to be read first.
    inbox_first: AtomicBool,
}

impl Steered {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, desk: Desk) -> Self {
        Self { socket, desk, inbox_first: AtomicBool::new(false) }
    }

    fn poll_socket(&self, cx: &mut Context<'_>, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> Poll<usize> {
        match self.socket.poll_recv(cx, buffers, metas) {
            Poll::Ready(Ok(received)) => {
                for (buffer, meta) in buffers.iter_mut().zip(metas).take(received) {
                    self.desk.sort(buffer, meta);
                }
                Poll::Ready(received)
            }
            Poll::Ready(Err(error)) => {
                // The endpoint would end with all its connections. Such an error is that of one datagram of ours, or of a
                // moment without memory: it is gone when it has been read.
                tracing::debug!(%error, "a UDP socket failed");
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncUdpSocket for Steered {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // In turns, so that neither can starve the other.
        let inbox_first = self.inbox_first.fetch_xor(true, Ordering::Relaxed);
        for inbox in [inbox_first, !inbox_first] {
            let received = if inbox {
                self.desk.inbox.poll_take(cx, buffers, metas)
            } else {
                self.poll_socket(cx, buffers, metas)
            };
            if received.is_ready() {
                return received.map(Ok);
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
