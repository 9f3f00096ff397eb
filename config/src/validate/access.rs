//! Authorization policies.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::Method;

use super::identity::{namespace, trust_domain};
use super::names::{self, Anchors};
use super::{Check, Names, Wrong, matches};
use crate::limits::{
    self, MAX_ACCESS_ENTRIES, MAX_ACCESS_RULES, MAX_ACCESS_WAYS, MAX_CLAIM_DEPTH, MAX_MATCH_BYTES, MAX_POLICIES,
};
use crate::model::{
    Access, AccessAction, AccessOperation, AccessRule, AccessSource, Authorization, Cidr, ClaimMatch, GrpcOperation,
    HostPattern, Listener, PathMatch, ValueMatch,
};
use crate::raw;
use crate::read::{Entries, Field, Key, List};
use crate::source::Span;
use crate::text::quoted;

/// `listeners` are those that policies may be used by, `providers` the token providers.
pub(super) fn policies(
    check: &Check<'_, '_>,
    field: &Field<Entries<raw::Authorization>>,
    (listeners, providers): (&[Listener], &Names<'_>),
) -> BTreeMap<Arc<str>, Authorization> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    let mut out = BTreeMap::new();
    for (key, policy) in check.within(&entries.pairs, MAX_POLICIES, (Some(span), "authorization policies")) {
        let name = check.name(&key.text, key.span);
        let Some(raw) = policy.get() else { continue };
        let mut users = listeners.iter().filter(|l| l.authorization.as_deref() == Some(&*name)).peekable();
        let merges = users.peek().is_some() && users.all(|listener| listener.path.merge_slashes);
        let policy = Policy { check, providers, merges };
        if let Some(policy) = policy.read((key, name.clone()), raw) {
            out.insert(name, policy);
        }
    }
    out
}

/// What the rules of one policy need to know.
pub(super) struct Policy<'a, 't, 'n> {
    pub(super) check: &'a Check<'a, 't>,
    pub(super) providers: &'a Names<'n>,
    /// Every listener that uses this policy merges slashes.
    pub(super) merges: bool,
}

