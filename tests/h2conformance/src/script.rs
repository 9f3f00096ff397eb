//! A case as data: what the client does, step by step, and what must come of it.

use crate::frame::{self, flag};
use crate::hpack;

/// The settings that a server announced, as far as the cases depend on them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerSettings {
    pub(crate) max_concurrent_streams: Option<u32>,
    pub(crate) initial_window_size: u32,
    pub(crate) max_frame_size: u32,
}

impl Default for ServerSettings {
    /// What holds before a server says otherwise (RFC 9113 section 6.5.2).
    fn default() -> Self {
        Self { max_concurrent_streams: None, initial_window_size: 65_535, max_frame_size: 16_384 }
    }
}

/// Bytes that depend on the server's settings, or the reason why there is nothing to check.
pub(crate) type Compose = Box<dyn Fn(&ServerSettings) -> Result<Vec<u8>, String> + Send + Sync>;

/// What the client does.
pub(crate) enum Step {
    /// Writes these bytes.
    Send(Vec<u8>),
    /// Writes bytes that depend on the server.
    SendWith(Compose),
    /// Waits until the server ended the stream.
    AwaitEnd(u32),
    /// Waits for the head of a final response.
    AwaitHead(u32),
    /// Waits until this many bytes of DATA came on the stream in all, and makes sure that no more come.
    AwaitExactly(u32, usize),
    /// Waits for acknowledgements of this many SETTINGS in all, the one of the opening included.
    AwaitSettingsAcks(usize),
}

/// What must come of it.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    /// GOAWAY with one of these codes, or the end of the connection.
    ConnectionError(&'static [u32]),
    /// RST_STREAM or GOAWAY with one of these codes, or the end of the connection (section 5.4: either may be chosen).
    StreamError(u32, &'static [u32]),
    /// As a stream error, on whichever stream.
    AnyStreamError(&'static [u32]),
    /// As a stream error with any code, or an answer with status 4xx.
    Refused(u32),
    /// GOAWAY with this last stream, and then the end of the connection.
    GoawayAndEnd(u32),
    /// The end of the connection, whatever comes before.
    End,
    /// A final response with status 200, to its end, without any error.
    Answer(u32),
    /// The same with a body of exactly this many bytes.
    AnswerOf(u32, usize),
    /// A PING is acknowledged with this payload; no error before.
    Pong([u8; 8]),
    /// A PING is acknowledged with its own payload, and a request on this stream answered; no error before.
    Alive(u32),
    /// The same, and no RST_STREAM was sent on the second stream.
    AliveWithoutReset(u32, u32),
    /// The server's first frame is SETTINGS.
    Preface,
    /// Every step went as said, without an error.
    Nothing,
}

/// How the connection begins.
#[derive(Debug, Clone)]
pub(crate) enum Opening {
    /// Not at all: the steps write everything.
    Bare,
    /// Preface and these settings; the server's settings are awaited and acknowledged, ours must be.
    Settings(Vec<(u16, u32)>),
}

/// A whole case.
pub(crate) struct Script {
    pub(crate) opening: Opening,
    pub(crate) steps: Vec<Step>,
    pub(crate) expect: Expect,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Script of {} steps, expecting {:?}", self.steps.len(), self.expect)
    }
}

impl Script {
    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Writes bytes. Neighbouring writes go out together, so that a server cannot act between them.
    pub(crate) fn send(mut self, bytes: impl AsRef<[u8]>) -> Self {
        if let Some(Step::Send(last)) = self.steps.last_mut() {
            last.extend_from_slice(bytes.as_ref());
            return self;
        }
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    pub(crate) fn send_with(
        self,
        compose: impl Fn(&ServerSettings) -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        self.step(Step::SendWith(Box::new(compose)))
    }

    pub(crate) fn await_end(self, stream: u32) -> Self {
        self.step(Step::AwaitEnd(stream))
    }

    pub(crate) fn await_head(self, stream: u32) -> Self {
        self.step(Step::AwaitHead(stream))
    }

    pub(crate) fn await_exactly(self, stream: u32, bytes: usize) -> Self {
        self.step(Step::AwaitExactly(stream, bytes))
    }

    pub(crate) fn await_settings_acks(self, acks: usize) -> Self {
        self.step(Step::AwaitSettingsAcks(acks))
    }

    pub(crate) fn connection_error(self, codes: &'static [u32]) -> Self {
        self.expecting(Expect::ConnectionError(codes))
    }

    pub(crate) fn stream_error(self, stream: u32, codes: &'static [u32]) -> Self {
        self.expecting(Expect::StreamError(stream, codes))
    }

    pub(crate) fn refused(self, stream: u32) -> Self {
        self.expecting(Expect::Refused(stream))
    }

    pub(crate) fn answer(self, stream: u32) -> Self {
        self.expecting(Expect::Answer(stream))
    }

    pub(crate) fn alive(self, next_stream: u32) -> Self {
        self.expecting(Expect::Alive(next_stream))
    }

    pub(crate) fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }
}

/// A connection opened properly.
pub(crate) fn opened() -> Script {
    opened_with(&[])
}

/// The same with these settings of the client.
pub(crate) fn opened_with(settings: &[(u16, u32)]) -> Script {
    Script { opening: Opening::Settings(settings.to_vec()), steps: Vec::new(), expect: Expect::Nothing }
}

/// A connection on which nothing was written.
pub(crate) fn bare() -> Script {
    Script { opening: Opening::Bare, steps: Vec::new(), expect: Expect::Nothing }
}

/// Requests to the target.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    pub(crate) authority: String,
    pub(crate) path: String,
}

impl Requests {
    /// The block of a request with more fields after the usual ones.
    pub(crate) fn block(&self, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut fields =
            vec![(":method", method), (":scheme", "http"), (":authority", &self.authority), (":path", &self.path)];
        fields.extend_from_slice(more);
        hpack::block(&fields)
    }

    /// A whole GET.
    pub(crate) fn get(&self, stream: u32) -> Vec<u8> {
        frame::headers(stream, flag::END_STREAM, &self.block("GET", &[]))
    }

    /// A GET with more fields.
    pub(crate) fn get_with(&self, stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
        frame::headers(stream, flag::END_STREAM, &self.block("GET", more))
    }

    /// A GET whose block ends with these encoded fields.
    pub(crate) fn get_encoded(&self, stream: u32, more: &[u8]) -> Vec<u8> {
        frame::headers(stream, flag::END_STREAM, &[self.block("GET", &[]), more.to_vec()].concat())
    }

    /// A POST whose body is still to come.
    pub(crate) fn post(&self, stream: u32) -> Vec<u8> {
        self.post_with(stream, &[])
    }

    /// The same with more fields.
    pub(crate) fn post_with(&self, stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
        frame::headers(stream, flag::NONE, &self.block("POST", more))
    }
}
