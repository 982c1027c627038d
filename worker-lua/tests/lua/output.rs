use menagerie_protocol::message::LogLevel;

use super::probe;

#[test]
fn output_goes_to_the_log_by_lines() {
    let (harness, bundle) = probe(
        "function probe.speak()
           print('one', nil, 2, true)
           io.write('tw', 'o\\nthr')
           io.stdout:write('ee', 3, '\\n')
           io.stderr:write('trouble\\n')
           io.write('unfinished'):flush()
           menagerie.log('debug', 'four')
           menagerie.log('error', 5)
           menagerie.log('warning', 'as in Python')
         end",
    );
    let (): () = bundle.call("probe@1", "speak", ()).unwrap();
    let logs = harness.logs();
    let lines: Vec<_> =
        logs.iter().map(|l| (l.level, l.target.as_str(), l.message.as_str())).collect();
    assert_eq!(
        lines,
        [
            (LogLevel::Info, "stdout", "one\tnil\t2\ttrue"),
            (LogLevel::Info, "stdout", "two"),
            (LogLevel::Info, "stdout", "three3"),
            (LogLevel::Warn, "stderr", "trouble"),
            (LogLevel::Info, "stdout", "unfinished"),
            (LogLevel::Debug, "log", "four"),
            (LogLevel::Error, "log", "5"),
            (LogLevel::Warn, "log", "as in Python"),
        ]
    );
    assert!(logs.iter().all(|record| record.bundle.as_deref() == Some("probe")));
}

#[test]
fn an_unfinished_line_is_logged_at_the_end() {
    let (harness, bundle) = probe("function probe.speak() io.write('last words') end");
    let (): () = bundle.call("probe@1", "speak", ()).unwrap();
    assert!(harness.logs().is_empty());
    bundle.unload();
    assert_eq!(harness.logs()[0].message, "last words");
}

#[test]
fn io_output_still_redirects() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.txt");
    let (harness, bundle) = probe(
        "function probe.redirect(path)
           local before = io.output()
           io.output(path)
           io.write('to the file')
           io.output():close()
           io.output(before)
           return io.type(io.stdout)
         end",
    );
    let kind: String = bundle.call("probe@1", "redirect", (path.to_str().unwrap(),)).unwrap();
    assert_eq!(kind, "file");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "to the file");
    assert!(harness.logs().is_empty());
}
