//! Settings of a rule that only mean something together with those of its clusters: subsets and labels, `hash` and
//! policies that hash.

use std::cell::RefCell;
use std::collections::HashMap;

use super::{Check, References, good};
use crate::raw;
use crate::read::{Entries, Field};
use crate::source::Span;
use crate::text::quoted;

/// What has been found out about clusters, so that an endpoint list is gone through once for each subset.
#[derive(Default)]
pub(super) struct Ties {
    subsets: RefCell<HashMap<(String, String), bool>>,
}

impl Ties {
    /// Warns of settings of a rule that do nothing with the clusters it leads to. Only what is certain is said, so
    /// nothing where something was wrong.
    pub(super) fn look(&self, check: &Check<'_, '_>, rule: &raw::Rule, references: &References<'_>) {
        if check.sink.has_errors() {
            return;
        }
        let mut hashing = None;
        for (backend, _) in good(&rule.backend_refs) {
            let Some((name, at)) = backend.cluster.here() else { continue };
            let Some(cluster) = references.groups.get(name.as_str()) else { continue };
            if let Some((subset, at)) = backend.subset.here()
                && !self.has_subset((name, cluster), subset)
            {
                let message = format!("no endpoint of `{}` has these labels", quoted(name));
                check.warning(at, message, "add them to endpoints of the cluster (`labels`), or correct them");
            }
            match cluster.load_balancing.get().and_then(|raw| raw.policy.get()) {
                Some(raw::Policy::RingHash | raw::Policy::Maglev) => hashing = Some((name, at)),
                Some(
                    raw::Policy::RoundRobin | raw::Policy::LeastRequest | raw::Policy::PeakEwma | raw::Policy::Random,
                )
                | None => {}
            }
        }
        match (rule.hash.span(), hashing) {
            (Some(at), None) => {
                let message = "`hash` has no effect: no cluster of this rule has a policy that hashes";
                let fix =
                    "write `loadBalancing: { policy: ringHash }` or `policy: maglev` on the cluster, or remove it";
                check.warning(at, message, fix);
            }
            (None, Some((name, at))) if rule.session_persistence.is_absent() => no_hash(check, name, at),
            (None | Some(_), None | Some(_)) => {}
        }
    }

    fn has_subset(&self, (name, cluster): (&str, &raw::Cluster), subset: &Entries<String>) -> bool {
        let wanted: Vec<(&str, &str)> = pairs(subset).collect();
        let key = (name.to_owned(), format!("{wanted:?}"));
        *self.subsets.borrow_mut().entry(key).or_insert_with(|| {
            let mut endpoints = good(&cluster.endpoints);
            endpoints.any(|(endpoint, _)| {
                let labels = match endpoint {
                    raw::Endpoint::Text(_) => None,
                    raw::Endpoint::Map(fields) => fields.labels.get(),
                };
                let has = |(key, value): &(&str, &str)| {
                    labels.is_some_and(|labels| pairs(labels).any(|(k, v)| k == *key && v == *value))
                };
                wanted.iter().all(has)
            })
        })
    }
}

fn no_hash(check: &Check<'_, '_>, name: &str, at: Span) {
    let message = format!("`{}` balances by hashing, and this rule does not say of what", quoted(name));
    check.warning(at, message, "add `hash: [{ header: x-user }]` to the rule: without it any endpoint is taken");
}

fn pairs(entries: &Entries<String>) -> impl Iterator<Item = (&str, &str)> {
    entries
        .pairs
        .iter()
        .filter_map(|(key, value): &(_, Field<String>)| Some((key.text.as_str(), value.get()?.as_str())))
}
