//! Policy, request, and what must come of it: `allow NAME` or `deny NAME`, with ` shadow NAME` and ` audit NAMES`.

use Access::{Allow, Deny};

use super::*;

type Case = (&'static str, Policy, Ask, &'static str);

fn verdict(policy: &Policy, ask: &Ask) -> String {
    let Some(Decision { access, rule, shadow, audits }) = ask.decided(policy) else { return "refused".to_owned() };
    let access = match access {
        Allow => "allow",
        Deny => "deny",
    };
    let mut text = format!("{access} {}", policy.name(rule));
    if shadow.is_some() {
        text += &format!(" shadow {}", policy.name(shadow));
    }
    if !audits.is_empty() {
        let names: Vec<_> = audits.iter().map(|&audit| policy.name(Some(audit))).collect();
        text += &format!(" audit {}", names.join("+"));
    }
    text
}

fn check(cases: &[Case]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(_, policy, ask, want)| verdict(policy, ask) != *want)
        .map(|(name, policy, ask, want)| format!("{name}: {}, not {want}", verdict(policy, ask)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The rule against a default of the other kind, so that it is what decides.
fn only(rule: AccessRule) -> Policy {
    let default = if rule.action == AccessAction::Allow { Deny } else { Allow };
    policy(default, vec![rule])
}

#[test]
fn actions_order_and_default() {
    let all = || vec![allow("a"), deny("d"), audit("log")];
    let get_v1 = |rule: AccessRule| rule.to(|to| to.paths = paths(&["/v1"]));
    check(&[
        ("an empty policy allows", policy(Allow, vec![]), ask(), "allow default"),
        ("an empty policy denies", policy(Deny, vec![]), ask(), "deny default"),
        ("deny before allow, whatever the order", policy(Allow, all()), ask(), "deny d audit log"),
        ("the first allow is named", policy(Deny, vec![allow("a"), allow("b")]), ask(), "allow a"),
        ("the first deny is named", policy(Allow, vec![deny("a"), deny("b")]), ask(), "deny a"),
        ("a rule that does not match decides nothing", only(get_v1(allow("a"))), get("/v2"), "deny default"),
        ("deny beside another path", only(get_v1(deny("d"))), get("/v2"), "allow default"),
        ("audit decides nothing", policy(Deny, vec![audit("x"), audit("y")]), ask(), "deny default audit x+y"),
        ("audit of what is allowed", policy(Deny, vec![allow("a"), audit("x")]), ask(), "allow a audit x"),
        (
            "any source, any operation",
            {
                let from = |ns: &'static str| move |from: &mut AccessSource| from.namespaces = names(&[ns]);
                only(
                    allow("a")
                        .from(from("other"))
                        .from(from("shop"))
                        .to(|to| to.ports = vec![1])
                        .to(|to| to.ports = vec![15006]),
                )
            },
            ask(),
            "allow a",
        ),
        (
            "all conditions of a source",
            only(allow("a").from(|from| {
                from.namespaces = names(&["shop"]);
                from.addresses = ranges(&["192.168.0.0/16"]);
            })),
            ask(),
            "deny default",
        ),
        (
            "all conditions of an operation",
            only(allow("a").to(|to| {
                to.paths = paths(&["/v1"]);
                to.methods = vec![Method::POST];
            })),
            ask(),
            "deny default",
        ),
    ]);
}

#[test]
fn shadow_rules_report_and_do_not_enforce() {
    let s = |rule: AccessRule| rule.shadow();
    check(&[
        ("would have been denied", policy(Allow, vec![s(deny("d"))]), ask(), "allow default shadow d"),
        (
            "would have been denied in spite of a rule",
            policy(Deny, vec![allow("a"), s(deny("d"))]),
            ask(),
            "allow a shadow d",
        ),
        ("would have been allowed", policy(Deny, vec![s(allow("a"))]), ask(), "deny default shadow a"),
        ("is denied anyway", policy(Deny, vec![s(deny("d"))]), ask(), "deny default"),
        ("is allowed anyway", policy(Allow, vec![s(allow("a"))]), ask(), "allow default"),
        ("an allow does not undo a deny", policy(Allow, vec![deny("d"), s(allow("a"))]), ask(), "deny d"),
        ("shadow deny before shadow allow", policy(Deny, vec![s(allow("a")), s(deny("d"))]), ask(), "deny default"),
        (
            "one that does not match",
            policy(Allow, vec![s(deny("d")).to(|to| to.ports = vec![1])]),
            ask(),
            "allow default",
        ),
    ]);
}

#[test]
fn who_asks() {
    let from = |rule: AccessRule, set: fn(&mut AccessSource)| only(rule.from(set));
    let cart = |from: &mut AccessSource| from.identities = ids(&["spiffe://mesh.local/ns/shop/sa/cart"]);
    let shop = |from: &mut AccessSource| from.identities = ids(&["spiffe://mesh.local/ns/shop/*"]);
    let not_shop = |from: &mut AccessSource| from.not_identities = ids(&["spiffe://mesh.local/ns/shop/*"]);
    let in_shop = |from: &mut AccessSource| from.namespaces = names(&["shop"]);
    let not_in_shop = |from: &mut AccessSource| from.not_namespaces = names(&["shop"]);
    let mesh = |from: &mut AccessSource| from.trust_domains = domains(&["mesh.local"]);
    let not_mesh = |from: &mut AccessSource| from.not_trust_domains = domains(&["mesh.local"]);
    check(&[
        ("exact", from(allow("a"), cart), ask(), "allow a"),
        ("another account", from(allow("a"), cart), ask().by("spiffe://mesh.local/ns/shop/sa/cart2"), "deny default"),
        ("another trust domain", from(allow("a"), cart), ask().by("spiffe://evil/ns/shop/sa/cart"), "deny default"),
        (
            "case is significant",
            from(allow("a"), cart),
            ask().by("spiffe://mesh.local/ns/shop/sa/Cart"),
            "deny default",
        ),
        ("nobody", from(allow("a"), cart), ask().anonymous(), "deny default"),
        ("prefix", from(allow("a"), shop), ask(), "allow a"),
        (
            "prefix ends at a segment",
            from(allow("a"), shop),
            ask().by("spiffe://mesh.local/ns/shopping/sa/x"),
            "deny default",
        ),
        ("denied by prefix", from(deny("d"), shop), ask(), "deny d"),
        ("not: one of them", from(allow("a"), not_shop), ask(), "deny default"),
        ("not: somebody else", from(allow("a"), not_shop), ask().by("spiffe://mesh.local/ns/bank/sa/x"), "allow a"),
        ("deny everybody but: nobody", from(deny("d"), not_shop), ask().anonymous(), "deny d"),
        ("deny everybody but: one of them", from(deny("d"), not_shop), ask(), "allow default"),
        ("namespace", from(allow("a"), in_shop), ask(), "allow a"),
        (
            "namespace by another layout",
            from(allow("a"), in_shop),
            ask().by("spiffe://mesh.local/x/ns/shop/sa/y"),
            "deny default",
        ),
        ("namespace of nobody", from(allow("a"), in_shop), ask().anonymous(), "deny default"),
        ("deny other namespaces: nobody", from(deny("d"), not_in_shop), ask().anonymous(), "deny d"),
        ("trust domain", from(allow("a"), mesh), ask(), "allow a"),
        (
            "trust domain that only begins so",
            from(allow("a"), mesh),
            ask().by("spiffe://mesh.local.evil/x"),
            "deny default",
        ),
        ("deny foreign trust domains", from(deny("d"), not_mesh), ask().by("spiffe://partner/x"), "deny d"),
        ("deny foreign trust domains: own", from(deny("d"), not_mesh), ask(), "allow default"),
    ]);
}

#[test]
fn from_where_and_to_which_port() {
    let near = |texts: &'static [&'static str]| only(allow("a").from(|from| from.addresses = ranges(texts)));
    let not = |texts: &'static [&'static str]| only(deny("d").from(|from| from.not_addresses = ranges(texts)));
    let ports = only(allow("a").to(|to| to.ports = vec![15006, 15008]));
    let not_port = only(deny("d").to(|to| to.not_ports = vec![15006]));
    check(&[
        ("IPv4 inside", near(&["10.0.0.0/8"]), ask(), "allow a"),
        ("IPv4 outside", near(&["10.0.0.0/8"]), ask().at("11.0.0.1"), "deny default"),
        ("one address", near(&["10.1.2.3/32"]), ask(), "allow a"),
        ("the neighbour", near(&["10.1.2.3/32"]), ask().at("10.1.2.2"), "deny default"),
        ("all of IPv4", near(&["0.0.0.0/0"]), ask().at("203.0.113.9"), "allow a"),
        ("IPv4 through IPv6", near(&["10.0.0.0/8"]), ask().at("::ffff:10.9.9.9"), "allow a"),
        ("a range written as IPv6", near(&["::ffff:10.0.0.0/104"]), ask(), "allow a"),
        ("a range written as IPv6, outside", near(&["::ffff:10.0.0.0/104"]), ask().at("11.0.0.1"), "deny default"),
        ("IPv6 inside", near(&["fd00::/8"]), ask().at("fd12::1"), "allow a"),
        ("IPv6 outside", near(&["fd00::/8"]), ask().at("fe80::1"), "deny default"),
        ("IPv4 is not in all of IPv6", near(&["::/0"]), ask(), "deny default"),
        ("not: outside", not(&["10.0.0.0/8", "fd00::/8"]), ask().at("192.0.2.1"), "deny d"),
        ("not: inside", not(&["10.0.0.0/8", "fd00::/8"]), ask().at("fd00::2"), "allow default"),
        ("a port", ports, ask(), "allow a"),
        ("not a port: it", not_port, ask(), "allow default"),
        ("not a port: another", only(deny("d").to(|to| to.not_ports = vec![15006])), ask().port(80), "deny d"),
    ]);
}

