//! What was measured, for people and for programs.

use std::fmt::Write;

use serde::Serialize;

/// The versions that were built.
const LOCK: &str = include_str!("../Cargo.lock");

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    NullP50,
    NullP99,
    EchoP50,
}

impl Figure {
    const fn label(self) -> &'static str {
        match self {
            Self::NullP50 => "null call, p50",
            Self::NullP99 => "null call, p99",
            Self::EchoP50 => "1 MiB echoed, p50",
        }
    }
}

/// A peer beside Menagerie, in nanoseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    figure: Figure,
    peer: String,
    /// Of the peer's package.
    version: Option<String>,
    /// Medians of the turns.
    peer_ns: f64,
    ours_ns: f64,
    /// Ours by theirs: the median of the turns' own ratios, and their range.
    /// Below 1 we are ahead.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
}

impl Row {
    /// From each turn's pair: theirs, ours.
    pub(crate) fn new(
        figure: Figure,
        peer: &str,
        package: Option<&str>,
        pairs: &[(f64, f64)],
    ) -> Self {
        let of = |pick: fn(&(f64, f64)) -> f64| pairs.iter().map(pick).collect::<Vec<f64>>();
        let ratios = of(|(theirs, ours)| ours / theirs);
        Self {
            figure,
            peer: peer.to_owned(),
            version: package.and_then(|name| version(LOCK, name)),
            peer_ns: quantile(&of(|pair| pair.0), 0.5),
            ours_ns: quantile(&of(|pair| pair.1), 0.5),
            ratio: quantile(&ratios, 0.5),
            ratio_min: quantile(&ratios, 0.0),
            ratio_max: quantile(&ratios, 1.0),
        }
    }

    fn cells(&self) -> [String; 6] {
        let version = self.version.as_deref().map(|v| format!(" {v}")).unwrap_or_default();
        [
            self.figure.label().to_owned(),
            format!("{}{version}", self.peer),
            time(self.peer_ns),
            time(self.ours_ns),
            format!("{:.3}", self.ratio),
            format!("{:.3}–{:.3}", self.ratio_min, self.ratio_max),
        ]
    }
}

const HEADER: [&str; 6] = ["figure", "peer", "peer's", "ours", "ours / peer's", "of turns"];

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Counts up when a field changes its meaning.
    schema: u32,
    version: &'static str,
    quick: bool,
    optimised: bool,
    cpu: String,
    cpus: usize,
    kernel: String,
    pub(crate) rows: Vec<Row>,
    /// Who was left out, and why.
    pub(crate) left_out: Vec<String>,
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()))
            .unwrap_or_default();
        Self {
            schema: 1,
            version: env!("CARGO_PKG_VERSION"),
            quick,
            optimised: !cfg!(debug_assertions),
            cpu,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rows: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// The table for a terminal.
    pub(crate) fn table(&self) -> String {
        let rows: Vec<[String; 6]> = std::iter::once(HEADER.map(str::to_owned))
            .chain(self.rows.iter().map(Row::cells))
            .collect();
        let mut text = String::new();
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for reason in &self.left_out {
            let _ = writeln!(text, "left out: {reason}");
        }
        text
    }

    /// The page for `docs/bench`.
    pub(crate) fn page(&self) -> String {
        let mut text = String::from(
            "# Beside what one would pick instead\n\n\
             Written by `make bench-peers`; do not edit. Caller and server are two processes; the\n\
             functions are the same: one that does nothing, one that returns its bytes. All\n\
             contestants are measured in short turns, in rotation, Menagerie (`call_blocking` into a\n\
             native bundle in Rust) before each of them; a ratio is taken within a turn, and the\n\
             table has the turns' medians and range. Below 1, Menagerie is ahead. Servers that poll\n\
             are stopped outside their turns.\n\n\
             An echo begins with bytes of the caller's own and ends when the caller can read the\n\
             answer: an owned copy from Menagerie, tarpc, the stream and Python, a view of shared\n\
             memory from iceoryx2 and ipc-channel. ipc-channel's server passes the same memory back.\n\
             Python's multiprocessing is called from Python.\n\n",
        );
        let quick = if self.quick { "a quick run" } else { "a full run" };
        let _ = writeln!(
            text,
            "This is {quick} on {} CPUs ({}), Linux {}.\n",
            self.cpus, self.cpu, self.kernel
        );
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text.push_str(&line(&HEADER.map(str::to_owned)));
        text.push_str(&line(&HEADER.map(|_| "---".to_owned())));
        for row in &self.rows {
            text.push_str(&line(&row.cells()));
        }
        if !self.left_out.is_empty() {
            text.push_str("\nLeft out:\n\n");
            for reason in &self.left_out {
                let _ = writeln!(text, "- {reason}");
            }
        }
        text
    }
}

fn time(nanos: f64) -> String {
    match nanos {
        n if n >= 1e6 => format!("{:.2} ms", n / 1e6),
        n if n >= 1e3 => format!("{:.2} µs", n / 1e3),
        n => format!("{n:.0} ns"),
    }
}

/// The value at a share of the sorted values; not a number for none.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index into a short list"
)]
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// A package's version in a lock file.
fn version(lock: &str, package: &str) -> Option<String> {
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_versions() {
        assert!((quantile(&[3.0, 1.0, 2.0], 0.5) - 2.0).abs() < 1e-9);
        assert!((quantile(&[3.0, 1.0, 2.0], 1.0) - 3.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n";
        assert_eq!(version(lock, "a").as_deref(), Some("1.2.3"));
        assert_eq!(version(lock, "b"), None);
    }
}
