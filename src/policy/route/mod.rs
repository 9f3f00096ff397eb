//! Which rule a request belongs to.
//!
//! First the virtual host: the one with the exact hostname and the port that the request names, else with the exact
//! hostname, else the longest wildcard, else `*`. **Only that
//! virtual host is consulted**: when none of its rules matches, the request has no route, even if a less
//! specific virtual host would have had one. Then its rules in order; the first match wins.
//!
//! The result is that of an ordered scan; the cost is not. Hostnames are hash look-ups (one, and one for each
//! label when wildcards of that length exist). In a host, matches are filed by exact path, by path prefix (one
//! look-up for each depth at which prefixes exist), by gRPC method, and what remains in one list; the smallest
//! order among the candidates whose other conditions hold wins. Candidates that share a path are filed again
//! by method, exact header or exact query value when that divides them, and regular expressions by their
//! literal prefix, then as sets.
//!
//! What stays linear: matches of one path (or of none) that differ only in conditions that are no exact value
//! (presence, prefix, pattern) or each in a different header name.

mod candidates;
mod conditions;
mod explain;
mod hosts;
mod literal;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, Method};
use outrigger_config::model;

pub(super) use conditions::{header, lines_hold, path_holds, percent_decode, value_holds};
pub use explain::{Explanation, HostChoice, Mismatch, RuleOutcome, RuleTrace, ValueProblem};
pub(crate) use hosts::HostIndex;
use rules::HostRules;
pub(super) use rules::normal_form;

/// What routing reads of a request.
#[derive(Debug, Clone, Copy)]
pub struct RouteQuery<'a> {
    /// The host as [`super::host::parse_authority`] gives it, without port; empty when there is none.
    pub host: &'a str,
    /// The port that the request names beside its host.
    pub port: Option<u16>,
    /// The path in normal form ([`super::path::normalize`]), without query.
    pub path: &'a str,
    /// The query without `?`.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The headers. A condition on `host` reads [`RouteQuery::host`] instead.
    pub headers: &'a HeaderMap,
    /// Whether the request is gRPC (`content-type: application/grpc…`).
    pub is_grpc: bool,
}

/// The rule that won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleHit {
    /// Its number in the table: rules of all virtual hosts, counted in file order from 0.
    pub rule: usize,
    /// Which of its matches held; `None` for a rule without matches.
    pub match_index: Option<usize>,
    /// How many bytes of the path the match's prefix covers (a prefix rewrite replaces exactly these);
    /// 0 for a match that is no path prefix.
    pub prefix_len: usize,
}

/// A route table ready to run. It carries no actions: [`RuleHit::rule`] is an index into the caller's list.
#[derive(Debug)]
pub struct RouteTable {
    index: HostIndex,
    hosts: Vec<HostRules>,
    names: Vec<Arc<str>>,
}

impl RouteTable {
    /// Compiles a table. Exact paths and prefixes are brought into the path normal form, so that `/caf%c3%a9`
    /// and `/%63af%C3%A9` in a file mean what requests are compared with.
    #[must_use]
    pub fn compile(table: &model::RouteTable) -> Self {
        let mut first_rule = 0;
        let hosts = table
            .hosts
            .iter()
            .map(|host| {
                let rules = HostRules::compile(first_rule, &host.rules);
                first_rule += host.rules.len();
                rules
            })
            .collect();
        let names = table.hosts.iter().flat_map(|host| &host.rules).map(|rule| Arc::clone(&rule.name)).collect();
        Self { index: HostIndex::new(table.hosts.iter().map(|host| &*host.hostnames)), hosts, names }
    }

    /// Finds the rule of a request.
    #[must_use]
    pub fn find(&self, request: &RouteQuery<'_>) -> Option<RuleHit> {
        let host = self.index.find(request.host, request.port)?.index();
        self.hosts[host].find(request)
    }

    /// How many rules the table holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
