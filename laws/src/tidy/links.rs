//! Links lead somewhere: those between documents, those from the sources to files of the repository,
//! and the references of the guide, each of whose chapters is listed and compiled.
//! `docs/guide/links.sh` checks links to docs.rs.

use std::fs;
use std::path::Path;

use super::source::{assert_none, read, root};

const REPOSITORY: &str = "https://github.com/couplet-rs/couplet/blob/main/";

/// The files with one of some endings below a folder, relative to the workspace; no links to other
/// files.
pub(super) fn files(below: &Path, endings: &[&str], found: &mut Vec<String>) {
    for entry in fs::read_dir(below).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, endings, found);
        } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            let path = path.strip_prefix(root()).expect("a path below the root");
            found.push(path.to_string_lossy().replace('\\', "/"));
        }
    }
}

/// The documents of the guide.
pub(super) fn guide() -> Vec<String> {
    let mut paths = Vec::new();
    files(&root().join("docs/guide"), &[".md"], &mut paths);
    paths
}

/// The lines of a document outside its blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// The name and the target of a line `[name]: target`.
pub(super) fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix('[')?.split_once(']')?;
    Some((name, rest.strip_prefix(": ")?))
}

/// The targets of a line's links: `[text](target)`, or `[name]: target`.
fn targets(line: &str) -> Vec<&str> {
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let defined = definition(line).map(|(_, target)| target);
    inline.map(|(target, _)| target).chain(defined).collect()
}

/// The anchor that GitHub and mdBook give to a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    words.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// Whether the file or folder exists, and has the heading.
fn leads_to(path: &str, heading: Option<&str>) -> bool {
    let path = root().join(path);
    path.exists()
        && heading.is_none_or(|wanted| {
            let text = fs::read_to_string(path).unwrap_or_default();
            prose(&text).any(|line| line.starts_with('#') && anchor(line) == wanted)
        })
}

/// The end of a target that points into the repository, as a path, and its heading.
fn inside<'a>(from: &str, target: &'a str) -> Option<(String, Option<&'a str>)> {
    let (path, heading) = match target.split_once('#') {
        Some((path, heading)) => (path, Some(heading)),
        None => (target, None),
    };
    if let Some(path) = path.strip_prefix(REPOSITORY) {
        return Some((path.to_owned(), heading));
    }
    if path.contains("://") || !from.ends_with(".md") {
        return None;
    }
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    Some((if path.is_empty() { from.to_owned() } else { format!("{folder}/{path}") }, heading))
}

#[test]
fn every_link_into_the_repository_leads_to_a_file_and_its_heading() {
    let (mut paths, mut broken, mut links) = (Vec::new(), Vec::new(), 0);
    files(&root(), &[".md", ".rs"], &mut paths);
    for from in paths {
        let text = read(&from);
        let is_document = from.ends_with(".md");
        let comments = text.lines().filter_map(|line| line.trim_start().strip_prefix("//"));
        let comments = comments.map(|line| line.trim_start_matches(['/', '!']).trim_start());
        let lines: Vec<&str> =
            if is_document { prose(&text).collect() } else { comments.collect() };
        for target in lines.into_iter().flat_map(targets) {
            let Some((path, heading)) = inside(&from, target) else { continue };
            links += 1;
            if !leads_to(path.trim_start_matches('/'), heading) {
                broken.push(format!("{from}: {target}"));
            }
        }
    }
    assert!(links > 200, "the documents have {links} links; has their form changed?");
    assert_none(&broken, "a link leads nowhere; correct the path or the heading");
}

#[test]
fn every_chapter_of_the_guide_is_listed_and_compiled() {
    let guide = guide();
    let names = guide.iter().map(|path| path.trim_start_matches("docs/guide/"));
    let chapters: Vec<&str> =
        names.filter(|name| !["README.md", "SUMMARY.md"].contains(name)).collect();
    assert!(chapters.len() > 20, "the guide has {} chapters", chapters.len());
    let lists = [("SUMMARY.md", '(', ')'), ("README.md", '(', ')'), ("lib.rs", '"', '"')];
    let mut broken = Vec::new();
    for (list, open, close) in lists {
        let text = read(&format!("docs/guide/{list}"));
        let missing =
            chapters.iter().filter(|name| !text.contains(&format!("{open}{name}{close}")));
        broken.extend(missing.map(|name| format!("docs/guide/{list} lacks {name}")));
    }
    assert_none(&broken, "readers find a chapter in both lists, and lib.rs runs its examples");
}

/// A reference without a definition is shown as plain text in brackets.
#[test]
fn every_reference_of_the_guide_is_defined_and_used() {
    let mut broken = Vec::new();
    for path in guide() {
        let text = read(&path);
        let names: Vec<&str> = prose(&text).filter_map(definition).map(|(name, _)| name).collect();
        let prose: Vec<&str> = prose(&text).filter(|line| definition(line).is_none()).collect();
        let prose = prose.join(" ");
        let unused = names.iter().filter(|name| !prose.contains(&format!("[{name}]")));
        broken.extend(unused.map(|name| format!("{path}: [{name}] is not used")));
        // Markdown ignores the case of a name, and takes the first definition.
        for (number, name) in names.iter().enumerate() {
            if names[..number].iter().any(|other| other.eq_ignore_ascii_case(name)) {
                broken.push(format!("{path}: [{name}] is defined twice"));
            }
        }
        let code = prose.split("[`").skip(1).filter_map(|rest| rest.split_once("`]"));
        for (name, rest) in code {
            if !rest.starts_with('(') && !names.contains(&&*format!("`{name}`")) {
                broken.push(format!("{path}: [`{name}`] is not defined"));
            }
        }
    }
    assert_none(&broken, "a reference has one definition, at the end of its chapter");
}
