//! `menagerie new`: a bundle that runs as it is.

mod files;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::args::Language;
use crate::client::CommandError;
use crate::render;
use files::Template;

/// What was made.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    pub(crate) name: String,
    #[serde(serialize_with = "render::path")]
    pub(crate) dir: PathBuf,
    pub(crate) files: Vec<String>,
    /// Whether it can be loaded now: it needs no build, or was built.
    pub(crate) ready: bool,
}

pub(crate) fn new(language: Language, dir: &Path, build: bool) -> Result<Made, CommandError> {
    let failed = |path: &Path, error: std::io::Error| {
        CommandError::Failed(format!("{}: {error}", path.display()))
    };
    let dir = std::path::absolute(dir).map_err(|error| failed(dir, error))?;
    let name = name_of(&dir)?;
    let mut entries = match std::fs::read_dir(&dir) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&dir, error)),
    };
    if entries.as_mut().is_some_and(|entries| entries.next().is_some()) {
        let text = format!("{}: the folder is not empty; it is left alone", dir.display());
        return Err(CommandError::Failed(text));
    }
    // What lacks is said before anything is written.
    let template = Template::of(language, &name)?;
    let mut files = Vec::new();
    for file in template.files() {
        let path = dir.join(&file.path);
        files.push(path.display().to_string());
        if let Err(error) = write(&path, &file.content, file.executable) {
            // What is half made would be in the way of the next try.
            for made in &files {
                drop(std::fs::remove_file(made));
            }
            return Err(failed(&path, error));
        }
    }
    let mut ready = true;
    if template.needs_build() {
        ready = build;
        if build {
            run_build(&dir)?;
        }
    }
    Ok(Made { name, dir, files, ready })
}

/// Writes a file, in a folder that is made if there is none.
fn write(path: &Path, content: &[u8], executable: bool) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, content)?;
    if executable {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A bundle's name from its folder's.
fn name_of(dir: &Path) -> Result<String, CommandError> {
    let last = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    // As many as a manifest may have.
    let name: String = name.trim_matches('-').chars().take(128).collect();
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        Ok(name)
    } else {
        let text = format!(
            "{}: the folder's name becomes the bundle's: it should begin with a letter",
            dir.display()
        );
        Err(CommandError::Usage(text))
    }
}

#[allow(clippy::disallowed_methods, reason = "a compiler, and no worker")]
fn run_build(dir: &Path) -> Result<(), CommandError> {
    let script = dir.join("build.sh");
    let output = std::process::Command::new(&script)
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| CommandError::Failed(format!("{}: {error}", script.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let text = format!("{} failed; the files are there: {}", script.display(), said.trim());
    Err(CommandError::Failed(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_a_bundles_name_is_its_folders() {
        assert_eq!(name_of(Path::new("/a/My_Plugin")).unwrap(), "my-plugin");
        assert_eq!(name_of(Path::new("x2")).unwrap(), "x2");
        for bad in ["/", "/a/1st", "/a/---"] {
            assert!(name_of(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
