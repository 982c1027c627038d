//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use menagerie_supervisor::Isolation;

/// Runs plugins in worker processes, and shows what they do.
///
/// Exit status: 0 done, 1 the operation failed, 2 usage, 3 no supervisor at the
/// socket.
#[derive(Debug, Parser)]
#[command(name = "menagerie", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// The supervisor's status socket [default: $XDG_RUNTIME_DIR/menagerie.sock,
    /// else /tmp/menagerie-<uid>/menagerie.sock]
    #[arg(long, global = true, env = "MENAGERIE_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print more, for example the stack of a plugin's error
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a supervisor until SIGINT or SIGTERM
    #[command(after_help = "Example: menagerie run --bundles tests/bundles")]
    Run {
        /// A bundle or a folder of bundles to load; may be repeated
        #[arg(long, value_name = "DIR")]
        bundles: Vec<PathBuf>,
        /// Reload a bundle when its files have changed, and load new ones
        #[arg(long, requires = "bundles")]
        watch: bool,
        /// A folder with the worker programs, looked in after this program's own
        #[arg(long, value_name = "DIR")]
        worker_dir: Option<PathBuf>,
        /// Whether bundles share their loader's worker: shared, bundle, or auto
        /// (one that crashes it again and again gets its own)
        #[arg(long, default_value_t, value_name = "MODE")]
        isolation: Isolation,
        /// Started, empty workers that are kept for each loader, so that a
        /// crash costs only the loading of the bundles
        #[arg(long, default_value_t, value_name = "COUNT")]
        standby: u32,
        /// What to log: error, warn, info, debug, trace, or as in RUST_LOG
        #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
        log: String,
    },
    /// Show workers and bundles at a glance
    Status,
    /// Show the bundles
    Bundles,
    /// Show the workers
    Workers,
    /// Show the last crashes, and what ran at the time
    Crashes,
    /// Follow what happens, as it happens
    Events,
    /// Call a function of a contract
    #[command(after_help = "Each argument is JSON, so a string needs quotes of its own:\n  \
        menagerie call greeter@1 greet '\"Ada\"'\n  \
        menagerie call greeter-lua/greeter@1 greet_all '[\"Ada\", \"Grace\"]'\n\
        Bytes are {\"$bytes\": \"<base64>\"}.")]
    Call {
        /// CONTRACT or BUNDLE/CONTRACT, for example greeter@1
        contract: String,
        /// The function
        function: String,
        /// The arguments, each a JSON value
        #[arg(value_name = "JSON")]
        arguments: Vec<String>,
        /// How long it may take, for example 250ms or 2s
        #[arg(long, value_parser = duration, value_name = "TIME")]
        timeout: Option<Duration>,
    },
    /// Load a bundle
    Load {
        /// Its folder
        dir: PathBuf,
    },
    /// Load a bundle's code anew while it serves
    Reload {
        /// The bundle
        name: String,
    },
    /// Unload a bundle
    Unload {
        /// The bundle
        name: String,
        /// Unload the bundles that depend on it first
        #[arg(long)]
        cascade: bool,
    },
    /// Stop a worker in an orderly way and start it again
    Restart {
        /// native, python, lua, js or dotnet; or a worker's name
        loader: String,
        /// Without a pause: start another process first, and change over
        #[arg(long)]
        rolling: bool,
    },
    /// Measure what calls cost on this machine, beside what the machine allows
    #[command(after_help = "Figures mean something only in a build with optimisation, on a \
        machine that does nothing else.\nGroups: null, await, vm, tasks, idle-10ms, bytes, \
        noticed, start, idle.")]
    Bench {
        /// Fewer turns: less exact, in a minute
        #[arg(long)]
        quick: bool,
        /// Only this group; may be repeated
        #[arg(long, value_name = "GROUP")]
        only: Vec<String>,
        /// Write bench.json and bench.svg into this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The folder of the sample bundles
        #[arg(long, value_name = "DIR", default_value = "tests/bundles")]
        bundles: PathBuf,
        /// A folder with the worker programs, looked in after this program's own
        #[arg(long, value_name = "DIR")]
        worker_dir: Option<PathBuf>,
    },
    /// The other process of a floor; started by `bench`
    #[command(hide = true)]
    BenchPeer {
        /// The shared memory
        memory: String,
    },
    /// A host that does nothing; started by `bench`
    #[command(hide = true)]
    BenchIdle {
        /// The bundles that it loads
        dirs: Vec<PathBuf>,
        /// A folder with the worker programs
        #[arg(long)]
        worker_dir: Option<PathBuf>,
    },
    /// Show which workers, runtimes and kernel features this machine has, and
    /// how to get what lacks
    Doctor {
        /// A folder with the worker programs, looked in after this program's own
        #[arg(long, value_name = "DIR")]
        worker_dir: Option<PathBuf>,
    },
}

/// `250ms`, `2s`, `1m`, `1.5s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time: expected for example 250ms, 2s or 1m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let seconds = match &text[digits..] {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn args_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn args_durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "s", "-1s", "2 s", "1e99h", "2d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
