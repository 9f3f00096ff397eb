//! Rate limits that the proxy keeps, through the pipeline.

use std::time::Duration;

use outrigger_config::model::{Config, RateKey, RateLimit, Rule, Trust};

use super::*;

const FORWARD: Parts<'_> = Parts { listener: "", rule: "backendRefs: [{ cluster: c }]", cluster: "", sections: "" };
/// One rule for `/a` and one for the rest.
const TWO_RULES: Parts<'_> = Parts {
    rule: "matches: [{ path: { prefix: /a } }], backendRefs: [{ cluster: c }] }, { backendRefs: [{ cluster: c }]",
    ..FORWARD
};

/// So many requests an hour.
fn limit(name: &str, requests: u32, by: &[RateKey]) -> RateLimit {
    let per = Duration::from_secs(3600);
    RateLimit { name: name.into(), by: by.to_vec(), requests, per, burst: requests, shadow: false }
}

fn rule(config: &mut Config, at: usize) -> &mut Rule {
    &mut config.routes.get_mut("r").expect("there").hosts[0].rules[at]
}

/// A header's values in an answer.
fn fields<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_once(": ")).filter(|(key, _)| *key == name).map(|(_, value)| value).collect()
}

impl Harness {
    async fn get(&self, path: &str, headers: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
        self.ask(&request).await.expect("an answer")
    }

    async fn status(&self, path: &str, headers: &str) -> u16 {
        self.get(path, headers).await[9..12].parse().expect("a status")
    }

    fn limited(&self, limit: &str, result: &str) -> f64 {
        let labels = [&*format!("limit=\"{limit}\""), &*format!("result=\"{result}\"")];
        self.metric("outrigger_rate_limit_requests_total", &labels)
    }
}

#[tokio::test]
async fn a_request_over_the_limit_of_its_rule_is_told_when_to_come_back() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let harness = Harness::edited(&FORWARD, &[upstream.address], |config| {
        rule(config, 0).rate_limits = vec![limit("per-hour", 2, &[])];
    });
    let first = harness.get("/", "").await;
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    assert_eq!(fields(&first, "ratelimit-policy"), ["\"per-hour\";q=2;w=3600"]);
    assert_eq!(fields(&first, "ratelimit"), ["\"per-hour\";r=1;t=1800"]);
    assert!(fields(&first, "retry-after").is_empty());
    assert_eq!(harness.status("/", "").await, 200);

    let refused = harness.get("/", "").await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert_eq!(fields(&refused, "x-outrigger-reason"), ["RL"]);
    let after: u32 = fields(&refused, "retry-after")[0].parse().expect("seconds");
    assert!((1799..=2250).contains(&after), "half an hour and up to a quarter more, not {after}");
    assert!(fields(&refused, "ratelimit")[0].starts_with("\"per-hour\";r=0;t=36"), "{refused}");
    assert_eq!(upstream.requests(), 2);
    assert_eq!((harness.limited("per-hour", "admitted"), harness.limited("per-hour", "refused")), (2.0, 1.0));
    assert_eq!(harness.metric("outrigger_local_responses_total", &["reason=\"RL\""]), 1.0);
}

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_way() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let harness = Harness::edited(&FORWARD, &[upstream.address], |config| {
        config.listeners[0].rate_limits = vec![limit("all", 1, &[])];
    });
    assert_eq!(harness.status("/", "").await, 200);
    let refused = harness.get("/a.B/C", "content-type: application/grpc\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 200"), "{refused}");
    assert_eq!(fields(&refused, "grpc-status"), ["8"]);
    let after: u32 = fields(&refused, "grpc-retry-pushback-ms")[0].parse().expect("milliseconds");
    assert!((3_590_000..=4_500_000).contains(&after), "{after}");
}

#[tokio::test]
async fn each_key_has_a_rate_and_a_request_without_one_has_none() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let tenant = RateKey::Header("x-tenant".parse().expect("a name"));
    let user = RateKey::Header("x-user".parse().expect("a name"));
    let harness = Harness::edited(&FORWARD, &[upstream.address], |config| {
        rule(config, 0).rate_limits =
            vec![limit("pair", 1, &[tenant, user, RateKey::Address]), limit("known", 1, &[RateKey::Identity])];
    });
    for (headers, status) in [
        ("x-tenant: a\r\nx-user: b\r\n", 200),
        ("x-tenant: a\r\nx-user: b\r\n", 429),
        ("x-tenant: a\r\nx-user: c\r\n", 200),
        ("x-tenant: ab\r\nx-user: \r\n", 200),
        ("x-tenant: \r\nx-user: ab\r\n", 200),
        ("x-tenant: a\r\nx-tenant: b\r\nx-user: b\r\n", 200),
        ("x-tenant: a\r\n", 200),
        ("x-tenant: a\r\n", 200),
        ("", 200),
    ] {
        assert_eq!(harness.status("/", headers).await, status, "{headers:?}");
    }
    assert_eq!(harness.limited("known", "admitted"), 0.0, "nobody has an identity here");
}

