"""The proxies: how each is configured and started for one piece of work.

All do the same job: one worker, kept connections on both sides, no access log, connect within 1 s, answer within 15 s,
`X-Forwarded-For` and `X-Forwarded-Proto` added. Everything else is at its default.
"""

import json
import os
import shutil
from dataclasses import dataclass
from typing import Optional


@dataclass
class Work:
    """What a proxy is asked to do."""

    downstream: str  # http1 or http2
    upstream: str  # http1 or http2
    backend: str  # address:port
    directory: str  # where its files may go
    port: int = 0  # where it must listen
    admin_port: int = 0  # for those that have an admin server
    grpc: bool = False
    prefixes: int = 0  # this many rules, /r/0, /r/1, …, in one host; 0: everything goes to the backend
    hosts: int = 0  # this many hosts, h0.test, h1.test, …

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
    kinds = frozenset({"h1", "grpc", "h2h1", "prefixes", "hosts", "idle", "start"})

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

    def program(self):
        return os.environ.get("OUTRIGGER") or built(self.root, "outrigger")

    def command(self, work):
        refs = "backendRefs: [{ cluster: backend }]"
        if work.prefixes:
            rules = [f"        - {{ matches: [{{ path: {{ prefix: /r/{n} }} }}], {refs} }}" for n in range(work.prefixes)]
            hosts = ["    - rules:", *rules]
        elif work.hosts:
            hosts = [f"    - {{ hostnames: [h{n}.test], rules: [{{ {refs} }}] }}" for n in range(work.hosts)]
        else:
            hosts = [f"    - rules: [{{ {refs} }}]"]
        lines = [
            "node: { id: compare }",
            f"admin: {{ address: 127.0.0.1:{work.admin_port} }}",
            "accessLog: off",
            "workers: 1",
            "listeners:",
            f"  - {{ name: inbound, bind: 127.0.0.1:{work.port}, routes: main }}",
            "routes:",
            "  main:",
            *hosts,
            "clusters:",
            f"  backend: {{ protocol: {work.upstream}, endpoints: [{work.backend}] }}",
        ]
        config = work.write("outrigger.yaml", "\n".join(lines) + "\n")
        return [self.program(), "run", "--config", config]


class Envoy(Peer):
    name = "envoy"

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
        listener = {
            "name": "inbound",
            "address": address(work.port),
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


class Nginx(Peer):
    name = "nginx"

    def version(self):
        return ["-v"]

    def command(self, work):
        kind = "grpc" if work.grpc else "proxy"
        target = "grpc_pass grpc://backend;" if work.grpc else "proxy_pass http://backend;"
        if work.prefixes:
            servers = [self.server(work, "", [f"location /r/{n}/ {{ {target} }}" for n in range(work.prefixes)])]
        elif work.hosts:
            servers = [self.server(work, f"server_name h{n}.test;", [f"location / {{ {target} }}"]) for n in range(work.hosts)]
        else:
            servers = [self.server(work, "", [f"location / {{ {target} }}"])]
        temporary = "\n".join(
            f"    {what}_temp_path {work.directory}/nginx-{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        http1 = "" if work.grpc else 'proxy_http_version 1.1;\n    proxy_set_header Connection "";'
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
    {http1}
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
        return f"server {{ listen 127.0.0.1:{work.port}{http2}; {name}\n" + "\n".join(locations) + "\n}"


class HAProxy(Peer):
    name = "haproxy"
    kinds = Peer.kinds - {"prefixes", "hosts"}

    def version(self):
        return ["-v"]

    def command(self, work):
        config = work.write("haproxy.cfg", f"""
global
    nbthread 1
    maxconn 5000
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 1s
    timeout client 1h
    timeout server 15s
frontend inbound
    bind 127.0.0.1:{work.port}{' proto h2' if work.downstream == 'http2' else ''}
    http-request set-header X-Forwarded-Proto http
    default_backend backend
backend backend
    server one {work.backend}{' proto h2' if work.upstream == 'http2' else ''}
""")
        return [self.program(), "-db", "-f", config]


class Copy(Peer):
    """A bare TCP copy on the proxy's own runtime: it understands nothing, and is the floor."""

    name = "copy"
    kinds = frozenset({"h1", "grpc", "idle", "start"})

    def program(self):
        return built(self.root, "compare-copy")

    def version(self):
        return None

    def command(self, work):
        return [self.program(), f"127.0.0.1:{work.port}", work.backend]


PEERS = {peer.name: peer for peer in (Outrigger, Envoy, Nginx, HAProxy, Copy)}


def built(root, name):
    """A program of the release build."""
    path = os.path.join(os.environ.get("CARGO_TARGET_DIR") or os.path.join(root, "target"), "release", name)
    return path if os.access(path, os.X_OK) else None
