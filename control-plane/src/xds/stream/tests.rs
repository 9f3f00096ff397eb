//! Streams without sockets, in simulated time.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::HashMap;
use std::sync::Weak;

use outrigger_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_xds::{Kind, Resource, google};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::fleet::{Denial, Fleet, Form, ProxyStatus, Recorder, Refused, Source};
use crate::xds::limits::{ANSWER_WAIT, MAX_STREAMS_PER_WORKLOAD, OUTGOING};
use crate::xds::wire::Delta;

/// A source of one workload, and what was recorded.
struct Place {
    set: Mutex<Option<Arc<ResourceSet>>>,
    changes: watch::Sender<Change>,
    answers: Mutex<Vec<Answer>>,
    denials: Mutex<Vec<Denial>>,
}

impl Place {
    fn with(resources: &[(Kind, &str, &str)]) -> Arc<Self> {
        let (changes, _) = watch::channel(Change::default());
        let set = Some(Arc::new(set(1, resources)));
        Arc::new(Self { set: Mutex::new(set), changes, answers: Mutex::default(), denials: Mutex::default() })
    }

    fn set(&self, generation: u64, resources: &[(Kind, &str, &str)]) {
        *self.set.lock() = Some(Arc::new(set(generation, resources)));
        self.changes.send_modify(|change| change.others += 1);
    }

    fn set_endpoints(&self, generation: u64, resources: &[(Kind, &str, &str)]) {
        *self.set.lock() = Some(Arc::new(set(generation, resources)));
        self.changes.send_modify(|change| change.endpoints += 1);
    }
}

impl Source for Place {
    fn resources(&self, client: &Client) -> Option<Arc<ResourceSet>> {
        assert_eq!(client.workload.to_string(), "shop/cart-1");
        self.set.lock().clone()
    }

    fn changes(&self) -> watch::Receiver<Change> {
        self.changes.subscribe()
    }
}

impl Recorder for Place {
    fn answered(&self, answer: Answer) {
        self.answers.lock().push(answer);
    }

    fn denied(&self, denial: Denial) {
        self.denials.lock().push(denial);
    }
}

fn set(generation: u64, resources: &[(Kind, &str, &str)]) -> ResourceSet {
    let resource =
        |(kind, name, text): &(Kind, &str, &str)| Arc::new(Resource::new(*kind, (*name).into(), &(*text).to_owned()));
    ResourceSet::from_resources(generation, resources.iter().map(resource))
}

/// One end of a stream that is served.
struct Stream {
    requests: mpsc::Sender<Result<DeltaDiscoveryRequest, Status>>,
    responses: Receiver<Result<DeltaDiscoveryResponse, Status>>,
    served: JoinHandle<()>,
}

impl Stream {
    fn open(place: &Arc<Place>, fleet: &Fleet) -> Self {
        Self::of(Ads::new(Arc::clone(place) as Arc<dyn Source>, fleet.clone()))
    }

    fn of(ads: Ads) -> Self {
        let workload = WorkloadKey::parse("shop/cart-1").unwrap();
        let peer = Peer { id: None, workload: Some(workload.clone()), address: "127.0.0.1:1".parse().unwrap() };
        let (requests, incoming) = mpsc::channel(64);
        let (outgoing, responses) = mpsc::channel(OUTGOING);
        let served = tokio::spawn(serve::<Delta>(ads, (peer, workload), ReceiverStream::new(incoming), outgoing));
        Self { requests, responses, served }
    }

    async fn ask(&self, kind: Kind, names: &[&str]) {
        let subscribe = names.iter().map(ToString::to_string).collect();
        let node =
            NodeMessage { id: "n1".to_owned(), user_agent_name: "outrigger".to_owned(), ..NodeMessage::default() };
        let request = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(Ok(request)).await.unwrap();
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let detail =
            error.map(|message| google::rpc::Status { code: 3, message: message.to_owned(), details: Vec::new() });
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: detail,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(Ok(request)).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.responses.recv().await.expect("the stream goes on").unwrap()
    }

    async fn next_taken(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await;
        self.answer(&response, None).await;
        response
    }

