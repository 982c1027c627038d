//! Hooks at a load and a reload: what they may wait for (C5), and that a generation
//! whose state cannot leave goes on with it (L6).

use std::sync::Arc;

use menagerie_supervisor::{LoaderError, RuntimeError, Supervisor};
use menagerie_tests::Language;
use tokio::sync::Notify;

use crate::bad_input::{bundles::assembly, native::compile};
use crate::support::{Bundle, find_line, per_language, run, start, wait_for};

/// A bundle with this code, which may call the host's `kv@1`.
fn of_code(suffix: &str, name: &str, code: &str) -> Bundle {
    let (loader, file) = (Language::of(suffix).loader, format!("main.{suffix}"));
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = ['t@1']\n[[dependency]]\nkind = 'host'\ncontract = 'kv'\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), (&file, code)])
}

/// Who came from memory has none (L4).
#[test]
fn l4_a_bundle_from_memory_is_told_of_no_folder() {
    let codes = [
        (
            "python",
            "import menagerie\n\
             def on_load(context):\n    global given\n    given = context.dir\n\
             @menagerie.export('t@1')\ndef dir():\n    return given\n",
        ),
        (
            "lua",
            "local given = 'none'\n\
             return { ['t@1'] = { dir = function() return given end },\n\
                      on_load = function(context) given = context.dir end }\n",
        ),
        (
            "js",
            "let given = 'none';\n\
             export function on_load(context) { given = context.dir; }\n\
             export default { 't@1': { dir: () => given } };\n",
        ),
    ];
    run(async move {
        let supervisor = start();
        for (loader, code) in codes {
            let manifest = format!("name = '{loader}'\nloader = '{loader}'\nprovides = ['t@1']\n");
            supervisor.load_code(&manifest, code).await.unwrap();
            let contract = supervisor.contract(&format!("{loader}/t@1")).unwrap();
            let dir: Option<String> = contract.call("dir", ()).await.unwrap();
            assert_eq!(dir, None, "{loader}");
        }
        supervisor.shutdown().await;
    });
}

/// The host's `kv@1`, whose `held` answers when it is let go.
fn provide_kv(supervisor: &Supervisor) -> Arc<Notify> {
    let let_go = Arc::new(Notify::new());
    let held = Arc::clone(&let_go);
    supervisor
        .host_contract("kv@1")
        .function("get", |key: String| async move { format!("value of {key}") })
        .function("held", move || {
            let held = Arc::clone(&held);
            async move {
                held.notified().await;
                "let go"
            }
        })
        .done()
        .unwrap();
    let_go
}

/// A reload whose `on_unload` awaits a call that was made before, says so in the log,
/// and hands its answer over.
async fn awaits_an_earlier_call(suffix: &str) {
    let code = match suffix {
        "py" => {
            "import asyncio, menagerie\n\
             given = last = None\n\
             async def on_load(context):\n    global given\n    given = context.state\n\
             async def on_unload():\n    \
                 print('on_unload of py awaits')\n    await asyncio.sleep(0.001)\n    \
                 return None if last is None else await last\n\
             @menagerie.export('t@1')\nasync def begin():\n    global last\n    \
                 last = menagerie.call_async('kv@1', 'held')\n\
             @menagerie.export('t@1')\ndef state():\n    return given\n"
        }
        _ => {
            "import { call } from 'menagerie';\n\
             let given = null, last = null;\n\
             export function on_load(context) { given = context.state; }\n\
             export async function on_unload() {\n  \
                 console.log('on_unload of js awaits');\n  \
                 await new Promise((resolve) => setTimeout(resolve, 1));\n  \
                 return await last;\n\
             }\n\
             export default { 't@1': {\n  \
                 begin() { last = call('kv@1', 'held'); },\n  \
                 state: () => given,\n\
             } };\n"
        }
    };
    let supervisor = start();
    let let_go = provide_kv(&supervisor);
    let bundle = of_code(suffix, "awaits", code);
    supervisor.load(bundle.path()).await.unwrap();
    let contract = supervisor.contract("awaits/t@1").unwrap();
    contract.call::<_, ()>("begin", ()).await.unwrap();
    let reloading = {
        let supervisor = supervisor.clone();
        tokio::spawn(async move { supervisor.reload("awaits").await })
    };
    let says = format!("on_unload of {suffix} awaits");
    wait_for("on_unload", || find_line(|line| line.message.contains(&says))).await;
    let_go.notify_one();
    reloading.await.unwrap().unwrap();
    let state: Option<String> = contract.call("state", ()).await.unwrap();
    assert_eq!(state.as_deref(), Some("let go"));
    supervisor.shutdown().await;
}

#[test]
fn c5_a_hook_awaits_an_earlier_call_in_py() {
    run(awaits_an_earlier_call("py"));
}

#[test]
fn c5_a_hook_awaits_an_earlier_call_in_js() {
    run(awaits_an_earlier_call("js"));
}

#[test]
fn c5_a_hook_awaits_its_own_calls_in_py() {
    run(async {
        let supervisor = start();
        provide_kv(&supervisor);
        let code = "import asyncio, menagerie\n\
            async def get(key):\n    return await menagerie.call_async('kv@1', 'get', key)\n\
            at_import = asyncio.run(get('import'))\n\
            async def on_load(context):\n    global given, bad\n    \
                await asyncio.sleep(0.001)\n    \
                given = await asyncio.gather(get('a'), get('b'))\n    \
                bad = asyncio.create_task(get(7))\n    \
                try: await bad\n    \
                except menagerie.CallError as error: given.append(error.kind)\n\
            @menagerie.export('t@1')\ndef state():\n    return [at_import, *given]\n\
            @menagerie.export('t@1')\ndef run():\n    return asyncio.run(get('run'))\n\
            @menagerie.export('t@1')\nasync def later():\n    return await get('later')\n";
        let bundle = of_code("py", "awaits", code);
        supervisor.load(bundle.path()).await.unwrap();
        let contract = supervisor.contract("awaits/t@1").unwrap();
        let state: Vec<String> = contract.call("state", ()).await.unwrap();
        assert_eq!(state, ["value of import", "value of a", "value of b", "BadArguments"]);
        for _ in 0..2 {
            let text: String = contract.call("run", ()).await.unwrap();
            assert_eq!(text, "value of run");
            let text: String = contract.call("later", ()).await.unwrap();
            assert_eq!(text, "value of later");
        }
        supervisor.reload("awaits").await.unwrap();
        let state: Vec<String> = contract.call("state", ()).await.unwrap();
        assert_eq!(state[1..3], ["value of a", "value of b"]);
        supervisor.shutdown().await;
    });
}

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
