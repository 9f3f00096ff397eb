"""The proxies: how each is configured and started for one piece of work.

All do the same job: one worker, kept connections on both sides, no access log, connect within 1 s, answer within 15 s,
`X-Forwarded-For` and `X-Forwarded-Proto` added. TLS is mutual and 1.3 only, with the same ECDSA P-256 certificates. Everything
else is at its default.
"""

import json
import os
import shutil
from dataclasses import dataclass
from typing import Optional

HOST = "compare.test"  # the DNS name in every certificate


@dataclass
class Work:
    """What a proxy is asked to do."""

    downstream: str  # http1, http2, http3 (and the others over TCP beside it) or tcp
    upstream: str  # http1, http2 or tcp
    backend: str  # address:port
    directory: str = ""  # where its files may go
    port: int = 0  # where it must listen
    admin_port: int = 0  # for those that have an admin server
    grpc: bool = False
    websocket: bool = False
    prefixes: int = 0  # this many rules, /r/0, /r/1, …, in one host; 0: everything goes to the backend
    hosts: int = 0  # this many hosts, h0.test, h1.test, …
    pki: str = ""  # the folder of certificates (see kit/src/pki.rs)
    tls_downstream: bool = False  # mutual TLS with callers
    group: str = "X25519"  # the key agreement that callers offer
    tls_upstream: str = ""  # whom to expect behind mutual TLS: backend or proxy; empty: plaintext

    def file(self, name):
        """A file of the PKI."""
        return os.path.join(self.pki, name)

    @property
    def backend_port(self):
        return int(self.backend.rpartition(":")[2])

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path


class Peer:
    """One proxy. `command` writes the configuration and says how to start it."""

    name = ""
    kinds = frozenset({
        "h1", "grpc", "h2h1", "prefixes", "hosts", "idle", "start",
        "handshake", "handshake-pq", "resumed", "inbound", "outbound", "mesh", "mesh-grpc", "idle-tls",
        "websocket", "tcp",
    })

    def __init__(self, root):
        self.root = root

    def program(self) -> Optional[str]:
        """Where its program is, or None when it is not installed."""
        return shutil.which(self.name, path=os.environ["PATH"] + ":/usr/sbin")

    def version(self):
        """Arguments that make it print its version."""
        return ["--version"]

    def command(self, work: Work):
        raise NotImplementedError


class Outrigger(Peer):
    name = "outrigger"
    kinds = Peer.kinds | {"h3"}

    def program(self):
        return os.environ.get("OUTRIGGER") or built(self.root, "outrigger")

    def command(self, work):
        refs = "backendRefs: [{ cluster: backend }]"
        listener = f"name: inbound, bind: 127.0.0.1:{work.port}"
        if work.prefixes:
            rules = [f"        - {{ matches: [{{ path: {{ prefix: /r/{n} }} }}], {refs} }}" for n in range(work.prefixes)]
            hosts = ["    - rules:", *rules]
        elif work.hosts:
            hosts = [f"    - {{ hostnames: [h{n}.test], rules: [{{ {refs} }}] }}" for n in range(work.hosts)]
        else:
            hosts = [f"    - rules: [{{ {refs} }}]"]
        tls = ", tls: { mode: strict }" if work.tls_downstream else ""
        upstream_tls = ""
        if work.tls_upstream:
            upstream_tls = f', tls: {{ mode: mutual, sni: {HOST}, peerIdentities: ["{identity(work.tls_upstream)}"] }}'
        rule, cluster = self.rule(), self.cluster()
        if rule:
            hosts = [line.replace(refs, refs + rule) for line in hosts]
        lines = [
            # Its own name: two of the same in a row would be a loop.
            f"node: {{ id: compare-{work.port} }}",
            f"admin: {{ address: 127.0.0.1:{work.admin_port} }}",
            "accessLog: off",
            "workers: 1",
            *([] if not work.pki else [
                "identity:",
                f"  certificate: {work.file('proxy.pem')}",
                f"  privateKey: {work.file('proxy.key')}",
                f"  trustBundle: {work.file('ca.pem')}",
            ]),
            "listeners:",
            *([f"  - {{ {listener}, protocol: tcp, tcp: {{ {refs} }} }}"] if work.downstream == "tcp" else [
                f"  - {{ {listener}, routes: main{tls}{', http3: true' if work.downstream == 'http3' else ''} }}",
                "routes:",
                "  main:",
                *hosts,
            ]),
            "clusters:",
            f"  backend: {{ protocol: {work.upstream}{upstream_tls}{cluster}, endpoints: [{work.backend}] }}",
        ]
        config = work.write("outrigger.yaml", "\n".join(lines) + "\n")
        return [self.program(), "run", "--config", config]

    def rule(self):
        """More of each rule."""
        return ""

    def cluster(self):
        """More of the cluster."""
        return ""


