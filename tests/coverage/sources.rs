//! Which tests there are, read from their sources: no run can leave one out
//! unseen, and a name in a table that nobody runs is found.

use std::path::{Path, PathBuf};

use crate::LANGUAGES;

/// A test as the sources have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    /// The file, from the workspace's folder.
    pub(crate) file: String,
    /// The function.
    pub(crate) name: String,
    /// The suffix of the language that it is run for; none where the language
    /// does not matter.
    pub(crate) language: Option<&'static str>,
}

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every test of the workspace, in order.
pub(crate) fn tests() -> Vec<Test> {
    let mut files = Vec::new();
    for root in [
        "protocol/src",
        "supervisor/src",
        "supervisor/tests",
        "tests/integration",
        "worker-dotnet",
        "worker-js",
        "worker-lua",
        "worker-native",
        "worker-python",
    ] {
        collect(&workspace().join(root), root, &mut files);
    }
    let mut tests: Vec<Test> = files.iter().flat_map(|(file, text)| in_file(file, text)).collect();
    tests.sort();
    tests.dedup();
    tests
}

/// The Rust files below a folder, with their contents.
fn collect(folder: &Path, shown: &str, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let (path, shown) = (entry.path(), format!("{shown}/{name}"));
        if entry.file_type().unwrap().is_dir() {
            if name != "target" {
                collect(&path, &shown, files);
            }
        } else if name.ends_with(".rs") {
            files.push((shown, std::fs::read_to_string(path).unwrap()));
        }
    }
}

/// The tests of one file.
pub(crate) fn in_file(file: &str, text: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut of = |name: &str, language| {
        tests.push(Test { file: file.to_owned(), name: name.to_owned(), language });
    };
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("#[ignore") {
            // What is ignored proves nothing: the function is passed over.
            lines.by_ref().find(|line| function(line).is_some());
        } else if line == "#[test]" || line.starts_with("#[tokio::test") {
            // Other attributes may stand between.
            let next =
                lines.by_ref().find(|line| !line.starts_with("#[") || line.contains("ignore"));
            if let Some(name) = next.and_then(function) {
                of(name, language_of(file, name));
            }
        } else if let Some((languages, cases)) = suite(line) {
            let listed = match cases {
                Some(cases) => cases.to_owned(),
                None => lines.by_ref().take_while(|line| !line.starts_with('}')).collect(),
            };
            let names: Vec<&str> =
                listed.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
            for language in languages {
                for name in &names {
                    of(name, Some(language));
                }
            }
        }
    }
    tests
}

/// The name of the function that a line defines.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
    let name = line.split(['(', '<']).next()?;
    // A macro's `$case` is no name.
    (!name.starts_with('$')).then_some(name)
}

/// The languages, and the cases where they stand on the same line, of
/// `conformance!(rust, c, py; { …` and its like.
fn suite(line: &str) -> Option<(Vec<&'static str>, Option<&str>)> {
    let (_, rest) = line.split_once("!(")?;
    let (languages, rest) = rest.split_once(';')?;
    let known = |suffix: &str| LANGUAGES.iter().copied().find(|known| *known == suffix.trim());
    let languages = languages.split(',').map(known).collect::<Option<Vec<_>>>()?;
    let rest = rest.trim().strip_prefix('{')?;
    Some((languages, rest.split_once('}').map(|(cases, _)| cases)))
}

/// The language of a test that is in no suite: by the worker whose own test it
/// is, or by a word of its name.
fn language_of(file: &str, name: &str) -> Option<&'static str> {
    let worker = [
        ("worker-python/", "py"),
        ("worker-lua/", "lua"),
        ("worker-js/", "js"),
        ("worker-dotnet/", "dotnet"),
    ];
    if let Some((_, suffix)) = worker.into_iter().find(|(folder, _)| file.starts_with(folder)) {
        return Some(suffix);
    }
    let word = name.split('_').skip(1).find_map(|word| match word {
        "rust" => Some("rust"),
        "c" => Some("c"),
        "py" | "python" | "pythons" => Some("py"),
        "lua" => Some("lua"),
        "js" => Some("js"),
        "dotnet" => Some("dotnet"),
        _ => None,
    });
    // The native worker's tests load libraries written in Rust, unless they say
    // that theirs is in C.
    word.or_else(|| file.starts_with("worker-native/").then_some("rust"))
}

#[test]
fn sources_of_tests_are_understood() {
    let text = "\
        #[test]\n#[cfg(unix)]\nfn l1_plain() {}\n\
        #[tokio::test(flavor = \"multi_thread\")]\nasync fn c1_in_js() {}\n\
        #[test]\n#[ignore = \"slow\"]\nfn l2_ignored() {}\n\
        #[ignore]\n#[test]\nfn l2_ignored_too() {}\n\
        fn l3_no_test() {}\n\
        macro_rules! m { () => {\n#[test]\nfn $case() {}\n} }\n\
        suite!(py, lua; {\nl4_a,\nl4_b,\n});\n\
        suite!(c; { l5_a });\n\
        matches!(a; b)\n";
    let found = in_file("tests/integration/x.rs", text);
    let found: Vec<(&str, Option<&str>)> =
        found.iter().map(|test| (test.name.as_str(), test.language)).collect();
    assert_eq!(
        found,
        [
            ("l1_plain", None),
            ("c1_in_js", Some("js")),
            ("l4_a", Some("py")),
            ("l4_b", Some("py")),
            ("l4_a", Some("lua")),
            ("l4_b", Some("lua")),
            ("l5_a", Some("c")),
        ]
    );
}
