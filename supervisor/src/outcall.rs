//! Calls that guests make into other bundles (`DESIGN.md` rule C5).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use menagerie_protocol::contract::ContractRequest;
use menagerie_protocol::loader::manifest::DependencyKind;
use menagerie_protocol::msgpack::Reader;
use menagerie_protocol::{Failure, lane};

use crate::bundle::Bundle;
use crate::call::Contract;
use crate::core::Core;
use crate::lane::{Lane, Refused, lock};

/// Who waits for whom at this moment, by name.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<Vec<(String, String)>>);

impl Waits {
    /// Takes note that `from` waits for `to`, unless that closes a ring.
    fn enter(&self, from: &str, to: &str) -> Result<Guard<'_>, Failure> {
        let mut edges = lock(&self.0);
        if let Some(mut chain) = path(&edges, to, from) {
            chain.insert(0, from.to_owned());
            return Err(Failure::CycleDetected { chain });
        }
        let edge = (from.to_owned(), to.to_owned());
        edges.push(edge.clone());
        Ok(Guard { waits: self, edge })
    }
}

struct Guard<'w> {
    waits: &'w Waits,
    edge: (String, String),
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut edges = lock(&self.waits.0);
        if let Some(at) = edges.iter().position(|edge| *edge == self.edge) {
            edges.swap_remove(at);
        }
    }
}

/// The way from one bundle to another along the waits, if there is one.
fn path(edges: &[(String, String)], from: &str, to: &str) -> Option<Vec<String>> {
    fn go(edges: &[(String, String)], at: &str, to: &str, seen: &mut Vec<String>) -> bool {
        if seen.iter().any(|name| name == at) {
            return false;
        }
        seen.push(at.to_owned());
        if at == to {
            return true;
        }
        for (from, next) in edges {
            if from == at && go(edges, next, to, seen) {
                return true;
            }
        }
        seen.pop();
        false
    }
    let mut seen = Vec::new();
    go(edges, from, to, &mut seen).then_some(seen)
}

/// Carries a guest's call out, and answers it on its lane.
pub(crate) async fn route(
    core: Arc<Core>,
    bundle: Arc<Bundle>,
    lane: Arc<Lane>,
    call: u64,
    payload: Vec<u8>,
) {
    let result = carry_out(&core, &bundle, &payload).await;
    loop {
        match lane.send_answer(call, &result) {
            Ok(()) | Err(Refused::Dead) => break,
            Err(Refused::Busy | Refused::Overloaded) => {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    }
    lane.outcall_ended();
}

async fn carry_out(
    core: &Arc<Core>,
    bundle: &Arc<Bundle>,
    payload: &[u8],
) -> Result<Vec<u8>, Failure> {
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
    let declared = bundle
        .manifest
        .load()
        .dependencies
        .iter()
        .find(|dependency| {
            dependency.contract.name == request.name
                && request
                    .major
                    .is_none_or(|major| dependency.contract.major.is_none_or(|m| m == major))
                && (wanted.is_none()
                    || dependency.bundle.is_none()
                    || dependency.bundle.as_deref() == wanted)
        })
        .cloned();
    let Some(declared) = declared else {
        return Err(Failure::UndeclaredDependency {
            bundle: bundle.name.clone(),
            contract: contract.to_owned(),
        });
    };
    if declared.kind == DependencyKind::Host {
        return Err(Failure::NoSuchContract { contract: contract.to_owned() });
    }
    let only = wanted.or(declared.bundle.as_deref());
    let (provider, id) = lock(&core.registry).resolve(&request, only)?;
    let _waiting = core.waits.enter(&bundle.name, &provider.name)?;
    Contract::new(Arc::clone(core), provider, id).call_raw(function, args).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c5_a_ring_of_waits_is_a_cycle_and_names_its_members() {
        let waits = Waits::default();
        let _ab = waits.enter("a", "b").unwrap();
        let _bc = waits.enter("b", "c").unwrap();
        let Err(Failure::CycleDetected { chain }) = waits.enter("c", "a").map(drop) else {
            panic!()
        };
        assert_eq!(chain, ["c", "a", "b", "c"]);
        let Err(Failure::CycleDetected { chain }) = waits.enter("a", "a").map(drop) else {
            panic!()
        };
        assert_eq!(chain, ["a", "a"]);
        let _ac = waits.enter("a", "c").unwrap();
    }

    #[test]
    fn c5_a_wait_that_has_ended_is_forgotten() {
        let waits = Waits::default();
        drop(waits.enter("a", "b").unwrap());
        let _ba = waits.enter("b", "a").unwrap();
    }
}