class Resilient(Outrigger):
    """Outrigger with all of its resilience on and none of it triggered."""

    name = "resilient"
    kinds = frozenset({"h1", "grpc", "h2h1"})

    def rule(self):
        return (
            ", retry: { attempts: 2, on: [connect-failure, refused-stream, reset, gateway-error, unavailable] }"
            ", timeouts: { request: 15s, backendRequest: 5s }"
            ", hedge: { after: 2s }"
            ", circuitBreaker: { failureThreshold: 50, failureRatio: { percent: 90 } }"
            ", rateLimits: [{ name: callers, by: [address], requests: 100000000, per: 1s }]"
        )

    def cluster(self):
        return (
            ", loadBalancing: { policy: peakEwma, slowStart: { window: 1s } }"
            ", circuitBreaker: { failureThreshold: 5, failureRatio: { percent: 50 }"
            ", latency: { quantile: 99, above: 5s }, cluster: { failureThreshold: 50 }, perEndpoint: { maxRequests: 1000 } }"
            ", healthCheck: { tcp: {}, interval: 1s }"
            ", outlierDetection: { consecutiveErrors: 5, consecutiveGatewayErrors: 5 }"
            ", queue: { timeout: 100ms }, concurrency: { min: 500, max: 1000 }"
        )


class Before(Outrigger):
    """Another build of Outrigger, to see what a change costs: the program in OUTRIGGER_BEFORE."""

    name = "before"

    def program(self):
        return os.environ.get("OUTRIGGER_BEFORE")


