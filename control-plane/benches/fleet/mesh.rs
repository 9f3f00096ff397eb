//! A source in memory, connections that belong to workloads by their address, and a mesh of any size.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use outrigger_control::fleet::{Change, Client, ResourceSet, Resources, Source};
use outrigger_control::peer::{Peer, WorkloadKey};
use outrigger_xds::envoy::config::cluster::v3::Cluster;
use outrigger_xds::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use outrigger_xds::envoy::config::core::v3::address::Address as AddressKind;
use outrigger_xds::envoy::config::core::v3::socket_address::PortSpecifier;
use outrigger_xds::envoy::config::core::v3::{Address, SocketAddress};
use outrigger_xds::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use outrigger_xds::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use outrigger_xds::envoy::config::listener::v3::Listener;
use outrigger_xds::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use outrigger_xds::google::protobuf;
use outrigger_xds::{Kind, Resource};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::Connected;

/// Sets by workload.
pub(crate) struct Memory {
    sets: Mutex<HashMap<String, Arc<ResourceSet>>>,
    changes: watch::Sender<Change>,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { sets: Mutex::default(), changes: watch::Sender::default() })
    }

    /// Gives out new sets.
    pub(crate) fn put(&self, sets: impl IntoIterator<Item = (String, ResourceSet)>, endpoints_alone: bool) {
        self.sets.lock().unwrap().extend(sets.into_iter().map(|(workload, set)| (workload, Arc::new(set))));
        self.changes.send_modify(|change| {
            *(if endpoints_alone { &mut change.endpoints } else { &mut change.others }) += 1;
        });
    }

    /// The set of a workload.
    pub(crate) fn get(&self, workload: &str) -> Option<Arc<ResourceSet>> {
        self.sets.lock().unwrap().get(workload).cloned()
    }
}

impl Source for Memory {
    fn resources(&self, client: &Client) -> Option<Arc<ResourceSet>> {
        self.get(&client.workload.to_string())
    }

    fn changes(&self) -> watch::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// A connection and who is at its other end.
pub(crate) struct Stamped {
    io: TcpStream,
    peer: Peer,
}

impl Stamped {
    pub(crate) fn peer(workload: &str, address: SocketAddr) -> Peer {
        Peer { id: None, workload: WorkloadKey::parse(workload), address }
    }
}

impl Connected for Stamped {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Stamped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A port on loopback and what comes in by it.
pub(crate) async fn incoming(
    peer: impl Fn(SocketAddr) -> Peer + Send + 'static,
) -> (SocketAddr, impl Stream<Item = io::Result<Stamped>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tokio_stream::wrappers::TcpListenerStream::new(listener).map(move |io| {
        let io = io?;
        io.set_nodelay(true)?;
        let peer = peer(io.peer_addr()?);
        Ok(Stamped { io, peer })
    });
    (address, connections)
}

/// How large a mesh is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) proxies: usize,
    pub(crate) services: usize,
    /// Services that each proxy calls.
    pub(crate) uses: usize,
    /// Endpoints of each service.
    pub(crate) endpoints: usize,
}

/// A mesh whose services are shared: what two proxies use of them is one resource.
pub(crate) struct Mesh {
    shape: Shape,
    generation: u64,
    clusters: Vec<Arc<Resource>>,
    endpoints: Vec<Arc<Resource>>,
    pub(crate) source: Arc<Memory>,
    next_service: usize,
}

impl Mesh {
    pub(crate) fn new(shape: Shape) -> Self {
        let endpoints = |service| endpoints(service, shape.endpoints, Stamp::NONE);
        let mut mesh = Self {
            shape,
            generation: 0,
            clusters: (0..shape.services).map(|service| cluster(service, Stamp::NONE)).collect(),
            endpoints: (0..shape.services).map(endpoints).collect(),
            source: Memory::new(),
            next_service: 0,
        };
        mesh.publish(Stamp::NONE);
        mesh
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The endpoints of the next service change. Gives how many proxies that concerns.
    pub(crate) fn change_endpoints(&mut self) -> usize {
        let service = self.next_service;
        self.next_service = (service + 1) % self.shape.services;
        self.endpoints[service] = endpoints(service, self.shape.endpoints, Stamp::now());
        let concerned: Vec<usize> =
            (0..self.shape.proxies).filter(|proxy| self.uses(*proxy).any(|used| used == service)).collect();
        let count = concerned.len();
        let sets: Vec<_> = concerned
            .into_iter()
            .map(|proxy| {
                let workload = workload(proxy);
                let old = self.source.get(&workload).expect("every workload has a set");
                let mut kinds: Vec<_> = Kind::ALL.into_iter().map(|kind| (kind, Arc::clone(old.of(kind)))).collect();
                kinds.push((Kind::Endpoints, self.endpoints_of(proxy)));
                (workload, ResourceSet::new(self.generation, kinds))
            })
            .collect();
        self.source.put(sets, true);
        count
    }

    /// The routes of every proxy change.
    pub(crate) fn change_routes(&mut self) {
        self.publish(Stamp::now());
    }

    /// Every cluster and all routes change.
    pub(crate) fn change_everything(&mut self) {
        let now = Stamp::now();
        self.clusters = (0..self.shape.services).map(|service| cluster(service, now)).collect();
        self.publish(now);
    }

    fn publish(&mut self, routes: Stamp) {
        self.generation += 1;
        let set = |proxy| {
            let clusters = self.uses(proxy).map(|service| Arc::clone(&self.clusters[service]));
            let kinds = [
                (Kind::Cluster, Arc::new(Resources::new(clusters))),
                (Kind::Endpoints, self.endpoints_of(proxy)),
                (Kind::Listener, Arc::new(Resources::new([listener("inbound", proxy), listener("outbound", proxy)]))),
                (Kind::Route, Arc::new(Resources::new([self.route(proxy, routes)]))),
            ];
            (workload(proxy), ResourceSet::new(self.generation, kinds))
        };
        let sets: Vec<_> = (0..self.shape.proxies).map(set).collect();
        self.source.put(sets, false);
    }

    fn uses(&self, proxy: usize) -> impl Iterator<Item = usize> + use<> {
        let Shape { services, uses, .. } = self.shape;
        (0..uses).map(move |n| (proxy + n) % services)
    }

    fn endpoints_of(&self, proxy: usize) -> Arc<Resources> {
        Arc::new(Resources::new(self.uses(proxy).map(|service| Arc::clone(&self.endpoints[service]))))
    }

    /// One virtual host for each service that is used.
    fn route(&self, proxy: usize, stamp: Stamp) -> Arc<Resource> {
        let host = |service| VirtualHost {
            name: format!("service-{service}"),
            domains: vec![format!("service-{service}.shop.svc.cluster.local"), format!("service-{service}")],
            ..VirtualHost::default()
        };
        let mut virtual_hosts: Vec<_> = self.uses(proxy).map(host).collect();
        virtual_hosts.push(VirtualHost { name: stamp.to_string(), ..VirtualHost::default() });
        let message = RouteConfiguration { name: ROUTE.to_owned(), virtual_hosts, ..RouteConfiguration::default() };
        Arc::new(Resource::new(Kind::Route, ROUTE.into(), &message))
    }
}

/// The route configuration that every proxy has one of.
pub(crate) const ROUTE: &str = "outbound";

/// The workload of a proxy, by its number.
pub(crate) fn workload(proxy: usize) -> String {
    format!("shop/proxy-{proxy}")
}

/// Where a proxy connects from.
pub(crate) fn address_of(proxy: usize) -> IpAddr {
    let [high, low] = u16::try_from(proxy).expect("fewer than 65,536 proxies").to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

/// Who connects from there.
pub(crate) fn peer_at(address: SocketAddr) -> Peer {
    let proxy = match address.ip() {
        IpAddr::V4(ip) => usize::from(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]])),
        IpAddr::V6(_) => usize::MAX,
    };
    Stamped::peer(&workload(proxy), address)
}

