//! Status conditions of the Gateway API.

use super::{SERVICE, read, route};
use crate::manifest::{Condition, Document, Kind, ObjectId, Outcome, load};

fn conditions(outcome: &Outcome, kind: Kind, name: &str) -> Vec<(String, &'static str, bool, &'static str)> {
    let id = ObjectId::new(kind, "shop", name);
    let status = outcome.statuses.iter().find(|status| status.object == id).expect("it has a status");
    let own = status.conditions.iter().map(|condition| (String::new(), condition));
    let parents = status
        .parents
        .iter()
        .flat_map(|parent| parent.conditions.iter().map(|condition| (parent.parent.clone(), condition)));
    own.chain(parents)
        .map(|(parent, Condition { kind, status, reason, .. })| (parent, *kind, *status, *reason))
        .collect()
}

/// Status and reason of a condition.
type Said = (bool, &'static str);

#[test]
fn a_route_is_accepted_and_resolved_at_each_of_its_parents() {
    let cases: [(&str, &str, Said, Said); 9] = [
        ("{ name: b }", "{ name: b, port: 80 }", (true, "Accepted"), (true, "ResolvedRefs")),
        ("{ name: b, port: 80 }", "{ name: b, port: 80 }", (true, "Accepted"), (true, "ResolvedRefs")),
        ("{ name: b, sectionName: http }", "{ name: b, port: 80 }", (true, "Accepted"), (true, "ResolvedRefs")),
        ("{ name: b, port: 81 }", "{ name: b, port: 80 }", (false, "NoMatchingParent"), (true, "ResolvedRefs")),
        ("{ name: missing }", "{ name: b, port: 80 }", (false, "NoMatchingParent"), (true, "ResolvedRefs")),
        ("{ name: b }", "{ name: missing, port: 80 }", (true, "Accepted"), (false, "BackendNotFound")),
        ("{ name: b }", "{ name: b, port: 81 }", (true, "Accepted"), (false, "BackendNotFound")),
        ("{ name: b }", "{ name: c, namespace: other, port: 80 }", (true, "Accepted"), (false, "RefNotPermitted")),
        ("{ name: b }", "{ group: example.com, kind: Bucket, name: c }", (true, "Accepted"), (false, "InvalidKind")),
    ];
    for (parent, backend, accepted, resolved) in cases {
        let parent = parent.replace("{ ", "{ group: \"\", kind: Service, ");
        let text = format!("{SERVICE}{}", route("r", &format!("  rules: [{{ backendRefs: [{backend}] }}]\n")));
        let text = text.replace("{ group: \"\", kind: Service, name: b }", &parent);
        let outcome = read(&text);
        assert!(!outcome.has_errors(), "{parent} {backend}: {:?}", super::said(&outcome));
        let found: Vec<_> = conditions(&outcome, Kind::HttpRoute, "r")
            .into_iter()
            .map(|(_, kind, holds, reason)| (kind, holds, reason))
            .collect();
        let expected = [("Accepted", accepted.0, accepted.1), ("ResolvedRefs", resolved.0, resolved.1)];
        assert_eq!(found, expected, "{parent} {backend}");
    }
}

#[test]
fn a_headless_service_is_no_parent() {
    let text = SERVICE.replace("spec: {", "spec: { clusterIP: None,") + &route("r", "  rules: []\n");
    let outcome = read(&text);
    assert_eq!(conditions(&outcome, Kind::HttpRoute, "r")[0].3, "NoMatchingParent");
}

#[test]
fn an_http_route_beside_a_grpc_route_is_conflicted() {
    let grpc = route("g", "  rules: []\n").replace("HTTPRoute", "GRPCRoute");
    let outcome = read(&(SERVICE.to_owned() + &route("h", "  rules: []\n") + &grpc));
    assert_eq!(conditions(&outcome, Kind::HttpRoute, "h")[0].3, "Conflicted");
    assert_eq!(conditions(&outcome, Kind::GrpcRoute, "g")[0].3, "Accepted");
}

#[test]
fn of_two_tls_routes_the_older_has_a_name_and_beside_one_a_tcp_route_is_conflicted() {
    let service =
        SERVICE.replace("port: 80", "port: 80, appProtocol: tcp").replace("ports:", "clusterIP: 10.0.0.1, ports:");
    let route = |kind: &str, name: &str, rest: &str| {
        route(name, &format!("{rest}  rules: [{{ backendRefs: [{{ name: b, port: 80 }}] }}]\n"))
            .replace("HTTPRoute", kind)
    };
    let outcome = read(
        &(service
            + &route("TLSRoute", "a", "  hostnames: [one.example, two.example]\n")
            + &route("TLSRoute", "b", "  hostnames: [two.example, three.example]\n")
            + &route("TLSRoute", "c", "  hostnames: [one.example]\n")
            + &route("TCPRoute", "d", "")),
    );
    let of = |kind, name| {
        let (_, _, holds, reason) = conditions(&outcome, kind, name).into_iter().next().expect("it is there");
        (holds, reason)
    };
    assert_eq!(of(Kind::TlsRoute, "a"), (true, "Accepted"));
    assert_eq!(of(Kind::TlsRoute, "b"), (true, "Accepted"), "one of its names is left");
    assert_eq!(of(Kind::TlsRoute, "c"), (false, "Conflicted"));
    assert_eq!(of(Kind::TcpRoute, "d"), (false, "Conflicted"));
    let said = super::said(&outcome);
    for (line, message) in [
        ("19:15", "TLSRoute shop/a has the server name `two.example` at shop/b:80"),
        ("27:15", "TLSRoute shop/a has the server name `one.example` at shop/b:80"),
        ("34:", "a TLSRoute decides at shop/b:80"),
    ] {
        assert!(said.iter().any(|one| one.starts_with(line) && one.contains(message)), "{message}: {said:#?}");
    }
}

#[test]
fn what_is_broken_falls_back_to_its_earlier_version_or_is_not_accepted() {
    let good = SERVICE.to_owned() + &route("r", "  rules: [{ backendRefs: [{ name: b, port: 80 }] }]\n");
    let bad = good.replace("backendRefs: [{ name: b", "filters: [{ type: RequestMirror }], backendRefs: [{ name: b");
    let outcome = read(&bad);
    assert_eq!(conditions(&outcome, Kind::HttpRoute, "r"), [(String::new(), "Accepted", false, "UnsupportedValue")]);
    let before = read(&good);
    let outcome = load(&[Document::new("m.yaml", &bad)], Some(&before.mesh));
    let found = conditions(&outcome, Kind::HttpRoute, "r");
    assert_eq!(found[0].1, "Accepted");
    assert_eq!((found[2].1, found[2].2, found[2].3), ("PartiallyInvalid", true, "UnsupportedValue"));
    assert!(outcome.has_errors());
    assert!(outcome.changes.is_empty(), "nothing has changed");
}

#[test]
fn of_two_policies_with_one_target_the_older_counts() {
    let policy = |name: &str, created: &str| {
        format!(
            "---\napiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: {name}, namespace: shop{created} }}\nspec: {{ targetRef: {{ kind: Service, name: b }}, circuitBreaker: {{ maxRequests: 5 }} }}\n"
        )
    };
    let text = SERVICE.to_owned() + &policy("a", "") + &policy("z", ", creationTimestamp: \"2020-01-01T00:00:00Z\"");
    let outcome = read(&text);
    assert_eq!(conditions(&outcome, Kind::TrafficPolicy, "a")[0].3, "Conflicted");
    assert_eq!(conditions(&outcome, Kind::TrafficPolicy, "z")[0].3, "Accepted");
    let outcome = read(&policy("a", ""));
    assert_eq!(conditions(&outcome, Kind::TrafficPolicy, "a")[0].3, "TargetNotFound");
}
