//! Request smuggling: raw requests that two parsers could read differently. Each is refused, or
//! forwarded in exactly one reading; the recording backend, which accepts only the canonical form,
//! proves which. Every table runs against an HTTP/1.1 and an HTTP/2 backend.

mod h1_cases;
mod h1_framing;
mod h2_cases;

use std::fmt::Write as _;

use crate::support::any::{AnyBackend, Seen, Version};
use crate::support::frames::{self, Answer, RawH2};
use crate::support::{Config, H1Client, Proxy, h1_client, ms};

/// What has to become of a request.
#[derive(Debug, Clone)]
pub enum Expect {
    /// Answered here with one of these statuses (HTTP/2: or reset, or the connection cut), the
    /// connection closed after it (HTTP/1.1), nothing sent to the backend.
    Refused(&'static [u16]),
    /// Answered here with one of these statuses, nothing sent to the backend. What is wrong does not
    /// concern the framing, so the connection may go on.
    Answered(&'static [u16]),
    /// The head is good and the body is not: the backend never sees a complete request.
    Cut,
    /// Exactly one request arrives.
    Once(Shape),
    /// Refused or cut, or exactly one request of this shape: the RFC leaves the choice.
    Either(Shape),
    /// Several requests that are legitimately there, with these targets, then the connection closes.
    Served(&'static [&'static str]),
    /// These are served; then one answer with 400 and the end of the connection.
    ServedThenRefused(&'static [&'static str]),
}

/// What a forwarded request looks like.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    method: &'static str,
    target: &'static str,
    body: &'static [u8],
    present: Vec<(&'static str, &'static str)>,
    absent: Vec<&'static str>,
    trailers: Vec<(&'static str, &'static str)>,
}

impl Shape {
    /// This method and target, without a body.
    pub fn new(method: &'static str, target: &'static str) -> Self {
        Self { method, target, ..Self::default() }
    }

    /// With this body.
    pub fn body(mut self, body: &'static [u8]) -> Self {
        self.body = body;
        self
    }

    /// With this field, exactly once and with this value.
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.present.push((name, value));
        self
    }

    /// Without this field.
    pub fn without(mut self, name: &'static str) -> Self {
        self.absent.push(name);
        self
    }

    /// With exactly these trailers.
    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        self.trailers.push((name, value));
        self
    }

    fn differences(&self, seen: &Seen) -> String {
        let mut out = String::new();
        if seen.method != self.method || seen.target != self.target {
            write!(out, "{} {} instead of {} {}; ", seen.method, seen.target, self.method, self.target)
                .expect("write to a string");
        }
        if seen.body != self.body {
            write!(
                out,
                "body {:?} instead of {:?}; ",
                seen.body.escape_ascii().to_string(),
                self.body.escape_ascii().to_string()
            )
            .expect("write to a string");
        }
        for (name, value) in &self.present {
            let all = seen.all(name);
            if all != [*value] {
                write!(out, "{name} is {all:?} instead of {value:?}; ").expect("write to a string");
            }
        }
        for name in &self.absent {
            if !seen.all(name).is_empty() {
                write!(out, "{name} is there; ").expect("write to a string");
            }
        }
        let trailers: Vec<_> = self.trailers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        if seen.trailers != trailers {
            write!(out, "trailers {:?} instead of {:?}; ", seen.trailers, trailers).expect("write to a string");
        }
        out
    }
}

/// Runs a table and gathers every complaint, so that one run shows the whole picture.
struct Run {
    proxy: Proxy,
    backend: AnyBackend,
    complaints: Vec<String>,
    known: usize,
}

impl Run {
    async fn start(upstream: Version) -> Self {
        let backend = AnyBackend::ok(upstream).await;
        let proxy = Proxy::start(&Config::to(upstream.protocol(), &[backend.addr()])).await;
        Self { proxy, backend, complaints: Vec::new(), known: 0 }
    }

    /// What a case brought to the backend. A request of our own comes after it, so that whatever was
    /// on its way has arrived.
    async fn fresh(&mut self) -> Vec<Seen> {
        let reply = h1_client::get(self.proxy.addr(), "/sentinel").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let mut fresh = self.backend.seen().split_off(self.known);
        self.known += fresh.len();
        fresh.retain(|seen| seen.target != "/sentinel");
        fresh
    }

    fn complain(&mut self, name: &str, what: impl std::fmt::Display) {
        self.complaints.push(format!("{name}: {what}"));
    }

