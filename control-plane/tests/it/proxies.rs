//! Proxies on real streams, with certificates of the authority, and what `status` says of them.

use std::fs;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use hyper_util::rt::TokioIo;
use outrigger_control::tls::provider;
use outrigger_xds::Kind;
use outrigger_xds::control::{Refusal, Refusals};
use outrigger_xds::envoy::config::core::v3::Node;
use outrigger_xds::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_xds::google::{protobuf, rpc};
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

use crate::support::{Control, SERVICE, WORKLOADS, route, stderr, stdout, until};

/// A stream of a proxy that has a certificate in `folder`; without one it shows none.
struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Proxy {
    async fn connect(control: &Control, folder: Option<&str>) -> Result<Self, Status> {
        Self::connect_as("outrigger", control, folder).await
    }

    /// The same as another program.
    async fn connect_as(program: &str, control: &Control, folder: Option<&str>) -> Result<Self, Status> {
        let channel = channel(control, folder).await;
        let (requests, outgoing) = mpsc::channel(16);
        let node = Node { id: "proxy-1".to_owned(), user_agent_name: program.to_owned(), ..Node::default() };
        let first = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: Kind::Secret.type_url().to_owned(),
            resource_names_subscribe: vec!["ROOTCA".to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.expect("the stream is open");
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        self.responses.message().await.map(|response| response.expect("the stream goes on"))
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<rpc::Status>) {
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(answer).await.expect("the stream is open");
    }
}

impl Proxy {
    /// Asks for resources of a kind; without names for all.
    async fn ask(&self, kind: Kind, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.expect("the stream is open");
    }

    /// Asks for everything but secrets, as a proxy does, and takes it.
    async fn take_the_rest(&mut self) {
        self.ask(Kind::Cluster, &[]).await;
        let clusters = self.take(Kind::Cluster).await;
        assert!(clusters.iter().any(|name| name.contains("payments")), "{clusters:?}");
        self.ask(Kind::Endpoints, &clusters.iter().map(String::as_str).collect::<Vec<_>>()).await;
        self.take(Kind::Endpoints).await;
        self.ask(Kind::Listener, &[]).await;
        assert_eq!(self.take(Kind::Listener).await, ["outbound"]);
        self.ask(Kind::Route, &["outbound"]).await;
        assert_eq!(self.take(Kind::Route).await, ["outbound"]);
    }

    /// Takes what comes until a response of this kind, which is taken too: the names in it.
    async fn take(&mut self, kind: Kind) -> Vec<String> {
        loop {
            let response = self.next().await.expect("the stream goes on");
            self.answer(&response, None).await;
            if response.type_url == kind.type_url() {
                return response.resources.into_iter().map(|resource| resource.name).collect();
            }
        }
    }
}

async fn channel(control: &Control, folder: Option<&str>) -> Channel {
    let base = control.folder.path();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(base.join("data/bundle.pem")).expect("readable") {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match folder.map(|folder| base.join(folder)) {
        None => builder.with_no_client_auth(),
        Some(folder) => {
            let chain = CertificateDer::pem_file_iter(folder.join("svid.pem")).expect("readable");
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(folder.join("svid.key")).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("they fit")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (connector, address) = (TlsConnector::from(Arc::new(config)), control.running.grpc());
    let dial = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::from(address.ip());
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    Endpoint::from_static("http://control").connect_with_connector(dial).await.expect("a connection")
}

/// Registers `shop/web-1`, and gets it a certificate in the folder `svid`.
async fn joined() -> Control {
    let control = Control::start().await;
    control.apply(&[("all.yaml", &format!("{SERVICE}---\n{WORKLOADS}"))]).await;
    let token = until("the workload is registered", async || {
        let request = json!({ "workload": "shop/web-1" });
        let (status, body) = control.ask(&control.admin, "POST", "/v1/join-tokens", &request).await;
        (status == StatusCode::OK).then(|| body["token"].as_str().expect("a token").to_owned())
    })
    .await;
    let grpc = control.running.grpc().to_string();
    let join = ["join", "--grpc", &grpc, "--ca", "data/bundle.pem", "--out", "svid", "--token", &token];
    let output = control.command(&join);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    control
}

async fn proxy(control: &Control) -> Value {
    let (status, body) = control.ask(&control.admin, "GET", "/v1/proxies/shop/web-1", &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    body[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_takes_what_it_is_given_is_synced_and_follows_the_generations() {
    let control = joined().await;
    let mut stream = Proxy::connect(&control, Some("svid")).await.expect("it is let in");
    let response = stream.next().await.expect("the roots");
    assert_eq!((response.resources.len(), &*response.resources[0].name), (1, "ROOTCA"));
    let output = control.command(&["status", "--wait", "1", "--timeout", "0s"]);
    assert_eq!(output.status.code(), Some(1), "it has not answered");
    assert!(stderr(&output).contains("shop/web-1 has not answered generation 1"), "{}", stderr(&output));
    stream.answer(&response, None).await;
    stream.take_the_rest().await;
    let output = control.command(&["status", "shop/web-1", "--wait", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let line = stdout(&output).lines().nth(1).expect("a row").to_owned();
    assert!(line.starts_with("shop/web-1  synced  1           1"), "{line}");
    let (_, ca) = control.ask(&control.admin, "GET", "/v1/ca", &Value::Null).await;
    assert_eq!(ca["unconfirmed"], json!([]), "{ca:#}");

    // What changes nothing for it needs no answer.
    control.apply(&[("other.yaml", &SERVICE.replace("namespace: shop", "namespace: bank"))]).await;
    let output = control.command(&["status", "--wait", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    // New roots reach it at once, and until it has answered it is waited for.
    let (status, ca) = control.ask(&control.admin, "POST", "/v1/ca/rotate", &json!({})).await;
    assert_eq!((status, &ca["unconfirmed"]), (StatusCode::OK, &json!(["shop/web-1"])), "{ca:#}");
    let response = stream.next().await.expect("the new roots");
    stream.answer(&response, None).await;
    until("it has confirmed", async || {
        let (_, ca) = control.ask(&control.admin, "GET", "/v1/ca", &Value::Null).await;
        (ca["unconfirmed"] == json!([])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses_is_shown_with_resource_field_and_reason() {
    let control = joined().await;
    let mut stream = Proxy::connect(&control, Some("svid")).await.expect("it is let in");
    let response = stream.next().await.expect("the roots");
    let refusal = Refusal {
        type_url: response.type_url.clone(),
        name: "ROOTCA".to_owned(),
        field: "validation_context.trusted_ca".to_owned(),
        reason: "it holds no certificate".to_owned(),
    };
    let detail = protobuf::Any {
        type_url: "type.googleapis.com/outrigger.control.v1.Refusals".to_owned(),
        value: Refusals { refusals: vec![refusal] }.encode_to_vec(),
    };
    let error = rpc::Status { code: 3, message: "refused".to_owned(), details: vec![detail] };
    stream.answer(&response, Some(error)).await;
    let shown = until("it is shown", async || {
        let shown = proxy(&control).await;
        (shown["state"] == "refused").then_some(shown)
    })
    .await;
    let wanted = json!([{
        "kind": "Secret",
        "resource": "ROOTCA",
        "field": "validation_context.trusted_ca",
        "reason": "it holds no certificate",
    }]);
    assert_eq!(shown["refusals"], wanted, "{shown:#}");
    let output = control.command(&["status", "--wait", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("shop/web-1 refused generation 1"), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("  field:  validation_context.trusted_ca\n  reason: it holds no certificate\n"), "{text}");
    let answer = until("it is in the history", async || {
        let (_, answers) = control.ask(&control.admin, "GET", "/v1/answers?proxy=shop/web-1", &Value::Null).await;
        answers[0].is_object().then(|| answers[0].clone())
    })
    .await;
    assert_eq!((&answer["generation"], &answer["refusal"]), (&json!(1), &wanted[0]), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_certificate_is_refused_and_audited() {
    let control = joined().await;
    let refused = match Proxy::connect(&control, None).await {
        Ok(mut stream) => stream.next().await.expect_err("it is told nothing"),
        Err(status) => status,
    };
    assert_ne!(refused.code(), tonic::Code::Ok);
    let entry = until("it is audited", async || {
        let (_, log) = control.ask(&control.admin, "GET", "/v1/audit", &Value::Null).await;
        log.as_array()?.iter().find(|entry| entry["action"] == "stream").cloned()
    })
    .await;
    assert_eq!((&entry["who"], &entry["outcome"]), (&json!("anonymous"), &json!("refused")), "{entry:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_gone_is_told_nothing_more() {
    let control = joined().await;
    let mut stream = Proxy::connect(&control, Some("svid")).await.expect("it is let in");
    let response = stream.next().await.expect("the roots");
    stream.answer(&response, None).await;
    control.apply(&[("route.yaml", &route("2s"))]).await;
    let output = control.command(&["delete", "Workload", "web-1", "-n", "shop"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let ended = stream.next().await.expect_err("its stream ends");
    assert_eq!(ended.code(), tonic::Code::PermissionDenied, "{ended}");
    fs::remove_dir_all(control.folder.path().join("svid")).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_sends_a_proxy_what_changed_for_it_and_nothing_else() {
    let control = joined().await;
    let mut stream = Proxy::connect(&control, Some("svid")).await.expect("it is let in");
    stream.take(Kind::Secret).await;
    stream.take_the_rest().await;
    let output = control.command(&["status", "--wait", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    control.apply(&[("route.yaml", &route("2s"))]).await;
    let response = stream.next().await.expect("the stream goes on");
    assert_eq!(response.type_url, Kind::Route.type_url(), "only routes have changed");
    assert_eq!(response.resources[0].name, "outbound");
    stream.answer(&response, None).await;
    let output = control.command(&["status", "--wait", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let config = stdout(&control.command(&["get", "config", "shop/web-1"]));
    let version = &response.resources[0].version;
    assert!(config.lines().any(|line| line.starts_with("Route") && line.contains(&**version)), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_proxy_is_not_told_is_shown() {
    let control = joined().await;
    let policy = "apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: { name: p, namespace: shop }\nspec:\n  \
                  targetRef: { group: \"\", kind: Service, name: payments }\n  criticality: critical\n  queue: {}\n";
    control.apply(&[("policy.yaml", policy)]).await;
    let output = control.command(&["status"]);
    assert!(!stdout(&output).contains("not told"), "{}", stdout(&output));
    let stream = Proxy::connect_as("envoy", &control, Some("svid")).await.expect("it is let in");
    let shown = until("it is shown", async || {
        let shown = proxy(&control).await;
        (shown["leftOut"].as_array().is_some_and(|list| !list.is_empty())).then_some(shown)
    })
    .await;
    let wanted = json!(["the rule shop/payments:80: criticality", "the cluster shop/payments:80: the queue"]);
    assert_eq!(shown["leftOut"], wanted, "{shown:#}");
    let output = stdout(&control.command(&["status", "shop/web-1"]));
    assert!(output.contains("shop/web-1 is no proxy of ours, and is not told of\n  the rule"), "{output}");
    drop(stream);
    // Our own is told everything.
    let _stream = Proxy::connect(&control, Some("svid")).await.expect("it is let in");
    let row = until("it is connected", async || {
        let (_, rows) = control.ask(&control.admin, "GET", "/v1/proxies/shop/web-1", &Value::Null).await;
        let rows = rows.as_array()?.clone();
        rows.into_iter().find(|row| row["program"].as_str().is_some_and(|program| program.starts_with("outrigger")))
    })
    .await;
    assert_eq!(row["leftOut"], Value::Null, "{row:#}");
}
