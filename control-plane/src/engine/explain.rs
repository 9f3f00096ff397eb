//! Where a request of a workload would go, and which manifest says so: its compiled configuration, asked by the rules
//! that its proxy routes by.
//!
//! The proxy has its own `explain`, which runs the proxy's code over what the proxy holds. This one must come to the same
//! answer: the most specific hostname (exact, longest wildcard, `*`), then the first rule one of whose matches holds. It
//! takes paths in normal form only, because bringing others into it is the proxy's business, and says so. Nothing is
//! sent, and authorization is named, not decided: it depends on who calls.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use outrigger_config::model::{
    Action, BackendRef, Config, Direction, Filter, HostPattern, Listener, Match, PathMatch, PathRewrite, Place,
    RouteTable, Rule, Setting, Target, ValueMatch, VirtualHost,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request to be explained.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The method (default GET).
    pub method: Option<String>,
    /// `http://host[:port]/path?query`.
    pub url: String,
    /// Headers, `name: value`.
    pub headers: Vec<String>,
    /// The listener (default: the first outbound one).
    pub listener: Option<String>,
}

/// What would happen to a request, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// The workload, `namespace/name`.
    pub proxy: String,
    /// The generation of its configuration.
    pub generation: u64,
    /// The method.
    pub method: String,
    /// The host, lower-case, without port.
    pub host: String,
    /// The path, without the query.
    pub path: String,
    /// The listener that takes it.
    pub listener: Part,
    /// The authorization policy of that listener, which decides by who calls. `None`: everybody may do everything.
    pub authorization: Option<Part>,
    /// The virtual host.
    pub virtual_host: Option<Part>,
    /// Its rules up to the one that wins.
    pub rules: Vec<RuleStory>,
    /// What is done with the request.
    pub decision: Decision,
}

/// A part of a configuration and the manifest that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Why it is this one.
    pub why: String,
    /// `file:line:column`.
    pub place: String,
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStory {
    /// Its name.
    pub name: String,
    /// Whether it takes the request.
    pub won: bool,
    /// Of a loser, what failed first in each of its matches.
    pub why: Vec<String>,
    /// `file:line:column`.
    pub place: String,
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Decision {
    /// No rule takes it.
    NoRoute,
    /// It is answered with a redirect.
    Redirect {
        /// The status.
        status: u16,
    },
    /// It is answered by the proxy.
    Direct {
        /// The status.
        status: u16,
    },
    /// It is sent on.
    Forward {
        /// To one of these, by weight.
        backends: Vec<BackendStory>,
        /// What is done to it on the way.
        filters: Vec<String>,
        /// Every value that applies, and where it was set.
        settings: Vec<SettingStory>,
    },
}

/// A cluster that a request may go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendStory {
    /// Its name.
    pub cluster: String,
    /// Its share, relative to the others.
    pub weight: u32,
    /// Whether mutual TLS is spoken to it.
    pub tls: bool,
    /// What is done to a request that goes here.
    pub filters: Vec<String>,
    /// Where it may arrive.
    pub endpoints: Vec<String>,
    /// `file:line:column`.
    pub place: String,
}

/// A value and where it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingStory {
    /// What it is called.
    pub name: String,
    /// The value.
    pub value: String,
    /// `file:line:column`, or `default`.
    pub set_by: String,
}

