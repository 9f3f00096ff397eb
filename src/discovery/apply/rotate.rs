//! Certificates that change while the configuration stays.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::super::material::{GRACE, RETRY, RefusedMaterial, describe, locate, log_changes};
use super::super::status::Running;
use super::{Applier, Material};
use crate::net::tls::{MaterialError, Secrets, TlsSet};
use crate::snapshot::Snapshot;

impl Applier {
    /// The files whose change matters: those of the configuration in effect, and those for which another one was
    /// refused.
    #[must_use]
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = self.awaited.clone();
        if let Some(running) = self.status.running() {
            files.extend(Secrets::paths(&running.loaded.config));
        }
        files
    }

    /// After what time the files should be looked at again although nothing was heard: they contradicted each
    /// other, as they do while they are replaced one after another.
    #[must_use]
    pub fn look_again(&self) -> Option<Duration> {
        self.material.unsettled.map(|_| RETRY)
    }

    /// Some of [`Applier::files`] may have changed: reads them and puts what is new into effect.
    pub async fn files_changed(&mut self) {
        if self.status.refusal().is_some_and(|refused| refused.fault.is_material()) {
            self.reload(false).await;
        }
        self.renew(false);
    }

    /// Reads the files of the configuration in effect and puts what is new of them into effect. `asked` means that
    /// somebody wants it now and wants to hear of problems, also known ones.
    pub fn renew(&mut self, asked: bool) {
        let Some(running) = self.status.running() else { return };
        let secrets = Secrets::read(&running.loaded.config, &self.material.secrets);
        if secrets == self.material.secrets {
            self.material.unsettled = None;
            if self.status.material.confirmed() {
                tracing::info!("certificate files hold again what is in effect");
                self.parts.metrics.certificates.confirmed();
            }
            return;
        }
        let fingerprint = secrets.fingerprint();
        if let Err(problems) = self.take(&running, secrets, SystemTime::now()) {
            self.refuse_material(fingerprint, problems, asked);
        }
    }

    /// Puts the configuration in effect once more into effect, with these secrets, wherever they come from.
    ///
    /// # Errors
    /// What is wrong with them; nothing has changed then.
    fn take(&mut self, running: &Running, secrets: Secrets, now: SystemTime) -> Result<(), Vec<MaterialError>> {
        let loaded = &running.loaded;
        let tls = Arc::new(TlsSet::build(&loaded.config, &secrets, Some(&self.material.tls), now)?);
        let (registry, metrics) = (&self.parts.registry, &self.parts.metrics);
        let snapshot = Snapshot::compile((loaded, &tls), registry, metrics, self.generation);
        let clusters = snapshot.clusters().to_vec();
        self.parts.cell.store(snapshot);
        tls.activate();
        registry.activate(&loaded.config, &clusters, Instant::now());
        self.parts.listeners.refresh();

        let mut files = log_changes(self.material.tls.certificates(), tls.certificates());
        for file in tls.session_keys_changed(&self.material.tls) {
            tracing::info!(file = %file.display(), "sessions are named with a new key; those of the key before still hold");
            files.insert(file.to_owned());
        }
        metrics.certificates.rotated(now);
        self.status.material.applied(&tls, metrics);
        self.status.material.rotated(files, now);
        self.material = Material { secrets, tls, unsettled: None };
        Ok(())
    }

    /// Keeps what is in effect. The same contents are spoken of once, unless somebody asked.
    fn refuse_material(&mut self, fingerprint: String, mut problems: Vec<MaterialError>, asked: bool) {
        let known = self.status.material.refusal().is_some_and(|before| before.fingerprint == fingerprint);
        if !known && !asked {
            let since = *self.material.unsettled.get_or_insert_with(Instant::now);
            if since.elapsed() < GRACE {
                tracing::debug!(?problems, "certificate files do not fit together; perhaps they are being replaced");
                return;
            }
        }
        self.material.unsettled = None;
        if known && !asked {
            return;
        }
        locate(&mut problems, &self.text);
        let report = describe(&problems, &self.text);
        tracing::error!(%report, "certificates refused; those before stay in effect");
        self.parts.metrics.certificates.refused(problems.iter().map(|problem| problem.reason.code()));
        self.status.material.refused(RefusedMaterial { fingerprint, problems, at: SystemTime::now() });
    }
}
