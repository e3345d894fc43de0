//! Lists that are kept by hand name what is there, and all of it: the contract's tests, the targets
//! of the fuzzer, the examples.

use std::fs;

use super::code;
use super::source::{Source, assert_none, root, sources};

/// The modules that a file is, from its crate's folder on: `src/driver/mio/mod.rs` is `src`,
/// `driver` and `mio`. The tests of a source file are a module more, which nobody need write.
fn modules(source: &Source) -> Vec<&str> {
    let path = source.path.trim_end_matches(".rs").split('/').skip(2);
    path.filter(|part| !["mod", "main", "lib"].contains(part)).chain(["tests"]).collect()
}

/// True when the first names stand among the others, in their order.
fn lead_through(names: &[&str], all: &[&str]) -> bool {
    let mut all = all.iter();
    names.iter().all(|name| all.any(|other| other == name))
}

/// The tests that `docs/contract.md` names: `module::name` in backquotes in the last column. Of the
/// modules that lead to it some may be left out.
#[test]
fn each_test_named_in_the_contract_table_exists() {
    let table = fs::read_to_string(root().join("docs/contract.md")).expect("the table");
    let tests: Vec<Source> = sources("crates/couplet/tests")
        .into_iter()
        .chain(sources("crates/couplet/src"))
        .chain(sources("crates/couplet-cli"))
        .collect();
    let mut broken = Vec::new();
    let mut named = 0;
    let rows = (1..).zip(table.lines()).filter(|(_, line)| {
        line.strip_prefix("| ").is_some_and(|row| row.starts_with(|c: char| c.is_ascii_digit()))
    });
    for (number, row) in rows {
        let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in column.split('`').skip(1).step_by(2) {
            // A word of the code, such as a method.
            let Some((path, function)) = name.rsplit_once("::") else { continue };
            named += 1;
            let path: Vec<&str> = path.split("::").collect();
            let definition = format!("fn {function}(");
            let exists = tests.iter().any(|source| {
                source.text.contains(&definition) && lead_through(&path, &modules(source))
            });
            if !exists {
                broken.push(format!("docs/contract.md:{number} names {name}"));
            }
        }
    }
    assert!(named > 300, "the table names {named} tests; has its form changed?");
    assert_none(&broken, "the contract table names a test that does not exist, or not there");
}

/// So that a row leads to its tests.
#[test]
fn each_test_with_a_number_is_named_in_the_contract_table() {
    let table = fs::read_to_string(root().join("docs/contract.md")).expect("the table");
    let mut unnamed = Vec::new();
    for source in sources("crates/couplet") {
        let functions =
            code(&source.text).filter_map(|(_, line)| line.split_once("fn c")?.1.split_once('('));
        let numbered = functions.filter(|(name, _)| name.starts_with(|c: char| c.is_ascii_digit()));
        for (name, _) in numbered {
            if !table.contains(&format!("::c{name}`")) {
                unnamed.push(format!("{}: c{name}", source.path));
            }
        }
    }
    assert_none(&unnamed, "a test carries the number of a row, and no row leads to it");
}

/// The names in a folder of `fuzz/`, without their endings, in order.
fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join("fuzz").join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut names: Vec<_> =
        paths.map(|path| path.file_stem().unwrap_or_default().display().to_string()).collect();
    names.sort();
    names
}

#[test]
fn each_target_of_the_fuzzer_has_a_corpus_and_a_libfuzzer_binary() {
    let library = fs::read_to_string(root().join("fuzz/src/lib.rs")).expect("the targets");
    let table = library.split("pub const TARGETS").nth(1).expect("their table");
    let entry = "Target { name: \"";
    let mut targets: Vec<_> =
        table.split(entry).skip(1).filter_map(|rest| rest.split('"').next()).collect();
    targets.sort_unstable();
    assert!(targets.len() >= 5, "{targets:?}; has the form of the table changed?");
    assert_eq!(names_in("corpus"), targets, "a folder of fuzz/corpus for each target");
    assert_eq!(names_in("fuzz_targets"), targets, "a file of fuzz/fuzz_targets for each target");
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the manifest");
    for target in targets {
        let binary = format!(
            "[[bin]]\nname = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\n\
             required-features = [\"libfuzzer\"]\n"
        );
        assert!(manifest.contains(&binary), "fuzz/Cargo.toml has no {binary}");
        let inputs = fs::read_dir(root().join("fuzz/corpus").join(target)).expect("the corpus");
        let sizes: Vec<u64> = inputs
            .map(|input| input.and_then(|input| input.metadata()).expect("an input").len())
            .collect();
        let (inputs, bytes) = (sizes.len(), sizes.iter().sum::<u64>());
        let small = (10..=40).contains(&inputs) && bytes <= 60_000;
        assert!(small, "the corpus of {target} has {inputs} inputs of {bytes} bytes in all");
    }
}

/// The examples are read by people in a hurry, and each is to work.
#[test]
fn each_example_is_short_and_listed_and_run_by_a_test() {
    let readme = fs::read_to_string(root().join("crates/couplet/examples/README.md"));
    let readme = readme.expect("the table of the examples");
    let tests: String = sources("crates/couplet/tests/it")
        .into_iter()
        .filter(|source| source.path.contains("/it/examples"))
        .map(|source| source.text)
        .collect();
    let mut broken = Vec::new();
    let examples = sources("crates/couplet/examples");
    for example in &examples {
        let path = example.path.trim_start_matches("crates/couplet/examples/");
        if example.text.lines().count() >= 80 {
            broken.push(format!("{path} has 80 lines or more"));
        }
        if !readme.contains(&format!("]({path})")) {
            broken.push(format!("{path} is not in examples/README.md"));
        }
        // What others are made of is run with them.
        if !example.text.contains("fn main(") {
            continue;
        }
        // `reactors/hello.rs` is run as `reactors hello`, and `reactors/main.rs` chooses.
        let words = path.trim_end_matches(".rs").split('/').filter(|word| *word != "main");
        for word in words.filter(|word| !tests.contains(&format!("\"{word}\""))) {
            broken.push(format!("{path}: no test in tests/it/examples runs {word:?}"));
        }
    }
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !root().join("crates/couplet/examples").join(link).exists() {
            broken.push(format!("examples/README.md names {link}, which isn't there"));
        }
    }
    assert!(examples.len() > 30, "{} examples were found", examples.len());
    assert_none(&broken, "an example has less than 80 lines, a row in the table and a test");
}
