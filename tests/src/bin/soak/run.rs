//! The rounds, and what was measured.

use std::path::Path;

use menagerie_supervisor::{Contract, Supervisor};
use menagerie_tests::Language;
use menagerie_tests::slope::Fit;

use crate::args::Args;

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Load, call, unload.
    Load,
    /// Reload, call.
    Reload,
}

impl What {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Load => "load, call, unload",
            Self::Reload => "reload, call",
        }
    }
}

/// Growth for each round that is not held against a worker: less than any
/// object that a round could leave behind would show as.
const TOLERANCE: f64 = 256.0;

/// Rounds, and the worker's resident memory in bytes after each of them.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) what: What,
    pub(crate) rounds: u32,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Series {
    /// The round at which the warm-up is over.
    pub(crate) fn warm_at(&self) -> f64 {
        self.after_warm_up().first().map_or(0.0, |point| point.0)
    }

    fn after_warm_up(&self) -> &[(f64, f64)] {
        &self.points[self.points.len() / 5..]
    }

    fn fit(&self) -> Option<Fit> {
        Fit::of(self.after_warm_up())
    }

    /// Whether memory does not grow; too few rounds to tell count as flat.
    pub(crate) fn is_flat(&self) -> bool {
        self.fit().is_none_or(|fit| !fit.grows_by_more_than(TOLERANCE))
    }

    /// A row of the table.
    pub(crate) fn row(&self, language: &str) -> String {
        let mib = |point: Option<&(f64, f64)>| {
            point.map_or_else(String::new, |(_, bytes)| {
                format!("{:.1} MiB", bytes / f64::from(1 << 20))
            })
        };
        let slope = self
            .fit()
            .map_or_else(|| "-".to_owned(), |f| format!("{:.0} ± {:.0}", f.slope, 2.0 * f.error));
        format!(
            "| {language} | {} | {} | {} | {} | {slope} | {} |\n",
            self.what.name(),
            self.rounds,
            mib(self.after_warm_up().first()),
            mib(self.points.last()),
            if self.is_flat() { "yes" } else { "**no**" },
        )
    }
}

type Failure = Box<dyn std::error::Error>;

/// Runs the rounds in a worker of their own, and tells `progress` of each.
pub(crate) async fn run(
    language: Language,
    what: What,
    args: &Args,
    mut progress: impl FnMut(u32),
) -> Result<Series, Failure> {
    let rounds = args.rounds;
    let mut builder = Supervisor::builder();
    // The workers lie beside this program.
    if let Some(beside) = std::env::current_exe()?.parent().map(Path::to_owned) {
        builder = builder.worker_dir(beside);
    }
    let supervisor = builder.start()?;
    let name = format!("greeter-{}", language.suffix);
    let dir = args.bundles.join(&name);
    let contract = format!("{name}/greeter@1");
    if what == What::Reload {
        supervisor.load(&dir).await?;
    }
    let every = (rounds / 400).max(1);
    let mut points = Vec::new();
    for round in 0..rounds {
        match what {
            What::Load => {
                supervisor.load(&dir).await?;
                call(&supervisor.contract(&contract)?).await?;
                supervisor.unload(&name).await?;
            }
            What::Reload => {
                supervisor.reload(&name).await?;
                call(&supervisor.contract(&contract)?).await?;
            }
        }
        if round % every == 0 {
            let workers = supervisor.status().workers;
            let worker = workers.iter().find(|worker| worker.loader == language.loader);
            let worker = worker.ok_or("the worker has gone")?;
            if worker.restarts > 0 {
                return Err(format!("{name}: the worker died: {:?}", worker.last_crash).into());
            }
            #[allow(clippy::cast_precision_loss, reason = "memory of this machine")]
            let rss = worker.rss_bytes.ok_or("the worker's memory cannot be read")? as f64;
            points.push((f64::from(round), rss));
        }
        progress(round);
    }
    supervisor.shutdown().await;
    Ok(Series { what, rounds, points })
}

async fn call(contract: &Contract) -> Result<(), Failure> {
    let text: String = contract.call("greet", ("Ada",)).await?;
    if text == "Hello, Ada" { Ok(()) } else { Err(format!("it said '{text}'").into()) }
}