    fn finish(self, cases: usize) {
        let violations = self.backend.complaints();
        let Self { complaints, proxy, .. } = self;
        assert!(
            complaints.is_empty() && violations.is_empty(),
            "{} of {cases} cases failed:\n  {}\nthe backend complained: {violations:#?}\nlog: {}",
            complaints.len(),
            complaints.join("\n  "),
            proxy.folder().display(),
        );
    }
}

/// What the client saw of one HTTP/1.1 case: the statuses of all responses, and what was odd about
/// the rest of the connection. The client closes its side only after it has waited for the answers
/// that are due, because a proxy may take the end of input for a caller that left.
async fn talk_h1(run: &Run, bytes: &[u8], expect: &Expect) -> (Vec<u16>, Option<String>) {
    let mut client = H1Client::connect(run.proxy.addr()).await;
    client.send(bytes).await;
    let (due, patience) = match expect {
        Expect::Refused(_) | Expect::ServedThenRefused(_) => (usize::MAX, ms(5000)),
        Expect::Once(_) | Expect::Answered(_) => (1, ms(5000)),
        Expect::Served(targets) => (targets.len(), ms(5000)),
        Expect::Either(_) => (1, ms(1000)),
        Expect::Cut => (1, ms(300)),
    };
    let first = bytes.split(|&b| b == b' ').next().unwrap_or_default();
    let mut method = String::from_utf8_lossy(first).into_owned();
    let mut statuses = Vec::new();
    let mut finished = false;
    loop {
        if statuses.len() == due && !finished {
            client.wire.finish();
            finished = true;
        }
        let limit = if finished { ms(5000) } else { patience };
        match tokio::time::timeout(limit, client.wire.response(&method)).await {
            Ok(Ok(response)) => statuses.push(response.status),
            Ok(Err(error)) => {
                let clean = match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => client.wire.buffered().is_empty(),
                    std::io::ErrorKind::InvalidData => false,
                    _ => true,
                };
                let rest = client.wire.buffered().escape_ascii().to_string();
                return (statuses, (!clean).then(|| format!("read {rest:?}: {error}")));
            }
            Err(_) if !finished && matches!(expect, Expect::Cut | Expect::Either(_)) => {
                client.wire.finish();
                finished = true;
            }
            Err(_) => return (statuses, Some("the connection stayed open".to_owned())),
        }
        "GET".clone_into(&mut method);
    }
}

async fn run_h1(upstream: Version) {
    let mut run = Run::start(upstream).await;
    let cases = h1_cases::all();
    for case in &cases {
        let (statuses, odd) = talk_h1(&run, &case.bytes, &case.expect).await;
        let seen = run.fresh().await;
        if let Some(odd) = odd
            && !matches!(case.expect, Expect::Cut | Expect::Either(_))
        {
            run.complain(case.name, odd);
        }
        judge(&mut run, case.name, &case.expect, &statuses, &seen);
    }
    run.finish(cases.len());
}

fn judge(run: &mut Run, name: &str, expect: &Expect, statuses: &[u16], seen: &[Seen]) {
    if let Some(stray) = seen.iter().find(|s| s.target.contains("smuggled")) {
        run.complain(name, format!("SMUGGLED: {stray:?}"));
    }
    let targets: Vec<_> = seen.iter().map(|s| s.target.as_str()).collect();
    let refused = |allowed: &[u16]| seen.is_empty() && statuses.len() == 1 && allowed.contains(&statuses[0]);
    let complete = seen.iter().filter(|s| s.complete).count();
    let cut =
        complete == 0 && seen.len() <= 1 && statuses.len() <= 1 && statuses.iter().all(|s| (400..600).contains(s));
    match expect {
        Expect::Refused(allowed) | Expect::Answered(allowed) => {
            if !refused(allowed) {
                run.complain(name, format!("expected {allowed:?}, got {statuses:?}; backend saw {seen:?}"));
            }
        }
        Expect::Cut => {
            if !cut {
                run.complain(name, format!("expected to be cut, got {statuses:?}; backend saw {seen:?}"));
            }
        }
        Expect::Either(_) if cut => {}
        Expect::Once(shape) | Expect::Either(shape) => {
            if seen.len() != 1 || !seen[0].complete {
                run.complain(name, format!("expected one request, got {statuses:?}; backend saw {seen:?}"));
                return;
            }
            let differences = shape.differences(&seen[0]);
            if !differences.is_empty() {
                run.complain(name, differences);
            }
            if statuses != [200] {
                run.complain(name, format!("answers {statuses:?}"));
            }
        }
        Expect::Served(expected) => {
            if targets != *expected || statuses != vec![200; expected.len()] {
                run.complain(name, format!("expected {expected:?}, got {statuses:?}; backend saw {targets:?}"));
            }
        }
        Expect::ServedThenRefused(expected) => {
            let mut answers = vec![200; expected.len()];
            answers.push(400);
            if targets != *expected || statuses != answers {
                run.complain(name, format!("expected {expected:?} and 400, got {statuses:?}; backend saw {targets:?}"));
            }
        }
    }
}

