//! A load and some calls before the first real ones.
//!
//! .NET compiles a method when it is first called: the first load of a process
//! takes it some thirty milliseconds, the second one a fraction of one. And it
//! compiles a method again, in the background, when it has been called thirty times
//! after things had become quiet, and once more after thirty further calls (tiered
//! compilation): a load calls enough of the bridge and of reflection often enough
//! for that, and the first answer would compete with it for the CPU.

use std::fs;
use std::path::Path;
use std::time::Duration;

use menagerie_protocol::msgpack::Writer;

use crate::abi::{Bytes, LoadRequest, OK, Outcome};
use crate::clr::Clr;

/// What is rehearsed, beside the bridge.
const ASSEMBLY: &str = "Menagerie.Rehearsal.dll";

/// No lane has this number: what the rehearsal logs is nobody's.
const NO_LANE: u64 = 0;

/// How often: once to compile, once to be counted, once to be counted again.
const ROUNDS: u32 = 3;

/// How long .NET waits, after it has last met a method that is new to it, before it
/// counts calls (`TC_CallCountingDelayMs`, 100), and some for what it compiles then.
const PAUSE: Duration = Duration::from_millis(150);

/// Loads, calls and unloads the rehearsal's bundle, on this thread. That it
/// cannot is of no interest: the first load will say so. It makes way as soon
/// as `is_over`, which is asked to wait for so long, unless a bundle comes.
pub(crate) fn run(clr: &Clr, bridge: &Path, is_over: impl Fn(Duration) -> bool) {
    let Ok(image) = fs::read(bridge.join(ASSEMBLY)) else { return };
    for round in 0..ROUNDS {
        if is_over(if round > 0 { PAUSE } else { Duration::ZERO }) {
            return;
        }
        rehearse(clr, &image, &is_over);
    }
}

fn rehearse(clr: &Clr, image: &[u8], is_over: &impl Fn(Duration) -> bool) {
    let mut head = Vec::new();
    let mut writer = Writer::new(&mut head);
    writer.array(3);
    writer.str("rehearsal");
    writer.uint(1);
    writer.nil();
    let request = LoadRequest {
        lane: NO_LANE,
        max_payload: i64::MAX,
        max_state: i64::MAX,
        head: Bytes::of(&head),
        image: Bytes::of(image),
        symbols: Bytes::NONE,
    };
    let mut outcome = Outcome::EMPTY;
    let entries = &clr.entries;
    // SAFETY: the request points to memory that outlives the call; both
    // structs have the declared layout.
    let result = unsafe { (entries.load)(&raw const request, &raw mut outcome) };
    if result == OK {
        let handle = outcome.handle;
        // SAFETY: the handle is from Load and not freed, there is no state, and
        // the outcome has the declared layout.
        unsafe { (entries.on_load)(handle, std::ptr::null(), 0, &raw mut outcome) };
        for (function, args) in (0..).zip(CALLS).take_while(|_| !is_over(Duration::ZERO)) {
            let len = i64::try_from(args.len()).unwrap_or(0);
            // SAFETY: the handle as above; the arguments are alive.
            unsafe { (entries.call)(handle, function, args.as_ptr(), len, &raw mut outcome) };
            if !outcome.handle.is_null() {
                // SAFETY: the handle as above; nobody uses the body.
                unsafe { (entries.unpin)(handle) };
            }
        }
        // SAFETY: as for `on_load`.
        unsafe { (entries.on_unload)(handle, &raw mut outcome) };
        // SAFETY: the handle is from Load, and this is its only Free.
        unsafe { (entries.free)(handle) };
    }
    // SAFETY: Collect takes a number, and no number is a wrong one.
    unsafe { (entries.collect)(NO_LANE) };
}

/// Arguments for the functions, sorted by their names.
const CALLS: [&[u8]; 8] = [
    // blob(8192), echo({"a": [1, null], "b": 0.0}), fail("on cue!")
    b"\x91\xcd\x20\x00",
    b"\x91\x82\xa1a\x92\x01\xc0\xa1b\xcb\0\0\0\0\0\0\0\0",
    b"\x91\xa7on cue!",
    // greet("Ada"), greet_all(["Ada", "Bob"]), inc(1), nothing(), two("a", null)
    b"\x91\xa3Ada",
    b"\x91\x92\xa3Ada\xa3Bob",
    b"\x91\x01",
    b"\x90",
    b"\x92\xa1a\xc0",
];
