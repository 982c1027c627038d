//! From Rust types to MessagePack, each value in its shortest form.

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::CodecError;

/// Where encoded bytes go.
pub(crate) trait Out {
    /// Appends.
    fn put(&mut self, bytes: &[u8]);

    /// How many bytes there are.
    fn len(&self) -> usize;

    /// Overwrites bytes that were appended before.
    fn patch(&mut self, at: usize, bytes: &[u8]);
}

impl Out for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        self[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Appends one value to `out`.
pub(crate) fn encode<T: Serialize + ?Sized>(
    out: &mut impl Out,
    value: &T,
) -> Result<(), CodecError> {
    value.serialize(Encoder { out, depth: 0, raw: false })
}

/// Appends the head of bytes of this length.
pub(crate) fn bin_head(out: &mut impl Out, len: usize) -> Result<(), CodecError> {
    match len {
        0..=0xff => out.put(&[0xc4, low(len)]),
        0x100..=0xffff => head16(out, 0xc5, len),
        _ => head32(out, 0xc6, len)?,
    }
    Ok(())
}

#[derive(Debug)]
struct Encoder<'a, O> {
    out: &'a mut O,
    depth: usize,
    /// The bytes that come are an encoded value ([`super::RAW`]).
    raw: bool,
}

/// The lowest byte of a length.
const fn low(len: usize) -> u8 {
    len.to_le_bytes()[0]
}

fn head16(out: &mut impl Out, marker: u8, len: usize) {
    let [a, b, ..] = len.to_le_bytes();
    out.put(&[marker, b, a]);
}

fn head32(out: &mut impl Out, marker: u8, len: usize) -> Result<(), CodecError> {
    let len = u32::try_from(len).map_err(|_| CodecError::new("more than 4 GiB in one value"))?;
    let [a, b, c, d] = len.to_be_bytes();
    out.put(&[marker, a, b, c, d]);
    Ok(())
}

/// The head of a string, list or map.
fn str_head(out: &mut impl Out, len: usize) -> Result<(), CodecError> {
    match len {
        0..=0x1f => out.put(&[0xa0 | low(len)]),
        0x20..=0xff => out.put(&[0xd9, low(len)]),
        0x100..=0xffff => head16(out, 0xda, len),
        _ => head32(out, 0xdb, len)?,
    }
    Ok(())
}

impl<'a, O: Out> Encoder<'a, O> {
    fn uint(self, value: u64) {
        let bytes = value.to_be_bytes();
        match value {
            0..=0x7f => self.out.put(&bytes[7..]),
            0x80..=0xff => self.out.put(&[0xcc, bytes[7]]),
            0x100..=0xffff => self.out.put(&[0xcd, bytes[6], bytes[7]]),
            0x1_0000..=0xffff_ffff => {
                self.out.put(&[0xce, bytes[4], bytes[5], bytes[6], bytes[7]]);
            }
            _ => {
                self.out.put(&[0xcf]);
                self.out.put(&bytes);
            }
        }
    }

    fn int(self, value: i64) {
        if let Ok(value) = u64::try_from(value) {
            return self.uint(value);
        }
        let bytes = value.to_be_bytes();
        match value {
            -0x20.. => self.out.put(&bytes[7..]),
            -0x80.. => self.out.put(&[0xd0, bytes[7]]),
            -0x8000.. => self.out.put(&[0xd1, bytes[6], bytes[7]]),
            -0x8000_0000.. => self.out.put(&[0xd2, bytes[4], bytes[5], bytes[6], bytes[7]]),
            _ => {
                self.out.put(&[0xd3]);
                self.out.put(&bytes);
            }
        }
    }

    /// Begins a list or map. One of unknown length gets a head that is filled
    /// in at its end.
    fn nest(self, len: Option<usize>, map: bool) -> Result<Nested<'a, O>, CodecError> {
        if self.depth >= super::MAX_DEPTH {
            return Err(CodecError::too_deep());
        }
        let (small, marker16) = if map { (0x80, 0xde) } else { (0x90, 0xdc) };
        let at = self.out.len();
        match len {
            Some(len @ 0..=0x0f) => self.out.put(&[small | low(len)]),
            Some(len @ 0x10..=0xffff) => head16(self.out, marker16, len),
            Some(len) => head32(self.out, marker16 + 1, len)?,
            None => head32(self.out, marker16 + 1, 0)?,
        }
        let head = match len {
            Some(len) => Head::Promised(len),
            None => Head::FillIn(at + 1),
        };
        Ok(Nested { out: self.out, depth: self.depth + 1, written: 0, head })
    }

    /// Begins a variant with content: a map of one pair.
    fn variant(self, name: &str) -> Result<Self, CodecError> {
        if self.depth >= super::MAX_DEPTH {
            return Err(CodecError::too_deep());
        }
        self.out.put(&[0x81]);
        str_head(self.out, name.len())?;
        self.out.put(name.as_bytes());
        Ok(Self { out: self.out, depth: self.depth + 1, raw: false })
    }
}

