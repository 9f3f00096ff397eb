//! Who may do what, end to end: decided before anything else happens, on what routing and the backend see, for
//! every request of every connection, and again for those that are open when a rule changes.

mod answers;
mod certificate_header;
mod streams;
mod table;
mod tricks;

use std::collections::BTreeMap;

use crate::support::any::{AnyBackend, Message, Version};
use crate::support::{Config, H1Client, Mesh, Proxy, TlsClient};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    /// In plaintext.
    Plain,
    /// `spiffe://mesh.local/ns/shop/sa/cart`.
    Cart,
    /// `spiffe://mesh.local/ns/ops/sa/admin`.
    Admin,
    /// `spiffe://mesh.local/ns/shopping/sa/cart`.
    Shopping,
    /// `spiffe://mesh.local/ns/shop/sa/cart/extra`, which is no service account.
    Deep,
    /// `spiffe://mesh.local/workload/shop`, which has no namespace.
    Spire,
    /// `spiffe://partner.example/ns/shop/sa/cart`.
    Partner,
}

const IDENTIFIED: [(Caller, &str); 6] = [
    (Caller::Cart, "/ns/shop/sa/cart"),
    (Caller::Admin, "/ns/ops/sa/admin"),
    (Caller::Shopping, "/ns/shopping/sa/cart"),
    (Caller::Deep, "/ns/shop/sa/cart/extra"),
    (Caller::Spire, "/workload/shop"),
    (Caller::Partner, "/ns/shop/sa/cart"),
];

/// What should become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It reaches the backend, with its path as it is.
    Through,
    /// It reaches the backend with this path.
    As(&'static str),
    /// Authorization refuses it.
    Denied,
    /// It is refused: by authorization or because it is malformed.
    Stopped,
}

/// One line of a table.
#[derive(Debug, Clone, Copy)]
struct Case {
    policy: &'static str,
    caller: Caller,
    /// `METHOD TARGET`, then lines of headers; `host: a.example` unless one is there.
    request: &'static str,
    verdict: Verdict,
}

const fn case(policy: &'static str, caller: Caller, request: &'static str, verdict: Verdict) -> Case {
    Case { policy, caller, request, verdict }
}

/// A proxy with a listener for each of some policies, all before one recording backend.
struct Arena {
    clients: BTreeMap<Caller, TlsClient>,
    backend: AnyBackend,
    proxy: Proxy,
}

impl Arena {
    /// Each policy is named and written in YAML's flow style.
    async fn start(policies: &[(&str, &str)]) -> Self {
        let mesh = Mesh::new();
        let partner = Mesh::named("partner.example");
        mesh.files.write("partner.pem", &partner.root.pem);
        let identity = format!(
            "{}, federatedBundles: {{ partner.example: {} }} }}",
            mesh.identity_open("shop/web"),
            mesh.files.quoted("partner.pem")
        );
        let clients = IDENTIFIED.map(|(caller, path)| {
            let mesh = if caller == Caller::Partner { &partner } else { &mesh };
            let leaf = crate::support::pki::Leaf::new().uri(&format!("spiffe://{}{path}", mesh.domain));
            (caller, TlsClient::with(&mesh.issuing.issue(&leaf)))
        });
        let backend = AnyBackend::answering(Version::H1, 200, Message::body("ok").field("x-from", "backend")).await;
        let mut authorization = String::from("authorization:\n");
        let mut config = Config::to("http1", &[backend.addr()]).top(&identity).top("accessLog: stdout");
        for (number, (name, policy)) in policies.iter().enumerate() {
            authorization += &format!("  {name}: {}\n", policy.split_whitespace().collect::<Vec<_>>().join(" "));
            if number > 0 {
                config = config.add_listener(name);
            }
            config = config.listener("tls: { mode: permissive }").listener(&format!("authorization: {name}"));
        }
        let config = config.first_listener(policies[0].0).top(&authorization);
        Self { clients: clients.into(), backend, proxy: Proxy::start(&config).await }
    }

    async fn h1(&self, caller: Caller, policy: &str) -> H1Client {
        match self.clients.get(&caller) {
            Some(client) => client.h1(self.proxy.listener(policy)).await,
            None => H1Client::connect(self.proxy.listener(policy)).await,
        }
    }

