//! Contract names: `greeter@1`, `greeter@1.2.0`, `greeter`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is no contract name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{text}' is no contract: expected NAME, NAME@MAJOR or NAME@MAJOR.MINOR[.PATCH], e.g. greeter@1"
)]
pub struct ContractSyntaxError {
    /// The text as it was given.
    pub text: String,
}

/// A contract that a bundle provides: a name and a version whose major part
/// callers rely on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContractId {
    /// The name, for example `image.decode`.
    pub name: String,
    /// The major version; `name` alone means 1.
    pub major: u32,
    /// The minor version; 0 where none is written.
    pub minor: u32,
    /// The patch version; 0 where none is written.
    pub patch: u32,
}

impl ContractId {
    /// Whether this and `other` are the same contract: name and major (R1).
    #[must_use]
    pub fn same_major(&self, other: &Self) -> bool {
        self.name == other.name && self.major == other.major
    }
}

impl FromStr for ContractId {
    type Err = ContractSyntaxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let request: ContractRequest = text.parse()?;
        Ok(Self {
            name: request.name,
            major: request.major.unwrap_or(1),
            minor: request.minor.unwrap_or(0),
            patch: request.patch.unwrap_or(0),
        })
    }
}

impl fmt::Display for ContractId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.major)?;
        if (self.minor, self.patch) != (0, 0) {
            write!(f, ".{}.{}", self.minor, self.patch)?;
        }
        Ok(())
    }
}

/// A contract as a caller asks for it: parts that are not written are open.
///
/// ```
/// use menagerie_protocol::{Compatibility, ContractId, ContractRequest};
///
/// let provided: ContractId = "greeter@1.2.0".parse()?;
/// let asked: ContractRequest = "greeter@1.1".parse()?;
/// assert!(Compatibility::Strict.serves(&provided, &asked));
/// let asked: ContractRequest = "greeter@1.3".parse()?;
/// assert!(!Compatibility::Strict.serves(&provided, &asked));
/// assert!(Compatibility::Relaxed.serves(&provided, &asked));
/// # Ok::<(), menagerie_protocol::contract::ContractSyntaxError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContractRequest {
    /// The name.
    pub name: String,
    /// The major version, if the caller cares.
    pub major: Option<u32>,
    /// The least minor version, if the caller cares.
    pub minor: Option<u32>,
    /// The least patch version, if the caller cares.
    pub patch: Option<u32>,
}

impl ContractRequest {
    /// The same request; what it leaves open is as `other` has it, as long as
    /// both agree so far.
    #[must_use]
    pub fn narrowed_by(mut self, other: &Self) -> Self {
        if self.major.is_none() || self.major == other.major {
            self.major = other.major;
            if self.minor.is_none() {
                (self.minor, self.patch) = (other.minor, other.patch);
            }
        }
        self
    }
}

/// How closely the version of a contract or a bundle must match the one that
/// was asked for (R1). A part that was not asked for matches every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compatibility {
    /// The same major version, and at least the minor.
    #[default]
    Strict,
    /// The same major version.
    Relaxed,
    /// Any version.
    Yolo,
}

impl Compatibility {
    /// Whether `provided` serves a request.
    #[must_use]
    pub fn serves(self, provided: &ContractId, request: &ContractRequest) -> bool {
        provided.name == request.name
            && self.accepts((provided.major, provided.minor), (request.major, request.minor))
    }

    /// Whether a version, major and minor, will do for one that was asked for.
    #[must_use]
    pub fn accepts(self, found: (u32, u32), asked: (Option<u32>, Option<u32>)) -> bool {
        let same_major = asked.0.is_none_or(|major| major == found.0);
        match self {
            Self::Strict => same_major && found.1 >= asked.1.unwrap_or(0),
            Self::Relaxed => same_major,
            Self::Yolo => true,
        }
    }
}

