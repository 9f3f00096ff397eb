//! What runs, since when, where it came from, and what was refused last.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use outrigger_config::{Diagnostics, Loaded, model};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use super::dump;
use super::material::MaterialStatus;
use super::xds::ControlStatus;
use crate::telemetry::rfc3339;

/// Where a configuration was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// The configured file.
    File(Arc<str>),
    /// The copy of the last good one, because the file was broken at the start.
    LastGood(Arc<str>),
    /// A control plane; the server that said it.
    ControlPlane(Arc<str>),
    /// What a control plane said before, from this file, because none was there at the start.
    LastResources(Arc<str>),
}

/// What is known about the configuration, for people and for the admin server.
#[derive(Debug, Default)]
pub struct Status {
    /// Certificates and what became of them.
    pub material: Arc<MaterialStatus>,
    /// The control plane, where there is one; set once, at the start.
    pub(super) control: OnceLock<Arc<ControlStatus>>,
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
    pub fn report(&self, assigned: impl Fn(&str) -> Option<Arc<Vec<model::Endpoint>>>) -> Report {
        let (running, refusal) = {
            let inner = self.inner.lock();
            (inner.running.clone(), inner.refusal.clone())
        };
        let newest = |running: &Running| match &running.origin {
            Origin::File(_) => running.generation > 0,
            Origin::ControlPlane(_) | Origin::LastResources(_) => {
                self.control.get().is_some_and(|control| control.is_current())
            }
            Origin::LastGood(_) => false,
        };
        let newest = running.as_ref().is_some_and(newest);
        Report {
            generation: running.as_ref().map_or(0, |running| running.generation),
            hash: running.as_ref().map(|running| running.loaded.hash.clone()),
            loaded_at: running.as_ref().map(|running| rfc3339(running.at)),
            source: running.as_ref().map(|running| running.origin.clone()),
            up_to_date: newest && refusal.is_none(),
            control_plane: self.control.get().map(|control| control.report()),
            last_refusal: refusal.map(|refused| RefusalReport {
                at: rfc3339(refused.at),
                hash: refused.fingerprint,
                diagnostics: problems(&refused.problems),
            }),
            warnings: running.as_ref().map(|running| problems(&running.loaded.warnings)).unwrap_or_default(),
            config: running.map(|running| dump::config(&running.loaded.config, assigned)),
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
    /// Whether it is what the file says, or the control plane.
    pub up_to_date: bool,
    /// The control plane, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<Value>,
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
