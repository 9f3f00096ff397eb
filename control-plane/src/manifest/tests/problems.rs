//! Every problem has its place and a fix, and all are told at once.

use super::{SERVICE, read, route, said};

#[test]
fn three_mistakes_in_one_manifest_are_three_problems_with_line_caret_and_fix() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\r\nkind: HTTPRoute\r\nmetadata: { name: r, namespace: shop }\r\nspec:\r\n  \
                hostnames: [a.example]\r\n  parentRefs: [{ group: \"\", kind: Service, name: b }]\r\n  rules:\r\n    - timeouts: { request: 10 }\r\n      \
                filters: [{ type: ExtensionRef, extensionRef: { name: x } }]\r\n";
    let outcome = read(text);
    let all: Vec<String> = outcome.problems.iter().map(|problem| problem.diagnostic.to_string()).collect();
    let shown = all.join("\n");
    for expected in [
        "m.yaml:5:3",
        "m.yaml:8:28",
        "m.yaml:9:39",
        "^^^^^^^^^",
        "match the header `Host`",
        "add the unit",
        "filters of other kinds are not supported",
    ] {
        assert!(shown.contains(expected), "{expected}:\n{shown}");
    }
    assert!(outcome.problems.iter().all(|problem| problem.object.is_some()));
    assert!(outcome.mesh.is_empty());
}

#[test]
fn what_is_not_supported_is_an_error_with_its_place() {
    for (rest, message) in [
        ("  rules: [{ sessionPersistence: {} }]\n", "these sessions have no `sessionName`"),
        (
            "  rules: [{ sessionPersistence: { sessionName: s, cookieConfig: { lifetimeType: Permanent } } }]\n",
            "a permanent cookie needs to know how long it lasts",
        ),
        (
            "  rules: [{ sessionPersistence: { sessionName: s, type: Header, cookieConfig: {} } }]\n",
            "`cookieConfig` does not belong to sessions of type Header",
        ),
        ("  rules: [{ filters: [{ type: RequestMirror }] }]\n", "this filter has no `requestMirror`"),
        ("  rules: [{ filters: [{ type: RequestMirror, requestMirror: {} }] }]\n", "this mirror has no `backendRef`"),
        (
            "  rules: [{ filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: b, port: 80 }, percent: 101 } }] }]\n",
            "101 is out of range",
        ),
        (
            "  rules: [{ filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: b, port: 80 }, percent: 1, fraction: { numerator: 1 } } }] }]\n",
            "one of `percent` and `fraction`",
        ),
        (
            "  rules: [{ backendRefs: [{ name: b, port: 80, filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: b, port: 80 } } }] }] }]\n",
            "a backend has no filter of type RequestMirror",
        ),
        ("  rules: [{ filters: [{ type: ExtensionRef }] }]\n", "`ExtensionRef` is not supported here"),
        ("  rules: [{ filters: [{ type: CORS }] }]\n", "this filter has no `cors`"),
        ("  rules: [{ matches: [{ path: { type: Glob, value: /a } }] }]\n", "`Glob` is not supported here"),
        ("  rules: [{ backendRefs: [{ name: b }] }]\n", "this backend has no `port`"),
        ("  rules: [{ retry: { codes: [200] } }]\n", "200 is not a status to retry"),
        ("  rules: [{ retry: { attempts: 9 } }]\n", "9 is out of range"),
        ("  rules: [{ timeouts: { request: 1s, backendRequest: 2s } }]\n", "`backendRequest` is longer"),
        (
            "  rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { hostname: x } }], backendRefs: [{ name: b, port: 80 }] }]\n",
            "a rule that redirects has no backends",
        ),
        (
            "  rules: [{ filters: [{ type: URLRewrite, urlRewrite: { hostname: x } }, { type: URLRewrite, urlRewrite: { hostname: y } }] }]\n",
            "a second filter of type URLRewrite",
        ),
    ] {
        let outcome = read(&(SERVICE.to_owned() + &route("r", rest)));
        let said = said(&outcome);
        assert!(outcome.has_errors() && said.iter().any(|line| line.contains(message)), "{rest}: {said:?}");
    }
}

#[test]
fn other_kinds_and_versions_are_refused_with_the_right_word() {
    for (change, message) in [
        (("kind: Service", "kind: Servce"), "the kind `Servce` is not supported"),
        (("kind: Service", "kind: Gateway"), "the kind `Gateway` is not supported"),
        (("apiVersion: v1", "apiVersion: v2"), "there is no Service in `v2`"),
        (("apiVersion: v1\n", ""), "this manifest has no `apiVersion`"),
        (("kind: Service\n", ""), "this manifest has no `kind`"),
        (("name: b,", "name: B_,"), "`B_` cannot be a name"),
        (("namespace: shop", "namespace: a.b"), "`a.b` cannot be a namespace"),
        (("port: 80", "port: 0"), "0 is out of range"),
        (("port: 80", "port: 80, protocol: UDP"), "`UDP` is not supported here"),
        (("ports:", "sessionAffinity: ClientIP, ports:"), "`ClientIP` is not supported here"),
        (("ports:", "externalName: x, ports:"), "Services of type ExternalName are not supported"),
    ] {
        let outcome = read(&SERVICE.replace(change.0, change.1));
        let said = said(&outcome);
        assert!(outcome.has_errors() && said.iter().any(|line| line.contains(message)), "{change:?}: {said:?}");
    }
}

#[test]
fn metadata_and_status_of_an_api_server_are_taken() {
    let text = SERVICE.replace(
        "namespace: shop }",
        "namespace: shop, uid: x, resourceVersion: \"7\", generation: 1, creationTimestamp: null, annotations: { a: b }, managedFields: [{ x: y }] }",
    ) + "status: { loadBalancer: {} }\n";
    let outcome = read(&text);
    assert!(outcome.problems.is_empty(), "{:?}", said(&outcome));
}

#[test]
fn nobody_is_registered_as_the_control_plane() {
    let workload = |namespace: &str| {
        format!(
            "apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{ name: x, namespace: {namespace} }}\n\
             spec: {{ serviceAccount: control, address: 127.0.0.1 }}\n"
        )
    };
    let said = said(&read(&workload("outrigger")));
    assert!(said[0].starts_with("4:25 this is the identity of the control plane"), "{said:?}");
    assert!(!read(&workload("shop")).has_errors());
}

#[test]
fn bytes_and_http3_are_said_where_they_belong() {
    let tcp =
        SERVICE.replace("port: 80", "port: 80, appProtocol: tcp").replace("ports:", "clusterIP: 10.0.0.1, ports:");
    let route = |rest: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {{ name: t, namespace: shop }}\n\
             spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: b }}]\n  rules: {rest}\n"
        )
    };
    let backend = "[{ backendRefs: [{ name: b, port: 80 }] }]";
    let traffic = |protocol: &str| {
        format!(
            "---\napiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: p, namespace: shop }}\nspec: {{ targetRef: \
             {{ group: \"\", kind: Service, name: b }}, protocol: {protocol} }}\n"
        )
    };
    assert!(said(&read(&format!("{tcp}{}", route(backend)))).is_empty());
    for (text, message) in [
        (tcp.replace("clusterIP: 10.0.0.1, ", ""), "nobody can connect to the ports of TCP"),
        (format!("{SERVICE}{}", route(backend)), "has no port of TCP there"),
        (
            format!("{tcp}{}", super::route("r", "  rules: [{ backendRefs: [{ name: b, port: 80 }] }]\n")),
            "only ports of TCP",
        ),
        (format!("{tcp}{}", route("[]")), "a TCPRoute has one rule"),
        (format!("{tcp}{}", route("[{}]")), "this rule leads nowhere"),
        (format!("{tcp}{}", route("[{ matches: [], backendRefs: [{ name: b, port: 80 }] }]")), "handed on as they are"),
        (format!("{SERVICE}{}", traffic("http3")), "not spoken to endpoints outside the mesh"),
        (format!("{SERVICE}{}", traffic("tcp")), "not spoken to endpoints outside the mesh"),
    ] {
        let said = said(&read(&text));
        assert!(said.iter().any(|line| line.contains(message)), "{message}: {said:?}");
    }
}

