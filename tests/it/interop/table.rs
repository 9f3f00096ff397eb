//! One control plane, one Envoy, one proxy, and a table of routes (`table/*.txt`): all routes are pushed at once, every request
//! is put to both, and the answers must be what the table says and equal to each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use super::control::Control;
use super::echo::{self, Ask, Saw};
use super::foreign::Variant;
use super::subject::{Program, Subject};
use crate::support::H1Backend;
use crate::support::any::{AnyBackend, AnyClient, Told, Version};
use crate::support::proxy::free_port;

/// Header fields that a backend sees from one and not from the other, with the reason. `docs/interop.md` tells the same.
const OWN_FIELDS: [(&str, &str); 4] = [
    ("x-request-id", "each makes one of its own where there is none"),
    ("x-envoy-", "Envoy tells backends and callers about itself; our proxy does not"),
    ("x-forwarded-", "Envoy sets `x-forwarded-proto` on requests of a local application"),
    ("x-outrigger-", "our proxy tells callers why it answered by itself"),
];

/// Header fields of answers that are each program's own.
const OWN_ANSWER_FIELDS: [(&str, &str); 8] = [
    ("server", "Envoy names itself, and adds the time to answers of backends that have none"),
    ("date", "Envoy names itself, and adds the time to answers of backends that have none"),
    ("x-envoy-", "Envoy tells backends and callers about itself; our proxy does not"),
    ("x-outrigger-", "our proxy tells callers why it answered by itself"),
    ("content-length", "of answers that each makes by itself, with its own words"),
    ("content-type", "of answers that each makes by itself, with its own words"),
    ("transfer-encoding", "how a body is framed is up to each hop"),
    ("connection", "how a body is framed is up to each hop"),
];

struct Block {
    name: String,
    service: String,
    namespace: String,
    grpc: bool,
    manifests: String,
    lines: Vec<Line>,
}

/// A request, or a draw of several.
struct Line {
    text: String,
    /// The request.
    what: String,
    /// What our proxy answers, and what Envoy does.
    wanted: [String; 2],
    /// Why the two differ.
    reason: Option<String>,
}

impl Line {
    fn parse(text: &str, reason: Option<String>) -> Self {
        let (what, wanted) = text[2..].split_once(" -> ").expect("an arrow");
        let (ours, envoy) = wanted.split_once(" | ").unwrap_or((wanted, wanted));
        assert_eq!(
            reason.is_some(),
            wanted.contains(" | "),
            "a difference has a reason, and a reason a difference: {text}"
        );
        let wanted = [ours.to_owned(), envoy.to_owned()];
        Self { text: text.to_owned(), what: what.trim().to_owned(), wanted, reason }
    }
}

/// A file of the project.
fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of the table.
fn blocks() -> Vec<Block> {
    let mut out: Vec<Block> = Vec::new();
    for (file, grpc) in [("http.txt", false), ("grpc.txt", true)] {
        let text = read(&format!("tests/it/interop/table/{file}"));
        let mut reason = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(title) = line.strip_prefix("=== ") {
                let (name, namespace) = title.split_once(" @").unwrap_or((title, "shop"));
                let service = format!("s{}", out.len());
                let (name, namespace) = (name.to_owned(), namespace.to_owned());
                out.push(Block { name, service, namespace, grpc, manifests: String::new(), lines: Vec::new() });
                continue;
            }
            let Some(block) = out.last_mut() else { continue };
            let line = line.replace("$SVC", &block.service);
            if let Some(text) = line.strip_prefix("~ ") {
                reason = Some(text.to_owned());
            } else if line.starts_with("> ") || line.starts_with("% ") {
                block.lines.push(Line::parse(&line, reason.take()));
            } else {
                block.manifests += &line;
                block.manifests += "\n";
            }
        }
    }
    out
}

impl Block {
    /// Everything that is pushed for the block. Its Service answers as `own`.
    fn yaml(&self, own: &[SocketAddr]) -> String {
        let Self { service, namespace, grpc, manifests, .. } = self;
        let mut out = service_yaml((namespace, service), *grpc, own);
        if manifests.trim_start().starts_with("rules:") {
            let kind = if *grpc { "GRPCRoute" } else { "HTTPRoute" };
            let _ = write!(
                out,
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {service}, namespace: shop }}\n\
                 spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: {service} }}]\n"
            );
            for line in manifests.lines() {
                let _ = writeln!(out, "  {line}");
            }
        } else if !manifests.trim().is_empty() {
            let _ = write!(out, "---\n{manifests}");
        }
        out
    }
}

