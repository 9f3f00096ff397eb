//! What names mean: the script of a name server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::plan::{ClusterPlan, NAMES, Plan, any_address};
use crate::policy::rng::Rng;
use crate::upstream::dns::{Answer, BoxFuture, Resolve};

/// What names mean: the script of a name server.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<BTreeMap<&'static str, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    now: Option<Vec<IpAddr>>,
    /// What was last answered, as long as somebody is to remember it.
    last_good: Vec<IpAddr>,
    ttl: Duration,
}

impl Names {
    /// Some name means something else, or cannot be resolved for a while.
    pub(super) fn change(&self, rng: &mut Rng) {
        let name = NAMES[rng.below(NAMES.len() as u64) as usize];
        let mut all = self.0.lock();
        let entry = all.entry(name).or_default();
        entry.ttl = Duration::from_millis(rng.below(10_000));
        entry.now = (rng.below(4) > 0).then(|| {
            let mut addresses: Vec<IpAddr> = (0..rng.below(4)).map(|_| any_address(rng).ip()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        });
    }

    /// A configuration is in effect: what it does not name is forgotten.
    pub(super) fn keep_for(&self, plan: &Plan) {
        for (name, entry) in self.0.lock().iter_mut() {
            if !plan.clusters.values().flat_map(ClusterPlan::names).any(|used| used == *name) {
                entry.last_good.clear();
            }
        }
    }

    pub(super) fn last_good(&self, name: &str) -> Vec<IpAddr> {
        self.0.lock().get(name).map(|entry| entry.last_good.clone()).unwrap_or_default()
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async move {
            let mut all = self.0.lock();
            let entry = all.get_mut(host).ok_or("no such name")?;
            let addresses = entry.now.clone().ok_or("the name server does not answer")?;
            if !addresses.is_empty() {
                entry.last_good.clone_from(&addresses);
            }
            Ok(Answer { addresses, ttl: entry.ttl })
        })
    }
}