#[test]
fn for_which_host_and_method() {
    let at = |rule: AccessRule, texts: &'static [&'static str]| only(rule.to(|to| to.hosts = hosts(texts)));
    let not = |texts: &'static [&'static str]| only(deny("d").to(|to| to.not_hosts = hosts(texts)));
    let reading = || only(allow("a").to(|to| to.methods = vec![Method::GET, Method::HEAD]));
    let not_get = || only(deny("d").to(|to| to.not_methods = vec![Method::GET]));
    let no_delete = || only(deny("d").to(|to| to.methods = vec![Method::DELETE]));
    check(&[
        ("exact", at(allow("a"), &["payments"]), ask(), "allow a"),
        ("mixed case", at(deny("d"), &["payments"]), ask().host("PayMents"), "deny d"),
        ("trailing dot", at(deny("d"), &["payments"]), ask().host("payments."), "deny d"),
        ("with a port", at(deny("d"), &["payments"]), ask().host("payments:8080"), "deny d"),
        ("with an empty port", at(deny("d"), &["payments"]), ask().host("payments:"), "deny d"),
        ("two dots", at(deny("d"), &["payments"]), ask().host("payments.."), "refused"),
        ("user information", at(deny("d"), &["payments"]), ask().host("x@payments"), "refused"),
        ("encoded", at(deny("d"), &["payments"]), ask().host("p%61yments"), "refused"),
        ("wildcard", at(allow("a"), &["*.shop.svc"]), ask().host("a.b.Shop.svc."), "allow a"),
        ("wildcard needs a label", at(allow("a"), &["*.shop.svc"]), ask().host("shop.svc"), "deny default"),
        ("wildcard begins at a dot", at(allow("a"), &["*.shop.svc"]), ask().host("xshop.svc"), "deny default"),
        ("IPv6 in another form", at(deny("d"), &["::1"]), ask().host("[0:0::1]:80"), "deny d"),
        ("not: another", not(&["payments"]), ask().host("orders"), "deny d"),
        ("not: it", not(&["payments"]), ask().host("PAYMENTS."), "allow default"),
        ("a method", reading(), ask().method("HEAD"), "allow a"),
        ("a method in lower case is another one", reading(), ask().method("get"), "deny default"),
        ("but not to get past a deny", no_delete(), ask().method("delete"), "deny d"),
        ("nor a not-list of a deny", not_get(), ask().method("get"), "deny d"),
        ("not: it", not_get(), ask(), "allow default"),
    ]);
}