/// A Service with endpoints outside of the mesh.
pub fn service_yaml((namespace, name): (&str, &str), http2: bool, endpoints: &[SocketAddr]) -> String {
    let protocol = if http2 { ", appProtocol: kubernetes.io/h2c" } else { "" };
    let mut out = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec: {{ ports: [{{ name: http, port: 80{protocol} }}] }}\n"
    );
    for (index, endpoint) in endpoints.iter().enumerate() {
        let _ = write!(
            out,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{ name: {name}-{index}, namespace: {namespace}, labels: {{ kubernetes.io/service-name: {name} }} }}\n\
             addressType: IPv4\nendpoints: [{{ addresses: [{}] }}]\nports: [{{ name: http, port: {} }}]\n",
            endpoint.ip(),
            endpoint.port()
        );
    }
    out
}

/// A registration. It calls all these Services from this port.
pub fn workload_yaml(name: &str, outbound: u16, uses: &[String]) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ serviceAccount: {name}, address: 127.0.0.1, outbound: \"127.0.0.1:{outbound}\", uses: [{}] }}\n",
        uses.join(", ")
    )
}

struct Backends {
    list: Vec<(&'static str, &'static str, AnyBackend)>,
    own: [AnyBackend; 2],
    silent: H1Backend,
}

impl Backends {
    async fn start() -> Self {
        let silent = H1Backend::start(|mut conn| async move {
            conn.request().await;
            conn.closed().await;
        })
        .await;
        let mut list = Vec::new();
        for (namespace, name, version) in [
            ("shop", "a", Version::H1),
            ("shop", "b", Version::H1),
            ("shop", "g", Version::H2),
            ("shop", "h", Version::H2),
            ("billing", "invoices", Version::H1),
            ("vault", "secret", Version::H1),
        ] {
            list.push((namespace, name, echo::start(version, name).await));
        }
        Self { list, own: [echo::start(Version::H1, "own").await, echo::start(Version::H2, "own").await], silent }
    }

    fn yaml(&self) -> String {
        let mut out = String::new();
        for (namespace, name, backend) in &self.list {
            out += &service_yaml((namespace, name), matches!(backend, AnyBackend::H2(_)), &[backend.addr()]);
        }
        out += &service_yaml(("shop", "own"), false, &[self.own[0].addr()]);
        out += &service_yaml(("shop", "silent"), false, &[self.silent.addr]);
        out += &service_yaml(("shop", "empty"), false, &[]);
        out += "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
                metadata: { name: shop, namespace: billing }\n\
                spec:\n  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop }]\n  \
                to: [{ group: \"\", kind: Service }]\n";
        out
    }

    /// How many requests reached any of them.
    fn requests(&self) -> usize {
        let all = self.list.iter().map(|(_, _, backend)| backend).chain(&self.own);
        all.map(|backend| backend.seen().len()).sum()
    }
}

/// An answer, with what is each program's own left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    saw: Option<Saw>,
    fields: BTreeMap<String, Vec<String>>,
    times: usize,
}

impl Answer {
    fn of(told: &Told, grpc: bool, times: usize) -> Self {
        let trailer = told.trailers.iter().find(|(name, _)| name == "grpc-status").map(|(_, value)| value.as_str());
        let status = match (grpc, told.get("grpc-status").or(trailer)) {
            (true, Some(status)) => status.parse().expect("a number"),
            _ => told.status,
        };
        let mut saw = echo::saw(told);
        if let Some(saw) = &mut saw {
            saw.fields.retain(|name, _| !is_own(&OWN_FIELDS, name));
        }
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &told.fields {
            // What a backend says of its answer must come through whole.
            let own = is_own(&OWN_ANSWER_FIELDS, name) && (saw.is_none() || !name.starts_with("content-type"));
            if !own && !name.starts_with("grpc-") {
                fields.entry(name.to_ascii_lowercase()).or_default().push(value.clone());
            }
        }
        Self { status, saw, fields, times }
    }

