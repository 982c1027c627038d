//! The bundle's asynchronous work: timers, and answers to the guest's calls. The
//! lane drives it; nothing here has a thread.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use deno_core::v8;
use menagerie_protocol::{Failure, GuestError};

use crate::call;
use crate::failure::{self, ended, thrown};
use crate::guest_error::from_exception;
use crate::instance::{JsInstance, enter};
use crate::lane::Lane;
use crate::modules::evaluate;
use crate::waiting::sleep;

impl JsInstance {
    /// Runs whatever is ready.
    pub(crate) fn turn(&mut self) {
        if !self.is_anything_ready() {
            return;
        }
        self.gate.enter_turn();
        let lost = self.turn_inside();
        let interrupted = self.gate.leave();
        self.fail_begun(lost.or_else(|| interrupted.then_some(Failure::Cancelled)));
    }

    /// Cheap, since the lane asks again and again while it is awake.
    fn is_anything_ready(&self) -> bool {
        let due = || self.lane.timers.borrow().next().is_some_and(|due| due <= Instant::now());
        !self.lane.answers.borrow().is_empty() || self.gate.any_cancelled() || due()
    }

    /// A turn while the gate is entered already, and what cut it short, if
    /// continuations may be lost by that.
    fn turn_inside(&mut self) -> Option<Failure> {
        if self.gate.any_cancelled() {
            self.cancel_begun();
        }
        enter!(scope, self.engine);
        let lane = &self.lane;
        let lost = give_answers(scope, lane).or_else(|| fire_timers(scope, lane)).or_else(|| {
            lane.serve(0);
            lane.run_microtasks(scope)
        });
        lane.serve(0);
        lane.tell_rejections(scope, &self.gate);
        lost
    }

    /// Continuations may have been lost, as `lost` has ended scripts from outside,
    /// and the engine does not say whose: no call that was at an await then may
    /// wait for ever, so all of them fail.
    pub(crate) fn fail_begun(&mut self, lost: Option<Failure>) {
        let Some(failure) = lost else { return };
        let begun: Vec<_> = self.lane.begun.borrow_mut().drain().collect();
        enter!(scope, self.engine);
        for (_, begun) in begun {
            begun.reply.fail(failure.clone());
            begun.lent.give_back(scope);
        }
    }

    /// Answers the calls that are to be cancelled while they wait. What is left
    /// of them runs on, and finds that nobody listens.
    fn cancel_begun(&mut self) {
        let cancelled = self.gate.take_cancelled();
        let begun: Vec<_> =
            self.lane.begun.borrow_mut().extract_if(|call, _| cancelled.contains(call)).collect();
        enter!(scope, self.engine);
        for (_, begun) in begun {
            begun.reply.fail(Failure::Cancelled);
            begun.lent.give_back(scope);
        }
    }

    /// Sleeps and works until `wake` is readable or nothing is left to do.
    pub(crate) fn wait_for(&mut self, wake: BorrowedFd<'_>) {
        while self.lane.has_work() {
            let time = self.time_to_sleep();
            if sleep(&[self.gate.wake(), wake], time) {
                return;
            }
            self.turn();
        }
    }

