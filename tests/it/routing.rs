//! Which rule a request meets, and what filters do to it, seen from outside.

use crate::support::any::{AnyBackend, AnyClient, Message, Version};
use crate::support::{Config, H1Backend, H1Client, H2Client, Proxy, h1_client, h2_client};

/// A proxy whose rules answer by themselves with the text that `direct` gives them.
async fn direct(routes: &str) -> Proxy {
    Proxy::start(&Config::new().routes(routes)).await
}

async fn ask(proxy: &Proxy, host: &str, request: &str) -> String {
    let (line, fields) = request.split_once('\n').unwrap_or((request, ""));
    let fields: String = fields.lines().map(|l| format!("{}\r\n", l.trim())).collect();
    let reply = h1_client::exchange(proxy.addr(), format!("{line} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n")).await;
    match reply.status {
        200 => reply.text(),
        404 => {
            assert_eq!(reply.reason(), Some("NR"));
            "none".to_owned()
        }
        other => other.to_string(),
    }
}

#[tokio::test]
async fn the_most_specific_hostname_is_chosen() {
    let proxy = direct(
        r#"
        - hostnames: ["*"]
          rules: [{ filters: [{ directResponse: { status: 200, body: any } }] }]
        - hostnames: ["*.example"]
          rules: [{ filters: [{ directResponse: { status: 200, body: wide } }] }]
        - hostnames: ["*.shop.example"]
          rules: [{ filters: [{ directResponse: { status: 200, body: narrow } }] }]
        - hostnames: [a.shop.example, b.shop.example]
          rules: [{ filters: [{ directResponse: { status: 200, body: exact } }] }]
        "#,
    )
    .await;
    for (host, expected) in [
        ("a.shop.example", "exact"),
        ("b.shop.example", "exact"),
        ("A.Shop.EXAMPLE", "exact"),
        ("a.shop.example:8080", "exact"),
        ("a.shop.example.", "exact"),
        ("c.shop.example", "narrow"),
        ("d.c.shop.example", "narrow"),
        ("shop.example", "wide"),
        ("x.example", "wide"),
        ("example", "any"),
        ("ashop.example", "wide"),
        ("127.0.0.1", "any"),
        ("[::1]:80", "any"),
    ] {
        assert_eq!(ask(&proxy, host, "GET /").await, expected, "{host}");
        let client = H2Client::connect(proxy.addr()).await;
        let request = http::Request::get(format!("http://{host}/")).body(()).unwrap();
        assert_eq!(client.fetch(request).await.unwrap().body, expected, "{host} over HTTP/2");
    }
}

#[tokio::test]
async fn paths_match_exactly_by_whole_segments_or_by_pattern() {
    let proxy = direct(
        r#"
        - rules:
            - { matches: [{ path: { exact: /v1/charges } }], filters: [{ directResponse: { status: 200, body: exact } }] }
            - { matches: [{ path: { prefix: /v1 } }], filters: [{ directResponse: { status: 200, body: prefix } }] }
            - { matches: [{ path: { prefix: /slash/ } }], filters: [{ directResponse: { status: 200, body: slash } }] }
            - { matches: [{ path: { regex: "/items/[0-9]+" } }], filters: [{ directResponse: { status: 200, body: regex } }] }
        "#,
    )
    .await;
    for (target, expected) in [
        ("/v1/charges", "exact"),
        ("/v1/charges?q=1", "exact"),
        ("/v1/charges/", "prefix"),
        ("/v1", "prefix"),
        ("/v1/", "prefix"),
        ("/v1?x", "prefix"),
        ("/v1/x/y", "prefix"),
        ("/v1x", "none"),
        ("/v", "none"),
        ("/slash", "slash"),
        ("/slash/x", "slash"),
        ("/slashx", "none"),
        ("/items/42", "regex"),
        ("/items/42/x", "none"),
        ("/x/items/42", "none"),
        ("/items/", "none"),
        ("/V1", "none"),
    ] {
        assert_eq!(ask(&proxy, "a", &format!("GET {target}")).await, expected, "{target}");
    }
}

