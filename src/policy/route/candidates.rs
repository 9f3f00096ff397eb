//! Matches that share a path, filed by what else tells them apart.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderName;
use outrigger_config::model::{Match, PathMatch, ValueMatch};
use regex::{RegexSet, RegexSetBuilder};

use super::RouteQuery;
use super::conditions::{header, others_hold, parameter};
use super::rules::Entry;

/// A small decision tree. Every order is in exactly one place: under a key, in a set of patterns, or in the list.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Smallest order anywhere below, so that a better find elsewhere skips the whole.
    first: usize,
    /// Tried one by one, ascending.
    list: Box<[usize]>,
    patterns: Box<[PatternGroup]>,
    keyed: Box<[Keyed]>,
}

/// Orders filed by the exact value that they demand of one thing.
#[derive(Debug)]
struct Keyed {
    key: Key,
    values: HashMap<Box<[u8]>, Candidates, RandomState>,
}

/// A thing that a match may demand an exact value of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Method,
    Header(HeaderName),
    Query(Arc<str>),
}

/// Path patterns that are tried together.
#[derive(Debug)]
struct PatternGroup {
    set: RegexSet,
    /// Ascending, in step with the set.
    orders: Box<[usize]>,
}

impl Candidates {
    /// `orders` are ascending positions in `entries`, filed so that a path probing them satisfies every
    /// condition on the path except a pattern or a start.
    pub(super) fn new(entries: &[Entry], orders: Vec<usize>) -> Self {
        Self::divide(entries, orders, &mut Vec::new())
    }

    /// The smallest order below `limit` whose conditions hold.
    pub(super) fn first_below(&self, limit: usize, entries: &[Entry], request: &RouteQuery<'_>) -> Option<usize> {
        if self.first >= limit {
            return None;
        }
        let mut best = self
            .list
            .iter()
            .copied()
            .take_while(|&order| order < limit)
            .find(|&order| holds(&entries[order].condition, request));
        for keyed in &self.keyed {
            if let Some(value) = keyed.key.read(request)
                && let Some(candidates) = keyed.values.get(&*value)
            {
                best = candidates.first_below(best.unwrap_or(limit), entries, request).or(best);
            }
        }
        for group in &self.patterns {
            best = group.first_below(best.unwrap_or(limit), entries, request).or(best);
        }
        best
    }

    fn divide(entries: &[Entry], mut orders: Vec<usize>, used: &mut Vec<Key>) -> Self {
        let first = orders.first().copied().unwrap_or(usize::MAX);
        let mut keyed = Vec::new();
        let outer = used.len();
        while orders.len() > LIST && keyed.len() < MAX_KEYS {
            let Some(key) = best_key(entries, &orders, used) else {
                break;
            };
            used.push(key.clone());
            let mut values: HashMap<Box<[u8]>, Vec<usize>, RandomState> = HashMap::default();
            orders.retain(|&order| match key.demanded(&entries[order].condition) {
                Some(value) => {
                    values.entry(value.into()).or_default().push(order);
                    false
                }
                None => true,
            });
            let divided = values.into_iter().map(|(value, orders)| (value, Self::divide(entries, orders, used)));
            let values = divided.collect();
            keyed.push(Keyed { key, values });
        }
        used.truncate(outer);
        let (patterns, list) = group_patterns(entries, orders);
        Self { first, list: list.into(), patterns: patterns.into(), keyed: keyed.into() }
    }
}

impl PatternGroup {
    fn first_below(&self, limit: usize, entries: &[Entry], request: &RouteQuery<'_>) -> Option<usize> {
        if *self.orders.first()? >= limit {
            return None;
        }
        let matched = self.set.matches(request.path);
        matched
            .iter()
            .map(|position| self.orders[position])
            .take_while(|&order| order < limit)
            .find(|&order| others_hold(&entries[order].condition, request))
    }
}

impl Key {
    fn read<'a>(&self, request: &RouteQuery<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Method => Some(Cow::Borrowed(request.method.as_str().as_bytes())),
            Self::Header(name) => header(request, name),
            Self::Query(name) => parameter(request, name),
        }
    }

    fn demanded<'a>(&self, condition: &'a Match) -> Option<&'a [u8]> {
        demands(condition).find(|(key, _)| key == self).map(|(_, value)| value)
    }
}

