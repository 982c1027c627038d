use std::sync::Barrier;
use std::thread;

use menagerie_protocol::LoaderError;

use crate::support::{call, code, guest_error, harness};

/// Whatever our own modules import, they wait for a moment first, in which
/// another lane has the interpreter. Nothing is exported, so none of them is
/// needed yet.
const SLOW: &str = "
import builtins, time

original = builtins.__import__

def slow(name, globals=None, *rest):
    if str((globals or {}).get('__name__')).startswith('_menagerie.'):
        time.sleep(0.02)
    return original(name, globals, *rest)

builtins.__import__ = slow
";

/// The first needs `signatures` to be loaded at all, the second `tasks` when it
/// is called, and the third `errors`.
const BUNDLE: &str = "
@menagerie.export('t@1')
def next(n: int) -> int:
    return n + 1

@menagerie.export('t@1')
async def later(text: str) -> str:
    return text

@menagerie.export('t@1')
def fail() -> None:
    raise ValueError('not today')
";

/// Each lane is a thread, and any of them may be the first to need a module of
/// the worker's own.
#[test]
fn c6_bundles_that_load_together_never_meet_a_half_run_module() {
    const LANES: usize = 8;
    let harness = harness();
    let slow = code(&harness, "slow", SLOW);
    assert!(matches!(slow, Err(LoaderError::ContractMismatch { .. })), "{slow:?}");
    let together = Barrier::new(LANES);
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (harness, together) = (&harness, &together);
            scope.spawn(move || {
                together.wait();
                let bundle = code(harness, &format!("lane-{lane}"), BUNDLE);
                // No thread leaves the others waiting: whatever went wrong is
                // told at the end.
                together.wait();
                let later = bundle.as_ref().map(|b| call::<_, String>(b, "later", ("x",)));
                together.wait();
                let failed = bundle.as_ref().map(|b| call::<_, ()>(b, "fail", ()));
                let bundle = bundle.as_ref().unwrap();
                assert_eq!(later.unwrap(), Ok("x".to_owned()));
                let error = guest_error(failed.unwrap().unwrap_err());
                assert_eq!(error.type_name, "ValueError");
                assert!(error.stack.contains("not today"), "{}", error.stack);
                assert_eq!(call::<_, i64>(bundle, "next", (1,)), Ok(2));
            });
        }
    });
}
