//! A proxy that does what it is told: the incremental protocol over a real connection, every resource decoded and kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_control::fleet::ResourceSet;
use outrigger_xds::envoy::config::core::v3::Node;
use outrigger_xds::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_xds::{Kind, Resource};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::mesh::{ROUTE, Stamp, address_of};

/// What a proxy has.
type Held = Mutex<BTreeMap<(Kind, String), Arc<Resource>>>;

/// A connected proxy.
pub(crate) struct Proxy {
    has: Arc<Held>,
    ages: Arc<Mutex<Vec<Duration>>>,
    running: tokio::task::JoinHandle<Status>,
}

impl Proxy {
    /// Connects, and goes on until it is dropped.
    pub(crate) async fn connect(
        number: usize,
        server: SocketAddr,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let channel = Endpoint::from_shared(format!("http://{server}"))?
            .local_address(Some(address_of(number)))
            .connect()
            .await?;
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let node = Node { id: format!("proxy-{number}"), user_agent_name: "outrigger".to_owned(), ..Node::default() };
        requests.send(DeltaDiscoveryRequest { node: Some(node), ..ask(Kind::Cluster, Vec::new()) }).await?;
        requests.send(ask(Kind::Listener, Vec::new())).await?;
        let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        let has: Arc<Held> = Arc::default();
        let ages: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let (held, noted) = (Arc::clone(&has), Arc::clone(&ages));
        let running = tokio::spawn(async move {
            let mut asked: BTreeSet<String> = BTreeSet::new();
            loop {
                let response = match responses.message().await {
                    Ok(Some(response)) => response,
                    Ok(None) => return Status::ok("ended"),
                    Err(status) => return status,
                };
                let Some(kind) = Kind::from_type_url(&response.type_url) else { continue };
                let mut next = vec![DeltaDiscoveryRequest {
                    type_url: response.type_url.clone(),
                    response_nonce: response.nonce.clone(),
                    ..DeltaDiscoveryRequest::default()
                }];
                let names: Vec<String> = response.resources.iter().map(|resource| resource.name.clone()).collect();
                apply(kind, response, &held, &noted);
                match kind {
                    Kind::Cluster => {
                        let new: Vec<String> = names.into_iter().filter(|name| asked.insert(name.clone())).collect();
                        if !new.is_empty() {
                            next.push(ask(Kind::Endpoints, new));
                        }
                    }
                    Kind::Listener if asked.insert(ROUTE.to_owned()) => {
                        next.push(ask(Kind::Route, vec![ROUTE.to_owned()]));
                    }
                    Kind::Listener | Kind::Endpoints | Kind::Route | Kind::Secret => {}
                }
                for request in next {
                    if requests.send(request).await.is_err() {
                        return Status::cancelled("the stream is closed");
                    }
                }
            }
        });
        Ok(Self { has, ages, running })
    }

    /// Whether it is still connected.
    pub(crate) fn is_connected(&self) -> bool {
        !self.running.is_finished()
    }

    /// What it has, as the versions of each kind.
    pub(crate) fn versions(&self) -> Vec<String> {
        let all: Vec<_> = self.has.lock().unwrap().values().cloned().collect();
        versions(&ResourceSet::from_resources(0, all))
    }

    /// How old each change was when it was applied, since the last call.
    pub(crate) fn take_ages(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.ages.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// The version of each kind.
pub(crate) fn versions(set: &ResourceSet) -> Vec<String> {
    Kind::ALL.into_iter().map(|kind| set.of(kind).version().to_string()).collect()
}

fn ask(kind: Kind, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

/// Decodes and keeps everything, and notes how old the newest change was.
fn apply(kind: Kind, response: DeltaDiscoveryResponse, has: &Held, ages: &Mutex<Vec<Duration>>) {
    let mut has = has.lock().unwrap();
    let mut age: Option<Duration> = None;
    for resource in response.resources {
        let body = resource.resource.map(|any| any.value).unwrap_or_default();
        let of_this = Stamp::age_in(kind, &body);
        let name: Arc<str> = resource.name.as_str().into();
        let kept = Resource { kind, name, version: resource.version.into(), body: body.into() };
        has.insert((kind, resource.name), Arc::new(kept));
        age = [age, of_this].into_iter().flatten().max();
    }
    for name in response.removed_resources {
        has.remove(&(kind, name));
    }
    ages.lock().unwrap().extend(age);
}
