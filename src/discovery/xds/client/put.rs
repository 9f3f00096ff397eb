//! What came takes effect, without what is refused of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use outrigger_config::model::Config;
use outrigger_xds::{Kind, Settings};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{Client, Start};
use crate::discovery::apply::{Applier, NotBuilt, Unput};
use crate::discovery::status::Origin;
use crate::discovery::xds::catalog::Catalog;
use crate::discovery::xds::session::Refusal;
use crate::discovery::xds::store::Id;

impl Client {
    /// Puts everything into effect that came and is good. What is refused is left out, and what was there before it
    /// stays; whatever remains is tried again without it, until it is right.
    pub(super) async fn put(&mut self, applier: &mut Applier, origin: Origin) -> BTreeMap<Id, Vec<Refusal>> {
        let mut refused: BTreeMap<Id, Vec<Refusal>> = BTreeMap::new();
        let Some(base) = applier.base().cloned() else { return refused };
        if let Some(pem) = self.catalog.trust_bundle(&self.store)
            && let Err(problem) = self.identity.take_bundle(&pem)
        {
            let refusal = Catalog::bundle_refusal(problem);
            refused.entry((Kind::Secret, Arc::clone(&refusal.name))).or_default().push(refusal);
        }
        loop {
            let without: BTreeSet<Id> = refused.keys().cloned().collect();
            let Config { node, admin, access_log, workers, drain, overload, .. } = (*base.config).clone();
            let identity = self.identity.configured();
            let settings = Settings { node, admin, access_log, workers, drain, identity, overload };
            let config = match self.catalog.assemble(&self.store, &without, &settings) {
                Ok(config) => config,
                Err(problems) if add(&mut refused, problems.clone(), &without) => continue,
                Err(problems) => {
                    self.refuse_all(&mut refused, &problems);
                    return refused;
                }
            };
            let hash = self.hash(&without);
            let problem = match applier.put_built(config, hash, origin.clone()).await {
                Ok(()) => {
                    self.start = Start::Done;
                    return refused;
                }
                Err(problem) => problem,
            };
            let problems = match problem {
                NotBuilt::Rules(problems) => Catalog::attribute_rules(&problems),
                NotBuilt::Material(errors) => self.catalog.attribute_material(&self.store, &errors),
                NotBuilt::Machine(Unput::Bind(error)) => {
                    let name = Arc::clone(&error.listener);
                    self.block(&name);
                    let (field, reason) = ("address".to_owned(), error.to_string());
                    vec![Refusal { kind: Kind::Listener, name, field, reason }]
                }
                NotBuilt::Machine(Unput::Other(problem)) => {
                    tracing::error!(problem, "what the control plane said cannot take effect on this machine");
                    Vec::new()
                }
            };
            if !add(&mut refused, problems.clone(), &without) {
                self.refuse_all(&mut refused, &problems);
                return refused;
            }
        }
    }

    /// The address of a listener is taken. It may be one that was taken long ago and only now has its routes.
    fn block(&mut self, name: &Arc<str>) {
        self.store.reopen(|kind, known| kind == Kind::Listener && known == &**name);
        if let Some(Some(held)) = self.store.pending().get(&(Kind::Listener, Arc::clone(name))) {
            self.blocked.note(Arc::clone(name), held.clone(), Instant::now());
        }
    }

    /// Nobody in particular is to blame, or leaving out does not help: everything new is refused.
    fn refuse_all(&self, refused: &mut BTreeMap<Id, Vec<Refusal>>, problems: &[Refusal]) {
        let reason = problems.first().map_or_else(|| "it cannot take effect".to_owned(), ToString::to_string);
        for (kind, name) in self.store.pending().keys() {
            let all = || {
                let (name, reason) = (Arc::clone(name), reason.clone());
                vec![Refusal { kind: *kind, name, field: String::new(), reason }]
            };
            refused.entry((*kind, Arc::clone(name))).or_insert_with(all);
        }
    }

    /// Of what takes effect: kinds, names and versions.
    fn hash(&self, without: &BTreeSet<Id>) -> String {
        let mut hash = Sha256::new();
        for ((kind, name), held) in self.store.effective(without) {
            for part in [kind.type_url(), &*name, &*held.version] {
                hash.update(part.as_bytes());
                hash.update([0]);
            }
        }
        hash.finalize().iter().take(8).fold(String::with_capacity(16), |mut out, byte| {
            // Writing to a string cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        })
    }
}

/// Notes refusals. `false`: there is none that was not left out already.
fn add(refused: &mut BTreeMap<Id, Vec<Refusal>>, problems: Vec<Refusal>, without: &BTreeSet<Id>) -> bool {
    let mut news = false;
    for refusal in problems {
        let id = (refusal.kind, Arc::clone(&refusal.name));
        news |= !without.contains(&id);
        let of = refused.entry(id).or_default();
        if !of.contains(&refusal) {
            of.push(refusal);
        }
    }
    news
}
