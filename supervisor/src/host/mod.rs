//! The host's own contracts, which guests call like any other bundle's
//! (`DESIGN.md` rule C5).

mod answer;
mod function;
#[cfg(test)]
mod tests;

pub use answer::{HostError, IntoAnswer, Returned};
pub use function::HostFunction;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use menagerie_protocol::contract::{ContractId, ContractRequest, is_function_name};
use menagerie_protocol::{Compatibility, Failure};

use crate::lane::lock;
use crate::to_its_end::panic_message;

/// A host function's run: its result is one MessagePack value.
pub(crate) type Run = Pin<Box<dyn Future<Output = Result<Vec<u8>, Failure>> + Send>>;

/// A host function: MessagePack arguments in.
pub(crate) type Handler = dyn Fn(&[u8]) -> Result<Run, Failure> + Send + Sync;

/// Why a function could not be added to a contract of the host's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostContractError {
    /// The contract's name is none.
    #[error("host contract: {0}")]
    Contract(#[from] menagerie_protocol::contract::ContractSyntaxError),
    /// The function's name is not snake_case (B3).
    #[error("host contract '{contract}': '{function}': function names are snake_case")]
    Function {
        /// The contract.
        contract: String,
        /// The function.
        function: String,
    },
}

/// A contract of the host's that is being given functions; each can be called
/// from the moment that it was added. Made by
/// [`Supervisor::host_contract`](crate::Supervisor::host_contract).
#[derive(Debug)]
pub struct HostContract {
    contracts: Arc<HostContracts>,
    id: Option<ContractId>,
    error: Option<HostContractError>,
}

impl HostContract {
    pub(crate) fn new(contracts: &Arc<HostContracts>, name: &str) -> Self {
        let (id, error) = match name.parse::<ContractId>() {
            Ok(id) => {
                contracts.provide(&id);
                (Some(id), None)
            }
            Err(error) => (None, Some(error.into())),
        };
        if let Some(error) = &error {
            tracing::error!("{error}");
        }
        Self { contracts: Arc::clone(contracts), id, error }
    }

    /// Adds a function, or replaces the one of that name: an `async` closure of
    /// up to eight arguments that returns a value ([`IntoAnswer`]), or a
    /// `Result` of one and an error that the calling guest sees as its own
    /// language's exception.
    ///
    /// It runs on the supervisor's runtime; one that blocks should use that
    /// runtime's `spawn_blocking`. A panic fails that one call. Its future is dropped, at
    /// whichever await it is, when the guest's process dies, when nobody waits any more for
    /// the call that the guest serves by it, and when that call's deadline has passed; the
    /// configuration's ([`Config::deadline`](crate::Config::deadline)) where the guest's
    /// language cannot tell which call it serves. What has to be done to its end goes into a
    /// task of its own.
    ///
    /// A bundle that it calls is called by the guest that has called it: a chain that
    /// comes back to a bundle which waits in it is [`Failure::CycleDetected`]. That does
    /// not hold for calls of tasks and threads that it starts: a ring of these ends at a
    /// deadline, or never where there is none.
    ///
    /// It is kept until a [`shutdown`](crate::Supervisor::shutdown) has ended, or the last
    /// [`Supervisor`](crate::Supervisor) has gone. One that holds a supervisor itself keeps
    /// it and its workers until that shutdown; a [`Contract`](crate::Contract) keeps nothing.
    /// One that is added after a shutdown is dropped at once.
    #[must_use = "`done` tells whether all names were valid"]
    pub fn function<Args, F: HostFunction<Args>>(mut self, name: &str, function: F) -> Self {
        let Some(id) = &self.id else { return self };
        if is_function_name(name) {
            let handler = Arc::new(move |args: &[u8]| function.run(args));
            self.contracts.add(id, name, handler);
        } else {
            let error =
                HostContractError::Function { contract: id.to_string(), function: name.to_owned() };
            tracing::error!("{error}");
            self.error.get_or_insert(error);
        }
        self
    }

    /// Whether every name was valid. What was is in place either way.
    ///
    /// # Errors
    ///
    /// The first name that was not.
    pub fn done(self) -> Result<(), HostContractError> {
        match self.error {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

/// All contracts of the host's.
pub(crate) struct HostContracts {
    /// `None` when everything has ended.
    contracts: Mutex<Option<Vec<Provided>>>,
}

impl Default for HostContracts {
    fn default() -> Self {
        Self { contracts: Mutex::new(Some(Vec::new())) }
    }
}

struct Provided {
    id: ContractId,
    functions: BTreeMap<String, Arc<Handler>>,
}

impl std::fmt::Debug for HostContracts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let contracts = lock(&self.contracts);
        f.debug_list().entries(contracts.iter().flatten().map(|provided| &provided.id)).finish()
    }
}

impl HostContracts {
    fn provide(&self, id: &ContractId) {
        let mut contracts = lock(&self.contracts);
        let Some(contracts) = &mut *contracts else { return };
        if !contracts.iter().any(|provided| provided.id == *id) {
            contracts.push(Provided { id: id.clone(), functions: BTreeMap::new() });
        }
    }

    fn add(&self, id: &ContractId, name: &str, handler: Arc<Handler>) {
        let mut contracts = lock(&self.contracts);
        let provided = contracts.iter_mut().flatten().find(|provided| provided.id == *id);
        let unneeded = match provided {
            Some(provided) => provided.functions.insert(name.to_owned(), handler),
            None => Some(handler),
        };
        drop(contracts);
        // Whatever it holds goes without the lock: that may be a supervisor.
        drop(unneeded);
    }

    /// There are none from now on; what the functions hold goes.
    pub(crate) fn clear(&self) {
        let all = lock(&self.contracts).take();
        drop(all);
    }

    /// Whether the host serves a request.
    pub(crate) fn serves(&self, request: &ContractRequest, rule: Compatibility) -> bool {
        lock(&self.contracts).iter().flatten().any(|provided| rule.serves(&provided.id, request))
    }

    /// Calls a function of the newest version that will do (R1).
    pub(crate) async fn call(
        &self,
        request: &ContractRequest,
        rule: Compatibility,
        function: &str,
        args: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let (contract, handler) = {
            let contracts = lock(&self.contracts);
            let provided = contracts
                .iter()
                .flatten()
                .filter(|provided| rule.serves(&provided.id, request))
                .max_by_key(|Provided { id, .. }| (id.major, id.minor, id.patch))
                .ok_or_else(|| Failure::NoSuchContract { contract: request.to_string() })?;
            let contract = provided.id.to_string();
            let Some(handler) = provided.functions.get(function) else {
                return Err(Failure::NoSuchFunction {
                    contract,
                    function: function.to_owned(),
                    available: provided.functions.keys().cloned().collect(),
                });
            };
            (contract, Arc::clone(handler))
        };
        // The function may panic before it returns its future as well.
        let run = AssertUnwindSafe(async move { handler(args)?.await });
        run.catch_unwind().await.unwrap_or_else(|panic| {
            Err(Failure::HostPanicked {
                contract,
                function: function.to_owned(),
                message: panic_message(&*panic),
            })
        })
    }
}
