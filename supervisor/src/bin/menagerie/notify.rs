//! What systemd is told, if it has started us (sd_notify(3)): a datagram of
//! `KEY=value` lines to the socket that `NOTIFY_SOCKET` names.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How much longer systemd shall wait whenever it hears that something goes on: many
/// times what it takes until it hears so again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells systemd how we are. Without systemd it says nothing.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|name| open(&name).ok());
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        // The watchdog may be meant for another process of the service.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0);
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// How often [`alive`](Self::alive) is to be said: twice in the time that
    /// systemd waits.
    pub(crate) fn beat(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some()).map(|watchdog| watchdog / 2)
    }

    /// Everything is started.
    pub(crate) fn ready(&self, status: &str) {
        let status = one_line(status);
        self.say(&format!("READY=1\nSTATUS={status}\nMAINPID={}", std::process::id()));
    }

    /// The start goes on, whatever `TimeoutStartSec=` says: what hangs in it has limits
    /// of its own.
    pub(crate) fn starting(&self, status: &str) {
        let status = one_line(status);
        self.say(&format!("STATUS={status}\nEXTEND_TIMEOUT_USEC={}", PATIENCE.as_micros()));
    }

    /// A line for `systemctl status`.
    pub(crate) fn status(&self, status: &str) {
        self.say(&format!("STATUS={}", one_line(status)));
    }

    /// The watchdog need not bite.
    pub(crate) fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// The settings are read again; [`ready`](Self::ready) ends it. The time
    /// tells systemd which of two reloads this is.
    pub(crate) fn reloading(&self) {
        if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
            let usec = Duration::from(now).as_micros();
            self.say(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
        }
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping");
    }

    fn say(&self, lines: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(lines.as_bytes(), address)
        {
            tracing::warn!("systemd cannot be told: {error}");
        }
    }
}

/// A line of its own would be another message.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // systemd reads at once; if it does not, that must not hold us up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_says_what_systemd_expects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let notifier = Notifier::of(|name| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into()),
            "WATCHDOG_USEC" => Some("3000000".into()),
            _ => None,
        });
        assert_eq!(notifier.beat(), Some(Duration::from_millis(1500)));
        let mut buffer = [0; 256];
        let mut next = || {
            let len = systemd.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        notifier.starting("loading greeter (1 of 2)");
        assert_eq!(next(), "STATUS=loading greeter (1 of 2)\nEXTEND_TIMEOUT_USEC=60000000");
        notifier.ready("2\nbundles");
        let expected = format!("READY=1\nSTATUS=2 bundles\nMAINPID={}", std::process::id());
        assert_eq!(next(), expected);
        notifier.alive();
        assert_eq!(next(), "WATCHDOG=1");
        notifier.stopping();
        assert_eq!(next(), "STOPPING=1\nSTATUS=stopping");
    }

    #[test]
    fn notify_is_silent_without_systemd() {
        let notifier = Notifier::of(|_| None);
        assert_eq!(notifier.beat(), None);
        notifier.ready("nobody hears it");
        // Somebody else's watchdog.
        let notifier = Notifier::of(|name| match name {
            "NOTIFY_SOCKET" => Some("@menagerie-nobody".into()),
            "WATCHDOG_USEC" => Some("3000000".into()),
            "WATCHDOG_PID" => Some("1".into()),
            _ => None,
        });
        assert_eq!(notifier.beat(), None);
    }
}
