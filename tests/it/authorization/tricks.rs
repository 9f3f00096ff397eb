//! Paths written so that one reader sees something else than another. The property: what the rule decides about is
//! what routing chooses by and what the backend receives, and where a backend might read more into a path, the
//! rule is as strict as the strictest reading.

use super::Caller::Plain;
use super::Verdict::{As, Denied, Stopped, Through};
use super::{Arena, Case, case};
use crate::support::any::{AnyBackend, Message, Version};
use crate::support::{Config, Proxy, h1_client};

const POLICIES: &[(&str, &str)] = &[
    // Everything but `/admin`.
    ("guard", "{ default: allow, rules: [{ name: admin, action: deny, to: [{ paths: [{ prefix: /admin }] }] }] }"),
    // Nothing but `/public`.
    ("lobby", "{ default: deny, rules: [{ name: public, action: allow, to: [{ paths: [{ prefix: /public }] }] }] }"),
    ("exactly", "{ default: deny, rules: [{ name: page, action: allow, to: [{ paths: [{ exact: /a/b }] }] }] }"),
    ("secret", "{ default: allow, rules: [{ name: page, action: deny, to: [{ paths: [{ exact: /a/b }] }] }] }"),
];

const CASES: &[Case] = &[
    case("guard", Plain, "GET /", Through),
    case("guard", Plain, "GET /admin", Denied),
    case("guard", Plain, "GET /admin/", Denied),
    case("guard", Plain, "GET /admin/x?y", Denied),
    case("guard", Plain, "GET /admin?x", Denied),
    case("guard", Plain, "GET //admin", Denied),
    case("guard", Plain, "GET ///admin//x", Denied),
    case("guard", Plain, "GET /./admin", Denied),
    case("guard", Plain, "GET /x/../admin", Denied),
    case("guard", Plain, "GET /x/y/../../admin", Denied),
    case("guard", Plain, "GET /x/%2e%2e/admin", Denied),
    case("guard", Plain, "GET /x/.%2E/admin", Denied),
    case("guard", Plain, "GET /%2e/admin", Denied),
    case("guard", Plain, "GET /%61dmin", Denied),
    case("guard", Plain, "GET /%61%64%6D%69%6e/x", Denied),
    case("guard", Plain, "GET /admin%2Fx", Denied),
    case("guard", Plain, "GET /admin%2fx", Denied),
    case("guard", Plain, "GET /%2Fadmin", Denied),
    case("guard", Plain, "GET /x%2F..%2Fadmin", Denied),
    case("guard", Plain, "GET /x/..%2Fadmin", Denied),
    case("guard", Plain, "GET /x/%2e%2e%2Fadmin", Denied),
    case("guard", Plain, "GET /admin%5Cx", Denied),
    case("guard", Plain, "GET /x%5C..%5Cadmin", Denied),
    case("guard", Plain, "GET /admin\\x", Stopped),
    case("guard", Plain, "GET \\admin", Stopped),
    case("guard", Plain, "GET /x\\..\\admin", Stopped),
    case("guard", Plain, "GET /admin;x=1", Denied),
    case("guard", Plain, "GET /admin;x=1/y", Denied),
    case("guard", Plain, "GET /;x/admin", Denied),
    case("guard", Plain, "GET /x/..;/admin", Denied),
    case("guard", Plain, "GET /x/..;a=b/admin", Denied),
    case("guard", Plain, "GET /x/%2e%2e;/admin", Denied),
    case("guard", Plain, "GET /admin%3Bx=1", Denied),
    case("guard", Plain, "GET http://a.example/admin", Denied),
    case("guard", Plain, "GET http://a.example//admin", Denied),
    case("guard", Plain, "GET http://a.example/x/../admin", Denied),
    case("guard", Plain, "GET HTTP://A.example/admin", Stopped),
    case("guard", Plain, "GET /../admin", Stopped),
    case("guard", Plain, "GET /x/../../admin", Stopped),
    case("guard", Plain, "GET /admin%00", Stopped),
    case("guard", Plain, "GET /x%0a/admin", Stopped),
    case("guard", Plain, "GET /%zz/admin", Stopped),
    case("guard", Plain, "GET /admin#x", Stopped),
    case("guard", Plain, "GET #/admin", Stopped),
    case("guard", Plain, "GET admin", Stopped),
    case("guard", Plain, "GET ?/admin", Stopped),
    case("guard", Plain, "GET /%c0%af/admin", As("/%C0%AF/admin")),
    // A path in another case is another path; encoded twice it is another too; and a query is no path.
    case("guard", Plain, "GET /ADMIN", Through),
    case("guard", Plain, "GET /administrator", Through),
    case("guard", Plain, "GET /x/admin", Through),
    case("guard", Plain, "GET /%2561dmin", Through),
    case("guard", Plain, "GET /x%252F..%252Fadmin", Through),
    case("guard", Plain, "GET /x?/../admin", Through),
    case("guard", Plain, "GET /admin/../x", As("/x")),
    case("guard", Plain, "GET /admin/%2e%2e/x", As("/x")),
    case("guard", Plain, "GET /%41%2d%5f%7E", As("/A-_~")),
    case("lobby", Plain, "GET /public", Through),
    case("lobby", Plain, "GET /public/", Through),
    case("lobby", Plain, "GET /public/x", Through),
    case("lobby", Plain, "GET /public//x", As("/public/x")),
    case("lobby", Plain, "GET //public/x", As("/public/x")),
    case("lobby", Plain, "GET /p%75blic/x", As("/public/x")),
    case("lobby", Plain, "GET /x/../public/y", As("/public/y")),
    case("lobby", Plain, "GET /public/x%2Fy", Through),
    case("lobby", Plain, "GET /public/x;v=1", Through),
    case("lobby", Plain, "GET /public/x?../../admin", Through),
    case("lobby", Plain, "GET http://a.example/public/x", As("/public/x")),
    case("lobby", Plain, "GET /", Denied),
    case("lobby", Plain, "GET /Public", Denied),
    case("lobby", Plain, "GET /publicx", Denied),
    case("lobby", Plain, "GET /public/../admin", Denied),
    case("lobby", Plain, "GET /public/%2e%2e/admin", Denied),
    case("lobby", Plain, "GET /public/..%2Fadmin", Denied),
    case("lobby", Plain, "GET /public%2F..%2Fadmin", Denied),
    case("lobby", Plain, "GET /public/x%2F..%2F..%2Fadmin", Denied),
    case("lobby", Plain, "GET /public/..%5Cadmin", Denied),
    case("lobby", Plain, "GET /public/..;/admin", Denied),
    case("lobby", Plain, "GET /public/..;x=y/admin", Denied),
    case("lobby", Plain, "GET /public;/../admin", Denied),
    case("lobby", Plain, "GET /public/..%3B/admin", Denied),
    case("lobby", Plain, "GET /admin?/public", Denied),
    case("lobby", Plain, "GET /admin;/public", Denied),
    case("lobby", Plain, "GET http://public/admin\nhost: public", Denied),
    case("exactly", Plain, "GET /a/b", Through),
    case("exactly", Plain, "GET /a/./b?q", As("/a/b?q")),
    case("exactly", Plain, "GET /a/b/", Denied),
    case("exactly", Plain, "GET /a%2Fb", Denied),
    case("exactly", Plain, "GET /a/b;x", Denied),
    case("secret", Plain, "GET /a/b", Denied),
    case("secret", Plain, "GET /a//b", Denied),
    case("secret", Plain, "GET /a%2Fb", Denied),
    case("secret", Plain, "GET /a/b;x", Denied),
    case("secret", Plain, "GET /a;x/b", Denied),
    case("secret", Plain, "GET /a/c", Through),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_of_writing_a_path_gets_around_a_rule() {
    let arena = Arena::start(POLICIES).await;
    arena.play(CASES).await;
    println!("{} cases", CASES.len());
}

/// The same paths, with slashes kept as they are: a listener that merges nothing must not open a gap.
#[tokio::test]
async fn unmerged_slashes_open_no_gap() {
    let backend = AnyBackend::ok(Version::H1).await;
    let config = Config::to("http1", &[backend.addr()])
        .listener("path: { mergeSlashes: false }")
        .listener("authorization: guard")
        .top(&format!("authorization: {{ {}: {} }}", POLICIES[0].0, POLICIES[0].1));
    let proxy = Proxy::start(&config).await;
    for target in ["//admin", "/x/..//admin", "///admin", "//x/../admin", "/x//../../admin"] {
        let reply =
            h1_client::exchange(proxy.addr(), format!("GET {target} HTTP/1.1\r\nhost: a.example\r\n\r\n")).await;
        assert!([400, 403].contains(&reply.status), "{target}: {}", reply.status);
    }
    assert!(backend.seen().is_empty());
}

/// Routing and authorization see the same: for every way of writing a path, the backend that routing chose for
/// `/admin` receives it exactly when the rule about `/admin` would have refused it.
#[tokio::test]
async fn routing_and_authorization_see_the_same_path_and_host() {
    let admin = AnyBackend::answering(Version::H1, 200, Message::body("admin")).await;
    let rest = AnyBackend::answering(Version::H1, 200, Message::body("rest")).await;
    let config = Config::new()
        .routes(
            r#"
            - hostnames: [internal.example]
              rules: [{ backendRefs: [{ cluster: admin }] }]
            - rules:
                - { matches: [{ path: { prefix: /admin } }], backendRefs: [{ cluster: admin }] }
                - { matches: [{ headers: [{ name: x-admin, exact: "yes" }] }], backendRefs: [{ cluster: admin }] }
                - { matches: [{ method: DELETE }], backendRefs: [{ cluster: admin }] }
                - { backendRefs: [{ cluster: rest }] }
            "#,
        )
        .cluster("admin", "http1", &[admin.addr()])
        .cluster("rest", "http1", &[rest.addr()])
        .add_listener("guarded")
        .listener("authorization: p")
        .top(
            "authorization: { p: { default: allow, rules: [\
             { name: path, action: deny, to: [{ paths: [{ prefix: /admin }] }] }, \
             { name: host, action: deny, to: [{ hosts: [internal.example] }] }, \
             { name: method, action: deny, to: [{ methods: [DELETE] }] }, \
             { name: header, action: deny, to: [{ headers: [{ name: x-admin, exact: 'yes' }] }] }] } }",
        );
    let proxy = Proxy::start(&config).await;
    let pieces = [
        "", "/", ".", "..", "%2e", "%2E%2e", "admin", "%61dmin", "ADMIN", "x", ";", "admin;v", "..;", "%2F", "%5C", "?",
    ];
    let mut targets = Vec::new();
    for a in pieces {
        for b in pieces {
            for c in ["admin", "x", "..", ""] {
                targets.push(format!("/{a}/{b}/{c}"));
                targets.push(format!("/{a}{b}/{c}"));
            }
        }
    }
    let hosts = ["a.example", "internal.example", "INTERNAL.example.:80"];
    let extra = ["", "x-admin: yes\r\n", "x-admin: no\r\nx-admin: yes\r\n"];
    let mut open = crate::support::H1Client::connect(proxy.addr()).await;
    let mut guarded = crate::support::H1Client::connect(proxy.listener("guarded")).await;
    let mut counts = (0, 0, 0);
    for (number, target) in targets.iter().enumerate() {
        let host = hosts[usize::from(number % 11 == 0) + usize::from(number % 13 == 0)];
        let method = if number % 17 == 0 { "DELETE" } else { "GET" };
        let extra = extra[number % 7 % 3];
        let request = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{extra}\r\n");
        let routed = ask(&mut open, proxy.addr(), &request).await;
        let decided = ask(&mut guarded, proxy.listener("guarded"), &request).await;
        match (routed.status, routed.text().as_str()) {
            (200, "admin") => {
                counts.0 += 1;
                assert_eq!(decided.status, 403, "{request}");
            }
            (200, "rest") => {
                counts.1 += 1;
                // Stricter is fine, other backends are not.
                assert!(decided.status == 403 || decided.text() == "rest", "{request}: {}", decided.status);
            }
            _ => {
                counts.2 += 1;
                assert_eq!(decided.status, routed.status, "{request}");
            }
        }
    }
    println!("{} to the guarded backend, {} elsewhere, {} refused as malformed", counts.0, counts.1, counts.2);
    assert!(counts.0 > 100 && counts.1 > 100, "{counts:?}");
    // What the guarded listener let through is at the backends with a path that no reader takes for `/admin`.
    let before = admin.seen().len();
    assert_eq!(before, counts.0, "nothing came to the guarded backend but what the open listener sent");
}

/// Asks over a kept connection; a connection that the proxy closed after a malformed request is made again.
async fn ask(
    client: &mut crate::support::H1Client,
    addr: std::net::SocketAddr,
    request: &str,
) -> crate::support::http1::Response {
    client.send(request).await;
    let reply = client.response().await;
    if reply.head.get("connection") == Some("close") {
        *client = crate::support::H1Client::connect(addr).await;
    }
    reply
}
