//! Hosts that are unlike others, and workers that cannot even be started.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use menagerie_supervisor::{
    Access, Config, LoaderError, RuntimeError, StatusSocket, Supervisor, WorkerState,
};

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

/// A host need not depend on what the crate is made of.
#[test]
fn c1_what_errors_and_contracts_are_made_of_has_names() {
    use menagerie_supervisor::{
        BundleId, Contract, ContractId, ContractSyntaxError, DependencyKind, HostContractError,
        rmpv,
    };
    fn told(error: &RuntimeError) -> Option<(DependencyKind, BundleId)> {
        match error {
            RuntimeError::UnsatisfiedCapability { kind, .. } => {
                Some((*kind, BundleId::of_name("a")))
            }
            _ => None,
        }
    }
    let _id: fn(&Contract) -> &ContractId = Contract::id;
    let _error: fn(ContractSyntaxError) -> HostContractError = HostContractError::Contract;
    let _value = rmpv::Value::Nil;
    assert!(told(&RuntimeError::ShuttingDown).is_none());
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

#[test]
fn g_a_host_without_a_runtime_serves_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let supervisor = Supervisor::builder().start().unwrap();
    let status = StatusSocket::bind(supervisor.clone(), &path, Access::default()).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(status);
    assert!(!path.exists());
}

#[test]
fn s7_a_host_may_drop_its_runtime_first() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime();
    let supervisor = first.block_on(async { Supervisor::builder().start().unwrap() });
    drop(first);
    // Neither of them waits for timers that nobody drives.
    runtime().block_on(supervisor.shutdown());
    let error = runtime().block_on(supervisor.restart("lua")).unwrap_err();
    assert!(matches!(error, RuntimeError::ShuttingDown), "{error}");
}

#[test]
fn s3_a_host_with_a_runtime_of_one_thread_need_not_be_in_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let supervisor = runtime.block_on(async { Supervisor::builder().start().unwrap() });
    let code = "return { ['a@1'] = { one = function() return 1 end } }";
    // Nobody runs the host's runtime meanwhile.
    supervisor.block_on(supervisor.load_code(MANIFEST, code)).unwrap();
    let contract = supervisor.contract("a@1").unwrap();
    let pid = supervisor.status().workers[0].pid.unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while supervisor.crashes().is_empty() {
        assert!(Instant::now() < deadline, "nobody noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(contract.call_blocking::<_, i64>("one", ()), Ok(1));
    assert_eq!(runtime.block_on(contract.call::<_, i64>("one", ())), Ok(1));
    runtime.block_on(supervisor.shutdown());
}
