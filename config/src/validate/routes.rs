//! Route tables, virtual hosts, rules and where they lead.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{
    Check, Names, References, balance, breakers, filters, good, matches, names, opaque, overload, policies, reach,
    sessions, small, ties,
};
use crate::limits;
use crate::model::{Action, BackendRef, Filter, HostPattern, Labels, Listener, RouteTable, Rule, VirtualHost};
use crate::raw;
use crate::read::{Entries, Field, Key, List};
use crate::source::Span;
use crate::text::quoted;

type RawTables = Field<Entries<List<raw::VirtualHost>>>;

pub(super) fn tables(
    check: &Check<'_, '_>,
    field: &RawTables,
    references: &References<'_>,
    listeners: &[Listener],
) -> BTreeMap<Arc<str>, RouteTable> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    let merging_only: HashSet<&str> = {
        let keeping: HashSet<&str> =
            listeners.iter().filter(|l| !l.path.merge_slashes).filter_map(|l| l.routes.as_deref()).collect();
        listeners.iter().filter_map(|l| l.routes.as_deref()).filter(|table| !keeping.contains(table)).collect()
    };
    let ties = ties::Ties::default();
    let mut out = BTreeMap::new();
    let mut rules = 0;
    for (key, hosts) in check.within(&entries.pairs, limits::MAX_ROUTE_TABLES, (Some(span), "route tables")) {
        let name = check.name(&key.text, key.span);
        let Some((hosts, at)) = hosts.here() else { continue };
        rules += good_rules(hosts);
        if rules > limits::MAX_RULES {
            let message = format!("more than {} rules", limits::MAX_RULES);
            check.error(key.span, message, "split the routes over several proxies");
            break;
        }
        let asked = listeners.iter().any(|l| l.routes.as_ref() == Some(&name) && l.external_authorization.is_some());
        let table = Table { check, references, ties: &ties, merges: merging_only.contains(&*name), asked };
        out.insert(Arc::clone(&name), table.read(key, name, (hosts, at)));
    }
    out
}

fn good_rules(hosts: &List<raw::VirtualHost>) -> usize {
    hosts.iter().filter_map(Field::get).map(|host| host.rules.entries().len()).sum()
}

/// What the rules of one table need to know.
struct Table<'a, 't, 'n> {
    check: &'a Check<'a, 't>,
    references: &'a References<'n>,
    ties: &'a ties::Ties,
    /// Every listener that uses this table merges slashes.
    merges: bool,
    /// Some listener that uses this table asks an external authorizer.
    asked: bool,
}

