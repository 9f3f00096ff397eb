//! A control plane: an ADS server of both variants that records everything it is told, and the service that issues
//! certificates. It lives in a thread of its own, so that killing it closes every socket at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use outrigger_xds::control::identity_server::{Identity, IdentityServer};
use outrigger_xds::control::issue_request::Proof;
use outrigger_xds::control::{IssueRequest, IssueResponse, Refusals};
use outrigger_xds::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as Wrapped,
};
use outrigger_xds::google::protobuf::Any;
use outrigger_xds::{Kind, Resource};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use super::pki::{Credential, Mesh};
use super::{PATIENCE, eventually};

/// What a proxy said.
#[derive(Debug, Clone)]
pub struct Told {
    /// The number of its stream, from 1.
    pub stream: usize,
    /// The identity of the certificate that the stream was made with.
    pub peer: Option<String>,
    /// The node's id, on the first message.
    pub node: Option<String>,
    /// The kind that it is about.
    pub kind: Kind,
    /// Names: those subscribed (delta) or all (state of the world).
    pub names: Vec<String>,
    /// Names that are not wanted any more.
    pub unsubscribed: Vec<String>,
    /// What is known already (delta).
    pub known: BTreeMap<String, String>,
    /// What is answered.
    pub nonce: String,
    /// The version that was taken (state of the world).
    pub version: String,
    /// The refusal in words.
    pub error: Option<String>,
    /// The same by name, field and reason.
    pub refusals: Vec<(String, String, String)>,
}

/// How a control plane behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Both variants.
    Both,
    /// State of the world only.
    Whole,
}

#[derive(Debug, Default)]
struct State {
    resources: BTreeMap<(Kind, String), Resource>,
    told: Vec<Told>,
    streams: usize,
    /// By kind and name, how often each resource was sent.
    sent: BTreeMap<(Kind, String), usize>,
    issued: Vec<Issued>,
}

/// A certificate that was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The join token that was shown.
    pub token: Option<String>,
    /// The identity of the connection.
    pub peer: Option<String>,
}

/// How certificates are issued.
#[derive(Clone)]
pub struct Issuer {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// Who everybody is.
    pub account: String,
    /// The token that is good, once.
    pub token: String,
    /// How long a certificate holds.
    pub lifetime: Duration,
    /// When it is to be renewed.
    pub renew_after: Duration,
}

#[derive(Clone)]
struct Plane {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    speaks: Speaks,
    issuer: Option<Arc<Issuer>>,
}

/// A control plane.
pub struct Ads {
    plane: Plane,
    addr: SocketAddr,
    tls: Option<Credential>,
    runtime: Option<Runtime>,
}

impl Ads {
    /// One without TLS.
    pub fn start(speaks: Speaks) -> Self {
        Self::start_as(speaks, None, None)
    }

    /// One with TLS, that issues certificates. Its own identity is `outrigger/control`.
    pub fn issuing(issuer: Issuer) -> Self {
        let own = issuer.mesh.svid("outrigger/control");
        Self::start_as(Speaks::Both, Some(issuer), Some(own))
    }

    fn start_as(speaks: Speaks, issuer: Option<Issuer>, tls: Option<Credential>) -> Self {
        let plane = Plane { state: Arc::default(), changed: watch::channel(0).0, speaks, issuer: issuer.map(Arc::new) };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("an address");
        let mut ads = Self { plane, addr, tls, runtime: None };
        ads.run(listener);
        ads
    }

