//! Calls that guests make into other bundles (`DESIGN.md` rule C5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use menagerie_protocol::contract::ContractRequest;
use menagerie_protocol::loader::manifest::{ContractDependency, DependencyKind};
use menagerie_protocol::msgpack::Reader;
use menagerie_protocol::{Compatibility, Failure, ManifestData, lane};

use crate::bundle::Bundle;
use crate::call::Contract;
use crate::chain::Called;
use crate::config::Config;
use crate::core::Core;
use crate::lane::{Due, OutcallHead, Undelivered, lock};
use crate::pause::Pause;
use crate::waits::{Parent, Wait};
use crate::worker::process::Outcall;

/// How long an answer waits at most before its lane is looked at again, which was full.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// What a call has at least, so that it is none that has any time.
const LAST: Duration = Duration::from_millis(1);

/// Carries a guest's call out, and answers it on its lane. If the caller's
/// process ends meanwhile, nobody waits for the answer any more: the call is
/// cancelled. So it is when nobody waits for the one that it is made for: a guest
/// whose thread waits for it can end then.
pub(crate) async fn route(core: Arc<Core>, outcall: Outcall) {
    let Outcall { mut open, mut dead, bundle, manifest, head, payload } = outcall;
    let mut result = match &payload {
        None => Err(Failure::Overloaded { bundle: bundle.name.clone(), limit: open.of_lane() }),
        Some(payload) => {
            let call = Call { bundle: &bundle, manifest: &manifest, head, payload };
            tokio::select! {
                biased;
                _ = dead.wait_for(|dead| *dead) => return,
                () = open.abandoned() => Err(Failure::Cancelled),
                result = carry_out(&core, call) => result,
            }
        }
    };
    drop(payload);
    let mut pause = Pause::new(Duration::from_micros(200), MAX_PAUSE);
    loop {
        match open.lane().send_answer(head.call, &result) {
            Ok(()) | Err(Undelivered::Dead) => break,
            // That always fits.
            Err(short @ Undelivered::Short(_)) => {
                result = Err(Failure::OutOfResources { problem: short.to_string() });
            }
            Err(Undelivered::Busy) => {
                open.is_answered();
                tokio::select! {
                    () = open.abandoned() => result = Err(Failure::Cancelled),
                    () = tokio::time::sleep(pause.next()) => {}
                }
            }
        }
    }
}

/// What a guest asks for.
struct Call<'c> {
    bundle: &'c Bundle,
    manifest: &'c ManifestData,
    head: OutcallHead,
    /// Contract, function and arguments.
    payload: &'c [u8],
}

async fn carry_out(core: &Arc<Core>, call: Call<'_>) -> Result<Vec<u8>, Failure> {
    let Call { bundle, manifest, head, payload } = call;
    let (contract, function, args) =
        lane::parse_outcall(&mut Reader::new(payload)).ok_or_else(|| Failure::BadArguments {
            message: "the call cannot be decoded".to_owned(),
        })?;
    let (wanted, name) = match contract.split_once('/') {
        Some((bundle, contract)) => (Some(bundle), contract),
        None => (None, contract),
    };
    let request: ContractRequest =
        name.parse().map_err(|_| Failure::NoSuchContract { contract: contract.to_owned() })?;
    let rule = core.config.compatibility;
    let Some(declared) = declared(manifest, &request, wanted, rule) else {
        return Err(Failure::UndeclaredDependency {
            bundle: bundle.name.clone(),
            contract: contract.to_owned(),
        });
    };
    // What the call leaves open is as it was declared.
    let request = request.narrowed_by(&declared.contract);
    let parent = match head.origin {
        None => Parent::Unknown,
        Some(0) => Parent::None,
        Some(id) => Parent::Wait(id),
    };
    let limit = limit(&core.config, head.due);
    if declared.kind == DependencyKind::Host {
        let run = call_host(core, &request, function, args, limit);
        return Called::new(core, &bundle.name, (parent, head.blocks), run).await;
    }
    let only = wanted.or(declared.bundle.as_deref());
    let (provider, id) = lock(&core.registry).resolve(&request, only)?;
    let waiting = core.waits.enter(Wait {
        from: bundle.name.as_str().into(),
        to: provider.name.as_str().into(),
        parent,
        blocks: head.blocks,
    });
    let waiting = waiting.map_err(|chain| Failure::CycleDetected { chain })?;
    let contract = Contract::new(Arc::clone(core), provider, id).with_timeout(limit);
    contract.on_behalf_of(waiting.id()).call_raw(function, args).await
}

/// How long a call may take, zero for ever: what is left of the one that it is made for,
/// whose end ends it. The grace is added because that end shall come first, and what is at
/// fault when time is up be what was called first.
fn limit(config: &Config, due: Due) -> Duration {
    match due {
        Due::At(due) => {
            due.saturating_duration_since(Instant::now()).saturating_add(config.grace).max(LAST)
        }
        Due::Never => Duration::ZERO,
        Due::Unknown => config.deadline,
    }
}

/// Calls the host.
async fn call_host(
    core: &Arc<Core>,
    request: &ContractRequest,
    function: &str,
    args: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, Failure> {
    let deadline = if limit.is_zero() { None } else { Instant::now().checked_add(limit) };
    let answer = tokio::select! {
        biased;
        answer = core.host.call(request, core.config.compatibility, function, args) => answer?,
        () = core.sleep_until(deadline) => {
            if core.timers.are_over() {
                return Err(Failure::ShuttingDown);
            }
            let deadline_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            return Err(Failure::DeadlineExceeded { deadline_ms });
        }
    };
    let (size, limit) = (answer.len() as u64, core.config.max_payload);
    if size > limit { Err(Failure::PayloadTooLarge { size, limit }) } else { Ok(answer) }
}

/// The dependency that a call stands on, if there is one.
fn declared<'m>(
    manifest: &'m ManifestData,
    request: &ContractRequest,
    bundle: Option<&str>,
    rule: Compatibility,
) -> Option<&'m ContractDependency> {
    manifest.dependencies.iter().find(|dependency| {
        let (asked, declared) = (request.major, dependency.contract.major);
        let same_major = asked.is_none() || declared.is_none() || asked == declared;
        dependency.contract.name == request.name
            && (same_major || rule == Compatibility::Yolo)
            && (bundle.is_none()
                || dependency.bundle.is_none()
                || dependency.bundle.as_deref() == bundle)
    })
}
