//! A configuration with all that it needs from files, checked and not yet in effect.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::{Diagnostics, Loaded, load};

use super::super::last_good::LastGood;
use super::super::material;
use super::super::status::{Fault, Origin, Refused};
use super::{fingerprint, read};
use crate::net::tls::{MaterialError, Secrets, TlsSet};

/// A configuration that can be put into effect, as far as can be known without binding.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) text: String,
    pub(super) loaded: Arc<Loaded>,
    pub(super) secrets: Secrets,
    pub(super) tls: Arc<TlsSet>,
}

/// A configuration that cannot be put into effect.
#[derive(Debug)]
pub(super) struct Unusable(pub(super) Refused);

/// A configuration read at the start, and what was wrong with the file if this is the last good copy.
#[derive(Debug)]
pub struct Start {
    pub(super) candidate: Candidate,
    /// Where it is from.
    pub(super) origin: Origin,
    /// Why the file itself is not used.
    pub(super) refused: Option<Refused>,
}

impl Candidate {
    /// A configuration that was built from resources, with the files that it names.
    pub(super) fn built(loaded: Loaded, before: (&Secrets, &TlsSet)) -> Result<Self, Vec<MaterialError>> {
        let secrets = Secrets::read(&loaded.config, before.0);
        let tls = TlsSet::build(&loaded.config, &secrets, Some(before.1), SystemTime::now())?;
        Ok(Self { text: String::new(), loaded: Arc::new(loaded), secrets, tls: Arc::new(tls) })
    }

    /// Loads a text and reads the files that it names. `before` is what is in effect.
    pub(super) fn new(name: &str, text: String, before: Option<(&Secrets, &TlsSet)>) -> Result<Self, Unusable> {
        let hash = fingerprint(&text);
        let unusable = |problems, fault, files| {
            Unusable(Refused { fingerprint: hash.clone(), problems, fault, files, at: SystemTime::now() })
        };
        let loaded = match load(name, &text) {
            Ok(loaded) => loaded,
            Err(problems) => return Err(unusable(problems, Fault::Text, Default::default())),
        };
        let config = &loaded.config;
        let secrets = Secrets::read(config, before.map_or(&Secrets::default(), |(secrets, _)| secrets));
        match TlsSet::build(config, &secrets, before.map(|(_, tls)| tls), SystemTime::now()) {
            Ok(tls) => Ok(Self { text, loaded: Arc::new(loaded), secrets, tls: Arc::new(tls) }),
            Err(mut errors) => {
                material::locate(&mut errors, &text);
                let files = Secrets::paths(config).into_iter().collect();
                let problems = material::diagnostics(&errors, &text);
                Err(unusable(problems, Fault::Material { fingerprint: secrets.fingerprint() }, files))
            }
        }
    }
}

impl Unusable {
    /// Something about this machine is in the way; the same text may do better later.
    pub(super) fn on_this_machine(fingerprint: String, problems: Diagnostics) -> Self {
        let (fault, files) = (Fault::Machine, Default::default());
        Self(Refused { fingerprint, problems, fault, files, at: SystemTime::now() })
    }
}

impl Start {
    /// Reads the file and the certificates that it names; if something of that is broken and there is a good copy,
    /// that.
    ///
    /// # Errors
    /// The problems of the file, when the copy cannot be used either.
    pub fn read(path: &Path, last_good: Option<&LastGood>) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        let Unusable(refused) = match read(path, &name).and_then(|text| Candidate::new(&name, text, None)) {
            Ok(candidate) => return Ok(Self { candidate, origin: Origin::File(name.into()), refused: None }),
            Err(unusable) => unusable,
        };
        let Some(copy) = last_good else { return Err(refused.problems) };
        let path = copy.path().display().to_string();
        let text = match copy.read() {
            Ok(Some(text)) => text,
            Ok(None) => return Err(refused.problems),
            Err(error) => {
                tracing::error!(%error, copy = path, "the last good configuration cannot be used");
                return Err(refused.problems);
            }
        };
        if fingerprint(&text) == refused.fingerprint {
            tracing::error!(copy = path, "the last good configuration is the same one, so it cannot be used either");
            return Err(refused.problems);
        }
        match Candidate::new(&path, text, None) {
            Ok(candidate) => Ok(Self { candidate, origin: Origin::LastGood(path.into()), refused: Some(refused) }),
            Err(Unusable(Refused { problems, fault, .. })) if fault.is_material() => {
                let report = format!("\n{problems}");
                tracing::error!(copy = path, %report, "certificates of the last good configuration cannot be used either");
                Err(refused.problems)
            }
            Err(_) => {
                tracing::error!(copy = path, "the last good configuration is not valid for this version");
                Err(refused.problems)
            }
        }
    }

    /// A text that is in no file.
    ///
    /// # Errors
    /// Its problems.
    pub fn told(name: &str, text: String) -> Result<Self, Diagnostics> {
        match Candidate::new(name, text, None) {
            Ok(candidate) => Ok(Self { candidate, origin: Origin::File(name.into()), refused: None }),
            Err(Unusable(refused)) => Err(refused.problems),
        }
    }

    /// The number that it has: none where listeners, routes and clusters are yet to come.
    #[must_use]
    pub fn generation(&self) -> u64 {
        u64::from(self.candidate.loaded.control_plane.is_none())
    }

    /// What to run.
    #[must_use]
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.candidate.loaded
    }

    /// TLS of it.
    #[must_use]
    pub fn tls(&self) -> &Arc<TlsSet> {
        &self.candidate.tls
    }
}
