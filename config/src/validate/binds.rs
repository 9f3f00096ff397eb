//! Whether two listeners want the same socket.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Addresses in use, by port, each with who uses it. `0.0.0.0` overlaps with every IPv4 address, `[::]` with every
/// address: unless the system says otherwise it takes IPv4 as well. The kernel would not complain, because listeners
/// share their ports with a proxy that is being replaced, and would spread connections over both.
pub(crate) struct Binds<T> {
    by_port: HashMap<u16, PortUse<T>>,
}

struct PortUse<T> {
    exact: HashMap<IpAddr, (SocketAddr, T)>,
    /// The first of any kind, and the first of IPv4.
    any: Option<(SocketAddr, T)>,
    any_v4: Option<(SocketAddr, T)>,
    /// Unspecified ones.
    all: Option<(SocketAddr, T)>,
    all_v4: Option<(SocketAddr, T)>,
}

impl<T> Default for Binds<T> {
    fn default() -> Self {
        Self { by_port: HashMap::new() }
    }
}

impl<T> Default for PortUse<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), any: None, any_v4: None, all: None, all_v4: None }
    }
}

impl<T: Clone> Binds<T> {
    /// Takes an address, or says who has it, or one that covers it, already.
    pub(crate) fn take(&mut self, address: SocketAddr, by: T) -> Result<(), (SocketAddr, T)> {
        // Port 0 is another port every time.
        if address.port() == 0 {
            return Ok(());
        }
        let ip = address.ip().to_canonical();
        let PortUse { exact, any, any_v4, all, all_v4 } = self.by_port.entry(address.port()).or_default();
        let other = match (ip, ip.is_unspecified()) {
            (IpAddr::V6(_), true) => any.as_ref(),
            (IpAddr::V4(_), true) => any_v4.as_ref().or(all.as_ref()),
            (IpAddr::V6(_), false) => exact.get(&ip).or(all.as_ref()),
            (IpAddr::V4(_), false) => exact.get(&ip).or(all_v4.as_ref()).or(all.as_ref()),
        };
        if let Some(other) = other {
            return Err(other.clone());
        }
        let taken = (address, by);
        any.get_or_insert_with(|| taken.clone());
        if ip.is_ipv4() {
            any_v4.get_or_insert_with(|| taken.clone());
        }
        match (ip, ip.is_unspecified()) {
            (IpAddr::V6(_), true) => *all = Some(taken),
            (IpAddr::V4(_), true) => *all_v4 = Some(taken),
            (_, false) => drop(exact.insert(ip, taken)),
        }
        Ok(())
    }
}
