//! The kinds of manifests, and how objects are named.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A kind of manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` `Service`.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `gateway.networking.k8s.io/v1` `HTTPRoute`, attached to Services.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` `GRPCRoute`, attached to Services.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1alpha2` `TCPRoute`, attached to Services.
    TcpRoute,
    /// `gateway.networking.k8s.io/v1` `TLSRoute`, attached to Services.
    TlsRoute,
    /// `gateway.networking.k8s.io/v1beta1` `ReferenceGrant`.
    ReferenceGrant,
    /// `gateway.networking.k8s.io/v1` `BackendTLSPolicy`.
    BackendTlsPolicy,
    /// `outrigger.dev/v1` `Workload`: the registration of one proxy.
    Workload,
    /// `outrigger.dev/v1` `MeshPolicy`: defaults and mutual TLS of the mesh, a namespace or workloads.
    MeshPolicy,
    /// `outrigger.dev/v1` `TrafficPolicy`: how one Service is called.
    TrafficPolicy,
    /// `outrigger.dev/v1` `AuthorizationPolicy`: who may do what.
    AuthorizationPolicy,
    /// `outrigger.dev/v1` `JwtPolicy`: tokens.
    JwtPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Service,
        Self::EndpointSlice,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::Workload,
        Self::MeshPolicy,
        Self::TrafficPolicy,
        Self::AuthorizationPolicy,
        Self::JwtPolicy,
    ];

    /// Whether what an object of this kind is for is refused while it cannot be read: without it more would be allowed, or
    /// less protected.
    #[must_use]
    pub fn refuses_unread(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::JwtPolicy | Self::MeshPolicy | Self::BackendTlsPolicy)
    }

    /// As it is written in `kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::Workload => "Workload",
            Self::MeshPolicy => "MeshPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::JwtPolicy => "JwtPolicy",
        }
    }

    /// The kind of a `kind`.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// What may stand in `apiVersion`; the first is the one to write.
    #[must_use]
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["v1"],
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
            Self::HttpRoute => &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"],
            Self::GrpcRoute => &["gateway.networking.k8s.io/v1"],
            Self::TcpRoute => &["gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1"],
            Self::TlsRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1alpha3",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            Self::ReferenceGrant => &["gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"],
            Self::BackendTlsPolicy => &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3"],
            Self::Workload | Self::MeshPolicy | Self::TrafficPolicy | Self::AuthorizationPolicy | Self::JwtPolicy => {
                &["outrigger.dev/v1"]
            }
        }
    }

    /// Whether it is a route that hands on connections of ports of TCP; the other routes are for requests.
    #[must_use]
    pub fn is_of_bytes(self) -> bool {
        matches!(self, Self::TcpRoute | Self::TlsRoute)
    }

    /// The group of its `apiVersion`; empty for the core kinds.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.api_versions()[0].split_once('/').map_or("", |(group, _)| group)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A name within a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Name {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Name {
    /// A name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    #[serde(flatten)]
    pub name: Name,
}

impl ObjectId {
    /// An object.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, name: Name::new(namespace, name) }
    }

    /// The namespace: the team that it belongs to.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.name.namespace
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}
