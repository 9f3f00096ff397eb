//! The model as Envoy v3 resources.
//!
//! What Envoy can say is said in its own fields, so that a stock Envoy obeys it; the rest is in [`crate::extensions`], for
//! our own proxies only. The same input gives the same bytes: maps are written in the order of their keys.

pub(crate) mod access;
mod cluster;
mod endpoint;
mod fitness;
mod filters;
mod grpc;
pub mod left_out;
mod listener;
pub(crate) mod matching;
mod merged;
mod opaque;
mod resilience;
pub(crate) mod route;
mod tls;
pub(crate) mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_config::model::{self, Authorization, Config, ExternalAuthorizer, JwtProvider, RateLimitService};

pub use cluster::{cluster, discovers_endpoints, keys_cluster};
pub use endpoint::endpoints;
pub use grpc::client_listener;
pub use listener::listener;
pub use route::routes;

use crate::pb::{self, core};
use crate::{Kind, Resource};

/// Who reads what is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Our own proxy: with what Envoy cannot say.
    Outrigger,
    /// A stock Envoy.
    Envoy,
    /// A proxyless gRPC client (gRFC A27, A28, A42).
    Grpc,
}

/// What listeners refer to by name: it travels inside them.
#[derive(Debug, Clone, Copy)]
pub struct Policies<'a> {
    /// Authorization policies.
    pub authorization: &'a BTreeMap<Arc<str>, Authorization>,
    /// Token providers.
    pub jwt_providers: &'a BTreeMap<Arc<str>, JwtProvider>,
    /// Authorizers outside.
    pub external_authorizers: &'a BTreeMap<Arc<str>, ExternalAuthorizer>,
    /// Rate limit services.
    pub rate_limit_services: &'a BTreeMap<Arc<str>, RateLimitService>,
}

impl<'a> Policies<'a> {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &'a Config) -> Self {
        Self {
            authorization: &config.authorization,
            jwt_providers: &config.jwt_providers,
            external_authorizers: &config.external_authorizers,
            rate_limit_services: &config.rate_limit_services,
        }
    }
}

/// The bundle of the mesh, the secret `ROOTCA`. `pem` are its roots.
#[must_use]
pub fn trust_bundle(pem: &str) -> Resource {
    let context = pb::tls::CertificateValidationContext {
        trusted_ca: Some(core::DataSource {
            watched_directory: None,
            specifier: Some(core::data_source::Specifier::InlineString(pem.to_owned())),
        }),
        ..Default::default()
    };
    let secret =
        pb::tls::Secret { name: pb::ROOTS.to_owned(), r#type: Some(pb::tls::secret::Type::ValidationContext(context)) };
    Resource::new(Kind::Secret, pb::ROOTS.into(), &secret)
}

/// Every resource of a configuration but its secrets, in the order in which kinds are sent and, within a kind, of names.
///
/// For gRPC clients, whose listeners are named by who is called, there is one [`client_listener`] for each exact
/// hostname of the tables that outbound listeners use.
#[must_use]
pub fn config(config: &Config, form: Form) -> Vec<Resource> {
    let mut out: Vec<Resource> = config.clusters.values().map(|one| cluster(one, form)).collect();
    if form == Form::Envoy {
        out.extend(config.jwt_providers.values().filter_map(keys_cluster));
    }
    let discovered = config.clusters.values().filter(|cluster| discovers_endpoints(cluster));
    out.extend(discovered.map(|cluster| endpoints(&cluster.name, &cluster.endpoints, form)));
    if form == Form::Grpc {
        out.extend(grpc::listeners(config));
    } else {
        let mut listeners: Vec<&model::Listener> = config.listeners.iter().collect();
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        out.extend(listeners.into_iter().map(|one| listener(one, &Policies::of(config), form)));
        out.extend(config.routes.values().map(|table| routes(table, form)));
    }
    out
}
