//! Micro benchmarks of the decisions on a request's path: fixed work, fixed seeds, the median of several rounds.
//!
//! `cargo bench --bench micro` measures; `-- --quick` (and `cargo test --benches`) only shows that everything runs.
//! `-- NAME` measures the lines whose name contains it.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::hash::Hash as _;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use outrigger::codec::headers::strip_hop_by_hop;
use outrigger::policy::authz::{Claims, Policy, Request};
use outrigger::policy::balance::{Balancer, Candidates};
use outrigger::policy::budget::BudgetUsage;
use outrigger::policy::deadline::{format_grpc_timeout, parse_grpc_timeout};
use outrigger::policy::ewma::AtomicEwma;
use outrigger::policy::forwarding::forwarded_for;
use outrigger::policy::host::parse_authority;
use outrigger::policy::path::normalize;
use outrigger::policy::rate::Rate;
use outrigger::policy::rng::Rng;
use outrigger::policy::route::{RouteQuery, RouteTable};
use outrigger::policy::weighted::Split;
use outrigger::telemetry::access_log::Entry;
use outrigger::telemetry::metrics::{AttemptOutcome, Finished, RouteLabels};
use outrigger::telemetry::{AccessLog, Metrics};
use outrigger::upstream::dns::{Answer, BoxFuture, Resolve};
use outrigger::upstream::{PickHint, Placement, RateState, Registry};
use outrigger_config::model::{
    self, Access, AccessAction, AccessOperation, AccessRule, AccessSource, Action, Authorization, BalancePolicy,
    EscapedSlashes, HeaderMatch, HostPattern, Match, PathMatch, PathOptions, Place, Retry, Rule, Setting, Timeouts,
    Trust, ValueMatch, VirtualHost,
};
use outrigger_config::spiffe::{IdentityPattern, SpiffeId};

fn main() {
    let bench = Bench::from_args(std::env::args().skip(1));
    routes(&bench);
    authorization(&bench);
    picks(&bench);
    clusters(&bench);
    text(&bench);
    counters(&bench);
    rates(&bench);
    telemetry(&bench);
}

/// A typical policy, and large ones by what their rules have in common.
fn authorization(bench: &Bench) {
    let id = |n: usize| format!("spiffe://mesh.local/ns/shop/sa/caller-{n}");
    let by = |n: usize| AccessSource {
        identities: vec![IdentityPattern::parse(&id(n)).expect("an identity")],
        ..AccessSource::default()
    };
    let at = |n: usize| AccessOperation {
        paths: vec![PathMatch::Prefix(format!("/v1/service-{n}").into())],
        methods: vec![Method::GET, Method::POST],
        ..AccessOperation::default()
    };
    let below = |n: usize| AccessOperation {
        paths: vec![PathMatch::Prefix(format!("/service-{n}").into())],
        ..AccessOperation::default()
    };
    let rule = |n: usize, from: Vec<AccessSource>, to: Vec<AccessOperation>| AccessRule {
        name: format!("rule-{n}").into(),
        action: if n.is_multiple_of(5) { AccessAction::Deny } else { AccessAction::Allow },
        shadow: false,
        from,
        to,
        claims: Vec::new(),
        place: place(),
    };
    let method = |n: usize| AccessOperation {
        not_methods: vec![if n.is_multiple_of(2) { Method::GET } else { Method::POST }],
        hosts: vec![HostPattern::Wildcard(format!("host-{n}.svc").into())],
        ..AccessOperation::default()
    };
    let policy = |rules: Vec<AccessRule>| {
        Policy::compile(&Authorization { name: "p".into(), default: Access::Deny, rules, place: place() })
    };
    let headers = HeaderMap::new();
    let decide = |name: &str, policy: &Policy, path: &str, caller: usize| {
        let identity = SpiffeId::parse(&id(caller)).expect("an identity");
        let route = RouteQuery {
            host: "payments.shop.svc",
            port: None,
            path,
            query: None,
            method: &Method::GET,
            headers: &headers,
            is_grpc: false,
        };
        let address = std::net::Ipv4Addr::new(10, 1, 2, 3).into();
        let request = Request { route: &route, identity: Some(&identity), address, port: 15006, claims: Claims::None };
        bench.run(name, |_| policy.decide(&request));
    };
    let typical = policy((0..10).map(|n| rule(n, vec![by(n)], vec![at(n)])).collect());
    decide("authorization, 10 rules, the last allows", &typical, "/v1/service-9/charges/17", 9);
    decide("authorization, 10 rules, none matches", &typical, "/v1/other/charges/17", 77);
    decide("authorization, 10 rules, a path with two readings", &typical, "/v1/service-9/charges;v=1/17", 9);
    let identities = policy((0..1000).map(|n| rule(n, vec![by(n)], vec![at(n)])).collect());
    decide("authorization, 1000 rules by identity", &identities, "/v1/service-999/charges/17", 999);
    let paths = policy((0..1000).map(|n| rule(n, Vec::new(), vec![below(n)])).collect());
    decide("authorization, 1000 rules by path", &paths, "/service-999/charges/17", 999);
    let unfiled = policy((0..1000).map(|n| rule(n, Vec::new(), vec![method(n)])).collect());
    decide("authorization, 1000 rules that cannot be filed", &unfiled, "/v1/charges/17", 999);
}