    /// Until when nothing can become ready by itself; `None` for ever.
    fn time_to_sleep(&self) -> Option<Duration> {
        if !self.lane.answers.borrow().is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.lane.timers.borrow().next()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Works until the promise is settled, while the gate is entered.
    pub(crate) fn until_settled(
        &mut self,
        promise: &v8::Global<v8::Value>,
        problem: &str,
    ) -> Result<(), GuestError> {
        loop {
            if let Some(failure) = self.turn_inside() {
                self.fail_begun(Some(failure.clone()));
                return Err(failure::guest_error(failure));
            }
            {
                enter!(scope, self.engine);
                let pending = v8::Local::new(scope, promise)
                    .try_cast::<v8::Promise>()
                    .is_ok_and(|promise| promise.state() == v8::PromiseState::Pending);
                if !pending {
                    return Ok(());
                }
            }
            self.sleep_or_give_up(problem)?;
        }
    }

    fn sleep_or_give_up(&mut self, problem: &str) -> Result<(), GuestError> {
        if !self.lane.waits() {
            return Err(GuestError::new(
                "Error",
                format!("{problem}: nothing is left to wait for"),
            ));
        }
        let time = self.time_to_sleep();
        self.lane.host.wait_for_answers(|wake| {
            sleep(&[self.gate.wake(), wake], time);
        });
        Ok(())
    }

    /// Loads and runs the main module, and returns what it exports. A failure
    /// comes with the step's name.
    pub(crate) fn import(&mut self) -> Result<v8::Global<v8::Object>, (&'static str, GuestError)> {
        self.gate.enter_call();
        let result = self.import_inside();
        if self.gate.leave() {
            return Err(("initialise", failure::guest_error(Failure::Cancelled)));
        }
        result
    }

    fn import_inside(&mut self) -> Result<v8::Global<v8::Object>, (&'static str, GuestError)> {
        let (evaluated, namespace) = {
            enter!(scope, self.engine);
            let modules = &self.lane.modules;
            let module = modules.load(scope, modules.sources.main()).map_err(|error| {
                let error = from_exception(scope, error);
                if error.type_name != "SyntaxError" {
                    return ("import", error);
                }
                ("compile", with_place(error))
            })?;
            let evaluated = evaluate(scope, module).map_err(|thrown| {
                let error = match ended(scope, &self.gate) {
                    Some(failure) => failure::guest_error(failure),
                    None => from_exception(scope, thrown),
                };
                self.lane.tell_rejections(scope, &self.gate);
                ("initialise", error)
            })?;
            // Its rejection is the load's error, and nothing that nobody saw.
            evaluated.mark_as_handled();
            let namespace = module.get_module_namespace().try_cast::<v8::Object>();
            let namespace = namespace
                .map_err(|_| ("import", GuestError::new("Error", "the module has no exports")))?;
            let evaluated: v8::Local<'_, v8::Value> = evaluated.into();
            (v8::Global::new(scope, evaluated), v8::Global::new(scope, namespace))
        };
        self.until_settled(&evaluated, "the module awaits for ever")
            .map_err(|e| ("initialise", e))?;
        enter!(scope, self.engine);
        let evaluated = v8::Local::new(scope, evaluated).try_cast::<v8::Promise>();
        match evaluated {
            Ok(promise) if promise.state() == v8::PromiseState::Rejected => {
                let thrown = promise.result(scope);
                Err(("initialise", from_exception(scope, thrown)))
            }
            _ => Ok(namespace),
        }
    }
}

/// Gives the guest the answers that have come. Between two, calls that are to be
/// cancelled come first: the rest is for the next turn.
fn give_answers(scope: &mut v8::PinScope<'_, '_>, lane: &Lane) -> Option<Failure> {
    while !lane.gate.any_cancelled() {
        let (id, result) = lane.answers.borrow_mut().pop_front()?;
        let resolver = lane.resolvers.borrow_mut().remove(&id);
        let Some((resolver, serving)) = resolver else { continue };
        // What waited for the answer goes on for the same call.
        lane.serve(serving);
        v8::scope!(let scope, scope);
        let resolver = v8::Local::new(scope, resolver);
        call::deliver(scope, lane, resolver, result);
        let lost = lane.run_microtasks(scope);
        if lost.is_some() {
            return lost;
        }
    }
    None
}

/// Fires the timers that are due, as [`give_answers`] gives answers.
fn fire_timers(scope: &mut v8::PinScope<'_, '_>, lane: &Lane) -> Option<Failure> {
    let world = lane.world.borrow();
    let fire = v8::Local::new(scope, &world.as_ref()?.fire_timer);
    drop(world);
    // Timers that are set from now on are for a later turn, however short
    // they are, so that a turn ends.
    let now = Instant::now();
    while !lane.gate.any_cancelled() {
        let id = lane.timers.borrow_mut().take_due(now)?;
        lane.serve(lane.timer_calls.borrow_mut().remove(&id).unwrap_or(0));
        v8::scope!(let scope, scope);
        {
            v8::tc_scope!(let tc, scope);
            let receiver = v8::undefined(tc).into();
            let id = v8::Integer::new_from_unsigned(tc, id).into();
            if fire.call(tc, receiver, &[id]).is_none() {
                match thrown(tc, &lane.gate) {
                    Failure::Cancelled => return Some(Failure::Cancelled),
                    other => lane.uncaught("Uncaught", &failure::guest_error(other)),
                }
            }
        }
        let lost = lane.run_microtasks(scope);
        if lost.is_some() {
            return lost;
        }
    }
    None
}

/// A syntax error whose message says where it is, as its stack does.
fn with_place(mut error: GuestError) -> GuestError {
    let place = error.stack.lines().find_map(|line| line.trim_start().strip_prefix("at "));
    if let Some(place) = place.filter(|place| !error.message.contains(place)) {
        error.message = format!("{} ({place})", error.message);
    }
    error
}
