//! Connections by listener.

use super::handshakes::{self, Handshakes, Handshaking, Names};
use super::{Arc, AtomicU64, Kind, Labels, Ordering, Series, Tally, Text, add, gauge, tallies};

/// What the first bytes of a connection said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Neither; the connection was handed on unread.
    Tcp,
    /// Not enough bytes in time; the connection was closed.
    Timeout,
    /// The caller closed before it said anything.
    Closed,
}

const DETECTED: [(Detected, &str); 5] = [
    (Detected::Http1, "http1"),
    (Detected::Http2, "http2"),
    (Detected::Tcp, "tcp"),
    (Detected::Timeout, "timeout"),
    (Detected::Closed, "closed"),
];

/// What became of a connection that was caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    /// A listener serves its destination.
    Served,
    /// None does, and the one that caught it serves it.
    Unknown,
    /// None does, and it went on to where it was going.
    PassedThrough,
    /// None does, and it was refused.
    Refused,
    /// It was made to the listener itself.
    Direct,
    /// It would have gone on to this proxy, and was refused.
    Loop,
}

const CAUGHT: [(Caught, &str); 6] = [
    (Caught::Served, "served"),
    (Caught::Unknown, "unknown"),
    (Caught::PassedThrough, "passed_through"),
    (Caught::Refused, "refused"),
    (Caught::Direct, "direct"),
    (Caught::Loop, "loop"),
];

/// What is done with a request that came before the handshake of its connection was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyRequest {
    /// It was handled at once.
    Handled,
    /// It waited for the end of the handshake.
    Held,
    /// It was handled at once, and sent once more after the handshake because it was too early for its upstream.
    Repeated,
}

const EARLY: [(EarlyRequest, &str); 3] =
    [(EarlyRequest::Handled, "handled"), (EarlyRequest::Held, "held"), (EarlyRequest::Repeated, "repeated")];

/// What kind of tunnel is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelKind {
    /// WebSocket.
    WebSocket,
    /// CONNECT without a protocol.
    Connect,
    /// Any other upgrade.
    Other,
}

const TUNNELS: [(TunnelKind, &str); 3] =
    [(TunnelKind::WebSocket, "websocket"), (TunnelKind::Connect, "connect"), (TunnelKind::Other, "other")];

/// The numbers of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    labels: Labels,
    series: Series<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    accepted: AtomicU64,
    open: AtomicU64,
    accept_errors: AtomicU64,
    held_back: AtomicU64,
    detected: [AtomicU64; DETECTED.len()],
    caught: [AtomicU64; CAUGHT.len()],
    refused: Tally,
    tokens: Tally,
    handshakes: Handshakes,
    tunnels: [AtomicU64; TUNNELS.len()],
    tunnels_open: [AtomicU64; TUNNELS.len()],
    passed: AtomicU64,
    passed_bytes: [AtomicU64; 2],
    quic: AtomicU64,
    quic_open: AtomicU64,
    early: [AtomicU64; EARLY.len()],
}

/// A connection over QUIC, counted as open until dropped.
#[derive(Debug)]
pub struct OverQuic(Arc<ListenerMetrics>);

impl Drop for OverQuic {
    fn drop(&mut self) {
        self.0.series.local().quic_open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ListenerMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { labels: Labels::new(&[("listener", name)]), series: Series::unbounded() }
    }

    /// A connection was accepted. Followed by one [`Self::closed`].
    pub fn accepted(&self) {
        let shard = self.series.local();
        add(&shard.accepted, 1);
        add(&shard.open, 1);
    }

    /// An accepted connection is gone.
    pub fn closed(&self) {
        self.series.local().open.fetch_sub(1, Ordering::Relaxed);
    }

    /// An accepted connection came over QUIC, and its handshake is done.
    #[must_use]
    pub fn over_quic(self: &Arc<Self>) -> OverQuic {
        let shard = self.series.local();
        add(&shard.quic, 1);
        add(&shard.quic_open, 1);
        OverQuic(Arc::clone(self))
    }

    /// A request came before the handshake of its connection was over.
    pub fn early(&self, what: EarlyRequest) {
        add(&self.series.local().early[what as usize], 1);
    }

