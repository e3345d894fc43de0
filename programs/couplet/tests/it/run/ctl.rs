//! `couplet ctl`: its output and exit codes.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use super::{Program, echo, echoes};
use crate::kit::{Client, Running, couplet, run};
use crate::needed::Folder;

const CONTROL: &str = "[runner]\ncontrol = \"ctl\"\n";

/// A program with an echo server, and a client of it.
fn controlled() -> (Program, Client) {
    let program = Program::start(&(echo("a", "0", "") + CONTROL));
    let client = program.connect("a");
    (program, client)
}

/// Orders of one program: the arguments, the exit code, and the beginnings of stdout and of stderr.
const ORDERS: &[(&[&str], i32, &str, &str)] = &[
    (&["status"], 0, "couplet, generation 1 (process ", ""),
    (&["status", "--json"], 0, "{\"program\":\"couplet\",", ""),
    (&["log", "warn"], 0, "", ""),
    (&["log", "loud"], 1, "", "\"loud\" is not a level"),
    (&["log", "info\nstop"], 1, "", "' ' is not allowed in a filter"),
    (&["log", ""], 1, "", "unknown order \"log\""),
    (&["inspect"], 1, "", "the program has no inspector\n"),
    (&["record", "now.rec"], 1, "", "the program has no inspector: start it"),
    (&["close", "none"], 1, "", "there is no connection none\n"),
    (&["reload"], 0, "0 services changed, 0 added, 0 removed\n", ""),
    (&["drain"], 0, "", ""),
];

#[test]
fn answers_are_printed_and_errors_are_1() {
    let (program, client) = controlled();
    for &(args, code, stdout, stderr) in ORDERS {
        let ended = program.ctl(args);
        let stderr = if code == 0 { String::new() } else { format!("couplet: {stderr}") };
        let is_right = ended.code == Some(code)
            && ended.text().starts_with(stdout)
            && ended.text().is_empty() == stdout.is_empty()
            && ended.stderr.starts_with(&stderr)
            && ended.stderr.is_empty() == stderr.is_empty();
        assert!(is_right, "{args:?}: {code} {stdout:?} {stderr:?} for {ended:?}");
    }
    assert!(!program.folder.join("now.rec").exists());
    drop(client);
    program.ended().0.quietly(0);
}

#[test]
fn close_resets_connections_of_all_loops_whose_end_takes_long() {
    let program = Program::start(&(echo("a", "0", "") + CONTROL + "threads = 3\n"));
    let port = program.port("a");
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(port)).collect();
    clients.iter_mut().for_each(echoes);
    let status = program.ctl(&["status"]);
    for client in &clients {
        let peer = format!(" tcp:{} ", client.address());
        let line = status.text().lines().find(|line| line.contains(&peer)).expect("it is open");
        let id = line.strip_prefix("connection  ").and_then(|rest| rest.split(' ').next());
        program.ctl(&["close", id.expect("an id")]).quietly(0);
    }
    for mut client in clients {
        // An echo server is the producer of its answers, and does not end before its client.
        assert!(client.read_to_end().is_err(), "it is reset");
    }
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn inspect_answers_with_the_url_of_the_inspector() {
    let text = echo("a", "0", "") + CONTROL;
    let program = Program::start_with(Folder::new(), &text, &["--inspect", "0"]);
    let mut client = program.connect("a");
    let ended = program.ctl(&["inspect"]);
    ended.quietly(0);
    program.wait_told(&format!("inspector: {}", ended.text()));
    let shown = run(&["inspect", ended.text().trim_end()]);
    shown.quietly(0);
    assert!(shown.text().contains("connections ("), "{}", shown.text());
    echoes(&mut client);
    drop(client);
    program.stop(Signal::TERM);
}

#[test]
fn a_program_that_does_not_run_is_1() {
    let folder = Folder::new();
    let path = folder.path("none");
    let ended = run(&["ctl", "--control", &path, "status"]);
    assert_eq!(ended.text(), "");
    ended.says(1, &format!("couplet: cannot ask {path}: "));
    assert!(ended.stderr.to_lowercase().contains("no such file"), "{}", ended.stderr);
    assert!(ended.stderr.contains("(the program has ended, or has another"), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn only_the_user_of_the_process_may_use_the_socket() {
    let (program, _client) = controlled();
    let socket = program.folder.path("ctl");
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn c184c_recordings_are_written_by_order_and_at_the_end() {
    let text = echo("a", "0", "") + CONTROL;
    let kept = ["--record", "end.rec", "--inspect-contents", "4"];
    let program = Program::start_with(Folder::new(), &text, &kept);
    let _client = program.connect("a");
    let recorded = program.ctl(&["record", "now.rec"]);
    assert_eq!(recorded.text(), "");
    recorded.says(0, "now.rec: a recording of ");
    program.ctl(&["record", "missing/now.rec"]).says(1, "cannot write missing/now.rec: ");
    let Program { server, folder } = program;
    assert!(!folder.join("end.rec").exists());
    server.stop(Signal::TERM);
    let shown = |file: &str, output: &str| {
        let mut command = couplet(&["inspect", file, output]);
        let shown = Running::start(command.current_dir(&*folder)).ended();
        shown.quietly(0);
        shown.text().to_owned()
    };
    let (now, end) = (shown("./now.rec", "--once"), shown("./end.rec", "--once"));
    assert!(now.contains(" running, ") && now.contains("EchoServer"), "{now}");
    assert!(end.starts_with("a recording of ") && end.contains(" ended, "), "{end}");
    for file in ["./now.rec", "./end.rec"] {
        let lines = shown(file, "--jsonl");
        assert_eq!(lines.matches("\"contents\":\"hell\"").count(), 2, "{lines}");
    }
}
