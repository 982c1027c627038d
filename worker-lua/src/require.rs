//! `require` of a bundle's own files.

use std::path::{Path, PathBuf};

use menagerie_protocol::loader::read_file;
use mlua::chunk::ChunkMode;
use mlua::{Function, Lua};

/// A bundle's Lua code, as a file or from memory.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    /// The name in messages: `main.lua`, relative to the bundle's folder.
    pub(crate) name: String,
    pub(crate) text: Vec<u8>,
}

impl Code {
    /// Compiles the text; binary chunks are refused, because nothing checks
    /// their instructions.
    pub(crate) fn compile(&self, lua: &Lua) -> mlua::Result<Function> {
        let mut text = self.text.as_slice();
        text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        if text.starts_with(b"#") {
            // A line for the shell; its end stays, so that lines count right.
            text = &text[text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len())..];
        }
        lua.load(text).set_name(format!("@{}", self.name)).set_mode(ChunkMode::Text).into_function()
    }
}

/// Where `require` looks.
#[derive(Clone, Debug)]
pub(crate) enum Siblings {
    /// In this folder, which is canonical.
    Folder(PathBuf),
    /// Nowhere: the bundle of this name came from memory.
    Nowhere(String),
}

impl Siblings {
    /// Finds `name`: the code, or where it was looked for, in the form that
    /// `require` puts into its own message.
    ///
    /// # Errors
    ///
    /// A file that leads out of the folder, or cannot be read.
    pub(crate) fn find(&self, name: &str) -> Result<Result<Code, String>, String> {
        let folder = match self {
            Self::Folder(folder) => folder,
            Self::Nowhere(bundle) => {
                return Ok(Err(format!(
                    "\n\tbundle '{bundle}' was loaded from memory: it has no directory in which '{name}' could be"
                )));
            }
        };
        let parts: Vec<&str> = name.split(['.', '/']).collect();
        if name.contains('\0') || parts.iter().any(|part| part.is_empty()) {
            return Ok(Err(format!("\n\t'{name}' names no file of the bundle")));
        }
        let stem = parts.join("/");
        let mut missing = String::new();
        for candidate in [format!("{stem}.lua"), format!("{stem}/init.lua")] {
            match read(folder, &candidate)? {
                Some(code) => return Ok(Ok(code)),
                None => missing.push_str(&format!("\n\tno file '{candidate}' in the bundle")),
            }
        }
        Ok(Err(missing))
    }
}

fn read(folder: &Path, name: &str) -> Result<Option<Code>, String> {
    // After symlinks: what counts is where the file really is.
    let Ok(path) = folder.join(name).canonicalize() else { return Ok(None) };
    if !path.starts_with(folder) {
        return Err(format!("'{name}' leads out of the bundle's directory"));
    }
    if !path.is_file() {
        return Ok(None);
    }
    let text = read_file(&path).map_err(|e| format!("cannot read '{name}': {e}"))?;
    Ok(Some(Code { name: name.to_owned(), text }))
}
