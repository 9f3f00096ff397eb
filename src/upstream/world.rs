//! For tests: a registry with one cluster, under a clock of the test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::{self, Target};
use parking_lot::Mutex;

use super::dns::SystemResolver;
use super::registry::Surroundings;
use super::{Cluster, EndpointState, Registry};
use crate::telemetry::Metrics;

/// See the module.
pub(super) struct World {
    pub(super) registry: Arc<Registry>,
    /// The cluster `c`, as the newest configuration has it.
    pub(super) cluster: Arc<Cluster>,
    config: model::Config,
    clock: Arc<Mutex<Instant>>,
}

impl World {
    /// `change` makes the cluster what the test needs.
    pub(super) fn new(change: impl FnOnce(&mut model::Cluster)) -> Self {
        let clock = Arc::new(Mutex::new(Instant::now()));
        let told = Arc::clone(&clock);
        let surroundings = Surroundings {
            resolver: Box::new(SystemResolver::default()),
            clock: Box::new(move || *told.lock()),
            seed: 1,
        };
        let registry = Registry::within(1, Metrics::new(), surroundings);
        let text = "listeners: [{ name: l, bind: 127.0.0.1:0, routes: r }]\n\
                    routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }\n\
                    clusters: { c: { endpoints: [127.0.0.1:1] } }\n";
        let mut config: model::Config = (*outrigger_config::load("test.yaml", text).expect("valid").config).clone();
        change(config.clusters.get_mut("c").expect("a cluster"));
        let cluster = registry.cluster(&config.clusters["c"], None);
        let world = Self { registry, cluster, config, clock };
        world.activate();
        world
    }

    /// A new configuration.
    pub(super) fn apply(&mut self, change: impl FnOnce(&mut model::Cluster)) {
        change(self.config.clusters.get_mut("c").expect("a cluster"));
        self.cluster = self.registry.cluster(&self.config.clusters["c"], None);
        self.activate();
    }

    fn activate(&self) {
        self.registry.activate(&self.config, &[Arc::clone(&self.cluster)], self.now());
    }

    pub(super) fn now(&self) -> Instant {
        *self.clock.lock()
    }

    pub(super) fn advance(&self, time: Duration) {
        *self.clock.lock() += time;
    }

    pub(super) fn endpoint(&self, port: u16) -> Arc<EndpointState> {
        let set = self.cluster.endpoints();
        let found = set.members().iter().find(|member| member.state.address.port() == port);
        Arc::clone(&found.expect("it is there").state)
    }
}

/// At a port of this machine.
pub(super) fn endpoint(port: u16) -> model::Endpoint {
    model::Endpoint::at(Target::Address(([127, 0, 0, 1], port).into()))
}
