//! Standard error of a program that must not stand still: a thread writes it, and whoever
//! says something waits for nobody. What nobody reads is dropped and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::foreign::record;

/// Pieces that may wait to be written; a piece is a line, as a rule.
const MAX_PIECES: usize = 1024;
/// And their bytes together.
const MAX_BYTES: usize = 1 << 20;

static VOICE: Voice = Voice::new();
/// Whether there is a thread for it.
static WRITES: AtomicBool = AtomicBool::new(false);

/// What is to be written.
#[derive(Debug)]
struct Voice {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
    /// Pieces that there was no room for, after these.
    dropped: u64,
    /// Whether some that were taken are not written yet.
    writes: bool,
}

impl State {
    const fn new() -> Self {
        Self { pieces: Vec::new(), bytes: 0, dropped: 0, writes: false }
    }

    fn is_done(&self) -> bool {
        self.pieces.is_empty() && self.dropped == 0 && !self.writes
    }
}

impl Voice {
    const fn new() -> Self {
        Self { state: Mutex::new(State::new()), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, piece: &[u8]) {
        let mut state = self.state();
        let is_full = state.pieces.len() >= MAX_PIECES
            || (state.bytes > 0 && state.bytes.saturating_add(piece.len()) > MAX_BYTES);
        // After a gap comes the word about it.
        if is_full || state.dropped > 0 {
            state.dropped += 1;
        } else {
            state.bytes += piece.len();
            state.pieces.push(piece.to_owned());
        }
        drop(state);
        self.changed.notify_all();
    }

    fn run(&self, mut to: impl Write) {
        let mut state = self.state();
        loop {
            if state.pieces.is_empty() && state.dropped == 0 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let State { pieces, dropped, .. } = std::mem::replace(&mut *state, State::new());
            state.writes = true;
            drop(state);
            for piece in &pieces {
                drop(to.write_all(piece));
            }
            if dropped > 0 {
                let what = "menagerie: nobody read this in time, and so many lines are lost";
                drop(writeln!(to, "{what}: {dropped}"));
            }
            state = self.state();
            state.writes = false;
            self.changed.notify_all();
        }
    }

    fn finish(&self, limit: Duration) {
        let waits = |state: &mut State| !state.is_done();
        drop(self.changed.wait_timeout_while(self.state(), limit, waits));
    }
}

/// From now on a thread writes what is said, if one can be had; else whoever says it.
pub(crate) fn begin() {
    let thread = std::thread::Builder::new().name("stderr".to_owned());
    let begun = thread.spawn(|| VOICE.run(io::stderr()));
    WRITES.store(begun.is_ok(), Ordering::Relaxed);
}

/// Says something on standard error, in one piece.
pub(crate) fn say(text: &[u8]) {
    if WRITES.load(Ordering::Relaxed) {
        VOICE.say(text);
    } else {
        drop(io::stderr().lock().write_all(text));
    }
}

/// Waits until everything is written that was said, but not longer than that.
pub(crate) fn finish(limit: Duration) {
    if WRITES.load(Ordering::Relaxed) {
        VOICE.finish(limit);
    }
}

/// As a place that logs are written to, each record in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voiced;

impl Write for Voiced {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        say(record(&String::from_utf8_lossy(text)).as_bytes());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn g_what_is_said_is_written_in_order() {
        static VOICE: Voice = Voice::new();
        let (from, to) = io::pipe().unwrap();
        std::thread::spawn(|| VOICE.run(to));
        VOICE.say(b"one\n");
        VOICE.finish(PATIENCE);
        // However long it is, where nothing else waits.
        VOICE.say(&[vec![b'x'; 2 * MAX_BYTES], b"\n".to_vec()].concat());
        let mut lines = BufReader::new(from).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "one");
        assert_eq!(lines.next().unwrap().len(), 2 * MAX_BYTES);
        VOICE.say(b"two\n");
        VOICE.finish(PATIENCE);
        assert!(VOICE.state().is_done());
        assert_eq!(lines.next().unwrap(), "two");
    }

    #[test]
    fn g_nobody_waits_for_whoever_reads_it() {
        static VOICE: Voice = Voice::new();
        let (from, to) = io::pipe().unwrap();
        std::thread::spawn(|| VOICE.run(to));
        let line = [vec![b'x'; 1023], b"\n".to_vec()].concat();
        let said = 4 * MAX_PIECES;
        for _ in 0..said {
            VOICE.say(&line);
        }
        VOICE.finish(Duration::from_millis(1));
        assert!(!VOICE.state().is_done());
        let mut lines = BufReader::new(from).lines().map(Result::unwrap);
        let (mut written, mut lost) = (0, 0);
        while written + lost < said {
            let line = lines.next().unwrap();
            match line
                .strip_prefix("menagerie: nobody read this in time, and so many lines are lost: ")
            {
                Some(count) => lost += count.parse::<usize>().unwrap(),
                None => written += 1,
            }
        }
        assert!(lost > 0 && written >= MAX_PIECES, "{written} lines, {lost} are lost");
        VOICE.finish(PATIENCE);
        assert!(VOICE.state().is_done());
    }
}
