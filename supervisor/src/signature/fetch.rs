//! Reading a bundle's folder for a load, as the policy asks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use menagerie_protocol::loader::manifest::{MANIFEST_FILE, ParsedManifest};
use menagerie_protocol::{BundleSource, LoaderError, ManifestData, RuntimeError};

use super::files::Flaw;
use super::{SignatureConfig, SignaturePolicy, SignatureStatus, Snapshot, file, trust};
use crate::blocking::{Folder, blocking};
use crate::bundle::Content;
use crate::config::Config;
use crate::core::Core;
use crate::events::EventKind;
use crate::sandbox::Rights;

/// Where a bundle may be copied to, and which bundles are.
struct Copies {
    config: Arc<Config>,
    /// Where all copies of the bundle are, as a worker in a sandbox reads there only.
    home: Arc<Folder>,
    dir: PathBuf,
}

impl Copies {
    /// Whether several workers load it.
    fn are_for(&self, manifest: &ManifestData) -> bool {
        self.config.replicas_of(&manifest.loader) > 1
    }
}

/// What is to be loaded of a bundle.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) content: Content,
    /// The user's folder, unless it came from memory.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) warnings: Vec<String>,
    /// Why its signature is none to rely on, where it is loaded nevertheless.
    doubt: Option<LoaderError>,
}

impl Core {
    /// Reads a bundle's folder. Unless the policy is off it is copied and
    /// checked, and what is loaded is the copy. Where it has replicas, it is
    /// copied in any case: one that comes back after a crash loads what the
    /// others run, whatever has become of the folder since (S9).
    ///
    /// `before` is what serves, at a reload: the new copy is beside the old one.
    pub(crate) async fn fetch(
        &self,
        dir: &Path,
        before: Option<&Content>,
    ) -> Result<Fetched, RuntimeError> {
        let number = self.next_copy();
        let home = before.and_then(|before| before.snapshot.as_ref()?.home().cloned());
        let new = || Arc::new(Folder(self.dir.path().join(format!("bundle-{number}"))));
        let home = home.unwrap_or_else(new);
        let dir_of_copy = home.0.join(format!("copy-{number}"));
        let copies = Copies { config: Arc::clone(&self.config), home, dir: dir_of_copy };
        let dir = dir.to_owned();
        let checks = self.config.signatures.policy != SignaturePolicy::Off;
        let cannot = |error: io::Error| LoaderError::io(dir.clone(), &error);
        let folder = dir.clone();
        // Whatever stands there, and on whatever file system, holds up nobody else.
        let fetch = blocking(move || {
            let fetched = if checks {
                Fetched::checked(&copies, &folder)
            } else {
                Fetched::plain(&copies, &folder)
            };
            fetched.map(|fetched| fetched.with_rights(&copies.config))
        });
        Ok(fetch.await.map_err(cannot)??)
    }

    /// A bundle from memory has no files that could be signed.
    pub(crate) fn fetch_from_memory(
        &self,
        parsed: ParsedManifest,
        source: BundleSource,
    ) -> Result<Fetched, RuntimeError> {
        let ParsedManifest { manifest, warnings } = parsed;
        let doubt = LoaderError::UnsignedBundle { bundle: manifest.name.clone() };
        let mut content = Content::plain(manifest, source);
        let doubt = match self.config.signatures.policy {
            SignaturePolicy::Off => None,
            SignaturePolicy::Required => return Err(doubt.into()),
            SignaturePolicy::Warn => {
                content.signature = SignatureStatus::of_error(&doubt);
                Some(doubt)
            }
        };
        let fetched = Fetched { content, folder: None, warnings, doubt };
        Ok(fetched.with_rights(&self.config))
    }
}

impl Fetched {
    /// What is to be told when it is loaded, and not before: that may be refused.
    pub(crate) fn told(&self) -> Vec<EventKind> {
        let bundle = || self.content.manifest.name.clone();
        let mut told = Vec::new();
        if let Some(doubt) = &self.doubt {
            let reason = doubt.to_string();
            told.push(EventKind::BundleUnverified { bundle: bundle(), reason });
        }
        let refused = self.content.rights.as_ref().map(|rights| &rights.refused);
        if let Some(wants) = refused.filter(|refused| !refused.is_empty()).cloned() {
            told.push(EventKind::BundleNotGranted { bundle: bundle(), wants });
        }
        told
    }

