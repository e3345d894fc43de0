//! Comments, messages, documents and names of tests are in plain English: phrases that stand where a noun
//! of the field and a verb belong are rare.

use proc_macro2::TokenTree;
use syn::Lit;

use super::source::{Source, assert_none, files, flat, sources};
use super::{contract, links};

/// Words after "what" that make it the subject or the object of a clause.
const CLAUSE: &str = "is was are were be come comes came has had have can could may might must will \
    would should does did do goes went stay stays stood stands remains arrives it they we you he a an \
    the its this that there one each another other others i runs wait waits hold holds give gives get \
    gets follows happens happened belongs leads needs fits fails failed end ends ended lies lay left \
    leaves makes made keep keeps kept take takes took";

/// A rule, the most of its phrases in 100 000 words, and the phrases. A word may have several forms; the
/// forms behind `!` may not precede the phrase.
type Pattern = (&'static str, usize, &'static [&'static str]);

/// At or below the rates of tokio's comments, which have 15 what-clauses and 109 such beginnings.
const PATTERNS: [Pattern; 11] = [
    ("what is, what comes: name the thing", 8, &["what|whatever|What|Whatever CLAUSE"]),
    (
        "somebody, nobody: name the user, the peer, the waiter",
        1,
        &["somebody|nobody|anybody|whoever|Somebody|Nobody|Anybody|Whoever"],
    ),
    ("told, hears of: gets an event, reports", 1, &["told|tells", "hears|heard of"]),
    (
        "has gone, goes on: was closed, was dropped, continues",
        1,
        &["has|have|had|is|are gone", "go|goes|went|going on"],
    ),
    ("is none: there is no …", 0, &["is|are|was|were none"]),
    ("that of, those of: repeat the noun", 1, &["that|those|That|Those of"]),
    ("… alone: only …", 0, &["!is|are|be|leave|leaves|left|it|` alone"]),
    ("of its own: its own …, a separate …", 0, &["!one of its|their|his|your|our own"]),
    ("as it is: unchanged", 1, &["as it|they is|are|was|were"]),
    ("so many: that many, n", 0, &["so|So many"]),
    ("a sentence begins with It, Its, They: name its subject", 30, &["It|Its|They"]),
];

/// Whether a phrase is at the second of these words.
fn is_here(phrase: &str, words: &[&str]) -> bool {
    let has = |forms: &str, word: &str| match forms {
        "CLAUSE" => CLAUSE.split_whitespace().any(|form| form == word),
        _ => forms.split('|').any(|form| form == word),
    };
    let (except, phrase) = match phrase.strip_prefix('!') {
        Some(phrase) => phrase.split_once(' ').expect("a word and a phrase"),
        None => ("", phrase),
    };
    let mut rest = words[1..].iter();
    let follows = |forms: &str| rest.next().is_some_and(|word| has(forms, word));
    phrase.split(' ').all(follows) && !has(except, words[0])
}

/// Parts of the names of tests that say less than a noun and a verb would.
const OLD: &str = "nobody somebody anybody whoever whom told tells hears heard has_gone have_gone is_gone \
    are_gone goes_on go_on is_none are_none that_of those_of of_its_own so_many";

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

/// The texts of at least three words in a file outside its tests: messages and help.
fn messages(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut found = String::new();
    for tokens in flat(code.parse().unwrap_or_default()).windows(3) {
        let [before, _, TokenTree::Literal(literal)] = tokens else { continue };
        // A comment has the form of an attribute.
        let is_comment = matches!(before, TokenTree::Ident(name) if name == "doc");
        if let Lit::Str(text) = Lit::new(literal.clone())
            && !is_comment
            && text.value().split_whitespace().count() >= 3
        {
            found += &format!("{}`.`\n", text.value());
        }
    }
    found
}

/// The docstrings and the comments of a Python file.
fn docstrings(text: &str) -> String {
    let parts = text.split("\"\"\"").enumerate();
    let prose = parts.flat_map(|(number, part)| {
        let whole = move |line| (number % 2 == 1).then_some(line);
        part.lines().filter_map(move |line| line.trim_start().strip_prefix('#').or(whole(line)))
    });
    prose.collect::<Vec<_>>().join("\n")
}

/// A Markdown file without its blocks of code and the targets of its links.
fn document(text: &str) -> String {
    let prose: String = text.split("```").step_by(2).collect();
    let lines: Vec<&str> = prose.lines().filter(|line| links::definition(line).is_none()).collect();
    lines.join("\n")
}

/// The words; code between backquotes is one word.
fn words(prose: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for (number, part) in prose.split('`').enumerate() {
        if number % 2 == 1 {
            words.push("`");
            continue;
        }
        let parts = part.split(|c: char| !c.is_ascii_alphabetic() && c != '\'');
        words.extend(parts.filter(|word| !word.is_empty()));
    }
    words
}

/// Adds the places of each pattern in a text; returns the number of words.
fn find(prose: &str, path: &str, found: &mut [Vec<String>; PATTERNS.len()]) -> usize {
    let words = words(prose);
    for at in 1..words.len() {
        for ((.., phrases), found) in PATTERNS.iter().zip(&mut *found) {
            if phrases.iter().any(|phrase| is_here(phrase, &words[at - 1..])) {
                let around = at.saturating_sub(4)..words.len().min(at + 8);
                found.push(format!("{path}: {}", words[around].join(" ")));
            }
        }
    }
    words.len()
}

#[test]
fn comments_messages_and_documents_are_in_plain_english() {
    let mut prose = Vec::new();
    for Source { path, text } in sources("") {
        if path.contains("/src/") && !path.contains("/tests") && !path.starts_with("laws/") {
            prose.push((messages(&text), path.clone()));
        }
        prose.push((comments(&text), path));
    }
    prose.extend(files("", &[".md"]).into_iter().map(|it| (document(&it.text), it.path)));
    prose.extend(files("", &[".py"]).into_iter().map(|it| (docstrings(&it.text), it.path)));
    let (mut all, mut found) = (0, PATTERNS.map(|_| Vec::new()));
    for (text, path) in &prose {
        all += find(text, path, &mut found);
    }
    for ((rule, most, _), found) in PATTERNS.iter().zip(found) {
        if found.len() * 100_000 > most * all {
            assert_none(&found, &format!("{rule}; at most {most} in 100 000 words"));
        }
    }
}

/// Whether a test's name says less than a noun and a verb would.
fn is_old(name: &str) -> bool {
    let (_, fact) = contract::parts(name);
    let framed = format!("_{fact}_");
    ["who_", "what_", "whatever_"].iter().any(|begins| fact.starts_with(begins))
        || OLD.split_whitespace().any(|part| framed.contains(&format!("_{part}_")))
}

#[test]
fn names_of_tests_are_in_plain_english() {
    let mut broken = Vec::new();
    for Source { path, text } in files("", &[".rs", ".py"]) {
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            let name = line.strip_prefix(if is_test { "fn " } else { "def test_" });
            let name = name.and_then(|rest| rest.split('(').next()).unwrap_or_default();
            if is_old(name) {
                broken.push(format!("{path}: {name}"));
            }
            is_test = line == "#[test]" || (is_test && line.starts_with("#["));
        }
    }
    assert_none(&broken, "name the fact, with a noun as its subject");
}

#[test]
fn each_pattern_and_no_other_is_found_in_its_example() {
    let examples = [
        "the cost of what comes next",
        "a name that nobody knows",
        "a server that hears of a reset",
        "a peer that has gone",
        "the answer is none",
        "the limit is that of the port",
        "the loop alone calls",
        "a thread of its own",
        "passed on as it is",
        "after so many seconds",
        "The port listens. It counts.",
    ];
    for (number, example) in examples.into_iter().enumerate() {
        let mut found = PATTERNS.map(|_| Vec::new());
        find(example, "", &mut found);
        let fires: Vec<usize> = (0..PATTERNS.len()).filter(|n| !found[*n].is_empty()).collect();
        assert_eq!(fires, [number], "{example}");
    }
    let code = "/// It is.\nfn f() { g(\"no one of its own\"); h!(\"two words\") }\n#[cfg(test)]\nmod tests {}";
    assert_eq!((comments(code).trim(), messages(code).trim()), ("It is.", "no one of its own`.`"));
    assert_eq!(docstrings("# a\nx = \"\"\"b\n# c\n\"\"\"\ny"), " a\nb\n c");
    for name in ["c05_what_was_written_arrives", "who_leaves", "a_limit_of_its_own", "a_peer_hears"]
    {
        assert!(is_old(name), "{name}");
    }
    assert!(!is_old("c05_bytes_arrive_whatever_follows"));
}
