//! TLS on the test's side, in front of the plaintext clients and backends: a connection is made or accepted with
//! rustls, and everything above it speaks to a local socket whose bytes are carried through. An end without
//! `close_notify` arrives there as a reset, so that truncation and a proper end stay different.

mod anyone;
mod client;
mod server;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub use client::TlsClient;
pub use server::{TlsFront, TlsServer};

/// What both ends agreed on, as this end saw it.
#[derive(Debug, Clone)]
pub struct Session {
    /// The version.
    pub version: ProtocolVersion,
    /// The protocol chosen by ALPN.
    pub alpn: Option<String>,
    /// Whether it continued an earlier session.
    pub resumed: bool,
    /// How the key was agreed on; TLS 1.2 sessions that were resumed have none.
    pub group: Option<NamedGroup>,
    /// The server name, where this end is the server.
    pub sni: Option<String>,
    /// The other end's certificates, leaf first.
    pub peer: Vec<CertificateDer<'static>>,
}

impl Session {
    fn of(connection: &CommonState, sni: Option<&str>) -> Self {
        let peer = connection.peer_certificates().unwrap_or_default();
        Self {
            version: connection.protocol_version().expect("after the handshake"),
            alpn: connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            group: connection.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name),
            sni: sni.map(str::to_owned),
            peer: peer.iter().map(|c| c.clone().into_owned()).collect(),
        }
    }

    /// The URI names of the other end's certificate.
    pub fn peer_uris(&self) -> Vec<String> {
        names(&self.peer).0
    }

    /// The DNS names of the other end's certificate.
    pub fn peer_names(&self) -> Vec<String> {
        names(&self.peer).1
    }

    /// The serial number of the other end's certificate.
    pub fn peer_serial(&self) -> u64 {
        let leaf = self.peer.first().expect("a certificate");
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).expect("a certificate");
        leaf.tbs_certificate.serial.to_u64_digits().first().copied().unwrap_or(0)
    }
}

fn names(chain: &[CertificateDer<'_>]) -> (Vec<String>, Vec<String>) {
    use x509_parser::extensions::GeneralName;
    let Some(leaf) = chain.first() else {
        return (Vec::new(), Vec::new());
    };
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).expect("a certificate");
    let (mut uris, mut names) = (Vec::new(), Vec::new());
    if let Some(list) = leaf.subject_alternative_name().expect("at most one extension") {
        for name in &list.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    (uris, names)
}

/// Whether the end of a connection is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// With `close_notify`.
    Proper,
    /// The connection just closes.
    Abrupt,
}

/// Two ends of a local connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listen");
    let addr = listener.local_addr().expect("bound");
    let (outer, inner) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (outer, inner) = (outer.expect("connect"), inner.expect("accept").0);
    outer.set_nodelay(true).ok();
    inner.set_nodelay(true).ok();
    (outer, inner)
}

/// Carries bytes between TLS and a plaintext socket until both directions have ended, each end as it came.
async fn carry<S>(tls: S, plain: TcpStream, manners: Manners)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut tls_read, mut tls_write) = tokio::io::split(tls);
    let plain = Arc::new(plain);
    let inbound = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match tls_read.read(&mut buffer).await {
                Ok(0) => {
                    socket2::SockRef::from(&*plain).shutdown(std::net::Shutdown::Write).ok();
                    return;
                }
                Ok(count) => {
                    if send(&plain, &buffer[..count]).await.is_err() {
                        return;
                    }
                }
                Err(_) => {
                    // A truncated or refused connection: the reader sees a reset, the writer stops.
                    socket2::SockRef::from(&*plain).set_linger(Some(Duration::ZERO)).ok();
                    return;
                }
            }
        }
    };
    let outbound = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            if plain.readable().await.is_err() {
                return;
            }
            match plain.try_read(&mut buffer) {
                Ok(0) => {
                    if manners == Manners::Proper {
                        tls_write.shutdown().await.ok();
                    }
                    return;
                }
                Ok(count) => {
                    if tls_write.write_all(&buffer[..count]).await.is_err() || tls_write.flush().await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    tokio::pin!(inbound, outbound);
    // After one direction ended in order the other may go on; after a failure nothing does.
    tokio::select! {
        () = &mut inbound => {
            let reset = socket2::SockRef::from(&*plain).linger().ok().flatten().is_some();
            if !reset {
                outbound.await;
            }
        }
        () = &mut outbound => if manners == Manners::Proper { inbound.await },
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
