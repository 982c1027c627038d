//! Reading `manifest.toml`: every error names file, line and key.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{Unread, read_at_most};
use super::manifest::{
    BundleDependency, ContractDependency, DependencyKind, ManifestData, ParsedManifest, Wants,
};
use crate::contract::{ContractId, ContractRequest};
use crate::{BundleId, LoaderError};

/// The largest manifest that is read: far above any real one, and small enough
/// that a device file or a mistaken artifact does no harm.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

pub(super) fn read_text(file: &Path) -> Result<String, LoaderError> {
    let invalid = |message: &str| LoaderError::ManifestInvalid {
        file: file.to_owned(),
        line: None,
        key: String::new(),
        message: message.to_owned(),
    };
    let bytes = read_at_most(file, MAX_MANIFEST_BYTES).map_err(|error| match error {
        Unread::Irregular => invalid("is no regular file"),
        Unread::TooLarge => invalid("is larger than 1 MiB"),
        Unread::Io(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                LoaderError::ManifestNotFound { path: file.to_owned() }
            }
            _ => LoaderError::io(file, &error),
        },
    })?;
    String::from_utf8(bytes).map_err(|_| invalid("is not UTF-8 text"))
}

pub(super) fn missing_key(file: &Path, key: &str) -> LoaderError {
    LoaderError::ManifestInvalid {
        file: file.to_owned(),
        line: None,
        key: key.to_owned(),
        message: "is missing".to_owned(),
    }
}

pub(super) fn parse(text: &str, file: &Path) -> Result<ParsedManifest, LoaderError> {
    let mut reader = Reader { text, file, warnings: Vec::new() };
    let root = DeTable::parse(text).map_err(|e| LoaderError::ManifestInvalid {
        file: file.to_owned(),
        line: e.span().map(|span| reader.line(&span)),
        key: String::new(),
        message: e.message().trim().to_owned(),
    })?;
    let manifest = reader.manifest(root.get_ref())?;
    Ok(ParsedManifest { manifest, warnings: reader.warnings })
}

/// Keys that other writers of this format put there, and that mean nothing
/// here; anything else unknown is a warning.
const IGNORED_KEYS: [&str; 3] = ["description", "author", "license"];

/// The keys of a bundle itself. TOML takes those that stand below `[file]` for
/// the table's, which is the commonest slip; they are the bundle's all the same.
const KEYS: [&str; 13] = [
    "name",
    "id",
    "bundle_id",
    "version",
    "loader",
    "runtime",
    "provides",
    "bundle_dependencies",
    "needs_reinit_on_dep_reload",
    "function_count",
    "dependency",
    "idempotent",
    "wants",
];

/// Operating systems, as `[file]` names them: a table of architectures stands
/// under each, and nothing else.
const SYSTEMS: [&str; 9] =
    ["linux", "macos", "windows", "freebsd", "netbsd", "openbsd", "android", "ios", "dragonfly"];

struct Reader<'t> {
    text: &'t str,
    file: &'t Path,
    warnings: Vec<String>,
}

type Value<'i> = Spanned<DeValue<'i>>;

