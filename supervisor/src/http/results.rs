//! Results as JSON: each token is written as it is read, in the forms of
//! [`values`](super::values). A bundle says what comes, and may say much in few bytes: no
//! tree of the values is made, and the text has a limit.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use menagerie_protocol::msgpack::{DecodeError, MAX_DEPTH, Reader, Token};
use serde::Serialize;

use super::values::{BYTES, FLOAT, MAP};

/// Bytes that become base64 in one go: a multiple of 3, so that only the last has padding.
const CHUNK: usize = 3 << 12;

/// Why a result has no JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoJson {
    /// It is no value of ours.
    NoValue(DecodeError),
    /// It would have so many bytes.
    TooLarge(u64),
}

impl From<DecodeError> for NoJson {
    fn from(error: DecodeError) -> Self {
        Self::NoValue(error)
    }
}

/// A MessagePack value as JSON, of so many bytes at most.
pub(super) fn to_json(value: &[u8], limit: usize) -> Result<Vec<u8>, NoJson> {
    let mut forms = Forms::default();
    forms.look(&mut Reader::new(value), 0)?;
    let out = Out { text: Vec::new(), size: 0, limit };
    let mut transcoder =
        Transcoder { from: Reader::new(value), are_plain: forms.are_plain.into_iter(), out };
    transcoder.value()?;
    let Out { text, size, .. } = transcoder.out;
    if size > limit { Err(NoJson::TooLarge(size as u64)) } else { Ok(text) }
}

/// Which maps can be JSON objects. It takes a map's end to know, and the text begins with
/// its form: they are looked at beforehand.
#[derive(Default)]
struct Forms {
    /// Of each map, in the order in which they begin.
    are_plain: Vec<bool>,
    /// The keys of the maps that are being looked at, as hashes: there may be millions of
    /// them. Two that only look the same cost a map its plain form, and no more.
    keys: Vec<u64>,
    hashes: RandomState,
}

impl Forms {
    /// Looks at a value, and so finds out whether all of it can be read.
    fn look(&mut self, from: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        match from.token()? {
            Token::Array(len) => (0..len).try_for_each(|_| self.look(from, depth + 1)),
            Token::Map(len) => self.look_at_map(len, from, depth),
            _ => Ok(()),
        }
    }

    fn look_at_map(
        &mut self,
        len: usize,
        from: &mut Reader<'_>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        let (at, first) = (self.are_plain.len(), self.keys.len());
        self.are_plain.push(true);
        let mut is_plain = true;
        for _ in 0..len {
            let mut ahead = from.clone();
            match ahead.token()? {
                Token::Str(key) => {
                    // What would look like a tag.
                    is_plain &= len > 1 || ![BYTES, FLOAT, MAP].contains(&key);
                    self.keys.push(self.hashes.hash_one(key));
                    *from = ahead;
                }
                _ => {
                    is_plain = false;
                    self.look(from, depth + 1)?;
                }
            }
            self.look(from, depth + 1)?;
        }
        let keys = &mut self.keys[first..];
        keys.sort_unstable();
        self.are_plain[at] = is_plain && keys.windows(2).all(|pair| pair[0] != pair[1]);
        self.keys.truncate(first);
        Ok(())
    }
}

/// The text. Beyond the limit nothing is kept, and all is counted.
struct Out {
    text: Vec<u8>,
    size: usize,
    limit: usize,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size = self.size.saturating_add(bytes.len());
        if self.size <= self.limit {
            self.text.extend_from_slice(bytes);
        } else {
            self.text = Vec::new();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Out {
    fn put(&mut self, text: &str) {
        // It takes everything.
        drop(self.write(text.as_bytes()));
    }

    /// What serde_json knows how to write; neither numbers nor strings fail.
    fn json<T: Serialize + ?Sized>(&mut self, value: &T) {
        drop(serde_json::to_writer(self, value));
    }

    fn base64(&mut self, bytes: &[u8]) {
        let mut text = String::new();
        for chunk in bytes.chunks(CHUNK) {
            text.clear();
            STANDARD.encode_string(chunk, &mut text);
            self.put(&text);
        }
    }

    /// An object with one key.
    fn tagged<T>(&mut self, tag: &str, value: impl FnOnce(&mut Self) -> T) -> T {
        self.put("{");
        self.json(tag);
        self.put(":");
        let done = value(self);
        self.put("}");
        done
    }
}

struct Transcoder<'v> {
    from: Reader<'v>,
    /// What was found out of the maps that are still to come.
    are_plain: vec::IntoIter<bool>,
    out: Out,
}

impl Transcoder<'_> {
    /// The next value. How deep it is was looked at.
    fn value(&mut self) -> Result<(), DecodeError> {
        match self.from.token()? {
            Token::Nil => self.out.put("null"),
            Token::Bool(value) => self.out.json(&value),
            Token::Int(value) => self.out.json(&value),
            Token::UInt(value) => self.out.json(&value),
            Token::Float(value) if value.is_finite() => self.out.json(&value),
            Token::Float(value) => {
                let name = match (value.is_nan(), value.is_sign_positive()) {
                    (true, _) => "NaN",
                    (false, true) => "Infinity",
                    (false, false) => "-Infinity",
                };
                self.out.tagged(FLOAT, |out| out.json(name));
            }
            Token::Str(text) => self.out.json(text),
            Token::Bin(bytes) => self.out.tagged(BYTES, |out| {
                out.put("\"");
                out.base64(bytes);
                out.put("\"");
            }),
            Token::Array(len) => {
                self.out.put("[");
                self.separated(len, Self::value)?;
                self.out.put("]");
            }
            Token::Map(len) if self.are_plain.next() == Some(true) => {
                self.out.put("{");
                self.separated(len, |this| this.pair(":"))?;
                self.out.put("}");
            }
            Token::Map(len) => {
                self.out.put("{");
                self.out.json(MAP);
                self.out.put(":[");
                self.separated(len, |this| {
                    this.out.put("[");
                    this.pair(",")?;
                    this.out.put("]");
                    Ok(())
                })?;
                self.out.put("]}");
            }
        }
        Ok(())
    }

