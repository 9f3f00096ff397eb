//! Which of several listeners serves the destination of a redirected connection: the most specific one.
//!
//! An exact address with a port goes before longer prefixes, these before shorter ones, and among equals the narrower
//! range of ports, then the order of the configuration.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use outrigger_config::model::{Cidr, Intercept, PortRange};

/// Destinations, and what serves them.
#[derive(Debug)]
pub struct Intercepts<T> {
    /// The most specific first.
    entries: Vec<(Option<Cidr>, Option<PortRange>, T)>,
}

impl<T> Default for Intercepts<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T: Clone> Intercepts<T> {
    /// In the order of the configuration.
    pub fn new<'a>(all: impl IntoIterator<Item = (&'a Intercept, T)>) -> Self {
        let mut entries = Vec::new();
        for (intercept, serves) in all {
            let Intercept { addresses, ports, place: _ } = intercept;
            for address in any(addresses) {
                for port in any(ports) {
                    entries.push((address, port, serves.clone()));
                }
            }
        }
        // Stable: equals stay in order.
        entries.sort_by_key(|(address, port, _)| (Reverse(address.map_or(0, specificity)), width(*port)));
        Self { entries }
    }

    /// What serves a destination.
    #[must_use]
    pub fn find(&self, destination: SocketAddr) -> Option<&T> {
        let (ip, number) = (destination.ip(), destination.port());
        let takes = |address: &Option<Cidr>, port: &Option<PortRange>| {
            address.is_none_or(|range| range.contains(ip)) && port.is_none_or(|range| range.contains(number))
        };
        self.entries.iter().find(|(address, port, _)| takes(address, port)).map(|(.., serves)| serves)
    }
}

/// Each, or one that stands for any.
fn any<C: Copy>(conditions: &[C]) -> impl Iterator<Item = Option<C>> + use<'_, C> {
    let none = conditions.is_empty().then_some(None);
    conditions.iter().copied().map(Some).chain(none)
}

/// From 1, for `0.0.0.0/0`, to 129, for one address; 0 is without a condition.
fn specificity(range: Cidr) -> u8 {
    match range.network {
        IpAddr::V4(_) => range.prefix.saturating_add(97),
        IpAddr::V6(_) => range.prefix.saturating_add(1),
    }
}

fn width(ports: Option<PortRange>) -> u32 {
    ports.map_or(u32::from(u16::MAX) + 1, |range| u32::from(range.last - range.first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::model::Place;

    fn intercept(addresses: &[&str], ports: &[(u16, u16)]) -> Intercept {
        let cidr = |text: &&str| {
            let (network, prefix) = text.split_once('/').expect("a range");
            Cidr { network: network.parse().expect("an address"), prefix: prefix.parse().expect("a number") }
        };
        Intercept {
            addresses: addresses.iter().map(cidr).collect(),
            ports: ports.iter().map(|&(first, last)| PortRange { first, last }).collect(),
            place: Place { file: "test".into(), line: 1, column: 1 },
        }
    }

    fn found(all: &[(Intercept, &'static str)], destination: &str) -> Option<&'static str> {
        let intercepts = Intercepts::new(all.iter().map(|(intercept, name)| (intercept, *name)));
        intercepts.find(destination.parse().expect("an address")).copied()
    }

    #[test]
    fn the_most_specific_listener_serves_a_destination() {
        let all = [
            (intercept(&[], &[]), "any"),
            (intercept(&[], &[(5432, 5432)]), "postgres"),
            (intercept(&["10.0.0.0/8"], &[]), "ten"),
            (intercept(&["10.1.0.0/16", "192.0.2.0/24"], &[(1, 1000)]), "low"),
            (intercept(&["10.1.0.0/16"], &[(80, 80)]), "web"),
            (intercept(&["10.1.2.3/32"], &[(80, 80)]), "one"),
            (intercept(&["10.1.2.3/32"], &[]), "host"),
            (intercept(&["2001:db8::/32"], &[]), "six"),
            (intercept(&["2001:db8::1/128"], &[]), "six-one"),
        ];
        for (destination, expected) in [
            ("198.51.100.1:1", "any"),
            ("198.51.100.1:5432", "postgres"),
            ("10.9.9.9:5432", "ten"),
            ("10.1.9.9:443", "low"),
            ("10.1.9.9:2000", "ten"),
            ("192.0.2.5:1000", "low"),
            ("192.0.2.5:1001", "any"),
            ("10.1.9.9:80", "web"),
            ("10.1.2.3:80", "one"),
            ("10.1.2.3:81", "host"),
            ("[2001:db8::2]:5432", "six"),
            ("[2001:db8::1]:1", "six-one"),
            ("[::1]:5432", "postgres"),
        ] {
            assert_eq!(found(&all, destination), Some(expected), "{destination}");
        }
        assert_eq!(found(&all[1..3], "198.51.100.1:1"), None);
        assert_eq!(found(&[], "198.51.100.1:1"), None);
    }

    #[test]
    fn of_equals_the_first_one_serves() {
        let all = [(intercept(&["10.0.0.0/8"], &[(1, 2)]), "first"), (intercept(&["10.0.0.0/8"], &[(2, 3)]), "second")];
        assert_eq!(found(&all, "10.0.0.1:2"), Some("first"));
        assert_eq!(found(&all, "10.0.0.1:3"), Some("second"));
    }
}
