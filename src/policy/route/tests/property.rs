//! The table against an ordered scan, over thousands of random tables.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::model::{self, HeaderMatch, HostPattern, Match, PathMatch, QueryMatch, ValueMatch, VirtualHost};
use proptest::prelude::*;

use super::{Sample, host, regex, rule, table};
use crate::policy::route::RouteTable;

// The naive matcher: an ordered scan, written from the documentation of the model.

fn naive(table: &model::RouteTable, sample: &Sample) -> Option<(usize, Option<usize>)> {
    let specificity = |pattern: &HostPattern| match pattern {
        HostPattern::Any => Some(0),
        HostPattern::Wildcard(suffix) => sample
            .host
            .strip_suffix(&format!(".{suffix}"))
            .filter(|labels| !labels.is_empty())
            .map(|_| 1 + suffix.len()),
        HostPattern::Exact(name) => (**name == *sample.host).then_some(usize::MAX),
    };
    let score = |host: &VirtualHost| host.hostnames.iter().filter_map(specificity).max();
    let best = table.hosts.iter().filter_map(score).max()?;
    let chosen = table.hosts.iter().position(|host| score(host) == Some(best))?;
    let before: usize = table.hosts[..chosen].iter().map(|host| host.rules.len()).sum();
    table.hosts[chosen].rules.iter().enumerate().find_map(|(index, rule)| {
        if rule.matches.is_empty() {
            return Some((before + index, None));
        }
        let position = rule.matches.iter().position(|m| naive_match(m, sample))?;
        Some((before + index, Some(position)))
    })
}

fn naive_match(m: &Match, sample: &Sample) -> bool {
    let path = match &m.path {
        PathMatch::Any => true,
        PathMatch::Exact(p) => **p == *sample.path,
        PathMatch::Prefix(p) => (!p.is_empty() && **p == *sample.path) || sample.path.starts_with(&format!("{p}/")),
        PathMatch::Start(s) => sample.path.starts_with(&**s),
        PathMatch::Regex(r) => r.is_match(&sample.path),
        PathMatch::GrpcMethod(name) => sample.path.split('/').next_back() == Some(name),
    };
    let headers = m.headers.iter().all(|h| {
        let lines: Vec<_> = sample.headers.get_all(&h.name).iter().map(|v| v.to_str().expect("ascii")).collect();
        naive_value(&h.value, (!lines.is_empty()).then(|| lines.join(",")))
    });
    let query = m.query.iter().all(|q| {
        let pairs = sample.query.iter().flat_map(|query| query.split('&'));
        let value = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(name, _)| name.replace("%61", "a") == *q.name)
            .map(|(_, value)| value.replace("%61", "a"));
        naive_value(&q.value, value)
    });
    path && headers
        && query
        && m.method.as_ref().is_none_or(|method| *method == sample.method)
        && (!m.grpc || sample.is_grpc)
}

fn naive_value(condition: &ValueMatch, value: Option<String>) -> bool {
    match condition {
        ValueMatch::Present(wanted) => value.is_some() == *wanted,
        ValueMatch::Exact(wanted) => value.as_deref() == Some(wanted),
        ValueMatch::Prefix(wanted) => value.is_some_and(|value| value.starts_with(&**wanted)),
        ValueMatch::Regex(pattern) => value.is_some_and(|value| pattern.is_match(&value)),
    }
}

// Small alphabets, so that conditions and requests meet often.

fn pick(texts: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(texts)
}

/// Compiled once: compiling takes most of such a test's time.
fn pattern(list: &'static LazyLock<Vec<regex::Regex>>) -> impl Strategy<Value = regex::Regex> {
    (0..list.len()).prop_map(|index| list[index].clone())
}

static PATHS: LazyLock<Vec<regex::Regex>> = LazyLock::new(|| {
    let mut patterns: Vec<_> =
        ["/.*", ".*", "/[ab]", "/a/.*", "/a/b?", "/a/b/?", "(/a|/b)*", "/a(/b/|)/b", "/(?i)A/.*"]
            .iter()
            .map(|text| regex(text))
            .collect();
    for first in ["/a", "/b", "/[ab]", "/a+", "/ab"] {
        for second in ["/a", "/b", "/.*", "(/a|/ab)", "/b/a"] {
            patterns.push(regex(&format!("{first}{second}")));
        }
    }
    patterns
});

static VALUES: LazyLock<Vec<regex::Regex>> =
    LazyLock::new(|| ["a.", "b?", "[ab]b", ".*,.*"].iter().map(|text| regex(text)).collect());

