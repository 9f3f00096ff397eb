//! The endpoints: how long they take and what an attempt on them comes to.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::super::one::Try;
use crate::codec::{Body, Response, ResponseHead, SendError, SendErrorKind, Sent};
use crate::policy::rng::Rng;
use crate::proxy::local::Caller;
use crate::telemetry::metrics::CheckResult;
use crate::upstream::LeaseError;

/// All endpoints there could be, by address.
#[derive(Debug, Default)]
pub(super) struct Fleet(BTreeMap<SocketAddr, Behaviour>);

#[derive(Debug, Clone, Copy)]
struct Behaviour {
    mode: Mode,
    /// Of the time to an answer.
    mean: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Good,
    /// So many percent of the answers are errors.
    Erring(u64),
    /// Every answer is that it cannot serve now.
    Unavailable,
    /// So many percent of the attempts break off.
    Breaking(u64),
    /// Nobody listens.
    Down,
    /// One answer in ten takes many times as long.
    Uneven,
    /// Accepts and never answers.
    Hanging,
}

/// What an attempt comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Status(u16),
    Grpc(u8),
    ConnectFailure,
    ConnectTimeout,
    Refused,
    /// A kept connection was found dead before a byte was written.
    Unwritten,
    /// It broke off; on a kept connection or on a new one.
    Closed {
        reused: bool,
    },
    BadResponse,
    /// A time limit of ours ran out.
    TimedOut,
}

impl Fleet {
    /// How long an attempt takes, and what it comes to.
    pub(super) fn answer(&self, address: SocketAddr, caller: Caller, rng: &mut Rng) -> (Duration, Ending) {
        let Behaviour { mode, mean } = self.0.get(&address).copied().unwrap_or(USUAL);
        let time = exponential(mean, rng);
        let good = match caller {
            Caller::Http => Ending::Status(200),
            Caller::Grpc => Ending::Grpc(0),
        };
        match mode {
            Mode::Good => (time, good),
            Mode::Erring(percent) if rng.below(100) < percent => (time / 10, error(caller, rng)),
            Mode::Breaking(percent) if rng.below(100) < percent => (time, breakage(rng)),
            Mode::Unavailable => (time / 10, unavailable(caller)),
            Mode::Uneven if rng.below(10) == 0 => (time * 40, good),
            Mode::Erring(_) | Mode::Breaking(_) | Mode::Uneven => (time, good),
            Mode::Down if rng.below(5) == 0 => (Duration::from_secs(1), Ending::ConnectTimeout),
            Mode::Down => (Duration::from_micros(rng.below(900)), Ending::ConnectFailure),
            Mode::Hanging => (Duration::from_secs(3600), Ending::Closed { reused: false }),
        }
    }

    /// How a check of it goes.
    pub(super) fn check(&self, address: SocketAddr, rng: &mut Rng) -> CheckResult {
        match self.0.get(&address).copied().unwrap_or(USUAL).mode {
            Mode::Down => CheckResult::Unreachable,
            Mode::Hanging => CheckResult::Timeout,
            Mode::Erring(percent) if rng.below(100) < percent / 2 => CheckResult::Failure,
            Mode::Good | Mode::Uneven | Mode::Unavailable | Mode::Erring(_) | Mode::Breaking(_) => CheckResult::Success,
        }
    }

    /// One of them changes.
    pub(super) fn change(&mut self, address: SocketAddr, rng: &mut Rng) {
        let mode = match rng.below(14) {
            0..4 => Mode::Good,
            4..6 => Mode::Erring(20 + rng.below(81)),
            6..8 => Mode::Breaking(20 + rng.below(81)),
            8 => Mode::Down,
            9 | 10 => Mode::Uneven,
            11 | 12 => Mode::Unavailable,
            _ => Mode::Hanging,
        };
        let mean = Duration::from_millis([2, 10, 50, 400][rng.below(4) as usize]);
        self.0.insert(address, Behaviour { mode, mean });
    }
}

