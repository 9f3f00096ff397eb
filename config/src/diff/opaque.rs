//! What differs in what is handed on as it is, wherever it is written.

use super::guards::{both, each};
use crate::model::{BackendRef, Intercept, TcpForwarding, UdpForwarding};

pub(super) fn same_tcp(old: Option<&TcpForwarding>, new: Option<&TcpForwarding>) -> bool {
    both(old, new, |old, new| {
        let TcpForwarding { backends, idle_timeout, place: _ } = new;
        each(&old.backends, backends, BackendRef::eq) && old.idle_timeout == *idle_timeout
    })
}

pub(super) fn same_udp(old: Option<&UdpForwarding>, new: Option<&UdpForwarding>) -> bool {
    both(old, new, |old, new| {
        let UdpForwarding { backends, idle_timeout, max_sessions, place: _ } = new;
        each(&old.backends, backends, BackendRef::eq)
            && old.idle_timeout == *idle_timeout
            && old.max_sessions == *max_sessions
    })
}

pub(super) fn same_intercepts(old: &[Intercept], new: &[Intercept]) -> bool {
    each(old, new, |old, new| {
        let Intercept { addresses, ports, place: _ } = new;
        old.addresses == *addresses && old.ports == *ports
    })
}
