//! The log: its file, and its form.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use super::{FILE, Program, echo, output_of, python};
use crate::kit::{Terminal, couplet, has, wait_until};
use crate::needed::Folder;

const LOGGED: &str = "[runner]\nlog-level = \"info\"\nlog-file = \"log\"\n";

#[test]
fn sighup_opens_the_log_again_and_no_line_is_lost() {
    let folder = Folder::new();
    folder.write("log", "before\n");
    let mut program = Program::start_with(folder, &(echo("a", "0", "") + LOGGED), &[]);
    program.port("a");
    program.wait_read("log", "started");
    assert!(program.read("log").starts_with("before\n"), "it is appended to");
    for number in 1..=20 {
        let old = program.folder.path(&format!("log.{number}"));
        std::fs::rename(program.folder.path("log"), old).unwrap();
        program.signal(Signal::HUP);
        program.wait_read("log", "reloaded: ");
    }
    let folder = program.terminated();
    let files = folder.names();
    let files = files.iter().filter(|name| name.starts_with("log"));
    let text: String =
        files.map(|name| std::fs::read_to_string(folder.path(name)).unwrap()).collect();
    let counts = ["started", "reloaded: ", "stopping"].map(|it| text.matches(it).count());
    assert_eq!(counts, [1, 20, 1], "{text}");
    let last = std::fs::read_to_string(folder.path("log")).unwrap();
    assert!(last.contains("stopping") && !last.contains("started"), "{last}");
}

