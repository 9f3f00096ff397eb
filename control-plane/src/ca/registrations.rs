//! Which workloads there are.

use crate::peer::WorkloadKey;

/// What is registered of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its namespace.
    pub namespace: String,
    /// Its name in there.
    pub name: String,
    /// The service account that it runs as, which is its identity.
    pub service_account: String,
}

/// Which workloads are registered now. Must not block.
pub trait Registrations: Send + Sync {
    /// A workload, or `None` when it is not registered (any more).
    fn workload(&self, key: &WorkloadKey) -> Option<Registered>;
}
