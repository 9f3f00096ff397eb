//! The cases worth a name.

use std::time::Duration;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::model;
use outrigger_config::model::{
    Action, HeaderMatch, HostPattern, Match, PathMatch, Place, QueryMatch, Retry, Rule, Setting, Timeouts, ValueMatch,
    VirtualHost,
};

use super::*;

mod property;

fn place() -> Place {
    Place { file: "test".into(), line: 1, column: 1 }
}

fn setting<T>(value: T) -> Setting<T> {
    Setting { value, place: None }
}

fn rule(name: &str, matches: Vec<Match>) -> Rule {
    Rule {
        hedge: None,
        breaker: None,
        hash: Vec::new(),
        session: None,
        rate_limits: Vec::new(),
        global_rate_limits: Vec::new(),
        criticality: None,
        name: name.into(),
        matches,
        filters: Vec::new(),
        action: Action::Forward(Vec::new()),
        timeouts: Timeouts { request: setting(None), backend_request: setting(None), idle: setting(None) },
        retry: Retry {
            attempts: setting(0),
            on: Vec::new(),
            non_idempotent: false,
            backoff_base: Duration::ZERO,
            backoff_max: Duration::ZERO,
            ..Retry::default()
        },
        external_authorization: true,
        place: place(),
    }
}

fn when(path: PathMatch) -> Match {
    Match { path, method: None, headers: Vec::new(), query: Vec::new(), grpc: false }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.trim_end_matches('/').into())
}

fn regex(pattern: &str) -> regex::Regex {
    regex::Regex::new(&format!("^(?:{pattern})$")).expect("a valid pattern")
}

fn host(hostnames: Vec<HostPattern>, rules: Vec<Rule>) -> VirtualHost {
    VirtualHost { hostnames, rules, place: place() }
}

fn table(hosts: Vec<VirtualHost>) -> model::RouteTable {
    model::RouteTable { name: "test".into(), hosts }
}

fn one_host(rules: Vec<Rule>) -> RouteTable {
    RouteTable::compile(&table(vec![host(vec![HostPattern::Any], rules)]))
}

/// A request that owns its parts.
#[derive(Debug, Clone)]
struct Sample {
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
    is_grpc: bool,
    port: Option<u16>,
}

impl Sample {
    fn get(host: &str, path: &str) -> Self {
        Self {
            host: host.into(),
            port: None,
            path: path.into(),
            query: None,
            method: Method::GET,
            headers: HeaderMap::new(),
            is_grpc: false,
        }
    }

    fn query(&self) -> RouteQuery<'_> {
        RouteQuery {
            host: &self.host,
            port: self.port,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
            is_grpc: self.is_grpc,
        }
    }
}

fn winner(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
    table.find(&Sample::get(host, path).query()).map(|hit| hit.rule)
}

#[test]
fn a_hostname_with_the_port_of_the_request_goes_before_one_without() {
    let exact = |name: &str| HostPattern::Exact(name.into());
    let table = RouteTable::compile(&table(vec![
        host(vec![exact("a")], vec![rule("plain", vec![])]),
        host(vec![exact("a:9000"), exact("[::1]:9000")], vec![rule("admin", vec![])]),
        host(vec![exact("b:9000")], vec![rule("only", vec![])]),
    ]));
    let find =
        |name: &str, port| table.find(&RouteQuery { port, ..Sample::get(name, "/").query() }).map(|hit| hit.rule);
    assert_eq!(find("a", None), Some(0));
    assert_eq!(find("a", Some(80)), Some(0), "any port that has no pattern of its own");
    assert_eq!(find("a", Some(9000)), Some(1));
    assert_eq!(find("[::1]", Some(9000)), Some(1));
    assert_eq!(find("b", Some(9000)), Some(2));
    assert_eq!((find("b", None), find("b", Some(80))), (None, None));
}

#[test]
fn the_most_specific_hostname_is_consulted_and_no_other() {
    let table = RouteTable::compile(&table(vec![
        host(vec![HostPattern::Any], vec![rule("any", vec![])]),
        host(vec![HostPattern::Wildcard("b.c".into())], vec![rule("long", vec![])]),
        host(vec![HostPattern::Wildcard("c".into())], vec![rule("short", vec![])]),
        host(vec![HostPattern::Exact("a.b.c".into())], vec![rule("exact", vec![when(prefix("/only"))])]),
    ]));
    assert_eq!(winner(&table, "a.b.c", "/only"), Some(3));
    assert_eq!(winner(&table, "a.b.c", "/other"), None, "the less specific hosts are not consulted");
    assert_eq!(winner(&table, "x.b.c", "/"), Some(1));
    assert_eq!(winner(&table, "y.x.b.c", "/"), Some(1));
    assert_eq!(winner(&table, "b.c", "/"), Some(2), "a wildcard needs a label before it");
    assert_eq!(winner(&table, "c", "/"), Some(0));
    assert_eq!(winner(&table, "", "/"), Some(0));
}

#[test]
fn a_host_that_nothing_covers_has_no_route() {
    let table =
        RouteTable::compile(&table(vec![host(vec![HostPattern::Exact("::1".into())], vec![rule("r", vec![])])]));
    assert_eq!(winner(&table, "[::1]", "/"), Some(0));
    assert_eq!(winner(&table, "other", "/"), None);
    assert_eq!(winner(&table, "", "/"), None);
}

