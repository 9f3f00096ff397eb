//! Principals: who a caller is.

use outrigger_config::grammar;
use outrigger_config::model::AccessSource;
use outrigger_config::spiffe::{IdentityPattern, TrustDomain};

use super::super::filters::unescaped;
use super::super::reader::At;
use super::MAX_DEPTH;
use super::alternatives::{all, any, negated};
use crate::encode::access::{domain_pattern, namespace_pattern};
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{core, matcher, rbac};

pub(super) fn source(at: &At<'_>, message: &rbac::Principal, depth: usize) -> Option<Vec<AccessSource>> {
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

pub(super) fn cidr(at: &At<'_>, message: &core::CidrRange) -> Option<outrigger_config::model::Cidr> {
    unpack!(at, message => core::CidrRange { take: [address_prefix, prefix_len], ignore: [], refuse: [] });
    let length = prefix_len.as_ref().map_or(0, |length| length.value);
    at.held(grammar::cidr(&format!("{address_prefix}/{length}")))
}

pub(super) fn authenticated(at: &At<'_>, message: &rbac::principal::Authenticated) -> Option<AccessSource> {
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
pub(super) fn between(text: &str, before: &str, after: &str) -> Option<String> {
    unescaped(text.strip_prefix(before)?.strip_suffix(after)?)
}
