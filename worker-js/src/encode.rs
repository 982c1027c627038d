//! JavaScript values into MessagePack.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use deno_core::v8;
use menagerie_protocol::msgpack::{MAX_DEPTH, Writer};

use crate::bytes::{bytes_of, was_detached};
use crate::lane::Lane;
use crate::list::List;

/// Bytes from this size on are not copied into the buffer, but handed to the
/// lane where they are.
const SPLICE_FROM: usize = 4096;

/// How much scratch memory for strings is kept for the next call.
const TEXT_KEPT: usize = 64 * 1024;

/// Memory that outlives a call, so that the next one need not allocate.
#[derive(Default)]
pub(crate) struct Buffers {
    out: Vec<u8>,
    text: Vec<u8>,
    views: Option<List>,
}

/// How much of the output's memory is kept for the next call.
const OUT_KEPT: usize = 1024 * 1024;

/// How many elements of a value share a scope. The engine keeps all that was read
/// in a scope until that ends, and would keep it all for a scope around the whole.
const STRETCH: u32 = 256;

const UNPAIRED: &str = "a string with half a surrogate pair cannot leave JavaScript";

/// A value in MessagePack, with the large bytes left out.
pub(crate) struct Encoded<'a> {
    lane: &'a Lane,
    /// How large the whole may be, in bytes.
    limit: usize,
    /// The MessagePack, without the bytes of `splices`.
    buffer: Vec<u8>,
    text: Vec<u8>,
    /// Where in `buffer` the bytes of which view belong, in ascending order.
    splices: Vec<Splice>,
    /// The views of `splices`, which outlive the scopes that they were read in.
    views: Option<List>,
    /// The bytes of all of them.
    spliced: usize,
    /// How many keys of maps are being written that are objects: none of their bytes is
    /// left out, as they are compared.
    keys: usize,
}

/// Some bytes of an `ArrayBuffer`.
struct Splice {
    at: usize,
    len: usize,
}

/// Why a value cannot leave JavaScript.
#[derive(Debug)]
pub(crate) enum EncodeError {
    /// It, or one inside it, is none that MessagePack has: a sentence that names it.
    Value(Cow<'static, str>),
    /// It is larger than what can be sent. `size` is what was counted when that
    /// was clear.
    TooLarge { size: usize, limit: usize },
    /// A getter or a proxy threw, and the exception is pending in the scope; or
    /// scripts are being ended from outside.
    Threw,
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(problem) => f.write_str(problem),
            Self::TooLarge { .. } => f.write_str("the value is too large"),
            Self::Threw => f.write_str("reading the value threw"),
        }
    }
}

impl From<&'static str> for EncodeError {
    fn from(problem: &'static str) -> Self {
        Self::Value(Cow::Borrowed(problem))
    }
}

impl From<String> for EncodeError {
    fn from(problem: String) -> Self {
        Self::Value(Cow::Owned(problem))
    }
}

impl<'a> Encoded<'a> {
    /// An empty one of at most `limit` bytes, in this memory.
    pub(crate) fn within(lane: &'a Lane, limit: usize, buffers: Buffers) -> Self {
        Self {
            lane,
            limit,
            buffer: buffers.out,
            text: buffers.text,
            splices: Vec::new(),
            views: buffers.views,
            spliced: 0,
            keys: 0,
        }
    }

    /// Gives the memory back for the next value.
    pub(crate) fn into_buffers(mut self, scope: &mut v8::PinScope<'_, '_>) -> Buffers {
        self.buffer.clear();
        self.buffer.shrink_to(OUT_KEPT);
        if let Some(views) = self.views.as_mut().filter(|_| !self.splices.is_empty()) {
            views.retain(scope, |_| false);
        }
        Buffers { out: self.buffer, text: self.text, views: self.views }
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// See [`EncodeError`].
    pub(crate) fn push<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        value: v8::Local<'s, v8::Value>,
    ) -> Result<(), EncodeError> {
        self.nested(scope, value, 0)
    }

