//! Every variant of the public errors, and the test that provokes it. A variant
//! without a line here fails, and so does a line whose test is gone or does not
//! speak of the variant.

use std::collections::BTreeSet;

use crate::sources::{tests, workspace};

/// Enum, variant, the file of the test, the test.
#[rustfmt::skip]
const PROVOKED: [(&str, &str, &str, &str); 52] = [
    ("Failure", "Guest", "tests/integration/conformance.rs", "c3_the_guests_own_error"),
    ("Failure", "BadArguments", "tests/integration/conformance.rs", "c3_what_is_not_there_or_does_not_fit"),
    ("Failure", "DeadlineExceeded", "tests/integration/conformance.rs", "s6_a_call_that_spins_meets_its_deadline"),
    ("Failure", "WorkerCrashed", "tests/integration/conformance.rs", "s3_a_bundle_that_crashes_its_worker_is_named"),
    ("Failure", "Quarantined", "tests/integration/faults/ring.rs", "c4_a_worker_that_never_begins_anything_is_quarantined"),
    ("Failure", "NoSuchContract", "tests/integration/conformance.rs", "c3_what_is_not_there_or_does_not_fit"),
    ("Failure", "NoSuchFunction", "tests/integration/conformance.rs", "c3_what_is_not_there_or_does_not_fit"),
    ("Failure", "CycleDetected", "tests/integration/outcalls/cycles.rs", "c5_a_chain_that_comes_back_is_a_cycle_at_once"),
    ("Failure", "UndeclaredDependency", "tests/integration/outcalls/host.rs", "c5_what_goes_wrong_in_the_host_is_caught_by_the_guest"),
    ("Failure", "StaleHandle", "tests/integration/conformance.rs", "l7_an_unloaded_bundle_is_stale"),
    ("Failure", "PayloadTooLarge", "tests/integration/bad_input/arguments.rs", "c2_arguments_beyond_the_payload_limit"),
    ("Failure", "BadValue", "tests/integration/conformance.rs", "c3_what_is_not_there_or_does_not_fit"),
    ("Failure", "HostPanicked", "tests/integration/outcalls/host.rs", "c5_what_goes_wrong_in_the_host_is_caught_by_the_guest"),
    ("Failure", "OutOfResources", "tests/integration/lanes/descriptors.rs", "c3_arguments_that_the_host_has_no_memory_for_say_so"),
    ("Failure", "BundleUnavailable", "tests/integration/rules.rs", "s4_a_bundle_that_does_not_come_back_is_unavailable"),
    ("Failure", "ShuttingDown", "tests/integration/rules.rs", "c3_a_call_after_the_shutdown_says_so"),
    ("Failure", "Overloaded", "tests/integration/rules.rs", "c7_a_full_queue_refuses_and_a_dropped_call_makes_room"),
    ("Failure", "Cancelled", "tests/integration/asynchronous.rs", "c3_a_call_that_its_bundle_gives_up_is_cancelled_in_py"),
    ("LoaderError", "DuplicateLoader", "tests/integration/rules.rs", "l1_two_programs_for_one_loader_are_refused"),
    ("LoaderError", "NoLoaderForName", "tests/integration/bad_input/manifests.rs", "b1_what_lacks_in_a_manifest_is_named"),
    ("LoaderError", "UnsupportedBundleSource", "tests/integration/bad_input/manifests.rs", "l4_sources_that_a_loader_does_not_take"),
    ("LoaderError", "ManifestNotFound", "tests/integration/bad_input/manifests.rs", "b1_what_lacks_in_a_manifest_is_named"),
    ("LoaderError", "ManifestInvalid", "tests/integration/bad_input/manifests.rs", "b1_what_is_wrong_in_a_manifest_is_named_by_file_key_and_line"),
    ("LoaderError", "BundleTampered", "tests/integration/bad_input/manifests.rs", "b1_what_lacks_in_a_manifest_is_named"),
    ("LoaderError", "ArtifactPathEscape", "tests/integration/bad_input/manifests.rs", "b2_files_that_are_missing_or_outside_the_bundle"),
    ("LoaderError", "ArtifactNotFound", "tests/integration/bad_input/manifests.rs", "b2_files_that_are_missing_or_outside_the_bundle"),
    ("LoaderError", "InitFailed", "tests/integration/bad_input/native.rs", "l5_c_libraries_that_are_no_bundles"),
    ("LoaderError", "ArtifactUnusable", "tests/integration/bad_input/bundles.rs", "l5_assemblies_that_are_no_bundles"),
    ("LoaderError", "ContractMismatch", "tests/integration/bad_input/bundles.rs", "l5_exports_that_are_missing_or_too_many"),
    ("LoaderError", "FunctionCountMismatch", "tests/integration/bad_input/bundles.rs", "l5_exports_that_are_missing_or_too_many"),
    ("LoaderError", "BadFunctionName", "tests/integration/bad_input/bundles.rs", "l5_exports_that_are_missing_or_too_many"),
    ("LoaderError", "SourceTooLarge", "tests/integration/bad_input/manifests.rs", "l4_sources_that_a_loader_does_not_take"),
    ("LoaderError", "RuntimeMissing", "supervisor/tests/start.rs", "s3_a_library_that_lacks_is_said_and_not_tried_again"),
    ("LoaderError", "Io", "tests/integration/bad_input/manifests.rs", "b1_what_the_system_cannot_read_is_told_in_its_words"),
    ("LoaderError", "UnsignedBundle", "tests/integration/signatures.rs", "r5_an_unsigned_bundle_is_refused"),
    ("LoaderError", "SignatureVerificationFailed", "tests/integration/signatures.rs", "r5_what_was_checked_is_served_whatever_becomes_of_the_files"),
    ("LoaderError", "UntrustedSigningKey", "tests/integration/signatures.rs", "r5_a_foreign_key_is_refused"),
    ("LoaderError", "TrustStoreUnusable", "supervisor/src/signature/tests.rs", "r5_a_store_that_cannot_be_used_is_no_key_that_is_not_trusted"),
    ("RuntimeError", "Loader", "tests/integration/bad_input/manifests.rs", "l4_sources_that_a_loader_does_not_take"),
    ("RuntimeError", "DependencyCycle", "tests/integration/rules.rs", "r3_a_ring_of_dependencies_is_refused_with_its_names"),
    ("RuntimeError", "HotReloadDisabled", "tests/integration/rules.rs", "l3_no_reload_where_the_configuration_forbids_it"),
    ("RuntimeError", "BundleNotFound", "tests/integration/bad_input/manifests.rs", "r_bundles_that_others_or_nobody_knows"),
    ("RuntimeError", "AlreadyLoaded", "tests/integration/bad_input/manifests.rs", "r_bundles_that_others_or_nobody_knows"),
    ("RuntimeError", "DependencyNotFound", "tests/integration/bad_input/manifests.rs", "r_bundles_that_others_or_nobody_knows"),
    ("RuntimeError", "UnsatisfiedCapability", "tests/integration/outcalls/host.rs", "c5_a_host_contract_that_is_not_there_is_refused_at_load"),
    ("RuntimeError", "DependencyInUse", "tests/integration/registry.rs", "r4_a_bundle_in_use_is_unloaded_by_a_cascade_only"),
    ("RuntimeError", "WorkerNotFound", "tests/integration/bad_input/manifests.rs", "a_worker_program_that_is_missing_is_the_affair_of_its_language_only"),
    ("RuntimeError", "WorkerUnavailable", "tests/integration/faults/hello.rs", "s3_a_worker_that_is_always_refused_is_quarantined"),
    ("RuntimeError", "TimedOut", "tests/integration/faults/hello.rs", "s6_a_worker_of_a_later_minor_version_that_does_nothing"),
    ("RuntimeError", "ShuttingDown", "tests/integration/faults/hello.rs", "s6_a_shutdown_while_the_worker_starts"),
    ("RuntimeError", "BundleQuarantined", "tests/integration/supervision/newcomers.rs", "s5_the_third_first_load_that_kills_its_worker_quarantines_the_bundle"),
    ("RuntimeError", "Panicked", "tests/integration/supervision/stumbles.rs", "r4_a_panic_while_one_bundle_goes_leaves_no_other_half_gone"),
];

