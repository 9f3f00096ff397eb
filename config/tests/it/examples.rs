//! Every file of `examples/` is a configuration that works, without a warning.

use std::time::Duration;

use outrigger_config::load;
use outrigger_config::model::{
    AccessLog, Action, Config, Direction, Filter, HostPattern, ListenerProtocol, PathMatch, PathRewrite, RetryOn,
    Target, Trust,
};

/// Name and text of every example.
pub(crate) fn all() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut out: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of examples")
        .map(|file| {
            let path = file.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
            (name, std::fs::read_to_string(&path).expect("a readable example"))
        })
        .collect();
    out.sort();
    out
}

fn example(name: &str) -> String {
    all().into_iter().find(|(file, _)| file == name).map(|(_, text)| text).expect("the example")
}

#[test]
fn every_example_loads_without_a_problem() {
    let names: Vec<String> = all().iter().map(|(name, _)| name.clone()).collect();
    for needed in ["minimal", "grpc", "canary", "headers", "two-hop-client", "two-hop-server", "full"] {
        assert!(names.contains(&format!("{needed}.yaml")), "{needed}");
    }
    for (name, text) in all() {
        let loaded = load(&name, &text).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    }
}

#[test]
fn the_two_hops_meet() {
    let client = load("c", &example("two-hop-client.yaml")).expect("loads").config;
    let server = load("s", &example("two-hop-server.yaml")).expect("loads").config;
    let to = &client.clusters["payments"].endpoints[0].target;
    assert_eq!(*to, Target::Address(server.listeners[0].bind));
    assert_ne!(client.admin.address, server.admin.address);
}

#[test]
fn the_full_example_says_what_it_means() {
    let text = example("full.yaml");
    let loaded = load("full.yaml", &text).expect("loads");
    let Config {
        node,
        admin,
        access_log,
        workers,
        drain,
        listeners,
        routes,
        clusters,
        identity: _,
        authorization: _,
        jwt_providers: _,
        external_authorizers: _,
    } = &*loaded.config;
    assert_eq!(
        (&*node.id, node.service.as_deref(), node.zone.as_deref()),
        ("checkout-7d9f", Some("checkout"), Some("eu-1a"))
    );
    assert_eq!(admin.address, "127.0.0.1:15000".parse().ok());
    assert_eq!((access_log, workers), (&AccessLog::Stdout, &Some(2)));
    assert_eq!((drain.accept_for, drain.deadline), (Duration::from_secs(5), Duration::from_secs(30)));

    assert_eq!((listeners[0].direction, listeners[0].trust), (Direction::Outbound, Trust::Local));
    assert_eq!((listeners[1].direction, listeners[1].trust), (Direction::Inbound, Trust::Hops(1)));
    assert_eq!(listeners[0].protocol, ListenerProtocol::Auto);
    assert_eq!(listeners[0].limits, listeners[1].limits, "the written values are the defaults");

    let hosts = &routes["outbound"].hosts;
    assert_eq!(hosts[0].hostnames[2], HostPattern::Wildcard("payments.example".into()));
    assert_eq!(hosts[1].hostnames, [HostPattern::Any]);
    let charges = &hosts[0].rules[0];
    assert_eq!(charges.matches[0].path, PathMatch::Prefix("/v1/charges".into()));
    assert_eq!(charges.matches[1].path, PathMatch::Exact("/v1/charge".into()));
    assert!(
        matches!(&charges.matches[2].path, PathMatch::Regex(r) if r.is_match("/v2/charges/7") && !r.is_match("x/v2/charges/7"))
    );
    assert_eq!(charges.matches[3].path, PathMatch::Exact("/shop.Payments/Charge".into()));
    assert!(charges.matches[3].grpc && !charges.matches[0].grpc);
    assert_eq!(charges.timeouts.request.value, Some(Duration::from_secs(2)));
    let place = charges.timeouts.request.place.as_ref().expect("it is written");
    assert_eq!(
        text.lines().nth(place.line as usize - 1).map(str::trim_start).and_then(|l| l.get(..11)),
        Some("request: 2s")
    );
    assert_eq!(charges.retry.attempts.value, 2);
    assert_eq!(charges.retry.on[4..], [RetryOn::Status(503), RetryOn::Grpc(14)]);
    assert_eq!(charges.filters.len(), 4);
    let Action::Forward(backends) = &charges.action else { panic!("{:?}", charges.action) };
    assert_eq!((backends[0].weight, backends[1].weight, backends[1].filters.len()), (95, 5, 1));
    assert!(matches!(&hosts[0].rules[1].action, Action::Redirect(r) if r.status == 308 && r.port == Some(8443)));
    assert!(matches!(&hosts[0].rules[2].action, Action::Direct(r) if r.status == 200 && *r.body == *b"ok\n"));
    // Without a path condition the matched prefix is the root.
    let rest = &hosts[0].rules[3];
    assert_eq!(rest.matches[0].path, PathMatch::Prefix("".into()));
    assert!(
        matches!(&rest.filters[0], Filter::UrlRewrite(u) if u.path == Some(PathRewrite::Prefix("/payments".into())))
    );
    assert_eq!(&*hosts[1].rules[0].name, "1/0");

    let (v1, v2) = (&clusters["payments-v1"], &clusters["payments-v2"]);
    assert_eq!((v1.connection, v1.ceilings, v1.protocol), (v2.connection, v2.ceilings, v2.protocol), "merged by `<<`");
    assert_eq!((v1.endpoints.len(), v2.endpoints.len()), (3, 1));
    assert_eq!(v1.endpoints[1].target, Target::Name { host: "payments.shop.svc".into(), port: 15006 });
}

