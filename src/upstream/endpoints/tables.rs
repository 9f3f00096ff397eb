//! Tables for consistent hashing, shared by all who have the same endpoints: a new configuration that changes none of
//! them builds none.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use outrigger_config::model::BalancePolicy;
use parking_lot::Mutex;

use crate::policy::balance::table::Table;

/// The tables of a cluster that are in use.
#[derive(Debug, Default)]
pub struct Tables(Mutex<Vec<Known>>);

#[derive(Debug)]
struct Known {
    policy: BalancePolicy,
    endpoints: Vec<(SocketAddr, u32)>,
    table: Weak<Table>,
}

impl Tables {
    /// The table of these endpoints, old or new; `None` for policies that do not hash. A new one takes milliseconds: not
    /// for a worker.
    pub(super) fn get(&self, policy: BalancePolicy, endpoints: Vec<(SocketAddr, u32)>) -> Option<Arc<Table>> {
        let mut known = self.0.lock();
        known.retain(|known| known.table.strong_count() > 0);
        let same = |known: &&Known| known.policy == policy && known.endpoints == endpoints;
        if let Some(table) = known.iter().find(same).and_then(|known| known.table.upgrade()) {
            return Some(table);
        }
        let table = Arc::new(Table::new(policy, &endpoints)?);
        known.push(Known { policy, endpoints, table: Arc::downgrade(&table) });
        Some(table)
    }
}