/// Measures and prints.
struct Bench {
    effort: Effort,
    only: Option<String>,
}

#[derive(Clone, Copy)]
enum Effort {
    Measure,
    Smoke,
}

impl Bench {
    /// Without `--bench`, which `cargo bench` adds, it is a smoke test.
    fn from_args(args: impl Iterator<Item = String>) -> Self {
        let args: Vec<String> = args.collect();
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        let effort = if has("--bench") && !has("--quick") { Effort::Measure } else { Effort::Smoke };
        Self { effort, only: args.into_iter().find(|arg| !arg.starts_with('-')) }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    /// Prints nanoseconds an operation. `operation` gets the number of the repetition.
    fn run<T>(&self, name: &str, mut operation: impl FnMut(usize) -> T) {
        if !self.wants(name) {
            return;
        }
        let (rounds, repetitions) = match self.effort {
            Effort::Measure => (21, 20_000),
            Effort::Smoke => (1, 100),
        };
        let mut round = || {
            let start = Instant::now();
            for repetition in 0..repetitions {
                black_box(operation(black_box(repetition)));
            }
            start.elapsed().as_nanos() as f64 / repetitions as f64
        };
        round();
        let mut results: Vec<f64> = (0..rounds).map(|_| round()).collect();
        results.sort_by(f64::total_cmp);
        match self.effort {
            Effort::Measure => println!("{name:<44} {:>9.1} ns  (best {:.1})", results[rounds / 2], results[0]),
            Effort::Smoke => println!("{name:<44} runs"),
        }
    }
}

/// Ten against ten thousand: the figures of a pair should be alike.
fn routes(bench: &Bench) {
    let exact = |name: String| HostPattern::Exact(name.into());
    let wildcard = |name: String| HostPattern::Wildcard(name.into());
    let many = match bench.effort {
        Effort::Measure => 10_000,
        // Compiling ten thousand patterns without optimisation takes a while.
        Effort::Smoke => 100,
    };
    for count in [10, many] {
        let hosts = (0..count).map(|n| host(vec![exact(format!("service-{n}.shop.svc"))], vec![rule(prefix("/shop"))]));
        find(bench, &format!("route/exact host of {count}"), hosts, |n| {
            sample(&format!("service-{n}.shop.svc"), path("a"))
        });
        let hosts = (0..count).map(|n| host(vec![wildcard(format!("zone-{n}.example"))], vec![rule(prefix("/shop"))]));
        find(bench, &format!("route/wildcard host of {count}"), hosts, |n| {
            sample(&format!("a.b.zone-{n}.example"), path("a"))
        });
        let rules = (0..count).map(|n| rule(prefix(&format!("/shop/dept-{n}"))));
        find(bench, &format!("route/prefix of {count}"), one(rules), |n| sample("h", path(&format!("dept-{n}"))));
        let rules = (0..count).map(|n| rule(exact_path(&path(&format!("dept-{n}")))));
        find(bench, &format!("route/exact path of {count}"), one(rules), |n| sample("h", path(&format!("dept-{n}"))));
        let rules = (0..count).map(|n| rule(pattern(&format!("/shop/dept-{n}/items/[0-9]+"))));
        find(bench, &format!("route/pattern of {count}"), one(rules), |n| sample("h", path(&format!("dept-{n}"))));
        let rules = (0..count).map(|n| rule(with_header(prefix("/shop"), "x-tenant", &format!("tenant-{n}"))));
        find(bench, &format!("route/header value of {count}"), one(rules), |n| {
            let mut sample = sample("h", path("a"));
            sample.headers.insert("x-tenant", value(&format!("tenant-{n}")));
            sample
        });
    }
    for count in [10, many / 10] {
        let rules = (0..count).map(|n| rule(pattern(&format!("/[a-z]+/dept-{n}/items/[0-9]+"))));
        find(bench, &format!("route/pattern without literal of {count}"), one(rules), |n| {
            sample("h", path(&format!("dept-{n}")))
        });
    }
}

/// Asks for eight of the rules in turn, spread over the table, the last one among them.
fn find(bench: &Bench, name: &str, hosts: impl Iterator<Item = VirtualHost>, request: impl Fn(usize) -> Sample) {
    if !bench.wants(name) {
        return;
    }
    let table = RouteTable::compile(&model::RouteTable { name: "bench".into(), hosts: hosts.collect() });
    let last = table.len() - 1;
    let wanted: Vec<usize> = (1..=8).map(|eighth| last * eighth / 8).collect();
    let samples: Vec<Sample> = wanted.iter().map(|&rule| request(rule)).collect();
    for (sample, rule) in samples.iter().zip(wanted) {
        assert_eq!(table.find(&sample.query()).map(|hit| hit.rule), Some(rule), "{name}");
    }
    bench.run(name, |n| table.find(&samples[n % 8].query()));
}

struct Sample {
    host: String,
    path: String,
    headers: HeaderMap,
}

impl Sample {
    fn query(&self) -> RouteQuery<'_> {
        RouteQuery {
            host: &self.host,
            port: None,
            path: &self.path,
            query: None,
            method: &Method::GET,
            headers: &self.headers,
            is_grpc: false,
        }
    }
}

