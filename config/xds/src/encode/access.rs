//! Authorization policies as Envoy's RBAC filters: one that denies, one that allows, one that logs.
//!
//! Envoy's filters stand one behind the other and each decides by itself, which is the same: what denies comes first; what
//! allows then decides about the rest. Where the default is to allow, the second filter allows everything at the end, under
//! the name `*`, which no rule can have.

use std::collections::HashMap;
use std::net::IpAddr;

use outrigger_config::model::{
    Access, AccessAction, AccessOperation, AccessRule, AccessSource, Authorization, Cidr, ClaimMatch, GrpcOperation,
    HostPattern, PathMatch, ValueMatch,
};
use outrigger_config::pattern;
use outrigger_config::spiffe::{IdentityPattern, TrustDomain};

use super::{Policies, matching, merged};
use crate::extensions::{self, AccessRuleExtension, AuthorizationExtension};
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::permission_types::{and_rules, not_rule, or_rules, permission};
use crate::pb::principal_types::{and_ids, not_id, or_ids, principal};
use crate::pb::{core, hcm, http_rbac, listener, matcher, network_rbac, rbac};
use crate::wire;

/// The name of the policy that stands for "everything else".
pub(crate) const REST: &str = "*";

/// The same for connections, as network filters. The two messages have the same fields, but for the name of a prefix that
/// one has and the other must have.
pub(super) fn network(policy: &Authorization, policies: &Policies<'_>) -> Vec<listener::Filter> {
    use prost::{Message as _, Name as _};
    let suffix = network_rbac::Rbac { stat_prefix: "rbac".to_owned(), ..Default::default() }.encode_to_vec();
    let one = |filter: hcm::HttpFilter| {
        let Some(hcm::http_filter::ConfigType::TypedConfig(mut config)) = filter.config_type else { return None };
        config.type_url = network_rbac::Rbac::type_url();
        config.value.extend_from_slice(&suffix);
        Some(super::listener::network(&filter.name, config))
    };
    filters(policy, policies).into_iter().filter_map(one).collect()
}

pub(super) fn filters(policy: &Authorization, policies: &Policies<'_>) -> Vec<hcm::HttpFilter> {
    let Authorization { name: _, default, rules, place: _ } = policy;
    let of = |action: AccessAction, shadow: bool| {
        let mut list: Vec<&AccessRule> =
            rules.iter().filter(|rule| rule.action == action && (rule.shadow == shadow)).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    };
    let filter = |name: &str, action: rbac::rbac::Action, parts: Vec<http_rbac::Rbac>| {
        let whole = http_rbac::Rbac {
            rules: Some(rbac::Rbac { action: action as i32, ..Default::default() }),
            ..Default::default()
        };
        hcm::HttpFilter {
            name: name.to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(merged::any(
                std::iter::once(whole).chain(parts),
            ))),
            ..Default::default()
        }
    };
    let parts = |action: rbac::rbac::Action, ours: AccessAction| -> Vec<http_rbac::Rbac> {
        let mut out: Vec<http_rbac::Rbac> = of(ours, false)
            .into_iter()
            .map(|rule| http_rbac::Rbac {
                rules: Some(one(action, &rule.name, self::policy(rule, policies))),
                ..Default::default()
            })
            .collect();
        out.extend(of(ours, true).into_iter().map(|rule| http_rbac::Rbac {
            shadow_rules: Some(one(action, &rule.name, self::policy(rule, policies))),
            shadow_rules_stat_prefix: "shadow_".to_owned(),
            ..Default::default()
        }));
        out
    };
    let mut out = Vec::new();
    let denying = parts(rbac::rbac::Action::Deny, AccessAction::Deny);
    if !denying.is_empty() {
        out.push(filter("outrigger.rbac.deny", rbac::rbac::Action::Deny, denying));
    }
    let mut allowing = parts(rbac::rbac::Action::Allow, AccessAction::Allow);
    if *default == Access::Allow && !allowing.is_empty() {
        let rest = rbac::Policy {
            permissions: vec![permission(rbac::permission::Rule::Any(true))],
            principals: vec![principal(rbac::principal::Identifier::Any(true))],
            ..Default::default()
        };
        let rest = http_rbac::Rbac { rules: Some(one(rbac::rbac::Action::Allow, REST, rest)), ..Default::default() };
        allowing.insert(0, rest);
    }
    if *default == Access::Deny || !allowing.is_empty() {
        out.push(filter("outrigger.rbac.allow", rbac::rbac::Action::Allow, allowing));
    }
    let auditing = of(AccessAction::Audit, false).into_iter().chain(of(AccessAction::Audit, true));
    let auditing: Vec<http_rbac::Rbac> = auditing
        .map(|rule| http_rbac::Rbac {
            rules: Some(one(rbac::rbac::Action::Log, &rule.name, self::policy(rule, policies))),
            ..Default::default()
        })
        .collect();
    if !auditing.is_empty() {
        out.push(filter("outrigger.rbac.audit", rbac::rbac::Action::Log, auditing));
    }
    out
}

