//! What runs in a process beside calls: loads and hooks, so that a death in one
//! of them has a name (S5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::lane::lock;
use crate::status::{Activity, RunningCall};

/// The loads and hooks that run in a process.
#[derive(Debug, Default)]
pub(crate) struct Operations(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    running: BTreeMap<u64, (String, Activity, Instant)>,
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
    pub(crate) fn begin(&self, bundle: &str, activity: Activity) -> Operation {
        let mut table = lock(&self.0);
        table.next += 1;
        let key = table.next;
        table.running.insert(key, (bundle.to_owned(), activity, Instant::now()));
        Operation { table: Arc::clone(&self.0), key }
    }

    pub(crate) fn any(&self) -> bool {
        !lock(&self.0).running.is_empty()
    }

    /// What runs now, as a crash report shows it.
    pub(crate) fn running(&self) -> Vec<RunningCall> {
        let table = lock(&self.0);
        let report = |(bundle, activity, since): &(String, Activity, Instant)| RunningCall {
            bundle: bundle.clone(),
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
        table.running.values().map(report).collect()
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        lock(&self.table).running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_operations_are_named_while_they_run() {
        let operations = Operations::default();
        let load = operations.begin("a", Activity::Load);
        let hook = operations.begin("b", Activity::OnUnload);
        let running = operations.running();
        let names: Vec<_> = running.iter().map(|r| (&*r.bundle, &*r.function)).collect();
        assert_eq!(names, [("a", "load"), ("b", "on_unload")]);
        drop(load);
        assert_eq!(operations.running().len(), 1);
        drop(hook);
        assert!(!operations.any());
    }
}