#[test]
fn equal_texts_have_equal_hashes_of_sixteen_digits() {
    let text = example("minimal.yaml");
    let hash = |text: &str| load("a", text).expect("loads").hash;
    assert_eq!(hash(&text), hash(&text));
    assert_ne!(hash(&text), hash(&format!("{text}# more\n")));
    assert_eq!(hash(&text).len(), 16);
    assert!(hash(&text).bytes().all(|b| b.is_ascii_hexdigit()));
}

/// The minimal example with one more line.
fn with(line: &str) -> Config {
    let text = format!("{}\n{line}\n", example("minimal.yaml"));
    (*load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}")).config).clone()
}

#[test]
fn off_is_a_word_whatever_yaml_1_1_makes_of_it() {
    for off in ["off", "\"off\"", "false"] {
        assert_eq!(with(&format!("admin: {off}")).admin.address, None, "{off}");
        assert_eq!(with(&format!("accessLog: {off}")).access_log, AccessLog::Off, "{off}");
    }
}

#[test]
fn the_access_log_has_a_short_and_a_long_form() {
    for stdout in ["stdout", "/dev/stdout", "{ path: /dev/stdout }"] {
        assert_eq!(with(&format!("accessLog: {stdout}")).access_log, AccessLog::Stdout, "{stdout}");
    }
    for file in ["/tmp/a.log", "{ path: /tmp/a.log }"] {
        assert_eq!(with(&format!("accessLog: {file}")).access_log, AccessLog::File("/tmp/a.log".into()), "{file}");
    }
}

#[test]
fn a_short_drain_deadline_shortens_the_accepting_before_it() {
    let drain = with("drain: { deadline: 2s }").drain;
    assert_eq!((drain.accept_for, drain.deadline), (Duration::from_secs(2), Duration::from_secs(2)));
}

#[test]
fn an_admin_server_for_others_must_be_said_twice() {
    let admin = with("admin: { address: 0.0.0.0:9901, allowRemote: true }").admin;
    assert_eq!(admin.address, "0.0.0.0:9901".parse().ok());
}

