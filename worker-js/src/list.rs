//! Values of the engine's that outlive their scope, many at a time.

use deno_core::v8;

use crate::lane::Lane;

/// A list of the engine's own, out of any script's reach. One handle holds it: for
/// each of the values a `Global` would cost, when it is dropped, time in proportion
/// to all that there are.
pub(crate) struct List {
    array: v8::Global<v8::Array>,
    len: u32,
}

impl List {
    /// An empty one; nothing if there is no memory for it.
    pub(crate) fn new(scope: &mut v8::PinScope<'_, '_>, lane: &Lane) -> Option<Self> {
        let make_list = match &*lane.world.borrow() {
            Some(world) => v8::Local::new(scope, &world.make_list),
            None => return None,
        };
        let receiver = v8::undefined(scope).into();
        let array = make_list.call(scope, receiver, &[])?.try_cast::<v8::Array>().ok()?;
        Some(Self { array: v8::Global::new(scope, array), len: 0 })
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// Appends one; nothing if there is no memory for it.
    pub(crate) fn push(
        &mut self,
        scope: &mut v8::PinScope<'_, '_>,
        value: v8::Local<'_, v8::Value>,
    ) -> Option<()> {
        v8::scope!(let scope, scope);
        let array = v8::Local::new(scope, &self.array);
        array.set_index(scope, self.len, value).filter(|done| *done)?;
        self.len += 1;
        Some(())
    }

    /// One of them.
    pub(crate) fn get<'s>(
        &self,
        scope: &mut v8::PinScope<'s, '_>,
        index: u32,
    ) -> Option<v8::Local<'s, v8::Value>> {
        let array = v8::Local::new(scope, &self.array);
        array.get_index(scope, index)
    }

    /// Drops all others than these.
    pub(crate) fn retain(
        &mut self,
        scope: &mut v8::PinScope<'_, '_>,
        keep: impl Fn(v8::Local<'_, v8::Value>) -> bool,
    ) {
        v8::scope!(let scope, scope);
        let array = v8::Local::new(scope, &self.array);
        let mut kept = 0;
        for index in 0..self.len {
            v8::scope!(let scope, scope);
            let Some(value) = array.get_index(scope, index).filter(|value| keep(*value)) else {
                continue;
            };
            if array.set_index(scope, kept, value) == Some(true) {
                kept += 1;
            }
        }
        let nothing = v8::undefined(scope).into();
        for index in kept..self.len {
            array.set_index(scope, index, nothing);
        }
        self.len = kept;
    }
}
