//! Rate limits: which proxy keeps which, and the services that are asked.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::model::{
    Cluster, ClusterProtocol, ClusterTlsMode, GlobalRateLimit, RateLimit, RateLimitService, Target,
};

use super::backends::{Backends, ClusterParts, PortKey};
use super::parts::{EndpointList, same_or_new};
use super::rules::bounded;
use crate::manifest::Mesh;

/// Rate limits by the address and port of the proxy that keeps them.
#[derive(Debug, Default)]
pub(super) struct Limits {
    ports: HashMap<SocketAddr, PortLimits>,
}

/// The rate limits of what is served on a port.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct PortLimits {
    pub(super) local: Vec<RateLimit>,
    /// Of services that there are.
    pub(super) global: Vec<GlobalRateLimit>,
    /// Those services.
    pub(super) services: BTreeMap<Arc<str>, RateLimitService>,
}

impl Limits {
    /// What policies say of ports of Services, where proxies of their Workloads keep it. Names of limits begin with the
    /// port, because each name is one count of a proxy.
    pub(super) fn of(backends: &Backends) -> Self {
        let mut ports: HashMap<SocketAddr, PortLimits> = HashMap::new();
        for ((service, number), port) in backends.sorted() {
            let traffic = &port.traffic;
            let local = traffic.rate_limits.iter().flat_map(|set| &set.value);
            let local: Vec<RateLimit> = local
                .map(|limit| RateLimit { name: bounded(format!("{service}:{number}/{}", limit.name)), ..limit.clone() })
                .collect();
            let global = traffic.global_rate_limits.iter().flat_map(|set| &set.value);
            let global: Vec<_> =
                global.filter_map(|limit| Some((limit, &backends.limiters.services.get(&limit.service)?.0))).collect();
            if local.is_empty() && global.is_empty() {
                continue;
            }
            let inside = |(cluster, _): &&ClusterParts| {
                let tls = cluster.value.tls.as_ref();
                tls.is_some_and(|tls| matches!(tls.mode, ClusterTlsMode::Mutual { .. }))
            };
            for endpoint in port.clusters.iter().filter(inside).flat_map(|(_, list)| &list.value.endpoints) {
                let Target::Address(address) = endpoint.target else { continue };
                let of = ports.entry(address).or_default();
                of.local.extend(local.iter().cloned());
                for (limit, service) in &global {
                    // Services that say the same ask once.
                    if !of.global.contains(limit) {
                        of.global.push((*limit).clone());
                    }
                    of.services.insert(Arc::clone(&limit.service), (*service).clone());
                }
            }
        }
        Self { ports }
    }

    /// What a proxy keeps at an address.
    pub(super) fn at(&self, address: SocketAddr) -> PortLimits {
        self.ports.get(&address).cloned().unwrap_or_default()
    }
}

/// Services that keep rate limits, each with a cluster of its own: it is asked over HTTP/2, whatever else speaks to it.
#[derive(Debug, Default)]
pub(super) struct Limiters {
    pub(super) services: BTreeMap<Arc<str>, (RateLimitService, ClusterParts)>,
}

impl Limiters {
    /// Those of a mesh, as far as they lead somewhere.
    pub(super) fn renewed<'p>(mut self, mesh: &Mesh, port: impl Fn(&PortKey) -> Option<&'p ClusterParts>) -> Self {
        let mut services = BTreeMap::new();
        for (name, (_, limiter)) in mesh.rate_limiters() {
            let Some(number) = limiter.backend.port else { continue };
            let Some((cluster, list)) = port(&(limiter.backend.service.clone(), number)) else { continue };
            if cluster.value.protocol == ClusterProtocol::Tcp {
                continue;
            }
            let (earlier_cluster, earlier_list) = self.services.remove(name).map(|(_, parts)| parts).unzip();
            let own = bounded(format!("rate-limit-service:{name}"));
            let endpoints = list.value.endpoints.clone();
            let cluster = Cluster { name: Arc::clone(&own), protocol: ClusterProtocol::Http2, ..cluster.value.clone() };
            let list = EndpointList { cluster: Arc::clone(&own), endpoints };
            let parts = (same_or_new(earlier_cluster, cluster), same_or_new(earlier_list, list));
            services.insert(Arc::clone(name), (RateLimitService { cluster: own, ..limiter.asked.clone() }, parts));
        }
        Self { services }
    }
}
