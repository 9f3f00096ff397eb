//! Configuration from a control plane over xDS v3 (ADS), with everything that belongs to it.
//!
//! ```text
//! dial      a connection: TCP, TLS with the server verified, HTTP/2
//! identity  the proxy's own certificate: asked for, renewed, kept (folder)
//! link      the stream, kept open: servers in order (backoff), both variants (wire)
//! session   what is asked for and answered on it; pure
//! store     the resources: in effect, and not yet; on disk (saved)
//! catalog   the same, decoded, and the configuration that they make; contents of secrets (files)
//! client    what came becomes what runs, and is answered
//! ```

mod backoff;
mod blocked;
mod catalog;
mod client;
mod dial;
mod files;
mod folder;
mod identity;
mod link;
mod saved;
mod session;
mod state;
mod status;
mod store;
mod wire;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;

use outrigger_config::Loaded;
use outrigger_config::model::ControlPlane;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use client::Client;
pub use state::{StateError, StateFolder};
pub use status::ControlStatus;

use self::catalog::Catalog;
use self::client::Surroundings;
use self::folder::IdentityFolder;
use self::identity::Identity;
use self::link::Link;
use self::saved::{Keeper, SavedFile};
use super::Status;
use crate::base::{limits, task};
use crate::policy::rng::Rng;
use crate::telemetry::Metrics;
use crate::upstream::Registry;

/// What a client of a control plane needs of its proxy.
#[derive(Debug)]
pub struct Parts {
    /// Names are resolved there.
    pub registry: Arc<Registry>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// What runs.
    pub status: Arc<Status>,
    /// Where what has to survive a restart is kept.
    pub state: Arc<StateFolder>,
}

/// Starts what talks to the control plane: the client, and the tasks that it hears from. They run until they are
/// aborted.
///
/// # Panics
/// Outside a runtime.
#[must_use]
pub fn start(plane: ControlPlane, bootstrap: &Loaded, parts: Parts) -> (Client, Vec<JoinHandle<()>>) {
    let Parts { registry, metrics, status, state } = parts;
    let plane = Arc::new(plane);
    let mut seeds = Rng::new(RandomState::new().build_hasher().finish());
    let control = Arc::new(ControlStatus::new(Arc::clone(&plane)));
    // Set once: a proxy has one control plane.
    let _ = status.control.set(Arc::clone(&control));
    metrics.control.expect();

    let folder = IdentityFolder::new(state.path());
    let identity = Arc::new(Identity::new(Arc::clone(&plane), (*bootstrap.config).clone(), folder));
    let (events, heard) = mpsc::channel(limits::CONTROL_QUEUE);
    let link = Link {
        plane: Arc::clone(&plane),
        node: wire::node(&bootstrap.config.node),
        identity: Arc::clone(&identity),
        registry: Arc::clone(&registry),
        rng: Rng::new(seeds.next_u64()),
    };
    let file = SavedFile::new(state.path());
    let (keeper, keep) = Keeper::new(file.clone());
    // The bundle of the mesh is the control plane's where the certificate is.
    let catalog = Catalog::new(state.path(), plane.join.is_some());
    let surroundings = Surroundings {
        state,
        status: control,
        metrics: Arc::clone(&metrics),
        identity: Arc::clone(&identity),
        file,
        keeper,
        catalog,
    };
    let client = Client::new((heard, plane.servers.len()), surroundings, plane.max_age);
    let rng = Rng::new(seeds.next_u64());
    let tasks = vec![
        task::spawn("keep-certificate", async move { identity.keep(&registry, &metrics, rng).await }),
        task::spawn("keep-control-plane", link.keep(events)),
        task::spawn("keep-last-good", keep),
    ];
    (client, tasks)
}