pub(super) fn extension(policy: &Authorization) -> AuthorizationExtension {
    let Authorization { name, default: _, rules, place } = policy;
    AuthorizationExtension {
        name: name.to_string(),
        place: wire::place(place),
        rules: rules
            .iter()
            .map(|rule| AccessRuleExtension {
                name: rule.name.to_string(),
                place: wire::place(&rule.place),
                shadow: rule.shadow && rule.action == AccessAction::Audit,
                claims: rule.claims.iter().map(claim).collect(),
            })
            .collect(),
    }
}

pub(super) fn value(value: &ValueMatch) -> extensions::Value {
    use extensions::value::Condition;
    extensions::Value {
        condition: Some(match value {
            ValueMatch::Exact(text) => Condition::Exact(text.to_string()),
            ValueMatch::Prefix(text) => Condition::Prefix(text.to_string()),
            ValueMatch::Regex(regex) => Condition::Regex(pattern::text(regex).to_owned()),
            ValueMatch::Present(wanted) => Condition::Present(*wanted),
        }),
    }
}

fn claim(ClaimMatch { provider, path, values }: &ClaimMatch) -> extensions::Claim {
    extensions::Claim {
        provider: provider.as_ref().map(ToString::to_string),
        path: path.iter().map(ToString::to_string).collect(),
        values: values.iter().map(value).collect(),
    }
}

fn one(action: rbac::rbac::Action, name: &str, policy: rbac::Policy) -> rbac::Rbac {
    rbac::Rbac {
        action: action as i32,
        policies: HashMap::from([(name.to_owned(), policy)]),
        audit_logging_options: None,
    }
}

fn policy(rule: &AccessRule, policies: &Policies<'_>) -> rbac::Policy {
    let AccessRule { name: _, action: _, shadow: _, from, to, claims, place: _ } = rule;
    let mut principals: Vec<rbac::Principal> = from.iter().map(source).collect();
    if principals.is_empty() {
        principals.push(principal(rbac::principal::Identifier::Any(true)));
    }
    if !claims.is_empty() {
        let claims: Vec<rbac::Principal> = claims.iter().map(|claim| claimed(claim, policies)).collect();
        principals = vec![and_ids(std::iter::once(or_ids(principals)).chain(claims).collect())];
    }
    let mut permissions: Vec<rbac::Permission> = to.iter().map(operation).collect();
    if permissions.is_empty() {
        permissions.push(permission(rbac::permission::Rule::Any(true)));
    }
    rbac::Policy { permissions, principals, ..Default::default() }
}

fn source(source: &AccessSource) -> rbac::Principal {
    let AccessSource {
        identities,
        not_identities,
        namespaces,
        not_namespaces,
        trust_domains,
        not_trust_domains,
        addresses,
        not_addresses,
    } = source;
    let mut all = Vec::new();
    let mut add = |list: Vec<rbac::Principal>, not: Vec<rbac::Principal>| {
        if !list.is_empty() {
            all.push(or_ids(list));
        }
        if !not.is_empty() {
            all.push(not_id(or_ids(not)));
        }
    };
    add(identities.iter().map(identity).collect(), not_identities.iter().map(identity).collect());
    let namespace =
        |name: &std::sync::Arc<str>| authenticated(MatchPattern::SafeRegex(wire::regex(&namespace_pattern(name))));
    add(namespaces.iter().map(namespace).collect(), not_namespaces.iter().map(namespace).collect());
    let domain =
        |name: &TrustDomain| authenticated(MatchPattern::SafeRegex(wire::regex(&domain_pattern(name.as_str()))));
    add(trust_domains.iter().map(domain).collect(), not_trust_domains.iter().map(domain).collect());
    add(addresses.iter().map(range).collect(), not_addresses.iter().map(range).collect());
    and_ids(all)
}

