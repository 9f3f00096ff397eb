//! HTTP/3 (RFC 9114), both sides, over `quinn`.

mod code;

pub use code::Code;
