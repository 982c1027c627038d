//! Does what tests and benchmarks ask for, good and bad.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "`say` is there to print")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use menagerie_guest::{ByteBuf, CallError, CodecError, Context, Raw, Value, info, warn};

/// The bundle's folder.
static DIR: Mutex<Value> = Mutex::new(Value::Null);

/// What was handed over from the previous generation.
static BEFORE: Mutex<Value> = Mutex::new(Value::Null);

/// What this generation hands over to the next.
static AFTER: Mutex<Value> = Mutex::new(Value::Null);

fn lock(value: &Mutex<Value>) -> MutexGuard<'_, Value> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `fail` fails with.
#[derive(Debug)]
struct ProbeError(String);

impl std::fmt::Display for ProbeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProbeError {}

struct Probe;

#[menagerie_guest::contract("probe@1")]
impl Probe {
    #[on_load]
    fn restore(context: Context<'_>) -> Result<(), CodecError> {
        info!("{} is loaded for the {}. time", context.bundle, context.generation);
        *lock(&DIR) = Value::String(context.dir.display().to_string());
        if let Some(state) = context.state {
            *lock(&BEFORE) = state.decode()?;
        }
        Ok(())
    }

    #[on_unload]
    fn save() -> Value {
        // Statics have no destructors: what they own has to be given up here,
        // or each reload leaks it.
        *lock(&BEFORE) = Value::Null;
        std::mem::take(&mut lock(&AFTER))
    }

    fn inc(n: i64) -> i64 {
        // Also where arithmetic is built to go round.
        n.checked_add(1).expect("attempt to add with overflow")
    }

    fn echo(value: Raw<'_>) -> Raw<'_> {
        value
    }

    fn fail(message: String) -> Result<(), ProbeError> {
        Err(ProbeError(message))
    }

    fn crash() {
        let nowhere: *const u8 = std::ptr::null();
        // SAFETY: none. This is the one function that has to break the rules:
        // it takes its process down.
        unsafe { nowhere.read_volatile() };
    }

    fn spin() {
        loop {
            std::hint::spin_loop();
        }
    }

    fn sleep_ms(n: u64) {
        std::thread::sleep(Duration::from_millis(n));
    }

    fn null() {}

    fn blob(n: usize) -> ByteBuf {
        vec![0xAB; n].into()
    }

    fn call(contract: &str, function: &str, args: Vec<Value>) -> Result<Value, CallError> {
        menagerie_guest::call(contract, function, args)
    }

    /// How the call failed, or nothing if it did not.
    fn caught(contract: &str, function: &str, args: Vec<Value>) -> Option<String> {
        match menagerie_guest::call::<Value>(contract, function, args) {
            Ok(_) => None,
            Err(error) => Some(error.kind),
        }
    }

    fn state() -> Value {
        lock(&BEFORE).clone()
    }

    fn dir() -> Value {
        lock(&DIR).clone()
    }

    fn set_state(value: Value) {
        *lock(&AFTER) = value;
    }

    /// A result that cannot leave: it is nested too deep.
    fn misfit() -> Value {
        (0..1000).fold(Value::Null, |inner, _| Value::List(vec![inner]))
    }

    fn say(text: &str) {
        println!("{text} on stdout");
        eprintln!("{text} on stderr");
        warn!("{text} in the log");
    }
}
