//! `menagerie.bytes`: bytes as Lua sees them.
//!
//! Lua's own strings are byte strings, so a bytes value that happens to be
//! UTF-8 would turn into a string on its way back; therefore bytes arrive as a
//! type of their own.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use menagerie_protocol::shm::Segment;
use mlua::{AnyUserData, Lua, MetaMethod, UserData, UserDataMethods, Value, Variadic};

use crate::stack::collect;

/// From this size on an argument is not copied but seen where it lies.
pub(crate) const VIEW_FROM: usize = 4096;

/// Counts a bundle's calls, so that a view can tell whether its own call is
/// still running: when that is answered, its memory is used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch(Rc<Cell<u64>>);

impl Epoch {
    /// Ends the validity of all views made so far.
    pub(crate) fn advance(&self) {
        self.0.set(self.0.get().wrapping_add(1));
    }
}

/// The memory that a view looks at.
#[derive(Debug)]
struct View {
    data: *const u8,
    len: usize,
    /// Keeps the memory mapped.
    _segment: Arc<Segment>,
    /// The call that the memory belongs to.
    made: u64,
    now: Epoch,
}

impl View {
    fn slice(&self) -> Result<&[u8], &'static str> {
        if self.made != self.now.0.get() {
            return Err(STALE);
        }
        // SAFETY: the range was a slice of the segment's mapping (seen by
        // `offset_of`), which our `Arc` keeps mapped. The supervisor does not
        // write what it sent before the call is answered; the epoch ends with
        // the answer, so the call still runs, and who answers it holds no slice
        // afterwards.
        Ok(unsafe { std::slice::from_raw_parts(self.data, self.len) })
    }
}

/// A Lua string is copied as well: of values that Rust holds there are a few thousand at
/// most, and a bundle may have more of these.
#[derive(Debug)]
enum Memory {
    Own(Box<[u8]>),
    View(View),
}

/// How many bytes lie where Lua's collector does not see them, since it last heard of
/// any: it takes them for as small as their handles, and would let gigabytes pile up.
#[derive(Debug, Default)]
pub(crate) struct Unseen(Cell<usize>);

/// From so many on the collector hears of them: less would cost each small one a step.
const TELL_FROM: usize = 64 << 10;

/// The userdata behind `menagerie.bytes`.
#[derive(Debug)]
pub(crate) struct Bytes(Memory);

/// A view was used after its call.
pub(crate) const STALE: &str =
    "these bytes were an argument of an earlier call; keep a copy: tostring(bytes)";

impl Bytes {
    /// Bytes of their own.
    pub(crate) fn copy(bytes: &[u8]) -> Self {
        Self(Memory::Own(bytes.into()))
    }

    /// A view of an argument that lies in `segment`, valid for this call.
    pub(crate) fn view(bytes: &[u8], segment: &Arc<Segment>, now: &Epoch) -> Self {
        if segment.mapping.offset_of(bytes).is_none() {
            return Self::copy(bytes);
        }
        Self(Memory::View(View {
            data: bytes.as_ptr(),
            len: bytes.len(),
            _segment: Arc::clone(segment),
            made: now.0.get(),
            now: now.clone(),
        }))
    }

    /// Hands them to Lua, whose collector then works as if it had allocated them.
    pub(crate) fn create(self, lua: &Lua) -> mlua::Result<AnyUserData> {
        let unseen = if let Memory::Own(bytes) = &self.0 { bytes.len() } else { 0 };
        let bytes = lua.create_userdata(self)?;
        let told = match lua.app_data_ref::<Unseen>() {
            Some(all) => {
                let sum = all.0.get().saturating_add(unseen);
                let told = if sum < TELL_FROM { 0 } else { sum };
                all.0.set(sum - told);
                told
            }
            None => unseen,
        };
        if told > 0 {
            collect(lua, told)?;
        }
        Ok(bytes)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Memory::Own(bytes) => bytes.len(),
            Memory::View(view) => view.len,
        }
    }

    /// The bytes; [`STALE`] if they are not valid any more.
    pub(crate) fn slice(&self) -> Result<&[u8], &'static str> {
        match &self.0 {
            Memory::Own(bytes) => Ok(bytes),
            Memory::View(view) => view.slice(),
        }
    }

    fn read<R>(&self, f: impl FnOnce(&[u8]) -> R) -> mlua::Result<R> {
        Ok(f(self.slice().map_err(mlua::Error::runtime)?))
    }
}

/// `menagerie.bytes(value)`: a copy of a string or of other bytes.
pub(crate) fn make(lua: &Lua, value: Value) -> mlua::Result<AnyUserData> {
    let bytes = match value {
        Value::String(text) => Bytes::copy(&text.as_bytes()),
        Value::UserData(other) => other.borrow::<Bytes>()?.read(Bytes::copy)?,
        other => {
            let problem = format!("bytes: expected a string, got {}", other.type_name());
            return Err(mlua::Error::runtime(problem));
        }
    };
    bytes.create(lua)
}

/// Lua's `i`, `j`, counted from 1 or from the end, as a range from 0.
fn range(len: usize, i: i64, j: i64) -> std::ops::Range<usize> {
    let signed = i64::try_from(len).unwrap_or(i64::MAX);
    let absolute = |n: i64| if n < 0 { signed.saturating_add(n).saturating_add(1) } else { n };
    let from = usize::try_from(absolute(i).max(1) - 1).unwrap_or(len);
    let to = usize::try_from(absolute(j).clamp(0, signed)).unwrap_or(len);
    if from < to { from..to } else { 0..0 }
}

fn append(out: &mut Vec<u8>, value: &Value) -> mlua::Result<()> {
    match value {
        Value::String(text) => out.extend_from_slice(&text.as_bytes()),
        Value::UserData(bytes) if bytes.is::<Bytes>() => {
            bytes.borrow::<Bytes>()?.read(|bytes| out.extend_from_slice(bytes))?;
        }
        other => {
            let problem = format!("attempt to concatenate bytes and a {} value", other.type_name());
            return Err(mlua::Error::runtime(problem));
        }
    }
    Ok(())
}

impl UserData for Bytes {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::Len, |_, this, ()| Ok(this.len()));
        methods.add_meta_method(MetaMethod::ToString, |lua, this, ()| {
            this.read(|bytes| lua.create_string(bytes))?
        });
        methods.add_meta_function(MetaMethod::Concat, |lua, (a, b): (Value, Value)| {
            let mut out = Vec::new();
            append(&mut out, &a)?;
            append(&mut out, &b)?;
            Self(Memory::Own(out.into())).create(lua)
        });
        methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (AnyUserData, AnyUserData)| {
            let (Ok(a), Ok(b)) = (a.borrow::<Self>(), b.borrow::<Self>()) else {
                return Ok(false);
            };
            a.read(|a| b.read(|b| a == b))?
        });
        methods.add_method("sub", |lua, this, (i, j): (i64, Option<i64>)| {
            let range = range(this.len(), i, j.unwrap_or(-1));
            this.read(|bytes| Self::copy(&bytes[range]))?.create(lua)
        });
        methods.add_method("byte", |_, this, (i, j): (Option<i64>, Option<i64>)| {
            let i = i.unwrap_or(1);
            let range = range(this.len(), i, j.unwrap_or(i));
            this.read(|bytes| bytes[range].iter().copied().collect::<Variadic<u8>>())
        });
    }
}
