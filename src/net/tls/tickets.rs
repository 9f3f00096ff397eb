//! Sessions that clients may resume, bounded in number and by server name.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use parking_lot::Mutex;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Servers that are remembered; the one that was new the longest time ago is forgotten first.
const SERVERS: usize = 256;
/// Tickets kept of one server: each serves once, and several connections may be opened at a time.
const TICKETS: usize = 4;

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
            if self.servers.len() >= SERVERS
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
        if tickets.len() >= TICKETS {
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
