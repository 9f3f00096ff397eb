//! UDP sockets.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::limits;

/// A socket for connections of ours to others.
pub(super) fn bind_client(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    enlarge(&socket);
    Ok(socket.into())
}

/// As large as the system allows (`net.core.rmem_max`, `net.core.wmem_max`): a burst that does not fit is lost, and sent again.
fn enlarge(socket: &Socket) {
    let wanted = limits::QUIC_SOCKET_BUFFER;
    let (receive, send) = (socket.set_recv_buffer_size(wanted), socket.set_send_buffer_size(wanted));
    if let Err(error) = receive.and(send) {
        tracing::debug!(%error, "the buffers of a UDP socket stay as they are");
    }
}
