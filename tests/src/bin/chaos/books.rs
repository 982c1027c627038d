//! The books: what was called, what came of it, and what the guest did.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use menagerie_supervisor::{Contract, Failure, Supervisor};
use tempfile::TempDir;

use crate::Problem;

/// A bundle that writes each call's number down, to a file that outlives it.
pub(crate) struct Ledger {
    name: &'static str,
    contract: Contract,
    folder: TempDir,
}

/// The calls on a ledger.
pub(crate) struct Books {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Page>>,
}

/// One caller's calls: each has exactly one outcome.
#[derive(Default)]
struct Page {
    sent: u64,
    values: Vec<u64>,
    failed: HashMap<&'static str, u64>,
    /// What should never happen.
    wrong: Vec<String>,
}

/// A line is written in one piece: whoever is killed between two would spoil the next
/// one's.
const LUA: &str = "local file = assert(io.open([[FILE]], 'a'))\nfile:setvbuf('no')\n\
    return { ['ledger@1'] = { note = function(n) file:write(n .. '\\n') return n end } }\n";

const PYTHON: &str = "import menagerie, os\n\
    file = os.open(r'FILE', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n\
    @menagerie.export('ledger@1')\n\
    def note(n: int) -> int:\n    os.write(file, b'%d\\n' % n)\n    return n\n";

impl Ledger {
    pub(crate) async fn open(
        supervisor: &Supervisor,
        loader: &str,
        name: &'static str,
    ) -> Result<Self, Problem> {
        let folder = tempfile::tempdir()?;
        let notes = folder.path().join("notes").display().to_string();
        let (file, source) = if loader == "lua" { ("main.lua", LUA) } else { ("main.py", PYTHON) };
        std::fs::write(folder.path().join(file), source.replace("FILE", &notes))?;
        let manifest = format!(
            "name = '{name}'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
             provides = ['ledger@1']\n"
        );
        std::fs::write(folder.path().join("manifest.toml"), manifest)?;
        supervisor.load(folder.path()).await?;
        let contract = supervisor.contract(&format!("{name}/ledger@1"))?;
        Ok(Self { name, contract, folder })
    }

    /// Begins to call.
    pub(crate) fn call(&self, callers: u64) -> Books {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers = (0..callers).map(|_| {
            let (contract, stop, next) =
                (self.contract.clone(), Arc::clone(&stop), Arc::clone(&next));
            tokio::spawn(async move {
                let mut page = Page::default();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    page.sent += 1;
                    page.enter(number, contract.call("note", (number,)).await);
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                page
            })
        });
        let callers = callers.collect();
        Books { stop, callers }
    }

    /// Ends the calls and checks the books.
    pub(crate) async fn settle(&self, books: Books, deadline: Instant) -> Result<String, Problem> {
        books.stop.store(true, Ordering::Relaxed);
        let (mut sent, mut values, mut failed) = (0, Vec::new(), HashMap::new());
        for caller in books.callers {
            let left = deadline.saturating_duration_since(Instant::now());
            let page = tokio::time::timeout(left, caller)
                .await
                .map_err(|_| format!("{}: a call never ended", self.name))??;
            if !page.wrong.is_empty() {
                return Err(format!("{}: {}", self.name, page.wrong.join("; ")).into());
            }
            sent += page.sent;
            values.extend(page.values);
            for (kind, count) in page.failed {
                *failed.entry(kind).or_insert(0) += count;
            }
        }
        let failures: u64 = failed.values().sum();
        if sent != values.len() as u64 + failures {
            let found = values.len();
            return Err(format!("{}: {sent} calls, {found} values, {failed:?}", self.name).into());
        }
        let mut runs: HashMap<u64, u32> = HashMap::new();
        for line in std::fs::read_to_string(self.folder.path().join("notes"))?.lines() {
            *runs.entry(line.parse()?).or_default() += 1;
        }
        if let Some((number, count)) = runs.iter().find(|(_, count)| **count > 1) {
            return Err(format!("{}: call {number} was run {count} times", self.name).into());
        }
        if let Some(number) = values.iter().find(|number| !runs.contains_key(number)) {
            return Err(format!("{}: call {number} has a value and never ran", self.name).into());
        }
        let (name, count) = (self.name, values.len());
        Ok(format!("{name}: {sent} calls, {count} values, {failures} failures {failed:?}"))
    }
}

impl Page {
    fn enter(&mut self, number: u64, outcome: Result<u64, Failure>) {
        let kind = match outcome {
            Ok(value) if value == number => return self.values.push(number),
            Ok(value) => return self.wrong.push(format!("call {number} returned {value}")),
            Err(Failure::WorkerCrashed { started: true, .. }) => "crashed",
            Err(Failure::DeadlineExceeded { .. }) => "deadline",
            Err(Failure::Guest(_)) => "guest",
            Err(failure) => return self.wrong.push(format!("call {number}: {failure}")),
        };
        *self.failed.entry(kind).or_insert(0) += 1;
    }
}
