use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::common::{MENAGERIE, PATIENCE, Running};

/// A terminal: our end, and the program's.
fn open_terminal(columns: u16, rows: u16) -> (OwnedFd, OwnedFd) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut ours, mut theirs) = (-1, -1);
    let (no_name, no_settings) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: the two descriptors and the size are valid for the call; a null
    // name and null settings are allowed (openpty(3)).
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, no_name, no_settings, &size) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, and owned by nobody else.
    let ours = unsafe { OwnedFd::from_raw_fd(ours) };
    // SAFETY: as above.
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    (ours, theirs)
}

/// A program on a terminal of its own; ended with the test.
struct OnTerminal {
    child: Child,
    keys: File,
    output: mpsc::Receiver<Vec<u8>>,
    /// Everything that it has written by now, escape sequences included.
    raw: String,
}

impl OnTerminal {
    fn start(command: &mut Command, columns: u16, rows: u16) -> Self {
        let (ours, theirs) = open_terminal(columns, rows);
        let clone = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let child = command
            .stdin(clone(&theirs))
            .stdout(clone(&theirs))
            .stderr(clone(&theirs))
            .env("TERM", "xterm-256color")
            .env_remove("COLUMNS")
            .spawn()
            .unwrap();
        let keys = File::from(ours.try_clone().unwrap());
        let (sender, output) = mpsc::channel();
        let mut screen = File::from(ours);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = screen.read(&mut buffer) {
                drop(sender.send(buffer[..len].to_vec()));
            }
        });
        Self { child, keys, output, raw: String::new() }
    }

    fn wait_for(&mut self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.raw.contains(what) {
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes = self.output.recv_timeout(left);
            let bytes = bytes.unwrap_or_else(|e| panic!("no {what:?} ({e}): {:?}", self.raw));
            self.raw.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// How it ends.
    fn status(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).unwrap();
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const ENTER_SCREEN: &str = "\x1b[?1049h";
const LEAVE_SCREEN: &str = "\x1b[?1049l";

/// It draws on a screen of its own, sees a worker die while it looks, and gives
/// the terminal back.
#[test]
fn g_top_is_live_on_a_terminal() {
    let running = Running::start("");
    let mut top = OnTerminal::start(
        Command::new(MENAGERIE).args(["top", "--every", "100ms", "--socket"]).arg(running.socket()),
        120,
        30,
    );
    top.wait_for(ENTER_SCREEN);
    for told in ["calls/s", "greeter-lua", "probe-lua"] {
        top.wait_for(told);
    }
    running.kill_worker();
    top.wait_for("SIGKILL");
    top.press("q");
    top.wait_for(LEAVE_SCREEN);
    assert!(top.status().success());
}

/// Whoever ends it has a terminal that works.
#[test]
fn g_top_gives_the_terminal_back_when_it_is_ended() {
    use nix::sys::signal::{Signal, kill};
    let running = Running::start("");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut command = Command::new(MENAGERIE);
        let mut top = OnTerminal::start(
            command.args(["top", "--every", "100ms", "--socket"]).arg(running.socket()),
            120,
            30,
        );
        top.wait_for("greeter-lua");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(top.child.id()).unwrap());
        kill(pid, signal).unwrap();
        top.wait_for(LEAVE_SCREEN);
        assert!(top.status().success());
    }
}
