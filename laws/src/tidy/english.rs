//! Comments and documents are in plain English: phrases that stand where a noun of the field and a verb
//! belong are rare.

use super::links;
use super::source::{assert_none, everything, read, sources};

/// The documents that are checked.
const DOCUMENTS: [&str; 16] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "crates/couplet/examples/README.md",
    "examples/README.md",
    "docs/contract.md",
    "docs/decisions/answers.md",
    "docs/decisions/connections.md",
    "docs/decisions/crates.md",
    "docs/decisions/guide.md",
    "docs/decisions/many-loops.md",
    "docs/decisions/output.md",
    "docs/decisions/processes.md",
    "docs/decisions/stalls.md",
    "docs/decisions/turn.md",
    "python/README.md",
];

/// Words after "what" that make it the subject or the object of a clause.
const CLAUSE: &str = "is was are were be come comes came has had have can could may might must will \
    would should does did do goes went stay stays stood stands remains arrives it they we you he a an \
    the its this that there one each another other others i runs wait waits hold holds give gives get \
    gets follows happens happened belongs leads needs fits fails failed end ends ended lies lay left \
    leaves makes made keep keeps kept take takes took";

/// A pattern, the most that may be in 10 000 words, and whether it begins at these words.
type Pattern = (&'static str, usize, fn(&[&str]) -> bool);

const PATTERNS: [Pattern; 5] = [
    ("what is, what comes: name the thing", 2, |words| match words {
        [first, second, ..] => {
            matches!(*first, "what" | "whatever") && CLAUSE.split(' ').any(|word| word == *second)
        }
        _ => false,
    }),
    ("somebody, nobody: name the user, the peer, the waiter", 1, |words| {
        matches!(words, ["somebody" | "nobody" | "anybody" | "whoever", ..])
    }),
    ("told, hears of: gets an event, reports", 1, |words| {
        matches!(words, ["told" | "tells", ..] | ["hears" | "heard", "of", ..])
    }),
    ("has gone, goes on: was closed, was dropped, continues", 1, |words| {
        matches!(
            words,
            ["has" | "have" | "had" | "is" | "are", "gone", ..]
                | ["go" | "goes" | "went" | "going", "on", ..]
        )
    }),
    ("is none: there is no …", 0, |words| {
        matches!(words, ["is" | "are" | "was" | "were", "none", ..])
    }),
];

/// The comments of a Rust file, without the code in them.
fn comments(text: &str) -> String {
    let mut in_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
        let comment = comment.trim_start_matches(['/', '!']).trim();
        if comment.starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            prose.push_str(comment);
            prose.push('\n');
        }
    }
    prose
}

/// A Markdown file without its blocks of code and the targets of its links.
fn document(text: &str) -> String {
    let prose: String = text.split("```").step_by(2).collect();
    let lines: Vec<&str> = prose.lines().filter(|line| links::definition(line).is_none()).collect();
    lines.join("\n")
}

/// The words, in lower case; code between backquotes is one word.
fn words(prose: &str) -> Vec<String> {
    let prose: Vec<&str> = prose.split('`').collect();
    let mut words = Vec::new();
    for (number, part) in prose.into_iter().enumerate() {
        if number % 2 == 1 {
            words.push("`".to_owned());
            continue;
        }
        let parts = part.split(|c: char| !c.is_ascii_alphabetic() && c != '\'');
        words.extend(parts.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase));
    }
    words
}

#[test]
fn comments_and_documents_are_in_plain_english() {
    let python = ["python/src", "python/deferred", "python/examples"].into_iter().flat_map(sources);
    let rust = everything().into_iter().chain(python);
    let texts = rust.map(|source| (comments(&source.text), source.path));
    let documents = DOCUMENTS.map(str::to_owned).into_iter().chain(links::guide());
    let documents = documents.map(|path| (document(&read(&path)), path));
    let texts: Vec<_> = texts.chain(documents).collect();
    let (mut all, mut found) = (0, PATTERNS.map(|_| Vec::new()));
    for (prose, path) in &texts {
        let words = words(prose);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        all += words.len();
        for at in 0..words.len() {
            for ((.., is_here), found) in PATTERNS.iter().zip(&mut found) {
                if is_here(&words[at..]) {
                    let around = at.saturating_sub(4)..words.len().min(at + 8);
                    found.push(format!("{path}: {}", words[around].join(" ")));
                }
            }
        }
    }
    for ((what, most, _), found) in PATTERNS.iter().zip(found) {
        if found.len() * 10_000 > most * all {
            assert_none(&found, &format!("{what}; at most {most} in 10 000 words"));
        }
    }
}
