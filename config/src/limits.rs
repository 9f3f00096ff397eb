//! Every limit of the configuration language, in one place. Hitting one is a diagnostic, never a panic and never a
//! value that is cut off in silence.

/// Bytes of one configuration text.
pub const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;
/// Mappings and lists inside each other.
pub const MAX_DEPTH: usize = 48;
/// Values (words, lists, mappings) in one text.
pub const MAX_NODES: usize = 1_000_000;
/// Values that aliases (`*name`) and merge keys (`<<`) may add by repetition.
pub const MAX_ALIASED_NODES: usize = 200_000;
/// Errors kept for one text, and as many warnings; the rest is counted.
pub const MAX_DIAGNOSTICS: usize = 250;

/// Listeners of one proxy.
pub const MAX_LISTENERS: usize = 1_000;
/// Route tables of one proxy.
pub const MAX_ROUTE_TABLES: usize = 10_000;
/// Rules of one proxy, over all tables.
pub const MAX_RULES: usize = 200_000;
/// Clusters of one proxy.
pub const MAX_CLUSTERS: usize = 50_000;
/// Endpoints of one cluster as written.
pub const MAX_ENDPOINTS: usize = 10_000;
/// Hostnames of one virtual host.
pub const MAX_HOSTNAMES: usize = 10_000;
/// Alternatives in `matches` of one rule.
pub const MAX_MATCHES: usize = 128;
/// Header or query conditions of one match.
pub const MAX_CONDITIONS: usize = 64;
/// Filters of one rule or one backend.
pub const MAX_FILTERS: usize = 32;
/// Headers that one filter changes in one way.
pub const MAX_HEADER_EDITS: usize = 64;
/// Backends of one rule.
pub const MAX_BACKENDS: usize = 256;
/// Entries in one list of a `cors` filter.
pub const MAX_CORS_ENTRIES: usize = 128;
/// Conditions in `retry.on`.
pub const MAX_RETRY_CONDITIONS: usize = 64;
/// Labels of an endpoint or of a `subset`.
pub const MAX_LABELS: usize = 64;
/// Bytes of the value of a label.
pub const MAX_LABEL_BYTES: usize = 253;
/// Keys in `hash` of one rule.
pub const MAX_HASH_KEYS: usize = 16;
/// Entries in `expected` of a health check.
pub const MAX_EXPECTED: usize = 64;
/// Rate limits of one rule or listener, of one kind.
pub const MAX_RATE_LIMITS: usize = 32;
/// Keys in `by` of one rate limit.
pub const MAX_RATE_KEYS: usize = 8;
/// Rate limit services of one proxy.
pub const MAX_RATE_LIMIT_SERVICES: usize = 64;
/// Entries of one descriptor.
pub const MAX_DESCRIPTOR_ENTRIES: usize = 16;
/// Protocols that a listener lets requests upgrade to.
pub const MAX_UPGRADES: usize = 32;
/// Bytes of the name of such a protocol.
pub const MAX_UPGRADE_BYTES: usize = 64;
/// Entries in `intercepts` of one listener.
pub const MAX_INTERCEPTS: usize = 256;
/// Proxies whose PROXY headers a listener believes.
pub const MAX_PROXY_SOURCES: usize = 256;
/// Addresses or ports of one entry of `intercepts`.
pub const MAX_INTERCEPT_RANGES: usize = 256;

