//! A server on loopback whose connections belong to workloads by the address that they come from, and clients.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_control::fleet::{Answer, Denial, Fleet, Recorder, ResourceSet};
use outrigger_control::peer::Peer;
use outrigger_control::xds::{Ads, tune};
use outrigger_xds::envoy::config::core::v3::Node;
use outrigger_xds::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use outrigger_xds::google::protobuf::Any;
use outrigger_xds::google::rpc;
use outrigger_xds::{Kind, Resource};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Server};
use tonic::{Status, Streaming};

use crate::mesh::{Memory, Stamped, incoming};

/// How long anything that must happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(crate) struct Records {
    pub(crate) answers: Mutex<Vec<Answer>>,
    pub(crate) denials: Mutex<Vec<Denial>>,
}

impl Recorder for Records {
    fn answered(&self, answer: Answer) {
        self.answers.lock().unwrap().push(answer);
    }

    fn denied(&self, denial: Denial) {
        self.denials.lock().unwrap().push(denial);
    }
}

pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    pub(crate) source: Arc<Memory>,
    pub(crate) fleet: Fleet,
    pub(crate) records: Arc<Records>,
    serving: JoinHandle<()>,
}

impl Control {
    /// Serves this source; everybody is workload `shop/cart-1`.
    pub(crate) async fn start(source: Arc<Memory>) -> Self {
        Self::start_for(source, |address| Stamped::peer("shop/cart-1", address)).await
    }

    pub(crate) async fn start_for(source: Arc<Memory>, peer: impl Fn(SocketAddr) -> Peer + Send + 'static) -> Self {
        let (address, connections) = incoming(peer).await;
        Self::serve(source, address, connections)
    }

    /// Serves connections of which nobody has said whose they are.
    pub(crate) async fn start_unknown(source: Arc<Memory>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(source, address, TcpListenerStream::new(listener))
    }

