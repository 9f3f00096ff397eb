//! Where a connection was going before it was redirected to us.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use outrigger_config::model::InterceptionMode;
use tokio::net::TcpStream;

/// Where an accepted connection was going. `None`: nothing redirected it, or nobody remembers.
#[must_use]
pub fn destination(stream: &TcpStream, mode: InterceptionMode) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    match mode {
        InterceptionMode::Tproxy => Some(canonical(local)),
        InterceptionMode::Redirect => {
            original(stream, local).map(canonical).filter(|original| *original != canonical(local))
        }
    }
}

/// As netfilter remembers it. A socket for both families asks by the family of its connection.
#[cfg(target_os = "linux")]
fn original(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let answer = match local {
        SocketAddr::V6(address) if address.ip().to_ipv4_mapped().is_none() => socket.original_dst_v6(),
        _ => socket.original_dst_v4(),
    };
    match answer {
        Ok(address) => address.as_socket(),
        Err(error) => {
            // Without connection tracking, or for a connection that nothing redirected.
            tracing::trace!(%error, "no original destination");
            None
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn original(_stream: &TcpStream, _local: SocketAddr) -> Option<SocketAddr> {
    None
}

/// IPv4 in IPv6 is IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an address is one of this machine's (of this network namespace).
#[must_use]
pub fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// Lets a socket that is not bound yet take connections to addresses that are not ours.
///
/// # Errors
/// When the process may not (`CAP_NET_ADMIN`), or the system cannot.
pub fn make_transparent(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        match address {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (socket, address);
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_that_nothing_redirected_has_no_other_destination() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may be without IPv6.
            let Ok(listener) = TcpListener::bind(bind).await else { continue };
            let local = listener.local_addr().expect("an address");
            let _client = TcpStream::connect(local).await.expect("a connection");
            let (server, _) = listener.accept().await.expect("a connection");
            assert_eq!(destination(&server, InterceptionMode::Redirect), None, "{bind}");
            assert_eq!(destination(&server, InterceptionMode::Tproxy), Some(local), "{bind}");
        }
    }

    #[test]
    fn own_addresses_are_known_from_others() {
        assert!(is_local([127, 0, 0, 1].into()) && is_local([127, 9, 9, 9].into()));
        assert!(!is_local([192, 0, 2, 1].into()), "an address of documentation");
    }
}
