//! `menagerie.toml`: the settings as an operator writes them. What is unknown
//! or contradicts itself is an error that says where.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error as TomlError};

use super::Config;
use crate::http::StatusConfig;
use crate::sandbox::Grant;

/// A supervisor's settings from a file: [`Config`], and what `menagerie run`
/// has beside it.
///
/// ```
/// use std::path::Path;
/// use menagerie_supervisor::ConfigFile;
///
/// let file = ConfigFile::parse("deadline = \"5s\"", Path::new("menagerie.toml"))?;
/// assert_eq!(file.config.deadline.as_secs(), 5);
///
/// let error = ConfigFile::parse("dedline = \"5s\"", Path::new("menagerie.toml")).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "menagerie.toml:1:1: there is no setting `dedline`; did you mean `deadline`?"
/// );
/// # Ok::<(), menagerie_supervisor::FileError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ConfigFile {
    /// The supervisor's settings.
    pub config: Config,
    /// Bundles and folders of bundles to load.
    pub bundles: Vec<PathBuf>,
    /// What to log, as in `RUST_LOG`; `None` if the file does not say.
    pub log: Option<String>,
    /// The status service.
    pub status: StatusConfig,
}

/// What is wrong with a file of settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or a setting is unknown, of the wrong type, or cannot be
    /// what it is.
    #[error("{}:{line}:{column}: {message}", .file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in characters.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

/// The settings that are `menagerie run`'s and not the builder's.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Program {
    pub(super) bundles: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<String>,
    pub(super) status: StatusConfig,
}

/// `[python] venv` in the file, `python_venv` in [`Config`].
const PYTHON: (&str, &str, &str) = ("python", "venv", "python_venv");

impl ConfigFile {
    /// Reads a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn read(file: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| FileError::Read { file: file.to_owned(), source })?;
        let mut read = Self::parse(&text, file)?;
        let absolute = std::path::absolute(file)
            .map_err(|source| FileError::Read { file: file.to_owned(), source })?;
        if let Some(folder) = absolute.parent() {
            read.resolve(folder);
        }
        Ok(read)
    }

    /// Reads the text of a file; `file` is its name, for errors. Paths stay as
    /// they are.
    ///
    /// # Errors
    ///
    /// [`FileError::Invalid`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, FileError> {
        let at = |span: Range<usize>, message: String| {
            let (line, column) = position(text, span.start);
            FileError::Invalid { file: file.to_owned(), line, column, message }
        };
        let wrong = |error: TomlError| at(error.span().unwrap_or(0..0), describe(&error));
        let document = DeTable::parse(text).map_err(wrong)?;
        for (key, value) in document.get_ref().iter() {
            check_key(key, value).map_err(|(span, message)| at(span, message))?;
        }
        let (own, program) = split(document.clone());
        let config = Config::deserialize(Deserializer::from(own)).map_err(wrong)?;
        let program = Program::deserialize(Deserializer::from(program)).map_err(wrong)?;
        let Program { bundles, log, status } = program;
        let checked = config
            .check()
            .map_err(|error| (error, None))
            .and_then(|()| status.check().map_err(|error| (error, Some("status"))))
            .map_err(|(error, table)| (error.to_string(), table))
            .and_then(|()| {
                let log = log.as_deref().unwrap_or_default();
                super::log::check_log(log).map_err(|error| (format!("log: {error}"), None))
            });
        if let Err((message, table)) = checked {
            let span = find(document.get_ref(), &message, table).unwrap_or(0..0);
            return Err(at(span, message));
        }
        Ok(Self { config, bundles, log, status })
    }

    /// The names of the settings in which another file differs, `bundles` and
    /// `log` left out: these are what `menagerie run` can change while it runs.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        difference::of(self, other)
    }

    /// Makes relative paths absolute.
    fn resolve(&mut self, folder: &Path) {
        for path in self.paths() {
            *path = folder.join(&*path);
        }
    }

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let config = &mut self.config;
        self.bundles
            .iter_mut()
            .chain(config.worker_dir.as_mut())
            .chain(config.worker_programs.values_mut())
            .chain(config.python_venv.as_mut())
            .chain(config.signatures.trust_store.as_mut())
            .chain(config.grants.values_mut().flat_map(Grant::paths_mut))
            .chain(self.status.socket.as_mut())
            .chain(self.status.token_file.as_mut())
    }
}