/// A request with the usual headers.
fn sample(host: &str, path: String) -> Sample {
    Sample { host: host.to_owned(), path, headers: usual_headers() }
}

fn path(department: &str) -> String {
    format!("/shop/{department}/items/17")
}

fn usual_headers() -> HeaderMap {
    [
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("x-request-id", "0c7a4f6e-8d0b-4b6e-9a53-5f0f6b5d7c11"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("authorization", "Bearer 0123456789abcdef"),
        ("connection", "keep-alive"),
        ("te", "trailers"),
    ]
    .into_iter()
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .collect()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("visible ASCII")
}

fn one(rules: impl Iterator<Item = Rule>) -> impl Iterator<Item = VirtualHost> {
    std::iter::once(host(vec![HostPattern::Any], rules.collect()))
}

fn host(hostnames: Vec<HostPattern>, rules: Vec<Rule>) -> VirtualHost {
    VirtualHost { hostnames, rules, place: place() }
}

fn when(path: PathMatch) -> Match {
    Match { path, method: None, headers: Vec::new(), query: Vec::new(), grpc: false }
}

fn prefix(path: &str) -> Match {
    when(PathMatch::Prefix(path.into()))
}

fn exact_path(path: &str) -> Match {
    when(PathMatch::Exact(path.into()))
}

fn pattern(text: &str) -> Match {
    when(PathMatch::Regex(regex::Regex::new(&format!("^(?:{text})$")).expect("a valid pattern")))
}

fn with_header(condition: Match, name: &'static str, value: &str) -> Match {
    let header = HeaderMatch { name: HeaderName::from_static(name), value: ValueMatch::Exact(value.into()) };
    Match { headers: vec![header], ..condition }
}

fn rule(condition: Match) -> Rule {
    Rule {
        hedge: None,
        breaker: None,
        hash: Vec::new(),
        session: None,
        rate_limits: Vec::new(),
        global_rate_limits: Vec::new(),
        criticality: None,
        name: "rule".into(),
        matches: vec![condition],
        filters: Vec::new(),
        action: Action::Forward(Vec::new()),
        timeouts: Timeouts { request: setting(None), backend_request: setting(None), idle: setting(None) },
        retry: Retry {
            attempts: setting(0),
            on: Vec::new(),
            non_idempotent: false,
            backoff_base: Duration::ZERO,
            backoff_max: Duration::ZERO,
            ..Retry::default()
        },
        external_authorization: true,
        place: place(),
    }
}

fn setting<T>(value: T) -> Setting<T> {
    Setting { value, place: None }
}

fn place() -> Place {
    Place { file: "bench".into(), line: 1, column: 1 }
}

struct Endpoints {
    in_flight: Vec<u32>,
    latency: Vec<AtomicEwma>,
    now: Instant,
}

impl Endpoints {
    fn new(count: usize) -> Self {
        let mut rng = Rng::new(1);
        let start = Instant::now();
        Self {
            in_flight: (0..count).map(|_| rng.below(20) as u32).collect(),
            latency: (0..count).map(|n| AtomicEwma::new((n % 100) as f64 / 1e3, start)).collect(),
            now: start + Duration::from_secs(3),
        }
    }
}

impl Candidates for Endpoints {
    fn in_flight(&self, index: usize) -> u32 {
        self.in_flight[index]
    }
    fn latency(&self, index: usize) -> f64 {
        self.latency[index].read(self.now)
    }
    fn eligible(&self, _: usize) -> bool {
        true
    }
}

fn picks(bench: &Bench) {
    for (name, policy) in [
        ("roundRobin", BalancePolicy::RoundRobin),
        ("random", BalancePolicy::Random),
        ("leastRequest", BalancePolicy::LeastRequest),
        ("peakEwma", BalancePolicy::PeakEwma),
    ] {
        for count in [3, 10_000] {
            let endpoints = Endpoints::new(count);
            let mut rng = Rng::new(2);
            let equal = Balancer::new(policy, vec![1; count], 0);
            bench.run(&format!("pick/{name} of {count}"), |_| equal.pick(&endpoints, &mut rng));
            let weighted = Balancer::new(policy, (1..=count as u32).map(|n| n % 100 + 1), 0);
            bench.run(&format!("pick/{name} of {count}, weighted"), |_| weighted.pick(&endpoints, &mut rng));
        }
    }
    let split = Split::new([95, 5]).expect("not all zero");
    let mut rng = Rng::new(3);
    bench.run("pick/backend of 2", |_| split.pick(rng.next_u64()));
}

/// Names are not resolved here.
struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("no names here".to_owned()) })
    }
}