    /// Hands the pieces of the value to `then`: for a value that is nothing but
    /// large bytes, its head and those.
    ///
    /// # Errors
    ///
    /// A getter of a later part of the value has changed an earlier part.
    pub(crate) fn with_parts<R>(
        &self,
        scope: &mut v8::PinScope<'_, '_>,
        then: impl FnOnce(&[&[u8]]) -> R,
    ) -> Result<R, EncodeError> {
        let Some(list) = self.views.as_ref().filter(|_| !self.splices.is_empty()) else {
            return Ok(then(&[&self.buffer]));
        };
        v8::scope!(let scope, scope);
        let views: Option<Vec<_>> = (0..list.len()).map(|n| list.get(scope, n)).collect();
        let views = views.ok_or(EncodeError::Threw)?;
        let mut parts: Vec<&[u8]> = Vec::with_capacity(views.len() * 2 + 1);
        let mut from = 0;
        for (splice, view) in self.splices.iter().zip(views) {
            parts.push(&self.buffer[from..splice.at]);
            // SAFETY: nothing runs until `then` returns that could detach,
            // resize or write the buffer: `then` gets no scope.
            let bytes = unsafe { bytes_of(view) };
            if bytes.len() != splice.len {
                return Err("a buffer changed while it was sent".into());
            }
            parts.push(bytes);
            from = splice.at;
        }
        if from < self.buffer.len() {
            parts.push(&self.buffer[from..]);
        }
        Ok(then(&parts))
    }

    /// The whole value in one piece.
    ///
    /// # Errors
    ///
    /// As [`with_parts`](Self::with_parts).
    pub(crate) fn into_vec(self, scope: &mut v8::PinScope<'_, '_>) -> Result<Vec<u8>, EncodeError> {
        if self.splices.is_empty() {
            return Ok(self.buffer);
        }
        self.with_parts(scope, |parts| parts.concat())
    }

    /// Whether `more` bytes can follow.
    fn room(&self, more: usize) -> Result<(), EncodeError> {
        let size = (self.buffer.len() + self.spliced).saturating_add(more);
        if size > self.limit {
            return Err(EncodeError::TooLarge { size, limit: self.limit });
        }
        Ok(())
    }

    /// Asked before each [`STRETCH`] of values: a value without getters runs no
    /// script that could be interrupted.
    fn may_go_on(&self) -> Result<(), EncodeError> {
        if self.lane.gate.is_interrupted() {
            return Err(EncodeError::Threw);
        }
        self.room(0)
    }

