//! The contract between a worker and the loader that it hosts.

pub mod bundle_source;
mod demand;
mod exports;
mod file;
pub mod manifest;
mod manifest_file;
mod private_copy;

use crate::{BundleId, LoaderError, Runtime, SupportedLanguage};
use bundle_source::BundleSource;
use manifest::ManifestData;

/// What [`BundleLoader::prepare`] has made: of the loader's own type, for the thread
/// that it was made on.
pub type Prepared = Box<dyn std::any::Any>;

pub use demand::Demand;
pub use exports::MAX_FUNCTIONS;
pub use file::{contained, read_contained, read_file, read_small_file};
pub use private_copy::{PrivateCopy, Stamp};

/// Code in a worker that loads bundles of one language.
///
/// Everything of one generation of a bundle happens on one thread, its lane's:
/// [`load`](Self::load) or [`reload`](Self::reload), every call, and
/// [`unload`](Self::unload). So what a loader builds for a bundle need not be
/// `Send`: it hands it to [`Runtime::install`] as an
/// [`Instance`](crate::Instance), and the lane keeps it. The loader itself is
/// shared by the lanes of all its bundles.
///
/// A worker's `main` is one call with its loader:
///
/// ```no_run
/// # use menagerie_protocol::{BundleLoader, BundleSource, LoaderError, ManifestData, Runtime, SupportedLanguage};
/// # struct Cobol;
/// # impl BundleLoader for Cobol {
/// #     fn loader_name(&self) -> &'static str { "cobol" }
/// #     fn loader_language(&self) -> SupportedLanguage { SupportedLanguage::Cpp }
/// #     fn supports_hot_reload(&self) -> bool { true }
/// #     fn load(&self, _: &ManifestData, _: &BundleSource, _: &Runtime) -> Result<(), LoaderError> { Ok(()) }
/// #     fn reload(&self, _: &ManifestData, _: &Runtime) -> Result<(), LoaderError> { Ok(()) }
/// # }
/// fn main() -> std::process::ExitCode {
///     menagerie_protocol::serve::serve(Cobol, || "COBOL 85".to_owned())
/// }
/// ```
///
/// A whole loader, with one function, as a test tries it
/// ([`testing`](crate::testing)):
///
/// ```
/// use menagerie_protocol::msgpack::{Reader, Token, Writer};
/// use menagerie_protocol::testing::Harness;
/// use menagerie_protocol::{
///     Args, BundleLoader, BundleSource, ContractInterface, Failure, FunctionId, Instance,
///     LoaderError, ManifestData, Reply, Runtime, SupportedLanguage,
/// };
///
/// /// A language whose programs are a number, which their one function adds.
/// struct AdderLoader;
///
/// struct Adder(i64);
///
/// impl Instance for Adder {
///     fn call(&mut self, _: FunctionId, args: Args<'_>, reply: Reply) {
///         let mut args = Reader::new(args.bytes);
///         match (args.array(), args.token()) {
///             (Ok(1), Ok(Token::Int(number))) => {
///                 let mut value = Vec::new();
///                 Writer::new(&mut value).int(self.0 + number);
///                 reply.ok(&value);
///             }
///             _ => reply.fail(Failure::BadArguments { message: "expected an integer".to_owned() }),
///         }
///     }
/// }
///
/// impl BundleLoader for AdderLoader {
///     fn loader_name(&self) -> &'static str {
///         "adder"
///     }
///
///     fn loader_language(&self) -> SupportedLanguage {
///         SupportedLanguage::Rust
///     }
///
///     fn supports_hot_reload(&self) -> bool {
///         true
///     }
///
///     fn load(
///         &self,
///         _: &ManifestData,
///         source: &BundleSource,
///         runtime: &Runtime,
///     ) -> Result<(), LoaderError> {
///         let BundleSource::Code(code) = source else {
///             let (loader, kind) = ("adder".to_owned(), "path".to_owned());
///             return Err(LoaderError::UnsupportedBundleSource { loader, kind });
///         };
///         let number = code.trim().parse().unwrap_or_default();
///         runtime.register(ContractInterface {
///             contract: "adder@1".to_owned(),
///             functions: vec!["add".to_owned()],
///         })?;
///         runtime.install(Box::new(Adder(number)));
///         Ok(())
///     }
///
///     fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
///         self.load(manifest, runtime.source(), runtime)
///     }
/// }
///
/// let manifest = "name = 'two'\nloader = 'adder'\nfile = 'main'\nprovides = ['adder@1']";
/// let bundle = Harness::new(AdderLoader).load(manifest, BundleSource::Code("2".into()))?;
/// assert_eq!(bundle.call::<_, i64>("adder@1", "add", (40,)), Ok(42));
/// assert!(bundle.call::<_, i64>("adder@1", "add", ("x",)).is_err());
/// # Ok::<(), LoaderError>(())
/// ```
pub trait BundleLoader: Send + Sync {
    /// The name that a manifest's `loader` must equal, byte for byte (L1).
    fn loader_name(&self) -> &'static str;

