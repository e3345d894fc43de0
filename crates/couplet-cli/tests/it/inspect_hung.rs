//! `--inspect` while the program's own output hangs.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::chat::Member;
use crate::kit::{Running, Server, TempFile, couplet, fill, full_pipe, run, wait_until};

/// The socket of an inspector, in a folder of its own.
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

/// The call that holds the loop, once its backtrace has a frame of this name.
fn hung_in(endpoint: &str, name: &str) -> Value {
    let mut doing = Value::Null;
    wait_until("a loop that hangs", || {
        let first = first_loop(endpoint);
        doing = first["doing"].clone();
        let frames = doing["backtrace"].as_array().into_iter().flatten();
        first["state"] == "hung" && frames.filter_map(Value::as_str).any(|it| it.contains(name))
    });
    doing
}

#[test]
fn the_inspector_answers_while_the_log_blocks() {
    let (_file, endpoint) = socket();
    let (mut unread, log) = std::io::pipe().expect("a pipe");
    let mut command = couplet(&["chat", "-vv", "--inspect", &endpoint]);
    command.stderr(log.try_clone().expect("a descriptor"));
    let server = Server::start_with_stderr(command, 1);
    // The greeting follows the line of the log.
    let _first = Member::join(&server);
    fill(&log);
    drop(log);
    let mut second = server.connect();
    let doing = hung_in(&endpoint, "couplet::chat::");
    assert!(doing["what"].as_str().is_some_and(|what| what.contains("ChatServer")), "{doing}");
    // A further reader gets an answer too.
    assert_eq!(first_loop(&endpoint)["state"], "hung");
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        unread.read_to_end(&mut text).expect("a pipe");
        String::from_utf8_lossy(&text).into_owned()
    });
    assert!(second.read_line().contains("You are guest-2."), "the callback has returned");
    assert_ne!(first_loop(&endpoint)["state"], "hung");
    drop(server);
    let text = reading.join().expect("it reads");
    assert_eq!(text.matches(" joined ").count(), 2, "{text}");
    // The address of the inspector was printed, and its connections are not logged.
    assert_eq!(text.matches(&*endpoint).count(), 1, "{text}");
}

#[test]
fn the_inspector_answers_before_its_address_is_printed() {
    let (_file, endpoint) = socket();
    let (_unread, full) = full_pipe();
    let mut command = couplet(&["echo", "--inspect", &endpoint]);
    let path = endpoint.strip_prefix("unix:").expect("a path").to_owned();
    let _running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full));
    wait_until("the socket", || std::path::Path::new(&path).exists());
    let doing = hung_in(&endpoint, "write");
    assert_eq!(doing["what"], "something else than a call into the program");
}

#[test]
fn the_inspector_answers_while_the_start_of_a_server_hangs() {
    let (_file, endpoint) = socket();
    let (mut unread, full) = full_pipe();
    let mut command = couplet(&["echo", "--inspect", &endpoint]);
    // The server can't print its address.
    let running = Running::start_with_stdout(command.stdin(Stdio::null()).stdout(full));
    wait_until("the inspector", || running.told().contains("inspector: "));
    assert_eq!(hung_in(&endpoint, "write")["what"], "setup");
    drop(command);
    let reading = std::thread::spawn(move || std::io::copy(&mut unread, &mut std::io::sink()));
    wait_until("a loop that runs", || first_loop(&endpoint)["state"] == "running");
    drop(running);
    reading.join().expect("it reads").expect("a pipe");
}
