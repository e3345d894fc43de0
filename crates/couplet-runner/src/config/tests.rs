//! Configurations: places of errors, suggestions, sections.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::{ConfigError, Section, Source, unknown};

#[derive(Debug, Deserialize, PartialEq)]
struct Config {
    listen: String,
    #[serde(default)]
    limits: BTreeMap<String, Limits>,
    #[serde(default)]
    lists: Vec<Limits>,
    #[serde(default)]
    wrapped: Option<Wrapped>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Wrapped(Limits);

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
struct Limits {
    most_bytes: u64,
}

fn read(text: &str) -> Result<Config, ConfigError> {
    Source::parse("a.toml", text)?.parsed().whole(&["runner"]).read()
}

fn error(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn a_configuration_is_read_without_the_tables_of_others() {
    let config = read("listen = \"tcp:1\"\n[runner]\nany = 1\n[limits.a]\nmost-bytes = 3").unwrap();
    assert_eq!((&*config.listen, config.limits["a"].most_bytes), ("tcp:1", 3));
}

#[test]
fn errors_show_the_place() {
    #[rustfmt::skip]
    let cases = [
        ("lisen = \"tcp:1\"\n", "a.toml:1:1: unknown key lisen; did you mean listen?\n  | lisen = \"tcp:1\"\n  | ^^^^^"),
        ("listen = \"a\"\nrunne = 1", "a.toml:2:1: unknown key runne; did you mean runner?\n  | runne = 1\n  | ^^^^^"),
        (
            "listen = \"a\"\ncolour = 1",
            "a.toml:2:1: unknown key colour; known are listen, limits, lists, wrapped, runner\n  | colour = 1\n  | ^^^^^^",
        ),
        (
            "listen = \"a\"\n[limits.a]\nmost-byte = 1",
            "a.toml:3:1: unknown key most-byte; did you mean most-bytes?\n  | most-byte = 1\n  | ^^^^^^^^^",
        ),
        (
            "listen = \"a\"\nlists = [{ most-bytes = 1 }, { most-bytes = 1, mst-bytes = 2 }]",
            "a.toml:2:48: unknown key mst-bytes; did you mean most-bytes?\n  | lists = [{ most-bytes = 1 }, { most-bytes = 1, mst-bytes = 2 }]\n  |                                                ^^^^^^^^^",
        ),
        (
            "listen = \"a\"\nwrapped = { mst-bytes = 1 }",
            "a.toml:2:13: unknown key mst-bytes; did you mean most-bytes?\n  | wrapped = { mst-bytes = 1 }\n  |             ^^^^^^^^^",
        ),
        ("listen = 5", "a.toml:1:10: invalid type: integer 5, expected a string\n  | listen = 5\n  |          ^"),
        (
            "# größe\nlisten = \"ö\"\n\tlimits.\"ä\" = { most-bytes = -1 }",
            "a.toml:3:30: invalid value: integer -1, expected u64\n  |  limits.\"ä\" = { most-bytes = -1 }\n  |                              ^^",
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(error(text), wanted);
    }
    assert!(error("listen = ").starts_with("a.toml:1:10: "), "{}", error("listen = "));
    assert!(error("listen = ").ends_with("\n  |          ^"), "{}", error("listen = "));
    assert!(error("").contains("missing field listen"), "{}", error(""));
    // No place of the file is at fault.
    for text in ["# words\n", "", "# words\n# more words\n"] {
        assert_eq!(error(text), "a.toml: missing field listen");
    }
    assert!(
        error("a = 1\na = 2").starts_with("a.toml:2:1: duplicate key"),
        "{}",
        error("a = 1\na = 2")
    );
}

#[test]
fn a_name_is_suggested_if_a_third_of_its_letters_differ() {
    for (name, known, wanted) in [
        ("abc", &["abd"][..], "; did you mean abd?"),
        ("abc", &["ade"], "; known are ade"),
        ("abcd", &["abef"], "; did you mean abef?"),
        ("abcd", &["aefg", "hijk"], "; known are aefg, hijk"),
        ("abc", &[], ""),
    ] {
        assert_eq!(unknown("key", name, known), format!("unknown key {name}{wanted}"));
    }
}

#[test]
fn a_section_is_a_table_and_compared_by_its_contents() {
    fn one<R>(text: &str, f: impl FnOnce(&Section<'_>) -> R) -> R {
        let source = Source::parse("a.toml", text).unwrap();
        let parsed = source.parsed();
        f(&parsed.whole(&[]).table("one").unwrap().expect("it exists").without(&["kind"]))
    }
    let contents = |text: &str| one(text, |section| section.contents());
    const FIRST: &str = "[one]\nkind = \"a\"\nmost-bytes = 7\n[two]\nx = 1";
    assert_eq!(one(FIRST, |section| section.read::<Limits>()), Ok(Limits { most_bytes: 7 }));
    one(FIRST, |first| assert_eq!(first.keys().collect::<Vec<_>>(), ["most-bytes"]));
    let first = contents(FIRST);
    assert_eq!(first, contents("two = 5\n# words\none = { most-bytes = 7 }"));
    assert_ne!(first, contents("one = { most-bytes = 8 }"));
    let source = Source::parse("a.toml", "one = 1").unwrap();
    let refused = source.parsed().whole(&[]).table("one").err().expect("no table");
    assert!(refused.to_string().starts_with("a.toml:1:7: one has to be a table"), "{refused}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s)[a-z\\[\\]=\"'. \n{}ö#,]{0,80}") {
        let _ = read(&text).map_err(|error| error.to_string());
    }
}
