//! Who is at the other end of a connection: what its requests have in common, made once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::OnceLock;

use http::HeaderValue;
use outrigger_config::model::TlsVersion;
use outrigger_config::spiffe::SpiffeId;

use super::Proxy;
use super::client_cert::{self, Certificate};
use super::limiting::KnownKey;
use crate::base::drain::Watch;
use crate::net::ConnInfo;
use crate::net::tls::{Peer, TlsInfo};

/// The caller of a connection.
#[derive(Debug)]
pub(super) struct Origin {
    /// The data path that serves it.
    pub(super) proxy: Proxy,
    /// Its connection.
    pub(super) info: ConnInfo,
    /// Its address in canonical form.
    pub(super) peer: IpAddr,
    /// The same as a field value.
    pub(super) peer_value: HeaderValue,
    /// Tells callers apart where they take turns: by identity, or by address.
    pub(super) caller: u64,
    /// Its verified certificate, as an element of `x-forwarded-client-cert`.
    pub(super) certificate: Option<HeaderValue>,
    /// Its key at a rate limit.
    pub(super) rate_key: KnownKey,
    /// Tells tunnels on its connection when to finish.
    pub(super) drain: OnceLock<Watch>,
}

impl Origin {
    pub(super) fn new(proxy: Proxy, info: ConnInfo) -> Self {
        let peer = info.peer.ip().to_canonical();
        Self {
            proxy,
            peer,
            peer_value: HeaderValue::try_from(peer.to_string()).unwrap_or(HeaderValue::from_static("unknown")),
            caller: caller(peer, info.tls.as_deref()),
            certificate: info.tls.as_deref().and_then(certificate),
            rate_key: KnownKey::default(),
            drain: OnceLock::new(),
            info,
        }
    }

    /// Its verified identity.
    pub(super) fn identity(&self) -> Option<&SpiffeId> {
        self.info.tls.as_ref()?.peer.as_ref()?.identity.as_ref()
    }

    /// The version of TLS that it speaks, as the access log calls it.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        self.info.tls.as_ref().map(|tls| match tls.version {
            TlsVersion::V1_2 => "TLSv1.2",
            TlsVersion::V1_3 => "TLSv1.3",
        })
    }
}

/// Two callers with one number share their turns, and no more.
fn caller(peer: IpAddr, tls: Option<&TlsInfo>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match (tls.and_then(|tls| tls.peer.as_ref()?.identity.as_ref()), peer) {
        (Some(identity), _) => identity.as_str().hash(&mut hasher),
        // Whoever has one address of such a network has all of them.
        (None, IpAddr::V6(address)) => address.octets()[..8].hash(&mut hasher),
        (None, IpAddr::V4(address)) => address.hash(&mut hasher),
    }
    hasher.finish()
}

fn certificate(tls: &TlsInfo) -> Option<HeaderValue> {
    let peer: &Peer = tls.peer.as_ref()?;
    client_cert::element(&Certificate {
        by: tls.local_identity.as_ref().map(SpiffeId::as_str),
        sha256: &peer.sha256,
        subject: &client_cert::subject(&peer.leaf),
        uri: peer.identity.as_ref().map(SpiffeId::as_str),
        dns: &peer.dns_names,
    })
}
