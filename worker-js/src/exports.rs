//! What a bundle's main module exports.

use deno_core::v8;
use menagerie_protocol::{ContractInterface, GuestError};

use crate::arity::Arity;
use crate::guest_error::{from_exception, property};

/// One exported function.
pub(crate) struct Function {
    /// The function itself.
    pub(crate) function: v8::Global<v8::Function>,
    /// The contract's object: `this` in its functions.
    pub(crate) contract: v8::Global<v8::Object>,
    /// The name.
    pub(crate) name: String,
    /// What it accepts.
    pub(crate) arity: Arity,
}

/// All that a bundle exports.
#[derive(Default)]
pub(crate) struct Exports {
    /// The contracts, by name.
    pub(crate) contracts: Vec<ContractInterface>,
    /// Their functions, in the order of the contracts.
    pub(crate) functions: Vec<Function>,
    /// `on_load`.
    pub(crate) on_load: Option<v8::Global<v8::Function>>,
    /// `on_unload`.
    pub(crate) on_unload: Option<v8::Global<v8::Function>>,
}

fn wrong(message: impl Into<String>) -> GuestError {
    GuestError::new("TypeError", message)
}

/// Reads the main module's namespace.
///
/// # Errors
///
/// It exports something else than contracts of functions, or a getter threw.
pub(crate) fn read(
    scope: &mut v8::PinScope<'_, '_>,
    namespace: v8::Local<'_, v8::Object>,
) -> Result<Exports, GuestError> {
    let mut exports = Exports {
        on_load: hook(scope, namespace, "on_load")?,
        on_unload: hook(scope, namespace, "on_unload")?,
        ..Exports::default()
    };
    let default = property(scope, namespace, "default")
        .filter(|default| default.is_object() && !default.is_function())
        .and_then(|default| default.try_cast::<v8::Object>().ok())
        .ok_or_else(|| {
            wrong(
                "the main module's default export is no object of contracts; expected \
                 export default { \"greeter@1\": { greet(name) { ... } } }",
            )
        })?;
    let mut names = own_names(scope, default)?;
    names.sort();
    for name in names {
        let contract = property(scope, default, &name)
            .filter(|contract| contract.is_object() && !contract.is_function())
            .and_then(|contract| contract.try_cast::<v8::Object>().ok())
            .ok_or_else(|| wrong(format!("the contract '{name}' is no object of functions")))?;
        let functions = functions(scope, contract)?;
        exports.contracts.push(ContractInterface {
            contract: name,
            functions: functions.iter().map(|f| f.name.clone()).collect(),
        });
        exports.functions.extend(functions);
    }
    Ok(exports)
}

fn hook(
    scope: &mut v8::PinScope<'_, '_>,
    namespace: v8::Local<'_, v8::Object>,
    name: &str,
) -> Result<Option<v8::Global<v8::Function>>, GuestError> {
    match property(scope, namespace, name) {
        None => Ok(None),
        Some(value) if value.is_undefined() => Ok(None),
        Some(value) => match value.try_cast::<v8::Function>() {
            Ok(function) => Ok(Some(v8::Global::new(scope, function))),
            Err(_) => Err(wrong(format!("the export '{name}' is no function"))),
        },
    }
}

/// The functions of a contract: of the object itself, and if it is an instance
/// of a class, of that class. They stand in the order of their definition.
fn functions(
    scope: &mut v8::PinScope<'_, '_>,
    contract: v8::Local<'_, v8::Object>,
) -> Result<Vec<Function>, GuestError> {
    let mut found: Vec<Function> = Vec::new();
    let this = v8::Global::new(scope, contract);
    let mut holder = contract;
    loop {
        // `Object.prototype` is where every chain of plain objects ends; its
        // functions (`toString`, …) are nobody's contract.
        let parent = holder.get_prototype(scope).and_then(|p| p.try_cast::<v8::Object>().ok());
        if parent.is_none() && holder != contract {
            break;
        }
        for name in own_names(scope, holder)? {
            if name == "constructor" || found.iter().any(|f| f.name == name) {
                continue;
            }
            let Some(value) = property(scope, contract, &name) else { continue };
            let Ok(function) = value.try_cast::<v8::Function>() else { continue };
            let arity = arity(scope, function);
            let function = v8::Global::new(scope, function);
            found.push(Function { function, contract: this.clone(), name, arity });
        }
        match parent {
            Some(parent) => holder = parent,
            None => break,
        }
    }
    Ok(found)
}

fn own_names(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
) -> Result<Vec<String>, GuestError> {
    let arguments = v8::GetPropertyNamesArgs {
        mode: v8::KeyCollectionMode::OwnOnly,
        property_filter: v8::PropertyFilter::SKIP_SYMBOLS,
        index_filter: v8::IndexFilter::IncludeIndices,
        key_conversion: v8::KeyConversionMode::ConvertToString,
    };
    v8::tc_scope!(let tc, scope);
    let Some(names) = object.get_own_property_names(tc, arguments) else {
        return Err(match tc.exception() {
            Some(exception) => from_exception(tc, exception),
            None => wrong("the exports could not be read"),
        });
    };
    let mut list = Vec::new();
    for index in 0..names.length() {
        if let Some(name) = names.get_index(tc, index) {
            list.push(name.to_rust_string_lossy(tc));
        }
    }
    Ok(list)
}

fn arity(scope: &mut v8::PinScope<'_, '_>, function: v8::Local<'_, v8::Function>) -> Arity {
    let length = property(scope, function.into(), "length")
        .and_then(|length| length.uint32_value(scope))
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(0);
    // Of a function this is its source text, whatever its own `toString` says.
    let source = function_source(scope, function).unwrap_or_default();
    Arity::of(length, &source)
}

fn function_source(
    scope: &mut v8::PinScope<'_, '_>,
    function: v8::Local<'_, v8::Function>,
) -> Option<String> {
    let to_string = property(scope, function.get_prototype(scope)?.try_cast().ok()?, "toString")?;
    let to_string = to_string.try_cast::<v8::Function>().ok()?;
    v8::tc_scope!(let tc, scope);
    let source = to_string.call(tc, function.into(), &[])?;
    Some(source.to_rust_string_lossy(tc))
}