    /// A key and its value.
    fn pair(&mut self, between: &str) -> Result<(), DecodeError> {
        self.value()?;
        self.out.put(between);
        self.value()
    }

    fn separated(
        &mut self,
        len: usize,
        mut item: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        for at in 0..len {
            if at > 0 {
                self.out.put(",");
            }
            item(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rmpv::Value;

    use super::*;

    fn encoded(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    }

    fn text(value: &Value) -> String {
        String::from_utf8(to_json(&encoded(value), 1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn c1_maps_in_maps_and_in_keys_have_each_their_own_form() {
        let map = |pairs: &[(Value, Value)]| Value::Map(pairs.to_vec());
        let odd = map(&[(1.into(), map(&[("a".into(), 2.into())]))]);
        assert_eq!(text(&odd), r#"{"$map":[[1,{"a":2}]]}"#);
        let plain = map(&[("a".into(), odd.clone()), ("b".into(), map(&[]))]);
        assert_eq!(text(&plain), r#"{"a":{"$map":[[1,{"a":2}]]},"b":{}}"#);
        let keyed = map(&[(plain, Value::Nil), ("x".into(), odd)]);
        let expected =
            r#"{"$map":[[{"a":{"$map":[[1,{"a":2}]]},"b":{}},null],["x",{"$map":[[1,{"a":2}]]}]]}"#;
        assert_eq!(text(&keyed), expected);
        // The keys of the maps around one are not its own.
        let around = map(&[("a".into(), map(&[("a".into(), 1.into())])), ("b".into(), 2.into())]);
        assert_eq!(text(&around), r#"{"a":{"a":1},"b":2}"#);
        let twice = map(&[("a".into(), 1.into()), ("b".into(), 2.into()), ("a".into(), 3.into())]);
        assert_eq!(text(&twice), r#"{"$map":[["a",1],["b",2],["a",3]]}"#);
    }

    #[test]
    fn c2_long_bytes_have_their_padding_at_their_end_alone() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 2] {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
            let expected = format!("{{\"$bytes\":\"{}\"}}", STANDARD.encode(&bytes));
            assert_eq!(text(&Value::Binary(bytes)), expected);
        }
    }

    #[test]
    fn results_have_a_limit_that_is_told_with_their_size() {
        let nils = encoded(&Value::Array(vec![Value::Nil; 1000]));
        assert_eq!(to_json(&nils, 5001).map(|json| json.len()), Ok(5001));
        assert_eq!(to_json(&nils, 5000), Err(NoJson::TooLarge(5001)));
        assert_eq!(to_json(&nils, 0), Err(NoJson::TooLarge(5001)));
    }

    /// The same text as by way of a tree of values.
    #[test]
    fn c1_results_are_what_serde_json_makes_of_them() {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "\\PC*|[\\x00-\\x1f\"]*".prop_map(Into::into),
        ];
        let any_value = leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                proptest::collection::btree_map("[a-z]{1,3}", inner, 0..8)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        });
        proptest!(|(value in any_value)| {
            let bytes = rmp_serde::to_vec(&value).unwrap();
            let json = to_json(&bytes, usize::MAX).unwrap();
            prop_assert_eq!(String::from_utf8(json).unwrap(), value.to_string());
        });
    }
}
