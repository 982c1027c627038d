//! The host as the guest sees it: the table of `menagerie.h`, and behind it
//! the bundle's log and its calls to others.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::thread::ThreadId;

use menagerie_guest::abi;
use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{Failure, Host, Logger, Runtime};

use crate::errors::{ShownFailure, text};
use crate::{call, cursor, registrar};

/// A generation's host. The guest sees the first field only. It lives until
/// the library is unmapped, because threads of the guest's may log until then.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct HostTable {
    table: abi::Host,
    bundle: Box<str>,
    _dir: CString,
    logger: Logger,
    lane: ThreadId,
    /// What belongs to the lane's thread; null when the generation has ended.
    /// Followed on that thread only.
    lane_host: AtomicPtr<LaneHost>,
}

// SAFETY: the table's pointers are to functions, `bundle` and `_dir`, which nobody
// changes; the rest is Send by itself.
unsafe impl Send for HostTable {}
// SAFETY: as above; `lane_host` is followed on one thread only.
unsafe impl Sync for HostTable {}

/// The lane's thread's part of a host.
#[derive(Debug)]
pub(crate) struct LaneHost {
    table: Arc<HostTable>,
    host: Host,
    failure: RefCell<ShownFailure>,
}

impl LaneHost {
    /// The host of a generation of the bundle in this folder.
    pub(crate) fn new(runtime: &Runtime, dir: &Path) -> Box<Self> {
        let bundle: Box<str> = runtime.bundle_name().into();
        // No path has a zero byte in it.
        let dir = CString::new(dir.as_os_str().as_bytes()).unwrap_or_default();
        let table = Arc::new(HostTable {
            table: table(runtime.generation(), &bundle, &dir),
            bundle,
            _dir: dir,
            logger: runtime.logger(),
            lane: std::thread::current().id(),
            lane_host: AtomicPtr::new(null_mut()),
        });
        let none = Failure::BadValue { message: "no call has failed".to_owned() };
        let failure = RefCell::new(ShownFailure::new(none));
        let lane_host = Box::new(Self { table, host: runtime.host(), failure });
        let address = std::ptr::from_ref(&*lane_host).cast_mut();
        lane_host.table.lane_host.store(address, Ordering::Relaxed);
        lane_host
    }

    /// What has to be kept until the library is unmapped.
    pub(crate) fn table(&self) -> Arc<HostTable> {
        Arc::clone(&self.table)
    }

    /// What the guest is given.
    pub(crate) fn as_abi(&self) -> *const abi::Host {
        Arc::as_ptr(&self.table).cast()
    }
}

impl Drop for LaneHost {
    fn drop(&mut self) {
        self.table.lane_host.store(null_mut(), Ordering::Relaxed);
    }
}

impl HostTable {
    /// The lane's part, on the lane's thread.
    fn on_lane(&self) -> Option<&LaneHost> {
        if std::thread::current().id() != self.lane {
            return None;
        }
        let lane_host = self.lane_host.load(Ordering::Relaxed);
        // SAFETY: null, or a box that is dropped on this very thread, which
        // sets the pointer to null first, and which is only read meanwhile.
        unsafe { lane_host.as_ref() }
    }
}

/// The host behind the guest's pointer.
///
/// # Safety
///
/// It is the pointer that `menagerie_init` was given, and the library is
/// mapped.
unsafe fn host<'a>(host: *const abi::Host) -> &'a HostTable {
    // SAFETY: the pointer was made from one to the whole `HostTable`, whose
    // first field it names, and which is kept as long as the library.
    unsafe { &*host.cast::<HostTable>() }
}