#[test]
fn a_prefix_matches_whole_segments() {
    let table = one_host(vec![rule("v1", vec![when(prefix("/v1"))]), rule("root", vec![when(prefix("/"))])]);
    for (path, expected) in [
        ("/v1", Some(0)),
        ("/v1/", Some(0)),
        ("/v1/x", Some(0)),
        ("/v1//x", Some(0)),
        ("/v1x", Some(1)),
        ("/", Some(1)),
        ("*", None),
    ] {
        assert_eq!(winner(&table, "h", path), expected, "{path}");
    }
}

#[test]
fn the_first_rule_wins_even_against_a_more_specific_one() {
    let table = one_host(vec![
        rule("wide", vec![when(prefix("/a"))]),
        rule("exact", vec![when(PathMatch::Exact("/a/b".into()))]),
    ]);
    assert_eq!(winner(&table, "h", "/a/b"), Some(0));
}

#[test]
fn the_hit_names_the_match_and_the_prefix_it_covered() {
    let table = one_host(vec![rule("r", vec![when(PathMatch::Exact("/x".into())), when(prefix("/%61/b%2d/"))])]);
    let hit = table.find(&Sample::get("h", "/a/b-/c").query());
    assert_eq!(hit, Some(RuleHit { rule: 0, match_index: Some(1), prefix_len: "/a/b-".len() }));
    let table = one_host(vec![rule("all", vec![])]);
    let hit = table.find(&Sample::get("h", "*").query());
    assert_eq!(hit, Some(RuleHit { rule: 0, match_index: None, prefix_len: 0 }));
}

#[test]
fn several_lines_of_a_header_are_compared_joined() {
    let condition = HeaderMatch { name: HeaderName::from_static("x-a"), value: ValueMatch::Exact("1,2".into()) };
    let table = one_host(vec![rule("r", vec![Match { headers: vec![condition], ..when(PathMatch::Any) }])]);
    let mut sample = Sample::get("h", "/");
    sample.headers.append("x-a", HeaderValue::from_static("1"));
    assert_eq!(table.find(&sample.query()), None);
    sample.headers.append("x-a", HeaderValue::from_static("2"));
    assert!(table.find(&sample.query()).is_some());
}

#[test]
fn a_condition_on_host_reads_the_authority() {
    let condition = HeaderMatch { name: HOST, value: ValueMatch::Prefix("pay".into()) };
    let table = one_host(vec![rule("r", vec![Match { headers: vec![condition], ..when(PathMatch::Any) }])]);
    assert_eq!(winner(&table, "payments", "/"), Some(0));
    assert_eq!(winner(&table, "orders", "/"), None);
}

#[test]
fn a_pattern_set_that_is_too_large_is_divided() {
    let patterns =
        (0..40).map(|i| rule(&format!("r{i}"), vec![when(PathMatch::Regex(regex(&format!("/(\\w{{1,40}})-{i}"))))]));
    let table = one_host(patterns.collect());
    assert_eq!(winner(&table, "h", "/abc-0"), Some(0));
    assert_eq!(winner(&table, "h", "/abc-39"), Some(39));
    assert_eq!(winner(&table, "h", "/abc-40"), None);
}

#[test]
fn many_slashes_in_a_path_cost_no_more_probes_than_the_table_has_depths() {
    let table = one_host(vec![rule("r", vec![when(prefix("/a"))])]);
    let path = "/a".to_owned() + &"/".repeat(60_000);
    assert_eq!(winner(&table, "h", &path), Some(0));
}

#[test]
fn an_explanation_says_why_each_rule_lost() {
    let post = Match {
        method: Some(Method::POST),
        headers: vec![HeaderMatch { name: HeaderName::from_static("x-canary"), value: ValueMatch::Exact("1".into()) }],
        ..when(prefix("/a"))
    };
    let canary = Match { method: None, ..post.clone() };
    let page = QueryMatch { name: "page".into(), value: ValueMatch::Present(false) };
    let grpc = Match { grpc: true, ..when(PathMatch::GrpcMethod("b".into())) };
    let table = RouteTable::compile(&table(vec![host(
        vec![HostPattern::Wildcard("shop".into())],
        vec![
            rule("other", vec![when(prefix("/b")), when(PathMatch::Regex(regex("/c.*")))]),
            rule("canary", vec![post, canary]),
            rule("paged", vec![Match { query: vec![page], ..when(PathMatch::Any) }]),
            rule("grpc", vec![grpc]),
            rule("all", vec![]),
            rule("never", vec![]),
        ],
    )]));
    let mut sample = Sample::get("pay.shop", "/a/b");
    sample.headers.insert("x-canary", HeaderValue::from_static("0"));
    sample.query = Some("x&p%61ge=2".into());
    let explanation = table.explain(&sample.query());
    assert_eq!(
        explanation.host.to_string(),
        "no hostname is the request's; `*.shop` is the longest wildcard that covers it"
    );
    let lines: Vec<String> = explanation
        .rules
        .iter()
        .map(|trace| match &trace.outcome {
            RuleOutcome::Won(found) => format!("{} won {found:?}", trace.name),
            RuleOutcome::Lost(reasons) => {
                let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
                format!("{}: {}", trace.name, reasons.join("; "))
            }
        })
        .collect();
    assert_eq!(
        lines,
        [
            "other: the path is not `/b` or below it; the path does not match the pattern `^(?:/c.*)$`",
            "canary: the method is GET, not POST; header `x-canary` is `0`, not `1`",
            "paged: query parameter `page` is there and must not be",
            "grpc: the request is not gRPC (content-type is not application/grpc)",
            "all won None",
        ]
    );
    assert_eq!(explanation.winner, table.find(&sample.query()));
}
