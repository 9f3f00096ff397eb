//! What a request asks for, as far as it decides about its answer.

use http::Method;

use crate::codec::message::RequestHead;

/// What kind of answer a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) enum Asked {
    /// One without a body.
    Head,
    /// A tunnel of its own, if it is agreed to.
    Connect,
    /// A tunnel of some protocol.
    Upgrade,
    /// Any other.
    Anything,
}

impl Asked {
    pub(in crate::codec) fn of(head: &RequestHead) -> Self {
        match head.method {
            _ if head.upgrade.is_some() => Self::Upgrade,
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Connect,
            _ => Self::Anything,
        }
    }

    pub(in crate::codec) fn is_tunnel(self) -> bool {
        matches!(self, Self::Connect | Self::Upgrade)
    }

    /// As far as it concerns bodies.
    pub(in crate::codec) fn method(self) -> &'static Method {
        match self {
            Self::Head => &Method::HEAD,
            Self::Connect | Self::Upgrade | Self::Anything => &Method::GET,
        }
    }
}
