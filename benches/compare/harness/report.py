"""Medians, ratios, the table and the targets."""

import statistics

# (scenario, figure, peer it is compared with or None for an absolute value, at most), of Outrigger or of the peer named last
TARGETS = [
    ("h1", "cpu_us", "envoy", 0.42),
    ("h1", "cpu_us", "nginx", 1.25),
    ("grpc", "cpu_us", "envoy", 0.48),
    ("idle", "idle_mib", None, 10.0),
    ("routes-10000", "cpu_us", "routes-10", 1.1),
    ("hosts-10000", "cpu_us", "hosts-10", 1.1),
    ("handshake", "cpu_us", "envoy", 0.85),
    ("handshake-pq", "cpu_us", "envoy", 0.85),
    ("mesh", "cpu_us", "envoy", 0.62),
    ("h3", "cpu_us", "envoy", 0.40),
    ("websocket", "cpu_us", "envoy", 0.72),
    ("tcp", "cpu_us", "copy", 1.1),
    ("h1", "cpu_us", "outrigger", 1.05, "resilient"),
    ("grpc", "cpu_us", "outrigger", 1.05, "resilient"),
    ("h2h1", "cpu_us", "outrigger", 1.05, "resilient"),
    ("h1", "cpu_us", "before", 1.05, "resilient"),
    ("grpc", "cpu_us", "before", 1.05, "resilient"),
    ("h2h1", "cpu_us", "before", 1.05, "resilient"),
]


class Results:
    """Measurements by scenario and peer, one for each round."""

    def __init__(self):
        self.rounds = {}

    def add(self, scenario, peer, figures):
        self.rounds.setdefault((scenario, peer), []).append(figures)

    def faults(self, scenario, peer):
        return [one["fault"] for one in self.rounds.get((scenario, peer), []) if one.get("fault")]

    def values(self, scenario, peer, figure):
        """The figure of every round that counts, by round."""
        rounds = self.rounds.get((scenario, peer), [])
        return {at: one[figure] for at, one in enumerate(rounds) if figure in one and not one.get("fault")}

    def median(self, scenario, peer, figure):
        values = self.values(scenario, peer, figure)
        return statistics.median(values.values()) if values else None

    def ratio(self, scenario, peer, figure, other_scenario, other_peer):
        """The median of the ratios within each round: the machine's mood changes between rounds more than within one."""
        ours = self.values(scenario, peer, figure)
        theirs = self.values(other_scenario, other_peer, figure)
        ratios = [ours[at] / theirs[at] for at in ours if theirs.get(at)]
        return statistics.median(ratios) if ratios else None


def targets(results):
    """Lines that say which targets were met, and whether all that could be judged were."""
    lines, met_all = [], True
    for scenario, figure, other, limit, *of in TARGETS:
        subject = of[0] if of else "outrigger"
        if other is None:
            value, text = results.median(scenario, subject, figure), f"{scenario} {figure}"
        elif "-" in other:
            value, text = results.ratio(scenario, subject, figure, other, subject), f"{scenario} {figure} / {other}"
        else:
            value, text = results.ratio(scenario, subject, figure, scenario, other), f"{scenario} {figure} / {other}"
        if value is None:
            continue
        if subject != "outrigger":
            text = f"{subject}: {text}"
        met = value <= limit and not results.faults(scenario, subject)
        met_all = met_all and met
        lines.append(f"{'PASS' if met else 'FAIL'}  {text}: {value:.2f}, at most {limit}")
    return lines, met_all


def table(results, scenario, title, peers):
    """One scenario as text."""
    if scenario == "start":
        columns = [("start ms", "start_ms", "{:.1f}")]
        main, against = "start_ms", ()
    elif scenario.startswith("idle-tls"):
        columns = [("KiB/connection", "connection_kib", "{:.1f}")]
        main, against = "connection_kib", [other for other in ("envoy", "nginx") if other in peers]
    elif scenario == "idle":
        columns = [("idle MiB", "idle_mib", "{:.1f}"), ("KiB/connection", "connection_kib", "{:.1f}")]
        main, against = "idle_mib", ()
    elif "handshake" in scenario or scenario == "resumed":
        columns = [
            ("CPU us/handshake", "cpu_us", "{:.0f}"), ("handshakes/CPU s", "per_cpu_second", "{:,.0f}"),
            ("p50 us", "p50_us", "{:,.0f}"), ("p99 us", "p99_us", "{:,.0f}"), ("core busy", "busy", "{:.0%}"),
        ]
        main, against = "cpu_us", [other for other in ("envoy", "nginx") if other in peers]
    else:
        columns = [
            ("CPU us/req", "cpu_us", "{:.1f}"), ("requests/s", "rps", "{:,.0f}"),
            ("p50 us", "p50_us", "{:,.0f}"), ("p99 us", "p99_us", "{:,.0f}"), ("core busy", "busy", "{:.0%}"),
        ]
        main, against = "cpu_us", [other for other in ("envoy", "nginx", "before", "copy") if other in peers and (other != "copy" or scenario in ("tcp", "websocket"))]
    header = ["", columns[0][0], "min..max", *(f"x {other}" for other in against), *(name for name, _, _ in columns[1:])]
    rows = [header]
    notes = []
    for peer in peers:
        if (scenario, peer) not in results.rounds:
            continue
        for fault in results.faults(scenario, peer):
            notes.append(f"  INVALID {peer}: {fault}")
        values = results.values(scenario, peer, main).values()
        pattern = columns[0][2]
        spread = f"{pattern.format(min(values))}..{pattern.format(max(values))}" if values else "-"
        row = [peer, cell(results.median(scenario, peer, main), pattern), spread]
        row += [cell(results.ratio(scenario, peer, main, scenario, other), "{:.2f}") for other in against]
        row += [cell(results.median(scenario, peer, figure), pattern) for _, figure, pattern in columns[1:]]
        rows.append(row)
    widths = [max(len(row[at]) for row in rows) for at in range(len(header))]
    lines = [title]
    for row in rows:
        lines.append("  " + "  ".join(text.ljust(width) if at == 0 else text.rjust(width) for at, (text, width) in enumerate(zip(row, widths))).rstrip())
    return "\n".join(lines + notes)


def cell(value, pattern):
    return "-" if value is None else pattern.format(value)
