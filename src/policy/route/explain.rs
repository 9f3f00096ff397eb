//! Why a request takes the rule it takes, in plain words. Walks the rules in order, without the index.

use std::fmt;
use std::sync::Arc;

use http::Method;
use outrigger_config::model::{Match, PathMatch, ValueMatch};

use super::conditions::{header, parameter, path_holds, value_holds};
use super::hosts::Found;
use super::rules::Entry;
use super::{RouteQuery, RouteTable, RuleHit};

/// The whole story of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Which virtual host was consulted.
    pub host: HostChoice,
    /// Its rules in order, up to the winner.
    pub rules: Vec<RuleTrace>,
    /// The rule that won: what [`RouteTable::find`] returns.
    pub winner: Option<RuleHit>,
}

/// How the virtual host was chosen. Virtual hosts are counted in file order from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostChoice {
    /// A hostname equals the request's.
    Exact {
        /// The virtual host.
        virtual_host: usize,
        /// The hostname.
        name: String,
    },
    /// No hostname equals the request's, and this is the longest wildcard above it.
    Wildcard {
        /// The virtual host.
        virtual_host: usize,
        /// Without `*.`.
        suffix: String,
    },
    /// Neither: the host that takes any name.
    Any {
        /// The virtual host.
        virtual_host: usize,
    },
    /// None takes this name.
    None,
}

impl HostChoice {
    /// The virtual host, if there is one.
    #[must_use]
    pub const fn virtual_host(&self) -> Option<usize> {
        match self {
            Self::Exact { virtual_host, .. } | Self::Wildcard { virtual_host, .. } | Self::Any { virtual_host } => {
                Some(*virtual_host)
            }
            Self::None => None,
        }
    }
}

impl fmt::Display for HostChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { name, .. } => write!(f, "hostname `{name}` is the request's"),
            Self::Wildcard { suffix, .. } => {
                write!(f, "no hostname is the request's; `*.{suffix}` is the longest wildcard that covers it")
            }
            Self::Any { .. } => f.write_str("no hostname and no wildcard covers the request's; `*` takes the rest"),
            Self::None => f.write_str("no hostname and no wildcard covers the request's, and there is no `*`"),
        }
    }
}

/// What became of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTrace {
    /// Its number in the table.
    pub rule: usize,
    /// Its name.
    pub name: Arc<str>,
    /// Won or lost.
    pub outcome: RuleOutcome,
}

/// Won or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleOutcome {
    /// All conditions of this match held; `None`: the rule has no conditions.
    Won(Option<usize>),
    /// For each match, in order, the first condition that failed.
    Lost(Vec<Mismatch>),
}

/// A condition that did not hold. [`fmt::Display`] says it in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The path is another one.
    PathNotEqual(Arc<str>),
    /// The path is not below this prefix (empty: `/`).
    PathNotUnder(Arc<str>),
    /// The path does not match this pattern.
    PathNotLike(String),
    /// The last segment of the path is not this gRPC method.
    NotGrpcMethod(Arc<str>),
    /// Another method.
    Method {
        /// What the rule wants.
        wanted: Method,
        /// What the request has.
        actual: Method,
    },
    /// The rule wants gRPC.
    NotGrpc,
    /// A header.
    Header {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: ValueProblem,
    },
    /// A query parameter.
    Query {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: ValueProblem,
    },
}

/// What is wrong with a header or query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueProblem {
    /// It is not there.
    Missing,
    /// It is there and must not be.
    Unwanted,
    /// It has another value.
    NotEqual {
        /// What the rule wants.
        wanted: Arc<str>,
        /// What the request has.
        actual: String,
    },
    /// It starts otherwise.
    NotPrefixed {
        /// What the rule wants it to start with.
        wanted: Arc<str>,
        /// What the request has.
        actual: String,
    },
    /// It does not match the pattern.
    NotLike {
        /// The pattern.
        wanted: String,
        /// What the request has.
        actual: String,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathNotEqual(path) => write!(f, "the path is not `{path}`"),
            Self::PathNotUnder(prefix) if prefix.is_empty() => f.write_str("the path does not start with `/`"),
            Self::PathNotUnder(prefix) => write!(f, "the path is not `{prefix}` or below it"),
            Self::PathNotLike(pattern) => {
                write!(f, "the path does not match the pattern `{pattern}`")
            }
            Self::NotGrpcMethod(method) => write!(f, "the gRPC method is not `{method}`"),
            Self::Method { wanted, actual } => write!(f, "the method is {actual}, not {wanted}"),
            Self::NotGrpc => f.write_str("the request is not gRPC (content-type is not application/grpc)"),
            Self::Header { name, problem } => write!(f, "header `{name}` {problem}"),
            Self::Query { name, problem } => write!(f, "query parameter `{name}` {problem}"),
        }
    }
}

