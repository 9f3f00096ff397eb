//! Who and what is turned away.

use outrigger_control::fleet::{DenialCause, ResourceSet};
use outrigger_control::peer::Peer;
use outrigger_xds::Kind;
use outrigger_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::support::{Control, DeltaClient, WorldClient, memory, resource};

async fn control() -> Control {
    Control::start(memory(vec![resource(Kind::Cluster, "a", "secret text")])).await
}

#[tokio::test]
async fn a_connection_without_a_peer_or_a_workload_gets_no_stream() {
    for known in [false, true] {
        let source = memory(vec![resource(Kind::Cluster, "a", "secret text")]);
        let control = match known {
            false => Control::start_unknown(source).await,
            true => Control::start_for(source, |address| Peer { id: None, workload: None, address }).await,
        };
        let delta = DeltaClient::open(control.channel().await, "outrigger").await.err().expect("refused");
        let world = WorldClient::open(control.channel().await, "envoy").await.err().expect("refused");
        assert_eq!([delta.code(), world.code()], [Code::PermissionDenied; 2]);
        let denials = control.records.denials.lock().unwrap();
        assert_eq!(denials.len(), 2);
        assert!(denials.iter().all(|denial| denial.cause == DenialCause::NotAuthorized));
        assert!(denials.iter().all(|denial| denial.peer.is_some() == known));
    }
}

#[tokio::test]
async fn what_a_node_claims_does_not_change_whose_resources_it_gets() {
    let control = control().await;
    let others = ResourceSet::from_resources(1, [resource(Kind::Cluster, "others", "others")]);
    control.source.put([("shop/other-1".to_owned(), others)], false);
    let mut client = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    let mut claims = crate::support::node("outrigger");
    claims.id = "shop/other-1".to_owned();
    claims.cluster = "shop/other-1".to_owned();
    client.claim(claims);
    client.ask(Kind::Cluster, &["*", "others"]).await;
    assert_eq!(client.take().await, "Cluster a -others");
}

#[tokio::test]
async fn an_oversized_message_ends_the_stream_and_is_recorded() {
    let control = control().await;
    let mut client = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    client.ask(Kind::Cluster, &[]).await;
    assert_eq!(client.take().await, "Cluster a");
    let name = "x".repeat(5 << 20);
    client.ask(Kind::Route, &[&name]).await;
    assert_eq!(client.next().await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(control.records.denials.lock().unwrap()[0].cause, DenialCause::TooLarge);
    // Others are not concerned.
    let mut other = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    other.ask(Kind::Cluster, &[]).await;
    assert_eq!(other.take().await, "Cluster a");
}

#[tokio::test]
async fn too_long_a_name_ends_the_stream_and_is_recorded() {
    let control = control().await;
    let mut client = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    client.ask(Kind::Route, &[&"x".repeat(2000)]).await;
    let status = client.next().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "a resource name is 2000 bytes long; at most 1024 are taken")
    );
    assert_eq!(control.records.denials.lock().unwrap()[0].cause, DenialCause::TooMany);
}

/// Sends bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = DeltaDiscoveryResponse;
    type Encoder = Raw;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> Raw {
        Self
    }

    fn decoder(&mut self) -> RawDecoder {
        RawDecoder
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(into, &item);
        Ok(())
    }
}

struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = DeltaDiscoveryResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        prost::Message::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[tokio::test]
async fn a_message_that_is_no_protobuf_ends_the_stream_and_is_recorded() {
    let control = control().await;
    let good =
        DeltaDiscoveryRequest { type_url: Kind::Cluster.type_url().to_owned(), ..DeltaDiscoveryRequest::default() };
    let messages = vec![prost::Message::encode_to_vec(&good), vec![0xff; 64]];
    let mut grpc = tonic::client::Grpc::new(control.channel().await);
    grpc.ready().await.unwrap();
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    // The stream stays open after the second.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
    let mut responses = grpc.streaming(Request::new(requests), path.parse().unwrap(), Raw).await.unwrap().into_inner();
    let status = loop {
        match responses.message().await {
            Ok(message) => assert!(message.is_some(), "it ends with an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!status.message().contains("secret"), "{status}");
    assert_eq!(control.records.denials.lock().unwrap()[0].cause, DenialCause::Malformed);
}
