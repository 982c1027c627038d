//! Links QuickJS so that each of its runtimes has a heap of its own
//! (`src/heap.rs`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_QUICKJS").is_some() {
        println!("cargo:rustc-link-arg=-Wl,--wrap=JS_NewRuntime");
    }
}