/// A rule that guards a path cannot be walked around by writing the path differently, because the form
/// that is matched is the form that is forwarded.
#[tokio::test]
async fn routing_and_the_upstream_see_the_same_path() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(
        &Config::new()
            .routes(
                r#"
                - rules:
                    - { matches: [{ path: { prefix: /admin } }], filters: [{ directResponse: { status: 403, body: guarded } }] }
                    - { backendRefs: [{ cluster: c }] }
                "#,
            )
            .cluster("c", "http1", &[backend.addr]),
    )
    .await;
    for target in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin",
        "/x/../admin",
        "/./admin",
        "/x/%2e%2e/admin",
        "/x/.%2E/admin",
        "/%61dmin",
        "/%61%64%6d%69%6e/x",
        "/admin;x/../../admin",
        "/x//..//admin",
        "/x/..//admin",
        "http://a.example/admin",
        "http://a.example/x/../admin",
        "/admin?x=/../y",
        "/admin#y",
    ] {
        let reply =
            h1_client::exchange(proxy.addr(), format!("GET {target} HTTP/1.1\r\nhost: a.example\r\n\r\n")).await;
        assert!(matches!(reply.status, 403 | 400), "{target}: {}", reply.status);
    }
    for (target, forwarded) in [
        ("/a/./b/../c", "/a/c"),
        ("/a//b", "/a/b"),
        ("/%41%2d%5f%7E", "/A-_~"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%20b?c=%2e%2e//..", "/a%20b?c=%2e%2e//.."),
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/", "/"),
        ("/?", "/?"),
        ("/%e4", "/%E4"),
        ("/a;b=c,d", "/a;b=c,d"),
    ] {
        assert_eq!(h1_client::get(proxy.addr(), target).await.status, 200, "{target}");
        let seen = backend.requests().last().unwrap().target.clone();
        let same = seen.eq_ignore_ascii_case(forwarded) && seen.len() == forwarded.len();
        assert!(same, "{target} was forwarded as {seen}, not {forwarded}");
    }
}

#[tokio::test]
async fn the_path_options_of_a_listener_are_followed() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr]).listener("path: { mergeSlashes: false, escapedSlashes: reject }"),
    )
    .await;
    assert_eq!(h1_client::get(proxy.addr(), "/a//b").await.status, 200);
    assert_eq!(backend.only_request().target, "/a//b");
    for target in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb"] {
        assert_eq!(h1_client::get(proxy.addr(), target).await.status, 400, "{target}");
    }
}

#[tokio::test]
async fn methods_headers_and_queries_match() {
    let proxy = direct(
        r#"
        - rules:
            - { matches: [{ method: POST }], filters: [{ directResponse: { status: 200, body: post } }] }
            - matches:
                - { headers: [{ name: x-tier, exact: gold }, { name: x-beta, present: true }] }
              filters: [{ directResponse: { status: 200, body: gold-beta } }]
            - { matches: [{ headers: [{ name: X-Tier, prefix: go }] }], filters: [{ directResponse: { status: 200, body: go } }] }
            - { matches: [{ headers: [{ name: x-tier, regex: "s.*r" }] }], filters: [{ directResponse: { status: 200, body: regex } }] }
            - { matches: [{ query: [{ name: q, exact: a b }] }], filters: [{ directResponse: { status: 200, body: query } }] }
            - { matches: [{ query: [{ name: flag, present: true }] }], filters: [{ directResponse: { status: 200, body: flag } }] }
            - { matches: [{ headers: [{ name: x-none, present: false }], path: { prefix: /absent } }], filters: [{ directResponse: { status: 200, body: absent } }] }
            - matches:
                - { path: { exact: /one } }
                - { path: { exact: /two } }
              filters: [{ directResponse: { status: 200, body: either } }]
        "#,
    )
    .await;
    for (request, expected) in [
        ("POST /\ncontent-length: 0", "post"),
        ("GET /\nx-tier: gold\nx-beta: 1", "gold-beta"),
        ("GET /\nX-TIER: gold\nx-beta:", "gold-beta"),
        ("GET /\nx-tier: gold", "go"),
        ("GET /\nx-tier: Gold", "none"),
        ("GET /\nx-tier: silver", "regex"),
        ("GET /\nx-tier: silver2", "none"),
        ("GET /?q=a%20b", "query"),
        // A plus is a plus: the query is decoded as a URI, not as a form.
        ("GET /?q=a+b", "none"),
        ("GET /?x=1&q=a%20b&q=c", "query"),
        ("GET /?q=c&q=a%20b", "none"),
        ("GET /?Q=a%20b", "none"),
        ("GET /?flag", "flag"),
        ("GET /?flag=0", "flag"),
        ("GET /absent", "absent"),
        ("GET /absent\nx-none: 1", "none"),
        ("GET /one", "either"),
        ("GET /two", "either"),
        ("PUT /one\ncontent-length: 0", "either"),
        ("post /", "none"),
    ] {
        assert_eq!(ask(&proxy, "a", request).await, expected, "{request}");
    }
}

