//! What a worker says last, if it is a bundle or its loader that ends it: whose doing
//! that was. Nobody else can tell, where several bundles ran or none did.

use crate::lane::worker::Outbox;
use crate::message::{ENDED_BY, LogLevel, LogRecord, ToSupervisor};
use crate::runtime::Logger;

/// Ends the process if it is dropped while it is armed: its thread panics, or unwinds
/// because the bundle has called pthread_exit(3). The call that ran has been answered
/// on the way here, so it is said whose it was.
pub(super) struct AbortOnUnwind {
    armed: bool,
    outbox: Outbox,
    /// For whom it is at work; nobody, before a bundle has come.
    bundle: Option<String>,
}

impl AbortOnUnwind {
    pub(super) const fn armed(outbox: Outbox, bundle: Option<String>) -> Self {
        Self { armed: true, outbox, bundle }
    }

    /// Its thread has come to its end.
    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let message = match &self.bundle {
            None => "the loader has panicked before a bundle came".to_owned(),
            Some(bundle) if std::thread::panicking() => {
                format!("the loader has panicked at work for the bundle '{bundle}'")
            }
            Some(bundle) => ended_its_thread(bundle),
        };
        super::complain_text(&message);
        (self.outbox)(ToSupervisor::Log(last_words(self.bundle.clone(), message)));
        std::process::abort();
    }
}

/// Runs code of a bundle on its lane's thread, for a loader whose destructors cannot do
/// with a thread that ends in the midst of it: if the code calls pthread_exit(3), which
/// unwinds, the process says whose code it was and ends here, before them. A panic
/// passes; the lane sees to it.
pub fn watched<T>(bundle: &str, logger: &Logger, code: impl FnOnce() -> T) -> T {
    struct Watch<'a> {
        bundle: &'a str,
        logger: &'a Logger,
    }

    impl Drop for Watch<'_> {
        #[cold]
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            let message = ended_its_thread(self.bundle);
            super::complain_text(&message);
            self.logger.log(LogLevel::Error, ENDED_BY, &message);
            std::process::abort();
        }
    }

    let watch = Watch { bundle, logger };
    let outcome = code();
    std::mem::forget(watch);
    outcome
}

pub(super) fn ended_its_thread(bundle: &str) -> String {
    format!("the bundle '{bundle}' has ended its own thread, which is the worker's")
}

/// As the supervisor knows them.
pub(super) fn last_words(bundle: Option<String>, message: String) -> LogRecord {
    let (level, target) = (LogLevel::Error, ENDED_BY.to_owned());
    LogRecord { bundle, level, target, message }
}
