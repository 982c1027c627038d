//! Ties the worker to the interpreter that it is linked against.

use std::path::PathBuf;

use pyo3_build_config::InterpreterConfig;

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    // An interpreter built by hand, or by a version manager, keeps its library
    // where the dynamic loader does not look; the tests get the rpath as well.
    pyo3_build_config::add_libpython_rpath_link_args();

    let config = pyo3_build_config::get();
    name_program(config);
    compile_modules(config);
}

/// The library looks for its standard library beside the first `python3` on
/// PATH, which may be another build's. The base executable is named, for the
/// one found here may be a virtual environment's.
fn name_program(config: &InterpreterConfig) {
    let script = "import sys; print(getattr(sys, '_base_executable', sys.executable))";
    let program = run(config, script).unwrap_or_default();
    println!("cargo::rustc-env=MENAGERIE_BUILD_PYTHON={}", program.trim());
}

/// Compiles the worker's own modules to bytecode: doing so at each start would
/// take a fifth of the time that an interpreter needs to start at all.
fn compile_modules(config: &InterpreterConfig) {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = PathBuf::from("src/python");
    println!("cargo::rerun-if-changed={}", sources.display());
    for entry in sources.read_dir().expect("src/python") {
        let source = entry.expect("an entry of src/python").path();
        let name = source.file_stem().expect("a name").to_str().expect("a plain name");
        let bytecode = out.join(name).with_extension("bin");
        let script = format!(
            "import importlib.util, marshal\n\
             text = open({source:?}, encoding='utf-8').read()\n\
             code = compile(text, '<menagerie>/{name}.py', 'exec', dont_inherit=True)\n\
             open({bytecode:?}, 'wb').write(importlib.util.MAGIC_NUMBER + marshal.dumps(code))\n"
        );
        if run(config, &script).is_none() {
            // No interpreter to ask: the source is compiled at each start.
            std::fs::write(bytecode, "").expect("OUT_DIR can be written");
        }
    }
}

fn run(config: &InterpreterConfig, script: &str) -> Option<String> {
    config.executable()?;
    config.run_python_script(script).ok()
}
