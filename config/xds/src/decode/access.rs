//! RBAC filters as one authorization policy.
//!
//! Envoy's filters stand one behind the other: all that deny come first here, wherever they stood, which is the same as
//! long as one filter at most allows. Principals and permissions are trees; ours are lists of alternatives, each a
//! conjunction. What does not fit is refused.

use std::collections::HashSet;
use std::sync::Arc;

use outrigger_config::grammar;
use outrigger_config::model::{
    Access, AccessAction, AccessOperation, AccessRule, AccessSource, Authorization, ClaimMatch, GrpcOperation,
    HeaderMatch, HostPattern, Listener, PathMatch, ValueMatch,
};
use outrigger_config::spiffe::{IdentityPattern, TrustDomain};

use super::filters::unescaped;
use super::matching::{self, Header};
use super::reader::At;
use crate::encode::access::{GRPC, REST, domain_pattern, host_pattern, namespace_pattern};
use crate::encode::matching::method_pattern;
use crate::extensions::{self, AuthorizationExtension};
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{core, http_rbac, matcher, rbac, route};

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

/// Conditions as lists of alternatives.
trait Conjunction: Sized + Default + Clone + PartialEq {
    /// Both hold; `None` where one list would have to stand for two.
    fn and(self, other: Self) -> Option<Self>;
    /// Either holds, said by one; `None` where that takes two.
    fn or(&self, other: &Self) -> Option<Self>;
    /// It does not hold; `None` where that cannot be said.
    fn not(self) -> Option<Self>;
}

