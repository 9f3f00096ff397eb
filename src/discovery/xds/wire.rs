//! Requests and responses as messages of xDS v3.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::model;
use outrigger_xds::Kind;
use outrigger_xds::control::{Refusal as NamedRefusal, Refusals};
use outrigger_xds::envoy::config::core::v3::{BuildVersion, Locality, Node, node::UserAgentVersionType};
use outrigger_xds::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use outrigger_xds::envoy::r#type::v3::SemanticVersion;
use outrigger_xds::google::protobuf::Any;
use outrigger_xds::google::rpc::Status;
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::session::{Incoming, Refusal, Request, Response};

/// Who we are, for the first message of a stream.
pub(crate) fn node(node: &model::Node) -> Node {
    let model::Node { id, service, zone } = node;
    let mut numbers = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let mut number = || numbers.next().unwrap_or_default();
    let version = SemanticVersion { major_number: number(), minor_number: number(), patch: number() };
    Node {
        id: id.to_string(),
        cluster: service.as_deref().unwrap_or_default().to_owned(),
        locality: zone.as_ref().map(|zone| Locality { zone: zone.to_string(), ..Locality::default() }),
        user_agent_name: "outrigger".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(version),
            metadata: None,
        })),
        // Endpoints may be known to the server that are going down: nothing of ours would be done with them.
        client_features: vec!["envoy.lb.does_not_support_overprovisioning".to_owned()],
        ..Node::default()
    }
}

/// A request that asks for changes only. `node` is given with the first of a stream.
pub(crate) fn delta_request(request: Request, node: Option<&Node>) -> DeltaDiscoveryRequest {
    let Request { kind, subscribe, unsubscribe, known, names: _, version: _, nonce, refusals } = request;
    let text = |names: Vec<Arc<str>>| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        node: node.cloned(),
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: text(subscribe),
        resource_names_unsubscribe: text(unsubscribe),
        initial_resource_versions: known.iter().map(|(name, at)| (name.to_string(), at.to_string())).collect(),
        response_nonce: nonce,
        error_detail: status(&refusals),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A request that asks for everything.
pub(crate) fn whole_request(request: Request, node: Option<&Node>) -> DiscoveryRequest {
    let Request { kind, subscribe: _, unsubscribe: _, known: _, names, version, nonce, refusals } = request;
    DiscoveryRequest {
        version_info: version,
        node: node.cloned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: kind.type_url().to_owned(),
        response_nonce: nonce,
        error_detail: status(&refusals),
        ..DiscoveryRequest::default()
    }
}

/// A response with changes. `Err`: a kind that was never asked for.
pub(crate) fn delta_response(response: DeltaDiscoveryResponse) -> Result<Response, String> {
    let DeltaDiscoveryResponse { system_version_info, resources, type_url, removed_resources, nonce, .. } = response;
    let kind = Kind::from_type_url(&type_url).ok_or(type_url)?;
    let mut out = Response {
        kind,
        version: system_version_info,
        nonce,
        resources: Vec::with_capacity(resources.len()),
        removed: removed_resources.into_iter().map(Into::into).collect(),
        unreadable: Vec::new(),
    };
    for resource in resources {
        out.take(resource);
    }
    Ok(out)
}

/// A response with everything. `Err`: a kind that was never asked for.
pub(crate) fn whole_response(response: DiscoveryResponse) -> Result<Response, String> {
    let DiscoveryResponse { version_info, resources, type_url, nonce, .. } = response;
    let kind = Kind::from_type_url(&type_url).ok_or(type_url)?;
    let mut out = Response {
        kind,
        version: version_info,
        nonce,
        resources: Vec::with_capacity(resources.len()),
        removed: Vec::new(),
        unreadable: Vec::new(),
    };
    for any in resources {
        // Either the resource, or a wrapper that names it.
        if any.type_url == WRAPPER {
            match Resource::decode(&*any.value) {
                Ok(resource) => out.take(resource),
                Err(_) => out.refuse("", "the wrapper around a resource is malformed"),
            }
        } else {
            out.take(Resource { resource: Some(any), ..Resource::default() });
        }
    }
    Ok(out)
}

const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

impl Response {
    fn take(&mut self, wrapped: Resource) {
        let Resource { name, aliases: _, version, resource, .. } = wrapped;
        let Some(Any { type_url, value }) = resource else {
            return self.refuse(&name, "it is empty");
        };
        if type_url != self.kind.type_url() {
            return self.refuse(&name, &format!("it is a `{type_url}`, and `{}` was asked for", self.kind.type_url()));
        }
        let Ok(Named { name: own }) = Named::decode(&*value) else {
            return self.refuse(&name, "it is malformed");
        };
        if own.is_empty() {
            return self.refuse(&name, "it has no name");
        }
        if !name.is_empty() && name != own {
            return self.refuse(&name, &format!("it calls itself `{own}`"));
        }
        let version = if version.is_empty() { digest(&value) } else { version.into() };
        self.resources.push(Incoming { name: own.into(), version, body: Bytes::from(value) });
    }

    fn refuse(&mut self, name: &str, reason: &str) {
        let (kind, name, reason) = (self.kind, name.into(), reason.to_owned());
        self.unreadable.push(Refusal { kind, name, field: String::new(), reason });
    }
}

/// What every resource begins with.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fn digest(bytes: &[u8]) -> Arc<str> {
    let hex = Sha256::digest(bytes).iter().take(8).fold(String::with_capacity(16), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    });
    hex.into()
}

