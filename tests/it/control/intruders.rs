//! Who asks for what is not theirs is refused, is in the audit log, and learns nothing.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use outrigger_xds::Kind;
use outrigger_xds::control::issue_request::Proof;
use outrigger_xds::control::{IssueRequest, IssueResponse};
use outrigger_xds::envoy::config::core::v3::Node;
use outrigger_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use prost::Message;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use serde_json::{Value, json};

use super::load;
use super::plane::Plane;
use super::town::{API, Town, WEB};
use crate::support::pki::{Authority, Credential, Leaf};
use crate::support::{H2Client, Mesh, PATIENCE, TlsClient, h2_client, ms, within};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const WHOLE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const ISSUE: &str = "/outrigger.control.v1.Identity/Issue";

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("short"));
    out.put_slice(message);
    out.freeze()
}

fn grpc(path: &str) -> http::Request<()> {
    let mut request = h2_client::grpc(path);
    *request.uri_mut() = format!("http://control{path}").parse().expect("a URI");
    request
}

/// How a call ended: its status and everything that was said.
#[derive(Debug)]
struct End {
    code: String,
    said: Vec<u8>,
}

impl End {
    fn new(headers: &HeaderMap, trailers: Option<&HeaderMap>, body: &[u8]) -> Self {
        let of = |name: &str| trailers.and_then(|all| all.get(name)).or_else(|| headers.get(name)).cloned();
        let text = |name: &str| of(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let said = [body, text("grpc-message").unwrap_or_default().as_bytes()].concat();
        Self { code: text("grpc-status").unwrap_or_default(), said }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }
}

/// Sends one message, or what should be one, and reads until the end.
async fn call(client: &H2Client, path: &str, body: Bytes) -> End {
    let reply = client.send(grpc(path), body, None).await.expect("an answer");
    End::new(&reply.headers, reply.trailers.as_ref(), &reply.body)
}

/// An open stream of changes.
struct Stream {
    out: SendStream<Bytes>,
    body: RecvStream,
    buffer: BytesMut,
}

impl Stream {
    async fn open(client: &H2Client, first: &DeltaDiscoveryRequest) -> Self {
        let (response, mut out) = client.open(grpc(DELTA), false).await.expect("a stream");
        out.send_data(framed(&first.encode_to_vec()), false).expect("it is sent");
        let response = within(PATIENCE, "a response", response).await.expect("a response");
        Self { out, body: response.into_body(), buffer: BytesMut::new() }
    }

    fn send(&mut self, request: &DeltaDiscoveryRequest) {
        self.out.send_data(framed(&request.encode_to_vec()), false).expect("it is sent");
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        loop {
            if self.buffer.len() >= 5 {
                let length = (&self.buffer[1..5]).get_u32() as usize;
                if self.buffer.len() >= 5 + length {
                    let message = self.buffer.split_to(5 + length);
                    return DeltaDiscoveryResponse::decode(&message[5..]).expect("a response");
                }
            }
            let data = within(PATIENCE, "a response", self.body.data()).await.expect("it goes on").expect("data");
            self.body.flow_control().release_capacity(data.len()).expect("it was received");
            self.buffer.extend_from_slice(&data);
        }
    }
}

/// What `join` wrote.
fn credential(folder: &Path) -> Credential {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it is there");
    Credential { chain: read("svid.pem"), key: read("svid.key"), serial: 0 }
}

async fn client(town: &Town, credential: Option<&Credential>) -> H2Client {
    let tls = credential.map_or_else(TlsClient::anonymous, TlsClient::with);
    tls.h2(town.plane.grpc).await
}

/// The names of what a workload is given, by kind.
async fn given(town: &Town, workload: &str) -> BTreeSet<(String, String)> {
    let config = town.plane.get(&format!("/v1/proxies/{workload}/config")).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resources = config["resources"].as_array().expect("resources").iter();
    resources.map(|one| (text(&one["kind"]), text(&one["name"]))).collect()
}

/// A request for a certificate; `claims` is the identity that stands in it.
fn signing_request(claims: Option<&str>) -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = claims.map(|uri| SanType::URI(uri.try_into().expect("a URI"))).into_iter().collect();
    params.serialize_request(&key).expect("a request").der().to_vec()
}

async fn town() -> Town {
    Town::found(Plane::start().await, load::application().await).await
}

