//! Children in their own terminals.

use couplet::process::{ChildFd, WindowSize};

use super::{Command, Nursery, sh};

#[test]
fn c146a_a_child_in_a_terminal_has_one_that_echoes_and_controls_its_session() {
    let mut nursery = Nursery::new();
    let script = "tty -s && echo yes; read line; echo got $line; echo wrong >&2; exit 3";
    let (process, log) = nursery.spawn(sh(script).terminal(WindowSize::default()));
    process.write("rose\n");
    nursery.ended(&log);
    let text = log.text(1).replace('\r', "");
    assert!(text.contains("yes\n") && text.contains("got rose\n"), "{text:?}");
    assert_eq!(text.matches("rose\n").count(), 2, "the echo too: {text:?}");
    assert!(text.contains("wrong\n") && log.text(2).is_empty(), "errors too: {text:?}");
    assert!(log.has("lost 1 Done(Peer)") && log.has("exited 3"), "{:?}", log.entries());
}

#[test]
fn c146a_a_change_of_the_window_size_is_reported_to_the_child() {
    let mut nursery = Nursery::new();
    let script =
        "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done";
    let size = WindowSize { rows: 30, columns: 100 };
    let (process, log) = nursery.ready(sh(script).terminal(size), "ready");
    assert!(log.text(1).contains("30 100"), "{:?}", log.entries());
    process.set_window_size(WindowSize { rows: 40, columns: 120 }).expect("it has a terminal");
    nursery.ended(&log);
    assert!(log.text(1).contains("40 120"), "{:?}", log.entries());
    assert!(process.set_window_size(size).is_err(), "it has gone");
}

#[test]
fn c146a_control_c_is_a_signal_and_a_closed_terminal_hangs_up() {
    let mut nursery = Nursery::new();
    let script = "echo ready; exec sleep 1000";
    for (act, end) in [(true, "exited SIGINT"), (false, "exited SIGHUP")] {
        let (process, log) = nursery.ready(sh(script).terminal(WindowSize::default()), "ready");
        match act {
            true => process.write([3]),
            false => process.lose_connection(),
        }
        nursery.ended_with(&log, end);
    }
}

#[test]
fn c146a_a_lot_of_output_of_a_terminal_arrives_whole() {
    let mut nursery = Nursery::new();
    let command = sh("stty -opost; i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done");
    let log = nursery.run(command.terminal(WindowSize::default()));
    let wanted: String = (0..20_000).map(|i| format!("{i}\n")).collect();
    assert!(log.text(1) == wanted, "{} of {}", log.text(1).len(), wanted.len());
}

#[test]
fn a_child_in_a_terminal_may_have_further_descriptors() {
    let mut nursery = Nursery::new();
    let command = sh("tty -s && echo further >&3; read line <&4; echo $line >&3")
        .descriptor(3, ChildFd::FromChild)
        .descriptor(4, ChildFd::ToChild)
        // These are the terminal's.
        .descriptor(1, ChildFd::Null);
    let (process, log) = nursery.spawn(command.terminal(WindowSize::default()));
    process.write_to_child(4, "rose\n").expect("it has this pipe");
    nursery.ended(&log);
    assert_eq!((log.text(3), log.text(1)), ("further\nrose\n".into(), String::new()));
}

#[test]
fn a_command_shows_as_a_shell_would_read_it() {
    let command = Command::new("/bin/echo").args(["a b", "it's", "", "plain-1.2"]);
    assert_eq!(command.to_string(), "/bin/echo 'a b' 'it'\\''s' '' plain-1.2");
    let command = Command::new("echo").args(["a\nWARN forged", "\x1b[31m", "é"]);
    assert_eq!(command.to_string(), "echo 'a?WARN forged' '?[31m' 'é'", "one line");
}
