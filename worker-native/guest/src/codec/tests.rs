use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::*;
use crate::{ByteBuf, Bytes, Raw, Value};

fn encoded<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, value).unwrap();
    out
}

fn decoded<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, CodecError> {
    let mut decoder = Decoder::new(bytes);
    let value = T::deserialize(&mut decoder)?;
    assert!(decoder.is_empty());
    Ok(value)
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Image<'a> {
    name: &'a str,
    size: (u32, u32),
    #[serde(borrow)]
    data: Bytes<'a>,
    scale: Option<f64>,
    mode: Mode,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Mode {
    Plain,
    Rotated(i16),
    Cut { left: u8, right: u8 },
    Pair(i8, i8),
}

#[test]
fn codec_carries_structs_and_enums() {
    for mode in
        [Mode::Plain, Mode::Rotated(-300), Mode::Cut { left: 1, right: 255 }, Mode::Pair(-1, 1)]
    {
        let image =
            Image { name: "é", size: (70_000, 3), data: Bytes(&[0; 300]), scale: None, mode };
        let bytes = encoded(&image);
        assert_eq!(decoded::<Image<'_>>(&bytes).unwrap(), image);
        assert_eq!(encoded(&decoded::<Value>(&bytes).unwrap()), bytes);
    }
}

#[test]
fn codec_agrees_with_rmp_serde() {
    let map: BTreeMap<i64, Vec<Option<String>>> = [
        (i64::MIN, vec![None, Some("x".repeat(31))]),
        (-129, vec![Some("y".repeat(32)); 16]),
        (-33, vec![Some("z".repeat(256)); 65_536]),
        (-1, vec![Some("w".repeat(70_000))]),
        (i64::MAX, vec![]),
    ]
    .into();
    assert_eq!(encoded(&map), rmp_serde::to_vec_named(&map).unwrap());
    assert_eq!(decoded::<BTreeMap<i64, Vec<Option<String>>>>(&encoded(&map)).unwrap(), map);
    for n in (0..64).flat_map(|shift| [(1_u64 << shift) - 1, 1 << shift, u64::MAX >> shift]) {
        assert_eq!(encoded(&n), rmp_serde::to_vec(&n).unwrap(), "{n}");
        assert_eq!(decoded::<u64>(&encoded(&n)).unwrap(), n);
        let n = n.cast_signed().wrapping_neg();
        assert_eq!(encoded(&n), rmp_serde::to_vec(&n).unwrap(), "{n}");
        assert_eq!(decoded::<i64>(&encoded(&n)).unwrap(), n);
    }
    for bytes in [0, 255, 256, 65_535, 65_536].map(|n| vec![7; n]) {
        assert_eq!(encoded(&Bytes(&bytes)), rmp_serde::to_vec(&serde_bytes(&bytes)).unwrap());
        assert_eq!(decoded::<ByteBuf>(&encoded(&Bytes(&bytes))).unwrap().0, bytes);
    }
}

fn serde_bytes(bytes: &[u8]) -> impl Serialize + '_ {
    Bytes(bytes)
}

#[test]
fn c1_codec_never_changes_the_kind() {
    let bytes = encoded(&Bytes(b"text"));
    assert_eq!(
        decoded::<String>(&bytes).unwrap_err().to_string(),
        "expected a string, found bytes"
    );
    assert_eq!(
        decoded::<&[u8]>(&encoded("text")).unwrap_err().to_string(),
        "expected bytes, found a string"
    );
    assert_eq!(
        decoded::<ByteBuf>(&encoded(&[1, 2])).unwrap_err().to_string(),
        "expected bytes, found a list"
    );
    assert!(decoded::<i64>(&encoded(&1.0)).is_err());
    assert!(decoded::<i8>(&encoded(&128)).is_err());
    assert!(decoded::<u64>(&encoded(&-1)).is_err());
    assert!(decoded::<bool>(&encoded(&1)).is_err());
    assert!(decoded::<()>(&encoded(&0)).is_err());
    assert!(decoded::<i64>(&encoded(&())).is_err());
    assert!(decoded::<(i64, i64)>(&encoded(&[1, 2, 3])).is_err());
    assert!(decoded::<(i64, i64)>(&encoded(&[1])).is_err());
}

#[test]
fn c1_codec_keeps_numbers_exact() {
    assert_eq!(decoded::<f64>(&encoded(&(1_i64 << 53))).unwrap(), 9_007_199_254_740_992.0);
    assert!(decoded::<f64>(&encoded(&((1_i64 << 53) + 1))).is_err());
    assert!(decoded::<f64>(&encoded(&u64::MAX)).is_err());
    assert!(decoded::<f64>(&encoded(&f64::NAN)).unwrap().is_nan());
    assert_eq!(decoded::<f64>(&encoded(&f64::NEG_INFINITY)).unwrap(), f64::NEG_INFINITY);
    assert_eq!(decoded::<Value>(&encoded(&u64::MAX)).unwrap(), Value::U64(u64::MAX));
    let mut out = Vec::new();
    assert!(encode(&mut out, &(u128::from(u64::MAX) + 1)).is_err());
    assert_eq!(encoded(&u128::from(u64::MAX)), encoded(&u64::MAX));
}

#[test]
fn c1_an_f32_is_rounded_and_keeps_its_value() {
    assert_eq!(decoded::<f32>(&encoded(&0.1_f64)).unwrap(), 0.1_f32);
    assert_eq!(decoded::<f32>(&encoded(&f64::from(f32::MAX))).unwrap(), f32::MAX);
    assert_eq!(decoded::<f32>(&encoded(&f64::NEG_INFINITY)).unwrap(), f32::NEG_INFINITY);
    assert!(decoded::<f32>(&encoded(&f64::NAN)).unwrap().is_nan());
    for beyond in [1e300, -1e300, 3.5e38, 1e-46, -1e-300] {
        assert!(decoded::<f32>(&encoded(&beyond)).is_err(), "{beyond}");
    }
    for exact in [1_i64 << 24, -(1 << 24)] {
        assert_eq!(f64::from(decoded::<f32>(&encoded(&exact)).unwrap()), exact as f64);
    }
    for inexact in [(1_i64 << 24) + 1, -(1 << 24) - 1, 1 << 53, i64::MAX] {
        assert!(decoded::<f32>(&encoded(&inexact)).is_err(), "{inexact}");
    }
    assert!(decoded::<f32>(&encoded(&u64::MAX)).is_err());
}

#[test]
fn codec_bounds_depth_both_ways() {
    let mut value = Value::Null;
    for _ in 0..MAX_DEPTH {
        value = Value::List(vec![value]);
    }
    let bytes = encoded(&value);
    assert_eq!(decoded::<Value>(&bytes).unwrap(), value);
    assert_eq!(decoded::<Raw<'_>>(&bytes).unwrap().as_bytes(), bytes);
    let deeper = Value::Map(vec![(Value::Null, value)]);
    assert!(encode(&mut Vec::new(), &deeper).unwrap_err().to_string().contains("128"));
    let deep = vec![0x91; 100_000];
    assert!(decoded::<Value>(&deep).unwrap_err().to_string().contains("128"));
    assert!(decoded::<Raw<'_>>(&deep).unwrap_err().to_string().contains("128"));
}

#[test]
fn codec_refuses_broken_data() {
    let whole = encoded(&("héllo", [1, 300, 70_000], 1.5, Bytes(&[1; 40]), Value::Map(vec![])));
    for end in 0..whole.len() {
        assert!(decoded::<Value>(&whole[..end]).is_err(), "{end}");
        assert!(decoded::<Raw<'_>>(&whole[..end]).is_err(), "{end}");
    }
    for bytes in [
        &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
        &[0xc1],
        &[0xd4, 1, 2],
        &[0xa1, 0xff],
        &[0xc6, 0x7f, 0, 0, 0],
    ] {
        assert!(decoded::<Value>(bytes).is_err(), "{bytes:x?}");
    }
}

#[test]
fn codec_writes_lists_of_unknown_length() {
    struct Odd;
    impl Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeSeq;
            let mut list = serializer.serialize_seq(None)?;
            for n in 0..20 {
                list.serialize_element(&n)?;
            }
            list.end()
        }
    }
    let list: Vec<u8> = decoded(&encoded(&Odd)).unwrap();
    assert_eq!(list, (0..20).collect::<Vec<u8>>());
}

#[test]
fn codec_refuses_types_that_lie_about_their_length() {
    struct Liar;
    impl Serialize for Liar {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeSeq;
            serializer.serialize_seq(Some(2))?.end()
        }
    }
    assert!(encode(&mut Vec::new(), &Liar).is_err());
}
