//! A small HTTP/3 client that shares no code with the proxy's: fields are sent as literals, and of an answer's fields the
//! status is read.

use std::net::{SocketAddr, UdpSocket};

use bytes::Bytes;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt, ZeroRttAccepted};
use tokio::sync::watch;

use crate::support::{PATIENCE, TlsClient, within};

/// One connection.
pub struct H3Client {
    pub connection: Connection,
    endpoint: Endpoint,
    goaway: watch::Receiver<Option<u64>>,
    _control: SendStream,
}

/// A request of which more may be sent, and its answer read.
pub struct Exchange {
    pub send: SendStream,
    receive: RecvStream,
    /// Read and not yet taken.
    buffer: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl H3Client {
    /// Connects, or says why not.
    pub async fn try_connect(client: &TlsClient, addr: SocketAddr) -> Result<Self, ConnectionError> {
        Self::try_connect_with(client.quic(), addr).await
    }

    /// The same with settings of its own.
    pub async fn try_connect_with(config: ClientConfig, addr: SocketAddr) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
        let connecting = endpoint.connect_with(config, addr, "127.0.0.1").expect("begun");
        let connection = within(PATIENCE, "a connection over QUIC", connecting).await?;
        Self::over(endpoint, connection).await
    }

    /// Begins with early data, and tells whether it was taken; panics without the means that a server gives for it.
    pub async fn early(client: &TlsClient, addr: SocketAddr) -> (Self, ZeroRttAccepted) {
        Self::try_early(client, addr).await.expect("the means for early data")
    }

    /// The same; `None` without the means.
    pub async fn try_early(client: &TlsClient, addr: SocketAddr) -> Option<(Self, ZeroRttAccepted)> {
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
        let connecting = endpoint.connect_with(client.quic(), addr, "127.0.0.1").expect("begun");
        let (connection, taken) = connecting.into_0rtt().ok()?;
        Some((Self::over(endpoint, connection).await.expect("a control stream"), taken))
    }

    async fn over(endpoint: Endpoint, connection: Connection) -> Result<Self, ConnectionError> {
        let mut control = connection.open_uni().await?;
        // A control stream with empty settings.
        control.write_all(&[0x00, 0x04, 0x00]).await.map_err(|_| ConnectionError::LocallyClosed)?;
        let (told, goaway) = watch::channel(None);
        tokio::spawn(listen(connection.clone(), told));
        Ok(Self { connection, endpoint, goaway, _control: control })
    }

    pub async fn connect(client: &TlsClient, addr: SocketAddr) -> Self {
        Self::try_connect(client, addr).await.expect("a connection over QUIC")
    }

    /// Goes on from another port.
    pub fn move_away(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        self.endpoint.rebind(socket).expect("moved");
    }

    /// Begins a request with a body to come.
    pub async fn open(&self, method: &str, path: &str) -> Result<Exchange, ConnectionError> {
        self.open_with(&head(method, path)).await
    }

    /// Begins a request with these bytes.
    pub async fn open_with(&self, head: &[u8]) -> Result<Exchange, ConnectionError> {
        let (mut send, receive) = self.connection.open_bi().await?;
        // A server that has answered or left may not take it.
        send.write_all(head).await.ok();
        Ok(Exchange { send, receive, buffer: Vec::new() })
    }

    pub async fn try_send(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply, String> {
        let mut exchange = self.open(method, path).await.map_err(|e| e.to_string())?;
        if !body.is_empty() {
            exchange.put(body).await.map_err(|e| e.to_string())?;
        }
        exchange.send.finish().map_err(|e| e.to_string())?;
        exchange.reply().await
    }

    pub async fn get(&self, path: &str) -> Reply {
        within(PATIENCE, path, self.try_send("GET", path, b"")).await.expect("an answer")
    }

    /// What the server said that it will still answer, when it said so.
    pub async fn goaway(&mut self) -> u64 {
        let told = within(PATIENCE, "GOAWAY", self.goaway.wait_for(Option::is_some)).await;
        told.expect("the connection is there").expect("told")
    }
}

impl Exchange {
    /// Sends a part of the body.
    pub async fn put(&mut self, data: &[u8]) -> Result<(), quinn::WriteError> {
        self.send.write_all(&frame(0x00, data)).await
    }

    /// The whole answer.
    pub async fn reply(&mut self) -> Result<Reply, String> {
        let status = self.status().await?;
        let mut body = Vec::new();
        while let Some(data) = self.data().await? {
            body.extend_from_slice(&data);
        }
        Ok(Reply { status, body })
    }

    /// The status of the answer; interim ones are passed over.
    pub async fn status(&mut self) -> Result<u16, String> {
        loop {
            let (kind, payload) = self.frame().await?.ok_or("no answer")?;
            assert_eq!(kind, 0x01, "an answer begins with HEADERS");
            let status = status_of(&payload);
            if status >= 200 {
                return Ok(status);
            }
        }
    }

    /// The next part of the body.
    pub async fn data(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            match self.frame().await? {
                None => return Ok(None),
                Some((0x00, payload)) => return Ok(Some(payload)),
                Some(_) => {}
            }
        }
    }

