//! The control stream (RFC 9114 sections 6.2.1 and 7.2): bytes in, events out.

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use super::code::Code;
use super::frames::{self, Broken, Side};
use super::varint::{self, Partial};

/// A frame that must be understood: bytes.
const MAX_FRAME: usize = 4 * 1024;
/// Frames without a meaning for us, over the life of a connection ...
const IDLE_FRAMES: u64 = 16 * 1024;
/// ... and for each of its requests: browsers say how urgent each is (RFC 9218 section 7), and that again when it changes.
const FRAMES_OF_A_REQUEST: u64 = 4;
/// What they may contain, in all.
const IDLE_BYTES: u64 = 16 * 1024 * 1024;

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x1;
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
const QPACK_BLOCKED_STREAMS: u64 = 0x7;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;

/// The type of a control stream.
pub(super) const STREAM: u64 = 0x0;

/// What a peer says of itself; what it does not mention has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// The largest field section that it accepts.
    pub max_field_section_size: Option<u64>,
    /// It understands `:protocol` (RFC 9220).
    pub enable_connect_protocol: bool,
}

/// What a control stream brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first frame.
    Settings(Settings),
    /// The peer is about to go. From a server: the first stream that it will not look at.
    GoAway(u64),
}

/// The frames of a control stream.
#[derive(Debug)]
pub struct Control {
    side: Side,
    state: State,
    settled: bool,
    /// The identifier of the last GOAWAY.
    going: Option<u64>,
    max_push_id: Option<u64>,
    idle_frames: u64,
    /// As many as may be.
    allowed: u64,
    idle_bytes: u64,
}

#[derive(Debug)]
enum State {
    Type(Partial),
    Length { kind: u64, length: Partial },
    Payload { kind: u64, missing: usize, taken: BytesMut },
    Skip { missing: u64 },
}

impl Control {
    /// For the beginning of the peer's control stream, behind the stream type. `side` is who reads.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self {
            side,
            state: State::Type(Partial::default()),
            settled: false,
            going: None,
            max_push_id: None,
            idle_frames: 0,
            allowed: IDLE_FRAMES,
            idle_bytes: 0,
        }
    }

    /// So many requests were made on the connection.
    pub fn note_requests(&mut self, requests: u64) {
        self.allowed = requests.saturating_mul(FRAMES_OF_A_REQUEST).saturating_add(IDLE_FRAMES);
    }

    /// The next event that `input` brings; `None` when it is used up.
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
                    self.state = self.begin(kind, length)?;
                }
                State::Payload { kind, missing, taken } => {
                    let kind = *kind;
                    let piece = input.split_to(input.len().min(*missing - taken.len()));
                    taken.extend_from_slice(&piece);
                    if taken.len() < *missing {
                        return Ok(None);
                    }
                    let payload = std::mem::take(taken).freeze();
                    self.state = State::Type(Partial::default());
                    if let Some(event) = self.understand(kind, payload)? {
                        return Ok(Some(event));
                    }
                }
                State::Skip { missing } => {
                    let length = usize::try_from(*missing).unwrap_or(usize::MAX).min(input.len());
                    input.advance(length);
                    *missing -= length as u64;
                    if *missing > 0 {
                        return Ok(None);
                    }
                    self.state = State::Type(Partial::default());
                }
            }
        }
    }

    /// May a frame of this type stand here?
    fn judge(&self, kind: u64) -> Result<(), Broken> {
        let unexpected = |detail| Err(Broken::new(Code::FRAME_UNEXPECTED, detail));
        match kind {
            frames::SETTINGS if self.settled => unexpected("a second SETTINGS"),
            frames::SETTINGS => Ok(()),
            _ if !self.settled => {
                Err(Broken::new(Code::MISSING_SETTINGS, "the control stream does not begin with SETTINGS"))
            }
            frames::DATA | frames::HEADERS | frames::PUSH_PROMISE => {
                unexpected("a frame that belongs on a request stream")
            }
            frames::MAX_PUSH_ID if self.side == Side::Client => unexpected("MAX_PUSH_ID from a server"),
            _ if frames::is_reserved(kind) => unexpected("a frame of HTTP/2"),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, kind: u64, length: u64) -> Result<State, Broken> {
        match kind {
            frames::SETTINGS => match usize::try_from(length) {
                Ok(missing) if missing <= MAX_FRAME => Ok(State::Payload { kind, missing, taken: BytesMut::new() }),
                _ => Err(Broken::new(Code::EXCESSIVE_LOAD, "SETTINGS is too long")),
            },
            frames::CANCEL_PUSH | frames::GOAWAY | frames::MAX_PUSH_ID => {
                self.count(length)?;
                match usize::try_from(length) {
                    // One integer.
                    Ok(missing @ 1..=8) => Ok(State::Payload { kind, missing, taken: BytesMut::new() }),
                    _ => Err(WRONG_LENGTH),
                }
            }
            _ => {
                self.count(length)?;
                Ok(State::Skip { missing: length })
            }
        }
    }

    fn count(&mut self, length: u64) -> Result<(), Broken> {
        self.idle_frames += 1;
        self.idle_bytes = self.idle_bytes.saturating_add(length);
        if self.idle_frames > self.allowed || self.idle_bytes > IDLE_BYTES {
            return Err(Broken::new(Code::EXCESSIVE_LOAD, "too many frames on the control stream"));
        }
        Ok(())
    }

    fn understand(&mut self, kind: u64, mut payload: Bytes) -> Result<Option<Event>, Broken> {
        if kind == frames::SETTINGS {
            self.settled = true;
            return settings(payload).map(|settings| Some(Event::Settings(settings)));
        }
        let id = varint::take(&mut payload).filter(|_| payload.is_empty()).ok_or(WRONG_LENGTH)?;
        let wrong = |detail| Err(Broken::new(Code::ID_ERROR, detail));
        match kind {
            frames::GOAWAY => {
                // To a client it names a request (RFC 9114 section 5.2), to a server a push.
                if self.side == Side::Client && id % 4 != 0 {
                    return wrong("GOAWAY names no request");
                }
                if self.going.is_some_and(|before| id > before) {
                    return wrong("GOAWAY takes back an earlier one");
                }
                self.going = Some(id);
                Ok(Some(Event::GoAway(id)))
            }
            frames::MAX_PUSH_ID => {
                if self.max_push_id.is_some_and(|before| id < before) {
                    return wrong("MAX_PUSH_ID takes back an earlier one");
                }
                self.max_push_id = Some(id);
                Ok(None)
            }
            // Nothing was ever promised, and nothing was ever allowed to be.
            _ => wrong("CANCEL_PUSH of what was not promised"),
        }
    }
}

