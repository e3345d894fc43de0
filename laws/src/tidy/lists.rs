//! Hand-written lists are complete and correct: the tests of the laws and of the guarantees, examples.
//!
//! Contract: 229.

use super::contract::rows;
use super::source::{Source, assert_none, names_in_folder, read, sources};

/// True when these modules are, in this order, on a file's path below its crate's folder, which ends
/// with `tests`, for unit tests: `driver`, `mio` for `src/driver/mio/mod.rs`.
fn has_modules(source: &Source, modules: &str) -> bool {
    let path = source.path.trim_end_matches(".rs");
    let mut path = path.split('/').skip(2).chain(["tests"]);
    modules.split("::").all(|module| path.any(|part| part == module))
}

/// The tests named in the last column of a table's numbered rows that don't exist. A name is
/// `module::name` in backquotes. Modules may be omitted, and so may the rest of a name, as `…`.
fn missing_in(table: &str) -> Vec<String> {
    let folders = ["crates", "programs", "bench", "examples", "laws/src"];
    let tests: Vec<Source> = folders.into_iter().flat_map(sources).collect();
    let (mut named, mut broken) = (0, Vec::new());
    for (_, row) in rows(&read(table)) {
        let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in column.split('`').skip(1).step_by(2) {
            // Without a path it is some other identifier, such as a method.
            let Some((path, function)) = name.rsplit_once("::") else { continue };
            named += 1;
            let definition = format!("fn {function}(").replace("…(", "");
            if !tests.iter().any(|it| it.text.contains(&definition) && has_modules(it, path)) {
                broken.push(format!("{table} names {name}"));
            }
        }
    }
    assert!(named > 15, "{table} names {named} tests; has its form changed?");
    broken
}

/// The faults that docs/guarantees.md looks at, for each kind of bus.
const FAULTS: &str = "bus killed and back, link cut and healed, node killed, node drained, \
    subscriber slow, publisher faster than all, bus full, clock jumps";

#[test]
fn c229_each_row_of_the_guarantees_names_an_existing_test() {
    let path = "docs/guarantees.md";
    let mut broken = missing_in(path);
    let text = read(path);
    let buses: Vec<&str> = text.split("\n## ").filter(|bus| bus.contains("\n| n |")).collect();
    assert!(buses.len() >= 5, "{path} has {} kinds of bus; has its form changed?", buses.len());
    for bus in buses {
        let rows = bus.lines().filter(|line| line.starts_with('|'));
        let rows: Vec<Vec<&str>> =
            rows.map(|line| line.trim_matches(['|', ' ']).split(" | ").collect()).collect();
        for fault in FAULTS.split(", ") {
            let row = rows.iter().find(|row| row.get(1).is_some_and(|it| it.starts_with(fault)));
            let tests = row.and_then(|row| row.last()).copied().unwrap_or_default();
            if !tests.contains("::") && !tests.starts_with("no meaning here: ") {
                let bus = bus.lines().next().unwrap_or_default();
                broken.push(format!("{path}: {bus}: no test shows: {fault}"));
            }
        }
    }
    assert_none(&broken, "for each bus and fault, a test shows what is lost");
}

#[test]
fn each_law_names_its_tests_and_is_broken_on_purpose() {
    let mut broken = missing_in("ARCHITECTURE.md");
    let breaks = names_in_folder("laws/breaks");
    let whole = |law: &u32| !breaks.iter().any(|name| name.starts_with(&format!("{law}-")));
    let whole = (1..=10).filter(whole);
    broken.extend(whole.map(|law| format!("law {law} has no break in laws/breaks")));
    assert_none(&broken, "a law is only as good as the test that fails when it is broken");
}

/// Examples are for readers in a hurry, and must work.
#[test]
fn each_example_is_short_and_listed_and_run_by_a_test() {
    let tests = ["crates", "examples/tests"].into_iter().flat_map(sources);
    let folders = ["/tests/examples", "/tests/http/", "/tests/databases/", "/tests/it/"];
    let tests = tests.filter(|source| folders.iter().any(|folder| source.path.contains(folder)));
    let tests: String = tests.map(|source| source.text).collect();
    // As a program, or as a part of a test.
    let is_run = |word: &str| {
        let forms = [format!("\"{word}\""), format!("/{word}.rs\""), format!("/{word}/main.rs\"")];
        forms.iter().any(|form| tests.contains(form))
    };
    let (mut broken, mut found) = (Vec::new(), 0);
    // The list, and the folder of the examples below it.
    for (folder, below) in [("crates/couplet/examples", ""), ("examples", "src/bin/")] {
        let readme = read(&format!("{folder}/README.md"));
        for Source { path, text } in sources(&format!("{folder}/{below}")) {
            found += 1;
            let link = &path[folder.len() + 1..];
            if text.lines().count() >= 80 || !readme.contains(&format!("]({link})")) {
                broken.push(format!("{path} has 80 lines or more, or is not in the list"));
            }
            // A program runs its modules: `reactors/hello.rs` is `reactors hello` of `reactors/main.rs`.
            let words = link[below.len()..].trim_end_matches(".rs").split('/');
            let words = words.filter(|word| *word != "main" && text.contains("fn main("));
            let missing = words.filter(|word| !is_run(word));
            broken.extend(missing.map(|word| format!("{path}: no test runs {word:?}")));
        }
    }
    assert!(found > 30, "{found} examples were found");
    assert_none(&broken, "an example has fewer than 80 lines, a row in the table and a test");
}