#[test]
fn on_which_path() {
    let denied = |texts: &'static [&'static str]| only(deny("d").to(|to| to.paths = paths(texts)));
    let allowed = |texts: &'static [&'static str]| only(allow("a").to(|to| to.paths = paths(texts)));
    let all_but = |texts: &'static [&'static str]| only(allow("a").to(|to| to.not_paths = paths(texts)));
    let admin = || denied(&["/admin/*"]);
    let public = || allowed(&["/public/*"]);
    let not_admin = || all_but(&["/admin/*"]);
    let mut cases: Vec<Case> = vec![
        ("exact", denied(&["/admin"]), get("/admin?x=1"), "deny d"),
        ("exact is not a prefix", denied(&["/admin"]), get("/admin/x"), "allow default"),
        ("a prefix ends at a segment", admin(), get("/administrator"), "allow default"),
        ("paths have a case", admin(), get("/Admin"), "allow default"),
        ("a query is no path", admin(), get("/x?/admin"), "allow default"),
        ("encoded in the rule", denied(&["/%61dmin"]), get("/admin"), "deny d"),
        ("pattern", denied(&["~/users/[0-9]+"]), get("/users/12"), "deny d"),
        ("pattern is anchored", denied(&["~/users/[0-9]+"]), get("/users/12/x"), "allow default"),
        ("an encoded colon is a colon", denied(&["/v1/x:purge"]), get("/v1/x%3apurge"), "deny d"),
        ("and the other way round", denied(&["/v1/x%3Apurge"]), get("/v1/x:purge"), "deny d"),
        ("parameters in the rule: the same", allowed(&["/a;v=1"]), get("/a;v=1"), "allow a"),
        ("parameters in the rule: others", allowed(&["/a;v=1"]), get("/a;v=2"), "deny default"),
        ("parameters where none are allowed", public(), get("/public;v=1/x"), "deny default"),
        ("above the root", admin(), get("/../admin"), "refused"),
        ("a control character", admin(), get("/%00admin"), "refused"),
        ("broken encoding", admin(), get("/%zz"), "refused"),
        ("not: it", not_admin(), get("/admin"), "deny default"),
        ("not: another", not_admin(), get("/x"), "allow a"),
        ("allowed", public(), get("/public/x"), "allow a"),
        ("no path of its own", public(), get("*").method("OPTIONS"), "deny default"),
    ];
    // However /admin/x is written.
    for target in [
        "/admin/x",
        "//admin/x",
        "/admin//x",
        "/./admin/x",
        "/a/../admin/x",
        "/%61dmin/x",
        "/%2e/admin/x",
        "/a/%2e%2E/admin/x",
        "/a/.%2e/admin/x",
        "/admin;v=1/x",
        "/admin;/x",
        "/;/admin/x",
        "/a/..;/admin/x",
        "/a/..;x=y/admin/x",
        "/admin%2Fx",
        "/%2Fadmin%2fx",
        "/a%2f..%2Fadmin/x",
        "/a%5c..%5Cadmin/x",
        "/a\\..\\admin/x",
        "/admin%3Bv/x",
        "/admin\\x",
        "/admin/x;",
        "/public/..;/admin/x",
    ] {
        cases.push(("nothing gets past a deny", admin(), get(target), "deny d"));
        cases.push(("nor past a not-list", not_admin(), get(target), "deny default"));
        cases.push(("nor into what is allowed", public(), get(target), "deny default"));
    }
    check(&cases);
}