    /// The status that the stream ends with. None: it just ends.
    async fn end(mut self) -> Option<Status> {
        loop {
            match self.responses.recv().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return Some(status),
                None => {
                    self.served.await.unwrap();
                    return None;
                }
            }
        }
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

fn fleet(place: &Arc<Place>) -> Fleet {
    Fleet::new(Arc::clone(place) as Arc<dyn Recorder>)
}

/// The only proxy.
fn proxy(fleet: &Fleet) -> ProxyStatus {
    let mut all = fleet.status();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[tokio::test(start_paused = true)]
async fn changes_are_gathered_for_a_tenth_of_a_second_and_sent_as_one() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let mut stream = Stream::open(&place, &fleet(&place));
    stream.ask(Kind::Cluster, &[]).await;
    stream.next_taken().await;
    let began = Instant::now();
    for generation in 2..10 {
        let text = generation.to_string();
        place.set(generation, &[(Kind::Cluster, "a", &text), (Kind::Cluster, "b", &text)]);
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    let response = stream.next_taken().await;
    assert_eq!(names(&response), ["a", "b"]);
    let took = began.elapsed();
    assert!(took >= COALESCE && took < COALESCE + Duration::from_millis(20), "{took:?}");
    assert_eq!(
        response.resources[0].version,
        set(9, &[(Kind::Cluster, "a", "9")]).of(Kind::Cluster).by_name()["a"].version.as_ref()
    );
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_sent_at_once_even_while_other_changes_are_gathered() {
    let place = Place::with(&[(Kind::Cluster, "a", "0"), (Kind::Endpoints, "a", "0")]);
    let mut stream = Stream::open(&place, &fleet(&place));
    stream.ask(Kind::Cluster, &[]).await;
    stream.next_taken().await;
    stream.ask(Kind::Endpoints, &["a"]).await;
    stream.next_taken().await;
    let began = Instant::now();
    place.set_endpoints(1, &[(Kind::Cluster, "a", "0"), (Kind::Endpoints, "a", "1")]);
    assert_eq!(names(&stream.next_taken().await), ["a"]);
    place.set(2, &[(Kind::Cluster, "a", "2"), (Kind::Endpoints, "a", "1")]);
    tokio::task::yield_now().await;
    place.set_endpoints(2, &[(Kind::Cluster, "a", "2"), (Kind::Endpoints, "a", "2")]);
    assert_eq!(stream.next_taken().await.type_url, Kind::Endpoints.type_url());
    assert!(began.elapsed() < Duration::from_millis(5));
    assert_eq!(stream.next_taken().await.type_url, Kind::Cluster.type_url());
    assert!(began.elapsed() >= COALESCE);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_costs_no_more_for_every_change() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let mut stream = Stream::open(&place, &fleet(&place));
    stream.ask(Kind::Cluster, &[]).await;
    let mut made: Vec<Weak<Resource>> = Vec::new();
    for generation in 2..100 {
        place.set(generation, &[(Kind::Cluster, "a", &generation.to_string())]);
        let set = place.set.lock().clone().unwrap();
        made.extend(set.of(Kind::Cluster).by_name().values().map(Arc::downgrade));
        drop(set);
        tokio::time::sleep(COALESCE + Duration::from_millis(1)).await;
    }
    let alive = made.iter().filter(|resource| resource.strong_count() > 0).count();
    assert!(alive <= 2, "{alive} states are kept for it");
    // The first state is on its way. What follows is the newest, not what was missed.
    stream.next_taken().await;
    let newest = stream.next().await;
    assert_eq!(
        newest.resources[0].version,
        set(99, &[(Kind::Cluster, "a", "99")]).of(Kind::Cluster).by_name()["a"].version.as_ref()
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_closed() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let fleet = fleet(&place);
    let stream = Stream::open(&place, &fleet);
    stream.ask(Kind::Cluster, &[]).await;
    let began = Instant::now();
    stream.served.await.unwrap();
    // A second more for a last word.
    assert!(began.elapsed() >= STALL && began.elapsed() <= STALL + Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(place.denials.lock()[0].cause, DenialCause::Stalled);
    assert_eq!(proxy(&fleet).state, ProxyState::Disconnected);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_is_closed() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let mut stream = Stream::open(&place, &fleet(&place));
    stream.ask(Kind::Cluster, &[]).await;
    let began = Instant::now();
    stream.next().await;
    let status = stream.end().await.expect("a reason");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(began.elapsed() >= ANSWER_WAIT && began.elapsed() < ANSWER_WAIT + Duration::from_secs(1));
    assert_eq!(place.denials.lock()[0].cause, DenialCause::Stalled);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_request_is_closed() {
    let place = Place::with(&[]);
    let stream = Stream::open(&place, &fleet(&place));
    let began = Instant::now();
    // Kept open by the sender.
    let requests = stream.requests.clone();
    assert_eq!(stream.end().await.expect("a reason").code(), Code::DeadlineExceeded);
    assert_eq!(began.elapsed().as_secs(), FIRST_REQUEST.as_secs());
    drop(requests);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_of_age() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let mut stream = Stream::open(&place, &fleet(&place));
    stream.ask(Kind::Cluster, &[]).await;
    let began = Instant::now();
    stream.next_taken().await;
    let requests = stream.requests.clone();
    assert!(stream.end().await.is_none(), "without an error");
    let age = began.elapsed();
    assert!(age >= STREAM_AGE * 9 / 10 && age <= STREAM_AGE * 11 / 10, "{age:?}");
    assert!(place.denials.lock().is_empty());
    drop(requests);
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_is_not_registered_gets_nothing() {
    let place = Place::with(&[]);
    *place.set.lock() = None;
    let stream = Stream::open(&place, &fleet(&place));
    stream.ask(Kind::Cluster, &[]).await;
    let status = stream.end().await.expect("a reason");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "workload shop/cart-1 is not registered with identity without identity");
    assert_eq!(place.denials.lock()[0].cause, DenialCause::NotRegistered);
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_is_not_registered_any_more_is_closed() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let mut stream = Stream::open(&place, &fleet(&place));
    stream.ask(Kind::Cluster, &[]).await;
    stream.next_taken().await;
    *place.set.lock() = None;
    place.changes.send_modify(|change| change.others += 1);
    assert_eq!(stream.end().await.expect("a reason").code(), Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_closes_the_stream_and_is_recorded() {
    let errors = [
        (Status::internal("failed to decode Protobuf message"), Code::InvalidArgument, DenialCause::Malformed),
        (Status::out_of_range("decoded message length too large"), Code::ResourceExhausted, DenialCause::TooLarge),
    ];
    for (error, code, cause) in errors {
        let place = Place::with(&[(Kind::Cluster, "a", "0")]);
        let mut stream = Stream::open(&place, &fleet(&place));
        stream.ask(Kind::Cluster, &[]).await;
        stream.next_taken().await;
        stream.requests.send(Err(error)).await.unwrap();
        assert_eq!(stream.end().await.expect("a reason").code(), code);
        assert_eq!(place.denials.lock()[0].cause, cause);
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_not_served_are_passed_over() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let mut stream = Stream::open(&place, &fleet(&place));
    let other = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    stream.requests.send(Ok(other)).await.unwrap();
    stream.ask(Kind::Cluster, &[]).await;
    assert_eq!(names(&stream.next().await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_workload_has_only_so_many_streams() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let fleet = fleet(&place);
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS_PER_WORKLOAD {
        let mut stream = Stream::open(&place, &fleet);
        stream.ask(Kind::Cluster, &[]).await;
        stream.next_taken().await;
        streams.push(stream);
    }
    let one_more = Stream::open(&place, &fleet);
    one_more.ask(Kind::Cluster, &[]).await;
    assert_eq!(one_more.end().await.expect("a reason").code(), Code::ResourceExhausted);
    assert_eq!(place.denials.lock()[0].cause, DenialCause::TooMany);
    assert_eq!(fleet.connected(), MAX_STREAMS_PER_WORKLOAD);
    let first = streams.remove(0);
    drop(first.requests);
    first.served.await.unwrap();
    let mut again = Stream::open(&place, &fleet);
    again.ask(Kind::Cluster, &[]).await;
    again.next_taken().await;
}

#[tokio::test(start_paused = true)]
async fn the_fleet_knows_where_each_proxy_stands() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let fleet = fleet(&place);
    let mut stream = Stream::open(&place, &fleet);
    stream.ask(Kind::Cluster, &[]).await;
    let response = stream.next().await;
    let row = proxy(&fleet);
    assert_eq!((row.workload.as_str(), row.node.as_str(), row.form), ("shop/cart-1", "n1", Form::Outrigger));
    assert_eq!((row.state, row.generation, row.accepted_generation), (ProxyState::Sent, 1, None));
    stream.answer(&response, None).await;
    assert!(fleet.await_synced(1, Duration::from_secs(1)).await.is_complete());
    assert_eq!(proxy(&fleet).accepted_generation, Some(1));

    place.set(2, &[(Kind::Cluster, "a", "bad")]);
    let response = stream.next().await;
    stream.answer(&response, Some("no such thing")).await;
    let outcome = fleet.await_synced(2, Duration::from_secs(60)).await;
    assert_eq!((outcome.synced, outcome.refused.len(), outcome.waiting.len()), (0, 1, 0));
    let row = proxy(&fleet);
    assert_eq!((row.state, row.generation, row.accepted_generation), (ProxyState::Refused, 2, Some(1)));
    let refused = Refused { resource: String::new(), field: String::new(), reason: "no such thing".to_owned() };
    assert_eq!(row.kinds[0].refusals, std::slice::from_ref(&refused));
    assert_eq!(row.kinds[0].refused_version, row.kinds[0].sent_version);
    assert_ne!(row.kinds[0].accepted_version, row.kinds[0].sent_version);
    let workload = WorkloadKey::parse("shop/cart-1").unwrap();
    assert_eq!(fleet.status_of(&workload)[0].kinds[0].names, ["a"]);
    {
        let answers = place.answers.lock();
        let outcomes: HashMap<u64, &[Refused]> =
            answers.iter().map(|answer| (answer.generation, answer.refusals.as_slice())).collect();
        assert_eq!(outcomes, HashMap::from([(1, &[][..]), (2, &[refused][..])]));
    }

    drop(stream.requests);
    stream.served.await.unwrap();
    assert_eq!((proxy(&fleet).state, fleet.connected()), (ProxyState::Disconnected, 0));
    // The same proxy takes the place of the one that was gone.
    let mut stream = Stream::open(&place, &fleet);
    stream.ask(Kind::Cluster, &[]).await;
    stream.next().await;
    assert_eq!(proxy(&fleet).state, ProxyState::Sent);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_generation_has_an_end() {
    let place = Place::with(&[(Kind::Cluster, "a", "0")]);
    let fleet = fleet(&place);
    let mut stream = Stream::open(&place, &fleet);
    stream.ask(Kind::Cluster, &[]).await;
    stream.next().await;
    let began = Instant::now();
    let outcome = fleet.await_synced(1, Duration::from_secs(3)).await;
    assert_eq!((outcome.waiting.len(), began.elapsed().as_secs()), (1, 3));
    assert!(!outcome.is_complete());
}

#[test]
fn texts_of_a_proxy_are_cut_and_made_harmless() {
    assert_eq!(clip("a\u{1b}[31m\nb".to_owned()), "a [31m b");
    let long = clip("ä".repeat(5000));
    assert_eq!(long.len(), 1024);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_streams_at_once() {
    let place = Place::with(&[(Kind::Cluster, "a", "1")]);
    let fleet = Fleet::new(place.clone());
    let (stop, stopped) = watch::channel(false);
    let ads = Ads::new(Arc::clone(&place) as Arc<dyn Source>, fleet.clone()).until(stopped);
    let mut stream = Stream::of(ads);
    stream.ask(Kind::Cluster, &[]).await;
    stream.next_taken().await;
    let before = Instant::now();
    stop.send(true).unwrap();
    let status = stream.end().await.expect("it says why");
    assert_eq!((status.code(), Instant::now()), (Code::Unavailable, before));
    assert!(place.denials.lock().is_empty(), "nobody has done anything wrong");
}

#[tokio::test(start_paused = true)]
async fn a_generation_of_endpoints_alone_is_reached_without_gathering() {
    let place = Place::with(&[(Kind::Cluster, "a", "1"), (Kind::Endpoints, "a", "1")]);
    let fleet = Fleet::new(place.clone());
    let mut stream = Stream::open(&place, &fleet);
    stream.ask(Kind::Cluster, &[]).await;
    stream.next_taken().await;
    stream.ask(Kind::Endpoints, &["a"]).await;
    stream.next_taken().await;
    let before = Instant::now();
    place.set_endpoints(2, &[(Kind::Cluster, "a", "1"), (Kind::Endpoints, "a", "2")]);
    assert_eq!(names(&stream.next_taken().await), ["a"]);
    assert!(fleet.await_synced(2, Duration::from_secs(5)).await.is_complete());
    assert!(before.elapsed() < COALESCE, "{:?}", before.elapsed());
}
