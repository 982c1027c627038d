//! What a bundle's main chunk returns: contracts with their functions, and the
//! hooks.

use std::collections::BTreeMap;

use menagerie_protocol::{ContractInterface, GuestError};
use mlua::{Table, Value};

use crate::vm::Vm;

/// An exported function.
#[derive(Debug)]
pub(crate) struct Export {
    /// The name, for messages.
    pub(crate) name: String,
    /// The number that [`Vm::call`] takes.
    pub(crate) function: i64,
    /// How many arguments it takes; none if any number.
    pub(crate) arity: Option<usize>,
}

/// All that a bundle exports.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    /// In the order of registration, which is by name.
    pub(crate) contracts: Vec<ContractInterface>,
    /// In the order of their ids.
    pub(crate) functions: Vec<Export>,
    pub(crate) on_load: Option<i64>,
    pub(crate) on_unload: Option<i64>,
}

const EXPECTED: &str =
    "return a table of contracts, for example { [\"greeter@1\"] = { greet = function(name) end } }";

/// Reads the value that the main chunk `file` returned.
pub(crate) fn read(vm: &Vm, file: &str, value: &Value) -> Result<Exports, GuestError> {
    let error = |problem: String| GuestError::new("error", format!("{file}: {problem}"));
    let Value::Table(table) = value else {
        return Err(error(format!("returned {}; {EXPECTED}", value.type_name())));
    };
    let mut exports = Exports::default();
    let mut contracts = BTreeMap::new();
    for (name, value) in entries(table).map_err(&error)? {
        match (name.as_str(), value) {
            ("on_load", Value::Function(hook)) => {
                exports.on_load = Some(vm.add_function(&hook).map_err(|e| error(e.to_string()))?);
            }
            ("on_unload", Value::Function(hook)) => {
                exports.on_unload = Some(vm.add_function(&hook).map_err(|e| error(e.to_string()))?);
            }
            ("on_load" | "on_unload", other) => {
                return Err(error(format!("{name} is a {}, not a function", other.type_name())));
            }
            (_, Value::Table(contract)) => {
                contracts.insert(name, contract);
            }
            (_, other) => {
                let kind = other.type_name();
                return Err(error(format!("'{name}' is a {kind}, not a table of functions")));
            }
        }
    }
    for (contract, table) in contracts {
        let mut functions = Vec::new();
        for (name, value) in entries(&table).map_err(&error)? {
            let Value::Function(function) = value else {
                let kind = value.type_name();
                return Err(error(format!("{contract}.{name} is a {kind}, not a function")));
            };
            let arity = vm.arity(&function).map_err(|e| error(e.to_string()))?;
            let function = vm.add_function(&function).map_err(|e| error(e.to_string()))?;
            functions.push(name.clone());
            exports.functions.push(Export { name, function, arity });
        }
        exports.contracts.push(ContractInterface { contract, functions });
    }
    Ok(exports)
}

/// A table's pairs by name.
fn entries(table: &Table) -> Result<BTreeMap<String, Value>, String> {
    let mut entries = BTreeMap::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|e| e.to_string())?;
        let Value::String(name) = &key else {
            return Err(format!("a {} is no name of an export; {EXPECTED}", key.type_name()));
        };
        entries.insert(name.to_string_lossy(), value);
    }
    Ok(entries)
}
