//! What the worker is when it behaves: a loader whose every bundle is a
//! `probe@1` with `inc` and `echo`; and the same with a bug.

use std::process::ExitCode;
use std::sync::mpsc;

use menagerie_protocol::loader::{Demand, Prepared};
use menagerie_protocol::msgpack::{Reader, Token, Writer};
use menagerie_protocol::{
    Args, BundleId, BundleLoader, BundleSource, ContractInterface, Failure, FunctionId, GuestError,
    Instance, LoaderError, ManifestData, Reply, Runtime, SupportedLanguage,
};

pub(crate) fn serve() -> ExitCode {
    serve_panicking("")
}

/// Serves, and panics at a step, each time.
pub(crate) fn serve_panicking(step: &str) -> ExitCode {
    let loader = Honest { bug: Bug(step.to_owned()), prepares: None };
    menagerie_protocol::serve::serve(loader, || RUNTIME.to_owned())
}

/// The same, of a loader that prepares before the hello, which waits for that.
pub(crate) fn serve_early(step: &str) -> ExitCode {
    let (prepares, prepared) = mpsc::channel();
    let loader = Honest { bug: Bug(step.to_owned()), prepares: Some(prepares) };
    menagerie_protocol::serve::serve(loader, move || {
        prepared.recv().expect("the loader lives");
        RUNTIME.to_owned()
    })
}

const RUNTIME: &str = "misbehaving 1.0, reformed";

/// What it serves, honest or not.
pub(crate) fn contracts() -> Vec<ContractInterface> {
    let functions = ["inc", "echo"].map(str::to_owned).to_vec();
    vec![ContractInterface { contract: "probe@1".to_owned(), functions }]
}

/// The step at which the loader panics.
#[derive(Clone)]
struct Bug(String);

impl Bug {
    fn at(&self, step: &str) {
        assert_ne!(self.0, step, "as it was told");
    }

    /// This thread's, if that is the bug: then its name is no text.
    fn take_the_name(&self) {
        if self.0 == "nameless" {
            // SAFETY: the name is a C string, of which the kernel makes a copy.
            let done = unsafe { libc::prctl(libc::PR_SET_NAME, c"\xff".as_ptr()) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        }
    }
}

struct Honest {
    bug: Bug,
    /// Learns that it prepares, which it does before the hello then.
    prepares: Option<mpsc::Sender<()>>,
}

impl BundleLoader for Honest {
    fn loader_name(&self) -> &'static str {
        "native"
    }

    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::Rust
    }

    fn supports_hot_reload(&self) -> bool {
        true
    }

    fn prepares_before_hello(&self) -> bool {
        self.prepares.is_some()
    }

    fn prepare(&self, demand: &Demand) -> Option<Prepared> {
        if let Some(prepares) = &self.prepares {
            prepares.send(()).expect("somebody waits for it");
        }
        self.bug.at(if demand.is_there() { "prepare-for-a-load" } else { "prepare" });
        None
    }

    fn load(
        &self,
        _manifest: &ManifestData,
        _source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        self.bug.at("load");
        self.bug.take_the_name();
        for contract in contracts() {
            runtime.register(contract)?;
        }
        runtime.install(Box::new(Probe(self.bug.clone())));
        Ok(())
    }

    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load(manifest, runtime.source(), runtime)
    }

    fn unload(&self, _: BundleId, _: &Runtime) -> Result<(), LoaderError> {
        self.bug.at("unload");
        Ok(())
    }
}

struct Probe(Bug);

impl Instance for Probe {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        self.0.at("call");
        let mut reader = Reader::new(args.bytes);
        match (function, reader.array()) {
            (0, Ok(1)) => match reader.token() {
                Ok(Token::Int(n)) => {
                    let mut out = Vec::new();
                    Writer::new(&mut out).int(n + 1);
                    reply.ok(&out);
                }
                _ => reply.fail(Failure::BadArguments { message: "n: an integer".to_owned() }),
            },
            (1, Ok(1)) => reply.ok(reader.rest()),
            _ => reply.fail(Failure::BadArguments { message: "one argument".to_owned() }),
        }
    }

    fn on_load(&mut self, _: Option<&[u8]>) -> Result<(), GuestError> {
        self.0.at("on_load");
        Ok(())
    }

    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        self.0.at("on_unload");
        Ok(None)
    }
}
