//! Listening sockets.
//!
//! Every socket is bound with `SO_REUSEPORT`, so that a new instance of the proxy can share the port with the
//! one it replaces, and a configuration can move between `0.0.0.0` and a single address without a gap. The
//! kernel allows the sharing only to processes of one user.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use super::origin;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that the kernel holds for us before they are accepted; it also caps this with `somaxconn`.
const BACKLOG: i32 = 4096;

/// To which addresses connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those of this machine.
    Own,
    /// Any that the system hands to the socket (`TPROXY`).
    Any,
}

/// Binds and listens, non-blocking. `[::]` also takes IPv4 where the system says so.
///
/// # Errors
/// When the address cannot be bound, or the process may not take connections to foreign addresses
/// (`CAP_NET_ADMIN`).
pub fn bind(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if reach == Reach::Any {
        origin::make_transparent(&socket, address)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds a socket for datagrams, non-blocking. Datagrams of one caller come to one of the sockets that share a port, as
/// long as these stay the same.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind_datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Why no connection was taken, and so what to do next.
#[derive(Debug)]
pub enum AcceptError {
    /// None waits.
    WouldBlock,
    /// This one connection is gone; the next may be fine.
    Gone(io::Error),
    /// This machine lacks something (descriptors, memory): trying again at once would only spin.
    Exhausted(io::Error),
}

impl From<io::Error> for AcceptError {
    /// accept(2) reports errors of the waiting connection as its own; those concern the one connection.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => Self::WouldBlock,
            io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut => Self::Gone(error),
            _ => Self::Exhausted(error),
        }
    }
}

/// Makes the kernel ignore new attempts to connect, while handshakes under way still complete: what is then
/// accepted is all there will ever be, and the socket can be closed without resetting anybody. An ignored
/// caller tries again by itself after a second (RFC 6298 section 2) and reaches whoever shares the port.
///
/// Where the system cannot do this the socket stays as it is.
pub fn stop_handshakes<L: AsFd>(listener: &L) {
    #[cfg(target_os = "linux")]
    {
        use socket2::SockFilter;
        // Classic BPF over the TCP header: byte 13 holds the flags, SYN is 0x02 and ACK is 0x10.
        const LOAD_BYTE: u16 = 0x30;
        const AND: u16 = 0x54;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        let drop_syn = [
            SockFilter::new(LOAD_BYTE, 0, 0, 13),
            SockFilter::new(AND, 0, 0, 0x12),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0x02),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        if let Err(error) = SockRef::from(listener).attach_filter(&drop_syn) {
            tracing::debug!(%error, "new handshakes cannot be held off while the listener closes");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = SockRef::from(listener);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::time::Duration;

    fn loopback() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[test]
    fn two_sockets_share_a_port() {
        let first = bind(loopback(), Reach::Own).expect("an ephemeral port");
        let address = first.local_addr().expect("an address");
        let second = bind(address, Reach::Own).expect("the same port again");
        assert_eq!(second.local_addr().expect("an address"), address);
    }

    #[test]
    fn a_listener_with_nobody_waiting_does_not_block() {
        let listener = bind(loopback(), Reach::Own).expect("an ephemeral port");
        let error = listener.accept().expect_err("nobody has connected");
        assert!(matches!(error.into(), AcceptError::WouldBlock));
    }

    #[test]
    fn lack_of_descriptors_is_told_apart_from_a_caller_that_left() {
        const EMFILE: i32 = 24;
        assert!(matches!(io::Error::from_raw_os_error(EMFILE).into(), AcceptError::Exhausted(_)));
        assert!(matches!(io::Error::from(io::ErrorKind::ConnectionAborted).into(), AcceptError::Gone(_)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn after_stop_handshakes_only_earlier_callers_get_through() {
        let listener = bind(loopback(), Reach::Own).expect("an ephemeral port");
        let address = listener.local_addr().expect("an address");
        let mut early = TcpStream::connect(address).expect("a connection");
        stop_handshakes(&listener);
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert_eq!(late.expect_err("ignored, not refused").kind(), io::ErrorKind::TimedOut);

        let (mut accepted, _) = listener.accept().expect("its handshake was complete");
        drop(listener);
        accepted.write_all(b"x").expect("the early connection lives");
        early.read_exact(&mut [0]).expect("the byte");
    }
}
