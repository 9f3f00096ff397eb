//! What a request asks for, as far as it decides about its answer.

use http::{Method, StatusCode};

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

    /// Whether an answer with this status has no body. A tunnel that is agreed to by 204 is one (RFC 9110 section 9.3.6).
    pub(in crate::codec) fn is_bodiless(self, status: StatusCode) -> bool {
        match status {
            _ if self == Self::Head => true,
            StatusCode::NO_CONTENT => self != Self::Connect,
            status => status == StatusCode::NOT_MODIFIED,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_may_be_agreed_to_by_204() {
        for asked in [Asked::Head, Asked::Connect, Asked::Upgrade, Asked::Anything] {
            let bodiless = [200, 204, 304].map(|status| asked.is_bodiless(StatusCode::from_u16(status).expect("one")));
            let expected = match asked {
                Asked::Head => [true; 3],
                Asked::Connect => [false, false, true],
                Asked::Upgrade | Asked::Anything => [false, true, true],
            };
            assert_eq!(bodiless, expected, "{asked:?}");
        }
    }
}