async fn run_h2(upstream: Version) {
    let mut run = Run::start(upstream).await;
    let cases = h2_cases::all();
    for case in &cases {
        let mut raw = RawH2::connect(run.proxy.addr()).await;
        let fields: Vec<(&[u8], &[u8])> = case.fields.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        let last = case.data.is_empty() && case.trailers.is_empty();
        raw.headers(1, &fields, if last { frames::END_STREAM } else { 0 }).await;
        for (index, data) in case.data.iter().enumerate() {
            let end = index + 1 == case.data.len() && case.trailers.is_empty();
            raw.send(frames::DATA, u8::from(end), 1, data).await;
        }
        if !case.trailers.is_empty() {
            let fields: Vec<(&[u8], &[u8])> = case.trailers.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            raw.headers(1, &fields, frames::END_STREAM).await;
        }
        let answer = raw.answer(1).await;
        drop(raw);
        let seen = run.fresh().await;
        let statuses = match answer {
            Answer::Status(status) => vec![status],
            Answer::Reset(_) | Answer::GoAway(_) | Answer::Closed => vec![400],
        };
        judge(&mut run, case.name, &case.expect, &statuses, &seen);
    }
    run.finish(cases.len());
}

#[tokio::test]
async fn http1_requests_have_one_reading_towards_an_http1_backend() {
    run_h1(Version::H1).await;
}

#[tokio::test]
async fn http1_requests_have_one_reading_towards_an_http2_backend() {
    run_h1(Version::H2).await;
}

#[tokio::test]
async fn http2_requests_have_one_reading_towards_an_http1_backend() {
    run_h2(Version::H1).await;
}

#[tokio::test]
async fn http2_requests_have_one_reading_towards_an_http2_backend() {
    run_h2(Version::H2).await;
}

#[test]
fn the_tables_are_as_large_as_promised_and_their_names_are_unique() {
    let (h1, h2) = (h1_cases::all(), h2_cases::all());
    assert!(h1.len() >= 80, "{} HTTP/1.1 cases", h1.len());
    assert!(h2.len() >= 40, "{} HTTP/2 cases", h2.len());
    let mut names: Vec<_> = h1.iter().map(|c| c.name).chain(h2.iter().map(|c| c.name)).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "no two cases have the same name");
}

/// The declared bytes come first and the mistake later: until the caller has ended its request, no HTTP/1.1 backend may
/// have taken it for a complete one.
#[tokio::test]
async fn an_http2_request_is_complete_to_an_http1_backend_only_when_its_caller_has_ended_it() {
    let mut run = Run::start(Version::H1).await;
    for (length, declared) in [("0", ""), ("5", "hello")] {
        let mut raw = RawH2::connect(run.proxy.addr()).await;
        let head: [(&[u8], &[u8]); 5] = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/late"),
            (b":authority", b"a.example"),
            (b"content-length", length.as_bytes()),
        ];
        raw.headers(1, &head, 0).await;
        if !declared.is_empty() {
            raw.send(frames::DATA, 0, 1, declared.as_bytes()).await;
        }
        let early = run.fresh().await;
        assert!(early.iter().all(|seen| !seen.complete), "length {length}: {early:?}");
        raw.send(frames::DATA, frames::END_STREAM, 1, b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert!(!matches!(raw.answer(1).await, Answer::Status(200)), "length {length}");
        let late = run.fresh().await;
        assert!(late.iter().all(|seen| !seen.complete), "length {length}: {late:?}");

        raw = RawH2::connect(run.proxy.addr()).await;
        raw.headers(1, &head, 0).await;
        raw.send(frames::DATA, 0, 1, declared.as_bytes()).await;
        raw.send(frames::DATA, frames::END_STREAM, 1, b"").await;
        assert_eq!(raw.answer(1).await, Answer::Status(200), "length {length}, ended by an empty frame");
        let seen = run.fresh().await;
        assert_eq!((seen.len(), seen[0].complete), (1, true), "{seen:?}");
        assert_eq!(seen[0].body, declared.as_bytes(), "length {length}");
    }
    run.finish(2);
}
