//! A worker's program without a supervisor: what the language itself costs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use menagerie_supervisor::{Config, worker_program};

use super::Problem;

/// A worker that calls its one bundle in its own process.
pub(super) struct InProcess {
    child: Child,
    numbers: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// From its start to its first answer.
    pub(super) started: Duration,
}

impl Drop for InProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl InProcess {
    /// Starts it, and waits for its first answer.
    pub(super) fn start(config: &Config, loader: &str, dir: &Path) -> Result<Self, Problem> {
        let program = worker_program(config, loader).map_err(|e| Problem::new(loader, &e))?;
        let io = |error: std::io::Error| Problem::new(&program.display(), &error);
        let started = Instant::now();
        let mut child = super::program(&program)
            .arg("--in-process")
            .arg(dir)
            .args(["probe@1", "null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io)?;
        let (Some(numbers), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Problem::new(loader, &"no pipes"));
        };
        let mut this =
            Self { child, numbers, answers: BufReader::new(answers), started: Duration::ZERO };
        // What a bundle prints comes first.
        while this.line().map_err(io)? != "ready" {}
        this.started = started.elapsed();
        Ok(this)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("it ended before it answered"));
        }
        Ok(line.trim().to_owned())
    }

    /// What one of `calls` calls costs in nanoseconds, in the median.
    pub(super) fn measure(&mut self, calls: u32) -> Result<f64, Problem> {
        let io = |error: std::io::Error| Problem::new(&"in-process call", &error);
        writeln!(self.numbers, "{calls}").map_err(io)?;
        let line = self.line().map_err(io)?;
        line.parse().map_err(|_| Problem::new(&"in-process call", &line))
    }
}
