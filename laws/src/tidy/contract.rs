//! Each row of docs/contract.md has a test and a source file, and each number there has a row. A test's
//! name begins with the numbers of its rows: `c05_…`, `c75_c76_…`, and in Python `test_c106a_…`. The head
//! of a source file ends with the rows that its code keeps: `Contract: 5–8, 15b.`

use std::collections::{BTreeMap, BTreeSet};

use super::code;
use super::source::{Source, assert_none, files, read};

/// The end of a row that no program can test, with the reason.
const NO_TEST: &str = " (No test: ";

/// The number of each row of a table, and the rest of the row.
pub(super) fn rows(table: &str) -> impl Iterator<Item = (&str, &str)> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    rows.filter(|(number, _)| number.starts_with(|c: char| c.is_ascii_digit()))
}

/// The numbers at the beginning of a test's name, without zeros in front, and the fact after them.
pub(super) fn parts(name: &str) -> (Vec<&str>, &str) {
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
    (numbers, rest)
}

/// The names of the numbered tests in a file.
fn tests<'a>(path: &str, text: &'a str) -> Vec<&'a str> {
    let begins = if path.ends_with(".py") { "def test_" } else { "fn " };
    let functions = code(text).filter_map(|(_, line)| line.split_once(begins));
    // Code in a string is not a test.
    let functions = functions.filter(|(before, _)| !before.contains('"'));
    let names = functions.filter_map(|(_, rest)| rest.split(['(', '<']).next());
    names.filter(|name| !parts(name).0.is_empty()).collect()
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
        for number in parts(name).0 {
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
    let mut found = Vec::new();
    for Source { path, text } in files("", &[".rs", ".py"]) {
        found.extend(tests(&path, &text).into_iter().map(|name| (path.clone(), name.to_owned())));
    }
    let table = read("docs/contract.md");
    assert!(rows(&table).count() > 300, "the table was not found; has its form changed?");
    assert!(found.len() > 1000, "{} tests were found; has their form changed?", found.len());
    let rule = "a test's name begins with the numbers of its rows; a row without one says why";
    assert_none(&broken(&table, &found), rule);
}

/// The paragraph at the end of a file's head that names its rows.
fn named(text: &str) -> Option<String> {
    const MARK: &str = "Contract: ";
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim());
    let paragraph = lines
        .skip_while(|line| !line.starts_with(MARK))
        .take_while(|line| !line.is_empty() && !line.starts_with(['"', '#']));
    let words: Vec<&str> = paragraph.collect();
    Some(words.join(" ").strip_prefix(MARK)?.trim_end_matches('.').to_owned())
}

/// The rows that no file names, and the names without a row. In `A–B` are all rows from A to B.
fn unnamed(table: &str, heads: &[(String, String)]) -> Vec<String> {
    let numbers: Vec<&str> = rows(table).map(|(number, _)| number).collect();
    let mut found = vec![false; numbers.len()];
    let mut broken = Vec::new();
    for (path, head) in heads {
        for part in head.split(", ") {
            let (first, last) = part.split_once('–').unwrap_or((part, part));
            let place = |number| numbers.iter().position(|known| *known == number);
            match (place(first), place(last)) {
                (Some(first), Some(last)) if first <= last => found[first..=last].fill(true),
                _ => broken.push(format!("{path}: there is no row {part}")),
            }
        }
    }
    let left = numbers.iter().zip(found).filter(|(_, found)| !found);
    broken.extend(left.map(|(number, _)| format!("no file keeps row {number}")));
    broken
}

#[test]
fn each_row_of_the_contract_is_named_by_a_file_that_keeps_it() {
    let files = ["crates", "programs", "python", "laws/src"].into_iter();
    let files = files.flat_map(|folder| super::source::files(folder, &[".rs", ".py"]));
    let heads = files.filter_map(|file| named(&file.text).map(|head| (file.path, head)));
    let heads: Vec<_> = heads.collect();
    let rule = "the head of a file ends with the contract's rows that its code keeps";
    assert_none(&unnamed(&read("docs/contract.md"), &heads), rule);
}

#[test]
fn rows_without_a_file_and_names_without_a_row_are_found() {
    let head = "//! A.\n//!\n//! Contract: 5–7b,\n//! 12.\n\nuse a;";
    assert_eq!(named(head).as_deref(), Some("5–7b, 12"));
    assert_eq!(named("\"\"\"A.\n\nContract: 5.\n\"\"\"\n").as_deref(), Some("5"));
    assert_eq!(named("//! A.\n"), None);
    let table = "| 5 | It is. |\n| 6 | It is. |\n| 7b | It was. |\n| 12 | It will be. |";
    let unnamed = |head: &str| unnamed(table, &[("a.rs".to_owned(), head.to_owned())]);
    assert_eq!(unnamed("5–7b, 12"), [""; 0]);
    assert_eq!(unnamed("5, 7b, 12"), ["no file keeps row 6"]);
    assert_eq!(unnamed("5–12, 13"), ["a.rs: there is no row 13"]);
    assert_eq!(unnamed("12–5, 5–12"), ["a.rs: there is no row 12–5"]);
}

#[test]
fn a_row_without_a_test_and_a_test_without_a_row_are_found() {
    let rust = "    fn c05_a() {\nasync fn c7b_c12_b<T>(\n// fn c6_no(\nlet text = \"fn c6_no(\";\nfn connect(\nfn c_x(";
    assert_eq!(tests("a.rs", rust), ["c05_a", "c7b_c12_b"]);
    assert_eq!(tests("a.py", "    def test_c9_a(self):\n    def c8_a(self):"), ["c9_a"]);
    let tests = ["c05_a", "c7b_c12_b"].map(|name| (String::new(), name.to_owned()));
    let table = "| n | behaviour |\n| --- | --- |\n| 5 | It is. |\n| 7b | It was. |\n";
    let broken = |rows: &str| broken(&format!("{table}{rows}"), &tests);
    assert_eq!(broken("| 12 | It will be. |"), [""; 0]);
    assert_eq!(broken("| 12 | It is. |\n| 13 | It is. (No test: why.) |"), [""; 0]);
    assert_eq!(broken(""), [": c7b_c12_b: there is no row 12"]);
    assert_eq!(broken("| 12 | It is. |\n| 13 | It is. |"), ["row 13 has no test"]);
    assert_eq!(broken("| 12 | It is. (No test: why.) |"), ["row 12 has a test after all"]);
    assert_eq!(broken("| 12 | It is. |\n| 5 | It is. |"), ["two rows have the number 5"]);
}
