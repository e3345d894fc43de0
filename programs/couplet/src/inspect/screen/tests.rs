//! The view without a terminal: messages and keys go in, and the drawn lines are read.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use ratatui::text::{Line, Span};
use serde_json::{Value, json};

use super::acting::{Action, Prompt};
use super::draw::{Palette, draw};
use super::model::{Link, Model, Reply};
use super::pages::wrapped;
use crate::inspect::fields;

const COLOURS: Palette = Palette { has_colours: true };

fn connection(number: usize) -> Value {
    json!({"id": format!("1.{number}.1"), "loop": 0, "protocol": "Chat",
        "peer": format!("tcp:192.0.2.{number}:5"), "host": "tcp:192.0.2.1:80", "layers": ["tls"],
        "state": "open", "why": "waits for the peer, last heard {since:90}",
        "in": 5, "out": 7, "wire_in": 5, "wire_out": 7, "rate_in": 0.0, "rate_out": 0.0,
        "buffered": 100 * number, "received": 90.0, "made": 40.0})
}

fn message(connections: &[Value]) -> Value {
    json!({
        "program": {"name": "chat", "version": "1.0", "pid": 7, "started": 10.0, "now": 100.0},
        "flags": [],
        "loops": [{"name": "loop 0", "thread": "main", "state": "running", "busy": 0.25,
            "turns": 1200.0, "connections": 3, "calls": 1, "tasks": 2, "jobs": 0, "doing": null}],
        "time": [{"loop": 0, "idle": 45.0, "busy": 15.0, "kinds": [
            {"kind": "driver", "name": "reads", "seconds": 3.0, "calls": 0},
            {"kind": "protocol", "name": "Chat", "seconds": 12.0, "calls": 6000, "parts": [
                {"name": "data received", "seconds": 9.0, "calls": 5000}]}],
            "histogram": [{"limit": 0.001, "count": 5990}, {"limit": null, "count": 10}]}],
        "views": {
            "connections": {"rows": connections, "all": true},
            "tasks": {"rows": [{"id": "0.1", "name": "talk", "why": "waits for bytes",
                "waits_for": ["connections/1.3.1"]}], "all": true},
            "jobs": {"rows": [], "all": true},
            "rooms": {"rows": [{"id": "0.lounge", "loop": 0, "room": "lounge", "members": 12}],
                "all": true}
        }
    })
}

/// A view of three connections.
fn model() -> Model {
    let mut model = Model::new();
    model.apply(message(&[connection(1), connection(2), connection(3)]), true);
    model
}

fn buffer(model: &mut Model, columns: u16, rows: u16, palette: Palette) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("it has no I/O");
    terminal.draw(|frame| draw(frame, model, palette)).expect("it has no I/O");
    terminal.backend().buffer().clone()
}

fn lines_of(buffer: &Buffer) -> Vec<String> {
    let columns = usize::from(buffer.area.width);
    let symbols: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    symbols.chunks(columns).map(|line| line.concat().trim_end().to_owned()).collect()
}

fn lines(model: &mut Model) -> Vec<String> {
    lines_of(&buffer(model, 120, 20, COLOURS))
}

fn press(model: &mut Model, keys: &str) -> Reply {
    let keys = keys.chars().map(|key| match key {
        '\n' => KeyCode::Enter,
        '\t' => KeyCode::Tab,
        '\u{1b}' => KeyCode::Esc,
        '\u{8}' => KeyCode::Backspace,
        'D' => KeyCode::Down,
        key => KeyCode::Char(key),
    });
    keys.map(|key| model.press(KeyEvent::from(key))).last().expect("a key")
}

/// The ids of the visible rows.
fn ids(model: &mut Model) -> Vec<String> {
    let lines = lines(model);
    let rows = lines.iter().filter_map(|line| line.get(2..)?.split(' ').next());
    rows.filter(|word| word.starts_with("1.")).map(str::to_owned).collect()
}