#[test]
fn with_which_headers() {
    let role = |rule: AccessRule, value: ValueMatch| only(rule.to(|to| to.headers = header("x-role", value)));
    let admin = || role(allow("a"), exact("admin"));
    let no_admin = || role(deny("d"), exact("admin"));
    let pattern = || ValueMatch::Regex(regex("adm.*"));
    check(&[
        ("it", admin(), ask().with("x-role", b"admin"), "allow a"),
        ("another", admin(), ask().with("x-role", b"guest"), "deny default"),
        ("none", admin(), ask(), "deny default"),
        ("two lines are not certain", admin(), ask().with("x-role", b"admin").with("x-role", b"guest"), "deny default"),
        ("a list is not certain", admin(), ask().with("x-role", b"admin, guest"), "deny default"),
        ("deny one line of two", no_admin(), ask().with("x-role", b"guest").with("x-role", b"admin"), "deny d"),
        ("deny the same line twice", no_admin(), ask().with("x-role", b"admin").with("x-role", b"admin"), "deny d"),
        ("deny an element", no_admin(), ask().with("x-role", b"guest , admin"), "deny d"),
        ("deny another", no_admin(), ask().with("x-role", b"guest"), "allow default"),
        (
            "a pattern does not fit what is no text",
            role(allow("a"), pattern()),
            ask().with("x-role", b"adm\xff"),
            "deny default",
        ),
        ("deny what no pattern can read", role(deny("d"), pattern()), ask().with("x-role", b"\xffadm"), "deny d"),
        (
            "deny a prefix in a list",
            role(deny("d"), ValueMatch::Prefix("adm".into())),
            ask().with("x-role", b"x,admin"),
            "deny d",
        ),
        ("present", role(deny("d"), ValueMatch::Present(true)), ask().with("x-role", b""), "deny d"),
        ("absent", role(deny("d"), ValueMatch::Present(false)), ask(), "deny d"),
        (
            "present, not absent",
            role(deny("d"), ValueMatch::Present(false)),
            ask().with("x-role", b""),
            "allow default",
        ),
        (
            "host is the authority",
            only(deny("d").to(|to| to.headers = header("host", exact("payments")))),
            ask().host("Payments.:80"),
            "deny d",
        ),
    ]);
}

