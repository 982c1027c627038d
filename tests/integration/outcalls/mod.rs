//! Calls that bundles make (rule C5), in every language.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use menagerie_supervisor::{Contract, Supervisor};
use menagerie_tests::Language;

use crate::support::Bundle;

macro_rules! outcalls {
    ($($language:ident),*; $cases:tt) => {
        $(outcalls!(@ $language $cases);)*
    };
    (@ $language:ident { $($case:ident),* $(,)? }) => {
        mod $language {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(stringify!($language)).await;
                }
            )*
        }
    };
}

// What ends them: deaths, deadlines, and the bound on their number.
mod bounds;

// Chains that come back, and what only looks like one.
mod cycles;

// Functions of the host.
mod host;

/// A probe of a language that may call more than the sample does.
async fn probe(supervisor: &Supervisor, suffix: &str, more: &str) -> (Bundle, Contract) {
    let bundle = Bundle::copy_of(&Language::of(suffix).bundle("probe"), "caller", more);
    supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
    supervisor.load(bundle.path()).await.unwrap();
    (bundle, supervisor.contract("caller/probe@1").unwrap())
}

async fn caught(probe: &Contract, contract: &str, function: &str) -> Option<String> {
    probe.call("caught", (contract, function, [0; 0])).await.unwrap()
}

/// The gate at which calls wait until it is opened.
fn provide_gate(supervisor: &Supervisor, open: &Arc<tokio::sync::Semaphore>) -> Arc<AtomicU32> {
    let (open, at_it) = (Arc::clone(open), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&at_it);
    supervisor
        .host_contract("gate@1")
        .function("wait", move || {
            let open = Arc::clone(&open);
            count.fetch_add(1, Ordering::SeqCst);
            async move { open.acquire().await.is_ok() }
        })
        .done()
        .unwrap();
    at_it
}
