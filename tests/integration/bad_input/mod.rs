//! Bad input from hosts and bundles, through a real supervisor and real
//! workers. After each: the error is typed and says what is wrong, the worker
//! is the same process, and its bundles go on serving.

mod arguments;
pub(crate) mod bundles;
mod manifests;
pub(crate) mod native;
mod reloads;
mod results;

use menagerie_supervisor::{Config, Contract, Failure, GuestError, Supervisor, WorkerState};
use menagerie_tests::Language;
use rmpv::Value;

use crate::support::{config, ready_after, start_with, worker};

/// A language's two sample bundles in one worker: one that gets the bad input,
/// and its neighbour.
struct Scene {
    supervisor: Supervisor,
    language: Language,
    probe: Contract,
    neighbour: Contract,
    pid: u32,
}

impl Scene {
    async fn set(suffix: &str) -> Self {
        Self::set_with(suffix, config()).await
    }

    async fn set_with(suffix: &str, config: Config) -> Self {
        let language = Language::of(suffix);
        let supervisor = start_with(config);
        // The neighbour first: the probe may call it.
        supervisor.load(language.bundle("greeter")).await.unwrap();
        supervisor.load(language.bundle("probe")).await.unwrap();
        let probe = supervisor.contract("probe@1").unwrap();
        let neighbour = supervisor.contract("greeter@1").unwrap();
        // Bundles may answer before it is called ready.
        let pid = ready_after(&supervisor, language.loader, 0).await.pid.unwrap();
        Self { supervisor, language, probe, neighbour, pid }
    }

    /// Calls the probe with these arguments, as they are.
    async fn call(&self, function: &str, args: Vec<Value>) -> Result<Value, Failure> {
        self.probe.call_value(function, &Value::Array(args)).await
    }

    /// The call is refused before the function runs; returns what is said.
    async fn refuses(&self, function: &str, args: Vec<Value>) -> String {
        let told = format!("{} {function}({args:?})", self.language.suffix);
        let outcome = self.call(function, args).await;
        let Err(Failure::BadArguments { message }) = outcome else {
            panic!("{}: {outcome:?}", &told[..told.len().min(300)])
        };
        assert!(!message.is_empty());
        self.goes_on().await;
        message
    }

    /// The function runs and fails with an error of its own.
    async fn fails(&self, function: &str, args: Vec<Value>) -> GuestError {
        let outcome = self.call(function, args).await;
        let Err(Failure::Guest(error)) = outcome else {
            panic!("{} {function}: {outcome:?}", self.language.suffix)
        };
        assert!(!error.type_name.is_empty(), "{error:?}");
        self.goes_on().await;
        *error
    }

    /// The same bundle serves, its neighbour does, and nothing was restarted.
    async fn goes_on(&self) {
        let next: i64 = self.probe.call("inc", (1,)).await.unwrap();
        assert_eq!(next, 2);
        let text: String = self.neighbour.call("greet", ("Ada",)).await.unwrap();
        assert_eq!(text, "Hello, Ada");
        let worker = worker(&self.supervisor, self.language.loader).unwrap();
        assert_eq!((worker.pid, worker.incarnation, worker.restarts), (Some(self.pid), 1, 0));
        assert_eq!(worker.state, WorkerState::Ready);
        assert!(self.supervisor.crashes().is_empty());
    }

    async fn end(self) {
        self.supervisor.shutdown().await;
    }
}
