//! Every fixed limit of the data path in one place (what is looked at of a token: `outrigger_jwt::limits`); `docs/limits.md` explains each and what hitting it does.

use std::time::Duration;

/// First read buffer of an HTTP/1 connection. Larger heads and bodies grow it.
pub const H1_READ_BUFFER: usize = 8 * 1024;
/// Largest single read of an HTTP/1 body; also how much of a body one connection holds in memory.
pub const H1_BODY_READ: usize = 64 * 1024;
/// Body chunks up to this size are copied behind the head into one write; larger ones are written vectored.
pub const H1_COPY_CHUNK: usize = 4 * 1024;
/// An idle HTTP/1 connection keeps its buffers this long: a busy one asks again before.
pub const BUFFER_LINGER: Duration = Duration::from_secs(1);
/// Unflushed response bytes at which an HTTP/1 writer stops asking the body for more.
pub const H1_WRITE_HIGH_WATER: usize = 64 * 1024;
/// Pipelined bytes read ahead while a request is being answered; then the socket is left unread.
pub const H1_READ_AHEAD: usize = 16 * 1024;
/// A chunk-size line with its extensions.
pub const H1_CHUNK_LINE: usize = 1024;
/// A trailer section: bytes.
pub const TRAILER_BYTES: usize = 16 * 1024;
/// Response heads from upstreams: bytes.
pub const RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// Response heads from upstreams: fields.
pub const RESPONSE_HEADERS: usize = 256;
/// 1xx responses that one upstream exchange may send before it is an error.
pub const INTERIM_RESPONSES: u32 = 32;
/// Field values that are kept for as long as the process lives, because configurations say them and messages repeat
/// them; and how long one of them may be, in bytes.
pub const LASTING_VALUES: usize = 1024;
/// See [`LASTING_VALUES`].
pub const LASTING_VALUE_BYTES: usize = 128;
/// Unread request bytes that are read and thrown away so that the answer is not lost in a reset.
pub const LINGER_BYTES: usize = 1024 * 1024;
/// How long such a lingering close lasts.
pub const LINGER: Duration = Duration::from_secs(2);
/// How long the head of a gRPC answer is held back on rules that retry gRPC statuses, until a message or trailers show
/// how the call goes on. A call that fails after its head nearly always does so within a round trip or two; a stream
/// whose first message comes later than this must not keep its caller waiting for the head, and half a second once in
/// the life of such a stream is not noticed.
pub const GRPC_HEAD_HOLD: Duration = Duration::from_millis(500);
/// Proxies that one request may pass before it is taken for a loop.
pub const MAX_HOPS: usize = 32;
/// Lines waiting for the access-log writer; more are dropped and counted.
pub const ACCESS_LOG_QUEUE: usize = 4096;
/// Downstream HTTP/2: what one stream may send us unread.
pub const H2_SERVER_STREAM_WINDOW: u32 = 256 * 1024;
/// Downstream HTTP/2: what one connection may send us unread. As many streams as fit into it may stall, each
/// with an upload to a slow upstream, before the other uploads of the connection stand still too.
pub const H2_SERVER_CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Upstream HTTP/2: what one stream may hold for a slow downstream. Small enough that 50 stalled
/// downloads stay below 16 MiB.
pub const H2_CLIENT_STREAM_WINDOW: u32 = 256 * 1024;
/// Upstream HTTP/2: what one connection may hold, at least. It is raised to one stream window for each stream
/// that the connection may have, so that stalled downloads leave the others theirs.
pub const H2_CLIENT_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// HTTP/2 bytes of one stream handed to the library and not yet on the wire.
pub const H2_SEND_BUFFER: usize = 64 * 1024;
/// HTTP/2 header list, both directions.
pub const H2_HEADER_LIST: u32 = 64 * 1024;
/// Bytes of one worker waiting for the access-log writer; more lines are dropped and counted.
pub const ACCESS_LOG_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one field that a caller chose (path, user agent, ...) in an access-log line; longer ones are cut.
pub const ACCESS_LOG_FIELD: usize = 2048;
/// Routes (listener, route, cluster) that have metrics of their own; later ones count as `other`.
pub const METRIC_ROUTES: usize = 1000;
/// Clusters that have metrics of their own; later ones count as `other`.
pub const METRIC_CLUSTERS: usize = 1000;
/// Authorization rules (listener, policy, rule) that have metrics of their own; later ones count as `other`.
pub const METRIC_ACCESS_RULES: usize = 1000;
/// Rate limits that have metrics of their own; later ones count as `other`.
pub const METRIC_RATE_LIMITS: usize = 1000;
/// Breakers (those of a cluster's endpoints, of a cluster, of a rule) that have metrics of their own; later ones count as
/// `other`.
pub const METRIC_BREAKERS: usize = 1000;
/// Pairs of listener and cluster between which connections are handed on that have metrics of their own; later ones count
/// as `other`.
pub const METRIC_STREAMS: usize = 1000;
/// Lines about circuit breakers that change: of one cluster or rule at most so many in [`REFUSAL_LOG`], with a count of the
/// others.
pub const BREAKER_LOG_LINES: u32 = 10;
/// Certificates, roots included, that metrics show; of more, those that end first.
pub const METRIC_CERTIFICATES: usize = 1000;
/// Different reason codes counted for one route or listener; later ones count as `other`.
pub const METRIC_CODES: usize = 64;
/// How long the metrics of what left the configuration stay, so that a last scrape sees them.
pub const METRIC_LINGER: Duration = Duration::from_secs(60);
/// An exchange that is open for this long is watched: a change of policy that forbids it ends it. Younger ones are
/// looked at when they reach that age.
pub const WATCH_AFTER: Duration = Duration::from_secs(1);
/// Connections taken from one listener before other tasks of the worker get their turn.
pub const ACCEPT_BURST: usize = 64;
/// How long connections of a listener that left the configuration may go on before they are closed.
pub const LISTENER_DRAIN: Duration = Duration::from_secs(600);
/// Over how much of that time they are told to go, at most.
pub const LISTENER_DRAIN_SPREAD: Duration = Duration::from_secs(10);
/// Connections of a drain are told to go this far apart, so that their callers do not all reconnect at once.
pub const DRAIN_STEP: Duration = Duration::from_millis(10);
/// How long handshakes under way are given when a listener closes; a few round trips inside a data centre.
pub const HANDSHAKE_GRACE: Duration = Duration::from_millis(5);
/// A connection that is told to finish may be about to ask: it is closed unasked only after this much silence.
pub const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// How long the end of the process waits, after a drain's deadline or a second signal, until what is closed is closed.
pub const FAREWELL: Duration = Duration::from_millis(500);
/// A tunnel that we end: from the Close frame to the caller until the server hears it from us, if the caller does not
/// answer.
pub const TUNNEL_CLOSE: Duration = Duration::from_secs(5);
/// After that, or where there is no Close frame: until what was said has left and the connection is cut.
pub const TUNNEL_END: Duration = Duration::from_secs(1);
/// How long a connection may be idle while memory is short.
pub const PRESSURE_IDLE: Duration = Duration::from_secs(1);
/// How often memory is looked at.
pub const PRESSURE_LOOK: Duration = Duration::from_millis(250);
/// A record of TLS and a little more: read from a socket at once.
pub const TLS_READ: usize = 16 * 1024 + 512;
/// A ClientHello that is read without being answered: bytes.
pub const CLIENT_HELLO_BYTES: usize = 16 * 1024;
/// Servers whose TLS sessions a cluster may resume; the one that was new the longest time ago is forgotten first.
pub const TLS_SESSION_SERVERS: usize = 256;
/// TLS 1.3 tickets kept of one server: each serves once, and several connections may be opened at a time.
pub const TLS_TICKETS: usize = 4;
/// How long a peer whose handshake failed may take to read why.
pub const ALERT_LINGER: Duration = Duration::from_millis(500);
/// What it may send meanwhile.
pub const ALERT_LINGER_BYTES: u64 = 64 * 1024;
/// The largest certificate, key, bundle or revocation list: bytes.
pub const SECRET_BYTES: u64 = 8 * 1024 * 1024;
/// Pieces that one direction of a tunnel, or of a connection that is handed on, moves before the other one has its turn.
pub const MOVES: u32 = 16;
/// Pieces of a tunnel that comes without a pause after which it is looked whether its time is over.
pub const TUNNEL_LOOK: u32 = 64;
/// Read at once from one side of a connection that is handed on, and kept at most while the other side does not
/// take it.
pub const SPLICE_READ: usize = 64 * 1024;
/// A PROXY protocol header with its extensions: bytes.
pub const PROXY_HEADER: usize = 4096;
/// Endpoints that are tried for a connection of raw bytes before the caller is given up.
pub const PASSAGE_ATTEMPTS: usize = 3;
/// The largest datagram: bytes.
pub const DATAGRAM: usize = 64 * 1024;
/// Datagrams of one endpoint that are handed back before others have their turn.
pub const DATAGRAM_TURN: u32 = 64;
/// After how much silence a session of datagrams ends while its listener drains.
pub const DATAGRAM_DRAIN: Duration = Duration::from_secs(5);
/// How long a redirected connection may take to be connected to where it was going.
pub const ONWARD_CONNECT: Duration = Duration::from_secs(5);
/// Open connections to the admin server; the next ones wait in the kernel.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Different tokens of one request: each is verified, which costs what a handshake costs.
pub const JWT_TOKENS: usize = 4;
/// Verified tokens remembered by one worker for one listener.
pub const JWT_CACHE: usize = 512;
/// After a token with an unknown key its provider is asked again, at most this often.
pub const JWKS_EARLY: Duration = Duration::from_secs(5);
/// An answer of an external authorizer or a rate limit service: bytes.
pub const EXTERNAL_ANSWER: usize = 256 * 1024;
/// Requests that are held up on purpose by injected delays; further ones are not held up.
pub const FAULT_DELAYS: u32 = 4096;
/// Copies of requests on the way to one cluster; further ones are left out.
pub const MIRRORS_IN_FLIGHT: u32 = 256;
/// What the body of one copy may be behind the original: bytes. Then the copy is given up.
pub const MIRROR_BUFFER: usize = 1024 * 1024;
/// The same for all copies on the way to one cluster.
pub const MIRROR_BUFFERS: usize = 16 * 1024 * 1024;
/// How long a copy may take to the end of its answer.
pub const MIRROR_TIME: Duration = Duration::from_secs(60);
/// Keys of one rate limit that are remembered; those that have used the least of their burst are given up for others.
pub const RATE_KEYS: usize = 65_536;
/// Callers of one listener that the rehearsal remembers; those seen longest ago are given up and counted.
pub const REHEARSAL_PEERS: usize = 4096;
/// Callers that a rehearsal names one by one.
pub const REHEARSAL_OFFENDERS: usize = 100;
/// Lines about refused connections: for one listener and reason at most one in this time, with a count.
pub const REFUSAL_LOG: Duration = Duration::from_secs(5);
/// Health checks under way at once, of all clusters; those that are due wait for one to end.
pub const HEALTH_PROBES: usize = 256;
/// Endpoints whose connection is kept from one health check to the next; the others are connected to for each.
pub const HEALTH_KEPT: usize = 1024;
/// Bytes that are read of the body of the answer to a health check; a longer one costs the connection.
pub const HEALTH_BODY: usize = 64 * 1024;
/// Lines about changes of health: of one cluster at most this many ...
pub const HEALTH_LOG_LINES: u32 = 20;
/// ... in this time; the next line says how many were left out.
pub const HEALTH_LOG: Duration = Duration::from_secs(10);
/// How long a connection to the control plane may take, from the name to HTTP/2.
pub const CONTROL_CONNECT: Duration = Duration::from_secs(5);
/// Silence on a connection to the control plane after which it is asked whether it is there.
pub const CONTROL_KEEPALIVE: Duration = Duration::from_secs(30);
/// How long the control plane may take to answer that.
pub const CONTROL_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 window of a stream from the control plane.
pub const CONTROL_STREAM_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 window of a connection to the control plane.
pub const CONTROL_CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes of one message of the control plane. A server that sends more is disconnected.
pub const CONTROL_MESSAGE: usize = 64 * 1024 * 1024;
/// Requests to the control plane that wait to be sent, and responses that wait to be looked at. Further ones wait in the
/// connection.
pub const CONTROL_QUEUE: usize = 64;
/// Resources of a control plane, of all kinds.
pub const CONTROL_RESOURCES: usize = 200_000;
/// Bytes of an answer to a request for a certificate.
pub const CONTROL_CERTIFICATE: usize = 1024 * 1024;
/// HTTP/2 and HTTP/3: a request that its caller cancels sooner than this, without an answer, was cancelled in haste. Shorter than
/// deadlines are, and so long that as many requests as may be open in it are no more than an honest caller sends.
pub const HASTY_CANCEL: Duration = Duration::from_millis(20);
/// So many of them on one connection, beyond the requests that were waited for, retire it ...
pub const HASTY_CANCELS: u32 = 256;
/// ... and so many end it: more than callers behind a proxy can cancel in one moment.
pub const HASTY_CANCELS_AT_MOST: u32 = 2048;
/// Kernel buffers of a UDP socket that carries QUIC, each way; the system may allow less.
pub const QUIC_SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// QUIC: bytes of one connection that were sent and not acknowledged, or wait to be sent.
pub const QUIC_SEND_WINDOW: u64 = 2 * 1024 * 1024;
/// QUIC: unidirectional streams that a peer may have open. HTTP/3 needs three; the others are for extensions that are read
/// and thrown away.
pub const QUIC_UNI_STREAMS: u32 = 16;
/// Downstream QUIC: what one stream may send us unread.
pub const QUIC_SERVER_STREAM_WINDOW: u32 = 1024 * 1024;
/// Downstream QUIC: what one connection may send us unread, as over HTTP/2.
pub const QUIC_SERVER_CONNECTION_WINDOW: u32 = H2_SERVER_CONNECTION_WINDOW;
/// Upstream QUIC: what one stream may hold for a slow downstream. Larger than over HTTP/2, because what is lost on the way
/// holds up what comes after it here.
pub const QUIC_CLIENT_STREAM_WINDOW: u32 = 512 * 1024;
/// Upstream QUIC: what one connection may hold.
pub const QUIC_CLIENT_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// QUIC: bytes of datagrams that one worker's endpoint may have waiting that others read for it; more are dropped and
/// counted, and sent again.
pub const QUIC_INBOX_BYTES: usize = 2 * 1024 * 1024;
/// Downstream QUIC: streams that a caller may have open at once to begin with. Places cost memory whether they are used or not:
/// whoever uses half of them is given twice as many, up to what the listener allows.
pub const QUIC_FIRST_STREAMS: u32 = 128;
/// QUIC: handshakes on one address, for each of its workers, from addresses that may not be the callers', and no more of them
/// than [`QUIC_UNPROVED_SHARE`] allows. Further callers are asked first to show that theirs is.
pub const QUIC_UNPROVED: u32 = 64;
/// How long the transport keeps what it has of a connection that ended in its handshake: three times its probe timeout (RFC 9000
/// section 10.2), which is a second before anything was measured (RFC 9002 section 6.2.2).
pub const QUIC_DRAINING: Duration = Duration::from_secs(3);
/// Which part of a listener's handshakes and connections they may be: one in so many, so that forged addresses leave the
/// others to callers that are there.
pub const QUIC_UNPROVED_SHARE: u32 = 4;
/// QUIC: sessions that one listener keeps for callers that may come back with early data.
pub const QUIC_SESSIONS: usize = 4096;
/// QUIC: bytes of them.
pub const QUIC_SESSIONS_BYTES: usize = 16 * 1024 * 1024;
/// QUIC: callers of one worker's endpoint that have not been looked at yet; further ones are not answered and try again.
pub const QUIC_CALLERS: usize = 1024;
/// QUIC: bytes that one of them may send meanwhile.
pub const QUIC_CALLER_BYTES: u64 = 64 * 1024;
/// QUIC: bytes that all of them may.
pub const QUIC_CALLERS_BYTES: u64 = 4 * 1024 * 1024;
