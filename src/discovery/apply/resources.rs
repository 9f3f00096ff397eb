//! Configurations that are built from the resources of a control plane.

use std::sync::Arc;

use outrigger_config::built::{self, Problem};
use outrigger_config::{Loaded, model};

use super::super::status::Origin;
use super::candidate::Candidate;
use super::{Applier, Obstacle};
use crate::net::tls::MaterialError;
use crate::server::BindError;

/// A configuration that was not put into effect.
#[derive(Debug)]
pub(in super::super) enum NotBuilt {
    /// It breaks rules.
    Rules(Vec<Problem>),
    /// Certificates, keys or bundles that it names are bad.
    Material(Vec<MaterialError>),
    /// Something on this machine is in the way.
    Machine(Unput),
}

/// What on this machine was in the way.
#[derive(Debug)]
pub(in super::super) enum Unput {
    /// A listener cannot be bound.
    Bind(BindError),
    /// Something else.
    Other(String),
}

impl Applier {
    /// What concerns the process, with nothing of what a control plane says.
    pub(in super::super) fn base(&self) -> Option<&Arc<Loaded>> {
        self.bootstrap.as_ref()
    }

    /// Puts a configuration into effect that was built. `hash` identifies its content.
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed then.
    pub(in super::super) async fn put_built(
        &mut self,
        config: model::Config,
        hash: String,
        origin: Origin,
    ) -> Result<(), NotBuilt> {
        let config = built::check(config).map_err(NotBuilt::Rules)?;
        let loaded = Loaded::built(config, hash);
        let before = (&self.material.secrets, &*self.material.tls);
        let candidate = Candidate::built(loaded, before).map_err(NotBuilt::Material)?;
        self.put(candidate, origin).await.map_err(|obstacle| match obstacle {
            Obstacle::Bind(error) => NotBuilt::Machine(Unput::Bind(error)),
            Obstacle::Log(..) => NotBuilt::Machine(Unput::Other(self.described(obstacle).to_string())),
        })
    }

    /// Gives a cluster in use other endpoints. `false`: it is not in use.
    pub(in super::super) fn assign(&self, cluster: &str, endpoints: Vec<model::Endpoint>) -> bool {
        self.parts.registry.assign(cluster, endpoints)
    }

    /// The file says something else about the process: what runs goes on with it.
    pub(super) async fn rebase(&mut self, before: &Loaded, candidate: Candidate) {
        let bootstrap = Arc::clone(&candidate.loaded);
        if bootstrap.control_plane.is_none() {
            tracing::warn!("the file names no control plane any more; it takes effect at the next start");
            return;
        }
        if bootstrap.control_plane != before.control_plane {
            tracing::warn!("`controlPlane` has changed; it takes effect at the next start");
        }
        self.bootstrap = Some(Arc::clone(&bootstrap));
        let Some(running) = self.status.running().filter(|running| running.generation > 0) else { return };
        let model::Config { node, admin, access_log, workers, drain, identity, .. } = (*bootstrap.config).clone();
        let mut running_config = (*running.loaded.config).clone();
        // Endpoints that came alone are in no configuration, and must not be taken back.
        for (name, cluster) in &mut running_config.clusters {
            if let Some(endpoints) = self.parts.registry.assigned(name) {
                cluster.endpoints = endpoints.to_vec();
            }
        }
        let identity = identity.or_else(|| running_config.identity.clone());
        let config = model::Config { node, admin, access_log, workers, drain, identity, ..running_config };
        let hash = running.loaded.hash.clone();
        match self.put_built(config, hash, running.origin).await {
            Ok(()) => self.status.confirmed(),
            Err(problem) => tracing::error!(?problem, "the changed settings of the process cannot take effect"),
        }
    }
}
