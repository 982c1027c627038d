//! Which module an `import` means, and its text: `menagerie`, or a file of the
//! bundle.

use std::path::{Path, PathBuf};

use deno_core::url::Url;
use menagerie_protocol::loader::read_file;

/// The module that the worker itself provides.
pub(crate) const API: &str = "menagerie";

/// A module: one file is two modules if it is imported as script and as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleKey {
    /// The file's canonical path, or a name for what is no file. Stacks show it.
    pub(crate) name: String,
    /// Imported `with { type: "json" }`.
    pub(crate) json: bool,
}

impl ModuleKey {
    /// A script.
    pub(crate) fn script(name: impl Into<String>) -> Self {
        Self { name: name.into(), json: false }
    }
}

/// Where a bundle's modules come from.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The bundle's folder, canonical; a bundle from memory has none.
    dir: Option<PathBuf>,
    main: ModuleKey,
    /// The main module's text, if it comes from memory.
    code: Option<String>,
}

impl Sources {
    /// A bundle in a folder; `file` is its main module. Both are canonical.
    pub(crate) fn in_dir(dir: &Path, file: &Path) -> Self {
        let main = ModuleKey::script(file.to_string_lossy());
        Self { dir: Some(dir.to_owned()), main, code: None }
    }

    /// A bundle from memory.
    pub(crate) fn in_memory(bundle: &str, file: &str, code: String) -> Self {
        let file = if file.is_empty() { "main.js" } else { file };
        let main = ModuleKey::script(format!("memory:{bundle}/{file}"));
        Self { dir: None, main, code: Some(code) }
    }

    /// The bundle's folder; one from memory has none.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// The main module.
    pub(crate) const fn main(&self) -> &ModuleKey {
        &self.main
    }

    /// The module that `specifier` means in the module named `referrer`.
    ///
    /// # Errors
    ///
    /// A sentence for people: there is no such module, or it is none of the
    /// bundle's.
    pub(crate) fn resolve(
        &self,
        specifier: &str,
        referrer: &str,
        json: bool,
    ) -> Result<ModuleKey, String> {
        if specifier == API {
            return Ok(ModuleKey::script(API));
        }
        let relative = specifier.starts_with("./") || specifier.starts_with("../");
        let path = if relative {
            Path::new(referrer).parent().unwrap_or(Path::new("")).join(specifier)
        } else if specifier.starts_with('/') {
            PathBuf::from(specifier)
        } else if let Some(path) = file_of_url(specifier) {
            path
        } else {
            return Err(format!(
                "cannot import '{specifier}': a bundle imports 'menagerie' and files of its own \
                 folder, such as './util.js'"
            ));
        };
        let path = self.contained(&path, specifier)?;
        let name = path.to_str().ok_or_else(|| {
            format!("cannot import '{specifier}': {} is not UTF-8", path.display())
        })?;
        Ok(ModuleKey { name: name.to_owned(), json })
    }

    /// A module's text.
    ///
    /// # Errors
    ///
    /// A sentence for people.
    pub(crate) fn read(&self, key: &ModuleKey) -> Result<String, String> {
        if let Some(code) = self.code.as_ref().filter(|_| *key == self.main) {
            return Ok(code.clone());
        }
        // Once more, since what was resolved may be a symlink by now.
        let path = self.contained(Path::new(&key.name), &key.name)?;
        let told = |problem: &str| format!("{}: {problem}", path.display());
        let bytes = read_file(&path).map_err(|e| told(&e.to_string()))?;
        String::from_utf8(bytes).map_err(|_| told("is not UTF-8 text"))
    }

    /// A path inside the bundle's folder, after symlinks.
    fn contained(&self, path: &Path, specifier: &str) -> Result<PathBuf, String> {
        let Some(dir) = &self.dir else {
            return Err(format!(
                "cannot import '{specifier}': this bundle was loaded from memory, so it has no \
                 folder with siblings"
            ));
        };
        let resolved = path
            .canonicalize()
            .map_err(|e| format!("cannot import '{specifier}': {}: {e}", path.display()))?;
        if !resolved.starts_with(dir) {
            return Err(format!(
                "cannot import '{specifier}': it leads out of the bundle's folder {}",
                dir.display()
            ));
        }
        Ok(resolved)
    }
}

/// The path of a `file:` address, such as those relative to `import.meta.url`.
fn file_of_url(specifier: &str) -> Option<PathBuf> {
    let url = Url::parse(specifier).ok().filter(|url| url.scheme() == "file")?;
    url.to_file_path().ok()
}
