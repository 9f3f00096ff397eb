//! What runs, since when, where it came from, and what was refused last.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::{Diagnostics, Loaded};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use super::dump;
use super::material::MaterialStatus;
use crate::telemetry::rfc3339;

/// Where a configuration was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// The configured file.
    File(Arc<str>),
    /// The copy of the last good one, because the file was broken at the start.
    LastGood(Arc<str>),
}

/// What is known about the configuration, for people and for the admin server.
#[derive(Debug, Default)]
pub struct Status {
    /// Certificates and what became of them.
    pub material: Arc<MaterialStatus>,
    inner: Mutex<Inner>,
}

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

/// Whether a problem lies in the text, or in the machine, where the same text may do better later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The text is wrong.
    Text,
    /// It cannot be read, or an address cannot be bound, or a file not be opened.
    Machine,
    /// A certificate, key or bundle that it names is bad.
    Material {
        /// Of the contents of all of them.
        fingerprint: String,
    },
}

impl Fault {
    pub(super) fn is_material(&self) -> bool {
        matches!(self, Self::Material { .. })
    }
}

/// A configuration that was not put into effect.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What it is recognised by: the hash of its text, or of the reason when there was none.
    pub fingerprint: String,
    /// Why.
    pub problems: Diagnostics,
    /// Where that lies.
    pub fault: Fault,
    /// The files that would have to change, where it is because of certificates.
    pub files: BTreeSet<PathBuf>,
    /// When.
    pub at: SystemTime,
}

impl Status {
    /// What runs now.
    #[must_use]
    pub fn running(&self) -> Option<Running> {
        self.inner.lock().running.clone()
    }

    /// What was refused since the running one was taken.
    #[must_use]
    pub fn refusal(&self) -> Option<Refused> {
        self.inner.lock().refusal.clone()
    }

    /// A configuration took effect. With it from the file, a refusal before it is history.
    pub(super) fn applied(&self, running: Running) {
        let mut inner = self.inner.lock();
        if matches!(running.origin, Origin::File(_)) {
            inner.refusal = None;
        }
        inner.running = Some(running);
    }

    /// The file says again what runs.
    pub(super) fn confirmed(&self) {
        self.inner.lock().refusal = None;
    }

    pub(super) fn refused(&self, refused: Refused) {
        self.inner.lock().refusal = Some(refused);
    }

    /// Everything, credentials left out.
    #[must_use]
    pub fn report(&self) -> Report {
        let (running, refusal) = {
            let inner = self.inner.lock();
            (inner.running.clone(), inner.refusal.clone())
        };
        let from_file = running.as_ref().is_some_and(|running| matches!(running.origin, Origin::File(_)));
        Report {
            generation: running.as_ref().map_or(0, |running| running.generation),
            hash: running.as_ref().map(|running| running.loaded.hash.clone()),
            loaded_at: running.as_ref().map(|running| rfc3339(running.at)),
            source: running.as_ref().map(|running| running.origin.clone()),
            up_to_date: from_file && refusal.is_none(),
            last_refusal: refusal.map(|refused| RefusalReport {
                at: rfc3339(refused.at),
                hash: refused.fingerprint,
                diagnostics: problems(&refused.problems),
            }),
            warnings: running.as_ref().map(|running| problems(&running.loaded.warnings)).unwrap_or_default(),
            config: running.map(|running| dump::config(&running.loaded.config)),
        }
    }
}

/// [`Status`] for people and programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Counts configurations put into effect; 0 before the first.
    pub generation: u64,
    /// Of the text in effect.
    pub hash: Option<String>,
    /// Since when it is in effect.
    pub loaded_at: Option<String>,
    /// Where it came from.
    pub source: Option<Origin>,
    /// Whether it is what the file says.
    pub up_to_date: bool,
    /// What was refused since.
    pub last_refusal: Option<RefusalReport>,
    /// What works but is probably not meant.
    pub warnings: Vec<Value>,
    /// The configuration with every default, in the words of the file.
    pub config: Option<Value>,
}

/// A refused configuration for people and programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalReport {
    /// When.
    pub at: String,
    /// Of the refused text.
    pub hash: String,
    /// Why.
    pub diagnostics: Vec<Value>,
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