    /// Accepting failed for a reason other than the caller's own disappearance.
    pub fn accept_failed(&self) {
        add(&self.series.local().accept_errors, 1);
    }

    /// Accepting was suspended at the limit of open connections; the next ones wait in the kernel.
    pub fn held_back(&self) {
        add(&self.series.local().held_back, 1);
    }

    /// The protocol of a connection was told by its first bytes, or could not be.
    pub fn detected(&self, what: Detected) {
        add(&self.series.local().detected[what as usize], 1);
    }

    /// A redirected connection was caught here.
    pub fn caught(&self, what: Caught) {
        add(&self.series.local().caught[what as usize], 1);
    }

    /// A connection was refused before or instead of a TLS handshake. `reason` is a constant of the program.
    pub fn connection_refused(&self, reason: &'static str) {
        self.series.local().handshakes.refused(reason);
    }

    /// A connection was handed on without being terminated, and is over.
    pub fn passed_through(&self, received: u64, sent: u64) {
        let shard = self.series.local();
        add(&shard.passed, 1);
        add(&shard.passed_bytes[0], received);
        add(&shard.passed_bytes[1], sent);
    }

    /// A tunnel was opened. Followed by one [`Self::tunnel_closed`].
    pub fn tunnel_opened(&self, kind: TunnelKind) {
        let shard = self.series.local();
        add(&shard.tunnels[kind as usize], 1);
        add(&shard.tunnels_open[kind as usize], 1);
    }

    /// An open tunnel is gone.
    pub fn tunnel_closed(&self, kind: TunnelKind) {
        self.series.local().tunnels_open[kind as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// A codec refused a request. `code` is a constant of the program.
    pub fn refused(&self, code: &'static str) {
        self.series.local().refused.add(code);
    }

    /// The tokens of a request were judged. `result` is a constant of the program.
    pub fn tokens(&self, result: &'static str) {
        self.series.local().tokens.add(result);
    }
}

impl Handshaking for ListenerMetrics {
    fn handshakes(&self) -> &Handshakes {
        &self.series.local().handshakes
    }
}

const NAMES: Names = Names {
    total: "outrigger_tls_handshakes_total",
    resumed: "outrigger_tls_resumed_handshakes_total",
    failures: "outrigger_tls_refused_connections_total",
    under_way: "outrigger_tls_handshakes_under_way",
    duration: "outrigger_tls_handshake_duration_seconds",
};

pub(super) fn encode(listeners: &[Arc<ListenerMetrics>], text: &mut Text) {
    let mut all: Vec<&ListenerMetrics> = listeners.iter().map(Arc::as_ref).collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));

