//! What every worker's `main` calls: say hello, start lanes, run until told
//! otherwise.

mod elsewhere;
mod environment;
mod idle;
mod in_process;
mod lanes;
mod last_words;
mod outbox;
mod reapers;
mod settle;

pub use environment::EnvironmentError;
pub use lanes::Lanes;
pub use last_words::{LastWords, is_own_doing, watched};

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use interprocess::local_socket::prelude::*;
use interprocess::local_socket::{GenericFilePath, Stream};

use crate::control::{Connection, ControlError, Inbox};
use crate::lane::wait::assume_cpus;
use crate::loader::BundleLoader;
use crate::message::{
    EXIT_CONTROL_LOST, EXIT_NO_SANDBOX, FEATURE_COPY, FEATURE_FIRST_LOAD, FEATURE_SHARED_LOCK,
    Hello, MAGIC, PROTOCOL_VERSION, ToSupervisor, ToWorker, WorkerEnvironment,
};
use crate::robust;
use crate::runtime::assume_grace;
use crate::sandbox::{self, SandboxError};
use crate::shm::{Access, Segment};
use settle::Settling;

/// The exit code of a worker that was started by hand: usage (`DESIGN.md`,
/// chapter G).
const EXIT_USAGE: u8 = 2;
/// The exit code of a worker that the supervisor has turned away, or that lost
/// its supervisor.
const EXIT_NO_SUPERVISOR: u8 = 3;

