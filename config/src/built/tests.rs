use super::*;
use crate::load;

fn loaded(text: &str) -> Config {
    Config::clone(&load("test.yaml", text).expect("a configuration").config)
}

const EXAMPLES: [&str; 6] = [
    include_str!("../../examples/full.yaml"),
    include_str!("../../examples/authorization.yaml"),
    include_str!("../../examples/edge-tls.yaml"),
    include_str!("../../examples/http3.yaml"),
    include_str!("../../examples/tunnels.yaml"),
    include_str!("../../examples/tcp.yaml"),
];

#[test]
fn what_was_written_and_checked_is_taken_when_built() {
    for text in EXAMPLES {
        let config = loaded(text);
        let checked = check(config.clone()).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(*checked, config);
    }
}

#[test]
fn every_reference_must_lead_somewhere() {
    let mut config = loaded(EXAMPLES[0]);
    config.clusters.clear();
    config.routes.clear();
    config.authorization.clear();
    config.jwt_providers.clear();
    config.external_authorizers.clear();
    config.rate_limit_services.clear();
    let problems = check(config).expect_err("dangling references");
    assert!(problems.iter().any(|problem| problem.message.contains("route table")), "{problems:?}");
    assert!(problems.iter().all(|problem| problem.part == Part::Listener), "{problems:?}");
}

#[test]
fn a_problem_names_the_thing_and_the_field() {
    let mut config = loaded(EXAMPLES[0]);
    let table = config.routes.values_mut().next().expect("a table");
    let (name, rule) = (Arc::clone(&table.name), &mut table.hosts[0].rules[0]);
    rule.retry.attempts.value = 9;
    let problems = check(config).expect_err("too many attempts");
    let field = "hosts[0].rules[0].retry.attempts";
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((problems[0].part, &problems[0].name, &*problems[0].field), (Part::Routes, &name, field));
}

#[test]
fn a_cluster_may_be_empty_and_there_may_be_no_listeners() {
    let mut config = loaded(EXAMPLES[0]);
    config.clusters.values_mut().for_each(|cluster| cluster.endpoints.clear());
    config.listeners.clear();
    assert!(check(config).is_ok());
}

#[test]
fn two_listeners_on_one_socket_are_refused() {
    let mut config = loaded(EXAMPLES[0]);
    let mut second = config.listeners[0].clone();
    second.name = "second".into();
    config.listeners.push(second);
    let problems = check(config).expect_err("one socket");
    assert!(problems.iter().any(|problem| problem.field == "bind" && &*problem.name == "second"), "{problems:?}");
}

#[test]
fn a_pattern_must_stand_for_the_whole_value() {
    let mut config = loaded(EXAMPLES[0]);
    let table = config.routes.values_mut().next().expect("a table");
    let any = crate::model::Match {
        path: crate::model::PathMatch::Regex(regex::Regex::new("/a").expect("a pattern")),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    };
    table.hosts[0].rules[0].matches = vec![any];
    let problems = check(config).expect_err("not anchored");
    assert!(problems.iter().any(|problem| problem.message.contains("anchored")), "{problems:?}");
}

