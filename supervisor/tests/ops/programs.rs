//! Programs that a machine may have or not. A test that needs one says loudly
//! that it did not run; `.config/nextest.toml` has what these tests say shown.

use std::path::{Path, PathBuf};

/// A program by the environment variable that names it, in `.deps`, or on PATH.
fn find(variable: &str, names: &[&str], private: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "{variable} names {}, and there is none", named.display());
        return Some(named);
    }
    let private = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps").join(private);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::iter::once(private).chain(std::env::split_paths(&path)).collect();
    names.iter().find_map(|name| {
        folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file())
    })
}

fn or_say(found: Option<PathBuf>, what: &str, how: &str) -> Option<PathBuf> {
    if found.is_none() {
        eprintln!("not run: {what}. {how} (tests/README.md)");
    }
    found
}

/// Chromium, or none.
pub(crate) fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    or_say(
        find("MENAGERIE_CHROMIUM", &names, "chromium"),
        "the page in a browser: there is no chromium on PATH",
        "Bring it with `apt-get install chromium`, or name one with MENAGERIE_CHROMIUM",
    )
}

const PROMETHEUS: &str =
    "Bring it with `scripts/setup-prometheus`, or `apt-get install prometheus`";

/// Prometheus, or none.
pub(crate) fn prometheus() -> Option<PathBuf> {
    or_say(
        find("MENAGERIE_PROMETHEUS", &["prometheus"], "prometheus/usr/bin"),
        "metrics in a real Prometheus: there is no prometheus on PATH",
        PROMETHEUS,
    )
}

/// Prometheus's checker, or none.
pub(crate) fn promtool() -> Option<PathBuf> {
    or_say(
        find("MENAGERIE_PROMTOOL", &["promtool"], "prometheus/usr/bin"),
        "metrics in Prometheus's own checker: there is no promtool on PATH",
        PROMETHEUS,
    )
}
