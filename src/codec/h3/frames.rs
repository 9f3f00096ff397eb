//! Frames of request streams (RFC 9114 section 7): bytes in, events out. What a frame means is for others; where it may stand
//! is judged here.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::code::Code;
use super::varint::{self, Partial};

pub(super) const DATA: u64 = 0x0;
pub(super) const HEADERS: u64 = 0x1;
pub(super) const CANCEL_PUSH: u64 = 0x3;
pub(super) const SETTINGS: u64 = 0x4;
pub(super) const PUSH_PROMISE: u64 = 0x5;
pub(super) const GOAWAY: u64 = 0x7;
pub(super) const MAX_PUSH_ID: u64 = 0xd;

/// Frames that do nothing (empty DATA, unknown types) on one stream.
const IDLE_FRAMES: u32 = 1024;
/// What they may contain, in all.
const IDLE_BYTES: u64 = 1024 * 1024;

/// Whether a type was a frame of HTTP/2 that has none in its place here (RFC 9114 section 11.2.1).
pub(super) fn is_reserved(kind: u64) -> bool {
    matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
}

/// What a stream of requests or responses brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An encoded field section: of a head, or of trailers if [`Frames`] was in the body.
    Headers(Bytes),
    /// The same, but longer than is allowed. It is skipped.
    TooLarge,
    /// A piece of the body, never empty.
    Data(Bytes),
}

/// A connection error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The code that the RFC names.
    pub code: Code,
    /// What is wrong, for logs and for the peer.
    pub detail: &'static str,
}

impl Broken {
    pub(super) const fn new(code: Code, detail: &'static str) -> Self {
        Self { code, detail }
    }
}

/// Which side of the connection reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The stream is a request.
    Server,
    /// The stream is a response.
    Client,
}

/// The frames of one request stream, in one direction.
#[derive(Debug)]
pub struct Frames {
    side: Side,
    /// Encoded bytes of a field section.
    max_section: usize,
    place: Place,
    state: State,
    idle_frames: u32,
    idle_bytes: u64,
}

/// What may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A head, or one more if the last was an interim response.
    Head,
    /// DATA, or trailers.
    Body,
    /// Nothing that has a meaning.
    End,
    /// Nothing but DATA (RFC 9114 section 4.4).
    Tunnel,
}

#[derive(Debug)]
enum State {
    Type(Partial),
    Length { kind: u64, length: Partial },
    Section { missing: usize, taken: BytesMut },
    Data { missing: u64 },
    Skip { missing: u64, event: Option<Event> },
}

impl Frames {
    /// For the beginning of a stream. Field sections of more than `max_section` encoded bytes are not kept.
    #[must_use]
    pub fn new(side: Side, max_section: usize) -> Self {
        let state = State::Type(Partial::default());
        Self { side, max_section, place: Place::Head, state, idle_frames: 0, idle_bytes: 0 }
    }

    /// The head that came last was that of an interim response: another follows.
    pub fn expect_head(&mut self) {
        self.place = Place::Head;
    }

    /// From now on the stream is a tunnel.
    pub fn become_tunnel(&mut self) {
        if self.place == Place::Body {
            self.place = Place::Tunnel;
        }
    }

    /// Bytes of the current DATA frame that have not come yet.
    #[must_use]
    pub fn data_missing(&self) -> u64 {
        if let State::Data { missing } = self.state { missing } else { 0 }
    }

