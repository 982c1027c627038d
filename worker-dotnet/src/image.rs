//! A bundle's assembly, read from wherever it is.

use std::path::PathBuf;

use menagerie_protocol::loader::{read_contained, read_file};
use menagerie_protocol::msgpack::Reader;
use menagerie_protocol::{BundleSource, LoaderError, ManifestData};

use crate::abi::LOAD_FAILED;
use crate::guest_error;
use crate::loader::NAME;

/// An assembly in this process's own memory: the user's file is not kept open.
pub(crate) struct Image<'a> {
    from_memory: Option<&'a [u8]>,
    from_file: Vec<u8>,
    file: Option<PathBuf>,
    /// Its debug information.
    pub(crate) symbols: Option<Vec<u8>>,
}

impl<'a> Image<'a> {
    pub(crate) fn read(
        manifest: &ManifestData,
        source: &'a BundleSource,
    ) -> Result<Self, LoaderError> {
        match source {
            BundleSource::Path(_) => {
                let path = manifest.artifact()?;
                let from_file = read_file(&path).map_err(|error| LoaderError::io(&path, &error))?;
                let symbols = path.with_extension("pdb");
                let symbols = read_contained(&manifest.dir, &symbols).ok();
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

    pub(crate) fn assembly(&self) -> &[u8] {
        self.from_memory.unwrap_or(&self.from_file)
    }

    /// What `Entry.Load` has answered.
    pub(crate) fn failure(
        &self,
        manifest: &ManifestData,
        result: i32,
        answer: &[u8],
    ) -> LoaderError {
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
