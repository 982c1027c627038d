//! JavaScript values into MessagePack.

use deno_core::v8;
use menagerie_protocol::msgpack::{MAX_DEPTH, Writer};

use crate::bytes::{bytes_of, was_detached};
use crate::lane::Lane;

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
}

/// How much of the output's memory is kept for the next call.
const OUT_KEPT: usize = 1024 * 1024;

/// A value in MessagePack, with the large bytes left out.
#[derive(Default)]
pub(crate) struct Encoded<'s> {
    /// The MessagePack, without the bytes of `splices`.
    buffer: Vec<u8>,
    text: Vec<u8>,
    /// Where in `buffer` the bytes of which view belong, in ascending order.
    splices: Vec<(usize, View<'s>)>,
}

/// Some bytes of an `ArrayBuffer`.
struct View<'s> {
    view: v8::Local<'s, v8::Value>,
    len: usize,
}

/// Why a value cannot leave JavaScript: a sentence that names the value.
pub(crate) type EncodeError = String;

impl<'s> Encoded<'s> {
    /// An empty one in this memory.
    pub(crate) fn within(buffers: Buffers) -> Self {
        Self { buffer: buffers.out, text: buffers.text, splices: Vec::new() }
    }

    /// Gives the memory back for the next value.
    pub(crate) fn into_buffers(mut self) -> Buffers {
        self.buffer.clear();
        self.buffer.shrink_to(OUT_KEPT);
        Buffers { out: self.buffer, text: self.text }
    }