#[test]
fn what_a_file_could_not_say_about_resilience_cannot_be_built_either() {
    use crate::model::{Breaker, Filter, HealthCheck, Mirror, Probe, Share};
    type Change = fn(&mut Config);
    fn cluster(config: &mut Config) -> &mut crate::model::Cluster {
        config.clusters.get_mut("payments-v1").expect("a cluster")
    }
    fn rule(config: &mut Config) -> &mut crate::model::Rule {
        &mut config.routes.get_mut("outbound").expect("a table").hosts[0].rules[0]
    }
    let changes: [(&str, Change); 28] = [
        ("balance.bounded_load", |c| cluster(c).balance.bounded_load = Some(99)),
        ("balance.panic_threshold", |c| cluster(c).balance.panic_threshold = 101),
        ("balance.overprovisioning", |c| cluster(c).balance.overprovisioning = 99),
        ("balance.slow_start.aggression", |c| {
            cluster(c).balance.slow_start.as_mut().expect("a slow start").aggression = f64::NAN;
        }),
        ("endpoints[0]", |c| cluster(c).endpoints[0].priority = 128),
        ("endpoints[0]", |c| drop(cluster(c).endpoints[0].labels.insert("a b".into(), "c".into()))),
        ("endpoint_ceilings.max_requests", |c| cluster(c).endpoint_ceilings.max_requests = Some(0)),
        ("breakers.endpoint.failure_ratio.percent", |c| {
            cluster(c).breakers.endpoint.failure_ratio.as_mut().expect("a ratio").percent = 0;
        }),
        ("breakers.cluster.reset_timeout", |c| {
            cluster(c).breakers.cluster =
                Some(Breaker { max_reset_timeout: Duration::from_secs(1), ..Breaker::default() });
        }),
        ("health_check.interval", |c| {
            cluster(c).health_check.as_mut().expect("a check").interval = Duration::from_millis(1);
        }),
        ("health_check.http.path", |c| {
            let check = cluster(c).health_check.as_mut().expect("a check");
            let probe = Probe::Http {
                path: "no path".into(),
                host: None,
                method: http::Method::GET,
                headers: Vec::new(),
                expected: vec![200..=200],
            };
            *check = HealthCheck { probe, ..check.clone() };
        }),
        ("health_check.grpc", |c| cluster(c).protocol = crate::model::ClusterProtocol::Http1),
        ("outlier_detection.max_ejection_percent", |c| {
            cluster(c).outlier_detection.as_mut().expect("detection").max_ejection_percent = 101;
        }),
        ("admission.queue.max", |c| cluster(c).admission.queue.as_mut().expect("a queue").max = 0),
        ("admission.concurrency.min", |c| {
            cluster(c).admission.concurrency.as_mut().expect("concurrency").min = 2_000;
        }),
        ("hosts[0].rules[0].retry.buffer", |c| rule(c).retry.buffer = u32::MAX),
        ("hosts[0].rules[0].hedge.max", |c| rule(c).hedge.as_mut().expect("a hedge").max = 4),
        ("hosts[0].rules[0].breaker.latency.above", |c| {
            let breaker = rule(c).breaker.as_mut().expect("a breaker");
            breaker.latency.as_mut().expect("a latency").above = Duration::ZERO;
        }),
        ("hosts[0].rules[0].rate_limits[0].per", |c| rule(c).rate_limits[0].per = Duration::from_secs(100 * 3_600)),
        ("rule charges", |c| {
            let again = rule(c).rate_limits[0].clone();
            rule(c).rate_limits.push(again);
        }),
        ("hosts[0].rules[0].global_rate_limits[0].service", |c| {
            rule(c).global_rate_limits[0].service = "nobody".into();
        }),
        ("hosts[0].rules[0].filters[4]", |c| {
            let Filter::Fault(fault) = &mut rule(c).filters[4] else { panic!("a fault") };
            let fault = Arc::make_mut(fault);
            (fault.delay, fault.abort) = (None, None);
        }),
        ("hosts[0].rules[0].filters[4].delay.by", |c| {
            let Filter::Fault(fault) = &mut rule(c).filters[4] else { panic!("a fault") };
            Arc::make_mut(fault).delay.as_mut().expect("a delay").by = Duration::from_secs(7_200);
        }),
        ("hosts[0].rules[0].filters[5].cluster", |c| {
            rule(c).filters[5] = Filter::Mirror(Mirror { cluster: "nobody".into(), share: Share(1) });
        }),
        ("hosts[0].rules[0].filters[5].share", |c| {
            rule(c).filters[5] = Filter::Mirror(Mirror { cluster: "app".into(), share: Share(1_000_001) });
        }),
        ("cluster", |c| c.rate_limit_services.values_mut().for_each(|service| service.cluster = "app".into())),
        ("overload", |c| c.overload.shrink_at = 99),
        ("rate_limits[0].requests", |c| c.listeners[1].rate_limits[0].requests = 0),
    ];
    for (field, change) in changes {
        let mut config = loaded(EXAMPLES[0]);
        change(&mut config);
        let problems = check(config).expect_err(field);
        assert!(problems.iter().any(|problem| problem.field == field), "{field}: {problems:?}");
    }
}

#[test]
fn sessions_and_hashes_are_held_to_the_rules_of_files() {
    use crate::model::{HashKey, HashSource, SessionCarrier};
    let find = |config: &Config, name: &str| {
        let hosts = &config.routes["outbound"].hosts;
        let at = |host: usize| hosts[host].rules.iter().position(|rule| &*rule.name == name).map(|rule| (host, rule));
        (0..hosts.len()).find_map(at).expect("the rule")
    };
    let mut config = loaded(EXAMPLES[0]);
    let (host, at) = find(&config, "by-user");
    let table = config.routes.get_mut("outbound").expect("a table");
    table.hosts[host].rules[at].hash =
        vec![HashKey { source: HashSource::Cookie { name: "a b".into(), ttl: None, path: None }, terminal: false }];
    let problems = check(config).expect_err("not a cookie");
    assert!(problems.iter().any(|problem| problem.message.contains("not the name of a cookie")), "{problems:?}");

    let mut config = loaded(EXAMPLES[0]);
    let (host, at) = find(&config, "checkout");
    let table = config.routes.get_mut("outbound").expect("a table");
    let session = table.hosts[host].rules[at].session.as_mut().expect("a session");
    session.carrier = SessionCarrier::Header(http::HeaderName::from_static("x-forwarded-for"));
    session.key_file = "".into();
    let problems = check(config).expect_err("neither header nor key");
    assert!(problems.iter().any(|problem| problem.field.ends_with("session.header")), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.field.ends_with("session.key_file")), "{problems:?}");
}