    async fn h2(&self, caller: Caller, policy: &str) -> crate::support::H2Client {
        match self.clients.get(&caller) {
            Some(client) => client.h2(self.proxy.listener(policy)).await,
            None => crate::support::H2Client::connect(self.proxy.listener(policy)).await,
        }
    }

    /// Plays a table over HTTP/1.1, and over HTTP/2 what can be said there. The backend's records must show exactly
    /// what should have come through, and with the path that was authorised.
    async fn play(&self, cases: &[Case]) {
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            for version in [Version::H1, Version::H2] {
                let (line, headers) = case.request.split_once('\n').unwrap_or((case.request, ""));
                let (method, target) = line.split_once(' ').expect("a method and a target");
                let headers: Vec<(&str, &str)> =
                    headers.lines().map(|l| l.split_once(": ").expect("a header")).collect();
                let host = headers.iter().find(|(name, _)| *name == "host").map_or("a.example", |(_, host)| host);
                let mark = format!("{number}-{version:?}");
                let answer = match version {
                    Version::H1 => {
                        let mut text = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nx-case: {mark}\r\n");
                        for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
                            text += &format!("{name}: {value}\r\n");
                        }
                        if method == "POST" {
                            text += "content-length: 0\r\n";
                        }
                        let mut client = self.h1(case.caller, case.policy).await;
                        let reply = client.exchange(format!("{text}\r\n")).await;
                        Answer {
                            status: reply.status,
                            reason: reply.reason().map(str::to_owned),
                            grpc: reply.head.get("grpc-status").map(str::to_owned),
                        }
                    }
                    Version::H2 => {
                        if !target.starts_with('/') {
                            continue;
                        }
                        let uri = format!("http://{host}{target}");
                        let mut request = http::Request::builder().method(method).uri(&uri);
                        for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
                            request = request.header(*name, *value);
                        }
                        // What the library will not say is said in HTTP/1.1 only.
                        let Ok(request) = request.header("x-case", &mark).body(()) else {
                            continue;
                        };
                        if request.uri().path_and_query().map(http::uri::PathAndQuery::as_str) != Some(target) {
                            continue;
                        }
                        let client = self.h2(case.caller, case.policy).await;
                        let reply = client.fetch(request).await.expect("an answer");
                        Answer {
                            status: reply.status,
                            reason: reply.reason().map(str::to_owned),
                            grpc: reply.grpc_status().map(str::to_owned),
                        }
                    }
                };
                match case.verdict {
                    Verdict::Through => drop(expected.insert(mark.clone(), target.to_owned())),
                    Verdict::As(path) => drop(expected.insert(mark.clone(), path.to_owned())),
                    Verdict::Denied | Verdict::Stopped => {}
                }
                if !answer.fits(case) {
                    wrong.push(format!("{mark} {case:?}: {answer:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let seen: BTreeMap<String, String> = self
            .backend
            .seen()
            .into_iter()
            .map(|request| (request.get("x-case").expect("marked").to_owned(), request.target))
            .collect();
        assert_eq!(seen, expected, "exactly what was allowed arrived, with the path that was authorised");
    }

    async fn decisions(&self, policy: &str, rule: &str, decision: &str) -> f64 {
        let labels = [format!("policy=\"{policy}\""), format!("rule=\"{rule}\""), format!("decision=\"{decision}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.proxy.metric("outrigger_authorization_decisions_total", &labels).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    reason: Option<String>,
    grpc: Option<String>,
}

impl Answer {
    fn fits(&self, case: &Case) -> bool {
        let grpc = case.request.contains("content-type: application/grpc");
        let denied = match grpc {
            true => self.status == 200 && self.grpc.as_deref() == Some("7"),
            false => self.status == 403,
        } && self.reason.as_deref() == Some("RBAC");
        match case.verdict {
            Verdict::Through | Verdict::As(_) => self.status == 200 && self.reason.is_none(),
            Verdict::Denied => denied,
            Verdict::Stopped => denied || self.status == 400,
        }
    }
}
