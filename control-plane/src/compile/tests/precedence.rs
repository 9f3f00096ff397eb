//! The order of matches: a table of what the Gateway API says.

use outrigger_config::model::Action;

use super::{checked, compile, host, names, weights, with};

/// Routes of Service `b`, and the rules that callers in `shop` try, in order.
fn order(routes: &str) -> Vec<String> {
    let compiled = compile(&with(routes));
    let config = checked(&compiled, "shop/a-1");
    names(&host(&config, "b").rules).into_iter().map(str::to_owned).collect()
}

fn route(name: &str, created: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: shop{created} }}\n\
         spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: b }}]\n  rules:\n{rules}"
    )
}

fn rule(name: &str, matches: &str) -> String {
    format!("    - {{ name: {name}, matches: [{matches}], backendRefs: [{{ name: b, port: 80 }}] }}\n")
}

#[test]
fn the_most_specific_match_is_tried_first() {
    // Each pair: the match that must go first, and the one that it goes before, written in the other order.
    for (first, second, why) in [
        ("{ path: { type: Exact, value: /a } }", "{ path: { value: /a/b/c/d } }", "exact before prefix"),
        (
            "{ path: { type: Exact, value: /a } }",
            "{ path: { type: RegularExpression, value: \"/a.*\" } }",
            "exact before regex",
        ),
        (
            "{ path: { type: RegularExpression, value: \"/v[0-9]\" } }",
            "{ path: { value: /v1 } }",
            "regex before prefix",
        ),
        ("{ path: { value: /a/b } }", "{ path: { value: /a } }", "the longer prefix"),
        ("{ path: { value: /a } }", "{ path: { value: / } }", "a prefix before the root"),
        ("{ path: { value: /ab } }", "{ path: { value: /a } , method: GET }", "length before method"),
        (
            "{ path: { value: /a }, method: GET }",
            "{ path: { value: /a }, headers: [{ name: x, value: y }] }",
            "method before headers",
        ),
        ("{ method: GET }", "{ headers: [{ name: x, value: y }, { name: z, value: y }] }", "method before two headers"),
        (
            "{ headers: [{ name: x, value: y }, { name: z, value: y }] }",
            "{ headers: [{ name: x, value: y }] }",
            "more headers",
        ),
        (
            "{ headers: [{ name: x, value: y }] }",
            "{ queryParams: [{ name: x, value: y }, { name: z, value: y }] }",
            "a header before parameters",
        ),
        (
            "{ queryParams: [{ name: x, value: y }, { name: z, value: y }] }",
            "{ queryParams: [{ name: x, value: y }] }",
            "more parameters",
        ),
        ("{ queryParams: [{ name: x, value: y }] }", "{}", "a parameter before nothing"),
    ] {
        // In one route, and in two of which the other one is older.
        let one = route("r", "", &(rule("second", second) + &rule("first", first)));
        assert_eq!(order(&one), ["shop/r/first", "shop/r/second"], "{why}");
        let old = ", creationTimestamp: \"2020-01-01T00:00:00Z\"";
        let two = route("old", old, &rule("second", second)) + "---\n" + &route("new", "", &rule("first", first));
        assert_eq!(order(&two), ["shop/new/first", "shop/old/second"], "{why}, in two routes");
    }
}

#[test]
fn a_tie_goes_to_the_older_route_then_by_name_then_to_the_earlier_rule() {
    let same = "{ path: { value: /a } }";
    let at = |year: u16| format!(", creationTimestamp: \"{year}-01-01T00:00:00Z\"");
    let routes = [
        route("d", "", &(rule("one", same) + &rule("two", same))),
        route("c", "", &rule("one", same)),
        route("b", &at(2021), &rule("one", same)),
        route("a", &at(2022), &rule("one", same)),
    ];
    let expected = ["shop/b/one", "shop/a/one", "shop/c/one", "shop/d/one", "shop/d/two"];
    assert_eq!(order(&routes.join("---\n")), expected);
}