#[test]
fn what_a_policy_says_of_requests_is_checked_as_in_a_file() {
    let policy = |rest: &str| {
        format!(
            "{SERVICE}---\napiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: p, namespace: shop }}\nspec:\n  \
             targetRef: {{ group: \"\", kind: Service, name: b }}\n  {rest}\n"
        )
    };
    for (rest, message) in [
        ("rateLimits: []", "`rateLimits`"),
        ("rateLimits: [{ requests: 1, per: 1s }]", "this rate limit has no `name`"),
        ("rateLimits: [{ name: a, requests: 1, per: 1s }, { name: a, requests: 1, per: 1s }]", "a second rate limit"),
        ("rateLimit: []", "unknown field `rateLimit`"),
        ("faults: []", "`faults` has no entries"),
        ("faults: [{ abort: { percent: 1, status: 503 } }]", "this fault has no `until`"),
        ("hash: [cookie]", "`cookie` is nothing that can be hashed"),
        ("sessionPersistence: { header: x-session }", "this session persistence has no `keyFile`"),
        ("criticality: high", "`high`"),
    ] {
        let said = said(&read(&policy(rest)));
        assert!(said.iter().any(|line| line.contains(message)), "{rest}: {said:?}");
    }
    let mesh = |namespace: &str, rest: &str| {
        format!(
            "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: {{ name: m, namespace: {namespace} }}\nspec: {{ rateLimitServices: \
             {{ rls: {rest} }} }}\n"
        )
    };
    let good = "{ backendRef: { name: b, namespace: shop, port: 80 }, domain: mesh, onFailure: deny }";
    assert!(said(&read(&format!("{SERVICE}---\n{}", mesh("outrigger-system", good)))).is_empty());
    for (namespace, rest, message) in [
        ("shop", good, "rate limit services are the whole mesh's"),
        ("outrigger-system", "{ domain: mesh, onFailure: deny }", "has no `backendRef`"),
        ("outrigger-system", &good.replace(", onFailure: deny", ""), "does not say what happens"),
        ("outrigger-system", &good.replace("domain: mesh, ", ""), "has no `domain`"),
        ("outrigger-system", &good.replace("port: 80", "port: 81"), "nobody asks the rate limit service `rls`"),
    ] {
        let said = said(&read(&format!("{SERVICE}---\n{}", mesh(namespace, rest))));
        assert!(said.iter().any(|line| line.contains(message)), "{rest}: {said:?}");
    }
    // A route has no word for the key, and without one there are no sessions.
    let sessions =
        route("r", "  rules: [{ sessionPersistence: { sessionName: s }, backendRefs: [{ name: b, port: 80 }] }]\n");
    let said_of = said(&read(&format!("{SERVICE}{sessions}")));
    assert!(said_of.iter().any(|line| line.contains("no policy says the key")), "{said_of:?}");
    let policy = policy("sessionPersistence: { header: x-a, keyFile: /key }");
    assert!(said(&read(&format!("{policy}{sessions}"))).is_empty());
}

