//! Which worker a bundle lives in (`DESIGN.md`, rule S9).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Whether bundles share their loader's worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// One worker for all bundles of a loader.
    #[default]
    Shared,
    /// A worker of its own for each bundle.
    Bundle,
    /// Shared, until a bundle was running at several crashes: then it gets a
    /// worker of its own (S5).
    Auto,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Bundle => "bundle",
            Self::Auto => "auto",
        })
    }
}

/// No isolation has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no isolation: expected shared, bundle or auto")]
pub struct UnknownIsolation(String);

impl std::str::FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Shared, Self::Bundle, Self::Auto]
            .into_iter()
            .find(|isolation| isolation.to_string() == text)
            .ok_or_else(|| UnknownIsolation(text.to_owned()))
    }
}

/// A worker's name: `python`, or `python/greeter-py` for a worker that has one
/// bundle to itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerName {
    pub(crate) loader: String,
    /// Whose worker it is, unless all bundles of the loader share it.
    pub(crate) bundle: Option<String>,
}

impl WorkerName {
    /// The worker that the bundles of a loader share.
    pub(crate) fn shared(loader: &str) -> Self {
        Self { loader: loader.to_owned(), bundle: None }
    }

    /// A bundle's own worker.
    pub(crate) fn own(loader: &str, bundle: &str) -> Self {
        Self { loader: loader.to_owned(), bundle: Some(bundle.to_owned()) }
    }

    /// Where a bundle is put at first.
    pub(crate) fn first(config: &Config, loader: &str, bundle: &str) -> Self {
        match config.isolation_of(bundle) {
            Isolation::Bundle => Self::own(loader, bundle),
            Isolation::Shared | Isolation::Auto => Self::shared(loader),
        }
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bundle {
            Some(bundle) => write!(f, "{}/{bundle}", self.loader),
            None => f.write_str(&self.loader),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_a_bundle_is_put_where_its_isolation_says() {
        let mut config = Config::default();
        let name = |config: &Config| WorkerName::first(config, "python", "greeter-py").to_string();
        assert_eq!(name(&config), "python");
        config.isolation = Isolation::Auto;
        assert_eq!(name(&config), "python");
        config.isolation = Isolation::Bundle;
        assert_eq!(name(&config), "python/greeter-py");
        config.bundle_isolation.insert("greeter-py".to_owned(), Isolation::Shared);
        assert_eq!(name(&config), "python");
    }

    #[test]
    fn s9_isolations_have_names() {
        for isolation in [Isolation::Shared, Isolation::Bundle, Isolation::Auto] {
            assert_eq!(isolation.to_string().parse(), Ok(isolation));
        }
        assert!("private".parse::<Isolation>().is_err());
    }
}