fn identity(pattern: &IdentityPattern) -> rbac::Principal {
    authenticated(match pattern {
        IdentityPattern::Exact(id) => MatchPattern::Exact(id.as_str().to_owned()),
        IdentityPattern::Prefix(prefix) => MatchPattern::Prefix(prefix.to_string()),
    })
}

/// Identities in a namespace, by the convention of Kubernetes.
pub(crate) fn namespace_pattern(name: &str) -> String {
    format!("spiffe://[^/]+/ns/{}/sa/[^/]+", regex_syntax::escape(name))
}

/// Identities of a trust domain.
pub(crate) fn domain_pattern(name: &str) -> String {
    format!("spiffe://{}(/.*)?", regex_syntax::escape(name))
}

fn authenticated(pattern: MatchPattern) -> rbac::Principal {
    principal(rbac::principal::Identifier::Authenticated(rbac::principal::Authenticated {
        principal_name: Some(wire::string(pattern)),
    }))
}

fn range(range: &Cidr) -> rbac::Principal {
    principal(rbac::principal::Identifier::DirectRemoteIp(cidr(range)))
}

pub(super) fn cidr(Cidr { network, prefix }: &Cidr) -> core::CidrRange {
    core::CidrRange { address_prefix: IpAddr::to_string(network), prefix_len: wire::number(u32::from(*prefix)) }
}

/// A claim, as what the token filter leaves in the metadata of the request. Envoy compares texts and the entries of lists.
fn claimed(ClaimMatch { provider, path, values }: &ClaimMatch, policies: &Policies<'_>) -> rbac::Principal {
    use matcher::value_matcher::MatchPattern::{ListMatch, PresentMatch, StringMatch};
    let providers: Vec<&str> = match provider {
        Some(provider) => vec![provider],
        None => policies.jwt_providers.keys().map(|name| &**name).collect(),
    };
    let matcher = |provider: &str, value: matcher::value_matcher::MatchPattern| {
        let names = std::iter::once(provider).chain(path.iter().map(|name| &**name));
        let path = names.map(|name| matcher::metadata_matcher::PathSegment {
            segment: Some(matcher::metadata_matcher::path_segment::Segment::Key(name.to_owned())),
        });
        principal(rbac::principal::Identifier::Metadata(matcher::MetadataMatcher {
            filter: super::tokens::FILTER.to_owned(),
            path: path.collect(),
            value: Some(matcher::ValueMatcher { match_pattern: Some(value) }),
            invert: false,
        }))
    };
    let mut any = Vec::new();
    for provider in providers {
        for value in values {
            match value {
                ValueMatch::Present(true) => any.push(matcher(provider, PresentMatch(true))),
                ValueMatch::Present(false) => any.push(not_id(matcher(provider, PresentMatch(true)))),
                value => {
                    let text = StringMatch(matching::string(value));
                    let entry = matcher::ListMatcher {
                        match_pattern: Some(matcher::list_matcher::MatchPattern::OneOf(Box::new(
                            matcher::ValueMatcher { match_pattern: Some(text.clone()) },
                        ))),
                    };
                    any.push(matcher(provider, text));
                    any.push(matcher(provider, ListMatch(Box::new(entry))));
                }
            }
        }
    }
    // No provider, no token, no claim.
    if any.is_empty() { not_id(principal(rbac::principal::Identifier::Any(true))) } else { or_ids(any) }
}

