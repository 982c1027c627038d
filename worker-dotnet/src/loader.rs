//! The loader named `dotnet`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use menagerie_protocol::loader::{Demand, Prepared};
use menagerie_protocol::message::LogLevel;
use menagerie_protocol::msgpack::{DecodeError, Reader, Token, Writer};
use menagerie_protocol::{
    BundleId, BundleLoader, BundleSource, ContractInterface, GuestError, LoaderError, ManifestData,
    Runtime, SupportedLanguage,
};

use crate::abi::{Bytes, LoadRequest, OK, Outcome};
use crate::clr::{self, Clr};
use crate::image::Image;
use crate::instance::DotnetInstance;
use crate::lanes::{self, LaneNumber};
use crate::rehearsal;
use crate::search::{Installation, Search};
use crate::signals;

pub(crate) const NAME: &str = "dotnet";

/// Loads .NET assemblies, each generation of a bundle into a collectible
/// context of its own.
#[derive(Debug)]
pub struct DotnetLoader {
    installation: Result<Installation, LoaderError>,
    /// Which lane a generation has, for `unload`.
    lanes: Mutex<HashMap<(BundleId, u32), u64>>,
    /// Whether a bundle was to be loaded yet.
    is_used: Arc<AtomicBool>,
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
        Self { installation: search.find(), lanes: Mutex::default(), is_used: Arc::default() }
    }

    /// Starts the runtime on a thread of its own, unless it runs already, and, if
    /// it is told to, warms it up if no bundle is waiting by then. A standby does that
    /// itself, on the thread of its first lane.
    ///
    /// To be called on the main thread: handlers of signals to the process run
    /// there, and CoreCLR's need more stack than Rust provides.
    pub fn warm_up(&self, rehearse: bool) {
        signals::give_up_stack();
        let Ok(installation) = self.installation.clone() else { return };
        let is_used = Arc::clone(&self.is_used);
        // A failure is told by the first load; nothing is lost if there is no
        // thread to spare.
        let warm_up = move || {
            signals::give_up_stack();
            if let Ok(clr) = clr::start(&installation)
                && rehearse
            {
                let is_over = |pause| {
                    thread::sleep(pause);
                    is_used.load(Ordering::Relaxed)
                };
                rehearsal::run(clr, &installation.bridge, is_over);
            }
        };
        drop(thread::Builder::new().name("warm-up".to_owned()).spawn(warm_up));
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
        signals::give_up_stack();
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
        let limit = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let max_payload = limit(runtime.host().max_payload());
        let request = LoadRequest {
            lane: number,
            max_payload,
            max_state: limit(runtime.host().max_state()),
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
        let instance = DotnetInstance::new(clr.entries, outcome.handle, max_payload, lane);
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

    fn lanes(&self) -> MutexGuard<'_, HashMap<(BundleId, u32), u64>> {
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

    fn start_vm(&self) {
        // Before the wait: a rehearsal that goes on elsewhere ends.
        self.is_used.store(true, Ordering::Relaxed);
        drop(self.clr());
    }

    /// A rehearsal, which leaves nothing but what .NET keeps of it; with this thread
    /// .NET is acquainted then.
    fn prepare(&self, demand: &Demand) -> Option<Prepared> {
        // A bundle that waits shall say so at once (`start_vm`): else the rehearsal of the
        // thread that warms up would compete with its load.
        if demand.is_there() {
            return None;
        }
        let installation = self.installation.as_ref().ok()?;
        let clr = self.clr().ok()?;
        rehearsal::run(clr, &installation.bridge, |pause| demand.comes_within(pause));
        None
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

    /// The base library is mapped, and relocated, before any code of it runs.
    fn vm_files(&self) -> &'static [&'static str] {
        &["System.Private.CoreLib.dll"]
    }
}

/// Collects what a generation has left (L8), and says so if it cannot.
fn collect(clr: &Clr, lane: u64, runtime: &Runtime) {
    // SAFETY: Collect takes a number, and no number is a wrong one.
    let why = match unsafe { (clr.entries.collect)(lane) } {
        OK => return lanes::forget(lane),
        UNFINALIZED => {
            "the memory of unloaded assemblies is not freed any more: a finalizer, of this bundle or of another one in the worker, does not return or has ended .NET's finalizer thread; a restart of the worker frees it"
        }
        _ => {
            "something still refers to the unloaded assembly, so its memory is not freed: a thread or timer that was not stopped, or an event handler that was not removed"
        }
    };
    runtime.logger().log(LogLevel::Warn, "menagerie", why);
}

/// `Remains.Unfinalized` in the bridge's Graveyard.cs.
const UNFINALIZED: i32 = 2;

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
