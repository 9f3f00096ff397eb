//! Watches what the process uses, and says what is done about it. Runs on the control thread, which has nothing to do with
//! requests: they read one number.

use std::sync::Arc;

use outrigger_config::model::Overload;

use super::memory;
use crate::base::limits;
use crate::base::pressure::{Level, Pressure};
use crate::policy::overload;
use crate::telemetry::metrics::{OverloadMetrics, resident_bytes};

/// What a watch acts upon.
pub trait Shrink {
    /// The settings in effect; `None` before there are any.
    fn settings(&self) -> Option<Overload>;
    /// Where it is counted.
    fn metrics(&self) -> &OverloadMetrics;
    /// Closes connections to upstreams that nobody uses.
    fn close_idle(&self);
}

/// Watches for ever.
pub async fn watch(pressure: Arc<Pressure>, owner: Arc<impl Shrink>) {
    let mut ticks = tokio::time::interval(limits::PRESSURE_LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(settings) = owner.settings() else { continue };
        look(&pressure, &settings, &*owner);
    }
}

/// Limits the connections of all listeners. Called before the first one listens; the watch does it with later settings.
pub fn limit_connections(pressure: &Pressure, settings: &Overload) {
    let most = match settings.max_connections {
        0 => usize::MAX,
        most => usize::try_from(most).unwrap_or(usize::MAX),
    };
    pressure.limit_connections(most);
}

fn look(pressure: &Pressure, settings: &Overload, owner: &impl Shrink) {
    limit_connections(pressure, settings);
    let limit = settings.memory_limit.or_else(memory::control_group_limit);
    let used = limit.and_then(|_| resident_bytes());
    let before = pressure.level();
    let level = match (limit, used) {
        (Some(limit), Some(used)) => overload::level(before, used, limit, settings),
        _ => Level::None,
    };
    owner.metrics().is_at(level, limit.unwrap_or(0));
    if pressure.set(level) {
        owner.metrics().changed_to(level);
        say(before, level, used.unwrap_or(0), limit.unwrap_or(0));
    }
    if level >= Level::Shrink {
        owner.close_idle();
    }
}

fn say(before: Level, level: Level, used: u64, limit: u64) {
    let (before, now) = (before.name(), level.name());
    if level == Level::None {
        tracing::info!(level = now, before, used, limit, "memory is no longer short");
    } else {
        tracing::warn!(level = now, before, used, limit, "memory is short");
    }
}
