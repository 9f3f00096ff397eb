//! Settings of balancing, health, breakers, admission and hedging, drawn and written down.

use std::fmt::Write as _;

use crate::policy::rng::Rng;

/// Those of a cluster, as they are written.
#[derive(Debug, Clone, Default)]
pub(super) struct ClusterSettings {
    balance: String,
    breaker: String,
    more: String,
}

impl ClusterSettings {
    pub(super) fn new(rng: &mut Rng) -> Self {
        // Many have a few of these and nobody all of them: what one takes out of use the other does not see.
        let mut settings = Self { balance: balance(rng), breaker: breaker(rng), ..Self::default() };
        if one_in(3, rng) {
            let _ = write!(settings.breaker, ", cluster: {{ {} }}", thresholds(rng));
        }
        if one_in(4, rng) {
            let (requests, retries) = (1 + rng.below(6), 1 + rng.below(3));
            let _ = write!(settings.breaker, ", perEndpoint: {{ maxRequests: {requests}, maxRetries: {retries} }}");
        }
        if one_in(2, rng) {
            settings.more.push_str(&outliers(rng));
        }
        if one_in(3, rng) {
            let (good, bad) = (1 + rng.below(2), 1 + rng.below(3));
            let _ = writeln!(
                settings.more,
                "    healthCheck: {{ tcp: {{}}, healthyThreshold: {good}, unhealthyThreshold: {bad} }}"
            );
        }
        if one_in(2, rng) {
            let (timeout, max) = (50 + rng.below(400), 1 + rng.below(20));
            let _ = writeln!(settings.more, "    queue: {{ timeout: {timeout}ms, max: {max} }}");
        }
        if one_in(3, rng) {
            let (min, max) = (1 + rng.below(3), 4 + rng.below(40));
            let _ = writeln!(settings.more, "    concurrency: {{ min: {min}, max: {max} }}");
        }
        settings
    }

    pub(super) fn balance(&self) -> &str {
        &self.balance
    }

    pub(super) fn breaker(&self) -> &str {
        &self.breaker
    }

    /// Lines of their own.
    pub(super) fn more(&self) -> &str {
        &self.more
    }
}

/// Those of a rule, as lines.
pub(super) fn of_rule(rng: &mut Rng) -> String {
    let mut text = String::new();
    let (max, budget) = (1 + rng.below(3), 1 + rng.below(60));
    match rng.below(4) {
        0 => {
            let after = 2 + rng.below(60);
            let _ = writeln!(text, "          hedge: {{ after: {after}ms, max: {max}, budgetPercent: {budget} }}");
        }
        1 => {
            let percentile = 50 + rng.below(50);
            let _ =
                writeln!(text, "          hedge: {{ percentile: {percentile}, max: {max}, budgetPercent: {budget} }}");
        }
        _ => {}
    }
    if one_in(3, rng) {
        let _ = writeln!(text, "          circuitBreaker: {{ {} }}", thresholds(rng));
    }
    text
}

fn balance(rng: &mut Rng) -> String {
    let policy = POLICIES[rng.below(POLICIES.len() as u64) as usize];
    let mut text = format!("policy: {policy}");
    let mut add = |chance, setting: String, rng: &mut Rng| {
        if one_in(chance, rng) {
            text.push_str(", ");
            text.push_str(&setting);
        }
    };
    let panic = [0, 0, 30, 50, 100][rng.below(5) as usize];
    let (window, least) = (1 + rng.below(20), 1 + rng.below(100));
    add(2, format!("panicThreshold: {panic}"), rng);
    add(3, "locality: preferZone".to_owned(), rng);
    add(3, format!("slowStart: {{ window: {window}s, minWeight: {least} }}"), rng);
    add(3, "subsetFallback: any".to_owned(), rng);
    text
}

fn breaker(rng: &mut Rng) -> String {
    match rng.below(4) {
        // Nobody asks for one: it is there, and tolerates what answers when no other endpoint is left. And off.
        0 => "maxPending: 100".to_owned(),
        1 => "failureThreshold: 0".to_owned(),
        _ => thresholds(rng),
    }
}

fn thresholds(rng: &mut Rng) -> String {
    let (row, reset) = (1 + rng.below(6), 1 + rng.below(6));
    let mut text =
        format!("failureThreshold: {row}, resetTimeout: {reset}s, maxResetTimeout: {}s", reset + rng.below(9));
    let (percent, least, above) = (1 + rng.below(100), 3 + rng.below(10), 20 + rng.below(300));
    match rng.below(4) {
        0 => {
            let _ = write!(text, ", failureRatio: {{ percent: {percent}, window: 5s, minRequests: {least} }}");
        }
        1 => {
            let _ = write!(text, ", latency: {{ quantile: 90, above: {above}ms, window: 5s, minRequests: {least} }}");
        }
        _ => {}
    }
    if one_in(3, rng) {
        let _ = write!(text, ", ramp: {}s", 1 + rng.below(5));
    }
    text
}

fn outliers(rng: &mut Rng) -> String {
    let percent = [10, 50, 50, 100, 100][rng.below(5) as usize];
    let (errors, gateway, split) = (1 + rng.below(4), rng.below(3), rng.below(2) == 0);
    let (interval, base, least) = (1 + rng.below(4), 2 + rng.below(8), 3 + rng.below(8));
    format!(
        "    outlierDetection: {{ consecutiveErrors: {errors}, consecutiveGatewayErrors: {gateway}, splitLocalOrigin: {split}, \
         interval: {interval}s, baseEjection: {base}s, maxEjectionPercent: {percent}, \
         successRate: {{ minHosts: 3, minRequests: {least}, stdevFactor: 1.0 }} }}\n"
    )
}

fn one_in(chance: u64, rng: &mut Rng) -> bool {
    rng.below(chance) == 0
}

const POLICIES: [&str; 6] = ["roundRobin", "leastRequest", "peakEwma", "random", "ringHash", "maglev"];
