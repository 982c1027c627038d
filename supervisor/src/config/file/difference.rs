//! In which settings two files differ.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{ConfigFile, PYTHON};

/// The names, as the file has them: `deadline`, `restart.limit`.
pub(super) fn of(one: &ConfigFile, other: &ConfigFile) -> Vec<String> {
    let (one, other) = (&comparable(one), &comparable(other));
    let mut names = Vec::new();
    let pairs = [
        ("", object(&one.config), object(&other.config)),
        ("status.", object(&one.status), object(&other.status)),
    ];
    for (prefix, one, other) in &pairs {
        compare(prefix, one, other, &mut names);
    }
    let (table, name, field) = PYTHON;
    for found in names.iter_mut().filter(|found| *found == field) {
        *found = format!("{table}.{name}");
    }
    names.sort_unstable();
    names
}

/// With paths that JSON can hold: those that are no UTF-8 are written with escapes.
fn comparable(file: &ConfigFile) -> ConfigFile {
    let mut file = file.clone();
    for path in file.paths() {
        *path = format!("{path:?}").into();
    }
    file
}

fn object(settings: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Tables are compared key by key.
fn compare(
    prefix: &str,
    one: &Map<String, Value>,
    other: &Map<String, Value>,
    names: &mut Vec<String>,
) {
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for key in keys {
        match (one.get(key), other.get(key)) {
            (one, other) if one == other => {}
            (Some(Value::Object(one)), Some(Value::Object(other))) => {
                compare(&format!("{prefix}{key}."), one, other, names);
            }
            _ => names.push(format!("{prefix}{key}")),
        }
    }
}
