//! A call's arguments, from whatever type its caller has for them.

use std::io::Write;

use rmp_serde::config::{DefaultConfig, StructMapConfig};
use rmp_serde::encode::Error;
use serde::ser::{
    Error as _, Impossible, Serialize, SerializeStruct, SerializeTupleStruct, Serializer,
};

/// Makes maps of structs, as everything else does that writes values.
type Inner<W> = rmp_serde::Serializer<W, StructMapConfig<DefaultConfig>>;

/// Appends a call's arguments, any serializable tuple, as a MessagePack array.
/// `()` is the empty array. A struct may stand for the tuple: its fields are the
/// arguments, in their order; one among the arguments is a map with its fields' names.
///
/// # Errors
///
/// The value has no MessagePack form, or is no tuple, list or struct; or it is a struct
/// that has skipped a field before others, which would take its place.
#[inline]
pub fn encode_args<W: Write, A: Serialize + ?Sized>(out: &mut W, args: &A) -> Result<(), Error> {
    args.serialize(Args(&mut rmp_serde::Serializer::new(out).with_struct_map()))
}

/// Takes what is a list to MessagePack, and leaves it to `rmp-serde`.
struct Args<'i, W>(&'i mut Inner<W>);

impl<W: Write> Args<'_, W> {
    #[inline]
    fn none(self) -> Result<(), Error> {
        // The head of an empty list.
        self.0.get_mut().write_all(&[0x90]).map_err(Error::custom)
    }
}

#[cold]
fn refused<T>() -> Result<T, Error> {
    Err(Error::custom("the arguments of a call are a tuple, for example (name,)"))
}

macro_rules! refuses {
    ($($method:ident($($kind:ty),*) -> $returned:ty;)*) => {$(
        fn $method(self, $(_: $kind),*) -> Result<$returned, Error> {
            refused()
        }
    )*};
}

