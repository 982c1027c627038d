use std::sync::Arc;

use menagerie_protocol::LoaderError;
use menagerie_protocol::testing::{Harness, TestBundle};
use rmpv::Value;

use crate::support::{Folder, harness};

/// A library whose `version` returns a number that is compiled in.
const VERSIONED: &str = r#"
#include <menagerie.h>
static int version(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, VERSION);
}
int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    return mg_add_function(registrar, "versioned@1", "version", "", version, NULL);
}
"#;

fn versioned(name: &str) -> Folder {
    let folder = Folder::new(name, r#"["versioned@1"]"#);
    folder.compile(VERSIONED, &["-DVERSION=1"]);
    folder
}

fn version(bundle: &TestBundle) -> i64 {
    bundle.call("versioned@1", "version", ()).unwrap()
}

fn count(bundle: &TestBundle) -> u64 {
    bundle.call("fixture@1", "count", ()).unwrap()
}

#[test]
fn hooks_hand_state_from_one_generation_to_the_next() {
    let harness = harness();
    for language in ["rust", "c"] {
        let bundle = Folder::sample("probe", language).load(&harness);
        let state = || bundle.call::<_, Value>("probe@1", "state", ()).unwrap();
        assert_eq!(state(), Value::Nil);
        // The folder is gone by now: a reload reads it again.
        assert!(matches!(bundle.reload(), Err(LoaderError::ManifestNotFound { .. })));
        assert_eq!(state(), Value::Nil);
    }
    for language in ["rust", "c"] {
        let folder = Folder::sample("probe", language);
        let bundle = folder.load(&harness);
        let state = || bundle.call::<_, Value>("probe@1", "state", ()).unwrap();
        let kept = Value::Map(vec![("n".into(), 7.into()), (1.into(), Value::Binary(vec![1, 2]))]);
        bundle.call::<_, ()>("probe@1", "set_state", (&kept,)).unwrap();
        assert_eq!(state(), Value::Nil);
        bundle.reload().unwrap();
        assert_eq!(state(), kept);
        bundle.reload().unwrap();
        assert_eq!(state(), Value::Nil);
        let text = format!("probe-{language} is loaded for the 3. time");
        harness.wait_for_log(|record| record.message == text);
    }
}

#[test]
fn l6_a_hook_that_fails_leaves_the_old_generation_serving() {
    let harness = harness();
    let folder = Folder::fixture("failing_hooks");
    let bundle = folder.load(&harness);
    bundle.call::<_, ()>("fixture@1", "set_count", (666,)).unwrap();
    let error = bundle.reload().unwrap_err();
    assert!(error.to_string().contains("cannot unload"), "{error}");
    assert_eq!(count(&bundle), 667);
    bundle.call::<_, ()>("fixture@1", "set_count", (13,)).unwrap();
    let error = bundle.reload().unwrap_err();
    let LoaderError::InitFailed { error, .. } = error else { panic!("{error}") };
    assert_eq!((error.type_name.as_str(), error.code.as_deref()), ("Refused", Some("E1")));
    assert_eq!(count(&bundle), 14);
    bundle.unload();
    assert_eq!(folder.maps(), [""; 0]);
}

#[test]
fn l8_generations_are_copies_of_their_own() {
    let harness = harness();
    let folder = Folder::fixture("copies_of_their_own");
    let (first, second) = (folder.load(&harness), folder.load(&harness));
    assert_eq!(count(&first), 1);
    assert_eq!(count(&first), 2);
    assert_eq!(count(&second), 1);
    first.unload();
    assert_eq!(count(&second), 2);
    second.reload().unwrap();
    assert_eq!(count(&second), 1);
}

#[test]
fn l8_the_file_may_be_overwritten_while_it_is_loaded() {
    let harness = harness();
    let folder = versioned("overwritten");
    let bundle = folder.load(&harness);
    for next in 2..6 {
        // Never mapped: neither the writer nor the guest notices the other.
        let path = folder.path().to_str().unwrap().to_owned();
        assert!(!folder.maps().iter().any(|line| line.contains(&path)));
        folder.compile(VERSIONED, &[&format!("-DVERSION={next}")]);
        assert_eq!(version(&bundle), next - 1);
        bundle.reload().unwrap();
        assert_eq!(version(&bundle), next);
    }
    std::fs::write(folder.library(), b"the linker has just begun").unwrap();
    assert!(bundle.reload().is_err());
    assert_eq!(version(&bundle), 5);
    std::fs::remove_file(folder.library()).unwrap();
    assert!(bundle.reload().is_err());
    assert_eq!(version(&bundle), 5);
}

fn use_thread_locals(folder: &Folder, harness: &Arc<Harness>) {
    let bundle = folder.load(harness);
    bundle.call::<_, ()>("fixture@1", "note", ("remember me",)).unwrap();
    // A panic leaves its place in a thread-local value of its own.
    assert!(bundle.call::<_, ()>("fixture@1", "panic_text", ()).is_err());
    let lines = folder.maps();
    assert!(
        lines.iter().any(|line| line.contains("r-xp") && line.contains("/memfd:")),
        "{lines:#?}"
    );
    bundle.unload();
}

#[test]
fn l8_native_mapping_is_gone_after_unload() {
    let harness = harness();
    let folder = Folder::fixture("mapping_is_gone");
    for _ in 0..20 {
        use_thread_locals(&folder, &harness);
        assert_eq!(folder.maps(), [""; 0]);
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    use_thread_locals(&folder, &harness);
    assert_eq!(descriptors(), before);
    assert_eq!(harness.logs(), []);
}

#[test]
fn l8_native_mapping_is_gone_after_each_reload() {
    let harness = harness();
    let folder = Folder::fixture("mapping_after_reload");
    let bundle = folder.load(&harness);
    let one_generation = folder.maps().len();
    assert!(one_generation > 0);
    for _ in 0..20 {
        bundle.call::<_, ()>("fixture@1", "note", ("remember me",)).unwrap();
        bundle.reload().unwrap();
        assert_eq!(folder.maps().len(), one_generation);
    }
    bundle.unload();
    assert_eq!(folder.maps(), [""; 0]);
}

#[test]
fn l8_a_library_that_stays_mapped_is_reported() {
    let harness = harness();
    let folder = Folder::new("stays_mapped", r#"["versioned@1"]"#);
    folder.compile(VERSIONED, &["-DVERSION=1", "-Wl,-z,nodelete"]);
    folder.load(&harness).unload();
    let record = harness.wait_for_log(|record| record.message.contains("stays mapped"));
    assert_eq!(record.bundle.as_deref(), Some("stays_mapped"));
    // What is loaded next is not the library that stayed.
    folder.compile(VERSIONED, &["-DVERSION=2"]);
    assert_eq!(version(&folder.load(&harness)), 2);
}

#[test]
fn l9_thread_keys_that_libraries_forget_are_given_back() {
    // A process has 1,024 of them. Rust's standard library takes one for each
    // copy of itself, like this library, and keeps it.
    let source = r#"
        #include <menagerie.h>
        #include <pthread.h>
        static void destructor(void *value) { (void)value; }
        static int use(mg_call *call, void *userdata) {
            pthread_key_t key, mine;
            (void)userdata;
            if (pthread_key_create(&key, destructor) || pthread_setspecific(key, &key))
                return mg_fail(call, "OutOfKeys", "there are no keys left");
            /* One that it deletes itself is none of the worker's business. */
            if (pthread_key_create(&mine, destructor) || pthread_key_delete(mine)) return MG_FAILED;
            return mg_return_null(call);
        }
        int menagerie_init(const mg_host *host, mg_registrar *registrar) {
            (void)host;
            return mg_add_function(registrar, "keys@1", "use", "", use, NULL);
        }"#;
    let harness = harness();
    let folder = Folder::c("forgets_keys", r#"["keys@1"]"#, source);
    let bundle = folder.load(&harness);
    for _ in 0..1100 {
        bundle.call::<_, ()>("keys@1", "use", ()).unwrap();
        bundle.reload().unwrap();
    }
    bundle.unload();
}

/// A constructor runs under the dynamic loader's lock.
#[test]
fn c6_an_unload_does_not_wait_for_another_bundles_constructor_that_takes_keys() {
    let owner = r#"
        #include <menagerie.h>
        #include <pthread.h>
        static pthread_key_t key;
        static void destructor(void *value) { (void)value; }
        static int number(mg_call *call, void *userdata) {
            (void)userdata;
            return mg_return_i64(call, key);
        }
        int menagerie_init(const mg_host *host, mg_registrar *registrar) {
            (void)host;
            if (pthread_key_create(&key, destructor)) return MG_FAILED;
            return mg_add_function(registrar, "owner@1", "number", "", number, NULL);
        }"#;
    // Takes keys until it has the one that the other bundle's unload gives back.
    // The lowest that is free comes first: those below are kept.
    let taker = r#"
        #include <menagerie.h>
        #include <fcntl.h>
        #include <pthread.h>
        #include <unistd.h>
        static void destructor(void *value) { (void)value; }
        __attribute__((constructor)) static void take(void) {
            pthread_key_t key = NUMBER + 1;
            close(open(BEGUN, O_CREAT | O_WRONLY, 0600));
            do {
                usleep(1000);
                if (pthread_key_create(&key, destructor)) continue;
                if (key > NUMBER) pthread_key_delete(key);
            } while (key != NUMBER);
        }
        int menagerie_init(const mg_host *host, mg_registrar *registrar) {
            (void)host; (void)registrar;
            return MG_OK;
        }"#;
    let harness = harness();
    let owner = Folder::c("owns_a_key", r#"["owner@1"]"#, owner);
    // A thread that registers its first thread-local destructor waits for constructors
    // too: the C library's doing. Those that take part have done so then.
    owner.load(&harness).unload();
    let owned = owner.load(&harness);
    let number: i64 = owned.call("owner@1", "number", ()).unwrap();
    let folder = Folder::new("takes_keys", "[]");
    let begun = folder.path().join("begun");
    folder.compile(taker, &[&format!("-DNUMBER={number}"), &format!("-DBEGUN={begun:?}")]);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| folder.load(&harness).unload());
        while !begun.exists() {
            std::thread::yield_now();
        }
        owned.unload();
        loading.join().unwrap();
    });
}
