//! Which worker a bundle lives in (`DESIGN.md`, rule S9).

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::sandbox::Sandbox;

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
/// bundle to itself; with `#1`, `#2` … at its end where a loader has several
/// for the same bundles.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerName {
    pub(crate) loader: String,
    /// Whose worker it is, unless all bundles of the loader share it.
    pub(crate) bundle: Option<String>,
    /// Which of the replicas it is, from 1; `None` for the only one.
    number: Option<NonZeroU32>,
}

impl WorkerName {
    /// The worker that the bundles of a loader share.
    pub(crate) fn shared(loader: &str) -> Self {
        Self { loader: loader.to_owned(), bundle: None, number: None }
    }

    /// A bundle's own worker.
    pub(crate) fn own(loader: &str, bundle: &str) -> Self {
        Self { loader: loader.to_owned(), bundle: Some(bundle.to_owned()), number: None }
    }

    /// Where a bundle is put at first: the first of its workers, and the others
    /// if its loader has replicas.
    pub(crate) fn places(config: &Config, loader: &str, bundle: &str) -> (Self, Vec<Self>) {
        let name = match config.isolation_of(bundle) {
            Isolation::Bundle => Self::own(loader, bundle),
            Isolation::Shared | Isolation::Auto => Self::shared(loader),
        };
        match config.replicas_of(loader) {
            0 | 1 => (name, Vec::new()),
            count => (name.numbered(1), (2..=count).map(|n| name.numbered(n)).collect()),
        }
    }

    /// The replica of this number, from 1.
    pub(crate) fn numbered(&self, number: u32) -> Self {
        Self { number: NonZeroU32::new(number), ..self.clone() }
    }

    /// The worker that a bundle has to itself in the place of this one.
    pub(crate) fn own_in_place(&self, bundle: &str) -> Self {
        Self { number: self.number, ..Self::own(&self.loader, bundle) }
    }

    /// What all replicas are called together.
    pub(crate) fn common(&self) -> Self {
        Self { number: None, ..self.clone() }
    }

    /// Whether its processes are held in a sandbox (P2).
    pub(crate) fn is_in_sandbox(&self, config: &Config) -> bool {
        let is_held = |bundle: &String| config.sandbox_of(bundle) == Sandbox::Strict;
        self.bundle.as_ref().is_some_and(is_held)
    }

    /// Which of a bundle's seats is in this worker, from 0.
    pub(crate) fn seat(&self) -> usize {
        self.number.map_or(0, |number| number.get() as usize - 1)
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.loader)?;
        if let Some(bundle) = &self.bundle {
            write!(f, "/{bundle}")?;
        }
        self.number.map_or(Ok(()), |number| write!(f, "#{number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_a_bundle_is_put_where_its_isolation_says() {
        let mut config = Config::default();
        let name = |config: &Config| {
            let (first, others) = WorkerName::places(config, "python", "greeter-py");
            assert_eq!((first.seat(), others.len()), (0, 0));
            first.to_string()
        };
        assert_eq!(name(&config), "python");
        config.isolation = Isolation::Auto;
        assert_eq!(name(&config), "python");
        config.isolation = Isolation::Bundle;
        assert_eq!(name(&config), "python/greeter-py");
        config.bundle_isolation.insert("greeter-py".to_owned(), Isolation::Shared);
        assert_eq!(name(&config), "python");
    }

    #[test]
    fn s9_replicas_have_numbers() {
        let mut config = Config::default();
        config.replicas.insert("python".to_owned(), 3);
        let names = |config: &Config, loader: &str| {
            let (first, others) = WorkerName::places(config, loader, "a");
            let all: Vec<WorkerName> = std::iter::once(first).chain(others).collect();
            assert!(all.iter().enumerate().all(|(at, name)| name.seat() == at));
            assert!(all.iter().all(|name| name.common() == all[0].common()));
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&config, "python"), ["python#1", "python#2", "python#3"]);
        assert_eq!(names(&config, "lua"), ["lua"]);
        config.isolation = Isolation::Bundle;
        assert_eq!(names(&config, "python"), ["python/a#1", "python/a#2", "python/a#3"]);
        let second = WorkerName::shared("python").numbered(2);
        assert_eq!(second.own_in_place("a").to_string(), "python/a#2");
        assert_eq!(second.common().to_string(), "python");
        // As the status lists them.
        assert!(second < WorkerName::shared("python").numbered(10));
    }

    #[test]
    fn s9_isolations_have_names() {
        for isolation in [Isolation::Shared, Isolation::Bundle, Isolation::Auto] {
            assert_eq!(isolation.to_string().parse(), Ok(isolation));
        }
        assert!("private".parse::<Isolation>().is_err());
    }
}
