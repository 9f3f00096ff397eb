//! Resources of control planes that know nothing of us.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_config::model::*;
use outrigger_xds::envoy::config::cluster::v3 as cluster;
use outrigger_xds::envoy::config::core::v3 as core;
use outrigger_xds::envoy::config::endpoint::v3 as endpoint;
use outrigger_xds::envoy::config::listener::v3 as listener;
use outrigger_xds::envoy::config::route::v3 as route;
use outrigger_xds::envoy::extensions::filters::http::router::v3 as router;
use outrigger_xds::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrigger_xds::envoy::r#type::matcher::v3 as matcher;
use outrigger_xds::google::protobuf;
use outrigger_xds::{Decoded, Kind, Parts, Refusal, assemble, decode};
use prost::{Message, Name};

use crate::roundtrip::{context, settings};

pub(crate) fn any<M: Message + Name>(message: &M) -> protobuf::Any {
    protobuf::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(crate) fn take(kind: Kind, name: &str, message: &impl Message) -> Result<Decoded, Vec<Refusal>> {
    decode(kind, name, &message.encode_to_vec(), &context())
}

fn table(message: &route::RouteConfiguration) -> RouteTable {
    match take(Kind::Route, &message.name, message).expect("taken").what {
        outrigger_xds::decode::What::Routes(table) => RouteTable::clone(&table),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn fields(result: Result<Decoded, Vec<Refusal>>) -> Vec<String> {
    result.expect_err("refused").into_iter().map(|refusal| refusal.field).collect()
}

fn host(routes: Vec<route::Route>) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: "main".to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: "v".to_owned(),
            domains: vec!["shop.example".to_owned(), "shop.example:8080".to_owned()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn matching(specifier: route::route_match::PathSpecifier) -> route::RouteMatch {
    route::RouteMatch { path_specifier: Some(specifier), ..Default::default() }
}

fn forwarding(one: route::RouteMatch, action: route::RouteAction) -> route::Route {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster("backend".to_owned())),
        ..action
    };
    route::Route { r#match: Some(one), action: Some(route::route::Action::Route(action)), ..Default::default() }
}

fn prefix(text: &str) -> route::RouteMatch {
    matching(route::route_match::PathSpecifier::Prefix(text.to_owned()))
}

#[test]
fn prefixes_are_by_bytes_and_those_of_segments_are_not() {
    let separated = matching(route::route_match::PathSpecifier::PathSeparatedPrefix("/v1".to_owned()));
    let table = table(&host(vec![
        forwarding(prefix("/api/v"), Default::default()),
        forwarding(separated, Default::default()),
        forwarding(prefix("/"), Default::default()),
    ]));
    let hostnames = ["shop.example", "shop.example:8080"].map(|name| HostPattern::Exact(name.into()));
    assert_eq!(table.hosts[0].hostnames, hostnames);
    let paths: Vec<&PathMatch> = table.hosts[0].rules.iter().map(|rule| &rule.matches[0].path).collect();
    assert_eq!(
        paths,
        [&PathMatch::Start("/api/v".into()), &PathMatch::Prefix("/v1".into()), &PathMatch::Prefix("".into())]
    );
}

#[test]
fn a_prefix_rewrite_replaces_the_bytes_that_matched() {
    let rewrite = |to: &str| route::RouteAction { prefix_rewrite: to.to_owned(), ..Default::default() };
    let table = table(&host(vec![forwarding(prefix("/old/"), rewrite("/new/"))]));
    let Filter::UrlRewrite(UrlRewrite { path: Some(PathRewrite::Regex { pattern, substitution }), .. }) =
        &table.hosts[0].rules[0].filters[0]
    else {
        panic!("{:?}", table.hosts[0].rules[0].filters);
    };
    assert_eq!(pattern.replace_all("/old/x", &**substitution), "/new/x");
}

#[test]
fn header_conditions_may_be_about_absence_and_parts() {
    let header = |name: &str, invert, specifier| route::HeaderMatcher {
        name: name.to_owned(),
        invert_match: invert,
        header_match_specifier: Some(specifier),
        ..Default::default()
    };
    use route::header_matcher::HeaderMatchSpecifier::{PresentMatch, StringMatch, SuffixMatch};
    let folded = matcher::StringMatcher {
        ignore_case: true,
        match_pattern: Some(matcher::string_matcher::MatchPattern::Contains("beta".to_owned())),
    };
    let one = route::RouteMatch {
        headers: vec![
            header("x-debug", true, PresentMatch(true)),
            header("x-channel", false, StringMatch(folded)),
            header("x-file", false, SuffixMatch(".txt".to_owned())),
        ],
        ..prefix("/")
    };
    let table = table(&host(vec![forwarding(one, Default::default())]));
    let headers = &table.hosts[0].rules[0].matches[0].headers;
    assert_eq!(headers[0].value, ValueMatch::Present(false));
    for (at, good, bad) in [(1, "my-BETA-x", "alpha"), (2, "a.txt", "a.txt2")] {
        let ValueMatch::Regex(regex) = &headers[at].value else { panic!("{:?}", headers[at]) };
        assert!(regex.is_match(good) && !regex.is_match(bad), "{regex}");
    }
}

#[test]
fn timeouts_and_retries_are_envoys() {
    let action = route::RouteAction {
        timeout: Some(protobuf::Duration { seconds: 0, nanos: 0 }),
        retry_policy: Some(route::RetryPolicy {
            retry_on: "5xx,retriable-status-codes".to_owned(),
            num_retries: Some(protobuf::UInt32Value { value: 2 }),
            retriable_status_codes: vec![429],
            per_try_timeout: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let table = table(&host(vec![forwarding(prefix("/"), action)]));
    let rule = &table.hosts[0].rules[0];
    assert_eq!(rule.timeouts.request.value, None);
    assert!(rule.timeouts.request.place.is_some(), "it is written");
    assert_eq!(rule.timeouts.backend_request.value, Some(Duration::from_secs(1)));
    assert_eq!(rule.retry.attempts.value, 2);
    assert!(rule.retry.non_idempotent, "Envoy looks at no method");
    for on in [RetryOn::ServerError, RetryOn::ConnectFailure, RetryOn::Status(429)] {
        assert!(rule.retry.on.contains(&on), "{on:?}");
    }
}

#[test]
fn everything_that_a_route_asks_for_in_vain_is_named_at_once() {
    let action = route::RouteAction {
        hash_policy: vec![Default::default()],
        rate_limits: vec![Default::default()],
        priority: 1,
        retry_policy: Some(route::RetryPolicy { retry_on: "envoy-ratelimited".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let good = forwarding(prefix("/a"), Default::default());
    let cookies = route::RouteMatch { cookies: vec![Default::default()], ..prefix("/c") };
    let found = fields(take(
        Kind::Route,
        "main",
        &host(vec![good, forwarding(prefix("/b"), action), forwarding(cookies, Default::default())]),
    ));
    for field in [
        "virtual_hosts[0].routes[1].route.hash_policy[0]",
        "virtual_hosts[0].routes[1].route.rate_limits",
        "virtual_hosts[0].routes[1].route.priority",
        "virtual_hosts[0].routes[1].route.retry_policy.retry_on",
        "virtual_hosts[0].routes[2].match.cookies",
    ] {
        assert!(found.contains(&field.to_owned()), "{field}: {found:?}");
    }
    assert_eq!(found.len(), 5, "{found:?}");
}

pub(crate) fn address(host: &str, port: u32) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

fn endpoints(list: &[(&str, i32)]) -> endpoint::ClusterLoadAssignment {
    let one = |(host, health): &(&str, i32)| endpoint::LbEndpoint {
        health_status: *health,
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address(host, 80)),
            ..Default::default()
        })),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: "backend".to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality { zone: "eu-1a".to_owned(), ..Default::default() }),
            lb_endpoints: list.iter().map(one).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn endpoints_keep_their_zone_and_priority_and_what_is_said_of_their_health() {
    let mut message = endpoints(&[("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3), ("10.0.0.4", 0), ("10.0.0.5", 4)]);
    message.endpoints[0].priority = 2;
    let decoded = take(Kind::Endpoints, "backend", &message).expect("taken");
    let outrigger_xds::decode::What::Endpoints(list) = decoded.what else { panic!("no endpoints") };
    let conditions: Vec<Condition> = list.iter().map(|endpoint| endpoint.condition).collect();
    use Condition::{Draining, Healthy, Unhealthy};
    assert_eq!(conditions, [Healthy, Unhealthy, Draining, Healthy, Unhealthy]);
    assert!(list.iter().all(|endpoint| endpoint.zone.as_deref() == Some("eu-1a") && endpoint.priority == 2));

    message.endpoints[0].priority = 128;
    assert_eq!(fields(take(Kind::Endpoints, "backend", &message)).len(), 5);
    let degraded = endpoints(&[("10.0.0.1", 5)]);
    assert_eq!(fields(take(Kind::Endpoints, "backend", &degraded)), ["endpoints[0].lb_endpoints[0].health_status"]);
}

#[test]
fn labels_are_those_of_envoys_subsets() {
    let text = |text: &str| protobuf::Value { kind: Some(protobuf::value::Kind::StringValue(text.to_owned())) };
    let labels = |list: &[(&str, &str)]| core::Metadata {
        filter_metadata: HashMap::from([(
            "envoy.lb".to_owned(),
            protobuf::Struct { fields: list.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect() },
        )]),
        ..Default::default()
    };
    let mut message = endpoints(&[("10.0.0.1", 1)]);
    message.endpoints[0].lb_endpoints[0].metadata = Some(labels(&[("version", "v2"), ("track", "a")]));
    let decoded = take(Kind::Endpoints, "backend", &message).expect("taken");
    let outrigger_xds::decode::What::Endpoints(list) = decoded.what else { panic!("no endpoints") };
    assert_eq!(list[0].labels, Labels::from([("track".into(), "a".into()), ("version".into(), "v2".into())]));

    let action = route::RouteAction { metadata_match: Some(labels(&[("version", "v2")])), ..Default::default() };
    let table = table(&host(vec![forwarding(prefix("/"), action)]));
    let Action::Forward(backends) = &table.hosts[0].rules[0].action else { panic!("no backends") };
    assert_eq!(backends[0].subset, Labels::from([("version".into(), "v2".into())]));
}

pub(crate) fn eds(name: &str) -> cluster::Cluster {
    cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        ..Default::default()
    }
}

pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
        ..Default::default()
    }
}

#[test]
fn what_clusters_of_ours_do_not_do_is_refused_by_name() {
    let outliers = cluster::OutlierDetection {
        enforcing_consecutive_5xx: number(50),
        enforcing_failure_percentage: number(100),
        ..Default::default()
    };
    let message = cluster::Cluster {
        outlier_detection: Some(outliers),
        health_checks: vec![Default::default()],
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided as i32,
        upstream_bind_config: Some(Default::default()),
        ..eds("backend")
    };
    let refusals = take(Kind::Cluster, "backend", &message).expect_err("refused");
    let mut fields: Vec<&str> = refusals.iter().map(|refusal| &*refusal.field).collect();
    fields.sort_unstable();
    let expected = [
        "health_checks[0]",
        "lb_policy",
        "outlier_detection.enforcing_consecutive_5xx",
        "outlier_detection.enforcing_failure_percentage",
        "upstream_bind_config",
    ];
    assert_eq!(fields, expected);
    assert!(refusals.iter().all(|refusal| refusal.name == "backend" && refusal.type_url.ends_with("v3.Cluster")));
}

fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds, nanos: 0 })
}

fn taken(message: &cluster::Cluster) -> Cluster {
    let decoded = take(Kind::Cluster, "backend", message).unwrap_or_else(|refusals| panic!("{refusals:?}"));
    let outrigger_xds::decode::What::Cluster(one) = decoded.what else { panic!("no cluster") };
    one.cluster.clone()
}

#[test]
fn outlier_detection_is_envoys_with_its_defaults() {
    let read = |message: cluster::OutlierDetection| {
        taken(&cluster::Cluster { outlier_detection: Some(message), ..eds("backend") }).outlier_detection.expect("some")
    };
    let plain = read(Default::default());
    assert_eq!(plain, OutlierDetection { max_ejection_percent: 10, ..OutlierDetection::default() });
    let other = read(cluster::OutlierDetection {
        consecutive_5xx: number(7),
        consecutive_gateway_failure: number(3),
        enforcing_consecutive_gateway_failure: number(100),
        enforcing_success_rate: number(0),
        split_external_local_origin_errors: true,
        base_ejection_time: seconds(600),
        ..Default::default()
    });
    assert_eq!((other.consecutive_errors, other.consecutive_gateway_errors), (7, 3));
    assert_eq!((other.success_rate_min_hosts, other.split_local_origin), (0, true));
    assert_eq!((other.base_ejection, other.max_ejection), (Duration::from_secs(600), Duration::from_secs(600)));
}

#[test]
fn health_checks_are_envoys() {
    use core::health_check::{HealthChecker, HttpHealthCheck};
    use outrigger_xds::envoy::r#type::v3::Int64Range;
    let http = HttpHealthCheck {
        path: "/healthz".to_owned(),
        host: "app.local".to_owned(),
        expected_statuses: vec![Int64Range { start: 200, end: 300 }],
        ..Default::default()
    };
    let check = core::HealthCheck {
        timeout: seconds(2),
        interval: seconds(20),
        interval_jitter: seconds(1),
        unhealthy_threshold: number(4),
        healthy_threshold: number(2),
        health_checker: Some(HealthChecker::HttpHealthCheck(http)),
        ..Default::default()
    };
    let read = taken(&cluster::Cluster { health_checks: vec![check.clone()], ..eds("backend") });
    let read = read.health_check.expect("a check");
    let Probe::Http { path, host, expected, .. } = &read.probe else { panic!("{read:?}") };
    assert_eq!((&**path, host.as_deref(), &expected[..]), ("/healthz", Some("app.local"), &[200..=299][..]));
    assert_eq!((read.interval, read.timeout, read.jitter), (Duration::from_secs(20), Duration::from_secs(2), 5));
    assert_eq!((read.healthy_threshold, read.unhealthy_threshold), (2, 4));

    let two = cluster::Cluster { health_checks: vec![check.clone(), check], ..eds("backend") };
    assert_eq!(fields(take(Kind::Cluster, "backend", &two)), ["health_checks[1]"]);
}

#[test]
fn balancing_is_envoys() {
    use cluster::cluster::common_lb_config::ConsistentHashingLbConfig;
    use cluster::cluster::{CommonLbConfig, LbConfig, LbPolicy, RoundRobinLbConfig, SlowStartConfig};
    use outrigger_xds::envoy::r#type::v3::Percent;
    let hashing = cluster::Cluster {
        lb_policy: LbPolicy::Maglev as i32,
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            consistent_hashing_lb_config: Some(ConsistentHashingLbConfig {
                hash_balance_factor: number(125),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..eds("backend")
    };
    let balance = taken(&hashing).balance;
    assert_eq!((balance.policy, balance.bounded_load, balance.panic_threshold), (BalancePolicy::Maglev, Some(125), 0));
    let unbound = taken(&cluster::Cluster { common_lb_config: None, ..hashing.clone() }).balance;
    assert_eq!((unbound.bounded_load, unbound.panic_threshold), (None, 50));

    let slow = SlowStartConfig { slow_start_window: seconds(60), ..Default::default() };
    let options = LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(slow) });
    let slow = taken(&cluster::Cluster { lb_config: Some(options), ..eds("backend") }).balance;
    assert_eq!(slow.slow_start, Some(SlowStart { window: Duration::from_secs(60), min_weight: 10, aggression: 1.0 }));

    let out_of_bounds = ConsistentHashingLbConfig { hash_balance_factor: number(5_000), ..Default::default() };
    let common = CommonLbConfig { consistent_hashing_lb_config: Some(out_of_bounds), ..Default::default() };
    let message = cluster::Cluster { common_lb_config: Some(common), ..hashing };
    assert_eq!(fields(take(Kind::Cluster, "backend", &message)), ["balance.bounded_load"]);
}

#[test]
fn hashes_mirrors_and_hedges_are_envoys() {
    use outrigger_xds::envoy::r#type::v3::FractionalPercent;
    use route::route_action::hash_policy::{ConnectionProperties, Header, PolicySpecifier};
    use route::route_action::{HashPolicy, RequestMirrorPolicy};
    let key = |specifier| HashPolicy { terminal: true, policy_specifier: Some(specifier) };
    let header = Header { header_name: "x-user".to_owned(), ..Default::default() };
    let half = FractionalPercent { numerator: 50, denominator: 0 };
    let action = route::RouteAction {
        hash_policy: vec![
            key(PolicySpecifier::Header(header)),
            key(PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })),
        ],
        request_mirror_policies: vec![RequestMirrorPolicy {
            cluster: "copies".to_owned(),
            runtime_fraction: Some(core::RuntimeFractionalPercent { default_value: Some(half), ..Default::default() }),
            ..Default::default()
        }],
        hedge_policy: Some(route::HedgePolicy { hedge_on_per_try_timeout: true, ..Default::default() }),
        retry_policy: Some(route::RetryPolicy {
            retry_on: "5xx,retriable-headers".to_owned(),
            per_try_timeout: seconds(1),
            retriable_headers: vec![route::HeaderMatcher { name: "x-again".to_owned(), ..Default::default() }],
            rate_limited_retry_back_off: Some(route::retry_policy::RateLimitedRetryBackOff {
                max_interval: seconds(60),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let table = table(&host(vec![forwarding(prefix("/"), action)]));
    let rule = &table.hosts[0].rules[0];
    let name = http::HeaderName::from_static("x-user");
    assert_eq!(rule.hash[0], HashKey { source: HashSource::Header(name), terminal: true });
    assert_eq!(rule.hash[1], HashKey { source: HashSource::SourceAddress, terminal: true });
    assert_eq!(rule.filters, [Filter::Mirror(Mirror { cluster: "copies".into(), share: Share(500_000) })]);
    let hedge = rule.hedge.expect("a hedge");
    assert_eq!((hedge.after, hedge.max), (HedgeAfter::Delay(Duration::from_secs(1)), 1));
    assert_eq!(rule.timeouts.backend_request.value, None);
    assert_eq!((rule.retry.on_headers.len(), rule.retry.max_pushback), (1, Duration::from_secs(60)));
}

#[test]
fn circuit_breakers_have_envoys_defaults() {
    let message = cluster::Cluster {
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![cluster::circuit_breakers::Thresholds {
                max_requests: Some(protobuf::UInt32Value { value: 7 }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..eds("backend")
    };
    let decoded = take(Kind::Cluster, "backend", &message).expect("taken");
    let outrigger_xds::decode::What::Cluster(one) = decoded.what else { panic!("no cluster") };
    assert_eq!(
        one.cluster.ceilings,
        Ceilings { max_requests: 7, max_pending: 1024, max_retries: 3, max_connections: 1024 }
    );
    assert_eq!(one.discovers_endpoints.as_deref(), Some("backend"));
}

pub(crate) fn listening(filters: Vec<hcm::HttpFilter>) -> listener::Listener {
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "x".to_owned(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: "main".to_owned(),
        })),
        http_filters: filters,
        ..Default::default()
    };
    listener::Listener {
        name: "edge".to_owned(),
        address: Some(address("127.0.0.1", 10_000)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![listener::Filter {
                name: "hcm".to_owned(),
                config_type: Some(listener::filter::ConfigType::TypedConfig(any(&manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn filter(name: &str, config: protobuf::Any, is_optional: bool) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        is_optional,
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

pub(crate) fn routing() -> hcm::HttpFilter {
    filter("router", any(&router::Router::default()), false)
}

fn unknown() -> protobuf::Any {
    protobuf::Any { type_url: "type.googleapis.com/example.Unknown".to_owned(), value: Vec::new() }
}

#[test]
fn an_unknown_filter_is_refused_unless_it_is_optional() {
    assert!(take(Kind::Listener, "edge", &listening(vec![filter("u", unknown(), true), routing()])).is_ok());
    let found = fields(take(Kind::Listener, "edge", &listening(vec![filter("u", unknown(), false), routing()])));
    assert_eq!(found, ["filter_chains[0].filters[0].typed_config.http_filters[0]"]);
}

#[test]
fn a_listener_waits_for_its_routes_and_a_route_does_not_wait_for_its_cluster() {
    let place = Place { file: "a".into(), line: 1, column: 1 };
    let settings = settings(&crate::model::empty(&place));
    let mut parts = Parts::default();
    parts.insert("edge", &take(Kind::Listener, "edge", &listening(vec![routing()])).expect("taken"));
    let first = assemble(&settings, &parts).expect("assembled");
    assert!(first.config.listeners.is_empty());
    assert_eq!(first.waiting, [outrigger_xds::Waiting::Routes { listener: "edge".into(), routes: "main".into() }]);

    let routes = host(vec![forwarding(prefix("/"), Default::default())]);
    parts.insert("main", &take(Kind::Route, "main", &routes).expect("taken"));
    let second = assemble(&settings, &parts).expect("assembled");
    assert_eq!(second.waiting, [outrigger_xds::Waiting::Cluster("backend".into())]);
    assert!(second.config.clusters["backend"].endpoints.is_empty());
    assert!(outrigger_config::built::check(second.config).is_ok());

    parts.insert("backend", &take(Kind::Cluster, "backend", &eds("backend")).expect("taken"));
    parts.insert("backend", &take(Kind::Endpoints, "backend", &endpoints(&[("10.0.0.1", 1)])).expect("taken"));
    let third = assemble(&settings, &parts).expect("assembled");
    assert_eq!(third.waiting, []);
    assert_eq!(third.config.clusters["backend"].endpoints.len(), 1);
    assert!(outrigger_config::built::check(third.config).is_ok());
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for kind in Kind::ALL {
        let refusals = decode(kind, "x", &[0xff, 0xff, 0x01], &context()).expect_err("refused");
        assert!(refusals[0].reason.contains("cannot be read"), "{refusals:?}");
    }
}

#[test]
fn settings_of_an_unknown_type_are_refused_on_the_route_that_has_them() {
    let mut one = forwarding(prefix("/"), Default::default());
    one.typed_per_filter_config = HashMap::from([("fault".to_owned(), unknown())]);
    let found = fields(take(Kind::Route, "main", &host(vec![one])));
    assert_eq!(found, ["virtual_hosts[0].routes[0].typed_per_filter_config[\"fault\"]"]);
}

#[test]
fn a_secret_that_names_a_file_is_refused_whatever_the_path() {
    use outrigger_xds::envoy::extensions::transport_sockets::tls::v3 as tls;
    for path in ["/etc/key.pem", "..", "/", ""] {
        let file = Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
            ..Default::default()
        });
        let certificate =
            tls::TlsCertificate { certificate_chain: file.clone(), private_key: file, ..Default::default() };
        let secret = tls::Secret { name: "s".to_owned(), r#type: Some(tls::secret::Type::TlsCertificate(certificate)) };
        let fields = fields(take(Kind::Secret, "s", &secret));
        assert_eq!(fields[0], "tls_certificate.certificate_chain.filename", "{path}");
    }
}

#[test]
fn a_policy_named_like_our_rest_allows_only_what_it_says() {
    use outrigger_xds::envoy::config::rbac::v3 as rbac;
    use outrigger_xds::envoy::extensions::filters::http::rbac::v3 as http_rbac;
    let policy = |port| rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(port) }],
        principals: vec![rbac::Principal { identifier: Some(rbac::principal::Identifier::Any(true)) }],
        ..Default::default()
    };
    for (rule, default, rules) in [
        (rbac::permission::Rule::DestinationPort(80), Access::Deny, 1),
        (rbac::permission::Rule::Any(true), Access::Allow, 0),
    ] {
        let guard = http_rbac::Rbac {
            rules: Some(rbac::Rbac { policies: HashMap::from([("*".to_owned(), policy(rule))]), ..Default::default() }),
            ..Default::default()
        };
        let message = listening(vec![filter("rbac", any(&guard), false), routing()]);
        let outrigger_xds::decode::What::Listener(decoded) =
            take(Kind::Listener, "edge", &message).expect("taken").what
        else {
            panic!("a listener");
        };
        let authorization = decoded.authorization.as_ref().expect("a policy");
        assert_eq!((authorization.default, authorization.rules.len()), (default, rules));
    }
}