#[test]
fn a_tls_route_is_for_server_names() {
    let tcp =
        SERVICE.replace("port: 80", "port: 80, appProtocol: tcp").replace("ports:", "clusterIP: 10.0.0.1, ports:");
    let text = |version: &str, rest: &str| {
        format!(
            "{tcp}---\napiVersion: gateway.networking.k8s.io/{version}\nkind: TLSRoute\nmetadata: {{ name: t, namespace: shop }}\n\
             spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: b }}]\n{rest}\n"
        )
    };
    let rules = "  rules: [{ backendRefs: [{ name: b, port: 80 }] }]";
    for version in ["v1", "v1alpha3", "v1alpha2"] {
        let good = text(version, &format!("  hostnames: [db.example, \"*.db.example\"]\n{rules}"));
        assert!(said(&read(&good)).is_empty(), "{version}: {:?}", said(&read(&good)));
    }
    let policy = "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: { name: p, namespace: shop }\nspec: { \
                  targetRefs: [{ group: \"\", kind: Service, name: b }], validation: { hostname: b.example, wellKnownCACertificates: System } }\n";
    for (rest, message) in [
        (rules.to_owned(), "10:3 this route has no `hostnames`"),
        (format!("  hostnames: []\n{rules}"), "11:14 this route has no `hostnames`"),
        (format!("  hostnames: [\"*\"]\n{rules}"), "11:15 `*` is no server name"),
        (format!("  hostnames: [10.0.0.1]\n{rules}"), "`10.0.0.1` is an address, which no client sends as server name"),
        (format!("  hostnames: [\"a*.example\"]\n{rules}"), "`a*.example`"),
        (format!("  hostnames: [a.example, A.example.]\n{rules}"), "11:26 the server name `A.example.` comes twice"),
        (format!("  hostname: [a.example]\n{rules}"), "unknown field `hostname`"),
        ("  hostnames: [a.example]\n  rules: []".to_owned(), "a TLSRoute has one rule, and this one has 0"),
        ("  hostnames: [a.example]\n  rules: [{}]".to_owned(), "this rule leads nowhere"),
        (
            format!("  hostnames: [a.example]\n{}", rules.replace("[{ b", "[{ filters: [], b")),
            "connections are handed on as they are",
        ),
        (format!("  hostnames: [a.example]\n{rules}{policy}"), "a TLSRoute hands on that of the callers"),
        (
            format!("  hostnames: [a.example]\n{rules}").replace("name: b, port: 80", "name: b, port: 81"),
            "the Service shop/b has no port 81",
        ),
    ] {
        let said = said(&read(&text("v1", &rest)));
        assert!(said.iter().any(|line| line.contains(message)), "{message}: {said:?}");
    }
    let of_requests = text("v1", &format!("  hostnames: [a.example]\n{rules}")).replace(", appProtocol: tcp", "");
    let said = said(&read(&of_requests));
    assert!(said.iter().any(|line| line.contains("has no port of TCP there")), "{said:?}");
}
