//! Putting a configuration into effect, whole or not at all.
//!
//! Everything that can fail comes first and touches nothing: loading, reading and checking certificates, compiling,
//! opening the log, binding. Then come, without a step that can fail, publishing and draining. A failure keeps what
//! runs and says why.
//!
//! A configuration comes from a file's text, or from the resources of a control plane (`Applier::put_built`); then the
//! file holds only what concerns the process. What follows is the same for both.
//!
//! Certificates, keys and bundles change without the configuration ([`Applier::renew`]): the same configuration is
//! published again with them. Nothing drains then. Endpoints change without it too (`Applier::assign`).

mod candidate;
mod resources;
mod rotate;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use outrigger_config::{Diagnostic, Diagnostics, Loaded, Style, model};
use sha2::{Digest as _, Sha256};

pub use self::candidate::Start;
use self::candidate::{Candidate, Unusable};
pub(super) use self::resources::{NotBuilt, Unput};
use super::last_good::LastGood;
use super::status::{Fault, Origin, Refused, Running, Status};
use super::{file, jwks};
use crate::net::tls::{Secrets, TlsSet};
use crate::proxy::Proxy;
use crate::server::set::Leaving;
use crate::server::{BindError, Change, ListenerSet};
use crate::snapshot::{Snapshot, SnapshotCell};
use crate::telemetry::access_log::Sink;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::Registry;

/// What a configuration is put into effect in.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Live state that outlives configurations.
    pub registry: Arc<Registry>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Where requests find the configuration.
    pub cell: Arc<SnapshotCell>,
    /// The listeners.
    pub listeners: Arc<ListenerSet<Proxy>>,
    /// The access log.
    pub log: Arc<AccessLog>,
}

/// Puts configurations into effect, one after another.
#[derive(Debug)]
pub struct Applier {
    parts: Parts,
    /// The file; `None` where the process was told everything on its command line.
    path: Option<PathBuf>,
    last_good: Option<LastGood>,
    /// What concerns the process, where the rest comes from a control plane.
    bootstrap: Option<Arc<Loaded>>,
    status: Arc<Status>,
    generation: u64,
    /// The text of what runs; empty where it was built.
    text: String,
    material: Material,
    /// Files of a configuration that was refused because of them.
    awaited: BTreeSet<PathBuf>,
}

/// What of certificates and keys is in effect.
#[derive(Debug)]
struct Material {
    secrets: Secrets,
    tls: Arc<TlsSet>,
    /// Since when files contradict each other that are perhaps being replaced.
    unsettled: Option<Instant>,
}

impl Applier {
    /// Puts the first configuration into effect; the cell already has its snapshot.
    ///
    /// # Errors
    /// When a listener cannot be bound or the access log not opened.
    pub fn start(
        parts: Parts,
        start: Start,
        (path, last_good): (Option<PathBuf>, Option<LastGood>),
        status: Arc<Status>,
    ) -> Result<Self, Diagnostics> {
        let generation = start.generation();
        let Start { candidate: Candidate { text, loaded, secrets, tls }, origin, refused } = start;
        let awaited = refused.as_ref().map(|refused| refused.files.clone()).unwrap_or_default();
        let material = Material { secrets, tls, unsettled: None };
        let bootstrap = loaded.control_plane.is_some().then(|| Arc::clone(&loaded));
        let applier = Self { parts, path, last_good, bootstrap, status, generation, text, material, awaited };
        let ready = applier.prepare(&loaded).map_err(|obstacle| applier.described(obstacle))?;
        let clusters = applier.parts.cell.load().clusters().to_vec();
        applier.material.tls.activate();
        applier.parts.registry.activate(&loaded.config, &clusters, Instant::now());
        applier.commit(ready);
        applier.status.material.applied(&applier.material.tls, &applier.parts.metrics);
        let running = Running { generation, loaded, origin, at: SystemTime::now() };
        if applier.bootstrap.is_some() {
            // Nothing is configured yet: it only says how the process goes down, and what its certificates are.
            applier.keep_copy(&running.origin, &applier.text);
            applier.status.applied(running);
        } else {
            applier.acknowledge(&running);
        }
        if let Some(refused) = refused {
            let report = format!("\n{}", refused.problems.render(Style::Plain));
            tracing::error!(%report, "the configuration is broken; the last good one is used instead");
            applier.parts.metrics.proxy.refused();
            applier.status.refused(refused);
        }
        Ok(applier)
    }

