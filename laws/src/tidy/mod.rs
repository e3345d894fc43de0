//! The laws of ARCHITECTURE.md that the compiler can't enforce, as tests of the sources. A failure
//! names the line, the rule and the remedy.

mod api;
mod bounded;
mod bytes;
mod capabilities;
mod compatible;
mod contract;
mod english;
mod events;
mod hashed;
mod links;
mod lists;
mod modules;
mod packages;
mod rooms;
mod safety;
mod source;
mod wrappers;

use source::{assert_none, everything, sources, with_parsed_code};

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

/// The laws are checked on the files of `src`, at the places that their names give.
#[test]
fn no_code_hides_from_the_laws() {
    with_parsed_code(|| {
        let mut broken = Vec::new();
        for (name, folder) in &*source::FOLDERS {
            let is_read = source::crates_of_the_library().any(|known| known == name)
                || ["couplet-os", "couplet-bench"].contains(&name.as_str())
                || source::PROGRAMS.contains(&name.as_str());
            if !is_read {
                broken.push(format!(
                    "{name} is not read: see CRATES and PROGRAMS in laws/src/tidy/source.rs"
                ));
            }
            if source::root().join(folder).join("build.rs").exists() {
                broken.push(format!("{name}/build.rs may write code"));
            }
        }
        let crates = ["couplet", "couplet-os", "couplet-bench"].into_iter();
        for file in crates.chain(source::PROGRAMS).flat_map(source::library) {
            broken.extend(moved(file));
        }
        assert_none(
            &broken,
            "code lives in the files of src, each at the place that its name gives",
        );
    });
}

/// The modules with a `#[path]`, except test modules.
fn moved(file: &source::Code) -> Vec<String> {
    let moved = file.syntax.items.iter().filter_map(|item| match item {
        syn::Item::Mod(item) if !source::is_for_tests(&item.attrs) => {
            let path = source::path_attribute(&item.attrs)?;
            Some(format!("{}: {} is at {path}", file.path, item.ident))
        }
        _ => None,
    });
    moved.collect()
}

#[test]
fn a_module_at_another_path_is_found() {
    let found = |text: &str| moved(&source::Code::of("reactor/mod.rs", text)).len();
    assert_eq!(found("#[path = \"../../hidden.rs\"] mod hidden;"), 1);
    assert_eq!(found("#[cfg(test)] #[path = \"hidden/tests.rs\"] mod tests; mod plain;"), 0);
}

/// True if a file in the folder of `root` has a test.
fn has_tests(root: &str) -> bool {
    let folder = root.rsplit_once('/').map_or(root, |(folder, _)| folder);
    sources(folder).iter().any(|source| source.text.lines().any(|line| line.trim() == "#[test]"))
}

#[test]
fn every_test_binary_ends_tests_that_take_too_long() {
    let mut broken = Vec::new();
    for source in ["crates", "programs"].into_iter().flat_map(sources) {
        let is_root = match source.path.split('/').skip(2).collect::<Vec<_>>()[..] {
            // With a library in the same package, the library has the tests.
            ["src", "main.rs"] => {
                !source::root().join(&source.path).with_file_name("lib.rs").exists()
            }
            ["src", file] => file == "lib.rs",
            ["tests", _] | ["tests", _, "main.rs"] => true,
            _ => false,
        };
        let watches = "#[macro_use]\nextern crate couplet_testkit;\n";
        if is_root && !source.text.contains(watches) && has_tests(&source.path) {
            broken.push(source.path);
        }
    }
    assert_none(&broken, "a root begins with #[macro_use] extern crate couplet_testkit;");
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
            // `.ci/full` runs them.
            if line.trim().starts_with("#[ignore = ") && line.ends_with("; run it alone\"]") {
                continue;
            }
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{}:{number} has {word}", source.path));
            }
        }
    }
    assert_none(&broken, "finish it or remove it; wait for a condition, not for a time");
}
