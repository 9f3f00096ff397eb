//! The stream to the control plane, kept open for ever: servers in order, both variants of the protocol, pauses with full
//! jitter. What is said on it is decided elsewhere ([`super::session`]); here are only its bytes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outrigger_config::model::{ControlPlane, ControlServer};
use outrigger_xds::envoy::config::core::v3::Node;
use outrigger_xds::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::backoff::Backoff;
use super::dial::{causes, dial};
use super::identity::Identity;
use super::session::{Request, Response, Variant};
use super::wire;
use crate::base::limits;
use crate::policy::rng::Rng;
use crate::upstream::Registry;

/// What becomes of the stream.
#[derive(Debug)]
pub(crate) enum Event {
    /// A stream begins; what is sent into `requests` is said on it. Dropping `open` ends it.
    Open { server: Arc<str>, variant: Variant, requests: mpsc::Sender<Request>, open: oneshot::Sender<()> },
    /// The server said something.
    Said(Response),
    /// The stream that was open ended, or a server could not be reached.
    Failed { server: Arc<str>, problem: String },
}

/// Keeps a stream open.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) node: Node,
    pub(crate) identity: Arc<Identity>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) rng: Rng,
}

impl Link {
    /// Runs for ever, or until nobody listens to its events.
    pub(crate) async fn keep(mut self, events: mpsc::Sender<Event>) {
        let servers = self.plane.servers.clone();
        let mut backoff = Backoff::new(servers.len());
        // Which servers do not send changes only; asked again after a while, for they may have been replaced.
        let mut whole: Vec<Option<Instant>> = vec![None; servers.len()];
        self.identity.ready().await;
        loop {
            let at = backoff.server();
            let server = &servers[at];
            let delta = self.plane.delta && whole[at].is_none_or(|since| since.elapsed() > ASK_AGAIN);
            let variant = if delta { Variant::Delta } else { Variant::StateOfTheWorld };
            let began = Instant::now();
            let ended = self.stream(server, variant, &events).await;
            let Err(end) = ended else { return };
            if end.unimplemented && variant == Variant::Delta {
                tracing::info!(%server, "the control plane does not send changes only; it is asked for everything");
                whole[at] = Some(Instant::now());
                continue;
            }
            let random = self.rng.next_u64();
            let pause = match end.spoke {
                true => backoff.ended(began.elapsed(), random),
                false => backoff.failed(random),
            };
            let failed = Event::Failed { server: server.to_string().into(), problem: end.problem };
            if events.send(failed).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream, from its beginning to its end. `Ok`: nobody listens any more.
    async fn stream(&self, server: &ControlServer, variant: Variant, events: &mpsc::Sender<Event>) -> Result<(), End> {
        let papers = self.identity.papers(SystemTime::now());
        let papers = papers.as_ref().map(super::identity::Held::papers);
        let channel = dial(&self.plane, server, papers, &self.registry).await.map_err(|error| End::new(&error))?;
        let (requests, queue) = mpsc::channel(limits::CONTROL_QUEUE);
        let (open, closed) = oneshot::channel();
        let begins = Event::Open { server: server.to_string().into(), variant, requests, open };
        if events.send(begins).await.is_err() {
            return Ok(());
        }
        let spoken = async {
            match variant {
                Variant::Delta => self.delta(channel, queue, events).await,
                Variant::StateOfTheWorld => self.whole(channel, queue, events).await,
            }
        };
        tokio::select! {
            ended = spoken => ended,
            _ = closed => {
                let problem = "it did not read what it was told".to_owned();
                Err(End { problem, unimplemented: false, spoke: false })
            }
        }
    }

    async fn delta(
        &self,
        channel: Channel,
        queue: mpsc::Receiver<Request>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), End> {
        let mut node = Some(self.node.clone());
        let requests =
            ReceiverStream::new(queue).map(move |request| wire::delta_request(request, node.take().as_ref()));
        let answered = client(channel).delta_aggregated_resources(requests).await;
        pump(answered.map(tonic::Response::into_inner), wire::delta_response, events).await
    }

    async fn whole(
        &self,
        channel: Channel,
        queue: mpsc::Receiver<Request>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), End> {
        let mut node = Some(self.node.clone());
        let requests =
            ReceiverStream::new(queue).map(move |request| wire::whole_request(request, node.take().as_ref()));
        let answered = client(channel).stream_aggregated_resources(requests).await;
        pump(answered.map(tonic::Response::into_inner), wire::whole_response, events).await
    }
}

fn client(channel: Channel) -> AggregatedDiscoveryServiceClient<Channel> {
    AggregatedDiscoveryServiceClient::new(channel)
        .max_decoding_message_size(limits::CONTROL_MESSAGE)
        .max_encoding_message_size(limits::CONTROL_MESSAGE)
}

async fn pump<M>(
    answered: Result<Streaming<M>, Status>,
    read: impl Fn(M) -> Result<Response, String>,
    events: &mpsc::Sender<Event>,
) -> Result<(), End> {
    let mut spoke = false;
    let mut stream = answered.map_err(|status| End::of(&status, spoke))?;
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => {
                return Err(End { problem: "it ended the stream".to_owned(), unimplemented: false, spoke });
            }
            Err(status) => return Err(End::of(&status, spoke)),
        };
        spoke = true;
        match read(message) {
            Ok(response) => {
                if events.send(Event::Said(response)).await.is_err() {
                    return Ok(());
                }
            }
            Err(kind) => tracing::warn!(kind, "the control plane sent resources that were not asked for"),
        }
    }
}

/// How a stream ended, or why there was none.
#[derive(Debug)]
struct End {
    problem: String,
    unimplemented: bool,
    /// Whether the server said anything.
    spoke: bool,
}

impl End {
    fn new(error: &dyn std::error::Error) -> Self {
        Self { problem: error.to_string(), unimplemented: false, spoke: false }
    }

    fn of(status: &Status, spoke: bool) -> Self {
        let code = status.code();
        let problem = match (status.message(), std::error::Error::source(status)) {
            ("", None) => format!("{code:?}"),
            (message, None) => format!("{code:?}: {message}"),
            (_, Some(source)) => format!("{code:?}: {}", causes(source)),
        };
        Self { problem, unimplemented: code == Code::Unimplemented && !spoke, spoke }
    }
}

/// How long a server is believed not to send changes only.
const ASK_AGAIN: Duration = Duration::from_secs(3600);
