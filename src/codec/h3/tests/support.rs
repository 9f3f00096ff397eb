//! Two ends of QUIC, and peers that write frames byte by byte.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig,
};
use rustls::pki_types::PrivateKeyDer;
use tokio::task::JoinHandle;

use crate::base::drain::Drain;
pub(super) use crate::codec::h2::tests::support::*;
use crate::codec::h3::code::Code;
use crate::codec::h3::frames::{Event, Frames, Side};
use crate::codec::h3::qpack::{self, Encoder, Pseudo, Section};
use crate::codec::h3::{H3ClientOptions, H3Connection, control, frames, serve};
use crate::codec::message::ServerOptions;

/// Both ends of one connection, and the endpoints, which must be kept.
pub(super) struct Ends {
    pub(super) client: Connection,
    pub(super) server: Connection,
    _endpoints: [Endpoint; 2],
}

pub(super) async fn ends() -> Ends {
    ends_with(TransportConfig::default()).await
}

/// `transport` is the server's.
pub(super) async fn ends_with(transport: TransportConfig) -> Ends {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a configuration");
    server.alpn_protocols = vec![b"h3".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a root");
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h3".to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).expect("a suite")));
    config.transport_config(Arc::new(transport));
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let server_end = Endpoint::server(config, any).expect("an endpoint");
    let mut client_end = Endpoint::client(any).expect("an endpoint");
    client_end
        .set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).expect("a suite"))));
    let address = server_end.local_addr().expect("an address");
    let connecting = client_end.connect(address, "localhost").expect("connecting");
    let accepting = async { server_end.accept().await.expect("a connection").await.expect("the handshake succeeds") };
    let (client, server) = tokio::join!(connecting, accepting);
    Ends { client: client.expect("the handshake succeeds"), server, _endpoints: [server_end, client_end] }
}

/// A downstream connection under test, and a caller that writes frames.
pub(super) struct Downstream {
    pub(super) client: Connection,
    pub(super) server: JoinHandle<()>,
    pub(super) drain: Drain,
    _ends: Ends,
}

pub(super) async fn downstream(handler: Arc<TestHandler>) -> Downstream {
    downstream_with(handler, |_| {}).await
}

pub(super) async fn downstream_with(handler: Arc<TestHandler>, set: impl FnOnce(&mut ServerOptions)) -> Downstream {
    let ends = ends().await;
    let drain = Drain::default();
    let mut options = options(&drain);
    options.scheme = http::uri::Scheme::HTTPS;
    set(&mut options);
    let server = tokio::spawn(serve(ends.server.clone(), handler, options));
    Downstream { client: ends.client.clone(), server, drain, _ends: ends }
}

impl Downstream {
    /// Sends these bytes as a whole request.
    pub(super) async fn ask(&self, bytes: &[u8]) -> Stream {
        let mut stream = self.open(bytes).await;
        stream.out.finish().expect("open");
        stream
    }

    /// Sends these bytes as the beginning of a request.
    pub(super) async fn open(&self, bytes: &[u8]) -> Stream {
        Stream::open(&self.client, bytes).await
    }

    /// The code with which the server has closed the connection.
    pub(super) async fn closed(&self) -> Code {
        closed(&self.client).await
    }
}

/// The code with which the peer has closed a connection.
pub(super) async fn closed(connection: &Connection) -> Code {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => close.error_code.into(),
        other => panic!("closed otherwise: {other}"),
    }
}

/// A unidirectional stream that begins with these bytes. Keep it: a dropped one ends.
pub(super) async fn uni(connection: &Connection, bytes: &[u8]) -> SendStream {
    let mut stream = within(connection.open_uni()).await.expect("a stream");
    stream.write_all(bytes).await.expect("written");
    stream
}

/// A request stream from the side that writes bytes.
pub(super) struct Stream {
    pub(super) out: SendStream,
    pub(super) inbound: RecvStream,
    frames: Frames,
    chunk: Bytes,
}

impl Stream {
    pub(super) async fn open(connection: &Connection, bytes: &[u8]) -> Self {
        let (mut out, inbound) = within(connection.open_bi()).await.expect("a stream");
        out.write_all(bytes).await.expect("written");
        Self { out, inbound, frames: Frames::new(Side::Client, 1 << 20), chunk: Bytes::new() }
    }

    /// One that the peer has opened.
    pub(super) async fn accept(connection: &Connection) -> Self {
        let (out, inbound) = within(connection.accept_bi()).await.expect("a stream");
        Self { out, inbound, frames: Frames::new(Side::Server, 1 << 20), chunk: Bytes::new() }
    }

