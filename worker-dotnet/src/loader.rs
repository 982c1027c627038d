//! The loader named `dotnet`.

use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, PoisonError};

use menagerie_protocol::message::LogLevel;
use menagerie_protocol::msgpack::{DecodeError, Reader, Token, Writer};
use menagerie_protocol::{
    BundleId, BundleLoader, BundleSource, ContractInterface, GuestError, LoaderError, ManifestData,
    Runtime, SupportedLanguage,
};

use crate::abi::{Bytes, LOAD_FAILED, LoadRequest, OK, Outcome};
use crate::clr::{self, Clr};
use crate::guest_error;
use crate::instance::DotnetInstance;
use crate::lanes::LaneNumber;
use crate::search::{Installation, Search};
use crate::signal_stack;

const NAME: &str = "dotnet";

/// Loads .NET assemblies, each generation of a bundle into a collectible
/// context of its own.
#[derive(Debug)]
pub struct DotnetLoader {
    installation: Result<Installation, LoaderError>,
    /// Which lane a generation has, for `unload`.
    lanes: Mutex<HashMap<(BundleId, u32), u64>>,
}

impl Default for DotnetLoader {
    fn default() -> Self {
        Self::new(Search::from_environment())
    }
}

impl DotnetLoader {
    /// A loader that uses what is found in these places. If nothing is, each
    /// load fails with [`LoaderError::RuntimeMissing`].
    #[must_use]
    pub fn new(search: Search) -> Self {
        Self { installation: search.find(), lanes: Mutex::default() }
    }

    /// Starts the runtime on a thread of its own, unless it runs already.
    pub fn warm_up(&self) {
        if let Ok(installation) = self.installation.clone() {
            // A failure is told by the first load; nothing is lost if there is
            // no thread to spare.
            drop(std::thread::spawn(move || {
                signal_stack::give_up();
                drop(clr::start(&installation));
            }));
        }
    }

    /// Starts the runtime unless it runs already, and returns what it calls
    /// itself: `8.0.4`.
    ///
    /// # Errors
    ///
    /// [`LoaderError::RuntimeMissing`]; [`LoaderError::Io`] of the bridge.
    pub fn start(&self) -> Result<&str, LoaderError> {
        Ok(&self.clr()?.version)
    }

    fn clr(&self) -> Result<&'static Clr, LoaderError> {
        let installation = self.installation.as_ref().map_err(Clone::clone)?;
        signal_stack::give_up();
        clr::start(installation)
    }

    fn load_source(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        let image = Image::read(manifest, source)?;
        let clr = self.clr()?;
        let lane = LaneNumber::new(runtime);
        let number = lane.get();
        let mut head = Vec::new();
        let mut writer = Writer::new(&mut head);
        writer.array(3);
        writer.str(&manifest.name);
        writer.uint(u64::from(runtime.generation()));
        match source {
            BundleSource::Path(_) => writer.str(&manifest.dir.to_string_lossy()),
            _ => writer.nil(),
        }
        let request = LoadRequest {
            lane: number,
            head: Bytes::of(&head),
            image: Bytes::of(image.assembly()),
            symbols: image.symbols.as_deref().map_or(Bytes::NONE, Bytes::of),
        };
        let mut outcome = Outcome::EMPTY;
        // SAFETY: the request points to memory that outlives the call, and C#
        // keeps copies only; both structs have the declared layout.
        let result = unsafe { (clr.entries.load)(&raw const request, &raw mut outcome) };
        // SAFETY: the head is in this thread's scratch buffer, which nothing
        // uses before this thread's next entry.
        let answer: &[u8] = unsafe { outcome.head.get() };
        if result != OK {
            let error = image.failure(manifest, result, answer);
            collect(clr, number, runtime);
            return Err(error);
        }
        let interfaces = read_interfaces(answer);
        // From here on dropping the instance undoes all.
        let instance = DotnetInstance::new(clr.entries, outcome.handle, lane);
        let registered = interfaces
            .map_err(|error| {
                let error = GuestError::new("MenagerieError", error.to_string());
                LoaderError::init(&manifest.name, "register", error)
            })
            .and_then(|all| all.into_iter().try_for_each(|one| runtime.register(one)));
        if let Err(error) = registered {
            drop(instance);
            collect(clr, number, runtime);
            return Err(error);
        }
        self.lanes().insert((manifest.id, runtime.generation()), number);
        runtime.install(Box::new(instance));
        Ok(())
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, HashMap<(BundleId, u32), u64>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BundleLoader for DotnetLoader {
    fn loader_name(&self) -> &'static str {
        NAME
    }

    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::Dotnet
    }

    fn supports_hot_reload(&self) -> bool {
        true
    }

    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        self.load_source(manifest, source, runtime)
    }

    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load_source(manifest, runtime.source(), runtime)
    }

    fn unload(&self, bundle_id: BundleId, runtime: &Runtime) -> Result<(), LoaderError> {
        let lane = self.lanes().remove(&(bundle_id, runtime.generation()));
        if let Some(lane) = lane {
            collect(self.clr()?, lane, runtime);
        }
        Ok(())
    }
}