impl<'i, W: Write> Serializer for Args<'i, W> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = <&'i mut Inner<W> as Serializer>::SerializeSeq;
    type SerializeTuple = <&'i mut Inner<W> as Serializer>::SerializeTuple;
    type SerializeTupleStruct = <&'i mut Inner<W> as Serializer>::SerializeTupleStruct;
    type SerializeStruct = Fields<'i, W>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Impossible<(), Error>;
    type SerializeStructVariant = Impossible<(), Error>;

    #[inline]
    fn serialize_unit(self) -> Result<(), Error> {
        self.none()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.none()
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        // An extension type, which rule C1 does not have.
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME { refused() } else { value.serialize(self) }
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, Error> {
        self.0.serialize_seq(len)
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, Error> {
        self.0.serialize_tuple(len)
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, Error> {
        self.0.serialize_tuple_struct(name, len)
    }

    #[inline]
    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, Error> {
        Ok(Fields { list: self.0.serialize_tuple_struct(name, len)?, skipped: None })
    }

    refuses! {
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_i128(i128) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_u128(u128) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_str(&str) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_tuple_variant(&'static str, u32, &'static str, usize)
            -> Self::SerializeTupleVariant;
        serialize_struct_variant(&'static str, u32, &'static str, usize)
            -> Self::SerializeStructVariant;
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        refused()
    }

    fn is_human_readable(&self) -> bool {
        // As what is inside of them.
        self.0.is_human_readable()
    }
}

/// The fields of a struct that are a call's arguments.
struct Fields<'i, W: Write> {
    list: <&'i mut Inner<W> as Serializer>::SerializeTupleStruct,
    /// The first one that was skipped.
    skipped: Option<&'static str>,
}

impl<W: Write> SerializeStruct for Fields<'_, W> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        if let Some(skipped) = self.skipped {
            let text = format!("'{skipped}' was skipped, and '{name}' would take its place");
            return Err(Error::custom(text));
        }
        SerializeTupleStruct::serialize_field(&mut self.list, value)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), Error> {
        self.skipped.get_or_insert(name);
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        SerializeTupleStruct::end(self.list)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::{Error, encode_args};

    fn encoded(args: impl Serialize) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        encode_args(&mut out, &args).map(|()| out)
    }

    #[test]
    fn args_are_tuples_and_unit_is_the_empty_one() {
        assert_eq!(encoded(()).unwrap(), [0x90]);
        assert_eq!(encoded((1, "a")).unwrap(), [0x92, 1, 0xa1, b'a']);
        assert_eq!(encoded((None::<u8>,)).unwrap(), [0x91, 0xc0]);
    }

    #[test]
    fn args_are_whatever_is_a_list_to_messagepack() {
        #[derive(Serialize)]
        struct Point {
            x: u8,
            y: u8,
        }
        #[derive(Serialize)]
        struct Pair(u8, u8);
        #[derive(Serialize)]
        struct Wrapped(Pair);
        #[derive(Serialize)]
        struct Nothing;
        let expected = [0x92, 1, 2];
        assert_eq!(encoded(Point { x: 1, y: 2 }).unwrap(), expected);
        assert_eq!(encoded(Pair(1, 2)).unwrap(), expected);
        assert_eq!(encoded(Wrapped(Pair(1, 2))).unwrap(), expected);
        assert_eq!(encoded(vec![1, 2]).unwrap(), expected);
        assert_eq!(encoded(&[1, 2][..]).unwrap(), expected);
        assert_eq!(encoded(Some((1, 2))).unwrap(), expected);
        assert_eq!(encoded(Nothing).unwrap(), [0x90]);
        assert_eq!(encoded(None::<(u8,)>).unwrap(), [0x90]);
    }

    /// As host functions' answers, a Rust guest's values and JSON have it.
    #[test]
    fn c1_a_struct_among_the_arguments_is_a_map_with_its_names() {
        #[derive(Serialize)]
        struct Options {
            width: u8,
            #[serde(skip_serializing_if = "Option::is_none")]
            label: Option<u8>,
            keep: bool,
        }
        #[derive(Serialize)]
        enum Shape {
            Circle { r: u8 },
        }
        let options = |label| Options { width: 7, label, keep: true };
        let named = b"\x91\x82\xa5width\x07\xa4keep\xc3";
        assert_eq!(encoded((options(None),)).unwrap(), named);
        let named = b"\x91\x83\xa5width\x07\xa5label\x01\xa4keep\xc3";
        assert_eq!(encoded((options(Some(1)),)).unwrap(), named);
        let named = b"\x91\x91\x82\xa5width\x07\xa4keep\xc3";
        assert_eq!(encoded((vec![options(None)],)).unwrap(), named);
        let named = b"\x91\x81\xa6Circle\x81\xa1r\x02";
        assert_eq!(encoded((Shape::Circle { r: 2 },)).unwrap(), named);
    }

    #[test]
    fn c1_no_argument_takes_the_place_of_a_field_that_was_skipped() {
        #[derive(Serialize)]
        struct Args {
            #[serde(skip_serializing_if = "Option::is_none")]
            first: Option<u8>,
            second: u8,
            #[serde(skip_serializing_if = "Option::is_none")]
            third: Option<u8>,
        }
        let args = |first, third| encoded(Args { first, second: 2, third });
        assert_eq!(args(Some(1), Some(3)).unwrap(), [0x93, 1, 2, 3]);
        // The last ones may be left out.
        assert_eq!(args(Some(1), None).unwrap(), [0x92, 1, 2]);
        let error = args(None, Some(3)).unwrap_err().to_string();
        assert!(error.contains("'first' was skipped, and 'second'"), "{error}");
    }

    #[test]
    fn args_that_are_no_list_are_refused() {
        #[derive(Serialize)]
        enum Shape {
            Line(u8, u8),
            Circle(u8),
            Dot,
        }
        #[derive(Serialize)]
        #[serde(rename = "_ExtStruct")]
        struct Extension<'b>((i8, &'b serde_bytes::Bytes));
        for refused in [
            encoded(7),
            encoded(true),
            encoded("text"),
            encoded(1.5),
            encoded(BTreeMap::from([("a", 1)])),
            encoded(Shape::Line(1, 2)),
            encoded(Shape::Circle(1)),
            encoded(Shape::Dot),
            encoded(Extension((1, serde_bytes::Bytes::new(&[2])))),
            encoded(serde_bytes::Bytes::new(&[1, 2])),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("are a tuple, for example (name,)"), "{error}");
        }
    }
}