    /// The next event that `input` brings; `None` when it is used up. Pieces of bodies are not copied.
    ///
    /// # Errors
    /// A connection error. Nothing more may be read then.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, Broken> {
        loop {
            match &mut self.state {
                State::Type(partial) => {
                    let Some(kind) = partial.take(input) else { return Ok(None) };
                    self.judge(kind)?;
                    self.state = State::Length { kind, length: Partial::default() };
                }
                State::Length { kind, length } => {
                    let kind = *kind;
                    let Some(length) = length.take(input) else { return Ok(None) };
                    self.begin(kind, length)?;
                }
                State::Section { missing, taken } => {
                    let section = if taken.is_empty() && input.len() >= *missing {
                        input.split_to(*missing)
                    } else {
                        let piece = input.split_to(input.len().min(*missing - taken.len()));
                        taken.extend_from_slice(&piece);
                        if taken.len() < *missing {
                            return Ok(None);
                        }
                        std::mem::take(taken).freeze()
                    };
                    self.state = State::Type(Partial::default());
                    return Ok(Some(Event::Headers(section)));
                }
                State::Data { missing: 0 } => self.state = State::Type(Partial::default()),
                State::Data { missing } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let length = usize::try_from(*missing).unwrap_or(usize::MAX).min(input.len());
                    *missing -= length as u64;
                    return Ok(Some(Event::Data(input.split_to(length))));
                }
                State::Skip { missing, event } => {
                    let length = usize::try_from(*missing).unwrap_or(usize::MAX).min(input.len());
                    input.advance(length);
                    *missing -= length as u64;
                    if let Some(event) = event.take() {
                        return Ok(Some(event));
                    }
                    if *missing > 0 {
                        return Ok(None);
                    }
                    self.state = State::Type(Partial::default());
                }
            }
        }
    }

    /// The stream ends here.
    ///
    /// # Errors
    /// It ends in the middle of a frame (RFC 9114 section 7.1).
    pub fn finish(&self) -> Result<(), Broken> {
        let whole = match &self.state {
            State::Type(partial) => !partial.is_begun(),
            State::Data { missing } | State::Skip { missing, .. } => *missing == 0,
            State::Length { .. } | State::Section { .. } => false,
        };
        if whole { Ok(()) } else { Err(Broken::new(Code::FRAME_ERROR, "the stream ends in the middle of a frame")) }
    }

    /// May a frame of this type stand here?
    fn judge(&mut self, kind: u64) -> Result<(), Broken> {
        let unexpected = |detail| Err(Broken::new(Code::FRAME_UNEXPECTED, detail));
        match (kind, self.place) {
            (DATA, Place::Body | Place::Tunnel) => Ok(()),
            (HEADERS, Place::Head) => {
                self.place = Place::Body;
                Ok(())
            }
            (HEADERS, Place::Body) => {
                self.place = Place::End;
                Ok(())
            }
            (DATA, Place::Head) => unexpected("DATA before HEADERS"),
            (DATA | HEADERS, Place::End) => unexpected("a frame behind the trailers"),
            (HEADERS, Place::Tunnel) => unexpected("HEADERS in a tunnel"),
            // We never allow one (RFC 9114 section 7.2.5).
            (PUSH_PROMISE, _) if self.side == Side::Client => {
                Err(Broken::new(Code::ID_ERROR, "PUSH_PROMISE, which was not allowed"))
            }
            (CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID, _) => {
                unexpected("a frame that belongs on another stream")
            }
            _ if is_reserved(kind) => unexpected("a frame of HTTP/2"),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, kind: u64, length: u64) -> Result<(), Broken> {
        self.state = match kind {
            DATA if length > 0 => State::Data { missing: length },
            HEADERS => match usize::try_from(length) {
                Ok(missing) if missing <= self.max_section => State::Section { missing, taken: BytesMut::new() },
                _ => State::Skip { missing: length, event: Some(Event::TooLarge) },
            },
            _ => {
                self.idle_frames += 1;
                self.idle_bytes = self.idle_bytes.saturating_add(length);
                if self.idle_frames > IDLE_FRAMES || self.idle_bytes > IDLE_BYTES {
                    return Err(Broken::new(Code::EXCESSIVE_LOAD, "too many frames that do nothing"));
                }
                State::Skip { missing: length, event: None }
            }
        };
        Ok(())
    }
}

/// Appends the header of a DATA frame.
pub(super) fn put_data_header(buffer: &mut impl BufMut, length: usize) {
    varint::put(buffer, DATA);
    varint::put(buffer, length as u64);
}

