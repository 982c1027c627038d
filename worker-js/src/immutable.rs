//! Immutable `ArrayBuffer`s: QuickJS has them, the V8 API does not, so this
//! goes past the API to the engine.

use deno_core::v8;

/// Whether this engine has immutable buffers.
pub(crate) const AVAILABLE: bool = cfg!(feature = "quickjs");

/// Makes every later write to the buffer, by whatever view, a `TypeError`, or
/// without effect if it is an assignment to an element.
#[cfg(feature = "quickjs")]
pub(crate) fn make_immutable(buffer: v8::Local<'_, v8::ArrayBuffer>) {
    /// QuickJS' `JSValue` on 64-bit targets: a union of eight bytes and a tag.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct JsValue {
        payload: u64,
        tag: i64,
    }
    const _: () = assert!(size_of::<usize>() == 8, "QuickJS packs its values on 32-bit targets");

    unsafe extern "C" {
        fn JS_SetImmutableArrayBuffer(buffer: JsValue, immutable: bool) -> std::ffi::c_int;
    }

    let handle: *const v8::ArrayBuffer = &raw const *buffer;
    // SAFETY: on this engine a handle points to the `JSValue` that it stands
    // for (v8x, `quickjs/core.rs`, `jsval_of`); `buffer` keeps it alive. The
    // version of v8x is pinned by deno_core's own dependency.
    let value = unsafe { handle.cast::<JsValue>().read() };
    // SAFETY: the function is in the same QuickJS that the handle belongs to;
    // it borrows its argument, and checks itself that it is an `ArrayBuffer`.
    let done = unsafe { JS_SetImmutableArrayBuffer(value, true) };
    assert_eq!(done, 0, "the handle was no ArrayBuffer");
}

/// Never called: see [`AVAILABLE`].
#[cfg(not(feature = "quickjs"))]
pub(crate) fn make_immutable(_buffer: v8::Local<'_, v8::ArrayBuffer>) {
    unreachable!("this engine has no immutable buffers");
}