const USUAL: Behaviour = Behaviour { mode: Mode::Good, mean: Duration::from_millis(20) };

fn error(caller: Caller, rng: &mut Rng) -> Ending {
    match caller {
        Caller::Http => Ending::Status([500, 502, 503, 504, 429, 404][rng.below(6) as usize]),
        Caller::Grpc => Ending::Grpc([14, 8, 13, 4, 5][rng.below(5) as usize]),
    }
}

fn unavailable(caller: Caller) -> Ending {
    match caller {
        Caller::Http => Ending::Status(503),
        Caller::Grpc => Ending::Grpc(14),
    }
}

fn breakage(rng: &mut Rng) -> Ending {
    match rng.below(6) {
        0 => Ending::Refused,
        1 => Ending::Unwritten,
        2 | 3 => Ending::Closed { reused: rng.below(2) == 0 },
        4 => Ending::BadResponse,
        _ => Ending::ConnectFailure,
    }
}

/// A time whose logarithm is evenly spread downwards from the mean: most are short, some are long.
pub(super) fn exponential(mean: Duration, rng: &mut Rng) -> Duration {
    let unit = (rng.below(1 << 52) + 1) as f64 / (1_u64 << 52) as f64;
    mean.mul_f64(-unit.ln())
}

impl Ending {
    /// As the attempt loop sees it.
    pub(super) fn into_try(self) -> Try {
        let io = || io::Error::from(io::ErrorKind::ConnectionReset);
        let send = |sent, reused, kind| Try::Send(SendError { sent, reused, kind });
        match self {
            Self::Status(status) => answered(StatusCode::from_u16(status).expect("a status"), HeaderMap::new()),
            Self::Grpc(code) => {
                let field = (HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(code)));
                answered(StatusCode::OK, [field].into_iter().collect())
            }
            Self::ConnectFailure => Try::Lease(LeaseError::Connect(SendErrorKind::Connect(io()))),
            Self::ConnectTimeout => Try::Lease(LeaseError::Connect(SendErrorKind::ConnectTimeout)),
            Self::Refused => send(Sent::Never, true, SendErrorKind::Refused),
            Self::Unwritten => send(Sent::Never, true, SendErrorKind::Closed),
            Self::Closed { reused } => send(Sent::Maybe, reused, SendErrorKind::Io(io())),
            Self::BadResponse => send(Sent::Maybe, false, SendErrorKind::BadResponse("no response")),
            Self::TimedOut => Try::TimedOut,
        }
    }

    pub(super) fn is_answer(self) -> bool {
        matches!(self, Self::Status(_) | Self::Grpc(_))
    }

    /// An answer that says that the server failed.
    pub(super) fn is_error(self) -> bool {
        matches!(self, Self::Status(500..))
    }

    /// Whether an application may have acted on the request.
    pub(super) fn may_be_executed(self) -> bool {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout | Self::Refused | Self::Unwritten => false,
            Self::Status(_) | Self::Grpc(_) | Self::Closed { .. } | Self::BadResponse | Self::TimedOut => true,
        }
    }

    /// What it says about the endpoint: a success, a failure, or nothing.
    pub(super) fn evidence(self) -> Option<Evidence> {
        match self {
            Self::Status(429 | 500..) | Self::Grpc(8 | 13 | 14 | 15) => Some(Evidence::Failure),
            Self::Status(_) | Self::Grpc(_) => Some(Evidence::Success),
            Self::ConnectFailure | Self::ConnectTimeout | Self::BadResponse | Self::Closed { reused: false } => {
                Some(Evidence::Failure)
            }
            Self::Refused | Self::Unwritten | Self::Closed { reused: true } | Self::TimedOut => None,
        }
    }
}

/// What an attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    Success,
    Failure,
}

fn answered(status: StatusCode, headers: HeaderMap) -> Try {
    Try::Answered(Response { head: ResponseHead { status, headers }, body: Body::Empty })
}