/// Tells what belongs to [`Config`] from what belongs to [`Program`].
fn split(document: Spanned<DeTable<'_>>) -> (Spanned<DeTable<'_>>, Spanned<DeTable<'_>>) {
    let span = document.span();
    let (mut own, mut program) = (DeTable::new(), DeTable::new());
    for (key, value) in document.into_inner() {
        let (table, name, field) = PYTHON;
        if program_fields().contains(&key.get_ref().as_ref()) {
            program.insert(key, value);
        } else if key.get_ref() == table
            && let DeValue::Table(mut inner) = value.clone().into_inner()
        {
            if let Some(value) = inner.remove(name) {
                own.insert(Spanned::new(key.span(), field.into()), value);
            }
        } else {
            own.insert(key, value);
        }
    }
    (Spanned::new(span.clone(), own), Spanned::new(span, program))
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

/// Whether there is a setting of this name.
fn check_key(key: &Key<'_>, value: &Spanned<DeValue<'_>>) -> Result<(), (Range<usize>, String)> {
    let name = key.get_ref().as_ref();
    let (table, only, hidden) = PYTHON;
    if name == table {
        let DeValue::Table(inner) = value.get_ref() else {
            return Err((value.span(), format!("`{table}` is a table: [{table}]")));
        };
        let unknown = inner.keys().find(|key| key.get_ref() != only);
        return unknown.map_or(Ok(()), |key| Err((key.span(), no_such(key.get_ref(), &[only]))));
    }
    let known: Vec<&str> = config_fields()
        .iter()
        .chain(program_fields())
        .copied()
        .filter(|field| *field != hidden)
        .chain([table])
        .collect();
    if known.contains(&name) { Ok(()) } else { Err((key.span(), no_such(name, &known))) }
}

fn no_such(name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|field| (strsim::jaro_winkler(name, field), *field))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = near.map(|(_, field)| format!("; did you mean `{field}`?")).unwrap_or_default();
    format!("there is no setting `{name}`{hint}")
}

/// The first setting of the document that a message names, for its place:
/// contradictions are between settings, and some of them may be defaults.
fn find(document: &DeTable<'_>, message: &str, table: Option<&str>) -> Option<Range<usize>> {
    let words = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let inside = |table: &str, word: &str| match document.get(table)?.get_ref() {
        DeValue::Table(inner) => Some(inner.get_key_value(word)?.0.span()),
        _ => None,
    };
    let tables = [
        "restart",
        "signatures",
        "replicas",
        "worker_programs",
        "worker_env",
        "grants",
        "bundle_isolation",
    ];
    let setting = words.clone().find_map(|word| match table {
        Some(table) => inside(table, word),
        None => document
            .get_key_value(word)
            .filter(|(_, value)| !matches!(value.get_ref(), DeValue::Table(_)))
            .map(|(key, _)| key.span())
            .or_else(|| tables.iter().find_map(|table| inside(table, word))),
    });
    // A key may be no word; its table is.
    setting
        .or_else(|| words.into_iter().find_map(|word| Some(document.get_key_value(word)?.0.span())))
}

fn describe(error: &TomlError) -> String {
    error.message().replace('\n', ", ")
}

/// Line and column of a byte.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

pub(super) fn config_fields() -> &'static [&'static str] {
    fields::of::<Config>()
}

fn program_fields() -> &'static [&'static str] {
    fields::of::<Program>()
}

/// The names of a struct's fields, as serde reads them: no list to forget.
pub(super) mod fields {
    use serde::Deserialize;
    use serde::de::value::Error;
    use serde::de::{Deserializer, Error as _, Visitor};

    struct Ask<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("only structs have fields"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            *self.0 = fields;
            Err(Error::custom("the names are all that is wanted"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    pub(crate) fn of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
        let mut fields: &'static [&'static str] = &[];
        drop(T::deserialize(Ask(&mut fields)));
        fields
    }
}

mod difference;

#[cfg(test)]
mod tests;