#[test]
fn c183a_the_view_has_flags_loops_tabs_and_rows_with_their_reasons() {
    let shown = lines(&mut model());
    let wanted = [
        "chat 1.0  pid 7, up 90.0 s  live",
        "no red flags",
        "loop 0 (main) running, 25 % busy, 1200 turns/s, 3 connections, 1 calls, 2 tasks, 0 jobs",
        " 1 connections 3  2 tasks 1  3 jobs  4 rooms 1  0 time",
        "  ID     PROTOCOL   PEER             STATE     IDLE  WHY",
        "  1.1.1  Chat       tcp:192.0.2.1:5  open    10.0 s  waits for the peer, last heard 10.0 s",
        "  1.2.1  Chat       tcp:192.0.2.2:5  open    10.0 s  waits for the peer, last heard 10.0 s",
        "  1.3.1  Chat       tcp:192.0.2.3:5  open    10.0 s  waits for the peer, last heard 10.0 s",
    ];
    assert_eq!(shown[..8], wanted);
    assert!(shown[19].starts_with("? help  / filter"), "{}", shown[19]);
}

#[test]
fn times_pass_while_the_connection_lives_and_stand_still_otherwise() {
    let mut model = model();
    model.since_message = 2.0;
    assert!(lines(&mut model)[5].ends_with("last heard 12.0 s"));
    model.since_message = 7.0;
    assert!(lines(&mut model)[0].ends_with("no message for 7.0 s"));
    assert_eq!(press(&mut model, "p"), Reply::Pause);
    assert!(lines(&mut model)[0].ends_with("paused"));
    assert!(lines(&mut model)[5].ends_with("last heard 10.0 s"));
    press(&mut model, " ");
    model.link = Link::Lost { reason: "refused".to_owned(), retry_in: 4.0 };
    assert!(lines(&mut model)[0].ends_with("lost: refused; next try in 4 s"));
    assert!(lines(&mut model)[5].ends_with("last heard 10.0 s"));
    model.apply(message(&[]), true);
    assert!(lines(&mut model)[0].ends_with("live"));
}

#[test]
fn s_sorts_by_the_next_column_and_r_reverses() {
    let mut model = model();
    assert_eq!(ids(&mut model), ["1.1.1", "1.2.1", "1.3.1"]);
    press(&mut model, "r");
    assert_eq!(ids(&mut model), ["1.3.1", "1.2.1", "1.1.1"]);
    // id, protocol, peer, state, idle, unsent: the largest number is the first.
    press(&mut model, "ssssss");
    assert!(lines(&mut model)[4].contains("UNSENT↓"));
    assert_eq!(ids(&mut model), ["1.3.1", "1.2.1", "1.1.1"]);
    press(&mut model, "r");
    assert!(lines(&mut model)[4].contains("UNSENT↑"));
    assert_eq!(ids(&mut model), ["1.1.1", "1.2.1", "1.3.1"]);
    press(&mut model, "SSSSSS");
    assert!(!lines(&mut model)[4].contains(['↑', '↓']), "flagged rows first");
}

#[test]
fn numbers_in_texts_are_in_the_order_of_their_values() {
    let mut model = Model::new();
    let numbers = [10, 9, 1, 100];
    model.apply(message(&numbers.map(connection)), true);
    assert_eq!(ids(&mut model), ["1.1.1", "1.9.1", "1.10.1", "1.100.1"]);
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let mut model = model();
    press(&mut model, "/unsent>=200");
    assert_eq!(ids(&mut model), ["1.2.1", "1.3.1"]);
    assert_eq!(lines(&mut model)[19], "filter: unsent>=200  2 of 3");
    press(&mut model, "\n");
    assert!(lines(&mut model)[19].ends_with("filter: unsent>=200  2 of 3"));
    press(&mut model, "/ q");
    assert!(ids(&mut model).is_empty(), "q is a letter of the filter");
    press(&mut model, "\u{1b}");
    assert_eq!(ids(&mut model).len(), 3);
    press(&mut model, "/colour>1");
    assert_eq!(lines(&mut model)[19], "filter: colour>1  (no column \"colour\")");
}

