//! Route configurations.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use outrigger_config::grammar;
use outrigger_config::model::{
    Cors, Fault, Filter, HeaderEdit, HostPattern, Match, Mirror, RouteTable, Rule, UrlRewrite, VirtualHost,
};

use super::action::{self, Beside, Done};
use super::filters::{self, PerRoute};
use super::matching;
use super::reader::At;
use super::resilience::{self, RuleResilience};
use crate::extensions::{RouteExtension, StepsExtension, VirtualHostExtension, step};
use crate::pb::{core, route};

pub(super) fn table(at: &At<'_>, message: &route::RouteConfiguration) -> Option<RouteTable> {
    unpack!(at, message => route::RouteConfiguration {
        take: [
            name,
            virtual_hosts,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            typed_per_filter_config,
            ignore_port_in_host_matching,
        ],
        ignore: [
            most_specific_header_mutations_wins, // a header is changed on one level only
            validate_clusters, // a route to a missing cluster is answered 503
            max_direct_response_body_size_bytes, // bodies have a limit of their own
            metadata, // of others
        ],
        refuse: [
            vhds,
            internal_only_headers,
            cluster_specifier_plugins,
            request_mirror_policies,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            route_specifiers,
        ],
    });
    let name = at.field("name").held(grammar::name(name))?;
    let around = Around {
        request: Edits::read(at, "request", (request_headers_to_add, request_headers_to_remove)),
        response: Edits::read(at, "response", (response_headers_to_add, response_headers_to_remove)),
        filters: filters::per_route(at, typed_per_filter_config),
    };
    let mut names = HashSet::new();
    let mut seen: HashMap<HostPattern, usize> = HashMap::new();
    let ports = if *ignore_port_in_host_matching { Ports::Ignored } else { Ports::Count };
    let mut hosts = Vec::with_capacity(virtual_hosts.len());
    for (index, message) in virtual_hosts.iter().enumerate() {
        let at = at.item("virtual_hosts", index);
        hosts.extend(host(&at, message, (index, &around), (&mut names, &mut seen, ports)));
    }
    Some(RouteTable { name, hosts })
}

/// What a level says for everything below it.
struct Around {
    request: Edits,
    response: Edits,
    filters: PerRoute,
}

fn host(
    at: &At<'_>,
    message: &route::VirtualHost,
    (index, table): (usize, &Around),
    (names, seen, ports): (&mut HashSet<Arc<str>>, &mut HashMap<HostPattern, usize>, Ports),
) -> Option<VirtualHost> {
    unpack!(at, message => route::VirtualHost {
        take: [
            domains,
            routes,
            require_tls,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            retry_policy,
            metadata,
        ],
        ignore: [
            name, // hosts are told apart by their domains
            virtual_clusters, // metrics are ours
            per_request_buffer_limit_bytes, // buffers have limits of their own
            request_body_buffer_limit, // likewise
        ],
        refuse: [
            matcher,
            rate_limits,
            cors,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            request_mirror_policies,
            route_specifiers,
        ],
    });
    if *require_tls != 0 {
        at.field("require_tls")
            .refuse("this is not supported; redirect with a route, or let the listener take TLS only");
    }
    let own = at.extension::<VirtualHostExtension>("VirtualHostExtension", metadata.as_ref());
    let mut hostnames = Vec::new();
    for (number, text) in domains.iter().enumerate() {
        let at = at.item("domains", number);
        let Some(pattern) = at.held(domain(text, ports)) else { continue };
        match seen.insert(pattern.clone(), index) {
            None => hostnames.push(pattern),
            // A name for any port and without one is the same.
            Some(same) if same == index => {}
            Some(_) => at.refuse("another virtual host has this name already"),
        }
    }
    if domains.is_empty() {
        at.field("domains").refuse("the virtual host has no domains");
    }
    let around = Around {
        request: Edits::read(at, "request", (request_headers_to_add, request_headers_to_remove)),
        response: Edits::read(at, "response", (response_headers_to_add, response_headers_to_remove)),
        filters: filters::per_route(at, typed_per_filter_config).over(&table.filters),
    };
    let levels = Levels { host: &around, table, retry: retry_policy.as_ref() };
    let mut rules: Vec<Rule> = Vec::new();
    for (number, message) in routes.iter().enumerate() {
        let at = at.item("routes", number);
        match self::route(&at, message, &levels) {
            Some(Routed::New(mut rule)) => {
                rule.name = unique(&message.name, (index, number), names);
                rules.push(*rule);
            }
            Some(Routed::Continues(one)) => match rules.last_mut() {
                Some(rule) => rule.matches.push(one),
                None => at.refuse("there is no rule before this route that it could continue"),
            },
            None => {}
        }
    }
    Some(VirtualHost { hostnames, rules, place: at.place_of(own.as_ref().and_then(|own| own.place.as_ref())) })
}