    async fn frame(&mut self) -> Result<Option<(u64, Vec<u8>)>, String> {
        loop {
            if let Some((kind, at)) = number(&self.buffer)
                && let Some((length, more)) = number(&self.buffer[at..])
            {
                let start = at + more;
                let end = start + usize::try_from(length).expect("short");
                if self.buffer.len() >= end {
                    let payload = self.buffer[start..end].to_vec();
                    self.buffer.drain(..end);
                    return Ok(Some((kind, payload)));
                }
            }
            match self.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err("it ends within a frame".to_owned()),
            }
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        let chunk = self.receive.read_chunk(64 * 1024, true).await.map_err(|e| e.to_string())?;
        Ok(chunk.map(|chunk| chunk.bytes))
    }

    /// Wants no more of the answer.
    pub fn stop(&mut self, code: u32) {
        self.receive.stop(VarInt::from_u32(code)).ok();
    }
}

/// The head of a request, as it stands on its stream.
pub fn head(method: &str, path: &str) -> Vec<u8> {
    head_with(method, path, &[])
}

/// The same with more fields.
pub fn head_with(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "https"), (":authority", "a.example"), (":path", path)];
    section(&[&fields, more].concat())
}

/// A HEADERS frame with these fields.
pub fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0, 0];
    for (name, value) in fields {
        literal(&mut block, name, value);
    }
    frame(0x01, &block)
}

/// Reads the server's control stream, and throws the others away.
async fn listen(connection: Connection, told: watch::Sender<Option<u64>>) {
    while let Ok(mut stream) = connection.accept_uni().await {
        let told = told.clone();
        tokio::spawn(async move {
            let mut all = Vec::new();
            while let Ok(Some(chunk)) = stream.read_chunk(4096, true).await {
                all.extend_from_slice(&chunk.bytes);
                if all.first() == Some(&0x00) {
                    for (kind, payload) in frames(&all[1..]) {
                        if kind == 0x07 {
                            told.send_replace(number(&payload).map(|(id, _)| id));
                        }
                    }
                }
            }
        });
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((kind, at)) = number(bytes)
        && let Some((length, more)) = number(&bytes[at..])
        && let Some(payload) = bytes.get(at + more..at + more + usize::try_from(length).expect("short"))
    {
        frames.push((kind, payload.to_vec()));
        bytes = &bytes[at + more + payload.len()..];
    }
    frames
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short") | 0x8000_0000;
    [&[kind], &length.to_be_bytes()[..], payload].concat()
}

/// A variable-length integer (RFC 9000 section 16), and how long it is.
fn number(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    Some((rest.iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)), length))
}

/// A literal field line with a literal name, not Huffman coded (RFC 9204 section 4.5.6).
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    prefixed(block, 0x20, 3, name.len());
    block.extend_from_slice(name.as_bytes());
    prefixed(block, 0x00, 7, value.len());
    block.extend_from_slice(value.as_bytes());
}

fn prefixed(block: &mut Vec<u8>, flags: u8, bits: u32, number: usize) {
    let most = (1 << bits) - 1;
    if number < most {
        block.push(flags | u8::try_from(number).expect("short"));
        return;
    }
    block.push(flags | u8::try_from(most).expect("short"));
    let mut rest = number - most;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("short") | 0x80);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("short"));
}

/// The status, which is the first field: indexed in the static table (RFC 9204 appendix A), or a literal.
fn status_of(block: &[u8]) -> u16 {
    const INDEXED: [(u8, u16); 14] = [
        (24, 103),
        (25, 200),
        (26, 304),
        (27, 404),
        (28, 503),
        (63, 100),
        (64, 204),
        (65, 206),
        (66, 302),
        (67, 400),
        (68, 403),
        (69, 421),
        (70, 425),
        (71, 500),
    ];
    let field = &block[2..];
    if field[0] & 0xc0 == 0xc0 {
        // Six bits; 63 goes on in the next byte.
        let index = if field[0] & 0x3f == 0x3f { 63 + field[1] } else { field[0] & 0x3f };
        let known = INDEXED.iter().find(|(known, _)| *known == index);
        return known.unwrap_or_else(|| panic!("not a status: {block:?}")).1;
    }
    assert_eq!(field[0] & 0xf0, 0x50, "a literal with a static name: {block:?}");
    let value = if field[0] & 0x0f == 0x0f { &field[2..] } else { &field[1..] };
    let length = usize::from(value[0] & 0x7f);
    let text = &value[1..=length];
    if value[0] & 0x80 == 0 {
        return std::str::from_utf8(text).expect("digits").parse().expect("a status");
    }
    // Huffman codes of digits: 0, 1 and 2 have five bits, the others six (RFC 7541 appendix B).
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |code, bit| code << 1 | u16::from(bit));
    let mut status = 0;
    for _ in 0..3 {
        let five = take(5);
        let digit = if five < 3 { five } else { (five << 1 | take(1)) - 0x19 + 3 };
        status = status * 10 + digit;
    }
    status
}
