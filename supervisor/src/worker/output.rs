//! A worker's standard output and error: lines to `tracing`, and the last ones
//! of its standard error kept for the crash report.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use menagerie_protocol::message::{LogLevel, LogRecord};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::child::over;
use super::gate::{Gate, Verdict};
use super::reap::Ended;
use crate::events::EventBus;
use crate::lane::lock;

/// Lines of standard error in a crash report.
const KEPT_LINES: usize = 100;
/// And their bytes together: of long lines there are fewer.
const KEPT_BYTES: usize = 64 << 10;
/// A longer line of a stream goes on in the next one, in bytes; a longer record
/// is cut.
const MAX_LINE: usize = 16 << 10;
/// A longer name is cut here, in bytes.
const MAX_NAME: usize = 256;
/// In bytes (pipe(7), `pipe-max-size`): whoever writes on after the process's end is not
/// read for ever.
const MOST_IN_A_PIPE: usize = 1 << 20;

/// Where the lines of a standard error come from that a guest has in place of the
/// process's own, as workers say in their records.
pub(super) const STDERR: &str = "stderr";

/// The last lines of a worker's standard error, its bundles' included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<LastLines>>);

#[derive(Debug, Default)]
struct LastLines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&self, line: &str) {
        let line = cut(line.to_owned(), MAX_LINE);
        let LastLines { lines, bytes } = &mut *lock(&self.0);
        *bytes += line.len();
        lines.push_back(line);
        while lines.len() > KEPT_LINES || *bytes > KEPT_BYTES {
            let Some(oldest) = lines.pop_front() else { break };
            *bytes -= oldest.len();
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.0).lines.iter().cloned().collect()
    }
}

/// Reads a pipe to its end, line by line; or until its process has `ended`, and then
/// what is in it: others may keep it open for as long as they like.
pub(crate) async fn read_lines(
    pipe: OwnedFd,
    ended: impl Future<Output = ()>,
    line: impl FnMut(&str),
) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(pipe) else { return };
    let mut lines = Lines { pending: Vec::new(), line };
    let mut chunk = vec![0; 8192];
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            count = pipe.read(&mut chunk) => match count {
                Ok(count @ 1..) => lines.read(&chunk[..count]),
                _ => break,
            },
            () = &mut ended => {
                // Not by the runtime, which may not have seen yet that there is something.
                let mut left = MOST_IN_A_PIPE;
                while left > 0 && let Ok(count @ 1..) = nix::unistd::read(&pipe, &mut chunk) {
                    lines.read(&chunk[..count]);
                    left = left.saturating_sub(count);
                }
                break;
            }
        }
    }
    lines.end();
}

/// Makes lines of bytes.
struct Lines<L> {
    pending: Vec<u8>,
    line: L,
}

impl<L: FnMut(&str)> Lines<L> {
    fn read(&mut self, bytes: &[u8]) {
        let Self { pending, line } = self;
        for &byte in bytes {
            if byte == b'\n' || pending.len() >= MAX_LINE {
                line(String::from_utf8_lossy(pending).trim_end_matches('\r'));
                pending.clear();
            }
            if byte != b'\n' {
                pending.push(byte);
            }
        }
    }

    fn end(mut self) {
        if !self.pending.is_empty() {
            (self.line)(&String::from_utf8_lossy(&self.pending));
        }
    }
}

/// Follows both of a worker's pipes, until it has `ended`. `bundle` says whose line it
/// is, where that is certain.
pub(crate) fn follow(
    events: &Arc<EventBus>,
    worker: &str,
    gate: &Gate,
    stdout: OwnedFd,
    stderr: OwnedFd,
    ended: &watch::Receiver<Option<Ended>>,
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
    let mut until = ended.clone();
    drop(tokio::spawn(async move {
        read_lines(stdout, over(&mut until), |line| out(line, whose())).await;
    }));
    let err = record(LogLevel::Warn, STDERR);
    let mut until = ended.clone();
    let errors = tokio::spawn(async move {
        read_lines(stderr, over(&mut until), |line| {
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
    fn s2_the_last_words_are_bounded_in_lines_and_bytes() {
        let tail = Tail::default();
        for number in 0..150 {
            tail.push(&number.to_string());
        }
        let lines = tail.lines();
        assert_eq!((lines.len(), &*lines[0], &*lines[99]), (100, "50", "149"));
        for _ in 0..150 {
            tail.push(&"x".repeat(2 * MAX_LINE));
        }
        tail.push("the end");
        let lines = tail.lines();
        let bytes: usize = lines.iter().map(String::len).sum();
        assert!(lines.len() > 2 && bytes <= KEPT_BYTES, "{} lines, {bytes} bytes", lines.len());
        assert_eq!(lines.last().unwrap(), "the end");
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
        let for_ever = std::future::pending();
        read_lines(reader.into(), for_ever, |line| lines.push(line.to_owned())).await;
        thread.join().unwrap();
        assert_eq!(lines[..4], ["one", "two", "", "\u{fffd}\u{fffd}\0"]);
        assert!(lines[4..7].iter().all(|line| line.len() == MAX_LINE));
        assert_eq!(lines[7..], ["no end"]);
    }

    #[tokio::test]
    async fn s7_output_is_read_until_its_process_has_ended() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        // As much as fits, and the runtime has not seen it yet.
        writer.write_all(&[b"word\n".repeat(10_000), b"no end".to_vec()].concat()).unwrap();
        let mut lines = Vec::new();
        let ended = std::future::ready(());
        read_lines(reader.into(), ended, |line| lines.push(line.to_owned())).await;
        assert_eq!((lines.len(), &*lines[9_999], &*lines[10_000]), (10_001, "word", "no end"));
        // And not for ever, where somebody writes on.
        let (reader, mut writer) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
        let ended = std::future::ready(());
        read_lines(reader.into(), ended, |_| ()).await;
        thread.join().unwrap();
    }
}
