//! The table of events in the guide is complete and correct: each event of the library has a row
//! with its message, level and fields.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;

use super::source::{Code, LIBRARY, assert_none, code_of, is, is_for_tests, line, read};

const TABLE: &str = "docs/guide/log.md";

/// The crates with events that users see.
const CRATES: [&str; 3] = ["crates/couplet-core/", "crates/couplet-defer/", "crates/couplet-http/"];

/// The macros of events; `log_error!` makes an event of the level `error` too.
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// The events of a file, each with its place.
fn events_of(file: &Code) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for item in file.syntax().items.iter().filter(|item| !is_for_tests(*item)) {
        find(item.to_token_stream(), &file.path, &mut found);
    }
    found
}

fn find(tokens: TokenStream, path: &str, found: &mut Vec<(String, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        if let [.., TokenTree::Ident(name), mark] = &tokens[..at]
            && is(mark, '!')
            && let name_of_level = name.to_string()
            && let level = name_of_level.trim_start_matches("log_")
            && LEVELS.contains(&level)
            // The macros themselves pass on their parameters.
            && !group.stream().to_string().starts_with('$')
        {
            let place = format!("{path}:{}", line(name.span()));
            found.push((event(level, group.stream()), place));
        }
        find(group.stream(), path, found);
    }
}

/// An event as its row describes it: the message, the level, and the names of its fields and its target,
/// sorted.
fn described(message: &str, level: &str, mut fields: Vec<String>) -> String {
    fields.sort();
    format!("{message} | {level} | {}", fields.join(", "))
}

/// The event of this level with these arguments of its macro.
fn event(level: &str, arguments: TokenStream) -> String {
    let (mut message, mut fields) = (String::new(), Vec::new());
    let tokens: Vec<TokenTree> = arguments.into_iter().collect();
    for part in tokens.split(|token| is(token, ',')) {
        // `%peer` is `peer = %peer`.
        let part = match part {
            [mark, rest @ ..] if is(mark, '%') || is(mark, '?') => rest,
            part => part,
        };
        match part {
            [TokenTree::Ident(name), mark, target] if name == "target" && is(mark, ':') => {
                fields.push(text_of(target));
            }
            [TokenTree::Ident(_), ..] => {
                let name = part.iter().take_while(|token| !is(token, '='));
                fields.push(name.map(ToString::to_string).collect());
            }
            // The rest are its arguments; the table has `*failure*` for `{failure}`.
            [text @ TokenTree::Literal(_)] => {
                message = text_of(text).replace(['{', '}'], "*");
                break;
            }
            _ => {}
        }
    }
    described(&message, level, fields)
}

fn text_of(token: &TokenTree) -> String {
    syn::parse2::<syn::LitStr>(token.clone().into()).map(|text| text.value()).unwrap_or_default()
}

/// The event of a row of the guide.
fn row(line: &str) -> Option<String> {
    let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
    let [message, level, fields, _meaning, ""] = cells[..] else { return None };
    let fields = fields.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    LEVELS.contains(&level).then(|| described(message, level, fields))
}

/// The events that have no row, and the rows that have no event, or are there twice.
fn differences(events: &[(String, String)], table: &str) -> Vec<String> {
    let rows: Vec<String> = table.lines().filter_map(row).collect();
    let missing = events.iter().filter(|(event, _)| !rows.contains(event));
    let missing = missing.map(|(event, place)| format!("{place} has no row: {event}"));
    let unused = rows.iter().enumerate().filter(|(at, row)| {
        rows[..*at].contains(row) || !events.iter().any(|(event, _)| event == *row)
    });
    missing.chain(unused.map(|(_, row)| format!("no event, or a second row: {row}"))).collect()
}

#[test]
fn each_event_of_the_library_has_its_row_in_the_guide() {
    let logs = |file: &&Code| LEVELS.iter().any(|it| file.text.contains(&format!("{it}!")));
    let library = LIBRARY.iter().filter(|file| CRATES.iter().any(|of| file.path.starts_with(of)));
    let programs: Vec<Code> =
        ["couplet-command", "couplet-runner"].into_iter().flat_map(code_of).collect();
    let events: Vec<_> = library.chain(&programs).filter(logs).flat_map(events_of).collect();
    assert!(events.len() > 100, "{} events were found", events.len());
    let broken = differences(&events, &read(TABLE));
    assert_none(&broken, &format!("{TABLE} has the message, level and fields of each event"));
}

#[test]
fn a_difference_between_an_event_and_its_row_is_found() {
    let found = |code: &str, table: &str| {
        let tests = "#[cfg(test)] mod tests { fn g() { info!(\"no\"); } }";
        let file = Code::of("a.rs", &format!("fn f() {{ {code} }} {tests}"));
        differences(&events_of(&file), table).len()
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
