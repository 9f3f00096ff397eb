//! `outrigger explain`: where a request would go, and why. Nothing is sent and no name is resolved.

use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Uri, Version};
use outrigger_config::model::{Access, Action, BackendRef, Config, Direction, Filter, Listener, Rule, VirtualHost};
use outrigger_config::{Loaded, Style};

use self::story::{
    AccessPart, AccessRulePart, Backend, Decision, Endpoint, HostPart, Limit, ListenerPart, Retries, RulePart, Story,
};
use super::Report;
use super::args::{ExplainArgs, Format};
use super::check::load_from;
use crate::codec::RequestHead;
use crate::discovery::dump;
use crate::policy::authz::{Claims, Policy, Request};
use crate::policy::deadline::{self, Source};
use crate::policy::route::{HostChoice, RouteQuery, RouteTable, RuleOutcome};
use crate::policy::{host, path};
use crate::proxy::{Reason, preview};

mod story;
mod text;

/// Explains a request. `style` is for standard output.
#[must_use]
pub fn run(args: &ExplainArgs, style: Style) -> Report {
    let (_, loaded) = load_from(&args.config);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => return Report::failure(format!("{}\n", problems.render(Style::Plain))),
    };
    match explain(&loaded, args) {
        Ok(story) => Report::success(match args.format {
            Format::Text => text::render(&story, style),
            Format::Json => format!("{:#}\n", serde_json::json!(story)),
        }),
        Err(problem) => Report::failure(format!("error: {problem}\n")),
    }
}

fn explain(loaded: &Loaded, args: &ExplainArgs) -> Result<Story, String> {
    let config = &*loaded.config;
    let (listener, why_listener) = choose_listener(config, args.listener.as_deref())?;
    let (head, (normal_host, port)) = request(args, listener)?;
    let name = listener.routes.as_ref().ok_or("the listener hands connections on and has no routes")?;
    let table = config.routes.get(name).ok_or("the listener's route table is missing")?;
    let (plain_path, query) = path::split(head.path.as_str());
    let query = RouteQuery {
        host: &normal_host,
        port,
        path: plain_path,
        query,
        method: &head.method,
        headers: &head.headers,
        is_grpc: preview::is_grpc(&head.headers),
    };
    let explanation = RouteTable::compile(table).explain(&query);
    let authorization = authorization(config, listener, &query, args);
    let rules: Vec<&Rule> = table.hosts.iter().flat_map(|host| &host.rules).collect();
    let decision = match explanation.winner {
        _ if authorization.as_ref().is_some_and(|access| !access.allowed) => {
            let reason = Reason::Denied;
            Decision::Denied { status: reason.status().as_u16(), reason: reason.code(), sentence: reason.sentence() }
        }
        None => {
            let reason = Reason::NoRoute;
            Decision::NoRoute { status: reason.status().as_u16(), reason: reason.code(), sentence: reason.sentence() }
        }
        Some(hit) => {
            let rule = rules[hit.rule];
            let prefix_len = hit.prefix_len;
            decide(config, listener, rule, &head, prefix_len)
        }
    };
    Ok(Story {
        method: head.method.to_string(),
        host: normal_host.clone(),
        path: head.path.to_string(),
        grpc: preview::is_grpc(&head.headers),
        listener: ListenerPart {
            name: listener.name.to_string(),
            bind: listener.bind.to_string(),
            routes: listener.routes.as_deref().unwrap_or_default().to_owned(),
            why: why_listener,
            place: story::place(&listener.place),
        },
        virtual_host: host_part(&table.hosts, &explanation.host),
        rules: explanation
            .rules
            .iter()
            .map(|trace| {
                let (won, why) = match &trace.outcome {
                    RuleOutcome::Won(at) => (true, won_because(rules[trace.rule], *at)),
                    RuleOutcome::Lost(mismatches) => (false, mismatches.iter().map(ToString::to_string).collect()),
                };
                RulePart { name: trace.name.to_string(), won, why, place: story::place(&rules[trace.rule].place) }
            })
            .collect(),
        authorization,
        decision,
    })
}

