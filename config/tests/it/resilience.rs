//! What is written about balancing, health, breakers, retries, admission and faults, as the data path gets it.

use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_config::load;
use outrigger_config::model::{
    Abort, Action, AdaptiveConcurrency, Balance, BalancePolicy, Breaker, Cluster, Condition, Config, Criticality,
    DescriptorValue, Filter, HashKey, HashSource, Hedge, HedgeAfter, Locality, OutlierDetection, Overload, Probe,
    Queue, RateKey, RateLimit, Retry, Rule, SessionCarrier, Share, SubsetFallback,
};

/// A configuration with one rule and one cluster, and more sections.
fn config(rule: &str, cluster: &str, more: &str) -> Config {
    let text = format!(
        "node: {{ id: n, zone: a }}\nlisteners: [{{ name: a, bind: 127.0.0.1:1, routes: r }}]\nroutes:\n  r: [{{ rules: \
         [{{ {rule}backendRefs: [{{ cluster: c }}] }}] }}]\nclusters:\n  c: {{ {cluster}endpoints: [127.0.0.1:2] \
         }}\n{more}"
    );
    let loaded = load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    (*loaded.config).clone()
}

fn rule(text: &str) -> Rule {
    config(&format!("{text}, "), "", "").routes["r"].hosts[0].rules[0].clone()
}

fn cluster(text: &str) -> Cluster {
    config("", &format!("{text}, "), "").clusters["c"].clone()
}

#[test]
fn what_is_not_written_is_as_the_model_says() {
    let config = config("", "", "");
    let (cluster, rule) = (&config.clusters["c"], &config.routes["r"].hosts[0].rules[0]);
    assert_eq!(cluster.balance, Balance::default());
    assert_eq!(cluster.breakers.endpoint, Breaker::default());
    assert_eq!(rule.retry, Retry::default());
    assert_eq!(config.overload, Overload::default());
    assert!(cluster.breakers.cluster.is_none() && cluster.health_check.is_none());
    assert!(cluster.outlier_detection.is_none() && cluster.admission.queue.is_none());
    assert!(rule.hedge.is_none() && rule.breaker.is_none() && rule.session.is_none() && rule.criticality.is_none());
    assert_eq!(cluster.endpoints[0].condition, Condition::Healthy);
}

#[test]
fn an_empty_block_has_the_defaults_of_the_model() {
    assert_eq!(cluster("loadBalancing: {}").balance, Balance::default());
    assert_eq!(cluster("circuitBreaker: {}").breakers.endpoint, Breaker::default());
    assert_eq!(cluster("outlierDetection: {}").outlier_detection, Some(OutlierDetection::default()));
    assert_eq!(cluster("concurrency: {}").admission.concurrency, Some(AdaptiveConcurrency::default()));
    assert_eq!(cluster("concurrency: adaptive").admission.concurrency, Some(AdaptiveConcurrency::default()));
    assert_eq!(cluster("concurrency: off").admission.concurrency, None);
    let queue = Queue { timeout: Duration::from_millis(100), max: 256 };
    assert_eq!(cluster("queue: {}").admission.queue, Some(queue));
}

#[test]
fn balancing_is_as_written() {
    let text = "loadBalancing: { policy: maglev, boundedLoad: off, locality: preferZone, panicThreshold: 0, \
                overprovisioning: 200, subsetFallback: any, slowStart: { window: 1m, minWeight: 25, aggression: 2.5 } }";
    let balance = cluster(text).balance;
    assert_eq!((balance.policy, balance.bounded_load), (BalancePolicy::Maglev, None));
    assert_eq!((balance.locality, balance.subset_fallback), (Locality::PreferZone, SubsetFallback::Any));
    assert_eq!((balance.panic_threshold, balance.overprovisioning), (0, 200));
    let slow = balance.slow_start.expect("slow start");
    assert_eq!((slow.window, slow.min_weight), (Duration::from_secs(60), 25));
    assert!((slow.aggression - 2.5).abs() < f64::EPSILON);
    assert_eq!(cluster("loadBalancing: { policy: ringHash, boundedLoad: 125 }").balance.bounded_load, Some(125));
}

