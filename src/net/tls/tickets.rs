//! Sessions that clients may resume, bounded in number and by server name.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use parking_lot::Mutex;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use crate::base::limits;

#[derive(Default)]
pub(super) struct Tickets(Mutex<Store>);

#[derive(Default)]
struct Store {
    servers: HashMap<ServerName<'static>, Server>,
    oldest_first: VecDeque<ServerName<'static>>,
}

#[derive(Default)]
struct Server {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// The newest last: it is used first.
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Tickets {
    /// Forgets the sessions of a server.
    pub(super) fn forget(&self, name: &ServerName<'static>) {
        if let Some(server) = self.0.lock().servers.get_mut(name) {
            server.tls12 = None;
            server.tls13.clear();
        }
    }
}

impl Store {
    fn server(&mut self, name: ServerName<'static>) -> &mut Server {
        if !self.servers.contains_key(&name) {
            if self.servers.len() >= limits::TLS_SESSION_SERVERS
                && let Some(oldest) = self.oldest_first.pop_front()
            {
                self.servers.remove(&oldest);
            }
            self.oldest_first.push_back(name.clone());
        }
        self.servers.entry(name).or_default()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.0.lock().server(name).group = Some(group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.lock().servers.get(name).and_then(|server| server.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.lock().server(name).tls12 = Some(value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.lock().servers.get(name).and_then(|server| server.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(server) = self.0.lock().servers.get_mut(name) {
            server.tls12 = None;
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut store = self.0.lock();
        let tickets = &mut store.server(name).tls13;
        if tickets.len() >= limits::TLS_TICKETS {
            tickets.pop_front();
        }
        tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().servers.get_mut(name).and_then(|server| server.tls13.pop_back())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("servers", &self.0.lock().servers.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_servers_as_allowed_are_remembered_the_oldest_goes_first() {
        let tickets = Tickets::default();
        let name = |n: usize| ServerName::try_from(format!("s{n}.example")).expect("a name");
        for n in 0..=limits::TLS_SESSION_SERVERS {
            tickets.set_kx_hint(name(n), NamedGroup::X25519);
            tickets.set_kx_hint(name(n), NamedGroup::X25519MLKEM768);
        }
        assert_eq!(tickets.0.lock().servers.len(), limits::TLS_SESSION_SERVERS);
        assert_eq!(tickets.kx_hint(&name(0)), None);
        for n in 1..=limits::TLS_SESSION_SERVERS {
            assert_eq!(tickets.kx_hint(&name(n)), Some(NamedGroup::X25519MLKEM768));
        }
    }
}