/// What the listener's policy says about a caller without a token.
fn authorization(
    config: &Config,
    listener: &Listener,
    route: &RouteQuery<'_>,
    args: &ExplainArgs,
) -> Option<AccessPart> {
    let policy = Policy::compile(config.authorization.get(listener.authorization.as_ref()?)?);
    let (identity, address, port) = (args.identity.as_ref(), args.from.to_canonical(), listener.bind.port());
    let decision = policy.decide(&Request { route, identity, address, port, claims: Claims::None });
    let part = |rule| AccessRulePart {
        name: policy.name(Some(rule)).to_owned(),
        place: story::place(policy.place(Some(rule))),
    };
    let who = identity.map_or_else(|| "a caller without an identity".to_owned(), ToString::to_string);
    Some(AccessPart {
        policy: policy.config().name.to_string(),
        caller: format!("{who} at {address}, to port {port}"),
        allowed: decision.access == Access::Allow,
        rule: policy.name(decision.rule).to_owned(),
        place: story::place(policy.place(decision.rule)),
        shadow: decision.shadow.map(part),
        audits: decision.audits.into_iter().map(part).collect(),
        reads_token: policy.config().rules.iter().any(|rule| !rule.claims.is_empty()),
    })
}

fn choose_listener<'a>(config: &'a Config, wanted: Option<&str>) -> Result<(&'a Listener, String), String> {
    let names = || config.listeners.iter().map(|l| format!("`{}`", l.name)).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let found = config.listeners.iter().find(|listener| &*listener.name == wanted);
        let found = found.ok_or_else(|| format!("there is no listener `{wanted}`; there are {}", names()))?;
        return Ok((found, "asked for".to_owned()));
    }
    match &config.listeners[..] {
        [] => Err("the configuration has no listeners".to_owned()),
        [only] => Ok((only, "the only one".to_owned())),
        [first, ..] => {
            let outbound = config.listeners.iter().find(|listener| listener.direction == Direction::Outbound);
            let why = if outbound.is_some() { "the first outbound one" } else { "the first one" };
            let all = names();
            Ok((outbound.unwrap_or(first), format!("{why} of {all}; another with --listener")))
        }
    }
}

/// The request as the pipeline would see it, and its host in normal form with the port.
fn request(args: &ExplainArgs, listener: &Listener) -> Result<(RequestHead, (String, Option<u16>)), String> {
    let (method, url) = match &args.request[..] {
        [url] => (None, url),
        [method, url, ..] => (Some(method), url),
        [] => return Err("no URL was given".to_owned()),
    };
    let method = match (method, &args.method) {
        (Some(_), Some(_)) => return Err("the method was given twice, before the URL and with -X".to_owned()),
        (Some(text), None) => Method::from_bytes(text.as_bytes())
            .ok()
            .filter(|_| !text.contains("://"))
            .ok_or_else(|| format!("`{text}` is not a method; the form is [METHOD] URL"))?,
        (None, method) => method.clone().unwrap_or(Method::GET),
    };
    let bad = || format!("`{url}` is not a URL; the form is http://host/path");
    let full = if url.contains("://") || url.starts_with('/') { url.clone() } else { format!("http://{url}") };
    let uri: Uri = full.parse().map_err(|_| bad())?;
    let mut headers: HeaderMap = args.headers.iter().cloned().collect();
    let written = headers.remove(HOST);
    let written = written.as_ref().map(|host| host.to_str().map_err(|_| "the host is not text".to_owned()));
    let authority = match (written.transpose()?, uri.authority()) {
        (Some(host), _) => host.to_owned(),
        (None, Some(authority)) => authority.to_string(),
        (None, None) => return Err(bad()),
    };
    let refused = |what: &dyn std::fmt::Display| format!("the proxy refuses this request with 400: {what}");
    let normal = host::parse_authority(&authority).map_err(|error| refused(&error))?;
    let normal_host = (normal.host.into_owned(), normal.port);
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let normal_path = path::normalize(target, listener.path).map_err(|error| refused(&error))?;
    let head = RequestHead {
        method,
        scheme: uri.scheme().cloned().unwrap_or(Scheme::HTTP),
        authority: Some(authority.parse().map_err(|_| bad())?),
        path: normal_path.parse().map_err(|_| bad())?,
        version: Version::HTTP_11,
        headers,
        upgrade: None,
    };
    Ok((head, normal_host))
}

