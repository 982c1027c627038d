//! What the native functions of one bundle share with its instance. It all
//! belongs to the lane's thread.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use deno_core::v8;
use menagerie_protocol::{Failure, Host, Logger, Reply};

use crate::bootstrap::World;
use crate::borrowed::Lent;
use crate::interrupt::Gate;
use crate::modules::Modules;
use crate::rejections::Rejections;
use crate::timers::{TimerId, Timers};

/// A call of ours that waits for its promise.
pub(crate) struct Begun {
    /// Where its answer goes.
    pub(crate) reply: Reply,
    /// What its arguments lent to the guest.
    pub(crate) lent: Lent,
}

/// A call of the guest's that waits for its answer, and the call that it serves.
pub(crate) type Waiting = (v8::Global<v8::PromiseResolver>, u64);

/// The answer to a call that the guest made.
pub(crate) type Answer = (u32, Result<Vec<u8>, Failure>);

/// One generation's state beside the engine's own.
pub(crate) struct Lane {
    /// Calls to others.
    pub(crate) host: Host,
    /// The bundle's log.
    pub(crate) logger: Logger,
    /// Calls of ours whose promises are pending, by their ids.
    pub(crate) begun: RefCell<HashMap<u64, Begun>>,
    /// The guest's own calls that wait for an answer.
    pub(crate) resolvers: RefCell<HashMap<u32, Waiting>>,
    /// The call that the running script serves, or 0. Whatever runs before the
    /// microtasks are done serves the same one.
    pub(crate) serving: Cell<u64>,
    /// For which calls timers were set.
    pub(crate) timer_calls: RefCell<HashMap<TimerId, u64>>,
    /// Answers that arrived and have not been given to the guest yet. The lane
    /// may deliver one after the engine is gone, hence the `Rc` of its own.
    pub(crate) answers: Rc<RefCell<VecDeque<Answer>>>,
    /// Numbers for `resolvers`.
    pub(crate) next_id: Cell<u32>,
    /// The script's timers.
    pub(crate) timers: RefCell<Timers>,
    /// Promises that were rejected while nobody had subscribed to them.
    pub(crate) rejections: RefCell<Option<Rejections>>,
    /// While the bundle loads and in its hooks no call comes to the lane, so the
    /// guest's calls block there.
    pub(crate) blocking: Cell<bool>,
    /// Stops the scripts.
    pub(crate) gate: Arc<Gate>,
    /// The bundle's modules.
    pub(crate) modules: Modules,
    /// Functions of `bootstrap.js`, once it has run.
    pub(crate) world: RefCell<Option<World>>,
}

impl Lane {
    /// The state of a bundle in which nothing has run yet.
    pub(crate) fn new(host: Host, logger: Logger, gate: Arc<Gate>, modules: Modules) -> Rc<Self> {
        Rc::new(Self {
            host,
            logger,
            begun: RefCell::default(),
            resolvers: RefCell::default(),
            serving: Cell::new(0),
            timer_calls: RefCell::default(),
            answers: Rc::default(),
            next_id: Cell::new(0),
            timers: RefCell::default(),
            rejections: RefCell::default(),
            blocking: Cell::new(true),
            gate,
            modules,
            world: RefCell::default(),
        })
    }

    /// The lane that `scope`'s engine belongs to.
    ///
    /// # Panics
    ///
    /// The engine was not made by this crate.
    pub(crate) fn of(isolate: &v8::Isolate) -> Rc<Self> {
        let lane = isolate.get_slot::<Rc<Self>>();
        Rc::clone(lane.expect("the engine was made with a lane"))
    }

    /// A continuation is about to run that serves this call, or none (0).
    pub(crate) fn serve(&self, call: u64) {
        self.serving.set(call);
        // One that was given up is nobody's any more.
        let waits = self.begun.borrow().contains_key(&call);
        self.gate.enter_continuation(if waits { call } else { 0 });
    }

    /// A number that nothing waits under.
    pub(crate) fn fresh_id(&self) -> u32 {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        id
    }

    /// Whether anything is left for the event loop to do or to wait for.
    pub(crate) fn has_work(&self) -> bool {
        !self.begun.borrow().is_empty() || self.waits()
    }

    /// Whether a timer is set, or an answer to the guest outstanding.
    pub(crate) fn waits(&self) -> bool {
        !self.timers.borrow().is_empty() || !self.resolvers.borrow().is_empty()
    }

    /// Lets go of all that refers to the engine, before the engine is dropped.
    pub(crate) fn clear(&self) {
        self.resolvers.borrow_mut().clear();
        self.rejections.take();
        self.world.borrow_mut().take();
        self.modules.clear();
    }
}
