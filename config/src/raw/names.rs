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
        "Identity" => "`identity`",
        "CertificateFiles" => "a certificate",
        "ListenerTls" => "`tls` of a listener",
        "TlsMode" => "a TLS mode of a listener",
        "ClientCertificate" => "a setting of `clientCertificate`",
        "TlsVersion" => "a version of TLS",
        "Passthrough" => "a passthrough entry",
        "ClientCertHeader" => "a setting of `clientCertHeader`",
        "ClusterTls" => "`tls` of a cluster",
        "ClusterTlsMode" => "a TLS mode of a cluster",
        "Authorization" => "an authorization policy",
        "Access" => "an access",
        "AccessRule" => "an authorization rule",
        "AccessAction" => "an action",
        "AccessSource" => "a source",
        "AccessOperation" => "an operation",
        "ClaimMatch" => "a claim condition",
        "ClaimPath" => "the name of a claim",
        "ClaimValue" | "ClaimCondition" => "a condition on a claim's value",
        "ListenerJwt" => "`jwt` of a listener",
        "JwtProvider" => "a token provider",
        "Jwks" => "`jwks`",
        "JwtAlgorithm" => "a signature algorithm that can be believed",
        "TokenPlace" => "a place of tokens",
        "ClaimHeader" => "a claim that becomes a header",
        "ExternalAuthorizer" => "an external authorizer",
        "Switch" => "`on` or `off`",
        "ControlPlane" => "`controlPlane`",
        "JoinToken" => "`joinToken`",
        "Delta" => "`auto` or `off`",
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
        "TlsMode" => "write strict, permissive, off or passthrough",
        "TlsVersion" => "write \"1.3\", or \"1.2\" where an old peer needs it",
        "ClusterTlsMode" => "write mutual for workloads of the mesh, or simple for other servers",
        "Access" => "write allow or deny",
        "AccessAction" => "write allow, deny or audit",
        "ClaimPath" => "write `sub`, `realm_access.roles` or `[\"https://id.example/roles\"]`",
        "ClaimValue" => {
            "write a value, or one of `{ exact: … }`, `{ prefix: … }`, `{ regex: … }` and `{ present: true }`"
        }
        "JwtAlgorithm" => "write RS256, RS384, RS512, ES256, ES384 or EdDSA",
        "Switch" => "write on or off",
        "JoinToken" => "write `{ file: /run/outrigger/token }` or `{ environment: OUTRIGGER_JOIN_TOKEN }`",
        "Delta" => "write auto or off",
        _ => return None,
    })
}

