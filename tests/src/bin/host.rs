//! A host that ends badly, for the tests: it starts a worker and a standby for
//! each language that its arguments name after the first, writes their pids to
//! standard output, waits for the end of its standard input, and then does what
//! its first argument says.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use menagerie_supervisor::Supervisor;
use menagerie_tests::Language;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let end = std::env::args().nth(1).unwrap_or_default();
    let mut builder = Supervisor::builder().standby(1);
    if let Some(beside) = std::env::current_exe()?.parent().map(Path::to_owned) {
        builder = builder.worker_dir(beside);
    }
    let supervisor = builder.start()?;
    let languages: Vec<String> = std::env::args().skip(2).collect();
    for suffix in &languages {
        supervisor.block_on(supervisor.load(Language::of(suffix).bundle("greeter")))?;
    }
    // Native libraries of two languages are one worker's.
    let mut workers: Vec<u32> = supervisor.status().workers.iter().filter_map(|w| w.pid).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    let standbys = loop {
        let standbys = supervisor.status().standbys;
        if standbys.len() == workers.len() && !standbys.is_empty() {
            break standbys;
        }
        if Instant::now() > deadline {
            return Err("there are no standbys".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    workers.extend(standbys.iter().map(|standby| standby.pid));
    let pids: Vec<String> = workers.iter().map(u32::to_string).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", pids.join(" "))?;
    out.flush()?;
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    match end.as_str() {
        "stop" => {
            supervisor.block_on(supervisor.shutdown());
            Ok(())
        }
        #[allow(clippy::panic, reason = "it is what the test is about")]
        "panic" => panic!("as I was told"),
        "abort" => std::process::abort(),
        // No destructor runs.
        "exit" => std::process::exit(1),
        _ => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
    }
}
