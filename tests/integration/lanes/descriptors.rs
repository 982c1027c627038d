//! A host that has no descriptors left: what it lacks is not its workers' fault.

use std::time::Duration;

use menagerie_supervisor::{ByteBuf, Contract, Failure, Supervisor};
use menagerie_tests::Language;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{config, run, start_with, wait_for};

/// This process opens nothing more until it is dropped.
struct Short((u64, u64));

impl Short {
    fn of_descriptors() -> Self {
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // Whatever is open stays so.
        setrlimit(Resource::RLIMIT_NOFILE, 0, before.1).unwrap();
        Self(before)
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_NOFILE, self.0.0, self.0.1).unwrap();
    }
}

/// Long enough for a worker that is let go on.
const GRACE: Duration = Duration::from_secs(2);

async fn probe() -> (Supervisor, Contract) {
    let mut config = config();
    config.grace = GRACE;
    let supervisor = start_with(config);
    supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
    supervisor.load(Language::of("lua").bundle("probe")).await.unwrap();
    let probe = supervisor.contract("probe@1").unwrap();
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    (supervisor, probe)
}

const SIZE: usize = 100_000;

#[test]
fn c2_a_result_waits_until_the_host_has_descriptors_again() {
    run(async {
        let (supervisor, probe) = probe().await;
        let short = Short::of_descriptors();
        let endless = probe.clone().with_timeout(Duration::ZERO);
        let waits = tokio::spawn(async move { endless.call::<_, ByteBuf>("blob", (SIZE,)).await });
        wait_for("the call to be sent", || {
            let bundles = supervisor.status().bundles;
            bundles.iter().any(|bundle| bundle.calls.in_flight == 1).then_some(())
        })
        .await;
        // Neither a call whose time is up nor one behind it costs the worker its life.
        let hasty = probe.clone().with_timeout(Duration::from_millis(100));
        let outcome = hasty.call::<_, ByteBuf>("blob", (SIZE,)).await;
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        tokio::time::sleep(GRACE + Duration::from_millis(500)).await;
        assert!(!waits.is_finished());
        drop(short);
        assert_eq!(waits.await.unwrap().unwrap().len(), SIZE);
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

#[test]
fn s6_a_call_that_the_host_lets_wait_for_memory_is_not_blamed() {
    run(async {
        let (supervisor, probe) = probe().await;
        let short = Short::of_descriptors();
        let hasty = probe.clone().with_timeout(Duration::from_millis(100));
        let outcome = hasty.call::<_, ByteBuf>("blob", (SIZE,)).await;
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        tokio::time::sleep(GRACE + Duration::from_millis(500)).await;
        drop(short);
        wait_for("the end of the call", || {
            let bundles = supervisor.status().bundles;
            bundles.iter().all(|bundle| bundle.calls.in_flight == 0).then_some(())
        })
        .await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

#[test]
fn c3_arguments_that_the_host_has_no_memory_for_say_so() {
    run(async {
        let (supervisor, probe) = probe().await;
        let short = Short::of_descriptors();
        let bytes = ByteBuf::from(vec![7; SIZE]);
        let failure = probe.call::<_, ByteBuf>("echo", (&bytes,)).await.unwrap_err();
        let Failure::OutOfResources { problem } = &failure else { panic!("{failure:?}") };
        assert!(problem.contains("Too many open files"), "{problem}");
        assert!(failure.is_transient());
        // What fits into the lane goes on.
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        drop(short);
        assert_eq!(probe.call::<_, ByteBuf>("echo", (&bytes,)).await.unwrap(), bytes);
        supervisor.shutdown().await;
    });
}