#[test]
fn which_grpc_call() {
    let call = |target: &str| get(target).method("POST").with("content-type", b"application/grpc");
    let charge = |rule: AccessRule| only(rule.to(|to| to.grpc = grpc(Some("shop.Pay"), Some("Charge"))));
    let service = |rule: AccessRule| only(rule.to(|to| to.grpc = grpc(Some("shop.Pay"), None)));
    let method = |rule: AccessRule| only(rule.to(|to| to.grpc = grpc(None, Some("Charge"))));
    let any = |rule: AccessRule| only(rule.to(|to| to.grpc = grpc(None, None)));
    check(&[
        ("it", charge(allow("a")), call("/shop.Pay/Charge"), "allow a"),
        ("another method", charge(allow("a")), call("/shop.Pay/Refund"), "deny default"),
        ("another service", charge(allow("a")), call("/shop.Pay2/Charge"), "deny default"),
        ("not gRPC", charge(allow("a")), get("/shop.Pay/Charge"), "deny default"),
        ("deny without the content type", charge(deny("d")), get("/shop.Pay/Charge").method("POST"), "deny d"),
        ("deny encoded", charge(deny("d")), call("/shop%2EPay/Char%67e"), "deny d"),
        ("deny with an encoded slash", charge(deny("d")), call("/shop.Pay%2FCharge"), "deny d"),
        ("deny a longer path", charge(deny("d")), call("/shop.Pay/Charge/x"), "allow default"),
        ("any method", service(allow("a")), call("/shop.Pay/Refund"), "allow a"),
        ("any service", method(deny("d")), call("/x.Y/Charge"), "deny d"),
        ("any call", any(allow("a")), call("/x.Y/Z"), "allow a"),
        ("any call, but no gRPC", any(deny("d")), get("/x.Y/Z"), "allow default"),
        ("any call in capitals", any(deny("d")), get("/x.Y/Z").with("content-type", b"Application/GRPC"), "deny d"),
    ]);
}

