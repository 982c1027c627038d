//! What bundles, workers and the supervisor itself say, kept for
//! `menagerie logs`.

use menagerie_protocol::message::{LogLevel, LogRecord};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::events::now_ms;
use crate::history::History;

/// A longer message is cut here, in bytes.
const MAX_MESSAGE: usize = 16 << 10;
/// The same for who speaks.
const MAX_SOURCE: usize = 256;
/// What an entry takes beside its text, about.
const OVERHEAD: usize = 128;

/// A line that a bundle, a worker or the supervisor has logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Counts up from 1.
    pub id: u64,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// How much it matters.
    pub level: LogLevel,
    /// The worker that it came from or is about.
    pub worker: Option<String>,
    /// The bundle that it came from or is about, where that is known.
    pub bundle: Option<String>,
    /// Who speaks: `stdout`, `stderr`, a logger's name, or `supervisor`.
    pub source: String,
    /// What was said.
    pub message: String,
}

/// The last log entries.
#[derive(Debug)]
pub(crate) struct Logs(pub(crate) History<LogEntry>);

impl Logs {
    pub(crate) fn new(config: &Config) -> Self {
        Self(History::new(config.log_records, config.log_bytes))
    }

    /// Keeps what a worker or a bundle says.
    pub(crate) fn record(&self, worker: &str, record: &LogRecord) {
        let LogRecord { bundle, level, target, message } = record;
        self.push(*level, Some(worker), bundle.as_deref(), target, message);
    }

    /// Keeps what the supervisor says.
    pub(crate) fn push(
        &self,
        level: LogLevel,
        worker: Option<&str>,
        bundle: Option<&str>,
        source: &str,
        message: &str,
    ) {
        let message = cut(message, MAX_MESSAGE);
        let source = cut(source, MAX_SOURCE);
        let texts = [worker.unwrap_or(""), bundle.unwrap_or(""), source, message];
        let bytes = texts.iter().map(|text| text.len()).sum::<usize>() + OVERHEAD;
        let make = |id| {
            let entry = LogEntry {
                id,
                time_ms: now_ms(),
                level,
                worker: worker.map(str::to_owned),
                bundle: bundle.map(str::to_owned),
                source: source.to_owned(),
                message: message.to_owned(),
            };
            (entry, u64::try_from(bytes).unwrap_or(u64::MAX))
        };
        self.0.push(make, |_| {});
    }
}

/// At most so many bytes of a text.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_no_record_takes_more_than_its_share() {
        let logs = Logs::new(&Config::default());
        logs.push(LogLevel::Info, None, None, "a", &"é".repeat(1 << 20));
        let batch = logs.0.after(0, 1);
        assert!(batch.items[0].message.len() <= MAX_MESSAGE);
        assert!(batch.items[0].message.ends_with('é'));
    }
}
