//! `async` functions: the lane's event loop, and the calls that wait in it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use menagerie_protocol::Reply;
use menagerie_protocol::message::LogLevel;
use pyo3::exceptions::{PyAttributeError, PyKeyboardInterrupt, PyRuntimeError, PySystemExit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTraverseError, PyVisit};

use crate::call;
use crate::forks;
use crate::interpreter;
use crate::interrupt::{Asked, Code, PythonInterrupt};
use crate::lane::{Lane, cancelled};

/// How long calls of other functions keep the loop from what is ready in it, while
/// no task is left.
const TURN: Duration = Duration::from_millis(1);

/// An `async` call that has begun.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) reply: Reply,
    /// Views of shared memory among its arguments.
    pub(crate) views: Vec<Py<PyAny>>,
}

/// The event loop of one lane.
#[derive(Debug)]
pub(crate) struct Tasks {
    driver: RefCell<Option<Py<PyAny>>>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    /// Whether a task is left.
    busy: Cell<bool>,
    polled: Cell<Instant>,
    /// With what the task ended that has left the loop last.
    exit: RefCell<Option<Py<PyAny>>>,
    interrupt: Arc<PythonInterrupt>,
}

impl Tasks {
    pub(crate) fn new(interrupt: Arc<PythonInterrupt>) -> Self {
        Self {
            driver: RefCell::default(),
            pending: RefCell::default(),
            busy: Cell::new(false),
            polled: Cell::new(Instant::now()),
            exit: RefCell::default(),
            interrupt,
        }
    }

    /// The event loop's driver; made when it is first asked for, since
    /// `asyncio` takes longer to import than the interpreter to start.
    fn driver<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(driver) = self.open_driver(py)? {
            return Ok(driver);
        }
        let driver = interpreter::internal(py, "tasks")?.call_method0("Driver")?;
        self.interrupt.set_driver(Some(driver.clone().unbind()));
        *self.driver.borrow_mut() = Some(driver.clone().unbind());
        Ok(driver)
    }

    /// The driver, if there is one. A loop that the bundle has closed is given up: what
    /// waits in it would never end.
    fn open_driver<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(driver) = self.driver.borrow().as_ref().map(|driver| driver.bind(py).clone())
        else {
            return Ok(None);
        };
        if !driver.call_method0(intern!(py, "is_closed"))?.is_truthy()? {
            return Ok(Some(driver));
        }
        self.interrupt.set_driver(None);
        // Not within the borrow: finalizers may run here.
        drop(self.driver.take());
        self.busy.set(false);
        let pending = self.pending.take();
        if let Some(lane) = Lane::current() {
            let message = format!(
                "the bundle has closed its event loop, in which {} calls waited; the next \
                 async call makes a new one",
                pending.len()
            );
            lane.logger.log(LogLevel::Warn, "asyncio", &message);
            for pending in pending.into_values() {
                let error = PyRuntimeError::new_err(
                    "the bundle has closed its event loop, in which this call waited",
                );
                call::finish_pending(py, &lane, pending, Err(error));
            }
        }
        Ok(None)
    }

    /// Begins a call.
    pub(crate) fn start(
        &self,
        coroutine: &Bound<'_, PyAny>,
        pending: Pending,
    ) -> Result<(), (PyErr, Pending)> {
        let py = coroutine.py();
        let token = pending.reply.call_id();
        let driver = match self.driver(py) {
            Ok(driver) => driver,
            Err(error) => return Err((error, pending)),
        };
        self.pending.borrow_mut().insert(token, pending);
        if let Err(error) = driver.call_method1("start", (token, coroutine)) {
            return match self.take(token) {
                Some(pending) => Err((error, pending)),
                None => Ok(()),
            };
        }
        self.busy.set(true);
        Ok(())
    }

    /// A call that has ended.
    pub(crate) fn take(&self, token: u64) -> Option<Pending> {
        self.pending.borrow_mut().remove(&token)
    }

    /// Whether a call waits in the loop.
    pub(crate) fn waits(&self, token: u64) -> bool {
        self.pending.borrow().contains_key(&token)
    }

    /// Whether it is with this exception that a task has just left the loop.
    pub(crate) fn ended_a_task(&self, error: &Bound<'_, PyAny>) -> bool {
        self.exit.take().is_some_and(|exit| exit.is(error))
    }

    /// Whether there is a loop. What timers, sockets and other threads have for it
    /// is not known before it is asked.
    pub(crate) fn has_loop(&self) -> bool {
        self.driver.borrow().is_some()
    }

    /// Whether the loop is to run although calls wait.
    pub(crate) fn is_due(&self) -> bool {
        self.busy.get() || self.polled.get().elapsed() >= TURN
    }

    /// Runs what is ready.
    pub(crate) fn poll(&self, py: Python<'_>) -> PyResult<()> {
        let Some(driver) = self.open_driver(py)? else { return Ok(()) };
        let busy = driver.call_method0("poll").and_then(|busy| busy.extract());
        forks::check(py, &busy);
        self.busy.set(*busy.as_ref().unwrap_or(&true));
        self.polled.set(Instant::now());
        busy.map(|_| ())
    }

    /// Runs the loop until `wake` is readable.
    pub(crate) fn wait(&self, py: Python<'_>, wake: BorrowedFd<'_>) -> PyResult<()> {
        let Some(driver) = self.open_driver(py)? else { return Ok(()) };
        let waited = driver.call_method1("wait", (wake.as_raw_fd(),));
        forks::check(py, &waited);
        waited.map(|_| ())
    }

    /// Ends a [`wait`](Self::wait) that runs: a blocking call was made in there, after
    /// which nothing wakes it any more.
    pub(crate) fn leave_wait(&self, py: Python<'_>) -> PyResult<()> {
        let driver = self.driver.borrow().as_ref().map(|driver| driver.clone_ref(py));
        driver.map_or(Ok(()), |driver| driver.call_method0(py, "leave_wait").map(drop))
    }

    /// Runs an `async` hook to its end.
    pub(crate) fn run<'py>(&self, coroutine: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let driver = self.driver(coroutine.py())?;
        driver.call_method1("run", (Step::new(coroutine, Code { call: 0, in_task: false }),))
    }

    /// Cancels what is left and closes the loop; attached.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.interrupt.set_driver(None);
        let driver = self.driver.borrow_mut().take();
        let closed = driver.map(|driver| driver.into_bound(py).call_method0("close"));
        drop(self.exit.take());
        for (_, pending) in std::mem::take(&mut *self.pending.borrow_mut()) {
            for view in pending.views {
                view.drop_ref(py);
            }
        }
        closed.transpose().map(|_| ())
    }
}

