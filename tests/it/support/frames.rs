//! Raw HTTP/2 frames: a client that can say what no library would (illegal fields, floods), and
//! understands just enough of the answers: statuses, resets, GOAWAY.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::http1::Wire;
use super::{PATIENCE, within};

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// The END_STREAM flag, also ACK of SETTINGS and PING.
pub const END_STREAM: u8 = 1;
/// The END_HEADERS flag.
pub const END_HEADERS: u8 = 4;

/// The connection preface of a client.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as read.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A final response with this status.
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection is going away with this code.
    GoAway(u32),
    /// The connection closed without a word.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct RawH2 {
    /// The connection itself.
    pub wire: Wire,
    decoder: Decoder,
}

impl RawH2 {
    /// Connects and sends the preface with empty SETTINGS.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, &[]).await
    }

    /// Connects with SETTINGS (identifier and value).
    pub async fn connect_with(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = within(PATIENCE, "connecting", TcpStream::connect(addr)).await;
        let wire = Wire::new(stream.expect("the proxy accepts connections"));
        let raw = Self { wire, decoder: Decoder::default() };
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let mut hello = PREFACE.to_vec();
        hello.extend_from_slice(&frame(SETTINGS, 0, 0, &payload));
        raw.wire.send(hello).await.expect("send the preface");
        raw
    }

    /// Sends a frame. Errors are ignored: the answer, or its absence, is what counts.
    pub async fn send(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        within(PATIENCE, "sending", self.wire.send(frame(kind, flags, stream, payload))).await.ok();
    }

    /// Sends HEADERS with these fields, exactly as given.
    pub async fn headers(&self, stream: u32, fields: &[(&[u8], &[u8])], flags: u8) {
        self.send(HEADERS, flags | END_HEADERS, stream, &block(fields)).await;
    }

    /// Reads a frame; `None` when the connection ended.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let head = match self.wire.take(9).await {
            Ok(head) => head,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let payload = self.wire.take(length).await?;
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload }))
    }

    /// Reads until it is clear what became of a request; acknowledges SETTINGS on the way.
    pub async fn answer(&mut self, stream: u32) -> Answer {
        within(PATIENCE, "an answer", async {
            loop {
                let Ok(Some(frame)) = self.next().await else {
                    return Answer::Closed;
                };
                match frame.kind {
                    SETTINGS if frame.flags & 1 == 0 => self.send(SETTINGS, 1, 0, &[]).await,
                    HEADERS => {
                        assert!(frame.flags & END_HEADERS != 0, "a small block is in one frame");
                        let priority = if frame.flags & 0x20 != 0 { 5 } else { 0 };
                        let status = self.decoder.status(&frame.payload[priority..]);
                        if frame.stream == stream && !(100..200).contains(&status) {
                            return Answer::Status(status);
                        }
                    }
                    RST_STREAM if frame.stream == stream => {
                        return Answer::Reset(number(&frame.payload));
                    }
                    GOAWAY => {
                        let code = number(&frame.payload[4..]);
                        if code != 0 {
                            return Answer::GoAway(code);
                        }
                    }
                    _ => {}
                }
            }
        })
        .await
    }

    /// Reads until the connection ends; the code of the last GOAWAY, if there was one.
    pub async fn until_closed(&mut self, limit: Duration) -> Option<u32> {
        within(limit, "the proxy closing the connection", async {
            let mut code = None;
            while let Ok(Some(frame)) = self.next().await {
                if frame.kind == GOAWAY {
                    code = Some(number(&frame.payload[4..]));
                }
            }
            code
        })
        .await
    }
}

/// Decodes the `:status` of header blocks. Keeps the dynamic table without eviction, which is right
/// for the few small answers of a test.
#[derive(Debug, Default)]
struct Decoder {
    table: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Decoder {
    fn status(&mut self, mut input: &[u8]) -> u16 {
        let mut status = 0;
        while let Some(&first) = input.first() {
            let (name, value) = match first {
                0x80.. => {
                    let index = integer(&mut input, 7);
                    if let 8..=14 = index {
                        status = [200, 204, 206, 304, 400, 404, 500][index - 8];
                    }
                    match index.checked_sub(62) {
                        Some(at) => self.table[at].clone(),
                        None => continue,
                    }
                }
                0x20..=0x3f => {
                    integer(&mut input, 5);
                    continue;
                }
                _ => {
                    let bits = if first >= 0x40 { 6 } else { 4 };
                    let name = match integer(&mut input, bits) {
                        0 => string(&mut input),
                        8..=14 => b":status".to_vec(),
                        index if index >= 62 => self.table[index - 62].0.clone(),
                        _ => Vec::new(),
                    };
                    let value = string(&mut input);
                    if bits == 6 {
                        self.table.insert(0, (name.clone(), value.clone()));
                    }
                    (name, value)
                }
            };
            if name == b":status" {
                status = String::from_utf8_lossy(&value).parse().expect("a numeric status");
            }
        }
        status
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header block of literals without indexing and without Huffman coding: bytes stay bytes.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            put_integer(&mut out, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

fn put_integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        out.push(value as u8);
        return;
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

fn integer(input: &mut &[u8], bits: u32) -> usize {
    let mask = (1usize << bits) - 1;
    let mut value = usize::from(input[0]) & mask;
    *input = &input[1..];
    if value == mask {
        let mut shift = 0;
        loop {
            let byte = input[0];
            *input = &input[1..];
            value += usize::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
        }
    }
    value
}

/// A string literal. Huffman text is decoded only as far as it consists of digits, which is all that
/// a status needs; other Huffman text stays as it is.
fn string(input: &mut &[u8]) -> Vec<u8> {
    let huffman = input[0] & 0x80 != 0;
    let length = integer(input, 7);
    let (text, rest) = input.split_at(length);
    *input = rest;
    if huffman { digits(text).unwrap_or_else(|| text.to_vec()) } else { text.to_vec() }
}

/// RFC 7541 appendix B: `0`, `1`, `2` have five bits (0 to 2), `3` to `9` six (0x19 to 0x1f).
fn digits(text: &[u8]) -> Option<Vec<u8>> {
    let bits: Vec<u8> = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let read = |at: usize, count: usize| bits.get(at..at + count).map(|b| b.iter().fold(0u8, |n, bit| n << 1 | bit));
    let mut out = Vec::new();
    let mut at = 0;
    while bits.len() - at >= 5 {
        match (read(at, 5), read(at, 6)) {
            (Some(code @ 0..=2), _) => {
                out.push(b'0' + code);
                at += 5;
            }
            (_, Some(code @ 0x19..=0x1f)) => {
                out.push(b'3' + code - 0x19);
                at += 6;
            }
            // Padding is a run of ones.
            _ if bits[at..].iter().all(|&bit| bit == 1) && bits.len() - at < 8 => break,
            _ => return None,
        }
    }
    Some(out)
}

/// The first four bytes as a number.
pub fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().expect("four bytes"))
}

#[test]
fn statuses_are_read_in_every_form_that_an_encoder_may_choose() {
    let decode = |block: &[u8]| Decoder::default().status(block);
    assert_eq!(decode(&[0x88]), 200, "indexed in the static table");
    assert_eq!(decode(&[0x48, 3, b'4', b'3', b'1']), 431, "plain text");
    assert_eq!(decode(&[0x48, 0x83, 0x69, 0x90, 0xff]), 431, "Huffman code");
}