    fn nested<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        value: v8::Local<'s, v8::Value>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        if depth > MAX_DEPTH {
            let problem = format!("the value nests deeper than {MAX_DEPTH} levels; is it cyclic?");
            return Err(problem.into());
        }
        let mut out = Writer::new(&mut self.buffer);
        if value.is_null_or_undefined() {
            out.nil();
        } else if let Ok(number) = value.try_cast::<v8::Number>() {
            encode_number(&mut out, number.value());
        } else if let Ok(string) = value.try_cast::<v8::String>() {
            self.string(scope, string)?;
        } else if value.is_boolean() {
            out.bool(value.is_true());
        } else if let Ok(number) = value.try_cast::<v8::BigInt>() {
            encode_big_int(&mut out, number)?;
        } else if let Ok(object) = value.try_cast::<v8::Object>() {
            self.object(scope, object, depth)?;
        } else {
            return Err(format!("a {} cannot leave JavaScript", value.type_repr()).into());
        }
        Ok(())
    }

    fn object<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        object: v8::Local<'s, v8::Object>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        if let Ok(array) = object.try_cast::<v8::Array>() {
            return self.elements(scope, object, array.length(), depth);
        }
        if object.is_proxy() {
            if self.is_array(scope, object)? {
                let length = v8::String::new(scope, "length").ok_or(EncodeError::Threw)?;
                let length = object.get(scope, length.into()).ok_or(EncodeError::Threw)?;
                let length = length.uint32_value(scope).ok_or(EncodeError::Threw)?;
                return self.elements(scope, object, length, depth);
            }
        } else if self.is_plain(scope, object) {
            // Nearly all are, and the questions below cost a call each.
            return self.properties(scope, object, depth);
        }
        if object.is_uint8_array() || object.is_array_buffer() {
            return self.bytes(scope, object.into());
        }
        if object.is_map()
            && let Some(entries) = self.map_entries(scope, object)?
        {
            return self.map(scope, entries, depth);
        }
        match refused(object.into()) {
            Some(problem) => Err(problem.into()),
            None => self.properties(scope, object, depth),
        }
    }

    /// The first elements of an array, or of a proxy for one.
    fn elements<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        array: v8::Local<'s, v8::Object>,
        len: u32,
        depth: usize,
    ) -> Result<(), EncodeError> {
        // Each takes a byte at least: a claim that nothing stands behind ends here.
        self.room(len as usize)?;
        Writer::new(&mut self.buffer).array(len as usize);
        self.each(scope, array, len, depth)
    }

    /// A `Map`, told as its keys and values in turn.
    fn map<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        entries: v8::Local<'s, v8::Array>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        let len = entries.length();
        self.room(len as usize)?;
        Writer::new(&mut self.buffer).map(len as usize / 2);
        // Two objects are two keys in JavaScript, whatever is in them. The plain ones were
        // compared already.
        let mut objects = Vec::new();
        for stretch in stretches(len) {
            self.may_go_on()?;
            v8::scope!(let scope, scope);
            for index in stretch {
                let element = entries.get_index(scope, index).ok_or(EncodeError::Threw)?;
                if index % 2 == 1 || !element.is_object() {
                    self.nested(scope, element, depth + 1)?;
                    continue;
                }
                let start = self.buffer.len();
                self.keys += 1;
                self.nested(scope, element, depth + 1)?;
                self.keys -= 1;
                objects.push(start..self.buffer.len());
            }
        }
        let mut seen = HashSet::with_capacity(objects.len());
        if objects.into_iter().all(|key| seen.insert(&self.buffer[key])) {
            return Ok(());
        }
        Err("a Map with two keys of the same content cannot leave JavaScript: they are one there"
            .into())
    }

    fn each<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        array: v8::Local<'s, v8::Object>,
        len: u32,
        depth: usize,
    ) -> Result<(), EncodeError> {
        for stretch in stretches(len) {
            self.may_go_on()?;
            v8::scope!(let scope, scope);
            for index in stretch {
                let element = array.get_index(scope, index).ok_or(EncodeError::Threw)?;
                self.nested(scope, element, depth + 1)?;
            }
        }
        Ok(())
    }

    /// An object's own enumerable properties with string keys.
    fn properties<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        object: v8::Local<'s, v8::Object>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        let names = v8::GetPropertyNamesArgs {
            mode: v8::KeyCollectionMode::OwnOnly,
            property_filter: v8::PropertyFilter::ONLY_ENUMERABLE | v8::PropertyFilter::SKIP_SYMBOLS,
            index_filter: v8::IndexFilter::IncludeIndices,
            key_conversion: v8::KeyConversionMode::ConvertToString,
        };
        let keys = object.get_own_property_names(scope, names).ok_or(EncodeError::Threw)?;
        let len = keys.length();
        if len == 0 {
            refuse_hidden(scope, object)?;
        }
        self.room(len as usize * 2)?;
        Writer::new(&mut self.buffer).map(len as usize);
        for stretch in stretches(len) {
            self.may_go_on()?;
            v8::scope!(let scope, scope);
            for index in stretch {
                let key = keys.get_index(scope, index).ok_or(EncodeError::Threw)?;
                let name = key.try_cast::<v8::String>().map_err(|_| EncodeError::Threw)?;
                self.string(scope, name)?;
                let value = object.get(scope, key).ok_or(EncodeError::Threw)?;
                self.nested(scope, value, depth + 1)?;
            }
        }
        Ok(())
    }

    fn bytes<'s>(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        value: v8::Local<'s, v8::Value>,
    ) -> Result<(), EncodeError> {
        if was_detached(value) {
            return Err("the bytes are gone: a bytes argument is the guest's until its call is \
                        answered; keep a copy with slice()"
                .into());
        }
        // SAFETY: no script runs while `bytes` is in use, in the next lines.
        let bytes = unsafe { bytes_of(value) };
        let len = bytes.len();
        self.room(len)?;
        let mut out = Writer::new(&mut self.buffer);
        if len < SPLICE_FROM || self.keys > 0 {
            out.bin(bytes);
            return Ok(());
        }
        out.bin_head(len);
        let views = match &mut self.views {
            Some(views) => views,
            none => none.insert(List::new(scope, self.lane).ok_or(EncodeError::Threw)?),
        };
        views.push(scope, value).ok_or(EncodeError::Threw)?;
        self.splices.push(Splice { at: self.buffer.len(), len });
        self.spliced += len;
        Ok(())
    }

    fn string(
        &mut self,
        scope: &mut v8::PinScope<'_, '_>,
        string: v8::Local<'_, v8::String>,
    ) -> Result<(), EncodeError> {
        let units = string.length();
        // A UTF-16 unit takes at least one byte of UTF-8, and at most three.
        self.room(units)?;
        let most = units * 3;
        if self.text.len() < most {
            self.text.resize(most, 0);
        }
        let replace = v8::WriteFlags::kReplaceInvalidUtf8;
        let written = string.write_utf8_v2(scope, &mut self.text[..most], replace, None);
        let utf8 = std::str::from_utf8(&self.text[..written]).map_err(|_| UNPAIRED)?;
        // Half a surrogate pair has been replaced by now: look again.
        if utf8.contains(char::REPLACEMENT_CHARACTER) && !self.is_well_formed(scope, string) {
            return Err(UNPAIRED.into());
        }
        Writer::new(&mut self.buffer).str(utf8);
        if most > TEXT_KEPT {
            self.text = Vec::new();
        }
        Ok(())
    }

    fn is_well_formed(
        &self,
        scope: &mut v8::PinScope<'_, '_>,
        string: v8::Local<'_, v8::String>,
    ) -> bool {
        let is_well_formed = match &*self.lane.world.borrow() {
            Some(world) => v8::Local::new(scope, &world.is_well_formed),
            None => return true,
        };
        is_well_formed.call(scope, string.into(), &[]).is_some_and(|yes| yes.is_true())
    }

    /// Whether it is an array or, through any number of proxies, stands for one.
    fn is_array(
        &self,
        scope: &mut v8::PinScope<'_, '_>,
        object: v8::Local<'_, v8::Object>,
    ) -> Result<bool, EncodeError> {
        let is_array = match &*self.lane.world.borrow() {
            Some(world) => v8::Local::new(scope, &world.is_array),
            None => return Ok(false),
        };
        let receiver = v8::undefined(scope).into();
        let answer = is_array.call(scope, receiver, &[object.into()]).ok_or(EncodeError::Threw)?;
        Ok(answer.is_true())
    }

    /// Whether it is an object as `{}` makes them, or one with no prototype.
    fn is_plain(
        &self,
        scope: &mut v8::PinScope<'_, '_>,
        object: v8::Local<'_, v8::Object>,
    ) -> bool {
        let Some(prototype) = object.get_prototype(scope) else { return false };
        if prototype.is_null() {
            return true;
        }
        let plain = match &*self.lane.world.borrow() {
            Some(world) => v8::Local::new(scope, &world.object_prototype),
            None => return false,
        };
        prototype.strict_equals(plain.into())
    }

    /// A `Map`'s keys and values in turn; nothing if it only calls itself one.
    fn map_entries<'s>(
        &self,
        scope: &mut v8::PinScope<'s, '_>,
        object: v8::Local<'s, v8::Object>,
    ) -> Result<Option<v8::Local<'s, v8::Array>>, EncodeError> {
        let map_entries = match &*self.lane.world.borrow() {
            Some(world) => v8::Local::new(scope, &world.map_entries),
            None => return Ok(None),
        };
        let receiver = v8::undefined(scope).into();
        let entries = map_entries.call(scope, receiver, &[object.into()]);
        Ok(entries.ok_or(EncodeError::Threw)?.try_cast::<v8::Array>().ok())
    }
}