/// A coroutine that tells when its code runs, so that an interrupt hits the
/// guest's code and never the event loop's. To `asyncio` it is a coroutine
/// because it has these four methods; all else that one may look at is the
/// guest's own.
#[pyclass(module = "menagerie", weakref)]
#[derive(Debug)]
pub(crate) struct Step {
    coroutine: Option<Py<PyAny>>,
    code: Code,
    /// Whether it was told to stop. A task is told once, so that it can clean up.
    told: bool,
}

/// How a coroutine is made to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Send,
    Throw,
    /// Throws an `asyncio.CancelledError`.
    Cancel,
    Close,
}

impl Step {
    fn new(coroutine: &Bound<'_, PyAny>, code: Code) -> Self {
        Self { coroutine: Some(coroutine.clone().unbind()), code, told: false }
    }

    fn run<'py>(
        slf: &Bound<'py, Self>,
        how: How,
        args: impl pyo3::call::PyCallArgs<'py>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let (coroutine, code, told) = {
            let this = slf.borrow();
            let coroutine = this.coroutine.as_ref().map(|coroutine| coroutine.clone_ref(py));
            (coroutine, this.code, this.told)
        };
        let Some(coroutine) = coroutine else { return Ok(py.None()) };
        // Outside of what is watched: if the thread ends in there, objects of which
        // nobody else has a reference cannot be given up any more.
        let method = match how {
            How::Send => intern!(py, "send"),
            How::Throw | How::Cancel => intern!(py, "throw"),
            How::Close => intern!(py, "close"),
        };
        let step = coroutine.bind(py).getattr(method)?;
        // The stop takes the place of all else but a cancellation that comes of it: of
        // the call by the loop, or of a task by the call.
        let stops = |asked: Asked| match how {
            How::Send | How::Throw => !(code.in_task && told),
            How::Cancel => !(code.in_task || asked.cancelled),
            How::Close => false,
        };
        let lane = Lane::current();
        let result = match &lane {
            Some(lane) => {
                let (result, told) = lane.run_part(py, code, |asked| {
                    let outer = lane.serving.replace(code.call);
                    let result = if asked.is_some_and(stops) {
                        // Where it waits, so that it can clean up.
                        let stop = cancelled(py).into_value(py);
                        coroutine.bind(py).call_method1("throw", (stop,))
                    } else {
                        step.call1(args)
                    };
                    lane.serving.set(outer);
                    result
                });
                if told {
                    slf.borrow_mut().told = true;
                }
                result
            }
            // A coroutine that another thread closes, or a process that was forked.
            None => {
                let result = step.call1(args);
                forks::check(py, &result);
                result
            }
        };
        match result {
            Ok(value) => Ok(value.unbind()),
            Err(error)
                if error.is_instance_of::<PySystemExit>(py)
                    || error.is_instance_of::<PyKeyboardInterrupt>(py) =>
            {
                Err(Self::exits(py, lane.as_deref(), code, error))
            }
            Err(error) => Err(error),
        }
    }

    /// What a task ends with whose code raised a `SystemExit` or `KeyboardInterrupt`.
    fn exits(py: Python<'_>, lane: Option<&Lane>, code: Code, error: PyErr) -> PyErr {
        if code.in_task {
            // Who awaits the task has it as it is.
            if let Some(lane) = lane {
                drop(lane.tasks.exit.replace(Some(error.value(py).clone().into_any().unbind())));
            }
            return error;
        }
        let exit = interpreter::internal(py, "tasks")
            .and_then(|tasks| tasks.getattr("Exit")?.call0())
            .map(PyErr::from_value);
        exit.map_or_else(
            |other| other,
            |exit| {
                exit.set_cause(py, Some(error));
                exit
            },
        )
    }
}

#[pymethods]
impl Step {
    #[new]
    fn py_new(coroutine: &Bound<'_, PyAny>, token: u64, in_task: bool) -> Self {
        Self::new(coroutine, Code { call: token, in_task })
    }

    fn send(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Self::run(slf, How::Send, (value,))
    }

    #[pyo3(signature = (*args))]
    fn throw(slf: &Bound<'_, Self>, args: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let class = py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "CancelledError"))?;
        let cancels = args.get_item(0).is_ok_and(|error| error.get_type().is(&class));
        Self::run(slf, if cancels { How::Cancel } else { How::Throw }, args)
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::run(slf, How::Close, ())
    }

    fn __getattr__<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &self.coroutine {
            Some(coroutine) => coroutine.bind(py).getattr(name),
            None => Err(PyAttributeError::new_err(name.clone().unbind())),
        }
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)
    }

    fn __clear__(&mut self) {
        self.coroutine = None;
    }
}
