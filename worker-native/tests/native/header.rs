use std::fmt::Write;
use std::mem::{offset_of, size_of};

use menagerie_guest::abi;

use crate::support::{Folder, compile, harness};

/// Two source files that include the header, as a larger bundle has.
const USE: &str = "#include <menagerie.h>\nint use(mg_call *call);\n\
    int use(mg_call *call) { return mg_return_text(call, \"x\"); }\n";

fn compiles(compiler: &str, standard: &str, suffix: &str, source: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("source").with_extension(suffix);
    std::fs::write(&file, source).unwrap();
    let flags = [standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-c", "-o"];
    let mut arguments = flags.map(std::ffi::OsStr::new).to_vec();
    let object = dir.path().join("object");
    arguments.extend([object.as_os_str(), file.as_os_str()]);
    compile(compiler, &arguments)
}

#[test]
fn header_is_clean_c_and_cpp() {
    for standard in ["-std=c99", "-std=c11", "-std=c17"] {
        compiles("cc", standard, "c", USE).unwrap();
    }
    for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
        compiles("c++", standard, "cpp", &USE.replace("use(", "used(")).unwrap();
    }
    assert!(
        compiles("cc", "-std=c99", "c", "#include <menagerie.h>\nint x = mg_nothing;\n").is_err()
    );
}

/// The name of each field of a type in C, and where abi.rs has it.
macro_rules! layout {
    ($out:ident, $rust:ident, $c:literal, $($field:ident $(as $name:literal)?),*) => {{
        let size = size_of::<abi::$rust>();
        writeln!($out, "_Static_assert(sizeof({}) == {size}, \"size of {0}\");", $c).unwrap();
        // All fields, in this order: a pattern without `..` is complete.
        #[allow(dead_code, unused_variables)]
        fn complete(abi::$rust { $($field),* }: abi::$rust) {}
        $(
            #[allow(unused_mut, unused_assignments)]
            let mut name = stringify!($field);
            $(name = $name;)?
            let offset = offset_of!(abi::$rust, $field);
            writeln!($out, "_Static_assert(offsetof({}, {name}) == {offset}, \"{name}\");", $c).unwrap();
        )*
    }};
}

#[test]
fn header_and_abi_rs_agree() {
    let mut out = "#include <menagerie.h>\n".to_owned();
    layout!(out, Str, "mg_str", ptr, len);
    layout!(out, Bytes, "mg_bytes", ptr, len);
    layout!(out, Error, "mg_error", type_name as "type", message, stack, code, help, url, inner, inner_len);
    layout!(out, Failure, "mg_failure", kind, message, guest);
    layout!(out, Answer, "mg_answer", value, owner);
    layout!(out, Reader, "mg_reader", host, at, end);
    layout!(out, Writer, "mg_writer", host, data, len, capacity);
    layout!(out, Call, "mg_call", host, args, result);
    layout!(out, Registrar, "mg_registrar", host);
    layout!(
        out,
        Host,
        "mg_host",
        abi_version,
        generation,
        bundle,
        log,
        add_function,
        on_load,
        on_unload,
        init_failed,
        arg_count,
        arg_kind,
        arg_bool,
        arg_i64,
        arg_u64,
        arg_f64,
        arg_str,
        arg_bytes,
        arg_raw,
        result,
        return_bytes,
        return_raw,
        return_view,
        fail,
        bad_arguments,
        peek,
        read_null,
        read_bool,
        read_i64,
        read_u64,
        read_f64,
        read_str,
        read_bytes,
        read_list,
        read_map,
        read_raw,
        reserve,
        write_null,
        write_bool,
        write_i64,
        write_u64,
        write_f64,
        write_str,
        write_bytes,
        write_list,
        write_map,
        write_raw,
        writer_new,
        writer_free,
        call,
        answer_free,
        failure,
        dir
    );
    for (name, value) in [
        ("MENAGERIE_ABI_VERSION", abi::ABI_VERSION),
        ("MG_FAILED", abi::FAILED.unsigned_abs()),
        ("MG_NONE", abi::KIND_NONE),
        ("MG_NULL", abi::KIND_NULL),
        ("MG_BOOL", abi::KIND_BOOL),
        ("MG_I64", abi::KIND_I64),
        ("MG_U64", abi::KIND_U64),
        ("MG_F64", abi::KIND_F64),
        ("MG_STRING", abi::KIND_STRING),
        ("MG_BYTES", abi::KIND_BYTES),
        ("MG_LIST", abi::KIND_LIST),
        ("MG_MAP", abi::KIND_MAP),
    ] {
        writeln!(out, "_Static_assert({name} == {value}, \"{name}\");").unwrap();
    }
    compiles("cc", "-std=c11", "c", &out).unwrap();
    let wrong = out.replace("offsetof(mg_host, failure) == ", "offsetof(mg_host, failure) == 1");
    assert!(compiles("cc", "-std=c11", "c", &wrong).is_err());
}

#[test]
fn bundles_can_be_written_in_cpp() {
    let source = r#"
        #include <menagerie.h>
        #include <string>
        static int shout(mg_call *call, void *) {
            mg_str text = mg_arg_str(call, 0);
            std::string loud = std::string(text.ptr, text.len) + "!";
            return mg_return_str(call, mg_str{loud.data(), loud.size()});
        }
        int menagerie_init(const mg_host *, mg_registrar *registrar) {
            return mg_add_function(registrar, "shout@1", "shout", "text: string", shout, nullptr);
        }"#;
    let folder = Folder::new("in_cpp", r#"["shout@1"]"#);
    let file = folder.path().join("shout.cpp");
    std::fs::write(&file, source).unwrap();
    let library = folder.library();
    let flags = ["-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-o"];
    let mut arguments = flags.map(std::ffi::OsStr::new).to_vec();
    arguments.extend([library.as_os_str(), file.as_os_str()]);
    compile("c++", &arguments).unwrap();
    let harness = harness();
    let bundle = folder.load(&harness);
    assert_eq!(bundle.call::<_, String>("shout@1", "shout", ("hey",)).unwrap(), "hey!");
    bundle.unload();
    assert_eq!(folder.maps(), [""; 0]);
}
