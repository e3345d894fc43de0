//! Compatibility with the last release: CHANGELOG.md names, under Unreleased, each public item that was
//! removed or changed since then, or that other code has to provide now.
//!
//! `laws/api/VERSION.txt` has the items of the release, a line each. `target/api.txt` gets the current
//! ones, read from the sources (`api.rs`); a release replaces the first file by the second. New items
//! need no line anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::api::public_items;
use super::source::{library, read, root, with_parsed_code};

/// The path of a line's item, without its generics: `reactor::Reactor::listen`.
fn path_of(line: &str) -> &str {
    let end = line.find([' ', '<']).unwrap_or(line.len());
    line[..end].trim_end_matches(':')
}

/// The path of the type, trait or module that an item belongs to.
fn owner_of(path: &str) -> Option<&str> {
    path.rsplit_once("::").map(|(owner, _)| owner).or(path.rsplit_once('.').map(|(owner, _)| owner))
}

/// The lines that break programs: lines of the old list that are missing, and new duties.
fn breaking<'a>(old: &'a BTreeSet<String>, new: &'a BTreeSet<String>) -> Vec<&'a String> {
    let first_word = |line: &'a String| line.split(' ').nth(1).unwrap_or_default();
    let declared = old.iter().filter(|line| line.starts_with(&format!("{} ", path_of(line))));
    let kinds: BTreeMap<&str, &str> =
        declared.map(|line| (path_of(line), first_word(line))).collect();
    let kind = |path: &str| kinds.get(path).copied().unwrap_or_default();
    let is_duty = |line: &&String| {
        let owner = owner_of(path_of(line)).map_or("", kind);
        let is_new = !kinds.contains_key(path_of(line));
        // A method that implementors must write, or a variant that a `match` must have.
        is_new
            && !line.contains(" provided ")
            && !line.contains(" [impl")
            && (owner.starts_with("trait") || owner.starts_with("enum"))
    };
    old.difference(new).chain(new.difference(old).filter(is_duty)).collect()
}

/// The words in the code spans of the notes.
fn named_in(notes: &str) -> BTreeSet<&str> {
    let spans = notes.split('`').skip(1).step_by(2);
    spans.flat_map(|span| span.split(|c: char| !c.is_alphanumeric() && c != '_')).collect()
}

/// The breaking changes that no note names. A note names an item or, if that is removed, its owner.
fn unannounced<'a>(
    old: &'a BTreeSet<String>,
    new: &'a BTreeSet<String>,
    notes: &str,
) -> Vec<&'a String> {
    let named = named_in(notes);
    let remains: BTreeSet<&str> = new.iter().map(|line| path_of(line)).collect();
    let is_named = |path: &str| {
        let last = path.rsplit(['.', ':']).next().unwrap_or_default();
        named.contains(last)
    };
    let is_announced = |line: &&String| {
        let path = path_of(line);
        let removed = std::iter::successors(owner_of(path), |path| owner_of(path));
        let mut removed = removed.take_while(|owner| !remains.contains(owner));
        // `.0` has no name.
        let is_number = path.rsplit('.').next().is_some_and(|last| last.parse::<u8>().is_ok());
        is_named(path) || removed.any(is_named) || is_number && owner_of(path).is_some_and(is_named)
    };
    breaking(old, new).into_iter().filter(|line| !is_announced(line)).collect()
}

/// The text under a heading of the changelog.
fn under<'a>(changelog: &'a str, heading: &str) -> Option<&'a str> {
    let mut sections = changelog.split("\n## ").skip(1);
    sections.find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'))
}

/// The public items of the facade and of the runner.
fn current() -> BTreeSet<String> {
    let runner = public_items(library("couplet-runner")).into_iter();
    let runner = runner.map(|line| format!("couplet_runner::{line}"));
    public_items(library("couplet")).into_iter().chain(runner).collect()
}

/// The version of the last release, and its public items.
fn released() -> (String, BTreeSet<String>) {
    let lists = fs::read_dir(root().join("laws/api")).expect("a folder");
    let lists: Vec<_> = lists.map(|list| list.expect("an entry").file_name()).collect();
    let [list] = &lists[..] else { panic!("laws/api has the list of one release, not {lists:?}") };
    let list = list.to_string_lossy();
    let items = read(&format!("laws/api/{list}")).lines().map(str::to_owned).collect();
    (list.trim_end_matches(".txt").to_owned(), items)
}

