//! Configurations made at random: every variant of every type, every reference leading somewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_config::model::*;
use outrigger_config::pattern;
use outrigger_config::spiffe::{IdentityPattern, TrustDomain};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::{opaque, resilience};

pub(crate) const CLUSTERS: [&str; 4] = ["alpha", "beta|80", "gamma.shop", "plain"];
const PROVIDERS: [&str; 2] = ["corp", "partner"];

pub(crate) fn place() -> impl Strategy<Value = Place> {
    (select(vec!["a.yaml", "b/c.yaml"]), 1..9_u32, 1..9_u32).prop_map(|(file, line, column)| Place {
        file: file.into(),
        line,
        column,
    })
}

fn text(list: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(list).prop_map(Arc::from)
}

fn texts(list: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<Arc<str>>> {
    subsequence(list, least..=list.len()).prop_map(|list| list.into_iter().map(Arc::from).collect())
}

pub(crate) fn duration() -> impl Strategy<Value = Duration> {
    select(vec![
        Duration::from_micros(1500),
        Duration::from_millis(250),
        Duration::from_secs(1),
        Duration::from_secs(70),
    ])
}

pub(crate) fn duration_or_zero() -> impl Strategy<Value = Duration> {
    prop_oneof![1 => Just(Duration::ZERO), 3 => duration()]
}

fn whole() -> impl Strategy<Value = regex::Regex> {
    select(vec!["/a/[0-9]+", "(?i)x|y", "a\\.b", ".*"]).prop_map(|text| pattern::whole(text).expect("a pattern"))
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        Just(PathMatch::Any),
        text(&["/", "/a", "/a/", "/b%2Fc"]).prop_map(PathMatch::Exact),
        text(&["", "/v1", "/v1/x", "/shop.Payments"]).prop_map(PathMatch::Prefix),
        text(&["/s", "/t/", "/u/v"]).prop_map(PathMatch::Start),
        whole().prop_map(PathMatch::Regex),
        text(&["Charge", "Refund_1"]).prop_map(PathMatch::GrpcMethod),
    ]
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        text(&["", "a", "b c"]).prop_map(ValueMatch::Exact),
        text(&["", "a", "%"]).prop_map(ValueMatch::Prefix),
        whole().prop_map(ValueMatch::Regex),
        any::<bool>().prop_map(ValueMatch::Present),
    ]
}

pub(crate) fn header() -> impl Strategy<Value = HeaderMatch> {
    (select(vec!["host", "x-version", "content-type"]), value())
        .prop_map(|(name, value)| HeaderMatch { name: HeaderName::from_static(name), value })
}

fn query() -> impl Strategy<Value = QueryMatch> {
    (text(&["v", "q x"]), value()).prop_map(|(name, value)| QueryMatch { name, value })
}

fn one_match() -> impl Strategy<Value = Match> {
    (
        path(),
        of(select(vec![Method::GET, Method::POST, Method::CONNECT])),
        vec(header(), 0..3),
        vec(query(), 0..2),
        any::<bool>(),
    )
        .prop_map(|(path, method, headers, query, grpc)| {
            let method = if grpc { method.map(|_| Method::POST) } else { method };
            Match { path, method, headers, query, grpc }
        })
}

fn headers() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    let names = subsequence(vec!["x-a", "x-b", "x-c"], 0..=3);
    (names, vec(select(vec!["1", "", "100%", "a,b"]), 3)).prop_map(|(names, values)| {
        let pair = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        names.into_iter().zip(values).map(pair).collect()
    })
}

fn edit() -> impl Strategy<Value = HeaderEdit> {
    (subsequence(vec!["x-d", "x-a"], 0..=2), headers(), headers(), headers()).prop_map(|(remove, set, add, more)| {
        let remove = remove.into_iter().map(HeaderName::from_static).collect();
        HeaderEdit { remove, set, add: add.into_iter().chain(more).collect() }
    })
}

fn header_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![edit().prop_map(Filter::RequestHeaders), edit().prop_map(Filter::ResponseHeaders)]
}

fn rewrite() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![
        text(&["/", "/new", "/a/"]).prop_map(PathRewrite::Full),
        select(vec![("^/a/(?P<id>.*)$", "/b/${id}"), ("(x)(y)", "$2$1$$"), ("^.+$", "/z")]).prop_map(|(text, to)| {
            PathRewrite::Regex { pattern: pattern::inside(text).expect("a pattern"), substitution: to.into() }
        }),
    ]
}

