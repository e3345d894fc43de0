//! Compatibility with the last release: CHANGELOG.md names, under Unreleased, each public item of a crate
//! in `crates` that was removed or changed since then, or that other code has to provide now.
//!
//! `laws/api/CRATE.txt` has the items of the release, a line each. `target/api/CRATE.txt` gets the
//! current ones, from rustdoc's JSON. `run.sh` makes the JSON, and documents the usage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// The items of a crate: text without the foreign modules, which may move.
type Items = BTreeSet<String>;

/// The public items in rustdoc's JSON, without the hooks, which are no program's, and without the methods
/// of implementations, which are their traits'.
fn items(json: &Path, name: &str) -> Items {
    let api = public_api::Builder::from_rustdoc_json(json).sorted(false);
    let api = api.omit_blanket_impls(true).omit_auto_trait_impls(true);
    let api = api.omit_auto_derived_impls(true).build();
    let api = api.unwrap_or_else(|error| panic!("{}: {error}", json.display()));
    let all: Vec<_> = api.items().map(|item| (item, item.to_string())).collect();
    let is_of_a_trait = |text: &str| text.starts_with("impl") && text.contains(" for ");
    let of_traits = all.iter().filter(|(_, text)| is_of_a_trait(text));
    let of_traits: BTreeSet<_> = of_traits.map(|(item, _)| item.id()).collect();
    let listed = all.iter().filter(|(item, text)| {
        let is_inherent = text.starts_with("impl") && !is_of_a_trait(text);
        let is_inside = item.parent_id().is_some_and(|parent| of_traits.contains(&parent));
        !is_inherent && !is_inside && !text.contains("::hooks")
    });
    listed.map(|(_, text)| shorten(text, name)).collect()
}

/// Paths into other crates without their modules.
fn shorten(line: &str, name: &str) -> String {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut short = String::new();
    for part in line.split_inclusive(|c| !is_path(c)) {
        let path = part.trim_end_matches(|c| !is_path(c) || c == ':');
        let is_foreign = !path.starts_with("::") && path.split("::").next() != Some(name);
        let last = path.rsplit("::").next().filter(|_| is_foreign);
        short += last.unwrap_or(path);
        short += &part[path.len()..];
    }
    short
}

/// The path of a line's item, without generics: `couplet_core::Reactor::listen`. For an implementation,
/// the path of its type.
fn path_of(line: &str) -> String {
    let line = if line.starts_with("impl") { line.rsplit(" for ").next() } else { Some(line) };
    let words = line.unwrap_or_default().trim_start_matches("#[non_exhaustive] ").split(' ');
    let text = words.skip_while(|word| !word.contains("couplet")).collect::<Vec<_>>().join(" ");
    let (mut path, mut depth) = (String::new(), 0);
    for c in text.trim_start_matches('&').chars() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth > 0 => {}
            _ if c.is_alphanumeric() || c == '_' || c == ':' => path.push(c),
            _ => break,
        }
    }
    path.trim_end_matches(':').to_owned()
}

fn owner_of(path: &str) -> Option<&str> {
    path.rsplit_once("::").map(|(owner, _)| owner)
}

/// The breaking changes that no note names: lines of the old list that are missing, and new items of old
/// traits and exhaustive enums. A note names an item or, if that is removed, its owner.
fn unannounced(old: &Items, new: &Items, notes: &str) -> Vec<String> {
    let spans = notes.split('`').skip(1).step_by(2);
    let named: BTreeSet<&str> =
        spans.flat_map(|span| span.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
    let is_named = |path: &str| named.contains(path.rsplit(':').next().unwrap_or_default());
    let paths = |items: &Items| items.iter().map(|line| path_of(line)).collect::<BTreeSet<_>>();
    let (before, remains) = (paths(old), paths(new));
    let open = ["pub trait ", "pub unsafe trait ", "pub enum "];
    let open = old.iter().filter(|line| open.iter().any(|kind| line.starts_with(kind)));
    let open: BTreeSet<String> = open.map(|line| path_of(line)).collect();
    let is_duty = |line: &&String| {
        let path = path_of(line);
        !line.starts_with("impl")
            && !before.contains(&path)
            && owner_of(&path).is_some_and(|owner| open.contains(owner))
    };
    let is_announced = |line: &&String| {
        let path = path_of(line);
        let removed = std::iter::successors(owner_of(&path), |path| owner_of(path));
        let mut removed = removed.take_while(|owner| !remains.contains(*owner));
        is_named(&path) || removed.any(is_named)
    };
    let changed = old.difference(new).map(|line| ('-', line));
    let changed = changed.chain(new.difference(old).filter(is_duty).map(|line| ('+', line)));
    let left = changed.filter(|(_, line)| !is_announced(line));
    left.map(|(sign, line)| format!("{sign} {line}")).collect()
}

/// The text under a heading of the changelog.
fn under<'a>(changelog: &'a str, heading: &str) -> Option<&'a str> {
    let mut sections = changelog.split("\n## ").skip(1);
    sections.find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'))
}

