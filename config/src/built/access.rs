//! Authorization policies.

use std::collections::HashSet;
use std::sync::Arc;

use http::Method;

use super::Subject;
use crate::limits::{self, MAX_ACCESS_ENTRIES, MAX_ACCESS_RULES, MAX_ACCESS_WAYS, MAX_CLAIM_DEPTH, MAX_MATCH_BYTES};
use crate::model::{
    AccessOperation, AccessRule, AccessSource, Authorization, Cidr, ClaimMatch, GrpcOperation, HostPattern, PathMatch,
};
use crate::spiffe::{IdentityPattern, TrustDomain};
use crate::validate;

pub(super) fn policy(subject: &Subject<'_>, policy: &Authorization) {
    let Authorization { name: _, default: _, rules, place: _ } = policy;
    subject.at_most("rules", rules.len(), MAX_ACCESS_RULES);
    let mut seen = HashSet::new();
    for (at, rule) in rules.iter().enumerate() {
        let here = format!("rules[{at}]");
        let AccessRule { name, action: _, shadow: _, from, to, claims, place: _ } = rule;
        subject.named(&format!("{here}.name"), name);
        if !seen.insert(name) {
            let message = format!("a second rule of this policy is named `{name}`");
            subject.say(format!("{here}.name"), message, "give it another name");
        }
        for (what, count) in [("from", from.len()), ("to", to.len()), ("claims", claims.len())] {
            subject.at_most(&format!("{here}.{what}"), count, MAX_ACCESS_WAYS);
        }
        for (number, source) in from.iter().enumerate() {
            self::source(subject, &format!("{here}.from[{number}]"), source);
        }
        for (number, operation) in to.iter().enumerate() {
            self::operation(subject, &format!("{here}.to[{number}]"), operation);
        }
        for (number, claim) in claims.iter().enumerate() {
            self::claim(subject, &format!("{here}.claims[{number}]"), claim);
        }
    }
}

fn source(subject: &Subject<'_>, here: &str, source: &AccessSource) {
    if *source == AccessSource::default() {
        let message = "this source has no condition: everybody is meant by it";
        subject.say(here, message, "add a condition, or leave `from` empty, which means everybody");
    }
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
    let identity = |list: &[IdentityPattern], field: &str| {
        for pattern in list {
            subject.same(field, validate::identity_pattern(&pattern.to_string()), pattern);
        }
        subject.at_most(field, list.len(), MAX_ACCESS_ENTRIES);
    };
    identity(identities, &format!("{here}.identities"));
    identity(not_identities, &format!("{here}.not_identities"));
    let namespace = |list: &[Arc<str>], field: &str| {
        for name in list {
            subject.held(field, validate::namespace(name));
        }
        subject.at_most(field, list.len(), MAX_ACCESS_ENTRIES);
    };
    namespace(namespaces, &format!("{here}.namespaces"));
    namespace(not_namespaces, &format!("{here}.not_namespaces"));
    let domain = |list: &[TrustDomain], field: &str| subject.at_most(field, list.len(), MAX_ACCESS_ENTRIES);
    domain(trust_domains, &format!("{here}.trust_domains"));
    domain(not_trust_domains, &format!("{here}.not_trust_domains"));
    let address = |list: &[Cidr], field: &str| {
        for range in list {
            subject.same(field, validate::cidr(&range.to_string()), range);
        }
        subject.at_most(field, list.len(), MAX_ACCESS_ENTRIES);
    };
    address(addresses, &format!("{here}.addresses"));
    address(not_addresses, &format!("{here}.not_addresses"));
}

fn operation(subject: &Subject<'_>, here: &str, operation: &AccessOperation) {
    if *operation == AccessOperation::default() {
        let message = "this operation has no condition: everything is meant by it";
        subject.say(here, message, "add a condition, or leave `to` empty, which means everything");
    }
    let AccessOperation { hosts, not_hosts, paths, not_paths, methods, not_methods, ports, not_ports, headers, grpc } =
        operation;
    for (what, list) in [("hosts", hosts), ("not_hosts", not_hosts)] {
        let field = format!("{here}.{what}");
        list.iter().for_each(|pattern| subject.host(&field, pattern));
        subject.at_most(&field, list.len(), MAX_ACCESS_ENTRIES);
    }
    for (what, list) in [("paths", paths), ("not_paths", not_paths)] {
        let field = format!("{here}.{what}");
        list.iter().for_each(|path| subject.path(&field, path));
        subject.at_most(&field, list.len(), MAX_ACCESS_ENTRIES);
    }
    for (what, count) in [("methods", methods.len()), ("not_methods", not_methods.len()), ("grpc", grpc.len())] {
        subject.at_most(&format!("{here}.{what}"), count, MAX_ACCESS_ENTRIES);
    }
    for (what, list) in [("ports", ports), ("not_ports", not_ports)] {
        let field = format!("{here}.{what}");
        list.iter().for_each(|port| subject.number(&field, u64::from(*port), limits::PORT));
        subject.at_most(&field, list.len(), MAX_ACCESS_ENTRIES);
    }
    subject.header_conditions(&format!("{here}.headers"), headers);
    for GrpcOperation { service, method } in grpc {
        let field = format!("{here}.grpc");
        service.iter().chain(method).for_each(|name| subject.identifier(&field, name));
    }
    let everything = |path: &PathMatch| matches!(path, PathMatch::Any) || *path == PathMatch::Prefix("".into());
    if not_hosts.contains(&HostPattern::Any) || not_paths.iter().any(everything) {
        subject.say(here, "this can never hold: it leaves out everything", "name what is meant to be left out");
    }
    if !grpc.is_empty() && !methods.is_empty() && !methods.contains(&Method::POST) {
        subject.say(format!("{here}.methods"), "this can never hold: gRPC requests are always POST", "leave it out");
    }
}

fn claim(subject: &Subject<'_>, here: &str, claim: &ClaimMatch) {
    let ClaimMatch { provider, path, values } = claim;
    if let Some(provider) = provider {
        subject.named(&format!("{here}.provider"), provider);
    }
    claim_path(subject, &format!("{here}.path"), path);
    if values.is_empty() {
        subject.say(format!("{here}.values"), "this condition has no values", "say what the claim may be");
    }
    subject.at_most(&format!("{here}.values"), values.len(), MAX_ACCESS_ENTRIES);
    for value in values {
        subject.value(&format!("{here}.values"), value);
    }
}

/// The names that lead to a claim.
pub(super) fn claim_path(subject: &Subject<'_>, field: &str, path: &[Arc<str>]) {
    if path.is_empty() || path.iter().any(|name| name.is_empty()) {
        subject.say(field, "this claim has no name, or an empty name in it", "give a name, such as `sub`");
    }
    if path.len() > MAX_CLAIM_DEPTH || path.iter().any(|name| name.len() > MAX_MATCH_BYTES) {
        subject.say(field, "this claim is too deep or too long", format!("use at most {MAX_CLAIM_DEPTH} names"));
    }
}
