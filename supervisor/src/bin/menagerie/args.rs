//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use menagerie_supervisor::{Isolation, Sandbox, units};

use crate::bench;

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
    /// else /tmp/menagerie-<uid>/menagerie.sock] [env: MENAGERIE_SOCKET]
    // Not by `env`: what a file of settings says wins over it.
    #[arg(long, global = true, value_name = "PATH")]
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
    Run(Run),
    /// Show workers and bundles at a glance
    Status,
    /// Show the bundles
    Bundles,
    /// Show the workers
    Workers,
    /// Show the last crashes, and what ran at the time
    Crashes {
        #[command(flatten)]
        about: About,
    },
    /// Follow what happens, as it happens, also across restarts of the supervisor
    #[command(after_help = "Examples:\n  menagerie events --level warn\n  \
        menagerie events --since 10m --no-follow --json")]
    Events {
        #[command(flatten)]
        about: About,
        /// This level and what is graver
        #[arg(long, value_enum)]
        level: Option<Level>,
        /// Stop after what is remembered
        #[arg(long)]
        no_follow: bool,
    },
    /// Show what bundles, workers and the supervisor have logged
    #[command(after_help = "Examples:\n  menagerie logs -f --bundle greeter-py\n  \
        menagerie logs --since 10m --level warn")]
    Logs {
        #[command(flatten)]
        about: About,
        /// This level and what is graver
        #[arg(long, value_enum)]
        level: Option<Level>,
        /// Go on with what is logged from now on, also when the supervisor was
        /// started anew
        #[arg(long, short)]
        follow: bool,
        /// Only the last so many
        #[arg(long, short = 'n', value_name = "COUNT")]
        tail: Option<usize>,
    },
    /// Call a function of a contract
    #[command(after_help = "Each argument is JSON, so a string needs quotes of its own:\n  \
        menagerie call greeter@1 greet '\"Ada\"'\n  \
        menagerie call greeter-lua/greeter@1 greet_all '[\"Ada\", \"Grace\"]'\n\
        What JSON has no form for is an object with one key, in arguments and results:\n  \
        {\"$bytes\": \"<base64>\"}, {\"$float\": \"NaN\"} (or Infinity, -Infinity),\n  \
        {\"$map\": [[KEY, VALUE], ...]} for keys that are no strings.")]
    Call {
        /// CONTRACT or BUNDLE/CONTRACT, for example greeter@1
        contract: String,
        /// The function
        function: String,
        /// The arguments, each a JSON value
        #[arg(value_name = "JSON")]
        arguments: Vec<String>,
        /// How long it may take, for example 250ms or 2s
        #[arg(long, value_parser = units::duration, value_name = "TIME")]
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
    #[command(flatten)]
    Bench(BenchCommand),
    /// Make a bundle that runs as it is
    #[command(after_help = "Example: menagerie new python plugins/hello")]
    New {
        /// The language
        #[arg(value_enum)]
        language: Language,
        /// Its folder; the folder's name becomes the bundle's, in lower case and
        /// with '-' for what is no letter or digit (My_Plugin: my-plugin)
        dir: PathBuf,
        /// Write the files, and compile nothing
        #[arg(long)]
        no_build: bool,
    },
    /// Make a key that signs bundles, and print the key that verifies them
    #[command(after_help = "Keep the file to yourself; put the printed key into `trusted_keys` \
        under [signatures] of menagerie.toml.")]
    Keygen {
        /// Where to write it; a file that exists is not overwritten
        #[arg(long, value_name = "FILE", default_value = "menagerie.key")]
        out: PathBuf,
    },
    /// Sign every file of a bundle; the signature is its menagerie.sig
    #[command(after_help = "Example: menagerie sign plugins/hello --key menagerie.key")]
    Sign {
        /// Its folder
        dir: PathBuf,
        /// The key, as `menagerie keygen` has made it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check a bundle: manifest, files, signature, what it exports, and the
    /// calls in its tests.json
    Check(Check),
    /// Watch workers and bundles live
    Top {
        /// How often to look
        #[arg(long, value_parser = units::duration, value_name = "TIME", default_value = "1s")]
        every: Duration,
        /// Print one picture, or one status with --json, and end
        #[arg(long)]
        once: bool,
    },
    /// Print completions for a shell
    #[command(after_help = "Example: menagerie completions bash > \
        ~/.local/share/bash-completion/completions/menagerie")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages to a folder
    Man {
        /// The folder
        dir: PathBuf,
    },
    /// Show which workers, runtimes and kernel features this machine has, and
    /// how to get what lacks
    Doctor {
        /// The settings: see docs/menagerie.toml
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// A folder with the worker programs, looked in after this program's own
        #[arg(long, value_name = "DIR")]
        worker_dir: Option<PathBuf>,
    },
}

/// What `run` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The settings: see docs/menagerie.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A bundle or a folder of bundles to load; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) bundles: Vec<PathBuf>,
    /// Reload a bundle when its files have changed, and load new ones
    #[arg(long)]
    pub(crate) watch: bool,
    /// A folder with the worker programs, looked in after this program's own
    #[arg(long, value_name = "DIR")]
    pub(crate) worker_dir: Option<PathBuf>,
    /// Whether bundles share their loader's worker: shared, bundle, or auto
    /// (one that crashes it again and again gets its own)
    #[arg(long, value_name = "MODE")]
    pub(crate) isolation: Option<Isolation>,
    /// Whether bundles are held in a sandbox, each in a worker of its own: off, or
    /// strict (its own files, no network, no programs, no other processes)
    #[arg(long, value_name = "MODE")]
    pub(crate) sandbox: Option<Sandbox>,
    /// Started, empty workers that are kept for each loader, so that a
    /// crash costs only the loading of the bundles
    #[arg(long, value_name = "COUNT")]
    pub(crate) standby: Option<u32>,
    /// Spread the calls of a loader's bundles over so many workers, for
    /// example python=3; may be repeated
    #[arg(long, value_parser = replicas, value_name = "LANGUAGE=COUNT")]
    pub(crate) replicas: Vec<(String, u32)>,
    /// What to log: error, warn, info, debug, trace, or as in RUST_LOG
    /// [default: info]
    #[arg(long, value_name = "FILTER", env = "RUST_LOG")]
    pub(crate) log: Option<String>,
}

