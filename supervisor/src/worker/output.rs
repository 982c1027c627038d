//! A worker's standard output and error: lines to `tracing`, and the last ones
//! of its standard error kept for the crash report.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use menagerie_protocol::message::{LogLevel, LogRecord};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::lane::lock;

/// Lines of standard error in a crash report.
const KEPT_LINES: usize = 100;
/// A longer line is cut here, in bytes.
const MAX_LINE: usize = 16 << 10;

/// The last lines of a worker's standard error.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = lock(&self.0);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.0).iter().cloned().collect()
    }
}

/// Reads a pipe to its end, line by line.
pub(crate) async fn read_lines(pipe: OwnedFd, mut line: impl FnMut(&str)) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) else { return };
    let mut chunk = vec![0; 8192];
    let mut pending: Vec<u8> = Vec::new();
    while let Ok(count) = pipe.read(&mut chunk).await {
        if count == 0 {
            break;
        }
        for &byte in &chunk[..count] {
            if byte == b'\n' || pending.len() >= MAX_LINE {
                line(String::from_utf8_lossy(&pending).trim_end_matches('\r'));
                pending.clear();
            }
            if byte != b'\n' {
                pending.push(byte);
            }
        }
    }
    if !pending.is_empty() {
        line(&String::from_utf8_lossy(&pending));
    }
}

/// Follows both of a worker's pipes. `bundle` says whose line it may be.
pub(crate) fn follow(
    worker: &str,
    stdout: OwnedFd,
    stderr: OwnedFd,
    bundle: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
) -> (Tail, tokio::task::JoinHandle<()>) {
    let tail = Tail::default();
    let kept = tail.clone();
    let record = |worker: &str, level, target: &str, line: &str, bundle: Option<String>| {
        let (target, message) = (target.to_owned(), line.to_owned());
        log_record(worker, &LogRecord { bundle, level, target, message });
    };
    let name = worker.to_owned();
    let whose = bundle.clone();
    drop(tokio::spawn(async move {
        read_lines(stdout, |line| record(&name, LogLevel::Info, "stdout", line, whose())).await;
    }));
    let name = worker.to_owned();
    let errors = tokio::spawn(async move {
        read_lines(stderr, |line| {
            kept.push(line);
            record(&name, LogLevel::Warn, "stderr", line, bundle());
        })
        .await;
    });
    (tail, errors)
}

/// A record of a worker or a bundle becomes a `tracing` event with `worker`,
/// `bundle` and `source` as fields.
pub(crate) fn log_record(worker: &str, record: &LogRecord) {
    let LogRecord { bundle, level, target: source, message } = record;
    let bundle = bundle.as_deref();
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(target: "menagerie::bundle", worker, bundle, source, "{message}")
        };
    }
    match level {
        LogLevel::Trace => event!(trace),
        LogLevel::Debug => event!(debug),
        LogLevel::Info => event!(info),
        LogLevel::Warn => event!(warn),
        LogLevel::Error => event!(error),
    }
}
