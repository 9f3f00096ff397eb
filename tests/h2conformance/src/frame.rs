//! Frames as bytes (RFC 9113 sections 4 and 6), legal or not, and the parts of received ones that matter here.

/// The client's connection preface (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame header.
pub(crate) const HEADER: usize = 9;
/// The largest payload allowed before a peer raised SETTINGS_MAX_FRAME_SIZE, which is never done here.
pub(crate) const MAX_FRAME: usize = 16_384;

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
    /// Not assigned.
    pub(crate) const UNKNOWN: u8 = 0xf0;
}

pub(crate) mod flag {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

pub(crate) mod setting {
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    /// Not assigned.
    pub(crate) const UNKNOWN: u16 = 0xfa_fa;
}

/// Error codes (section 7).
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const INTERNAL_ERROR: u32 = 2;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION_ERROR: u32 = 9;
}

/// The name of an error code.
pub(crate) fn code_name(code: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    usize::try_from(code)
        .ok()
        .and_then(|at| NAMES.get(at))
        .map_or_else(|| format!("{code:#x}"), |name| (*name).to_owned())
}

/// A frame with whatever it is given; `stream` keeps its reserved bit.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

/// HEADERS with a whole block.
pub(crate) fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

/// HEADERS whose block goes on in CONTINUATION.
pub(crate) fn headers_begun(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block)
}

pub(crate) fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::CONTINUATION, flags, stream, block)
}

/// The five bytes of priority fields. `weight` is one less than the weight meant.
pub(crate) fn priority_fields(dependency: u32, exclusive: bool, weight: u8) -> [u8; 5] {
    let [a, b, c, d] = (dependency | u32::from(exclusive) << 31).to_be_bytes();
    [a, b, c, d, weight]
}

pub(crate) fn priority(stream: u32, dependency: u32, exclusive: bool, weight: u8) -> Vec<u8> {
    frame(kind::PRIORITY, flag::NONE, stream, &priority_fields(dependency, exclusive, weight))
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, &code.to_be_bytes())
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, flag::NONE, 0, &payload)
}

pub(crate) fn settings_ack() -> Vec<u8> {
    frame(kind::SETTINGS, flag::ACK, 0, &[])
}

pub(crate) fn ping(flags: u8, payload: [u8; 8]) -> Vec<u8> {
    frame(kind::PING, flags, 0, &payload)
}

pub(crate) fn goaway(last_stream: u32, code: u32) -> Vec<u8> {
    frame(kind::GOAWAY, flag::NONE, 0, &[last_stream.to_be_bytes(), code.to_be_bytes()].concat())
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, &increment.to_be_bytes())
}

/// A received frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Takes a frame off the front of `buffer`; `None` when it is not all there yet, `Err` when these bytes cannot be one.
    pub(crate) fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, NotAFrame> {
        let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > MAX_FRAME {
            return Err(NotAFrame);
        }
        if buffer.len() < HEADER + length {
            return Ok(None);
        }
        let payload = buffer[HEADER..HEADER + length].to_vec();
        buffer.drain(..HEADER + length);
        Ok(Some(Self { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff, payload }))
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding, and for HEADERS without priority fields.
    pub(crate) fn content(&self) -> &[u8] {
        let mut content = &self.payload[..];
        if matches!(self.kind, kind::DATA | kind::HEADERS) && self.has(flag::PADDED) {
            let padding = content.first().map_or(0, |&length| usize::from(length));
            content = content.get(1..content.len().saturating_sub(padding)).unwrap_or_default();
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            content = content.get(5..).unwrap_or_default();
        }
        content
    }

    /// Four bytes of the payload as a number.
    pub(crate) fn number(&self, at: usize) -> u32 {
        self.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
    }
}

/// The peer sent what no HTTP/2 server may: a frame larger than allowed, or another protocol.
#[derive(Debug)]
pub(crate) struct NotAFrame;