#[test]
fn what_a_file_could_not_say_about_bytes_and_tunnels_cannot_be_built_either() {
    use crate::model::{
        Cidr, ClusterProtocol, Intercept, ListenerProtocol, PortRange, ProxyHeader, ProxyProtocol, ProxyVersion,
    };
    type Change = fn(&mut Config);
    // Listeners of the example: 2 has TLS, 3 takes what is not HTTP, 4 is of TCP and 5 of UDP.
    let changes: [(&str, Change); 24] = [
        ("http3", |c| c.listeners[2].tls = None),
        ("http3", |c| c.listeners[4].http3 = c.listeners[2].http3),
        ("http3.advertise", |c| c.listeners[2].http3.as_mut().expect("HTTP/3").advertise = Some(0)),
        ("proxy_protocol", |c| {
            c.listeners[2].proxy_protocol = Some(ProxyProtocol { mode: ProxyHeader::Strict, from: Vec::new() });
        }),
        ("bind", |c| c.listeners[5].bind = c.listeners[2].bind),
        ("upgrades.allow[0]", |c| c.listeners[2].upgrades.allow = vec!["h2c".into()]),
        ("upgrades.allow[1]", |c| c.listeners[2].upgrades.allow = vec!["a".into(), "a".into()]),
        ("upgrades.max_tunnels", |c| c.listeners[2].upgrades.max_tunnels = 0),
        ("tcp", |c| c.listeners[4].tcp = None),
        ("tcp", |c| c.listeners[3].protocol = ListenerProtocol::Http1),
        ("tcp.backends", |c| c.listeners[4].tcp.as_mut().expect("TCP").backends.clear()),
        ("tcp.backends[0].cluster", |c| {
            c.listeners[4].tcp.as_mut().expect("TCP").backends[0].cluster = "nobody".into();
        }),
        ("routes", |c| c.listeners[4].routes = Some("inbound".into())),
        ("routes", |c| c.listeners[3].routes = None),
        ("udp", |c| c.listeners[5].udp = None),
        ("udp", |c| c.listeners[4].udp = c.listeners[5].udp.clone()),
        ("udp.idle_timeout", |c| c.listeners[5].udp.as_mut().expect("UDP").idle_timeout = Duration::ZERO),
        ("udp.backends[0]", |c| c.listeners[5].udp.as_mut().expect("UDP").backends[0].cluster = "db".into()),
        ("proxy_protocol.from[0]", |c| {
            let from = vec![Cidr { network: [10, 1, 2, 3].into(), prefix: 8 }];
            c.listeners[4].proxy_protocol = Some(ProxyProtocol { mode: ProxyHeader::Strict, from });
        }),
        ("proxy_protocol", |c| {
            c.listeners[5].proxy_protocol = Some(ProxyProtocol { mode: ProxyHeader::Strict, from: Vec::new() });
        }),
        ("intercepts[1]", |c| {
            let again = c.listeners[4].intercepts[0].clone();
            c.listeners[4].intercepts.push(again);
        }),
        ("intercepts[0]", |c| {
            let place = c.listeners[4].intercepts[0].place.clone();
            let ports = vec![PortRange { first: 9, last: 1 }];
            c.listeners[4].intercepts = vec![Intercept { addresses: Vec::new(), ports, place }];
        }),
        ("connection.proxy_protocol", |c| {
            let app = c.clusters.get_mut("app").expect("a cluster");
            app.connection.proxy_protocol = Some(ProxyVersion::V1);
        }),
        ("protocol", |c| c.clusters.get_mut("app").expect("a cluster").protocol = ClusterProtocol::Http3),
    ];
    for (field, change) in changes {
        let mut config = loaded(EXAMPLES[0]);
        change(&mut config);
        let problems = check(config).expect_err(field);
        assert!(problems.iter().any(|problem| problem.field == field), "{field}: {problems:?}");
    }
    let mut config = loaded(EXAMPLES[0]);
    config.clusters.get_mut("app").expect("a cluster").protocol = ClusterProtocol::Tcp;
    let problems = check(config).expect_err("requests to a cluster of TCP");
    assert!(problems.iter().any(|problem| problem.field.ends_with("backends")), "{problems:?}");
}
