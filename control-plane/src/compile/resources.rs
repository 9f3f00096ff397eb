//! Parts to encoded resources: each at most once for each form, whoever gets it.

use std::sync::Arc;

use outrigger_config::model::HostPattern;
use outrigger_xds::Resource;
use outrigger_xds::encode::{self, Form, Policies, left_out};

use super::ProxyConfig;

impl ProxyConfig {
    /// What a proxy that reads this form is not told.
    #[must_use]
    pub fn left_out(&self, form: Form) -> Vec<String> {
        let listeners = self.listeners.iter().flat_map(|part| left_out::of_listener(&part.value.listener, form));
        let routes = self.routes.iter().flat_map(|part| left_out::of_routes(&part.value, form));
        let clusters = self.clusters.iter().flat_map(|part| left_out::of_cluster(&part.value, form));
        listeners.chain(routes).chain(clusters).collect()
    }

    /// Everything that the proxy gets but its secrets, in the form that it reads. What is the same as another proxy's is
    /// the same `Arc`. Two may have one name where they are equal.
    #[must_use]
    pub fn resources(&self, form: Form) -> Vec<Arc<Resource>> {
        let Self { workload: _, identity: _, zone: _, listeners, routes, clusters, endpoints } = self;
        let mut out = Vec::with_capacity(listeners.len() + routes.len() + clusters.len() + endpoints.len());
        for part in clusters {
            out.extend_from_slice(part.encoded(form, |cluster| vec![encode::cluster(cluster, form)]));
        }
        for part in endpoints {
            out.extend_from_slice(
                part.encoded(form, |list| vec![encode::endpoints(&list.cluster, &list.endpoints, form)]),
            );
        }
        for part in listeners {
            out.extend_from_slice(part.encoded(form, |part| {
                let policies = Policies {
                    rate_limit_services: &part.rate_limit_services,
                    authorization: &part.authorization,
                    jwt_providers: &part.jwt_providers,
                    external_authorizers: &std::collections::BTreeMap::new(),
                };
                let listener = || encode::listener(&part.listener, &policies, form);
                match form {
                    // It has no listeners of its own: see below.
                    Form::Grpc => Vec::new(),
                    Form::Outrigger => vec![listener()],
                    // Envoy fetches keys through a cluster.
                    Form::Envoy => {
                        let keys = part.jwt_providers.values().filter_map(encode::keys_cluster);
                        keys.chain([listener()]).collect()
                    }
                }
            }));
        }
        for part in routes {
            out.extend_from_slice(part.encoded(form, |table| match form {
                Form::Outrigger | Form::Envoy => vec![encode::routes(table, form)],
                // A client asks for a listener by the name that it calls.
                Form::Grpc => {
                    let names = table.hosts.iter().flat_map(|host| host.hostnames.iter().map(move |name| (name, host)));
                    let exact = names.filter_map(|(name, host)| match name {
                        HostPattern::Exact(name) => Some((name, host)),
                        HostPattern::Any | HostPattern::Wildcard(_) => None,
                    });
                    exact.map(|(name, host)| encode::client_listener(name, host)).collect()
                }
            }));
        }
        out
    }
}
