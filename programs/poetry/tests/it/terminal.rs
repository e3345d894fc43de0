//! The program's output on a terminal.

use rustix::process::Signal;

use crate::demo;
use crate::kit::{Ended, Terminal, program, serve_raw, wait_until};
use crate::serve::poet;

/// Beginnings of the lines with bars: the titles.
const POEMS: [&str; 3] = ["Ozymandias ", "The Tyger ", "Der Panther "];

#[test]
fn the_demo_draws_a_bar_for_each_poem() {
    let ended = Terminal::start(80, 24, &mut program(&["demo"])).ended();
    assert_eq!(ended.code, Some(0));
    let shown = ended.text();
    for poem in POEMS {
        let drawn = |line: &&str| line.contains(poem) && line.contains('━');
        let lines: Vec<&str> = shown.split(['\r', '\n']).filter(drawn).collect();
        // A busy machine may draw few of its states.
        let (first, last) = (lines[0], lines[lines.len() - 1]);
        assert_ne!(first, last, "the bar of {poem} moves: {shown}");
        assert!(last.contains("100 %") && last.contains(" B  tcp:127.0.0.1:"), "{last}");
        assert!(last.contains(" s"), "{last}");
    }
    assert!(shown.contains("\u{1b}[36m"), "there are colours");
    assert!(shown.contains("together ") && !shown.contains("25 %, "), "{shown}");
    let (_, poems) = shown.rsplit_once('\u{1b}').expect("there are bars");
    assert!(poems.contains("together ") && poems.contains(" Schritte,"), "below the bars: {shown}");
}

/// The demo with this variable, interrupted when it shows a text.
fn interrupted(columns: u16, rows: u16, variable: (&str, &str), text: &str) -> Ended {
    let start = || {
        let mut command = program(&["demo"]);
        Terminal::start(columns, rows, command.env(variable.0, variable.1))
    };
    let shows = |terminal: &Terminal| terminal.shown().contains(text);
    demo::interrupted((Signal::INT, 130), start, |it| &mut it.running, shows, Terminal::ended)
}

#[test]
fn a_narrow_terminal_gets_shorter_lines_and_no_color_none() {
    let ended = interrupted(30, 10, ("NO_COLOR", "1"), "  50 %");
    let shown = ended.text();
    assert!(shown.contains('━') && !shown.contains("tcp:"), "{shown}");
    for code in ["\u{1b}[3", "\u{1b}[2m", "\u{1b}[0m"] {
        assert!(!shown.contains(code), "{shown:?}");
    }
    // The bars stay, and the shell prompt starts on a new line.
    let end = &shown[shown.rfind('%').unwrap()..];
    assert!(!end.contains('\u{1b}') && end.ends_with('\n'), "{end:?}");
}

#[test]
fn a_locale_without_unicode_gets_bars_that_it_can_show() {
    let ended = interrupted(80, 24, ("LC_ALL", "C"), "  50 %");
    assert!(ended.text().is_ascii() && ended.text().contains("####"), "{}", ended.text());
}

#[test]
fn a_terminal_that_cannot_draw_gets_plain_lines() {
    let ended = interrupted(80, 24, ("TERM", "dumb"), "): 50 %, ");
    assert!(!ended.text().contains('\u{1b}'), "{:?}", ended.text());
}

#[test]
fn a_get_shows_progress_and_prints_whole_poems_between_its_lines() {
    let (_poem, server) = poet(b"roses are red\nviolets are blue\n", &["--delay", "0"]);
    let silent = serve_raw(|mut client| {
        client.send(b"half of it");
        drop(client.read_to_end());
    });
    let args = ["get", &server.address(), &silent.to_string()];
    let mut terminal = Terminal::start(80, 24, &mut program(&args));
    let under_way = format!("tcp:{silent}  10 B");
    wait_until("a bar", || terminal.shown().contains(&under_way));
    wait_until("a poem", || terminal.shown().contains("violets are blue"));
    terminal.running.signal(Signal::USR1);
    wait_until("a snapshot", || terminal.shown().contains("0 ports, 1 connectors, 1 conn"));
    terminal.running.signal(Signal::INT);
    let ended = terminal.ended();
    assert_eq!(ended.code, Some(130));
    let shown = ended.text();
    assert!(shown.contains("a poem of 31 bytes"), "{shown}");
    assert!(shown.contains("roses are red\r\nviolets are blue\r\n"), "{shown}");
    assert!(shown.contains("interrupted: 1 of 2 poems"), "{shown}");
}

#[test]
fn more_poems_than_lines_are_no_trouble() {
    let (_poem, server) = poet(b"short\n", &["--delay", "0.05", "--num-bytes", "1"]);
    let address = server.address();
    let args = [&["get"], &[&*address; 60][..]].concat();
    let ended = Terminal::start(60, 8, &mut program(&args)).ended();
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.text().matches("a poem of 6 bytes").count(), 60);
    assert_eq!(ended.text().matches("short\r\n").count(), 60);
    assert!(ended.text().contains("60 of 60 poems, 360 bytes"));
}

#[test]
fn with_a_log_there_are_no_bars_and_colours_only_where_they_are_wanted() {
    for (no_color, coloured) in [("", true), ("1", false)] {
        let mut command = program(&["demo", "-v"]);
        let mut terminal = Terminal::start(80, 24, command.env("NO_COLOR", no_color));
        wait_until("the log", || terminal.shown().contains("): 25 %, "));
        terminal.running.signal(Signal::INT);
        let ended = terminal.ended();
        assert_eq!(ended.text().contains("\u{1b}[32m"), coloured, "{}", ended.text());
        assert!(!ended.text().contains('━'));
    }
}
