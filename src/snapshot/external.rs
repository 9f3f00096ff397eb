//! An external authorizer, ready to be asked.

use std::sync::Arc;

use outrigger_config::model::ExternalAuthorizer;

use crate::telemetry::metrics::AuthorizerMetrics;
use crate::upstream::Cluster;

/// An external authorizer.
#[derive(Debug)]
pub struct External {
    /// As configured.
    pub config: ExternalAuthorizer,
    /// Where it is.
    pub cluster: Arc<Cluster>,
    /// Its numbers.
    pub metrics: Arc<AuthorizerMetrics>,
}