fn operation(operation: &AccessOperation) -> rbac::Permission {
    let AccessOperation { hosts, not_hosts, paths, not_paths, methods, not_methods, ports, not_ports, headers, grpc } =
        operation;
    let mut all = Vec::new();
    let mut add = |list: Vec<rbac::Permission>, not: Vec<rbac::Permission>| {
        if !list.is_empty() {
            all.push(or_rules(list));
        }
        if !not.is_empty() {
            all.push(not_rule(or_rules(not)));
        }
    };
    add(hosts.iter().map(host).collect(), not_hosts.iter().map(host).collect());
    add(paths.iter().map(path).collect(), not_paths.iter().map(path).collect());
    let method = |method: &http::Method| {
        let exact = wire::string(MatchPattern::Exact(method.as_str().to_owned()));
        permission(rbac::permission::Rule::Header(matching::string_header(":method", exact, false)))
    };
    add(methods.iter().map(method).collect(), not_methods.iter().map(method).collect());
    let port = |port: &u16| permission(rbac::permission::Rule::DestinationPort(u32::from(*port)));
    add(ports.iter().map(port).collect(), not_ports.iter().map(port).collect());
    all.extend(headers.iter().map(|one| permission(rbac::permission::Rule::Header(matching::header(one)))));
    if !grpc.is_empty() {
        all.push(or_rules(grpc.iter().map(call).collect()));
    }
    and_rules(all)
}

/// A host, whatever its port.
fn host(pattern: &HostPattern) -> rbac::Permission {
    permission(rbac::permission::Rule::Header(match pattern {
        HostPattern::Any => {
            matching::string_header(":authority", wire::string(MatchPattern::Prefix(String::new())), false)
        }
        pattern => {
            let regex = wire::string(MatchPattern::SafeRegex(wire::regex(&host_pattern(pattern))));
            matching::string_header(":authority", regex, false)
        }
    }))
}

/// An authority with a host that meets the pattern.
pub(crate) fn host_pattern(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => ".*".to_owned(),
        HostPattern::Wildcard(suffix) => format!("(?i).+\\.{}(:[0-9]+)?", regex_syntax::escape(suffix)),
        HostPattern::Exact(host) => format!("(?i){}(:[0-9]+)?", regex_syntax::escape(host)),
    }
}

fn path(path: &PathMatch) -> rbac::Permission {
    match path {
        PathMatch::Any => url_path(MatchPattern::Prefix(String::new())),
        PathMatch::Exact(path) => url_path(MatchPattern::Exact(path.to_string())),
        PathMatch::Prefix(prefix) if prefix.is_empty() => url_path(MatchPattern::Prefix("/".to_owned())),
        PathMatch::Prefix(prefix) => or_rules(vec![
            url_path(MatchPattern::Exact(prefix.to_string())),
            url_path(MatchPattern::Prefix(format!("{prefix}/"))),
        ]),
        PathMatch::Start(start) => url_path(MatchPattern::Prefix(start.to_string())),
        PathMatch::Regex(regex) => url_path(MatchPattern::SafeRegex(wire::regex(pattern::text(regex)))),
        // Written as a choice of one, which no pattern is.
        PathMatch::GrpcMethod(method) => {
            or_rules(vec![url_path(MatchPattern::SafeRegex(wire::regex(&matching::method_pattern(method))))])
        }
    }
}

fn url_path(pattern: MatchPattern) -> rbac::Permission {
    permission(rbac::permission::Rule::UrlPath(matcher::PathMatcher {
        rule: Some(matcher::path_matcher::Rule::Path(wire::string(pattern))),
    }))
}

/// What the media type of every gRPC request begins with.
pub(crate) const GRPC: &str = "application/grpc";

fn call(GrpcOperation { service, method }: &GrpcOperation) -> rbac::Permission {
    let media = matching::string_header("content-type", wire::string(MatchPattern::Prefix(GRPC.to_owned())), false);
    let path = match (service, method) {
        (None, None) => permission(rbac::permission::Rule::Any(true)),
        (Some(service), None) => url_path(MatchPattern::Prefix(format!("/{service}/"))),
        (Some(service), Some(method)) => url_path(MatchPattern::Exact(format!("/{service}/{method}"))),
        (None, Some(method)) => url_path(MatchPattern::SafeRegex(wire::regex(&matching::method_pattern(method)))),
    };
    and_rules(vec![permission(rbac::permission::Rule::Header(media)), path])
}