#[test]
fn a_removed_log_file_is_created_again_at_each_reload() {
    let text = |number: u32| echo("a", "0", &format!("idle-timeout = {number}")) + LOGGED;
    let mut program = Program::start(&text(1));
    program.port("a");
    program.wait_read("log", "started");
    for number in 2..=4 {
        std::fs::remove_file(program.folder.path("log")).unwrap();
        program.reload(&text(number));
        program.wait_read("log", "reloaded: 1 services changed");
        // And without a reload in between: only the file is new.
        std::fs::remove_file(program.folder.path("log")).unwrap();
        program.signal(Signal::HUP);
        program.wait_read("log", "reloaded: 0 services changed");
        assert!(!program.read("log").contains("reloaded: 1"), "{}", program.read("log"));
    }
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_log_file_has_no_colours_even_at_a_terminal() {
    let folder = Folder::new();
    folder.write(FILE, echo("a", "0", "") + LOGGED);
    let mut command = couplet(&["run", FILE]);
    let mut terminal = Terminal::start(80, 24, command.current_dir(&*folder));
    let read = || std::fs::read_to_string(folder.path("log")).unwrap_or_default();
    wait_until("a start", || read().contains("started"));
    terminal.running.signal(Signal::TERM);
    terminal.ended();
    assert!(!read().contains('\u{1b}'), "{}", read());
}

#[test]
fn a_log_at_a_terminal_has_colours_where_they_are_wanted() {
    let folder = Folder::new();
    folder.write(FILE, echo("a", "0", ""));
    for (term, no_color, coloured) in
        [("xterm", "", true), ("xterm", "1", false), ("dumb", "", false)]
    {
        let mut command = couplet(&["run", FILE, "-v"]);
        command.current_dir(&*folder).env("TERM", term).env("NO_COLOR", no_color);
        let mut terminal = Terminal::start(80, 24, &mut command);
        wait_until("a start", || terminal.shown().contains("started"));
        terminal.running.signal(Signal::TERM);
        let ended = terminal.ended();
        assert_eq!(ended.text().contains("\u{1b}[32m"), coloured, "{term}: {}", ended.text());
    }
}

#[test]
fn a_log_that_cannot_be_opened_again_stays_in_use() {
    let mut program = Program::start(&(echo("a", "0", "") + LOGGED));
    program.port("a");
    program.wait_read("log", "started");
    std::fs::rename(program.folder.path("log"), program.folder.path("old")).unwrap();
    std::fs::create_dir(program.folder.path("log")).unwrap();
    program.signal(Signal::HUP);
    program.wait_read("old", "cannot open the log file again");
    program.wait_read("old", "reloaded: ");
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_failure_is_in_the_log_file_and_on_stderr() {
    let folder = Folder::new();
    let text = echo("b", "unix:no/where", "") + LOGGED;
    let ended = super::run_in(&folder, &text, &[]);
    ended.says(1, "couplet: ");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let log = std::fs::read_to_string(folder.path("log")).unwrap();
    assert!(log.contains("ERROR") && log.contains("no/where"), "{log}");
}

/// Reads a log of JSON; prints the message of each line.
const MESSAGES: &str = "
import json, sys
for line in sys.stdin:
    event = json.loads(line)
    assert event['timestamp'] and event['level'] in ('ERROR', 'WARN', 'INFO'), line
    print(event['level'], event['message'])
";

/// The log of an echo server whose reload is refused.
fn json_log() -> String {
    let config = |echo: String| echo + LOGGED + "log = \"json\"\n";
    let mut program = Program::start(&config(echo("a", "0", "")));
    program.port("a");
    program.wait_read("log", "started");
    program.reload(&config(echo("a", "0", "idle-timeout = \"\\\"\\n\"")));
    program.wait_read("log", "cannot reload");
    program.signal(Signal::USR1);
    program.wait_read("log", "connections");
    program.signal(Signal::TERM);
    let (ended, folder) = program.ended();
    ended.quietly(0);
    std::fs::read_to_string(folder.path("log")).unwrap()
}

#[test]
fn each_line_of_a_json_log_is_an_event_and_jq_reads_it_as_the_manual_says() {
    let manual = include_str!("../../../../../docs/guide/log.md");
    let filter = manual.split_once("| jq -r '").and_then(|(_, rest)| rest.split_once('\''));
    let ((filter, _), log) = (filter.expect("an example"), json_log());
    if has("jq") {
        let errors = output_of("jq", &["-r", filter], &log);
        assert!(errors.starts_with("cannot reload: a.toml:4:16: "), "{errors}");
        assert!(!errors.contains("started"), "{errors}");
    }
    if has("python3") {
        let said = python(MESSAGES, &log);
        for line in ["INFO started\n", "ERROR cannot reload: a.toml:4:16: ", "INFO stopping\n"] {
            assert!(said.contains(line), "{said}");
        }
    }
}

/// Reads a log of JSON; prints the target, the reason or the request, and the bytes of each line.
const ACCESS: &str = "
import json, sys
for line in sys.stdin:
    event = json.loads(line)
    assert event['connection'] and event['peer'].startswith('tcp:127.0.0.1:'), line
    assert event['level'] == 'DEBUG' and event['seconds'] >= 0, line
    names = ['origin', 'reason', 'bytes_in', 'bytes_out', 'method', 'path', 'status', 'bytes']
    print(event['message'], *[event[name] for name in names if name in event])
";

/// Runs an echo server `a` and a file server `b`, connects a client to each, and stops.
fn serve_two(keys: &str) -> String {
    let files = "[services.b]\nkind = \"serve\"\nfolder = \".\"\nlisten = \"0\"\n";
    let text = echo("a", "0", "") + files + "[runner]\nlog-file = \"log\"\n" + keys;
    let program = Program::start(&text);
    let mut client = program.connect("a");
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    let (status, _) = super::get(program.port("b"), "/none?token=secret");
    assert_eq!(status, 404);
    let folder = program.terminated();
    std::fs::read_to_string(folder.path("log")).unwrap()
}

#[test]
fn access_lines_are_logged_on_demand() {
    let text = serve_two("log-level = \"couplet::access=debug\"\n");
    let line = |words: &str| text.lines().find(|line| line.contains(words)).unwrap_or_default();
    let echo = line("bytes_in=5 bytes_out=5 ");
    assert!(echo.contains("DEBUG connection ended connection="), "{text}");
    assert!(echo.contains(" origin=\"accepted\" ") && echo.contains(" reason=\"done\""), "{text}");
    assert!(line("request ended").contains(" method=GET path=\"/none\" status=404 "), "{text}");
    assert!(!text.contains("secret") && text.lines().count() == 3, "{text}");
    for keys in ["", "log-level = \"info\"\n", "log-level = \"debug,couplet::access=warn\"\n"] {
        let text = serve_two(keys);
        assert!(!text.contains("connection ended") && !text.contains("request ended"), "{text}");
    }
}

#[test]
fn access_lines_of_a_json_log_have_their_fields() {
    needs!("python3");
    let text = serve_two("log = \"json\"\nlog-level = \"couplet::access=debug\"\n");
    let said = python(ACCESS, &text);
    assert!(said.contains("connection ended accepted done 5 5\n"), "{said}");
    assert!(said.contains("request ended GET /none 404 "), "{said}");
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn the_mask_applies_to_the_log_and_the_other_files() {
    let mode = |program: &Program, name: &str| {
        let file = program.folder.path(name);
        std::fs::metadata(file).unwrap().permissions().mode() & 0o777
    };
    let files = LOGGED.to_owned() + "pid-file = \"pid\"\n";
    for (key, args, wanted) in [
        ("umask = 0o077", &[][..], 0o600),
        ("umask = 0o027", &[], 0o640),
        ("umask = 0o077", &["--umask", "026"], 0o640),
    ] {
        let text = echo("a", "0", "") + &files + key;
        let program = Program::start_with(Folder::new(), &text, args);
        program.port("a");
        assert_eq!(["log", "pid"].map(|name| mode(&program, name)), [wanted; 2], "{key} {args:?}");
        program.stop(Signal::TERM).quietly(0);
    }
}