#[test]
fn a_node_without_a_name_has_host_and_process_for_one() {
    let id = with("node: { zone: a }").node.id;
    assert!(id.ends_with(&format!("-{}", std::process::id())), "{id}");
}

/// The rules of a table that is written as one rule with `rule` in it.
fn rule(rule: &str) -> outrigger_config::model::Rule {
    let text = format!(
        "listeners: [{{ name: a, bind: 127.0.0.1:1, routes: r }}]\nroutes: {{ r: [{{ rules: [{{ {rule}, backendRefs: \
         [{{ cluster: c }}] }}] }}] }}\nclusters: {{ c: {{ endpoints: [127.0.0.1:2] }} }}\n"
    );
    load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}")).config.routes["r"].hosts[0].rules[0].clone()
}

#[test]
fn a_duration_of_zero_switches_a_time_limit_off_and_keeps_its_place() {
    let off = rule("timeouts: { request: 0s }").timeouts.request;
    assert_eq!(off.value, None);
    assert!(off.place.is_some());
    let default = rule("name: a").timeouts.request;
    assert_eq!((default.value, default.place), (Some(Duration::from_secs(15)), None));
}

#[test]
fn retries_without_conditions_are_only_of_what_was_never_executed() {
    let retry = rule("retry: { attempts: 3 }").retry;
    assert_eq!((retry.attempts.value, &*retry.on), (3, &[RetryOn::ConnectFailure, RetryOn::RefusedStream][..]));
    let none = rule("name: a").retry;
    assert_eq!((none.attempts.value, none.on.len()), (0, 0));
}

#[test]
fn every_grpc_status_beside_ok_is_a_condition_by_its_name() {
    let names = "cancelled, unknown, invalid-argument, deadline-exceeded, not-found, already-exists, permission-denied, \
                 resource-exhausted, failed-precondition, aborted, out-of-range, unimplemented, internal, unavailable, \
                 data-loss, unauthenticated";
    let on = rule(&format!("retry: {{ on: [{names}] }}")).retry.on;
    assert_eq!(on, (1..=16).map(RetryOn::Grpc).collect::<Vec<_>>());
}

#[test]
fn header_edits_take_a_mapping_or_a_list() {
    let map = rule("filters: [{ requestHeaders: { set: { X-A: \"1\", x-b: 2 } } }]").filters;
    let list =
        rule("filters: [{ requestHeaders: { set: [{ name: x-a, value: \"1\" }, { name: x-b, value: 2 }] } }]").filters;
    assert_eq!(map, list);
}

#[test]
fn a_trailing_slash_of_a_prefix_means_nothing() {
    for (written, stored) in [("/v1/", "/v1"), ("/v1", "/v1"), ("/", "")] {
        let path = rule(&format!("matches: [{{ path: {{ prefix: {written} }} }}]")).matches[0].path.clone();
        assert_eq!(path, PathMatch::Prefix(stored.into()), "{written}");
    }
}

#[test]
fn a_grpc_match_is_a_path_match_of_a_grpc_request() {
    for (written, path) in [
        ("{ service: a.B, method: C }", PathMatch::Exact("/a.B/C".into())),
        ("{ service: a.B }", PathMatch::Prefix("/a.B".into())),
        ("{ method: C }", PathMatch::GrpcMethod("C".into())),
        ("{}", PathMatch::Any),
    ] {
        let one = rule(&format!("matches: [{{ grpc: {written} }}]")).matches[0].clone();
        assert_eq!((one.path, one.grpc), (path, true), "{written}");
    }
}

#[test]
fn json_is_a_configuration_too() {
    let text = r#"{"listeners":[{"name":"a","bind":"127.0.0.1:1","routes":"r"}],
        "routes":{"r":[{"rules":[{"backendRefs":[{"cluster":"c"}]}]}]},"clusters":{"c":{"endpoints":["127.0.0.1:2"]}}}"#;
    assert!(load("a.json", text).is_ok());
}
