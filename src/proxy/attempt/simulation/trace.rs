//! What happened: a hash of all of it, the last lines for people, and how often each kind of thing did.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::ops::AddAssign;
use std::time::Duration;

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hasher: DefaultHasher,
    last: VecDeque<String>,
    pub(super) counts: Counts,
}

impl Trace {
    pub(super) fn note(&mut self, at: Duration, event: &str) {
        let line = format!("{:>12.6} {event}", at.as_secs_f64());
        self.hasher.write(line.as_bytes());
        if self.last.len() == LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(super) fn last_lines(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Lines shown with a failure.
const LINES: usize = 25;

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        /// How often each kind of thing happened.
        #[derive(Debug, Default, Clone, Copy)]
        pub(super) struct Counts {
            $(pub(super) $name: u64,)*
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl Counts {
            pub(super) fn assert_all_happened(&self) {
                $(assert!(self.$name > 0, "`{}` never happened: {self:?}", stringify!($name));)*
            }
        }
    };
}

counts! {
    answered,
    failed,
    late,
    left_early,
    unrouted,
    without_endpoint,
    refused_by_breakers,
    refused_by_clusters,
    refused_by_rules,
    tolerated,
    probes,
    probes_of_clusters,
    probes_of_rules,
    ordered,
    checked,
    health_changed,
    ejected,
    picked_in_panic,
    picked_unchecked,
    picked_draining,
    picked_of_a_subset,
    sessions_kept,
    queued,
    placed,
    shed,
    left_the_queue,
    hedged,
    hedges_lost,
    hedges_over_the_budget,
    over_the_ceiling,
    timed_out,
    retried_free,
    retried_charged,
    retries_over_the_ceiling,
    retries_over_the_budget,
    not_repeated_for_idempotency,
    left_to_the_hop_before,
    retries_too_late,
    reloads,
    refused_reloads,
    abandoned_reloads,
    picks_after_a_reload_on_an_old_configuration,
    endpoints_added,
    endpoints_kept,
    endpoints_back_within_the_linger,
    endpoints_forgotten,
    clusters_forgotten,
    names_changed,
    restarts,
    equal_turns,
    weighted_turns,
    lowest_scores,
}
