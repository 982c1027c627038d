//! What bundles write, line by line into their logs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use menagerie_protocol::Logger;
use menagerie_protocol::message::LogLevel;
use pyo3::prelude::*;

use crate::interpreter;
use crate::lane::Lane;

/// The logs of the generations that are loaded, by their serial numbers.
static LOGGERS: Mutex<Option<HashMap<u64, Logger>>> = Mutex::new(None);

/// Longer lines are cut: a bundle that never ends its line must not fill the
/// worker's memory.
const MAX_LINE: usize = 64 << 10;

const STREAMS: [(LogLevel, &str); 2] = [(LogLevel::Info, "stdout"), (LogLevel::Warn, "stderr")];

fn loggers() -> MutexGuard<'static, Option<HashMap<u64, Logger>>> {
    LOGGERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a generation's log known to all threads.
pub(crate) fn register(serial: u64, logger: Logger) {
    loggers().get_or_insert_default().insert(serial, logger);
}

/// Takes it back, after the line that its thread has begun was written.
pub(crate) fn forget(serial: u64) {
    for which in 0..STREAMS.len() {
        LINES.with_borrow_mut(|lines| lines[which].end());
    }
    if let Some(all) = loggers().as_mut() {
        all.remove(&serial);
    }
}

/// The log of the bundle whose code is running; `None` if no bundle's is.
pub(crate) fn logger(py: Python<'_>) -> PyResult<Option<Logger>> {
    if let Some(lane) = Lane::current() {
        return Ok(Some(lane.logger.clone()));
    }
    let serial: u64 = interpreter::internal(py, "bundles")?.call_method0("caller")?.extract()?;
    Ok(loggers().as_ref().and_then(|all| all.get(&serial)).cloned())
}

thread_local! {
    /// Lines that this thread has begun on stdout and stderr. Each thread has
    /// its own, so that two that print at once do not mix their words.
    static LINES: RefCell<[Line; 2]> = const { RefCell::new([Line::new(0), Line::new(1)]) };
}

/// A line without its end.
struct Line {
    which: usize,
    text: String,
    logger: Option<Logger>,
}

impl Line {
    const fn new(which: usize) -> Self {
        Self { which, text: String::new(), logger: None }
    }

    fn end(&mut self) {
        if self.text.is_empty() {
            return;
        }
        if let Some(logger) = &self.logger {
            let (level, target) = STREAMS[self.which];
            logger.log(level, target, self.text.strip_suffix('\r').unwrap_or(&self.text));
        }
        self.text.clear();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes to stdout (0) or stderr (1).
pub(crate) fn write(py: Python<'_>, which: usize, text: &str) -> PyResult<()> {
    let Some(logger) = logger(py)? else {
        return Ok(if which == 0 {
            std::io::stdout().write_all(text.as_bytes())
        } else {
            std::io::stderr().write_all(text.as_bytes())
        }?);
    };
    LINES.with_borrow_mut(|lines| {
        let Some(line) = lines.get_mut(which) else { return };
        line.logger = Some(logger);
        for piece in text.split_inclusive('\n') {
            match piece.strip_suffix('\n') {
                Some(last) => {
                    line.text.push_str(last);
                    if line.text.is_empty() {
                        // An empty line is a line as well.
                        let (level, target) = STREAMS[which];
                        if let Some(logger) = &line.logger {
                            logger.log(level, target, "");
                        }
                    }
                    line.end();
                }
                None => line.text.push_str(piece),
            }
            if line.text.len() > MAX_LINE {
                line.end();
            }
        }
    });
    Ok(())
}

/// Writes what has been begun.
pub(crate) fn flush(which: usize) {
    LINES.with_borrow_mut(|lines| {
        if let Some(line) = lines.get_mut(which) {
            line.end();
        }
    });
}
