//! TLS that is handed on by server name, ready to run.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_config::model;

use super::Backends;
use crate::policy::route::HostIndex;
use crate::upstream::Cluster;

/// Where connections are handed on to, by server name.
#[derive(Debug)]
pub struct Passthrough {
    index: HostIndex,
    backends: Vec<Backends>,
}

impl Passthrough {
    pub(super) fn compile(entries: &[model::Passthrough], clusters: &HashMap<&Arc<str>, Arc<Cluster>>) -> Self {
        let index = HostIndex::new(entries.iter().map(|entry| &*entry.hostnames));
        let backends = entries.iter().map(|entry| Backends::compile(&entry.backends, clusters)).collect();
        Self { index, backends }
    }

    /// Whether there is any, so that server names need not be looked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }

    /// Where a connection goes. `name` is what the caller sent, if it sent one.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&Backends> {
        let name = name.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        self.index.find(&name, None).map(|found| &self.backends[found.index()])
    }
}
