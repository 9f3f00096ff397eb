//! Every limit of the manifests, in one place. Hitting one is a problem that is reported, never a value that is cut off
//! in silence. Those that manifests share with the configuration of a proxy are `outrigger_config::limits`.

/// Bytes of one document.
pub const MAX_DOCUMENT_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of all documents of one load.
pub const MAX_TOTAL_BYTES: usize = 256 * 1024 * 1024;
/// Objects of a mesh.
pub const MAX_OBJECTS: usize = 200_000;
/// Problems of one load that are kept; the rest is counted.
pub const MAX_PROBLEMS: usize = 1_000;
/// Labels of one object, and entries of one selector.
pub const MAX_LABELS: usize = 64;
/// Ports of one Service, one EndpointSlice or one Workload.
pub const MAX_PORTS: usize = 100;
/// Endpoints of one EndpointSlice, as in Kubernetes.
pub const MAX_SLICE_ENDPOINTS: usize = 1_000;
/// Parents of one route.
pub const MAX_PARENTS: usize = 32;
/// Rules of one route. The Gateway API allows 16; generated routes have more.
pub const MAX_RULES: usize = 128;
/// Services that one Workload may name in `uses`.
pub const MAX_USES: usize = 1_000;
/// Entries in `from` and `to` of a ReferenceGrant, as in the Gateway API.
pub const MAX_GRANT_ENTRIES: usize = 16;
/// Services that a BackendTLSPolicy may name, as in the Gateway API.
pub const MAX_TARGETS: usize = 16;
/// Server names of one TLSRoute, as in the Gateway API.
pub const MAX_SERVER_NAMES: usize = 16;