/// Addresses of the control plane.
pub const MAX_CONTROL_SERVERS: usize = 16;
/// Trust domains beside our own.
pub const MAX_FEDERATED_BUNDLES: usize = 256;
/// Revocation lists.
pub const MAX_REVOCATION_LISTS: usize = 64;
/// Certificates of one listener.
pub const MAX_CERTIFICATES: usize = 1_000;
/// Entries in `passthrough` of one listener.
pub const MAX_PASSTHROUGH: usize = 1_000;
/// Identities or names that the endpoints of one cluster may have.
pub const MAX_PEER_NAMES: usize = 256;
/// Authorization policies of one proxy.
pub const MAX_POLICIES: usize = 1_000;
/// Rules of one authorization policy.
pub const MAX_ACCESS_RULES: usize = 10_000;
/// Entries in `from`, `to` or `claims` of one authorization rule.
pub const MAX_ACCESS_WAYS: usize = 128;
/// Entries of one list inside `from`, `to` or `claims`.
pub const MAX_ACCESS_ENTRIES: usize = 1_024;
/// Names of objects inside each other that lead to a claim.
pub const MAX_CLAIM_DEPTH: usize = 16;
/// Providers of tokens of one proxy.
pub const MAX_JWT_PROVIDERS: usize = 64;
/// Audiences of one provider.
pub const MAX_AUDIENCES: usize = 64;
/// Places in which a token is looked for.
pub const MAX_TOKEN_PLACES: usize = 8;
/// Claims of one provider that become headers.
pub const MAX_CLAIM_HEADERS: usize = 64;
/// Authorizers outside of one proxy.
pub const MAX_EXTERNAL_AUTHORIZERS: usize = 64;
/// Entries in `context` of one authorizer.
pub const MAX_CONTEXT: usize = 64;

/// Bytes of the path of a file.
pub const MAX_FILE_NAME_BYTES: usize = 4_096;
/// Bytes of an issuer, an audience, a URL or a value in `context`.
pub const MAX_WORD_BYTES: usize = 2_048;
/// Bytes of a name (listener, table, rule, cluster, zone, …).
pub const MAX_NAME_BYTES: usize = 253;
/// Bytes of a path, a hostname pattern's text, a header or a query value that is compared.
pub const MAX_MATCH_BYTES: usize = 8 * 1024;
/// Bytes of a header value that a filter sets.
pub const MAX_HEADER_VALUE_BYTES: usize = 8 * 1024;
/// Bytes of a regular expression as written.
pub const MAX_PATTERN_BYTES: usize = 4 * 1024;
/// Bytes of a regular expression when compiled.
pub const MAX_COMPILED_PATTERN_BYTES: usize = 1024 * 1024;
/// Different regular expressions in one configuration.
pub const MAX_PATTERNS: usize = 10_000;
/// Bytes of the body of a `directResponse`.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Smallest and largest number that a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Smallest.
    pub min: u64,
    /// Largest.
    pub max: u64,
}

const fn bounds(min: u64, max: u64) -> Bounds {
    Bounds { min, max }
}