/// Explains a request. `proxy` and `generation` are only put into the answer.
///
/// # Errors
/// What is wrong with the question, in a sentence.
pub(super) fn explain(config: &Config, asked: &Asked, proxy: String, generation: u64) -> Result<Story, String> {
    let (listener, why) = choose_listener(config, asked.listener.as_deref())?;
    let request = Request::read(asked)?;
    let table = listener.routes.as_ref().and_then(|name| config.routes.get(name));
    let table = table.ok_or("the listener hands connections on and has no routes")?;
    let (host, why_host) = choose_host(table, &request.host);
    let mut rules = Vec::new();
    let mut winner = None;
    for rule in host.into_iter().flat_map(|host| &host.rules) {
        let outcome = request.meets(rule);
        let (won, why) = match outcome {
            Ok(why) => (true, vec![why]),
            Err(why) => (false, why),
        };
        rules.push(RuleStory { name: rule.name.to_string(), won, why, place: place(&rule.place) });
        if won {
            winner = Some(rule);
            break;
        }
    }
    let authorization = listener.authorization.as_ref().and_then(|name| config.authorization.get(name));
    Ok(Story {
        proxy,
        generation,
        method: request.method.to_string(),
        host: request.host.clone(),
        path: request.path.clone(),
        listener: Part { name: listener.name.to_string(), why, place: place(&listener.place) },
        authorization: authorization.map(|policy| Part {
            name: policy.name.to_string(),
            why: "the listener's; what it decides depends on who calls".to_owned(),
            place: place(&policy.place),
        }),
        virtual_host: host.map(|host| Part {
            name: host.hostnames.iter().map(show_host).collect::<Vec<_>>().join(", "),
            why: why_host,
            place: place(&host.place),
        }),
        rules,
        decision: winner.map_or(Decision::NoRoute, |rule| decide(config, listener, rule)),
    })
}

fn choose_listener<'a>(config: &'a Config, wanted: Option<&str>) -> Result<(&'a Listener, String), String> {
    let names = || config.listeners.iter().map(|one| format!("`{}`", one.name)).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let found = config.listeners.iter().find(|listener| &*listener.name == wanted);
        let found = found.ok_or_else(|| format!("there is no listener `{wanted}`; there are {}", names()))?;
        return Ok((found, "asked for".to_owned()));
    }
    let outbound = config.listeners.iter().find(|listener| listener.direction == Direction::Outbound);
    let first = outbound.or(config.listeners.first()).ok_or("the configuration has no listeners")?;
    let why = if outbound.is_some() { "the first outbound one" } else { "the first one" };
    Ok((first, format!("{why} of {}", names())))
}

/// The most specific hostname wins: exact, then the longest wildcard, then `*`.
fn choose_host<'a>(table: &'a RouteTable, wanted: &str) -> (Option<&'a VirtualHost>, String) {
    let mut best: Option<(usize, &VirtualHost, String)> = None;
    for host in &table.hosts {
        let any = HostPattern::Any;
        let patterns = if host.hostnames.is_empty() { std::slice::from_ref(&any) } else { &host.hostnames[..] };
        for pattern in patterns {
            let (rank, why) = match pattern {
                HostPattern::Exact(name) if **name == *wanted => {
                    (usize::MAX, format!("hostname `{name}` is the request's"))
                }
                HostPattern::Wildcard(suffix) if is_below(wanted, suffix) => {
                    (suffix.len() + 1, format!("`*.{suffix}` is the longest wildcard that covers the host"))
                }
                HostPattern::Any => (0, "no other hostname covers the host; `*` takes the rest".to_owned()),
                HostPattern::Exact(_) | HostPattern::Wildcard(_) => continue,
            };
            if best.as_ref().is_none_or(|(known, ..)| rank > *known) {
                best = Some((rank, host, why));
            }
        }
    }
    match best {
        Some((_, host, why)) => (Some(host), why),
        None => (None, String::new()),
    }
}

fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).and_then(|front| front.strip_suffix('.')).is_some_and(|front| !front.is_empty())
}