fn settings(mut payload: Bytes) -> Result<Settings, Broken> {
    let mut settings = Settings::default();
    let mut seen = SmallVec::<[u64; 8]>::new();
    while !payload.is_empty() {
        let (Some(id), Some(value)) = (varint::take(&mut payload), varint::take(&mut payload)) else {
            return Err(Broken::new(Code::FRAME_ERROR, "SETTINGS ends in the middle of a setting"));
        };
        match id {
            0x0 | 0x2..=0x5 => return Err(Broken::new(Code::SETTINGS_ERROR, "a setting of HTTP/2")),
            QPACK_MAX_TABLE_CAPACITY | QPACK_BLOCKED_STREAMS => {}
            MAX_FIELD_SECTION_SIZE => settings.max_field_section_size = Some(value),
            ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return Err(Broken::new(Code::SETTINGS_ERROR, "SETTINGS_ENABLE_CONNECT_PROTOCOL is neither 0 nor 1"));
            }
            ENABLE_CONNECT_PROTOCOL => settings.enable_connect_protocol = value == 1,
            // Unknown ones mean nothing; those that are repeated neither, and remembering all of them is work for nothing.
            _ => continue,
        }
        if seen.contains(&id) {
            return Err(Broken::new(Code::SETTINGS_ERROR, "a setting that is there twice"));
        }
        seen.push(id);
    }
    Ok(settings)
}

/// The beginning of a control stream of ours: its type, and SETTINGS. Without a dynamic table (RFC 9204 section 3.2.3) both
/// settings of QPACK have their default, 0.
pub(super) fn opening(side: Side, max_field_section_size: usize) -> Bytes {
    let mut payload = BytesMut::new();
    varint::put(&mut payload, MAX_FIELD_SECTION_SIZE);
    varint::put(&mut payload, max_field_section_size as u64);
    for setting in [QPACK_MAX_TABLE_CAPACITY, QPACK_BLOCKED_STREAMS] {
        varint::put(&mut payload, setting);
        varint::put(&mut payload, 0);
    }
    if side == Side::Server {
        varint::put(&mut payload, ENABLE_CONNECT_PROTOCOL);
        varint::put(&mut payload, 1);
    }
    let mut stream = BytesMut::new();
    varint::put(&mut stream, STREAM);
    varint::put(&mut stream, frames::SETTINGS);
    varint::put(&mut stream, payload.len() as u64);
    stream.extend_from_slice(&payload);
    stream.freeze()
}