/// The variants of an enum, read from its source.
fn variants(source: &str, name: &str) -> Vec<String> {
    let head = format!("pub enum {name} {{");
    source
        .lines()
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| *line != "}")
        // Attributes, comments and fields are no names at this depth.
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
        .filter_map(|line| line.split([' ', '(', ',']).next())
        .map(str::to_owned)
        .collect()
}

/// The text of a function, from its name to the brace that ends it.
fn body<'a>(text: &'a str, function: &str) -> Option<&'a str> {
    let start = text.find(&format!("fn {function}("))?;
    let line = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let depth = text[line..].len() - text[line..].trim_start_matches(' ').len();
    let end = format!("\n{}}}", " ".repeat(depth));
    let length = text[start..].find(&end)?;
    Some(&text[start..start + length])
}

#[test]
fn every_error_has_a_test() {
    let mut there = BTreeSet::new();
    for (name, file) in
        [("Failure", "failure.rs"), ("LoaderError", "loader.rs"), ("RuntimeError", "runtime.rs")]
    {
        let path = workspace().join("protocol/src/error").join(file);
        let found = variants(&std::fs::read_to_string(path).unwrap(), name);
        assert!(found.len() > 9, "{name}: {found:?}");
        there.extend(found.into_iter().map(|variant| (name.to_owned(), variant)));
    }
    let owned = |(name, variant): (&str, &str)| (name.to_owned(), variant.to_owned());
    let provoked: BTreeSet<_> = PROVOKED.map(|(name, variant, ..)| owned((name, variant))).into();
    let untested: Vec<_> = there.difference(&provoked).collect();
    assert!(untested.is_empty(), "no test provokes {untested:?}");
    let gone: Vec<_> = provoked.difference(&there).collect();
    assert!(gone.is_empty(), "these are no variants: {gone:?}");

    let tests = tests();
    for (name, variant, file, function) in PROVOKED {
        let run = tests.iter().any(|test| test.file == file && test.name == function);
        assert!(run, "{name}::{variant}: {file} has no test {function}");
        let text = std::fs::read_to_string(workspace().join(file)).unwrap();
        let body = body(&text, function).unwrap_or_default();
        // By its path, or by its name where a guest tells which kind it caught.
        let speaks = body.contains(&format!("{name}::{variant}"))
            || body.contains(&format!("\"{variant}\""));
        assert!(speaks, "{function} in {file} does not speak of {name}::{variant}");
    }
}

#[test]
fn variants_and_bodies_are_found() {
    let source = "pub enum E {\n    /// Doc.\n    #[error(\"x\")]\n    A {\n        Field: u8,\n    },\n    \
                  B(u8),\n    C,\n}\npub enum F {\n    D,\n}\n";
    assert_eq!(variants(source, "E"), ["A", "B", "C"]);
    let text =
        "fn a() {\n    if x {\n    }\n    one\n}\n\nmod m {\n    fn b() {\n        two\n    }\n}\n";
    assert!(body(text, "a").unwrap().contains("one") && !body(text, "a").unwrap().contains("two"));
    assert!(body(text, "b").unwrap().contains("two"));
    assert_eq!(body(text, "c"), None);
}
