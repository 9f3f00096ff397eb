//! RBAC filters as one authorization policy.
//!
//! Envoy's filters stand one behind the other: all that deny come first here, wherever they stood, which is the same as
//! long as one filter at most allows. Principals and permissions are trees; ours are lists of alternatives, each a
//! conjunction. What does not fit is refused.

mod alternatives;
mod permission;
mod principal;

use std::collections::HashSet;
use std::sync::Arc;

use outrigger_config::grammar;
use outrigger_config::model::{
    Access, AccessAction, AccessOperation, AccessRule, AccessSource, Authorization, ClaimMatch, Listener, ValueMatch,
};

use self::permission::operation;
use self::principal::source;
use super::reader::At;
use crate::encode::access::REST;
use crate::extensions::{self, AuthorizationExtension};
use crate::pb::{http_rbac, rbac};

/// How deep trees of conditions may be.
const MAX_DEPTH: usize = 8;

/// What RBAC filters say, together.
#[derive(Default)]
pub(super) struct Guards {
    there: bool,
    allows: bool,
    /// Everything that is not denied is allowed, by a policy of that name.
    rest: bool,
    rules: Vec<AccessRule>,
    names: HashSet<Arc<str>>,
}

impl Guards {
    pub(super) fn add(&mut self, at: &At<'_>, message: &http_rbac::Rbac, own: Option<&AuthorizationExtension>) {
        unpack!(at, message => http_rbac::Rbac {
            take: [rules, shadow_rules],
            ignore: [
                rules_stat_prefix, // metrics are ours
                shadow_rules_stat_prefix, // likewise
                track_per_rule_stats, // likewise
            ],
            refuse: [matcher, shadow_matcher],
        });
        self.there = true;
        for (field, message, shadow) in [("rules", rules, false), ("shadow_rules", shadow_rules, true)] {
            if let Some(message) = message {
                self.rules(&at.field(field), message, (shadow, own));
            }
        }
    }

    fn rules(&mut self, at: &At<'_>, message: &rbac::Rbac, (shadow, own): (bool, Option<&AuthorizationExtension>)) {
        unpack!(at, message => rbac::Rbac { take: [action, policies], ignore: [], refuse: [audit_logging_options] });
        let action = match rbac::rbac::Action::try_from(*action) {
            Ok(rbac::rbac::Action::Allow) => AccessAction::Allow,
            Ok(rbac::rbac::Action::Deny) => AccessAction::Deny,
            Ok(rbac::rbac::Action::Log) => AccessAction::Audit,
            Err(_) => return at.field("action").refuse("this is not an action"),
        };
        if action == AccessAction::Allow && !shadow {
            if self.allows {
                at.refuse("a second filter that allows: both would have to; put the rules into one");
            }
            self.allows = true;
        }
        let mut names: Vec<&String> = policies.keys().collect();
        names.sort();
        for name in names {
            let at = at.key("policies", name);
            if name == REST && action == AccessAction::Allow && !shadow && is_everything(&policies[name]) {
                self.rest = true;
                continue;
            }
            let own = own.and_then(|own| own.rules.iter().find(|own| own.name == *name));
            let Some((from, to)) = policy(&at, &policies[name], own.is_some_and(|own| !own.claims.is_empty())) else {
                continue;
            };
            let claims = own.map_or(&[][..], |own| &own.claims);
            let name = self.unique(name);
            self.rules.push(AccessRule {
                name,
                action,
                shadow: shadow || own.is_some_and(|own| own.shadow),
                from,
                to,
                claims: claims.iter().filter_map(|message| claim(&at, message)).collect(),
                place: at.place_of(own.and_then(|own| own.place.as_ref())),
            });
        }
    }

    fn unique(&mut self, given: &str) -> Arc<str> {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "._-:/|@~".contains(c) { c } else { '_' };
        let cleaned: String = given.chars().map(fits).take(200).collect();
        let cleaned = if cleaned.is_empty() { "rule".to_owned() } else { cleaned };
        let mut name: Arc<str> = if grammar::name(given).is_ok() { given.into() } else { cleaned.as_str().into() };
        let mut count = 1_usize;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{cleaned}~{count}").into();
        }
        name
    }

    /// The policy, where there is any filter.
    pub(super) fn finish(
        self,
        at: &At<'_>,
        own: Option<&AuthorizationExtension>,
        listener: &str,
    ) -> Option<Authorization> {
        let Self { there, allows, rest, mut rules, names: _ } = self;
        if !there && own.is_none() {
            return None;
        }
        if let Some(own) = own {
            let order =
                |rule: &AccessRule| own.rules.iter().position(|own| own.name == *rule.name).unwrap_or(usize::MAX);
            rules.sort_by_key(order);
        }
        let name = match own {
            Some(own) => at.held(grammar::name(&own.name))?,
            None => listener.into(),
        };
        Some(Authorization {
            name,
            default: if allows && !rest { Access::Deny } else { Access::Allow },
            rules,
            place: at.place_of(own.and_then(|own| own.place.as_ref())),
        })
    }
}