#[test]
fn the_breaker_of_endpoints_knows_whether_somebody_wrote_its_threshold() {
    let written = cluster("circuitBreaker: { failureThreshold: 5 }").breakers.endpoint.failure_threshold;
    assert!(written.value == 5 && written.place.is_some());
    let other = cluster("circuitBreaker: { failureRatio: { percent: 50 } }").breakers.endpoint;
    assert!(other.failure_threshold.value == 5 && other.failure_threshold.place.is_none());
    let ratio = other.failure_ratio.expect("a ratio");
    assert_eq!((ratio.percent, ratio.window, ratio.min_requests), (50, Duration::from_secs(10), 20));
}

#[test]
fn breakers_that_are_asked_for_count_as_written() {
    let of_cluster = cluster("circuitBreaker: { cluster: {} }").breakers.cluster.expect("a breaker");
    assert!(of_cluster.failure_threshold.value == 5 && of_cluster.failure_threshold.place.is_some());
    let of_rule = rule("circuitBreaker: { latency: { above: 500ms }, resetTimeout: 10m }").breaker.expect("a breaker");
    assert!(of_rule.failure_threshold.place.is_some());
    // One bound alone moves the other's default out of its way.
    assert_eq!(
        (of_rule.reset_timeout, of_rule.max_reset_timeout),
        (Duration::from_secs(600), Duration::from_secs(600))
    );
    let trip = of_rule.latency.expect("a latency");
    assert_eq!((trip.quantile, trip.above), (99, Duration::from_millis(500)));
}

#[test]
fn ceilings_of_endpoints_are_none_unless_written() {
    let ceilings = cluster("circuitBreaker: { maxRequests: 7, perEndpoint: { maxConnections: 3 } }");
    assert_eq!(ceilings.ceilings.max_requests, 7);
    let each = ceilings.endpoint_ceilings;
    assert_eq!(
        (each.max_connections, each.max_requests, each.max_pending, each.max_retries),
        (Some(3), None, None, None)
    );
}

#[test]
fn probes_are_of_three_kinds() {
    let http = "healthCheck: { http: { path: /a?b, host: \"A.local:80\", method: HEAD, headers: { x-a: b }, expected: [200, \
                \"300-399\"] }, interval: 2m, port: 9 }";
    let check = cluster(http).health_check.expect("a check");
    assert_eq!(
        check.probe,
        Probe::Http {
            path: "/a?b".into(),
            host: Some("a.local:80".into()),
            method: Method::HEAD,
            headers: vec![(HeaderName::from_static("x-a"), HeaderValue::from_static("b"))],
            expected: vec![200..=200, 300..=399],
        }
    );
    assert_eq!((check.interval, check.no_traffic_interval), (Duration::from_secs(120), Duration::from_secs(120)));
    assert_eq!((check.port, check.timeout, check.jitter), (Some(9), Duration::from_secs(1), 10));
    assert_eq!((check.healthy_threshold, check.unhealthy_threshold), (1, 3));
    let tcp = cluster("healthCheck: { tcp: {} }").health_check.expect("a check");
    assert_eq!((tcp.probe, tcp.no_traffic_interval), (Probe::Tcp, Duration::from_secs(60)));
    let grpc = cluster("protocol: http2, healthCheck: { grpc: { service: a.B } }").health_check.expect("a check");
    assert_eq!(grpc.probe, Probe::Grpc { service: "a.B".into(), authority: None });
}

#[test]
fn a_standard_deviation_has_three_digits_after_the_point() {
    let outliers = cluster("outlierDetection: { successRate: { stdevFactor: 2.05, minHosts: 3 } }").outlier_detection;
    let outliers = outliers.expect("detection");
    assert_eq!((outliers.success_rate_stdev_factor, outliers.success_rate_min_hosts), (2_050, 3));
}

