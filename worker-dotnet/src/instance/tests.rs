use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use menagerie_protocol::msgpack::Writer;

use crate::abi::{Bytes, LoadRequest, OK, Outcome};
use crate::clr::{self, Clr};
use crate::search::Search;
use crate::signals;

fn search(checkout: &Path) -> Search {
    let mut search = Search::from_environment();
    search.runtimes.push(checkout.join("target/dotnet/runtime"));
    search.bridges.push(checkout.join("target/dotnet"));
    search
}

/// Loads the probe with no lane around it.
fn load_probe() -> (&'static Clr, crate::abi::Handle) {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let search = search(&checkout);
    signals::give_up_stack();
    let begin = Instant::now();
    let clr = clr::start(&search.find().unwrap()).unwrap();
    eprintln!("start: {:?}", begin.elapsed());
    let image = std::fs::read(checkout.join("tests/bundles/probe-dotnet/probe.dll")).unwrap();
    let mut head = Vec::new();
    let mut writer = Writer::new(&mut head);
    writer.array(3);
    writer.str("probe-dotnet");
    writer.uint(1);
    writer.nil();
    let request = LoadRequest {
        lane: u64::MAX,
        max_payload: i64::MAX,
        max_state: i64::MAX,
        head: Bytes::of(&head),
        image: Bytes::of(&image),
        symbols: Bytes::NONE,
    };
    let mut outcome = Outcome::EMPTY;
    // SAFETY: both point to live values of the declared layout.
    let result = unsafe { (clr.entries.load)(&raw const request, &raw mut outcome) };
    eprintln!("start and load: {:?}", begin.elapsed());
    assert_eq!(result, OK);
    (clr, outcome.handle)
}

/// The probe's functions, sorted by name as they are registered.
const NAMES: [&str; 13] = [
    "blob",
    "call",
    "crash",
    "echo",
    "fail",
    "inc",
    "misfit",
    "null",
    "say",
    "set_state",
    "sleep_ms",
    "spin",
    "state",
];

/// What a call costs with no lane around it:
/// `cargo test --release -p menagerie-worker-dotnet -- --ignored --nocapture measure`.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_calls() {
    let (clr, handle) = load_probe();
    let mib = {
        let mut bytes = vec![0x91, 0xc6, 0, 0x10, 0, 0];
        bytes.resize(6 + (1 << 20), 0xab);
        bytes
    };
    let cases: [(&str, &str, &[u8], u32); 5] = [
        ("null()", "null", b"\x90", 1_000_000),
        ("inc(41)", "inc", b"\x91\x29", 1_000_000),
        ("echo(\"Hello\")", "echo", b"\x91\xa5Hello", 1_000_000),
        ("echo([1, \"a\"])", "echo", b"\x91\x92\x01\xa1a", 1_000_000),
        ("echo(1 MiB)", "echo", &mib, 1_000),
    ];
    let mut copy = vec![0u8; mib.len()];
    let begin = Instant::now();
    for _ in 0..1000 {
        copy.copy_from_slice(black_box(&mib));
        black_box(&mut copy);
    }
    eprintln!("a copy of 1 MiB: {:?}", begin.elapsed() / 1000);
    // Long enough for the runtime to have compiled the hot code twice.
    for round in ["cold", "warm", "hot"] {
        for (title, name, args, calls) in cases {
            let function = NAMES.iter().position(|n| *n == name).unwrap();
            let function = i32::try_from(function).unwrap();
            let len = i64::try_from(args.len()).unwrap();
            let begin = Instant::now();
            for _ in 0..calls {
                let mut outcome = Outcome::EMPTY;
                // SAFETY: the handle is from Load, the arguments are live.
                let result = unsafe {
                    (clr.entries.call)(handle, function, args.as_ptr(), len, &raw mut outcome)
                };
                assert_eq!(result, OK);
                black_box(&outcome);
                if !outcome.handle.is_null() {
                    // SAFETY: the body of the call before is not used.
                    unsafe { (clr.entries.unpin)(handle) };
                }
            }
            let each = begin.elapsed() / calls;
            eprintln!("{round}: {title}: {each:?} a call");
        }
    }
}

/// What the first loads of a process cost, with `DOTNET_` settings to try.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_loads() {
    for _ in 0..3 {
        load_probe();
    }
}

/// The same after a rehearsal.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_loads_after_rehearsal() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let installation = search(&checkout).find().unwrap();
    signals::give_up_stack();
    let clr = clr::start(&installation).unwrap();
    let begin = Instant::now();
    crate::rehearsal::run(clr, &installation.bridge, |pause| {
        std::thread::sleep(pause);
        false
    });
    eprintln!("rehearsal: {:?}", begin.elapsed());
    for _ in 0..3 {
        load_probe();
    }
}