#[test]
fn a_selected_row_is_followed_opened_and_kept_after_its_end() {
    let mut model = model();
    lines(&mut model);
    press(&mut model, "DD");
    model.apply(message(&[connection(2), connection(3)]), false);
    let drawn = buffer(&mut model, 120, 20, COLOURS);
    let is_selected = |y| drawn[(3, y)].modifier.contains(Modifier::REVERSED);
    assert_eq!([is_selected(5), is_selected(6)], [true, false], "1.2.1 is the first now");
    press(&mut model, "\n");
    let shown = lines_of(&buffer(&mut model, 120, 40, COLOURS)).join("\n");
    for text in [
        "connections 1.2.1\nwaits for the peer, last heard 10.0 s\n",
        "\nlayers         tls\n",
        "\nhost           tcp:192.0.2.1:80\n",
        "\nunsent         200 B\n",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    model.apply(message(&[connection(3)]), false);
    let shown = lines(&mut model).join("\n");
    assert!(shown.contains("connections 1.2.1\nended; its last state:\n"), "{shown}");
    press(&mut model, "\u{1b}");
    assert_eq!(ids(&mut model), ["1.3.1"]);
}

#[test]
fn the_details_lead_to_the_row_that_is_waited_for_and_name_its_waiters() {
    let mut model = model();
    press(&mut model, "2\n");
    let shown = lines(&mut model).join("\n");
    let link = "waits for (w)\n  connections/1.3.1  waits for the peer, last heard 10.0 s\n";
    assert!(shown.contains(link), "{shown}");
    press(&mut model, "w");
    let shown = lines(&mut model).join("\n");
    assert!(shown.contains("connections 1.3.1\n"), "{shown}");
    assert!(shown.contains("waiters\n  tasks/0.1  waits for bytes\n"), "{shown}");
}

/// A view of a program that allows actions.
fn allowing() -> Model {
    let mut message = message(&[connection(1), connection(2)]);
    message["program"]["actions"] = true.into();
    message["program"]["sets_log"] = true.into();
    let mut model = Model::new();
    model.apply(message, true);
    model
}

fn action(name: &str, path: &str, text: &str) -> Reply {
    Reply::Act(Action { name: name.to_owned(), path: path.to_owned(), text: text.to_owned() })
}

#[test]
fn a_connection_is_closed_or_reset_after_a_question() {
    let mut model = allowing();
    assert_eq!(press(&mut model, "c"), Reply::Stay);
    assert_eq!(lines(&mut model)[19], "select a connection first");
    lines(&mut model);
    for (key, verb) in [("c", "close"), ("x", "reset")] {
        press(&mut model, "DD");
        assert_eq!(press(&mut model, key), Reply::Stay);
        let question = format!("{verb} connection 1.2.1?  y: yes, any other key: no");
        assert_eq!(lines(&mut model)[19], question);
        assert_eq!(press(&mut model, "q"), Reply::Stay, "no");
        assert!(lines(&mut model)[19].starts_with("? help"));
        press(&mut model, key);
        let wanted =
            action(&format!("{verb} connection 1.2.1"), &format!("connections/1.2.1/{verb}"), "");
        assert_eq!(press(&mut model, "y"), wanted);
    }
    let Reply::Act(reset) = action("reset connection 1.2.1", "connections/1.2.1/reset", "") else {
        unreachable!("it is an action")
    };
    let gone = Err(couplet::Failure::msg("there is no connection\u{1b}"));
    model.prompt = Prompt::outcome(&reset, gone);
    let said = "reset connection 1.2.1: there is no connection\u{fffd}";
    assert_eq!(lines(&mut model)[19], said);
    // The next key is one of the view.
    press(&mut model, "\n");
    assert!(lines(&mut model)[19].starts_with("Esc back"));
}

#[test]
fn reading_is_paused_and_resumed_and_the_events_to_log_are_typed() {
    let mut model = allowing();
    press(&mut model, "D\n");
    let paused = action("pause connection 1.1.1", "connections/1.1.1/pause", "");
    assert_eq!(press(&mut model, "z"), paused);
    let mut row = connection(1);
    row["why"] = "reading paused by the inspector for {since:90}".into();
    model.apply(
        json!({"program": {"actions": true, "sets_log": true}, "views": {"connections":
        {"rows": [row], "gone": []}}}),
        false,
    );
    let resumed = action("resume connection 1.1.1", "connections/1.1.1/resume", "");
    assert_eq!(press(&mut model, "z"), resumed);
    press(&mut model, "lwarnxq");
    press(&mut model, "\u{8}\u{8}");
    assert!(lines(&mut model)[19].ends_with(": warn"), "{}", lines(&mut model)[19]);
    assert_eq!(press(&mut model, "\n"), action("log warn", "log", "warn"));
    press(&mut model, "linfo\u{1b}");
    assert!(lines(&mut model)[19].starts_with("Esc back"), "Esc leaves the log alone");
}

#[test]
fn actions_that_are_not_allowed_say_so() {
    let mut model = model();
    for key in ["c", "x", "z", "l"] {
        press(&mut model, "D");
        assert_eq!(press(&mut model, key), Reply::Stay);
        assert!(lines(&mut model)[19].starts_with("the program does not allow actions: "));
    }
    model.apply(json!({"program": {"actions": true, "sets_log": false}}), false);
    press(&mut model, "l");
    assert_eq!(lines(&mut model)[19], "the program can't set the levels of its log");
}

#[test]
fn the_history_of_a_deferred_is_lines_with_times() {
    let mut model = Model::new();
    let history = json!({"place": "a.rs:1:1", "made": 90.0, "state": "pending", "ended": null,
        "steps": [{"number": 1, "method": "map", "name": "double", "place": "a.rs:2:1",
            "called": null, "state": "next", "ended": null}]});
    model.apply(
        json!({"program": {"now": 100.0}, "views": {"deferreds": {"all": true, "rows":
        [{"id": "0.1", "place": "a.rs:1:1", "callbacks": 1, "history": history}]}}}),
        true,
    );
    press(&mut model, "1\n");
    let shown = lines(&mut model).join("\n");
    let wanted = "\nhistory\n    +0 ms  a Deferred made at a.rs:1:1\n           has not fired\n           \
                  1. map(double) at a.rs:2:1: is next\n";
    assert!(shown.contains(wanted), "{shown}");
}

#[test]
fn flags_come_first_and_name_their_rows() {
    let mut model = Model::new();
    let mut flagged = message(&[connection(1), connection(2)]);
    let flag = |severity: &str, row: &str| {
        json!({"severity": severity, "title": "It waits", "words": "for long", "threshold": "30 s",
            "remedy": "Resume it.", "view": "connections", "row": row})
    };
    flagged["flags"] = json!([flag("red", "1.2.1")]);
    model.apply(flagged.clone(), true);
    let drawn = buffer(&mut model, 120, 20, COLOURS);
    let shown = lines_of(&drawn);
    assert_eq!(shown[1..3], ["RED It waits: for long (30 s)", "    Resume it."]);
    assert_eq!(drawn[(0, 1)].fg, Color::Red);
    assert!(shown[6].starts_with("! 1.2.1") && shown[7].starts_with("  1.1.1"), "{shown:?}");
    assert_eq!(drawn[(2, 6)].fg, Color::Red);
    let plain = buffer(&mut model, 120, 20, Palette { has_colours: false });
    assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert_eq!(lines_of(&plain), shown);
    flagged["flags"] = Value::from(vec![flag("yellow", "1.2.1"); 30]);
    model.apply(flagged, true);
    let shown = lines(&mut model);
    let more = shown.iter().position(|line| line.ends_with(" more: f")).expect("it is cut");
    assert!(more < 10 && shown.iter().any(|line| line.starts_with("loop 0 ")), "{shown:?}");
    assert_eq!(ids(&mut model).len(), 2);
    press(&mut model, "f");
    let all = lines_of(&buffer(&mut model, 120, 100, COLOURS));
    assert_eq!(all.iter().filter(|line| line.starts_with("YELLOW It waits")).count(), 30);
    press(&mut model, "G");
    assert!(lines(&mut model).iter().any(|line| line.starts_with("loop 0 ")));
}

#[test]
fn long_sentences_are_broken_between_words() {
    let line =
        Line::from(vec![Span::raw("    RED it "), Span::raw("waits for long, too_long_a_word")]);
    let broken = wrapped(vec![line, Line::raw("short")], 18);
    let texts: Vec<String> = broken.iter().map(|line| line.to_string()).collect();
    let wanted = ["    RED it waits ", "    for long, ", "    too_long_a_word", "short"];
    assert_eq!(texts, wanted);
    let narrow = wrapped(vec![Line::raw("  a b")], 1);
    assert_eq!(narrow.iter().map(|line| line.to_string()).collect::<String>(), "  a   b");
}

#[test]
fn a_loop_that_hangs_shows_its_backtrace() {
    let mut hung = message(&[]);
    hung["loops"][0]["doing"] = json!({"what": "a callback of Chat", "for": 3.2,
        "backtrace": ["0: chat::a", "1: chat::b", "2: c", "3: d", "4: e"]});
    let mut model = Model::new();
    model.apply(hung, true);
    let shown = lines_of(&buffer(&mut model, 120, 40, COLOURS));
    let wanted = ["    a callback of Chat for 3.2 s", "      0: chat::a", "      1: chat::b"];
    assert_eq!(shown[3..6], wanted);
    assert!(!shown.contains(&"      4: e".to_owned()));
    press(&mut model, "f");
    assert!(lines(&mut model).contains(&"      4: e".to_owned()));
}

#[test]
fn the_time_is_shown_by_protocol_and_driver() {
    let mut model = model();
    press(&mut model, "t");
    let shown = lines(&mut model);
    assert_eq!(shown[4], "busy 15.000 s, 25.0 % of the last minute");
    assert!(shown[6].starts_with(" 80.0 % ########      12.000000"), "{}", shown[6]);
    assert!(shown[6].ends_with("6000     2.000 ms     0  protocol  Chat"), "{}", shown[6]);
    assert!(shown[7].starts_with(" 60.0 % ######         9.000000"), "{}", shown[7]);
    assert!(shown[7].ends_with("   data received"), "{}", shown[7]);
    assert!(shown[8].ends_with("driver    reads"), "{}", shown[8]);
    assert!(shown[11].ends_with("up to 1 ms      5990"), "{}", shown[11]);
}

#[test]
fn views_of_the_program_are_tabs() {
    let mut model = model();
    press(&mut model, "4");
    assert_eq!(lines(&mut model)[4..6], ["  ROOM    MEMBERS   WHY", "  lounge  12"]);
    press(&mut model, "\t\t");
    assert_eq!(model.tab(), "connections");
    press(&mut model, "9");
    assert_eq!(model.tab(), "connections", "it has no ninth view");
}

#[test]
fn q_and_control_c_quit_and_help_explains_the_keys() {
    let mut model = model();
    press(&mut model, "?");
    assert!(lines(&mut model).iter().any(|line| line.starts_with("q, Ctrl-C")));
    assert_eq!(press(&mut model, "q"), Reply::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut model, "x/lounge");
    let both = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::ALT);
    assert_eq!(model.press(both), Reply::Quit, "Esc, which ends the filter, and q");
    assert_eq!(ids(&mut model).len(), 3);
    press(&mut model, "/");
    assert_eq!(model.press(interrupt), Reply::Quit, "also while a filter is typed");
    assert_eq!(press(&mut model, "q"), Reply::Stay);
}

