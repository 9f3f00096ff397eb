//! Plays a script on a connection and judges what the server does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::Target;
use crate::frame::{self, Frame, code_name, flag, kind};
use crate::script::{Expect, Opening, Requests, Script, Step};
use crate::seen::{Seen, fits};

/// Why a case did not pass.
pub(crate) enum Failure {
    /// The rule was broken.
    Broken(String),
    /// There is nothing to check on this server.
    NotApplicable(String),
}

/// The payload of the PING that proves a connection alive.
const PROOF: [u8; 8] = *b"alive?\r\n";
/// The payload of the PING that closes an observation.
const FENCE: [u8; 8] = *b"fence?\r\n";

pub(crate) async fn play(script: &Script, target: &Target) -> Result<(), Failure> {
    let mut client = Client::connect(target).await?;
    if let Opening::Settings(settings) = &script.opening {
        client.open(settings).await?;
    }
    for step in &script.steps {
        client.take(step).await?;
    }
    client.judge(&script.expect, target).await
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    seen: Seen,
    /// Settings and PINGs of the server are acknowledged.
    polite: bool,
    patience: std::time::Duration,
}

impl Client {
    async fn connect(target: &Target) -> Result<Self, Failure> {
        let deadline = Instant::now() + target.patience;
        let stream = match timeout_at(deadline, TcpStream::connect(target.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(Failure::Broken(format!("connect to {}: {error}", target.address)));
            }
            Err(_) => {
                return Err(Failure::Broken(format!("connect to {}: timed out", target.address)));
            }
        };
        // Without this, small frames could be held back; a failure costs only time.
        let _unimportant = stream.set_nodelay(true);
        Ok(Self { stream, buffer: Vec::new(), seen: Seen::default(), polite: false, patience: target.patience })
    }

    /// The opening of every ordinary case (section 3.4).
    async fn open(&mut self, settings: &[(u16, u32)]) -> Result<(), Failure> {
        self.polite = true;
        self.write(&[frame::PREFACE, &frame::settings(settings)].concat()).await;
        self.until("the server's SETTINGS and its acknowledgement of ours", |seen| {
            (seen.settings.is_some() && seen.settings_acks > 0).then_some(Ok(()))
        })
        .await
    }

    /// A server that already gave up may have closed: that shows when reading.
    async fn write(&mut self, bytes: &[u8]) {
        let deadline = Instant::now() + self.patience;
        let _shows_when_reading = timeout_at(deadline, self.stream.write_all(bytes)).await;
    }

