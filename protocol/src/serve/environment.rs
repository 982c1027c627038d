//! What a worker is started with.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::message::{
    ENV_CPUS, ENV_FIRST_LOAD, ENV_GRACE, ENV_SCRATCH, ENV_SOCKET, ENV_STANDBY, ENV_TOKEN,
    WorkerEnvironment,
};

/// A variable of the environment is missing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{variable} is not set: this program is started by a Menagerie supervisor, not by hand \
     (see `menagerie run --help`)"
)]
pub struct EnvironmentError {
    variable: &'static str,
}

impl WorkerEnvironment {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// A variable is missing.
    pub fn read() -> Result<Self, EnvironmentError> {
        let path = |variable| {
            std::env::var_os(variable).map(PathBuf::from).ok_or(EnvironmentError { variable })
        };
        let token =
            std::env::var(ENV_TOKEN).map_err(|_| EnvironmentError { variable: ENV_TOKEN })?;
        let standby = std::env::var_os(ENV_STANDBY).is_some();
        let first_load = std::env::var(ENV_FIRST_LOAD).ok().and_then(|fd| fd.parse().ok());
        let cpus = std::env::var(ENV_CPUS).ok().and_then(|cpus| cpus.parse().ok());
        let grace = std::env::var(ENV_GRACE).ok().and_then(|ms| ms.parse().ok());
        Ok(Self {
            socket: path(ENV_SOCKET)?,
            token,
            scratch: path(ENV_SCRATCH)?,
            standby,
            first_load,
            cpus,
            grace: grace.map(Duration::from_millis),
        })
    }
}
