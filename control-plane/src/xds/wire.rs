//! The messages of the two protocols, read into requests and written from responses.

use outrigger_xds::control::Refusals;
use outrigger_xds::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use outrigger_xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as Versioned,
};
use outrigger_xds::google::protobuf::Any;
use outrigger_xds::google::rpc::Status as Detail;
use outrigger_xds::{Kind, Resource};
use prost::Message as _;

use super::limits::{MAX_REFUSALS, MAX_TEXT_BYTES};
use super::session::{Nack, Names, Push, Request};
use crate::fleet::{Form, Protocol, Refused};

/// One of the two protocols.
pub(super) trait Wire: Send + 'static {
    const PROTOCOL: Protocol;
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn node(request: &Self::Request) -> Option<&Node>;

    /// None: of a kind that is not served.
    fn read(request: Self::Request) -> Option<Request>;

    fn write(push: Push) -> Self::Response;
}

/// Only what changed.
pub(super) struct Delta;

impl Wire for Delta {
    const PROTOCOL: Protocol = Protocol::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn read(request: Self::Request) -> Option<Request> {
        let kind = Kind::from_type_url(&request.type_url)?;
        Some(Request {
            kind,
            nonce: request.response_nonce,
            nack: request.error_detail.map(|detail| nack(kind, detail)),
            names: Names::Delta {
                subscribe: request.resource_names_subscribe,
                unsubscribe: request.resource_names_unsubscribe,
                known: request.initial_resource_versions,
            },
        })
    }

    fn write(push: Push) -> Self::Response {
        let resources = push.resources.iter().map(|resource| Versioned {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(any(resource)),
            ..Versioned::default()
        });
        DeltaDiscoveryResponse {
            system_version_info: push.version.to_string(),
            resources: resources.collect(),
            type_url: push.kind.type_url().to_owned(),
            removed_resources: push.removed.iter().map(ToString::to_string).collect(),
            nonce: push.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

/// State of the world.
pub(super) struct World;

impl Wire for World {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn read(request: Self::Request) -> Option<Request> {
        let kind = Kind::from_type_url(&request.type_url)?;
        Some(Request {
            kind,
            nonce: request.response_nonce,
            nack: request.error_detail.map(|detail| nack(kind, detail)),
            names: Names::World { names: request.resource_names },
        })
    }

    fn write(push: Push) -> Self::Response {
        DiscoveryResponse {
            version_info: push.version.to_string(),
            resources: push.resources.iter().map(|resource| any(resource)).collect(),
            type_url: push.kind.type_url().to_owned(),
            nonce: push.nonce.to_string(),
            ..DiscoveryResponse::default()
        }
    }
}

/// The program that a node says it is, and its version.
pub(super) fn user_agent(node: &Node) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(version) => format!("{}.{}.{}", version.major_number, version.minor_number, version.patch),
            None => String::new(),
        },
        None => String::new(),
    };
    let name = node.user_agent_name.as_str();
    clip(if version.is_empty() { name.to_owned() } else { format!("{name} {version}") })
}

/// What the program of a `user_agent_name` reads. Whoever is not known is taken for an Envoy.
pub(super) fn form_of(user_agent_name: &str) -> Form {
    if user_agent_name.starts_with("outrigger") {
        Form::Outrigger
    } else if user_agent_name.starts_with("gRPC") || user_agent_name.starts_with("grpc") {
        Form::Grpc
    } else {
        Form::Envoy
    }
}

/// A text of a proxy's, short and without control characters.
pub(super) fn clip(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    }
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

fn any(resource: &Resource) -> Any {
    Any { type_url: resource.kind.type_url().to_owned(), value: resource.body.to_vec() }
}

/// What was refused: as an Outrigger proxy says it, field by field, or else in the sentence that everybody says.
fn nack(kind: Kind, detail: Detail) -> Nack {
    const REFUSALS: &str = "type.googleapis.com/outrigger.control.v1.Refusals";
    let parsed = detail.details.iter().filter(|any| any.type_url == REFUSALS);
    let parsed = parsed.filter_map(|any| Refusals::decode(&*any.value).ok()).flat_map(|all| all.refusals);
    let of_kind = parsed.filter(|refusal| refusal.type_url.is_empty() || refusal.type_url == kind.type_url());
    let mut refusals: Vec<Refused> = of_kind
        .take(MAX_REFUSALS)
        .map(|refusal| Refused {
            resource: clip(refusal.name),
            field: clip(refusal.field),
            reason: clip(refusal.reason),
        })
        .collect();
    if refusals.is_empty() {
        refusals.push(Refused { resource: String::new(), field: String::new(), reason: clip(detail.message) });
    }
    Nack { refusals }
}
