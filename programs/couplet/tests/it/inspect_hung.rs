//! `--inspect` while the program's own output is unread.

use std::io::Read;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::kit::{Running, Server, TempFile, couplet, fill, full_pipe, run, wait_until};

/// The socket of an inspector, in a temporary folder.
fn socket() -> (TempFile, String) {
    let file = TempFile::named("inspect", b"");
    let endpoint = format!("unix:{}.sock", file.path());
    (file, endpoint)
}

/// The first loop, from an inspector that must answer.
fn first_loop(endpoint: &str) -> Value {
    let ended = run(&["inspect", endpoint, "--json"]);
    ended.quietly(0);
    let state: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    state["loops"][0].clone()
}

#[test]
fn c179_the_inspector_and_the_loop_answer_while_the_log_is_unread() {
    let (_file, endpoint) = socket();
    let (mut unread, log) = std::io::pipe().expect("a pipe");
    let mut command = couplet(&["echo", "-vv", "--inspect", &endpoint]);
    command.stderr(log.try_clone().expect("a descriptor"));
    let server = Server::start_with_stderr(command, 1);
    let connect = || {
        let mut client = server.connect();
        client.echoes(b"x");
        client
    };
    let first = connect();
    // The line about the first client has left before the pipe is full.
    let mut line = Vec::new();
    while !String::from_utf8_lossy(&line).contains("connection made") {
        let mut byte = [0];
        unread.read_exact(&mut byte).expect("a pipe");
        line.push(byte[0]);
    }
    fill(&log);
    drop(log);
    let second = connect();
    assert_eq!(first_loop(&endpoint)["state"], "running");
    let reading = std::thread::spawn(move || {
        let mut text = line;
        unread.read_to_end(&mut text).expect("a pipe");
        String::from_utf8_lossy(&text).into_owned()
    });
    drop(second);
    drop(first);
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
    let text = reading.join().expect("it reads");
    assert_eq!(text.matches("connection made").count(), 2, "{text}");
    // The address of the inspector was printed, and its connections are not logged.
    assert_eq!(text.matches(&*endpoint).count(), 1, "{text}");
}

#[test]
fn a_server_starts_while_stderr_is_unread() {
    let (_file, endpoint) = socket();
    let (_unread, full) = full_pipe();
    let mut command = couplet(&["echo", "--inspect", &endpoint]);
    let path = endpoint.strip_prefix("unix:").expect("a path").to_owned();
    let _running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full));
    wait_until("the socket", || std::path::Path::new(&path).exists());
    wait_until("a loop that runs", || first_loop(&endpoint)["state"] == "running");
}

#[test]
fn a_server_runs_while_stdout_is_unread() {
    let (_file, endpoint) = socket();
    let (_unread, full) = full_pipe();
    let mut command = couplet(&["echo", "--inspect", &endpoint]);
    let running = Running::start_with_stdout(command.stdin(Stdio::null()).stdout(full));
    wait_until("the inspector", || running.told().contains("inspector: "));
    wait_until("a loop that runs", || first_loop(&endpoint)["state"] == "running");
}
