//! Which rules can concern a request, so that a thousand rules about a thousand callers cost no more than ten.
//!
//! A rule is filed in one place, by the first of these that all its alternatives name exactly: the caller's
//! identity, its namespace, the first segment of the path (the service, for gRPC). The rest is tried one by one.
//! The keys come from the configuration, never from requests, so a caller cannot make the chains long.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use outrigger_config::model::PathMatch;
use outrigger_config::spiffe::{IdentityPattern, SpiffeId};

use super::Request;
use super::reading::Readings;
use super::rule::{Need, Operation, Other, PathCondition, Rule, Source};

/// Rules of one action. Lists are ascending, so that the first in file order is found.
#[derive(Debug, Default)]
pub(super) struct Index {
    identities: File,
    namespaces: File,
    segments: File,
    anywhere: Vec<u32>,
}

type File = HashMap<Box<str>, Vec<u32>, RandomState>;

impl Index {
    /// Files these rules. Few are quicker tried one by one than looked up.
    pub(super) fn new(rules: &[Rule], ids: Vec<u32>) -> Self {
        if ids.len() <= FEW {
            return Self { anywhere: ids, ..Self::default() };
        }
        let mut index = Self::default();
        for id in ids {
            let rule = &rules[id as usize];
            let (file, mut keys) = if let Some(keys) = all(&rule.from, identity_keys) {
                (&mut index.identities, keys)
            } else if let Some(keys) = all(&rule.from, namespace_keys) {
                (&mut index.namespaces, keys)
            } else if let Some(keys) = all(&rule.to, segment_keys) {
                (&mut index.segments, keys)
            } else {
                index.anywhere.push(id);
                continue;
            };
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                file.entry(key.into()).or_default().push(id);
            }
        }
        index
    }

    /// The first rule in file order that holds.
    pub(super) fn first(&self, rules: &[Rule], request: &Request<'_>, readings: &Readings, need: Need) -> Option<u32> {
        let mut best = u32::MAX;
        self.candidates(request, readings, |ids| {
            let below = ids.iter().take_while(|&&id| id < best);
            if let Some(id) = below.copied().find(|&id| rules[id as usize].holds(request, readings, need)) {
                best = id;
            }
        });
        (best != u32::MAX).then_some(best)
    }

    /// Every rule that may hold, in file order.
    pub(super) fn each(&self, rules: &[Rule], request: &Request<'_>, readings: &Readings, mut found: impl FnMut(u32)) {
        let mut ids: smallvec::SmallVec<[u32; 8]> = smallvec::SmallVec::new();
        self.candidates(request, readings, |candidates| {
            ids.extend(
                candidates.iter().copied().filter(|&id| rules[id as usize].holds(request, readings, Need::Suspected)),
            );
        });
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().for_each(&mut found);
    }

    fn candidates(&self, request: &Request<'_>, readings: &Readings, mut probe: impl FnMut(&[u32])) {
        let mut look = |file: &File, key: &str| {
            if let Some(ids) = file.get(key) {
                probe(ids);
            }
        };
        if let Some(identity) = request.identity {
            if !self.identities.is_empty() {
                look(&self.identities, identity.as_str());
            }
            if !self.namespaces.is_empty()
                && let Some(namespace) = SpiffeId::namespace(identity)
            {
                look(&self.namespaces, namespace);
            }
        }
        if !self.segments.is_empty() {
            for path in std::iter::once(request.route.path).chain(readings.others()) {
                if let Some(segment) = first_segment(path) {
                    look(&self.segments, segment);
                }
            }
        }
        if !self.anywhere.is_empty() {
            probe(&self.anywhere);
        }
    }
}

/// The keys of all alternatives, if there are alternatives and each has keys.
fn all<'a, T>(alternatives: &'a [T], keys: fn(&'a T) -> Option<Vec<&'a str>>) -> Option<Vec<&'a str>> {
    let keys: Option<Vec<Vec<&str>>> = alternatives.iter().map(keys).collect();
    keys.map(|keys| keys.concat()).filter(|keys| !keys.is_empty())
}

fn identity_keys(source: &Source) -> Option<Vec<&str>> {
    let mut keys = Vec::new();
    for pattern in &source.0.identities {
        match pattern {
            IdentityPattern::Exact(id) => keys.push(id.as_str()),
            IdentityPattern::Prefix(_) => return None,
        }
    }
    (!keys.is_empty()).then_some(keys)
}

fn namespace_keys(source: &Source) -> Option<Vec<&str>> {
    let names = &source.0.namespaces;
    (!names.is_empty()).then(|| names.iter().map(|name| &**name).collect())
}

fn segment_keys(operation: &Operation) -> Option<Vec<&str>> {
    if !operation.paths.is_empty() {
        let keys: Option<Vec<Vec<&str>>> = operation.paths.iter().map(path_keys).collect();
        return keys.map(|keys| keys.concat());
    }
    let calls = operation.grpc();
    (!calls.is_empty()).then(|| calls.iter().map(|call| call.service.as_deref()).collect())?
}

fn path_keys(condition: &PathCondition) -> Option<Vec<&str>> {
    let mut keys = vec![path_key(&condition.normal)?];
    if let Other::Differs(other) = &condition.other {
        keys.push(path_key(other)?);
    }
    Some(keys)
}

fn path_key(path: &PathMatch) -> Option<&str> {
    match path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => first_segment(text),
        PathMatch::Any | PathMatch::Start(_) | PathMatch::Regex(_) | PathMatch::GrpcMethod(_) => None,
    }
}

fn first_segment(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next().filter(|segment| !segment.is_empty())
}

/// Up to this many rules of an action are tried one by one.
const FEW: usize = 8;
