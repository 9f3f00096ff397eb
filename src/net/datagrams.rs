//! A socket for datagrams that answers from where it was asked.
//!
//! A socket bound to every address of a machine (`0.0.0.0`, `[::]`) would answer from the address that the way back begins
//! with, and a caller that asked another one takes that for somebody else's. So such a socket is told with each datagram
//! where it arrived, and says with each answer where that comes from. A socket bound to one address needs neither.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// Sends and receives datagrams; see the module.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    local: SocketAddr,
    /// Tells where datagrams arrived.
    information: Option<information::Information>,
}

/// Where a datagram came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Way {
    /// Who sent it.
    pub peer: SocketAddr,
    /// To which of the machine's addresses, where the socket has several.
    pub at: Option<IpAddr>,
}

impl Datagrams {
    /// Of a socket that is bound.
    ///
    /// # Errors
    /// When the socket has no address any more, or cannot be asked to tell.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let information = if local.ip().is_unspecified() { information::ask(&socket)? } else { None };
        Ok(Self { socket, local, information })
    }

    /// The address that it is bound to.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The address that a datagram was sent to.
    #[must_use]
    pub fn asked(&self, way: &Way) -> SocketAddr {
        way.at.map_or(self.local, |at| SocketAddr::new(at.to_canonical(), self.local.port()))
    }

    /// Receives into `buffer`, and hands on each datagram that came and where it came from.
    ///
    /// # Errors
    /// Those of the system. An answer that reached nobody may be one of them.
    pub fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        mut each: impl FnMut(&[u8], Way),
    ) -> Poll<io::Result<()>> {
        let Some(information) = &self.information else {
            let mut buffer = ReadBuf::new(buffer);
            let peer = ready!(self.socket.poll_recv_from(cx, &mut buffer))?;
            each(buffer.filled(), Way { peer, at: None });
            return Poll::Ready(Ok(()));
        };
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            let receive = || information.receive(&self.socket, buffer, &mut each);
            match self.socket.try_io(tokio::io::Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    /// Sends an answer the way that a datagram came, if it can be sent at once.
    ///
    /// # Errors
    /// Those of the system.
    pub fn answer(&self, datagram: &[u8], way: &Way) -> io::Result<()> {
        if let Some(at) = way.at {
            match information::send(&self.socket, datagram, (at, way.peer)) {
                // What was sent to many has no address that an answer could come from.
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::AddrNotAvailable) => {
                }
                sent => return sent,
            }
        }
        SockRef::from(&self.socket).send_to(datagram, &way.peer.into()).map(|_| ())
    }
}

/// `IP_PKTINFO` and `IPV6_PKTINFO`.
#[cfg(target_os = "linux")]
mod information {
    use std::io::{self, IoSlice, IoSliceMut};
    use std::net::{IpAddr, SocketAddr};

    use quinn::udp::{RecvMeta, UdpSockRef, UdpSocketState};
    use rustix::net::sockopt;
    use socket2::{MsgHdr, SockRef};
    use tokio::net::UdpSocket;

    use super::Way;

    #[derive(Debug)]
    pub(super) struct Information(UdpSocketState);

    /// Asks for it.
    pub(super) fn ask(socket: &UdpSocket) -> io::Result<Option<Information>> {
        let before = (sockopt::ip_mtu_discover(socket).ok(), sockopt::ipv6_mtu_discover(socket).ok());
        let state = UdpSocketState::new(UdpSockRef::from(socket))?;
        // The library does not want datagrams to be divided, because QUIC finds out what fits. Others rely on it.
        if let Some(before) = before.0 {
            sockopt::set_ip_mtu_discover(socket, before)?;
        }
        if let Some(before) = before.1 {
            sockopt::set_ipv6_mtu_discover(socket, before)?;
        }
        Ok(Some(Information(state)))
    }

    impl Information {
        pub(super) fn receive(
            &self,
            socket: &UdpSocket,
            buffer: &mut [u8],
            each: &mut impl FnMut(&[u8], Way),
        ) -> io::Result<()> {
            let mut meta = [RecvMeta::default()];
            let mut parts = [IoSliceMut::new(buffer)];
            if self.0.recv(UdpSockRef::from(socket), &mut parts, &mut meta)? == 0 {
                return Ok(());
            }
            let [RecvMeta { addr: peer, len, stride, dst_ip, .. }] = meta;
            let way = Way { peer, at: dst_ip.filter(|at| !at.is_multicast() && !at.is_unspecified()) };
            let received = buffer.get(..len).unwrap_or_default();
            if received.is_empty() {
                each(received, way);
            }
            // Several that came together, of one length but for the last.
            received.chunks(stride.max(1)).for_each(|datagram| each(datagram, way));
            Ok(())
        }
    }

    /// Sends a datagram from one of the addresses of a socket.
    pub(super) fn send(socket: &UdpSocket, datagram: &[u8], (at, peer): (IpAddr, SocketAddr)) -> io::Result<()> {
        let mut control = Vec::with_capacity(CONTROL);
        match at {
            IpAddr::V4(at) => {
                // No interface, the address, and one that only matters in what is received.
                put(&mut control, (IPPROTO_IP, IP_PKTINFO), &[[0; 4], at.octets(), [0; 4]].concat());
            }
            IpAddr::V6(at) => {
                put(&mut control, (IPPROTO_IPV6, IPV6_PKTINFO), &[&at.octets()[..], &[0; 4]].concat());
                // The library has switched it on, and it may be divided all the same.
                put(&mut control, (IPPROTO_IPV6, IPV6_DONTFRAG), &[0; 4]);
            }
        }
        let (to, parts) = (peer.into(), [IoSlice::new(datagram)]);
        let message = MsgHdr::new().with_addr(&to).with_buffers(&parts).with_control(&control);
        SockRef::from(socket).sendmsg(&message, 0).map(|_| ())
    }

