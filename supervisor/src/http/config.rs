//! The settings of the status service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::config::{ConfigError, LONGEST, TOO_LONG, units};

/// How the status service is served, and to whom: the table `[status]` of a
/// [`ConfigFile`](crate::ConfigFile).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StatusConfig {
    /// Where the socket is; `None` for [`default_socket`](crate::default_socket).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Users who may look, beside the owner and root; by number, in a file by
    /// name as well.
    #[serde(deserialize_with = "users")]
    pub read_only: Vec<u32>,
    /// Users who may look and act, beside the owner and root.
    #[serde(deserialize_with = "users")]
    pub admin: Vec<u32>,
    /// The largest request, in bytes; `None` for what the largest payload of a
    /// call takes.
    #[serde(with = "units::size::option", skip_serializing_if = "Option::is_none")]
    pub max_request: Option<u64>,
    /// Connections at a time; half of them at most for users other than the
    /// owner and root.
    pub max_connections: u32,
    /// How long a request's head, and then its body, may take to arrive.
    #[serde(with = "units::time")]
    pub request_timeout: Duration,
    /// How long a client may read nothing while an answer, or what it follows, waits for
    /// it: then its connection ends.
    #[serde(with = "units::time")]
    pub answer_timeout: Duration,
    /// A loopback address to serve the same on by TCP, for browsers and
    /// Prometheus; `None` for none. Whoever knows the token may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<SocketAddr>,
    /// Where the token for `tcp` is written, with mode 0600; `None` for
    /// `<socket>.token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self {
            socket: None,
            read_only: Vec::new(),
            admin: Vec::new(),
            max_request: None,
            max_connections: 64,
            request_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            tcp: None,
            token_file: None,
        }
    }
}

impl StatusConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |setting, problem| Err(ConfigError::Invalid { setting, problem });
        if !(2..=4096).contains(&self.max_connections) {
            return invalid("max_connections", "must be from 2 to 4096");
        }
        for (setting, time) in
            [("request_timeout", self.request_timeout), ("answer_timeout", self.answer_timeout)]
        {
            if time.is_zero() {
                return invalid(setting, "must not be zero");
            }
            if time > LONGEST {
                return invalid(setting, TOO_LONG);
            }
        }
        if self.max_request.is_some_and(|bytes| bytes < 1024) {
            return invalid("max_request", "must be at least 1024 bytes");
        }
        if self.tcp.is_some_and(|address| !address.ip().is_loopback()) {
            return invalid("tcp", "must be a loopback address, for example 127.0.0.1:7117");
        }
        if self.token_file.is_some() && self.tcp.is_none() {
            return invalid("token_file", "is of no use without tcp");
        }
        if self.read_only.iter().any(|uid| self.admin.contains(uid)) {
            return invalid("read_only", "names a user who is in admin, too");
        }
        Ok(())
    }
}

/// Users by number or by name.
fn users<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a user's name or number")]
    enum User {
        Number(u32),
        Name(String),
    }
    let users = Vec::<User>::deserialize(from)?;
    let number = |user| match user {
        User::Number(uid) => Ok(uid),
        User::Name(name) => match nix::unistd::User::from_name(&name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) => Err(D::Error::custom(format!("no user is named '{name}'"))),
            Err(error) => Err(D::Error::custom(format!("the user '{name}': {error}"))),
        },
    };
    users.into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_status_times_are_no_longer_than_clocks_go() {
        let times: [fn(&mut StatusConfig) -> &mut Duration; 2] =
            [|c| &mut c.request_timeout, |c| &mut c.answer_timeout];
        for time in times {
            let mut config = StatusConfig::default();
            *time(&mut config) = LONGEST;
            config.check().unwrap();
            *time(&mut config) = LONGEST + Duration::from_nanos(1);
            let refused = config.check().unwrap_err().to_string();
            assert!(refused.contains(TOO_LONG), "{refused}");
        }
    }
}