    fn who(&self) -> &str {
        self.saw.as_ref().map_or("nobody", |saw| &saw.backend)
    }
}

fn is_own(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(own, _)| name == *own || own.ends_with('-') && name.starts_with(own))
}

/// Everything that is wrong with an answer, by what the table says.
fn wrong(answer: &Answer, wanted: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut words = wanted.split_whitespace();
    let (status, backend) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if answer.status.to_string() != status || answer.who() != backend {
        out.push(format!("{} {} instead of {status} {backend}", answer.status, answer.who()));
    }
    let joined = |fields: &BTreeMap<String, Vec<String>>, name: &str| fields.get(name).map(|all| all.join(","));
    for claim in words {
        let saw = answer.saw.clone().unwrap_or_else(|| Saw {
            backend: String::new(),
            method: String::new(),
            target: String::new(),
            host: String::new(),
            fields: BTreeMap::new(),
        });
        let (name, value) = match claim.split_once('=') {
            Some((name, value)) => (name, Some(value.replace('_', " "))),
            None => (claim, None),
        };
        let (found, value) = match (name, value) {
            ("target", value) => (Some(saw.target), value),
            ("host", value) => (Some(saw.host), value),
            ("times", value) => (Some(answer.times.to_string()), value),
            (name, value) => match (name.strip_prefix("<!"), name.strip_prefix('<'), name.strip_prefix('!')) {
                (Some(name), ..) => (joined(&answer.fields, name), None),
                (None, Some(name), _) => (joined(&answer.fields, name), value),
                (None, None, Some(name)) => (joined(&saw.fields, name), None),
                (None, None, None) => (joined(&saw.fields, name), value),
            },
        };
        if found != value {
            out.push(format!("{claim}: {found:?}"));
        }
    }
    out
}

fn ask(line: &str, block: &Block) -> Ask {
    let mut words = line.split_whitespace();
    let method = words.next().expect("a method");
    let path = words.next().expect("a path");
    let mut ask = Ask::new(method, &format!("{}{path}", block.service));
    for word in words {
        let (name, value) = word.split_once('=').expect("NAME=VALUE");
        let value = value.replace('_', " ");
        match name {
            "host" => ask.host = value,
            name => ask.fields.push((name.to_owned(), value)),
        }
    }
    if block.grpc {
        ask = ask.with("content-type", "application/grpc").with("te", "trailers");
    }
    ask
}

/// Asks one program one line; what the backends count in between is this request's.
async fn answer(addr: SocketAddr, ask: &Ask, block: &Block, backends: &Backends, mark: &str) -> Answer {
    let version = if block.grpc { Version::H2 } else { Version::H1 };
    let mut ask = ask.clone();
    for (name, value) in &mut ask.fields {
        if name == "x-answer-first" {
            // Who is asked twice is another one for each program.
            value.push_str(mark);
        }
    }
    let before = backends.requests();
    let told = ask.of(version, addr).await;
    let mut answer = Answer::of(&told, block.grpc, backends.requests() - before);
    if let Some(saw) = &mut answer.saw {
        saw.fields.remove("x-answer-first");
    }
    answer
}

/// How many of so many requests were answered how: `200 a`.
async fn shares(addr: SocketAddr, path: &str, block: &Block, count: u32) -> BTreeMap<String, u32> {
    let version = if block.grpc { Version::H2 } else { Version::H1 };
    let mut client = AnyClient::connect(version, addr).await;
    let ask = ask(&format!("{} {path}", if block.grpc { "POST" } else { "GET" }), block);
    let mut out = BTreeMap::new();
    for _ in 0..count {
        let told = ask.over(&mut client).await.expect("an answer");
        let answer = Answer::of(&told, block.grpc, 0);
        *out.entry(format!("{} {}", answer.status, answer.who())).or_default() += 1;
    }
    out
}