    /// Adds a control message, as `struct cmsghdr` and `CMSG_ALIGN` lay it out.
    fn put(control: &mut Vec<u8>, (level, kind): (i32, i32), data: &[u8]) {
        const WORD: usize = size_of::<usize>();
        let length = WORD + 8 + data.len();
        control.extend_from_slice(&length.to_ne_bytes());
        control.extend_from_slice(&level.to_ne_bytes());
        control.extend_from_slice(&kind.to_ne_bytes());
        control.extend_from_slice(data);
        control.resize(control.len().next_multiple_of(WORD), 0);
    }

    /// Room for all of them.
    const CONTROL: usize = 64;
    // As `linux/in.h` and `linux/in6.h` name them.
    const IPPROTO_IP: i32 = 0;
    const IP_PKTINFO: i32 = 8;
    const IPPROTO_IPV6: i32 = 41;
    const IPV6_PKTINFO: i32 = 50;
    const IPV6_DONTFRAG: i32 = 62;
}

/// Elsewhere the system chooses.
#[cfg(not(target_os = "linux"))]
mod information {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use tokio::net::UdpSocket;

    use super::Way;

    #[derive(Debug)]
    pub(super) enum Information {}

    pub(super) fn ask(_socket: &UdpSocket) -> io::Result<Option<Information>> {
        Ok(None)
    }

    impl Information {
        pub(super) fn receive(
            &self,
            _socket: &UdpSocket,
            _buffer: &mut [u8],
            _each: &mut impl FnMut(&[u8], Way),
        ) -> io::Result<()> {
            match *self {}
        }
    }

    pub(super) fn send(_socket: &UdpSocket, _datagram: &[u8], _way: (IpAddr, SocketAddr)) -> io::Result<()> {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// Asks a server bound to `bind` at `ask`, three times; how its last question came.
    async fn asked(bind: &str, ask: &str) -> Option<Way> {
        // A machine may be without IPv6.
        let bound = UdpSocket::bind(bind).await.ok()?;
        let server = Datagrams::new(bound).expect("a socket");
        let to = SocketAddr::new(ask.parse().expect("an address"), server.local().port());
        let client = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await.expect("a port");
        // From now on it hears that address alone.
        client.connect(to).await.expect("connected");
        let mut last = None;
        for size in [5, 0, 40_000] {
            let question = vec![7; size];
            client.send(&question).await.expect("sent");
            let (mut buffer, mut came) = (vec![0; 65_536], Vec::new());
            while came.is_empty() {
                let receive = |cx: &mut Context<'_>| {
                    server.poll_receive(cx, &mut buffer, |datagram, way| came.push((datagram.to_vec(), way)))
                };
                poll_fn(receive).await.expect("received");
            }
            let (datagram, way) = came.pop().expect("one");
            assert_eq!(server.asked(&way), to);
            server.answer(&datagram, &way).expect("sent");
            let mut heard = vec![1; 65_536];
            let answer = tokio::time::timeout(Duration::from_secs(10), client.recv(&mut heard)).await;
            assert_eq!(heard[..answer.expect("an answer").expect("received")], question);
            last = Some(way);
        }
        last
    }

    #[tokio::test]
    async fn an_answer_comes_from_the_address_that_was_asked() {
        let way = asked("127.0.0.3:0", "127.0.0.3").await.expect("IPv4");
        assert_eq!(way.at, None, "there is no other");
        if cfg!(target_os = "linux") {
            let way = asked("0.0.0.0:0", "127.0.0.2").await.expect("IPv4");
            assert_eq!(way.at, Some(IpAddr::from([127, 0, 0, 2])));
            if let Some(way) = asked("[::]:0", "::1").await {
                assert_eq!(way.at, Some("::1".parse().expect("an address")));
                // Over IPv6 for both families.
                let way = asked("[::]:0", "127.0.0.2").await.expect("both");
                assert_eq!(way.at.map(|at| at.to_canonical()), Some(IpAddr::from([127, 0, 0, 2])));
            }
        }
    }

    /// The system may give several of one sender at once.
    #[tokio::test]
    async fn datagrams_that_come_together_are_taken_apart() {
        let server = Datagrams::new(UdpSocket::bind("0.0.0.0:0").await.expect("a port")).expect("a socket");
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        client.connect(("127.0.0.1", server.local().port())).await.expect("connected");
        let sent: Vec<Vec<u8>> = (1..=50u8).map(|n| vec![n; if n % 7 == 0 { 90 } else { 100 }]).collect();
        for datagram in &sent {
            client.send(datagram).await.expect("sent");
        }
        let (mut buffer, mut came) = (vec![0; 65_536], Vec::new());
        while came.len() < sent.len() {
            let receive =
                poll_fn(|cx| server.poll_receive(cx, &mut buffer, |datagram, _| came.push(datagram.to_vec())));
            tokio::time::timeout(Duration::from_secs(10), receive).await.expect("in time").expect("received");
        }
        assert_eq!(came, sent);
    }
}
