//! What a server did so far, and how that compares to what it should have done.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::frame::{self, Frame, code, code_name, flag, kind, setting};
use crate::hpack;
use crate::script::ServerSettings;

/// What the server did on one stream.
#[derive(Debug, Default)]
pub(crate) struct StreamSeen {
    /// Of the last response head; 1xx are passed over.
    pub(crate) status: Option<u16>,
    /// Bytes of DATA without padding.
    pub(crate) body: usize,
    pub(crate) ended: bool,
    pub(crate) reset: Option<u32>,
}

/// Everything the server did so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) streams: HashMap<u32, StreamSeen>,
    pub(crate) goaway: Option<(u32, u32)>,
    pub(crate) settings_acks: usize,
    pub(crate) pongs: Vec<[u8; 8]>,
    pub(crate) first_frame: Option<u8>,
    pub(crate) settings: Option<ServerSettings>,
    /// It sent something that is not HTTP/2.
    pub(crate) gibberish: bool,
    pub(crate) closed: bool,
}

impl Seen {
    pub(crate) fn stream(&self, stream: u32) -> Option<&StreamSeen> {
        self.streams.get(&stream)
    }

    /// Takes a frame into account, and returns what a client must write back.
    pub(crate) fn note(&mut self, frame: &Frame) -> Vec<u8> {
        self.first_frame.get_or_insert(frame.kind);
        let stream = self.streams.entry(frame.stream).or_default();
        match frame.kind {
            kind::DATA => {
                stream.body += frame.content().len();
                stream.ended |= frame.has(flag::END_STREAM);
            }
            kind::HEADERS => {
                if stream.status.is_none_or(|status| status < 200) {
                    stream.status = hpack::status(frame.content());
                }
                stream.ended |= frame.has(flag::END_STREAM);
            }
            kind::RST_STREAM => stream.reset = Some(frame.number(0)),
            kind::GOAWAY => self.goaway = Some((frame.number(0), frame.number(4))),
            kind::SETTINGS if frame.has(flag::ACK) => self.settings_acks += 1,
            kind::SETTINGS => {
                self.note_settings(&frame.payload);
                return frame::settings_ack();
            }
            kind::PING => {
                let payload = frame.payload.as_slice().try_into().unwrap_or_default();
                if frame.has(flag::ACK) {
                    self.pongs.push(payload);
                } else {
                    return frame::ping(flag::ACK, payload);
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn note_settings(&mut self, payload: &[u8]) {
        let settings = self.settings.get_or_insert_default();
        for entry in payload.chunks_exact(6) {
            let &[a, b, c, d, e, f] = entry else { continue };
            let value = u32::from_be_bytes([c, d, e, f]);
            match u16::from_be_bytes([a, b]) {
                setting::MAX_CONCURRENT_STREAMS => settings.max_concurrent_streams = Some(value),
                setting::INITIAL_WINDOW_SIZE => settings.initial_window_size = value,
                setting::MAX_FRAME_SIZE => settings.max_frame_size = value,
                _ => {}
            }
        }
    }

    /// What must not happen on a stream (0: on the connection) while all is well.
    pub(crate) fn broken(&self, stream: u32) -> Option<Result<(), String>> {
        if self.gibberish {
            return Some(Err("what came is not HTTP/2".to_owned()));
        }
        if let Some((_, code)) = self.goaway.filter(|&(last, code)| code != code::NO_ERROR || last < stream) {
            return Some(Err(format!("GOAWAY came with {}", code_name(code))));
        }
        let reset = self.stream(stream).and_then(|seen| seen.reset)?;
        // A server that answered before it read everything may ask the client to stop (section 8.1).
        let answered = reset == code::NO_ERROR && self.stream(stream).is_some_and(|seen| seen.ended);
        (!answered).then(|| Err(format!("stream {stream} was reset with {}", code_name(reset))))
    }

    pub(crate) fn ended(&self, stream: u32) -> Option<Result<(), String>> {
        self.broken(stream).or_else(|| self.stream(stream)?.ended.then_some(Ok(())))
    }

    pub(crate) fn connection_error(&self, codes: &[u32]) -> Option<Result<(), String>> {
        match self.goaway {
            Some((_, code)) if fits(code, codes) => Some(Ok(())),
            // A graceful GOAWAY may come before the one that names the error.
            Some((_, code)) if code != code::NO_ERROR => Some(Err(format!("GOAWAY came with {}", code_name(code)))),
            _ => self.closed.then_some(Ok(())),
        }
    }

    pub(crate) fn refused(&self, stream: u32) -> Option<Result<(), String>> {
        let error = self.goaway.is_some_and(|(_, code)| code != code::NO_ERROR) || self.closed;
        let seen = self.stream(stream);
        if error || seen.is_some_and(|seen| seen.reset.is_some_and(|code| code != code::NO_ERROR)) {
            return Some(Ok(()));
        }
        match seen?.status? {
            400..500 => Some(Ok(())),
            status if status >= 200 => Some(Err(format!("it was answered with {status}"))),
            _ => None,
        }
    }

    /// What came, in one line.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::from("seen:");
        let mut streams: Vec<_> = self.streams.iter().filter(|&(&id, _)| id != 0).collect();
        streams.sort_by_key(|&(&id, _)| id);
        // Cases with many streams are about the last ones.
        for (id, seen) in streams.iter().rev().take(4).rev() {
            let status = seen.status.map_or("no status".to_owned(), |status| status.to_string());
            let end = if seen.ended { ", ended" } else { "" };
            let reset = seen.reset.map_or(String::new(), |code| format!(", reset with {}", code_name(code)));
            let _infallible = write!(text, " stream {id} ({status}, {} bytes{end}{reset})", seen.body);
        }
        if let Some((last, code)) = self.goaway {
            let _infallible = write!(text, " GOAWAY({last}, {})", code_name(code));
        }
        text.push_str(if self.gibberish { " something that is not HTTP/2" } else { "" });
        text.push_str(if self.closed { " end of connection" } else { " connection open" });
        text
    }
}

/// Whether an error code is one of those expected, or a generic one (RFC 9113 section 5.4).
pub(crate) fn fits(code: u32, codes: &[u32]) -> bool {
    matches!(code, code::PROTOCOL_ERROR | code::INTERNAL_ERROR) || codes.contains(&code)
}
