//! What is counted for as long as somebody waits for a connection, or has one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lease::{LeaseError, Overflow};
use super::state::{ClusterState, EndpointState};

/// One who waits for a connection.
pub(super) struct Pending<'a>(&'a ClusterState);

impl<'a> Pending<'a> {
    pub(super) fn enter(cluster: &'a ClusterState, ceiling: u32) -> Result<Self, LeaseError> {
        if !cluster.pending.try_acquire(ceiling) {
            return Err(LeaseError::Overflow(Overflow::Pending));
        }
        cluster.metrics.pending_began();
        Ok(Self(cluster))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.release();
        self.0.metrics.pending_ended();
    }
}

/// One open (or opening) connection.
#[derive(Debug)]
pub(super) struct Open {
    cluster: Arc<ClusterState>,
    endpoint: Arc<EndpointState>,
    made: bool,
}

impl Open {
    pub(super) fn enter(cluster: &Arc<ClusterState>, endpoint: &Arc<EndpointState>, ceiling: u32) -> Option<Self> {
        if !cluster.connections.try_acquire(ceiling) {
            return None;
        }
        endpoint.connections.fetch_add(1, Ordering::Relaxed);
        Some(Self { cluster: Arc::clone(cluster), endpoint: Arc::clone(endpoint), made: false })
    }

    /// The connection is there.
    pub(super) fn made(&mut self) {
        self.made = true;
        self.cluster.metrics.connected();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cluster.connections.release();
        self.endpoint.connections.fetch_sub(1, Ordering::Relaxed);
        if self.made {
            self.cluster.metrics.disconnected();
        }
    }
}