fn host_part(hosts: &[VirtualHost], choice: &HostChoice) -> HostPart {
    let chosen = choice.virtual_host().map(|at| &hosts[at]);
    HostPart {
        hostnames: chosen.map(|host| host.hostnames.iter().map(dump::host_pattern).collect()).unwrap_or_default(),
        why: choice.to_string(),
        place: chosen.map(|host| story::place(&host.place)),
    }
}

fn won_because(rule: &Rule, at: Option<usize>) -> Vec<String> {
    match at {
        None => vec!["it has no conditions".to_owned()],
        Some(_) if rule.matches.len() == 1 => vec!["all its conditions hold".to_owned()],
        Some(at) => vec![format!("all conditions of its match {} hold", at + 1)],
    }
}

fn decide(config: &Config, listener: &Listener, rule: &Rule, head: &RequestHead, prefix_len: usize) -> Decision {
    match &rule.action {
        Action::Redirect(redirect) => {
            let answer = preview::redirect(redirect, head, prefix_len);
            let location = answer.headers.get(http::header::LOCATION);
            Decision::Redirect {
                status: answer.status.as_u16(),
                location: location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            }
        }
        Action::Direct(direct) => Decision::Direct {
            status: direct.status.as_u16(),
            content_type: String::from_utf8_lossy(direct.content_type.as_bytes()).into_owned(),
            bytes: direct.body.len(),
        },
        Action::Forward(backends) => {
            let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
            let limits = preview::limits(&rule.timeouts, &head.headers, listener.limits.stream_idle_timeout);
            Decision::Forward {
                backends: backends.iter().map(|b| backend(config, rule, b, total, head, prefix_len)).collect(),
                filters: rule.filters.iter().map(describe).collect(),
                timeouts: [
                    ("request", request_span(&limits.request), &limits.request),
                    ("backendRequest", "one attempt, to its response head", &limits.attempt),
                    ("idle", "nothing moves in either direction", &limits.idle),
                ]
                .into_iter()
                .map(|(name, span, limit)| Limit::of(name, span, limit, listener))
                .collect(),
                retries: Retries::of(&rule.retry, &head.method),
                settings: dump::settings(rule),
            }
        }
    }
}

/// A request limit that was not written ends with the response head, so that a long transfer is not cut.
fn request_span(limit: &deadline::Limit<'_>) -> &'static str {
    match limit.source {
        Source::Default => "from the end of the upload to the response head",
        Source::Written(_) | Source::Listener | Source::GrpcTimeout | Source::Caller | Source::Streaming => {
            "the whole request with its response, retries included"
        }
    }
}

fn backend(
    config: &Config,
    rule: &Rule,
    backend: &BackendRef,
    total: u64,
    head: &RequestHead,
    prefix_len: usize,
) -> Backend {
    let BackendRef { cluster, weight, subset, filters } = backend;
    let sent = preview::upstream_head(head, [&rule.filters, filters], prefix_len);
    let known = config.clusters.get(cluster);
    Backend {
        cluster: cluster.to_string(),
        weight: *weight,
        share_percent: if total == 0 { 0.0 } else { f64::from(*weight) * 100.0 / total as f64 },
        protocol: known.map(|c| dump::cluster_protocol(c.protocol)).unwrap_or_default(),
        policy: known.map(|c| dump::balance_policy(c.balance.policy)).unwrap_or_default(),
        sends_path: sent.path.to_string(),
        sends_authority: sent.authority.map(|authority| authority.to_string()).unwrap_or_default(),
        filters: filters.iter().map(describe).collect(),
        connect_timeout: known.map(|c| dump::duration(c.connection.connect_timeout)).unwrap_or_default(),
        subset: subset.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        settings: known.map(dump::fitness).unwrap_or_default(),
        endpoints: known
            .map(|c| c.endpoints.iter().map(|endpoint| Endpoint::of(endpoint, subset)).collect())
            .unwrap_or_default(),
        place: known.map(|c| story::place(&c.place)),
    }
}

/// A filter in a line, credentials left out.
fn describe(filter: &Filter) -> String {
    dump::filter(filter).to_string()
}

#[cfg(test)]
mod tests;