fn main() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).expect("laws/api is below the root");
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(Into::into).collect();
    let [target, mode @ ..] = &arguments[..] else { panic!("the folder of builds is missing") };
    let lists = if mode == [Path::new("--accept")] { here.to_owned() } else { target.join("api") };
    fs::create_dir_all(&lists).expect("a folder for the lists");
    let changelog = fs::read_to_string(root.join("CHANGELOG.md")).expect("the changelog");
    let notes = under(&changelog, "Unreleased").expect("a heading Unreleased in CHANGELOG.md");
    let crates = fs::read_dir(root.join("crates")).expect("the crates");
    let names = crates.map(|it| it.expect("an entry").file_name().display().to_string());
    let mut broken = Vec::new();
    for name in names.map(|name| name.replace('-', "_")).collect::<BTreeSet<_>>() {
        let now = items(&target.join(format!("doc/{name}.json")), &name);
        let lines: String = now.iter().map(|line| format!("{line}\n")).collect();
        fs::write(lists.join(format!("{name}.txt")), lines).expect("room for the list");
        let old = fs::read_to_string(here.join(format!("{name}.txt"))).unwrap_or_default();
        println!("{name}: {} public items", now.len());
        broken.extend(unannounced(&lines_of(&old), &now, notes));
    }
    if !broken.is_empty() {
        eprintln!(
            "CHANGELOG.md does not name these public items, which have changed since the last release:\n{}\n\
             If that is meant, write their names in backquotes under Unreleased",
            broken.join("\n")
        );
        process::exit(1);
    }
}

/// The lines of a list, without indentation.
fn lines_of(list: &str) -> Items {
    list.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_section_of_the_changelog_ends_at_the_next_heading() {
    let changelog = "# Changelog\n\n## Unreleased\n\n- `A` is new.\n\n## 0.1.0\n\nFirst.\n";
    assert_eq!(under(changelog, "Unreleased"), Some("\n- `A` is new.\n"));
    assert_eq!(under(changelog, "0.1"), None);
}

#[test]
fn foreign_modules_are_left_out_of_a_line() {
    let long = "pub fn couplet::a::B::c(&self, core::net::ip::IpAddr) -> std::io::error::Result<couplet::E>
        impl<T: core::any::Any> core::fmt::Debug for couplet::a::B<T>
        pub type couplet::A = <couplet::B<u8> as core::iter::Iterator>::Item";
    let short = "pub fn couplet::a::B::c(&self, IpAddr) -> Result<couplet::E>
        impl<T: Any> Debug for couplet::a::B<T>
        pub type couplet::A = <couplet::B<u8> as Iterator>::Item";
    assert_eq!(shorten(long, "couplet"), short);
}

#[test]
fn only_a_breaking_change_needs_a_note() {
    let old = "pub enum couplet::Form
        pub couplet::Form::A
        pub fn couplet::Form::area(&self) -> u8
        impl Clone for couplet::Form
        pub trait couplet::Open: Clone
        pub fn couplet::Open::may(&self)
        #[non_exhaustive] pub enum couplet::Seen
        pub struct couplet::Twice<T>(pub T)";
    let area = "pub fn couplet::Form::area(&self) -> u8";
    for (gone, added, notes, is_announced) in [
        (area, "", "", false),
        (area, "", "`Form` is larger, and area too.", false),
        (area, "", "- `Form::area` is now `size`.", true),
        (area, "pub fn couplet::Form::area(&self) -> u16", "", false),
        ("impl Clone for couplet::Form", "", "", false),
        ("impl Clone for couplet::Form", "", "- `Form` is not `Clone`.", true),
        ("pub struct couplet::Twice<T>(pub T)", "pub struct couplet::Twice<T>(_)", "`Twice`", true),
        // A duty of others.
        ("", "pub fn couplet::Open::must<T>(&self)", "", false),
        ("", "pub couplet::Form::B", "", false),
        ("", "pub couplet::Form::B", "`Form::B` is new.", true),
        // Additions.
        ("", "pub fn couplet::Twice<T>::side(&self)", "", true),
        ("", "pub couplet::Seen::B", "", true),
        ("", "impl Debug for couplet::Form", "", true),
        ("", "pub struct couplet::new::Item", "", true),
    ] {
        let mut new = lines_of(old);
        assert!(gone.is_empty() || new.remove(gone), "{gone}");
        new.extend(lines_of(added));
        let left = unannounced(&lines_of(old), &new, notes);
        assert_eq!(left.is_empty(), is_announced, "{gone} {added} with {notes:?}: {left:?}");
    }
    let without = lines_of(old).into_iter().filter(|line| !line.contains("Form")).collect();
    assert!(!unannounced(&lines_of(old), &without, "").is_empty());
    assert!(unannounced(&lines_of(old), &without, "`Form` is removed.").is_empty());
}