/// Whether ports in domains count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Count,
    Ignored,
}

/// A domain. One for any port (`name:*`) is that without a port, which takes every port that has no domain of its own.
fn domain(text: &str, ports: Ports) -> Result<HostPattern, String> {
    let split = text.rsplit_once(':').filter(|(host, _)| {
        // Other colons are those of an IPv6 address.
        !host.is_empty() && (!host.contains(':') || host.ends_with(']'))
    });
    match split {
        Some((host, "*")) => grammar::host_pattern(host),
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => match ports {
            Ports::Ignored => grammar::host_pattern(host),
            Ports::Count => grammar::virtual_host(text),
        },
        _ => grammar::host_pattern(text),
    }
}

/// A name that no other rule of the table has, of characters that names have.
fn unique(given: &str, (host, number): (usize, usize), names: &mut HashSet<Arc<str>>) -> Arc<str> {
    let positional = || format!("{host}/{number}");
    let cleaned: String = if grammar::name(given).is_ok() {
        given.to_owned()
    } else {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "._-:/|@~".contains(c) { c } else { '_' };
        let cleaned: String = given.chars().map(fits).take(200).collect();
        if cleaned.is_empty() { positional() } else { cleaned }
    };
    let mut name: Arc<str> = cleaned.as_str().into();
    let mut count = 1_usize;
    while !names.insert(name.clone()) {
        count += 1;
        name = format!("{}~{count}", cleaned.chars().take(200).collect::<String>()).into();
    }
    name
}

/// What stands above a route.
struct Levels<'m> {
    host: &'m Around,
    table: &'m Around,
    retry: Option<&'m route::RetryPolicy>,
}

enum Routed {
    New(Box<Rule>),
    /// One more match of the rule before.
    Continues(Match),
}

fn route(at: &At<'_>, message: &route::Route, levels: &Levels<'_>) -> Option<Routed> {
    unpack!(at, message => route::Route {
        take: [
            name,
            r#match,
            metadata,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            action,
        ],
        ignore: [
            decorator, // of traces
            tracing, // likewise
            per_request_buffer_limit_bytes, // buffers have limits of their own
            stat_prefix, // metrics are ours
            request_body_buffer_limit, // buffers have limits of their own
        ],
        refuse: [route_specifiers],
    });
    let _ = name;
    let own = at.extension::<RouteExtension>("RouteExtension", metadata.as_ref());
    let own = own.as_ref();
    let Some(message) = r#match else {
        at.field("match").refuse("there is no condition");
        return None;
    };
    let one = matching::route_match(&at.field("match"), message, own.and_then(|own| own.grpc_method.as_deref()))?;
    if own.is_some_and(|own| own.continues) {
        return Some(Routed::Continues(one));
    }
    let beside = Beside { path: &one.path, own, host_retry: levels.retry };
    let Done { action, rewrite, timeouts, retry, hedge, hash, mirrors } = action::action(at, action.as_ref(), &beside)?;
    let said = match own.and_then(|own| own.resilience.as_ref()) {
        Some(given) => resilience::rule(at, given, retry),
        None => RuleResilience::envoy(retry, (hedge, hash, mirrors)),
    };
    let RuleResilience {
        retry,
        hedge,
        breaker,
        hash,
        session,
        rate_limits,
        global_rate_limits,
        criticality,
        faults,
        mirrors,
    } = said;
    let request = Edits::read(at, "request", (request_headers_to_add, request_headers_to_remove));
    let response = Edits::read(at, "response", (response_headers_to_add, response_headers_to_remove));
    once(at, [&request, &levels.host.request, &levels.table.request], "request_headers_to_add");
    once(at, [&response, &levels.host.response, &levels.table.response], "response_headers_to_add");
    let per_route = filters::per_route(at, typed_per_filter_config).over(&levels.host.filters);
    let cors = per_route.cors.map(|cors| filters::own_cors(cors, own.and_then(|own| own.cors.as_ref())));
    let mut filters = match own.and_then(|own| own.steps.as_ref()) {
        Some(steps) => in_steps(at, steps, (request, response), (rewrite, cors), (faults, mirrors)),
        None => {
            let mut out: Vec<Filter> = rewrite.map(Filter::UrlRewrite).into_iter().collect();
            out.extend(request.whole(at).map(Filter::RequestHeaders));
            out.extend(response.whole(at).map(Filter::ResponseHeaders));
            out.extend(cors.map(|cors| Filter::Cors(Arc::new(cors))));
            out.extend(faults.into_iter().map(|fault| Filter::Fault(Arc::new(fault))));
            out.extend(mirrors.into_iter().map(Filter::Mirror));
            out
        }
    };
    for around in [levels.host, levels.table] {
        filters.extend(around.request.clone().whole(at).map(Filter::RequestHeaders));
        filters.extend(around.response.clone().whole(at).map(Filter::ResponseHeaders));
    }
    // Everything, as no condition at all says it.
    let everything = match own {
        Some(own) => own.everything,
        None => false,
    };
    Some(Routed::New(Box::new(Rule {
        name: Arc::from(""),
        matches: if everything { Vec::new() } else { vec![one] },
        filters,
        action,
        timeouts,
        retry,
        hedge,
        breaker,
        hash,
        session,
        rate_limits,
        global_rate_limits,
        criticality,
        external_authorization: !per_route.unasked,
        place: at.place_of(own.and_then(|own| own.place.as_ref())),
    })))
}

