//! A library that the tests load: two contracts, hooks, and all that can go
//! wrong in Rust.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use menagerie_guest::{ByteBuf, Bytes, CallError, Context, Error, Level, Value};
use serde::{Deserialize, Serialize};

/// Of this generation's own copy of the library.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A thread-local value whose destructor is code of this library.
struct Note(String);

impl Drop for Note {
    fn drop(&mut self) {
        COUNT.fetch_add(self.0.len() as u64, Ordering::Relaxed);
    }
}

thread_local! {
    static NOTE: RefCell<Option<Note>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("that is no number")
    }
}

impl StdError for Outer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Point {
    x: i32,
    y: Option<f64>,
}

struct Fixture;

#[menagerie_guest::contract("fixture@1", part)]
impl Fixture {
    #[on_load]
    fn on_load(context: Context<'_>) -> Result<(), Error> {
        let state: Option<String> = context.state.map(|state| state.decode()).transpose()?;
        match state.as_deref() {
            Some("refuse") => {
                Err(Error::new("Refused", "this state is not for me").with_code("E1"))
            }
            _ => Ok(()),
        }
    }

    #[cfg(any())]
    #[on_load]
    fn on_load_elsewhere() {}

    #[cfg(any())]
    #[menagerie_guest::on_unload]
    fn on_unload_elsewhere() {}

    #[cfg(unix)]
    #[menagerie_guest::on_unload]
    fn on_unload() -> Result<Option<&'static str>, String> {
        match COUNT.load(Ordering::Relaxed) {
            666 => Err("cannot unload".to_owned()),
            13 => Ok(Some("refuse")),
            _ => Ok(None),
        }
    }

    fn set_count(count: u64) {
        COUNT.store(count, Ordering::Relaxed);
    }

    fn count() -> u64 {
        COUNT.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn again(value: Value) -> Value {
        value
    }

    fn join(text: &str, bytes: &[u8], number: Option<f64>) -> String {
        format!("{text} {bytes:?} {number:?}")
    }

    fn mirror(
        points: Vec<Point>,
        names: BTreeMap<String, i64>,
    ) -> (Vec<Point>, BTreeMap<i64, String>) {
        let points = points.into_iter().map(|p| Point { x: -p.x, y: p.y }).collect();
        (points, names.into_iter().map(|(name, n)| (n, name)).collect())
    }

    fn middle(bytes: Bytes<'_>) -> Bytes<'_> {
        let quarter = bytes.len() / 4;
        Bytes(&bytes.0[quarter..bytes.len() - quarter])
    }

    fn fill(byte: u8, len: usize) -> ByteBuf {
        vec![byte; len].into()
    }

    fn nested(depth: usize) -> Value {
        (0..depth).fold(Value::Null, |value, _| Value::List(vec![value]))
    }

    fn r#type() -> &'static str {
        "a raw identifier"
    }

    fn panic_text() {
        panic!("just so");
    }

    fn panic_formatted(n: i64) -> i64 {
        let list = [1, 2, 3];
        let index = usize::try_from(n).unwrap_or(0);
        list[index]
    }

    fn panic_any() {
        std::panic::panic_any(17);
    }

    fn fail_text(message: String) -> Result<(), String> {
        Err(message)
    }

    fn fail_source(text: &str) -> Result<i64, Outer> {
        text.parse().map_err(Outer)
    }

    fn fail_boxed(text: &str) -> Result<i64, Box<dyn StdError>> {
        Ok(text.parse::<i64>()?)
    }

    fn fail_fully() -> Result<(), Error> {
        Err(Error {
            url: "https://example.org/e7".to_owned(),
            ..Error::new("Rich", "all there is").with_code("E7").with_help("try again")
        })
    }

    fn call(contract: &str, function: &str, args: Value) -> Result<Value, CallError> {
        menagerie_guest::call(contract, function, args)
    }

    fn call_in_error() -> Result<(), Error> {
        let _: Value = menagerie_guest::call("nowhere@1", "nothing", ())?;
        Ok(())
    }

    fn call_from_thread() -> Result<String, String> {
        let thread = std::thread::spawn(|| menagerie_guest::call::<Value>("a@1", "b", ()));
        match thread.join() {
            Ok(Err(error)) => Ok(error.kind),
            other => Err(format!("{other:?}")),
        }
    }

    fn log_from_thread(message: String) {
        let thread = std::thread::spawn(move || menagerie_guest::log!(Level::Warn, "{message}!"));
        drop(thread.join());
    }

    fn panic_in_thread() -> bool {
        std::thread::spawn(|| panic!("elsewhere")).join().is_err()
    }

    fn note(text: String) {
        NOTE.with_borrow_mut(|note| *note = Some(Note(text)));
    }
}

struct Other;

#[menagerie_guest::contract("another@2", part)]
impl Other {
    fn answer() -> u8 {
        42
    }

    /// Of 255 letters.
    fn fnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnd(
        text: &str,
    ) -> &str {
        text
    }
}

menagerie_guest::bundle!(Fixture, Other);
