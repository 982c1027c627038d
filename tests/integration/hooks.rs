//! Hooks at a reload: a generation whose state cannot leave goes on with it (L6).

use menagerie_supervisor::{LoaderError, RuntimeError, Supervisor};
use menagerie_tests::Language;

use crate::bad_input::{bundles::assembly, native::compile};
use crate::support::{Bundle, find_line, per_language, start, wait_for};

/// A bundle whose `on_unload` fails; `first@1.loads` says how often its `on_load` ran.
async fn load_failing(supervisor: &Supervisor, suffix: &str) -> Bundle {
    let file = match suffix {
        "dotnet" => "main.dll".to_owned(),
        "c" => "libmain.so".to_owned(),
        _ => format!("main.{suffix}"),
    };
    let loader = Language::of(suffix).loader;
    // The assembly exports more.
    let provides = if suffix == "dotnet" { "'first@1', 'another@2.1'" } else { "'first@1'" };
    let manifest = format!(
        "name = 'fail'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = [{provides}]\n"
    );
    let bundle = Bundle::of(&[("manifest.toml", &manifest)]);
    let artifact = bundle.path().join(file);
    let code = match suffix {
        "py" => {
            "import menagerie\n\
             n = 0\n\
             def on_load(context):\n    global n\n    n += 1\n\
             def on_unload():\n    return {1, 2}\n\
             @menagerie.export('first@1')\ndef loads():\n    return n\n"
        }
        "lua" => {
            "local n = 0\n\
             return {\n\
               ['first@1'] = { loads = function() return n end },\n\
               on_load = function() n = n + 1 end,\n\
               on_unload = function() return print end,\n\
             }\n"
        }
        "js" => {
            "let n = 0;\n\
             export function on_load() { n += 1; }\n\
             export function on_unload() { return () => {}; }\n\
             export default { 'first@1': { loads: () => n } };\n"
        }
        "c" => {
            "#include <menagerie.h>\n\
             static int64_t n;\n\
             static int on_load(mg_call *call, void *data) { (void)call; (void)data; n++; return MG_OK; }\n\
             static int on_unload(mg_call *call, void *data) {\n\
                 (void)data;\n\
                 return mg_fail(call, \"NotToday\", \"not today\");\n\
             }\n\
             static int loads(mg_call *call, void *data) { (void)data; return mg_return_i64(call, n); }\n\
             int menagerie_init(const mg_host *host, mg_registrar *registrar) {\n\
                 (void)host;\n\
                 if (mg_add_function(registrar, \"first@1\", \"loads\", \"\", loads, NULL)) return MG_FAILED;\n\
                 mg_on_load(registrar, on_load, NULL);\n\
                 return mg_on_unload(registrar, on_unload, NULL);\n\
             }\n"
        }
        _ => {
            std::fs::copy(assembly("hooks"), &artifact).unwrap();
            ""
        }
    };
    match suffix {
        "dotnet" => {}
        "c" => compile(code, &artifact),
        _ => std::fs::write(&artifact, code).unwrap(),
    }
    supervisor.load(bundle.path()).await.unwrap();
    bundle
}

async fn l6_an_on_unload_that_fails_leaves_its_generation_as_it_was(suffix: &str) {
    let supervisor = start();
    let _bundle = load_failing(&supervisor, suffix).await;
    let contract = supervisor.contract("fail/first@1").unwrap();
    for _ in 0..2 {
        let error = supervisor.reload("fail").await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Loader(LoaderError::InitFailed { step, .. })
                if step == "run on_unload"),
            "{error:?}"
        );
        assert_eq!(contract.call::<_, i64>("loads", ()).await.unwrap(), 1);
    }
    // It is asked for its last words as one that never was.
    supervisor.unload("fail").await.unwrap();
    wait_for("the hook's error", || {
        find_line(|line| {
            line.bundle.as_deref() == Some("fail") && line.message.contains("on_unload failed")
        })
    })
    .await;
    supervisor.shutdown().await;
}

per_language!(c, py, lua, js, dotnet; { l6_an_on_unload_that_fails_leaves_its_generation_as_it_was });