impl<'a, O: Out> Serializer for Encoder<'a, O> {
    type Ok = ();
    type Error = CodecError;
    type SerializeSeq = Nested<'a, O>;
    type SerializeTuple = Nested<'a, O>;
    type SerializeTupleStruct = Nested<'a, O>;
    type SerializeTupleVariant = Nested<'a, O>;
    type SerializeMap = Nested<'a, O>;
    type SerializeStruct = Nested<'a, O>;
    type SerializeStructVariant = Nested<'a, O>;

    fn serialize_bool(self, value: bool) -> Result<(), CodecError> {
        self.out.put(&[if value { 0xc3 } else { 0xc2 }]);
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), CodecError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), CodecError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), CodecError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), CodecError> {
        self.int(value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), CodecError> {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), CodecError> {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), CodecError> {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), CodecError> {
        self.uint(value);
        Ok(())
    }

    fn serialize_i128(self, value: i128) -> Result<(), CodecError> {
        if let Ok(value) = i64::try_from(value) {
            return self.serialize_i64(value);
        }
        let value =
            u64::try_from(value).map_err(|_| CodecError::custom("an integer beyond 64 bits"))?;
        self.serialize_u64(value)
    }

    fn serialize_u128(self, value: u128) -> Result<(), CodecError> {
        let value =
            u64::try_from(value).map_err(|_| CodecError::custom("an integer beyond 64 bits"))?;
        self.serialize_u64(value)
    }

    fn serialize_f32(self, value: f32) -> Result<(), CodecError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), CodecError> {
        self.out.put(&[0xcb]);
        self.out.put(&value.to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), CodecError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), CodecError> {
        str_head(self.out, value.len())?;
        self.out.put(value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), CodecError> {
        if !self.raw {
            bin_head(self.out, value.len())?;
        }
        self.out.put(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), CodecError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CodecError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), CodecError> {
        self.out.put(&[0xc0]);
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), CodecError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), CodecError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), CodecError> {
        value.serialize(Self { raw: name == super::RAW, ..self })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), CodecError> {
        value.serialize(self.variant(variant)?)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Nested<'a, O>, CodecError> {
        self.nest(len, false)
    }

    fn serialize_tuple(self, len: usize) -> Result<Nested<'a, O>, CodecError> {
        self.nest(Some(len), false)
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        len: usize,
    ) -> Result<Nested<'a, O>, CodecError> {
        self.nest(Some(len), false)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Nested<'a, O>, CodecError> {
        self.variant(variant)?.nest(Some(len), false)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Nested<'a, O>, CodecError> {
        self.nest(len, true)
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Nested<'a, O>, CodecError> {
        self.nest(Some(len), true)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Nested<'a, O>, CodecError> {
        self.variant(variant)?.nest(Some(len), true)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// A list or map that is being written.
#[derive(Debug)]
struct Nested<'a, O> {
    out: &'a mut O,
    depth: usize,
    written: usize,
    head: Head,
}

#[derive(Debug)]
enum Head {
    /// The type said how many elements come; they must.
    Promised(usize),
    /// Where four bytes of length are missing.
    FillIn(usize),
}

impl<O: Out> Nested<'_, O> {
    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
        value.serialize(Encoder { out: &mut *self.out, depth: self.depth, raw: false })
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
        self.written += 1;
        self.value(value)
    }

    fn field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), CodecError> {
        self.element(key)?;
        self.value(value)
    }

    fn finish(self) -> Result<(), CodecError> {
        match self.head {
            Head::Promised(len) if len == self.written => {}
            Head::Promised(len) => {
                let written = self.written;
                return Err(CodecError::new(format_args!(
                    "{written} elements where {len} were announced"
                )));
            }
            Head::FillIn(at) => {
                let len = u32::try_from(self.written).map_err(CodecError::new)?;
                self.out.patch(at, &len.to_be_bytes());
            }
        }
        Ok(())
    }
}

/// The traits of serde for what has elements only.
macro_rules! elements {
    ($($name:ident::$method:ident),*) => {$(
        impl<O: Out> $name for Nested<'_, O> {
            type Ok = ();
            type Error = CodecError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
                self.element(value)
            }

            fn end(self) -> Result<(), CodecError> {
                self.finish()
            }
        }
    )*};
}

elements!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

/// Likewise for what has fields.
macro_rules! fields {
    ($($name:ident),*) => {$(
        impl<O: Out> $name for Nested<'_, O> {
            type Ok = ();
            type Error = CodecError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), CodecError> {
                self.field(key, value)
            }

            fn end(self) -> Result<(), CodecError> {
                self.finish()
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

impl<O: Out> SerializeMap for Nested<'_, O> {
    type Ok = ();
    type Error = CodecError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CodecError> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
        self.value(value)
    }

    fn end(self) -> Result<(), CodecError> {
        self.finish()
    }
}
