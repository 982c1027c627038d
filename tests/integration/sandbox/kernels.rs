//! Where there can be no sandbox, nothing is loaded.

use std::os::unix::fs::PermissionsExt;

use menagerie_supervisor::{RuntimeError, Supervisor};
use menagerie_tests::Language;
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};

use super::strict;
use crate::support::{run, start_with};

/// From here on this thread, and those that it starts, are on a kernel without a call.
fn without(call: i64) {
    let filter = SeccompFilter::new(
        [(call, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}

async fn refused(supervisor: &Supervisor) -> RuntimeError {
    supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap_err()
}

#[test]
fn p2_a_kernel_without_landlock_is_said_and_nothing_is_loaded() {
    without(libc::SYS_landlock_create_ruleset);
    run(async {
        let supervisor = start_with(strict());
        let error = refused(&supervisor).await;
        assert!(matches!(error, RuntimeError::WorkerUnavailable { .. }), "{error}");
        assert!(error.to_string().contains("needs Landlock: a kernel of version 5.13"), "{error}");
        assert!(supervisor.crashes().is_empty());
        supervisor.shutdown().await;
    });
}

/// A kernel that says it can and cannot: the worker finds out.
#[test]
fn p2_a_worker_that_cannot_enter_its_sandbox_says_why() {
    without(libc::SYS_landlock_restrict_self);
    run(async {
        let supervisor = start_with(strict());
        let error = refused(&supervisor).await;
        assert!(matches!(error, RuntimeError::WorkerUnavailable { .. }), "{error}");
        assert!(error.to_string().contains("sandbox"), "{error}");
        assert!(supervisor.crashes().is_empty());
        supervisor.shutdown().await;
    });
}

/// A worker's program that takes no notice of it, such as one of before.
#[test]
fn p2_a_worker_that_is_not_in_its_sandbox_gets_no_bundle() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("menagerie-worker-lua");
        let mut config = strict();
        let real = config.worker_dir.clone().unwrap().join("menagerie-worker-lua");
        let script = format!("#!/bin/sh\nunset MENAGERIE_SANDBOX\nexec '{}'\n", real.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        config.worker_programs.insert("lua".to_owned(), program);
        let supervisor = start_with(config);
        let error = refused(&supervisor).await;
        assert!(matches!(error, RuntimeError::WorkerUnavailable { .. }), "{error}");
        let reasons: Vec<_> = supervisor.crashes().into_iter().map(|crash| crash.reason).collect();
        let reason = reasons[0].as_ref().unwrap();
        assert!(reason.contains("not in the sandbox that it should be in"), "{reason}");
        supervisor.shutdown().await;
    });
}