#[tokio::test]
async fn grpc_services_and_methods_match_only_grpc() {
    let proxy = direct(
        r#"
        - rules:
            - { matches: [{ grpc: { service: shop.Cart, method: Add } }], filters: [{ directResponse: { status: 200, body: method } }] }
            - { matches: [{ grpc: { service: shop.Cart } }], filters: [{ directResponse: { status: 200, body: service } }] }
            - { matches: [{ grpc: { method: Ping } }], filters: [{ directResponse: { status: 200, body: anywhere } }] }
        "#,
    )
    .await;
    let client = H2Client::connect(proxy.addr()).await;
    for (path, content_type, expected) in [
        ("/shop.Cart/Add", "application/grpc", "method"),
        ("/shop.Cart/Add", "application/grpc+proto", "method"),
        ("/shop.Cart/Remove", "application/grpc", "service"),
        ("/other.S/Ping", "application/grpc", "anywhere"),
        ("/shop.Cart/Add", "application/json", "none"),
        ("/shop.Cartx/Add", "application/grpc", "grpc-none"),
    ] {
        let request =
            http::Request::post(format!("http://a{path}")).header("content-type", content_type).body(()).unwrap();
        let reply = client.send(request, "", None).await.unwrap();
        let got = match (reply.status, reply.reason()) {
            (404, _) => "none".to_owned(),
            (200, Some("NR")) => "grpc-none".to_owned(),
            _ => String::from_utf8_lossy(&reply.body).into_owned(),
        };
        assert_eq!(got, expected, "{path} as {content_type}");
    }
}

#[tokio::test]
async fn rules_are_tried_in_order() {
    let proxy = direct(
        r#"
        - rules:
            - { matches: [{ path: { prefix: /a } }], filters: [{ directResponse: { status: 200, body: first } }] }
            - { matches: [{ path: { exact: /a/b } }], filters: [{ directResponse: { status: 200, body: second } }] }
            - { filters: [{ directResponse: { status: 200, body: last } }] }
            - { matches: [{ path: { exact: /never } }], filters: [{ directResponse: { status: 200, body: never } }] }
        "#,
    )
    .await;
    for (target, expected) in [("/a/b", "first"), ("/b", "last"), ("/never", "last")] {
        assert_eq!(ask(&proxy, "a", &format!("GET {target}")).await, expected, "{target}");
    }
}

#[tokio::test]
async fn backends_get_their_share_by_weight() {
    let (a, b, c) = (H1Backend::named("a").await, H1Backend::named("b").await, H1Backend::named("c").await);
    let proxy = Proxy::start(
        &Config::new()
            .routes(
                "- rules: [{ backendRefs: [{ cluster: a, weight: 90 }, { cluster: b, weight: 10 }, { cluster: c, weight: 0 }] }]",
            )
            .cluster("a", "http1", &[a.addr])
            .cluster("b", "http1", &[b.addr])
            .cluster("c", "http1", &[c.addr]),
    )
    .await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..2000 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let share = b.requests().len();
    // 200 expected; four standard deviations (13.4) of a fair coin are 54.
    assert!((146..=254).contains(&share), "b got {share} of 2000");
    assert_eq!(a.requests().len() + share, 2000);
    assert_eq!(c.requests().len(), 0, "weight zero gets nothing");
}

