//! The bundles that are called: the sample bundles' code where that is, else
//! code written for the occasion, for the languages that need no compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Problem;

/// A language's bundle.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// As the rows name it.
    pub(super) label: &'static str,
    pub(super) loader: &'static str,
    pub(super) name: &'static str,
    pub(super) dir: PathBuf,
}

/// Label, loader, name, artifact.
const ALL: [(&str, &str, &str, &str); 6] = [
    ("native (Rust)", "native", "probe-rust", "libprobe_rust.so"),
    ("native (C)", "native", "probe-c", "libprobe_c.so"),
    ("Python", "python", "probe-py", "main.py"),
    ("Lua", "lua", "probe-lua", "main.lua"),
    ("JavaScript", "js", "probe-js", "main.js"),
    (".NET", "dotnet", "probe-dotnet", "probe.dll"),
];

const SCRIPTS: [(&str, &str); 3] = [
    (
        "probe-py",
        "import menagerie\n@menagerie.export(\"probe@1\")\ndef null():\n    pass\n\
         @menagerie.export(\"probe@1\")\ndef echo(value):\n    return value\n",
    ),
    (
        "probe-lua",
        "return { [\"probe@1\"] = { null = function() end, echo = function(v) return v end } }\n",
    ),
    ("probe-js", "export default { \"probe@1\": { null() {}, echo(v) { return v; } } };\n"),
];

/// A file that was changed so short a time ago may change again unseen (S4): the copy of a
/// library that is as new is compared with it at each start.
const SETTLING: Duration = Duration::from_millis(150);

/// The bundles there are, put together in `scratch`, and why others are left
/// out. `dir` is the folder of the sample bundles.
pub(super) fn find(dir: &Path, scratch: &Path) -> Result<(Vec<Subject>, Vec<String>), Problem> {
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for (label, loader, name, file) in ALL {
        let sample = dir.join(name).join(file);
        let dir = scratch.join(name);
        fs::create_dir_all(&dir)?;
        if sample.exists() {
            fs::copy(&sample, dir.join(file))?;
        } else if let Some((_, code)) = SCRIPTS.iter().find(|(script, _)| *script == name) {
            fs::write(dir.join(file), code)?;
        } else {
            left_out.push(format!(
                "{label}: there is no {name}/{file} in the folder of the sample bundles; build it, \
                 or name the folder with --bundles"
            ));
            continue;
        }
        // A manifest of its own: the samples depend on each other.
        let manifest = format!(
            "name = \"{name}\"\nversion = \"1.0.0\"\nloader = \"{loader}\"\n\
             file = \"{file}\"\nprovides = [\"probe@1\"]\n"
        );
        fs::write(dir.join("manifest.toml"), manifest)?;
        found.push(Subject { label, loader, name, dir });
    }
    std::thread::sleep(SETTLING);
    Ok((found, left_out))
}
