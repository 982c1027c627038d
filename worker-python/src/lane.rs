//! What the worker knows of a generation, found by the lane's thread: the
//! functions of the module `menagerie` have no other way to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use menagerie_protocol::serve::watched;
use menagerie_protocol::{Host, Logger, Runtime};
use pyo3::prelude::*;

use crate::forks;
use crate::interpreter;
use crate::interrupt::{Asked, Code, PythonInterrupt};
use crate::output;
use crate::tasks::Tasks;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Lane>>> = const { RefCell::new(None) };
}

/// Counts generations of all bundles: a package's name must never be used
/// twice, and one process may hold two bundles of one name in tests.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// A function that a bundle exported.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) contract: String,
    pub(crate) function: String,
    pub(crate) callable: Py<PyAny>,
}

/// One generation of a bundle.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) serial: u64,
    pub(crate) bundle: String,
    pub(crate) generation: u32,
    /// The name of the package that holds the generation's modules.
    pub(crate) prefix: String,
    pub(crate) host: Host,
    pub(crate) logger: Logger,
    pub(crate) interrupt: Arc<PythonInterrupt>,
    /// Whether the main module is running for the first time: only then
    /// exports are taken.
    pub(crate) loading: Cell<bool>,
    pub(crate) exports: RefCell<Vec<Export>>,
    pub(crate) tasks: Tasks,
    /// The `async` call whose code is running, or 0.
    pub(crate) serving: Cell<u64>,
}

impl Lane {
    /// Makes it the current thread's lane, until [`leave`](Self::leave).
    pub(crate) fn enter(runtime: &Runtime) -> Rc<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let bundle = runtime.bundle_name().to_owned();
        let plain: String =
            bundle.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let interrupt = Arc::new(PythonInterrupt::of_this_thread());
        let lane = Rc::new(Self {
            serial,
            prefix: format!("_bundle{serial}_{plain}"),
            bundle,
            generation: runtime.generation(),
            host: runtime.host(),
            logger: runtime.logger(),
            tasks: Tasks::new(Arc::clone(&interrupt)),
            interrupt,
            loading: Cell::new(true),
            exports: RefCell::default(),
            serving: Cell::new(0),
        });
        output::register(serial, lane.logger.clone());
        CURRENT.set(Some(Rc::clone(&lane)));
        lane
    }

    /// Runs guest code that may be interrupted, for `call`, or for none if that is 0.
    /// If the call was asked to stop before, `code` gets what to raise instead.
    pub(crate) fn run<T>(
        &self,
        py: Python<'_>,
        call: u64,
        code: impl FnOnce(Option<PyErr>) -> PyResult<T>,
    ) -> PyResult<T> {
        let own = Code { call, in_task: false };
        self.run_part(py, own, |asked| code(asked.map(|_| cancelled(py)))).0
    }

    /// The same, for code that may be that of a task that the call has started; and
    /// whether it was asked to stop, before or meanwhile.
    pub(crate) fn run_part<T>(
        &self,
        py: Python<'_>,
        part: Code,
        code: impl FnOnce(Option<Asked>) -> PyResult<T>,
    ) -> (PyResult<T>, bool) {
        let begun = self.interrupt.begin(py, part);
        let result = self.watch(|| code(begun.asked));
        let told = self.interrupt.end(py, &begun);
        forks::check(py, &result);
        (result, told)
    }

    /// Runs guest code, whose bundle is named if it ends this thread. CPython's own
    /// destructors would end the process first, and name nobody.
    pub(crate) fn watch<T>(&self, code: impl FnOnce() -> T) -> T {
        watched(&self.bundle, &self.logger, code)
    }

    /// Undoes [`enter`](Self::enter).
    pub(crate) fn leave(&self) {
        output::forget(self.serial);
        CURRENT.take();
    }

    /// The current thread has no lane any more; for a process that was forked.
    pub(crate) fn lose() {
        CURRENT.take();
    }

    /// The lane whose thread this is.
    pub(crate) fn current() -> Option<Rc<Self>> {
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }
}

/// `menagerie.Cancelled`.
pub(crate) fn cancelled(py: Python<'_>) -> PyErr {
    let cancelled = interpreter::class(py, "Cancelled").and_then(|class| class.call0());
    cancelled.map_or_else(|error| error, PyErr::from_value)
}