#[tokio::test]
async fn header_filters_change_requests_and_responses() {
    let backend = AnyBackend::answering(
        Version::H1,
        200,
        Message::body("ok").field("x-out-set", "theirs").field("x-out-gone", "1").field("x-out-add", "1"),
    )
    .await;
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr()])
            .rule("filters:")
            .rule("  - requestHeaders: { set: { x-set: ours, x-new: new }, add: { x-add: '2' }, remove: [x-gone] }")
            .rule("  - responseHeaders: { set: { x-out-set: ours }, add: { x-out-add: '2' }, remove: [x-out-gone] }"),
    )
    .await;
    let mut client = AnyClient::connect(Version::H1, proxy.addr()).await;
    let ask =
        Message::default().field("x-set", "theirs").field("x-set", "twice").field("x-add", "1").field("x-gone", "1");
    let told = client.call("GET", "/", &ask).await;
    let seen = backend.only();
    assert_eq!(seen.all("x-set"), ["ours"]);
    assert_eq!(seen.all("x-new"), ["new"]);
    assert_eq!(seen.all("x-add").join(","), "1,2");
    assert!(seen.all("x-gone").is_empty());
    let all =
        |name: &str| -> Vec<&str> { told.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect() };
    assert_eq!(all("x-out-set"), ["ours"]);
    assert_eq!(all("x-out-add").join(","), "1,2");
    assert!(all("x-out-gone").is_empty());
}

#[tokio::test]
async fn response_headers_are_also_set_on_our_own_answers() {
    let proxy = direct(
        "- rules: [{ filters: [{ responseHeaders: { set: { x-ours: '1' } } }, { directResponse: { status: 418, body: tea } }] }]",
    )
    .await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.text().as_str()), (418, "tea"));
    assert_eq!(reply.head.get("x-ours"), Some("1"));
    assert!(reply.head.get("content-type").is_some_and(|t| t.starts_with("text/plain")));
}

#[tokio::test]
async fn host_and_path_are_rewritten_for_the_upstream() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(
        &Config::new()
            .routes(
                r#"
                - rules:
                    - matches: [{ path: { prefix: /old } }]
                      filters: [{ urlRewrite: { hostname: inner.example, path: { replacePrefixMatch: /new } } }]
                      backendRefs: [{ cluster: c }]
                    - matches: [{ path: { prefix: /strip } }]
                      filters: [{ urlRewrite: { path: { replacePrefixMatch: / } } }]
                      backendRefs: [{ cluster: c }]
                    - matches: [{ path: { prefix: /all } }]
                      filters: [{ urlRewrite: { path: { replaceFullPath: /one } } }]
                      backendRefs: [{ cluster: c }]
                "#,
            )
            .cluster("c", "http1", &[backend.addr]),
    )
    .await;
    for (target, host, forwarded) in [
        ("/old/x?q=1", "inner.example", "/new/x?q=1"),
        ("/old", "inner.example", "/new"),
        ("/old/", "inner.example", "/new/"),
        ("/strip/x", "a.example", "/x"),
        ("/strip", "a.example", "/"),
        ("/all/a/b?q=1", "a.example", "/one?q=1"),
    ] {
        assert_eq!(h1_client::get(proxy.addr(), target).await.status, 200, "{target}");
        let seen = backend.requests().pop().unwrap();
        assert_eq!((seen.head.get("host"), seen.target.as_str()), (Some(host), forwarded), "{target}");
    }
}

#[tokio::test]
async fn redirects_keep_what_they_do_not_change() {
    let proxy = direct(
        r#"
        - rules:
            - { matches: [{ path: { prefix: /secure } }], filters: [{ redirect: { scheme: https, status: 301 } }] }
            - { matches: [{ path: { prefix: /moved } }], filters: [{ redirect: { hostname: new.example, path: { replacePrefixMatch: /here } } }] }
            - { matches: [{ path: { prefix: /port } }], filters: [{ redirect: { port: 8443, scheme: https, status: 308 } }] }
        "#,
    )
    .await;
    for (target, status, location) in
        [("/secure/x?q=1", 301, "https://a.example/secure/x?q=1"), ("/port", 308, "https://a.example:8443/port")]
    {
        let reply = h1_client::get(proxy.addr(), target).await;
        assert_eq!((reply.status, reply.head.get("location")), (status, Some(location)), "{target}");
    }
    let reply = h1_client::get(proxy.addr(), "/moved/x?q=1").await;
    assert_eq!(reply.status, 302);
    let location = reply.head.get("location").unwrap();
    assert!(location.starts_with("http://new.example") && location.ends_with("/here/x?q=1"), "{location}");
}

