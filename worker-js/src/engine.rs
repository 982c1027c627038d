//! The engine: its start, its limits, its version.
//!
//! deno_core's own `JsRuntime` is not used: it starts three times as slowly
//! as the engine below it, for ops that no bundle may call, and on QuickJS it
//! loses memory with every runtime and every error.

use std::mem::ManuallyDrop;
use std::sync::Once;

use deno_core::v8;

use crate::heap::Heap;
use crate::modules::{fill_import_meta, import_dynamically};

/// The version of deno_core that this worker is built with.
const DENO_CORE: &str = "0.413.0";

/// How much of a lane's 8 MiB of stack scripts may use, in KiB; the rest is for
/// the native functions that a script calls at the bottom of a recursion. A
/// deeper recursion is a `RangeError` or `InternalError` in the guest.
const STACK_KIB: u32 = 4096;

/// Prepares the engine for this process.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        v8::V8::set_flags_from_string(&format!("--stack-size={STACK_KIB}"));
        // Unprotected: lanes come and go on threads of any descent.
        let platform = v8::new_unprotected_default_platform(0, false).make_shared();
        v8::V8::initialize_platform(platform);
        v8::V8::initialize();
    });
}

/// An engine: an isolate with one context, and its heap.
pub(crate) struct Engine {
    /// The isolate. It is entered on this thread for as long as it exists.
    pub(crate) isolate: ManuallyDrop<v8::OwnedIsolate>,
    /// Its context.
    pub(crate) context: ManuallyDrop<v8::Global<v8::Context>>,
    heap: Option<Heap>,
}

impl Engine {
    /// A new engine on this thread that may use `heap_limit` bytes.
    pub(crate) fn start(heap_limit: usize) -> Self {
        let heap = Heap::for_next_runtime();
        let limits = v8::CreateParams::default().heap_limits(0, heap_limit);
        let mut isolate = v8::Isolate::new(limits);
        isolate.set_microtasks_policy(v8::MicrotasksPolicy::Explicit);
        isolate.set_capture_stack_trace_for_uncaught_exceptions(true, 10);
        isolate.set_host_import_module_dynamically_callback(import_dynamically);
        isolate.set_host_initialize_import_meta_object_callback(fill_import_meta);
        stop_at_limit(&mut isolate);
        let context = {
            v8::scope!(let scope, &mut isolate);
            let context = v8::Context::new(scope, v8::ContextOptions::default());
            v8::Global::new(scope, context)
        };
        Self {
            isolate: ManuallyDrop::new(isolate),
            context: ManuallyDrop::new(context),
            heap: Some(heap),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: it is dropped here only, and nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.context) };
        // SAFETY: as above; it goes after the handle to its context.
        unsafe { ManuallyDrop::drop(&mut self.isolate) };
        if let Some(heap) = self.heap.take() {
            // SAFETY: the runtime is gone, and with it all that could free its
            // memory; handles that outlive it do not look at their values.
            unsafe { heap.free() };
        }
    }
}

/// QuickJS ends the script by itself when the heap is full; V8 would end the
/// process, unless it is told to end the script and given room to do so.
#[cfg(not(feature = "quickjs"))]
fn stop_at_limit(isolate: &mut v8::Isolate) {
    unsafe extern "C" fn near_limit(
        data: *mut std::ffi::c_void,
        current: usize,
        _initial: usize,
    ) -> usize {
        const ROOM: usize = 64 * 1024 * 1024;
        // SAFETY: `data` is the handle that was leaked for this isolate below.
        let isolate = unsafe { &*data.cast::<v8::IsolateHandle>() };
        isolate.terminate_execution();
        current + ROOM
    }
    // A few bytes for as long as the process lives: the isolate may ask until
    // its very end.
    let handle = Box::leak(Box::new(isolate.thread_safe_handle()));
    isolate.add_near_heap_limit_callback(near_limit, (&raw mut *handle).cast());
}

#[cfg(feature = "quickjs")]
const fn stop_at_limit(_isolate: &mut v8::Isolate) {}

/// The engine and its version, as the worker announces it.
#[must_use]
pub fn version() -> String {
    format!("{} (deno_core {DENO_CORE})", engine())
}

#[cfg(feature = "quickjs")]
fn engine() -> String {
    unsafe extern "C" {
        fn JS_GetVersion() -> *const std::ffi::c_char;
    }
    // SAFETY: the function takes nothing, and has no precondition.
    let version = unsafe { JS_GetVersion() };
    // SAFETY: it returns a string literal of QuickJS' own.
    let version = unsafe { std::ffi::CStr::from_ptr(version) };
    format!("QuickJS {}", version.to_string_lossy())
}

#[cfg(not(feature = "quickjs"))]
fn engine() -> String {
    format!("V8 {}", v8::V8::get_version())
}
