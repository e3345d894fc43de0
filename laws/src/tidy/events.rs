//! The table of events in the guide is complete and correct: each event of the library has a row
//! with its message, level and fields.

use std::collections::BTreeMap;

use proc_macro2::{Spacing, TokenStream, TokenTree};
use quote::ToTokens;

use super::source::{self, Code, assert_none, attributes, is_for_tests, with_parsed_code};

const TABLE: &str = "docs/guide/log.md";

const CRATES: [&str; 5] =
    ["couplet-command", "couplet-defer", "couplet-core", "couplet-http", "couplet-runner"];

/// The macros of events, and their levels.
const MACROS: [(&str, &str); 6] = [
    ("log_error", "error"),
    ("error", "error"),
    ("log_warn", "warn"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
];

/// An event as its row describes it: the message and the level.
type Name = (String, String);

/// The names of its fields, and its target if it has one, sorted.
type Fields = Vec<String>;

/// The events of a file, each with its place.
fn events_of(file: &Code) -> Vec<(Name, Fields, String)> {
    let mut found = Vec::new();
    let items = file.syntax.items.iter().filter(|item| !is_for_tests(attributes(item)));
    for item in items {
        read(item.to_token_stream(), &mut |line, level, event| {
            let (message, fields) = event_in(event);
            found.push(((message, level), fields, format!("{}:{line}", file.path)));
        });
    }
    found
}

/// Calls `found` with the line, the level and the tokens of each event in these tokens.
fn read(tokens: TokenStream, found: &mut impl FnMut(usize, String, TokenStream)) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        if let [.., TokenTree::Ident(name), TokenTree::Punct(mark)] = &tokens[..at]
            && mark.as_char() == '!'
            && let Some((_, level)) = MACROS.iter().find(|(known, _)| name == known)
            // The macros themselves pass on their parameters.
            && !group.stream().to_string().starts_with('$')
        {
            found(source::line(name.span()), (*level).to_owned(), group.stream());
        }
        read(group.stream(), found);
    }
}

/// The message of an event, and the names of its fields.
fn event_in(event: TokenStream) -> (String, Fields) {
    let (mut message, mut fields) = (String::new(), Vec::new());
    let tokens: Vec<TokenTree> = event.into_iter().collect();
    for part in tokens.split(|token| is(token, ',')) {
        let part = match part {
            [TokenTree::Punct(mark), rest @ ..] if "%?".contains(mark.as_char()) => rest,
            part => part,
        };
        match part {
            [TokenTree::Ident(name), TokenTree::Punct(mark), target]
                if name == "target" && mark.as_char() == ':' =>
            {
                fields.push(text_of(target));
            }
            [TokenTree::Ident(name), rest @ ..]
                if rest.first().is_none_or(|it| is(it, '=') || is(it, '.')) =>
            {
                fields.push(last_name(name, rest));
            }
            // The rest are its arguments.
            [text @ TokenTree::Literal(_)] => {
                message = in_italics(&text_of(text));
                break;
            }
            _ => {}
        }
    }
    fields.sort();
    (message, fields)
}

fn is(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(it) if it.as_char() == mark)
}

/// The name of a field, which may have several parts: `%peer.address`.
fn last_name(first: &proc_macro2::Ident, rest: &[TokenTree]) -> String {
    let names = rest.iter().take_while(|token| match token {
        TokenTree::Punct(mark) => mark.as_char() == '.' && mark.spacing() == Spacing::Alone,
        TokenTree::Ident(_) => true,
        _ => false,
    });
    names.fold(first.to_string(), |name, token| format!("{name}{token}"))
}

fn text_of(token: &TokenTree) -> String {
    syn::parse2::<syn::LitStr>(token.clone().into()).map(|text| text.value()).unwrap_or_default()
}

/// A message as the table shows it: `{failure}` is `*failure*`.
fn in_italics(format: &str) -> String {
    format.replace(['{', '}'], "*")
}

/// The rows of the guide, each with its line.
fn rows(text: &str) -> Vec<(Name, Fields, usize)> {
    let rows = (1..).zip(text.lines()).filter_map(|(number, line)| {
        let cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|');
        let cells: Vec<&str> = cells.map(str::trim).collect();
        let [message, level @ ("error" | "warn" | "info" | "debug"), fields, _meaning] = cells[..]
        else {
            return None;
        };
        let mut fields: Fields = fields.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        fields.sort();
        Some(((message.to_owned(), level.to_owned()), fields, number))
    });
    rows.collect()
}

/// The events that have no row, and the rows that have no event.
fn differences(
    events: Vec<(Name, Fields, String)>,
    rows: Vec<(Name, Fields, usize)>,
) -> Vec<String> {
    let mut listed: BTreeMap<(Name, Fields), usize> = BTreeMap::new();
    let mut broken = Vec::new();
    for (name, fields, number) in rows {
        if let Some(first) = listed.insert((name, fields), number) {
            broken.push(format!("{TABLE}:{number} repeats line {first}"));
        }
    }
    let mut unused = listed.clone();
    for ((message, level), fields, place) in events {
        let row = format!("| {message} | {level} | {} | … |", fields.join(", "));
        let key = ((message, level), fields);
        unused.remove(&key);
        if !listed.contains_key(&key) {
            broken.push(format!("{place} has no row in {TABLE}: {row}"));
        }
    }
    broken.extend(unused.values().map(|number| format!("{TABLE}:{number} has no event")));
    broken
}

#[test]
fn each_event_of_the_library_has_its_row_in_the_guide() {
    with_parsed_code(|| {
        let events: Vec<_> =
            CRATES.into_iter().flat_map(source::library).flat_map(events_of).collect();
        assert!(events.len() > 100, "{} events were found", events.len());
        let broken = differences(events, rows(&source::read(TABLE)));
        assert_none(&broken, "the table has the message, level and fields of each event");
    });
}

#[test]
fn a_difference_between_an_event_and_its_row_is_found() {
    let found = |code: &str, table: &str| {
        let tests = "#[cfg(test)] mod tests { fn g() { info!(\"no\"); } }";
        let file = Code::of("a.rs", &format!("fn f() {{ {code} }} {tests}"));
        differences(events_of(&file), rows(table)).len()
    };
    let event = "match x { y => tracing::warn!(
        target: \"t::u\", peer = %a.b(c, d), ?host, e.f, \"lost: {g}\", g
    ) }";
    let row = "| lost: *g* | warn | `peer`, `host`, `e.f`, `t::u` | Meaning. |";
    assert_eq!(found(event, row), 0);
    let changes =
        [("lost", "gone"), ("warn", "info"), ("`peer`, ", ""), ("`host`", "`to`"), ("t::u", "t")];
    for (from, to) in changes {
        assert_eq!(found(event, &row.replacen(from, to, 1)), 2, "{from}");
    }
    assert_eq!(found(event, ""), 1, "an event without a row");
    assert_eq!(found("", row), 1, "a row without an event");
    assert_eq!(found(event, &format!("{row}\n{row}")), 1, "a row twice");
    assert_eq!(found("x.then(|| log_error!(%error));", "| | error | `error` | Meaning. |"), 0);
}