fn prefix_rewrite() -> impl Strategy<Value = PathRewrite> {
    text(&["", "/", "/new", "/new/"]).prop_map(PathRewrite::Prefix)
}

fn url_rewrite(path: impl Strategy<Value = PathRewrite>) -> impl Strategy<Value = Filter> {
    (of(select(vec!["new.example", "new.example:8080"])), of(path)).prop_filter_map("nothing", |(hostname, path)| {
        let rewrite = UrlRewrite { hostname: hostname.map(HeaderValue::from_static), path };
        (rewrite.hostname.is_some() || rewrite.path.is_some()).then_some(Filter::UrlRewrite(rewrite))
    })
}

fn cors() -> impl Strategy<Value = Filter> {
    (
        texts(&["https://app.example", "https://*.example", "http://b.example:81"], 1),
        texts(&["GET", "POST"], 0),
        texts(&["x-a", "x-b"], 0),
        texts(&["x-c"], 0),
        any::<bool>(),
        duration_or_zero(),
        any::<bool>(),
    )
        .prop_map(|(mut origins, methods, headers, exposed, credentials, max_age, anybody)| {
            if anybody && !credentials {
                origins = vec!["*".into()];
            }
            Filter::Cors(Arc::new(Cors {
                allow_origins: origins,
                allow_methods: methods,
                allow_headers: headers,
                expose_headers: exposed,
                allow_credentials: credentials,
                max_age,
            }))
        })
}

fn filters(by_prefix: bool) -> impl Strategy<Value = Vec<Filter>> {
    let rewrite = if by_prefix { prefix_rewrite().boxed() } else { rewrite().boxed() };
    let disturbances = prop_oneof![3 => Just(Vec::new()), 1 => vec(resilience::disturbance(), 1..4)];
    (vec(header_filter(), 0..4), of(url_rewrite(rewrite)), of(cors()), disturbances).prop_flat_map(
        |(headers, rewrite, cors, disturbances)| {
            let all = headers.into_iter().chain(rewrite).chain(cors).chain(disturbances);
            Just(all.collect::<Vec<_>>()).prop_shuffle()
        },
    )
}

fn backends(filters: bool) -> impl Strategy<Value = Vec<BackendRef>> {
    let list = subsequence(CLUSTERS.to_vec(), 1..=3);
    let filters = if filters { vec(header_filter(), 0..3).boxed() } else { Just(Vec::new()).boxed() };
    let subset = prop_oneof![3 => Just(Labels::new()), 1 => resilience::labels()];
    (list, vec((0..4_u32, filters, subset), 4)).prop_map(|(names, rest)| {
        let one =
            |(name, (weight, filters, subset)): (&str, _)| BackendRef { cluster: name.into(), weight, subset, filters };
        let mut list: Vec<BackendRef> = names.into_iter().zip(rest).map(one).collect();
        if list.iter().all(|backend| backend.weight == 0) {
            list[0].weight = 1;
        }
        list
    })
}

fn action(by_prefix: bool) -> impl Strategy<Value = Action> {
    let path = if by_prefix { prefix_rewrite().boxed() } else { rewrite().boxed() };
    let redirect = (
        of(text(&["http", "https"])),
        text(&["new.example", "[::1]"]),
        of(select(vec![80_u16, 8443])),
        of(path),
        select(vec![301_u16, 302, 303, 307, 308]),
    );
    let direct = (select(vec![200_u16, 404, 599]), vec(any::<u8>(), 0..5), select(vec!["text/plain", "a/b; c=d"]));
    prop_oneof![
        4 => backends(true).prop_map(Action::Forward),
        1 => redirect.prop_map(|(scheme, hostname, port, path, status)| Action::Redirect(Redirect {
            scheme,
            hostname: Some(hostname),
            port,
            path,
            status: StatusCode::from_u16(status).expect("a status"),
        })),
        1 => direct.prop_map(|(status, body, media)| Action::Direct(DirectResponse {
            status: StatusCode::from_u16(status).expect("a status"),
            body: body.into(),
            content_type: HeaderValue::from_static(media),
        })),
    ]
}

