//! The tokens for TCP: whoever can read their files may use the service.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, header};

use super::Right;
use crate::random;

/// One token to look and act, and one to look: Prometheus needs no more.
#[derive(Debug)]
pub(super) struct Tokens {
    admin: String,
    read: String,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self { admin: random::token(), read: random::token() }
    }

    /// What the bearer of a request's token may do.
    pub(super) fn right(&self, headers: &HeaderMap) -> Right {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(shown) = shown.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Right::None;
        };
        if same(shown, &self.admin) {
            Right::Act
        } else if same(shown, &self.read) {
            Right::Read
        } else {
            Right::None
        }
    }

    /// Writes both, each to a file of its own.
    pub(super) fn write(&self, path: &Path) -> io::Result<TokenFiles> {
        let read = read_file(path);
        let mut files = TokenFiles { files: Vec::new(), owner: std::process::id() };
        for (path, token) in [(path.to_owned(), &self.admin), (read, &self.read)] {
            write_private(&path, token)?;
            files.files.push(path);
        }
        Ok(files)
    }
}

/// Where the token for looking is, beside the other one.
fn read_file(path: &Path) -> PathBuf {
    let mut read = path.as_os_str().to_owned();
    read.push(".read");
    read.into()
}

/// Takes as long wherever they differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

/// Replaces a file in one step, with mode 0600 from the first moment.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut staging = path.as_os_str().to_owned();
    staging.push(format!(".{}", &random::token()[..6]));
    let staging = PathBuf::from(staging);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staging)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| std::fs::rename(&staging, path));
    if written.is_err() {
        drop(std::fs::remove_file(&staging));
    }
    written
}

/// The files with the tokens; dropped, it removes them.
#[derive(Debug)]
pub(super) struct TokenFiles {
    files: Vec<PathBuf>,
    /// A process that this one forks removes nothing.
    owner: u32,
}

impl TokenFiles {
    pub(super) fn admin(&self) -> Option<&Path> {
        self.files.first().map(PathBuf::as_path)
    }
}

impl Drop for TokenFiles {
    fn drop(&mut self) {
        if self.owner != std::process::id() {
            return;
        }
        for path in &self.files {
            drop(std::fs::remove_file(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bearer(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn g_tokens_give_rights() {
        let tokens = Tokens::new();
        let right = |value: &str| tokens.right(&bearer(value));
        assert_eq!(right(&format!("Bearer {}", tokens.admin)), Right::Act);
        assert_eq!(right(&format!("Bearer {}", tokens.read)), Right::Read);
        for wrong in ["Bearer ", "Bearer x", &tokens.admin, &format!("Bearer {}x", tokens.admin)] {
            assert_eq!(right(wrong), Right::None, "{wrong}");
        }
        assert_eq!(tokens.right(&HeaderMap::new()), Right::None);
    }

    #[test]
    fn g_tokens_are_private_and_go_with_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let tokens = Tokens::new();
        let files = tokens.write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), tokens.admin);
        for file in [&path, &dir.path().join("token.read")] {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        drop(files);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