class Envoy(Peer):
    name = "envoy"
    kinds = Peer.kinds | {"h3"}

    def program(self):
        lib = os.path.join(self.root, "target/tools/venv/lib")
        for python in sorted(os.listdir(lib)) if os.path.isdir(lib) else []:
            path = os.path.join(lib, python, "site-packages/envoy/_bin/envoy")
            if os.access(path, os.X_OK):
                return path
        return shutil.which("envoy")

    def command(self, work):
        config = work.write("envoy.json", json.dumps(self.config(work)))
        return [
            self.program(), "--config-path", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error",
        ]

    def config(self, work):
        types = "type.googleapis.com/envoy.extensions"
        address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        go = {"cluster": "backend", "timeout": "15s"}
        everything = [{"match": {"prefix": "/"}, "route": go}]
        if work.hosts:
            virtual = [{"name": f"h{n}", "domains": [f"h{n}.test"], "routes": everything} for n in range(work.hosts)]
        elif work.prefixes:
            # Like Outrigger's prefixes, these match whole path segments only.
            routes = [{"match": {"path_separated_prefix": f"/r/{n}"}, "route": go} for n in range(work.prefixes)]
            virtual = [{"name": "all", "domains": ["*"], "routes": routes}]
        else:
            virtual = [{"name": "all", "domains": ["*"], "routes": everything}]
        manager = {
            "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "inbound",
            "use_remote_address": True,
            "route_config": {"virtual_hosts": virtual},
            "http_filters": [
                {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}},
            ],
        }
        cluster = {
            "name": "backend",
            "type": "STATIC",
            "connect_timeout": "1s",
            "lb_policy": "LEAST_REQUEST",
            "load_assignment": {
                "cluster_name": "backend",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(work.backend_port)}}]}],
            },
        }
        if work.upstream == "http2":
            options = f"{types}.upstreams.http.v3.HttpProtocolOptions"
            cluster["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": options, "explicit_http_config": {"http2_protocol_options": {}},
                },
            }
        if work.websocket:
            manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
        if work.downstream == "tcp":
            forward = {"@type": f"{types}.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "inbound", "cluster": "backend"}
            chain = {"filters": [{"name": "tcp", "typed_config": forward}]}
        else:
            chain = {"filters": [{"name": "http", "typed_config": manager}]}
        if work.tls_downstream:
            chain["transport_socket"] = {
                "name": "tls",
                "typed_config": {
                    "@type": f"{types}.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": True,
                    # As in Outrigger: whoever the mesh's authority vouches for.
                    "common_tls_context": self.tls(work, {"prefix": identity("")}, ["h2", "http/1.1"]),
                },
            }
        if work.tls_upstream:
            cluster["transport_socket"] = {
                "name": "tls",
                "typed_config": {
                    "@type": f"{types}.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": HOST,
                    "common_tls_context": self.tls(work, {"exact": identity(work.tls_upstream)}, ["h2"]),
                },
            }
        listeners = [{"name": "inbound", "address": address(work.port), "filter_chains": [chain]}]
        if work.downstream == "http3":
            listeners.append(self.over_quic(types, work, manager, chain["transport_socket"]["typed_config"]))
        return {"static_resources": {"listeners": listeners, "clusters": [cluster]}}

    def over_quic(self, types, work, manager, tls):
        """The same listener over UDP."""
        context = {name: value for name, value in tls.items() if name != "@type"}
        context["common_tls_context"] = {**tls["common_tls_context"], "alpn_protocols": ["h3"]}
        return {
            "name": "inbound-udp",
            "address": {"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": work.port}},
            "udp_listener_config": {"quic_options": {}},
            "filter_chains": [{
                "filters": [{"name": "http", "typed_config": {**manager, "codec_type": "HTTP3", "http3_protocol_options": {}}}],
                "transport_socket": {
                    "name": "quic",
                    "typed_config": {
                        "@type": f"{types}.transport_sockets.quic.v3.QuicDownstreamTransport", "downstream_tls_context": context,
                    },
                },
            }],
        }

    def tls(self, work, peer, alpn):
        """A CommonTlsContext: our certificate, and whose we accept."""
        return {
            "alpn_protocols": alpn,
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                # What Outrigger takes, in its order; the load generator offers one of them.
                "ecdh_curves": ["X25519MLKEM768", "X25519"],
            },
            "tls_certificates": [{
                "certificate_chain": {"filename": work.file("proxy.pem")},
                "private_key": {"filename": work.file("proxy.key")},
            }],
            "validation_context": {
                "trusted_ca": {"filename": work.file("ca.pem")},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}],
            },
        }


