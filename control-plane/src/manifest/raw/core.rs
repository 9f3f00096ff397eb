//! Kinds of Kubernetes itself as written. Fields that mean nothing to a mesh are taken and not read; those that would
//! change where requests go are refused by being unknown.

use outrigger_config::language::{Entries, Field, List};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Anything, ObjectMeta};

/// A Service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServiceSpec {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`: in the mesh they are the same.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["ClusterIP", "NodePort", "LoadBalancer"], "default" = "ClusterIP"))]
    pub(crate) kind: Field<String>,
    /// An address, or `None` for a headless Service. Connections to it are how ports of TCP are reached.
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Field<String>,
    /// Not read.
    #[serde(rename = "clusterIPs")]
    pub(crate) cluster_ips: Field<Anything>,
    /// Labels of the Workloads that it takes.
    pub(crate) selector: Field<Entries<String>>,
    /// Its ports, at least one.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) ports: Field<List<ServicePortSpec>>,
    /// Whether endpoints that are not ready are called as well.
    #[schemars(extend("default" = false))]
    pub(crate) publish_not_ready_addresses: Field<bool>,
    /// `None` only: requests are balanced one by one.
    #[schemars(extend("enum" = ["None"]))]
    pub(crate) session_affinity: Field<String>,
    /// `Cluster` only.
    #[schemars(extend("enum" = ["Cluster"]))]
    pub(crate) internal_traffic_policy: Field<String>,
    /// Not read.
    pub(crate) external_traffic_policy: Field<Anything>,
    /// Not read.
    pub(crate) ip_families: Field<Anything>,
    /// Not read.
    pub(crate) ip_family_policy: Field<Anything>,
    /// Not read.
    pub(crate) allocate_load_balancer_node_ports: Field<Anything>,
    /// Not read.
    pub(crate) health_check_node_port: Field<Anything>,
}

/// A port of a Service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServicePortSpec {
    /// Its name. Needed where there are several ports.
    pub(crate) name: Field<String>,
    /// Its number.
    #[schemars(extend("x-required" = true), range(min = 1, max = 65535))]
    pub(crate) port: Field<u64>,
    /// The port of Workloads, by number or name. Without it: the same number.
    #[schemars(schema_with = "port_or_name")]
    pub(crate) target_port: Field<String>,
    /// `TCP` only.
    #[schemars(extend("enum" = ["TCP"], "default" = "TCP"))]
    pub(crate) protocol: Field<String>,
    /// What is spoken: `http`, `http2`, `grpc`, `tcp`, `kubernetes.io/h2c` or `kubernetes.io/ws`.
    #[schemars(extend("enum" = ["http", "http2", "grpc", "tcp", "kubernetes.io/h2c", "kubernetes.io/ws"]))]
    pub(crate) app_protocol: Field<String>,
    /// Not read.
    pub(crate) node_port: Field<Anything>,
}

fn port_or_name(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] })
}

/// An EndpointSlice. It has no `spec`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EndpointSliceManifest {
    /// `discovery.k8s.io/v1`.
    #[schemars(extend("x-required" = true))]
    pub(crate) api_version: Field<String>,
    /// `EndpointSlice`.
    #[schemars(extend("x-required" = true))]
    pub(crate) kind: Field<String>,
    /// How the object is called. The label `kubernetes.io/service-name` names the Service.
    #[schemars(extend("x-required" = true))]
    pub(crate) metadata: Field<ObjectMeta>,
    /// What its addresses are.
    #[schemars(extend("x-required" = true, "enum" = ["IPv4", "IPv6", "FQDN"]))]
    pub(crate) address_type: Field<String>,
    /// The endpoints.
    pub(crate) endpoints: Field<List<EndpointSpec>>,
    /// Their ports.
    pub(crate) ports: Field<List<EndpointPortSpec>>,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EndpointSpec {
    /// Its addresses, of which the first is called.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) addresses: Field<List<String>>,
    /// Whether it takes requests.
    pub(crate) conditions: Field<EndpointConditions>,
    /// Its zone.
    pub(crate) zone: Field<String>,
    /// Not read.
    pub(crate) hostname: Field<Anything>,
    /// Not read.
    pub(crate) node_name: Field<Anything>,
    /// Not read.
    pub(crate) target_ref: Field<Anything>,
    /// Not read: zones of callers are preferred by the balancer, not by hints.
    pub(crate) hints: Field<Anything>,
    /// Not read.
    pub(crate) deprecated_topology: Field<Anything>,
}

/// Whether an endpoint takes requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EndpointConditions {
    /// Whether it takes requests.
    #[schemars(extend("default" = true))]
    pub(crate) ready: Field<bool>,
    /// Whether it still serves, also while it goes down.
    pub(crate) serving: Field<bool>,
    /// Whether it goes down: what still serves is drained, and gets only requests of sessions bound to it.
    pub(crate) terminating: Field<bool>,
}

/// A port of the endpoints of an EndpointSlice.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EndpointPortSpec {
    /// The name of the Service's port; empty where that has none.
    #[schemars(extend("default" = ""))]
    pub(crate) name: Field<String>,
    /// Its number.
    #[schemars(extend("x-required" = true), range(min = 1, max = 65535))]
    pub(crate) port: Field<u64>,
    /// `TCP` only.
    #[schemars(extend("enum" = ["TCP"], "default" = "TCP"))]
    pub(crate) protocol: Field<String>,
    /// Not read: the Service says it.
    pub(crate) app_protocol: Field<Anything>,
}
