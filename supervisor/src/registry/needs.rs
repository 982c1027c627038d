//! What a bundle needs of others, and who meets it.

use menagerie_protocol::loader::manifest::{BundleDependency, ContractDependency, DependencyKind};
use menagerie_protocol::{Compatibility, ManifestData};

/// One thing that a bundle cannot do without.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need<'m> {
    /// A bundle of this name, in this version.
    Bundle(&'m BundleDependency),
    /// A contract of another bundle's.
    Contract(&'m ContractDependency),
}

/// What a bundle needs of other bundles. A contract that it provides itself is
/// no such need, unless it is to be another bundle's.
pub(super) fn of(manifest: &ManifestData, rule: Compatibility) -> impl Iterator<Item = Need<'_>> {
    let own = move |dependency: &ContractDependency| {
        dependency.bundle.as_ref().is_none_or(|name| *name == manifest.name)
            && manifest.provides.iter().any(|id| rule.serves(id, &dependency.contract))
    };
    let contracts = manifest
        .dependencies
        .iter()
        .filter(move |dependency| dependency.kind == DependencyKind::Guest && !own(dependency));
    manifest.bundle_dependencies.iter().map(Need::Bundle).chain(contracts.map(Need::Contract))
}

impl Need<'_> {
    /// Whether a bundle is the one that is meant, or one of those that will do.
    pub(super) fn is_met_by(self, other: &ManifestData, rule: Compatibility) -> bool {
        match self {
            // Of another version it is still the one that must come first, and
            // that must stay.
            Self::Bundle(dependency) => dependency.bundle == other.name,
            Self::Contract(dependency) => {
                dependency.bundle.as_ref().is_none_or(|name| *name == other.name)
                    && other.provides.iter().any(|id| rule.serves(id, &dependency.contract))
            }
        }
    }
}

/// Whether a bundle's version will do for one that was asked for, which is empty where
/// any will do: its manifest's reader takes nothing else that is no version. A bundle may
/// call its own version what it likes; what is none is not held against it.
pub(super) fn version_will_do(asked: &str, found: &str, rule: Compatibility) -> bool {
    match (version(asked), version(found)) {
        (Some((major, minor)), Some((found, found_minor))) => {
            rule.accepts((found, found_minor.unwrap_or(0)), (Some(major), minor))
        }
        _ => true,
    }
}

/// `1`, `1.2`, `1.2.3`, `1.2.3-rc1`, `v1.2`, `^1.2`: major, and minor if it is there.
fn version(text: &str) -> Option<(u32, Option<u32>)> {
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<u32>().ok()
    };
    let mut parts = text.trim_start_matches(['v', '^', ' ']).split('.');
    let major = digits(parts.next()?)?;
    Some((major, parts.next().and_then(digits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_bundles_versions_follow_the_rule() {
        use Compatibility::{Relaxed, Strict, Yolo};
        for (asked, found, rule, will_do) in [
            ("", "1.0.0", Strict, true),
            ("1", "1.9.0", Strict, true),
            ("1.2", "1.2.0-rc1", Strict, true),
            ("1.3", "1.2.9", Strict, false),
            ("1.3", "1.2.9", Relaxed, true),
            ("2.0", "1.2.9", Relaxed, false),
            ("2.0", "1.2.9", Yolo, true),
            ("1.2", "nightly", Strict, true),
            ("v1.2", "v1.3", Strict, true),
        ] {
            assert_eq!(version_will_do(asked, found, rule), will_do, "{asked} {found} {rule:?}");
        }
    }
}
