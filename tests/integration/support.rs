//! Starting supervisors, and waiting for conditions.

use std::path::Path;
use std::time::{Duration, Instant};

use menagerie_supervisor::{Config, Supervisor};

/// Long enough for any machine; a test that waits for so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn config() -> Config {
    let mut config = Config::default();
    // Cargo puts the tests into target/<profile>/deps, and nextest may run
    // them from elsewhere; the workers are one folder up.
    let exe = std::env::current_exe().unwrap();
    config.worker_dir = exe.parent().and_then(Path::parent).map(Path::to_owned);
    config
}

pub(crate) fn start_with(config: Config) -> Supervisor {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(
            std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
        ))
        .with_test_writer()
        .try_init();
    Supervisor::builder().config(config).start().unwrap()
}

pub(crate) fn start() -> Supervisor {
    start_with(config())
}

/// Waits until `condition` says something.
pub(crate) async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