    /// Appends a value.
    ///
    /// # Errors
    ///
    /// The value, or one inside it, is none that MessagePack has. If a getter
    /// threw, the exception is pending in `scope`.
    pub(crate) fn push(
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
    pub(crate) fn with_parts<R>(&self, then: impl FnOnce(&[&[u8]]) -> R) -> Result<R, EncodeError> {
        if self.splices.is_empty() {
            return Ok(then(&[&self.buffer]));
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.splices.len() * 2 + 1);
        let mut from = 0;
        for (at, view) in &self.splices {
            parts.push(&self.buffer[from..*at]);
            // SAFETY: nothing runs until `then` returns that could detach,
            // resize or write the buffer: `then` gets no scope.
            let bytes = unsafe { bytes_of(view.view) };
            if bytes.len() != view.len {
                return Err("a buffer changed while it was sent".to_owned());
            }
            parts.push(bytes);
            from = *at;
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
    pub(crate) fn into_vec(self) -> Result<Vec<u8>, EncodeError> {
        if self.splices.is_empty() {
            return Ok(self.buffer);
        }
        self.with_parts(|parts| parts.concat())
    }

    fn nested(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        value: v8::Local<'s, v8::Value>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        if depth > MAX_DEPTH {
            return Err(format!("the value nests deeper than {MAX_DEPTH} levels; is it cyclic?"));
        }
        let mut out = Writer::new(&mut self.buffer);
        if value.is_null_or_undefined() {
            out.nil();
        } else if let Ok(number) = value.try_cast::<v8::Number>() {
            encode_number(&mut out, number.value());
        } else if let Ok(string) = value.try_cast::<v8::String>() {
            encode_string(scope, &mut self.buffer, &mut self.text, string)?;
        } else if value.is_boolean() {
            out.bool(value.is_true());
        } else if let Ok(number) = value.try_cast::<v8::BigInt>() {
            encode_big_int(&mut out, number)?;
        } else if let Ok(object) = value.try_cast::<v8::Object>() {
            self.object(scope, object, depth)?;
        } else {
            return Err(format!("a {} cannot leave JavaScript", value.type_repr()));
        }
        Ok(())
    }

    fn object(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        object: v8::Local<'s, v8::Object>,
        depth: usize,
    ) -> Result<(), EncodeError> {
        if let Ok(array) = object.try_cast::<v8::Array>() {
            self.elements(scope, object, array.length(), depth)
        } else if object.is_proxy() && is_array(scope, object)? {
            let length = v8::String::new(scope, "length").ok_or_else(thrown)?;
            let length = object.get(scope, length.into()).ok_or_else(thrown)?;
            let length = length.uint32_value(scope).ok_or_else(thrown)?;
            self.elements(scope, object, length, depth)
        } else if object.is_uint8_array() || object.is_array_buffer() {
            self.bytes(object.into())
        } else if let Ok(map) = object.try_cast::<v8::Map>() {
            let entries = map.as_array(scope);
            // Keys and values in turn.
            Writer::new(&mut self.buffer).map(entries.length() as usize / 2);
            for index in 0..entries.length() {
                let entry = entries.get_index(scope, index).ok_or_else(thrown)?;
                self.nested(scope, entry, depth + 1)?;
            }
            Ok(())
        } else if let Some(problem) = refused(object.into()) {
            Err(problem.to_owned())
        } else {
            self.plain(scope, object, depth)
        }
    }

    /// The first elements of an array, or of a proxy for one.
    fn elements(
        &mut self,
        scope: &mut v8::PinScope<'s, '_>,
        array: v8::Local<'s, v8::Object>,
        len: u32,
        depth: usize,
    ) -> Result<(), EncodeError> {
        Writer::new(&mut self.buffer).array(len as usize);
        for index in 0..len {
            let element = array.get_index(scope, index).ok_or_else(thrown)?;
            self.nested(scope, element, depth + 1)?;
        }
        Ok(())
    }

    /// An object's own enumerable properties with string keys.
    fn plain(
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
        let keys = object.get_own_property_names(scope, names).ok_or_else(thrown)?;
        // What a generator would yield is not among them.
        if keys.length() == 0 && is_iterable(scope, object)? {
            return Err("an iterator cannot leave JavaScript; send [...iterator]".to_owned());
        }
        Writer::new(&mut self.buffer).map(keys.length() as usize);
        for index in 0..keys.length() {
            let key = keys.get_index(scope, index).ok_or_else(thrown)?;
            let name = key.try_cast::<v8::String>().map_err(|_| thrown())?;
            encode_string(scope, &mut self.buffer, &mut self.text, name)?;
            let value = object.get(scope, key).ok_or_else(thrown)?;
            self.nested(scope, value, depth + 1)?;
        }
        Ok(())
    }

    fn bytes(&mut self, value: v8::Local<'s, v8::Value>) -> Result<(), EncodeError> {
        if was_detached(value) {
            return Err("the bytes are gone: a bytes argument is the guest's until its call is \
                        answered; keep a copy with slice()"
                .to_owned());
        }
        // SAFETY: no script runs while `bytes` is in use, in the next lines.
        let bytes = unsafe { bytes_of(value) };
        let mut out = Writer::new(&mut self.buffer);
        if bytes.len() < SPLICE_FROM {
            out.bin(bytes);
        } else {
            out.bin_head(bytes.len());
            let len = bytes.len();
            self.splices.push((self.buffer.len(), View { view: value, len }));
        }
        Ok(())
    }
}

/// Whether it is an array or, through any number of proxies, stands for one.
fn is_array(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
) -> Result<bool, EncodeError> {
    let lane = Lane::of(scope);
    let is_array = match &*lane.world.borrow() {
        Some(world) => v8::Local::new(scope, &world.is_array),
        None => return Ok(false),
    };
    let receiver = v8::undefined(scope).into();
    let answer = is_array.call(scope, receiver, &[object.into()]).ok_or_else(thrown)?;
    Ok(answer.is_true())
}

/// Whether `for` or `for await` would take it.
fn is_iterable(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
) -> Result<bool, EncodeError> {
    for symbol in [v8::Symbol::get_iterator(scope), v8::Symbol::get_async_iterator(scope)] {
        let method = object.get(scope, symbol.into()).ok_or_else(thrown)?;
        if !method.is_null_or_undefined() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A getter or a proxy threw; the exception itself is pending in the scope.
fn thrown() -> EncodeError {
    "reading the value threw".to_owned()
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
        return Err("a BigInt beyond 64 bits cannot leave JavaScript".to_owned());
    }
    Ok(())
}

/// Appends a string; `text` is scratch memory.
fn encode_string(
    scope: &mut v8::PinScope<'_, '_>,
    out: &mut Vec<u8>,
    text: &mut Vec<u8>,
    string: v8::Local<'_, v8::String>,
) -> Result<(), EncodeError> {
    // A UTF-16 unit takes at most three bytes of UTF-8.
    let most = string.length() * 3;
    if text.len() < most {
        text.resize(most, 0);
    }
    let replace = v8::WriteFlags::kReplaceInvalidUtf8;
    let written = string.write_utf8_v2(scope, &mut text[..most], replace, None);
    let utf8 = std::str::from_utf8(&text[..written]).map_err(|_| unpaired())?;
    // Half a surrogate pair has been replaced by now: look again.
    if utf8.contains(char::REPLACEMENT_CHARACTER) && !is_well_formed(scope, string) {
        return Err(unpaired());
    }
    Writer::new(out).str(utf8);
    if most > TEXT_KEPT {
        *text = Vec::new();
    }
    Ok(())
}

fn unpaired() -> EncodeError {
    "a string with half a surrogate pair cannot leave JavaScript".to_owned()
}

fn is_well_formed(scope: &mut v8::PinScope<'_, '_>, string: v8::Local<'_, v8::String>) -> bool {
    let lane = Lane::of(scope);
    let is_well_formed = match &*lane.world.borrow() {
        Some(world) => v8::Local::new(scope, &world.is_well_formed),
        None => return true,
    };
    is_well_formed.call(scope, string.into(), &[]).is_some_and(|yes| yes.is_true())
}