/// Everything a match demands an exact value of.
fn demands(condition: &Match) -> impl Iterator<Item = (Key, &[u8])> {
    let method = condition.method.iter().map(|method| (Key::Method, method.as_str().as_bytes()));
    let headers = condition.headers.iter().filter_map(|h| Some((Key::Header(h.name.clone()), exact(&h.value)?)));
    let query = condition.query.iter().filter_map(|q| Some((Key::Query(Arc::clone(&q.name)), exact(&q.value)?)));
    method.chain(headers).chain(query)
}

fn exact(condition: &ValueMatch) -> Option<&[u8]> {
    match condition {
        ValueMatch::Exact(value) => Some(value.as_bytes()),
        ValueMatch::Prefix(_) | ValueMatch::Regex(_) | ValueMatch::Present(_) => None,
    }
}

/// The key that spares most candidates at one look-up: those that demand something of it, less the largest
/// group that demands the same.
fn best_key(entries: &[Entry], orders: &[usize], used: &[Key]) -> Option<Key> {
    let mut counts: HashMap<Key, HashMap<&[u8], usize, RandomState>, RandomState> = HashMap::default();
    for &order in orders {
        let mut seen = HashSet::new();
        for (key, value) in demands(&entries[order].condition) {
            // Of two conditions on one header the first counts, as in `Key::demanded`.
            if seen.insert(key.clone()) && !used.contains(&key) {
                *counts.entry(key).or_default().entry(value).or_default() += 1;
            }
        }
    }
    let spared = |groups: &HashMap<&[u8], usize, RandomState>| {
        groups.values().sum::<usize>() - groups.values().max().copied().unwrap_or(0)
    };
    let (key, spared) = counts.into_iter().map(|(key, groups)| (key, spared(&groups))).max_by_key(|&(_, n)| n)?;
    (spared >= WORTH_A_KEY).then_some(key)
}

fn group_patterns(entries: &[Entry], orders: Vec<usize>) -> (Vec<PatternGroup>, Vec<usize>) {
    let (patterns, mut list): (Vec<usize>, Vec<usize>) =
        orders.into_iter().partition(|&order| matches!(entries[order].condition.path, PathMatch::Regex(_)));
    let mut groups = Vec::new();
    if patterns.len() > LIST {
        for chunk in patterns.chunks(PATTERNS) {
            add_group(entries, chunk, &mut groups, &mut list);
        }
    } else {
        list.extend(patterns);
    }
    list.sort_unstable();
    (groups, list)
}

/// A set that grows over its limit is halved; a single pattern that does goes into the list.
fn add_group(entries: &[Entry], orders: &[usize], groups: &mut Vec<PatternGroup>, list: &mut Vec<usize>) {
    let texts = orders.iter().filter_map(|&order| match &entries[order].condition.path {
        PathMatch::Regex(pattern) => Some(pattern.as_str()),
        PathMatch::Any
        | PathMatch::Exact(_)
        | PathMatch::Prefix(_)
        | PathMatch::Start(_)
        | PathMatch::GrpcMethod(_) => None,
    });
    match RegexSetBuilder::new(texts).size_limit(SET_BYTES).build() {
        Ok(set) => groups.push(PatternGroup { set, orders: orders.into() }),
        Err(_) if orders.len() > 1 => {
            let (left, right) = orders.split_at(orders.len() / 2);
            add_group(entries, left, groups, list);
            add_group(entries, right, groups, list);
        }
        Err(_) => list.extend(orders),
    }
}

fn holds(condition: &Match, request: &RouteQuery<'_>) -> bool {
    others_hold(condition, request)
        && match &condition.path {
            PathMatch::Regex(pattern) => pattern.is_match(request.path),
            PathMatch::Start(start) => request.path.starts_with(&**start),
            // The index has seen to it.
            PathMatch::Any | PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::GrpcMethod(_) => true,
        }
}

/// Up to this many are tried one by one: a look-up costs about as much as this many comparisons.
const LIST: usize = 8;
/// Keys at one level; each costs a look-up.
const MAX_KEYS: usize = 4;
/// A key that spares fewer costs more than it saves.
const WORTH_A_KEY: usize = 4;
/// Patterns in one set: larger sets are slower to compile than they save.
const PATTERNS: usize = 512;
/// Compiled size of one set.
const SET_BYTES: usize = 4 * 1024 * 1024;
