//! What runs, since when, where it came from, and what was refused last.

use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::{Diagnostics, Loaded};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::dump;
use crate::telemetry::rfc3339;

/// Where a configuration was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configured file.
    File(Arc<str>),
    /// The copy of the last good one, because the file was broken at the start.
    LastGood(Arc<str>),
}

/// What is known about the configuration, for people and for the admin server.
#[derive(Debug, Default)]
pub struct Status(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: Option<Running>,
    refusal: Option<Refused>,
}

/// The configuration in effect.
#[derive(Debug, Clone)]
pub struct Running {
    /// Counts configurations put into effect, from 1.
    pub generation: u64,
    /// The configuration.
    pub loaded: Arc<Loaded>,
    /// Where it came from.
    pub origin: Origin,
    /// Since when.
    pub at: SystemTime,
}

/// A configuration that was not put into effect.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What it is recognised by: the hash of its text, or of the reason when there was none.
    pub fingerprint: String,
    /// Why.
    pub problems: Diagnostics,
    /// When.
    pub at: SystemTime,
}

impl Status {
    /// What runs now.
    #[must_use]
    pub fn running(&self) -> Option<Running> {
        self.0.lock().running.clone()
    }

    /// What was refused since the running one was taken.
    #[must_use]
    pub fn refusal(&self) -> Option<Refused> {
        self.0.lock().refusal.clone()
    }

    /// A configuration took effect. With it from the file, a refusal before it is history.
    pub(super) fn applied(&self, running: Running) {
        let mut inner = self.0.lock();
        if matches!(running.origin, Origin::File(_)) {
            inner.refusal = None;
        }
        inner.running = Some(running);
    }

    /// The file says again what runs.
    pub(super) fn confirmed(&self) {
        self.0.lock().refusal = None;
    }

    pub(super) fn refused(&self, refused: Refused) {
        self.0.lock().refusal = Some(refused);
    }

    /// Everything as JSON, credentials left out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (running, refusal) = {
            let inner = self.0.lock();
            (inner.running.clone(), inner.refusal.clone())
        };
        let refusal = refusal.map(|refused| {
            json!({ "at": rfc3339(refused.at), "hash": refused.fingerprint, "diagnostics": problems(&refused.problems) })
        });
        let Some(Running { generation, loaded, origin, at }) = running else {
            return json!({ "generation": 0, "upToDate": false, "lastRefusal": refusal });
        };
        let origin_json = match &origin {
            Origin::File(file) => json!({ "file": file }),
            Origin::LastGood(file) => json!({ "lastGood": file }),
        };
        json!({
            "generation": generation,
            "hash": loaded.hash,
            "loadedAt": rfc3339(at),
            "source": origin_json,
            "upToDate": refusal.is_none() && matches!(origin, Origin::File(_)),
            "lastRefusal": refusal,
            "warnings": problems(&loaded.warnings),
            "config": dump::config(&loaded.config),
        })
    }
}

/// Problems without the lines of the file they are in, which may contain credentials.
fn problems(problems: &Diagnostics) -> Vec<Value> {
    problems
        .iter()
        .map(|problem| {
            let place = |place: &outrigger_config::model::Place| {
                json!({ "file": place.file, "line": place.line, "column": place.column })
            };
            json!({
                "severity": problem.severity.as_str(),
                "place": place(&problem.place),
                "message": problem.message,
                "fix": problem.fix,
                "related": problem.related.as_ref().map(|(at, what)| json!({ "place": place(at), "message": what })),
            })
        })
        .collect()
}