    /// Reads the file and puts it into effect if it is new. `asked` means that somebody wants it now: then a
    /// text that was refused before is tried again too.
    pub async fn reload(&mut self, asked: bool) {
        let Some(path) = self.path.clone() else { return };
        let name = path.display().to_string();
        let text = match read(&path, &name) {
            Ok(text) => text,
            Err(unusable) => return self.refuse(unusable, asked),
        };
        // The file is looked at every few seconds: known texts are recognised before they are parsed.
        let fingerprint = fingerprint(&text);
        let running = self.status.running();
        let of_file = self.bootstrap.as_ref().or(running.as_ref().map(|running| &running.loaded));
        if of_file.is_some_and(|loaded| loaded.hash == fingerprint) {
            return self.confirm(running, &text, asked);
        }
        let is_refused = |before: Refused| before.fingerprint == fingerprint && before.fault == Fault::Text;
        if !asked && self.status.refusal().is_some_and(is_refused) {
            return;
        }
        let candidate = match Candidate::new(&name, text, Some((&self.material.secrets, &self.material.tls))) {
            Ok(candidate) => candidate,
            Err(unusable) => return self.refuse(unusable, asked),
        };
        if let Some(bootstrap) = self.bootstrap.clone() {
            return self.rebase(&bootstrap, candidate).await;
        }
        if candidate.loaded.control_plane.is_some() {
            let problem = "a proxy that runs without a control plane cannot get one while it runs".to_owned();
            let problem = Diagnostic::for_file(&name, problem, "start it again with this file".to_owned());
            return self.refuse(Unusable::on_this_machine(fingerprint, problem.into()), asked);
        }
        let origin = Origin::File(name.into());
        if let Err(obstacle) = self.put(candidate, origin).await {
            let problems = self.described(obstacle);
            self.refuse(Unusable::on_this_machine(fingerprint, problems), asked);
        }
    }

    /// Puts a configuration into effect. Not cancel safe in so far as names and keys may be asked for in vain.
    ///
    /// # Errors
    /// What is in the way; nothing has changed then.
    async fn put(&mut self, candidate: Candidate, origin: Origin) -> Result<(), Obstacle> {
        let Candidate { text, loaded, secrets, tls } = candidate;
        let running = self.status.running();
        // Names first: a cluster without addresses would fail its first requests.
        self.parts.registry.warm(&loaded.config).await;
        jwks::prime(&loaded.config, &self.parts.registry);
        jwks::settle(&self.parts.registry).await;
        let ready = self.prepare(&loaded)?;
        let next = self.generation + 1;
        // What came after the configuration before is in this one, or was taken back.
        self.parts.registry.unassign();
        let snapshot = Snapshot::compile((&loaded, &tls), &self.parts.registry, &self.parts.metrics, next);
        let clusters = snapshot.clusters().to_vec();
        for Leaving { listener, connections } in ready.change.leaving() {
            tracing::warn!(%listener, connections, "this change drains the connections of a listener");
        }
        self.parts.cell.store(snapshot);
        tls.activate();
        self.parts.registry.activate(&loaded.config, &clusters, Instant::now());
        self.commit(ready);
        self.generation = next;
        self.text = text;
        self.awaited.clear();
        self.status.material.applied(&tls, &self.parts.metrics);
        self.material = Material { secrets, tls, unsettled: None };
        note_restart_settings(running.as_ref(), &loaded.config);
        self.acknowledge(&Running { generation: next, loaded, origin, at: SystemTime::now() });
        Ok(())
    }

    /// Does all that can fail.
    fn prepare(&self, loaded: &Loaded) -> Result<Ready, Obstacle> {
        let target = &loaded.config.access_log;
        let sink = AccessLog::open(target).map_err(|error| Obstacle::Log(target.clone(), error))?;
        let change = self.parts.listeners.prepare(&loaded.config.listeners).map_err(Obstacle::Bind)?;
        Ok(Ready { sink, change })
    }

    fn described(&self, obstacle: Obstacle) -> Diagnostics {
        match obstacle {
            Obstacle::Log(target, error) => self.log_problem(&target, &error),
            Obstacle::Bind(error) => bind_problem(&error),
        }
    }

    fn commit(&self, ready: Ready) {
        if let Err(error) = self.parts.log.switch(ready.sink) {
            tracing::error!(%error, "the access log cannot be written: its thread did not start");
        }
        self.parts.listeners.commit(ready.change);
    }