/// A request as conditions see it.
struct Request {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Request {
    fn read(asked: &Asked) -> Result<Self, String> {
        let method = asked.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is not a method"))?;
        let url = if asked.url.contains("://") { asked.url.clone() } else { format!("http://{}", asked.url) };
        let uri: Uri =
            url.parse().map_err(|_| format!("`{}` is not a URL; the form is http://host/path", asked.url))?;
        let mut headers = HeaderMap::new();
        for line in &asked.headers {
            let bad = || format!("`{line}` is not a header; the form is `name: value`");
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
            headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| bad())?);
        }
        let written = headers.remove(HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
        let authority = written.or_else(|| uri.authority().map(ToString::to_string));
        let authority = authority.ok_or_else(|| format!("`{}` names no host", asked.url))?;
        let host = authority.parse::<http::uri::Authority>().map_err(|_| format!("`{authority}` is not a host"))?;
        let host = host.host().to_ascii_lowercase();
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        if !is_normal(path) {
            return Err(format!(
                "the path `{path}` is not in normal form (an encoded character, `//` or a dot segment): the proxy brings it \
                 there before it routes; ask for the path that it comes to"
            ));
        }
        let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
        Ok(Self { method, host, path: path.to_owned(), query: uri.query().map(str::to_owned), headers })
    }

    fn is_grpc(&self) -> bool {
        let value = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
    }

    /// Why a rule takes it, or what failed first in each of its matches.
    fn meets(&self, rule: &Rule) -> Result<String, Vec<String>> {
        if rule.matches.is_empty() {
            return Ok("it has no conditions".to_owned());
        }
        let mut failed = Vec::new();
        for (at, condition) in rule.matches.iter().enumerate() {
            match self.mismatch(condition) {
                None if rule.matches.len() == 1 => return Ok("all its conditions hold".to_owned()),
                None => return Ok(format!("all conditions of its match {} hold", at + 1)),
                Some(why) => failed.push(why),
            }
        }
        Err(failed)
    }

    /// The first condition that fails.
    fn mismatch(&self, condition: &Match) -> Option<String> {
        let Match { path, method, headers, query, grpc } = condition;
        if let Some(why) = self.path_mismatch(path) {
            return Some(why);
        }
        if let Some(wanted) = method.as_ref().filter(|wanted| **wanted != self.method) {
            return Some(format!("the method is {}, not {wanted}", self.method));
        }
        if *grpc && !self.is_grpc() {
            return Some("the request is not gRPC (content-type is not application/grpc)".to_owned());
        }
        let headers = headers.iter().map(|one| (format!("header `{}`", one.name), &one.value, self.header(&one.name)));
        let query =
            query.iter().map(|one| (format!("query parameter `{}`", one.name), &one.value, self.parameter(&one.name)));
        headers.chain(query).find_map(|(what, wanted, value)| value_mismatch(&what, wanted, value.as_deref()))
    }

    fn path_mismatch(&self, condition: &PathMatch) -> Option<String> {
        let path = &*self.path;
        let (holds, why) = match condition {
            PathMatch::Any => return None,
            PathMatch::Exact(wanted) => (path == &**wanted, format!("the path is not `{wanted}`")),
            PathMatch::Prefix(prefix) => {
                let below = path
                    .strip_prefix(&**prefix)
                    .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !prefix.is_empty()));
                (below, format!("the path is not `{prefix}` or below it"))
            }
            PathMatch::Start(start) => (path.starts_with(&**start), format!("the path does not start with `{start}`")),
            PathMatch::Regex(pattern) => {
                let shown = outrigger_config::pattern::text(pattern);
                (pattern.is_match(path), format!("the path does not match the pattern `{shown}`"))
            }
            PathMatch::GrpcMethod(wanted) => {
                let last = path.rsplit('/').next().unwrap_or_default();
                (last == &**wanted, format!("the gRPC method is not `{wanted}`"))
            }
        };
        (!holds).then_some(why)
    }

    /// Several lines of one header are compared joined by `,`; `host` means the authority.
    fn header(&self, name: &HeaderName) -> Option<String> {
        if name == HOST {
            return Some(self.host.clone());
        }
        let lines: Vec<_> =
            self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    }

    fn parameter(&self, name: &str) -> Option<String> {
        self.query.as_deref()?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }
}

