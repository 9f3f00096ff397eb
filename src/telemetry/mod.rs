//! Telemetry, between `base` and `policy`: what the data path counts and logs. It imports `base` only.
//!
//! The rule of this module: the hot path touches nothing but kept handles. A label set is looked up when a
//! configuration is compiled, never for a request; counters are atomics of the worker's own shard; a log
//! line is copied into the worker's own buffer, and a thread of its own writes it.

pub mod access_log;
mod clock;
mod expose;
pub mod metrics;
mod refusals;
pub mod rehearsal;
mod series;

pub use access_log::AccessLog;
pub use clock::rfc3339;
pub use metrics::{ClusterMetrics, ListenerMetrics, Metrics, RouteMetrics, StreamMetrics};
pub use refusals::Refusals;
