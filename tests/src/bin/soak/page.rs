//! The page with a row for each series.

use std::path::Path;

use menagerie_tests::{LANGUAGES, Language};

use crate::run::Series;

const HEAD: &str = "\
# The soak

`make soak` writes this page. Each row: so many rounds, the worker's resident memory
after the warm-up (the first fifth) and at the end, and by how much it grows with each
round, with twice the standard error. It must not grow by more than 256 bytes beyond
that. {measured}

| language | what | rounds | after warm-up | at the end | bytes a round | flat |
| --- | --- | --- | --- | --- | --- | --- |
";

const FOOT: &str = "
## What stays, and whose it is

JavaScript keeps three of the smallest blocks that `malloc` gives, 96 bytes, of each
generation. They are v8x's, which is deno_core's QuickJS (149.4.0-rc.4), and left on
purpose: one for each module, as its address is its identity (`intern_module` in
`src/quickjs/module.rs`; a bundle has its own modules and `menagerie`), and one for
the isolate, which handles may ask after its end (`IsolateAnnex::new` in
`vendor/rusty_v8/src/isolate.rs`). Nothing that is safe frees them.

.NET's rows differ between runs: 17 ± 5, 173 ± 37 and, in 12,000 rounds with their
mappings looked at, 18 ± 1 bytes for each reload. There the memory grew in steps, and
not with each round: a few regions of the garbage collector's, 50 to 70 KiB each, and
one arena of `malloc`'s, 72 KiB; what the runtime keeps of code and types did not grow.
Whose the 173 were was not seen again. `tests/kept.rs` of worker-js counts what stays on the heap in a few rounds.
";

/// Writes the page anew, with a language's rows; those of other languages stay
/// as an earlier run left them.
pub(crate) fn write(folder: &Path, language: &Language, series: &[Series]) -> std::io::Result<()> {
    let file = folder.join("README.md");
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let mut page = HEAD.replace("{measured}", &measured());
    let mut plots = String::new();
    for Language { name, suffix, .. } in LANGUAGES {
        if suffix == language.suffix {
            page.extend(series.iter().map(|series| series.row(name)));
        } else {
            let start = format!("| {name} |");
            let rows = before.lines().filter(|line| line.starts_with(&start));
            page.extend(rows.map(|row| format!("{row}\n")));
        }
        if folder.join(format!("{suffix}.svg")).exists() {
            plots.push_str(&format!("![{name}]({suffix}.svg)\n"));
        }
    }
    std::fs::write(file, format!("{page}\n{plots}{FOOT}"))
}

/// On what kind of machine, and which kind of build.
fn measured() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let gib = kib.unwrap_or(0) >> 20;
    let build = if cfg!(debug_assertions) { "without" } else { "with" };
    format!(
        "Measured\non Linux with {cpus} CPUs and {gib} GiB of memory, in a build {build} optimisation."
    )
}
