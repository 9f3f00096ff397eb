//! Hostnames to what stands behind them: virtual hosts, or where TLS is handed on to.
//!
//! The keys of the maps come from the configuration, never from requests, so a caller cannot make the chains
//! long; a fast seeded hash is enough.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use outrigger_config::model::HostPattern;

use crate::policy::host::{Authority, canonical, parse_authority};

/// How a host was found; holds the index of what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Exact(usize),
    /// With the length of the suffix that matched.
    Wildcard(usize, usize),
    Any(usize),
}

impl Found {
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Exact(host) | Self::Wildcard(host, _) | Self::Any(host) => host,
        }
    }
}

/// Patterns of hostnames, the most specific of which wins.
#[derive(Debug)]
pub(crate) struct HostIndex {
    exact: HashMap<Box<str>, usize, RandomState>,
    /// Those that are for one port only.
    with_port: HashMap<u16, HashMap<Box<str>, usize, RandomState>, RandomState>,
    suffixes: HashMap<Box<str>, usize, RandomState>,
    /// Which suffix lengths exist, one bit each: most labels of most hosts need no look-up.
    lengths: [u64; 4],
    any: Option<usize>,
}

impl HostIndex {
    /// Hostnames are unique in a validated table; were they not, the first would win.
    pub(crate) fn new<'a>(hosts: impl Iterator<Item = &'a [HostPattern]>) -> Self {
        let mut index = Self {
            exact: HashMap::default(),
            with_port: HashMap::default(),
            suffixes: HashMap::default(),
            lengths: [0; 4],
            any: None,
        };
        for (number, hostnames) in hosts.enumerate() {
            for pattern in hostnames {
                match pattern {
                    HostPattern::Exact(name) => {
                        let (file, name) = match parse_authority(name) {
                            Ok(Authority { host, port: Some(port) }) => {
                                (index.with_port.entry(port).or_default(), host)
                            }
                            _ => (&mut index.exact, canonical(name)),
                        };
                        file.entry(name.into()).or_insert(number);
                    }
                    HostPattern::Wildcard(suffix) => {
                        let suffix = canonical(suffix);
                        // No valid host is longer than 253 bytes, so longer suffixes match nothing.
                        if let Some(word) = index.lengths.get_mut(suffix.len() / 64) {
                            *word |= 1 << (suffix.len() % 64);
                            index.suffixes.entry(suffix.into()).or_insert(number);
                        }
                    }
                    HostPattern::Any => {
                        index.any.get_or_insert(number);
                    }
                }
            }
        }
        index
    }

    /// What stands behind a host; an empty one is found by [`HostPattern::Any`] only. A pattern with the port goes before
    /// one without.
    pub(crate) fn find(&self, host: &str, port: Option<u16>) -> Option<Found> {
        let with_port = port.and_then(|port| self.with_port.get(&port));
        if let Some(&found) = with_port.and_then(|names| names.get(host)) {
            return Some(Found::Exact(found));
        }
        if let Some(&found) = self.exact.get(host) {
            return Some(Found::Exact(found));
        }
        self.find_suffix(host).or(self.any.map(Found::Any))
    }

    /// From the longest suffix to the shortest. At least one byte stands before the dot.
    fn find_suffix(&self, host: &str) -> Option<Found> {
        if self.suffixes.is_empty() {
            return None;
        }
        memchr::memchr_iter(b'.', host.as_bytes()).filter(|&dot| dot > 0).find_map(|dot| {
            let suffix = &host[dot + 1..];
            let bit = self.lengths.get(suffix.len() / 64)? >> (suffix.len() % 64) & 1;
            let &found = (bit == 1).then(|| self.suffixes.get(suffix))??;
            Some(Found::Wildcard(found, suffix.len()))
        })
    }
}
