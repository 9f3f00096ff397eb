use super::*;

fn labels(route: &str) -> RouteLabels {
    RouteLabels { listener: "in".into(), route: route.into(), cluster: "c".into() }
}

fn finished(status: u16) -> Finished {
    Finished {
        status,
        grpc_status: None,
        reason: "",
        duration: Duration::from_millis(3),
        request_bytes: 10,
        response_bytes: 20,
    }
}

/// The value of a sample, by its whole name with labels.
fn value(text: &str, sample: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_finished_request_shows_in_every_family_of_its_route() {
    let metrics = Metrics::new();
    let route = metrics.route(&labels("r"));
    route.started();
    route.started();
    route.finished(&Finished { grpc_status: Some(14), reason: "UF", ..finished(200) });
    let text = metrics.encode();
    let base = r#"{listener="in",route="r",cluster="c""#;
    for (sample, expected) in [
        (format!("outrigger_requests_total{base},class=\"2xx\"}}"), 1.0),
        (format!("outrigger_requests_in_flight{base}}}"), 1.0),
        (format!("outrigger_request_bytes_total{base}}}"), 10.0),
        (format!("outrigger_response_bytes_total{base}}}"), 20.0),
        (format!("outrigger_local_responses_total{base},reason=\"UF\"}}"), 1.0),
        (format!("outrigger_grpc_responses_total{base},grpc_status=\"14\"}}"), 1.0),
        (format!("outrigger_request_duration_seconds_bucket{base},le=\"0.0025\"}}"), 0.0),
        (format!("outrigger_request_duration_seconds_bucket{base},le=\"0.005\"}}"), 1.0),
        (format!("outrigger_request_duration_seconds_bucket{base},le=\"+Inf\"}}"), 1.0),
        (format!("outrigger_request_duration_seconds_sum{base}}}"), 0.003),
        (format!("outrigger_request_duration_seconds_count{base}}}"), 1.0),
    ] {
        assert_eq!(value(&text, &sample), Some(expected), "{sample}\n{text}");
    }
}

#[test]
fn statuses_outside_the_classes_do_not_panic() {
    let metrics = Metrics::new();
    let route = metrics.route(&labels("r"));
    for status in [0, 99, 600, u16::MAX] {
        route.started();
        route.finished(&Finished { grpc_status: Some(u8::MAX), ..finished(status) });
    }
    let text = metrics.encode();
    let none = r#"outrigger_requests_total{listener="in",route="r",cluster="c",class="none"}"#;
    assert_eq!(value(&text, none), Some(4.0), "{text}");
}

#[test]
fn routes_over_the_limit_count_as_other() {
    let metrics = Metrics::with_limits(1, 1);
    let routes: Vec<_> = ["a", "b", "c"].iter().map(|name| metrics.route(&labels(name))).collect();
    for route in &routes {
        route.started();
        route.finished(&finished(200));
    }
    let text = metrics.encode();
    let other = r#"outrigger_requests_total{listener="other",route="other",cluster="other",class="2xx"}"#;
    assert_eq!(value(&text, other), Some(2.0));
    assert_eq!(text.matches("outrigger_requests_in_flight{").count(), 2);
}

#[test]
fn a_route_that_was_never_used_is_not_exposed() {
    let metrics = Metrics::new();
    let _unused = metrics.route(&labels("r"));
    assert!(!metrics.encode().contains("route=\"r\""));
}

#[test]
fn metrics_go_a_minute_after_their_last_handle_and_not_before() {
    let metrics = Metrics::new();
    let route = metrics.route(&labels("r"));
    route.started();
    let start = Instant::now();
    metrics.sweep(start + limits::METRIC_LINGER * 3);
    assert!(metrics.encode().contains("route=\"r\""), "a handle is held");

    drop(route);
    metrics.sweep(start);
    metrics.sweep(start + limits::METRIC_LINGER - Duration::from_secs(1));
    assert!(metrics.encode().contains("route=\"r\""), "it lingers");
    metrics.sweep(start + limits::METRIC_LINGER);
    assert!(!metrics.encode().contains("route=\"r\""));
}

#[test]
fn a_route_that_comes_back_while_it_lingers_goes_on_counting() {
    let metrics = Metrics::new();
    let start = Instant::now();
    let route = metrics.route(&labels("r"));
    route.started();
    drop(route);
    metrics.sweep(start);
    let again = metrics.route(&labels("r"));
    metrics.sweep(start + limits::METRIC_LINGER * 2);
    again.started();
    let gauge = r#"outrigger_requests_in_flight{listener="in",route="r",cluster="c"}"#;
    assert_eq!(value(&metrics.encode(), gauge), Some(2.0));
}

#[test]
fn cluster_and_listener_numbers_are_exposed() {
    let metrics = Metrics::new();
    let cluster = metrics.cluster(&"pay".into());
    cluster.attempted(AttemptOutcome::Cancelled);
    cluster.overflowed(Overflow::Connections);
    cluster.connected(Carrier::Http1);
    cluster.connected(Carrier::Http3);
    cluster.disconnected(Carrier::Http1);
    let listener = metrics.listener(&"in".into());
    listener.accepted();
    listener.detected(Detected::Closed);
    listener.refused("duplicate_host");
    let text = metrics.encode();
    for (sample, expected) in [
        (r#"outrigger_upstream_attempts_total{cluster="pay",outcome="cancelled"}"#, 1.0),
        (r#"outrigger_upstream_overflow_total{cluster="pay",kind="connections"}"#, 1.0),
        (r#"outrigger_upstream_connects_total{cluster="pay"}"#, 2.0),
        (r#"outrigger_upstream_connections{cluster="pay"}"#, 1.0),
        (r#"outrigger_connections{listener="in"}"#, 1.0),
        (r#"outrigger_protocol_detected_total{listener="in",protocol="closed"}"#, 1.0),
        (r#"outrigger_requests_refused_total{listener="in",code="duplicate_host"}"#, 1.0),
    ] {
        assert_eq!(value(&text, sample), Some(expected), "{sample}\n{text}");
    }
}

#[test]
fn every_line_is_valid_and_every_family_is_written_once() {
    let metrics = Metrics::new();
    let route = metrics.route(&labels("a \"quoted\"\nname"));
    route.started();
    route.finished(&finished(503));
    metrics.proxy.applied(3, std::time::SystemTime::now());
    metrics.proxy.refused();
    let text = metrics.encode();
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            families.push(rest.split(' ').next().expect("a name").to_owned());
        } else if !line.starts_with("# HELP ") {
            let (name, number) = line.rsplit_once(' ').expect("a name and a value");
            assert!(number.parse::<f64>().is_ok(), "{line}");
            let family = families.last().expect("a type before its samples");
            assert!(name.starts_with(family.as_str()), "{line} is not in {family}");
        }
    }
    let all = families.len();
    families.sort();
    families.dedup();
    assert_eq!(families.len(), all);
}

#[test]
fn more_words_than_the_limit_count_as_other() {
    let tally = Tally::default();
    for i in 0..limits::METRIC_CODES + 5 {
        tally.add(Box::leak(format!("code{i}").into_boxed_str()));
    }
    tally.add("code0");
    let mut counts = Vec::new();
    tally.read(&mut counts);
    assert_eq!(counts.len(), limits::METRIC_CODES + 1);
    assert!(counts.contains(&("other", 5)) && counts.contains(&("code0", 2)));
}
