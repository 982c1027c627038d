//! `print`, `io.write` and `io.stderr`: lines for the bundle's log.

use std::cell::RefCell;

use menagerie_protocol::Logger;
use menagerie_protocol::message::LogLevel;

/// A line longer than this is cut into several records.
const LONGEST_LINE: usize = 64 * 1024;

/// The two streams of one bundle, each cut into lines.
#[derive(Debug)]
pub(crate) struct Output {
    logger: Logger,
    stdout: RefCell<Vec<u8>>,
    stderr: RefCell<Vec<u8>>,
}

impl Output {
    pub(crate) const fn new(logger: Logger) -> Self {
        Self { logger, stdout: RefCell::new(Vec::new()), stderr: RefCell::new(Vec::new()) }
    }

    /// Takes text of stream 1 or 2, and logs the lines that it completes.
    pub(crate) fn write(&self, stream: u8, text: &[u8]) {
        let mut pending = self.pending(stream).borrow_mut();
        for part in text.split_inclusive(|&byte| byte == b'\n') {
            pending.extend_from_slice(part);
            if pending.last() == Some(&b'\n') {
                pending.pop();
                self.log(stream, &pending);
                pending.clear();
            } else if pending.len() >= LONGEST_LINE {
                self.log(stream, &pending);
                pending.clear();
            }
        }
    }

    /// Logs a line that has not been completed.
    pub(crate) fn flush(&self, stream: u8) {
        let mut pending = self.pending(stream).borrow_mut();
        if !pending.is_empty() {
            self.log(stream, &pending);
            pending.clear();
        }
    }

    const fn pending(&self, stream: u8) -> &RefCell<Vec<u8>> {
        if stream == 2 { &self.stderr } else { &self.stdout }
    }

    fn log(&self, stream: u8, line: &[u8]) {
        let (level, target) =
            if stream == 2 { (LogLevel::Warn, "stderr") } else { (LogLevel::Info, "stdout") };
        self.logger.log(level, target, &String::from_utf8_lossy(line));
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush(1);
        self.flush(2);
    }
}