impl Policy<'_, '_, '_> {
    fn read(&self, key: (&Key, Arc<str>), raw: &raw::Authorization) -> Option<Authorization> {
        let raw::Authorization { default, rules } = raw;
        self.read_fields(key, default, rules)
    }

    pub(super) fn read_fields(
        &self,
        (key, name): (&Key, Arc<str>),
        default: &Field<raw::Access>,
        rules: &Field<List<raw::AccessRule>>,
    ) -> Option<Authorization> {
        let check = self.check;
        let lack = format!("the authorization policy `{}` has no `default`", quoted(&name));
        let fix = "add what is done where no rule decides: `default: deny` or `default: allow`";
        let default = check.required(default, key.span, (&lack, fix)).map(|(default, at)| match default {
            raw::Access::Allow => (Access::Allow, at),
            raw::Access::Deny => (Access::Deny, at),
        });
        let list = check.filled(rules, "rules", MAX_ACCESS_RULES);
        let mut seen: HashMap<&str, Span> = HashMap::new();
        let mut out = Vec::with_capacity(list.len());
        for (raw, span) in list.iter().filter_map(Field::here) {
            if let Some((name, at)) = raw.name.here() {
                if let Some(first) = seen.get(name.as_str()) {
                    let message = format!("a second rule of this policy is named `{}`", quoted(name));
                    let text = (message, "give it another name: logs and metrics tell rules apart by it".to_owned());
                    check.sink.error_with(at, (*first, "the first one is here"), text);
                } else {
                    seen.insert(name, at);
                }
            }
            out.extend(self.rule(raw, span));
        }
        let (default, at) = default?;
        let readable = !rules.is_bad() && out.len() == rules.entries().len();
        if readable {
            decides_anything(check, (default, at), &out);
        }
        Some(Authorization { name, default, rules: out, place: check.place(key.span) })
    }

    fn rule(&self, raw: &raw::AccessRule, span: Span) -> Option<AccessRule> {
        let check = self.check;
        let raw::AccessRule { name, action, shadow, from, to, claims } = raw;
        let lack = ("this rule has no `name`", "add a name: logs and metrics say by it who decided");
        let name = check.required(name, span, lack).map(|(name, at)| check.name(name, at));
        let lack = ("this rule has no `action`", "add `action: allow`, `action: deny` or `action: audit`");
        let action = check.required(action, span, lack).map(|(action, _)| match action {
            raw::AccessAction::Allow => AccessAction::Allow,
            raw::AccessAction::Deny => AccessAction::Deny,
            raw::AccessAction::Audit => AccessAction::Audit,
        });
        if let (Some(AccessAction::Audit), Some(true), Some(at)) = (action, shadow.get(), shadow.span()) {
            let fix = "remove `shadow`, or write what the rule would do: `action: deny` or `action: allow`";
            check.warning(at, "`shadow` means nothing on an `audit` rule, which decides nothing anyway", fix);
        }
        let sources = check.filled(from, "from", MAX_ACCESS_WAYS).iter().filter_map(Field::here);
        let from = sources.map(|(raw, span)| self.source(raw, span)).collect();
        let operations = check.filled(to, "to", MAX_ACCESS_WAYS).iter().filter_map(Field::here);
        let to = operations.map(|(raw, span)| self.operation(raw, span)).collect();
        let conditions = check.filled(claims, "claims", MAX_ACCESS_WAYS).iter().filter_map(Field::here);
        let claims = conditions.filter_map(|(raw, span)| self.claim(raw, span)).collect();
        Some(AccessRule {
            name: name?,
            action: action?,
            shadow: check.flag(shadow, false),
            from,
            to,
            claims,
            place: check.place(span),
        })
    }

    fn source(&self, raw: &raw::AccessSource, span: Span) -> AccessSource {
        let check = self.check;
        let raw::AccessSource {
            identities,
            not_identities,
            namespaces,
            not_namespaces,
            trust_domains,
            not_trust_domains,
            addresses,
            not_addresses,
        } = raw;
        let written = [identities, not_identities, namespaces, not_namespaces, trust_domains, not_trust_domains]
            .into_iter()
            .chain([addresses, not_addresses]);
        if written.into_iter().all(Field::is_absent) {
            let fix = "add a condition such as `identities: [\"spiffe://…\"]`, or remove `from`, which means everybody";
            check.error(span, "this source has no condition: everybody is meant by it", fix);
        }
        let list = |field, name: &str| check.filled(field, name, MAX_ACCESS_ENTRIES);
        AccessSource {
            identities: check.identities(identities, "identities"),
            not_identities: check.identities(not_identities, "notIdentities"),
            namespaces: check.each(list(namespaces, "namespaces"), namespace),
            not_namespaces: check.each(list(not_namespaces, "notNamespaces"), namespace),
            trust_domains: check.each(list(trust_domains, "trustDomains"), trust_domain),
            not_trust_domains: check.each(list(not_trust_domains, "notTrustDomains"), trust_domain),
            addresses: check.each(list(addresses, "addresses"), cidr),
            not_addresses: check.each(list(not_addresses, "notAddresses"), cidr),
        }
    }

    fn operation(&self, raw: &raw::AccessOperation, span: Span) -> AccessOperation {
        let check = self.check;
        let raw::AccessOperation {
            hosts,
            not_hosts,
            paths,
            not_paths,
            methods,
            not_methods,
            ports,
            not_ports,
            headers,
            grpc,
        } = raw;
        let written = [
            hosts.span(),
            not_hosts.span(),
            paths.span(),
            not_paths.span(),
            methods.span(),
            not_methods.span(),
            ports.span(),
            not_ports.span(),
            headers.span(),
            grpc.span(),
        ];
        if written.iter().all(Option::is_none) {
            let fix = "add a condition such as `paths: [{ prefix: /v1 }]`, or remove `to`, which means everything";
            check.error(span, "this operation has no condition: everything is meant by it", fix);
        }
        let words = |field, name: &str| check.filled(field, name, MAX_ACCESS_ENTRIES);
        check.filled(headers, "headers", limits::MAX_CONDITIONS);
        let out = AccessOperation {
            hosts: check.each(words(hosts, "hosts"), names::host_pattern),
            not_hosts: check.each(words(not_hosts, "notHosts"), names::host_pattern),
            paths: self.paths(paths, "paths"),
            not_paths: self.paths(not_paths, "notPaths"),
            methods: self.methods(methods, "methods"),
            not_methods: self.methods(not_methods, "notMethods"),
            ports: self.ports(ports, "ports"),
            not_ports: self.ports(not_ports, "notPorts"),
            headers: matches::header_conditions(check, headers),
            grpc: check
                .filled(grpc, "grpc", MAX_ACCESS_ENTRIES)
                .iter()
                .filter_map(Field::get)
                .map(|raw| self.grpc(raw))
                .collect(),
        };
        let everything = |path: &PathMatch| matches!(path, PathMatch::Prefix(prefix) if prefix.is_empty());
        for (excluded, at) in [
            (out.not_hosts.contains(&HostPattern::Any), not_hosts.span()),
            (out.not_paths.iter().any(everything), not_paths.span()),
        ] {
            if let (true, Some(at)) = (excluded, at) {
                let fix = "name what is meant to be left out, or remove the operation";
                check.error(at, "this can never hold: it leaves out everything", fix);
            }
        }
        if let (false, false, false, Some(at)) =
            (out.grpc.is_empty(), out.methods.is_empty(), out.methods.contains(&Method::POST), methods.span())
        {
            check.error(at, "this can never hold: gRPC requests are always POST", "remove `methods`");
        }
        out
    }

    fn paths(&self, field: &Field<List<raw::PathMatch>>, name: &str) -> Vec<PathMatch> {
        let list = self.check.filled(field, name, MAX_ACCESS_ENTRIES);
        list.iter().filter_map(Field::get).map(|raw| matches::path(self.check, raw, self.merges)).collect()
    }

    fn methods(&self, field: &Field<List<String>>, name: &str) -> Vec<Method> {
        let check = self.check;
        let list = check.filled(field, name, MAX_ACCESS_ENTRIES).iter().filter_map(Field::here);
        list.filter_map(|(text, at)| {
            // It may be in a method's name (RFC 9110 section 5.6.2), and would be compared as such.
            if text.contains('*') {
                let fix = format!("list the methods, or remove `{name}`");
                check.error(at, "methods are compared whole, and `*` is none", fix);
                return None;
            }
            matches::method(check, text, at)
        })
        .collect()
    }

    fn ports(&self, field: &Field<List<raw::Port>>, name: &str) -> Vec<u16> {
        let check = self.check;
        let mut out = Vec::new();
        for (&raw::Port(port), at) in check.filled(field, name, MAX_ACCESS_ENTRIES).iter().filter_map(Field::here) {
            let limits::Bounds { min, max } = limits::PORT;
            match u16::try_from(port) {
                Ok(port) if u64::from(port) >= min => out.push(port),
                _ => check.error(at, format!("{port} is not a port"), format!("ports go from {min} to {max}")),
            }
        }
        out
    }

    fn grpc(&self, raw::GrpcMatch { service, method }: &raw::GrpcMatch) -> GrpcOperation {
        GrpcOperation {
            service: matches::identifier(self.check, service, "shop.Payments").map(Arc::from),
            method: matches::identifier(self.check, method, "Charge").map(Arc::from),
        }
    }

    fn claim(&self, raw: &raw::ClaimMatch, span: Span) -> Option<ClaimMatch> {
        let check = self.check;
        let raw::ClaimMatch { provider, claim, values } = raw;
        if let Some((name, at)) = provider.here() {
            self.providers.look_up(check, name, at);
        }
        let lack = ("this condition has no `claim`", "add the name of a claim, such as `claim: sub`");
        let path = check.required(claim, span, lack).and_then(|(raw, at)| claim_path(check, raw, at));
        let lack = ("this condition has no `values`", "add what the claim may be: `values: [admin]`");
        let list =
            check.required_list(values, (span, lack), ("values", MAX_ACCESS_ENTRIES)).iter().filter_map(Field::here);
        let values = list.filter_map(|(raw, at)| claim_value(check, raw, at)).collect();
        Some(ClaimMatch { provider: provider.get().map(|name| Arc::from(name.as_str())), path: path?, values })
    }
}

