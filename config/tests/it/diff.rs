//! What a change of the configuration is reported as.

use outrigger_config::{Diff, diff, load};

const BASE: &str = "\
listeners:
  - { name: inbound, bind: 127.0.0.1:1, routes: r }
  - { name: old, bind: 127.0.0.1:2, routes: r }
routes:
  r:
    - hostnames: [a.example]
      rules:
        - { name: one, matches: [{ path: { prefix: /one } }], backendRefs: [{ cluster: c }] }
        - { name: two, matches: [{ path: { prefix: /two } }], backendRefs: [{ cluster: c }] }
clusters:
  c: { endpoints: [127.0.0.1:3, 127.0.0.1:4] }
";

fn changed(from: &str, to: &str) -> Diff {
    assert!(BASE.contains(from), "{from}");
    between(BASE, &BASE.replacen(from, to, 1))
}

fn between(old: &str, new: &str) -> Diff {
    let load = |text: &str| load("a.yaml", text).unwrap_or_else(|problems| panic!("{problems}")).config;
    diff(&load(old), &load(new))
}

#[test]
fn moving_lines_and_comments_changes_nothing() {
    let moved =
        between(BASE, &format!("# a comment\n\n{}", BASE.replace("name: one, ", "  name: one ,\n            ")));
    assert!(moved.is_empty(), "{moved}");
    assert_eq!((moved.to_string(), moved.summary()), (String::new(), "nothing".to_owned()));
}

#[test]
fn each_kind_of_change_has_its_line() {
    for (from, to, line) in [
        ("listeners:", "workers: 3\nlisteners:", "~ workers\n"),
        ("listeners:", "node: { id: x }\nlisteners:", "~ node\n"),
        ("127.0.0.1:2, routes: r }", "127.0.0.1:5, routes: r, maxHeaders: 5 }", "~ listener old: bind, limits\n"),
        ("  - { name: old, bind: 127.0.0.1:2, routes: r }\n", "", "- listener old\n"),
        ("name: old", "name: new", "+ listener new\n- listener old\n"),
        ("[a.example]", "[a.example, b.example]", "~ routes r: hostnames\n"),
        ("/one", "/uno", "~ rule r/one: matches\n"),
        ("name: one,", "name: one, retry: {}, timeouts: { idle: 1s },", "~ rule r/one: timeouts, retry\n"),
        ("name: one", "name: uno", "+ rule r/uno\n- rule r/one\n"),
        ("c: {", "c: { protocol: http2, dns: { minTtl: 2s },", "~ cluster c: protocol, dns\n"),
        (
            "127.0.0.1:4]",
            "127.0.0.1:5, { address: \"x.y:1\", zone: z }]",
            "+ endpoint c 127.0.0.1:5\n+ endpoint c x.y:1\n- endpoint c 127.0.0.1:4\n",
        ),
        ("127.0.0.1:4]", "{ address: 127.0.0.1:4, weight: 2 }]", "~ endpoint c 127.0.0.1:4: weight\n"),
        ("  c: {", "  d: { endpoints: [127.0.0.1:9] }\n  c: {", "+ cluster d\n"),
    ] {
        assert_eq!(changed(from, to).to_string(), line, "{from} -> {to}");
    }
}

#[test]
fn an_explicit_default_of_a_rules_time_limit_is_a_change() {
    // Written, it holds for streaming requests too.
    assert_eq!(changed("name: one,", "name: one, timeouts: { request: 15s },").to_string(), "~ rule r/one: timeouts\n");
}

#[test]
fn the_order_of_rules_is_a_meaning_and_the_order_of_hosts_is_none() {
    let (head, tail) = BASE.split_at(BASE.find("        - { name: one").expect("rule one"));
    let (one, rest) = tail.split_at(tail.find("        - { name: two").expect("rule two"));
    let (two, rest) = rest.split_at(rest.find("clusters:").expect("the clusters"));
    assert_eq!(between(BASE, &format!("{head}{two}{one}{rest}")).to_string(), "~ routes r: order of rules\n");

    let host = |name: &str, rules: &str| format!("    - hostnames: [{name}]\n      rules:\n{rules}");
    let start = BASE.split_at(BASE.find("    - hostnames").expect("the host")).0;
    let forward = format!("{start}{}{}{rest}", host("a.example", one), host("b.example", two));
    let backward = format!("{start}{}{}{rest}", host("b.example", two), host("a.example", one));
    assert_eq!(between(&forward, &backward), Diff::default());
    let moved = format!("{start}{}{}{rest}", host("a.example", two), host("b.example", one));
    assert_eq!(between(&forward, &moved).to_string(), "~ routes r: order of rules\n");
}

#[test]
fn the_summary_counts() {
    let change = changed(
        "127.0.0.1:2, routes: r }",
        "127.0.0.1:5, routes: r }\n  - { name: new, bind: 127.0.0.1:6, routes: r }",
    );
    assert_eq!(change.summary(), "listeners 2");
    assert_eq!(change.to_string(), "+ listener new\n~ listener old: bind\n");
}