/// What is refused, for people and for programs. Long lists end with how many more there are.
fn status(refusals: &[Refusal]) -> Option<Status> {
    let (first, rest) = refusals.split_first()?;
    let mut message = first.to_string();
    for refusal in rest.iter().take(TOLD - 1) {
        // Writing to a string cannot fail.
        let _ = write!(message, "; {refusal}");
    }
    if refusals.len() > TOLD {
        let _ = write!(message, "; and {} more", refusals.len() - TOLD);
    }
    let named = refusals.iter().take(TOLD).map(|refusal| {
        let Refusal { kind, name, field, reason } = refusal;
        let (type_url, name) = (kind.type_url().to_owned(), name.to_string());
        NamedRefusal { type_url, name, field: field.clone(), reason: reason.clone() }
    });
    let detail = Any {
        type_url: "type.googleapis.com/outrigger.control.v1.Refusals".to_owned(),
        value: Refusals { refusals: named.collect() }.encode_to_vec(),
    };
    Some(Status { code: INVALID_ARGUMENT, message, details: vec![detail] })
}

/// Refusals that are told of one response.
const TOLD: usize = 100;
const INVALID_ARGUMENT: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_xds::envoy::config::cluster::v3::Cluster;
    use outrigger_xds::envoy::config::listener::v3::Listener;

    fn any(kind: Kind, message: &impl Message) -> Any {
        Any { type_url: kind.type_url().to_owned(), value: message.encode_to_vec() }
    }

    fn cluster(name: &str) -> Any {
        any(Kind::Cluster, &Cluster { name: name.to_owned(), ..Cluster::default() })
    }

    #[test]
    fn a_resource_of_the_state_of_the_world_is_named_by_itself_and_versioned_by_its_content() {
        let wrapped = Resource { name: "b".to_owned(), resource: Some(cluster("b")), ..Resource::default() };
        let wrapped = Any { type_url: WRAPPER.to_owned(), value: wrapped.encode_to_vec() };
        let response = DiscoveryResponse {
            type_url: Kind::Cluster.type_url().to_owned(),
            resources: vec![cluster("a"), wrapped, cluster("a")],
            ..DiscoveryResponse::default()
        };
        let response = whole_response(response).expect("a kind of ours");
        let names: Vec<&str> = response.resources.iter().map(|resource| &*resource.name).collect();
        assert_eq!(names, ["a", "b", "a"]);
        assert_eq!(response.resources[0].version, response.resources[2].version);
        assert_ne!(response.resources[0].version, response.resources[1].version);
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name_and_the_rest_is_read() {
        let resource = |name: &str, any| Resource {
            name: name.to_owned(),
            version: "1".to_owned(),
            resource: any,
            ..Resource::default()
        };
        let listener = Listener { name: "l".to_owned(), ..Listener::default() };
        let damaged = Any { type_url: Kind::Cluster.type_url().to_owned(), value: vec![0x0a, 0xff] };
        let response = DeltaDiscoveryResponse {
            type_url: Kind::Cluster.type_url().to_owned(),
            resources: vec![
                resource("good", Some(cluster("good"))),
                resource("empty", None),
                resource("l", Some(any(Kind::Listener, &listener))),
                resource("damaged", Some(damaged)),
                resource("x", Some(cluster("y"))),
                resource("", Some(cluster(""))),
            ],
            ..DeltaDiscoveryResponse::default()
        };
        let response = delta_response(response).expect("a kind of ours");
        assert_eq!(response.resources.len(), 1);
        let refused: Vec<&str> = response.unreadable.iter().map(|refusal| &*refusal.name).collect();
        assert_eq!(refused, ["empty", "l", "damaged", "x", ""]);
        let unknown = DeltaDiscoveryResponse { type_url: "x".to_owned(), ..DeltaDiscoveryResponse::default() };
        assert!(delta_response(unknown).is_err());
    }

    #[test]
    fn refusals_are_told_in_words_and_as_messages() {
        let refusal = |n: usize| Refusal {
            kind: Kind::Route,
            name: format!("r{n}").into(),
            field: "virtual_hosts[0]".to_owned(),
            reason: "no".to_owned(),
        };
        let status = status(&(0..TOLD + 2).map(refusal).collect::<Vec<_>>()).expect("something was refused");
        assert!(status.message.starts_with("RouteConfiguration `r0`, virtual_hosts[0]: no; "), "{}", status.message);
        assert!(status.message.ends_with("; and 2 more"), "{}", status.message);
        let named = Refusals::decode(&*status.details[0].value).expect("our message");
        assert_eq!((named.refusals.len(), &*named.refusals[1].name), (TOLD, "r1"));
        assert_eq!(super::status(&[]), None);
    }
}