#[test]
fn c183a_only_the_rows_in_sight_are_formatted() {
    let mut model = Model::new();
    let all: Vec<Value> = (0..10_000).map(connection).collect();
    model.apply(message(&all), true);
    for (keys, first) in [("", "1.0.1"), ("G", "1.9986.1")] {
        if !keys.is_empty() {
            press(&mut model, keys);
        }
        fields::FORMATTED.set(0);
        let shown = ids(&mut model);
        assert_eq!((shown.len(), &*shown[0]), (14, first));
        let formatted = fields::FORMATTED.get();
        // The rows in sight, with all their columns.
        assert_eq!(formatted, 14 * 13);
    }
}

#[test]
fn every_size_is_drawn() {
    let mut model = model();
    for keys in ["", "f", "\u{1b}", "?", "x", "\n", "\u{1b}", "/", "\n", "t"] {
        if !keys.is_empty() {
            press(&mut model, keys);
        }
        for (columns, rows) in [(1, 1), (2, 5), (10, 3), (30, 8), (250, 4), (80, 100)] {
            buffer(&mut model, columns, rows, COLOURS);
        }
    }
}

#[test]
fn a_program_with_other_fields_is_shown_as_far_as_it_goes() {
    for strange in [
        json!(null),
        json!([1, 2]),
        json!({"views": {"connections": 7, "tasks": {"rows": [5, {"id": 3}, {"id": "x", "why": 7}]}}}),
        json!({"flags": [7], "loops": ["x"], "time": [{"kinds": 3}], "views": null}),
    ] {
        let mut model = Model::new();
        model.apply(strange, true);
        for keys in ["1", "2", "\n", "\u{1b}", "t", "f", "G"] {
            press(&mut model, keys);
            lines(&mut model);
        }
    }
}
