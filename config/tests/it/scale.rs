//! A large file loads in a time that grows with its size, not with its square.

use std::fmt::Write as _;
use std::time::Duration;

use outrigger_config::{Loaded, load};

/// A configuration with `n` hosts of one rule each and `n` clusters.
fn large(n: usize) -> String {
    let mut text = String::from("listeners: [{ name: a, bind: 127.0.0.1:1, routes: r }]\nroutes:\n  r:\n");
    for i in 0..n {
        let _ = write!(
            text,
            "    - hostnames: [h{i}.example, \"*.w{i}.example\"]\n      rules:\n        - name: rule-{i}\n          matches: \
             [{{ path: {{ prefix: /v{i}/a/b }}, method: GET }}]\n          timeouts: {{ request: 2s }}\n          \
             backendRefs: [{{ cluster: c{i} }}]\n"
        );
    }
    text.push_str("clusters:\n");
    for i in 0..n {
        let _ = writeln!(text, "  c{i}: {{ protocol: http2, endpoints: [10.0.{}.{}:80] }}", i / 256, i % 256);
    }
    text
}

/// A table with `n` rules under one host.
fn long(n: usize) -> String {
    let mut text =
        String::from("listeners: [{ name: a, bind: 127.0.0.1:1, routes: r }]\nroutes:\n  r:\n    - rules:\n");
    for i in 0..n {
        let _ = writeln!(
            text,
            "        - {{ matches: [{{ path: {{ exact: /a/{i} }} }}], backendRefs: [{{ cluster: c }}] }}"
        );
    }
    text.push_str("clusters: { c: { endpoints: [127.0.0.1:2] } }\n");
    text
}

fn timed(text: &str) -> (Loaded, Duration) {
    let start = spent();
    let loaded = load("large.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    (loaded, spent().saturating_sub(start))
}

/// What this thread has had of a processor, so that a busy machine does not decide.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanos = stat.split_whitespace().next().and_then(|first| first.parse().ok()).expect("nanoseconds come first");
    Duration::from_nanos(nanos)
}

/// Fastest of three.
fn fastest(text: &str) -> Duration {
    (0..3).map(|_| timed(text).1).min().unwrap_or_default()
}

#[test]
fn ten_thousand_routes_load_in_seconds_even_unoptimised() {
    let (loaded, time) = timed(&large(10_000));
    assert_eq!(loaded.config.routes["r"].hosts.len(), 10_000);
    assert_eq!(loaded.config.clusters.len(), 10_000);
    assert!(loaded.warnings.is_empty());
    assert!(time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn time_grows_with_the_size_and_not_with_its_square() {
    for make in [large, long] {
        let (small, big) = (fastest(&make(1_000)), fastest(&make(8_000)));
        // Eight times the work; its square would be sixty-four times.
        assert!(big < small * 24, "{small:?} {big:?}");
    }
}

#[test]
fn many_dangling_references_do_not_cost_a_guess_each() {
    let text = large(10_000).replace("cluster: c", "cluster: k");
    let start = spent();
    let problems = load("large.yaml", &text).expect_err("nothing is defined");
    assert_eq!(problems.errors() + problems.left_out(), 10_000);
    let time = spent().saturating_sub(start);
    assert!(time < Duration::from_secs(20), "{time:?}");
}