/// Warns of a policy that gives the same answer to everybody.
fn decides_anything(check: &Check<'_, '_>, (default, at): (Access, Span), rules: &[AccessRule]) {
    match default {
        Access::Allow if rules.iter().all(|rule| rule.action != AccessAction::Deny) => {
            let fix = "write `default: deny` and allow who may come in, or add `deny` rules";
            check.warning(at, "this policy allows everything: its default is allow and nothing denies", fix);
        }
        Access::Deny if rules.iter().all(|rule| rule.action != AccessAction::Allow || rule.shadow) => {
            let fix = "add an `allow` rule that is not `shadow`";
            check.warning(at, "this policy denies everything: its default is deny and nothing allows", fix);
        }
        Access::Allow | Access::Deny => {}
    }
}

/// The names that lead to a claim.
pub(super) fn claim_path(check: &Check<'_, '_>, raw: &raw::ClaimPath, span: Span) -> Option<Vec<Arc<str>>> {
    let names: Vec<&str> = match raw {
        raw::ClaimPath::Text(text) => text.split('.').collect(),
        raw::ClaimPath::List(list) => {
            if list.is_empty() {
                check.error(span, "this claim has no name", "write a name, such as `sub`");
                return None;
            }
            list.iter().map(|name| name.get().map(String::as_str)).collect::<Option<_>>()?
        }
    };
    if names.iter().any(|name| name.is_empty()) {
        let fix = "write names with one dot between two, such as `realm_access.roles`";
        check.error(span, "this claim has an empty name in it", fix);
        return None;
    }
    if names.len() > MAX_CLAIM_DEPTH || names.iter().any(|name| name.len() > MAX_MATCH_BYTES) {
        let fix = format!("use at most {MAX_CLAIM_DEPTH} names; a name that has dots is written as a list");
        check.error(span, "this claim is too deep or too long", fix);
        return None;
    }
    if let (raw::ClaimPath::Text(text), true) = (raw, names.iter().any(|name| name.contains("//"))) {
        let fix = format!("write it as a list, `[\"{}\"]`: dots in a text lead into objects", quoted(text));
        check.error(span, "this claim is a URL, whose dots belong to its name", fix);
        return None;
    }
    Some(names.into_iter().map(Arc::from).collect())
}