/// Names the policy of a listener.
pub(super) fn refer(listener: &mut Listener, policy: Option<&Authorization>) {
    listener.authorization = policy.map(|policy| policy.name.clone());
}

/// Whether a policy takes every request of everybody: another one may have the name that ours has.
fn is_everything(policy: &rbac::Policy) -> bool {
    let all = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(rbac::permission::Rule::Any(true)) }],
        principals: vec![rbac::Principal { identifier: Some(rbac::principal::Identifier::Any(true)) }],
        ..Default::default()
    };
    *policy == all
}

pub(super) fn value(at: &At<'_>, value: &extensions::Value) -> Option<ValueMatch> {
    use extensions::value::Condition;
    match value.condition.as_ref()? {
        Condition::Exact(text) => Some(ValueMatch::Exact(text.as_str().into())),
        Condition::Prefix(text) => Some(ValueMatch::Prefix(text.as_str().into())),
        Condition::Regex(text) => {
            at.held(outrigger_config::pattern::whole(text).map_err(|error| error.to_string())).map(ValueMatch::Regex)
        }
        Condition::Present(wanted) => Some(ValueMatch::Present(*wanted)),
    }
}

fn claim(at: &At<'_>, message: &extensions::Claim) -> Option<ClaimMatch> {
    let extensions::Claim { provider, path, values } = message;
    let read: Vec<ValueMatch> = values.iter().filter_map(|one| value(at, one)).collect();
    if read.len() != values.len() {
        // A condition that is passed over would let more through.
        at.refuse("a condition on a claim says nothing");
        return None;
    }
    Some(ClaimMatch {
        provider: provider.as_deref().map(Arc::from),
        path: path.iter().map(|name| Arc::from(name.as_str())).collect(),
        values: read,
    })
}

/// Sources and operations. `claims`: the conditions on claims are in the one principal, behind the sources, and known.
fn policy(at: &At<'_>, message: &rbac::Policy, claims: bool) -> Option<(Vec<AccessSource>, Vec<AccessOperation>)> {
    unpack!(at, message => rbac::Policy {
        take: [permissions, principals],
        ignore: [],
        refuse: [condition, checked_condition, cel_config],
    });
    let behind: Option<&[rbac::Principal]> = match (claims, &principals[..]) {
        (true, [rbac::Principal { identifier: Some(rbac::principal::Identifier::AndIds(set)) }]) => {
            match set.ids.first().and_then(|first| first.identifier.as_ref()) {
                Some(rbac::principal::Identifier::OrIds(sources)) => Some(&sources.ids),
                _ => None,
            }
        }
        (true, _) => None,
        (false, list) => Some(list),
    };
    let Some(principals) = behind else {
        at.field("principals").refuse("the conditions on claims are not where they belong");
        return None;
    };
    let mut from: Option<Vec<AccessSource>> = Some(Vec::new());
    for (index, message) in principals.iter().enumerate() {
        let found = source(&at.item("principals", index), message, 0);
        from = from.zip(found).map(|(mut from, found)| {
            from.extend(found);
            from
        });
    }
    let mut to: Option<Vec<AccessOperation>> = Some(Vec::new());
    for (index, message) in permissions.iter().enumerate() {
        let found = operation(&at.item("permissions", index), message, 0);
        to = to.zip(found).map(|(mut to, found)| {
            to.extend(found);
            to
        });
    }
    if principals.is_empty() || permissions.is_empty() {
        at.refuse("a policy has principals and permissions");
        return None;
    }
    let (mut from, mut to) = (from?, to?);
    // One that says nothing takes everybody, or everything.
    if from.contains(&AccessSource::default()) {
        from.clear();
    }
    if to.contains(&AccessOperation::default()) {
        to.clear();
    }
    Some((from, to))
}

/// Whether a rule is about who the caller is.
pub(super) fn names_identities(policy: &Authorization) -> bool {
    policy.rules.iter().flat_map(|rule| &rule.from).any(|source| {
        let AccessSource {
            identities,
            not_identities,
            namespaces,
            not_namespaces,
            trust_domains,
            not_trust_domains,
            addresses: _,
            not_addresses: _,
        } = source;
        let nothing = identities.is_empty() && not_identities.is_empty();
        let nowhere = namespaces.is_empty() && not_namespaces.is_empty();
        !(nothing && nowhere && trust_domains.is_empty() && not_trust_domains.is_empty())
    })
}
