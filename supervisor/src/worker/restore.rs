//! Loading everything that should be loaded into a new process (S4).

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use menagerie_protocol::Compatibility;

use super::process::Process;
use crate::bundle::Bundle;
use crate::core::Core;
use crate::registry::depends_on;

/// Bundles that are loaded at the same time, at most: most of a load is the
/// language's own work, and that shares the machine's processors anyway.
const AT_ONCE: usize = 8;

/// How bundles are loaded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Those that do not need each other at the same time.
    Together,
    /// One after the other: a process has died while it loaded several, and
    /// nobody knows of which.
    OneByOne,
}

/// Loads bundles, providers before those that need them.
pub(super) async fn restore(
    core: &Core,
    bundles: &[Arc<Bundle>],
    process: &Arc<Process>,
    pace: Pace,
) {
    let at_once = if pace == Pace::Together { AT_ONCE } else { 1 };
    for layer in layers(bundles, core.config.compatibility) {
        stream::iter(layer)
            .for_each_concurrent(at_once, |bundle| async move {
                core.restore(&bundle, process).await;
            })
            .await;
    }
}

/// The bundle that is loaded first.
pub(super) fn first(bundles: &[Arc<Bundle>], rule: Compatibility) -> Option<Arc<Bundle>> {
    let first = layers(bundles, rule).into_iter().next()?.into_iter().next()?;
    Some(first).filter(|bundle| !bundle.is_quarantined())
}

/// Sorts bundles into layers: each needs only such as are in layers before its
/// own, or none of these.
pub(super) fn layers(bundles: &[Arc<Bundle>], rule: Compatibility) -> Vec<Vec<Arc<Bundle>>> {
    let manifests: Vec<_> = bundles.iter().map(|bundle| bundle.manifest()).collect();
    let mut rest: Vec<usize> = (0..bundles.len()).collect();
    let mut layers = Vec::new();
    while !rest.is_empty() {
        let needs = |at: &usize| {
            rest.iter()
                .any(|other| other != at && depends_on(&manifests[*at], &manifests[*other], rule))
        };
        let (later, mut now): (Vec<usize>, Vec<usize>) = rest.iter().partition(|at| needs(at));
        let mut later = later;
        if now.is_empty() {
            // A ring, by way of several providers of one contract: any order
            // will do, and the order of loading is the best guess.
            now.push(later.remove(0));
        }
        layers.push(now.iter().map(|at| Arc::clone(&bundles[*at])).collect());
        rest = later;
    }
    layers
}

#[cfg(test)]
mod tests {
    use menagerie_protocol::{BundleSource, ManifestData};

    use super::*;
    use crate::bundle::Content;

    fn bundle(text: &str) -> Arc<Bundle> {
        let parsed = ManifestData::parse(&format!("loader = \"lua\"\n{text}")).unwrap();
        Bundle::new(Content::plain(parsed.manifest, BundleSource::Code(String::new())), None)
    }

    fn names(layers: &[Vec<Arc<Bundle>>]) -> Vec<Vec<String>> {
        let names = |layer: &Vec<Arc<Bundle>>| layer.iter().map(|b| b.name.clone()).collect();
        layers.iter().map(names).collect()
    }

    #[test]
    fn s4_providers_come_before_those_that_need_them() {
        let bundles = [
            bundle("name = \"top\"\nbundle_dependencies = [\"middle\"]"),
            bundle("name = \"middle\"\n[[dependency]]\ncontract = \"c@1\""),
            bundle("name = \"base\"\nprovides = [\"c@1\"]"),
            bundle("name = \"alone\""),
        ];
        assert_eq!(
            names(&layers(&bundles, Compatibility::Strict)),
            [vec!["base", "alone"], vec!["middle"], vec!["top"]]
        );
    }

    #[test]
    fn s4_a_ring_is_loaded_nevertheless() {
        let bundles = [
            bundle("name = \"a\"\nbundle_dependencies = [\"b\"]"),
            bundle("name = \"b\"\nbundle_dependencies = [\"a\"]"),
        ];
        assert_eq!(names(&layers(&bundles, Compatibility::Strict)), [["a"], ["b"]]);
    }
}