impl FromStr for ContractRequest {
    type Err = ContractSyntaxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ContractSyntaxError { text: text.to_owned() };
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let name_ok = !name.is_empty()
            && name.len() <= 255
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'));
        if !name_ok {
            return Err(error());
        }
        let mut numbers = [None; 3];
        if let Some(version) = version {
            let mut parts = version.split('.');
            for slot in &mut numbers {
                let Some(part) = parts.next() else { break };
                *slot = Some(part.parse::<u32>().map_err(|_| error())?);
            }
            if parts.next().is_some() || numbers[0].is_none() {
                return Err(error());
            }
        }
        Ok(Self { name: name.to_owned(), major: numbers[0], minor: numbers[1], patch: numbers[2] })
    }
}

impl fmt::Display for ContractRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(major) = self.major {
            write!(f, "@{major}")?;
            if let Some(minor) = self.minor {
                write!(f, ".{minor}")?;
                if let Some(patch) = self.patch {
                    write!(f, ".{patch}")?;
                }
            }
        }
        Ok(())
    }
}

/// Whether `name` is a function name that every language can spell: lower-case
/// letters, digits and underscores, beginning with a letter (rule B3).
#[must_use]
pub fn is_function_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_parses_its_three_forms() {
        let id: ContractId = "greeter".parse().unwrap();
        assert_eq!((id.major, id.minor), (1, 0));
        let id: ContractId = "image.decode@2.3.1".parse().unwrap();
        assert_eq!((id.name.as_str(), id.major, id.minor, id.patch), ("image.decode", 2, 3, 1));
        assert_eq!(id.to_string(), "image.decode@2.3.1");
        for bad in ["", "@1", "a b", "a@", "a@x", "a@1.2.3.4", "a@-1", "a@99999999999"] {
            assert!(bad.parse::<ContractId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn request_leaves_unwritten_parts_open() {
        let provided: ContractId = "a@1.4".parse().unwrap();
        for (request, served) in [
            ("a", true),
            ("a@1", true),
            ("a@1.3", true),
            ("a@1.5", false),
            ("a@2", false),
            ("b", false),
        ] {
            let request: ContractRequest = request.parse().unwrap();
            assert_eq!(Compatibility::Strict.serves(&provided, &request), served, "{request}");
        }
    }

    #[test]
    fn r1_compatibility_is_strict_relaxed_or_yolo() {
        let provided: ContractId = "a@2.3.4".parse().unwrap();
        for (request, strict, relaxed, yolo) in [
            ("a", true, true, true),
            ("a@2", true, true, true),
            ("a@2.3", true, true, true),
            ("a@2.3.9", true, true, true),
            ("a@2.4", false, true, true),
            ("a@1", false, false, true),
            ("a@3", false, false, true),
            ("b@2", false, false, false),
        ] {
            let request: ContractRequest = request.parse().unwrap();
            let served = [Compatibility::Strict, Compatibility::Relaxed, Compatibility::Yolo]
                .map(|rule| rule.serves(&provided, &request));
            assert_eq!(served, [strict, relaxed, yolo], "{request}");
        }
    }

    #[test]
    fn request_is_narrowed_by_what_was_declared() {
        for (asked, declared, narrowed) in [
            ("a", "a@1.2.3", "a@1.2.3"),
            ("a@1", "a@1.2", "a@1.2"),
            ("a@1.5", "a@1.2.3", "a@1.5"),
            ("a@2", "a@1.2", "a@2"),
            ("a", "a", "a"),
        ] {
            let (asked, declared): (ContractRequest, ContractRequest) =
                (asked.parse().unwrap(), declared.parse().unwrap());
            assert_eq!(asked.narrowed_by(&declared).to_string(), narrowed);
        }
    }

    #[test]
    fn b3_function_names_are_snake_case() {
        for good in ["greet", "greet_all", "f2"] {
            assert!(is_function_name(good));
        }
        for bad in ["", "Greet", "greetAll", "_x", "2f", "a-b", "naïve"] {
            assert!(!is_function_name(bad), "{bad}");
        }
    }
}