#[tokio::test]
async fn cors_preflights_are_answered_and_answers_marked() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(
        "filters: [{ cors: { allowOrigins: [\"https://app.example\", \"https://*.team.example\"], allowMethods: [GET, PUT], allowHeaders: [x-token], exposeHeaders: [x-total], allowCredentials: true, maxAge: 10m } }]",
    ))
    .await;
    let preflight = |origin: &str, method: &str| {
        format!(
            "OPTIONS /x HTTP/1.1\r\nhost: a.example\r\norigin: {origin}\r\naccess-control-request-method: {method}\r\naccess-control-request-headers: x-token\r\n\r\n"
        )
    };
    let reply = h1_client::exchange(proxy.addr(), preflight("https://app.example", "PUT")).await;
    assert!(matches!(reply.status, 200 | 204), "{}", reply.status);
    assert_eq!(reply.head.get("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(reply.head.get("access-control-allow-credentials"), Some("true"));
    assert_eq!(reply.head.get("access-control-max-age"), Some("600"));
    let methods = reply.head.get("access-control-allow-methods").unwrap();
    assert!(methods.contains("PUT"), "{methods}");
    let headers = reply.head.get("access-control-allow-headers").unwrap();
    assert!(headers.eq_ignore_ascii_case("x-token"), "{headers}");
    assert!(reply.head.all("vary").join(",").to_lowercase().contains("origin"));
    assert!(backend.requests().is_empty(), "a preflight is answered here");

    let reply = h1_client::exchange(proxy.addr(), preflight("https://a.team.example", "GET")).await;
    assert_eq!(reply.head.get("access-control-allow-origin"), Some("https://a.team.example"));
    for stranger in ["https://evil.example", "https://app.example.evil", "http://app.example", "null"] {
        let reply = h1_client::exchange(proxy.addr(), preflight(stranger, "GET")).await;
        assert_eq!(reply.head.get("access-control-allow-origin"), None, "{stranger}");
    }

    let get = |origin: &str| format!("GET /x HTTP/1.1\r\nhost: a.example\r\norigin: {origin}\r\n\r\n");
    let reply = h1_client::exchange(proxy.addr(), get("https://app.example")).await;
    assert_eq!(reply.head.get("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(reply.head.get("access-control-expose-headers"), Some("x-total"));
    assert_eq!(h1_client::get(proxy.addr(), "/x").await.head.get("access-control-allow-origin"), None);
}

#[tokio::test]
async fn every_one_of_thousands_of_hosts_is_found() {
    let mut routes = String::new();
    for number in 0..3000 {
        routes += &format!(
            "- {{ hostnames: [h{number}.example, \"*.w{number}.example\"], rules: [{{ filters: [{{ directResponse: {{ status: 200, body: \"{number}\" }} }}] }}] }}\n"
        );
    }
    let proxy = direct(&routes).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for number in (0..3000).step_by(37) {
        for host in [format!("h{number}.example"), format!("x.w{number}.example")] {
            let reply = client.exchange(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
            assert_eq!(reply.text(), number.to_string(), "{host}");
        }
    }
}

#[tokio::test]
async fn a_route_is_chosen_anew_for_every_request_of_a_connection() {
    let (a, b) = (H1Backend::named("a").await, H1Backend::named("b").await);
    let proxy = Proxy::start(
        &Config::new()
            .routes(
                r#"
                - hostnames: [a.example]
                  rules: [{ backendRefs: [{ cluster: a }] }]
                - hostnames: [b.example]
                  rules: [{ backendRefs: [{ cluster: b }] }]
                "#,
            )
            .cluster("a", "http1", &[a.addr])
            .cluster("b", "http1", &[b.addr]),
    )
    .await;
    let mut h1 = H1Client::connect(proxy.addr()).await;
    let h2 = H2Client::connect(proxy.addr()).await;
    for number in 0..20 {
        let name = if number % 2 == 0 { "a" } else { "b" };
        let host = format!("{name}.example");
        assert_eq!(h1.exchange(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.text(), name);
        let mut request = h2_client::get("/");
        *request.uri_mut() = format!("http://{host}/").parse().unwrap();
        assert_eq!(h2.fetch(request).await.unwrap().body, name);
    }
}
