//! Layer 3: bytes to messages and back. HTTP/1 is ours over `httparse`; HTTP/2 is the `h2` crate; HTTP/3 is ours over
//! `quinn`.
//!
//! All servers call the same [`Handler`], all clients give the same [`Body`] back. Nothing here knows
//! routes, clusters or policies.

pub mod body;
pub mod error;
pub mod h1;
pub mod h2;
pub mod h3;
mod haste;
pub mod headers;
mod heads;
pub mod lasting;
pub mod message;
pub mod prefixed;
pub mod replay;
pub mod tee;
pub mod tunnel;
mod waiting;
pub mod websocket;

pub use body::{Body, BodyError, Frame, PollBody};
pub use error::{REFUSED_BY_PEER, Refusal, ResetCode, SendError, SendErrorKind, Sent, certificate_alert};
pub use message::{Handler, Interim, Request, RequestHead, Response, ResponseHead, ServerOptions, Upgrade};
pub use prefixed::{Peeked, PrefixedBody};
pub use replay::Replay;
pub use tunnel::WayUp;
