//! How the types are called in messages, and what people write who know the thing by another name.

/// What a later version will take and this one refuses, so that nobody believes it to be in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Later {
    pub(crate) message: &'static str,
    pub(crate) fix: &'static str,
}

/// The type in a sentence.
pub(crate) fn describe(name: &str) -> &'static str {
    match name {
        "Config" => "the configuration",
        "Node" => "`node`",
        "Admin" => "`off` or the settings of the admin server",
        "AdminServer" => "`admin`",
        "AccessLog" => "`stdout`, `off`, a path or `{ path: … }`",
        "AccessLogFile" => "`accessLog`",
        "Drain" => "`drain`",
        "Listener" => "a listener",
        "ListenerProtocol" => "a protocol of a listener",
        "Direction" => "a direction",
        "Trust" => "a trust rule",
        "PathOptions" => "`path` of a listener",
        "EscapedSlashes" => "a way to treat encoded slashes",
        "ListenerTimeouts" => "`timeouts` of a listener",
        "VirtualHost" => "a virtual host",
        "Rule" => "a rule",
        "Match" => "a match",
        "PathMatch" => "a path condition",
        "Condition" => "a header or query condition",
        "GrpcMatch" => "a gRPC condition",
        "BackendRef" => "a backend",
        "Timeouts" => "`timeouts` of a rule",
        "Retry" => "`retry`",
        "Backoff" => "`backoff`",
        "Filter" => "a filter",
        "HeaderEdit" => "a header filter",
        "HeaderValues" => "a mapping or a list of headers",
        "HeaderPair" => "a header",
        "UrlRewrite" => "`urlRewrite`",
        "PathRewrite" => "a path rewrite",
        "Cors" => "`cors`",
        "Redirect" => "`redirect`",
        "Scheme" => "a scheme",
        "DirectResponse" => "`directResponse`",
        "Cluster" => "a cluster",
        "ClusterProtocol" => "a protocol of a cluster",
        "LoadBalancing" => "`loadBalancing`",
        "Policy" => "a load-balancing policy",
        "CircuitBreaker" => "`circuitBreaker`",
        "RetryBudget" => "`retryBudget`",
        "Connection" => "`connection`",
        "Dns" => "`dns`",
        "Endpoint" => "an endpoint",
        "EndpointFields" => "an endpoint",
        _ => "this",
    }
}

/// The forms that a type takes, as advice.
pub(crate) fn forms(name: &str) -> Option<&'static str> {
    Some(match name {
        "Admin" => "write `admin: off` or `admin: { address: 127.0.0.1:15000 }`",
        "AccessLog" => "write `accessLog: stdout`, `accessLog: off` or `accessLog: { path: /var/log/access.log }`",
        "Endpoint" => "write `IP:PORT`, `NAME:PORT` or `{ address: IP:PORT, weight: 2 }`",
        "HeaderValues" => "write `{ x-name: \"value\" }` or `[{ name: x-name, value: \"value\" }]`",
        "Trust" => "write `none`, `local` or `{ hops: 1 }`",
        "PathMatch" => "write `{ prefix: /v1 }`, `{ exact: /v1/item }` or `{ regex: \"/v[0-9]+/.*\" }`",
        _ => return None,
    })
}

/// What to do when two alternatives were written at once.
pub(crate) fn split(name: &str) -> &'static str {
    match name {
        "Filter" => "begin each filter with `- ` of its own",
        "PathMatch" => "keep one, or write two matches: the rule applies when either does",
        _ => "keep one",
    }
}

