//! A new process whose older one is a test: the messages between the two.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use super::restart::services;
use super::{FILE, behind, echo};
use crate::kit::{Ended, PATIENCE, Running, couplet, wait_until};
use crate::needed::Folder;

/// Starts a program that believes itself restarted by this process.
fn start_heir(folder: &Folder) -> (UnixStream, Running) {
    start_heir_with(folder, &services(&[echo("a", "unix:a", "")], ""))
}

fn start_heir_with(folder: &Folder, text: &str) -> (UnixStream, Running) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    folder.write(FILE, text);
    let program = couplet(&["run", FILE]);
    let mut command = behind(&["sh", "-c", "exec 3<&0; exec \"$@\"", "sh"], &program);
    command.stdin(OwnedFd::from(theirs)).current_dir(&**folder);
    command.env("COUPLET_RESTARTED_BY", std::process::id().to_string());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let running = Running::spawn(&mut command);
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    (ours, running)
}

fn send_string(link: &mut UnixStream, string: &str) {
    link.write_all(&(string.len() as u32).to_be_bytes()).unwrap();
    link.write_all(string.as_bytes()).unwrap();
}

/// Reads an answer; `None` at the end of the link.
fn read_string(link: &mut UnixStream) -> Option<String> {
    let mut length = [0; 4];
    link.read_exact(&mut length).ok()?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    link.read_exact(&mut answer).unwrap();
    Some(String::from_utf8(answer).unwrap())
}

/// Sends a new process these strings; returns its answers and its end.
fn as_older_process(strings: &[&str]) -> (Vec<String>, Ended) {
    let folder = Folder::new();
    let (mut ours, running) = start_heir(&folder);
    let mut answers = Vec::new();
    for string in strings {
        send_string(&mut ours, string);
        let Some(answer) = read_string(&mut ours) else { break };
        answers.push(answer);
    }
    drop(ours);
    (answers, running.ended())
}

fn hello(version: u32) -> String {
    let hello = format!("{{\"version\":{version},\"generation\":2}}");
    format!("{{\"descriptors\":0,\"request\":{{\"Hello\":{hello}}}}}")
}

const START: &str = "{\"descriptors\":0,\"request\":\"Start\"}";

#[test]
fn a_new_process_serves_if_the_older_one_dies_while_it_starts() {
    // A link with an answer that was not read ends with a reset.
    for reads_answer in [false, true] {
        let folder = Folder::new();
        let (mut link, mut running) = start_heir(&folder);
        send_string(&mut link, &hello(1));
        if reads_answer {
            assert!(read_string(&mut link).is_some_and(|answer| answer.contains("Done")));
        }
        send_string(&mut link, START);
        drop(link);
        let socket = folder.path("a");
        wait_until("an echo", || {
            let Ok(mut client) = UnixStream::connect(&socket) else { return false };
            client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok()
        });
        running.signal(Signal::TERM);
        running.ended();
        assert!(!Path::new(&socket).exists(), "the file is its own");
    }
}

#[test]
fn an_older_program_of_another_version_is_refused_and_nonsense_harms_nothing() {
    let refused = "the running program hands over by version 99, this one by 1";
    for (strings, wanted) in [
        (vec![hello(99)], refused),
        (vec!["nonsense".to_owned()], "the other process sent an odd message: "),
        (vec![String::new()], "the other process sent an odd message: "),
        (vec![hello(1), "{\"descriptors\":1,\"request\":\"PidFile\"}".to_owned()], "missing"),
        (vec![START.to_owned()], "a message is missing"),
        (vec!["{\"descriptors\":0,\"request\":\"Moved\"}".to_owned()], "came too early"),
    ] {
        let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
        let (answers, ended) = as_older_process(&strings);
        let last = answers.last().expect("an answer");
        assert!(last.contains("Failed") && last.contains(wanted), "{last}");
        // The older process ended before it had sent all its connections.
        assert_eq!(ended.code, Some(1), "{strings:?} {ended:?}");
        assert!(ended.stderr.contains("the older process is lost"), "{}", ended.stderr);
    }
}

#[test]
fn a_new_process_that_cannot_start_says_why_and_ends() {
    let folder = Folder::new();
    let (mut link, running) = start_heir_with(&folder, &echo("a", "unix:a", "colour = 3"));
    send_string(&mut link, &hello(1));
    let answer = read_string(&mut link).expect("an answer");
    assert!(answer.contains("Failed") && answer.contains("unknown key colour"), "{answer}");
    // The link is still open on this side.
    assert_eq!(running.ended().code, Some(2));
    drop(link);
}

#[test]
fn a_new_process_can_forget_connections_until_all_have_moved() {
    let folder = Folder::new();
    let (mut link, mut running) = start_heir(&folder);
    let request = |name: &str| format!("{{\"descriptors\":0,\"request\":\"{name}\"}}");
    for (string, wanted) in [
        (hello(1), "\"Done\""),
        (START.to_owned(), "{\"Serves\":"),
        (hello(1), "{\"Failed\":\"a message came too late"),
        (request("Forget"), "\"Done\""),
        (request("Moved"), "\"Done\""),
        (request("Forget"), "{\"Failed\":\"a message came too late"),
    ] {
        send_string(&mut link, &string);
        let answer = read_string(&mut link).expect("an answer");
        assert!(answer.starts_with(wanted), "{string}: {answer}");
    }
    running.signal(Signal::TERM);
    assert_eq!(running.ended().code, Some(0));
}

#[test]
fn a_long_answer_is_cut() {
    let name = "\u{e9}".repeat(100_000);
    let string = format!("{{\"descriptors\":0,\"request\":\"{name}\"}}");
    let (answers, _) = as_older_process(&[&string]);
    assert!(answers[0].contains("unknown variant"), "{}", &answers[0][..100]);
    let length = answers[0].len();
    assert!((65_000..66_000).contains(&length), "{length}");
}
