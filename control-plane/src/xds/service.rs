//! Who may open a stream.

use std::sync::Arc;

use outrigger_xds::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tonic::transport::Server;

use super::limits::{
    CONNECTION_WINDOW, KEEPALIVE, KEEPALIVE_ANSWER, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, MAX_STREAMS_PER_CONNECTION,
    STREAM_WINDOW,
};
use crate::fleet::{Fleet, Source};

/// The service. Clones serve the same fleet from the same source.
///
/// It expects a [`Peer`](crate::peer::Peer) in the extensions of each request, which the acceptor of connections puts
/// there; without one, every stream is refused.
#[derive(Clone)]
pub struct Ads {
    pub(super) source: Arc<dyn Source>,
    pub(super) fleet: Fleet,
}

impl Ads {
    /// A service that gives out what `source` has, and enters who comes in `fleet`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, fleet: Fleet) -> Self {
        Self { source, fleet }
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
}
