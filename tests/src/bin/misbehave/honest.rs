//! What the worker is when it behaves: a loader whose every bundle is a
//! `probe@1` with `inc` and `echo`.

use std::process::ExitCode;

use menagerie_protocol::msgpack::{Reader, Token, Writer};
use menagerie_protocol::{
    Args, BundleLoader, BundleSource, ContractInterface, Failure, FunctionId, Instance,
    LoaderError, ManifestData, Reply, Runtime, SupportedLanguage,
};

pub(crate) fn serve() -> ExitCode {
    menagerie_protocol::serve::serve(Honest, "misbehaving 1.0, reformed".to_owned())
}

/// What it serves, honest or not.
pub(crate) fn contracts() -> Vec<ContractInterface> {
    let functions = ["inc", "echo"].map(str::to_owned).to_vec();
    vec![ContractInterface { contract: "probe@1".to_owned(), functions }]
}

struct Honest;

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

    fn load(
        &self,
        _manifest: &ManifestData,
        _source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        for contract in contracts() {
            runtime.register(contract)?;
        }
        runtime.install(Box::new(Probe));
        Ok(())
    }

    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load(manifest, runtime.source(), runtime)
    }
}

struct Probe;

impl Instance for Probe {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
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
}
