//! What ties requests to endpoints and divides them among groups: sessions, hashing, zones, priorities, subsets.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::{Config, H1Backend, H1Client, PATIENCE, Proxy, h1_client};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Backends that answer with their names.
async fn fleet(count: usize) -> Vec<H1Backend> {
    let mut fleet = Vec::new();
    for name in NAMES.into_iter().take(count) {
        fleet.push(H1Backend::named(name).await);
    }
    fleet
}

/// A configuration: one cluster of these endpoints, each with more settings, and a rule with more settings.
fn config(cluster: &str, endpoints: &[(&H1Backend, &str)], rule: &str) -> Config {
    let endpoints: Vec<String> =
        endpoints.iter().map(|(backend, more)| format!("{{ address: \"{}\"{more} }}", backend.addr)).collect();
    Config::new()
        .top("node: { id: here-1, zone: here }")
        .routes(&format!("- rules:\n    - backendRefs: [{{ cluster: c }}]\n{}", indented(rule)))
        .cluster_yaml("c", &format!("protocol: http1\n{cluster}\nendpoints: [{}]", endpoints.join(", ")))
}

fn indented(yaml: &str) -> String {
    yaml.lines().map(|line| format!("      {line}\n")).collect()
}

fn plain(fleet: &[H1Backend]) -> Vec<(&H1Backend, &'static str)> {
    fleet.iter().map(|backend| (backend, "")).collect()
}

/// Who answers requests with these fields, and how often of so many.
async fn spread(proxy: &Proxy, fields: &str, count: usize) -> BTreeMap<String, usize> {
    let mut client = H1Client::connect(proxy.addr()).await;
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        let reply = client.exchange(format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        *counts.entry(reply.text()).or_default() += 1;
    }
    counts
}

async fn names(proxy: &Proxy, fields: &str, count: usize) -> Vec<String> {
    spread(proxy, fields, count).await.into_keys().collect()
}

/// A caller that keeps its cookies, as a browser does.
struct Browser {
    client: H1Client,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    async fn new(proxy: &Proxy) -> Self {
        Self { client: H1Client::connect(proxy.addr()).await, cookies: BTreeMap::new() }
    }

