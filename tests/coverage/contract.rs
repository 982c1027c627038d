//! The table of the contract: rule by language, each cell a test that the
//! sources have. `make contract` writes it.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::LANGUAGES;
use crate::rules::{
    RULES, Rule,
    Scope::{Across, Languages},
    rule,
};
use crate::sources::{Test, tests, workspace};

/// Set to rewrite the page in place of comparing it.
const REWRITE: &str = "MENAGERIE_WRITE_CONTRACT";

/// The rule's tests: those of one language, or of none in particular.
fn fill<'a>(tests: &'a [Test], rule: &Rule, language: Option<&str>) -> Vec<&'a Test> {
    let fits = |test: &Test| language.is_none() || test.language == language;
    let named = |name: &&str| tests.iter().find(|test| test.name == *name && fits(test));
    rule.tests.iter().filter_map(named).collect()
}

fn shown(tests: &[&Test]) -> String {
    let links: Vec<String> =
        tests.iter().map(|test| format!("[`{}`](../{})", test.name, test.file)).collect();
    if links.is_empty() { "—".to_owned() } else { links.join("<br>") }
}

/// What no test holds, of what a rule asks for.
fn gaps(tests: &[Test], rule: &Rule) -> Vec<String> {
    let lacks = |name: &&&str| tests.iter().all(|test| test.name != ***name);
    let mut gaps: Vec<String> =
        rule.tests.iter().filter(lacks).map(|name| format!("{} {name}", rule.name)).collect();
    if rule.scope == Languages {
        let empty = |language: &&str| fill(tests, rule, Some(language)).is_empty();
        gaps.extend(LANGUAGES.iter().filter(|l| empty(l)).map(|l| format!("{} {l}", rule.name)));
    }
    if rule.tests.is_empty() {
        gaps.push(rule.name.to_owned());
    }
    gaps
}

/// The page, and what no test holds.
fn page() -> (String, Vec<String>) {
    let tests = tests();
    let mut page = String::from(
        "# The contract, and the tests that hold it\n\n\
         Written by `make contract` from the tests' sources; a test fails where this page\n\
         differs, or where one of these has gone. Each rule names the tests of its clauses,\n\
         and links the files that have them; more of them begin with the rule's number.\n\n\
         ## Rules by language\n\n\
         | rule | Rust | C | Python | Lua | JavaScript | .NET |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for rule in RULES.iter().filter(|rule| rule.scope == Languages) {
        write!(page, "| {} {} |", rule.name, rule.about).unwrap();
        for language in LANGUAGES {
            write!(page, " {} |", shown(&fill(&tests, rule, Some(language)))).unwrap();
        }
        page.push('\n');
    }
    page.push_str(
        "\n## Rules that one place keeps for all languages\n\n\
         | rule | tests |\n| --- | --- |\n",
    );
    for rule in RULES.iter().filter(|rule| rule.scope == Across) {
        let tests = shown(&fill(&tests, rule, None));
        writeln!(page, "| {} {} | {tests} |", rule.name, rule.about).unwrap();
    }
    (page, RULES.iter().flat_map(|rule| gaps(&tests, rule)).collect())
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
    let names: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), RULES.len());
    for rule in &RULES {
        let prefix = format!("{}_", rule.name.to_lowercase());
        assert!(rule.tests.iter().all(|test| test.starts_with(&prefix)), "{}", rule.name);
    }
}

#[test]
fn a_test_that_has_gone_is_a_gap() {
    let test = |name: &str, language| Test {
        file: "tests/integration/a.rs".to_owned(),
        name: name.to_owned(),
        language,
    };
    let mut tests = vec![test("l1_whole", None), test("l1_other", None)];
    let across = rule("L1", Across, "", &["l1_whole", "l1_gone"]);
    assert_eq!(gaps(&tests, &across), ["L1 l1_gone"]);
    assert_eq!(gaps(&tests, &rule("L1", Across, "", &[])), ["L1"]);

    // One language's test says nothing about the others.
    let each = rule("L1", Languages, "", &["l1_whole", "l1_of_lua"]);
    tests.push(test("l1_of_lua", Some("lua")));
    let others = LANGUAGES.iter().filter(|language| **language != "lua");
    let expected: Vec<String> = others.map(|language| format!("L1 {language}")).collect();
    assert_eq!(gaps(&tests, &each), expected);
    tests.extend(LANGUAGES.map(|language| test("l1_whole", Some(language))));
    assert!(gaps(&tests, &each).is_empty());
}