/// When a resource was changed, as it travels in the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

impl Stamp {
    const NONE: Self = Self(0);

    fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long ago the resource was changed. None: never since the start.
    pub(crate) fn age_in(kind: Kind, body: &[u8]) -> Option<Duration> {
        use prost::Message as _;
        let text = match kind {
            Kind::Cluster => Cluster::decode(body).ok()?.alt_stat_name,
            Kind::Endpoints => ClusterLoadAssignment::decode(body).ok()?.endpoints.pop()?.locality?.sub_zone,
            Kind::Route => RouteConfiguration::decode(body).ok()?.virtual_hosts.pop()?.name,
            Kind::Secret | Kind::Listener => return None,
        };
        let then = text.strip_prefix("changed-")?.parse().ok().filter(|then| *then > 0)?;
        Some(Duration::from_nanos(Self::now().0.saturating_sub(then)))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "changed-{}", self.0)
    }
}

fn cluster(service: usize, stamp: Stamp) -> Arc<Resource> {
    let name = format!("service-{service}");
    let message = Cluster {
        name: name.clone(),
        alt_stat_name: stamp.to_string(),
        connect_timeout: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Cluster::default()
    };
    Arc::new(Resource::new(Kind::Cluster, name.into(), &message))
}

fn endpoints(service: usize, count: usize, stamp: Stamp) -> Arc<Resource> {
    use outrigger_xds::envoy::config::core::v3::Locality;
    let name = format!("service-{service}");
    let endpoint = |n: usize| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket(format!("10.{}.{}.{n}", service / 256, service % 256), 8080)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        locality: Some(Locality { zone: "eu-1a".to_owned(), sub_zone: stamp.to_string(), ..Locality::default() }),
        lb_endpoints: (0..count).map(endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    let message = ClusterLoadAssignment {
        cluster_name: name.clone(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    Arc::new(Resource::new(Kind::Endpoints, name.into(), &message))
}

fn listener(name: &str, proxy: usize) -> Arc<Resource> {
    let ip = format!("10.200.{}.{}", proxy / 256, proxy % 256);
    let message = Listener { name: name.to_owned(), address: Some(socket(ip, 15006)), ..Listener::default() };
    Arc::new(Resource::new(Kind::Listener, name.into(), &message))
}

fn socket(address: String, port: u32) -> Address {
    let port_specifier = Some(PortSpecifier::PortValue(port));
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address,
            port_specifier,
            ..SocketAddress::default()
        })),
    }
}
