//! The conditions of a rule.
//!
//! What lets a request through must be certain; for what refuses it, suspicion is enough ([`Need`]). The two differ
//! only where a request can be read in several ways; a `not` list turns the need around, so that `allow` with
//! `notPaths: [/admin]` is as careful as `deny` with `paths: [/admin]`:
//!
//! | | certain | suspected |
//! |---|---|---|
//! | path | every reading fits | one fits |
//! | method | is it | is it in upper or lower case |
//! | header | all lines joined fit | or one line, or one element of the list; or a pattern's value is no text |
//! | gRPC | and the content type says so | whatever the content type says, if service or method is named |

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use http::header::CONTENT_TYPE;
use outrigger_config::model::{
    AccessOperation, AccessRule, AccessSource, Cidr, ClaimMatch, GrpcOperation, HeaderMatch, HostPattern, PathMatch,
    ValueMatch,
};
use outrigger_config::spiffe::{IdentityPattern, SpiffeId, TrustDomain};
use serde_json::Value;

use super::reading::{Readings, lenient};
use super::{Claims, Request};
use crate::policy::host::canonical;
use crate::policy::route::{header, normal_form, path_holds, value_holds};

/// How sure a condition must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It holds however the request is read.
    Certain,
    /// It holds in one way to read the request.
    Suspected,
}

/// A rule's conditions.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) from: Box<[Source]>,
    pub(super) to: Box<[Operation]>,
    pub(super) claims: Box<[ClaimMatch]>,
}

/// Who asks: conditions as configured, address ranges in canonical form.
#[derive(Debug)]
pub(super) struct Source(pub(super) AccessSource);

/// What is asked: hosts and paths in normal form.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) config: AccessOperation,
    pub(super) paths: Box<[PathCondition]>,
    not_paths: Box<[PathCondition]>,
}

/// A condition on the path, for each reading.
#[derive(Debug)]
pub(super) struct PathCondition {
    /// For the normal form.
    pub(super) normal: PathMatch,
    pub(super) other: Other,
}

/// The condition for the other readings.
#[derive(Debug)]
pub(super) enum Other {
    /// The same.
    Same,
    /// Or as who decodes everything writes it.
    Differs(PathMatch),
    /// None: the condition itself speaks of what the other readings take away, and means the normal form.
    Outspoken,
}

impl Rule {
    pub(super) fn compile(rule: &AccessRule) -> Self {
        let AccessRule { name: _, action: _, shadow: _, from, to, claims, place: _ } = rule;
        Self {
            from: from.iter().map(Source::compile).collect(),
            to: to.iter().map(Operation::compile).collect(),
            claims: claims.clone().into(),
        }
    }

    pub(super) fn reads_path(&self) -> bool {
        self.to.iter().any(|to| !(to.paths.is_empty() && to.not_paths.is_empty() && to.config.grpc.is_empty()))
    }

    pub(super) fn holds(&self, request: &Request<'_>, readings: &Readings, need: Need) -> bool {
        (self.from.is_empty() || self.from.iter().any(|source| source.holds(request)))
            && (self.to.is_empty() || self.to.iter().any(|operation| operation.holds(request, readings, need)))
            && self.claims.iter().all(|condition| claim_holds(condition, request.claims, need))
    }
}

impl Source {
    fn compile(source: &AccessSource) -> Self {
        let mut source = source.clone();
        for range in source.addresses.iter_mut().chain(&mut source.not_addresses) {
            *range = canonical_range(*range);
        }
        Self(source)
    }

    fn holds(&self, request: &Request<'_>) -> bool {
        self.fits(request.identity, request.address)
    }

    /// Nothing here can be read in two ways.
    pub(super) fn fits(&self, id: Option<&SpiffeId>, address: IpAddr) -> bool {
        let AccessSource {
            identities,
            not_identities,
            namespaces,
            not_namespaces,
            trust_domains,
            not_trust_domains,
            addresses,
            not_addresses,
        } = &self.0;
        let listed = |patterns: &[_]| id.is_some_and(|id| patterns.iter().any(|p: &IdentityPattern| p.matches(id)));
        let spaced = |names: &[Arc<str>]| {
            let namespace = || id.and_then(SpiffeId::namespace);
            !names.is_empty() && namespace().is_some_and(|namespace| names.iter().any(|name| **name == *namespace))
        };
        let trusted = |domains: &[TrustDomain]| {
            id.is_some_and(|id| domains.iter().any(|domain| domain.as_str() == id.trust_domain()))
        };
        let near = |ranges: &[Cidr]| ranges.iter().any(|range| range.contains(address));
        (identities.is_empty() || listed(identities))
            && !listed(not_identities)
            && (namespaces.is_empty() || spaced(namespaces))
            && !spaced(not_namespaces)
            && (trust_domains.is_empty() || trusted(trust_domains))
            && !trusted(not_trust_domains)
            && (addresses.is_empty() || near(addresses))
            && !near(not_addresses)
    }
}

