//! Who is at the other end of a connection: what its requests have in common, made once.

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use outrigger_config::spiffe::SpiffeId;

use super::Proxy;
use crate::net::ConnInfo;

/// The caller of a connection.
#[derive(Debug)]
pub(super) struct Origin {
    /// The data path that serves it.
    pub(super) proxy: Proxy,
    /// Its socket.
    pub(super) address: SocketAddr,
    /// Its address in canonical form.
    pub(super) peer: IpAddr,
    /// The same as a field value.
    pub(super) peer_value: HeaderValue,
    /// The address that it connected to.
    pub(super) local: SocketAddr,
    /// The port of that.
    pub(super) port: u16,
    /// Its verified identity.
    pub(super) identity: Option<SpiffeId>,
    /// The version of TLS that it speaks.
    pub(super) tls_version: Option<&'static str>,
    /// Its verified certificate, as an element of `x-forwarded-client-cert`.
    pub(super) certificate: Option<HeaderValue>,
}

impl Origin {
    pub(super) fn new(proxy: Proxy, info: &ConnInfo) -> Self {
        let peer = info.peer.ip().to_canonical();
        Self {
            proxy,
            address: info.peer,
            peer,
            peer_value: HeaderValue::try_from(peer.to_string()).unwrap_or(HeaderValue::from_static("unknown")),
            local: info.local,
            port: info.local.port(),
            identity: None,
            tls_version: None,
            certificate: None,
        }
    }
}
