//! The laws of ARCHITECTURE.md that the compiler can't enforce, as tests of the sources. A failure
//! names the line, the rule and the remedy.

mod bounded;
mod bytes;
mod capabilities;
mod contract;
mod english;
mod events;
mod links;
mod lists;
mod modules;
mod rooms;
mod safety;
mod source;
mod wrappers;

use source::{Source, assert_none, sources};

/// The lines outside of comments, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn every_file_says_what_lives_in_it_and_no_test_is_ignored_or_sleeps() {
    let mut broken = Vec::new();
    for Source { path, text } in sources("") {
        if !text.trim_start().starts_with("//!") {
            broken.push(format!("{path} opens without //!: its contents, and the law it keeps"));
        }
        let may_wait = path.starts_with("laws/") || path.starts_with("python/");
        for (number, line) in code(&text).filter(|_| !may_wait && !path.contains("/benches/")) {
            // `.ci/full` runs these.
            let alone = line.contains("#[ignore = ") && line.ends_with("; run it alone\"]");
            if line.contains("time::sleep(") || line.contains("#[ignore") && !alone {
                broken.push(format!("{path}:{number} waits for a time, or is ignored"));
            }
        }
    }
    assert_none(&broken, "a file says what lives in it; a test waits for a condition");
}

#[test]
fn every_test_binary_ends_tests_that_take_too_long() {
    let mut broken = Vec::new();
    for Source { path, text } in ["crates", "programs"].into_iter().flat_map(sources) {
        let (folder, _) = path.rsplit_once('/').expect("a folder");
        let is_root = match path.split('/').skip(2).collect::<Vec<_>>()[..] {
            // With a library in the same package, the library has the tests.
            ["src", "main.rs"] => !source::root().join(folder).join("lib.rs").exists(),
            ["src", file] => file == "lib.rs",
            ["tests", _] | ["tests", _, "main.rs"] => true,
            _ => false,
        };
        let is_watched = text.contains("#[macro_use]\nextern crate couplet_testkit;\n");
        let has_test = |it: &Source| it.text.lines().any(|line| line.trim() == "#[test]");
        if is_root && !is_watched && sources(folder).iter().any(has_test) {
            broken.push(path);
        }
    }
    assert_none(&broken, "a root begins with #[macro_use] extern crate couplet_testkit;");
}
