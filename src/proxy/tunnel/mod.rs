//! Tunnels: exchanges whose bodies are no messages. A request asks for one by an upgrade or by CONNECT; whether it may is
//! the listener's to say ([`Kind::check`]), and how many there may be ([`places`]). Until an answer agrees it is a request
//! like any other. Then it is a [`TunnelBody`], which has other limits than a request and other ways to end.

mod body;
mod direct;
mod places;

use std::time::Duration;

use http::{Method, StatusCode};
use outrigger_config::model;

pub(super) use self::body::TunnelBody;
pub(super) use self::direct::connect;
pub(super) use self::places::{Place, Tunnels};
use super::origin::Origin;
use super::pipeline::Local;
use super::reason::Reason;
use crate::codec::tunnel::WayUp;
use crate::codec::websocket::Frames;
use crate::codec::{Body, RequestHead, Upgrade};
use crate::snapshot::Listener;
use crate::telemetry::metrics::TunnelKind;

/// What kind of tunnel a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    WebSocket,
    Other,
    Connect,
}

impl Kind {
    /// What a request asks for; `None` for nearly all of them.
    pub(super) fn of(head: &RequestHead) -> Option<Self> {
        match &head.upgrade {
            Some(Upgrade::WebSocket) => Some(Self::WebSocket),
            Some(Upgrade::Other(_)) => Some(Self::Other),
            None => (head.method == Method::CONNECT).then_some(Self::Connect),
        }
    }

    /// Whether the listener opens tunnels of this kind.
    pub(super) fn check(self, listener: &Listener, head: &RequestHead) -> Result<(), Local> {
        let upgrades = &listener.config.upgrades;
        let token = match &head.upgrade {
            Some(Upgrade::WebSocket) => "websocket",
            Some(Upgrade::Other(token)) => token,
            None if upgrades.connect == model::Connect::Deny => {
                return Err(Local {
                    status: StatusCode::METHOD_NOT_ALLOWED,
                    sentence: "CONNECT is not allowed on this listener.",
                    code: "connect",
                    ..Reason::UpgradeRefused.into()
                });
            }
            None => return Ok(()),
        };
        if upgrades.allow.iter().any(|allowed| **allowed == *token) {
            return Ok(());
        }
        let refused = Local { code: "upgrade_not_allowed", ..Reason::UpgradeRefused.into() };
        // RFC 9220 section 3, of a `:protocol` that is not known.
        let unknown = token != "websocket" && head.version > http::Version::HTTP_11;
        Err(if unknown { Local { status: StatusCode::NOT_IMPLEMENTED, ..refused } } else { refused })
    }

    /// Whether this status agrees to the tunnel.
    pub(super) fn is_agreed(self, status: StatusCode) -> bool {
        match self {
            Self::WebSocket | Self::Other => status == StatusCode::SWITCHING_PROTOCOLS,
            Self::Connect => status.is_success(),
        }
    }

    /// Whether an answer that opens no tunnel would be taken for one that does: where 200 stands for 101, and for CONNECT.
    pub(super) fn is_misleading(self, head: &RequestHead, status: StatusCode) -> bool {
        match self {
            Self::Connect => status.is_success(),
            Self::WebSocket | Self::Other => {
                status == StatusCode::SWITCHING_PROTOCOLS
                    || status.is_success() && head.version > http::Version::HTTP_11
            }
        }
    }

    fn counted(self) -> TunnelKind {
        match self {
            Self::WebSocket => TunnelKind::WebSocket,
            Self::Other => TunnelKind::Other,
            Self::Connect => TunnelKind::Connect,
        }
    }
}

/// A request for a tunnel that has its place among those of the listener.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) kind: Kind,
    /// What the caller sends through it.
    pub(super) up: WayUp,
    place: Place,
    idle: Option<Duration>,
    age: Option<Duration>,
}

impl Asked {
    /// Takes a place for it.
    pub(super) fn enter(kind: Kind, body: Body, listener: &Listener, origin: &Origin) -> Result<Self, Local> {
        let upgrades = &listener.config.upgrades;
        let place = origin.proxy.tunnels.enter(&listener.config.name, origin.caller, upgrades).map_err(Local::from)?;
        let limit = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
        Ok(Self {
            kind,
            up: WayUp::new(body, (kind == Kind::WebSocket).then(Frames::default)),
            place,
            idle: limit(upgrades.idle_timeout),
            age: limit(upgrades.max_duration),
        })
    }

    /// Whether the tunnel ends at this proxy, and goes on as bytes.
    pub(super) fn ends_here(&self, listener: &Listener) -> bool {
        self.kind == Kind::Connect && listener.config.upgrades.connect == model::Connect::Tunnel
    }

    /// What is open when an answer with this status has come. If it does not agree, the place is free again.
    pub(super) fn agreed(self: Box<Self>, status: StatusCode) -> Option<Box<Self>> {
        let agreed = self.kind.is_agreed(status);
        if !agreed {
            self.up.give_up();
        }
        agreed.then_some(self)
    }
}