/// Serves `loader` until the supervisor says otherwise or is gone. `runtime` tells
/// what the status shows, for example `CPython 3.11.7`. Must be called on the main
/// thread.
///
/// With `--in-process` on the command line it serves nobody, and measures what
/// one bundle's calls cost in this very process, for `menagerie bench`.
///
/// It returns only if the worker could not begin: afterwards it ends the
/// process itself, because a VM's own exit handlers must not run while lanes
/// still use it.
pub fn serve<L: BundleLoader + 'static>(loader: L, runtime: impl FnOnce() -> String) -> ExitCode {
    if let Some(in_process) = in_process::InProcess::from_args(std::env::args().skip(1)) {
        return in_process.run(loader);
    }
    let environment = match WorkerEnvironment::read() {
        Ok(environment) => environment,
        Err(error) => {
            complain(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if let Some(cpus) = environment.cpus {
        assume_cpus(cpus);
    }
    if let Some(grace) = environment.grace {
        assume_grace(grace);
    }
    match run(Arc::new(loader), runtime, &environment) {
        // The host is gone, or closed the socket to be rid of us: nothing is
        // left to serve, and nobody to tell.
        Ok(()) | Err(ControlError::Closed) => exit_now(0),
        Err(error) => {
            complain(&error);
            match error {
                ControlError::Io(_) => exit_now(EXIT_CONTROL_LOST),
                _ => exit_now(i32::from(EXIT_NO_SUPERVISOR)),
            }
        }
    }
}

fn complain(error: &dyn std::error::Error) {
    complain_text(&error.to_string());
}

#[allow(clippy::print_stderr, reason = "a worker's standard error is its supervisor's to read")]
fn complain_text(problem: &str) {
    eprintln!("menagerie worker: {problem}");
}

/// Ends the process without running exit handlers.
fn exit_now(code: i32) -> ! {
    // SAFETY: flushes C's streams, as a last courtesy to native bundles.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    // SAFETY: `_exit` takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// What should be in a sandbox, and cannot be, serves nobody.
fn without_sandbox(error: &SandboxError) -> ! {
    complain(error);
    exit_now(EXIT_NO_SANDBOX)
}

fn connect(environment: &WorkerEnvironment) -> std::io::Result<Connection> {
    let name = environment.socket.as_path().to_fs_name::<GenericFilePath>()?;
    let Stream::UdSocket(stream) = Stream::connect(name)?;
    Ok(Connection::new(stream.into()))
}

fn run(
    loader: Arc<dyn BundleLoader>,
    runtime: impl FnOnce() -> String,
    environment: &WorkerEnvironment,
) -> Result<(), ControlError> {
    let sandbox = sandbox::entered().unwrap_or_else(|error| without_sandbox(error));
    let connected = Arc::new(OnceLock::<Connection>::new());
    let sender = Arc::clone(&connected);
    let outbox = Arc::new(move |message: ToSupervisor| {
        // Before the hello there is nothing to say.
        if let Some(connection) = sender.get()
            && last_words::may_send(&message)
        {
            outbox::send(connection, message);
        }
    });
    let lanes = || {
        let lanes = if environment.standby { Lanes::of_standby } else { Lanes::new };
        lanes(Arc::clone(&loader), outbox.clone())
    };
    let early = loader.prepares_before_hello().then(lanes);
    let runtime = runtime();
    let connection = connect(environment)?;
    last_words::speak_by(connection.as_fd());
    let connection = connected.get_or_init(|| connection);
    // Nothing of a bundle's has run: what it may do is settled from here on.
    let sealed = sandbox.map_or_else(|| Ok(Vec::new()), sandbox::seal);
    let sealed = sealed.unwrap_or_else(|error| without_sandbox(&error));
    let mut features = vec![robust::FEATURE.to_owned(), FEATURE_FIRST_LOAD.to_owned()];
    features.extend(loader.maps_artifacts().then(|| FEATURE_COPY.to_owned()));
    features.extend(sealed);
    features.extend(loader.shares_a_lock().then(|| FEATURE_SHARED_LOCK.to_owned()));
    connection.send(&ToSupervisor::Hello(Hello {
        magic: MAGIC,
        version: PROTOCOL_VERSION,
        token: environment.token.clone(),
        loader: loader.loader_name().to_owned(),
        language: loader.loader_language(),
        supports_hot_reload: loader.supports_hot_reload(),
        runtime,
        features,
    }))?;
    // While the supervisor reads the hello, the first lane's thread prepares.
    let lanes = early.unwrap_or_else(lanes);
    let mut inbox = Inbox::default();
    let mut first = match environment.first_load {
        Some(socket) => first_load(socket, &mut inbox)?,
        None => None,
    };
    let mut settling = Settling::new();
    loop {
        let message = match (first.take(), settling.patience(Instant::now())) {
            (Some(load), _) => load,
            (None, None) => connection.receive(&mut inbox)?,
            (None, Some(patience)) => match connection.receive_within(&mut inbox, patience)? {
                Some(message) => message,
                None if lanes.are_loading() => {
                    settling.postpone(Instant::now());
                    continue;
                }
                None => {
                    settling.settle(lanes.libraries(), loader.vm_files());
                    continue;
                }
            },
        };
        match message {
            ToWorker::Welcome => {}
            ToWorker::Load(request) => {
                settling.load_begins(Instant::now());
                let fds = lane_descriptors(&mut inbox)?;
                lanes.load(*request, fds, None);
            }
            ToWorker::LoadCopy(request) => {
                settling.load_begins(Instant::now());
                let fds = lane_descriptors(&mut inbox)?;
                lanes.load(*request, fds, Some(inbox.descriptor()?));
            }
            ToWorker::Interrupt { lane, call } => lanes.interrupt(lane, call),
            ToWorker::Segment { lane, segment, len, writable } => {
                let fd = inbox.descriptor()?;
                let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                lanes.segment(lane, Segment::map(segment, &fd, len, access)?, access);
            }
            ToWorker::Ping { nonce } => {
                if let Some(last_words) = lanes.broken() {
                    complain_text(&last_words.message);
                    outbox(ToSupervisor::Log(last_words));
                    std::process::abort();
                }
                outbox(ToSupervisor::Pong { nonce });
            }
            ToWorker::Shutdown => return Ok(()),
            ToWorker::RobustFutex => {
                // Without it the supervisor learns of our death when we have ended.
                drop(robust::mark_at_death(&inbox.descriptor()?));
            }
        }
    }
}

/// Waits for the first load, or for its socket's end: the supervisor has read the hello by
/// then, and knows of none.
fn first_load(socket: RawFd, inbox: &mut Inbox) -> Result<Option<ToWorker>, ControlError> {
    // SAFETY: the supervisor has opened it for this process, which looks at it once.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    match Connection::new(socket).receive(inbox) {
        Ok(load) => Ok(Some(load)),
        Err(ControlError::Closed) => {
            *inbox = Inbox::default();
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Those that come with every load.
fn lane_descriptors(inbox: &mut Inbox) -> Result<[OwnedFd; 4], ControlError> {
    Ok([inbox.descriptor()?, inbox.descriptor()?, inbox.descriptor()?, inbox.descriptor()?])
}
