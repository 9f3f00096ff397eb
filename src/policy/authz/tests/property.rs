//! Routing and authorization see the same request, however it is written.

use std::sync::LazyLock;

use outrigger_config::model::{Action, Match, Retry, Rule, Setting, Timeouts, VirtualHost};
use proptest::prelude::*;

use super::*;
use crate::policy::route::RouteTable;

/// One rule with this match, at this host.
fn table(host: HostPattern, path: PathMatch) -> RouteTable {
    fn setting<T>(value: T) -> Setting<T> {
        Setting { value, place: None }
    }
    let rule = Rule {
        hedge: None,
        breaker: None,
        hash: Vec::new(),
        session: None,
        rate_limits: Vec::new(),
        global_rate_limits: Vec::new(),
        criticality: None,
        name: "r".into(),
        matches: vec![Match { path, method: None, headers: Vec::new(), query: Vec::new(), grpc: false }],
        filters: Vec::new(),
        action: Action::Forward(Vec::new()),
        timeouts: Timeouts { request: setting(None), backend_request: setting(None), idle: setting(None) },
        retry: Retry {
            attempts: setting(0),
            on: Vec::new(),
            non_idempotent: false,
            backoff_base: std::time::Duration::ZERO,
            backoff_max: std::time::Duration::ZERO,
            ..Retry::default()
        },
        external_authorization: true,
        place: place(),
    };
    let hosts = vec![VirtualHost { hostnames: vec![host], rules: vec![rule], place: place() }];
    RouteTable::compile(&model::RouteTable { name: "t".into(), hosts })
}

fn target() -> impl Strategy<Value = String> {
    let pieces: &[&str] = &[
        "a",
        "b",
        "A",
        "admin",
        "x",
        "/",
        "/",
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%2F",
        "%2f",
        "%5C",
        "\\",
        ";",
        ";v=1",
        "..;",
        "%3B",
        "%3A",
        ":",
        "%61",
        "%41",
        "%C3%A9",
        "\u{e9}",
        "%25",
        "%252F",
        "?",
        "?q=/admin",
        "#",
        "%00",
        "%",
        " ",
        "+",
        "~",
        "",
    ];
    let pieces = proptest::collection::vec(proptest::sample::select(pieces), 0..12);
    let long = (1usize..400).prop_map(|n| format!("/{}", "a/".repeat(n)));
    prop_oneof![
        12 => pieces.prop_map(|pieces| format!("/{}", pieces.concat())),
        2 => Just(String::new()),
        1 => Just("*".to_owned()),
        1 => "[ -~]{0,30}".prop_map(|text| format!("/{text}")),
        1 => long,
    ]
}

fn authority() -> impl Strategy<Value = String> {
    let pieces: &[&str] = &["a", "A", "b", "a.b", "A.B", ".", ":", ":80", ":0", "@", "[::1]", "[0::1]", "%61", ""];
    proptest::collection::vec(proptest::sample::select(pieces), 0..4).prop_map(|pieces| pieces.concat())
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let texts: &[&str] = &[
        "/",
        "/a",
        "/admin",
        "/a/b",
        "/%61",
        "/a/*",
        "/admin/*",
        "/*",
        "/a/b/*",
        "/a:b",
        "/a%3Ab",
        "/caf%c3%a9",
        "~/a.*",
        "~/[^/]*",
        "~.*admin.*",
        "/a;v=1",
        "/a%2Fb",
    ];
    proptest::sample::select(texts).prop_map(|text| paths(&[text]).remove(0))
}

fn host_match() -> impl Strategy<Value = HostPattern> {
    proptest::sample::select(&["*", "a", "a.b", "*.b", "*.a.b", "::1", "A", "a."][..])
        .prop_map(|text| hosts(&[text]).remove(0))
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let denied = deny("admin").to(|to| to.paths = paths(&["/admin/*", "~.*/b/admin"]));
    let allowed = allow("public").to(|to| to.paths = paths(&["/public/*", "/a", "/a/b/*"]));
    policy(Access::Deny, vec![denied, allowed])
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn what_is_allowed_is_what_is_routed_and_what_is_routed_is_what_is_denied(
        target in target(),
        authority in authority(),
        path in path_match(),
        host in host_match(),
    ) {
        let table = table(host.clone(), path.clone());
        let operation = |to: &mut AccessOperation| {
            to.hosts = vec![host.clone()];
            to.paths = vec![path.clone()];
        };
        let allowing = policy(Access::Deny, vec![allow("a").to(operation)]);
        let denying = policy(Access::Allow, vec![deny("d").to(operation)]);
        let ask = get(&target).host(&authority);
        let seen = ask.query(|route| {
            let (identity, address, claims) = (None, ask.address, Claims::None);
            let request = Request { route, identity, address, port: 1, claims };
            let allowed = allowing.decide(&request).access == Access::Allow;
            let denied = denying.decide(&request).access == Access::Deny;
            // `/a%3Ab` in a rule has two itself.
            let one_reading = Readings::of(route.path).others().next().is_none() && path != paths(&["/a%3Ab"])[0];
            (table.find(route).is_some(), allowed, denied, one_reading)
        });
        if let Some((routed, allowed, denied, one_reading)) = seen {
            prop_assert!(!allowed || routed, "allowed, but another path to routing");
            prop_assert!(!routed || denied, "routed, but another path to a deny");
            if one_reading {
                prop_assert_eq!((allowed, denied), (routed, routed));
            }
        }
    }

    #[test]
    fn another_spelling_of_a_path_changes_no_decision(
        segments in proptest::collection::vec(proptest::sample::select(&["a", "b", "admin", "public"][..]), 1..5),
        spelling in proptest::collection::vec(0usize..7, 5),
    ) {
        let plain: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        let written: String = segments.iter().zip(&spelling).map(|(segment, how)| match how {
            0 => format!("/{segment}"),
            1 => format!("//{segment}"),
            2 => format!("/./{segment}"),
            3 => format!("/x/%2e%2e/{segment}"),
            4 => segment.bytes().fold("/".to_owned(), |text, byte| text + &format!("%{byte:02x}")),
            5 => format!("/%2E/{segment}"),
            _ => format!("/y/z/../..//{segment}"),
        }).collect();
        prop_assert_eq!(get(&written).decided(&POLICY), get(&plain).decided(&POLICY), "{}", written);
    }
}