impl Table<'_, '_, '_> {
    fn read(&self, key: &Key, name: Arc<str>, (raw, span): (&List<raw::VirtualHost>, Span)) -> RouteTable {
        let check = self.check;
        if raw.is_empty() {
            let message = format!("the route table `{}` has no hosts", quoted(&key.text));
            check.error(span, message, "add a host with rules: `- rules: [{ backendRefs: [{ cluster: NAME }] }]`");
        }
        let mut patterns: HashMap<HostPattern, Span> = HashMap::new();
        let mut rule_names: HashMap<Arc<str>, Span> = HashMap::new();
        let mut hosts = Vec::with_capacity(raw.len());
        for (index, host) in raw.iter().enumerate() {
            let Some((raw::VirtualHost { hostnames, rules }, span)) = host.here() else { continue };
            let hostnames = self.hostnames(hostnames, span, &mut patterns);
            let lack = ("this host has no `rules`", "add `rules: [{ backendRefs: [{ cluster: NAME }] }]`");
            let Some((list, at)) = check.required(rules, span, lack) else { continue };
            if list.is_empty() {
                check.error(at, lack.0, lack.1);
            }
            let mut rules: Vec<Rule> = Vec::with_capacity(list.len());
            let mut seen = reach::Covered::default();
            for (number, rule) in list.iter().enumerate() {
                let Some((raw, span)) = rule.here() else { continue };
                let name = self.rule_name(raw, (index, number), &mut rule_names);
                let rule = self.rule(raw, span, name);
                seen.look(check, &rule, raw.name.span().unwrap_or(span));
                rules.push(rule);
            }
            hosts.push(VirtualHost { hostnames, rules, place: check.place(span) });
        }
        RouteTable { name, hosts }
    }

    fn hostnames(
        &self,
        field: &Field<List<String>>,
        host: Span,
        seen: &mut HashMap<HostPattern, Span>,
    ) -> Vec<HostPattern> {
        let check = self.check;
        let mut out = Vec::new();
        let mut add = |pattern: HostPattern, text: &str, span: Span| {
            if let Some(first) = seen.get(&pattern) {
                let (message, fix) = match text {
                    "" => (
                        "a second host without `hostnames`: both would take every name".to_owned(),
                        "put the rules of both under one host, or add `hostnames`".to_owned(),
                    ),
                    text => (
                        format!("the hostname `{}` comes twice in this table", quoted(text)),
                        "put its rules under one host".to_owned(),
                    ),
                };
                check.sink.error_with(span, (*first, "the first one is here"), (message, fix));
            } else {
                seen.insert(pattern.clone(), span);
                out.push(pattern);
            }
        };
        if field.is_bad() {
            return Vec::new();
        }
        let list = check.within(field.entries(), limits::MAX_HOSTNAMES, (field.span(), "hostnames"));
        if list.is_empty() {
            add(HostPattern::Any, "", field.span().unwrap_or(host));
        }
        for (text, span) in list.iter().filter_map(Field::here) {
            if let Some(pattern) = check.parsed(names::virtual_host(text), span) {
                add(pattern, text, span);
            }
        }
        out
    }

    fn rule_name(
        &self,
        raw: &raw::Rule,
        (host, number): (usize, usize),
        seen: &mut HashMap<Arc<str>, Span>,
    ) -> Arc<str> {
        let check = self.check;
        let Some((name, span)) = raw.name.here() else { return format!("{host}/{number}").into() };
        let name = check.name(name, span);
        if let Some(first) = seen.get(&name) {
            let message = format!("a second rule of this table is named `{}`", quoted(&name));
            let text = (message, "give it another name, or none".to_owned());
            check.sink.error_with(span, (*first, "the first one is here"), text);
        } else if positional(&name) {
            let message = format!("the name `{}` looks like the position of an unnamed rule", quoted(&name));
            check.error(span, message, "give it another name, or none");
        } else {
            seen.insert(Arc::clone(&name), span);
        }
        name
    }

    fn rule(&self, raw: &raw::Rule, span: Span, name: Arc<str>) -> Rule {
        let check = self.check;
        let raw::Rule {
            name: _,
            matches,
            filters,
            backend_refs,
            timeouts,
            retry,
            hedge,
            circuit_breaker,
            hash,
            session_persistence,
            rate_limits,
            global_rate_limits,
            criticality,
            external_authorization,
        } = raw;
        let ask = external_authorization.get() != Some(&raw::Switch::Off);
        if let (false, false, Some(at)) = (ask, self.asked, external_authorization.span())
            && !check.sink.has_errors()
        {
            let message = "no listener that uses this table asks an external authorizer";
            check.warning(at, message, "remove it, or add `externalAuthorization: NAME` to the listener");
        }
        let mut matches = matches::matches(check, matches, self.merges);
        let filters::Checked { filters: list, terminal, prefix_rewrite } =
            filters::of_rule(check, filters, &self.references.clusters);
        if let Some(at) = prefix_rewrite {
            matches::require_prefixes(check, &mut matches, at);
        }
        let backends = backends(check, &self.references.clusters, (backend_refs, BackendsOf::Rule));
        self.ties.look(check, raw, self.references);
        opaque::takes_requests(check, (raw, &matches), self.references);
        let action = match (terminal, backend_refs.span()) {
            (Some((action, _)), None) => action,
            (Some((action, at)), Some(refs)) => {
                check.sink.error_with(
                    refs,
                    (at, "the answer is given here"),
                    (
                        "a rule that answers by itself has no backends".to_owned(),
                        "remove `backendRefs`, or the `redirect` or `directResponse` filter".to_owned(),
                    ),
                );
                action
            }
            (None, refs) => {
                let fix = "add `backendRefs: [{ cluster: NAME }]`, or a `redirect` or `directResponse` filter";
                let empty = backend_refs.get().is_some_and(Vec::is_empty);
                // A filter that could not be read may have been the one that answers.
                if (backend_refs.is_absent() && !filters::any_bad(filters)) || empty {
                    check.error(refs.unwrap_or(span), "this rule leads nowhere: it has no backends", fix);
                }
                Action::Forward(backends)
            }
        };
        let retry = policies::retry(check, retry);
        Rule {
            filters: list,
            action,
            timeouts: policies::timeouts(check, timeouts),
            hedge: policies::hedge(check, hedge, (&retry, &matches)),
            breaker: breakers::breaker(check, circuit_breaker),
            hash: sessions::hash(check, hash),
            session: sessions::session(check, session_persistence),
            rate_limits: overload::rate_limits(check, rate_limits),
            global_rate_limits: overload::global(check, global_rate_limits, &self.references.rate_limits),
            criticality: overload::criticality(criticality),
            name,
            matches,
            retry,
            external_authorization: ask,
            place: check.place(span),
        }
    }
}