/// The field or word of ours that somebody meant by another name.
pub(crate) fn meant(owner: &str, word: &str) -> Option<&'static str> {
    Some(match (owner, word) {
        ("Config", "access_log" | "accesslog" | "log") => "accessLog",
        ("Config", "upstreams" | "services" | "backends") => "clusters",
        ("Config", "route" | "routeTables" | "routing") => "routes",
        ("Listener", "address" | "listen") => "bind",
        ("Listener", "port") => "bind",
        ("Listener", "route" | "routeTable") => "routes",
        ("Listener", "maxRequestHeadersKb" | "maxHeaderBytes") => "maxHeadBytes",
        ("VirtualHost", "hosts" | "domains" | "host" | "hostname") => "hostnames",
        ("VirtualHost", "routes" | "rule") => "rules",
        ("Rule", "match") => "matches",
        ("Rule", "backends" | "backend" | "backendRef" | "cluster" | "clusters") => "backendRefs",
        ("Rule", "timeout") => "timeouts",
        ("Rule", "retries" | "retryPolicy") => "retry",
        ("Match", "queryParams" | "queryParameters") => "query",
        ("Match", "methods") => "method",
        ("Match", "header") => "headers",
        ("PathMatch", "pathPrefix") => "prefix",
        ("BackendRef", "name") => "cluster",
        ("Condition", "value" | "equals" | "match") => "exact",
        ("Retry", "retryOn" | "conditions") => "on",
        ("Retry", "maxAttempts" | "numRetries") => "attempts",
        ("Filter", "requestHeaderModifier") => "requestHeaders",
        ("Filter", "responseHeaderModifier") => "responseHeaders",
        ("Filter", "requestRedirect") => "redirect",
        ("Cluster", "hosts" | "addresses" | "servers") => "endpoints",
        ("Cluster", "lb" | "lbPolicy" | "balance") => "loadBalancing",
        ("Cluster", "circuitBreakers" | "limits") => "circuitBreaker",
        ("ListenerProtocol" | "ClusterProtocol", "http" | "http/1.1" | "h1" | "HTTP") => "http1",
        ("ListenerProtocol" | "ClusterProtocol", "grpc" | "h2" | "h2c" | "http/2" | "HTTP2" | "GRPC") => "http2",
        ("Policy", "ROUND_ROBIN" | "round_robin" | "rr") => "roundRobin",
        ("Policy", "LEAST_REQUEST" | "least_request" | "leastConn" | "p2c") => "leastRequest",
        ("Policy", "ewma" | "peak_ewma") => "peakEwma",
        _ => return None,
    })
}

/// What this version refuses with an explanation.
pub(crate) fn later(owner: &str, word: &str) -> Option<Later> {
    let (message, fix) = match (owner, word) {
        ("Config", "identity") => (
            "`identity` is not supported by this version: it speaks cleartext only",
            "remove it and protect the network in another way, or wait for the version that brings mutual TLS",
        ),
        ("Listener" | "Cluster", "tls") => (
            "`tls` is not supported by this version: it speaks cleartext only",
            "remove it and protect the network in another way, or wait for the version that brings TLS",
        ),
        ("Listener", "http3") => {
            ("`http3` is not supported by this version", "remove it: HTTP/1.1 and HTTP/2 are served")
        }
        ("ListenerProtocol" | "ClusterProtocol", "http3" | "h3" | "HTTP3") => {
            ("the protocol `http3` is not supported by this version", "write http2, http1 or auto")
        }
        ("ListenerProtocol" | "ClusterProtocol", "tcp" | "TCP") => {
            ("the protocol `tcp` is not supported by this version", "write http2, http1 or auto")
        }
        ("ListenerProtocol" | "ClusterProtocol", "https" | "tls" | "HTTPS" | "TLS") => {
            ("TLS is not supported by this version: it speaks cleartext only", "write http2, http1 or auto")
        }
        ("Rule", "authorization" | "authz" | "authentication" | "jwt") | ("Listener", "authorization" | "authz") => (
            "authorization rules are not supported by this version",
            "remove them and protect the service in another way",
        ),
        ("Rule" | "Listener" | "Cluster", "rateLimit" | "rateLimits") => {
            ("rate limits are not supported by this version", "remove them; `circuitBreaker` bounds what is in flight")
        }
        ("Rule", "sessionPersistence") => {
            ("`sessionPersistence` is not supported by this version", "remove it: every request is balanced")
        }
        ("Policy", "ringHash" | "maglev") => (
            "consistent hashing is not supported by this version",
            "write leastRequest, roundRobin, peakEwma or random",
        ),
        ("CircuitBreaker", "failureThreshold" | "resetTimeout" | "consecutiveFailures") => (
            "opening after failures is not supported by this version",
            "remove it; the ceilings maxRequests, maxPending, maxRetries and maxConnections are",
        ),
        ("Cluster", "healthCheck" | "healthChecks" | "outlierDetection") => {
            ("health checks and ejection are not supported by this version", "remove them")
        }
        ("Filter", "requestMirror" | "mirror") => ("mirroring is not supported by this version", "remove the filter"),
        ("Filter", "extensionRef" | "fault" | "delay" | "abort") => {
            ("this filter is not supported by this version", "remove it")
        }
        _ => return None,
    };
    Some(Later { message, fix })
}