#[test]
fn retries_and_hedges_are_as_written() {
    let rule = rule(
        "retry: { headers: [{ name: x-a, present: true }], idempotencyKey: true, maxPushback: 0s, otherLocality: true, \
         buffer: 1MiB }, hedge: { percentile: 90, max: 2, budgetPercent: 20 }",
    );
    let retry = &rule.retry;
    assert!(retry.idempotency_key && retry.other_locality && retry.on_headers.len() == 1);
    assert_eq!((retry.max_pushback, retry.buffer), (Duration::ZERO, 1024 * 1024));
    let after = HedgeAfter::Percentile { percent: 90, min: Duration::from_millis(1) };
    assert_eq!(rule.hedge, Some(Hedge { after, max: 2, budget_percent: 20 }));
    let delayed = self::rule("hedge: { after: 50ms }").hedge.expect("a hedge");
    assert_eq!((delayed.after, delayed.max), (HedgeAfter::Delay(Duration::from_millis(50)), 1));
}

#[test]
fn hash_keys_have_a_short_and_a_long_form() {
    let keys = |text: &str| {
        let text = format!("hash: {text}, ");
        config(&text, "loadBalancing: { policy: ringHash }, ", "").routes["r"].hosts[0].rules[0].hash.clone()
    };
    assert_eq!(keys("[sourceAddress, path]"), keys("[{ sourceAddress: true }, { path: true }]"));
    let all = keys("[{ header: X-A, terminal: true }, { cookie: { name: c, ttl: 0s, path: /x } }, { query: q }]");
    let cookie = HashSource::Cookie { name: "c".into(), ttl: Some(Duration::ZERO), path: Some("/x".into()) };
    assert_eq!(
        all,
        [
            HashKey { source: HashSource::Header(HeaderName::from_static("x-a")), terminal: true },
            HashKey { source: cookie, terminal: false },
            HashKey { source: HashSource::Query("q".into()), terminal: false },
        ]
    );
}

#[test]
fn sessions_are_named_in_a_cookie_or_a_header() {
    let cookie = rule(
        "sessionPersistence: { cookie: { name: s, permanent: true, path: / }, absoluteTimeout: 1h, keyFile: /k, strict: \
         true }",
    );
    let session = cookie.session.expect("a session");
    assert_eq!(session.carrier, SessionCarrier::Cookie { name: "s".into(), permanent: true, path: None });
    assert_eq!((session.absolute_timeout, session.idle_timeout), (Some(Duration::from_secs(3_600)), None));
    assert!(session.strict && session.key_file.ends_with("k"));
    let header = rule("sessionPersistence: { header: x-s, keyFile: /k }").session.expect("a session");
    assert_eq!(header.carrier, SessionCarrier::Header(HeaderName::from_static("x-s")));
}

#[test]
fn rate_limits_are_as_written() {
    let services = "rateLimitServices: { l: { cluster: rls, domain: d, onFailure: deny } }\n";
    let text = services.to_owned();
    let clusters = "endpoints: [127.0.0.1:2] }\n  rls: { protocol: http2, ";
    let rule = "rateLimits: [{ name: x, by: [identity, address, { header: x-t }], requests: 10, per: 1m }], \
                globalRateLimits: [{ service: l, descriptor: [{ key: a, text: b }, { key: c, header: x-c }, { key: d, from: \
                path }] }], criticality: sheddable, ";
    let config = config(rule, clusters, &text);
    let rule = &config.routes["r"].hosts[0].rules[0];
    let by = vec![RateKey::Identity, RateKey::Address, RateKey::Header(HeaderName::from_static("x-t"))];
    let limit =
        RateLimit { name: "x".into(), by, requests: 10, per: Duration::from_secs(60), burst: 10, shadow: false };
    assert_eq!(rule.rate_limits, [limit]);
    let values: Vec<_> = rule.global_rate_limits[0].descriptor.iter().map(|entry| entry.value.clone()).collect();
    let header = DescriptorValue::Header(HeaderName::from_static("x-c"));
    assert_eq!(values, [DescriptorValue::Text("b".into()), header, DescriptorValue::Path]);
    assert_eq!(rule.criticality, Some(Criticality::Sheddable));
    let service = &config.rate_limit_services["l"];
    assert_eq!((&*service.cluster, &*service.domain), ("rls", "d"));
    assert_eq!((service.timeout, service.allow_on_failure), (Duration::from_millis(20), false));
}

