"""What is measured. Every measurement starts its proxy afresh, so that nothing else runs beside it."""

import contextlib
import http.client
import os
import socket
import ssl
import time
from dataclasses import dataclass

from .load import HTTP1_BODY, compare_load, h2load
from .peers import HOST, Work
from .process import Child, ChildFailed, free_port, settled_cpu_seconds

START_LIMIT = 60  # seconds; 10,000 routes take a while to load
IDLE_CONNECTIONS = 1000
HANDSHAKES_AT_ONCE = 8


@dataclass
class Setting:
    """What is the same for every measurement of one run."""

    root: str
    directory: str
    pki: str  # the folder of certificates
    http1: str  # the backend's addresses
    grpc: str
    tls: str
    echo: str
    websocket: str
    load_program: str
    proxy_core: int
    load_core: int
    requests: int
    connections: int
    http2_connections: int
    streams: int


@dataclass
class Scenario:
    """A piece of work under load, or (kind `idle`, `idle-tls` and `start`) without."""

    name: str
    title: str
    kind: str
    downstream: str = "http1"
    upstream: str = "http1"
    grpc: bool = False
    count: int = 0
    tls_downstream: bool = False
    tls_upstream: bool = False
    mesh: bool = False  # two of the proxy in a row, with mutual TLS and HTTP/2 between them
    handshakes: str = ""  # full or resumed: one for every request
    group: str = "X25519"
    messages: str = ""  # tcp or websocket: there and back over long connections

    def describe(self, setting):
        if self.kind in ("idle", "idle-tls", "start"):
            return self.title
        if self.handshakes:
            return f"{self.title}; {HANDSHAKES_AT_ONCE} at a time, {self.requests(setting):,} connections"
        if self.messages:
            return f"{self.title}; {setting.connections} connections, {self.requests(setting):,} messages"
        streams = f" of {setting.streams} streams" if self.shares_connections() else ""
        connections = setting.http2_connections if self.shares_connections() else setting.connections
        return f"{self.title}; {connections} connections{streams}, {self.requests(setting):,} requests"

    def requests(self, setting):
        # Cheap requests need more of them to be measured well; handshakes and 10,000 routes make some so slow that fewer do.
        if self.handshakes:
            return max(500, setting.requests // 20)
        if self.count:
            return max(1000, setting.requests * 2 // 5)
        return setting.requests * 2 if self.downstream == "http2" or self.messages else setting.requests

    def shares_connections(self):
        """Whether many requests are open on one connection of the load generator."""
        return self.downstream in ("http2", "http3")


SCENARIOS = {
    "h1": [Scenario("h1", "HTTP/1.1 to HTTP/1.1, 1 KiB", "h1")],
    "grpc": [Scenario("grpc", "gRPC unary 100 B, h2c to h2c", "grpc", "http2", "http2", grpc=True)],
    "h2h1": [Scenario("h2h1", "h2c to HTTP/1.1, 1 KiB", "h2h1", "http2", "http1")],
    "routes": [
        Scenario("routes-10", "10 prefix routes in one host, each used in turn", "prefixes", count=10),
        Scenario("routes-10000", "10,000 prefix routes in one host, each used in turn", "prefixes", count=10_000),
        Scenario("hosts-10", "10 hosts, each used in turn", "hosts", count=10),
        Scenario("hosts-10000", "10,000 hosts, each used in turn", "hosts", count=10_000),
    ],
    "idle": [Scenario("idle", f"resident memory after the first answer, and with {IDLE_CONNECTIONS:,} idle connections", "idle")],
    "start": [Scenario("start", "from the start of the process to its first answer", "start")],
    "handshake": [
        Scenario("handshake", "full mutual TLS 1.3 handshake (X25519) and one HTTP/1.1 request", "handshake",
                 tls_downstream=True, handshakes="full"),
        Scenario("handshake-pq", "full mutual TLS 1.3 handshake (X25519MLKEM768) and one HTTP/1.1 request", "handshake-pq",
                 tls_downstream=True, handshakes="full", group="X25519MLKEM768"),
    ],
    "resumed": [Scenario("resumed", "resumed mutual TLS 1.3 handshake (X25519) and one HTTP/1.1 request", "resumed",
                         tls_downstream=True, handshakes="resumed")],
    "inbound": [Scenario("inbound", "mutual TLS HTTP/2 to HTTP/1.1, 1 KiB", "inbound", "http2", "http1", tls_downstream=True)],
    "outbound": [Scenario("outbound", "HTTP/1.1 to mutual TLS HTTP/2, 1 KiB", "outbound", "http1", "http2", tls_upstream=True)],
    "mesh": [
        Scenario("mesh", "HTTP/1.1 to proxy, mutual TLS HTTP/2 to proxy, HTTP/1.1; 1 KiB, CPU of both proxies", "mesh", mesh=True),
        Scenario("mesh-grpc", "gRPC unary 100 B, h2c to proxy, mutual TLS HTTP/2 to proxy, h2c; CPU of both proxies", "mesh-grpc",
                 "http2", "http2", grpc=True, mesh=True),
    ],
    "h3": [Scenario("h3", "HTTP/3 with mutual TLS to HTTP/1.1, 1 KiB", "h3", "http3", "http1", tls_downstream=True)],
    "websocket": [Scenario("websocket", "WebSocket message of 100 B there and back, HTTP/1.1 to HTTP/1.1", "websocket", messages="websocket")],
    "tcp": [Scenario("tcp", "100 B there and back over raw TCP", "tcp", "tcp", "tcp", messages="tcp")],
    "idle-tls": [
        Scenario(f"idle-tls-{name}", f"resident memory of each of {IDLE_CONNECTIONS:,} idle mutual TLS {title} connections",
                 "idle-tls", name, tls_downstream=True)
        for name, title in (("http1", "HTTP/1.1"), ("http2", "HTTP/2"))
    ],
}


def measure(scenario, peer, setting):
    """One measurement: a dictionary of figures, with `fault` saying why they do not count."""
    with contextlib.ExitStack() as running:
        if scenario.mesh:
            # The one next to the backend first: the other connects to it.
            far = start(running, peer, setting, "far", Work(
                downstream="http2", upstream=scenario.upstream, grpc=scenario.grpc, tls_downstream=True,
                backend=setting.grpc if scenario.grpc else setting.http1,
            ))
            near = start(running, peer, setting, "near", Work(
                downstream=scenario.downstream, upstream="http2", grpc=scenario.grpc, tls_upstream="proxy",
                backend=f"127.0.0.1:{far.work.port}",
            ))
            return under_load(scenario, setting, [near, far])
        backend = setting.grpc if scenario.grpc else setting.tls if scenario.tls_upstream else setting.http1
        if scenario.messages:
            backend = setting.websocket if scenario.messages == "websocket" else setting.echo
        proxy = start(running, peer, setting, "proxy", Work(
            downstream=scenario.downstream, upstream=scenario.upstream, grpc=scenario.grpc, backend=backend,
            websocket=scenario.messages == "websocket",
            prefixes=scenario.count if scenario.kind == "prefixes" else 0,
            hosts=scenario.count if scenario.kind == "hosts" else 0,
            tls_downstream=scenario.tls_downstream, tls_upstream="backend" if scenario.tls_upstream else "",
        ))
        if scenario.kind == "start":
            return {"start_ms": proxy.first_answer_seconds * 1000}
        if scenario.kind == "idle":
            return idle(proxy)
        if scenario.kind == "idle-tls":
            return idle_tls(proxy, setting)
        return under_load(scenario, setting, [proxy])


class Proxy(Child):
    """A proxy at its work."""

    def __init__(self, peer, work, core):
        self.work = work
        self.first_answer_seconds = 0.0  # once it has answered
        super().__init__(peer.name, peer.command(work), core, work.directory)


def start(running, peer, setting, place, work):
    """Starts a proxy and waits for its first answer; it ends with `running`."""
    work.directory = os.path.join(setting.directory, peer.name, place)
    os.makedirs(work.directory, exist_ok=True)
    work.port, work.admin_port = free_port(), free_port()
    work.pki = setting.pki if work.tls_downstream or work.tls_upstream else ""
    proxy = running.enter_context(Proxy(peer, work, setting.proxy_core))
    proxy.first_answer_seconds = first_answer(proxy)
    return proxy


def direct(scenario, setting):
    """The load generator straight to the backend: how fast the rest of the set-up can go."""
    loaded = generate(scenario, setting, setting.grpc if scenario.grpc else setting.http1, scenario.requests(setting))
    return {"rps": rate(loaded), "p50_us": loaded.p50_us, "p99_us": loaded.p99_us, "fault": loaded.fault}


def under_load(scenario, setting, proxies):
    """Load on the first of the proxies, and the CPU time of all."""
    address = f"127.0.0.1:{proxies[0].work.port}"
    requests = scenario.requests(setting)
    warm = generate(scenario, setting, address, max(min(1000, requests), requests // 5))
    before = settled_cpu_seconds(proxies)
    loaded = generate(scenario, setting, address, requests)
    after = settled_cpu_seconds(proxies)
    for proxy in proxies:
        proxy.check_alive()
    cpu = after - before
    return {
        "cpu_us": cpu * 1e6 / requests,
        **({"per_cpu_second": requests / cpu} if scenario.handshakes and cpu else {}),
        "rps": rate(loaded),
        "p50_us": loaded.p50_us,
        "p99_us": loaded.p99_us,
        "busy": cpu / loaded.seconds if loaded.seconds else 0.0,
        "fault": loaded.fault or (warm.fault and f"warming up: {warm.fault}"),
    }


def rate(loaded):
    return loaded.requests / loaded.seconds if loaded.seconds else 0.0


def generate(scenario, setting, address, requests):
    """Load of the scenario's kind."""
    def own(*arguments, slowest_ms):
        return compare_load(
            setting.load_program, setting.load_core, requests=requests, arguments=arguments, timeout=60 + requests * slowest_ms / 1000,
        )

    if scenario.count:
        host, path = ("h{}.test", "/") if scenario.kind == "hosts" else ("compare.test", "/r/{}/x")
        return own("routes", address, setting.connections, requests, scenario.count, host, path, slowest_ms=2)
    if scenario.handshakes:
        return own(scenario.handshakes, address, HANDSHAKES_AT_ONCE, requests, scenario.group, setting.pki, slowest_ms=20)
    if scenario.messages:
        return own(scenario.messages, address, setting.connections, requests, slowest_ms=1)
    if scenario.downstream == "http3":
        return own("http3", address, setting.http2_connections, setting.streams, requests, setting.pki, slowest_ms=2)
    if scenario.tls_downstream:
        return own("http2", address, setting.http2_connections, setting.streams, requests, setting.pki, slowest_ms=1)
    http2 = scenario.downstream == "http2"
    if not http2 and (scenario.mesh or scenario.tls_upstream):
        # h2load takes a status line without a reason phrase, such as HAProxy makes of an HTTP/2 answer, for a failure.
        return own("routes", address, setting.connections, requests, 1, HOST, "/", slowest_ms=1)
    return h2load(
        address, setting.load_core, setting.directory, protocol=scenario.downstream, requests=requests, grpc=scenario.grpc,
        connections=setting.http2_connections if http2 else setting.connections, streams=setting.streams if http2 else 1,
    )


def idle(proxy):
    """Memory at rest, and what a kept HTTP/1.1 connection adds once it has carried a request."""
    time.sleep(1)
    before = proxy.resident_kib()
    connections = []
    try:
        for _ in range(IDLE_CONNECTIONS):
            connection = http.client.HTTPConnection("127.0.0.1", proxy.work.port, timeout=10)
            connections.append(connection)
            connection.request("GET", "/", headers={"Host": "compare.test"})
            response = connection.getresponse()
            if response.status != 200 or len(response.read()) != HTTP1_BODY:
                return {"fault": f"status {response.status} on an idle connection"}
        time.sleep(1)
        proxy.check_alive()
        after = proxy.resident_kib()
    finally:
        for connection in connections:
            connection.close()
    return {"idle_mib": before / 1024, "connection_kib": (after - before) / IDLE_CONNECTIONS}


def idle_tls(proxy, setting):
    """What a kept mutual TLS connection adds once it has carried a request."""
    time.sleep(1)
    before = proxy.resident_kib()
    command = [setting.load_program, f"hold-{proxy.work.downstream}", f"127.0.0.1:{proxy.work.port}", IDLE_CONNECTIONS, setting.pki]
    with Child("hold", command, setting.load_core, setting.directory) as holder:
        deadline = time.monotonic() + 60
        while holder.output().strip() != "holding":
            holder.check_alive()
            if time.monotonic() > deadline:
                raise holder.failure("did not open its connections within 60 s")
            time.sleep(0.01)
        time.sleep(1)
        holder.check_alive()
        proxy.check_alive()
        after = proxy.resident_kib()
    return {"connection_kib": (after - before) / IDLE_CONNECTIONS}


def first_answer(proxy):
    """Seconds from the start of the process until it answered a request, or (HTTP/2) took a connection and its settings.

    A proxy that serves HTTP/3 is asked over TCP, where it listens as well.
    """
    work = proxy.work
    context = client_context(work) if work.tls_downstream else None
    while True:
        try:
            with contextlib.ExitStack() as opened:
                stream = opened.enter_context(socket.create_connection(("127.0.0.1", work.port), timeout=5))
                if context:
                    stream = opened.enter_context(context.wrap_socket(stream, server_hostname=HOST))
                if answers(stream, work):
                    return time.monotonic() - proxy.started
        except OSError:
            pass
        proxy.check_alive()
        if time.monotonic() - proxy.started > START_LIMIT:
            raise proxy.failure(f"did not answer within {START_LIMIT} s")
        time.sleep(0.0005)


def client_context(work):
    context = ssl.create_default_context(cafile=work.file("ca.pem"))
    context.load_cert_chain(work.file("client.pem"), work.file("client.key"))
    context.set_alpn_protocols(["h2" if work.downstream == "http2" else "http/1.1"])
    return context


def answers(stream, work):
    if work.downstream == "http2":
        empty_settings = b"\0\0\0\4\0\0\0\0\0"
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        return stream.recv(9)[3:4] == b"\4"
    if work.downstream == "tcp":
        stream.sendall(b"hello")
        return stream.recv(5) == b"hello"
    if work.websocket:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: compare.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                       b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        return stream.recv(4096).startswith(b"HTTP/1.1 101")
    host, path = ("h0.test", "/r/0/x") if work.hosts or work.prefixes else ("compare.test", "/")
    stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    received = stream.recv(4096)
    return received.startswith(b"HTTP/1.1 200")
