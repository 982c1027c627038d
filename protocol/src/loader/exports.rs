//! What a bundle's code exports, against what its manifest says.

use crate::contract::{ContractId, is_function_name};
use crate::error::LoaderError;
use crate::instance::ContractInterface;
use crate::loader::manifest::ManifestData;

/// Functions that one bundle may export, in all of its contracts: whoever keeps count of
/// them must not have to for as many as a worker likes to name.
pub const MAX_FUNCTIONS: usize = 4096;

impl ManifestData {
    /// Checks what a bundle's code exports: each contract that this manifest provides,
    /// once, and no other, with functions of good names (B3), and as many as
    /// `function_count` says.
    ///
    /// # Errors
    ///
    /// [`LoaderError::ContractMismatch`], also for more than [`MAX_FUNCTIONS`];
    /// [`LoaderError::BadFunctionName`]; [`LoaderError::FunctionCountMismatch`].
    pub fn check_exports(&self, contracts: &[ContractInterface]) -> Result<(), LoaderError> {
        let mismatch = |contract: &str, problem: &str| LoaderError::ContractMismatch {
            bundle: self.name.clone(),
            contract: contract.to_owned(),
            problem: problem.to_owned(),
        };
        // Before anything is done for each of them.
        let mut functions = 0;
        for (number, interface) in contracts.iter().enumerate() {
            functions += interface.functions.len();
            if number.max(functions) > MAX_FUNCTIONS {
                let problem =
                    format!("has more functions than a bundle may have ({MAX_FUNCTIONS})");
                return Err(mismatch(&interface.contract, &problem));
            }
        }
        let mut exported: Vec<(ContractId, &ContractInterface)> = Vec::new();
        for interface in contracts {
            let id: ContractId = interface
                .contract
                .parse()
                .map_err(|_| mismatch(&interface.contract, "is no contract name"))?;
            exported.push((id, interface));
        }
        for provided in &self.provides {
            if !exported.iter().any(|(id, _)| id.same_major(provided)) {
                let problem = "is in the manifest's provides, but the code does not export it";
                let problem = format!("{problem}; it exports {}", listed(&exported));
                return Err(mismatch(&provided.to_string(), &problem));
            }
        }
        let mut seen = vec![false; self.provides.len()];
        for (id, interface) in &exported {
            let at = self.provides.iter().position(|provided| provided.same_major(id));
            let Some(seen) = at.and_then(|at| seen.get_mut(at)) else {
                let problem = "is exported by the code, but not in the manifest's provides";
                return Err(mismatch(&interface.contract, problem));
            };
            if std::mem::replace(seen, true) {
                return Err(mismatch(&interface.contract, "is exported twice"));
            }
            if let Some(bad) = interface.functions.iter().find(|name| !is_function_name(name)) {
                return Err(LoaderError::BadFunctionName {
                    bundle: self.name.clone(),
                    contract: interface.contract.clone(),
                    function: bad.clone(),
                });
            }
            if let Some(expected) = self.function_count_of(id) {
                let found = u32::try_from(interface.functions.len()).unwrap_or(u32::MAX);
                if found != expected {
                    return Err(LoaderError::FunctionCountMismatch {
                        bundle: self.name.clone(),
                        contract: id.name.clone(),
                        expected,
                        found,
                    });
                }
            }
        }
        Ok(())
    }
}

/// The first of these contracts, for people.
fn listed(exported: &[(ContractId, &ContractInterface)]) -> String {
    const MOST: usize = 8;
    let names: Vec<&str> =
        exported.iter().take(MOST).map(|(_, interface)| &*interface.contract).collect();
    match exported.len() {
        0 => "nothing".to_owned(),
        1..=MOST => names.join(", "),
        more => format!("{} and {} more", names.join(", "), more - MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(provides: &[&str]) -> ManifestData {
        let list = provides.join("', '");
        let text = format!(
            "name = 'b'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['{list}']\n"
        );
        ManifestData::parse(&text).unwrap().manifest
    }

    fn contract(name: &str, functions: impl IntoIterator<Item = String>) -> ContractInterface {
        ContractInterface { contract: name.to_owned(), functions: functions.into_iter().collect() }
    }

    #[test]
    fn l5_exports_are_those_of_the_manifest_and_each_once() {
        let two = manifest(&["a@1", "b@2"]);
        let named = |name| contract(name, ["f".to_owned()]);
        two.check_exports(&[named("a@1.7"), named("b@2")]).unwrap();
        for (contracts, problem) in [
            (vec![], "does not export it; it exports nothing"),
            (vec![named("a")], "does not export it; it exports a"),
            (vec![named("a"), named("b@1")], "does not export it; it exports a, b@1"),
            (vec![named("a"), named("b@2"), named("c")], "not in the manifest"),
            (vec![named("a"), named("b@2"), named("a@1.1")], "exported twice"),
            (vec![named("a"), named("b@2"), named("!@#")], "is no contract name"),
        ] {
            let error = two.check_exports(&contracts).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let others: Vec<_> = (0..10).map(|n| contract(&format!("c{n}@1"), [])).collect();
        let error = two.check_exports(&others).unwrap_err().to_string();
        assert!(error.ends_with("c6@1, c7@1 and 2 more"), "{error}");
        let error = two.check_exports(&[named("a"), contract("b@2", ["No".to_owned()])]);
        assert!(matches!(error, Err(LoaderError::BadFunctionName { .. })), "{error:?}");
    }

    #[test]
    fn l5_functions_are_bounded() {
        let one = manifest(&["a@1"]);
        let with = |count| contract("a", (0..count).map(|n| format!("f{n}")));
        one.check_exports(&[with(MAX_FUNCTIONS)]).unwrap();
        let error = one.check_exports(&[with(MAX_FUNCTIONS + 1)]).unwrap_err().to_string();
        assert!(error.contains("may have (4096)"), "{error}");
        let many = vec![contract("a", []); MAX_FUNCTIONS + 2];
        assert!(one.check_exports(&many).is_err());
    }
}