#[test]
fn faults_and_mirrors_are_as_written() {
    let rule = rule(
        "filters: [{ fault: { delay: { percent: 0.5, duration: 100ms }, abort: { percent: 100, grpcStatus: internal }, \
         until: 2030-01-31T12:00:00Z } }, { fault: { abort: { percent: 1, status: 429 }, until: 2030-01-31T12:00:00Z } }, \
         { mirror: { cluster: c } }]",
    );
    let Filter::Fault(fault) = &rule.filters[0] else { panic!("{:?}", rule.filters) };
    let delay = fault.delay.as_ref().expect("a delay");
    assert_eq!((delay.share, delay.by), (Share(5_000), Duration::from_millis(100)));
    assert_eq!(fault.abort.as_ref().map(|abort| (abort.share, abort.with)), Some((Share(1_000_000), Abort::Grpc(13))));
    assert_eq!(fault.until, SystemTime::UNIX_EPOCH + Duration::from_secs(1_896_091_200));
    let Filter::Fault(status) = &rule.filters[1] else { panic!("{:?}", rule.filters) };
    let with = status.abort.as_ref().map(|abort| abort.with);
    assert_eq!(with, Some(Abort::Status(StatusCode::TOO_MANY_REQUESTS)));
    assert!(matches!(&rule.filters[2], Filter::Mirror(mirror) if mirror.share == Share(1_000_000)));
}

#[test]
fn one_cluster_may_come_once_for_each_subset() {
    let text = "listeners: [{ name: a, bind: 127.0.0.1:1, routes: r }]\nroutes: { r: [{ rules: [{ backendRefs: [{ cluster: \
                c, weight: 9, subset: { v: one } }, { cluster: c, subset: { v: two } }, { cluster: c, weight: 0 }] }] }] }\n\
                clusters: { c: { endpoints: [{ address: 127.0.0.1:2, labels: { v: one }, zone: z, priority: 3, condition: \
                unhealthy }, { address: 127.0.0.1:3, labels: { v: two, w: x } }] } }\n";
    let loaded = load("a.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let Action::Forward(backends) = &loaded.config.routes["r"].hosts[0].rules[0].action else { panic!("no backends") };
    assert_eq!((backends.len(), &*backends[1].subset["v"]), (3, "two"));
    let endpoint = &loaded.config.clusters["c"].endpoints[0];
    assert_eq!((endpoint.priority, endpoint.condition), (3, Condition::Unhealthy));
}

#[test]
fn levels_of_overload_that_are_not_written_make_room_for_those_that_are() {
    let levels = |text: &str| {
        let overload = config("", "", &format!("overload: {{ {text} }}\n")).overload;
        (overload.shrink_at, overload.refuse_at, overload.stop_accepting_at)
    };
    assert_eq!(levels("memoryLimit: 512MiB"), (80, 90, 95));
    assert_eq!(levels("refuseAt: 70"), (70, 70, 95));
    assert_eq!(levels("stopAcceptingAt: 60"), (60, 60, 60));
    assert_eq!(levels("shrinkAt: 97"), (97, 97, 97));
    let memory = config("", "", "overload: { memoryLimit: 512MiB, maxConnections: 100 }\n").overload;
    assert_eq!((memory.memory_limit, memory.max_connections), (Some(512 << 20), 100));
}

#[test]
fn what_concerns_the_process_stays_in_the_file_of_a_proxy_with_a_control_plane() {
    let text =
        "controlPlane: { servers: [a:1], trustBundle: a.pem, joinToken: { file: b } }\noverload: { shrinkAt: 50 }\n";
    let loaded = load("a.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.config.overload.shrink_at, 50);
    let services = format!("{text}rateLimitServices: {{ a: {{ cluster: b, domain: c, onFailure: deny }} }}\n");
    let problems = load("a.yaml", &services).expect_err("it comes from the control plane");
    assert!(problems.iter().any(|problem| problem.message.contains("rateLimitServices")), "{problems}");
}