/// Whole picks, with what is counted.
fn clusters(bench: &Bench) {
    for count in [3, 10_000] {
        for (name, settings, more) in [
            ("least request", "", ""),
            ("by zone", "loadBalancing: { locality: preferZone }", "zone"),
            ("by priority", "", "priority"),
            ("maglev", "loadBalancing: { policy: maglev }", ""),
        ] {
            let name = format!("pick/cluster of {count}, {name}");
            if !bench.wants(&name) {
                continue;
            }
            let endpoint = |n: usize| {
                let more = match more {
                    "zone" => format!(", zone: z{}", n % 3),
                    "priority" => format!(", priority: {}", n % 2),
                    _ => String::new(),
                };
                format!("{{ address: \"10.{}.{}.{}:80\"{more} }}", n >> 16, n >> 8 & 255, n & 255)
            };
            let endpoints: Vec<String> = (0..count).map(endpoint).collect();
            let text = format!(
                "listeners: [{{ name: l, bind: 127.0.0.1:0, routes: r }}]\n\
                 routes: {{ r: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
                 clusters:\n  c:\n    {settings}\n    endpoints: [{}]\n",
                endpoints.join(", ")
            );
            let loaded = outrigger_config::load("bench.yaml", &text).expect("valid");
            let registry = Registry::new(1, Metrics::new(), Box::new(NoNames));
            let placement = Placement { zone: Some("z0".into()), subsets: Vec::new() };
            let cluster = registry.placed(&loaded.config.clusters["c"], None, placement);
            let now = Instant::now();
            let mut rng = Rng::new(5);
            bench.run(&name, |n| {
                let hash = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let hint = PickHint { hash: Some(hash).filter(|_| name.ends_with("maglev")), ..PickHint::default() };
                cluster.pick(&hint, &mut rng, now).is_ok()
            });
        }
    }
}

fn text(bench: &Bench) {
    let options = PathOptions { merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };
    let normal = "/v1/charges/ch_3MmlLrLkdIwHu7ix0snN0B15/refunds?expand[]=customer&limit=100";
    bench.run("path/already normal", |_| normalize(black_box(normal), options).is_ok());
    bench.run("path/rebuilt", |_| normalize(black_box("/v1//charges/./x/../%7euser/%c3%a9?limit=1"), options).is_ok());
    bench.run("host/already normal", |_| parse_authority(black_box("payments.shop.svc.cluster.local:8080")).is_ok());
    let headers = usual_headers();
    bench.run("headers/clone", |_| headers.clone());
    bench.run("headers/clone and strip hop-by-hop", |_| {
        let mut headers = headers.clone();
        strip_hop_by_hop(&mut headers);
        headers
    });
    let peer = "10.1.2.3".parse().expect("an address");
    bench.run("forwarding/replace", |_| forwarded_for(Trust::None, peer, ["203.0.113.7"]));
    bench.run("forwarding/append", |_| forwarded_for(Trust::Hops(1), peer, ["203.0.113.7, 10.9.9.9"]));
    bench.run("deadline/parse", |_| parse_grpc_timeout(black_box(b"2500m")));
    bench.run("deadline/format", |_| format_grpc_timeout(black_box(Duration::from_micros(2_499_317))));
}

