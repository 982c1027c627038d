//! A generation of a bundle, as its lane drives it.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::rc::Rc;

use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{Args, Failure, FunctionId, GuestError, Instance, Reply};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::call;
use crate::function::Function;
use crate::guest_error::guest_error;
use crate::interpreter;
use crate::lane::Lane;
use crate::thread::ThreadPin;
use crate::value::{decode_value, encode};

/// What of a generation has to be undone, whether its load succeeded or not.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) thread: ThreadPin,
    pub(crate) lane: Rc<Lane>,
    /// The bundle's folder; one from memory has none.
    pub(crate) dir: Option<PathBuf>,
    /// The `Bundle` of `bundles.py`.
    pub(crate) bundle: Option<Py<PyAny>>,
    pub(crate) functions: Vec<Function>,
    pub(crate) on_load: Option<Py<PyAny>>,
    pub(crate) on_unload: Option<Py<PyAny>>,
}

impl Drop for Generation {
    fn drop(&mut self) {
        let Self { thread, lane, bundle, functions, on_load, on_unload, .. } = self;
        let mut undo = |py: Python<'_>| {
            if let Err(error) = lane.tasks.close(py) {
                let message = format!("its event loop could not be closed: {error}");
                lane.logger.log(LogLevel::Warn, "log", &message);
            }
            // While attached: otherwise these references would be given up
            // later, and the collection would find the modules in use.
            functions.clear();
            lane.exports.take();
            drop((on_load.take(), on_unload.take()));
            if let Err(error) = bundle.take().map_or(Ok(()), |bundle| forget(py, bundle)) {
                let message = format!("its modules could not be freed: {error}");
                lane.logger.log(LogLevel::Warn, "log", &message);
            }
        };
        thread.attach(|py| lane.watch(|| undo(py)));
        // Finalizers of the guest's objects ran in there and may have printed.
        lane.leave();
    }
}

fn forget(py: Python<'_>, bundle: Py<PyAny>) -> PyResult<()> {
    bundle.into_bound(py).call_method0("close")?;
    interpreter::internal(py, "bundles")?.call_method0("collect")?;
    Ok(())
}

/// Answers a generation's calls.
#[derive(Debug)]
pub(crate) struct PythonInstance {
    generation: Generation,
    out: Vec<u8>,
}

/// An answer's buffer is kept for the next one, unless it has become huge.
const KEPT: usize = 1 << 20;

impl PythonInstance {
    pub(crate) const fn new(generation: Generation) -> Self {
        Self { generation, out: Vec::new() }
    }
}

impl Instance for PythonInstance {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        let Generation { thread, lane, functions, .. } = &self.generation;
        let Some(function) = functions.get(function as usize) else {
            let message = format!("the bundle has no function number {function}");
            return reply.fail(Failure::BadArguments { message });
        };
        thread.attach(|py| call::run(py, lane, function, args, reply, &mut self.out));
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
    }

    fn on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        let Generation { thread, lane, on_load, .. } = &self.generation;
        let Some(hook) = on_load else { return Ok(()) };
        thread.attach(|py| {
            let run = || -> PyResult<()> {
                let state = state.map(|state| decode_value(py, state)).transpose()?;
                let dir = self.generation.dir.as_ref().map(|dir| dir.as_os_str());
                let context = (lane.bundle.as_str(), lane.generation, state, dir);
                let context = interpreter::class(py, "Context")?.call1(context)?;
                run_hook(lane, hook.bind(py), Some(context))?;
                Ok(())
            };
            run().map_err(|error| guest_error(py, &error, &lane.prefix))
        })
    }

    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        let Generation { thread, lane, on_unload, .. } = &self.generation;
        let Some(hook) = on_unload else { return Ok(None) };
        thread.attach(|py| {
            let run = || -> PyResult<Option<Vec<u8>>> {
                let state = run_hook(lane, hook.bind(py), None)?;
                if state.is_none() {
                    return Ok(None);
                }
                let mut bytes = Vec::new();
                let encoded = encode(&state, lane.host.max_state(), &mut bytes);
                encoded.map_err(|error| match error.into_failure() {
                    Ok(failure) => PyValueError::new_err(failure.to_string()),
                    Err(error) => error,
                })?;
                Ok(Some(bytes))
            };
            run().map_err(|error| guest_error(py, &error, &lane.prefix))
        })
    }

    fn poll(&mut self) -> bool {
        let Generation { thread, lane, .. } = &self.generation;
        if !lane.tasks.has_loop() {
            return false;
        }
        if lane.tasks.is_due() {
            thread.attach(|py| {
                let polled = lane.watch(|| lane.tasks.poll(py));
                polled.unwrap_or_else(|error| report(py, lane, error));
            });
        }
        lane.tasks.has_loop()
    }

    fn wait(&mut self, wake: BorrowedFd<'_>) {
        let Generation { thread, lane, .. } = &self.generation;
        thread.attach(|py| {
            if let Err(error) = lane.watch(|| lane.tasks.wait(py, wake)) {
                report(py, lane, error);
            }
        });
    }
}

/// Calls a hook, which may be `async`.
fn run_hook<'py>(
    lane: &Lane,
    hook: &Bound<'py, PyAny>,
    context: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = hook.py();
    let value = lane.run(py, 0, |_| match context {
        Some(context) => hook.call1((context,)),
        None => hook.call0(),
    })?;
    if call::is_awaitable(&value) { lane.watch(|| lane.tasks.run(&value)) } else { Ok(value) }
}

/// An exception that no call can be blamed for: a callback of the guest's
/// raised it straight through the event loop.
fn report(py: Python<'_>, lane: &Lane, error: PyErr) {
    let error = guest_error(py, &error, &lane.prefix);
    let message = format!("the event loop was left by an exception:\n{}", error.stack);
    lane.logger.log(LogLevel::Error, "asyncio", &message);
}