    /// Who answers; the request must not fail.
    async fn visit(&mut self) -> String {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = if cookies.is_empty() { String::new() } else { format!("cookie: {}\r\n", cookies.join("; ")) };
        let reply = self.client.exchange(format!("GET / HTTP/1.1\r\nhost: x\r\n{cookies}\r\n")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        for line in reply.head.all("set-cookie") {
            let (name, value) = line.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        reply.text()
    }
}

fn key(folder: &Path, name: &str, key: &str) -> String {
    let path = folder.join(name);
    let fresh = folder.join("fresh.key");
    std::fs::write(&fresh, key).expect("write the key");
    std::fs::rename(&fresh, &path).expect("replace the key");
    path.display().to_string()
}

const ONE: &str = "0123456789abcdef0123456789abcdef\n";
const OTHER: &str = "another key that is long enough, another key\n";

fn session(key: &str, more: &str) -> String {
    format!("sessionPersistence: {{ cookie: {{ name: sid }}, keyFile: \"{key}\"{more} }}")
}

/// Changes the configuration and waits until it is in effect.
async fn change(proxy: &Proxy, config: &Config) {
    let before = proxy.admin_json("/config").await["generation"].as_u64().expect("a number");
    proxy.replace_config(config);
    let start = std::time::Instant::now();
    while proxy.admin_json("/config").await["generation"].as_u64() == Some(before) {
        assert!(start.elapsed() < PATIENCE, "the change took effect:\n{}", proxy.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sessions_stay_put_through_scale_out_and_drain() {
    let fleet = fleet(5).await;
    let folder = tempfile::tempdir().expect("a folder");
    let rule = session(&key(folder.path(), "session.key", ONE), "");
    let policy = "loadBalancing: { policy: roundRobin }";
    let proxy = Proxy::start(&config(policy, &plain(&fleet[..3]), &rule)).await;
    let mut browsers = Vec::new();
    let mut homes = Vec::new();
    for _ in 0..9 {
        let mut browser = Browser::new(&proxy).await;
        homes.push(browser.visit().await);
        browsers.push(browser);
    }
    assert!(["a", "b", "c"].iter().all(|name| homes.iter().any(|home| home == name)), "spread: {homes:?}");
    assert!(browsers.iter().all(|browser| browser.cookies["sid"].len() < 128));

    // Two more come, and another order.
    let mut grown: Vec<_> = plain(&fleet);
    grown.rotate_left(2);
    change(&proxy, &config(policy, &grown, &rule)).await;
    for _ in 0..4 {
        for (browser, home) in browsers.iter_mut().zip(&homes) {
            assert_eq!(&browser.visit().await, home);
        }
    }
    assert_eq!(names(&proxy, "", 20).await, ["a", "b", "c", "d", "e"], "new callers go to the new ones too");

    // One drains: its sessions stay, and nobody else comes.
    let draining: Vec<_> = fleet
        .iter()
        .map(|backend| (backend, if backend.addr == fleet[1].addr { ", condition: draining" } else { "" }))
        .collect();
    change(&proxy, &config(policy, &draining, &rule)).await;
    for _ in 0..4 {
        for (browser, home) in browsers.iter_mut().zip(&homes) {
            assert_eq!(&browser.visit().await, home);
        }
    }
    assert_eq!(names(&proxy, "", 20).await, ["a", "c", "d", "e"]);
    let status = proxy.admin_json("/clusters").await;
    let endpoint = endpoint(&status, &fleet[1]);
    assert_eq!((endpoint["condition"].as_str(), endpoint["notPicked"].as_str()), (Some("draining"), Some("draining")));

    // It goes: its sessions move, once, and stay there.
    let left: Vec<_> = plain(&fleet).into_iter().filter(|(backend, _)| backend.addr != fleet[1].addr).collect();
    change(&proxy, &config(policy, &left, &rule)).await;
    for (browser, home) in browsers.iter_mut().zip(&homes) {
        let now = browser.visit().await;
        assert!(if home == "b" { now != "b" } else { now == *home });
        for _ in 0..3 {
            assert_eq!(browser.visit().await, now);
        }
    }
}

fn endpoint<'a>(clusters: &'a Value, backend: &H1Backend) -> &'a Value {
    let endpoints =
        clusters.as_array().expect("clusters").iter().flat_map(|c| c["endpoints"].as_array().expect("some"));
    let address = backend.addr.to_string();
    endpoints.clone().find(|endpoint| endpoint["address"] == *address).expect("it is shown")
}

#[tokio::test]
async fn forged_and_foreign_names_begin_a_new_session() {
    let fleet = fleet(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let rule = session(&key(folder.path(), "session.key", ONE), "");
    let proxy = Proxy::start(&config("", &plain(&fleet), &rule)).await;
    let mut browser = Browser::new(&proxy).await;
    let home = browser.visit().await;
    let good = browser.cookies["sid"].clone();
    assert!(!good.contains("127.0.0.1"));
    let mut client = H1Client::connect(proxy.addr()).await;
    let mut ask = async |cookie: &str| {
        let reply = client.exchange(format!("GET / HTTP/1.1\r\nhost: x\r\ncookie: {cookie}\r\n\r\n")).await;
        (reply.text(), reply.head.get("set-cookie").map(str::to_owned))
    };
    assert_eq!(ask(&format!("sid={good}")).await, (home.clone(), None));
    assert_eq!(
        ask(&format!("sid=nonsense; sid={good}")).await,
        (home, None),
        "what is forged does not hide what is not"
    );
    for forged in [format!("{}A", &good[..good.len() - 1]), fleet[0].addr.to_string(), String::new(), "x".repeat(4_000)]
    {
        let (_, named) = ask(&format!("sid={forged}")).await;
        if forged != good {
            let named = named.expect("a new session");
            assert!(named.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{named}");
        }
    }
}

#[tokio::test]
async fn a_new_key_is_used_at_once_and_names_of_the_one_before_still_hold() {
    let fleet = fleet(3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let rule = session(&key(folder.path(), "session.key", ONE), ", idleTimeout: 1h");
    let proxy = Proxy::start(&config("loadBalancing: { policy: roundRobin }", &plain(&fleet), &rule)).await;
    let mut browser = Browser::new(&proxy).await;
    let home = browser.visit().await;
    key(folder.path(), "session.key", OTHER);
    proxy.logged("sessions are named with a new key").await;
    for _ in 0..4 {
        assert_eq!(browser.visit().await, home);
    }
    key(folder.path(), "session.key", "too short");
    proxy.logged("it holds 9 bytes").await;
    assert_eq!(browser.visit().await, home, "a bad key replaces none");
}

#[tokio::test]
async fn a_configuration_without_a_usable_key_is_refused() {
    let fleet = fleet(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start(&config("", &plain(&fleet), "")).await;
    for file in [key(folder.path(), "short.key", "short"), folder.path().join("missing.key").display().to_string()] {
        proxy.replace_config(&config("", &plain(&fleet), &session(&file, "")));
        proxy.logged(&format!("`{file}`")).await;
    }
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
}

#[tokio::test]
async fn a_strict_session_is_answered_503_when_its_endpoint_is_gone() {
    let fleet = fleet(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let rule = format!(
        "sessionPersistence: {{ header: x-session, keyFile: \"{}\", strict: true }}",
        key(folder.path(), "session.key", ONE)
    );
    let proxy = Proxy::start(&config("", &plain(&fleet), &rule)).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let first = client.get("/").await;
    let name = first.head.get("x-session").expect("the session is named").to_owned();
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nx-session: {name}\r\n\r\n");
    for _ in 0..5 {
        let reply = client.exchange(&request).await;
        assert_eq!(reply.text(), first.text());
        assert!(reply.head.has("x-session"));
    }
    let left: Vec<_> = plain(&fleet)
        .into_iter()
        .filter(|(backend, _)| {
            NAMES[fleet.iter().position(|one| one.addr == backend.addr).expect("one of them")] != first.text()
        })
        .collect();
    change(&proxy, &config("", &left, &rule)).await;
    let reply = client.exchange(&request).await;
    assert_eq!((reply.status, reply.reason()), (503, Some("UH")), "{reply:?}");
    assert_eq!(client.get("/").await.status, 200, "a new session is fine");
}

#[tokio::test]
async fn a_session_keeps_its_backend_whatever_the_weights_say() {
    let fleet = fleet(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let of = |weights: [u32; 2]| {
        let rule = session(&key(folder.path(), "session.key", ONE), "");
        Config::new()
            .routes(&format!(
                "- rules:\n    - backendRefs: [{{ cluster: one, weight: {} }}, {{ cluster: two, weight: {} }}]\n{}",
                weights[0],
                weights[1],
                indented(&rule)
            ))
            .cluster("one", "http1", &[fleet[0].addr])
            .cluster("two", "http1", &[fleet[1].addr])
    };
    let proxy = Proxy::start(&of([1, 1000])).await;
    let mut browser = Browser::new(&proxy).await;
    let home = browser.visit().await;
    for weights in [[1000, 1], [1, 1000]] {
        change(&proxy, &of(weights)).await;
        for _ in 0..5 {
            assert_eq!(browser.visit().await, home);
        }
    }
}

#[tokio::test]
async fn keys_stay_with_their_endpoints_and_move_only_from_the_one_that_goes() {
    for policy in ["ringHash", "maglev"] {
        let fleet = fleet(5).await;
        let policy = format!("loadBalancing: {{ policy: {policy} }}");
        let rule = "hash: [{ header: x-user }]";
        let proxy = Proxy::start(&config(&policy, &plain(&fleet), rule)).await;
        let homes = async || {
            let mut client = H1Client::connect(proxy.addr()).await;
            let mut homes = Vec::new();
            for user in 0..60 {
                let reply = client.exchange(format!("GET / HTTP/1.1\r\nhost: x\r\nx-user: u{user}\r\n\r\n")).await;
                homes.push(reply.text());
            }
            homes
        };
        let before = homes().await;
        assert_eq!(homes().await, before);
        assert!(NAMES[..5].iter().all(|name| before.iter().any(|home| home == name)), "{before:?}");
        let mut left = plain(&fleet);
        left.rotate_left(3);
        left.retain(|(backend, _)| backend.addr != fleet[2].addr);
        change(&proxy, &config(&policy, &left, rule)).await;
        let after = homes().await;
        let moved = before.iter().zip(&after).filter(|(old, new)| *old != "c" && old != new).count();
        // Of those that need not move, a ring moves none, and Maglev a few percent.
        assert!(moved <= if policy.contains("ring") { 0 } else { 6 }, "{moved} of 60 keys moved needlessly");
        assert!(!after.contains(&"c".to_owned()));
    }
}

#[tokio::test]
async fn a_cookie_is_made_for_who_has_none_and_leads_back() {
    let fleet = fleet(4).await;
    let rule = "hash: [{ cookie: { name: shard, ttl: 1h, path: /shop } }]";
    let proxy = Proxy::start(&config("loadBalancing: { policy: maglev }", &plain(&fleet), rule)).await;
    let first = h1_client::get(proxy.addr(), "/").await;
    let made = first.head.get("set-cookie").expect("a cookie").to_owned();
    assert!(made.ends_with("; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax"), "{made}");
    let cookie = made.split(';').next().expect("a pair");
    let counts = spread(&proxy, &format!("cookie: {cookie}\r\n"), 20).await;
    assert_eq!(counts, BTreeMap::from([(first.text(), 20)]));
    assert!(names(&proxy, "", 40).await.len() > 1, "others go elsewhere");
}

#[tokio::test]
async fn the_address_that_is_hashed_is_the_one_that_the_trust_rule_finds() {
    let fleet = fleet(4).await;
    let policy = "loadBalancing: { policy: ringHash }";
    let trusting = config(policy, &plain(&fleet), "hash: [sourceAddress]").listener("trust: { hops: 1 }");
    let proxy = Proxy::start(&trusting).await;
    let from = |last: u8| format!("x-forwarded-for: 6.6.6.6, 10.0.0.{last}\r\n");
    let mut homes = Vec::new();
    for last in 1..=20 {
        let counts = spread(&proxy, &from(last), 3).await;
        assert_eq!(counts.len(), 1, "one address, one endpoint: {counts:?}");
        homes.extend(counts.into_keys());
    }
    assert!(homes.iter().any(|home| *home != homes[0]), "{homes:?}");
    let forged = spread(&proxy, "x-forwarded-for: 7.7.7.7, 10.0.0.1\r\n", 3).await;
    assert_eq!(forged.into_keys().collect::<Vec<_>>(), homes[..1], "what stands left of it was written by anybody");
}

#[tokio::test]
async fn the_own_zone_is_used_and_spills_when_it_is_too_small_or_unwell() {
    let fleet = fleet(6).await;
    let policy = "loadBalancing: { locality: preferZone }";
    let zones = |zones: [&'static str; 6]| -> Vec<_> { fleet.iter().zip(zones).collect() };
    let (here, there, elsewhere) = (", zone: here", ", zone: there", ", zone: elsewhere");
    let equal = zones([here, here, there, there, elsewhere, elsewhere]);
    let proxy = Proxy::start(&config(policy, &equal, "")).await;
    assert_eq!(names(&proxy, "", 60).await, ["a", "b"]);

    // One of six endpoints for one of two zones.
    let small = zones([here, there, there, there, there, there]);
    change(&proxy, &config(policy, &small, "")).await;
    let counts = spread(&proxy, "", 400).await;
    // 47 %, four standard deviations of 2.5 %.
    assert!((148..=228).contains(&counts["a"]), "{counts:?}");
    assert_eq!(counts.len(), 6);

    let unwell = ", zone: here, condition: unhealthy";
    change(&proxy, &config(policy, &zones([unwell, unwell, there, there, elsewhere, elsewhere]), "")).await;
    assert_eq!(names(&proxy, "", 60).await, ["c", "d", "e", "f"]);
    let status = proxy.admin_json("/clusters").await;
    assert_eq!(status[0]["priorities"][0]["staysInZone"], 0.0, "{status}");
    assert_eq!(endpoint(&status, &fleet[0])["notPicked"], "unwell");
}

#[tokio::test]
async fn the_next_priority_takes_over_and_a_panic_is_shown() {
    let fleet = fleet(4).await;
    let of = |states: [&'static str; 4]| -> Vec<_> { fleet.iter().zip(states).collect() };
    let (first, second) = ("", ", priority: 1");
    let (bad, worse) = (", condition: unhealthy", ", priority: 1, condition: unhealthy");
    let proxy = Proxy::start(&config("", &of([first, first, second, second]), "")).await;
    assert_eq!(names(&proxy, "", 40).await, ["a", "b"]);

    change(&proxy, &config("", &of([bad, first, second, second]), "")).await;
    let counts = spread(&proxy, "", 400).await;
    // 70 %, four standard deviations of 2.3 %.
    assert!((243..=317).contains(&counts["b"]) && !counts.contains_key("a"), "{counts:?}");

    change(&proxy, &config("", &of([bad, bad, second, second]), "")).await;
    assert_eq!(names(&proxy, "", 40).await, ["c", "d"]);
    assert_eq!(proxy.metric("outrigger_upstream_panic", &[]).await, 0.0);

    change(&proxy, &config("", &of([bad, bad, worse, worse]), "")).await;
    assert_eq!(names(&proxy, "", 80).await, ["a", "b", "c", "d"], "all are used");
    assert_eq!(proxy.metric("outrigger_upstream_panic", &["cluster=\"c\""]).await, 2.0);
    assert!(proxy.metric("outrigger_upstream_panic_picks_total", &["cluster=\"c\""]).await >= 80.0);
    let status = proxy.admin_json("/clusters").await;
    assert_eq!(status[0]["priorities"][1]["panic"], true, "{status}");

    change(&proxy, &config("loadBalancing: { panicThreshold: 0 }", &of([bad, bad, worse, worse]), "")).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.reason()), (503, Some("UH")));
}

#[tokio::test]
async fn backends_keep_to_their_subsets() {
    let fleet = fleet(3).await;
    let endpoints = |labels: [&str; 3]| {
        let one = |(backend, version): (&H1Backend, &str)| {
            format!("{{ address: \"{}\", labels: {{ version: \"{version}\" }} }}", backend.addr)
        };
        fleet.iter().zip(labels).map(one).collect::<Vec<_>>().join(", ")
    };
    let of = |labels: [&str; 3], more: &str| {
        Config::new()
            .routes(
                "- rules:\n    - matches: [{ headers: [{ name: x-canary, exact: 'yes' }] }]\n      \
                 backendRefs: [{ cluster: c, subset: { version: \"2\" } }]\n    \
                 - backendRefs: [{ cluster: c, subset: { version: \"1\" } }]",
            )
            .cluster_yaml("c", &format!("protocol: http1\n{more}\nendpoints: [{}]", endpoints(labels)))
    };
    let proxy = Proxy::start(&of(["1", "1", "2"], "")).await;
    assert_eq!(names(&proxy, "", 20).await, ["a", "b"]);
    assert_eq!(names(&proxy, "x-canary: yes\r\n", 20).await, ["c"]);
    change(&proxy, &of(["1", "1", "1"], "")).await;
    let canary = "GET / HTTP/1.1\r\nhost: x\r\nx-canary: yes\r\n\r\n";
    let reply = h1_client::exchange(proxy.addr(), canary).await;
    assert_eq!((reply.status, reply.reason()), (503, Some("UH")), "none has the labels");
    change(&proxy, &of(["1", "1", "1"], "loadBalancing: { subsetFallback: any }")).await;
    assert_eq!(names(&proxy, "x-canary: yes\r\n", 30).await, ["a", "b", "c"]);
}
