//! Every limit of the API, in one place.

use std::time::Duration;

/// Bytes of a body with manifests.
pub const MAX_MANIFEST_BODY: usize = 32 * 1024 * 1024;
/// Bytes of any other body.
pub const MAX_BODY: usize = 64 * 1024;
/// Bytes of a request head.
pub const MAX_HEAD: usize = 16 * 1024;
/// Header fields of a request.
pub const MAX_HEADERS: usize = 64;
/// Requests that are worked on at once; more are refused with `busy`.
pub const MAX_REQUESTS: usize = 64;
/// Requests that may wait for proxies at once, outside [`MAX_REQUESTS`].
pub const MAX_WAITING: usize = 256;
/// From the first byte of a request head to its end.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the head of a request to its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest that one may wait for proxies.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
/// Open connections get this long to finish when the server stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a message of a change.
pub const MAX_MESSAGE: usize = 1_024;
/// Bytes of the name of a token.
pub const MAX_TOKEN_NAME: usize = 64;
/// Namespaces of a pusher.
pub const MAX_TOKEN_NAMESPACES: usize = 100;
/// How long a token is good when nobody says: 90 days.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// How long a token may be good: a year.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// How long a join token is good when nobody says.
pub const JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);
/// Problems in one answer.
pub const MAX_PROBLEMS: usize = 1_000;
/// Bytes of a diff of one object.
pub const MAX_DIFF: usize = 64 * 1024;
