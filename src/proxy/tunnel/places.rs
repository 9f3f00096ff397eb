//! How many tunnels are open, on each listener and of each caller. A place is taken before the tunnel is asked for
//! upstream and given back at its end. Counts are kept by the name of the listener: a change of configuration changes the
//! limits and not the counts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::StatusCode;
use outrigger_config::model::Upgrades;
use parking_lot::Mutex;

use crate::proxy::pipeline::Local;
use crate::proxy::reason::Reason;

/// The open tunnels of a proxy.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Tunnels {
    listeners: Mutex<HashMap<Arc<str>, Open, RandomState>>,
}

#[derive(Debug, Default)]
struct Open {
    all: u32,
    /// Of callers that have any, so that there are no more entries than tunnels.
    callers: HashMap<u64, u32, RandomState>,
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Full {
    Listener,
    Caller,
}

impl From<Full> for Local {
    fn from(full: Full) -> Self {
        match full {
            Full::Listener => Self { code: "tunnels_listener", ..Reason::TunnelLimit.into() },
            Full::Caller => Self {
                status: StatusCode::TOO_MANY_REQUESTS,
                sentence: "This caller has as many tunnels open as it may.",
                code: "tunnels_caller",
                ..Reason::TunnelLimit.into()
            },
        }
    }
}

impl Tunnels {
    /// A place for one more tunnel of this caller.
    pub(super) fn enter(self: &Arc<Self>, listener: &Arc<str>, caller: u64, limits: &Upgrades) -> Result<Place, Full> {
        let mut listeners = self.listeners.lock();
        let open = listeners.entry(Arc::clone(listener)).or_default();
        let of_caller = open.callers.get(&caller).copied().unwrap_or(0);
        let full = if open.all >= limits.max_tunnels {
            Some(Full::Listener)
        } else if limits.max_per_caller > 0 && of_caller >= limits.max_per_caller {
            Some(Full::Caller)
        } else {
            None
        };
        if let Some(full) = full {
            if open.all == 0 {
                listeners.remove(listener);
            }
            return Err(full);
        }
        open.all += 1;
        open.callers.insert(caller, of_caller + 1);
        drop(listeners);
        Ok(Place { tunnels: Arc::clone(self), listener: Arc::clone(listener), caller })
    }

    fn leave(&self, listener: &Arc<str>, caller: u64) {
        let mut listeners = self.listeners.lock();
        let Entry::Occupied(mut entry) = listeners.entry(Arc::clone(listener)) else { return };
        let open = entry.get_mut();
        open.all -= 1;
        if let Entry::Occupied(mut of_caller) = open.callers.entry(caller) {
            *of_caller.get_mut() -= 1;
            if *of_caller.get() == 0 {
                of_caller.remove();
            }
        }
        if open.all == 0 {
            entry.remove();
        }
    }
}

/// A place of one tunnel, until it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Place {
    tunnels: Arc<Tunnels>,
    listener: Arc<str>,
    caller: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tunnels.leave(&self.listener, self.caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_listener_and_by_caller_and_come_back() {
        let tunnels = Arc::<Tunnels>::default();
        let limits = Upgrades { max_tunnels: 3, max_per_caller: 2, ..Upgrades::default() };
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        let first = tunnels.enter(&one, 1, &limits).expect("a place");
        let _second = tunnels.enter(&one, 1, &limits).expect("a place");
        assert_eq!(tunnels.enter(&one, 1, &limits).err(), Some(Full::Caller));
        let third = tunnels.enter(&one, 2, &limits).expect("of another caller");
        assert_eq!(tunnels.enter(&one, 3, &limits).err(), Some(Full::Listener));
        drop(tunnels.enter(&other, 1, &limits).expect("on another listener"));
        drop(first);
        let again = tunnels.enter(&one, 1, &limits).expect("what was given back");
        let more = Upgrades { max_tunnels: 4, max_per_caller: 0, ..limits };
        let last = tunnels.enter(&one, 1, &more).expect("limits may change");
        drop((_second, third, again, last));
        assert!(tunnels.listeners.lock().is_empty(), "nothing is kept of what is over");
    }
}
