//! The example of part 16 of the Twisted tutorial, as a process: by its file, by its signals and
//! by its errors.
#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use couplet_testkit::needed::{Folder, built};
use couplet_testkit::processes::{Killed, lines_and_host};
use rustix::process::{Pid, Signal, kill_process};

/// The example, which cargo builds with the tests.
fn fastpoetry(arguments: &[&str]) -> Command {
    let mut command = Command::new(built("../examples/fastpoetry"));
    command.args(arguments);
    command
}

#[test]
fn it_serves_its_poem_until_a_signal() {
    let folder = Folder::new();
    let poem = folder.write("a.txt", "Rose is a rose is a rose is a rose.\n");
    let config = format!("listen = \"localhost:0\"\npoem = \"{poem}\"\n");
    let mut command = fastpoetry(&["-v", "--config", &folder.write("a.toml", config)]);
    let mut server = Killed::start(command.stderr(Stdio::piped()));
    let (_lines, host) = lines_and_host(&mut server);
    for _ in 0..3 {
        let mut text = String::new();
        let mut client = TcpStream::connect(&host).expect("it accepts");
        client.read_to_string(&mut text).expect("it sends");
        assert_eq!(text, "Rose is a rose is a rose is a rose.\n");
    }
    kill_process(Pid::from_child(&server), Signal::TERM).expect("it runs");
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_restart_keeps_its_port() {
    let folder = Folder::new();
    let (poem, pids) = (folder.write("c.txt", "Rose is a rose.\n"), folder.path("c.pid"));
    let text = format!(
        "listen = \"localhost:0\"\npoem = \"{poem}\"\n[runner]\npid-file = \"{pids}\"\nlog-level = \"info\"\n"
    );
    let mut command = fastpoetry(&["--config", &folder.write("c.toml", text)]);
    let mut first = Killed::start(command.stderr(Stdio::piped()));
    let (_lines, host) = lines_and_host(&mut first);
    kill_process(Pid::from_child(&first), Signal::USR2).expect("it runs");
    assert_eq!(first.wait().expect("it ends").code(), Some(0));
    let mut text = String::new();
    let mut client = TcpStream::connect(&host).expect("it accepts");
    client.read_to_string(&mut text).expect("it sends");
    assert_eq!(text, "Rose is a rose.\n");
    let second = std::fs::read_to_string(pids).expect("its number");
    let second = second.trim().parse().ok().and_then(Pid::from_raw).expect("a number");
    assert_ne!(second, Pid::from_child(&first));
    kill_process(second, Signal::TERM).expect("it runs");
}

fn ended(text: &str, arguments: &[&str]) -> Output {
    let folder = Folder::new();
    let config = folder.write("b.toml", text);
    fastpoetry(&[&["--config", &config], arguments].concat()).output().expect("it starts")
}

#[test]
fn errors_name_the_place_and_the_reason() {
    for (text, arguments, code, wanted) in [
        ("lisen = \"tcp:0\"", &[][..], 2, "b.toml:1:1: unknown key lisen; did you mean listen?"),
        ("listen = \"tcp:0\"\npoem = \"nope.txt\"", &[], 2, "b.toml: No such file"),
        ("listen = \"tcp:0\"\npoem = \"nope.txt\"", &["--check"], 2, "b.toml: No such file"),
        ("listen = \"tcp:0\"", &["--user", "nobody-at-all"], 2, "missing field poem"),
        ("listen = \"tcp:0\"\npoem = \"/dev/null\"", &["--check"], 0, ""),
        ("listen = \"tcp:0\"\npoem = \"/dev/null\"", &["--nope"], 2, "unexpected argument"),
        (
            "listen = \"tcp:0:interface=192.0.2.1\"\npoem = \"/dev/null\"",
            &[],
            1,
            "fastpoetry: cannot start service fastpoetry: cannot listen on tcp:192.0.2.1:0",
        ),
    ] {
        let output = ended(text, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
}