fn counters(bench: &Bench) {
    let start = Instant::now();
    let ewma = AtomicEwma::new(0.03, start);
    bench.run("ewma/observe", |n| ewma.observe(Duration::from_micros(900), start + Duration::from_micros(n as u64)));
    bench.run("ewma/read", |n| ewma.read(start + Duration::from_micros(n as u64)));
    let budget = BudgetUsage::new(start);
    let limits = model::RetryBudget { percent: 20, min_per_second: 3 };
    bench.run("budget/deposit", |n| budget.deposit(start + Duration::from_micros(n as u64)));
    bench.run("budget/withdraw", |n| budget.try_withdraw(limits, start + Duration::from_micros(n as u64)));
}

/// Rate limits that are never reached.
fn rates(bench: &Bench) {
    let (start, metrics) = (Instant::now(), Metrics::new());
    let limit = model::RateLimit {
        name: "per-caller".into(),
        by: Vec::new(),
        requests: 1_000_000_000,
        per: Duration::from_secs(1),
        burst: 1_000_000_000,
        shadow: false,
    };
    let rate = Rate::of(&limit);
    let state = RateState::new(metrics.rate_limit(&limit.name), start);
    let at = |n: usize| start + Duration::from_micros(n as u64);
    bench.run("rate/one for all", |n| state.take(None, &rate, at(n)));
    bench.run("rate/one of 10,000 keys", |n| {
        let key = state.key(|hasher| (n % 10_000).hash(hasher));
        state.take(Some(key), &rate, at(n))
    });
}

fn telemetry(bench: &Bench) {
    let metrics = Metrics::new();
    let labels = RouteLabels { listener: "inbound".into(), route: "charges".into(), cluster: "payments-v1".into() };
    let route = metrics.route(&labels);
    bench.run("metrics/request", |n| {
        route.started();
        route.finished(&Finished {
            status: 200,
            grpc_status: None,
            reason: "",
            duration: Duration::from_micros(n as u64),
            request_bytes: 100,
            response_bytes: 1024,
        });
    });
    let cluster = metrics.cluster(&"payments-v1".into());
    bench.run("metrics/attempt", |_| cluster.attempted(AttemptOutcome::Success));
    let log = AccessLog::off(&metrics);
    let entry = log_entry();
    bench.run("log/line while off", |_| log.submit(&entry));
    // More lines than the writer can take are dropped, after they were formatted.
    let sink = AccessLog::open(&model::AccessLog::File("/dev/null".into())).expect("/dev/null opens");
    log.switch(sink).expect("the writer starts");
    bench.run("log/line", |_| log.submit(&entry));
}

fn log_entry() -> Entry<'static> {
    Entry {
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        method: "POST",
        authority: Some("payments.shop.svc"),
        path: "/v1/charges/8f14e45f?expand=customer",
        protocol: Version::HTTP_2,
        status: 200,
        reason: "",
        details: "",
        bytes_received: 100,
        bytes_sent: 1024,
        duration: Duration::from_micros(1234),
        upstream_time: Some(Duration::from_micros(1100)),
        upstream_host: Some(([10, 0, 0, 7], 15006).into()),
        upstream_cluster: Some("payments-v1"),
        route: Some("charges"),
        listener: "inbound",
        request_id: Some(b"de3d9707-332f-4211-b1a0-6af295b165f5"),
        x_forwarded_for: Some(b"10.0.0.3"),
        user_agent: Some(b"grpc-go/1.70.0"),
        peer: ([10, 0, 0, 3], 40000).into(),
        attempts: 1,
        grpc_status: Some(0),
        peer_identity: Some("spiffe://mesh.local/ns/shop/sa/cart"),
        tls_version: Some("TLSv1.3"),
        authz_rule: Some("allow-cart"),
        authz_shadow: None,
        authz_audit: None,
    }
}