/// Checks shares: `200 a=3 b=1`.
fn shares_wrong(found: &BTreeMap<String, u32>, wanted: &str, count: u32) -> Option<String> {
    let (status, list) = wanted.split_once(' ').expect("a status");
    let wanted: BTreeMap<String, u32> = list
        .split_whitespace()
        .map(|word| {
            let (who, share) = word.split_once('=').expect("BACKEND=SHARE");
            (format!("{status} {who}"), share.parse().expect("a number"))
        })
        .collect();
    let total: u32 = wanted.values().sum();
    let fits = found.keys().all(|who| wanted.contains_key(who))
        && wanted.iter().all(|(who, share)| {
            let expected = f64::from(count * share) / f64::from(total);
            // Five standard deviations of a fair draw.
            let bound = 5.0 * (expected * (1.0 - f64::from(*share) / f64::from(total))).sqrt();
            (f64::from(found.get(who).copied().unwrap_or(0)) - expected).abs() <= bound
        });
    (!fits).then(|| format!("{found:?} instead of {wanted:?}"))
}

#[tokio::test]
async fn envoy_and_outrigger_answer_alike_from_the_same_manifests() {
    const DRAWS: u32 = 120;
    let blocks = blocks();
    let backends = Backends::start().await;
    let control = Control::start().await;
    let mut manifests = backends.yaml();
    let mut uses: Vec<String> = ["a", "own", "empty"].map(|name| format!("shop/{name}")).to_vec();
    for block in &blocks {
        manifests += &block.yaml(&[backends.own[usize::from(block.grpc)].addr()]);
        uses.push(format!("{}/{}", block.namespace, block.service));
    }
    let programs =
        [(Program::Envoy, "caller-envoy", free_port()), (Program::Outrigger, "caller-outrigger", free_port())];
    for (_, name, port) in &programs {
        manifests += &workload_yaml(name, *port, &uses);
    }
    let generation = control.apply(&manifests).await;
    assert!(blocks.len() >= 40, "{} blocks", blocks.len());

    let mut subjects = Vec::new();
    for (program, name, _) in &programs {
        let workload = format!("shop/{name}");
        subjects.push(Subject::start(*program, &control.plane(&workload, Variant::Delta).await).await);
        control.synced(&workload, generation).await;
    }
    let addrs = programs.map(|(_, _, port)| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut problems = Vec::new();
    let mut requests = 0;
    for block in &blocks {
        for line in &block.lines {
            let mut told = |text: String| problems.push(format!("{} | {}\n      {text}", block.name, line.text));
            requests += 1;
            let [wanted_ours, wanted_envoy] = &line.wanted;
            if line.text.starts_with('%') {
                for ((program, _, _), (addr, wanted)) in
                    programs.iter().zip(addrs.into_iter().zip([wanted_envoy, wanted_ours]))
                {
                    let found = shares(addr, &line.what, block, DRAWS).await;
                    if let Some(text) = shares_wrong(&found, wanted, DRAWS) {
                        told(format!("{program:?}: {text}"));
                    }
                }
                continue;
            }
            let ask = ask(&line.what, block);
            let envoy = answer(addrs[0], &ask, block, &backends, " envoy").await;
            let ours = answer(addrs[1], &ask, block, &backends, " outrigger").await;
            for (program, answer, wanted) in [("Envoy", &envoy, wanted_envoy), ("Outrigger", &ours, wanted_ours)] {
                let wrong = wrong(answer, wanted);
                if !wrong.is_empty() {
                    told(format!("{program}: {}", wrong.join("; ")));
                }
            }
            match (&line.reason, envoy == ours) {
                (None, false) => {
                    told(format!("they differ:\n        Envoy     {envoy:?}\n        Outrigger {ours:?}"));
                }
                (Some(_), true) => told("they do not differ any more".to_owned()),
                (None, true) | (Some(_), false) => {}
            }
        }
    }
    assert!(problems.is_empty(), "{} of {requests} requests:\n{}", problems.len(), problems.join("\n"));
    drop(subjects);
}

#[test]
fn every_difference_is_in_the_documentation_with_its_reason() {
    let text = read("docs/interop.md");
    let blocks = blocks();
    let reasons = blocks.iter().flat_map(|block| &block.lines).filter_map(|line| line.reason.as_deref());
    let own = OWN_FIELDS.iter().chain(&OWN_ANSWER_FIELDS);
    let own = own.flat_map(|(name, reason)| [name.trim_end_matches('-'), *reason]);
    for part in reasons.chain(own) {
        assert!(text.contains(part), "`{part}` is not in docs/interop.md");
    }
}
