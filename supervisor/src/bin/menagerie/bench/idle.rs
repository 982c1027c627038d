//! What a supervisor costs a host that does nothing: a process of its own says.

use std::path::PathBuf;
use std::time::Duration;

use menagerie_supervisor::{Config, Supervisor};
use serde::{Deserialize, Serialize};

use super::Problem;

/// What the process found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Idle {
    /// Bytes that the supervisor and its bundles add to the host.
    pub(super) added: u64,
    /// Context switches of all threads in a second, without heartbeats.
    pub(super) switches: f64,
}

/// Runs this program as that host.
pub(super) fn measure(dirs: &[PathBuf], config: &Config) -> Result<Idle, Problem> {
    let mut command = super::program(&std::env::current_exe()?);
    command.arg("bench-idle").args(dirs);
    if let Some(dir) = &config.worker_dir {
        command.arg("--worker-dir").arg(dir);
    }
    let output = command.output()?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| Problem::new("the idle host", String::from_utf8_lossy(&output.stderr).trim()))
}

/// That process's main.
pub(super) fn main(dirs: &[PathBuf], worker_dir: Option<PathBuf>) -> Result<(), Problem> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let before = resident()?;
    let mut config = Config::default();
    config.worker_dir = worker_dir;
    // Heartbeats are not to be counted: the next one is far away.
    config.heartbeat = Duration::from_secs(3600);
    let _guard = runtime.enter();
    let supervisor = Supervisor::builder()
        .config(config)
        .start()
        .map_err(|error| Problem::new("supervisor", &error))?;
    for dir in dirs {
        runtime
            .block_on(supervisor.load(dir))
            .map_err(|error| Problem::new(&dir.display(), &error))?;
    }
    for status in supervisor.status().bundles {
        let contract = supervisor
            .contract(&format!("{}/probe@1", status.name))
            .map_err(|error| Problem::new(&status.name, &error))?;
        contract
            .call_blocking::<_, ()>("null", ())
            .map_err(|error| Problem::new(&status.name, &error))?;
    }
    // Whatever start-up has left to do is done by then.
    std::thread::sleep(Duration::from_secs(1));
    let added = resident()?.saturating_sub(before);
    let counted = switches()?;
    let period = Duration::from_secs(4);
    std::thread::sleep(period);
    // This thread's own sleep is one of them.
    let more = switches()?.saturating_sub(counted).saturating_sub(1);
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let switches = more as f64 / period.as_secs_f64();
    crate::render::json(&Idle { added, switches });
    runtime.block_on(supervisor.shutdown());
    Ok(())
}

/// Anonymous memory of this process in bytes: what it shares with nobody, so
/// pages of the program itself do not count.
fn resident() -> Result<u64, Problem> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = |field: &str| {
        status.lines().find_map(|line| {
            line.strip_prefix(field)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        })
    };
    match (kib("RssAnon:"), kib("RssShmem:")) {
        (Some(anonymous), Some(shared)) => Ok((anonymous + shared) << 10),
        _ => Err(Problem::new("/proc/self/status", "no RssAnon there")),
    }
}

/// Context switches of all threads of this process so far.
fn switches() -> Result<u64, Problem> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else { continue };
        sum += status
            .lines()
            .filter(|line| line.contains("ctxt_switches:"))
            .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum)
}