    /// The language, for introspection only (L2).
    fn loader_language(&self) -> SupportedLanguage;

    /// Whether [`reload`](Self::reload) may be invoked at all (L3).
    fn supports_hot_reload(&self) -> bool;

    /// Whether it maps artifacts: then the supervisor makes the [`PrivateCopy`]
    /// that is mapped, keeps it for the next process, and hands it on
    /// ([`Runtime::take_copy`]).
    fn maps_artifacts(&self) -> bool {
        false
    }

    /// Whether the code of different bundles runs under one lock, an interpreter's, which
    /// one call may keep from all others: a bundle whose call does not end in time need
    /// not be the one at fault then (S5).
    fn shares_a_lock(&self) -> bool {
        false
    }

    /// Starts the VM, unless it runs: called on a lane's thread before each load, for
    /// loaders whose VM is not there from the beginning. What is mapped when this
    /// returns is the VM's, and what comes later the bundles'. A failure is the load's
    /// to tell.
    fn start_vm(&self) {}

    /// Makes what the first bundle on this thread will need, whichever it is: a VM
    /// that no bundle's code has run in, for example. Called once in each worker, on
    /// the thread of its first lane, while the supervisor reads the hello or
    /// [earlier](Self::prepares_before_hello). A bundle that comes meanwhile waits until
    /// this returns, so this should make what the load would have to make itself, and
    /// more only while `demand` says that nobody waits: in a standby (S8) until a bundle
    /// comes, elsewhere never.
    ///
    /// The load on that thread finds it with
    /// [`Runtime::take_prepared`](crate::Runtime::take_prepared). If none comes, or
    /// one that does not take it, it is dropped there. To prepare nothing is never
    /// wrong; whatever fails here will fail the load as well, which says so.
    fn prepare(&self, demand: &Demand) -> Option<Prepared> {
        let _ = demand;
        None
    }

    /// Whether [`prepare`](Self::prepare) begins before the hello, beside what leads to
    /// it, and on another CPU. That pays where it takes longer than to start a thread: the
    /// hello, and each bundle with it, waits for that, about 0.05 ms.
    fn prepares_before_hello(&self) -> bool {
        false
    }

    /// Loads a bundle, registers its contracts with
    /// [`Runtime::register`] and hands over its [`Instance`](crate::Instance)
    /// with [`Runtime::install`].
    ///
    /// # Errors
    ///
    /// Any [`LoaderError`]. Nothing of the bundle may stay behind then (L5):
    /// what was registered is discarded by the lane, what the loader keeps
    /// itself is the loader's to remove.
    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError>;

    /// Loads the bundle's next generation beside the running one, on a new
    /// lane; [`Runtime::source`] says where from.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); the old generation then goes on serving (L6).
    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError>;

    /// Called on the lane's thread when its generation ends, after the
    /// installed instance was dropped. [`Runtime::generation`] says which
    /// generation it is; another one of the same bundle may be running.
    ///
    /// # Errors
    ///
    /// Any [`LoaderError`]; it is reported, and the lane ends all the same.
    fn unload(&self, bundle_id: BundleId, runtime: &Runtime) -> Result<(), LoaderError> {
        let _ = (bundle_id, runtime);
        Ok(())
    }

    /// Names of files that the VM has mapped by its own means, as the linker maps
    /// libraries: before the first bundle is loaded, and what is not writable is
    /// never made so, or unmapped, afterwards. A worker that has loaded forgets those
    /// of their pages that nobody looks at again.
    fn vm_files(&self) -> &'static [&'static str] {
        &[]
    }
}
