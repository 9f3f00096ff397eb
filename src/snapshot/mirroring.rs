//! Where copies of requests go.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_config::model;

use crate::telemetry::Metrics;
use crate::telemetry::metrics::MirrorMetrics;
use crate::upstream::Cluster;

/// Copies of a share of a rule's requests.
#[derive(Debug, Clone)]
pub struct Mirroring {
    /// Where they go.
    pub cluster: Arc<Cluster>,
    /// Of which requests.
    pub share: model::Share,
    /// Their numbers.
    pub metrics: Arc<MirrorMetrics>,
}

impl Mirroring {
    pub(super) fn all(rule: &model::Rule, clusters: &HashMap<&Arc<str>, Arc<Cluster>>, metrics: &Metrics) -> Vec<Self> {
        let mirrors = rule.filters.iter().filter_map(|filter| match filter {
            model::Filter::Mirror(model::Mirror { cluster, share }) => {
                Some(Self { cluster: Arc::clone(&clusters[cluster]), share: *share, metrics: metrics.mirror(cluster) })
            }
            _ => None,
        });
        mirrors.collect()
    }
}