#[test]
fn the_matches_of_one_rule_are_tried_each_at_its_own_place() {
    let both = "{ path: { type: Exact, value: /x } }, { path: { value: / } }";
    let routes = route("r", "", &(rule("wide", both) + &rule("narrow", "{ path: { value: /y } }")));
    assert_eq!(order(&routes), ["shop/r/wide", "shop/r/narrow", "shop/r/wide~2"]);
}

#[test]
fn with_a_route_there_is_no_way_beside_it() {
    let compiled = compile(&with(&route("r", "", &rule("only", "{ path: { value: /only } }"))));
    let config = checked(&compiled, "shop/a-1");
    assert_eq!(host(&config, "b").rules.len(), 1);
    assert!(host(&config, "a").rules[0].matches.is_empty(), "the other Service takes everything");
}

#[test]
fn grpc_matches_go_by_service_then_method_then_headers() {
    let rule = |name: &str, one: &str| {
        format!("    - {{ name: {name}, matches: [{one}], backendRefs: [{{ name: b, port: 80 }}] }}\n")
    };
    let rules = [
        rule("any", "{}"),
        rule("method", "{ method: { method: Charge } }"),
        rule("service", "{ method: { service: shop.Payments } }"),
        rule("header", "{ method: { service: shop.Payments }, headers: [{ name: x, value: y }] }"),
        rule("both", "{ method: { service: shop.Payments, method: Charge } }"),
        rule("longer", "{ method: { service: shop.v1.Payments } }"),
    ];
    let text = route("r", "", &rules.concat()).replace("kind: HTTPRoute", "kind: GRPCRoute");
    let expected = ["longer", "both", "header", "service", "method", "any"].map(|name| format!("shop/r/{name}"));
    assert_eq!(order(&text), expected);
    let compiled = compile(&with(&text));
    let config = checked(&compiled, "shop/a-1");
    assert!(host(&config, "b").rules.iter().flat_map(|rule| &rule.matches).all(|one| one.grpc));
}

#[test]
fn where_a_grpc_route_is_an_http_route_is_passed_over() {
    let http = route("h", "", &rule("http", "{}"));
    let grpc = route("g", "", "    - { name: grpc, backendRefs: [{ name: b, port: 80 }] }\n")
        .replace("HTTPRoute", "GRPCRoute");
    assert_eq!(order(&(http + "---\n" + &grpc)), ["shop/g/grpc"]);
}

const OTHER: &str = "---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: c-1, namespace: other }
spec: { serviceAccount: c, address: 10.0.0.3, uses: [shop/b] }
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: d-1, namespace: third }
spec: { serviceAccount: d, address: 10.0.0.4, uses: [shop/b] }
";

#[test]
fn a_consumer_route_is_for_callers_of_its_namespace_and_wins_there() {
    let producer = route("p", "", &rule("producer", "{}"));
    let consumer =
        producer.replace("name: p, namespace: shop", "name: k, namespace: other").replace("producer", "consumer");
    let consumer = consumer.replace("name: b }]", "name: b, namespace: shop }]");
    let consumer = consumer.replace("{ name: b, port: 80 }", "{ name: b, namespace: shop, port: 80 }");
    let compiled = compile(&with(&(producer + "---\n" + &consumer + OTHER)));
    let rules = |workload: &str, name: &str| {
        let config = checked(&compiled, workload);
        names(&host(&config, name).rules).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rules("other/c-1", "b.shop"), ["other/k/consumer"]);
    assert_eq!(rules("third/d-1", "b.shop"), ["shop/p/producer"]);
    assert_eq!(rules("shop/a-1", "b"), ["shop/p/producer"]);
    let config = checked(&compiled, "other/c-1");
    let Action::Forward(backends) = &host(&config, "b.shop").rules[0].action else { panic!("forwards") };
    assert_eq!(weights(backends), [("shop/b:80", 1)], "the parent itself needs no grant");
}
