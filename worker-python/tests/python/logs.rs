use menagerie_protocol::message::{LogLevel, LogRecord};

use crate::support::{call, code, harness};

const WRITES: &str = "
import json, logging, sys, threading
import concurrent.futures

@menagerie.export('t@1')
def write(what):
    print(what, 'printed')
    print(what, 'in two', end='')
    print(' pieces\\nand two lines')
    print(what, 'to stderr', file=sys.stderr)
    sys.stdout.buffer.write(b'bytes\\n')
    print('no end', end='')
    sys.stdout.flush()

@menagerie.export('t@1')
def log(what):
    logging.getLogger('a.b').warning('%s %d', what, 7)
    logging.getLogger('a.b').debug('unheard')
    logging.getLogger(__name__).info(what)
    menagerie.log('error', what)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception('failed')

@menagerie.export('t@1')
def from_thread(what):
    def run():
        print(what, 'from a thread')
        logging.error('%s from a thread', what)
        menagerie.log('info', what + ' logged from a thread')
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(lambda: print(what, 'from a pool')).result()
        # No code of the bundle's own is on the stack here.
        pool.submit(print, what, 'by a pool').result()
    thread = threading.Thread(target=json.loads, args=['no json'])
    thread.start()
    thread.join()
";

fn found(logs: &[LogRecord], bundle: &str, target: &str, message: &str) -> LogLevel {
    let matches: Vec<_> = logs
        .iter()
        .filter(|log| log.target == target && log.message == message)
        .filter(|log| log.bundle.as_deref() == Some(bundle))
        .collect();
    assert_eq!(matches.len(), 1, "{bundle} {target} {message:?}: {logs:#?}");
    matches[0].level
}

#[test]
fn output_is_logged_under_the_bundle_that_writes() {
    let harness = harness();
    let bundles = ["writer-a", "writer-b"];
    let loaded = bundles.map(|name| code(&harness, name, WRITES).unwrap());
    for (bundle, name) in loaded.iter().zip(bundles) {
        call::<_, ()>(bundle, "write", (name,)).unwrap();
        call::<_, ()>(bundle, "log", (name,)).unwrap();
        call::<_, ()>(bundle, "from_thread", (name,)).unwrap();
    }
    let logs = harness.logs();
    for name in bundles {
        let said = |target: &str, message: &str| found(&logs, name, target, message);
        assert_eq!(said("stdout", &format!("{name} printed")), LogLevel::Info);
        said("stdout", &format!("{name} in two pieces"));
        said("stdout", "and two lines");
        said("stdout", "bytes");
        said("stdout", "no end");
        assert_eq!(said("stderr", &format!("{name} to stderr")), LogLevel::Warn);
        assert_eq!(said("logging.a.b", &format!("{name} 7")), LogLevel::Warn);
        assert_eq!(said("logging.main", name), LogLevel::Info);
        assert_eq!(said("log", name), LogLevel::Error);
        said("stdout", &format!("{name} from a thread"));
        assert_eq!(said("logging.root", &format!("{name} from a thread")), LogLevel::Error);
        said("log", &format!("{name} logged from a thread"));
        said("stdout", &format!("{name} from a pool"));
        said("stdout", &format!("{name} by a pool"));
        let failed = logs.iter().find(|log| {
            log.bundle.as_deref() == Some(name)
                && log.message.starts_with("json.decoder.JSONDecodeError")
        });
        assert_eq!(failed.unwrap().target, "stderr");
        let failed = logs
            .iter()
            .find(|log| log.bundle.as_deref() == Some(name) && log.message.starts_with("failed\n"));
        assert!(failed.unwrap().message.contains("ZeroDivisionError"));
    }
    assert!(logs.iter().all(|log| log.message != "unheard"), "{logs:#?}");
}

#[test]
fn a_line_without_end_is_logged_at_unload() {
    let harness = harness();
    let bundle = code(
        &harness,
        "unfinished",
        "
@menagerie.export('t@1')
def f(): print('half a line', end='')
",
    )
    .unwrap();
    call::<_, ()>(&bundle, "f", ()).unwrap();
    assert!(harness.logs().is_empty(), "{:#?}", harness.logs());
    bundle.unload();
    found(&harness.logs(), "unfinished", "stdout", "half a line");
}

#[test]
fn lone_surrogates_are_written_as_they_are_escaped() {
    let harness = harness();
    let bundle = code(
        &harness,
        "surrogates",
        "
import sys, traceback, logging

@menagerie.export('t@1')
def write():
    lone = chr(0xd800)
    print('printed', lone)
    print('to stderr', lone, file=sys.stderr)
    logging.error('logged %s', lone)
    menagerie.log('info', 'said ' + lone)
    try:
        raise ValueError(lone)
    except ValueError:
        traceback.print_exc()
    return sys.stdout.errors
",
    )
    .unwrap();
    assert_eq!(call::<_, String>(&bundle, "write", ()).as_deref(), Ok("backslashreplace"));
    let logs = harness.logs();
    for text in ["printed", "to stderr", "logged", "said", "ValueError:"] {
        let whole = format!("{text} \\ud800");
        assert!(logs.iter().any(|log| log.message == whole), "{whole}: {logs:#?}");
    }
}
