"""Child processes: started on one core, measured through /proc, always stopped by their own id."""

import contextlib
import os
import signal
import socket
import subprocess
import time

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class ChildFailed(Exception):
    """A child did not start, answer or go on; the text says what it printed last."""


def free_port():
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pinned(core, command):
    """`command`, bound to one core, and told to end should this program die without stopping it."""
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "--cpu-list", str(core), *map(str, command)]


class Child:
    """A running program and whatever processes it started. A context manager: leaving it stops them all."""

    def __init__(self, name, command, core, directory):
        self.name = name
        self.log = os.path.join(directory, name + ".log")
        self.started = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                pinned(core, command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def output(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def failure(self, what):
        return ChildFailed(f"{self.name} {what}; it printed:\n{self.output()[-2000:]}")

    def check_alive(self):
        if self.process.poll() is not None:
            raise self.failure(f"ended by itself with status {self.process.returncode}")

    def stop(self):
        """Asks, waits, and then insists."""
        family = self.processes()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=5)
        # A parent that had to be killed could not stop its own children.
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                if pid != self.process.pid and os.getpgid(pid) == self.process.pid:
                    os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(map(runs, family)) and time.monotonic() < deadline:
            time.sleep(0.001)

    def processes(self):
        """The ids of the child and all its descendants."""
        children = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                parent = parent_of(int(entry))
                if parent is not None:
                    children.setdefault(parent, []).append(int(entry))
        found, pending = [], [self.process.pid]
        while pending:
            pid = pending.pop()
            found.append(pid)
            pending.extend(children.get(pid, []))
        return found

    def cpu_seconds(self):
        """User and system time so far, of all its processes."""
        return sum(cpu_nanoseconds(pid) for pid in self.processes()) / 1e9

    def resident_kib(self):
        """Resident memory of all its processes. Pages that they share are counted in each."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as statm:
                total += int(statm.read().split()[1]) * PAGE_KIB
        return total


def settled_cpu_seconds(children):
    """The sum of `cpu_seconds` once they stand still: what the last requests left to do is then done."""
    def seconds():
        return sum(child.cpu_seconds() for child in children)

    before, deadline = seconds(), time.monotonic() + 2
    while True:
        time.sleep(0.1)
        after = seconds()
        if after - before < STANDSTILL or time.monotonic() > deadline:
            return after
        before = after


# Seconds of CPU time within 100 ms: no more than timers take.
STANDSTILL = 0.001


def cpu_nanoseconds(pid):
    """User and system time of all threads of a process, those that have ended among them; 0 when it is gone."""
    # As clock_getcpuclockid(3) makes it. /proc/PID/stat says the same in ticks of 10 ms.
    clock = ((~pid) << 3) | 2
    try:
        return time.clock_gettime_ns(clock)
    except OSError:
        return 0


def stat_fields(pid):
    """The fields of /proc/PID/stat after the program's name (the third field of proc(5) is first), or None."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()
    except OSError:
        return None


def runs(pid):
    """Whether a process is there and has not ended."""
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def parent_of(pid):
    fields = stat_fields(pid)
    return None if fields is None else int(fields[1])


def run(command, core, timeout):
    """Runs a program to its end and returns what it printed."""
    done = subprocess.run(
        pinned(core, command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=timeout, text=True, errors="replace",
    )
    if done.returncode != 0:
        raise ChildFailed(f"{command[0]} ended with status {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout
