//! What is counted for as long as somebody waits for a connection, or has one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lease::{LeaseError, Overflow};
use super::pool::Ceilings;
use super::state::{ClusterState, EndpointState};
use crate::telemetry::metrics::Carrier;

/// One who waits for a connection.
pub(super) struct Pending<'a> {
    cluster: &'a ClusterState,
    /// Where it has a ceiling of its own.
    endpoint: Option<&'a EndpointState>,
}

impl<'a> Pending<'a> {
    pub(super) fn enter(
        cluster: &'a ClusterState,
        endpoint: &'a EndpointState,
        ceilings: &Ceilings,
    ) -> Result<Self, LeaseError> {
        if !cluster.pending.try_acquire(ceilings.pending) {
            return Err(LeaseError::Overflow(Overflow::Pending));
        }
        let own = ceilings.endpoint.max_pending;
        if own.is_some_and(|most| !endpoint.pending.try_acquire(most)) {
            cluster.pending.release();
            return Err(LeaseError::Overflow(Overflow::Pending));
        }
        cluster.metrics.pending_began();
        Ok(Self { cluster, endpoint: own.and(Some(endpoint)) })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.cluster.pending.release();
        self.cluster.metrics.pending_ended();
        if let Some(endpoint) = self.endpoint {
            endpoint.pending.release();
        }
    }
}

/// One open (or opening) connection.
#[derive(Debug)]
pub(super) struct Open {
    cluster: Arc<ClusterState>,
    endpoint: Arc<EndpointState>,
    made: Option<Carrier>,
}

impl Open {
    pub(super) fn enter(
        cluster: &Arc<ClusterState>,
        endpoint: &Arc<EndpointState>,
        ceilings: &Ceilings,
    ) -> Option<Self> {
        if !cluster.connections.try_acquire(ceilings.connections) {
            return None;
        }
        let before = endpoint.connections.fetch_add(1, Ordering::Relaxed);
        if ceilings.endpoint.max_connections.is_some_and(|most| before >= most) {
            endpoint.connections.fetch_sub(1, Ordering::Relaxed);
            cluster.connections.release();
            return None;
        }
        Some(Self { cluster: Arc::clone(cluster), endpoint: Arc::clone(endpoint), made: None })
    }

    /// The connection is there.
    pub(super) fn made(&mut self, carrier: Carrier) {
        self.made = Some(carrier);
        self.cluster.metrics.connected(carrier);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cluster.connections.release();
        self.endpoint.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(carrier) = self.made {
            self.cluster.metrics.disconnected(carrier);
        }
    }
}
