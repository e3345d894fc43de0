//! Starts that fail, and ends in order.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::mpsc::channel;

use rustix::process::Signal;

use super::{FILE, POEM, Program, echo, echoes, folder_with_poem, poet, run_in};
use crate::kit::{Client, PATIENCE};
use crate::needed::Folder;

#[test]
fn a_port_in_use_is_1_with_the_service_and_its_endpoint() {
    let held = TcpListener::bind("127.0.72.1:0").unwrap();
    let port = held.local_addr().unwrap();
    let folder = Folder::new();
    let process = "[runner]\ncontrol = \"ctl\"\npid-file = \"pid\"\n";
    let text = [
        &echo("a", "unix:first", ""),
        &echo("b", &port.to_string(), ""),
        &echo("c", "unix:third", ""),
        process,
    ]
    .concat();
    let ended = run_in(&folder, &text, &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(ended.text(), "a listening on unix:first\n");
    let wanted =
        format!("couplet: cannot start service b: cannot listen on tcp:{port}: address already in");
    assert!(ended.stderr.starts_with(&wanted), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    // The first service has stopped: its socket is removed, and nothing is locked.
    assert_eq!(folder.names(), [FILE, "pid"]);
    drop(held);
    let program = Program::start_with(folder, &text, &[]);
    for name in ["a", "b", "c"] {
        assert!(program.server.line().starts_with(name));
    }
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_certificate_that_is_missing_is_1_with_the_service_and_its_endpoint() {
    let endpoint = "tls:0:cert=none.pem:key=none.pem";
    let ended = run_in(&Folder::new(), &echo("secure", endpoint, ""), &[]);
    assert_eq!((ended.code, ended.text()), (Some(1), ""), "{}", ended.stderr);
    let wanted = "couplet: cannot start service secure: cannot read none.pem: no such file or \
                  directory\n    tls:0:cert=none.pem:key=none.pem\n";
    assert!(ended.stderr.starts_with(wanted), "{}", ended.stderr);
}

#[test]
fn a_pid_or_log_or_control_file_that_cannot_be_made_is_1() {
    for (key, wanted) in [
        ("pid-file", "couplet: cannot write the pid file no/where: no such file or directory\n"),
        ("log-file", "couplet: cannot open the log file no/where: no such file or directory\n"),
        ("control", "couplet: cannot open the control socket: "),
    ] {
        let text = echo("a", "0", &format!("[runner]\n{key} = \"no/where\""));
        let ended = run_in(&Folder::new(), &text, &[]);
        assert_eq!((ended.code, ended.text()), (Some(1), ""), "{}", ended.stderr);
        assert!(ended.stderr.starts_with(wanted), "{}", ended.stderr);
    }
}

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let program = Program::start(&echo("a", "0", ""));
        let _open = program.connect("a");
        program.stop(signal).quietly(0);
    }
}

/// A program with a reader of a poem that has begun. The longest drain is 60 seconds.
fn reading(delay: f64, more: &str) -> (Program, Client) {
    let text = format!("{}[supervisor]\ndrain = 60\n{more}", poet(delay, 60.0));
    let program = Program::start_with(folder_with_poem(), &text, &["-v"]);
    let mut reader = Client::connect(program.port("poet"));
    assert_eq!(reader.read_exact(5), &POEM[..5]);
    (program, reader)
}

#[test]
fn a_connection_may_finish_within_the_drain() {
    let (mut program, mut reader) = reading(0.2, "");
    program.signal(Signal::TERM);
    assert_eq!(reader.read_to_end().unwrap(), &POEM[5..]);
    reader.finish();
    assert_eq!(program.ended().0.code, Some(0));
}

#[test]
fn a_connection_is_closed_after_the_drain() {
    let text = format!("{}[supervisor]\ndrain = 0.1\n", poet(30.0, 0.1));
    let mut program = Program::start_with(folder_with_poem(), &text, &[]);
    let mut reader = Client::connect(program.port("poet"));
    reader.read_exact(5);
    program.signal(Signal::TERM);
    assert_eq!(reader.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (ended, _) = program.ended();
    ended.quietly(0);
    assert!(ended.took.as_secs() < 5, "{:?}", ended.took);
}

#[test]
fn connections_are_asked_to_finish_in_groups() {
    let text = echo("a", "0", "[supervisor]\ndrain-groups = 3\ndrain-over = 6\ndrain = 30");
    let mut program = Program::start_with(Folder::new(), &text, &["-v"]);
    let port = program.port("a");
    let mut clients: BTreeMap<usize, Client> =
        (0..6).map(|number| (number, Client::connect(port))).collect();
    clients.values_mut().for_each(echoes);
    let (sender, ends) = channel();
    for (number, client) in &clients {
        let (number, mut reader, sender) = (*number, client.another(), sender.clone());
        std::thread::spawn(move || sender.send((number, reader.read_to_end())));
    }
    program.signal(Signal::TERM);
    // A client gets its echoes until its group is closed.
    let mut had: Vec<u8> = Vec::new();
    while !clients.is_empty() {
        for _ in 0..2 {
            let (number, read) = ends.recv_timeout(PATIENCE).expect("the end of a connection");
            let read = read.expect("no reset");
            assert_eq!(read, had, "{} are left", clients.len());
            clients.remove(&number);
        }
        clients.values_mut().for_each(|client| client.send(b"hello"));
        had.extend(b"hello");
    }
    let (ended, _) = program.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("finished=6 closed=0 aborted=0"), "{}", ended.stderr);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::INT)] {
        let (mut program, _reader) = reading(30.0, "not-ready-for = 60\n");
        program.signal(first);
        program.wait_told("stopping");
        program.signal(second);
        let (ended, _) = program.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.took.as_secs() < 5, "{:?}", ended.took);
    }
}

#[test]
fn several_endpoints_of_a_service_are_ports_of_it() {
    let text = "[services.a]\nkind = \"echo\"\nlisten = [\"0\", \"0\"]\n";
    let program = Program::start(text);
    let ports = [program.port("a"), program.port("a")];
    assert_ne!(ports[0], ports[1]);
    for port in ports {
        echoes(&mut Client::connect(port));
    }
    program.stop(Signal::TERM).quietly(0);
}
