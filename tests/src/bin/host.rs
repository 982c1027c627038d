//! A host that ends badly, for the tests: it starts a worker and a standby,
//! writes their pids to standard output, waits for the end of its standard
//! input, and then does what its argument says.

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
    supervisor.block_on(supervisor.load(Language::of("lua").bundle("greeter")))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let standby = loop {
        if let Some(standby) = supervisor.status().standbys.first() {
            break standby.pid;
        }
        if Instant::now() > deadline {
            return Err("there is no standby".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let worker = supervisor.status().workers[0].pid.ok_or("there is no worker")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{worker} {standby}")?;
    out.flush()?;
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    match end.as_str() {
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
