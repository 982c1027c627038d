//! A worker's standard output and error: lines to `tracing`, and the last ones
//! of its standard error kept for the crash report.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use menagerie_protocol::message::{LogLevel, LogRecord};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::gate::{Gate, Verdict};
use crate::events::EventBus;
use crate::lane::lock;

/// Lines of standard error in a crash report.
const KEPT_LINES: usize = 100;
/// A longer line of a stream goes on in the next one, in bytes; a longer record
/// is cut.
const MAX_LINE: usize = 16 << 10;
/// A longer name is cut here, in bytes.
const MAX_NAME: usize = 256;

/// Where the lines of a standard error come from that a guest has in place of the
/// process's own, as workers say in their records.
pub(super) const STDERR: &str = "stderr";

/// The last lines of a worker's standard error, its bundles' included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    pub(super) fn push(&self, line: &str) {
        let line = cut(line.to_owned(), MAX_LINE);
        let mut lines = lock(&self.0);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
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
    events: &Arc<EventBus>,
    worker: &str,
    gate: &Gate,
    stdout: OwnedFd,
    stderr: OwnedFd,
    bundle: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
) -> (Tail, tokio::task::JoinHandle<()>) {
    let tail = Tail::default();
    let kept = tail.clone();
    let record = |level, target: &'static str| {
        let (events, worker, gate) = (Arc::clone(events), worker.to_owned(), gate.clone());
        move |line: &str, bundle: Option<String>| {
            let (target, message) = (target.to_owned(), line.to_owned());
            log_record(&events, &worker, &gate, LogRecord { bundle, level, target, message });
        }
    };
    let (out, whose) = (record(LogLevel::Info, "stdout"), bundle.clone());
    drop(tokio::spawn(async move {
        read_lines(stdout, |line| out(line, whose())).await;
    }));
    let err = record(LogLevel::Warn, STDERR);
    let errors = tokio::spawn(async move {
        read_lines(stderr, |line| {
            kept.push(line);
            err(line, if is_the_workers(line) { None } else { bundle() });
        })
        .await;
    });
    (tail, errors)
}

/// Whether a line is a worker's own complaint (`complain_text` of protocol's `serve`)
/// and no bundle's, whichever happens to run.
fn is_the_workers(line: &str) -> bool {
    line.starts_with("menagerie worker: ")
}

/// A record of a worker or a bundle becomes a `tracing` event with `worker`,
/// `bundle` and `source` as fields, and is kept for `menagerie logs`, unless the
/// worker says too much.
pub(crate) fn log_record(events: &EventBus, worker: &str, gate: &Gate, record: LogRecord) {
    let Verdict { passes, dropped } =
        gate.judge(record.message.len().min(MAX_LINE), Instant::now());
    if let Some(count) = dropped {
        let message = format!("it logs too much: {count} lines were dropped");
        let (level, target) = (LogLevel::Warn, "menagerie".to_owned());
        emit(events, worker, &LogRecord { bundle: None, level, target, message });
    }
    if passes {
        let LogRecord { bundle, level, target, message } = record;
        let bundle = bundle.map(|bundle| cut(bundle, MAX_NAME));
        let (target, message) = (cut(target, MAX_NAME), cut(message, MAX_LINE));
        emit(events, worker, &LogRecord { bundle, level, target, message });
    }
}

/// A text of at most `most` bytes and a few words about the rest.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let (len, mut end) = (text.len(), most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.shrink_to_fit();
        text.push_str(&format!("… ({} bytes more)", len - end));
    }
    text
}

fn emit(events: &EventBus, worker: &str, record: &LogRecord) {
    events.logs.record(worker, record);
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn output_texts_are_cut_between_characters() {
        assert_eq!(cut("short".to_owned(), 5), "short");
        assert_eq!(cut("ééé".to_owned(), 3), "é… (4 bytes more)");
    }

    #[test]
    fn output_of_the_worker_itself_is_no_bundles() {
        assert!(is_the_workers("menagerie worker: the control socket failed: Bad file descriptor"));
        assert!(!is_the_workers("menagerie: I am a bundle"));
    }

    #[tokio::test]
    async fn output_of_any_bytes_becomes_lines() {
        let (reader, writer) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            let mut writer = writer;
            writer.write_all(b"one\r\ntwo\n\n\xff\xfe\0\n").unwrap();
            writer.write_all(&vec![b'x'; 3 * MAX_LINE]).unwrap();
            writer.write_all(b"\nno end").unwrap();
        });
        let mut lines = Vec::new();
        read_lines(reader.into(), |line| lines.push(line.to_owned())).await;
        thread.join().unwrap();
        assert_eq!(lines[..4], ["one", "two", "", "\u{fffd}\u{fffd}\0"]);
        assert!(lines[4..7].iter().all(|line| line.len() == MAX_LINE));
        assert_eq!(lines[7..], ["no end"]);
    }
}
