//! Who may open a stream.

use std::sync::Arc;

use outrigger_xds::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::limits::{
    CONNECTION_WINDOW, KEEPALIVE, KEEPALIVE_ANSWER, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, MAX_STREAMS_PER_CONNECTION,
    OUTGOING, STREAM_AGE, STREAM_WINDOW,
};
use super::stream::serve;
use super::wire::{Delta, Wire, World};
use crate::fleet::{DenialCause, Fleet, Source};
use crate::peer::{Peer, WorkloadKey};

/// The service. Clones serve the same fleet from the same source.
///
/// It expects a [`Peer`](crate::peer::Peer) in the extensions of each request, which the acceptor of connections puts
/// there; without one, every stream is refused.
#[derive(Clone)]
pub struct Ads {
    pub(super) source: Arc<dyn Source>,
    pub(super) fleet: Fleet,
    /// True when the process stops; streams then end.
    pub(super) stop: Option<watch::Receiver<bool>>,
}

impl Ads {
    /// A service that gives out what `source` has, and enters who comes in `fleet`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, fleet: Fleet) -> Self {
        Self { source, fleet, stop: None }
    }

    /// Ends every stream when `stop` becomes true.
    #[must_use]
    pub fn until(self, stop: watch::Receiver<bool>) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// The service as tonic takes it, with the limits of its messages.
    #[must_use]
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_RESPONSE_BYTES)
    }
}

/// Sets what a server of long streams needs: keepalive, windows, and how many streams a connection may have.
#[must_use]
pub fn tune(server: Server) -> Server {
    server
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        // A new connection shows the certificate of its time.
        .max_connection_age(STREAM_AGE)
}

/// What is sent on a stream.
type Responses<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<World>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request)
    }
}

impl Ads {
    fn open<W: Wire>(
        &self,
        request: Request<Streaming<W::Request>>,
    ) -> Result<Response<Responses<W::Response>>, Status> {
        let (_, extensions, requests) = request.into_parts();
        let peer = extensions.get::<Peer>();
        let admitted = admit(peer).map_err(|reason| {
            self.fleet.denied(peer, DenialCause::NotAuthorized, reason);
            Status::permission_denied(reason)
        })?;
        let (responses, outgoing) = mpsc::channel(OUTGOING);
        tokio::spawn(serve::<W>(self.clone(), admitted, requests, responses));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Lets in those whose certificate names a workload.
fn admit(peer: Option<&Peer>) -> Result<(Peer, WorkloadKey), &'static str> {
    let peer = peer.ok_or("the connection has no authenticated peer; connect with a certificate")?;
    let workload = peer.workload.clone().ok_or("the certificate names no workload; ask for one with a join token")?;
    Ok((peer.clone(), workload))
}