/// The numbers below `len`, in stretches that share a scope each.
pub(crate) fn stretches(len: u32) -> impl Iterator<Item = Range<u32>> {
    (0..len).step_by(STRETCH as usize).map(move |from| from..len.min(from.saturating_add(STRETCH)))
}

/// An object that has no properties, and yet is something: what a generator would
/// yield, and the engine's own objects that keep their state to themselves, are
/// lost as a map. A class of the bundle's may well be empty.
fn refuse_hidden(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
) -> Result<(), EncodeError> {
    // Its elements are properties: with some of them it is a map.
    if object.is_arguments_object() {
        return Ok(());
    }
    for symbol in [v8::Symbol::get_iterator(scope), v8::Symbol::get_async_iterator(scope)] {
        let method = object.get(scope, symbol.into()).ok_or(EncodeError::Threw)?;
        if !method.is_null_or_undefined() {
            return Err("an iterator cannot leave JavaScript; send [...iterator]".into());
        }
    }
    let tag = v8::Symbol::get_to_string_tag(scope);
    let tag = object.get(scope, tag.into()).ok_or(EncodeError::Threw)?;
    if !tag.is_string() {
        return Ok(());
    }
    let tag = tag.to_rust_string_lossy(scope);
    let hides = tag.starts_with("Temporal.")
        || tag.starts_with("Intl.")
        || matches!(tag.as_str(), "WeakRef" | "FinalizationRegistry");
    if hides {
        let problem = format!("a {tag} cannot leave JavaScript; send what is in it, or its text");
        return Err(problem.into());
    }
    Ok(())
}