/// Collects what a generation has left (L8), and says so if it cannot.
fn collect(clr: &Clr, lane: u64, runtime: &Runtime) {
    // SAFETY: Collect takes a number, and no number is a wrong one.
    let held = unsafe { (clr.entries.collect)(lane) };
    if held != 0 {
        runtime.logger().log(
            LogLevel::Warn,
            "menagerie",
            "something still refers to the unloaded assembly, so its memory is not freed: a thread or timer that was not stopped, or an event handler that was not removed",
        );
    }
}

/// An assembly in this process's own memory: the user's file is not kept open.
struct Image<'a> {
    from_memory: Option<&'a [u8]>,
    from_file: Vec<u8>,
    file: Option<std::path::PathBuf>,
    symbols: Option<Vec<u8>>,
}

impl<'a> Image<'a> {
    fn read(manifest: &ManifestData, source: &'a BundleSource) -> Result<Self, LoaderError> {
        match source {
            BundleSource::Path(_) => {
                let path = manifest.artifact()?;
                let from_file = fs::read(&path).map_err(|error| LoaderError::io(&path, &error))?;
                let symbols = fs::read(path.with_extension("pdb")).ok();
                let symbols = symbols.filter(|symbols| is_portable_pdb(symbols));
                Ok(Self { from_memory: None, from_file, file: Some(path), symbols })
            }
            BundleSource::Bytes(bytes) => Ok(Self {
                from_memory: Some(bytes),
                from_file: Vec::new(),
                file: None,
                symbols: None,
            }),
            BundleSource::Code(_) => Err(LoaderError::UnsupportedBundleSource {
                loader: NAME.to_owned(),
                kind: source.kind().to_owned(),
            }),
        }
    }

    fn assembly(&self) -> &[u8] {
        self.from_memory.unwrap_or(&self.from_file)
    }

    /// What `Entry.Load` has answered.
    fn failure(&self, manifest: &ManifestData, result: i32, answer: &[u8]) -> LoaderError {
        let mut reader = Reader::new(answer);
        let step = (result == LOAD_FAILED)
            .then(|| reader.array().and_then(|_| guest_error::text(&mut reader)).ok().flatten())
            .flatten()
            .unwrap_or_default();
        let error = guest_error::read_from(&mut reader);
        match (step.as_str(), &self.file) {
            ("image", Some(file)) => LoaderError::ArtifactUnusable {
                artifact: file.clone(),
                problem: format!("is no .NET assembly: {}", error.message),
            },
            ("image", None) => LoaderError::init(&manifest.name, "import", error),
            (step, _) => LoaderError::init(&manifest.name, step, error),
        }
    }
}

/// Other kinds of debug information, as Windows and Mono have them, would fail
/// the load.
fn is_portable_pdb(symbols: &[u8]) -> bool {
    symbols.starts_with(b"BSJB")
}

/// Reads `[[contract, [function, …]], …]`.
fn read_interfaces(bytes: &[u8]) -> Result<Vec<ContractInterface>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut interfaces = Vec::new();
    for _ in 0..reader.array()? {
        reader.array()?;
        let contract = string(&mut reader)?;
        let functions =
            (0..reader.array()?).map(|_| string(&mut reader)).collect::<Result<_, _>>()?;
        interfaces.push(ContractInterface { contract, functions });
    }
    Ok(interfaces)
}

fn string(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    match reader.token()? {
        Token::Str(text) => Ok(text.to_owned()),
        _ => Err(DecodeError::Unexpected { expected: "string" }),
    }
}

