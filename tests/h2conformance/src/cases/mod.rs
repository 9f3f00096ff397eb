//! The cases, by the section of the RFC that states the rule.

mod connection;
mod exchange;
mod flow;
mod frames;
mod hpack;
mod streams;

use crate::script::{Requests, Script};
use crate::{Case, Scope, Target};

pub(crate) fn all(target: &Target) -> Vec<Case> {
    let requests = Requests { authority: target.authority.clone(), path: target.path.clone() };
    let mut list = List { section: "", number: 0, cases: Vec::new() };
    connection::add(&mut list, &requests);
    streams::add(&mut list, &requests);
    frames::add(&mut list, &requests);
    flow::add(&mut list, &requests);
    exchange::add(&mut list, &requests);
    hpack::add(&mut list, &requests);
    list.cases
}

/// Numbers the cases within their sections.
struct List {
    section: &'static str,
    number: usize,
    cases: Vec<Case>,
}

impl List {
    fn section(&mut self, section: &'static str) {
        self.section = section;
        self.number = 0;
    }

    /// A rule that h2spec checks.
    fn case(&mut self, rule: &'static str, script: Script) {
        self.add(Scope::H2spec, rule, script);
    }

    /// A rule that it does not.
    fn wider(&mut self, rule: &'static str, script: Script) {
        self.add(Scope::Wider, rule, script);
    }

    fn add(&mut self, scope: Scope, rule: &'static str, script: Script) {
        self.number += 1;
        self.cases.push(Case { name: format!("{}/{}", self.section, self.number), scope, rule, script });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_and_every_rule_is_used_once() {
        let cases = all(&Target::new(([127, 0, 0, 1], 1).into()));
        let names: HashSet<_> = cases.iter().map(Case::name).collect();
        let rules: HashSet<_> = cases.iter().map(Case::rule).collect();
        assert_eq!((names.len(), rules.len()), (cases.len(), cases.len()));
    }
}
