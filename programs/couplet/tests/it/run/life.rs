//! Starts that fail, and ends in order.

use std::io::ErrorKind;
use std::net::TcpListener;

use rustix::process::Signal;

use super::{FILE, Program, echo, echoes, folder_with_poem, poet, run_in};
use crate::kit::Client;
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
    for args in [&[][..], &["--threads", "3"]] {
        let ended = run_in(&folder, &text, args);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(ended.text(), "a listening on unix:first\n");
        let wanted =
            format!("couplet: cannot start service b: cannot listen on tcp:{port}: address");
        assert!(ended.stderr.starts_with(&wanted), "{}", ended.stderr);
        assert!(ended.stderr.contains("already in use"), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        // The first service has stopped: its socket is removed, and nothing is locked.
        assert_eq!(folder.names(), [FILE, "pid"]);
    }
    drop(held);
    let program = Program::start_with(folder, &text, &[]);
    for name in ["a", "b", "c"] {
        assert!(program.server.line().starts_with(name));
    }
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_file_that_cannot_be_read_or_made_is_1_with_its_place() {
    let missing = "no such file or directory\n";
    let tls = "tls:0:cert=none.pem:key=none.pem";
    for (listen, key, wanted) in [
        (tls, "", format!("start service a: cannot read none.pem: {missing}    {tls}\n")),
        ("0", "pid-file", format!("write the pid file no/where: {missing}")),
        ("0", "log-file", format!("open the log file no/where: {missing}")),
        ("0", "control", "open the control socket: ".to_owned()),
    ] {
        let keys = if key.is_empty() { String::new() } else { format!("{key} = \"no/where\"") };
        let ended = run_in(&Folder::new(), &echo("a", listen, &format!("[runner]\n{keys}")), &[]);
        let is_right = ended.stderr.starts_with(&format!("couplet: cannot {wanted}"));
        let is_right = is_right && ended.code == Some(1) && ended.text().is_empty();
        assert!(is_right, "{listen} {key}: {wanted:?} for {ended:?}");
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

#[test]
fn a_connection_is_closed_after_the_drain() {
    let text = format!("{}[supervisor]\ndrain = 0.1\n", poet(1000.0, 0.1));
    let mut program = Program::start_with(folder_with_poem(), &text, &[]);
    let mut reader = Client::connect(program.port("poet"));
    reader.read_exact(5);
    program.signal(Signal::TERM);
    assert_eq!(reader.read_to_end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (ended, _) = program.ended();
    ended.quietly(0);
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