    fn serve<IO>(
        source: Arc<Memory>,
        address: SocketAddr,
        connections: impl Stream<Item = io::Result<IO>> + Send + 'static,
    ) -> Self
    where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let records = Arc::new(Records::default());
        let fleet = Fleet::new(Arc::clone(&records) as Arc<dyn Recorder>);
        let service = Ads::new(Arc::clone(&source) as _, fleet.clone()).into_service();
        let server = tune(Server::builder()).serve_with_incoming(service, connections);
        let serving = tokio::spawn(async move { server.await.unwrap() });
        Self { address, source, fleet, records, serving }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A source of these resources for `shop/cart-1`.
pub(crate) fn memory(resources: Vec<Arc<Resource>>) -> Arc<Memory> {
    let source = Memory::new();
    put(&source, 1, resources);
    source
}

pub(crate) fn put(source: &Memory, generation: u64, resources: Vec<Arc<Resource>>) {
    source.put([("shop/cart-1".to_owned(), ResourceSet::from_resources(generation, resources))], false);
}

pub(crate) fn resource(kind: Kind, name: &str, text: &str) -> Arc<Resource> {
    Arc::new(Resource::new(kind, name.into(), &text.to_owned()))
}

pub(crate) fn node(user_agent: &str) -> Node {
    Node { id: "node-1".to_owned(), user_agent_name: user_agent.to_owned(), ..Node::default() }
}

/// What an Outrigger proxy says of what it refuses.
pub(crate) fn refusal(kind: Kind, name: &str, field: &str, reason: &str) -> rpc::Status {
    let refusal = outrigger_xds::control::Refusal {
        type_url: kind.type_url().to_owned(),
        name: name.to_owned(),
        field: field.to_owned(),
        reason: reason.to_owned(),
    };
    let detail = outrigger_xds::control::Refusals { refusals: vec![refusal] };
    let detail =
        Any { type_url: "type.googleapis.com/outrigger.control.v1.Refusals".to_owned(), value: detail.encode_to_vec() };
    rpc::Status { code: 3, message: format!("{name}: {reason}"), details: vec![detail] }
}

/// A client of the incremental protocol. It has what it was sent.
pub(crate) struct DeltaClient {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
    pub(crate) has: BTreeMap<(Kind, String), String>,
}

impl DeltaClient {
    pub(crate) async fn open(channel: Channel, user_agent: &str) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(256 << 20);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses, node: Some(node(user_agent)), has: BTreeMap::new() })
    }

    /// Says this of itself in its first request.
    pub(crate) fn claim(&mut self, node: Node) {
        self.node = Some(node);
    }

    pub(crate) async fn request(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        self.requests.send(request).await.unwrap();
    }

    /// Asks for these, and says what it has of the kind.
    pub(crate) async fn ask(&mut self, kind: Kind, names: &[&str]) {
        let known = self.has.iter().filter(|((of, _), _)| *of == kind);
        let known: HashMap<_, _> = known.map(|((_, name), version)| (name.clone(), version.clone())).collect();
        self.request(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            initial_resource_versions: known,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("a response in time");
        next.map(|response| response.expect("the stream goes on"))
    }

    pub(crate) async fn answer(&mut self, response: &DeltaDiscoveryResponse, error: Option<rpc::Status>) {
        let kind = Kind::from_type_url(&response.type_url).unwrap();
        if error.is_none() {
            for resource in &response.resources {
                self.has.insert((kind, resource.name.clone()), resource.version.clone());
            }
            for name in &response.removed_resources {
                self.has.remove(&(kind, name.clone()));
            }
        }
        self.request(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    /// Takes the next response, and shows it: `Cluster a b -c`.
    pub(crate) async fn take(&mut self) -> String {
        let response = self.next().await.unwrap();
        self.answer(&response, None).await;
        shown(&response)
    }
}

pub(crate) fn shown(response: &DeltaDiscoveryResponse) -> String {
    let kind = Kind::from_type_url(&response.type_url).unwrap();
    let added = response.resources.iter().map(|resource| format!(" {}", resource.name));
    let removed = response.removed_resources.iter().map(|name| format!(" -{name}"));
    std::iter::once(format!("{kind:?}")).chain(added).chain(removed).collect()
}

/// A client of the state of the world.
pub(crate) struct WorldClient {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    node: Option<Node>,
    versions: HashMap<String, String>,
}

impl WorldClient {
    pub(crate) async fn open(channel: Channel, user_agent: &str) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses, node: Some(node(user_agent)), versions: HashMap::new() })
    }

    async fn request(&mut self, kind: &str, names: &[&str], nonce: &str, error: Option<rpc::Status>) {
        let request = DiscoveryRequest {
            version_info: self.versions.get(kind).cloned().unwrap_or_default(),
            node: self.node.take(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            type_url: kind.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, kind: Kind, names: &[&str], after: Option<&DiscoveryResponse>) {
        let nonce = after.map(|response| response.nonce.clone()).unwrap_or_default();
        self.request(kind.type_url(), names, &nonce, None).await;
    }

    pub(crate) async fn next(&mut self) -> DiscoveryResponse {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("a response in time");
        next.unwrap().expect("the stream goes on")
    }

    pub(crate) async fn ack(&mut self, response: &DiscoveryResponse, names: &[&str]) {
        self.versions.insert(response.type_url.clone(), response.version_info.clone());
        self.request(&response.type_url, names, &response.nonce, None).await;
    }

    pub(crate) async fn nack(&mut self, response: &DiscoveryResponse, names: &[&str], error: rpc::Status) {
        self.request(&response.type_url, names, &response.nonce, Some(error)).await;
    }
}

/// The kind and the texts of a response, in order.
pub(crate) fn texts(response: &DiscoveryResponse) -> (Kind, Vec<String>) {
    let kind = Kind::from_type_url(&response.type_url).unwrap();
    assert!(response.resources.iter().all(|any| any.type_url == response.type_url));
    let text = |any: &Any| <String as prost::Message>::decode(&*any.value).unwrap();
    (kind, response.resources.iter().map(text).collect())
}