    async fn take(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Send(bytes) => self.write(bytes).await,
            Step::SendWith(compose) => {
                let settings = self.seen.settings.unwrap_or_default();
                let bytes = compose(&settings).map_err(Failure::NotApplicable)?;
                self.write(&bytes).await;
            }
            &Step::AwaitEnd(stream) => {
                self.until(&format!("the end of stream {stream}"), |seen| seen.ended(stream)).await?;
            }
            &Step::AwaitHead(stream) => {
                self.until(&format!("a response head on stream {stream}"), |seen| {
                    seen.broken(stream).or_else(|| seen.stream(stream)?.status.map(|_| Ok(())))
                })
                .await?;
            }
            &Step::AwaitExactly(stream, bytes) => self.exactly(stream, bytes).await?,
            &Step::AwaitSettingsAcks(acks) => {
                self.until(&format!("{acks} acknowledgements of SETTINGS"), |seen| {
                    seen.broken(0).or_else(|| (seen.settings_acks >= acks).then_some(Ok(())))
                })
                .await?;
            }
        }
        Ok(())
    }

    /// `bytes` bytes of DATA have come on the stream, and a PING later there still are no more.
    async fn exactly(&mut self, stream: u32, bytes: usize) -> Result<(), Failure> {
        let what = format!("exactly {bytes} bytes of DATA on stream {stream}");
        self.until(&what, |seen| {
            seen.broken(stream).or_else(|| match seen.stream(stream)?.body {
                body if body > bytes => Some(Err(format!("{body} bytes came"))),
                body => (body == bytes).then_some(Ok(())),
            })
        })
        .await?;
        let fences = self.seen.pongs.iter().filter(|pong| **pong == FENCE).count();
        self.write(&frame::ping(flag::NONE, FENCE)).await;
        self.until(&format!("{what}, and an answer to a PING"), |seen| {
            if let Some(body) = seen.stream(stream).map(|seen| seen.body).filter(|&body| body > bytes) {
                return Some(Err(format!("{body} bytes came")));
            }
            let answered = seen.pongs.iter().filter(|pong| **pong == FENCE).count() > fences;
            seen.broken(stream).or_else(|| answered.then_some(Ok(())))
        })
        .await
    }

    async fn judge(&mut self, expect: &Expect, target: &Target) -> Result<(), Failure> {
        match *expect {
            Expect::Nothing => Ok(()),
            Expect::Preface => {
                self.until("SETTINGS as the server's first frame", |seen| match seen.first_frame? {
                    kind::SETTINGS => Some(Ok(())),
                    other => Some(Err(format!("its first frame has type {other}"))),
                })
                .await
            }
            Expect::ConnectionError(codes) => {
                let what = format!("GOAWAY with {}, or the end of the connection", names(codes));
                self.until(&what, |seen| seen.connection_error(codes)).await
            }
            Expect::StreamError(stream, codes) => {
                let what = format!("RST_STREAM on stream {stream} or GOAWAY with {}", names(codes));
                self.until(&what, |seen| {
                    let reset = seen.stream(stream).and_then(|seen| seen.reset).filter(|&code| fits(code, codes));
                    reset.map(|_| Ok(())).or_else(|| seen.connection_error(codes))
                })
                .await
            }
            Expect::AnyStreamError(codes) => {
                self.until(&format!("RST_STREAM or GOAWAY with {}", names(codes)), |seen| {
                    let mut resets = seen.streams.values().filter_map(|seen| seen.reset);
                    resets.any(|code| fits(code, codes)).then_some(Ok(())).or_else(|| seen.connection_error(codes))
                })
                .await
            }
            Expect::Refused(stream) => {
                let what = format!("an error or an answer of 4xx on stream {stream}");
                self.until(&what, |seen| seen.refused(stream)).await
            }
            Expect::GoawayAndEnd(last) => {
                self.until(&format!("GOAWAY with last stream {last}, then the end of the connection"), |seen| {
                    match (seen.goaway, seen.closed) {
                        (Some((got, _)), _) if got != last => Some(Err(format!("GOAWAY says last stream {got}"))),
                        (None, true) => Some(Err("the connection ended without GOAWAY".to_owned())),
                        (_, closed) => closed.then_some(Ok(())),
                    }
                })
                .await
            }
            Expect::End => self.until("the end of the connection", |seen| seen.closed.then_some(Ok(()))).await,
            Expect::Answer(stream) => self.answered(stream).await,
            Expect::AnswerOf(stream, bytes) => {
                self.answered(stream).await?;
                match self.seen.stream(stream).map_or(0, |seen| seen.body) {
                    body if body == bytes => Ok(()),
                    body => Err(Failure::Broken(format!("expected a body of {bytes} bytes; {body} came"))),
                }
            }
            Expect::Pong(payload) => self.ponged(payload).await,
            Expect::Alive(next) => self.alive(next, target).await,
            Expect::AliveWithoutReset(next, quiet) => {
                self.alive(next, target).await?;
                match self.seen.stream(quiet).and_then(|seen| seen.reset) {
                    None => Ok(()),
                    Some(code) => Err(Failure::Broken(format!("stream {quiet} was reset with {}", code_name(code)))),
                }
            }
        }
    }

    async fn answered(&mut self, stream: u32) -> Result<(), Failure> {
        self.until(&format!("an answer of 200 on stream {stream}"), |seen| {
            seen.ended(stream).map(|ended| match (ended, seen.stream(stream).and_then(|seen| seen.status)) {
                (Ok(()), Some(200)) => Ok(()),
                (Ok(()), status) => {
                    Err(format!("its status is {}", status.map_or("unreadable".to_owned(), |it| it.to_string())))
                }
                (broken, _) => broken,
            })
        })
        .await
    }

    /// The first PING is acknowledged with this payload.
    async fn ponged(&mut self, payload: [u8; 8]) -> Result<(), Failure> {
        self.until("an acknowledged PING", |seen| {
            seen.broken(0).or_else(|| match *seen.pongs.first()? {
                first if first == payload => Some(Ok(())),
                other => Some(Err(format!("a PING was acknowledged with {}", other.escape_ascii()))),
            })
        })
        .await
    }

    async fn alive(&mut self, next: u32, target: &Target) -> Result<(), Failure> {
        self.write(&frame::ping(flag::NONE, PROOF)).await;
        self.ponged(PROOF).await?;
        let requests = Requests { authority: target.authority.clone(), path: target.path.clone() };
        self.write(&requests.get(next)).await;
        self.answered(next).await
    }

    /// Reads until `decided` says how it went, or patience ends.
    async fn until(
        &mut self,
        what: &str,
        decided: impl Fn(&Seen) -> Option<Result<(), String>>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(decision) = decided(&self.seen) {
                return decision
                    .map_err(|why| Failure::Broken(format!("expected {what}: {why}; {}", self.seen.summary())));
            }
            if self.seen.closed {
                return Err(Failure::Broken(format!("expected {what}; {}", self.seen.summary())));
            }
            match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(0) | Err(_)) => self.seen.closed = true,
                Ok(Ok(_)) => self.digest().await,
                Err(_) => {
                    let waited = self.patience;
                    return Err(Failure::Broken(format!("expected {what} within {waited:?}; {}", self.seen.summary())));
                }
            }
        }
    }

    async fn digest(&mut self) {
        while !self.seen.gibberish {
            match Frame::take(&mut self.buffer) {
                Ok(Some(frame)) => {
                    let reply = self.seen.note(&frame);
                    if self.polite {
                        self.write(&reply).await;
                    }
                }
                Ok(None) => return,
                Err(frame::NotAFrame) => self.seen.gibberish = true,
            }
        }
        self.buffer.clear();
    }
}

fn names(codes: &[u32]) -> String {
    codes.iter().map(|&code| code_name(code)).collect::<Vec<_>>().join(" or ")
}