    /// The next event, `None` at the end, or the code of a reset.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Code> {
        loop {
            if let Some(event) = self.frames.next(&mut self.chunk).expect("good frames") {
                return Ok(Some(event));
            }
            match within(self.inbound.read_chunk(usize::MAX, true)).await {
                Ok(Some(chunk)) => self.chunk = chunk.bytes,
                Ok(None) => {
                    self.frames.finish().expect("whole frames");
                    return Ok(None);
                }
                Err(quinn::ReadError::Reset(code)) => return Err(code.into()),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next head.
    pub(super) async fn head(&mut self) -> Result<Section, Code> {
        match self.next().await? {
            Some(Event::Headers(section)) => Ok(qpack::decode(&section, 1 << 20).expect("a good section")),
            other => panic!("no head but {other:?}"),
        }
    }

    /// The next head, which is that of a response.
    pub(super) async fn status(&mut self) -> Result<u16, Code> {
        let status = self.head().await?.take(Pseudo::Status).expect("a status");
        Ok(std::str::from_utf8(&status).expect("a text").parse().expect("a number"))
    }

    /// What follows an interim response.
    pub(super) fn expect_head(&mut self) {
        self.frames.expect_head();
    }

    /// The rest of the body, and the trailers.
    pub(super) async fn rest(&mut self) -> Result<(Vec<u8>, Option<Section>), Code> {
        let (mut bytes, mut trailers) = (Vec::new(), None);
        while let Some(event) = self.next().await? {
            match event {
                Event::Data(data) => bytes.extend_from_slice(&data),
                Event::Headers(section) => trailers = Some(qpack::decode(&section, 1 << 20).expect("a good section")),
                Event::TooLarge => panic!("too large"),
            }
        }
        Ok((bytes, trailers))
    }

    /// The code with which the peer asked to stop, if it did before it had everything.
    pub(super) async fn stopped(&mut self) -> Option<Code> {
        within(self.out.stopped()).await.expect("the connection lives").map(Code::from)
    }
}

/// A frame.
pub(super) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    crate::codec::h3::varint::put(&mut bytes, kind);
    crate::codec::h3::varint::put(&mut bytes, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn data(payload: &[u8]) -> Vec<u8> {
    frame(frames::DATA, payload)
}

/// A HEADERS frame with any lines, as literals.
pub(super) fn lines(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in lines {
        // Without Huffman coding, whatever the characters.
        put_integer(&mut section, 0b0010_0000, 7, name.len());
        section.extend_from_slice(name.as_bytes());
        put_integer(&mut section, 0, 127, value.len());
        section.extend_from_slice(value.as_bytes());
    }
    frame(frames::HEADERS, &section)
}

fn put_integer(bytes: &mut Vec<u8>, pattern: u8, full: usize, mut value: usize) {
    if value < full {
        bytes.push(pattern | value as u8);
        return;
    }
    bytes.push(pattern | full as u8);
    value -= full;
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The head of a request.
pub(super) fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "https"), (":authority", "a.test"), (":path", path)];
    lines(&[&pseudo[..], fields].concat())
}

pub(super) fn get(path: &str) -> Vec<u8> {
    request("GET", path, &[])
}

/// The head of a response.
pub(super) fn status(code: u16) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    frames::put_headers(&mut buffer, |buffer| {
        Encoder::new(buffer).status(http::StatusCode::from_u16(code).expect("a status"));
    });
    buffer.to_vec()
}

pub(super) fn client_options() -> H3ClientOptions {
    H3ClientOptions { max_streams: 100, on_release: None }
}

/// A connection under test to an upstream that writes frames.
pub(super) struct Upstream {
    pub(super) connection: H3Connection,
    pub(super) driver: JoinHandle<()>,
    /// The upstream's end.
    pub(super) server: Connection,
    /// Its control stream.
    pub(super) control: SendStream,
    _ends: Ends,
}

pub(super) async fn upstream() -> Upstream {
    upstream_with(TransportConfig::default(), client_options()).await
}

pub(super) async fn upstream_with(transport: TransportConfig, options: H3ClientOptions) -> Upstream {
    upstream_of(ends_with(transport).await, options, 1 << 20).await
}

/// `max_section`: the largest field section that the upstream takes.
pub(super) async fn upstream_of(ends: Ends, options: H3ClientOptions, max_section: usize) -> Upstream {
    let control = uni(&ends.server, &control::opening(Side::Server, max_section)).await;
    let (connection, mut driver) =
        H3Connection::handshake(ends.client.clone(), &options).await.expect("the handshake succeeds");
    within(driver.greeted()).await.expect("settings");
    Upstream { connection, driver: tokio::spawn(driver), server: ends.server.clone(), control, _ends: ends }
}

/// Waits for less than a test may take.
pub(super) const SOON: Duration = Duration::from_millis(100);
