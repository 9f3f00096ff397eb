"""What is measured. Every measurement starts its proxy afresh, so that nothing else runs beside it."""

import http.client
import os
import socket
import time
from dataclasses import dataclass

from .load import HTTP1_BODY, compare_load, h2load
from .peers import Work
from .process import TICKS_PER_SECOND, Child, ChildFailed, free_port

START_LIMIT = 60  # seconds; 10,000 routes take a while to load
IDLE_CONNECTIONS = 1000


@dataclass
class Setting:
    """What is the same for every measurement of one run."""

    root: str
    directory: str
    http1: str  # the backend's addresses
    grpc: str
    load_program: str
    proxy_core: int
    load_core: int
    requests: int
    connections: int
    http2_connections: int
    streams: int


@dataclass
class Scenario:
    """A piece of work under load, or (kind `idle` and `start`) without."""

    name: str
    title: str
    kind: str
    downstream: str = "http1"
    upstream: str = "http1"
    grpc: bool = False
    count: int = 0

    def describe(self, setting):
        if self.kind in ("idle", "start"):
            return self.title
        streams = f" of {setting.streams} streams" if self.downstream == "http2" else ""
        connections = setting.http2_connections if self.downstream == "http2" else setting.connections
        return f"{self.title}; {connections} connections{streams}, {self.requests(setting):,} requests"

    def requests(self, setting):
        # CPU time is counted in ticks of 10 ms: cheap requests need more of them, and 10,000 routes make some so
        # slow that fewer do.
        if self.count:
            return max(1000, setting.requests * 2 // 5)
        return setting.requests * 2 if self.downstream == "http2" else setting.requests

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
}


def measure(scenario, peer, setting):
    """One measurement: a dictionary of figures, with `fault` saying why they do not count."""
    directory = os.path.join(setting.directory, peer.name)
    os.makedirs(directory, exist_ok=True)
    work = Work(
        downstream=scenario.downstream, upstream=scenario.upstream, grpc=scenario.grpc,
        backend=setting.grpc if scenario.grpc else setting.http1, directory=directory,
        port=free_port(), admin_port=free_port(),
        prefixes=scenario.count if scenario.kind == "prefixes" else 0,
        hosts=scenario.count if scenario.kind == "hosts" else 0,
    )
    command = peer.command(work)
    with Child(peer.name, command, setting.proxy_core, directory) as child:
        if scenario.kind == "start":
            return {"start_ms": first_answer(child, work) * 1000}
        if scenario.kind == "idle":
            return idle(child, work)
        first_answer(child, work)
        return under_load(scenario, setting, child, f"127.0.0.1:{work.port}")


def direct(scenario, setting):
    """The load generator straight to the backend: how fast the rest of the set-up can go."""
    loaded = generate(scenario, setting, setting.grpc if scenario.grpc else setting.http1, scenario.requests(setting))
    return {"rps": rate(loaded), "p50_us": loaded.p50_us, "p99_us": loaded.p99_us, "fault": loaded.fault}


def under_load(scenario, setting, child, address):
    requests = scenario.requests(setting)
    warm = generate(scenario, setting, address, max(1000, requests // 5))
    before = child.settled_cpu_ticks()
    loaded = generate(scenario, setting, address, requests)
    after = child.settled_cpu_ticks()
    child.check_alive()
    cpu = (after - before) / TICKS_PER_SECOND
    return {
        "cpu_us": cpu * 1e6 / requests,
        "rps": rate(loaded),
        "p50_us": loaded.p50_us,
        "p99_us": loaded.p99_us,
        "busy": cpu / loaded.seconds if loaded.seconds else 0.0,
        "fault": loaded.fault or (warm.fault and f"warming up: {warm.fault}"),
    }


def rate(loaded):
    return loaded.requests / loaded.seconds if loaded.seconds else 0.0


def generate(scenario, setting, address, requests):
    if scenario.count:
        host, path = ("h{}.test", "/") if scenario.kind == "hosts" else ("compare.test", "/r/{}/x")
        return compare_load(
            setting.load_program, address, setting.load_core, requests=requests, connections=setting.connections,
            count=scenario.count, host=host, path=path,
        )
    http2 = scenario.downstream == "http2"
    return h2load(
        address, setting.load_core, setting.directory, protocol=scenario.downstream, requests=requests, grpc=scenario.grpc,
        connections=setting.http2_connections if http2 else setting.connections, streams=setting.streams if http2 else 1,
    )


def idle(child, work):
    """Memory at rest, and what a kept HTTP/1.1 connection adds once it has carried a request."""
    first_answer(child, work)
    time.sleep(1)
    before = child.resident_kib()
    connections = []
    try:
        for _ in range(IDLE_CONNECTIONS):
            connection = http.client.HTTPConnection("127.0.0.1", work.port, timeout=10)
            connections.append(connection)
            connection.request("GET", "/", headers={"Host": "compare.test"})
            response = connection.getresponse()
            if response.status != 200 or len(response.read()) != HTTP1_BODY:
                return {"fault": f"status {response.status} on an idle connection"}
        time.sleep(1)
        child.check_alive()
        after = child.resident_kib()
    finally:
        for connection in connections:
            connection.close()
    return {"idle_mib": before / 1024, "connection_kib": (after - before) / IDLE_CONNECTIONS}


def first_answer(child, work):
    """Seconds from the start of the process until it answered a request, or (HTTP/2) took a connection and its settings."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", work.port), timeout=5) as stream:
                if answers(stream, work):
                    return time.monotonic() - child.started
        except OSError:
            pass
        child.check_alive()
        if time.monotonic() - child.started > START_LIMIT:
            raise ChildFailed(f"{child.name} did not answer within {START_LIMIT} s; it printed:\n{child.output()[-2000:]}")
        time.sleep(0.0005)


def answers(stream, work):
    if work.downstream == "http2":
        empty_settings = b"\0\0\0\4\0\0\0\0\0"
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        return stream.recv(9)[3:4] == b"\4"
    host, path = ("h0.test", "/r/0/x") if work.hosts or work.prefixes else ("compare.test", "/")
    stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    received = stream.recv(4096)
    return received.startswith(b"HTTP/1.1 200")
