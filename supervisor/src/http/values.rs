//! Values of calls as JSON, without loss (`DESIGN.md` rule C1 and chapter G).
//!
//! What JSON has no form for is an object with one key:
//!
//! | value | JSON |
//! | --- | --- |
//! | bytes | `{"$bytes": "<base64>"}` |
//! | a float that is no number | `{"$float": "NaN"}`, `"Infinity"`, `"-Infinity"` |
//! | a map with keys that are no strings, or the same one twice | `{"$map": [[key, value], …]}` |
//!
//! A map that would look like one of these is written as a `$map` too. Results are
//! written by [`results`](super::results).

use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use rmpv::Value;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

pub(super) const BYTES: &str = "$bytes";
pub(super) const FLOAT: &str = "$float";
pub(super) const MAP: &str = "$map";

/// What people paste has its padding or has not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A value on its way in, from JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FromJson(pub(super) Value);

impl<'de> Deserialize<'de> for FromJson {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(JsonVisitor).map(Self)
    }
}

/// What the error of a bad argument begins with; its number follows, from 1.
pub(super) const ARGUMENT: &str = "argument ";

/// The arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments(pub(super) Vec<Value>);

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Vec<Value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<Value>, A::Error> {
                let mut args = Vec::new();
                loop {
                    let next = from.next_element().map_err(|error| {
                        A::Error::custom(format_args!("{ARGUMENT}{}: {error}", args.len() + 1))
                    })?;
                    match next {
                        Some(FromJson(arg)) => args.push(arg),
                        None => return Ok(args),
                    }
                }
            }
        }
        from.deserialize_seq(List).map(Self)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::F64(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(FromJson(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut pairs: Vec<(Value, Value)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some((key, FromJson(value))) = from.next_entry::<String, FromJson>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("the key {key:?} stands twice")));
            }
            pairs.push((Value::from(key), value));
        }
        let tag = match &pairs[..] {
            [(key, _)] => key.as_str(),
            _ => None,
        };
        match tag {
            Some(BYTES) => bytes(&pairs[0].1).map_err(A::Error::custom),
            Some(FLOAT) => special_float(&pairs[0].1).map_err(A::Error::custom),
            Some(MAP) => map(pairs.remove(0).1).map_err(A::Error::custom),
            _ => Ok(Value::Map(pairs)),
        }
    }
}

fn bytes(value: &Value) -> Result<Value, String> {
    let text = value.as_str().ok_or("$bytes: expected a string of base64")?;
    LENIENT.decode(text).map(Value::Binary).map_err(|error| format!("$bytes: {error}"))
}

fn special_float(value: &Value) -> Result<Value, &'static str> {
    match value.as_str() {
        Some("NaN") => Ok(Value::F64(f64::NAN)),
        Some("Infinity") => Ok(Value::F64(f64::INFINITY)),
        Some("-Infinity") => Ok(Value::F64(f64::NEG_INFINITY)),
        _ => Err("$float: expected \"NaN\", \"Infinity\" or \"-Infinity\""),
    }
}

fn map(value: Value) -> Result<Value, &'static str> {
    const EXPECTED: &str = "$map: expected a list of pairs [key, value]";
    let Value::Array(pairs) = value else { return Err(EXPECTED) };
    let pair = |value| match value {
        Value::Array(pair) => {
            <[Value; 2]>::try_from(pair).map(|[k, v]| (k, v)).map_err(|_| EXPECTED)
        }
        _ => Err(EXPECTED),
    };
    pairs.into_iter().map(pair).collect::<Result<_, _>>().map(Value::Map)
}

/// Whether a call can carry the values of a JSON text as they stand there (rule C1): as the
/// status service reads them, no key of an object stands twice, and integers have 64 bits.
///
/// # Errors
///
/// What it cannot carry, in a line.
///
/// ```
/// use menagerie_supervisor::check_values;
///
/// assert_eq!(check_values(b"[18446744073709551615, 1e300]"), Ok(()));
/// assert!(check_values(b"[18446744073709551616]").is_err());
/// ```
pub fn check_values(json: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<FromJson>(json).map_err(|error| error.to_string())?;
    check_integers(json)
}

/// As [`check_values`], for the integers in valid JSON.
pub(super) fn check_integers(json: &[u8]) -> Result<(), String> {
    oversized_integer(json).map_or(Ok(()), |integer| {
        Err(format!("{integer} fits neither a signed nor an unsigned integer of 64 bits"))
    })
}

