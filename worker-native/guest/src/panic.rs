//! Panics become errors of the call.

use std::any::Any;
use std::cell::Cell;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::OnceLock;

use crate::Error;

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// What prints the panics of other threads.
static PRINT: OnceLock<Hook> = OnceLock::new();

thread_local! {
    /// Whether this is the thread that the bundle's functions run on.
    static LANE: Cell<bool> = const { Cell::new(false) };

    /// Where this thread's last panic was.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// From now on the panics of this thread, which are reported as errors, are
/// not printed too. (This library's copy of the standard library is its own,
/// so no other code's panics are touched.)
pub(crate) fn watch() {
    LANE.set(true);
    if PRINT.set(take_hook()).is_ok() {
        // A function has no captures, so this box takes no memory: what a
        // library leaves on the heap is still there after it is unmapped.
        set_hook(Box::new(note));
    }
}

fn note(info: &PanicHookInfo<'_>) {
    if LANE.get() {
        // No backtrace: capturing one maps the debug information of every
        // library, and those maps would stay when this library goes.
        PLACE.set(info.location().map(|place| format!("at {place}")));
    } else if let Some(print) = PRINT.get() {
        print(info);
    }
}

/// The panic that was just caught on this thread.
pub(crate) fn caught(payload: Box<dyn Any + Send>) -> Error {
    let message = match payload.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => {
                // Its destructor might panic in turn.
                std::mem::forget(payload);
                "a panic whose payload is no text".to_owned()
            }
        },
    };
    Error { stack: PLACE.take().unwrap_or_default(), ..Error::new("panic", message) }
}