/// What `check` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Its folder
    pub(crate) dir: PathBuf,
    /// A bundle that it depends on, or a folder of bundles, in which it may be
    /// itself; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) with: Vec<PathBuf>,
    /// The settings: see docs/menagerie.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A folder with the worker programs, looked in after this program's own
    #[arg(long, value_name = "DIR")]
    pub(crate) worker_dir: Option<PathBuf>,
    /// Whether it is run in a sandbox: off, or strict
    #[arg(long, value_name = "MODE")]
    pub(crate) sandbox: Option<Sandbox>,
}

/// `bench`, and what it starts of this program.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure what calls cost on this machine, beside what the machine allows
    #[command(after_help = bench::help())]
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
}

/// The command line as clap is to see it. An argument of `call` may be a negative number,
/// which looks like an option and is none: no option of ours begins with a digit. With a
/// blank before it, it is the same JSON. (clap's own way knows no `-1e-5`.)
pub(crate) fn plain(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut is_call = false;
    args.map(move |arg| {
        is_call |= arg == "call";
        match arg.as_encoded_bytes() {
            [b'-', b'0'..=b'9', ..] if is_call => {
                let mut plain = OsString::from(" ");
                plain.push(arg);
                plain
            }
            _ => arg,
        }
    })
}

/// Reads `python=3`. Whether there is such a loader, and may be so many workers,
/// is for the settings to say.
fn replicas(text: &str) -> Result<(String, u32), String> {
    let (loader, count) = text.split_once('=').ok_or("expected LANGUAGE=COUNT, as in python=3")?;
    let count = count.parse().map_err(|error| format!("'{count}': {error}"))?;
    Ok((loader.to_owned(), count))
}

/// What something is about.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct About {
    /// Only of this worker
    #[arg(long, value_name = "NAME")]
    pub(crate) worker: Option<String>,
    /// Only of this bundle
    #[arg(long, value_name = "NAME")]
    pub(crate) bundle: Option<String>,
    /// Only since so long ago, for example 90s, 10m or 2h
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) since: Option<Duration>,
}

/// A language that bundles are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    Python,
    Lua,
    #[value(alias = "javascript")]
    Js,
    #[value(alias = "csharp")]
    Dotnet,
    Rust,
    C,
}

/// How grave something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn s9_replicas_are_written_with_their_language() {
        assert_eq!(replicas("python=3"), Ok(("python".to_owned(), 3)));
        for wrong in ["python", "3", "python=", "python=-1", "python=three", "python=4294967296"] {
            assert!(replicas(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn args_are_sound() {
        Args::command().debug_assert();
    }
}