unsafe extern "C" fn log(table: *const abi::Host, level: u32, message: abi::Str) {
    let level = match level {
        0 => LogLevel::Trace,
        1 => LogLevel::Debug,
        2 => LogLevel::Info,
        3 => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    // SAFETY: the guest's text is valid, by the contract of menagerie.h.
    let message = unsafe { text(message) };
    // SAFETY: the guest passes on the host that it was given.
    let table = unsafe { host(table) };
    table.logger.log(level, "log", &message);
}

unsafe extern "C" fn call_contract(
    table: *const abi::Host,
    contract: abi::Str,
    function: abi::Str,
    args: abi::Bytes,
    answer: *mut abi::Answer,
) -> c_int {
    // SAFETY: the guest passes on the host that it was given.
    let table = unsafe { host(table) };
    let Some(lane) = table.on_lane() else { return abi::FAILED };
    // SAFETY: the guest's text is valid, by the contract of menagerie.h.
    let contract = unsafe { text(contract) };
    // SAFETY: as above.
    let function = unsafe { text(function) };
    // SAFETY: the guest's bytes are valid, likewise.
    let args = unsafe { args.as_slice() };
    match lane.host.call(&contract, &function, args) {
        Ok(value) => {
            let owner = Box::into_raw(Box::new(value));
            // SAFETY: a box's pointer, which is the guest's to give back only
            // after this.
            let value = abi::Bytes::of(unsafe { &*owner });
            // SAFETY: the guest's place for the answer is valid for writes.
            unsafe { answer.write(abi::Answer { value, owner: owner.cast() }) };
            abi::OK
        }
        Err(failure) => {
            lane.failure.replace(ShownFailure::new(failure));
            abi::FAILED
        }
    }
}

unsafe extern "C" fn answer_free(answer: *mut abi::Answer) {
    // SAFETY: the guest's answer is valid, by the contract of menagerie.h.
    let answer = unsafe { &mut *answer };
    let owner: *mut c_void = std::mem::replace(&mut answer.owner, null_mut());
    answer.value = abi::Bytes::NONE;
    if !owner.is_null() {
        // SAFETY: the owner is the box of `call_contract`, and is taken once.
        drop(unsafe { Box::from_raw(owner.cast::<Vec<u8>>()) });
    }
}

/// A failure that is the same for everybody.
struct Fixed(abi::Failure);

// SAFETY: it points to static texts only.
unsafe impl Sync for Fixed {}

static WRONG_THREAD: Fixed = Fixed(abi::Failure {
    kind: abi::Str::of("WrongThread"),
    message: abi::Str::of(
        "a bundle calls other contracts on its own thread only, and until on_unload has returned",
    ),
    guest: std::ptr::null(),
});

unsafe extern "C" fn failure(table: *const abi::Host) -> *const abi::Failure {
    // SAFETY: the guest passes on the host that it was given.
    let table = unsafe { host(table) };
    match table.on_lane() {
        // The address stays right: the failure is replaced in its place.
        Some(lane) => lane.failure.borrow().shown(),
        None => &raw const WRONG_THREAD.0,
    }
}

fn table(generation: u32, bundle: &str, dir: &CStr) -> abi::Host {
    abi::Host {
        abi_version: abi::ABI_VERSION,
        generation,
        bundle: abi::Str::of(bundle),
        log,
        add_function: registrar::add_function,
        on_load: registrar::on_load,
        on_unload: registrar::on_unload,
        init_failed: registrar::init_failed,
        arg_count: call::arg_count,
        arg_kind: call::arg_kind,
        arg_bool: call::arg_bool,
        arg_i64: call::arg_i64,
        arg_u64: call::arg_u64,
        arg_f64: call::arg_f64,
        arg_str: call::arg_str,
        arg_bytes: call::arg_bytes,
        arg_raw: call::arg_raw,
        result: call::result,
        return_bytes: call::return_bytes,
        return_raw: call::return_raw,
        return_view: call::return_view,
        fail: call::fail,
        bad_arguments: call::bad_arguments,
        peek: cursor::peek,
        read_null: cursor::read_null,
        read_bool: cursor::read_bool,
        read_i64: cursor::read_i64,
        read_u64: cursor::read_u64,
        read_f64: cursor::read_f64,
        read_str: cursor::read_str,
        read_bytes: cursor::read_bytes,
        read_list: cursor::read_list,
        read_map: cursor::read_map,
        read_raw: cursor::read_raw,
        reserve: cursor::reserve,
        write_null: cursor::write_null,
        write_bool: cursor::write_bool,
        write_i64: cursor::write_i64,
        write_u64: cursor::write_u64,
        write_f64: cursor::write_f64,
        write_str: cursor::write_str,
        write_bytes: cursor::write_bytes,
        write_list: cursor::write_list,
        write_map: cursor::write_map,
        write_raw: cursor::write_raw,
        writer_new: cursor::writer_new,
        writer_free: cursor::writer_free,
        call: call_contract,
        answer_free,
        failure,
        dir: abi::Str { ptr: dir.as_ptr().cast(), len: dir.count_bytes() },
    }
}