/// Objects that would lose what they are as a map of their properties.
fn refused(value: v8::Local<'_, v8::Value>) -> Option<&'static str> {
    let problem = if value.is_function() {
        "a function cannot leave JavaScript"
    } else if value.is_promise() {
        "a promise inside a value cannot leave JavaScript; await it first"
    } else if value.is_date() {
        "a Date cannot leave JavaScript; send toISOString() or getTime()"
    } else if value.is_native_error() {
        "an Error cannot leave JavaScript as a value; throw it, or send its message"
    } else if value.is_set() {
        "a Set cannot leave JavaScript; send [...set]"
    } else if value.is_typed_array() || value.is_data_view() {
        "of the typed arrays only Uint8Array can leave JavaScript, as bytes; send \
         new Uint8Array(view.buffer, view.byteOffset, view.byteLength), or Array.from(view)"
    } else if value.is_shared_array_buffer() {
        "a SharedArrayBuffer cannot leave JavaScript; copy it"
    } else if value.is_reg_exp() {
        "a RegExp cannot leave JavaScript; send its source"
    } else if value.is_weak_map() || value.is_weak_set() {
        "a weak collection cannot leave JavaScript"
    } else if value.is_number_object()
        || value.is_string_object()
        || value.is_boolean_object()
        || value.is_big_int_object()
        || value.is_symbol_object()
    {
        "a boxed primitive cannot leave JavaScript; send its valueOf()"
    } else {
        return None;
    };
    Some(problem)
}

/// Integers travel as integers, all other numbers, and -0, as floats.
fn encode_number(out: &mut Writer<'_>, number: f64) {
    #[allow(clippy::cast_possible_truncation, reason = "compared with the number it came from")]
    let integer = number as i64;
    #[allow(clippy::cast_precision_loss, reason = "the very question")]
    let exact = integer as f64 == number
        && integer.unsigned_abs() < 1 << 53
        && !(integer == 0 && number.is_sign_negative());
    if exact {
        out.int(integer);
    } else {
        out.float(number);
    }
}

fn encode_big_int(
    out: &mut Writer<'_>,
    number: v8::Local<'_, v8::BigInt>,
) -> Result<(), EncodeError> {
    if let (value, true) = number.i64_value() {
        out.int(value);
    } else if let (value, true) = number.u64_value() {
        out.uint(value);
    } else {
        return Err("a BigInt beyond 64 bits cannot leave JavaScript".into());
    }
    Ok(())
}
