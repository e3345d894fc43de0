//! Hand-written lists are complete and correct: the tests of the laws and of the guarantees, fuzz
//! targets, examples.
//!
//! Contract: 229.

use std::fs;

use super::source::{Source, assert_none, read, root, sources};

/// A file's module path below its crate's folder: `src`, `driver`, `mio` for
/// `src/driver/mio/mod.rs`. Ends with `tests`, for unit tests; a name may omit it.
fn modules(source: &Source) -> Vec<&str> {
    let path = source.path.trim_end_matches(".rs").split('/').skip(2);
    path.filter(|part| !["mod", "main", "lib"].contains(part)).chain(["tests"]).collect()
}

/// True when `names` is a subsequence of `all`.
fn is_subsequence(names: &[&str], all: &[&str]) -> bool {
    let mut all = all.iter();
    names.iter().all(|name| all.any(|other| other == name))
}

/// Counts the tests named in the last column of a table's numbered rows, and lists those that don't
/// exist. A name is `module::name` in backquotes. Modules may be omitted, and so may the rest of a
/// name, as `…`.
fn named_in(table: &str) -> (usize, Vec<String>) {
    let text = read(table);
    let folders = ["crates", "programs", "bench", "examples", "laws/src"];
    let tests: Vec<Source> = folders.into_iter().flat_map(sources).collect();
    let mut broken = Vec::new();
    let mut named = 0;
    let rows = (1..).zip(text.lines()).filter(|(_, line)| {
        line.strip_prefix("| ").is_some_and(|row| row.starts_with(|c: char| c.is_ascii_digit()))
    });
    for (number, row) in rows {
        let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in column.split('`').skip(1).step_by(2) {
            // Without a path it is some other identifier, such as a method.
            let Some((path, function)) = name.rsplit_once("::") else { continue };
            named += 1;
            let path: Vec<&str> = path.split("::").collect();
            let definition = match function.strip_suffix('…') {
                Some(beginning) => format!("fn {beginning}"),
                None => format!("fn {function}("),
            };
            let exists = tests.iter().any(|source| {
                source.text.contains(&definition) && is_subsequence(&path, &modules(source))
            });
            if !exists {
                broken.push(format!("{table}:{number} names {name}"));
            }
        }
    }
    (named, broken)
}

/// The faults that docs/guarantees.md looks at, for each kind of bus.
const FAULTS: [&str; 8] = [
    "bus killed and back",
    "link cut and healed",
    "node killed",
    "node drained",
    "subscriber slow",
    "publisher faster than all",
    "bus full",
    "clock jumps",
];

#[test]
fn c229_each_row_of_the_guarantees_names_an_existing_test() {
    let path = "docs/guarantees.md";
    let (named, mut broken) = named_in(path);
    assert!(named > 15, "{path} names {named} tests; has its form changed?");
    let text = read(path);
    let mut buses = 0;
    for section in text.split("\n## ").filter(|section| section.contains("\n| n |")) {
        buses += 1;
        let bus = section.lines().next().unwrap_or_default();
        let rows: Vec<Vec<&str>> = section
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.trim_matches(['|', ' ']).split(" | ").collect())
            .collect();
        for fault in FAULTS {
            let row = rows.iter().find(|row| row.get(1).is_some_and(|it| it.starts_with(fault)));
            let tests = row.and_then(|row| row.last()).copied().unwrap_or_default();
            if !tests.contains("::") && !tests.starts_with("no meaning here: ") {
                broken.push(format!("{path}: {bus}: no test shows: {fault}"));
            }
        }
    }
    assert!(buses >= 5, "{path} has {buses} kinds of bus; has its form changed?");
    assert_none(&broken, "for each bus and fault, a test shows what is lost");
}

#[test]
fn each_law_names_its_tests_and_is_broken_on_purpose() {
    let (named, mut broken) = named_in("ARCHITECTURE.md");
    assert!(named > 15, "the table of the laws names {named} tests; has its form changed?");
    let breaks = root().join("laws/breaks");
    let breaks = fs::read_dir(breaks).expect("the breaks").map(|entry| entry.expect("an entry"));
    let breaks: Vec<_> =
        breaks.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for law in 1..=10 {
        if !breaks.iter().any(|name| name.starts_with(&format!("{law}-"))) {
            broken.push(format!("law {law} has no break in laws/breaks"));
        }
    }
    assert_none(&broken, "a law is only as good as the test that fails when it is broken");
}

/// The file stems in a folder of `fuzz/`, sorted.
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
    let library = read("fuzz/src/lib.rs");
    let table = library.split("pub const TARGETS").nth(1).expect("the table of targets");
    let entry = "Target { name: \"";
    let mut targets: Vec<_> =
        table.split(entry).skip(1).filter_map(|rest| rest.split('"').next()).collect();
    targets.sort_unstable();
    assert!(targets.len() >= 5, "{targets:?}; has the form of the table changed?");
    assert_eq!(names_in("corpus"), targets, "a folder of fuzz/corpus for each target");
    assert_eq!(names_in("fuzz_targets"), targets, "a file of fuzz/fuzz_targets for each target");
    let manifest = read("fuzz/Cargo.toml");
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
        assert!(small, "the corpus of {target} has {inputs} inputs with {bytes} bytes in total");
    }
}

/// Examples are for readers in a hurry, and must work.
#[test]
fn each_example_is_short_and_listed_and_run_by_a_test() {
    let tests: String = ["crates", "examples/tests"]
        .into_iter()
        .flat_map(sources)
        .filter(|source| {
            let folders = ["/tests/examples", "/tests/http/", "/tests/databases/", "/tests/it/"];
            folders.iter().any(|folder| source.path.contains(folder))
        })
        .map(|source| source.text)
        .collect();
    let mut broken = Vec::new();
    let mut found = 0;
    // Where the list is, and the examples below it.
    for (folder, below) in [("crates/couplet/examples", ""), ("examples", "src/bin/")] {
        let list = format!("{folder}/README.md");
        let readme = read(&list);
        for example in sources(&format!("{folder}/{below}")) {
            found += 1;
            let link = &example.path[folder.len() + 1..];
            if example.text.lines().count() >= 80 {
                broken.push(format!("{} has 80 lines or more", example.path));
            }
            if !readme.contains(&format!("]({link})")) {
                broken.push(format!("{link} is not in {list}"));
            }
            // A module is run by its program.
            if !example.text.contains("fn main(") {
                continue;
            }
            // `reactors/hello.rs` runs as `reactors hello`, which `reactors/main.rs` dispatches.
            let words = link[below.len()..].trim_end_matches(".rs").split('/');
            let is_run = |word: &str| {
                // As a program, or as a part of a test.
                let forms =
                    [format!("\"{word}\""), format!("/{word}.rs\""), format!("/{word}/main.rs\"")];
                forms.iter().any(|form| tests.contains(form))
            };
            for word in words.filter(|word| *word != "main" && !is_run(word)) {
                broken.push(format!("{}: no test runs {word:?}", example.path));
            }
        }
        for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !root().join(folder).join(link).exists() {
                broken.push(format!("{list} names {link}, which does not exist"));
            }
        }
    }
    assert!(found > 30, "{found} examples were found");
    assert_none(&broken, "an example has fewer than 80 lines, a row in the table and a test");
}
