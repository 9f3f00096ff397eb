//! `Upgrade` and CONNECT in HTTP/1.1 (RFC 9110 sections 7.8 and 9.3.6, RFC 6455 section 4): what a request asks for,
//! and what the answer that agrees must say.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::decode::Framing;
use super::response::Parsed;
use crate::codec::error::Refusal;
use crate::codec::headers::{has_token, list};
use crate::codec::message::{RequestHead, Upgrade};
use crate::codec::websocket::{
    self, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, accept_of, fresh_key,
};

/// What the connection becomes if the answer agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Switch {
    /// WebSocket: this proves that the caller's key was read.
    WebSocket { accept: HeaderValue },
    /// What this token names.
    Other(Arc<str>),
    /// A tunnel made with CONNECT.
    Connect,
}

impl Switch {
    /// What a request asks for. The fields that say so are taken out; fields that ask for what a proxy does not
    /// switch to stay, and are removed with the other fields of one hop.
    ///
    /// # Errors
    /// A handshake that RFC 6455 section 4.2.1 refuses, or a CONNECT with content.
    pub(super) fn of_request(
        headers: &mut HeaderMap,
        method: &Method,
        version: Version,
        framing: Framing,
    ) -> Result<Option<(Self, Option<Upgrade>)>, Refusal> {
        let asked = Self::asked(headers, method, version, framing)?;
        if asked.is_some() {
            // There is no content, and what goes up a tunnel is not held to a length of it.
            headers.remove(CONTENT_LENGTH);
        }
        Ok(asked)
    }

    fn asked(
        headers: &mut HeaderMap,
        method: &Method,
        version: Version,
        framing: Framing,
    ) -> Result<Option<(Self, Option<Upgrade>)>, Refusal> {
        if *method == Method::CONNECT {
            let content = framing != Framing::Length(0) || headers.contains_key(TRANSFER_ENCODING);
            return if content { Err(CONNECT_CONTENT) } else { Ok(Some((Self::Connect, None))) };
        }
        // RFC 9110 section 7.8: HTTP/1.0 has none, and without the connection option it is not meant for this hop.
        if version != Version::HTTP_11 || !headers.contains_key(UPGRADE) || !has_token(headers, &CONNECTION, "upgrade")
        {
            return Ok(None);
        }
        if has_token(headers, &UPGRADE, WEBSOCKET) {
            let accept = check_websocket(headers, method, framing)?;
            headers.remove(SEC_WEBSOCKET_KEY);
            return Ok(Some((Self::WebSocket { accept }, Some(Upgrade::WebSocket))));
        }
        let mut tokens = list(headers, &UPGRADE);
        let (Some(token), None) = (tokens.next(), tokens.next()) else { return Ok(None) };
        // Of several we would have to choose one, and of a request with content the upgrade comes after it: a server
        // may always go on as if it had not been asked.
        if is_of_transport(token) || *method != Method::GET || framing != Framing::Length(0) {
            return Ok(None);
        }
        let token: Arc<str> = token.to_ascii_lowercase().into();
        Ok(Some((Self::Other(Arc::clone(&token)), Some(Upgrade::Other(token)))))
    }

