//! The rules of one virtual host, indexed by path.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use outrigger_config::model::{EscapedSlashes, Match, PathMatch, PathOptions, Rule};

use super::candidates::Candidates;
use super::{RouteQuery, RuleHit, literal};
use crate::policy::path;

/// One match of one rule. Its position in the host's list is its order.
#[derive(Debug)]
pub(super) struct Entry {
    /// The rule's number in the table.
    pub(super) rule: usize,
    /// `None` for a rule without matches.
    pub(super) match_index: Option<usize>,
    /// With the path in normal form.
    pub(super) condition: Match,
}

impl Entry {
    pub(super) fn hit(&self) -> RuleHit {
        let prefix_len = match &self.condition.path {
            PathMatch::Prefix(prefix) => prefix.len(),
            PathMatch::Any
            | PathMatch::Exact(_)
            | PathMatch::Start(_)
            | PathMatch::Regex(_)
            | PathMatch::GrpcMethod(_) => 0,
        };
        RuleHit { rule: self.rule, match_index: self.match_index, prefix_len }
    }
}

type Index = HashMap<Box<str>, Candidates, RandomState>;

/// Entries are filed under exactly one key each; a request probes the keys that its path can fit.
#[derive(Debug)]
pub(super) struct HostRules {
    /// In order.
    pub(super) entries: Box<[Entry]>,
    exact: Index,
    prefixes: Index,
    /// At which depths (number of slashes) prefixes exist, one bit each; the last stands for 63 and deeper.
    /// Together with `longest_prefix` it bounds the probes by the configuration, whatever path is sent.
    prefix_depths: u64,
    longest_prefix: usize,
    grpc_methods: Index,
    anywhere: Candidates,
}

impl HostRules {
    pub(super) fn compile(first_rule: usize, rules: &[Rule]) -> Self {
        let entries: Box<[Entry]> =
            rules.iter().zip(first_rule..).flat_map(|(rule, number)| entries_of(number, rule)).collect();
        let mut files = Files::default();
        for (order, entry) in entries.iter().enumerate() {
            files.insert(order, &entry.condition.path);
        }
        let index = |file: File| -> Index {
            file.into_iter().map(|(key, orders)| (key, Candidates::new(&entries, orders))).collect()
        };
        let prefix_depths = files.prefixes.keys().fold(0, |bits, prefix| bits | depth_bit(slashes(prefix)));
        let longest_prefix = files.prefixes.keys().map(|prefix| prefix.len()).max().unwrap_or(0);
        Self {
            exact: index(files.exact),
            prefixes: index(files.prefixes),
            prefix_depths,
            longest_prefix,
            grpc_methods: index(files.grpc_methods),
            anywhere: Candidates::new(&entries, files.anywhere),
            entries,
        }
    }

    pub(super) fn find(&self, request: &RouteQuery<'_>) -> Option<RuleHit> {
        let mut best = usize::MAX;
        let mut probe = |candidates: &Candidates| {
            if let Some(order) = candidates.first_below(best, &self.entries, request) {
                best = order;
            }
        };
        if let Some(candidates) = self.exact.get(request.path) {
            probe(candidates);
        }
        if !self.grpc_methods.is_empty()
            && let Some(candidates) = self.grpc_methods.get(last_segment(request.path))
        {
            probe(candidates);
        }
        self.prefixes_of(request.path, &mut probe);
        probe(&self.anywhere);
        self.entries.get(best).map(Entry::hit)
    }

    /// Probes every prefix of whole segments, from `/` (stored as empty) to the whole path.
    fn prefixes_of(&self, path: &str, probe: &mut impl FnMut(&Candidates)) {
        if self.prefixes.is_empty() || !path.starts_with('/') {
            return;
        }
        let ends = memchr::memchr_iter(b'/', path.as_bytes()).chain([path.len()]);
        for (depth, end) in ends.enumerate().take_while(|&(_, end)| end <= self.longest_prefix) {
            if self.prefix_depths & depth_bit(depth) != 0
                && let Some(candidates) = self.prefixes.get(&path[..end])
            {
                probe(candidates);
            }
        }
    }
}

type File = HashMap<Box<str>, Vec<usize>, RandomState>;

/// Orders by key, while compiling.
#[derive(Debug, Default)]
struct Files {
    exact: File,
    prefixes: File,
    grpc_methods: File,
    anywhere: Vec<usize>,
}

impl Files {
    fn insert(&mut self, order: usize, condition: &PathMatch) {
        let (file, key) = match condition {
            PathMatch::Exact(path) => (&mut self.exact, Box::from(&**path)),
            PathMatch::Prefix(prefix) => (&mut self.prefixes, Box::from(&**prefix)),
            // It may end within a segment: filed below the last one that is whole.
            PathMatch::Start(start) => match start.rfind('/') {
                Some(slash) => (&mut self.prefixes, Box::from(&start[..slash])),
                None => return self.anywhere.push(order),
            },
            PathMatch::GrpcMethod(method) => (&mut self.grpc_methods, Box::from(&**method)),
            PathMatch::Regex(pattern) => match literal::segments(pattern.as_str()) {
                Some(segments) => (&mut self.prefixes, segments.into_boxed_str()),
                None => return self.anywhere.push(order),
            },
            PathMatch::Any => return self.anywhere.push(order),
        };
        file.entry(key).or_default().push(order);
    }
}

/// The last segment of a path: the method of a gRPC call.
pub(super) fn last_segment(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

fn entries_of(number: usize, rule: &Rule) -> Vec<Entry> {
    if rule.matches.is_empty() {
        let everything =
            Match { path: PathMatch::Any, method: None, headers: Vec::new(), query: Vec::new(), grpc: false };
        return vec![Entry { rule: number, match_index: None, condition: everything }];
    }
    let entry = |(index, condition): (usize, &Match)| Entry {
        rule: number,
        match_index: Some(index),
        condition: Match { path: normal_form(&condition.path), ..condition.clone() },
    };
    rule.matches.iter().enumerate().map(entry).collect()
}

/// A configured path as requests spell it. One that has no normal form stays, and matches nothing.
pub(in crate::policy) fn normal_form(condition: &PathMatch) -> PathMatch {
    match condition {
        PathMatch::Exact(path) => PathMatch::Exact(normal_path(path)),
        PathMatch::Prefix(prefix) if prefix.is_empty() => PathMatch::Prefix(Arc::clone(prefix)),
        PathMatch::Prefix(prefix) => PathMatch::Prefix(match normal_path(prefix) {
            normal if normal.ends_with('/') => normal.trim_end_matches('/').into(),
            normal => normal,
        }),
        PathMatch::Start(start) => PathMatch::Start(normal_path(start)),
        PathMatch::Any | PathMatch::Regex(_) | PathMatch::GrpcMethod(_) => condition.clone(),
    }
}

fn normal_path(text: &Arc<str>) -> Arc<str> {
    // Slashes are left as written: whether they merge is up to the listener.
    let options = PathOptions { merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };
    match path::normalize(text, options) {
        Ok(normal) if !text.contains('?') => normal.into(),
        _ => Arc::clone(text),
    }
}

fn slashes(text: &str) -> usize {
    memchr::memchr_iter(b'/', text.as_bytes()).count()
}

fn depth_bit(depth: usize) -> u64 {
    1 << depth.min(63)
}