/// A header that is changed on two levels: which comes first is not the same for us.
fn once(at: &At<'_>, levels: [&Edits; 3], field: &str) {
    let mut seen: HashSet<&HeaderName> = HashSet::new();
    for level in levels {
        let names: HashSet<&HeaderName> = level.names().collect();
        for name in names {
            if !seen.insert(name) {
                at.field(field).refuse(format!("`{name}` is changed on two levels; change it on one"));
            }
        }
    }
}

/// Header changes as Envoy lists them.
#[derive(Debug, Clone, Default)]
pub(super) struct Edits {
    remove: Vec<HeaderName>,
    /// With whether it is appended.
    add: Vec<(HeaderName, HeaderValue, bool)>,
}

impl Edits {
    pub(super) fn read(at: &At<'_>, what: &str, (add, remove): (&[core::HeaderValueOption], &[String])) -> Self {
        let mut out = Self::default();
        for (index, text) in remove.iter().enumerate() {
            let at = at.item(&format!("{what}_headers_to_remove"), index);
            out.remove.extend(at.held(header_name(text)));
        }
        for (index, message) in add.iter().enumerate() {
            let at = at.item(&format!("{what}_headers_to_add"), index);
            out.add.extend(added(&at, message));
        }
        out
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.remove.iter().chain(self.add.iter().map(|(name, ..)| name))
    }

