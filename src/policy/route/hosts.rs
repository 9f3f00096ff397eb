//! Hostnames to virtual hosts.
//!
//! The keys of the maps come from the configuration, never from requests, so a caller cannot make the chains
//! long; a fast seeded hash is enough.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use outrigger_config::model::{HostPattern, VirtualHost};

use crate::policy::host::canonical;

/// How a virtual host was found; holds its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Exact(usize),
    /// With the length of the suffix that matched.
    Wildcard(usize, usize),
    Any(usize),
}

impl Found {
    pub(super) fn virtual_host(self) -> usize {
        match self {
            Self::Exact(host) | Self::Wildcard(host, _) | Self::Any(host) => host,
        }
    }
}

#[derive(Debug)]
pub(super) struct HostIndex {
    exact: HashMap<Box<str>, usize, RandomState>,
    suffixes: HashMap<Box<str>, usize, RandomState>,
    /// Which suffix lengths exist, one bit each: most labels of most hosts need no look-up.
    lengths: [u64; 4],
    any: Option<usize>,
}

impl HostIndex {
    /// Hostnames are unique in a validated table; were they not, the first would win.
    pub(super) fn new(hosts: &[VirtualHost]) -> Self {
        let mut index = Self { exact: HashMap::default(), suffixes: HashMap::default(), lengths: [0; 4], any: None };
        for (number, host) in hosts.iter().enumerate() {
            for pattern in &host.hostnames {
                match pattern {
                    HostPattern::Exact(name) => {
                        index.exact.entry(canonical(name).into()).or_insert(number);
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

    pub(super) fn find(&self, host: &str) -> Option<Found> {
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
