//! From the library's exports to the worker's registrar.

use std::ffi::c_int;
use std::ptr::null_mut;

use crate::{abi, host, panic};

/// A type whose functions are a contract; [`crate::contract`] implements it.
pub trait Contract {
    #[doc(hidden)]
    const PART: Part;
}

/// A contract as the library exports it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Part {
    pub contract: &'static str,
    pub functions: &'static [(&'static str, abi::Function)],
    pub on_load: Option<abi::Function>,
    pub on_unload: Option<abi::Function>,
}

/// The hook of a kind, of those that an `impl` has when it is compiled.
///
/// # Panics
///
/// There are several: an error of the compiler's.
#[doc(hidden)]
#[must_use]
pub const fn one_hook(hooks: &[abi::Function]) -> Option<abi::Function> {
    match hooks {
        [] => None,
        [hook] => Some(*hook),
        _ => panic!("an impl has one on_load and one on_unload at most"),
    }
}

/// Whether no two parts have the same hook: there is one state only.
#[doc(hidden)]
#[must_use]
pub const fn hooks_are_unique(parts: &[&Part]) -> bool {
    let (mut loads, mut unloads, mut i) = (0, 0, 0);
    while i < parts.len() {
        loads += parts[i].on_load.is_some() as usize;
        unloads += parts[i].on_unload.is_some() as usize;
        i += 1;
    }
    loads <= 1 && unloads <= 1
}

/// What `menagerie_init` does.
///
/// # Safety
///
/// Both pointers are those that the worker gave to `menagerie_init`.
#[doc(hidden)]
pub unsafe fn init(
    worker: *const abi::Host,
    registrar: *mut abi::Registrar,
    parts: &[&Part],
) -> c_int {
    host::set(worker);
    panic::watch();
    let Some(worker) = host::get() else { return abi::FAILED };
    for part in parts {
        let contract = abi::Str::of(part.contract);
        for (name, function) in part.functions {
            // The function checks its arguments itself, by their types, so the
            // worker is not told of parameters.
            let (name, params) = (abi::Str::of(name), abi::Str::NONE);
            // SAFETY: the registrar is the worker's, and the texts are static.
            let status = unsafe {
                (worker.add_function)(
                    registrar,
                    contract,
                    name,
                    params,
                    Some(*function),
                    null_mut(),
                )
            };
            if status != abi::OK {
                return status;
            }
        }
        if part.on_load.is_some() {
            // SAFETY: the registrar is the worker's.
            unsafe { (worker.on_load)(registrar, part.on_load, null_mut()) };
        }
        if part.on_unload.is_some() {
            // SAFETY: the registrar is the worker's.
            unsafe { (worker.on_unload)(registrar, part.on_unload, null_mut()) };
        }
    }
    abi::OK
}

/// Exports a library's contracts, if it has several: each is marked
/// `#[contract("name@1", part)]`, and the library says once
/// `menagerie_guest::bundle!(Greeter, Counter);`.
#[macro_export]
macro_rules! bundle {
    ($($part:ty),+ $(,)?) => {
        const _: () = {
            const PARTS: &[&$crate::__private::Part] =
                &[$(&<$part as $crate::Contract>::PART),+];

            ::core::assert!(
                $crate::__private::hooks_are_unique(PARTS),
                "a bundle has one on_load and one on_unload, whatever the number of its contracts"
            );

            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, unsafe_code)]
            static menagerie_abi_version: u32 = $crate::abi::ABI_VERSION;

            #[unsafe(no_mangle)]
            #[allow(unsafe_code)]
            unsafe extern "C" fn menagerie_init(
                host: *const $crate::abi::Host,
                registrar: *mut $crate::abi::Registrar,
            ) -> ::core::ffi::c_int {
                // SAFETY: the worker calls this with its own host and registrar.
                unsafe { $crate::__private::init(host, registrar, PARTS) }
            }
        };
    };
}