    text.family("outrigger_connections_total", Kind::Counter, "Connections accepted.");
    for listener in &all {
        text.sample(&listener.labels, listener.series.sum(|s| &s.accepted));
    }
    text.family("outrigger_connections", Kind::Gauge, "Open connections.");
    for listener in &all {
        text.sample(&listener.labels, gauge(listener.series.sum(|s| &s.open)));
    }
    let over_quic: Vec<_> = all.iter().filter(|listener| listener.series.sum(|s| &s.quic) > 0).collect();
    if !over_quic.is_empty() {
        text.family("outrigger_quic_connections_total", Kind::Counter, "Connections over QUIC, after their handshake.");
        for listener in &over_quic {
            text.sample(&listener.labels, listener.series.sum(|s| &s.quic));
        }
        text.family("outrigger_quic_connections", Kind::Gauge, "Open connections over QUIC.");
        for listener in &over_quic {
            text.sample(&listener.labels, gauge(listener.series.sum(|s| &s.quic_open)));
        }
        encode_early(&over_quic, text);
    }
    text.family("outrigger_accept_errors_total", Kind::Counter, "Failures to accept, such as too many open files.");
    for listener in &all {
        text.sample(&listener.labels, listener.series.sum(|s| &s.accept_errors));
    }
    text.family(
        "outrigger_connections_held_back_total",
        Kind::Counter,
        "Times that accepting was suspended at the limit of open connections.",
    );
    for listener in &all {
        text.sample(&listener.labels, listener.series.sum(|s| &s.held_back));
    }
    text.family("outrigger_protocol_detected_total", Kind::Counter, "Connections by what their first bytes said.");
    for listener in &all {
        for (what, name) in DETECTED {
            let count = listener.series.sum(|s| &s.detected[what as usize]);
            if count > 0 {
                text.sample(&listener.labels.with("protocol", name), count);
            }
        }
    }
    let caught = all.iter().flat_map(|listener| CAUGHT.map(|(what, name)| (listener, what, name)));
    let caught =
        caught.map(|(listener, what, name)| (listener, name, listener.series.sum(|s| &s.caught[what as usize])));
    let caught: Vec<_> = caught.filter(|(.., count)| *count > 0).collect();
    if !caught.is_empty() {
        text.family("outrigger_interceptions_total", Kind::Counter, "Redirected connections by what became of them.");
        for (listener, name, count) in caught {
            text.sample(&listener.labels.with("outcome", name), count);
        }
    }
    text.family("outrigger_requests_refused_total", Kind::Counter, "Requests refused before routing, by code.");
    for listener in &all {
        for (code, count) in tallies(&listener.series, |s| &s.refused) {
            text.sample(&listener.labels.with("code", code), count);
        }
    }
    text.family("outrigger_jwt_total", Kind::Counter, "Requests by what came of their tokens.");
    for listener in &all {
        for (result, count) in tallies(&listener.series, |s| &s.tokens) {
            text.sample(&listener.labels.with("result", result), count);
        }
    }
    encode_tunnels(&all, text);
    let series: Vec<_> = all.iter().map(|listener| (&listener.labels, &listener.series)).collect();
    handshakes::encode(&NAMES, &series, |shard| &shard.handshakes, text);
    let passing: Vec<_> = all.iter().filter(|listener| listener.series.sum(|s| &s.passed) > 0).collect();
    if passing.is_empty() {
        return;
    }
    text.family(
        "outrigger_tls_passthrough_connections_total",
        Kind::Counter,
        "Connections that were handed on by server name, not terminated, and are over.",
    );
    for listener in &passing {
        text.sample(&listener.labels, listener.series.sum(|s| &s.passed));
    }
    text.family("outrigger_tls_passthrough_bytes_total", Kind::Counter, "Their bytes, by direction.");
    for listener in &passing {
        for (at, direction) in ["received", "sent"].into_iter().enumerate() {
            let bytes = listener.series.sum(|s| &s.passed_bytes[at]);
            text.sample(&listener.labels.with("direction", direction), bytes);
        }
    }
}

fn encode_early(over_quic: &[&&ListenerMetrics], text: &mut Text) {
    let counts = over_quic.iter().flat_map(|listener| {
        EARLY.map(|(what, name)| (listener, name, listener.series.sum(|s| &s.early[what as usize])))
    });
    let counts: Vec<_> = counts.filter(|(.., count)| *count > 0).collect();
    if counts.is_empty() {
        return;
    }
    let help = "Requests that came before the handshake of their connection was over, by what was done with them.";
    text.family("outrigger_early_requests_total", Kind::Counter, help);
    for (listener, name, count) in counts {
        text.sample(&listener.labels.with("outcome", name), count);
    }
}

fn encode_tunnels(all: &[&ListenerMetrics], text: &mut Text) {
    let seen = |listener: &ListenerMetrics, kind: TunnelKind| listener.series.sum(|s| &s.tunnels[kind as usize]);
    if !all.iter().any(|listener| TUNNELS.iter().any(|(kind, _)| seen(listener, *kind) > 0)) {
        return;
    }
    text.family("outrigger_tunnels_total", Kind::Counter, "Tunnels opened, by kind.");
    for listener in all {
        for (kind, name) in TUNNELS {
            let opened = seen(listener, kind);
            if opened > 0 {
                text.sample(&listener.labels.with("kind", name), opened);
            }
        }
    }
    text.family("outrigger_tunnels", Kind::Gauge, "Open tunnels, by kind.");
    for listener in all {
        for (kind, name) in TUNNELS {
            if seen(listener, kind) > 0 {
                let open = listener.series.sum(|s| &s.tunnels_open[kind as usize]);
                text.sample(&listener.labels.with("kind", name), gauge(open));
            }
        }
    }
}
