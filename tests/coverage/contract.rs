//! The table of the contract: rule by language, each cell a test that the
//! sources have. `make contract` writes it.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::LANGUAGES;
use crate::sources::{Test, tests, workspace};

/// Set to rewrite the page in place of comparing it.
const REWRITE: &str = "MENAGERIE_WRITE_CONTRACT";

/// What a rule's row is filled with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// A test for each language.
    Languages,
    /// What the rule says happens in the supervisor or in `protocol`, in one
    /// place for all languages: one test across.
    Across,
}

use Scope::{Across, Languages};

/// Every rule of the table, with what it is about.
const RULES: [(&str, Scope, &str); 35] = [
    ("L1", Languages, "a bundle goes to the loader of its manifest's name"),
    ("L2", Languages, "the language is a typed claim, shown in the status"),
    ("L3", Languages, "hot reload only where it is enabled and supported"),
    ("L4", Languages, "sources: a folder, code, bytes"),
    ("L5", Languages, "a load that fails leaves nothing behind"),
    ("L6", Languages, "a reload swaps in one step, or changes nothing"),
    ("L7", Languages, "no call reaches what is unloaded"),
    ("L8", Languages, "what is unloaded is freed"),
    ("L9", Languages, "rounds of loading leave memory flat"),
    ("B1", Across, "manifests"),
    ("B2", Across, "the artifact lies in the bundle's folder"),
    ("B3", Languages, "function names are snake_case"),
    ("C1", Languages, "values keep their value"),
    ("C2", Languages, "bytes of any size"),
    ("C3", Languages, "one outcome for each call"),
    ("C4", Languages, "calls of a worker that died are sent again, or fail"),
    ("C5", Languages, "calls of bundles, declared and without cycles"),
    ("C6", Languages, "a slow call delays nobody else"),
    ("C7", Languages, "cancelled calls and bounded queues"),
    ("R1", Across, "look-up by version"),
    ("R2", Across, "handles and generations"),
    ("R3", Across, "load order, cycles, what is missing"),
    ("R4", Across, "unloading what is in use, cascades, re-initialisation"),
    ("R5", Across, "signatures"),
    ("S1", Across, "a worker's states, and a transition between each two"),
    ("S2", Across, "every death is noticed and reported"),
    ("S3", Across, "restarts, their delays, quarantine"),
    ("S4", Across, "what was loaded is loaded again, providers first"),
    ("S5", Across, "blame, isolation, quarantine of a bundle"),
    ("S6", Across, "deadlines, heartbeats, orderly ends"),
    ("S7", Across, "nothing is left behind"),
    ("S8", Across, "standbys and rolling restarts"),
    ("S9", Across, "isolation, replicas, idle stop, recycling"),
    ("S10", Across, "everything is an event"),
    ("P1", Across, "limits of every worker"),
];

/// The test that fills a cell: one of the suites before one with a real
/// supervisor, that before one of a part, and else the first by file and name,
/// so that the choice is the same always. A rule that holds across is filled by
/// no language's own test.
fn cell<'a>(tests: &'a [Test], rule: &str, language: Option<&str>) -> Option<&'a Test> {
    let prefix = format!("{}_", rule.to_lowercase());
    let fits = |test: &&Test| test.name.starts_with(&prefix) && test.language == language;
    tests.iter().filter(fits).min_by_key(|test| {
        (
            test.file != "tests/integration/conformance.rs",
            !test.file.starts_with("tests/integration/"),
        )
    })
}

fn shown(test: Option<&Test>) -> String {
    test.map_or_else(|| "—".to_owned(), |test| format!("[`{}`](../{})", test.name, test.file))
}

/// The page, and the cells that no test fills.
fn page() -> (String, Vec<String>) {
    let tests = tests();
    let mut page = String::from(
        "# The contract, and the tests that hold it\n\n\
         Written by `make contract` from the tests' sources; a test fails where this page\n\
         differs. Each cell names a test of the rule in that language, and links the file\n\
         that has it; there may be more whose names begin with the rule's number.\n\n\
         ## Rules by language\n\n\
         | rule | Rust | C | Python | Lua | JavaScript | .NET |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut gaps = Vec::new();
    for (rule, _, about) in RULES.iter().filter(|(_, scope, _)| *scope == Languages) {
        write!(page, "| {rule} {about} |").unwrap();
        for language in LANGUAGES {
            let found = cell(&tests, rule, Some(language));
            if found.is_none() {
                gaps.push(format!("{rule} {language}"));
            }
            write!(page, " {} |", shown(found)).unwrap();
        }
        page.push('\n');
    }
    page.push_str(
        "\n## Rules that one place keeps for all languages\n\n\
         | rule | test |\n| --- | --- |\n",
    );
    for (rule, _, about) in RULES.iter().filter(|(_, scope, _)| *scope == Across) {
        let found = cell(&tests, rule, None);
        if found.is_none() {
            gaps.push((*rule).to_owned());
        }
        writeln!(page, "| {rule} {about} | {} |", shown(found)).unwrap();
    }
    (page, gaps)
}

#[test]
fn the_page_of_the_contract_is_what_the_tests_are() {
    let path = workspace().join("docs/contract.md");
    let (page, gaps) = page();
    if std::env::var_os(REWRITE).is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).find(|(written, now)| written != now);
    assert!(written == page, "docs/contract.md is out of date, run `make contract`: {differs:?}");
    assert!(gaps.is_empty(), "no test fills these cells: {gaps:?}");
}

#[test]
fn rules_of_the_contract_are_named_once() {
    let names: BTreeSet<&str> = RULES.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(names.len(), RULES.len());
}

#[test]
fn a_cell_is_the_languages_own_test() {
    let test = |file: &str, name: &str, language| Test {
        file: file.to_owned(),
        name: name.to_owned(),
        language,
    };
    let tests = [
        test("protocol/src/a.rs", "l1_part", None),
        test("tests/integration/b.rs", "l1_whole", None),
        test("worker-lua/tests/c.rs", "l1_lua", Some("lua")),
        test("tests/integration/d.rs", "l10_other", Some("js")),
    ];
    let name = |language| cell(&tests, "L1", language).map(|test| test.name.as_str());
    assert_eq!(name(None), Some("l1_whole"));
    assert_eq!(name(Some("lua")), Some("l1_lua"));
    assert_eq!(name(Some("js")), None);
    // One language's test says nothing about the others.
    assert!(cell(&tests[2..], "L1", None).is_none());
}
