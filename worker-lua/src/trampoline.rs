//! The C function through which every call goes: arguments, the guest's
//! function and the result, all within one protected call.

use std::ffi::{c_int, c_void};

use menagerie_protocol::msgpack::Reader;
use mlua::{Function, LightUserData, Lua, Table, ffi};

use crate::decode::Decoder;
use crate::encode::{EncodeError, Encoder, Scratch};
use crate::interrupt::Interrupter;
use crate::stack::{Stack, protected, upvalue};

/// The bundle's exported functions and hooks, by number from 1.
const FUNCTIONS: c_int = upvalue(1);
/// Objects among the arguments that Rust made.
const INBOX: c_int = upvalue(2);
/// Objects of the result that only Rust can read; or the error.
const OUTBOX: c_int = upvalue(3);
/// The metatable of maps.
const MAP_METATABLE: c_int = upvalue(4);
/// The handler that adds the stack to an error.
const ON_ERROR: c_int = upvalue(5);

/// The tables that Lua and Rust both hold.
#[derive(Debug)]
pub(crate) struct Shelves {
    pub(crate) functions: Table,
    pub(crate) inbox: Table,
    pub(crate) outbox: Table,
}

/// What a call's function is called with.
#[derive(Debug)]
pub(crate) enum Arguments<'a> {
    /// So many values in MessagePack, which were scanned.
    Packed { reader: Reader<'a>, count: usize },
    /// The one object in the inbox.
    Object,
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The arguments do not fit on Lua's stack, or into a Lua table, or the call was
    /// asked to stop before they were there.
    Arguments,
    /// An error was raised; it is in the outbox.
    Raised,
    /// The result has no MessagePack form.
    Result(EncodeError),
    /// The result is in the scratch.
    Done,
}

/// One call, as the trampoline sees it. It owns nothing: a Lua error may jump
/// over whoever works on it.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) function: i64,
    pub(crate) arguments: Arguments<'a>,
    pub(crate) map_metatable: *const c_void,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) interrupter: &'a Interrupter,
    pub(crate) outcome: Outcome,
}

/// Makes the trampoline.
pub(crate) fn create(
    lua: &Lua,
    shelves: &Shelves,
    map_metatable: &Table,
    on_error: &Function,
) -> mlua::Result<Function> {
    let upvalues = (&shelves.functions, &shelves.inbox, &shelves.outbox, map_metatable, on_error);
    // SAFETY: the closure owns nothing, and turns the five values that are on
    // the stack into one.
    unsafe { protected(lua, upvalues, |stack| stack.push_closure(run, 5)) }
}

/// Runs a call. Only an error outside the guest's own code is an `Err`: there
/// was no memory for the arguments, for example.
pub(crate) fn call(trampoline: &Function, frame: &mut Frame<'_>) -> mlua::Result<()> {
    trampoline.call(LightUserData(std::ptr::from_mut(frame).cast()))
}

/// The trampoline itself.
unsafe extern "C-unwind" fn run(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this in protected mode (`Function::call`), with the
    // upvalues of `create`. Below, every index is an upvalue's or on the
    // stack, what is pushed is reserved, and nothing is owned.
    let stack = unsafe { Stack::of(state) };
    // SAFETY: no guest gets hold of this function (its `debug.getinfo` tells no
    // functions), so the argument is what `call` passes: a frame that it
    // borrows mutably until this returns.
    let frame = unsafe { &mut *stack.to_address(1).cast::<Frame<'_>>() };
    step(&stack, frame);
    0
}

fn step(stack: &Stack, frame: &mut Frame<'_>) {
    let count = match &frame.arguments {
        Arguments::Packed { count, .. } => c_int::try_from(*count).unwrap_or(c_int::MAX),
        Arguments::Object => 1,
    };
    if !stack.reserve(count.saturating_add(8)) {
        return;
    }
    stack.push_copy(ON_ERROR);
    stack.raw_get_index(FUNCTIONS, frame.function);
    match &frame.arguments {
        Arguments::Packed { reader, count } => {
            let reader = reader.clone();
            let mut decoder = Decoder::new(stack, reader, INBOX, MAP_METATABLE, frame.interrupter);
            // Nothing of the bundle's runs for a call that was asked to stop meanwhile.
            let all = (0..*count).all(|_| decoder.push_argument());
            if !all || frame.interrupter.is_stopped() {
                return;
            }
        }
        Arguments::Object => stack.raw_get_index(INBOX, 1),
    }
    frame.outcome = Outcome::Raised;
    if stack.protected_call(count, 2) {
        let mut encoder = Encoder {
            stack,
            scratch: frame.scratch,
            outbox: OUTBOX,
            map_metatable: frame.map_metatable,
            interrupter: frame.interrupter,
        };
        frame.outcome = match encoder.value() {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Result(error),
        };
    } else {
        stack.raw_set_index(OUTBOX, 1);
    }
}
