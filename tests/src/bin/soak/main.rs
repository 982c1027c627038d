//! `make soak ROUNDS=…`: bundles of every language are loaded, called and
//! unloaded, and reloaded, again and again; their workers' memory must not grow
//! (rule L9). Writes a plot of each and a table.

mod plot;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use menagerie_tests::{LANGUAGES, Language};

/// What was asked for.
struct Args {
    rounds: u32,
    out: PathBuf,
    languages: Vec<Language>,
}

impl Args {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self { rounds: 10_000, out: "docs/soak".into(), languages: Vec::new() };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--rounds" => {
                    let text = value()?;
                    parsed.rounds =
                        text.parse().map_err(|_| format!("--rounds: '{text}' is no number"))?;
                }
                "--out" => parsed.out = value()?.into(),
                "--language" => {
                    let suffix = value()?;
                    let found = LANGUAGES.into_iter().find(|l| l.suffix == suffix);
                    parsed.languages.push(found.ok_or_else(|| {
                        format!("--language: '{suffix}' is none of rust, c, py, lua, js, dotnet")
                    })?);
                }
                other => return Err(format!("unknown argument '{other}'")),
            }
        }
        if parsed.languages.is_empty() {
            parsed.languages = LANGUAGES.to_vec();
        }
        Ok(parsed)
    }
}

#[allow(clippy::print_stdout, reason = "a program that tells how far it is")]
fn say(text: &str) {
    println!("{text}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(problem) => {
            say(&format!("soak: {problem}"));
            return ExitCode::from(2);
        }
    };
    match soak(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("soak: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn soak(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(&args.out)?;
    let mut table = String::from(
        "# The soak\n\n`make soak` writes this page. Each row: so many rounds, the worker's \
         resident memory\nafter the warm-up (the first fifth) and at the end, and by how much it \
         grows with each\nround, with twice the standard error. It must not grow by more than 256 \
         bytes beyond\nthat.\n\n\
         | language | what | rounds | after warm-up | at the end | bytes a round | flat |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut all_flat = true;
    for language in &args.languages {
        let mut series = Vec::new();
        for what in [run::What::Load, run::What::Reload] {
            let found = run::run(*language, what, args.rounds).await?;
            let row = found.row(language.name, args.rounds);
            say(row.trim_end());
            table.push_str(&row);
            all_flat &= found.is_flat();
            series.push(found);
        }
        let file = args.out.join(format!("{}.svg", language.suffix));
        std::fs::write(file, plot::svg(language.name, &series))?;
    }
    table.push('\n');
    for language in &args.languages {
        table.push_str(&format!("![{}]({}.svg)\n", language.name, language.suffix));
    }
    std::fs::write(args.out.join("README.md"), table)?;
    Ok(all_flat)
}