fn path_match() -> impl Strategy<Value = PathMatch> {
    const EXACT: &[&str] = &["/", "//", "/a", "/b", "/a/", "/a/b", "/a//b", "/b/a/", "*"];
    const PREFIX: &[&str] = &["", "/a", "/b", "/ab", "/a/a", "/a/b", "/b/a/a", "/ab/b"];
    const START: &[&str] = &["/", "/a", "/a/", "/a/b", "/b/a/a"];
    prop_oneof![
        1 => Just(PathMatch::Any),
        3 => pick(EXACT).prop_map(|p| PathMatch::Exact(p.into())),
        4 => pick(PREFIX).prop_map(|p| PathMatch::Prefix(p.into())),
        3 => pattern(&PATHS).prop_map(PathMatch::Regex),
        2 => pick(START).prop_map(|p| PathMatch::Start(p.into())),
        1 => pick(&["a", "b"]).prop_map(|p| PathMatch::GrpcMethod(p.into())),
    ]
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        6 => pick(&["a", "b", "aa", "ab", "a,b"]).prop_map(|v| ValueMatch::Exact(v.into())),
        1 => pick(&["a", "b"]).prop_map(|v| ValueMatch::Prefix(v.into())),
        1 => pattern(&VALUES).prop_map(ValueMatch::Regex),
        1 => any::<bool>().prop_map(ValueMatch::Present),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![Just(Method::GET), Just(Method::POST), Just(Method::DELETE)]
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    prop_oneof![Just(HeaderName::from_static("x-a")), Just(HeaderName::from_static("x-b"))]
}

fn a_match() -> impl Strategy<Value = Match> {
    let header = (header_name(), value_match()).prop_map(|(name, value)| HeaderMatch { name, value });
    let query =
        (pick(&["a", "b", "p"]), value_match()).prop_map(|(name, value)| QueryMatch { name: name.into(), value });
    (
        path_match(),
        proptest::option::of(method()),
        proptest::collection::vec(header, 0..3),
        proptest::collection::vec(query, 0..2),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(path, method, headers, query, grpc)| Match { path, method, headers, query, grpc })
}

fn a_host(rules: std::ops::Range<usize>) -> impl Strategy<Value = VirtualHost> {
    let matches = proptest::collection::vec(a_match(), 0..4);
    let rules = proptest::collection::vec(matches.prop_map(|matches| rule("r", matches)), rules);
    rules.prop_map(|rules| host(Vec::new(), rules))
}

const HOSTNAMES: [&str; 7] = ["*", "a", "*.a", "b.a", "*.b.a", "a.b.a", "*.a.b.a"];

fn a_table() -> impl Strategy<Value = model::RouteTable> {
    let few = proptest::collection::vec((a_host(0..6), proptest::sample::subsequence(&HOSTNAMES[..], 0..4)), 1..4);
    let many = (a_host(20..60), Just(vec!["*"])).prop_map(|host| vec![host]);
    prop_oneof![2 => few, 1 => many].prop_map(|hosts| {
        let mut taken = Vec::new();
        let hosts = hosts.into_iter().map(|(mut host, names)| {
            for name in names {
                // Hostnames are unique in a table.
                if !taken.contains(&name) {
                    taken.push(name);
                    host.hostnames.push(match name.strip_prefix("*.") {
                        Some(suffix) => HostPattern::Wildcard(suffix.into()),
                        None if name == "*" => HostPattern::Any,
                        None => HostPattern::Exact(name.into()),
                    });
                }
            }
            host
        });
        table(hosts.collect())
    })
}

fn a_sample() -> impl Strategy<Value = Sample> {
    let headers = proptest::collection::vec((header_name(), pick(&["a", "b", "aa", "ab"])), 0..4).prop_map(|lines| {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(name, HeaderValue::from_static(value));
        }
        map
    });
    let query = pick(&["", "a", "a=a", "p=ab&a=b", "p=b&p=a", "%61=%61", "b&a=%61a&a=b", "p=&b=ab", "a=a%61"]);
    let segments = proptest::collection::vec(pick(&["a", "a", "b", "ab", ""]), 1..4);
    (
        pick(&["", "a", "b.a", "c.a", "b.b.a", "a.b.a", "x.a.b.a", "x.y.a.b.a", "b"]),
        prop_oneof![9 => segments.prop_map(|s| format!("/{}", s.join("/"))), 1 => Just("*".to_owned())],
        proptest::option::of(query),
        method(),
        headers,
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(host, path, query, method, headers, is_grpc)| Sample {
            port: None,
            host: host.into(),
            path,
            query: query.map(Into::into),
            method,
            headers,
            is_grpc,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_index_decides_as_an_ordered_scan_does(
        table in a_table(),
        samples in proptest::collection::vec(a_sample(), 16),
    ) {
        let compiled = RouteTable::compile(&table);
        for sample in &samples {
            let hit = compiled.find(&sample.query());
            prop_assert_eq!(hit.map(|hit| (hit.rule, hit.match_index)), naive(&table, sample), "{:?}", sample);
            prop_assert_eq!(compiled.explain(&sample.query()).winner, hit);
        }
    }
}