#[tokio::test]
async fn the_address_is_the_one_that_the_trust_rule_finds() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    for (trust, second) in [(Trust::Hops(1), 200), (Trust::None, 429), (Trust::Local, 429)] {
        let harness = Harness::edited(&FORWARD, &[upstream.address], |config| {
            config.listeners[0].trust = trust;
            config.listeners[0].rate_limits = vec![limit("client", 1, &[RateKey::Address])];
        });
        assert_eq!(harness.status("/", "x-forwarded-for: 6.6.6.6, 1.1.1.1\r\n").await, 200);
        assert_eq!(harness.status("/", "x-forwarded-for: 6.6.6.6, 2.2.2.2\r\n").await, second, "{trust:?}");
        assert_eq!(harness.status("/", "x-forwarded-for: 7.7.7.7, 1.1.1.1\r\n").await, 429, "{trust:?}");
    }
}

#[tokio::test]
async fn a_request_that_one_limit_refuses_takes_nothing_from_the_others() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let tenant = RateKey::Header("x-tenant".parse().expect("a name"));
    let harness = Harness::edited(&TWO_RULES, &[upstream.address], |config| {
        config.listeners[0].rate_limits = vec![limit("listener", 3, &[])];
        rule(config, 0).rate_limits = vec![limit("rule", 3, &[]), limit("tenant", 1, &[tenant])];
    });
    assert_eq!(harness.status("/a", "x-tenant: t\r\n").await, 200);
    for _ in 0..5 {
        assert_eq!(harness.status("/a", "x-tenant: t\r\n").await, 429);
    }
    let other = harness.get("/a", "x-tenant: u\r\n").await;
    assert_eq!(fields(&other, "ratelimit-policy").len(), 3);
    let left: Vec<&str> = fields(&other, "ratelimit").iter().map(|value| value.split(';').nth(1).expect("r")).collect();
    assert_eq!(left, ["r=1", "r=1", "r=0"], "{other}");
    assert_eq!(harness.status("/b", "").await, 200);
    assert_eq!(harness.status("/b", "").await, 429, "the listener's own are used up");
}

#[tokio::test]
async fn a_limit_in_the_shadow_only_counts() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let harness = Harness::edited(&FORWARD, &[upstream.address], |config| {
        rule(config, 0).rate_limits = vec![RateLimit { shadow: true, ..limit("try", 1, &[]) }];
    });
    for _ in 0..3 {
        let answer = harness.get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 200") && fields(&answer, "ratelimit").is_empty(), "{answer}");
    }
    assert_eq!((harness.limited("try", "admitted"), harness.limited("try", "shadow_refused")), (1.0, 2.0));
}

#[tokio::test]
async fn a_new_configuration_finds_the_level_of_its_limits() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let with = |requests, name| {
        move |config: &mut Config| rule(config, 0).rate_limits = vec![limit(name, requests, &[RateKey::Address])]
    };
    let harness = Harness::edited(&FORWARD, &[upstream.address], with(3, "kept"));
    for status in [200, 200, 200, 429] {
        assert_eq!(harness.status("/", "").await, status);
    }
    harness.publish_edited(&FORWARD, with(3, "kept"));
    assert_eq!(harness.status("/", "").await, 429);
    harness.publish(&FORWARD);
    assert_eq!(harness.status("/", "").await, 200);
    harness.publish_edited(&FORWARD, with(3, "kept"));
    assert_eq!(harness.status("/", "").await, 429, "what left comes back with its level for a while");
    harness.publish_edited(&FORWARD, with(3, "renamed"));
    assert_eq!(harness.status("/", "").await, 200);
}

#[tokio::test]
async fn a_limit_of_the_listener_comes_before_routing_and_tokens() {
    let harness = Harness::edited(
        &Parts { rule: "matches: [{ path: { prefix: /a } }], backendRefs: [{ cluster: c }]", ..FORWARD },
        &[nobody().await],
        |config| {
            config.listeners[0].rate_limits = vec![limit("all", 1, &[])];
        },
    );
    let missing = harness.get("/nowhere", "").await;
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    assert_eq!(fields(&missing, "ratelimit").len(), 1, "local answers carry the fields as well");
    assert_eq!(harness.status("/nowhere", "").await, 429);
}