/// Space for the header of a HEADERS frame, whose length is not known yet.
const HEADERS_HEADER: [u8; 3] = [HEADERS as u8, 0, 0];

/// Appends a HEADERS frame with the section that `encode` appends.
pub(super) fn put_headers(buffer: &mut BytesMut, encode: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_slice(&HEADERS_HEADER);
    encode(buffer);
    let length = buffer.len() - start - HEADERS_HEADER.len();
    if let Ok(short) = u16::try_from(length)
        && short < 0x4000
    {
        // Two bytes even where one would do: the section need not move.
        buffer[start + 1..start + 3].copy_from_slice(&(short | 0x4000).to_be_bytes());
        return;
    }
    let section = buffer.split_off(start + HEADERS_HEADER.len());
    buffer.truncate(start + 1);
    varint::put(buffer, length as u64);
    buffer.unsplit(section);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        varint::put(&mut bytes, kind);
        varint::put(&mut bytes, payload.len() as u64);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Everything that pieces of a stream bring, with pieces of one DATA frame joined.
    fn read<'a>(side: Side, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Result<(), Broken>) {
        let mut frames = Frames::new(side, 64);
        let mut events = Vec::new();
        let mut inside = false;
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match frames.next(&mut input) {
                    Ok(Some(Event::Data(data))) => match events.last_mut() {
                        Some(Event::Data(before)) if inside => *before = [&before[..], &data[..]].concat().into(),
                        _ => events.push(Event::Data(data)),
                    },
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(broken) => return (events, Err(broken)),
                }
                inside = frames.data_missing() > 0;
            }
            assert!(input.is_empty());
        }
        (events, frames.finish())
    }

    fn code(side: Side, frames: &[Vec<u8>]) -> Result<(), Code> {
        let bytes = frames.concat();
        read(side, [&bytes[..]]).1.map_err(|broken| broken.code)
    }

    #[test]
    fn a_message_is_a_head_a_body_and_trailers() {
        let bytes =
            [frame(HEADERS, b"head"), frame(DATA, b"one"), frame(DATA, b"two"), frame(HEADERS, b"end")].concat();
        let (events, end) = read(Side::Server, [&bytes[..]]);
        let expected = [
            Event::Headers("head".into()),
            Event::Data("one".into()),
            Event::Data("two".into()),
            Event::Headers("end".into()),
        ];
        assert_eq!((events, end), (expected.to_vec(), Ok(())));
    }

    #[test]
    fn frames_stand_in_order() {
        let (head, body) = (frame(HEADERS, b"h"), frame(DATA, b"d"));
        for (name, frames) in [
            ("DATA first", vec![body.clone()]),
            ("DATA behind trailers", vec![head.clone(), head.clone(), body.clone()]),
            ("a third HEADERS", vec![head.clone(), head.clone(), head.clone()]),
        ] {
            assert_eq!(code(Side::Server, &frames), Err(Code::FRAME_UNEXPECTED), "{name}");
        }
    }

    #[test]
    fn frames_of_other_streams_and_versions_are_unexpected() {
        for kind in [CANCEL_PUSH, SETTINGS, GOAWAY, MAX_PUSH_ID, 0x2, 0x6, 0x8, 0x9] {
            for side in [Side::Server, Side::Client] {
                for before in [vec![], vec![frame(HEADERS, b"h")]] {
                    let frames = [before, vec![frame(kind, b"\0")]].concat();
                    assert_eq!(code(side, &frames), Err(Code::FRAME_UNEXPECTED), "{kind:#x}");
                }
            }
        }
        // RFC 9114 section 7.2.5: a client has no identifier that it could name.
        assert_eq!(code(Side::Server, &[frame(PUSH_PROMISE, b"\0")]), Err(Code::FRAME_UNEXPECTED));
        assert_eq!(code(Side::Client, &[frame(PUSH_PROMISE, b"\0")]), Err(Code::ID_ERROR));
    }

    #[test]
    fn unknown_frames_may_stand_everywhere() {
        let grease = frame(0x21, b"whatever");
        let frames = [
            grease.clone(),
            frame(HEADERS, b"h"),
            grease.clone(),
            frame(DATA, b"d"),
            frame(DATA, b""),
            frame(HEADERS, b"t"),
            grease,
        ];
        assert_eq!(code(Side::Server, &frames), Ok(()));
    }

    #[test]
    fn a_stream_does_not_end_inside_a_frame() {
        let bytes = [frame(HEADERS, b"head"), frame(DATA, b"body"), frame(0x21, b"grease")].concat();
        let ends = [0, 6, 12, bytes.len()];
        for length in 0..=bytes.len() {
            let end = read(Side::Server, [&bytes[..length]]).1.map_err(|broken| broken.code);
            assert_eq!(end, if ends.contains(&length) { Ok(()) } else { Err(Code::FRAME_ERROR) }, "{length}");
        }
    }

    #[test]
    fn in_a_tunnel_is_nothing_but_data() {
        for (kind, expected) in [(DATA, Ok(())), (0x21, Ok(())), (HEADERS, Err(Code::FRAME_UNEXPECTED))] {
            let mut frames = Frames::new(Side::Server, 64);
            let mut head = Bytes::from(frame(HEADERS, b"h"));
            assert!(matches!(frames.next(&mut head), Ok(Some(Event::Headers(_)))));
            frames.become_tunnel();
            let next = frames.next(&mut Bytes::from(frame(kind, b"x")));
            assert_eq!(next.map(|_| ()).map_err(|broken| broken.code), expected);
        }
    }

    #[test]
    fn sections_that_are_too_large_are_skipped() {
        let bytes = [frame(HEADERS, &[b'x'; 65]), frame(DATA, b"d")].concat();
        let (events, end) = read(Side::Server, [&bytes[..]]);
        assert_eq!((events, end), (vec![Event::TooLarge, Event::Data("d".into())], Ok(())));
    }

    #[test]
    fn frames_that_do_nothing_are_counted() {
        let mut frames = vec![frame(HEADERS, b"h")];
        frames.extend(std::iter::repeat_n(frame(DATA, b""), IDLE_FRAMES as usize));
        assert_eq!(code(Side::Server, &frames), Ok(()));
        frames.push(frame(0x21, b""));
        assert_eq!(code(Side::Server, &frames), Err(Code::EXCESSIVE_LOAD));
        let mut endless = frame(HEADERS, b"h");
        varint::put(&mut endless, 0x21);
        varint::put(&mut endless, varint::MAX);
        assert_eq!(code(Side::Server, &[endless]), Err(Code::EXCESSIVE_LOAD));
    }

    #[test]
    fn headers_are_written_whatever_their_length() {
        for length in [0, 63, 64, 16_383, 16_384, 100_000] {
            let mut buffer = BytesMut::from(&b"before"[..]);
            put_headers(&mut buffer, |buffer| buffer.put_bytes(7, length));
            let mut input = buffer.freeze().split_off(6);
            let mut frames = Frames::new(Side::Client, usize::MAX);
            let event = frames.next(&mut input).expect("good");
            assert_eq!(event, Some(Event::Headers(vec![7; length].into())));
            assert!(input.is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            kinds in prop::collection::vec((prop_oneof![Just(DATA), Just(HEADERS), 0_u64..16, any::<u32>().prop_map(u64::from)],
                prop::collection::vec(any::<u8>(), 0..100)), 0..8),
            tail in prop::collection::vec(any::<u8>(), 0..8),
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let mut bytes = frame(HEADERS, b"h");
            for (kind, payload) in kinds {
                bytes.extend_from_slice(&frame(kind, &payload));
            }
            bytes.extend_from_slice(&tail);
            let whole = read(Side::Server, [&bytes[..]]);
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(read(Side::Server, pieces), whole);
        }
    }
}