    /// All of it in one filter; `None` where there is nothing.
    pub(super) fn whole(self, at: &At<'_>) -> Option<HeaderEdit> {
        let Self { remove, add } = self;
        if remove.is_empty() && add.is_empty() {
            return None;
        }
        let mut edit = HeaderEdit::default();
        for name in remove {
            if !edit.remove.contains(&name) {
                edit.remove.push(name);
            }
        }
        for (name, value, append) in add {
            if append {
                edit.add.push((name, value));
                continue;
            }
            if edit.add.iter().any(|(other, _)| *other == name) {
                at.refuse(format!(
                    "the header `{name}` is replaced after it was appended to; do it the other way round"
                ));
            }
            edit.set.retain(|(other, _)| *other != name);
            edit.set.push((name, value));
        }
        Some(edit)
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{}` is not the name of a header", text.escape_debug()))
}

fn added(at: &At<'_>, message: &core::HeaderValueOption) -> Option<(HeaderName, HeaderValue, bool)> {
    use core::header_value_option::HeaderAppendAction;
    unpack!(at, message => core::HeaderValueOption {
        take: [header, append, append_action, keep_empty_value],
        ignore: [],
        refuse: [],
    });
    let Some(message) = header else {
        at.refuse("there is no header");
        return None;
    };
    unpack!(at, message => core::HeaderValue { take: [key, value], ignore: [], refuse: [raw_value] });
    let append = match (append, HeaderAppendAction::try_from(*append_action)) {
        (Some(flag), Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => flag.value,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => true,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => false,
        (Some(_), _) => {
            at.field("append").refuse("`append_action` stands beside it; keep one of the two");
            return None;
        }
        (None, _) => {
            let reason = "this is not supported; use APPEND_IF_EXISTS_OR_ADD or OVERWRITE_IF_EXISTS_OR_ADD";
            at.field("append_action").refuse(reason);
            return None;
        }
    };
    if value.is_empty() && !keep_empty_value {
        at.field("keep_empty_value").refuse("an empty value is not sent without it; set it, or remove the header");
    }
    // `%%` is a percent sign, anything else a command.
    let literal = value.replace("%%", "\u{0}");
    if literal.contains('%') {
        at.field("header").field("value").refuse("commands in values are not supported; write `%%` for a percent sign");
        return None;
    }
    let literal = literal.replace('\u{0}', "%");
    let name = at.field("header").field("key").held(header_name(key));
    let value = HeaderValue::from_str(&literal).map_err(|_| "this cannot be the value of a header".to_owned());
    let value = at.field("header").field("value").held(value);
    Some((name?, value?, append))
}

/// The filters that the lists were made of.
pub(super) fn in_steps(
    at: &At<'_>,
    steps: &StepsExtension,
    (request, response): (Edits, Edits),
    (mut rewrite, mut cors): (Option<UrlRewrite>, Option<Cors>),
    (faults, mirrors): (Vec<Fault>, Vec<Mirror>),
) -> Vec<Filter> {
    let (mut faults, mut mirrors) = (faults.into_iter(), mirrors.into_iter());
    let mut request = Queue::of(request);
    let mut response = Queue::of(response);
    let mut out = Vec::with_capacity(steps.steps.len().min(64));
    for one in steps.steps.iter().take(64) {
        match step::Kind::try_from(one.kind) {
            Ok(step::Kind::RequestHeaders) => out.push(Filter::RequestHeaders(request.take(one))),
            Ok(step::Kind::ResponseHeaders) => out.push(Filter::ResponseHeaders(response.take(one))),
            Ok(step::Kind::UrlRewrite) => out.extend(rewrite.take().map(Filter::UrlRewrite)),
            Ok(step::Kind::Cors) => out.extend(cors.take().map(|cors| Filter::Cors(Arc::new(cors)))),
            Ok(step::Kind::Fault) => out.extend(faults.next().map(|fault| Filter::Fault(Arc::new(fault)))),
            Ok(step::Kind::Mirror) => out.extend(mirrors.next().map(Filter::Mirror)),
            Err(_) => at.field("metadata").refuse("a filter of an unknown kind"),
        }
    }
    let done = faults.len() == 0 && mirrors.len() == 0;
    if !done || !request.is_empty() || !response.is_empty() || rewrite.is_some() || cors.is_some() {
        at.field("metadata").refuse("the filters leave something out that the route does");
    }
    out
}

/// Header changes that are handed out in order.
struct Queue {
    remove: std::vec::IntoIter<HeaderName>,
    add: std::vec::IntoIter<(HeaderName, HeaderValue, bool)>,
}

impl Queue {
    fn of(Edits { remove, add }: Edits) -> Self {
        Self { remove: remove.into_iter(), add: add.into_iter() }
    }

    fn is_empty(&self) -> bool {
        self.remove.as_slice().is_empty() && self.add.as_slice().is_empty()
    }

    fn take(&mut self, step: &crate::extensions::Step) -> HeaderEdit {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let pair = |(name, value, _): (HeaderName, HeaderValue, bool)| (name, value);
        HeaderEdit {
            remove: self.remove.by_ref().take(count(step.remove)).collect(),
            set: self.add.by_ref().take(count(step.set)).map(pair).collect(),
            add: self.add.by_ref().take(count(step.add)).map(pair).collect(),
        }
    }
}