fn setting() -> impl Strategy<Value = Setting<Option<Duration>>> {
    (of(duration()), of(place())).prop_map(|(value, place)| Setting { value, place })
}

fn retry() -> impl Strategy<Value = Retry> {
    let on = subsequence(
        vec![
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::Reset,
            RetryOn::GatewayError,
            RetryOn::ServerError,
            RetryOn::Status(503),
            RetryOn::Status(429),
            RetryOn::Grpc(1),
            RetryOn::Grpc(2),
            RetryOn::Grpc(14),
        ],
        0..=10,
    )
    .prop_shuffle();
    let more = (vec(header(), 0..2), any::<bool>(), duration_or_zero(), any::<bool>(), 0..=65_536_u32);
    (0..=5_u8, of(place()), on, any::<bool>(), duration(), of(more)).prop_map(
        |(value, place, on, non_idempotent, base, more)| {
            let retry = Retry {
                attempts: Setting { value, place },
                on,
                non_idempotent,
                backoff_base: base,
                backoff_max: base * 10,
                ..Retry::default()
            };
            match more {
                None => retry,
                Some((on_headers, idempotency_key, max_pushback, other_locality, buffer)) => {
                    Retry { on_headers, idempotency_key, max_pushback, other_locality, buffer, ..retry }
                }
            }
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    any::<bool>().prop_flat_map(|by_prefix| {
        let matches = if by_prefix {
            let prefix = text(&["", "/v1", "/v1/x"]).prop_map(PathMatch::Prefix);
            vec((one_match(), prefix).prop_map(|(one, path)| Match { path, grpc: false, ..one }), 1..4).boxed()
        } else {
            vec(one_match(), 0..4).boxed()
        };
        (
            matches,
            filters(by_prefix).boxed(),
            action(by_prefix).boxed(),
            (setting(), setting(), setting()).boxed(),
            retry().boxed(),
            (any::<bool>(), said()).boxed(),
            place(),
        )
            .prop_map(|(matches, filters, action, timeouts, retry, (external_authorization, said), place)| {
                Rule {
                    hedge: said.0,
                    breaker: said.1,
                    hash: said.2,
                    session: said.3,
                    rate_limits: said.4,
                    global_rate_limits: said.5,
                    criticality: said.6,

                    name: Arc::from(""),
                    matches,
                    filters,
                    action,
                    timeouts: Timeouts { request: timeouts.0, backend_request: timeouts.1, idle: timeouts.2 },
                    retry,
                    external_authorization,
                    place,
                }
            })
    })
}

type Said = (
    Option<Hedge>,
    Option<Breaker>,
    Vec<HashKey>,
    Option<SessionPersistence>,
    Vec<RateLimit>,
    Vec<GlobalRateLimit>,
    Option<Criticality>,
);

/// Half of the rules say nothing of these.
fn said() -> impl Strategy<Value = Said> {
    let all = (
        of(resilience::hedge()),
        of(resilience::breaker()),
        resilience::hash(),
        of(resilience::session()),
        vec(resilience::rate_limit(), 0..3),
        vec(resilience::global(), 0..3),
        resilience::criticality(),
    );
    of(all.boxed()).prop_map(Option::unwrap_or_default).boxed()
}

fn table(name: &'static str) -> impl Strategy<Value = RouteTable> {
    let patterns = vec![
        HostPattern::Any,
        HostPattern::Wildcard("example.com".into()),
        HostPattern::Exact("a.example.com".into()),
        HostPattern::Exact("[::1]".into()),
    ];
    (Just(patterns).prop_shuffle(), 1..4_usize, vec((vec(rule().boxed(), 0..3), place()).boxed(), 2)).prop_map(
        move |(patterns, split, hosts)| {
            let (first, second) = patterns.split_at(split);
            let mut table = RouteTable { name: name.into(), hosts: Vec::new() };
            for (at, (names, (rules, place))) in [first, second].into_iter().zip(hosts).enumerate() {
                let name = |(number, rule): (usize, Rule)| Rule { name: format!("{at}/{number}").into(), ..rule };
                let rules = rules.into_iter().enumerate().map(name).collect();
                table.hosts.push(VirtualHost { hostnames: names.to_vec(), rules, place });
            }
            table
        },
    )
}

fn files() -> impl Strategy<Value = CertificateFiles> {
    place().prop_map(|place| CertificateFiles {
        certificate: "/certs/own.pem".into(),
        private_key: "/certs/own.key".into(),
        place,
    })
}

fn identities(least: usize) -> impl Strategy<Value = Vec<IdentityPattern>> {
    let list = vec!["spiffe://mesh.local/ns/shop/sa/cart", "spiffe://mesh.local/ns/shop/*", "spiffe://other/*"];
    subsequence(list, least..=3)
        .prop_map(|list| list.into_iter().map(|text| IdentityPattern::parse(text).expect("an identity")).collect())
}

fn version() -> impl Strategy<Value = TlsVersion> {
    select(vec![TlsVersion::V1_2, TlsVersion::V1_3])
}

fn cluster_tls() -> impl Strategy<Value = ClusterTls> {
    let mode = prop_oneof![
        identities(1).prop_map(|peer_identities| ClusterTlsMode::Mutual { peer_identities }),
        (texts(&["a.example", "10.0.0.1", "::1"], 0), of(files())).prop_map(|(subject_names, certificate)| {
            ClusterTlsMode::Simple { trust_bundle: "/certs/roots.pem".into(), subject_names, certificate }
        }),
    ];
    (mode, of(text(&["sni.example"])), version(), place()).prop_map(|(mode, sni, min_version, place)| ClusterTls {
        mode,
        sni,
        min_version,
        place,
    })
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let targets = vec![
        Target::Address("10.0.0.1:80".parse().expect("an address")),
        Target::Address("[fd00::1]:81".parse().expect("an address")),
        Target::Address("10.0.0.2:65535".parse().expect("an address")),
        Target::Name { host: "db.example".into(), port: 5432 },
    ];
    let said = (select(vec![0_u8, 0, 1, 127]), resilience::labels(), resilience::condition());
    let one = (1..=1000_u32, of(text(&["eu-1a", "eu-1b"])), said);
    (subsequence(targets, 0..=4).prop_shuffle(), vec(one, 4)).prop_map(|(targets, rest)| {
        targets
            .into_iter()
            .zip(rest)
            .map(|(target, (weight, zone, (priority, labels, condition)))| Endpoint {
                target,
                weight,
                zone,
                priority,
                labels,
                condition,
            })
            .collect()
    })
}

fn cluster(name: &'static str) -> impl Strategy<Value = Cluster> {
    let protocol =
        select(vec![ClusterProtocol::Http1, ClusterProtocol::Http2, ClusterProtocol::Auto, ClusterProtocol::Http3]);
    let fit = (
        resilience::endpoint_ceilings(),
        resilience::breakers(),
        of(resilience::health_check(name == CLUSTERS[0])),
        of(resilience::outliers()),
        resilience::admission(),
    );
    let fit = prop_oneof![
        1 => Just((EndpointCeilings::default(), Breakers::default(), None, None, Admission::default())),
        1 => fit.boxed(),
    ]
    .boxed();
    let ceilings = (1..9_u32, 0..9_u32, 0..9_u32, 1..9_u32);
    let connection = (duration(), duration(), duration_or_zero(), duration(), 1..1000_u32, duration_or_zero());
    (
        (protocol, resilience::balance(), endpoints(), place(), fit),
        ceilings,
        (0..=100_u8, 0..9_u32),
        connection,
        of(cluster_tls()),
        (duration(), 1..9_u32),
    )
        .prop_map(move |((protocol, balance, endpoints, place, fit), ceilings, budget, connection, tls, dns)| {
            let tls = tls.filter(|_| name != "plain");
            let plain = protocol == ClusterProtocol::Http3 && tls.is_none();
            let protocol = if plain { ClusterProtocol::Auto } else { protocol };
            Cluster {
                name: name.into(),
                // Authorizers are asked over the first one, and TLS is handed on to the last.
                protocol: if name == CLUSTERS[0] { ClusterProtocol::Http2 } else { protocol },
                balance,
                endpoint_ceilings: fit.0,
                breakers: fit.1,
                health_check: fit.2,
                outlier_detection: fit.3,
                admission: fit.4,

                endpoints,
                ceilings: Ceilings {
                    max_requests: ceilings.0,
                    max_pending: ceilings.1,
                    max_retries: ceilings.2,
                    max_connections: ceilings.3,
                },
                retry_budget: RetryBudget { percent: budget.0, min_per_second: budget.1 },
                connection: ConnectionOptions {
                    connect_timeout: connection.0,
                    idle_timeout: connection.1,
                    keepalive_interval: connection.2,
                    keepalive_timeout: connection.3,
                    max_streams: connection.4,
                    max_age: connection.5,
                    proxy_protocol: None,
                },
                tls,
                dns: DnsOptions { min_ttl: dns.0, max_ttl: dns.0 * dns.1 },
                place,
            }
        })
}

fn passthrough() -> impl Strategy<Value = Vec<Passthrough>> {
    let patterns = vec![
        HostPattern::Exact("db.example".into()),
        HostPattern::Any,
        HostPattern::Wildcard("example".into()),
        HostPattern::Exact("x.example".into()),
    ];
    (Just(patterns).prop_shuffle(), 1..3_usize, vec((1..4_u32, place()), 2)).prop_map(|(patterns, split, rest)| {
        let (first, second) = patterns.split_at(split);
        let one = |(names, (weight, place)): (&[HostPattern], (u32, Place))| Passthrough {
            hostnames: names.to_vec(),
            backends: vec![BackendRef {
                cluster: "plain".into(),
                weight,
                subset: BTreeMap::new(),
                filters: Vec::new(),
            }],
            place,
        };
        [first, second].into_iter().zip(rest).map(one).collect()
    })
}

fn listener_tls() -> impl Strategy<Value = ListenerTls> {
    let mode = select(vec![TlsMode::Permissive, TlsMode::Strict, TlsMode::Passthrough]);
    let asked = select(vec![ClientCertificate::None, ClientCertificate::Optional, ClientCertificate::Required]);
    (
        (mode, any::<bool>(), of(files()), asked),
        (any::<bool>(), version(), duration(), 1..9_u32),
        of(passthrough()),
        place(),
    )
        .prop_map(|((mode, proposed, files, asked), (own, version, timeout, max), passthrough, place)| {
            let handed_on = mode == TlsMode::Passthrough;
            let asked = if handed_on { ClientCertificate::None } else { asked };
            let roots = own && asked != ClientCertificate::None;
            let only = || {
                vec![Passthrough {
                    hostnames: vec![HostPattern::Any],
                    backends: vec![BackendRef {
                        cluster: "plain".into(),
                        weight: 1,
                        subset: BTreeMap::new(),
                        filters: Vec::new(),
                    }],
                    place: place.clone(),
                }]
            };
            ListenerTls {
                mode,
                proposed_mode: (proposed && mode == TlsMode::Permissive).then_some(TlsMode::Strict),
                certificates: files.into_iter().filter(|_| !handed_on).collect(),
                client_certificate: asked,
                client_trust: if roots { ClientTrust::Roots("/certs/callers.pem".into()) } else { ClientTrust::Mesh },
                min_version: version,
                handshake_timeout: timeout,
                max_handshakes: max,
                passthrough: passthrough.unwrap_or_else(|| if handed_on { only() } else { Vec::new() }),
                place,
            }
        })
}

fn listener(name: &'static str, port: u16) -> impl Strategy<Value = Listener> {
    let protocol = select(vec![ListenerProtocol::Auto, ListenerProtocol::Http1, ListenerProtocol::Http2]);
    let direction = select(vec![Direction::Inbound, Direction::Outbound]);
    let trust = select(vec![Trust::None, Trust::Hops(1), Trust::Hops(32), Trust::Local]);
    let path = (any::<bool>(), select(vec![EscapedSlashes::Keep, EscapedSlashes::Reject]));
    let numbers = (1..9_u32, 1024..9999_u32, 1..1000_u16, 1..9_u32);
    let times = (duration(), duration(), duration_or_zero(), duration_or_zero(), duration());
    let header = select(vec![
        ClientCertHeader::Sanitize,
        ClientCertHeader::Forward,
        ClientCertHeader::Append,
        ClientCertHeader::Set,
    ]);
    let guards = (any::<bool>(), of((texts(&PROVIDERS_TEXT, 1), any::<bool>())), any::<bool>());
    (
        (protocol, direction, trust, path, numbers, times),
        (of(listener_tls()), header, guards, place()),
        (select(vec!["127.0.0.1", "0.0.0.0", "::1"]), vec(resilience::rate_limit(), 0..2)),
    )
        .prop_map(
            move |((protocol, direction, trust, path, numbers, times), (tls, header, guards, place), (ip, rates))| {
                let handed_on = tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
                let asked = tls.as_ref().is_some_and(|tls| tls.client_certificate != ClientCertificate::None);
                let (authorized, jwt, external) = guards;
                let guarded = !handed_on;
                Listener {
                    rate_limits: if handed_on { Vec::new() } else { rates },
                    name: name.into(),
                    bind: SocketAddr::new(ip.parse().expect("an address"), port),
                    protocol,
                    routes: (!handed_on || authorized).then(|| Arc::from("main")),
                    direction,
                    trust,
                    path: PathOptions { merge_slashes: path.0, escaped_slashes: path.1 },
                    limits: ListenerLimits {
                        max_connections: numbers.0,
                        max_head_bytes: numbers.1,
                        max_headers: numbers.2,
                        max_concurrent_streams: numbers.3,
                        header_timeout: times.0,
                        idle_timeout: times.1,
                        stream_idle_timeout: times.2,
                        max_connection_age: times.3,
                        detect_timeout: times.4,
                    },
                    tls,
                    client_cert_header: if asked { header } else { ClientCertHeader::Sanitize },
                    authorization: (authorized && guarded).then(|| Arc::from("policy")),
                    jwt: jwt.filter(|_| guarded).map(|(providers, required)| ListenerJwt { providers, required }),
                    external_authorization: (external && guarded).then(|| Arc::from("gate")),
                    http3: None,
                    upgrades: Upgrades::default(),
                    tcp: None,
                    udp: None,
                    proxy_protocol: None,
                    interception: None,
                    intercepts: Vec::new(),
                    place,
                }
            },
        )
}

fn shaped(name: &'static str, port: u16) -> impl Strategy<Value = Listener> {
    (listener(name, port), opaque::extra()).prop_map(|(listener, extra)| opaque::shaped(listener, extra))
}

const PROVIDERS_TEXT: [&str; 2] = PROVIDERS;

fn source() -> impl Strategy<Value = AccessSource> {
    let domains = || {
        subsequence(vec!["mesh.local", "other"], 0..=2).prop_map(|list| {
            list.into_iter().map(|name| TrustDomain::parse(name).expect("a domain")).collect::<Vec<_>>()
        })
    };
    let ranges = || {
        let ranges = vec![("10.0.0.0", 8), ("192.0.2.7", 32), ("fd00::", 8)];
        subsequence(ranges, 0..=3).prop_map(|list| {
            let one = |(network, prefix): (&str, u8)| Cidr { network: network.parse().expect("an address"), prefix };
            list.into_iter().map(one).collect::<Vec<_>>()
        })
    };
    (
        (identities(0), identities(0)),
        (texts(&["shop", "a.b"], 0), texts(&["billing"], 0)),
        (domains(), domains()),
        (ranges(), ranges()),
    )
        .prop_map(|(ids, spaces, domains, ranges)| AccessSource {
            identities: ids.0,
            not_identities: ids.1,
            namespaces: spaces.0,
            not_namespaces: spaces.1,
            trust_domains: domains.0,
            not_trust_domains: domains.1,
            addresses: ranges.0,
            not_addresses: ranges.1,
        })
        .prop_filter("nothing", |source| *source != AccessSource::default())
}

fn operation() -> impl Strategy<Value = AccessOperation> {
    let hosts = || {
        let list = vec![
            HostPattern::Any,
            HostPattern::Wildcard("example.com".into()),
            HostPattern::Exact("a.example".into()),
            HostPattern::Exact("[::1]".into()),
        ];
        subsequence(list, 0..=4)
    };
    let methods = || subsequence(vec![Method::POST, Method::GET], 0..=2);
    let ports = || subsequence(vec![80_u16, 8443], 0..=2);
    let grpc = vec((of(text(&["shop.Payments"])), of(text(&["Charge"]))), 0..3).prop_map(|list| {
        list.into_iter().map(|(service, method)| GrpcOperation { service, method }).collect::<Vec<_>>()
    });
    (
        (hosts(), hosts()),
        (vec(path(), 0..3), vec(path(), 0..3)),
        (methods(), methods()),
        (ports(), ports()),
        vec(header(), 0..2),
        grpc,
    )
        .prop_map(|(hosts, paths, methods, ports, headers, grpc)| {
            let everything = |path: &PathMatch| *path == PathMatch::Any || *path == PathMatch::Prefix("".into());
            AccessOperation {
                hosts: hosts.0,
                not_hosts: hosts.1.into_iter().filter(|host| *host != HostPattern::Any).collect(),
                paths: paths.0,
                not_paths: paths.1.into_iter().filter(|path| !everything(path)).collect(),
                methods: if grpc.is_empty() { methods.0 } else { Vec::new() },
                not_methods: methods.1,
                ports: ports.0,
                not_ports: ports.1,
                headers: headers.into_iter().filter(|header| header.name != "host").collect(),
                grpc,
            }
        })
        .prop_filter("nothing", |operation| *operation != AccessOperation::default())
}

fn claim() -> impl Strategy<Value = ClaimMatch> {
    (of(text(&PROVIDERS_TEXT)), texts(&["realm.x", "roles"], 1), vec(value(), 1..3))
        .prop_map(|(provider, path, values)| ClaimMatch { provider, path, values })
}

fn policy() -> impl Strategy<Value = Authorization> {
    let action = select(vec![AccessAction::Allow, AccessAction::Deny, AccessAction::Audit]);
    let rule = (
        action,
        any::<bool>(),
        vec(source(), 0..3),
        vec(operation(), 0..3),
        prop_oneof![3 => Just(Vec::new()), 1 => vec(claim(), 1..3)],
        place(),
    );
    (select(vec![Access::Allow, Access::Deny]), vec(rule, 0..4), place()).prop_flat_map(|(default, rules, place)| {
        let names = Just(vec!["r1", "r2", "r3", "r4"]).prop_shuffle();
        (names, Just((default, rules, place))).prop_map(|(names, (default, rules, place))| Authorization {
            name: "policy".into(),
            default,
            rules: names
                .into_iter()
                .zip(rules)
                .map(|(name, (action, shadow, from, to, claims, place))| AccessRule {
                    name: name.into(),
                    action,
                    shadow,
                    from,
                    to,
                    claims,
                    place,
                })
                .collect(),
            place,
        })
    })
}

fn provider(name: &'static str) -> impl Strategy<Value = JwtProvider> {
    let keys = prop_oneof![
        Just(KeySource::File("/etc/jwks.json".into())),
        (duration(), duration(), any::<bool>()).prop_map(|(refresh, timeout, own)| KeySource::Url {
            url: "https://id.example/jwks".into(),
            refresh: refresh.max(Duration::from_secs(1)),
            timeout,
            trust_bundle: own.then(|| "/certs/web.pem".into()),
        }),
    ];
    let places = vec![
        TokenPlace::Header { name: http::header::AUTHORIZATION, prefix: "Bearer ".into() },
        TokenPlace::Query("token".into()),
        TokenPlace::Header { name: HeaderName::from_static("x-token"), prefix: "".into() },
    ];
    let claims =
        subsequence(vec![("x-user", vec!["sub"]), ("x-role", vec!["a.b", "c"]), ("x-org", vec!["o", "n"])], 0..=3);
    (
        (keys, subsequence(JwtAlgorithm::ALL.to_vec(), 1..=6), texts(&["pay", "shop"], 1)),
        (duration_or_zero(), subsequence(places, 1..=3).prop_shuffle(), any::<bool>()),
        claims,
        place(),
    )
        .prop_map(move |((keys, algorithms, audiences), (clock_skew, from, forward), claims, place)| JwtProvider {
            name: name.into(),
            issuer: "https://id.example".into(),
            audiences,
            keys,
            algorithms,
            clock_skew,
            from,
            forward,
            claims_to_headers: claims
                .into_iter()
                .map(|(header, path)| ClaimHeader {
                    path: path.into_iter().map(Arc::from).collect(),
                    header: HeaderName::from_static(header),
                })
                .collect(),
            place,
        })
}

fn authorizer() -> impl Strategy<Value = ExternalAuthorizer> {
    let context = subsequence(vec![("zone", "eu"), ("app", "x y")], 0..=2);
    (duration(), any::<bool>(), 400..600_u16, 0..9_u32, context, place()).prop_map(
        |(timeout, fail_open, status, max_body_bytes, context, place)| ExternalAuthorizer {
            name: "gate".into(),
            cluster: CLUSTERS[0].into(),
            timeout,
            fail_open,
            status_on_error: StatusCode::from_u16(status).expect("a status"),
            max_body_bytes,
            context: context.into_iter().map(|(key, value)| (Arc::from(key), Arc::from(value))).collect(),
            place,
        },
    )
}

/// A whole configuration. What no listener uses is not in it, because it would not travel.
pub(crate) fn config() -> impl Strategy<Value = Config> {
    (
        (shaped("inbound", 15006).boxed(), shaped("outbound", 15001).boxed()),
        table("main").boxed(),
        (
            cluster(CLUSTERS[0]).boxed(),
            cluster(CLUSTERS[1]).boxed(),
            cluster(CLUSTERS[2]).boxed(),
            cluster(CLUSTERS[3]).boxed(),
            opaque::raw(cluster("raw")).boxed(),
        ),
        (policy(), provider(PROVIDERS[0]), provider(PROVIDERS[1]), authorizer()),
        (resilience::service(), resilience::service()),
        place(),
    )
        .prop_map(|(listeners, table, clusters, (policy, corp, partner, gate), services, place)| {
            let mut config = Config {
                listeners: vec![listeners.0, listeners.1],
                routes: BTreeMap::from([(table.name.clone(), table)]),
                clusters: [clusters.0, clusters.1, clusters.2, clusters.3, clusters.4]
                    .into_iter()
                    .map(|cluster| (cluster.name.clone(), cluster))
                    .collect(),
                ..empty(&place)
            };
            let named: Vec<Arc<str>> =
                config.listeners.iter().flat_map(|one| &one.jwt).flat_map(|jwt| jwt.providers.clone()).collect();
            for provider in [corp, partner] {
                if named.contains(&provider.name) {
                    config.jwt_providers.insert(provider.name.clone(), provider);
                }
            }
            if config.listeners.iter().any(|one| one.authorization.is_some()) {
                let mut policy = policy;
                // A claim names only a provider that is there.
                for claim in policy.rules.iter_mut().flat_map(|rule| &mut rule.claims) {
                    claim.provider = claim.provider.take().filter(|name| config.jwt_providers.contains_key(name));
                }
                config.authorization.insert(policy.name.clone(), policy);
            }
            if config.listeners.iter().any(|one| one.external_authorization.is_some()) {
                config.external_authorizers.insert(gate.name.clone(), gate);
            }
            config.rate_limit_services =
                [("limits", services.0), ("others", services.1)].map(|(name, one)| (name.into(), one)).into();
            name_rates(&mut config);
            config
        })
}

/// Gives each rate limit a name of its own.
fn name_rates(config: &mut Config) {
    let listeners = config.listeners.iter_mut().flat_map(|listener| &mut listener.rate_limits);
    let rules = config.routes.values_mut().flat_map(|table| &mut table.hosts).flat_map(|host| &mut host.rules);
    for (number, limit) in listeners.chain(rules.flat_map(|rule| &mut rule.rate_limits)).enumerate() {
        limit.name = format!("rate-{number}").into();
    }
}

/// The settings of a process and an identity, and no resources.
pub(crate) fn empty(place: &Place) -> Config {
    let certificate = CertificateFiles {
        certificate: "/state/svid.pem".into(),
        private_key: "/state/svid.key".into(),
        place: place.clone(),
    };
    Config {
        rate_limit_services: BTreeMap::new(),
        overload: Overload::default(),
        node: Node { id: "proxy-1".into(), service: None, zone: None },
        admin: Admin { address: None },
        access_log: AccessLog::Off,
        workers: None,
        drain: Drain { accept_for: Duration::from_secs(5), deadline: Duration::from_secs(30) },
        listeners: Vec::new(),
        routes: BTreeMap::new(),
        clusters: BTreeMap::new(),
        identity: Some(Identity {
            certificate,
            trust_bundle: "/state/roots.pem".into(),
            federated_bundles: BTreeMap::new(),
            revocation_lists: Vec::new(),
            proposed_trust_bundle: None,
            place: place.clone(),
        }),
        authorization: BTreeMap::new(),
        jwt_providers: BTreeMap::new(),
        external_authorizers: BTreeMap::new(),
    }
}