fn value_mismatch(what: &str, wanted: &ValueMatch, value: Option<&str>) -> Option<String> {
    match (wanted, value) {
        (ValueMatch::Present(true), None) => Some(format!("{what} is missing")),
        (ValueMatch::Present(false), Some(_)) => Some(format!("{what} is there and must not be")),
        (ValueMatch::Present(_), _) => None,
        (_, None) => Some(format!("{what} is missing")),
        (ValueMatch::Exact(wanted), Some(value)) => {
            (value != &**wanted).then(|| format!("{what} is `{value}`, not `{wanted}`"))
        }
        (ValueMatch::Prefix(wanted), Some(value)) => (!value.starts_with(&**wanted))
            .then(|| format!("{what} is `{value}`, which does not start with `{wanted}`")),
        (ValueMatch::Regex(pattern), Some(value)) => (!pattern.is_match(value)).then(|| {
            let shown = outrigger_config::pattern::text(pattern);
            format!("{what} is `{value}`, which does not match the pattern `{shown}`")
        }),
    }
}

/// What is no valid encoding stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_normal(path: &str) -> bool {
    !path.contains('%') && !path.contains("//") && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn decide(config: &Config, listener: &Listener, rule: &Rule) -> Decision {
    match &rule.action {
        Action::Redirect(redirect) => Decision::Redirect { status: redirect.status.as_u16() },
        Action::Direct(direct) => Decision::Direct { status: direct.status.as_u16() },
        Action::Forward(backends) => Decision::Forward {
            backends: backends.iter().map(|one| backend(config, one)).collect(),
            filters: rule.filters.iter().map(describe).collect(),
            settings: settings(listener, rule),
        },
    }
}

fn backend(config: &Config, backend: &BackendRef) -> BackendStory {
    let BackendRef { cluster, weight, subset: _, filters } = backend;
    let known = config.clusters.get(cluster);
    let endpoints = known.into_iter().flat_map(|cluster| &cluster.endpoints);
    BackendStory {
        cluster: cluster.to_string(),
        weight: *weight,
        tls: known.is_some_and(|cluster| cluster.tls.is_some()),
        filters: filters.iter().map(describe).collect(),
        endpoints: endpoints
            .map(|endpoint| match &endpoint.target {
                Target::Address(address) => address.to_string(),
                Target::Name { host, port } => format!("{host}:{port}"),
            })
            .collect(),
        place: known.map(|cluster| place(&cluster.place)).unwrap_or_default(),
    }
}

fn settings(listener: &Listener, rule: &Rule) -> Vec<SettingStory> {
    fn story<T>(name: &str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> SettingStory {
        let Setting { value, place: at } = setting;
        let set_by = at.as_ref().map_or_else(|| "default".to_owned(), place);
        SettingStory { name: name.to_owned(), value: show(value), set_by }
    }
    let time = |value: &Option<Duration>| value.map_or_else(|| "none".to_owned(), |time| format!("{time:?}"));
    let mut idle = story("idle timeout", &rule.timeouts.idle, time);
    if rule.timeouts.idle.place.is_none() {
        idle.value = format!("{:?}", listener.limits.stream_idle_timeout);
    }
    vec![
        story("request timeout", &rule.timeouts.request, time),
        story("backend request timeout", &rule.timeouts.backend_request, time),
        idle,
        story("retry attempts", &rule.retry.attempts, u8::to_string),
    ]
}

/// A filter in a line. Values of headers are left out: they may be credentials.
fn describe(filter: &Filter) -> String {
    let edit = |what: &str, edit: &outrigger_config::model::HeaderEdit| {
        let names = |list: &[(HeaderName, HeaderValue)]| {
            list.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(", ")
        };
        let removed = edit.remove.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let parts = [("remove", removed), ("set", names(&edit.set)), ("add", names(&edit.add))];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(verb, list)| format!("{verb} {list}"))
            .collect();
        format!("{what} headers: {}", parts.join("; "))
    };
    match filter {
        Filter::RequestHeaders(one) => edit("request", one),
        Filter::ResponseHeaders(one) => edit("response", one),
        Filter::UrlRewrite(rewrite) => {
            let host =
                rewrite.hostname.as_ref().map(|host| format!("host {}", String::from_utf8_lossy(host.as_bytes())));
            let path = rewrite.path.as_ref().map(|path| match path {
                PathRewrite::Full(path) => format!("path {path}"),
                PathRewrite::Prefix(prefix) => format!("the matched prefix by {prefix}"),
                PathRewrite::Regex { pattern, substitution } => {
                    format!("what matches `{}` by `{substitution}`", pattern.as_str())
                }
            });
            format!("rewrite: {}", host.into_iter().chain(path).collect::<Vec<_>>().join(", "))
        }
        Filter::Fault(_) => "faults are injected".to_owned(),
        Filter::Mirror(mirror) => format!("copies go to {}", mirror.cluster),
        Filter::Cors(cors) => format!("cross-origin requests of {}", cors.allow_origins.join(", ")),
    }
}

