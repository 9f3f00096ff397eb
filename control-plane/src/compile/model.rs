//! What one proxy gets as one configuration: for checks, for `explain`, and for whoever wants to look at it.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_config::model::{AccessLog, Admin, Config, Drain, Identity, Node, Overload};

use super::ProxyConfig;

impl ProxyConfig {
    /// The whole of it. Settings of the process are their defaults: they are the proxy's own. `identity` is where the
    /// proxy has its certificate, if that matters to the caller.
    #[must_use]
    pub fn config(&self, identity: Option<Identity>) -> Config {
        let Self { workload, identity: _, zone, listeners, routes, clusters, endpoints } = self;
        let mut clusters: BTreeMap<_, _> =
            clusters.iter().map(|part| (part.value.name.clone(), part.value.clone())).collect();
        for part in endpoints {
            if let Some(cluster) = clusters.get_mut(&part.value.cluster) {
                cluster.endpoints.clone_from(&part.value.endpoints);
            }
        }
        let mut authorization = BTreeMap::new();
        let mut jwt_providers = BTreeMap::new();
        let mut rate_limit_services = BTreeMap::new();
        for part in listeners {
            authorization.extend(part.value.authorization.iter().map(|(name, policy)| (name.clone(), policy.clone())));
            jwt_providers
                .extend(part.value.jwt_providers.iter().map(|(name, provider)| (name.clone(), provider.clone())));
            rate_limit_services
                .extend(part.value.rate_limit_services.iter().map(|(name, service)| (name.clone(), service.clone())));
        }
        let service = Some(workload.name.clone());
        Config {
            rate_limit_services,
            overload: Overload::default(),
            node: Node { id: workload.to_string().into(), service, zone: zone.clone() },
            admin: Admin { address: None },
            access_log: AccessLog::Stdout,
            workers: None,
            drain: Drain { accept_for: Duration::from_secs(5), deadline: Duration::from_secs(30) },
            listeners: listeners.iter().map(|part| part.value.listener.clone()).collect(),
            routes: routes.iter().map(|part| (part.value.name.clone(), part.value.clone())).collect(),
            clusters,
            identity,
            authorization,
            jwt_providers,
            external_authorizers: BTreeMap::new(),
        }
    }
}