impl Reader<'_> {
    #[allow(clippy::cast_possible_truncation, reason = "a manifest has at most 2^20 bytes")]
    fn line(&self, span: &Range<usize>) -> u32 {
        let end = span.start.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() as u32 + 1
    }

    fn error(&self, key: &str, value: &Value<'_>, message: impl Into<String>) -> LoaderError {
        LoaderError::ManifestInvalid {
            file: self.file.to_owned(),
            line: Some(self.line(&value.span())),
            key: key.to_owned(),
            message: message.into(),
        }
    }

    fn wrong_type(&self, key: &str, value: &Value<'_>, expected: &str) -> LoaderError {
        let found = value.get_ref().type_str();
        self.error(key, value, format!("expected {expected}, found {found}"))
    }

    fn string<'v>(&self, key: &str, value: &'v Value<'_>) -> Result<&'v str, LoaderError> {
        value.get_ref().as_str().ok_or_else(|| self.wrong_type(key, value, "a string"))
    }

    fn bool(&self, key: &str, value: &Value<'_>) -> Result<bool, LoaderError> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong_type(key, value, "true or false"))
    }

    /// An integer of up to 64 bits without a sign: ids are hashes, and may be
    /// written as the negative number of the same bits.
    #[allow(clippy::cast_sign_loss, reason = "the bits are what counts")]
    fn id(&self, key: &str, value: &Value<'_>) -> Result<u64, LoaderError> {
        let wrong = || self.wrong_type(key, value, "an integer");
        let integer = value.get_ref().as_integer().ok_or_else(wrong)?;
        let digits = integer.as_str().replace('_', "");
        u64::from_str_radix(&digits, integer.radix())
            .or_else(|_| i64::from_str_radix(&digits, integer.radix()).map(|v| v as u64))
            .map_err(|_| self.error(key, value, "does not fit 64 bits"))
    }

    fn table<'v, 'i>(
        &self,
        key: &str,
        value: &'v Value<'i>,
    ) -> Result<&'v DeTable<'i>, LoaderError> {
        value.get_ref().as_table().ok_or_else(|| self.wrong_type(key, value, "a table"))
    }

    fn list<'v, 'i>(
        &self,
        key: &str,
        value: &'v Value<'i>,
    ) -> Result<&'v [Value<'i>], LoaderError> {
        value
            .get_ref()
            .as_array()
            .map(|array| array.as_ref())
            .ok_or_else(|| self.wrong_type(key, value, "a list"))
    }

    fn unknown(&mut self, key: &str, span: &Range<usize>) {
        if !IGNORED_KEYS.contains(&key) {
            let line = self.line(span);
            self.warnings.push(format!("{}:{line}: unknown key '{key}'", self.file.display()));
        }
    }

    fn manifest(&mut self, root: &DeTable<'_>) -> Result<ManifestData, LoaderError> {
        let mut name = None;
        let mut ids = Vec::new();
        let mut loader = None;
        let mut runtime = None;
        let mut manifest = ManifestData {
            name: String::new(),
            id: BundleId::from_raw(0),
            version: "0.0.0".to_owned(),
            loader: String::new(),
            file: String::new(),
            provides: Vec::new(),
            bundle_dependencies: Vec::new(),
            needs_reinit_on_dep_reload: false,
            function_count: BTreeMap::new(),
            dependencies: Vec::new(),
            idempotent: BTreeMap::new(),
            wants: Wants::default(),
            dir: PathBuf::new(),
        };
        let mut entries: Vec<(&str, Range<usize>, &Value<'_>)> =
            root.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value)).collect();
        self.take_from_below_file(root, &mut entries);
        for (key, key_span, value) in entries {
            match key {
                "name" => name = Some(self.name(value)?),
                "id" | "bundle_id" => ids.push(self.id(key, value)?),
                "version" => self.string(key, value)?.clone_into(&mut manifest.version),
                "loader" => loader = Some(self.string(key, value)?.to_owned()),
                // What polyplug called it before.
                "runtime" => runtime = Some(self.string(key, value)?.to_owned()),
                "file" => manifest.file = self.artifact(value)?,
                "provides" => manifest.provides = self.provides(value)?,
                "bundle_dependencies" => {
                    manifest.bundle_dependencies = self.bundle_dependencies(value)?
                }
                "needs_reinit_on_dep_reload" => {
                    manifest.needs_reinit_on_dep_reload = self.bool(key, value)?;
                }
                "function_count" => manifest.function_count = self.function_count(value)?,
                "dependency" => manifest.dependencies = self.dependencies(value)?,
                "idempotent" => manifest.idempotent = self.idempotent(value)?,
                "wants" => manifest.wants = self.wants(value)?,
                _ => self.unknown(key, &key_span),
            }
        }
        manifest.name = name.ok_or_else(|| missing_key(self.file, "name"))?;
        manifest.loader = loader.or(runtime).ok_or_else(|| missing_key(self.file, "loader"))?;
        manifest.id = BundleId::of_name(&manifest.name);
        match ids.into_iter().find(|stated| *stated != manifest.id.get()) {
            Some(stated) => Err(LoaderError::BundleTampered {
                file: self.file.to_owned(),
                name: manifest.name,
                stated: BundleId::from_raw(stated),
                computed: manifest.id,
            }),
            None => Ok(manifest),
        }
    }

    /// Adds the bundle's own keys that stand below `[file]`.
    fn take_from_below_file<'v, 'i>(
        &mut self,
        root: &'v DeTable<'i>,
        entries: &mut Vec<(&'v str, Range<usize>, &'v Value<'i>)>,
    ) {
        let Some(table) = root.get("file").and_then(|file| file.get_ref().as_table()) else {
            return;
        };
        for (key, value) in table {
            let (name, span): (&str, _) = (key.get_ref().as_ref(), key.span());
            if !KEYS.contains(&name) {
                continue;
            }
            let place = format!("{}:{}", self.file.display(), self.line(&span));
            if root.contains_key(name) {
                self.warnings.push(format!("{place}: '{name}' stands twice, here below [file]"));
                continue;
            }
            self.warnings.push(format!(
                "{place}: '{name}' stands below [file]; it is taken for the bundle's, and belongs above"
            ));
            entries.push((name, span, value));
        }
    }

    fn name(&self, value: &Value<'_>) -> Result<String, LoaderError> {
        let name = self.string("name", value)?;
        let plain = !name.is_empty()
            && name.len() <= 128
            && !name.starts_with('.')
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ' | ':'));
        if !plain {
            let rule = "expected 1 to 128 letters, digits, '.', '_', '-', ':' or spaces, not beginning with '.'";
            return Err(self.error("name", value, rule));
        }
        Ok(name.to_owned())
    }

    /// `file` is a string, or a table of operating systems of tables of
    /// architectures, with the names that Rust's `std::env::consts` uses.
    fn artifact(&mut self, value: &Value<'_>) -> Result<String, LoaderError> {
        if let Some(file) = value.get_ref().as_str() {
            return self.checked_artifact(file, value);
        }
        let Some(systems) = value.get_ref().as_table() else {
            return Err(self.wrong_type("file", value, "a string or a table of platforms"));
        };
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let mut available = Vec::new();
        let mut found = None;
        for (system, machines) in systems {
            let span = system.span();
            let system: &str = system.get_ref().as_ref();
            if KEYS.contains(&system) {
                continue;
            }
            let key = format!("file.{system}");
            let Some(machines) = machines.get_ref().as_table() else {
                if SYSTEMS.contains(&system) {
                    return Err(self.wrong_type(&key, machines, "a table of architectures"));
                }
                self.unknown(&key, &span);
                continue;
            };
            for (machine, file) in machines {
                let machine: &str = machine.get_ref().as_ref();
                let text = self.string(&format!("{key}.{machine}"), file)?;
                available.push(format!("{system}.{machine}"));
                if (system, machine) == (os, arch) {
                    found = Some(self.checked_artifact(text, file)?);
                }
            }
        }
        found.ok_or_else(|| {
            let message = format!("has no entry for {os}.{arch}; it has: {}", available.join(", "));
            self.error("file", value, message)
        })
    }

    fn checked_artifact(&self, file: &str, value: &Value<'_>) -> Result<String, LoaderError> {
        if file.trim().is_empty() {
            return Err(self.error("file", value, "is empty"));
        }
        Ok(file.to_owned())
    }

    fn provides(&self, value: &Value<'_>) -> Result<Vec<ContractId>, LoaderError> {
        let mut out: Vec<ContractId> = Vec::new();
        for item in self.list("provides", value)? {
            let id: ContractId = self
                .string("provides", item)?
                .parse()
                .map_err(|e| self.error("provides", item, format!("{e}")))?;
            if out.iter().any(|other| other.same_major(&id)) {
                return Err(self.error("provides", item, format!("'{id}' is listed twice")));
            }
            out.push(id);
        }
        Ok(out)
    }

    fn bundle_dependencies(&self, value: &Value<'_>) -> Result<Vec<BundleDependency>, LoaderError> {
        let key = "bundle_dependencies";
        let mut out = Vec::new();
        for item in self.list(key, value)? {
            let text = self.string(key, item)?;
            let (bundle, version) = match text.split_once('@') {
                Some((bundle, version)) => (bundle, Some(version)),
                None => (text, None),
            };
            if bundle.is_empty() {
                return Err(self.error(key, item, "expected NAME or NAME@VERSION"));
            }
            // One that nobody can read would be met by every version.
            if version.is_some_and(|version| !is_least_version(version)) {
                let message = format!("'{text}': expected NAME or NAME@MAJOR[.MINOR[.PATCH]]");
                return Err(self.error(key, item, message));
            }
            let version = version.unwrap_or_default();
            out.push(BundleDependency { bundle: bundle.to_owned(), version: version.to_owned() });
        }
        Ok(out)
    }

    fn function_count(&self, value: &Value<'_>) -> Result<BTreeMap<String, u32>, LoaderError> {
        let mut out = BTreeMap::new();
        for (contract, count) in self.table("function_count", value)? {
            let contract: &str = contract.get_ref().as_ref();
            let key = format!("function_count.{contract}");
            let number = u32::try_from(self.id(&key, count)?)
                .map_err(|_| self.error(&key, count, "expected a number of functions"))?;
            out.insert(contract.to_owned(), number);
        }
        Ok(out)
    }

    fn idempotent(&self, value: &Value<'_>) -> Result<BTreeMap<String, Vec<String>>, LoaderError> {
        let mut out = BTreeMap::new();
        for (contract, functions) in self.table("idempotent", value)? {
            let contract: &str = contract.get_ref().as_ref();
            let key = format!("idempotent.{contract}");
            let mut list = Vec::new();
            for function in self.list(&key, functions)? {
                list.push(self.string(&key, function)?.to_owned());
            }
            out.insert(base_name(contract).to_owned(), list);
        }
        Ok(out)
    }

    fn wants(&mut self, value: &Value<'_>) -> Result<Wants, LoaderError> {
        let mut wants = Wants::default();
        for (key, value) in self.table("wants", value)? {
            let span = key.span();
            let name: &str = key.get_ref().as_ref();
            let full = format!("wants.{name}");
            match name {
                "network" => wants.network = self.bool(&full, value)?,
                "read" => wants.read = self.paths(&full, value)?,
                "write" => wants.write = self.paths(&full, value)?,
                _ => self.unknown(&full, &span),
            }
        }
        Ok(wants)
    }

    /// Paths outside the bundle, of which there are few.
    fn paths(&self, key: &str, value: &Value<'_>) -> Result<Vec<PathBuf>, LoaderError> {
        const MOST: usize = 100;
        let list = self.list(key, value)?;
        if list.len() > MOST {
            return Err(self.error(key, value, "expected at most 100 paths"));
        }
        let path = |item| {
            let path = self.string(key, item)?;
            if path.len() > 256 || !path.starts_with('/') || path.contains('\0') {
                let message = format!("'{path}': expected an absolute path of at most 256 bytes");
                return Err(self.error(key, item, message));
            }
            Ok(PathBuf::from(path))
        };
        list.iter().map(path).collect()
    }

    fn dependencies(&mut self, value: &Value<'_>) -> Result<Vec<ContractDependency>, LoaderError> {
        let mut out = Vec::new();
        for item in self.list("dependency", value)? {
            out.push(self.dependency(item)?);
        }
        Ok(out)
    }

    fn dependency(&mut self, item: &Value<'_>) -> Result<ContractDependency, LoaderError> {
        let mut kind = DependencyKind::Guest;
        let mut contract: Option<ContractRequest> = None;
        let mut min_version = None;
        let mut bundle = None;
        for (key, value) in self.table("dependency", item)? {
            let span = key.span();
            let name: &str = key.get_ref().as_ref();
            let full = format!("dependency.{name}");
            match name {
                // polyplug leaves the kind to the writer ("contract", "bundle",
                // "guest" …): only "host" says something that is not said elsewhere.
                "kind" => {
                    if self.string(&full, value)? == "host" {
                        kind = DependencyKind::Host;
                    }
                }
                "contract" => {
                    let text = self.string(&full, value)?;
                    contract =
                        Some(text.parse().map_err(|e| self.error(&full, value, format!("{e}")))?);
                }
                "min_version" => {
                    let text = self.string(&full, value)?;
                    let least = parse_version(text).ok_or_else(|| {
                        self.error(&full, value, "expected MAJOR[.MINOR[.PATCH]]")
                    })?;
                    min_version = Some((text, least, value));
                }
                "bundle" => bundle = Some(self.string(&full, value)?.to_owned()),
                "contract_id" | "bundle_id" => {
                    self.id(&full, value)?;
                }
                _ => self.unknown(&full, &span),
            }
        }
        let mut contract =
            contract.ok_or_else(|| self.error("dependency.contract", item, "is missing"))?;
        if let Some((text, (major, minor, patch), value)) = min_version {
            if *contract.major.get_or_insert(major) == major {
                let named = (contract.minor.unwrap_or(0), contract.patch.unwrap_or(0));
                let (minor, patch) = named.max((minor, patch));
                (contract.minor, contract.patch) = (Some(minor), Some(patch));
            } else {
                let place = format!("{}:{}", self.file.display(), self.line(&value.span()));
                self.warnings.push(format!(
                    "{place}: min_version '{text}' is of another major version than '{contract}', \
                     and does not count"
                ));
            }
        }
        Ok(ContractDependency { kind, contract, bundle })
    }
}

fn base_name(contract: &str) -> &str {
    contract.split_once('@').map_or(contract, |(name, _)| name)
}

/// A version that another bundle's must reach: numbers, as polyplug has them, perhaps with
/// what people write around them where it changes nothing: `v1.2`, `^1.2`, `1.2.0-rc.1`.
fn is_least_version(text: &str) -> bool {
    let text = text.strip_prefix(['v', '^']).unwrap_or(text);
    let numbers = text.split_once(['-', '+']).map_or(text, |(numbers, _)| numbers);
    parse_version(numbers).is_some()
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = [0; 3];
    let mut parts = text.split('.');
    for (i, slot) in numbers.iter_mut().enumerate() {
        match parts.next() {
            Some(part) => *slot = part.parse().ok()?,
            None if i > 0 => break,
            None => return None,
        }
    }
    parts.next().is_none().then_some((numbers[0], numbers[1], numbers[2]))
}
