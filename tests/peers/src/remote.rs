//! A peer's server: this program, started again.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Outcome, peers};

/// The server's process. Outside its turn it is stopped: one that polls would
/// take a CPU from whoever is measured.
pub(crate) struct Remote {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Drop for Remote {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Remote {
    /// Starts the server of a kind of peer at an address.
    pub(crate) fn start(kind: &str, address: &str) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", kind, address]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("no pipe")?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Waits until the server has said that it is there.
    pub(crate) fn ready(&mut self) -> Outcome<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() == "ready" { Ok(()) } else { Err("a server has not started".into()) }
    }

    /// Lets the server run, or stops it.
    pub(crate) fn awake(&self, awake: bool) -> Outcome<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, if awake { Signal::SIGCONT } else { Signal::SIGSTOP })?;
        Ok(())
    }

    /// Waits a while for a server that was asked to end.
    pub(crate) fn end(&mut self) {
        for _ in 0..200 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A server's main.
pub(crate) fn serve(kind: &str, address: &str) -> Outcome<()> {
    // It has no business without the program that started it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let ready = || println!("ready");
    match kind {
        "spin" => peers::spin::serve(address, ready),
        "iceoryx2-null" => peers::iceoryx::serve_null(address, ready),
        "iceoryx2-echo" => peers::iceoryx::serve_echo(address, ready),
        "ipc-channel" => peers::ipc::serve(address, ready),
        "tarpc" => peers::rpc::serve(address, ready),
        "stream" => peers::stream::serve(address, ready),
        _ => Err(format!("serve {kind}: there is no such peer").into()),
    }
}
