//! Who may do what: one decision for a request, out of who asks, from where, and what for.
//!
//! A matching `deny` decides before any `allow`, in file order; where neither matches, the default does. `audit`
//! rules decide nothing and are reported; shadow rules are evaluated as if they counted, and reported only where
//! they would have changed the outcome.
//!
//! **Authorization and routing read the same request**: both are given one [`RouteQuery`], so the host, the path,
//! the method and the headers are the same bytes, and both compare them with the same functions. On top of that a
//! request is taken at its worst. What an application behind this proxy may read in another way (`;parameters`,
//! encoded slashes, a header on several lines) is let through only if every reading is allowed, and refused if any
//! reading is denied: see `reading.rs` and `rule.rs`.

mod connection;
mod index;
mod reading;
mod rule;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use outrigger_config::model::{self, Access, AccessAction, Place};
use outrigger_config::spiffe::SpiffeId;
use smallvec::SmallVec;

pub use self::connection::Connection;
use self::index::Index;
use self::reading::Readings;
use self::rule::{Need, Rule};
use super::route::RouteQuery;

/// What a verified token claims.
pub trait ClaimSource: fmt::Debug + Send + Sync {
    /// The provider that verified the token.
    fn provider(&self) -> &str;

    /// A claim by its path into nested objects.
    fn get(&self, path: &[Arc<str>]) -> Option<&serde_json::Value>;
}

/// The token of a request.
#[derive(Debug, Clone, Copy)]
pub enum Claims<'a> {
    /// There is none: no condition on a claim holds.
    None,
    /// A verified one.
    Verified(&'a dyn ClaimSource),
    /// The request only announces another one (a CORS preflight, which never carries a token). Conditions on
    /// claims stand in the way of no `allow` and fulfil no `deny`.
    Announced,
}

/// What authorization reads of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What routing reads: the very same.
    pub route: &'a RouteQuery<'a>,
    /// The caller's verified identity.
    pub identity: Option<&'a SpiffeId>,
    /// The address of the connection's other end.
    pub address: IpAddr,
    /// The port that the connection was made to.
    pub port: u16,
    /// Its token.
    pub claims: Claims<'a>,
}

/// A rule of a policy, by its number in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u32);

/// What was decided, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Let through or refused.
    pub access: Access,
    /// The rule that decided; `None`: the default.
    pub rule: Option<RuleId>,
    /// The shadow rule that would have turned the decision around.
    pub shadow: Option<RuleId>,
    /// The audit rules that matched, in file order.
    pub audits: SmallVec<[RuleId; 2]>,
}

/// A policy ready to run. Pure; costs no allocation for a request whose path has one reading.
#[derive(Debug)]
pub struct Policy {
    config: model::Authorization,
    rules: Box<[Rule]>,
    deny: Index,
    shadow_deny: Index,
    allow: Index,
    shadow_allow: Index,
    audit: Index,
    reads_paths: bool,
}

impl Policy {
    /// Compiles a policy. Cannot fail: what could be misread was refused by validation.
    #[must_use]
    pub fn compile(config: &model::Authorization) -> Self {
        let rules: Box<[Rule]> = config.rules.iter().map(Rule::compile).collect();
        let index = |action: AccessAction, shadow: Option<bool>| {
            let wanted =
                |rule: &model::AccessRule| rule.action == action && shadow.is_none_or(|shadow| rule.shadow == shadow);
            let ids = (0..).zip(&config.rules).filter(|(_, rule)| wanted(rule)).map(|(id, _)| id);
            Index::new(&rules, ids.collect())
        };
        Self {
            deny: index(AccessAction::Deny, Some(false)),
            shadow_deny: index(AccessAction::Deny, Some(true)),
            allow: index(AccessAction::Allow, Some(false)),
            shadow_allow: index(AccessAction::Allow, Some(true)),
            audit: index(AccessAction::Audit, None),
            reads_paths: rules.iter().any(Rule::reads_path),
            config: config.clone(),
            rules,
        }
    }

    /// Decides about a request.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let readings = if self.reads_paths { Readings::of(request.route.path) } else { Readings::plain() };
        let first = |index: &Index, need| index.first(&self.rules, request, &readings, need).map(RuleId);
        let found = |action, shadow, need| match (action, shadow) {
            (AccessAction::Deny, false) => first(&self.deny, need),
            (AccessAction::Deny, true) => first(&self.shadow_deny, need),
            (AccessAction::Allow, false) => first(&self.allow, need),
            (AccessAction::Allow, true) => first(&self.shadow_allow, need),
            (AccessAction::Audit, _) => None,
        };
        let mut audits = SmallVec::new();
        self.audit.each(&self.rules, request, &readings, |id| audits.push(RuleId(id)));
        Decision { audits, ..self.outcome(found) }
    }

    /// What follows from the first rules that hold: of an action, in shadow or not, with a need.
    fn outcome(&self, first: impl Fn(AccessAction, bool, Need) -> Option<RuleId>) -> Decision {
        let denied = first(AccessAction::Deny, false, Need::Suspected);
        let allowed = if denied.is_none() { first(AccessAction::Allow, false, Need::Certain) } else { None };
        let access = match (denied, allowed) {
            (Some(_), _) => Access::Deny,
            (None, Some(_)) => Access::Allow,
            (None, None) => self.config.default,
        };
        let shadow = match (access, denied) {
            (Access::Allow, _) => first(AccessAction::Deny, true, Need::Suspected),
            // An `allow` cannot undo what a rule denies.
            (Access::Deny, Some(_)) => None,
            (Access::Deny, None) => match first(AccessAction::Allow, true, Need::Certain) {
                Some(_) if first(AccessAction::Deny, true, Need::Suspected).is_some() => None,
                shadow => shadow,
            },
        };
        Decision { access, rule: denied.or(allowed), shadow, audits: SmallVec::new() }
    }

    /// As it is configured.
    #[must_use]
    pub fn config(&self) -> &model::Authorization {
        &self.config
    }

    /// The name of a rule; that of the default is [`DEFAULT`].
    #[must_use]
    pub fn name(&self, rule: Option<RuleId>) -> &str {
        rule.and_then(|rule| self.config.rules.get(rule.index())).map_or(DEFAULT, |rule| &rule.name)
    }

    /// Where the rule, or else the policy with its default, is written.
    #[must_use]
    pub fn place(&self, rule: Option<RuleId>) -> &Place {
        rule.and_then(|rule| self.config.rules.get(rule.index())).map_or(&self.config.place, |rule| &rule.place)
    }
}

impl RuleId {
    /// Its index in the policy's rules.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the deciding rule is called where no rule decided.
pub const DEFAULT: &str = "default";
