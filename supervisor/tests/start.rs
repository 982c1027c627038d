//! Workers that cannot even be started.

#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;

use menagerie_supervisor::{Config, LoaderError, RuntimeError, Supervisor, WorkerState};

const MANIFEST: &str = "name = \"a\"\nloader = \"lua\"\nprovides = [\"a@1\"]\n";

fn with_program(script: &str) -> (Supervisor, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("menagerie-worker-lua");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = Config::default();
    config.worker_programs.insert("lua".to_owned(), path);
    (Supervisor::builder().config(config).start().unwrap(), dir)
}

#[tokio::test]
async fn s3_a_library_that_lacks_is_said_and_not_tried_again() {
    let (supervisor, _dir) = with_program(
        "#!/bin/sh\necho 'worker: error while loading shared libraries: libpython9.so: cannot open' >&2\nexit 127\n",
    );
    let error = supervisor.load_code(MANIFEST, "return {}").await.unwrap_err();
    let RuntimeError::Loader(LoaderError::RuntimeMissing { problem, .. }) = &error else {
        panic!("{error:?}")
    };
    assert!(problem.contains("libpython9.so"), "{problem}");
    let worker = &supervisor.status().workers[0];
    assert_eq!((worker.state, worker.restarts), (WorkerState::Stopped, 0));
    assert!(worker.problem.as_ref().unwrap().contains("libpython9.so"));
    supervisor.shutdown().await;
}

#[tokio::test]
async fn s3_a_program_that_cannot_be_executed_is_said() {
    let (supervisor, _dir) = with_program("#!/nonexistent/interpreter\n");
    let error = supervisor.load_code(MANIFEST, "return {}").await.unwrap_err();
    assert!(matches!(error, RuntimeError::WorkerUnavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot be started"), "{error}");
    supervisor.shutdown().await;
}