/// What a list of backends belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BackendsOf {
    Rule,
    /// Filters have been refused.
    Passthrough,
    /// Of `tcp` or `udp` of a listener; filters have been refused.
    Bytes,
}

pub(super) fn backends(
    check: &Check<'_, '_>,
    clusters: &Names<'_>,
    (field, of): (&Field<List<raw::BackendRef>>, BackendsOf),
) -> Vec<BackendRef> {
    let what = match of {
        BackendsOf::Rule => "rule",
        BackendsOf::Passthrough => "entry",
        BackendsOf::Bytes => "list",
    };
    let mut seen: HashMap<(&str, Labels), Span> = HashMap::new();
    let mut out: Vec<BackendRef> = Vec::new();
    let list = check.within(field.entries(), limits::MAX_BACKENDS, (field.span(), "backends"));
    for (raw::BackendRef { cluster, weight, subset, filters }, span) in list.iter().filter_map(Field::here) {
        let weight = small(check.number(weight, 1, limits::BACKEND_WEIGHT));
        let filters: Vec<Filter> = match of {
            BackendsOf::Rule => filters::of_backend(check, filters),
            BackendsOf::Passthrough | BackendsOf::Bytes => Vec::new(),
        };
        let subset = balance::labels(check, subset);
        let lack = ("this backend has no `cluster`", "add the name of a cluster: `cluster: NAME`");
        let Some((name, at)) = check.required(cluster, span, lack) else { continue };
        clusters.refer(check, name, at);
        let key = (name.as_str(), subset);
        if let Some(first) = seen.get(&key) {
            let with = if key.1.is_empty() { "" } else { " with the same `subset`" };
            let message = format!("the cluster `{}` comes twice in this {what}{with}", quoted(name));
            let text = (message, "keep one and add up the weights".to_owned());
            check.sink.error_with(at, (*first, "the first one is here"), text);
            continue;
        }
        out.push(BackendRef { cluster: Arc::from(name.as_str()), weight, subset: key.1.clone(), filters });
        seen.insert(key, at);
    }
    let readable = good(field).count() == field.entries().len();
    if let (true, false, Some(span)) = (readable, out.is_empty(), field.span())
        && out.iter().all(|backend| backend.weight == 0)
    {
        check.error(span, format!("every backend of this {what} has weight 0"), "give at least one a weight above 0");
    }
    out
}

/// Whether a name could also be the default name of a rule, `HOST/RULE`.
fn positional(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name.split_once('/').is_some_and(|(host, rule)| number(host) && number(rule))
}
