//! Layer 4: endpoints with their live state, connection pools, name resolution, and the registry of what
//! outlives a configuration.

pub mod admission;
pub mod alternative;
pub mod breakers;
pub mod cluster;
pub mod dns;
pub mod endpoints;
pub mod fitness;
mod guards;
pub mod health;
pub mod keys;
pub mod lease;
pub mod outlier;
pub mod permit;
pub mod pool;
pub mod rates;
pub mod registry;
pub mod standing;
pub mod state;
pub mod status;
#[cfg(test)]
mod world;

pub use admission::{Applicant, Place, Shed};
pub use breakers::{Passage, RuleBreaker};
pub use cluster::{Cluster, Member, PickError, PickHint};
pub use endpoints::{EndpointSet, Placement};
pub use fitness::{Closed, Fit};
pub use keys::{KeySlot, KeyStore};
pub use lease::{Lease, LeaseError, Overflow};
pub use permit::{Outcome, Permit};
pub use rates::{LimitId, RateKey, RateState};
pub use registry::Registry;
pub use state::{ClusterState, EndpointState};