impl Operation {
    fn compile(operation: &AccessOperation) -> Self {
        let host = |pattern: &HostPattern| match pattern {
            HostPattern::Any => HostPattern::Any,
            HostPattern::Wildcard(suffix) => HostPattern::Wildcard(canonical(suffix).into()),
            HostPattern::Exact(name) => HostPattern::Exact(canonical(name).into()),
        };
        let mut config = operation.clone();
        for pattern in config.hosts.iter_mut().chain(&mut config.not_hosts) {
            *pattern = host(pattern);
        }
        Self {
            paths: config.paths.iter().map(PathCondition::compile).collect(),
            not_paths: config.not_paths.iter().map(PathCondition::compile).collect(),
            config,
        }
    }

    pub(super) fn grpc(&self) -> &[GrpcOperation] {
        &self.config.grpc
    }

    fn holds(&self, request: &Request<'_>, readings: &Readings, need: Need) -> bool {
        let AccessOperation {
            hosts,
            not_hosts,
            paths: _,
            not_paths: _,
            methods,
            not_methods,
            ports,
            not_ports,
            headers,
            grpc,
        } = &self.config;
        let Self { paths, not_paths, .. } = self;
        let route = request.route;
        let at_host = |patterns: &[HostPattern]| patterns.iter().any(|pattern| host_holds(pattern, route.host));
        let on_path = |conditions: &[PathCondition], need| {
            conditions.iter().any(|condition| condition.holds(route.path, readings, need))
        };
        let by_method =
            |methods: &[Method], need| methods.iter().any(|method| method_holds(method, route.method, need));
        (hosts.is_empty() || at_host(hosts))
            && !at_host(not_hosts)
            && (methods.is_empty() || by_method(methods, need))
            && !by_method(not_methods, need.turned())
            && (ports.is_empty() || ports.contains(&request.port))
            && !not_ports.contains(&request.port)
            && (paths.is_empty() || on_path(paths, need))
            && !on_path(not_paths, need.turned())
            && (grpc.is_empty() || grpc.iter().any(|call| grpc_holds(call, request, readings, need)))
            && headers.iter().all(|condition| header_holds(condition, request, need))
    }
}

impl PathCondition {
    fn compile(path: &PathMatch) -> Self {
        let normal = normal_form(path);
        let outspoken = |text: &str| {
            let text = text.to_ascii_uppercase();
            [";", "\\\\", "%3B", "%2F", "%5C"].iter().any(|odd| text.contains(odd))
        };
        let differing = |text: &Arc<str>, make: fn(Arc<str>) -> PathMatch| match lenient(text) {
            _ if outspoken(text) => Other::Outspoken,
            Cow::Borrowed(_) => Other::Same,
            Cow::Owned(other) => Other::Differs(make(other.into())),
        };
        let other = match &normal {
            PathMatch::Exact(text) => differing(text, PathMatch::Exact),
            PathMatch::Prefix(text) => differing(text, |other| PathMatch::Prefix(other.trim_end_matches('/').into())),
            PathMatch::Start(text) => differing(text, PathMatch::Start),
            PathMatch::Regex(pattern) if outspoken(pattern.as_str()) => Other::Outspoken,
            PathMatch::Any | PathMatch::GrpcMethod(_) | PathMatch::Regex(_) => Other::Same,
        };
        Self { normal, other }
    }

    fn holds(&self, path: &str, readings: &Readings, need: Need) -> bool {
        let normal = path_holds(&self.normal, path);
        let differs = |path| matches!(&self.other, Other::Differs(condition) if path_holds(condition, path));
        let other = |path| path_holds(&self.normal, path) || differs(path);
        match (&self.other, need) {
            (Other::Outspoken, _) => normal,
            (_, Need::Certain) => normal && readings.others().all(other),
            (_, Need::Suspected) => normal || differs(path) || readings.others().any(other),
        }
    }
}

impl Need {
    const fn turned(self) -> Self {
        match self {
            Self::Certain => Self::Suspected,
            Self::Suspected => Self::Certain,
        }
    }
}

