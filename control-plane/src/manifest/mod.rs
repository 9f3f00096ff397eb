//! Manifests: what teams write. Texts go in, a [`Mesh`] comes out, with every problem, its place, whose it is and a fix.
//!
//! ```text
//! raw       manifests as written; also the JSON Schemas and CRDs
//! read      texts to single objects, each with its own problems
//! check     what can be said of one object by itself
//! load      many objects to a mesh: duplicates, what is kept of earlier versions
//! resolve   what refers to what; status conditions
//! ```
//!
//! Everything here is a function of the texts and of the mesh before. The order of documents plays no part.

mod check;
mod kinds;
pub mod limits;
mod load;
mod mesh;
pub mod object;
mod outcome;
mod raw;
mod read;
mod resolve;
mod schema;
#[cfg(test)]
mod tests;
mod words;

pub use kinds::{Kind, Name, ObjectId};
pub use load::{apply, load, remove};
pub(crate) use mesh::selects;
pub use mesh::{Closed, Mesh, Scope};
pub use object::{Object, Spec, Workload, WorkloadPort};
pub use outcome::{Change, Changed, Condition, Document, ObjectStatus, Outcome, ParentStatus, Problem};
pub use resolve::{Attached, Unresolved};
pub use schema::{crds, json_schema, json_schemas};

/// The namespace whose policies are for the whole mesh.
pub const MESH_NAMESPACE: &str = "outrigger-system";
/// Namespace and service account of the control plane's own identity, which no Workload may have.
pub const CONTROL_PLANE: (&str, &str) = ("outrigger", "control");
/// The trust domain where no MeshPolicy says another.
pub const DEFAULT_TRUST_DOMAIN: &str = "mesh.local";
