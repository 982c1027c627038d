//! The longest names: a contract's has at most 255 characters, and a function's as many
//! as its language allows. They are known, called and told in full, by the host and by
//! bundles of every language.

use menagerie_supervisor::{Failure, LoaderError, RuntimeError, Supervisor};
use menagerie_tests::Language;
use rmpv::Value;

use crate::bad_input::bundles::assembly;
use crate::bad_input::native::compile;
use crate::support::{Bundle, per_language, start};

/// What a contract's name has at most.
const MOST: usize = 255;
/// More than any buffer on the way would have that thinks of names.
const MUCH: usize = 4000;

/// A name of so many letters, whose last one is there only if nobody cuts it.
fn name(first: char, len: usize) -> String {
    format!("{first}{}d", "n".repeat(len - 2))
}

/// A bundle with a function of each of these names, which returns its argument.
fn bundle(language: Language, contract: &str, functions: &[String]) -> Bundle {
    let (file, code) = match language.suffix {
        "py" => {
            let function = |name: &String| {
                format!("@menagerie.export('{contract}')\ndef {name}(text):\n    return text\n")
            };
            let code: String = functions.iter().map(function).collect();
            ("main.py", format!("import menagerie\n{code}"))
        }
        "lua" => {
            let function = |name: &String| format!("{name} = function(text) return text end, ");
            let code: String = functions.iter().map(function).collect();
            ("main.lua", format!("return {{ ['{contract}'] = {{ {code} }} }}"))
        }
        "js" => {
            let function = |name: &String| format!("{name}: (text) => text, ");
            let code: String = functions.iter().map(function).collect();
            ("main.js", format!("export default {{ '{contract}': {{ {code} }} }};"))
        }
        "dotnet" => ("main.dll", String::new()),
        _ => ("main.so", String::new()),
    };
    let loader = language.loader;
    let manifest = format!(
        "name = 'long'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = ['{contract}']\n"
    );
    let bundle = Bundle::of(&[("manifest.toml", &manifest), (file, &code)]);
    let artifact = bundle.path().join(file);
    match language.suffix {
        "dotnet" => drop(std::fs::copy(assembly("long_names"), artifact).unwrap()),
        "c" => {
            let add = |name: &String| {
                format!(
                    "if (mg_add_function(registrar, \"{contract}\", \"{name}\", NULL, same, NULL))\n\
                     return MG_FAILED;\n"
                )
            };
            let adds: String = functions.iter().map(add).collect();
            let source = format!(
                "#include <menagerie.h>
                 static int same(mg_call *call, void *userdata) {{
                     (void)userdata;
                     return mg_return_raw(call, mg_arg_raw(call, 0));
                 }}
                 int menagerie_init(const mg_host *host, mg_registrar *registrar) {{
                     (void)host;
                     {adds}
                     return MG_OK;
                 }}\n"
            );
            compile(&source, &artifact);
        }
        _ => {}
    }
    bundle
}

/// The names in the status: the contract's, and its functions'.
fn told(supervisor: &Supervisor) -> (String, Vec<String>) {
    let bundles = supervisor.status().bundles;
    let long = bundles.into_iter().find(|bundle| bundle.name == "long").unwrap();
    let contract = long.contracts.into_iter().next().unwrap();
    (contract.name, contract.functions)
}

async fn b3_the_longest_names_are_called_and_told(suffix: &str) {
    let supervisor = start();
    let language = Language::of(suffix);
    let contract = name('c', MOST);
    let mut functions = vec![name('f', MOST)];
    if suffix != "dotnet" {
        functions.push(name('f', MUCH));
    }
    let long = bundle(language, &format!("{contract}@1"), &functions);
    supervisor.load(long.path()).await.unwrap();
    assert_eq!(told(&supervisor), (contract.clone(), functions.clone()));
    let handle = supervisor.contract(&format!("{contract}@1")).unwrap();
    for function in &functions {
        let text: String = handle.call(function, ("Ada",)).await.unwrap();
        assert_eq!(text, "Ada");
        // One letter less is another name, and so is one more.
        for other in [&function[1..], &format!("{function}d")] {
            let outcome = handle.call::<_, Value>(other, ("Ada",)).await;
            let Err(Failure::NoSuchFunction { available, .. }) = &outcome else {
                panic!("{outcome:?}")
            };
            assert!(available.contains(function), "{available:?}");
        }
    }

    // A bundle of the same language calls it, and one that may not is told so.
    supervisor.load(language.bundle("greeter")).await.unwrap();
    let needs = format!("[[dependency]]\ncontract = '{contract}@1'\n");
    let caller = Bundle::copy_of(&language.bundle("probe"), "caller", &needs);
    supervisor.load(caller.path()).await.unwrap();
    let probe = supervisor.contract("caller/probe@1").unwrap();
    for function in &functions {
        let text: String =
            probe.call("call", (&*format!("{contract}@1"), &**function, ["Ada"])).await.unwrap();
        assert_eq!(text, "Ada");
    }
    let nothing = format!("{}x", functions[0]);
    for (contract, function, kind) in [
        (format!("{contract}@1"), &nothing, "NoSuchFunction"),
        (name('x', MOST), &functions[0], "UndeclaredDependency"),
    ] {
        let found: Option<String> =
            probe.call("caught", (contract, function, ["Ada"])).await.unwrap();
        assert_eq!(found.as_deref(), Some(kind));
    }

    supervisor.reload("long").await.unwrap();
    let text: String = handle.call(&functions[0], ("Ada",)).await.unwrap();
    assert_eq!(text, "Ada");
    supervisor.restart(language.loader).await.unwrap();
    let last = &functions[functions.len() - 1];
    let text: String = handle.call(last, ("Ada",)).await.unwrap();
    assert_eq!(text, "Ada");
    assert_eq!(told(&supervisor), (contract, functions));
    assert!(supervisor.crashes().is_empty());
    supervisor.shutdown().await;
}

per_language!(c, py, lua, js, dotnet; {
    b3_the_longest_names_are_called_and_told,
});

/// One letter more, where the name is the code's own. In a manifest it is refused as
/// any other text that is no contract.
async fn b3_a_contract_of_too_long_a_name_is_refused(suffix: &str) {
    let supervisor = start();
    let contract = format!("{}@1", name('c', MOST + 1));
    let long = bundle(Language::of(suffix), &contract, &[name('f', MOST)]);
    let outcome = supervisor.load(long.path()).await;
    let Err(RuntimeError::Loader(LoaderError::ManifestInvalid { .. })) = &outcome else {
        panic!("{outcome:?}")
    };
    let manifest = std::fs::read_to_string(long.path().join("manifest.toml")).unwrap();
    long.write("manifest.toml", &manifest.replace(&contract, "short@1"));
    let outcome = supervisor.load(long.path()).await;
    let Err(RuntimeError::Loader(error)) = &outcome else { panic!("{outcome:?}") };
    // C's registrar says no, and the library says what it makes of that.
    let typed =
        matches!(error, LoaderError::ContractMismatch { .. } | LoaderError::InitFailed { .. });
    assert!(typed, "{error:?}");
    assert!(supervisor.contract("short@1").is_err());
    assert!(supervisor.status().bundles.is_empty());
    supervisor.shutdown().await;
}

mod refused {
    use super::b3_a_contract_of_too_long_a_name_is_refused;

    super::per_language!(c, py, lua, js; { b3_a_contract_of_too_long_a_name_is_refused });
}
