//! Requests, endpoints and configuration changes in simulated time, over the code that decides in production:
//! loading and compiling configurations, the registry and its names, places and queues for requests with adaptive limits,
//! picks and permits, balancers with zones, priorities, subsets, sessions, slow start and panic, health checks, outlier
//! detection, circuit breakers of endpoints, clusters and rules, expectations, time limits, classification, retries,
//! hedged attempts, budgets and ceilings. Sockets are left out: what an attempt or a check comes to is drawn. A second,
//! naive set of books ([`ledger`]) is kept beside, and compared at every step; what must hold is checked from what was
//! seen ([`invariants`]), and the checks are tested with what must not happen:
//!
//! * Requests, attempts, retries and places are never fewer than none, within their ceilings, and none at the end.
//! * Breakers go from closed to open to half-open to either, unless ordered; half-open, they let one request through.
//! * Retries and hedged attempts never exceed their budgets.
//! * Outlier detection never ejects the last endpoint, nor more than its share.
//! * Nothing is sent after its deadline, and nobody waits beyond it.
//! * The same seed gives the same trace.
//!
//! Everything follows from one seed. A failure prints the seed and its last events:
//!
//! ```text
//! cargo test -p outrigger --lib simulation                        the usual seeds, and the tests of the checks
//! OUTRIGGER_SEED=17 cargo test -p outrigger --lib simulation      that seed alone
//! OUTRIGGER_SEEDS=5000 cargo test -p outrigger --lib simulation   more seeds than the usual 256
//! ```

mod attempts;
mod books;
mod changes;
mod checks;
mod fleet;
mod invariants;
mod ledger;
mod names;
mod plan;
mod requests;
mod settings;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use trace::{Counts, Trace};
use world::World;

/// Simulates one seed.
///
/// # Panics
/// When something that must hold does not; says how to replay it.
fn simulate(seed: u64) -> Trace {
    let mut trace = Trace::default();
    let end = catch_unwind(AssertUnwindSafe(|| World::new(seed, &mut trace).run()));
    if let Err(panic) = end {
        let why = panic.downcast_ref::<String>().map(String::as_str);
        let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        panic!(
            "seed {seed}: {why}\nthe last events:\n{}\nreplay: OUTRIGGER_SEED={seed} cargo test -p outrigger --lib simulation",
            trace.last_lines()
        );
    }
    trace
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")))
}

#[test]
fn everything_holds_whatever_happens() {
    if let Some(seed) = from_environment("OUTRIGGER_SEED") {
        simulate(seed);
        return;
    }
    let next = AtomicU64::new(0);
    let seeds = from_environment("OUTRIGGER_SEEDS").unwrap_or(256);
    let work = || {
        let mut counts = Counts::default();
        let seed = || Some(next.fetch_add(1, Relaxed)).filter(|seed| *seed < seeds);
        while let Some(seed) = seed() {
            counts += simulate(seed).counts;
        }
        counts
    };
    let mut all = Counts::default();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all += thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    // What never happened was not tested.
    all.assert_all_happened();
}

#[test]
fn a_seed_always_gives_the_same_trace() {
    let seeds = match from_environment("OUTRIGGER_SEED") {
        Some(seed) => vec![seed],
        None => (0..256).step_by(17).collect(),
    };
    let mut before = None;
    for seed in seeds {
        let (first, second) = (simulate(seed).hash(), simulate(seed).hash());
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(before.replace(first), Some(first), "two seeds do the same");
    }
}