    fn run(&mut self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).expect("set up the socket");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("make a runtime");
        let (plane, own) = (self.plane.clone(), self.tls.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let roots = plane.issuer.as_ref().map(|issuer| issuer.mesh.root.pem.clone());
            let server = tonic::transport::Server::builder();
            let service = plane.service();
            match own.zip(roots) {
                None => {
                    server.serve_with_incoming(service, TcpListenerStream::new(listener)).await.expect("serve");
                }
                Some((own, roots)) => {
                    let incoming = secured::incoming(listener, &own, &roots);
                    server.serve_with_incoming(service, incoming).await.expect("serve");
                }
            }
        });
        self.runtime = Some(runtime);
    }

    /// Stops at once: every connection is closed.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Comes back at the same address, with the same resources.
    pub async fn revive(&mut self) {
        let addr = self.addr;
        let mut listener = None;
        eventually(PATIENCE, "the address is free", || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("set up the socket");
            let bound = socket.bind(&addr.into()).and_then(|()| socket.listen(64));
            listener = bound.is_ok().then(|| socket.into());
            listener.is_some()
        })
        .await;
        self.run(listener.expect("bound"));
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes exactly these its resources.
    pub fn set(&self, resources: impl IntoIterator<Item = Resource>) {
        let resources = resources.into_iter().map(|one| ((one.kind, one.name.to_string()), one)).collect();
        self.lock().resources = resources;
        self.plane.changed.send_modify(|number| *number += 1);
    }

    /// Adds or replaces resources.
    pub fn put(&self, resources: impl IntoIterator<Item = Resource>) {
        let resources = resources.into_iter().map(|one| ((one.kind, one.name.to_string()), one));
        self.lock().resources.extend(resources);
        self.plane.changed.send_modify(|number| *number += 1);
    }

    /// Everything that it was told.
    pub fn told(&self) -> Vec<Told> {
        self.lock().told.clone()
    }

    /// How often a resource was sent.
    pub fn sent(&self, kind: Kind, name: &str) -> usize {
        self.lock().sent.get(&(kind, name.to_owned())).copied().unwrap_or_default()
    }

    /// How many streams there have been.
    pub fn streams(&self) -> usize {
        self.lock().streams
    }

    /// What was issued.
    pub fn issued(&self) -> Vec<Issued> {
        self.lock().issued.clone()
    }

    /// Waits until something was said that fits.
    pub async fn heard(&self, what: &str, fits: impl Fn(&Told) -> bool) -> Told {
        let mut found = None;
        eventually(PATIENCE, what, || {
            found = self.told().into_iter().find(|told| fits(told));
            found.is_some()
        })
        .await;
        found.expect("it was said")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.plane.lock()
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is known of one stream, per kind.
#[derive(Debug, Default)]
struct Asked {
    /// `None`: everything.
    names: Option<BTreeSet<String>>,
    sent: BTreeMap<String, String>,
    stale: bool,
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

type Wire = http::Request<tonic::body::Body>;
type Answer = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, std::convert::Infallible>> + Send>>;

impl Plane {
    /// Both services, told apart by the path.
    fn service(
        &self,
    ) -> impl Service<
        Wire,
        Response = http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future = Answer,
    > + Clone
    + Send
    + use<> {
        let mut discovery = AggregatedDiscoveryServiceServer::new(self.clone()).max_encoding_message_size(64 << 20);
        let (mut identity, issues) = (IdentityServer::new(self.clone()), self.issuer.is_some());
        tower::service_fn(move |request: Wire| -> Answer {
            if issues && request.uri().path().starts_with("/outrigger.control.v1.Identity/") {
                identity.call(request)
            } else {
                discovery.call(request)
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while recording")
    }

    fn begin(&self) -> usize {
        let mut state = self.lock();
        state.streams += 1;
        state.streams
    }

    fn nonce(&self) -> String {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()
    }

    /// The resources of a kind that are asked for.
    fn wanted(&self, kind: Kind, asked: &Asked) -> BTreeMap<String, Resource> {
        let fits = |name: &str| asked.names.as_ref().is_none_or(|names| names.contains(name));
        let state = self.lock();
        let of_kind = state.resources.iter().filter(|((of, name), _)| *of == kind && fits(name));
        of_kind.map(|((_, name), resource)| (name.clone(), resource.clone())).collect()
    }

    fn note_sent(&self, kind: Kind, names: impl Iterator<Item = String>) {
        let mut state = self.lock();
        for name in names {
            *state.sent.entry((kind, name)).or_default() += 1;
        }
    }

    fn delta(&self, kind: Kind, asked: &mut Asked) -> Option<DeltaDiscoveryResponse> {
        let wanted = self.wanted(kind, asked);
        let changed: Vec<&Resource> =
            wanted.values().filter(|one| asked.sent.get(&*one.name).is_none_or(|v| **v != *one.version)).collect();
        let removed: Vec<String> = asked.sent.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        // That there is nothing at all is said once.
        let nothing = std::mem::take(&mut asked.stale) && wanted.is_empty();
        if changed.is_empty() && removed.is_empty() && !nothing {
            return None;
        }
        self.note_sent(kind, changed.iter().map(|one| one.name.to_string()));
        let resources = changed.iter().map(|one| Wrapped {
            name: one.name.to_string(),
            version: one.version.to_string(),
            resource: Some(any(one)),
            ..Wrapped::default()
        });
        let response = DeltaDiscoveryResponse {
            resources: resources.collect(),
            type_url: kind.type_url().to_owned(),
            removed_resources: removed,
            nonce: self.nonce(),
            ..DeltaDiscoveryResponse::default()
        };
        asked.sent = wanted.into_iter().map(|(name, one)| (name, one.version.to_string())).collect();
        Some(response)
    }

    fn whole(&self, kind: Kind, asked: &mut Asked) -> Option<DiscoveryResponse> {
        let wanted = self.wanted(kind, asked);
        let now: BTreeMap<String, String> =
            wanted.iter().map(|(name, one)| (name.clone(), one.version.to_string())).collect();
        let named = asked.names.is_some();
        if !asked.stale && now == asked.sent || named && now.is_empty() {
            return None;
        }
        (asked.stale, asked.sent) = (false, now);
        self.note_sent(kind, wanted.keys().cloned());
        let nonce = self.nonce();
        Some(DiscoveryResponse {
            version_info: format!("v{nonce}"),
            resources: wanted.values().map(any).collect(),
            type_url: kind.type_url().to_owned(),
            nonce,
            ..DiscoveryResponse::default()
        })
    }
}

fn any(resource: &Resource) -> Any {
    Any { type_url: resource.kind.type_url().to_owned(), value: resource.body.to_vec() }
}

fn refusals(status: Option<&outrigger_xds::google::rpc::Status>) -> Vec<(String, String, String)> {
    let details = status.iter().flat_map(|status| &status.details);
    let named = details.filter_map(|detail| Refusals::decode(&*detail.value).ok());
    named.flat_map(|refusals| refusals.refusals).map(|one| (one.name, one.field, one.reason)).collect()
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Plane {
    type StreamAggregatedResourcesStream = Out<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Out<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if self.speaks == Speaks::Whole {
            return Err(Status::unimplemented("state of the world only"));
        }
        let (plane, stream, peer) = (self.clone(), self.begin(), secured::peer(&request));
        let (mut requests, mut changed) = (request.into_inner(), self.changed.subscribe());
        let (out, responses) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut asked: BTreeMap<Kind, Asked> = BTreeMap::new();
            loop {
                tokio::select! {
                    message = requests.next() => {
                        let Some(Ok(message)) = message else { return };
                        let Some(kind) = Kind::from_type_url(&message.type_url) else { continue };
                        let first = !asked.contains_key(&kind);
                        let of_kind = asked.entry(kind).or_default();
                        let names = message.resource_names_subscribe.clone();
                        if first {
                            of_kind.names = (!names.is_empty()).then(BTreeSet::new);
                            of_kind.sent = message.initial_resource_versions.clone().into_iter().collect();
                            of_kind.stale = of_kind.names.is_none();
                        }
                        if let Some(known) = &mut of_kind.names {
                            known.extend(names.iter().cloned());
                            for gone in &message.resource_names_unsubscribe {
                                known.remove(gone);
                                of_kind.sent.remove(gone);
                            }
                        }
                        plane.lock().told.push(Told {
                            stream,
                            peer: peer.clone(),
                            node: message.node.map(|node| node.id),
                            kind,
                            names,
                            unsubscribed: message.resource_names_unsubscribe,
                            known: message.initial_resource_versions.into_iter().collect(),
                            nonce: message.response_nonce,
                            version: String::new(),
                            refusals: refusals(message.error_detail.as_ref()),
                            error: message.error_detail.map(|status| status.message),
                        });
                    }
                    _ = changed.changed() => {}
                }
                for kind in Kind::ALL {
                    let Some(of_kind) = asked.get_mut(&kind) else { continue };
                    if let Some(response) = plane.delta(kind, of_kind)
                        && out.send(Ok(response)).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (plane, stream, peer) = (self.clone(), self.begin(), secured::peer(&request));
        let (mut requests, mut changed) = (request.into_inner(), self.changed.subscribe());
        let (out, responses) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut asked: BTreeMap<Kind, Asked> = BTreeMap::new();
            loop {
                tokio::select! {
                    message = requests.next() => {
                        let Some(Ok(message)) = message else { return };
                        let Some(kind) = Kind::from_type_url(&message.type_url) else { continue };
                        let names: BTreeSet<String> = message.resource_names.iter().cloned().collect();
                        let everything = matches!(kind, Kind::Listener | Kind::Cluster);
                        let names = (!everything).then_some(names);
                        let first = !asked.contains_key(&kind);
                        let of_kind = asked.entry(kind).or_default();
                        of_kind.stale |= first || of_kind.names != names;
                        of_kind.names = names;
                        plane.lock().told.push(Told {
                            stream,
                            peer: peer.clone(),
                            node: message.node.map(|node| node.id),
                            kind,
                            names: message.resource_names,
                            unsubscribed: Vec::new(),
                            known: BTreeMap::new(),
                            nonce: message.response_nonce,
                            version: message.version_info,
                            refusals: refusals(message.error_detail.as_ref()),
                            error: message.error_detail.map(|status| status.message),
                        });
                    }
                    _ = changed.changed() => {}
                }
                for kind in Kind::ALL {
                    let Some(of_kind) = asked.get_mut(&kind) else { continue };
                    if let Some(response) = plane.whole(kind, of_kind)
                        && out.send(Ok(response)).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

#[tonic::async_trait]
impl Identity for Plane {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let issuer = self.issuer.clone().expect("the service is offered");
        let peer = secured::peer(&request);
        let IssueRequest { certificate_signing_request, proof, workload: _ } = request.into_inner();
        let token = match proof {
            Some(Proof::JoinToken(token)) => Some(token),
            Some(Proof::ServiceAccountToken(_)) => return Err(Status::unauthenticated("no such token")),
            None => None,
        };
        let used = self.issued_tokens();
        let proven = match &token {
            Some(token) => *token == issuer.token && !used.contains(token),
            None => peer.as_deref() == Some(&issuer.mesh.id(&issuer.account)),
        };
        if !proven {
            return Err(Status::unauthenticated("there is no proof"));
        }
        self.lock().issued.push(Issued { token, peer });
        let now = SystemTime::now();
        let leaf = issuer.mesh.leaf(&issuer.account).valid(now - Duration::from_secs(60), now + issuer.lifetime);
        let chain = issuer.mesh.issuing.issue_for(&leaf, &certificate_signing_request);
        Ok(Response::new(IssueResponse {
            certificate_chain: chain.iter().map(|one| one.to_vec()).collect(),
            trust_bundle: super::pki::certificates(&issuer.mesh.root.pem).iter().map(|one| one.to_vec()).collect(),
            workload: "shop/one".to_owned(),
            renew_after: Some(issuer.renew_after.try_into().expect("a short while")),
        }))
    }
}

impl Plane {
    fn issued_tokens(&self) -> BTreeSet<String> {
        self.lock().issued.iter().filter_map(|issued| issued.token.clone()).collect()
    }
}

/// TLS in front of the server: clients may show a certificate of the mesh.
mod secured {
    use std::io;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::server::TlsStream;
    use tokio_stream::Stream;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::transport::server::Connected;

    use crate::support::pki::{Credential, certificates};

    /// The SPIFFE ID of the certificate that was shown.
    #[derive(Debug, Clone)]
    pub(super) struct PeerId(Option<String>);

    pub(super) fn peer<T>(request: &tonic::Request<T>) -> Option<String> {
        request.extensions().get::<PeerId>().and_then(|peer| peer.0.clone())
    }

    pub(super) struct Secured(TlsStream<TcpStream>);

    impl Connected for Secured {
        type ConnectInfo = PeerId;

        fn connect_info(&self) -> PeerId {
            use x509_parser::extensions::GeneralName;
            use x509_parser::prelude::{FromDer as _, X509Certificate};
            let shown = self.0.get_ref().1.peer_certificates().and_then(<[_]>::first);
            PeerId(shown.and_then(|leaf| {
                let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
                let names = leaf.subject_alternative_name().ok()??;
                names.value.general_names.iter().find_map(|name| match name {
                    GeneralName::URI(uri) => Some((*uri).to_owned()),
                    _ => None,
                })
            }))
        }
    }

    pub(super) fn incoming(
        listener: TcpListener,
        own: &Credential,
        roots: &str,
    ) -> impl Stream<Item = io::Result<Secured>> + use<> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut store = RootCertStore::empty();
        for root in certificates(roots) {
            store.add(root).expect("a root");
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(own.certificates(), own.private_key())
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (accepted, out) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        accepted.send(Ok(Secured(stream))).await.ok();
                    }
                });
            }
        });
        ReceiverStream::new(out)
    }

    impl AsyncRead for Secured {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Secured {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
}