async fn joined(town: &Town, workload: &str) -> Credential {
    let folder = town.plane.path(&workload.replace('/', "-"));
    let output = town.plane.join(&town.plane.join_token(workload).await, &folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    credential(&folder)
}

/// Waits until there is an entry with all of these texts in the audit log.
async fn audited(town: &Town, texts: &[&str]) {
    let start = std::time::Instant::now();
    while town.plane.audited(texts).await.is_empty() {
        let log = town.plane.get("/v1/audit").await;
        assert!(start.elapsed() < PATIENCE, "{texts:?} in the audit log: {log:#}");
        tokio::time::sleep(ms(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_it_is_another_and_names_the_others_resources_gets_its_own() {
    let town = town().await;
    let web = joined(&town, WEB).await;
    let (own, others) = (given(&town, WEB).await, given(&town, API).await);
    let foreign: Vec<_> = others.difference(&own).collect();
    assert!(foreign.len() >= 2, "there is something to be had: {foreign:?}");
    let http = client(&town, Some(&web)).await;
    let node = Node { id: "api-1".to_owned(), cluster: "api".to_owned(), ..Node::default() };
    let mut stream: Option<Stream> = None;
    let mut got = BTreeSet::new();
    let kinds = [Kind::Secret, Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route];
    for kind in kinds {
        let label = format!("{kind:?}");
        let named = own.union(&others).filter(|(of, _)| *of == label).map(|(_, name)| name.clone());
        let secrets = ["default", API, "spiffe://mesh.local/ns/shop/sa/api", "admin.token"];
        let secrets = secrets.into_iter().filter(|_| kind == Kind::Secret).map(str::to_owned);
        let request = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: named.chain(secrets).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        match &mut stream {
            Some(stream) => stream.send(&request),
            None => stream = Some(Stream::open(&http, &request).await),
        }
        let stream = stream.as_mut().expect("just opened");
        let wanted =
            |got: &BTreeSet<(String, String)>| own.iter().filter(|(of, _)| *of == label).all(|one| got.contains(one));
        while !wanted(&got) {
            let response = stream.next().await;
            let bytes = response.encode_to_vec();
            assert!(!String::from_utf8_lossy(&bytes).contains("PRIVATE KEY"), "no key ever travels");
            let of = kinds.into_iter().find(|kind| kind.type_url() == response.type_url).expect("a kind");
            got.extend(response.resources.iter().map(|one| (format!("{of:?}"), one.name.clone())));
            stream.send(&DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                ..DeltaDiscoveryRequest::default()
            });
        }
    }
    assert_eq!(got, own, "what came is what `{WEB}` is given, whatever it named");

    // A stream of the other variant that is somebody else's in words: it is still `web-1` in the status.
    let request = DiscoveryRequest {
        node: Some(node),
        type_url: Kind::Listener.type_url().to_owned(),
        resource_names: foreign.iter().filter(|(of, _)| of == "Listener").map(|(_, name)| name.clone()).collect(),
        ..DiscoveryRequest::default()
    };
    let end = call(&http, WHOLE, framed(&request.encode_to_vec())).await;
    for (_, name) in &foreign {
        assert!(!end.text().contains(&**name), "nothing of {name}: {}", end.text());
    }
    assert!(town.plane.proxy(API).await.is_none(), "nobody is taken for {API}");
    assert_eq!(town.plane.proxy(WEB).await.expect("it is connected")["node"], "api-1", "its own words are only shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_stream_and_are_audited() {
    let town = town().await;
    let first = DeltaDiscoveryRequest {
        type_url: Kind::Secret.type_url().to_owned(),
        resource_names_subscribe: vec!["ROOTCA".to_owned(), "default".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    // No certificate.
    let nobody = client(&town, None).await;
    for path in [DELTA, WHOLE] {
        let end = call(&nobody, path, framed(&first.encode_to_vec())).await;
        assert_eq!(end.code, "7", "permission denied: {}", end.text());
        assert!(!end.text().contains("CERTIFICATE") && !end.text().contains("shop"), "{}", end.text());
    }
    audited(&town, &["\"stream\"", "anonymous", "refused"]).await;

    // Certificates that are not believed: of another authority, of one with the same name, one that has run out.
    let id = "spiffe://mesh.local/ns/shop/sa/api";
    for stranger in [
        Mesh::new().svid("shop/api"),
        Authority::root("mesh.local").issue(&Leaf::new().uri(id).named("shop")),
        Mesh::new().root.issue(&Leaf::new().uri(id).expired()),
    ] {
        TlsClient::with(&stranger).alpn(&["h2"]).refused_over_h2(town.plane.grpc).await;
    }
    audited(&town, &["\"connection\"", "anonymous", "refused"]).await;
    assert!(town.plane.proxy(API).await.is_none());
    let told = town.plane.told(&["audit"]);
    assert!(told.contains("connection") && told.contains("stream"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_once_in_its_time_and_for_its_workload() {
    let town = town().await;
    let refused = |token: &str, name: &str| {
        let output = town.plane.join(token, &town.plane.path(name));
        assert!(!output.status.success(), "{name} is refused");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.contains(token) && !told.contains("mesh.local/ns"), "{told}");
        assert!(!town.plane.path(name).join("svid.pem").exists());
        told
    };
    // Used.
    let token = town.plane.join_token(WEB).await;
    assert!(town.plane.join(&token, &town.plane.path("good")).status.success());
    let told = refused(&token, "again");
    audited(&town, &["certificate.issue", "refused", "spent"]).await;
    println!("used: {told}");
    // Expired.
    let (status, body) =
        town.plane.ask("POST", "/v1/join-tokens", &json!({ "workload": WEB, "validForSeconds": 1 })).await;
    assert_eq!(status, 200, "{body:#}");
    // Its second has to pass.
    tokio::time::sleep(ms(2100)).await;
    let told = refused(body["token"].as_str().expect("a token"), "late");
    audited(&town, &["certificate.issue", "refused", "expired"]).await;
    println!("expired: {told}");
    // Never made.
    refused(&format!("{}0", &token[..token.len() - 1]), "forged");

    // For another identity: with a token of `web-1`, and with its certificate.
    let token = town.plane.join_token(WEB).await;
    let id = "spiffe://mesh.local/ns/shop/sa/api";
    let (nobody, web) = (client(&town, None).await, client(&town, Some(&credential(&town.plane.path("good")))).await);
    let asks = |proof: Option<&str>, claims: Option<&str>, workload: &str| {
        let request = IssueRequest {
            certificate_signing_request: signing_request(claims),
            workload: workload.to_owned(),
            proof: proof.map(|token| Proof::JoinToken(token.to_owned())),
        };
        framed(&request.encode_to_vec())
    };
    for (name, http, body) in [
        ("a name in the request, a token", &nobody, asks(Some(&token), Some(id), "")),
        ("another workload, a token", &nobody, asks(Some(&token), None, API)),
        ("a name in the request, a certificate", &web, asks(None, Some(id), "")),
        ("another workload, a certificate", &web, asks(None, None, API)),
        ("no proof", &nobody, asks(None, None, WEB)),
    ] {
        let end = call(http, ISSUE, body).await;
        assert!(["7", "16"].contains(&&*end.code), "{name}: {end:?} {}", end.text());
        assert!(!end.text().contains(&token) && !end.said.windows(4).any(|four| four == b"BEGI"), "{name}");
        println!("{name}: {} {}", end.code, end.text());
    }
    assert!(town.plane.audited(&["certificate.issue", "refused"]).await.len() >= 8);
    // None of it has cost the token.
    let end = call(&nobody, ISSUE, asks(Some(&token), None, "")).await;
    assert_eq!(end.code, "0", "{}", end.text());
    let issued = IssueResponse::decode(&end.said[5..]).expect("a certificate");
    assert_eq!(issued.workload, WEB);
    let log = town.plane.get("/v1/audit?limit=200").await.to_string();
    assert!(!log.contains(&token), "no token is in the log");
    assert!(!town.plane.log().contains(&token));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_too_large_or_none_are_refused_and_audited() {
    let town = town().await;
    let web = joined(&town, WEB).await;
    let good = client(&town, Some(&web)).await;
    let large = DeltaDiscoveryRequest { type_url: "x".repeat(5 << 20), ..DeltaDiscoveryRequest::default() };
    let mut lying = framed(b"short").to_vec();
    lying[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
    let issue = IssueRequest { workload: "y".repeat(128 << 10), ..IssueRequest::default() };
    for (name, path, body) in [
        ("an oversized request", DELTA, framed(&large.encode_to_vec())),
        ("one that says it is oversized", DELTA, Bytes::from(lying.clone())),
        ("one that is no message", DELTA, framed(&[0xff; 64])),
        ("one that is no message, for the whole state", WHOLE, framed(&[0xff; 64])),
        ("an oversized request for a certificate", ISSUE, framed(&issue.encode_to_vec())),
        ("one that says it is oversized", ISSUE, Bytes::from(lying)),
        ("one for a certificate that is no message", ISSUE, framed(&[0xff; 64])),
        ("one that holds no signing request", ISSUE, framed(&IssueRequest::default().encode_to_vec())),
    ] {
        // The server may answer before it has read all, and then the rest is not taken.
        let end = match good.send(grpc(path), body, None).await {
            Ok(reply) => End::new(&reply.headers, reply.trailers.as_ref(), &reply.body),
            Err(error) => {
                assert!(error.is_reset() || error.is_go_away(), "{name}: {error}");
                End { code: "reset".to_owned(), said: Vec::new() }
            }
        };
        println!("{name} ({path}): {} {}", end.code, end.text());
        assert!(!["0", ""].contains(&&*end.code), "{name}: {end:?}");
        assert!(!end.text().contains("/work") && !end.text().contains("panick"), "{name}: {}", end.text());
    }
    audited(&town, &["\"stream\"", "refused", "web-1"]).await;
    audited(&town, &["certificate.issue", "refused", "unreadable"]).await;
    // And it goes on for those who behave.
    let first = DeltaDiscoveryRequest {
        type_url: Kind::Secret.type_url().to_owned(),
        resource_names_subscribe: vec!["ROOTCA".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let again = client(&town, Some(&web)).await;
    let response = Stream::open(&again, &first).await.next().await;
    assert_eq!(response.resources[0].name, "ROOTCA");
}