class Nginx(Peer):
    name = "nginx"
    # Its HTTP/2 towards upstreams is for gRPC only, and its OpenSSL knows no ML-KEM.
    kinds = Peer.kinds - {"handshake-pq", "outbound", "mesh", "tcp"}

    def version(self):
        return ["-v"]

    def command(self, work):
        kind = "grpc" if work.grpc else "proxy"
        scheme = ("grpc" if work.grpc else "http") + ("s" if work.tls_upstream else "")
        target = f"{kind}_pass {scheme}://backend;"
        if work.prefixes:
            servers = [self.server(work, "", [f"location /r/{n}/ {{ {target} }}" for n in range(work.prefixes)])]
        elif work.hosts:
            servers = [self.server(work, f"server_name h{n}.test;", [f"location / {{ {target} }}"]) for n in range(work.hosts)]
        else:
            servers = [self.server(work, "", [f"location / {{ {target} }}"])]
        temporary = "\n".join(
            f"    {what}_temp_path {work.directory}/nginx-{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        tls = ""
        if work.tls_upstream:
            tls = f"""
    {kind}_ssl_certificate {work.file('proxy.pem')};
    {kind}_ssl_certificate_key {work.file('proxy.key')};
    {kind}_ssl_trusted_certificate {work.file('ca.pem')};
    {kind}_ssl_verify on;
    {kind}_ssl_name {HOST};
    {kind}_ssl_server_name on;
    {kind}_ssl_protocols TLSv1.3;"""
        http1 = "" if work.grpc else 'proxy_http_version 1.1;\n    proxy_set_header Connection "";'
        if work.websocket:
            http1 = 'proxy_http_version 1.1;\n    proxy_set_header Upgrade $http_upgrade;\n    proxy_set_header Connection "upgrade";'
        config = work.write("nginx.conf", f"""
daemon off;
worker_processes 1;
{'user root;' if os.geteuid() == 0 else ''}
pid {work.directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server_names_hash_max_size 65536;
{temporary}
    {http1}{tls}
    {kind}_connect_timeout 1s;
    {kind}_read_timeout 15s;
    {kind}_set_header Host $host;
    {kind}_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    {kind}_set_header X-Forwarded-Proto $scheme;
    upstream backend {{
        server {work.backend};
        keepalive 128;
        keepalive_requests 1000000000;
        keepalive_timeout 55s;
    }}
    {chr(10).join(servers)}
}}
""")
        return [self.program(), "-e", "stderr", "-p", work.directory, "-c", config]

    def server(self, work, name, locations):
        http2 = " http2" if work.downstream == "http2" else ""
        ssl = ""
        if work.tls_downstream:
            http2 = " ssl http2"  # by ALPN, so HTTP/1.1 too
            ssl = f"""
    ssl_certificate {work.file('proxy.pem')};
    ssl_certificate_key {work.file('proxy.key')};
    ssl_client_certificate {work.file('ca.pem')};
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
"""
        return f"server {{ listen 127.0.0.1:{work.port}{http2}; {name}{ssl}\n" + "\n".join(locations) + "\n}"


class HAProxy(Peer):
    name = "haproxy"
    # Its OpenSSL knows no ML-KEM.
    kinds = Peer.kinds - {"prefixes", "hosts", "handshake-pq"}

    def version(self):
        return ["-v"]

    def command(self, work):
        bind = " proto h2" if work.downstream == "http2" else ""
        if work.tls_downstream:
            bind = (f" ssl crt {work.file('proxy.both.pem')} ca-file {work.file('ca.pem')} verify required"
                    " ssl-min-ver TLSv1.3 alpn h2,http/1.1")
        server = " proto h2" if work.upstream == "http2" else ""
        if work.tls_upstream:
            # It cannot match a URI name: the DNS name is the nearest.
            server += (f" ssl crt {work.file('proxy.both.pem')} ca-file {work.file('ca.pem')} verify required"
                       f" ssl-min-ver TLSv1.3 alpn h2 sni str({HOST}) verifyhost {HOST}")
        mode = "tcp" if work.downstream == "tcp" else "http"
        fields = "" if mode == "tcp" else f"""option forwardfor
    http-reuse always
    timeout tunnel 1h"""
        forwarded = "" if mode == "tcp" else f"http-request set-header X-Forwarded-Proto {'https' if work.tls_downstream else 'http'}"
        config = work.write("haproxy.cfg", f"""
global
    nbthread 1
    maxconn 5000
defaults
    mode {mode}
    {fields}
    timeout connect 1s
    timeout client 1h
    timeout server 15s
frontend inbound
    bind 127.0.0.1:{work.port}{bind}
    {forwarded}
    default_backend backend
backend backend
    server one {work.backend}{server}
""")
        return [self.program(), "-db", "-f", config]


class Copy(Peer):
    """A bare TCP copy on the proxy's own runtime: it understands nothing, and is the floor."""

    name = "copy"
    kinds = frozenset({"h1", "grpc", "idle", "start", "websocket", "tcp"})

    def program(self):
        return built(self.root, "compare-copy")

    def version(self):
        return None

    def command(self, work):
        return [self.program(), f"127.0.0.1:{work.port}", work.backend]


PEERS = {peer.name: peer for peer in (Outrigger, Resilient, Before, Envoy, Nginx, HAProxy, Copy)}


def identity(name):
    """The SPIFFE id of a party, or with no name what all of them begin with."""
    return f"spiffe://{HOST}/ns/bench/sa/{name}"


def built(root, name):
    """A program of the release build."""
    path = os.path.join(os.environ.get("CARGO_TARGET_DIR") or os.path.join(root, "target"), "release", name)
    return path if os.access(path, os.X_OK) else None
