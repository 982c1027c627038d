//! Bundles that wait in the midst of something until a test lets them go on.

use std::path::PathBuf;

use super::{Bundle, wait_for};

/// A gate, and what its bundles have noted down.
pub(crate) struct Gate {
    folder: tempfile::TempDir,
}

impl Gate {
    /// An open one.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// The file that is there while it is closed.
    pub(crate) fn closed(&self) -> PathBuf {
        self.folder.path().join("closed")
    }

    pub(crate) fn close(&self) {
        std::fs::write(self.closed(), "").unwrap();
    }

    pub(crate) fn open(&self) {
        std::fs::remove_file(self.closed()).unwrap();
    }

    /// A Lua bundle; `load` runs when it is loaded. Its function `pass`, and the code's,
    /// notes a word down and waits while the gate is closed.
    pub(crate) fn bundle(&self, name: &str, load: &str, manifest: &str) -> Bundle {
        let bundle = Bundle::of(&[("main.lua", &self.code(name, load))]);
        Self::write_manifest(&bundle, name, &format!("provides = ['{name}@1']\n{manifest}"));
        bundle
    }

    pub(crate) fn write_manifest(bundle: &Bundle, name: &str, more: &str) {
        let manifest = format!("name = '{name}'\nloader = 'lua'\nfile = 'main.lua'\n{more}\n");
        bundle.write("manifest.toml", &manifest);
    }

    fn code(&self, name: &str, load: &str) -> String {
        self.code_for(name, load, &[&format!("{name}@1")])
    }

    /// The code of one that provides these contracts, all with the same functions.
    pub(crate) fn code_for(&self, name: &str, load: &str, contracts: &[&str]) -> String {
        let contracts: String = contracts.iter().map(|c| format!("['{c}'] = all, ")).collect();
        format!(
            "local menagerie = require 'menagerie'\n\
             local function note(word)\n\
               local file = io.open('{notes}', 'a')\n\
               file:write(word, '\\n')\n\
               file:close()\n\
             end\n\
             local function is_closed()\n\
               local file = io.open('{gate}')\n\
               return file and file:close()\n\
             end\n\
             local function pass(word)\n\
               note(word)\n\
               while is_closed() do menagerie.sleep(2) end\n\
             end\n\
             {load}\n\
             local all = {{\n\
               inc = function(n) return n + 1 end,\n\
               pass = function() pass '{name} called' end,\n\
             }}\n\
             return {{ {contracts} on_unload = function() note '{name} unloaded' end }}\n",
            notes = self.notes().display(),
            gate = self.closed().display()
        )
    }

    /// The file with the notes, a word a line.
    pub(crate) fn notes(&self) -> PathBuf {
        self.folder.path().join("notes")
    }

    /// Waits until this was noted so often.
    pub(crate) async fn noted(&self, word: &str, times: usize) {
        wait_for(&format!("{times} notes of '{word}'"), || {
            let notes = std::fs::read_to_string(self.notes()).ok()?;
            let count = notes.lines().filter(|line| *line == word).count();
            assert!(count <= times, "{notes}");
            (count == times).then_some(())
        })
        .await;
    }
}