fn claim_value(check: &Check<'_, '_>, raw: &raw::ClaimValue, span: Span) -> Option<ValueMatch> {
    let condition = match raw {
        raw::ClaimValue::Text(text) => {
            if let Some(stem) = text.strip_suffix('*') {
                let fix = match stem {
                    "" => "write `{ present: true }` for any value, or `{ exact: \"*\" }`".to_owned(),
                    stem => format!("write `{{ prefix: {0} }}`, or `{{ exact: \"{0}*\" }}`", quoted(stem)),
                };
                check.error(span, "it is not clear whether this `*` stands for itself", fix);
                return None;
            }
            return matches::literal(check, text, span).map(ValueMatch::Exact);
        }
        raw::ClaimValue::Map(condition) => condition,
    };
    let raw::ClaimCondition { exact, prefix, regex, present } = condition;
    let mut written = [exact.span(), prefix.span(), regex.span(), present.span()].into_iter().flatten();
    match (written.next(), written.next()) {
        (None, _) => {
            let fix = "write a value, or one of `exact`, `prefix`, `regex` and `present: true`";
            check.error(span, "this condition does not say what it wants", fix);
            return None;
        }
        (Some(_), Some(second)) => {
            let fix = "keep one; of several values any may hold";
            check.error(second, "a value is exactly one of `exact`, `prefix`, `regex` and `present`", fix);
            return None;
        }
        (Some(_), None) => {}
    }
    if let Some((pattern, at)) = regex.here() {
        return check.pattern(pattern, Anchors::Whole, at).map(ValueMatch::Regex);
    }
    if let Some((text, at)) = exact.here() {
        return matches::literal(check, text, at).map(ValueMatch::Exact);
    }
    if let Some((text, at)) = prefix.here() {
        return matches::literal(check, text, at).map(ValueMatch::Prefix);
    }
    present.get().copied().map(ValueMatch::Present)
}