    fn acknowledge(&self, running: &Running) {
        let Running { generation, loaded, origin, at } = running;
        self.keep_copy(origin, &self.text);
        self.parts.metrics.proxy.applied(*generation, *at);
        for warning in &loaded.warnings {
            let report = format!("\n{warning}");
            tracing::warn!(%report, "the configuration works, but probably not as meant");
        }
        tracing::info!(generation, hash = loaded.hash, "configuration in effect");
        self.status.applied(running.clone());
    }

    /// A copy that cannot be written costs the next start, not this change.
    fn keep_copy(&self, origin: &Origin, text: &str) {
        let (Some(copy), Origin::File(_)) = (&self.last_good, origin) else { return };
        if let Err(error) = copy.write(text) {
            let path = copy.path();
            tracing::error!(%error, path = %path.display(), "the last good configuration could not be kept");
        }
    }

    /// The file says what runs already.
    fn confirm(&mut self, running: Option<Running>, text: &str, asked: bool) {
        if asked {
            tracing::info!("the configuration has not changed");
        }
        let from_copy = running.filter(|running| matches!(running.origin, Origin::LastGood(_)));
        if from_copy.is_none() && self.status.refusal().is_none() {
            return;
        }
        if let Some(running) = from_copy {
            let origin = Origin::File(self.file_name().into());
            self.keep_copy(&origin, text);
            self.status.applied(Running { origin, ..running });
        }
        tracing::info!("the configuration file says again what runs");
        self.awaited.clear();
        self.status.confirmed();
        self.parts.metrics.proxy.confirmed();
    }

    /// Keeps what runs. The same problem is said once, unless somebody asked.
    fn refuse(&mut self, unusable: Unusable, asked: bool) {
        let Unusable(refused) = unusable;
        self.awaited.clone_from(&refused.files);
        let known = self.status.refusal().is_some_and(|before| {
            // Problems of certificates may name the time, so it is the same contents that count.
            let same =
                before.problems == refused.problems || refused.fault.is_material() && before.fault == refused.fault;
            before.fingerprint == refused.fingerprint && same
        });
        if known && !asked {
            return;
        }
        let report = format!("\n{}", refused.problems.render(Style::Plain));
        tracing::error!(generation = self.generation, %report, "configuration refused; the one before stays in effect");
        self.parts.metrics.proxy.refused();
        self.status.refused(refused);
    }

    fn log_problem(&self, target: &model::AccessLog, error: &io::Error) -> Diagnostics {
        let mut message = format!("the access log cannot be opened: {error}");
        if let model::AccessLog::File(path) = target {
            // Writing to a string cannot fail.
            let _ = write!(message, " ({})", path.display());
        }
        let fix = "name a file that this user may write to, in a folder that is there".to_owned();
        Diagnostic::for_file(&self.file_name(), message, fix).into()
    }

    fn file_name(&self) -> String {
        self.path.as_ref().map_or_else(|| COMMAND_LINE.to_owned(), |path| path.display().to_string())
    }
}

/// How a configuration is called that is in no file.
pub(crate) const COMMAND_LINE: &str = "the command line";

/// What is in the way of a configuration.
#[derive(Debug)]
enum Obstacle {
    Log(model::AccessLog, io::Error),
    Bind(BindError),
}

/// All that could fail was done.
struct Ready {
    sink: Sink,
    change: Change,
}

fn read(path: &Path, name: &str) -> Result<String, Unusable> {
    file::read(path).map_err(|error| {
        let message = format!("the file cannot be read: {error}");
        let fix = "check the path and who may read it".to_owned();
        let problems = Diagnostic::for_file(name, message.clone(), fix).into();
        Unusable::on_this_machine(fingerprint(&message), problems)
    })
}

/// As the hash of a loaded configuration is made.
fn fingerprint(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn bind_problem(error: &BindError) -> Diagnostics {
    let fix = "free the address, or give the listener another one".to_owned();
    let mut problem = Diagnostic::for_file(&error.place.file, error.to_string(), fix);
    problem.place = error.place.clone();
    problem.into()
}

/// Two settings are read once.
fn note_restart_settings(before: Option<&Running>, now: &model::Config) {
    let Some(before) = before.map(|running| &running.loaded.config) else { return };
    if before.workers != now.workers {
        tracing::warn!("`workers` has changed; it takes effect at the next start");
    }
    if before.admin != now.admin {
        tracing::warn!("`admin` has changed; it takes effect at the next start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_config::load;

    #[test]
    fn a_text_is_recognised_by_the_hash_that_loading_gives_it() {
        let text = include_str!("../../config/examples/minimal.yaml");
        assert_eq!(load("minimal.yaml", text).expect("valid").hash, fingerprint(text));
    }
}
