//! A library while it is mapped.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use menagerie_guest::abi;
use menagerie_protocol::message::LogLevel;
use menagerie_protocol::serve::LastWords;
use menagerie_protocol::{LoaderError, Logger, ManifestData};

use crate::image::Image;
use crate::keys;
use crate::whose::Place;

const INIT: &str = "menagerie_init";
const VERSION: &str = "menagerie_abi_version";

/// A library that is mapped, with the copy that it is mapped from.
#[derive(Debug)]
pub(crate) struct Library {
    handle: Handle,
    image: Image,
    artifact: PathBuf,
    place: Option<Place>,
}

impl Library {
    /// Maps a private copy of the file, the one that was handed on if there is
    /// one, and resolves all its symbols. Its constructors run here, on this
    /// thread.
    pub(crate) fn open(
        manifest: &ManifestData,
        copy: Option<OwnedFd>,
    ) -> Result<Self, LoaderError> {
        let artifact = manifest.artifact()?;
        let image = Image::new(&artifact, copy)?;
        let path = image.path();
        // SAFETY: the constructors of a bundle's library are the bundle's own
        // code: to run it is what this worker is for, and the reason why it is
        // a process of its own.
        let opened = unsafe { Handle::open(Some(path.as_os_str()), RTLD_NOW | RTLD_LOCAL) };
        match opened {
            Ok(handle) => {
                let words = LastWords::of(&manifest.name);
                let place = image.span().map(|span| Place::of(span, words));
                Ok(Self { handle, image, artifact, place })
            }
            Err(error) => {
                let problem = explain(&error, &path);
                Err(LoaderError::ArtifactUnusable { artifact, problem })
            }
        }
    }

    /// The library's entry, after its version was checked.
    pub(crate) fn entry(&self) -> Result<abi::Init, LoaderError> {
        let unusable = |problem: String| LoaderError::ArtifactUnusable {
            artifact: self.artifact.clone(),
            problem,
        };
        // SAFETY: the symbol is a variable, so its address is a pointer.
        let version = unsafe { self.handle.get::<*const u32>(VERSION) };
        let version = *version.map_err(|_| {
            unusable(format!(
                "exports no {VERSION}: it does not include menagerie.h, nor use menagerie-guest"
            ))
        })?;
        // SAFETY: both headers define the variable as an aligned u32, and the
        // library is mapped.
        let version = unsafe { version.read() };
        let (major, minor) = (version >> 16, version & 0xffff);
        if major != abi::ABI_MAJOR || minor > abi::ABI_MINOR {
            return Err(unusable(format!(
                "is built against version {major}.{minor} of menagerie.h, and this worker has {}.{}",
                abi::ABI_MAJOR,
                abi::ABI_MINOR
            )));
        }
        // SAFETY: a library of this version defines the entry with this type.
        let init = unsafe { self.handle.get::<abi::Init>(INIT) };
        init.map(|init| *init).map_err(|_| {
            unusable(format!("exports no {INIT}: it is no bundle, or hides its symbols"))
        })
    }

    /// Unmaps the library, and tells whether it is gone. No code of it may be
    /// called any more: the lane's thread has ended, and with it its
    /// thread-local destructors.
    pub(crate) fn close(self, logger: &Logger) -> bool {
        let name = self.artifact.display();
        keys::delete_those_of(&self.image.mapped().unwrap_or_default());
        if let Err(error) = self.handle.close() {
            let problem = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            logger.log(LogLevel::Error, "menagerie", &format!("{name}: dlclose failed: {problem}"));
        }
        let gone = self.image.mapped().is_ok_and(|ranges| ranges.is_empty());
        if !gone {
            let message = format!(
                "{name} stays mapped after dlclose: a thread that it started still runs, or it is \
                 C++ with unique symbols (compile with -fno-gnu-unique)"
            );
            logger.log(LogLevel::Warn, "menagerie", &message);
            // The dynamic loader still knows the library by this descriptor's
            // path, and would return it to whoever gets the number next.
            std::mem::forget(self.image);
            std::mem::forget(self.place);
        }
        gone
    }
}

/// The dynamic loader's message without the copy's path, and with what to do.
fn explain(error: &libloading::Error, path: &Path) -> String {
    let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let prefix = format!("{}: ", path.display());
    let message = message.strip_prefix(&prefix).unwrap_or(&message);
    let hint = if message.contains("cannot open shared object file") {
        "; a bundle's own libraries have to be linked statically, the system's to be installed"
    } else {
        ""
    };
    format!("cannot be loaded: {message}{hint}")
}