#[test]
fn the_changelog_names_each_public_item_that_was_removed_or_changed() {
    with_parsed_code(|| {
        let now = current();
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
        let text = now.iter().fold(String::new(), |text, line| text + line + "\n");
        // For review and for a release; the tree may be read-only.
        let _ = fs::create_dir_all(&target).and_then(|()| fs::write(target.join("api.txt"), text));
        let (version, old) = released();
        assert!(old.len() > 4000, "the release has only {} public items", old.len());
        let changelog = read("CHANGELOG.md");
        assert!(under(&changelog, &version).is_some(), "CHANGELOG.md has no heading {version}");
        let notes = under(&changelog, "Unreleased").expect("a heading Unreleased in CHANGELOG.md");
        let broken: Vec<String> = unannounced(&old, &now, notes)
            .into_iter()
            .map(|line| format!("{} {line}", if old.contains(line) { '-' } else { '+' }))
            .collect();
        assert!(
            broken.is_empty(),
            "CHANGELOG.md does not name these public items, which have changed since {version}:\n{}\nIf \
             that is meant, write their names in backquotes under Unreleased",
            broken.join("\n")
        );
    });
}

#[test]
fn a_section_of_the_changelog_ends_at_the_next_heading() {
    let changelog = "# Changelog\n\n## Unreleased\n\n- `A` is new.\n\n## 0.1.0\n\nFirst.\n";
    assert_eq!(under(changelog, "Unreleased"), Some("\n- `A` is new.\n"));
    assert_eq!(under(changelog, "0.1.0"), Some("\nFirst.\n"));
    assert_eq!(under(changelog, "0.1"), None);
}

#[test]
fn only_a_breaking_change_needs_a_note() {
    let lines = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<BTreeSet<_>>();
    let old = lines(&[
        "Form enum",
        "Form: impl Clone for Shape",
        "Form::A",
        "Form::area [impl Shape] fn area(&self) -> u8",
        "Open trait: Clone",
        "Open::may provided fn may(&self)",
        "Seen #[non_exhaustive] enum",
        "Twice struct",
        "Twice.0: u8",
    ]);
    let without = |gone: &str, new: &[&str]| {
        let rest = old.iter().filter(|line| *line != gone).map(String::as_str);
        lines(&rest.chain(new.iter().copied()).collect::<Vec<_>>())
    };
    let area = "Form::area [impl Shape] fn area(&self) -> u8";
    let clone = "Form: impl Clone for Shape";
    for (now, notes, is_announced) in [
        (without(area, &[]), "", false),
        (without(area, &[]), "`Form` is larger, and area too.", false),
        (without(area, &[]), "- `Form::area` is now `size`.", true),
        (without(area, &["Form::area [impl Shape] fn area(&self) -> u16"]), "", false),
        (without(clone, &[]), "", false),
        (without(clone, &[]), "- `Form` is not `Clone`.", true),
        (without("Twice.0: u8", &[]), "", false),
        (without("Twice.0: u8", &[]), "`Twice` has no public field.", true),
        // A duty of others.
        (without("", &["Open::must fn must(&self)"]), "", false),
        (without("", &["Form::B"]), "", false),
        (without("", &["Form::B"]), "`Form::B` is new.", true),
        // Additions.
        (without("", &["Open::might provided fn might(&self)"]), "", true),
        (without("", &["Form::side [impl Shape] fn side(&self)"]), "", true),
        (without("", &["Seen::B"]), "", true),
        (without("", &["new::Item struct"]), "", true),
    ] {
        let left = unannounced(&old, &now, notes);
        assert_eq!(left.is_empty(), is_announced, "{now:?} with the note {notes:?}: {left:?}");
    }
    let nothing_of_it: BTreeSet<String> =
        old.iter().filter(|line| !line.starts_with("Form")).cloned().collect();
    assert!(!unannounced(&old, &nothing_of_it, "").is_empty());
    assert!(unannounced(&old, &nothing_of_it, "`Form` is removed.").is_empty());
}
