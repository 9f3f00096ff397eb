//! Every limit of the server, in one place.

use std::time::Duration;

/// How long changes are gathered before they are sent, unless they are of endpoints alone.
pub const COALESCE: Duration = Duration::from_millis(100);

/// How long listeners and routes wait for the answer to the clusters that they may need.
pub const ORDER_WAIT: Duration = Duration::from_secs(5);

/// How long listeners and routes wait for the endpoints of new clusters to be asked for and taken.
pub const ENDPOINTS_WAIT: Duration = Duration::from_secs(1);

/// How long a stream may take nothing of what is ready for it before it is closed.
pub const STALL: Duration = Duration::from_secs(30);

/// How long a response may stay unanswered before the stream is closed.
pub const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// How long a stream lasts. A tenth more or less is left to chance, so that not all proxies return at once.
pub const STREAM_AGE: Duration = Duration::from_secs(60 * 60);

/// How long a new stream may stay without a request.
pub const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// Largest request.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Largest response. Proxies take what they are configured to take; this is a backstop.
pub const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// Most names that one stream subscribes to, over all kinds.
pub const MAX_NAMES: usize = 32_768;

/// Longest name of a resource.
pub const MAX_NAME_BYTES: usize = 1024;

/// Longest text that is kept of what a proxy says: names, reasons.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Most refusals that are kept of one answer.
pub const MAX_REFUSALS: usize = 64;

/// Most removals that are held back until nothing refers to what is removed. Beyond it they are sent.
pub const MAX_HELD_REMOVALS: usize = 1024;

/// Responses that are ready for a stream and not taken by the transport. All others are made when there is room.
pub const OUTGOING: usize = 1;

/// Most streams.
pub const MAX_STREAMS: usize = 16_384;

/// Most streams of one workload: a proxy needs one, a gRPC client one for each target.
pub const MAX_STREAMS_PER_WORKLOAD: usize = 64;

/// Most streams of one connection.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 64;

/// Most streams that are remembered after they have ended.
pub const MAX_REMEMBERED: usize = 4096;

/// How long a stream is remembered after it has ended.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a quiet connection is asked whether it is still there.
pub const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long it has to answer.
pub const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// How much a client may send on one stream before it is read.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// How much a client may send on one connection before it is read.
pub const CONNECTION_WINDOW: u32 = 1 << 20;