/// As routing finds hosts: a wildcard needs a label before it.
fn host_holds(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => **name == *host,
        HostPattern::Wildcard(suffix) => host
            .strip_suffix(&**suffix)
            .and_then(|before| before.strip_suffix('.'))
            .is_some_and(|label| !label.is_empty()),
    }
}

fn method_holds(wanted: &Method, method: &Method, need: Need) -> bool {
    wanted == method || (need == Need::Suspected && wanted.as_str().eq_ignore_ascii_case(method.as_str()))
}

fn header_holds(condition: &HeaderMatch, request: &Request<'_>, need: Need) -> bool {
    let HeaderMatch { name, value: wanted } = condition;
    let value = header(request.route, name);
    if value_holds(wanted, value.as_deref()) {
        return true;
    }
    let (Need::Suspected, Some(value)) = (need, value) else { return false };
    let fits = |value: &[u8]| value_holds(wanted, Some(value));
    match wanted {
        ValueMatch::Present(_) => return false,
        ValueMatch::Exact(_) | ValueMatch::Prefix(_) => {}
        // No pattern can look at what is no text.
        ValueMatch::Regex(_) if std::str::from_utf8(&value).is_err() => return true,
        ValueMatch::Regex(_) => {}
    }
    // RFC 9110 section 5.3: lines and elements of a list are interchangeable, and who reads one may read any.
    value.split(|&byte| byte == b',').any(|element| fits(element.trim_ascii()))
        || request.route.headers.get_all(name).iter().any(|line| fits(line.as_bytes().trim_ascii()))
}

fn grpc_holds(call: &GrpcOperation, request: &Request<'_>, readings: &Readings, need: Need) -> bool {
    let GrpcOperation { service, method } = call;
    let called = |path: &str| {
        let Some((of, name)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
        !name.contains('/')
            && service.as_ref().is_none_or(|service| **service == *of)
            && method.as_ref().is_none_or(|method| **method == *name)
    };
    let normal = called(request.route.path);
    match need {
        Need::Certain => request.route.is_grpc && normal && readings.others().all(called),
        Need::Suspected => {
            let named = service.is_some() || method.is_some();
            (named || request.route.is_grpc || may_be_grpc(request)) && (normal || readings.others().any(called))
        }
    }
}

fn may_be_grpc(request: &Request<'_>) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let begins = |value: &[u8]| value.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC));
    request.route.headers.get_all(CONTENT_TYPE).iter().any(|value| begins(value.as_bytes()))
}

fn claim_holds(condition: &ClaimMatch, claims: Claims<'_>, need: Need) -> bool {
    let ClaimMatch { provider, path, values } = condition;
    let source = match claims {
        Claims::None => return false,
        Claims::Announced => return need == Need::Certain,
        Claims::Verified(source) => source,
    };
    if provider.as_ref().is_some_and(|provider| **provider != *source.provider()) {
        return false;
    }
    let value = source.get(path).filter(|value| !value.is_null());
    let is_scope = path.last().is_some_and(|name| **name == *"scope");
    values.iter().any(|wanted| match (wanted, value) {
        (ValueMatch::Present(present), value) => value.is_some() == *present,
        (_, None) => false,
        (_, Some(Value::Array(entries))) => entries.iter().any(|entry| scalar_holds(wanted, entry)),
        (_, Some(Value::String(scope))) if is_scope => {
            scope.split_ascii_whitespace().any(|word| value_holds(wanted, Some(word.as_bytes())))
        }
        (_, Some(value)) => scalar_holds(wanted, value),
    })
}

/// Numbers and booleans by their JSON text; lists in lists and objects fit nothing.
fn scalar_holds(wanted: &ValueMatch, value: &Value) -> bool {
    let text: Cow<'_, str> = match value {
        Value::String(text) => text.into(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Number(number) => number.to_string().into(),
        Value::Null | Value::Array(_) | Value::Object(_) => return false,
    };
    value_holds(wanted, Some(text.as_bytes()))
}

/// Peers are compared in canonical form, so a range of IPv4 addresses written as IPv6 must be too.
fn canonical_range(range: Cidr) -> Cidr {
    const MAPPED: u8 = 96;
    match range.network {
        IpAddr::V6(network) if range.prefix >= MAPPED => match network.to_ipv4_mapped() {
            Some(network) => Cidr { network: IpAddr::V4(network), prefix: range.prefix - MAPPED },
            None => range,
        },
        IpAddr::V4(_) | IpAddr::V6(_) => range,
    }
}
