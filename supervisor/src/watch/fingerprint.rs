//! Whether the files of a bundle are still what they were.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders in folders, at most: links may lead round.
const MAX_DEPTH: usize = 16;
/// Files that are looked at, at most.
const MAX_FILES: usize = 10_000;

/// What is there of each file, in place of its content: its number, size, and
/// times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(BTreeMap<PathBuf, (u64, u64, i64, i64)>);

impl Fingerprint {
    pub(super) fn of(dir: &Path) -> Self {
        let mut found = Self::default();
        found.add(dir, 0);
        found
    }

    /// A file that is not in the other as it is here, or only there.
    pub(super) fn difference<'f>(&'f self, other: &'f Self) -> Option<&'f Path> {
        let lacks = |here: &'f Self, there: &Self| {
            here.0
                .iter()
                .find(|(path, file)| there.0.get(*path) != Some(file))
                .map(|(path, _)| path)
        };
        lacks(other, self).or_else(|| lacks(self, other)).map(PathBuf::as_path)
    }

    fn add(&mut self, dir: &Path, depth: usize) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            if self.0.len() >= MAX_FILES || is_noise(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            // Of what links lead to: that is what is loaded.
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    self.add(&path, depth + 1);
                }
                continue;
            }
            let time = (metadata.mtime(), metadata.mtime_nsec());
            self.0.insert(path, (metadata.ino(), metadata.len(), time.0, time.1));
        }
    }
}

/// What editors, compilers and interpreters leave beside the files that count.
fn is_noise(name: &str) -> bool {
    name.starts_with('.')
        || name == "__pycache__"
        || name.ends_with('~')
        || [".pyc", ".swp", ".tmp", ".new", ".o"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_changes_with_files_and_not_with_noise() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("main.lua");
        std::fs::write(&file, "one").unwrap();
        let before = Fingerprint::of(dir.path());
        for noise in [".main.lua.swp", "main.lua~", "main.lua.tmp"] {
            std::fs::write(dir.path().join(noise), "x").unwrap();
        }
        std::fs::create_dir(dir.path().join("__pycache__")).unwrap();
        std::fs::write(dir.path().join("__pycache__/a.py"), "x").unwrap();
        assert_eq!(Fingerprint::of(dir.path()), before);
        std::fs::write(&file, "other").unwrap();
        let changed = Fingerprint::of(dir.path());
        assert_ne!(changed, before);
        assert_eq!(before.difference(&changed), Some(&*file));
        assert_eq!(changed.difference(&changed), None);
        assert_eq!(Fingerprint::default().difference(&changed), Some(&*file));
        assert_eq!(changed.difference(&Fingerprint::default()), Some(&*file));
        // The same content by another file.
        std::fs::write(dir.path().join("next.new"), "other").unwrap();
        std::fs::rename(dir.path().join("next.new"), &file).unwrap();
        assert_ne!(Fingerprint::of(dir.path()), changed);
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/util.lua"), "").unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("sub/round")).unwrap();
        assert_ne!(Fingerprint::of(dir.path()), before);
    }
}