fn show_host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
        HostPattern::Exact(host) => host.to_string(),
    }
}

fn place(place: &Place) -> String {
    format!("{}:{}:{}", place.file, place.line, place.column)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
listeners: [{ name: outbound, bind: 127.0.0.1:1, routes: r }]
routes:
  r:
    - hostnames: [payments, \"*.shop.svc\"]
      rules:
        - name: canary
          matches: [{ path: { prefix: /v1 }, headers: [{ name: x-canary, exact: \"true\" }] }]
          timeouts: { request: 2s }
          backendRefs: [{ cluster: two }]
        - { name: get, matches: [{ path: { exact: /v1/a }, method: GET }], backendRefs: [{ cluster: one }] }
    - rules: [{ name: rest, filters: [{ directResponse: { status: 404 } }] }]
clusters: { one: { endpoints: [127.0.0.1:2] }, two: { endpoints: [127.0.0.1:3] } }
";

    fn ask(url: &str, headers: &[&str]) -> Story {
        let config = outrigger_config::load("p.yaml", TEXT).expect("it is valid").config;
        let headers = headers.iter().map(|line| (*line).to_owned()).collect();
        let asked = Asked { url: url.to_owned(), headers, ..Asked::default() };
        explain(&config, &asked, "shop/a".to_owned(), 3).expect("it can be explained")
    }

    #[test]
    fn the_rule_that_wins_and_the_ones_that_lost_are_told_with_their_places() {
        let story = ask("http://PAYMENTS:8080/v1/a?x=1", &["X-Canary: true"]);
        assert_eq!(story.rules.len(), 1);
        let Decision::Forward { backends, settings, .. } = story.decision else { panic!("{:?}", story.decision) };
        assert_eq!((&*backends[0].cluster, &backends[0].endpoints[..]), ("two", &["127.0.0.1:3".to_owned()][..]));
        assert_eq!((&*settings[0].value, &*settings[0].set_by), ("2s", "p.yaml:9:32"));

        let story = ask("http://a.shop.svc/v1/a", &[]);
        assert_eq!(story.rules[0].why, ["header `x-canary` is missing"]);
        assert!(story.rules[1].won);
        assert_eq!(story.virtual_host.expect("one").why, "`*.shop.svc` is the longest wildcard that covers the host");
    }

    #[test]
    fn a_host_that_nothing_names_goes_to_the_rest() {
        assert_eq!(ask("http://shop.svc/x", &[]).decision, Decision::Direct { status: 404 });
        assert_eq!(ask("http://payments/v2", &[]).decision, Decision::NoRoute);
    }

    #[test]
    fn what_cannot_be_answered_for_certain_is_refused() {
        let config = outrigger_config::load("p.yaml", TEXT).expect("it is valid").config;
        for url in ["http://payments/a//b", "http://payments/%61", "http://payments/../a", "", "http://"] {
            let asked = Asked { url: url.to_owned(), ..Asked::default() };
            assert!(explain(&config, &asked, String::new(), 0).is_err(), "{url}");
        }
    }
}