    /// With what it gets in its sandbox, if it is in one.
    fn with_rights(mut self, config: &Config) -> Self {
        let Content { manifest, source, snapshot, .. } = &self.content;
        let copies = snapshot.as_ref().and_then(|snapshot| Some(&*snapshot.home()?.0));
        self.content.rights = Rights::of(config, manifest, source, copies);
        self
    }

    fn unchecked(dir: &Path) -> Result<Self, LoaderError> {
        let ParsedManifest { manifest, warnings } = ManifestData::read(dir)?;
        let folder = manifest.dir.clone();
        let content = Content::plain(manifest, BundleSource::Path(folder.clone()));
        Ok(Self { content, folder: Some(folder), warnings, doubt: None })
    }

    /// With no signature asked for, but in a copy if it has replicas.
    fn plain(copies: &Copies, dir: &Path) -> Result<Self, LoaderError> {
        let fetched = Self::unchecked(dir)?;
        let is_copied = copies.are_for(&fetched.content.manifest);
        let Some(folder) = fetched.folder.clone().filter(|_| is_copied) else {
            return Ok(fetched);
        };
        // Another name than that of a copy whose signature did not hold, and
        // which is being removed.
        let copy = copies.dir.with_extension("unsigned");
        let sandbox = copies.config.sandbox_of(&fetched.content.manifest.name);
        let snapshot = Snapshot::take_unsigned(&folder, copy, sandbox).map_err(Flaw::of_copy)?;
        Self::of_snapshot(snapshot.in_home(&copies.home), folder)
    }

    fn checked(copies: &Copies, dir: &Path) -> Result<Self, LoaderError> {
        let manifest = dir.join(MANIFEST_FILE);
        if manifest.symlink_metadata().is_err() {
            // It says why.
            return Self::unchecked(dir);
        }
        let config = &copies.config.signatures;
        match Self::verified(config, dir, copies) {
            Err(error) if config.policy == SignaturePolicy::Warn => {
                let Some(signature) = SignatureStatus::of_error(&error) else { return Err(error) };
                let mut fetched = Self::plain(copies, dir)?;
                fetched.content.signature = Some(signature);
                fetched.doubt = Some(error);
                Ok(fetched)
            }
            outcome => outcome,
        }
    }

    /// What is in a copy.
    fn of_snapshot(snapshot: Snapshot, folder: PathBuf) -> Result<Self, LoaderError> {
        let parsed = ManifestData::read(snapshot.dir()).map_err(|e| snapshot.relocate(e))?;
        let ParsedManifest { manifest, warnings } = parsed;
        let source = BundleSource::Path(manifest.dir.clone());
        let mut content = Content::plain(manifest, source);
        content.snapshot = Some(snapshot);
        Ok(Self { content, folder: Some(folder), warnings, doubt: None })
    }

    /// Copies a bundle, and checks the copy.
    fn verified(
        config: &SignatureConfig,
        dir: &Path,
        copies: &Copies,
    ) -> Result<Self, LoaderError> {
        let name = name_of(dir);
        let folder = dir.canonicalize().map_err(|error| LoaderError::io(dir, &error))?;
        let snapshot =
            Snapshot::take(&folder, copies.dir.clone()).map_err(|flaw| flaw.of(&name))?;
        let snapshot = snapshot.in_home(&copies.home);
        // Of the user's folder, as it is by now: it fits the copy, or not.
        let key = file::verify(&folder, snapshot.files()).map_err(|flaw| flaw.of(&name))?;
        let Some(key) = key else { return Err(LoaderError::UnsignedBundle { bundle: name }) };
        let mut fetched = Self::of_snapshot(snapshot, folder)?;
        let bundle = &fetched.content.manifest.name;
        trust::judge(config, bundle, &key, trust::FirstUse::Remember)?;
        fetched.content.signature = Some(SignatureStatus::valid(&key));
        Ok(fetched)
    }
}

/// What to call a bundle whose manifest is not checked yet.
pub(super) fn name_of(dir: &Path) -> String {
    match ManifestData::read(dir) {
        Ok(parsed) => parsed.manifest.name,
        Err(_) => crate::discovery::folder_name(dir),
    }
}
