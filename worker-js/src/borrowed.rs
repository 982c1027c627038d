//! Large bytes arguments, lent to the guest instead of copied (rule C2).
//!
//! Such an argument is a `Uint8Array` over the shared segment itself. The
//! worker can only read that memory, so its `ArrayBuffer` is immutable, and
//! lest a bundle that passes its tests with a few bytes fails with many, so is
//! the copy that a small argument gets. The content of a lent one is the
//! call's, so the buffer is detached when the call has been answered: a guest
//! that kept the array without `slice()` then has an empty one, never another
//! call's bytes.

use std::ffi::c_void;
use std::sync::Arc;

use deno_core::v8;
use menagerie_protocol::shm::Segment;

use crate::decode::DecodeFailure;
use crate::immutable;

/// Below this, a copy costs less than the bookkeeping.
const LEND_FROM: usize = 4096;

/// What one call's arguments have lent to the guest so far.
pub(crate) struct Borrowed<'a> {
    segment: Option<&'a Arc<Segment>>,
    read_only: bool,
    buffers: Vec<v8::Global<v8::ArrayBuffer>>,
}

/// The same for the time after the arguments were read: it keeps the segment
/// mapped until [`give_back`](Self::give_back).
#[derive(Default)]
pub(crate) struct Lent {
    buffers: Vec<v8::Global<v8::ArrayBuffer>>,
    segment: Option<Arc<Segment>>,
}

impl<'a> Borrowed<'a> {
    /// Arguments that lie in `segment`, if they lie in any.
    pub(crate) const fn new(segment: Option<&'a Arc<Segment>>) -> Self {
        Self { segment, read_only: true, buffers: Vec::new() }
    }

    /// Values that become the guest's own: everything is copied.
    pub(crate) const fn nothing() -> Self {
        Self { segment: None, read_only: false, buffers: Vec::new() }
    }

    /// Ends the reading.
    pub(crate) fn into_lent(self) -> Lent {
        if self.buffers.is_empty() {
            return Lent::default();
        }
        Lent { buffers: self.buffers, segment: self.segment.map(Arc::clone) }
    }

    /// `bytes` as a `Uint8Array`.
    pub(crate) fn bytes<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        bytes: &[u8],
    ) -> Result<v8::Local<'s, v8::Value>, DecodeFailure> {
        let read_only = immutable::AVAILABLE && self.read_only;
        let lendable = read_only
            && bytes.len() >= LEND_FROM
            && self.segment.is_some_and(|segment| segment.mapping.offset_of(bytes).is_some());
        let buffer = if lendable {
            let buffer = lend(scope, bytes);
            self.buffers.push(v8::Global::new(scope, buffer));
            buffer
        } else {
            copy(scope, bytes)
        };
        if read_only {
            // Before any script sees it.
            immutable::make_immutable(buffer);
        }
        v8::Uint8Array::new(scope, buffer, 0, bytes.len())
            .map(Into::into)
            .ok_or(DecodeFailure::Engine("Uint8Array"))
    }
}

impl Lent {
    /// Takes back what was lent; for after the call's answer.
    pub(crate) fn give_back(mut self, scope: &mut v8::PinScope<'_, '_>) {
        for buffer in self.buffers.drain(..) {
            v8::Local::new(scope, buffer).detach(None);
        }
        drop(self.segment.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Unmapping the segment under a buffer that the guest still holds would
        // be a wild pointer: whoever drops this without giving back leaks.
        if !self.buffers.is_empty() {
            std::mem::forget(self.segment.take());
        }
    }
}

/// A new buffer with a copy of `bytes`.
pub(crate) fn copy<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    bytes: &[u8],
) -> v8::Local<'s, v8::ArrayBuffer> {
    let buffer = v8::ArrayBuffer::new(scope, bytes.len());
    if let Some(data) = buffer.data() {
        // SAFETY: `data` is valid for `bytes.len()` bytes, the length that the
        // buffer was made with; it is new memory of the engine's, which nothing
        // else refers to and which therefore does not overlap `bytes`; no
        // script can run between its making and this copy.
        unsafe { data.cast::<u8>().as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
    buffer
}

fn lend<'s>(scope: &mut v8::PinScope<'s, '_>, bytes: &[u8]) -> v8::Local<'s, v8::ArrayBuffer> {
    unsafe extern "C" fn keep(_data: *mut c_void, _len: usize, _deleter_data: *mut c_void) {}
    let data = bytes.as_ptr().cast_mut().cast::<c_void>();
    // SAFETY: `data` is valid for `bytes.len()` bytes for as long as the call's
    // `Lent` keeps the segment mapped; `give_back` detaches the buffer before
    // it lets go, and `transfer`, the only way for a script to move the memory
    // to another buffer, is replaced by a copying one (`bootstrap.js`). Nothing
    // writes through the pointer: the caller makes the buffer immutable before
    // any script sees it. The deleter does nothing and needs no data.
    let store = unsafe {
        v8::ArrayBuffer::new_backing_store_from_ptr(data, bytes.len(), keep, std::ptr::null_mut())
    };
    v8::ArrayBuffer::with_backing_store(scope, &store.make_shared())
}
