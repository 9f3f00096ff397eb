"""Load: h2load, and compare-load where every request needs another host or path, or a client certificate."""

import json
import os
import re
import struct
from dataclasses import dataclass

from .process import ChildFailed, run

GRPC_MESSAGE = b"\0" + struct.pack(">I", 100) + b"m" * 100
HTTP1_BODY = 1024


@dataclass
class Load:
    """What the load generator saw."""

    requests: int
    seconds: float
    p50_us: int
    p99_us: int
    fault: str = ""  # why the measurement does not count; empty when every request was answered in full


def h2load(address, core, directory, *, protocol, requests, connections, streams=1, grpc=False):
    """Closed loop: `connections` connections with `streams` requests open on each, until `requests` are done."""
    log = os.path.join(directory, "h2load.log")
    command = ["h2load", f"--log-file={log}", "-n", requests, "-c", connections, "-m", streams]
    path = "/"
    if protocol == "http1":
        command.append("--h1")
    if grpc:
        message = os.path.join(directory, "message")
        with open(message, "wb") as file:
            file.write(GRPC_MESSAGE)
        command += ["-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers"]
        path = "/compare.Echo/Unary"
    if os.path.exists(log):
        os.remove(log)
    # Nothing here is slower than 1 ms a request; the limit is only there to end.
    text = run([*command, f"http://{address}{path}"], core, timeout=60 + requests / 1000)

    counts = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    statuses = re.search(r"status codes: (\d+) 2xx", text)
    data = re.search(r"\((\d+)\) data", text)
    if not (counts and statuses and data):
        raise ChildFailed(f"h2load printed something else than expected:\n{text[-2000:]}")
    # One line a request: start in microseconds since the epoch, status, duration in microseconds.
    with open(log) as lines:
        logged = [(int(start), int(duration)) for start, _, duration in (line.split("\t")[:3] for line in lines)]
    latencies = sorted(duration for _, duration in logged)
    seconds = (max(map(sum, logged)) - min(logged)[0]) / 1e6 if logged else 0.0

    body = len(GRPC_MESSAGE) if grpc else HTTP1_BODY
    fault = ""
    if int(counts[2]) != requests or int(statuses[1]) != requests:
        fault = f"{requests - min(int(counts[2]), int(statuses[1]))} of {requests} requests failed"
    elif int(data[1]) != requests * body:
        fault = f"{data[1]} body bytes arrived instead of {requests * body}"
    elif len(latencies) != requests:
        fault = f"{len(latencies)} latencies were logged instead of {requests}"
    return Load(requests, seconds, quantile(latencies, 50), quantile(latencies, 99), fault)


def compare_load(program, core, *, requests, arguments, timeout):
    """One of the ways of kit/src/bin/compare-load.rs; what it says beside its figures explains failures."""
    *said, figures = run([program, *arguments], core, timeout).splitlines()
    result = json.loads(figures)
    fault = f"{result['failed']} of {requests} requests failed" if result["failed"] else ""
    fault = "; ".join([fault, *said]) if fault else ""
    return Load(requests, result["seconds"], result["p50_us"], result["p99_us"], fault)


def quantile(ordered, percent):
    """The smallest value that so many percent do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else 0
