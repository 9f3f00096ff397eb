//! Envoy's messages by short names, one place for all that is spoken.

pub(crate) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(crate) use envoy_types::pb::envoy::config::core::v3 as core;
pub(crate) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(crate) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(crate) use envoy_types::pb::envoy::config::rbac::v3 as rbac;
pub(crate) use envoy_types::pb::envoy::config::route::v3 as route;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as http_cors;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3 as ext_authz;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt_authn;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3 as original_dst;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(crate) use envoy_types::pb::envoy::extensions::filters::udp::udp_proxy::v3 as udp_proxy;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as upstream_proxy_protocol;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::quic::v3 as quic;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use envoy_types::pb::envoy::r#type::v3 as kind;
pub(crate) use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, Empty, UInt32Value, Value, value};

/// The key of labels in metadata.
pub(crate) const SUBSETS: &str = "envoy.lb";
/// The key of our own messages in metadata.
pub(crate) const OWN: &str = "outrigger.dev";
/// The secret that is the proxy's own certificate.
pub(crate) const SVID: &str = "default";
/// The secret that is the bundle of the mesh.
pub(crate) const ROOTS: &str = "ROOTCA";
/// The filter names that routes refer to.
pub(crate) const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
pub(crate) const CORS: &str = "envoy.filters.http.cors";
/// The key of the HTTP options of a cluster.
pub(crate) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Permissions of RBAC, made short.
pub(crate) mod permission_types {
    use super::rbac;

    pub(crate) fn permission(rule: rbac::permission::Rule) -> rbac::Permission {
        rbac::Permission { rule: Some(rule) }
    }

    pub(crate) fn and_rules(rules: Vec<rbac::Permission>) -> rbac::Permission {
        permission(rbac::permission::Rule::AndRules(rbac::permission::Set { rules }))
    }

    pub(crate) fn or_rules(rules: Vec<rbac::Permission>) -> rbac::Permission {
        permission(rbac::permission::Rule::OrRules(rbac::permission::Set { rules }))
    }

    pub(crate) fn not_rule(rule: rbac::Permission) -> rbac::Permission {
        permission(rbac::permission::Rule::NotRule(Box::new(rule)))
    }
}

/// Principals of RBAC, made short.
pub(crate) mod principal_types {
    use super::rbac;

    pub(crate) fn principal(identifier: rbac::principal::Identifier) -> rbac::Principal {
        rbac::Principal { identifier: Some(identifier) }
    }

    pub(crate) fn and_ids(ids: Vec<rbac::Principal>) -> rbac::Principal {
        principal(rbac::principal::Identifier::AndIds(rbac::principal::Set { ids }))
    }

    pub(crate) fn or_ids(ids: Vec<rbac::Principal>) -> rbac::Principal {
        principal(rbac::principal::Identifier::OrIds(rbac::principal::Set { ids }))
    }

    pub(crate) fn not_id(id: rbac::Principal) -> rbac::Principal {
        principal(rbac::principal::Identifier::NotId(Box::new(id)))
    }
}
