//! Links lead somewhere: those between documents, those from the sources to files of the repository,
//! and the references of the guide, each of whose chapters is listed and compiled.
//! `docs/guide/links.sh` checks links to docs.rs.

use std::fs;

use super::source::{Source, assert_none, files, names_in_folder, read, root};

const REPOSITORY: &str = "https://github.com/couplet-rs/couplet/blob/main/";

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

/// The path in the repository that a target of a file leads to, and its heading.
fn inside<'a>(from: &str, target: &'a str) -> Option<(String, Option<&'a str>)> {
    let path = target.split('#').next()?;
    let heading = target.split_once('#').map(|(_, heading)| heading);
    if let Some(path) = path.strip_prefix(REPOSITORY) {
        return Some((path.to_owned(), heading));
    }
    if path.contains("://") || !from.ends_with(".md") {
        return None;
    }
    let folder = from.rsplit_once('/').map_or(".", |(folder, _)| folder);
    Some((if path.is_empty() { from.to_owned() } else { format!("{folder}/{path}") }, heading))
}

#[test]
fn every_link_into_the_repository_leads_to_a_file_and_its_heading() {
    let (mut broken, mut links) = (Vec::new(), 0);
    for Source { path: from, text } in files("", &[".md", ".rs"]) {
        let comments = text.lines().filter_map(|line| line.trim_start().strip_prefix("//"));
        let comments = comments.map(|line| line.trim_start_matches(['/', '!']).trim_start());
        let lines: Vec<&str> =
            if from.ends_with(".md") { prose(&text).collect() } else { comments.collect() };
        for target in lines.into_iter().flat_map(targets) {
            let Some((path, heading)) = inside(&from, target) else { continue };
            links += 1;
            let text = fs::read_to_string(root().join(&path)).unwrap_or_default();
            let is_heading =
                |wanted| prose(&text).any(|line| line.starts_with('#') && anchor(line) == wanted);
            if !root().join(path).exists() || !heading.is_none_or(is_heading) {
                broken.push(format!("{from}: {target}"));
            }
        }
    }
    assert!(links > 200, "the documents have {links} links; has their form changed?");
    assert_none(&broken, "a link leads nowhere; correct the path or the heading");
}

#[test]
fn every_chapter_of_the_guide_is_listed_and_compiled() {
    let mut chapters = names_in_folder("docs/guide");
    let is_list = |name: &str| ["README.md", "SUMMARY.md"].contains(&name);
    chapters.retain(|name| name.ends_with(".md") && !is_list(name));
    assert!(chapters.len() > 20, "the guide has {} chapters", chapters.len());
    let mut broken = Vec::new();
    for (list, form) in [("SUMMARY.md", "(NAME)"), ("README.md", "(NAME)"), ("lib.rs", "\"NAME\"")]
    {
        let text = read(&format!("docs/guide/{list}"));
        let missing = chapters.iter().filter(|name| !text.contains(&form.replace("NAME", name)));
        broken.extend(missing.map(|name| format!("docs/guide/{list} lacks {name}")));
    }
    assert_none(&broken, "readers find a chapter in both lists, and lib.rs runs its examples");
}

/// A reference without a definition is shown as plain text in brackets.
#[test]
fn every_reference_of_the_guide_is_defined() {
    let mut broken = Vec::new();
    for Source { path, text } in files("docs/guide", &[".md"]) {
        let names: Vec<&str> = prose(&text).filter_map(definition).map(|(name, _)| name).collect();
        let lines = prose(&text).collect::<Vec<_>>().join(" ");
        let code = lines.split("[`").skip(1).filter_map(|rest| rest.split_once("`]"));
        let code = code.filter(|(_, rest)| !rest.starts_with('('));
        let missing = code.filter(|(name, _)| !names.contains(&&*format!("`{name}`")));
        broken.extend(missing.map(|(name, _)| format!("{path}: [`{name}`] is not defined")));
    }
    assert_none(&broken, "a reference has a definition at the end of its chapter");
}