impl fmt::Display for ValueProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Unwanted => f.write_str("is there and must not be"),
            Self::NotEqual { wanted, actual } => write!(f, "is `{actual}`, not `{wanted}`"),
            Self::NotPrefixed { wanted, actual } => {
                write!(f, "is `{actual}`, which does not start with `{wanted}`")
            }
            Self::NotLike { wanted, actual } => write!(f, "is `{actual}`, which does not match the pattern `{wanted}`"),
        }
    }
}

impl RouteTable {
    /// Explains what [`RouteTable::find`] would decide.
    #[must_use]
    pub fn explain(&self, request: &RouteQuery<'_>) -> Explanation {
        let found = self.index.find(request.host, request.port);
        let host = match found {
            Some(Found::Exact(virtual_host)) => HostChoice::Exact { virtual_host, name: request.host.to_owned() },
            Some(Found::Wildcard(virtual_host, length)) => {
                HostChoice::Wildcard { virtual_host, suffix: request.host[request.host.len() - length..].to_owned() }
            }
            Some(Found::Any(virtual_host)) => HostChoice::Any { virtual_host },
            None => HostChoice::None,
        };
        let entries = found.map_or(&[][..], |found| &self.hosts[found.index()].entries);
        let mut rules = Vec::new();
        for matches in entries.chunk_by(|a, b| a.rule == b.rule) {
            let verdicts = matches.iter().map(|entry| check(entry, request).map_or(Ok(entry), Err));
            match first_won(verdicts) {
                Ok(entry) => {
                    rules.push(self.trace(entry.rule, RuleOutcome::Won(entry.match_index)));
                    return Explanation { host, rules, winner: Some(entry.hit()) };
                }
                Err(failures) => {
                    rules.push(self.trace(matches[0].rule, RuleOutcome::Lost(failures)));
                }
            }
        }
        Explanation { host, rules, winner: None }
    }

    fn trace(&self, rule: usize, outcome: RuleOutcome) -> RuleTrace {
        RuleTrace { rule, name: Arc::clone(&self.names[rule]), outcome }
    }
}

/// The first match that held, or why each did not.
fn first_won<'a>(verdicts: impl Iterator<Item = Result<&'a Entry, Mismatch>>) -> Result<&'a Entry, Vec<Mismatch>> {
    let mut failures = Vec::new();
    for verdict in verdicts {
        match verdict {
            Ok(entry) => return Ok(entry),
            Err(mismatch) => failures.push(mismatch),
        }
    }
    Err(failures)
}

/// The first condition that fails.
fn check(entry: &Entry, request: &RouteQuery<'_>) -> Option<Mismatch> {
    let Match { path, method, headers, query, grpc } = &entry.condition;
    check_path(path, request.path)
        .or_else(|| {
            let wanted = method.as_ref().filter(|&method| method != request.method)?;
            Some(Mismatch::Method { wanted: wanted.clone(), actual: request.method.clone() })
        })
        .or_else(|| (*grpc && !request.is_grpc).then_some(Mismatch::NotGrpc))
        .or_else(|| {
            headers.iter().find_map(|condition| {
                let problem = check_value(&condition.value, header(request, &condition.name).as_deref())?;
                Some(Mismatch::Header { name: condition.name.to_string(), problem })
            })
        })
        .or_else(|| {
            query.iter().find_map(|condition| {
                let problem = check_value(&condition.value, parameter(request, &condition.name).as_deref())?;
                Some(Mismatch::Query { name: condition.name.to_string(), problem })
            })
        })
}

fn check_path(condition: &PathMatch, path: &str) -> Option<Mismatch> {
    if path_holds(condition, path) {
        return None;
    }
    match condition {
        PathMatch::Any => None,
        PathMatch::Exact(wanted) => Some(Mismatch::PathNotEqual(Arc::clone(wanted))),
        PathMatch::Prefix(prefix) => Some(Mismatch::PathNotUnder(Arc::clone(prefix))),
        PathMatch::Start(start) => Some(Mismatch::PathNotLike(format!("{start}…"))),
        PathMatch::Regex(pattern) => Some(Mismatch::PathNotLike(pattern.as_str().to_owned())),
        PathMatch::GrpcMethod(method) => Some(Mismatch::NotGrpcMethod(Arc::clone(method))),
    }
}

fn check_value(condition: &ValueMatch, value: Option<&[u8]>) -> Option<ValueProblem> {
    if value_holds(condition, value) {
        return None;
    }
    let Some(actual) = value else {
        return Some(ValueProblem::Missing);
    };
    let actual = String::from_utf8_lossy(actual).into_owned();
    Some(match condition {
        ValueMatch::Present(_) => ValueProblem::Unwanted,
        ValueMatch::Exact(wanted) => ValueProblem::NotEqual { wanted: Arc::clone(wanted), actual },
        ValueMatch::Prefix(wanted) => ValueProblem::NotPrefixed { wanted: Arc::clone(wanted), actual },
        ValueMatch::Regex(pattern) => ValueProblem::NotLike { wanted: pattern.as_str().to_owned(), actual },
    })
}