/// A word of ours as a tool writes it back that follows YAML 1.1, where `on` and `off` are truth values.
pub(crate) fn restored(owner: &str, word: &str) -> Option<&'static str> {
    match (owner, word) {
        ("TlsMode" | "Switch" | "Delta", "false") => Some("off"),
        ("Switch", "true") => Some("on"),
        _ => None,
    }
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
        ("Config", "tls" | "mtls" | "certificates") => "identity",
        ("Config", "authorizationPolicies" | "authz" | "rbac") => "authorization",
        ("Config", "jwt" | "jwtProvider" | "authentication") => "jwtProviders",
        ("Config", "extAuthz" | "externalAuthorization" | "externalAuthorizer") => "externalAuthorizers",
        ("Identity" | "CertificateFiles" | "ClusterTls", "cert" | "chain" | "certificateChain") => "certificate",
        ("Identity" | "CertificateFiles" | "ClusterTls", "key") => "privateKey",
        ("Identity" | "ClusterTls", "ca" | "bundle" | "roots" | "caCertificate" | "caCertificates") => "trustBundle",
        ("Identity", "federated" | "federation" | "trustDomains") => "federatedBundles",
        ("Identity", "crl" | "crls") => "revocationLists",
        ("Listener", "authz" | "authorizationPolicy" | "rbac") => "authorization",
        ("Listener", "jwtProviders" | "authentication" | "jwtAuthn") => "jwt",
        ("Listener" | "Rule", "extAuthz" | "externalAuthorizer" | "externalAuthz") => "externalAuthorization",
        ("Listener" | "Cluster", "mtls" | "tlsContext" | "transportSocket") => "tls",
        ("Listener", "xfcc" | "forwardClientCert" | "forwardClientCertDetails") => "clientCertHeader",
        ("ListenerTls" | "ClusterTls", "minimumVersion" | "minProtocolVersion" | "minTlsVersion") => "minVersion",
        ("ListenerTls", "clientCert" | "clientAuth" | "requireClientCertificate") => "clientCertificate",
        ("ListenerTls", "clientCa" | "ca" | "trustBundle" | "caCertificates") => "clientTrustBundle",
        ("ListenerTls", "certificate" | "certs") => "certificates",
        ("ClusterTls", "identities" | "spiffeIds" | "peerIdentity") => "peerIdentities",
        ("ClusterTls", "subjectAltNames" | "sans" | "subjectName") => "subjectNames",
        ("ClusterTls", "serverName" | "hostname") => "sni",
        ("TlsMode", "mutual" | "MUTUAL" | "tls" | "terminate" | "on" | "true") => "strict",
        ("TlsMode", "DISABLE" | "disable" | "disabled" | "plaintext" | "none") => "off",
        ("ClusterTlsMode", "mtls" | "mTLS" | "ISTIO_MUTUAL" | "strict") => "mutual",
        ("TlsVersion", "TLSv1.3" | "TLS1.3" | "TLSv1_3" | "13" | "3") => "1.3",
        ("TlsVersion", "TLSv1.2" | "TLS1.2" | "TLSv1_2" | "12" | "2") => "1.2",
        ("ClientCertHeader", "SANITIZE_SET" | "sanitizeSet" | "replace") => "set",
        ("ClientCertHeader", "FORWARD_ONLY") => "forward",
        ("ClientCertHeader", "APPEND_FORWARD") => "append",
        ("Authorization", "action" | "defaultAction") => "default",
        ("AccessRule", "source" | "sources") => "from",
        ("AccessRule", "operation" | "operations") => "to",
        ("AccessRule", "when") => "claims",
        ("AccessSource", "principals") => "identities",
        ("AccessSource", "notPrincipals") => "notIdentities",
        ("AccessSource", "ipBlocks" | "cidrs" | "ips") => "addresses",
        ("AccessSource", "notIpBlocks" | "notCidrs" | "notIps") => "notAddresses",
        ("AccessOperation", "hostnames" | "host") => "hosts",
        ("AccessOperation", "path") => "paths",
        ("AccessOperation", "method") => "methods",
        ("AccessOperation", "port") => "ports",
        ("ClaimMatch", "name" | "path") => "claim",
        ("ClaimMatch", "value") => "values",
        ("JwtProvider", "audience" | "aud") => "audiences",
        ("JwtProvider", "iss") => "issuer",
        ("JwtProvider", "jwksUri" | "keys") => "jwks",
        ("JwtProvider", "fromHeaders") => "from",
        ("JwtProvider", "forwardOriginalToken") => "forward",
        ("JwtProvider", "outputClaimToHeaders" | "claimToHeaders") => "claimsToHeaders",
        ("JwtProvider", "leeway" | "clockSkewSeconds") => "clockSkew",
        ("Jwks", "uri") => "url",
        ("TokenPlace", "param" | "parameter") => "query",
        ("ClaimHeader", "name") => "header",
        ("JwtAlgorithm", "Ed25519" | "EDDSA") => "EdDSA",
        ("ExternalAuthorizer", "failureModeAllow") => "failOpen",
        ("Config", "xds" | "ads" | "discovery" | "dynamicResources") => "controlPlane",
        ("ControlPlane", "server" | "address" | "addresses") => "servers",
        ("ControlPlane", "identity" | "peerIdentities") => "serverIdentity",
        ("ControlPlane", "sni" | "hostname") => "serverName",
        ("ControlPlane", "ca" | "bundle" | "roots") => "trustBundle",
        ("ControlPlane", "token" | "joinTokenFile") => "joinToken",
        ("ControlPlane", "serviceAccountToken") => "serviceAccountTokenFile",
        ("JoinToken", "path") => "file",
        ("JoinToken", "env" | "variable") => "environment",
        _ => return None,
    })
}

/// What this version refuses with an explanation.
pub(crate) fn later(owner: &str, word: &str) -> Option<Later> {
    let (message, fix) = match (owner, word) {
        ("Listener", "http3") => {
            ("`http3` is not supported by this version", "remove it: HTTP/1.1 and HTTP/2 are served")
        }
        ("ListenerProtocol" | "ClusterProtocol", "http3" | "h3" | "HTTP3") => {
            ("the protocol `http3` is not supported by this version", "write http2, http1 or auto")
        }
        ("ListenerProtocol" | "ClusterProtocol", "tcp" | "TCP") => {
            ("the protocol `tcp` is not supported by this version", "write http2, http1 or auto")
        }
        ("ListenerProtocol", "https" | "tls" | "HTTPS" | "TLS") => {
            ("TLS is no protocol of its own here", "write http2, http1 or auto, and add `tls: { mode: strict }`")
        }
        ("ClusterProtocol", "https" | "tls" | "HTTPS" | "TLS") => (
            "TLS is no protocol of its own here",
            "write http2, http1 or auto, and add `tls: { mode: simple, trustBundle: … }`",
        ),
        ("Rule", "authorization" | "authz" | "authentication" | "jwt") => (
            "authorization and tokens are set on listeners, not on routing rules",
            "write a policy under `authorization` with conditions on paths and hosts, and name it on the listener",
        ),
        ("JwtAlgorithm", "none" | "None" | "NONE") => (
            "the algorithm `none` means tokens without a signature, which anybody can make",
            "write what the issuer signs with: RS256, RS384, RS512, ES256, ES384 or EdDSA",
        ),
        ("JwtAlgorithm", "HS256" | "HS384" | "HS512" | "hs256" | "hs384" | "hs512") => (
            "a symmetric algorithm needs the secret that also makes tokens: whoever verifies could issue them",
            "let the issuer sign with RS256, ES256 or EdDSA",
        ),
        ("JwtAlgorithm", "PS256" | "PS384" | "PS512" | "ES512" | "ES256K") => {
            ("this algorithm is not supported by this version", "write RS256, RS384, RS512, ES256, ES384 or EdDSA")
        }
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
