//! `include/menagerie.h` in Rust's words, field by field; a test of the worker
//! compares the two. Meant for the worker and for this crate's macros.

#![allow(missing_docs, reason = "menagerie.h documents every item")]

use std::ffi::{c_int, c_void};

pub const ABI_MAJOR: u32 = 1;
pub const ABI_MINOR: u32 = 1;
pub const ABI_VERSION: u32 = (ABI_MAJOR << 16) | ABI_MINOR;

pub const OK: c_int = 0;
pub const FAILED: c_int = 1;

pub const KIND_NONE: u32 = 0;
pub const KIND_NULL: u32 = 1;
pub const KIND_BOOL: u32 = 2;
pub const KIND_I64: u32 = 3;
pub const KIND_U64: u32 = 4;
pub const KIND_F64: u32 = 5;
pub const KIND_STRING: u32 = 6;
pub const KIND_BYTES: u32 = 7;
pub const KIND_LIST: u32 = 8;
pub const KIND_MAP: u32 = 9;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    pub ptr: *const u8,
    pub len: usize,
}

impl Str {
    pub const NONE: Self = Self { ptr: std::ptr::null(), len: 0 };

    #[must_use]
    pub const fn of(text: &str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    pub ptr: *const u8,
    pub len: usize,
}

impl Bytes {
    pub const NONE: Self = Self { ptr: std::ptr::null(), len: 0 };

    #[must_use]
    pub const fn of(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes; none for a null pointer.
    ///
    /// # Safety
    ///
    /// `ptr` is null, or valid for reads of `len` bytes, which nobody writes
    /// during `'a`.
    #[must_use]
    pub const unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: not null, and the caller promises the rest.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl From<Str> for Bytes {
    fn from(str: Str) -> Self {
        Self { ptr: str.ptr, len: str.len }
    }
}

pub type Function = unsafe extern "C" fn(call: *mut Call, userdata: *mut c_void) -> c_int;
pub type Release = unsafe extern "C" fn(owner: *mut c_void);
pub type Init = unsafe extern "C" fn(host: *const Host, registrar: *mut Registrar) -> c_int;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Error {
    pub type_name: Str,
    pub message: Str,
    pub stack: Str,
    pub code: Str,
    pub help: Str,
    pub url: Str,
    pub inner: *const Error,
    pub inner_len: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    pub kind: Str,
    pub message: Str,
    pub guest: *const Error,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub value: Bytes,
    pub owner: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    pub host: *const Host,
    pub at: *const u8,
    pub end: *const u8,
}

#[repr(C)]
#[derive(Debug)]
pub struct Writer {
    pub host: *const Host,
    pub data: *mut u8,
    pub len: usize,
    pub capacity: usize,
}

#[repr(C)]
#[derive(Debug)]
pub struct Call {
    pub host: *const Host,
    pub args: Bytes,
    pub result: Writer,
}

#[repr(C)]
#[derive(Debug)]
pub struct Registrar {
    pub host: *const Host,
}

#[repr(C)]
#[derive(Debug)]
pub struct Host {
    pub abi_version: u32,
    pub generation: u32,
    pub bundle: Str,

    pub log: unsafe extern "C" fn(*const Host, u32, Str),

    pub add_function:
        unsafe extern "C" fn(*mut Registrar, Str, Str, Str, Option<Function>, *mut c_void) -> c_int,
    pub on_load: unsafe extern "C" fn(*mut Registrar, Option<Function>, *mut c_void) -> c_int,
    pub on_unload: unsafe extern "C" fn(*mut Registrar, Option<Function>, *mut c_void) -> c_int,
    pub init_failed: unsafe extern "C" fn(*mut Registrar, *const Error) -> c_int,

    pub arg_count: unsafe extern "C" fn(*mut Call) -> u32,
    pub arg_kind: unsafe extern "C" fn(*mut Call, u32) -> u32,
    pub arg_bool: unsafe extern "C" fn(*mut Call, u32) -> c_int,
    pub arg_i64: unsafe extern "C" fn(*mut Call, u32) -> i64,
    pub arg_u64: unsafe extern "C" fn(*mut Call, u32) -> u64,
    pub arg_f64: unsafe extern "C" fn(*mut Call, u32) -> f64,
    pub arg_str: unsafe extern "C" fn(*mut Call, u32) -> Str,
    pub arg_bytes: unsafe extern "C" fn(*mut Call, u32) -> Bytes,
    pub arg_raw: unsafe extern "C" fn(*mut Call, u32) -> Bytes,

    pub result: unsafe extern "C" fn(*mut Call) -> *mut Writer,
    pub return_bytes: unsafe extern "C" fn(*mut Call, Bytes) -> c_int,
    pub return_raw: unsafe extern "C" fn(*mut Call, Bytes) -> c_int,
    pub return_view: unsafe extern "C" fn(*mut Call, Bytes, Option<Release>, *mut c_void) -> c_int,
    pub fail: unsafe extern "C" fn(*mut Call, *const Error) -> c_int,
    pub bad_arguments: unsafe extern "C" fn(*mut Call, Str) -> c_int,

    pub peek: unsafe extern "C" fn(*const Reader) -> u32,
    pub read_null: unsafe extern "C" fn(*mut Reader) -> c_int,
    pub read_bool: unsafe extern "C" fn(*mut Reader, *mut c_int) -> c_int,
    pub read_i64: unsafe extern "C" fn(*mut Reader, *mut i64) -> c_int,
    pub read_u64: unsafe extern "C" fn(*mut Reader, *mut u64) -> c_int,
    pub read_f64: unsafe extern "C" fn(*mut Reader, *mut f64) -> c_int,
    pub read_str: unsafe extern "C" fn(*mut Reader, *mut Str) -> c_int,
    pub read_bytes: unsafe extern "C" fn(*mut Reader, *mut Bytes) -> c_int,
    pub read_list: unsafe extern "C" fn(*mut Reader, *mut usize) -> c_int,
    pub read_map: unsafe extern "C" fn(*mut Reader, *mut usize) -> c_int,
    pub read_raw: unsafe extern "C" fn(*mut Reader, *mut Bytes) -> c_int,

    pub reserve: unsafe extern "C" fn(*mut Writer, usize) -> c_int,
    pub write_null: unsafe extern "C" fn(*mut Writer) -> c_int,
    pub write_bool: unsafe extern "C" fn(*mut Writer, c_int) -> c_int,
    pub write_i64: unsafe extern "C" fn(*mut Writer, i64) -> c_int,
    pub write_u64: unsafe extern "C" fn(*mut Writer, u64) -> c_int,
    pub write_f64: unsafe extern "C" fn(*mut Writer, f64) -> c_int,
    pub write_str: unsafe extern "C" fn(*mut Writer, Str) -> c_int,
    pub write_bytes: unsafe extern "C" fn(*mut Writer, Bytes) -> c_int,
    pub write_list: unsafe extern "C" fn(*mut Writer, usize) -> c_int,
    pub write_map: unsafe extern "C" fn(*mut Writer, usize) -> c_int,
    pub write_raw: unsafe extern "C" fn(*mut Writer, Bytes) -> c_int,
    pub writer_new: unsafe extern "C" fn(*const Host) -> *mut Writer,
    pub writer_free: unsafe extern "C" fn(*mut Writer),

    pub call: unsafe extern "C" fn(*const Host, Str, Str, Bytes, *mut Answer) -> c_int,
    pub answer_free: unsafe extern "C" fn(*mut Answer),
    pub failure: unsafe extern "C" fn(*const Host) -> *const Failure,

    /// Since 1.1; ends in a zero byte, which is not counted.
    pub dir: Str,
}
