//! A host that has no descriptors left: what it lacks is not its workers' fault.

use std::time::Duration;

use menagerie_supervisor::{ByteBuf, Contract, Failure, RuntimeError, Supervisor};
use menagerie_tests::Language;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{Bundle, Gate, PATIENCE, config, run, start_with, wait_for};

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

/// What the guest has asked for cannot be delivered: it is told so, and its worker, whose
/// doing that is not, lives on.
#[test]
fn c3_an_answer_that_the_host_has_no_memory_for_says_so() {
    run(async {
        let supervisor = start_with(config());
        let host = supervisor.host_contract("kv@1");
        host.function("large", || async { ByteBuf::from(vec![7; SIZE]) }).done().unwrap();
        let needs = "[[dependency]]\nkind = 'host'\ncontract = 'kv'\nmin_version = '1.0'";
        let bundle = Bundle::copy_of(&Language::of("lua").bundle("probe"), "caller", needs);
        supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
        supervisor.load(bundle.path()).await.unwrap();
        let probe = supervisor.contract("caller/probe@1").unwrap();
        let nothing = [0_u8; 0];
        let short = Short::of_descriptors();
        let caught = probe.call::<_, Option<String>>("caught", ("kv@1", "large", nothing)).await;
        assert_eq!(caught.unwrap().as_deref(), Some("OutOfResources"));
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        drop(short);
        let caught = probe.call::<_, Option<String>>("caught", ("kv@1", "large", nothing)).await;
        assert_eq!(caught.unwrap(), None);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// The state of a reload is too large for the lane: nothing comes of the reload, and the
/// old generation goes on with what it had left.
#[test]
fn l6_a_state_that_the_host_has_no_memory_for_stays_where_it_was() {
    run(async {
        let supervisor = start_with(config());
        let gate = Gate::new();
        // Whoever leaves has nothing any more.
        let hooks = format!(
            "local state = string.rep('s', {SIZE})\n\
             local hooks = {{}}\n\
             function hooks.on_load(context) state = context.state or state end\n\
             function hooks.on_unload()\n\
               pass 'leaves'\n\
               local left = state\n\
               state = ''\n\
               return left\n\
             end\n\
             hooks['one@1'] = {{ size = function() return #state end }}\n\
             do return hooks end"
        );
        let bundle = gate.bundle("one", &hooks, "");
        supervisor.load(bundle.path()).await.unwrap();
        let size = supervisor.contract("one@1").unwrap().with_timeout(PATIENCE);
        // It has to be short when the state is handed over, and a while longer: how long
        // that takes nobody knows.
        let mut seen = None;
        for (times, pause) in (1..).zip([50, 500, 5000]) {
            gate.close();
            let reload = supervisor.clone();
            let reload = tokio::spawn(async move { reload.reload("one").await });
            gate.noted("leaves", times).await;
            let short = Short::of_descriptors();
            gate.open();
            tokio::time::sleep(Duration::from_millis(pause)).await;
            drop(short);
            if let Err(error) = reload.await.unwrap() {
                seen = Some(error);
                break;
            }
        }
        let Some(RuntimeError::WorkerUnavailable { problem, .. }) = seen else {
            panic!("{seen:?}")
        };
        assert!(problem.contains("Too many open files"), "{problem}");
        assert_eq!(size.call::<_, usize>("size", ()).await.unwrap(), SIZE);
        supervisor.reload("one").await.unwrap();
        assert_eq!(size.call::<_, usize>("size", ()).await.unwrap(), SIZE);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}
