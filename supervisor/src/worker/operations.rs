//! What runs in a process beside calls: loads and hooks, so that a death in one
//! of them has a name (S5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::bundle::Bundle;
use crate::lane::lock;
use crate::status::{Activity, RunningCall};

/// The loads and hooks that run in a process.
#[derive(Debug, Default)]
pub(crate) struct Operations(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    running: BTreeMap<u64, (Arc<Bundle>, Activity, Instant)>,
}

/// A call, a load or a hook that ran, as a crash report shows it, and whose it was: another
/// bundle may have the name by now.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) call: RunningCall,
    pub(crate) bundle: Arc<Bundle>,
}

/// One that runs; it has ended when this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Operation {
    table: Arc<Mutex<Table>>,
    key: u64,
}

impl Operations {
    /// A bundle begins something.
    pub(crate) fn begin(&self, bundle: &Arc<Bundle>, activity: Activity) -> Operation {
        let mut table = lock(&self.0);
        table.next += 1;
        let key = table.next;
        table.running.insert(key, (Arc::clone(bundle), activity, Instant::now()));
        Operation { table: Arc::clone(&self.0), key }
    }

    /// Whether there are any, of such bundles.
    pub(crate) fn any(&self, of: impl Fn(&Bundle) -> bool) -> bool {
        lock(&self.0).running.values().any(|(bundle, ..)| of(bundle))
    }

    /// What runs now.
    pub(crate) fn running(&self) -> Vec<Ran> {
        let table = lock(&self.0);
        let call = |(bundle, activity, since): &(Arc<Bundle>, Activity, Instant)| RunningCall {
            bundle: bundle.name.clone(),
            activity: *activity,
            contract: String::new(),
            function: match activity {
                Activity::Call => "call",
                Activity::Load => "load",
                Activity::OnLoad => "on_load",
                Activity::OnUnload => "on_unload",
            }
            .to_owned(),
            age_ms: Some(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
        };
        let ran = |running| Ran { call: call(running), bundle: Arc::clone(&running.0) };
        table.running.values().map(ran).collect()
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        lock(&self.table).running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use menagerie_protocol::{BundleSource, ManifestData};

    use super::*;
    use crate::bundle::Content;

    fn bundle(name: &str) -> Arc<Bundle> {
        let parsed = ManifestData::parse(&format!("loader = 'lua'\nname = '{name}'")).unwrap();
        Bundle::new(Content::plain(parsed.manifest, BundleSource::Code(String::new())), None)
    }

    #[test]
    fn s5_operations_are_named_while_they_run() {
        let operations = Operations::default();
        let load = operations.begin(&bundle("a"), Activity::Load);
        let hook = operations.begin(&bundle("b"), Activity::OnUnload);
        let running = operations.running();
        let names: Vec<_> = running.iter().map(|r| (&*r.call.bundle, &*r.call.function)).collect();
        assert_eq!(names, [("a", "load"), ("b", "on_unload")]);
        drop(load);
        assert_eq!(operations.running().len(), 1);
        assert!(operations.any(|bundle| bundle.name == "b"));
        assert!(!operations.any(|bundle| bundle.name == "a"));
        drop(hook);
        assert!(!operations.any(|_| true));
    }
}
