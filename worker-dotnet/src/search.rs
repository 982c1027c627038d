//! Where .NET and the bridge are on this machine.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use menagerie_protocol::LoaderError;

/// The oldest .NET that will do.
const OLDEST: u32 = 8;
/// The framework that every .NET runtime has.
const FRAMEWORK: &str = "Microsoft.NETCore.App";
/// The bridge's file, as `scripts/setup-dotnet` builds it.
pub(crate) const BRIDGE: &str = "Menagerie.Bridge.dll";

/// The places to look in, in order.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Roots of .NET installations: folders with `host/fxr` and `shared`.
    pub runtimes: Vec<PathBuf>,
    /// Folders that may hold the bridge.
    pub bridges: Vec<PathBuf>,
}

/// A .NET and a bridge that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The root of the .NET installation.
    pub root: PathBuf,
    /// Its `libhostfxr.so`.
    pub hostfxr: PathBuf,
    /// The version of the framework that will run.
    pub version: Version,
    /// The folder of the bridge.
    pub bridge: PathBuf,
}

/// A version of .NET; previews sort before their release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u32; 3],
    is_release: bool,
    text: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (release, preview) = text.split_once('-').map_or((text, None), |(r, p)| (r, Some(p)));
        let mut parts = release.split('.').map(|part| part.parse::<u32>().ok());
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        Some(Self { numbers, is_release: preview.is_none(), text: text.to_owned() })
    }

    const fn major(&self) -> u32 {
        self.numbers[0]
    }
}

impl Search {
    /// The places where .NET usually is, and where this program's build and
    /// packages put the bridge.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut bridges: Vec<PathBuf> = variable("MENAGERIE_DOTNET_BRIDGE").into_iter().collect();
        let here = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
        if let Some(here) = here {
            bridges.push(here.clone());
            // target/debug beside target/dotnet; a test is one folder deeper.
            bridges.extend(["../dotnet", "dotnet", "../../dotnet"].map(|way| here.join(way)));
        }

        let mut runtimes: Vec<PathBuf> = variable("DOTNET_ROOT").into_iter().collect();
        runtimes.extend(on_path());
        runtimes.extend(["/usr/share/dotnet", "/usr/lib/dotnet"].map(PathBuf::from));
        runtimes.extend(variable("HOME").map(|home| home.join(".dotnet")));
        runtimes.extend(variable("MENAGERIE_DOTNET_ROOT"));
        // What the set-up brought, if the machine has no .NET of its own.
        runtimes.extend(bridges.iter().map(|bridge| bridge.join("runtime")));
        Self { runtimes, bridges }
    }

    /// The first .NET that will do, and the first bridge.
    ///
    /// # Errors
    ///
    /// [`LoaderError::RuntimeMissing`], with every place that was looked in.
    pub fn find(&self) -> Result<Installation, LoaderError> {
        let (root, hostfxr, version) = self.find_runtime().ok_or_else(|| {
            missing(
                format!("no .NET {OLDEST} or later was found; looked in {}", list(&self.runtimes)),
                "Install the .NET runtime, set DOTNET_ROOT to where it is, or run scripts/setup-dotnet",
            )
        })?;
        let bridge =
            self.bridges.iter().find(|dir| dir.join(BRIDGE).is_file()).ok_or_else(|| {
                missing(
                    format!("{BRIDGE} was not found; looked in {}", list(&self.bridges)),
                    "Run scripts/setup-dotnet, or set MENAGERIE_DOTNET_BRIDGE to its folder",
                )
            })?;
        // hostfxr does not take a path with `..` or a symlink in it.
        let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(Installation {
            root: canonical(&root),
            hostfxr: canonical(&hostfxr),
            version,
            bridge: canonical(bridge),
        })
    }

    /// What a .NET process reads beside its bundles: the installation's runtime and the
    /// bridge's folder, where they are found. Not all of the installation: in `~/.dotnet`
    /// .NET keeps the user's private keys as well (`corefx/cryptography`).
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.find().map_or_else(
            |_| Vec::new(),
            |found| vec![found.root.join("host"), found.root.join("shared"), found.bridge],
        )
    }

    /// The runtime as the status shows it, for example `.NET 8.0.4`; found
    /// without starting it.
    #[must_use]
    pub fn runtime_version(&self) -> String {
        self.find_runtime().map_or_else(
            || ".NET not found".to_owned(),
            |(_, _, version)| format!(".NET {version}"),
        )
    }

    fn find_runtime(&self) -> Option<(PathBuf, PathBuf, Version)> {
        self.runtimes.iter().find_map(|root| {
            let framework = choose(versions(&root.join("shared").join(FRAMEWORK)))?;
            let fxr = root.join("host/fxr");
            let newest = versions(&fxr).into_iter().max()?;
            let hostfxr = fxr.join(newest.to_string()).join("libhostfxr.so");
            hostfxr.is_file().then(|| (root.clone(), hostfxr, framework))
        })
    }
}

/// What hostfxr will choose: the bridge asks for the oldest major version and
/// rolls forward to the next one that is there, to its newest patch.
fn choose(versions: Vec<Version>) -> Option<Version> {
    let usable = |version: &Version| version.major() >= OLDEST && version.is_release;
    let major = versions.iter().filter(|v| usable(v)).map(Version::major).min()?;
    versions.into_iter().filter(|v| usable(v) && v.major() == major).max()
}

fn versions(dir: &Path) -> Vec<Version> {
    let Ok(entries) = dir.read_dir() else { return Vec::new() };
    entries.flatten().filter_map(|entry| Version::parse(entry.file_name().to_str()?)).collect()
}

/// The installation that a `dotnet` on PATH belongs to.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let program = env::split_paths(&path).map(|dir| dir.join("dotnet")).find(|p| p.is_file())?;
    Some(program.canonicalize().ok()?.parent()?.to_owned())
}

fn list(places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    if places.is_empty() { "no place at all".to_owned() } else { places.join(", ") }
}

pub(crate) fn missing(problem: impl Into<String>, remedy: &str) -> LoaderError {
    LoaderError::RuntimeMissing {
        runtime: ".NET".to_owned(),
        problem: problem.into(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests;
