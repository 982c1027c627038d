//! The environment of a worker's process: an allow-list, and what the
//! configuration adds (P1).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use menagerie_protocol::codec::CodecError;
use menagerie_protocol::lane::wait::cpus;
use menagerie_protocol::message::{
    ENV_CPUS, ENV_FIRST_LOAD, ENV_GRACE, ENV_SCRATCH, ENV_SOCKET, ENV_STANDBY, ENV_TOKEN,
};
use menagerie_protocol::sandbox::{ENV_SANDBOX, Limits};

use crate::config::Config;

/// Variables of the host that a worker may see; and every one that begins with
/// `LC_` or `DOTNET_`.
const ALLOWED: [&str; 15] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "PYTHONHOME",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "MENAGERIE_DOTNET_ROOT",
    "MENAGERIE_DOTNET_BRIDGE",
];

fn is_allowed(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| {
        ALLOWED.contains(&name) || name.starts_with("LC_") || name.starts_with("DOTNET_")
    })
}

/// The environment of a loader's processes, without what each has of its own.
#[derive(Debug)]
pub(super) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Of workers that say hello at this socket; a standby learns that it is one.
    pub(super) fn new(config: &Config, socket: &Path, standby: bool) -> Self {
        let mut env: BTreeMap<OsString, OsString> =
            std::env::vars_os().filter(|(name, _)| is_allowed(name)).collect();
        if let Some(venv) = &config.python_venv {
            env.insert("MENAGERIE_PYTHON_VENV".into(), venv.into());
        }
        for (name, value) in &config.worker_env {
            env.insert(name.into(), value.into());
        }
        env.insert(ENV_SOCKET.into(), socket.into());
        env.insert(ENV_CPUS.into(), cpus().to_string().into());
        env.insert(ENV_GRACE.into(), config.grace.as_millis().to_string().into());
        if standby {
            env.insert(ENV_STANDBY.into(), "1".into());
        }
        Self(env)
    }

    /// The whole environment of one process.
    pub(super) fn of(
        self,
        token: &str,
        scratch: &Path,
        first_load: Option<RawFd>,
        sandbox: Option<&Limits>,
    ) -> Result<BTreeMap<OsString, OsString>, CodecError> {
        let Self(mut env) = self;
        if let Some(limits) = sandbox {
            env.insert(ENV_SANDBOX.into(), limits.to_text()?.into());
            // The one place where it can write.
            env.insert("TMPDIR".into(), scratch.into());
        }
        if let Some(descriptor) = first_load {
            env.insert(ENV_FIRST_LOAD.into(), descriptor.to_string().into());
        }
        env.insert(ENV_TOKEN.into(), token.into());
        env.insert(ENV_SCRATCH.into(), scratch.into());
        Ok(env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_the_environment_is_an_allow_list() {
        let mut config = Config::default();
        config.worker_env.insert("MINE".to_owned(), "yes".to_owned());
        let here = Path::new("/here");
        let env = Environment::new(&config, here, false).of("abc", here, Some(3), None).unwrap();
        for name in ["MINE", ENV_SOCKET, ENV_TOKEN, ENV_SCRATCH, ENV_FIRST_LOAD, ENV_CPUS] {
            assert!(env.contains_key(&OsString::from(name)), "{name}");
        }
        let cpus = std::thread::available_parallelism().unwrap();
        assert_eq!(env[&OsString::from(ENV_CPUS)], OsString::from(cpus.to_string()));
        assert_eq!(env[&OsString::from(ENV_GRACE)], OsString::from("500"));
        // Cargo sets this one for its tests.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        assert!(!env.contains_key(&OsString::from("CARGO_MANIFEST_DIR")));
    }
}
