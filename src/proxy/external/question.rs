//! What an authorizer is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Version;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::uri::Authority;
use outrigger_config::model::ExternalAuthorizer;
use outrigger_config::spiffe::SpiffeId;

use super::wire::{
    Address, AttributeContext, CheckRequest, HttpRequest, Peer, RequestInfo, SocketAddress, Timestamp, TlsSession,
};
use crate::codec::{Peeked, RequestHead};
use crate::net::tls::Peer as Verified;
use crate::proxy::origin::Origin;
use crate::proxy::unary;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Whether the body that is shown is a part only; as Envoy calls it.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// What is known of a request besides the request.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Surroundings<'a> {
    /// The caller.
    pub(in crate::proxy) origin: &'a Origin,
    /// When the request began.
    pub(in crate::proxy) began: SystemTime,
    /// How long its body may stand still.
    pub(in crate::proxy) idle: Option<Duration>,
}

/// A question as a gRPC message with its prefix.
pub(super) fn encode(
    authorizer: &ExternalAuthorizer,
    surroundings: &Surroundings<'_>,
    head: &RequestHead,
    body: &Peeked,
) -> Bytes {
    let shown = (authorizer.max_body_bytes > 0).then(|| shown(body, authorizer.max_body_bytes as usize));
    let request = CheckRequest { attributes: Some(attributes(authorizer, surroundings, head, shown)) };
    unary::encode(&request)
}

/// What is shown of a body.
struct Shown {
    bytes: Bytes,
    partial: bool,
}

fn shown(body: &Peeked, limit: usize) -> Shown {
    let Peeked { start, whole, body: _ } = body;
    let read: usize = start.iter().map(Bytes::len).sum();
    let bytes = match &start[..] {
        [one] => one.slice(..limit.min(one.len())),
        pieces => Bytes::from(pieces.concat()).slice(..limit.min(read)),
    };
    Shown { partial: !whole || read > limit, bytes }
}

fn attributes(
    authorizer: &ExternalAuthorizer,
    surroundings: &Surroundings<'_>,
    head: &RequestHead,
    shown: Option<Shown>,
) -> AttributeContext {
    let Surroundings { origin, began, idle: _ } = *surroundings;
    let tls = origin.info.tls.as_deref();
    let caller = tls.and_then(|tls| tls.peer.as_ref()).map(|peer| principal(peer)).unwrap_or_default();
    let own = tls.and_then(|tls| tls.local_identity.as_ref()).map(SpiffeId::to_string).unwrap_or_default();
    let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
    };
    let host = head.authority.as_ref().map(Authority::as_str).unwrap_or_default();
    let mut headers = headers(&head.headers);
    headers.remove(PARTIAL_BODY);
    for (name, value) in [
        (":authority", host),
        (":method", head.method.as_str()),
        (":path", head.path.as_str()),
        (":scheme", head.scheme.as_str()),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let (body, raw_body) = match shown {
        None => (String::new(), Bytes::new()),
        Some(Shown { bytes, partial }) => {
            headers.insert(PARTIAL_BODY.to_owned(), partial.to_string());
            text_of(bytes, partial)
        }
    };
    let size = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let http = HttpRequest {
        id: head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned(),
        method: head.method.to_string(),
        headers,
        path: head.path.to_string(),
        host: host.to_owned(),
        scheme: head.scheme.to_string(),
        size: size.unwrap_or(-1),
        protocol: protocol(head.version).to_owned(),
        body,
        raw_body,
    };
    AttributeContext {
        source: Some(side(origin.info.peer, caller)),
        destination: Some(side(origin.info.local, own)),
        request: Some(RequestInfo { time: Some(time), http: Some(http) }),
        context_extensions: authorizer
            .context
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        tls_session: tls.and_then(|tls| tls.sni.as_ref()).map(|sni| TlsSession { sni: sni.to_string() }),
    }
}

/// A body as text where it is text. A part may end in the middle of a character: that one is left out.
fn text_of(bytes: Bytes, partial: bool) -> (String, Bytes) {
    match std::str::from_utf8(&bytes) {
        Ok(text) => (text.to_owned(), Bytes::new()),
        Err(error) if partial && error.error_len().is_none() => {
            let text = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            (text.into_owned(), Bytes::new())
        }
        Err(_) => (String::new(), bytes),
    }
}

/// Who a verified certificate says that somebody is, in the order of Envoy's API.
fn principal(peer: &Verified) -> String {
    match (&peer.identity, peer.dns_names.first()) {
        (Some(identity), _) => identity.to_string(),
        (None, Some(name)) => name.to_string(),
        (None, None) => peer.subject(),
    }
}

fn side(address: SocketAddr, principal: String) -> Peer {
    let socket_address =
        SocketAddress { address: address.ip().to_canonical().to_string(), port_value: u32::from(address.port()) };
    Peer { address: Some(Address { socket_address: Some(socket_address) }), service: String::new(), principal }
}

/// Lines of one name are joined as the standards say (RFC 9110 section 5.3, RFC 9113 section 8.2.3). What is not
/// UTF-8 is replaced: the type of the map is text.
fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for name in headers.keys() {
        let separator = if name == http::header::COOKIE { "; " } else { "," };
        let lines: Vec<_> = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        map.insert(name.as_str().to_owned(), lines.join(separator));
    }
    map
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}
