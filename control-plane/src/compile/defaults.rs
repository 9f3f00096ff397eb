//! What holds where no manifest says anything: the defaults of a proxy's configuration.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_config::model::{
    ClientCertHeader, Direction, DnsOptions, EscapedSlashes, Listener, ListenerLimits, ListenerProtocol, PathOptions,
    Place, Trust, Upgrades,
};

pub(super) fn outbound(name: &str, bind: SocketAddr, protocol: ListenerProtocol, place: Place) -> Listener {
    Listener {
        rate_limits: Vec::new(),
        name: name.into(),
        bind,
        protocol,
        routes: None,
        direction: Direction::Outbound,
        trust: Trust::Local,
        path: PathOptions { merge_slashes: true, escaped_slashes: EscapedSlashes::Keep },
        limits: limits(),
        tls: None,
        client_cert_header: ClientCertHeader::Sanitize,
        authorization: None,
        jwt: None,
        external_authorization: None,
        http3: None,
        upgrades: Upgrades::default(),
        tcp: None,
        udp: None,
        proxy_protocol: None,
        interception: None,
        intercepts: Vec::new(),
        place,
    }
}

pub(super) fn inbound(name: &str, bind: SocketAddr, place: Place) -> Listener {
    Listener {
        rate_limits: Vec::new(),
        direction: Direction::Inbound,
        trust: Trust::None,
        ..outbound(name, bind, ListenerProtocol::Auto, place)
    }
}

fn limits() -> ListenerLimits {
    ListenerLimits {
        max_connections: 16_384,
        max_head_bytes: 64 * 1024,
        max_headers: 100,
        max_concurrent_streams: 1_024,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(3_600),
        stream_idle_timeout: Duration::from_secs(300),
        max_connection_age: Duration::from_secs(3_600),
        detect_timeout: Duration::from_secs(1),
    }
}

pub(super) const DNS: DnsOptions = DnsOptions { min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(60) };
