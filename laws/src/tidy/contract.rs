//! Each row of docs/contract.md has a test, and each test with a number has a row. A test's name begins
//! with the numbers of its rows: `c05_…`, `c75_c76_…`, and in Python `test_c106a_…`.

use std::collections::{BTreeMap, BTreeSet};

use super::code;
use super::links::files;
use super::source::{assert_none, read, root};

/// The end of a row that no program can test, with the reason.
const NO_TEST: &str = " (No test: ";

/// The number and the behaviour of each row.
fn rows(table: &str) -> impl Iterator<Item = (&str, &str)> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    rows.filter(|(number, _)| number.starts_with(|c: char| c.is_ascii_digit()))
}

/// The numbers at the beginning of a test's name, without zeros in front.
fn numbers(name: &str) -> Vec<&str> {
    let mut numbers = Vec::new();
    let mut rest = name;
    while let Some((number, after)) = rest.strip_prefix('c').and_then(|rest| rest.split_once('_')) {
        let digits = number.trim_end_matches(|c: char| c.is_ascii_lowercase());
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        numbers.push(number.trim_start_matches('0'));
        rest = after;
    }
    numbers
}

/// The names of the numbered tests in a file.
fn tests<'a>(path: &str, text: &'a str) -> Vec<&'a str> {
    let begins = if path.ends_with(".py") { "def test_" } else { "fn " };
    let functions = code(text).filter_map(|(_, line)| line.split_once(begins));
    // Code in a string is not a test.
    let functions = functions.filter(|(before, _)| !before.contains('"'));
    let names = functions.filter_map(|(_, rest)| rest.split(['(', '<']).next());
    names.filter(|name| !numbers(name).is_empty()).collect()
}

/// The rows without a test, the tests without a row, and numbers that two rows have.
fn broken(table: &str, tests: &[(String, String)]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut known = BTreeMap::new();
    for (number, behaviour) in rows(table) {
        if known.insert(number, behaviour).is_some() {
            broken.push(format!("two rows have the number {number}"));
        }
    }
    let mut tested = BTreeSet::new();
    for (path, name) in tests {
        for number in numbers(name) {
            tested.insert(number);
            if !known.contains_key(number) {
                broken.push(format!("{path}: {name}: there is no row {number}"));
            }
        }
    }
    for (number, behaviour) in known {
        match (behaviour.contains(NO_TEST), tested.contains(number)) {
            (false, false) => broken.push(format!("row {number} has no test")),
            (true, true) => broken.push(format!("row {number} has a test after all")),
            _ => {}
        }
    }
    broken
}

#[test]
fn each_row_of_the_contract_has_a_test_and_each_numbered_test_a_row() {
    let mut paths = Vec::new();
    files(&root(), &[".rs", ".py"], &mut paths);
    let mut found = Vec::new();
    for path in paths {
        let text = read(&path);
        found.extend(tests(&path, &text).into_iter().map(|name| (path.clone(), name.to_owned())));
    }
    let table = read("docs/contract.md");
    assert!(rows(&table).count() > 300, "the table was not found; has its form changed?");
    assert!(found.len() > 1000, "{} tests were found; has their form changed?", found.len());
    let rule = "a test's name begins with the numbers of its rows; a row without one says why";
    assert_none(&broken(&table, &found), rule);
}

#[test]
fn a_row_without_a_test_and_a_test_without_a_row_are_found() {
    let rust = "    fn c05_a() {\nasync fn c7b_c12_b<T>(\n// fn c6_no(\nlet text = \"fn c6_no(\";\nfn connect(\nfn c_x(";
    assert_eq!(tests("a.rs", rust), ["c05_a", "c7b_c12_b"]);
    assert_eq!(tests("a.py", "    def test_c9_a(self):\n    def c8_a(self):"), ["c9_a"]);
    let tests: Vec<(String, String)> =
        ["c05_a", "c7b_c12_b"].map(|name| (String::new(), name.to_owned())).into();
    let table = |rows: &str| format!("| n | behaviour |\n| --- | --- |\n| 5 | It is. |\n{rows}");
    let whole = "| 7b | It was. |\n| 12 | It will be. |";
    assert_eq!(broken(&table(whole), &tests), [""; 0]);
    for (rows, complaint) in [
        ("| 7b | It was. |", ": c7b_c12_b: there is no row 12"),
        ("| 7b | It was. |\n| 12 | It is. |\n| 13 | It is. |", "row 13 has no test"),
        ("| 7b | It was. |\n| 12 | It is. (No test: why.) |", "row 12 has a test after all"),
        ("| 7b | It was. |\n| 12 | It is. |\n| 5 | It is. |", "two rows have the number 5"),
    ] {
        assert_eq!(broken(&table(rows), &tests), [complaint]);
    }
    let silent = format!("{}\n| 13 | It is. (No test: why.) |", table(whole));
    assert_eq!(broken(&silent, &tests), [""; 0]);
}