/// `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`.
pub(crate) fn cidr(text: &str) -> Result<Cidr, Wrong> {
    let wrong = |what: &str, fix: String| Err(Wrong::new(format!("`{}` {what}", quoted(text)), fix));
    let general = "write `10.0.0.0/8`, `192.0.2.7` or `fd00::/8`";
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return wrong("is not a range of addresses", general.to_owned());
    };
    let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
    let digits = prefix.filter(|prefix| prefix.bytes().all(|b| b.is_ascii_digit()));
    let prefix = match (prefix, digits.map(str::parse::<u8>)) {
        (None, _) => bits,
        (Some(_), Some(Ok(prefix))) if prefix <= bits => prefix,
        (Some(_), Some(_)) => return wrong("has no valid length", format!("write `/0` to `/{bits}`")),
        (Some(mask), None) if mask.parse::<Ipv4Addr>().is_ok() => {
            let ones = mask.parse::<Ipv4Addr>().map_or(0, |mask| mask.to_bits().leading_ones());
            let network = masked(address, u8::try_from(ones).unwrap_or(0));
            return wrong("has a netmask instead of a length", format!("write `{network}/{ones}`"));
        }
        (Some(_), None) => return wrong("is not a range of addresses", general.to_owned()),
    };
    // Peers are compared in canonical form, in which no address is IPv4 inside IPv6.
    if let IpAddr::V6(inside) = address
        && let Some(v4) = inside.to_ipv4_mapped()
    {
        let prefix = prefix.saturating_sub(96);
        let fix = format!("write `{}/{prefix}`", masked(IpAddr::V4(v4), prefix));
        return wrong("is IPv4 inside IPv6, and such addresses are seen as IPv4", fix);
    }
    let network = masked(address, prefix);
    if network != address {
        let fix = format!("write `{network}/{prefix}` for the network, or `{address}` for the one address");
        return wrong("has bits beyond its length", fix);
    }
    Ok(Cidr { network, prefix })
}

/// An address with nothing behind its first `prefix` bits.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_addresses_have_nothing_behind_their_length() {
        for (text, network, prefix) in [
            ("10.0.0.0/8", "10.0.0.0", 8),
            ("0.0.0.0/0", "0.0.0.0", 0),
            ("192.0.2.7", "192.0.2.7", 32),
            ("fd00::/8", "fd00::", 8),
            ("::/0", "::", 0),
            ("::1", "::1", 128),
        ] {
            let network = network.parse().expect("an address");
            assert_eq!(cidr(text), Ok(Cidr { network, prefix }), "{text}");
        }
        for (text, fix) in [
            ("10.1.2.3/8", "`10.0.0.0/8` for the network, or `10.1.2.3`"),
            ("fd00::1/8", "`fd00::/8`"),
            ("10.0.0.0/33", "`/0` to `/32`"),
            ("10.0.0.0/999", "`/0` to `/32`"),
            ("fd00::/129", "`/0` to `/128`"),
            ("10.0.0.0/", "`/0` to `/32`"),
            ("10.0.0.0/+8", "`10.0.0.0/8`"),
            ("10.1.0.0/255.0.0.0", "`10.0.0.0/8`"),
            ("::ffff:10.0.0.0/104", "`10.0.0.0/8`"),
            ("::ffff:10.0.0.1", "`10.0.0.1/32`"),
            ("10.0.0", "`10.0.0.0/8`"),
            ("10.*", "`10.0.0.0/8`"),
            ("example.com", "`10.0.0.0/8`"),
            ("", "`10.0.0.0/8`"),
        ] {
            let wrong = cidr(text).expect_err(text);
            assert!(wrong.fix.contains(fix), "{text}: {}", wrong.fix);
        }
    }
}
