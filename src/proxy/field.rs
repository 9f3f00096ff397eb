//! Fields of messages as services outside name them (external authorizers, rate limit services), and which of them are none
//! of their business.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use prost::Message;

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Field {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) raw_value: Bytes,
}

/// It is no field of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoField;

impl Field {
    /// The field; `None` for pseudo-fields, which say where a request goes.
    ///
    /// # Errors
    /// [`NoField`].
    pub(super) fn read(self) -> Result<Option<(HeaderName, HeaderValue)>, NoField> {
        let Self { key, value, raw_value } = self;
        if key.starts_with(':') {
            return Ok(None);
        }
        let name = HeaderName::from_bytes(key.as_bytes()).map_err(|_| NoField)?;
        let value: Bytes = if value.is_empty() { raw_value } else { value.into() };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| NoField)?;
        Ok(Some((name, value)))
    }
}

/// Where a message goes, how it is framed, and what the proxies say to each other.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    const OURS: [HeaderName; 8] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
    ];
    OURS.contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings" | "grpc-timeout")
        || name.as_str().starts_with("x-outrigger-")
}