/// Worker threads.
pub const WORKERS: Bounds = bounds(1, 1_024);
/// Connections of a listener or of a cluster.
pub const CONNECTIONS: Bounds = bounds(1, 1_000_000);
/// Header fields of a request.
pub const HEADERS: Bounds = bounds(1, 1_000);
/// Bytes of a request head.
pub const HEAD_BYTES: Bounds = bounds(1_024, 1_024 * 1_024);
/// TLS handshakes at a time.
pub const HANDSHAKES: Bounds = bounds(1, 1_000_000);
/// Streams of one HTTP/2 connection.
pub const STREAMS: Bounds = bounds(1, 100_000);
/// Trusted proxies before this one.
pub const HOPS: Bounds = bounds(1, 32);
/// Tunnels of a listener.
pub const TUNNELS: Bounds = bounds(1, 1_000_000);
/// Tunnels of one caller; 0 is no limit.
pub const CALLER_TUNNELS: Bounds = bounds(0, 1_000_000);
/// Sessions of a UDP listener.
pub const SESSIONS: Bounds = bounds(1, 1_000_000);
/// A port that can be reached.
pub const PORT: Bounds = bounds(1, 65_535);
/// Weight of a backend.
pub const BACKEND_WEIGHT: Bounds = bounds(0, 1_000_000);
/// Weight of an endpoint.
pub const ENDPOINT_WEIGHT: Bounds = bounds(1, 1_000);
/// Extra attempts after the first.
pub const RETRY_ATTEMPTS: Bounds = bounds(0, 5);
/// A status in `retry.on`.
pub const RETRY_STATUS: Bounds = bounds(400, 599);
/// The status of a `directResponse`.
pub const DIRECT_STATUS: Bounds = bounds(200, 599);
/// The status of an answer that refuses.
pub const ERROR_STATUS: Bounds = bounds(400, 599);
/// Bytes of a request's body that an authorizer is shown.
pub const SHOWN_BODY_BYTES: Bounds = bounds(0, 1024 * 1024);
/// Requests in flight to a cluster.
pub const MAX_REQUESTS: Bounds = bounds(1, 10_000_000);
/// Requests that wait for a connection of a cluster.
pub const MAX_PENDING: Bounds = bounds(0, 1_000_000);
/// Retries in flight to a cluster.
pub const MAX_RETRIES: Bounds = bounds(0, 1_000_000);
/// A share.
pub const PERCENT: Bounds = bounds(0, 100);
/// A share that cannot be nothing.
pub const SHARE: Bounds = bounds(1, 100);
/// Percentage of a fair share that consistent hashing keeps to.
pub const BOUNDED_LOAD: Bounds = bounds(100, 1_000);
/// Percentage of its share that the healthy rest may take.
pub const OVERPROVISIONING: Bounds = bounds(100, 1_000);
/// Priority of an endpoint.
pub const PRIORITY: Bounds = bounds(0, 127);
/// Tenths of `aggression` of a slow start.
pub const AGGRESSION_TENTHS: Bounds = bounds(1, 100);
/// Failures in a row.
pub const FAILURES: Bounds = bounds(0, 1_000_000);
/// Requests below which a statistic says nothing.
pub const MIN_REQUESTS: Bounds = bounds(1, 1_000_000);
/// Endpoints below which success rates say nothing.
pub const RATED_HOSTS: Bounds = bounds(0, 10_000);
/// Thousandths of the standard deviation.
pub const STDEV_FACTOR: Bounds = bounds(0, 100_000);
/// A quantile of latencies, in percent.
pub const QUANTILE: Bounds = bounds(1, 99);
/// Answers in a row that turn the health of an endpoint.
pub const PROBES: Bounds = bounds(1, 1_000);
/// A status that a health check may expect.
pub const PROBE_STATUS: Bounds = bounds(100, 599);
/// Requests in the queue of a cluster.
pub const QUEUE: Bounds = bounds(1, 1_000_000);
/// An adaptive limit of requests in flight.
pub const CONCURRENCY: Bounds = bounds(1, 1_000_000);
/// Percentage by which latency may grow.
pub const TOLERANCE: Bounds = bounds(1, 1_000);
/// Requests of a rate limit, and its burst.
pub const RATE: Bounds = bounds(1, 100_000_000);
/// Connections of all listeners; 0 is no limit.
pub const ALL_CONNECTIONS: Bounds = bounds(0, 10_000_000);
/// Bytes of memory that the process may use.
pub const MEMORY: Bounds = bounds(16 * 1024 * 1024, 16 * 1024 * 1024 * 1024 * 1024);
/// Bytes of a request's body kept for a replay.
pub const REPLAY_BUFFER: Bounds = bounds(0, 16 * 1024 * 1024);
/// A percentile after which a hedged attempt is started.
pub const HEDGE_PERCENTILE: Bounds = bounds(50, 99);
/// Hedged attempts beside the first.
pub const HEDGES: Bounds = bounds(1, 3);
/// Millionths of a share.
pub const MILLIONTHS: Bounds = bounds(0, 1_000_000);
/// Retries a second that a budget always allows.
pub const RETRIES_PER_SECOND: Bounds = bounds(0, 100_000);

/// Seconds by which the clock of an issuer of tokens may differ: with more, expiry would mean little.
pub const MAX_CLOCK_SKEW_SECONDS: u64 = 600;
/// Seconds between two fetches of a provider's keys, at least: its server is somebody else's.
pub const MIN_JWKS_REFRESH_SECONDS: u64 = 1;

/// Minutes that a fault may hold a request up.
pub const MAX_FAULT_MINUTES: u64 = 60;
/// Milliseconds between two probes or looks at an endpoint, at least.
pub const MIN_PROBE_MILLIS: u64 = 100;
/// Hours in which the requests of a rate limit are counted, at most.
pub const MAX_RATE_HOURS: u64 = 24;
/// Seconds of the window of a breaker, at most.
pub const MAX_WINDOW_SECONDS: u64 = 3_600;

/// Longest duration that any field takes, in hours.
pub const MAX_HOURS: u64 = 24 * 30;
