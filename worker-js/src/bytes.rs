//! The bytes behind a `Uint8Array` or an `ArrayBuffer`.

use deno_core::v8;

/// Whether the buffer was detached, so that its bytes are gone.
pub(crate) fn was_detached(value: v8::Local<'_, v8::Value>) -> bool {
    if let Ok(buffer) = value.try_cast::<v8::ArrayBuffer>() {
        return buffer.was_detached();
    }
    // A detached view has no length; asking for its buffer costs more.
    value.try_cast::<v8::ArrayBufferView>().is_ok_and(|view| {
        view.byte_length() == 0 && {
            let mut storage = [0; 64];
            let (data, _) = contents(&view, &mut storage);
            data.is_null()
        }
    })
}

fn contents(view: &v8::ArrayBufferView, storage: &mut [u8; 64]) -> (*mut u8, usize) {
    // SAFETY: `storage` is as large as V8's largest array without a buffer of
    // its own; the parts are used by the callers before any script runs.
    unsafe { view.get_contents_raw_parts(storage) }
}

/// The bytes of a `Uint8Array` or an `ArrayBuffer`.
///
/// # Safety
///
/// Until the bytes are no longer used no script may run, since it could
/// detach, resize or write them.
pub(crate) unsafe fn bytes_of(value: v8::Local<'_, v8::Value>) -> &[u8] {
    let (data, len) = if let Ok(buffer) = value.try_cast::<v8::ArrayBuffer>() {
        let data = buffer.data().map_or(std::ptr::null_mut(), |data| data.as_ptr().cast::<u8>());
        (data, buffer.byte_length())
    } else if let Ok(view) = value.try_cast::<v8::ArrayBufferView>() {
        (view.data().cast::<u8>(), view.byte_length())
    } else {
        return &[];
    };
    if data.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the engine says that `len` bytes stand at `data`; the handle
    // keeps the buffer alive for the lifetime of the result, and by the
    // caller's promise nothing changes it meanwhile.
    unsafe { std::slice::from_raw_parts(data, len) }
}