/// Alternatives of which any holds, made as few as they can be.
fn any<C: Conjunction>(list: Vec<Vec<C>>) -> Vec<C> {
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
fn all<C: Conjunction>(at: &At<'_>, list: Vec<Vec<C>>) -> Option<Vec<C>> {
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
fn join<T>(first: Vec<T>, second: Vec<T>) -> Option<Vec<T>> {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => Some(second),
        (_, true) => Some(first),
        (false, false) => None,
    }
}

fn both<T>(mut first: Vec<T>, second: Vec<T>) -> Vec<T> {
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

trait OrKept: Sized {
    fn or_kept(first: &Self, second: &Self) -> Option<Self>;
}

fn or_kept<T: OrKept>(first: &T, second: &T) -> Option<T> {
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

fn negated<C: Conjunction>(at: &At<'_>, list: Vec<C>) -> Option<Vec<C>> {
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

fn source(at: &At<'_>, message: &rbac::Principal, depth: usize) -> Option<Vec<AccessSource>> {
    use rbac::principal::Identifier;
    if depth > MAX_DEPTH {
        at.refuse("these conditions are too deep");
        return None;
    }
    let unsupported = |field: &str| {
        at.field(field).refuse("this is not supported; name identities or addresses");
        None
    };
    let addresses = |field: &str, range: &core::CidrRange| {
        cidr(&at.field(field), range).map(|range| vec![AccessSource { addresses: vec![range], ..Default::default() }])
    };
    match message.identifier.as_ref() {
        Some(Identifier::Any(true)) => Some(vec![AccessSource::default()]),
        Some(Identifier::AndIds(set)) => {
            let each = set.ids.iter().enumerate();
            let list: Vec<Option<Vec<AccessSource>>> = each
                .map(|(index, message)| source(&at.field("and_ids").item("ids", index), message, depth + 1))
                .collect();
            all(at, list.into_iter().collect::<Option<_>>()?)
        }
        Some(Identifier::OrIds(set)) => {
            let each = set.ids.iter().enumerate();
            let list: Vec<Option<Vec<AccessSource>>> = each
                .map(|(index, message)| source(&at.field("or_ids").item("ids", index), message, depth + 1))
                .collect();
            Some(any(list.into_iter().collect::<Option<_>>()?))
        }
        Some(Identifier::NotId(message)) => {
            let at = at.field("not_id");
            let list = source(&at, message, depth + 1)?;
            negated(&at, list)
        }
        Some(Identifier::Authenticated(message)) => {
            authenticated(&at.field("authenticated"), message).map(|one| vec![one])
        }
        Some(Identifier::DirectRemoteIp(range)) => addresses("direct_remote_ip", range),
        Some(Identifier::SourceIp(range)) => addresses("source_ip", range),
        Some(Identifier::RemoteIp(_)) => {
            at.field("remote_ip").refuse("addresses are those of the connection; use `direct_remote_ip`");
            None
        }
        Some(Identifier::Header(_)) => unsupported("header"),
        Some(Identifier::UrlPath(_)) => unsupported("url_path"),
        Some(Identifier::Metadata(_)) => unsupported("metadata"),
        Some(Identifier::FilterState(_)) => unsupported("filter_state"),
        Some(Identifier::SourcedMetadata(_)) => unsupported("sourced_metadata"),
        Some(Identifier::Custom(_)) => unsupported("custom"),
        Some(Identifier::Any(false)) | None => {
            at.refuse("there is no condition");
            None
        }
    }
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

fn cidr(at: &At<'_>, message: &core::CidrRange) -> Option<outrigger_config::model::Cidr> {
    unpack!(at, message => core::CidrRange { take: [address_prefix, prefix_len], ignore: [], refuse: [] });
    let length = prefix_len.as_ref().map_or(0, |length| length.value);
    at.held(grammar::cidr(&format!("{address_prefix}/{length}")))
}

fn authenticated(at: &At<'_>, message: &rbac::principal::Authenticated) -> Option<AccessSource> {
    unpack!(at, message => rbac::principal::Authenticated { take: [principal_name], ignore: [], refuse: [] });
    let Some(message) = principal_name else {
        at.refuse("which identity is meant must be said; use `principal_name`");
        return None;
    };
    let at = at.field("principal_name");
    unpack!(at, message => matcher::StringMatcher { take: [match_pattern], ignore: [], refuse: [ignore_case] });
    let identity = |text: &str| {
        let pattern = IdentityPattern::parse(text).map_err(|error| format!("this is not a SPIFFE identity: {error}"));
        at.held(pattern).map(|pattern| AccessSource { identities: vec![pattern], ..Default::default() })
    };
    match match_pattern {
        Some(MatchPattern::Exact(text)) => identity(text),
        Some(MatchPattern::Prefix(text)) if text.ends_with('/') => identity(&format!("{text}*")),
        Some(MatchPattern::SafeRegex(regex)) => {
            if let Some(name) = between(&regex.regex, "spiffe://[^/]+/ns/", "/sa/[^/]+")
                && namespace_pattern(&name) == regex.regex
            {
                return Some(AccessSource { namespaces: vec![name.into()], ..Default::default() });
            }
            if let Some(name) = between(&regex.regex, "spiffe://", "(/.*)?")
                && domain_pattern(&name) == regex.regex
                && let Ok(domain) = TrustDomain::parse(&name)
            {
                return Some(AccessSource { trust_domains: vec![domain], ..Default::default() });
            }
            at.field("safe_regex").refuse("identities are matched by `exact`, or by a `prefix` that ends in `/`");
            None
        }
        _ => {
            at.refuse("identities are matched by `exact`, or by a `prefix` that ends in `/`");
            None
        }
    }
}

/// The text between two parts of a pattern, without escapes.
fn between(text: &str, before: &str, after: &str) -> Option<String> {
    unescaped(text.strip_prefix(before)?.strip_suffix(after)?)
}

fn operation(at: &At<'_>, message: &rbac::Permission, depth: usize) -> Option<Vec<AccessOperation>> {
    use rbac::permission::Rule;
    if depth > MAX_DEPTH {
        at.refuse("these conditions are too deep");
        return None;
    }
    let unsupported = |field: &str| {
        at.field(field).refuse("this is not supported; use headers, paths and ports");
        None
    };
    match message.rule.as_ref() {
        Some(Rule::Any(true)) => Some(vec![AccessOperation::default()]),
        Some(Rule::AndRules(set)) => {
            if let Some(call) = call(&set.rules) {
                return Some(vec![AccessOperation { grpc: vec![call], ..Default::default() }]);
            }
            let each = set.rules.iter().enumerate();
            let list: Vec<Option<Vec<AccessOperation>>> = each
                .map(|(index, message)| operation(&at.field("and_rules").item("rules", index), message, depth + 1))
                .collect();
            all(at, list.into_iter().collect::<Option<_>>()?)
        }
        Some(Rule::OrRules(set)) => {
            if let Some(path) = segments(&set.rules) {
                return Some(vec![AccessOperation { paths: vec![path], ..Default::default() }]);
            }
            let each = set.rules.iter().enumerate();
            let list: Vec<Option<Vec<AccessOperation>>> = each
                .map(|(index, message)| operation(&at.field("or_rules").item("rules", index), message, depth + 1))
                .collect();
            Some(any(list.into_iter().collect::<Option<_>>()?))
        }
        Some(Rule::NotRule(message)) => {
            let at = at.field("not_rule");
            let list = operation(&at, message, depth + 1)?;
            negated(&at, list)
        }
        Some(Rule::Header(message)) => header(&at.field("header"), message).map(|one| vec![one]),
        Some(Rule::UrlPath(message)) => {
            let at = at.field("url_path").field("path");
            let Some(matcher::path_matcher::Rule::Path(message)) = message.rule.as_ref() else {
                at.refuse("there is no condition");
                return None;
            };
            path(&at, message).map(|path| vec![AccessOperation { paths: vec![path], ..Default::default() }])
        }
        Some(Rule::DestinationPort(port)) => match u16::try_from(*port) {
            Ok(port) => Some(vec![AccessOperation { ports: vec![port], ..Default::default() }]),
            Err(_) => {
                at.field("destination_port").refuse("this is not a port");
                None
            }
        },
        Some(Rule::DestinationIp(_)) => unsupported("destination_ip"),
        Some(Rule::DestinationPortRange(_)) => unsupported("destination_port_range"),
        Some(Rule::Metadata(_)) => unsupported("metadata"),
        Some(Rule::RequestedServerName(_)) => unsupported("requested_server_name"),
        Some(Rule::Matcher(_)) => unsupported("matcher"),
        Some(Rule::UriTemplate(_)) => unsupported("uri_template"),
        Some(Rule::SourcedMetadata(_)) => unsupported("sourced_metadata"),
        Some(Rule::Any(false)) | None => {
            at.refuse("there is no condition");
            None
        }
    }
}

fn header(at: &At<'_>, message: &route::HeaderMatcher) -> Option<AccessOperation> {
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    if message.name == ":path" {
        let Some(StringMatch(inner)) = &message.header_match_specifier else {
            at.refuse("a path is matched by `url_path`");
            return None;
        };
        let _ = inner;
        at.refuse("this would be compared with the query as well; use `url_path`");
        return None;
    }
    // Hosts, whatever the port.
    if message.name == ":authority"
        && let Some(StringMatch(inner)) = &message.header_match_specifier
        && !message.invert_match
        && let Some(pattern) = host(inner)
    {
        return Some(AccessOperation { hosts: vec![pattern], ..Default::default() });
    }
    match matching::header(at, message)? {
        Header::Method(method) => Some(AccessOperation { methods: vec![method], ..Default::default() }),
        Header::Other(condition) => Some(AccessOperation { headers: vec![condition], ..Default::default() }),
    }
}

/// A host of the pattern that means it.
fn host(message: &matcher::StringMatcher) -> Option<HostPattern> {
    match message.match_pattern.as_ref()? {
        MatchPattern::Prefix(text) if text.is_empty() => Some(HostPattern::Any),
        MatchPattern::SafeRegex(regex) => {
            let text = &regex.regex;
            let wildcard = between(text, "(?i).+\\.", "(:[0-9]+)?").map(|name| HostPattern::Wildcard(name.into()));
            let exact = between(text, "(?i)", "(:[0-9]+)?").map(|name| HostPattern::Exact(name.into()));
            let meant = |pattern: &HostPattern| host_pattern(pattern) == *text;
            wildcard.filter(meant).or_else(|| exact.filter(meant))
        }
        _ => None,
    }
}

fn path(at: &At<'_>, message: &matcher::StringMatcher) -> Option<PathMatch> {
    match &message.match_pattern {
        Some(MatchPattern::Prefix(text)) if !message.ignore_case => {
            return match text.as_str() {
                "" => Some(PathMatch::Any),
                "/" => Some(PathMatch::Prefix("".into())),
                text => at.held(grammar::path(text)).map(|path| PathMatch::Start(path.into())),
            };
        }
        Some(MatchPattern::Exact(text)) if !message.ignore_case => {
            return at.held(grammar::path(text)).map(|path| PathMatch::Exact(path.into()));
        }
        _ => {}
    }
    match matching::string(at, message)? {
        ValueMatch::Regex(regex) => Some(PathMatch::Regex(regex)),
        ValueMatch::Exact(_) | ValueMatch::Prefix(_) | ValueMatch::Present(_) => {
            at.refuse("there is no condition");
            None
        }
    }
}

fn url_path(message: &rbac::Permission) -> Option<&MatchPattern> {
    let Some(rbac::permission::Rule::UrlPath(path)) = &message.rule else { return None };
    let Some(matcher::path_matcher::Rule::Path(message)) = &path.rule else { return None };
    message.match_pattern.as_ref().filter(|_| !message.ignore_case)
}

/// `/v1` and what begins with `/v1/`: a prefix of whole segments. Or a choice of one: the method of a gRPC call.
fn segments(rules: &[rbac::Permission]) -> Option<PathMatch> {
    match rules {
        [exact, start] => {
            let (Some(MatchPattern::Exact(exact)), Some(MatchPattern::Prefix(start))) =
                (url_path(exact), url_path(start))
            else {
                return None;
            };
            let same = start.strip_suffix('/') == Some(exact) && grammar::path(exact).as_ref() == Ok(exact);
            same.then(|| PathMatch::Prefix(exact.as_str().into()))
        }
        [only] => match url_path(only) {
            Some(MatchPattern::SafeRegex(regex)) => called(&regex.regex).map(PathMatch::GrpcMethod),
            _ => None,
        },
        _ => None,
    }
}

/// The method that a pattern stands for.
fn called(text: &str) -> Option<Arc<str>> {
    let method = unescaped(text.strip_prefix(".*/")?)?;
    let fits = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (fits && method_pattern(&method) == text).then(|| method.into())
}

/// A gRPC call, as the encoder writes it.
fn call(rules: &[rbac::Permission]) -> Option<GrpcOperation> {
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    let [rbac::Permission { rule: Some(rbac::permission::Rule::Header(media)) }, path] = rules else { return None };
    let grpc = matches!(&media.header_match_specifier, Some(StringMatch(message))
        if !message.ignore_case && message.match_pattern == Some(MatchPattern::Prefix(GRPC.to_owned())));
    if media.name != "content-type" || media.invert_match || media.treat_missing_header_as_empty || !grpc {
        return None;
    }
    if path.rule == Some(rbac::permission::Rule::Any(true)) {
        return Some(GrpcOperation { service: None, method: None });
    }
    match url_path(path)? {
        MatchPattern::Prefix(text) => {
            let service = text.strip_prefix('/')?.strip_suffix('/')?;
            identifier(service).then(|| GrpcOperation { service: Some(service.into()), method: None })
        }
        MatchPattern::Exact(text) => {
            let (service, method) = text.strip_prefix('/')?.split_once('/')?;
            let both = identifier(service) && identifier(method);
            both.then(|| GrpcOperation { service: Some(service.into()), method: Some(method.into()) })
        }
        MatchPattern::SafeRegex(regex) => {
            called(&regex.regex).map(|method| GrpcOperation { service: None, method: Some(method) })
        }
        _ => None,
    }
}

fn identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}
