//! Lists of alternatives, each a conjunction: all of them, any of them, none of them.

use outrigger_config::model::{AccessOperation, AccessSource, GrpcOperation, HeaderMatch};

use super::super::reader::At;

/// Conditions as lists of alternatives.
pub(super) trait Conjunction: Sized + Default + Clone + PartialEq {
    /// Both hold; `None` where one list would have to stand for two.
    fn and(self, other: Self) -> Option<Self>;
    /// Either holds, said by one; `None` where that takes two.
    fn or(&self, other: &Self) -> Option<Self>;
    /// It does not hold; `None` where that cannot be said.
    fn not(self) -> Option<Self>;
}

/// Alternatives of which any holds, made as few as they can be.
pub(super) fn any<C: Conjunction>(list: Vec<Vec<C>>) -> Vec<C> {
    let mut out: Vec<C> = Vec::new();
    for one in list.into_iter().flatten() {
        match out.last().and_then(|last| last.or(&one)) {
            Some(both) => {
                if let Some(last) = out.last_mut() {
                    *last = both;
                }
            }
            None => out.push(one),
        }
    }
    out
}

/// Every combination of the alternatives of each.
pub(super) fn all<C: Conjunction>(at: &At<'_>, list: Vec<Vec<C>>) -> Option<Vec<C>> {
    const MOST: usize = 128;
    let mut out = vec![C::default()];
    for alternatives in list {
        let mut next = Vec::new();
        for left in &out {
            for right in &alternatives {
                let Some(both) = left.clone().and(right.clone()) else {
                    at.refuse("two lists of alternatives about the same must both hold; write one list");
                    return None;
                };
                next.push(both);
                if next.len() > MOST {
                    at.refuse("these conditions have too many combinations; write them as several policies");
                    return None;
                }
            }
        }
        out = next;
    }
    Some(out)
}

/// Any of `first` holds where either is empty; where both have entries one list cannot say it.
pub(super) fn join<T>(first: Vec<T>, second: Vec<T>) -> Option<Vec<T>> {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => Some(second),
        (_, true) => Some(first),
        (false, false) => None,
    }
}

pub(super) fn both<T>(mut first: Vec<T>, second: Vec<T>) -> Vec<T> {
    first.extend(second);
    first
}

macro_rules! conjunction {
    ($type:ty { $($list:ident / $not:ident),* } keep { $($kept:ident),* }) => {
        impl Conjunction for $type {
            fn and(self, other: Self) -> Option<Self> {
                let Self { $($list, $not,)* $($kept,)* } = self;
                Some(Self {
                    $($list: join($list, other.$list)?, $not: both($not, other.$not),)*
                    $($kept: and_kept::$kept($kept, other.$kept)?,)*
                })
            }

            fn or(&self, other: &Self) -> Option<Self> {
                $({
                    let left = Self { $list: self.$list.clone(), ..Self::default() };
                    let right = Self { $list: other.$list.clone(), ..Self::default() };
                    if !self.$list.is_empty() && !other.$list.is_empty() && *self == left && *other == right {
                        return Some(Self { $list: both(self.$list.clone(), other.$list.clone()), ..Self::default() });
                    }
                })*
                or_kept(self, other)
            }

            fn not(self) -> Option<Self> {
                $({
                    let left = Self { $list: self.$list.clone(), ..Self::default() };
                    if !self.$list.is_empty() && self == left {
                        return Some(Self { $not: self.$list, ..Self::default() });
                    }
                    let right = Self { $not: self.$not.clone(), ..Self::default() };
                    if self.$not.len() == 1 && self == right {
                        return Some(Self { $list: self.$not, ..Self::default() });
                    }
                })*
                None
            }
        }
    };
}

/// Lists that are joined in their own way.
mod and_kept {
    use super::{GrpcOperation, HeaderMatch, both, join};

    // All must hold, so there may be more of them.
    pub(super) fn headers(first: Vec<HeaderMatch>, second: Vec<HeaderMatch>) -> Option<Vec<HeaderMatch>> {
        Some(both(first, second))
    }

    pub(super) fn grpc(first: Vec<GrpcOperation>, second: Vec<GrpcOperation>) -> Option<Vec<GrpcOperation>> {
        join(first, second)
    }
}

pub(super) trait OrKept: Sized {
    fn or_kept(first: &Self, second: &Self) -> Option<Self>;
}

pub(super) fn or_kept<T: OrKept>(first: &T, second: &T) -> Option<T> {
    T::or_kept(first, second)
}

impl OrKept for AccessSource {
    fn or_kept(_: &Self, _: &Self) -> Option<Self> {
        None
    }
}

impl OrKept for AccessOperation {
    fn or_kept(first: &Self, second: &Self) -> Option<Self> {
        let only = |one: &Self| Self { grpc: one.grpc.clone(), ..Self::default() };
        let joins =
            !first.grpc.is_empty() && !second.grpc.is_empty() && *first == only(first) && *second == only(second);
        joins.then(|| Self { grpc: both(first.grpc.clone(), second.grpc.clone()), ..Self::default() })
    }
}

conjunction!(AccessSource {
    identities / not_identities,
    namespaces / not_namespaces,
    trust_domains / not_trust_domains,
    addresses / not_addresses
} keep {});

conjunction!(AccessOperation {
    hosts / not_hosts,
    paths / not_paths,
    methods / not_methods,
    ports / not_ports
} keep { headers, grpc });

pub(super) fn negated<C: Conjunction>(at: &At<'_>, list: Vec<C>) -> Option<Vec<C>> {
    // Not (a or b) is not a and not b.
    let parts: Option<Vec<Vec<C>>> = list.into_iter().map(|one| one.not().map(|one| vec![one])).collect();
    match parts {
        Some(parts) => all(at, parts),
        None => {
            at.refuse("only a list of alternatives about one thing can be inverted; write it so");
            None
        }
    }
}
