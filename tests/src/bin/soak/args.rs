//! What was asked for.

use std::path::PathBuf;

use menagerie_tests::{LANGUAGES, Language};

pub(crate) const HELP: &str = "\
Loads, calls and unloads a bundle, and reloads it, again and again, in a worker for
each; measures the worker's resident memory, and fails if it grows.

    soak [--rounds N] [--languages rust,c,py,lua,js,dotnet] [--bundles DIR] [--out DIR]

    --rounds N      so many rounds of each kind (10000)
    --languages L   only these, with commas between them (all)
    --bundles DIR   where greeter-rust and the others are (tests/bundles)
    --out DIR       where README.md and the plots go (docs/soak); what is there of
                    other languages stays

The workers are those beside this program. 0: flat; 1: it grows, or something failed.";

#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Soak(Args),
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) rounds: u32,
    pub(crate) out: PathBuf,
    pub(crate) bundles: PathBuf,
    pub(crate) languages: Vec<Language>,
}

impl Args {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
        let mut parsed = Self {
            rounds: 10_000,
            out: "docs/soak".into(),
            bundles: menagerie_tests::bundles(),
            languages: LANGUAGES.to_vec(),
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(Asked::Help),
                "--rounds" => {
                    let text = value()?;
                    parsed.rounds =
                        text.parse().map_err(|_| format!("--rounds: '{text}' is no number"))?;
                }
                "--out" => parsed.out = value()?.into(),
                "--bundles" => parsed.bundles = value()?.into(),
                "--languages" => {
                    parsed.languages =
                        value()?.split(',').map(language).collect::<Result<_, _>>()?;
                }
                other => return Err(format!("unknown argument '{other}'")),
            }
        }
        Ok(Asked::Soak(parsed))
    }
}

fn language(suffix: &str) -> Result<Language, String> {
    let found = LANGUAGES.into_iter().find(|language| language.suffix == suffix);
    found.ok_or_else(|| format!("--languages: '{suffix}' is none of rust, c, py, lua, js, dotnet"))
}
