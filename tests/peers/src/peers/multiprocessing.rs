//! Python's multiprocessing: caller and server are both Python, which is what
//! its user has; the script measures itself.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Peer, What};
use crate::Outcome;

const SCRIPT: &str = include_str!("multiprocessing.py");

pub(crate) struct Multiprocessing {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Drop for Multiprocessing {
    fn drop(&mut self) {
        // With the end of its input the script ends its own child too.
        drop(self.asks.take());
        drop(self.child.wait());
    }
}

impl Multiprocessing {
    pub(crate) fn start() -> Outcome<Self> {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { child, asks, answers })
    }
}

impl Peer for Multiprocessing {
    fn null(&mut self) -> Outcome<()> {
        self.times(What::Null, 1, 1).map(drop)
    }

    fn echo(&mut self, data: &[u8]) -> Outcome<usize> {
        self.times(What::Echo(data), 1, 1).map(|_| data.len())
    }

    fn times(&mut self, what: What<'_>, batches: u32, batch: u32) -> Outcome<Vec<f64>> {
        let (name, length) = match what {
            What::Null => ("null", 0),
            What::Echo(data) => ("echo", data.len()),
        };
        let asks = self.asks.as_mut().ok_or("it has ended")?;
        writeln!(asks, "{name} {length} {batches} {batch}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let times = line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        if times.len() == usize::try_from(batches)? {
            Ok(times)
        } else {
            Err("python3 has failed".into())
        }
    }
}
