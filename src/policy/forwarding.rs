//! The trust rule: what is believed of `X-Forwarded-*` and the like, and who the client is.
//!
//! Anybody can write these headers. What a stranger wrote is replaced by what this proxy saw; what a trusted proxy
//! or our own application wrote is kept and added to.

use std::net::IpAddr;

use outrigger_config::model::Trust;

/// What becomes of forwarding headers that arrive: `X-Forwarded-Proto`, `X-Forwarded-Host`, `Forwarded`,
/// `x-request-id`. [`forwarded_for`] applies the same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Kept where they are there.
    Keep,
    /// Replaced (or removed).
    Replace,
}

/// Whether the headers of a caller are believed. Trusting zero hops is trusting nobody.
#[must_use]
pub const fn belief(trust: Trust) -> Belief {
    match trust {
        Trust::None | Trust::Hops(0) => Belief::Replace,
        Trust::Hops(_) | Trust::Local => Belief::Keep,
    }
}

/// The result of [`forwarded_for`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedFor {
    /// The new `X-Forwarded-For`.
    pub value: String,
    /// Whom logs and policies take for the client.
    pub client: IpAddr,
}

/// Applies the trust rule to `X-Forwarded-For`. `lines` are the header's lines as they arrived.
///
/// With [`Trust::Hops`] of `n`, the `n` nearest proxies are trusted: the one we talk to and those it names. So the
/// client is the address `n` places left of the peer in the new value: with one hop, what our peer wrote last.
/// When there is no such address (the header is too short, or holds something else there), the header proves
/// nothing and the client is the peer.
#[must_use]
pub fn forwarded_for<'a>(trust: Trust, peer: IpAddr, lines: impl IntoIterator<Item = &'a str>) -> ForwardedFor {
    let peer = peer.to_canonical();
    let kept: Vec<&str> = match belief(trust) {
        Belief::Keep => {
            let entries = lines.into_iter().flat_map(|line| line.split(',')).map(str::trim);
            entries.filter(|entry| !entry.is_empty()).collect()
        }
        Belief::Replace => Vec::new(),
    };
    let client = match trust {
        Trust::Hops(hops @ 1..) => {
            kept.iter().rev().nth(usize::from(hops) - 1).and_then(|entry| parse_entry(entry)).unwrap_or(peer)
        }
        // Our own application speaks for itself, whomever it works for.
        Trust::None | Trust::Hops(0) | Trust::Local => peer,
    };
    let mut value = kept.join(", ");
    if !value.is_empty() {
        value.push_str(", ");
    }
    value.push_str(&peer.to_string());
    ForwardedFor { value, client }
}

/// Whom the trust rule takes for the client, by the lines of an `X-Forwarded-For` that [`forwarded_for`] made: as it said.
#[must_use]
pub fn client<'a, Lines>(trust: Trust, peer: IpAddr, made: impl FnOnce() -> Lines) -> IpAddr
where
    Lines: DoubleEndedIterator<Item = &'a str>,
{
    let Trust::Hops(hops @ 1..) = trust else { return peer };
    // The last one is the peer.
    let mut entries = made().rev().flat_map(|line| line.rsplit(',')).map(str::trim).filter(|entry| !entry.is_empty());
    entries.nth(usize::from(hops)).and_then(parse_entry).unwrap_or(peer)
}

/// An address, as proxies write it: bare, in brackets, with or without a port.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let address = match entry.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // More than one colon is an IPv6 address without a port.
        None => match entry.split_once(':') {
            Some((address, port)) if !port.contains(':') => address,
            _ => entry,
        },
    };
    address.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn apply(trust: Trust, lines: &[&str]) -> (String, String) {
        let ForwardedFor { value, client } = forwarded_for(trust, ip("10.0.0.9"), lines.iter().copied());
        (value, client.to_string())
    }

    fn is(found: &(String, String), value: &str, client: &str) {
        assert_eq!((found.0.as_str(), found.1.as_str()), (value, client));
    }

    #[test]
    fn a_stranger_is_not_believed() {
        for trust in [Trust::None, Trust::Hops(0)] {
            assert_eq!(belief(trust), Belief::Replace);
            is(&apply(trust, &["1.2.3.4"]), "10.0.0.9", "10.0.0.9");
            is(&apply(trust, &[]), "10.0.0.9", "10.0.0.9");
        }
    }

    #[test]
    fn hops_are_counted_from_the_right() {
        let lines = ["6.6.6.6, 1.1.1.1", "2.2.2.2"];
        let value = "6.6.6.6, 1.1.1.1, 2.2.2.2, 10.0.0.9";
        is(&apply(Trust::Hops(1), &lines), value, "2.2.2.2");
        is(&apply(Trust::Hops(2), &lines), value, "1.1.1.1");
        is(&apply(Trust::Hops(3), &lines), value, "6.6.6.6");
        is(&apply(Trust::Hops(4), &lines), value, "10.0.0.9");
    }

    #[test]
    fn what_is_no_address_proves_nothing() {
        is(&apply(Trust::Hops(1), &["1.1.1.1, unknown"]), "1.1.1.1, unknown, 10.0.0.9", "10.0.0.9");
        is(&apply(Trust::Hops(1), &[" , ,"]), "10.0.0.9", "10.0.0.9");
    }

    #[test]
    fn our_own_application_is_kept_and_added_to() {
        assert_eq!(belief(Trust::Local), Belief::Keep);
        is(&apply(Trust::Local, &["1.1.1.1"]), "1.1.1.1, 10.0.0.9", "10.0.0.9");
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (entry, address) in [
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4:5678", "1.2.3.4"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            is(&apply(Trust::Hops(1), &[entry]), &format!("{entry}, 10.0.0.9"), address);
        }
    }

    #[test]
    fn the_client_is_found_again_in_what_was_made() {
        for hops in 0..5 {
            for lines in
                [&["6.6.6.6, 1.1.1.1", "2.2.2.2"][..], &["1.1.1.1, unknown"], &["[2001:db8::1]:443"], &[" ,"], &[]]
            {
                for trust in [Trust::Hops(hops), Trust::Local, Trust::None] {
                    let peer = ip("10.0.0.9");
                    let ForwardedFor { value, client: wanted } = forwarded_for(trust, peer, lines.iter().copied());
                    assert_eq!(client(trust, peer, || [value.as_str()].into_iter()), wanted, "{trust:?} {lines:?}");
                }
            }
        }
    }

    #[test]
    fn a_mapped_peer_is_written_as_ipv4() {
        let found = forwarded_for(Trust::None, ip("::ffff:10.1.2.3"), []);
        assert_eq!(found.value, "10.1.2.3");
    }

    proptest! {
        #[test]
        fn a_forged_left_part_never_becomes_the_client(
            forged in "[0-9a-z.:,\\[\\] ]{0,40}",
            hops in 1..4_u8,
        ) {
            // As many honest entries as there are trusted hops.
            let honest: Vec<String> = (1..=hops).map(|n| format!("9.9.9.{n}")).collect();
            let line = format!("{forged}, {}", honest.join(", "));
            let found = forwarded_for(Trust::Hops(hops), ip("10.0.0.9"), [line.as_str()]);
            prop_assert_eq!(found.client, ip("9.9.9.1"));
        }
    }
}