/// A GOAWAY frame.
pub(super) fn goaway(id: u64) -> Bytes {
    let mut payload = BytesMut::new();
    varint::put(&mut payload, id);
    let mut frame = BytesMut::new();
    varint::put(&mut frame, frames::GOAWAY);
    varint::put(&mut frame, payload.len() as u64);
    frame.extend_from_slice(&payload);
    frame.freeze()
}

const WRONG_LENGTH: Broken = Broken::new(Code::FRAME_ERROR, "a frame that is not as long as its content");

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        varint::put(&mut bytes, kind);
        varint::put(&mut bytes, payload.len() as u64);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn settings_of(pairs: &[(u64, u64)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (id, value) in pairs {
            varint::put(&mut payload, *id);
            varint::put(&mut payload, *value);
        }
        frame(frames::SETTINGS, &payload)
    }

    fn id(kind: u64, value: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        varint::put(&mut payload, value);
        frame(kind, &payload)
    }

    fn read(side: Side, frames: &[Vec<u8>]) -> Result<Vec<Event>, Code> {
        let bytes = frames.concat();
        let mut whole = Control::new(side);
        let mut input = Bytes::from(bytes.clone());
        let mut events = Vec::new();
        let result = loop {
            match whole.next(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break Ok(events),
                Err(broken) => break Err(broken.code),
            }
        };
        // Byte by byte is no different.
        let mut piecewise = Control::new(side);
        let mut again = Vec::new();
        for byte in bytes {
            match piecewise.next(&mut Bytes::copy_from_slice(&[byte])) {
                Ok(event) => again.extend(event),
                Err(broken) => {
                    assert_eq!(result, Err(broken.code));
                    return result;
                }
            }
        }
        assert_eq!(result.as_ref(), Ok(&again));
        result
    }

    fn none() -> Vec<u8> {
        settings_of(&[])
    }

    #[test]
    fn settings_come_first_and_once() {
        let said = [(0x6, 1000), (0x1, 4096), (0x7, 100), (0x8, 1), (0x21, 5), (0x21, 6)];
        let settings = Settings { max_field_section_size: Some(1000), enable_connect_protocol: true };
        assert_eq!(read(Side::Client, &[settings_of(&said)]), Ok(vec![Event::Settings(settings)]));
        for kind in [frames::GOAWAY, frames::DATA, frames::MAX_PUSH_ID, 0x21] {
            assert_eq!(read(Side::Server, &[id(kind, 0)]), Err(Code::MISSING_SETTINGS), "{kind:#x}");
        }
        assert_eq!(read(Side::Server, &[none(), none()]), Err(Code::FRAME_UNEXPECTED));
    }

    #[test]
    fn settings_that_cannot_be() {
        for (name, pairs) in [
            ("of HTTP/2", &[(0x2, 0)][..]),
            ("of HTTP/2", &[(0x3, 100)]),
            ("of HTTP/2", &[(0x4, 65_535)]),
            ("of HTTP/2", &[(0x5, 16_384)]),
            ("twice", &[(0x6, 1), (0x6, 1)]),
            ("no boolean", &[(0x8, 2)]),
        ] {
            assert_eq!(read(Side::Server, &[settings_of(pairs)]), Err(Code::SETTINGS_ERROR), "{name}");
        }
        assert_eq!(read(Side::Server, &[frame(frames::SETTINGS, &[0x6])]), Err(Code::FRAME_ERROR));
        assert_eq!(read(Side::Server, &[frame(frames::SETTINGS, &[0x6, 0x40])]), Err(Code::FRAME_ERROR));
        let long = frame(frames::SETTINGS, &[0x21; MAX_FRAME + 1]);
        assert_eq!(read(Side::Server, &[long]), Err(Code::EXCESSIVE_LOAD));
    }

    #[test]
    fn frames_of_requests_and_of_http2_are_unexpected() {
        for kind in [frames::DATA, frames::HEADERS, frames::PUSH_PROMISE, 0x2, 0x6, 0x8, 0x9] {
            assert_eq!(read(Side::Server, &[none(), id(kind, 0)]), Err(Code::FRAME_UNEXPECTED), "{kind:#x}");
        }
        assert_eq!(read(Side::Client, &[none(), id(frames::MAX_PUSH_ID, 0)]), Err(Code::FRAME_UNEXPECTED));
    }

    #[test]
    fn goaway_only_ever_takes_less() {
        let going = |ids: &[u64]| {
            let mut all = vec![none()];
            all.extend(ids.iter().map(|value| id(frames::GOAWAY, *value)));
            all
        };
        let events = read(Side::Client, &going(&[varint::MAX - 3, 8, 8, 0])).expect("good");
        let last = [varint::MAX - 3, 8, 8, 0].map(Event::GoAway);
        assert_eq!(events[1..], last);
        assert_eq!(read(Side::Client, &going(&[8, 12])), Err(Code::ID_ERROR));
        for not_a_request in [1, 2, 3, 9] {
            assert_eq!(read(Side::Client, &going(&[not_a_request])), Err(Code::ID_ERROR));
        }
        // To a server it names a push.
        assert!(read(Side::Server, &going(&[3, 1])).is_ok());
        assert_eq!(read(Side::Server, &going(&[1, 2])), Err(Code::ID_ERROR));
    }

    #[test]
    fn pushes_are_not_promised() {
        assert!(read(Side::Server, &[none(), id(frames::MAX_PUSH_ID, 3), id(frames::MAX_PUSH_ID, 9)]).is_ok());
        let less = [none(), id(frames::MAX_PUSH_ID, 9), id(frames::MAX_PUSH_ID, 3)];
        assert_eq!(read(Side::Server, &less), Err(Code::ID_ERROR));
        for side in [Side::Server, Side::Client] {
            assert_eq!(read(side, &[none(), id(frames::CANCEL_PUSH, 0)]), Err(Code::ID_ERROR));
        }
    }

    #[test]
    fn an_identifier_fills_its_frame() {
        for payload in [&[][..], &[0, 0], &[0x40], &[0; 9]] {
            assert_eq!(read(Side::Server, &[none(), frame(frames::GOAWAY, payload)]), Err(Code::FRAME_ERROR));
        }
    }

    #[test]
    fn unknown_frames_are_skipped_within_limits() {
        let grease = frame(0x21, b"whatever");
        assert_eq!(read(Side::Server, &[none(), grease, id(frames::GOAWAY, 0)]).map(|events| events.len()), Ok(2));
        let mut endless = none();
        varint::put(&mut endless, 0x21);
        varint::put(&mut endless, IDLE_BYTES + 1);
        assert_eq!(read(Side::Server, &[endless]), Err(Code::EXCESSIVE_LOAD));
    }

    #[test]
    fn frames_without_a_meaning_are_borne_with_requests() {
        const PRIORITY_UPDATE: u64 = 0xf0700;
        let mut control = Control::new(Side::Server);
        assert!(control.next(&mut none().into()).is_ok());
        for _ in 0..IDLE_FRAMES {
            assert_eq!(control.next(&mut id(PRIORITY_UPDATE, 0).into()), Ok(None));
        }
        control.note_requests(3);
        for _ in 0..3 * FRAMES_OF_A_REQUEST {
            assert_eq!(control.next(&mut id(PRIORITY_UPDATE, 0).into()), Ok(None));
        }
        let more = control.next(&mut id(PRIORITY_UPDATE, 0).into());
        assert_eq!(more.map_err(|broken| broken.code), Err(Code::EXCESSIVE_LOAD));
    }

    #[test]
    fn what_we_open_with_is_what_we_accept() {
        for (side, reader) in [(Side::Server, Side::Client), (Side::Client, Side::Server)] {
            let mut bytes = opening(side, 65_536);
            assert_eq!(varint::take(&mut bytes), Some(STREAM));
            let mut control = Control::new(reader);
            let settings =
                Settings { max_field_section_size: Some(65_536), enable_connect_protocol: side == Side::Server };
            assert_eq!(control.next(&mut bytes), Ok(Some(Event::Settings(settings))));
        }
        let mut control = Control::new(Side::Client);
        let mut bytes = Bytes::from([&none()[..], &goaway(12)].concat());
        assert!(matches!(control.next(&mut bytes), Ok(Some(Event::Settings(_)))));
        assert_eq!(control.next(&mut bytes), Ok(Some(Event::GoAway(12))));
    }
}