#[test]
fn with_which_claims() {
    let wants = |rule: AccessRule, path: &str, value: &str| only(rule.claim(path, &[exact(value)]));
    let corp = |claims: Value| ask().token("corp", claims);
    let by_corp = || {
        let mut rule = allow("a").claim("sub", &[ValueMatch::Present(true)]);
        rule.claims[0].provider = Some("corp".into());
        only(rule)
    };
    let both = || only(allow("a").claim("sub", &[exact("me")]).claim("team", &[exact("x"), exact("y")]));
    check(&[
        ("a text", wants(allow("a"), "sub", "me"), corp(json!({"sub": "me"})), "allow a"),
        ("another text", wants(allow("a"), "sub", "me"), corp(json!({"sub": "you"})), "deny default"),
        ("no token", wants(allow("a"), "sub", "me"), ask(), "deny default"),
        ("no token to deny", wants(deny("d"), "sub", "me"), ask(), "allow default"),
        ("denied", wants(deny("d"), "sub", "me"), corp(json!({"sub": "me"})), "deny d"),
        (
            "inside an object",
            wants(allow("a"), "realm.roles", "admin"),
            corp(json!({"realm": {"roles": ["x", "admin"]}})),
            "allow a",
        ),
        (
            "in a list, not part of a text",
            wants(allow("a"), "roles", "admin"),
            corp(json!({"roles": ["administrator"]})),
            "deny default",
        ),
        ("a list in a list", wants(allow("a"), "roles", "admin"), corp(json!({"roles": [["admin"]]})), "deny default"),
        ("an object", wants(allow("a"), "roles", "admin"), corp(json!({"roles": {"admin": true}})), "deny default"),
        ("a number", wants(allow("a"), "level", "7"), corp(json!({"level": 7})), "allow a"),
        ("a boolean", wants(allow("a"), "staff", "true"), corp(json!({"staff": true})), "allow a"),
        (
            "a word of a scope",
            wants(allow("a"), "scope", "pay:read"),
            corp(json!({"scope": "openid pay:read"})),
            "allow a",
        ),
        (
            "part of a word of a scope",
            wants(allow("a"), "scope", "pay"),
            corp(json!({"scope": "openid pay:read"})),
            "deny default",
        ),
        ("words only of scopes", wants(allow("a"), "sub", "me"), corp(json!({"sub": "me you"})), "deny default"),
        (
            "null is nothing",
            only(allow("a").claim("sub", &[ValueMatch::Present(true)])),
            corp(json!({"sub": null})),
            "deny default",
        ),
        ("the provider", by_corp(), corp(json!({"sub": "me"})), "allow a"),
        ("another provider", by_corp(), ask().token("other", json!({"sub": "me"})), "deny default"),
        ("all claims, any value", both(), corp(json!({"sub": "me", "team": "y"})), "allow a"),
        ("all claims", both(), corp(json!({"sub": "me"})), "deny default"),
    ]);
}

#[test]
fn an_announced_request_waits_for_its_token() {
    let decide = |policy: &Policy| {
        ask().query(|route| {
            let ask = ask();
            policy
                .decide(&Request { route, identity: None, address: ask.address, port: 1, claims: Claims::Announced })
                .access
        })
    };
    assert_eq!(decide(&only(allow("a").claim("sub", &[exact("me")]))), Some(Allow));
    assert_eq!(decide(&only(deny("d").claim("sub", &[exact("me")]))), Some(Allow));
    assert_eq!(decide(&only(deny("d"))), Some(Deny));
}