/// The first integer in valid JSON that neither `i64` nor `u64` holds. The JSON
/// parser would make it a float and so change it silently, against C1.
fn oversized_integer(json: &[u8]) -> Option<&str> {
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => {
                at += 1;
                while at < json.len() && json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let start = at;
                while at < json.len()
                    && matches!(json[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
                {
                    at += 1;
                }
                let Ok(text) = std::str::from_utf8(&json[start..at]) else { continue };
                let is_integer = !text.contains(['.', 'e', 'E']);
                if is_integer && text.parse::<i64>().is_err() && text.parse::<u64>().is_err() {
                    return Some(text);
                }
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use menagerie_protocol::msgpack::{DecodeError, MAX_DEPTH};

    use super::super::results::{self, NoJson};
    use super::*;

    fn to_json(value: &Value) -> Result<String, NoJson> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        results::to_json(&bytes, usize::MAX).map(|json| String::from_utf8(json).unwrap())
    }

    fn from_json(json: &str) -> Result<Value, String> {
        serde_json::from_str(json).map(|FromJson(value)| value).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn both_ways(value: &Value, json: &str) {
        assert_eq!(to_json(value).unwrap(), json);
        assert_eq!(&from_json(json).unwrap(), value);
    }

    #[test]
    fn c1_values_cross_json_and_back_unchanged() {
        both_ways(&Value::Nil, "null");
        both_ways(&Value::from(true), "true");
        both_ways(&Value::from(i64::MIN), "-9223372036854775808");
        both_ways(&Value::from(u64::MAX), "18446744073709551615");
        both_ways(&Value::F64(1.0), "1.0");
        both_ways(&Value::F64(0.1), "0.1");
        both_ways(&Value::from("a\"\u{1f600}\n"), r#""a\"😀\n""#);
        both_ways(&Value::Binary(vec![0xab; 4]), r#"{"$bytes":"q6urqw=="}"#);
        both_ways(&Value::Array(vec![Value::from(1), Value::Nil]), "[1,null]");
        both_ways(&Value::F64(f64::INFINITY), r#"{"$float":"Infinity"}"#);
        both_ways(&Value::F64(f64::NEG_INFINITY), r#"{"$float":"-Infinity"}"#);
        assert_eq!(to_json(&Value::F32(f32::NAN)).unwrap(), r#"{"$float":"NaN"}"#);
        assert!(from_json(r#"{"$float":"NaN"}"#).unwrap().as_f64().unwrap().is_nan());
    }

    /// The parser's shorter way is off by the last bit for one number in some: which way
    /// it goes is a feature of serde_json that this crate has to ask for itself.
    #[test]
    fn c1_floats_are_read_to_the_last_bit() {
        for text in ["182.19916586263525", "1.7976931348623157e308", "5e-324", "-0.0"] {
            let Value::F64(value) = from_json(text).unwrap() else { panic!("{text}") };
            assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn c1_maps_keep_their_order_and_every_key() {
        let pairs = |pairs: &[(Value, i64)]| {
            Value::Map(pairs.iter().map(|(k, v)| (k.clone(), Value::from(*v))).collect())
        };
        both_ways(&pairs(&[("z".into(), 1), ("a".into(), 2)]), r#"{"z":1,"a":2}"#);
        both_ways(&pairs(&[]), "{}");
        both_ways(&pairs(&[(7.into(), 1), ("7".into(), 2)]), r#"{"$map":[[7,1],["7",2]]}"#);
        both_ways(&pairs(&[("a".into(), 1), ("a".into(), 2)]), r#"{"$map":[["a",1],["a",2]]}"#);
        // What only looks like a tag stays what it is.
        both_ways(&pairs(&[("$bytes".into(), 1)]), r#"{"$map":[["$bytes",1]]}"#);
        both_ways(&pairs(&[("$bytes".into(), 1), ("b".into(), 2)]), r#"{"$bytes":1,"b":2}"#);
        both_ways(&pairs(&[("$other".into(), 1)]), r#"{"$other":1}"#);
    }

    #[test]
    fn values_without_a_json_form_are_errors() {
        let nested = |depth| (0..depth).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
        let deep = to_json(&nested(MAX_DEPTH)).unwrap();
        assert_eq!(deep, format!("{}null{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH)));
        for (value, error) in [
            (Value::Ext(1, vec![2]), DecodeError::UnsupportedType { marker: 0xd4 }),
            (nested(MAX_DEPTH + 1), DecodeError::TooDeep),
            (Value::Map(vec![(nested(MAX_DEPTH), Value::Nil)]), DecodeError::TooDeep),
        ] {
            assert_eq!(to_json(&value), Err(NoJson::NoValue(error)));
        }
        for (bytes, error) in [
            (&[0xa1, 0xff][..], DecodeError::InvalidUtf8),
            (&[0x81, 0xa1, 0xff, 0xc0], DecodeError::InvalidUtf8),
            (&[0x92, 0xc0], DecodeError::Truncated),
            (&[], DecodeError::Truncated),
        ] {
            assert_eq!(results::to_json(bytes, 100), Err(NoJson::NoValue(error)), "{bytes:?}");
        }
    }

    #[test]
    fn broken_tags_are_errors() {
        for json in [
            r#"{"$bytes":5}"#,
            r#"{"$bytes":"?"}"#,
            r#"{"$float":"1"}"#,
            r#"{"$map":{}}"#,
            r#"{"$map":[[1]]}"#,
            r#"{"a":1,"a":2}"#,
        ] {
            assert!(from_json(json).is_err(), "{json}");
        }
        assert_eq!(from_json(r#"{"$bytes":"q6s"}"#).unwrap(), Value::Binary(vec![0xab; 2]));
    }

    #[test]
    fn integers_beyond_64_bits_are_found_and_nothing_else() {
        let found = |json: &'static str| oversized_integer(json.as_bytes());
        assert_eq!(found("[1, 18446744073709551616]"), Some("18446744073709551616"));
        assert_eq!(found("-9223372036854775809"), Some("-9223372036854775809"));
        assert_eq!(found(r#"{"a\\":99999999999999999999}"#), Some("99999999999999999999"));
        assert_eq!(found("[18446744073709551615, -9223372036854775808, 1e300, 1.5, -0]"), None);
        assert_eq!(found(r#"["99999999999999999999", "\"99999999999999999999"]"#), None);
    }
}
