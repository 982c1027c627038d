//! What each language's bundle is made of.

use std::path::{Path, PathBuf};

use crate::args::Language;
use crate::client::CommandError;

const MANIFEST: &str = include_str!("manifest.toml.in");
const README: &str = include_str!("README.md.in");
const TESTS: &str = include_str!("tests.json");
const HEADER: &str = include_str!("../../../../../worker-native/guest/include/menagerie.h");

/// A file to write.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) content: Vec<u8>,
    pub(super) executable: bool,
    /// What it is, for the README.
    purpose: &'static str,
}

/// A bundle's files, with its name in them.
#[derive(Debug)]
pub(super) struct Template {
    name: String,
    files: Vec<File>,
}

impl Template {
    pub(super) fn of(language: Language, name: &str) -> Result<Self, CommandError> {
        let mut template = Self { name: name.to_owned(), files: Vec::new() };
        let ident = template.ident();
        let (loader, file, title) = match language {
            Language::Python => ("python", "main.py".to_owned(), "Python"),
            Language::Lua => ("lua", "main.lua".to_owned(), "Lua"),
            Language::Js => ("js", "main.js".to_owned(), "JavaScript"),
            Language::Dotnet => ("dotnet", format!("{name}.dll"), "C#"),
            Language::Rust => ("native", format!("lib{ident}.so"), "Rust"),
            Language::C => ("native", format!("lib{ident}.so"), "C"),
        };
        let code = "the code";
        let build = "compiles the code";
        match language {
            Language::Python => template.text("main.py", include_str!("python/main.py"), code),
            Language::Lua => template.text("main.lua", include_str!("lua/main.lua"), code),
            Language::Js => template.text("main.js", include_str!("js/main.js"), code),
            Language::Dotnet => {
                template.text("Bundle.cs", include_str!("dotnet/Bundle.cs"), code);
                template.script(include_str!("dotnet/build.sh"), build);
                let project = include_str!("dotnet/bundle.csproj");
                template.text(&format!("{name}.csproj"), project, "the same for a dotnet SDK");
                let (path, guest) = guest_assembly()?;
                let content = std::fs::read(&guest).map_err(|error| {
                    CommandError::Failed(format!("{}: {error}", guest.display()))
                })?;
                template.add(path, content, false, "what the code is compiled against");
            }
            Language::Rust => {
                template.text("lib.rs", include_str!("rust/lib.rs"), code);
                let cargo = include_str!("rust/Cargo.toml.in");
                let guest = guest_crate()?.display().to_string();
                let cargo = cargo.replace("{{guest}}", &guest);
                template.text("Cargo.toml", &cargo, "what it is built from");
                template.script(include_str!("rust/build.sh"), build);
            }
            Language::C => {
                template.text("bundle.c", include_str!("c/bundle.c"), code);
                template.add(
                    "menagerie.h".into(),
                    HEADER.into(),
                    false,
                    "what it is written against",
                );
                template.script(include_str!("c/build.sh"), build);
            }
        }
        let manifest = MANIFEST.replace("{{loader}}", loader).replace("{{file}}", &file);
        template.text("tests.json", TESTS, "");
        template.text("manifest.toml", &manifest, "");
        template.readme(title);
        Ok(template)
    }

    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    pub(super) fn needs_build(&self) -> bool {
        self.files.iter().any(|file| file.path == Path::new("build.sh"))
    }

    /// The name where only letters, digits and underscores may stand.
    fn ident(&self) -> String {
        self.name.replace('-', "_")
    }

    fn add(&mut self, path: PathBuf, content: Vec<u8>, executable: bool, purpose: &'static str) {
        self.files.push(File { path, content, executable, purpose });
    }

    fn text(&mut self, path: &str, text: &str, purpose: &'static str) {
        let text = text.replace("{{name}}", &self.name).replace("{{ident}}", &self.ident());
        self.add(path.into(), text.into_bytes(), false, purpose);
    }

    fn script(&mut self, text: &str, purpose: &'static str) {
        self.text("build.sh", text, purpose);
        if let Some(file) = self.files.last_mut() {
            file.executable = true;
        }
    }

    fn readme(&mut self, language: &str) {
        let rows: String = self
            .files
            .iter()
            .filter(|file| !file.purpose.is_empty())
            .map(|file| format!("| `{}` | {} |\n", file.path.display(), file.purpose))
            .collect();
        let build = if self.needs_build() {
            "\nAfter a change, compile it:\n\n```sh\n./build.sh\n```\n"
        } else {
            ""
        };
        let text = README
            .replace("{{language}}", language)
            .replace("{{files}}", &rows)
            .replace("{{build}}", build);
        self.text("README.md", &text, "");
    }
}

/// Where this program is, and the folders above it.
fn above() -> Vec<PathBuf> {
    let program = std::env::current_exe().and_then(|program| program.canonicalize());
    program.map(|p| p.ancestors().skip(1).map(Path::to_owned).collect()).unwrap_or_default()
}

/// `Menagerie.Guest.dll`, where the set-up puts it: beside the bridge.
fn guest_assembly() -> Result<(PathBuf, PathBuf), CommandError> {
    const FILE: &str = "Menagerie.Guest.dll";
    let named = std::env::var_os("MENAGERIE_DOTNET_BRIDGE").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(above().into_iter().take(3).flat_map(|dir| [dir.clone(), dir.join("dotnet")]))
        .map(|dir| dir.join(FILE))
        .find(|path| path.is_file());
    let lacks = || {
        let text = format!(
            "{FILE} was not found beside this program; run scripts/setup-dotnet, or set \
             MENAGERIE_DOTNET_BRIDGE to its folder"
        );
        CommandError::Failed(text)
    };
    found.map(|path| (Path::new("sdk").join(FILE), path)).ok_or_else(lacks)
}

/// The crate `menagerie-guest`: it is in the source tree that this program was
/// built in.
fn guest_crate() -> Result<PathBuf, CommandError> {
    let named = std::env::var_os("MENAGERIE_GUEST_CRATE").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(above().into_iter().map(|dir| dir.join("worker-native/guest")))
        .find(|dir| dir.join("Cargo.toml").is_file());
    let lacks = || {
        let text = "the crate menagerie-guest was not found above this program; set \
                    MENAGERIE_GUEST_CRATE to the folder worker-native/guest of a source tree";
        CommandError::Failed(text.to_owned())
    };
    found.ok_or_else(lacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_a_template_has_no_gap_left() {
        for language in [Language::Python, Language::Lua, Language::Js, Language::C, Language::Rust]
        {
            let template = Template::of(language, "my-plugin").unwrap();
            for file in template.files() {
                let text = String::from_utf8_lossy(&file.content);
                assert!(!text.contains("{{"), "{}: {text}", file.path.display());
            }
            for needed in ["README.md", "manifest.toml", "tests.json"] {
                assert!(template.files().iter().any(|file| file.path == Path::new(needed)));
            }
        }
    }
}
