//! Health over HTTP.

use std::net::SocketAddr;

use rustix::process::Signal;

use super::{Program, echo, echoes, is_refused};
use crate::kit::{Client, wait_until};
use crate::needed::Folder;

/// The status and the body of an answer.
fn get(port: SocketAddr, path: &str) -> (u16, String) {
    let mut client = Client::connect(port);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.send(request.as_bytes());
    let answer = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The port of the health, from the log.
fn health_port(program: &Program) -> SocketAddr {
    const SAID: &str = "serving the health host=tcp:";
    program.wait_told(SAID);
    let told = program.told();
    let host = told.split(SAID).nth(1).and_then(|rest| rest.split_whitespace().next());
    host.unwrap().parse().unwrap()
}

const LOCAL: &str = "tcp:0:interface=127.0.0.1";

#[test]
fn health_lists_the_services() {
    let services = echo("a", "0", "") + &echo("b", "0", "");
    let file = format!("{services}[runner]\nlog-level = \"info\"\nhealth = \"{LOCAL}\"\n");
    let by_file = Program::start(&file);
    let by_option = Program::start_with(Folder::new(), &services, &["-v", "--health", LOCAL]);
    for program in [by_file, by_option] {
        let health = health_port(&program);
        program.port("a");
        program.port("b");
        program.wait_told("started");
        for path in ["/healthz", "/readyz", "/readyz?verbose"] {
            let (status, text) = get(health, path);
            assert_eq!(status, 200, "{text}");
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 3, "{text}");
            assert!(lines[1].starts_with("a") && lines[2].starts_with("b"), "{text}");
        }
        for path in ["/", "/ready", "/readyz/"] {
            let (status, text) = get(health, path);
            assert_eq!((status, &*text), (404, "there are /healthz and /readyz\n"), "{path}");
        }
        assert_eq!(program.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn a_program_that_leaves_is_not_ready_and_serves() {
    let text = echo("a", "0", "")
        + &format!("[runner]\nhealth = \"{LOCAL}\"\n[supervisor]\nnot-ready-for = 2\n");
    let mut program = Program::start_with(Folder::new(), &text, &["-v"]);
    let health = health_port(&program);
    let port = program.port("a");
    let mut open = Client::connect(port);
    echoes(&mut open);
    program.signal(Signal::TERM);
    wait_until("the program to leave", || get(health, "/readyz").0 == 503);
    assert_eq!(get(health, "/healthz").0, 200);
    echoes(&mut open);
    echoes(&mut Client::connect(port));
    let (ended, _) = program.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.took.as_secs() >= 2, "{:?}", ended.took);
    assert!(open.read_to_end().unwrap().is_empty());
    assert!(is_refused(port) && is_refused(health));
}
