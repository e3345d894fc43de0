//! The laws of ARCHITECTURE.md that the compiler can't enforce, as tests of the sources. A failure
//! names the line, the rule and the remedy.

mod api;
mod bytes;
mod capabilities;
mod english;
mod hashed;
mod links;
mod lists;
mod modules;
mod packages;
mod queues;
mod rooms;
mod safety;
mod source;
mod wrappers;

use source::{assert_none, everything, sources};

/// The lines outside of comments, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn every_file_says_what_lives_in_it() {
    let silent: Vec<String> = everything()
        .into_iter()
        .filter(|source| !source.text.trim_start().starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert_none(&silent, "a file opens with //!: what lives here, which law it keeps");
}

/// True if a file in the folder of `root` has a test.
fn has_tests(root: &str) -> bool {
    let folder = root.rsplit_once('/').map_or(root, |(folder, _)| folder);
    sources(folder).iter().any(|source| source.text.lines().any(|line| line.trim() == "#[test]"))
}

#[test]
fn every_test_binary_ends_tests_that_take_too_long() {
    let mut broken = Vec::new();
    for source in sources("crates") {
        let is_root = match source.path.split('/').skip(2).collect::<Vec<_>>()[..] {
            ["src", file] => ["lib.rs", "main.rs"].contains(&file),
            ["tests", _] | ["tests", _, "main.rs"] => true,
            _ => false,
        };
        let watches = "#[macro_use]\nextern crate couplet_watched;\n";
        if is_root && !source.text.contains(watches) && has_tests(&source.path) {
            broken.push(source.path);
        }
    }
    assert_none(&broken, "a root begins with #[macro_use] extern crate couplet_watched;");
}

#[test]
fn nothing_is_left_undone_and_no_test_sleeps() {
    let words =
        ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "thread::sleep(", "time::sleep("];
    let mut broken = Vec::new();
    for source in everything() {
        if source.path.starts_with("laws/") || source.path.contains("/benches/") {
            continue;
        }
        for (number, line) in code(&source.text) {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{}:{number} has {word}", source.path));
            }
        }
    }
    assert_none(&broken, "finish it or remove it; wait for a condition, not for a time");
}
