//! Resources as they travel: named, versioned by their content, encoded once and shared by all who get them.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The kinds of resources, in the order in which they are sent: what is referred to comes before what refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
}

impl Kind {
    /// Every kind, in the order in which they are sent.
    pub const ALL: [Self; 5] = [Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type URL.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind of a type URL.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// One encoded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// A hash of its content: equal for equal contents.
    pub version: Arc<str>,
    /// The message, encoded.
    pub body: Bytes,
}

impl Resource {
    /// A resource, versioned by its content.
    #[must_use]
    pub fn new(kind: Kind, name: Arc<str>, message: &impl prost::Message) -> Self {
        Self::encoded(kind, name, Bytes::from(message.encode_to_vec()))
    }

    /// A resource whose message is encoded already.
    #[must_use]
    pub fn encoded(kind: Kind, name: Arc<str>, body: Bytes) -> Self {
        let version = Sha256::digest(&body).iter().take(8).fold(String::with_capacity(16), |mut out, byte| {
            // Writing to a string cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        });
        Self { kind, name, version: version.into(), body }
    }
}