    /// Whether this status agrees.
    pub(super) fn is_agreed(&self, status: StatusCode) -> bool {
        match self {
            Self::WebSocket { .. } | Self::Other(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            Self::Connect => status.is_success(),
        }
    }

    /// Writes the fields of an answer that agrees.
    pub(super) fn put_agreement(&self, out: &mut BytesMut) {
        match self {
            Self::WebSocket { accept } => {
                out.put_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ");
                out.put_slice(accept.as_bytes());
                out.put_slice(b"\r\n");
            }
            Self::Other(token) => {
                out.put_slice(b"Connection: Upgrade\r\nUpgrade: ");
                out.put_slice(token.as_bytes());
                out.put_slice(b"\r\n");
            }
            Self::Connect => {}
        }
    }

    /// What a request of ours asks for: this is to be written behind its fields, and its answer is then judged by
    /// [`Switch::accept`].
    pub(super) fn ask(head: &RequestHead, out: &mut BytesMut) -> Option<Self> {
        match &head.upgrade {
            Some(Upgrade::WebSocket) => {
                let key = fresh_key();
                out.put_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ");
                out.put_slice(key.as_bytes());
                out.put_slice(b"\r\n");
                if !head.headers.contains_key(SEC_WEBSOCKET_VERSION) {
                    out.put_slice(b"Sec-WebSocket-Version: 13\r\n");
                }
                Some(Self::WebSocket { accept: accept_of(&key) })
            }
            Some(Upgrade::Other(token)) => {
                out.put_slice(b"Connection: Upgrade\r\nUpgrade: ");
                out.put_slice(token.as_bytes());
                out.put_slice(b"\r\n");
                Some(Self::Other(Arc::clone(token)))
            }
            None => (head.method == Method::CONNECT).then_some(Self::Connect),
        }
    }

    /// Whether an upstream's answer agrees; its fields of this hop are then taken out.
    ///
    /// # Errors
    /// When it agrees to something else.
    pub(super) fn accept(&self, parsed: &mut Parsed) -> Result<bool, &'static str> {
        let status = parsed.head.status;
        let headers = &mut parsed.head.headers;
        if !self.is_agreed(status) {
            return if status == StatusCode::SWITCHING_PROTOCOLS {
                Err("it switched protocols unasked")
            } else {
                Ok(false)
            };
        }
        let token = match self {
            Self::WebSocket { .. } => WEBSOCKET,
            Self::Other(token) => token,
            Self::Connect => "",
        };
        if !token.is_empty() {
            let mut tokens = list(headers, &UPGRADE);
            let named = tokens.next().is_some_and(|named| named.eq_ignore_ascii_case(token)) && tokens.next().is_none();
            if !named || !has_token(headers, &CONNECTION, "upgrade") {
                return Err("it switched to another protocol than was asked for");
            }
        }
        if let Self::WebSocket { accept } = self {
            let mut proofs = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
            if proofs.next() != Some(accept) || proofs.next().is_some() {
                return Err("its Sec-WebSocket-Accept is not that of the key");
            }
        }
        for name in [SEC_WEBSOCKET_ACCEPT, UPGRADE, CONTENT_LENGTH, TRANSFER_ENCODING] {
            headers.remove(name);
        }
        Ok(true)
    }
}

/// Says in a refusal what would have been accepted (RFC 6455 section 4.4, RFC 9110 section 15.5.22).
pub(super) fn explain(refusal: Refusal, headers: &mut HeaderMap) {
    if refusal.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        headers.insert(SEC_WEBSOCKET_VERSION, websocket::VERSION);
    }
}

/// RFC 6455 section 4.2.1. What proves that the key was read.
fn check_websocket(headers: &HeaderMap, method: &Method, framing: Framing) -> Result<HeaderValue, Refusal> {
    if *method != Method::GET || framing != Framing::Length(0) {
        return Err(bad_websocket("A WebSocket handshake is a GET request without content."));
    }
    let mut versions = headers.get_all(SEC_WEBSOCKET_VERSION).iter();
    let version = versions.next().ok_or(bad_websocket("The WebSocket handshake names no Sec-WebSocket-Version."))?;
    if *version != websocket::VERSION || versions.next().is_some() {
        return Err(Refusal {
            status: StatusCode::UPGRADE_REQUIRED,
            code: "websocket_version",
            detail: "The only version of WebSocket that is spoken here is 13.",
        });
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if websocket::is_key(key) => Ok(accept_of(key)),
        _ => Err(bad_websocket("The WebSocket handshake needs one Sec-WebSocket-Key of 16 bytes in base64.")),
    }
}

const WEBSOCKET: &str = "websocket";

/// Protocols that a connection is not switched to through a proxy, whatever a listener allows: other versions of HTTP
/// and TLS concern one hop.
fn is_of_transport(token: &str) -> bool {
    let name = token.split('/').next().unwrap_or(token);
    ["h2c", "http", "tls"].iter().any(|transport| name.eq_ignore_ascii_case(transport))
}

const fn bad_websocket(detail: &'static str) -> Refusal {
    Refusal::bad_request("bad_websocket", detail)
}

const CONNECT_CONTENT: Refusal = Refusal::bad_request("connect_content", "A CONNECT request has no content.");
