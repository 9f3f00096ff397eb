//! Heads of messages, as HTTP/2 and HTTP/3 have them in common: what both ask of a request, of a response and of trailers
//! beyond their framing. A codec reads its own pseudo-header fields and hands over what it found.

pub(super) mod asked;
pub(super) mod fields;
pub(super) mod request;
pub(super) mod response;
