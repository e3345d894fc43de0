//! `poetry get` with output streams that are not read, or that fail.

use rustix::process::Signal;

use crate::kit::{Running, Server, TempFile, noise, program, serve_raw, unused_port, wait_until};
use crate::serve::poet;

fn small() -> (TempFile, Server) {
    poet(b"a poem\n", &["--delay", "0"])
}

#[test]
fn a_closed_stdout_is_a_quiet_end() {
    let (_poem, server) = small();
    // A poem without an end; the command does not wait for it.
    let endless = serve_raw(|mut client| drop(client.read_to_end())).to_string();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&["get", &server.address(), &endless]);
    let ended = Running::start_with_stdout(command.stdout(writer)).ended();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.lines().all(|line| line.contains("a poem of 7 bytes")),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_closed_stdout_hides_no_poem_that_is_missing() {
    let (_poem, server) = small();
    let (bad, _guard) = unused_port();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    // The poem is printed only when the outcome of the first address is known.
    let mut command = program(&["get", &bad.to_string(), &server.address()]);
    let ended = Running::start_with_stdout(command.stdout(writer)).ended();
    assert_eq!(ended.code, Some(1));
    let about = |line: &&str| !line.contains("a poem of 7 bytes");
    let others: Vec<&str> = ended.stderr.lines().filter(about).collect();
    assert_eq!(others, [format!("no poem from tcp:{bad}: connection refused")]);
}

#[test]
fn a_full_stdout_is_an_error() {
    let (_poem, server) = small();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = program(&["get", &server.address()]);
    let ended = Running::start_with_stdout(command.stdout(full)).ended();
    assert_eq!(ended.code, Some(1));
    let expected = "poetry: cannot write to stdout: no space left on device\n";
    assert!(ended.stderr.ends_with(expected), "{}", ended.stderr);
}

#[test]
fn help_that_cannot_be_printed_is_an_error() {
    for what in ["--help", "--version"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        Running::start_with_stdout(program(&[what]).stdout(full))
            .ended()
            .says(1, "cannot write to stdout");
    }
}

#[test]
fn a_closed_or_full_stderr_changes_nothing() {
    let (_poem, server) = small();
    let (bad, _guard) = unused_port();
    let (good, bad) = (server.address(), bad.to_string());
    let get = ["get", &good];
    let cases: [(&[&str], i32, &str); 4] = [
        (&get, 0, "a poem\n"),
        (&[&get[..], &[&*bad]].concat(), 1, "a poem\n"),
        (&["get"], 2, ""),
        (&["sim", "war"], 2, ""),
    ];
    for (args, code, text) in cases {
        for full in [true, false] {
            let mut command = program(args);
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
            if full {
                let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
                command.stderr(full);
            } else {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                command.stderr(writer);
            }
            let ended = Running::spawn(&mut command).ended();
            assert_eq!((ended.code, ended.text()), (Some(code), text), "{args:?}");
        }
    }
}

#[test]
fn a_stdout_that_is_not_read_holds_up_neither_the_others_nor_an_interrupt() {
    let bytes = noise(1_000_000);
    let (_poem, server) = poet(&bytes, &["--delay", "0"]);
    let (_reader, writer) = std::io::pipe().unwrap();
    let address = server.address();
    let mut command = program(&["get", &address, &address]);
    let mut running = Running::start_with_stdout(command.stdout(writer));
    let both = || running.told().matches("a poem of 1000000 bytes").count() == 2;
    wait_until("both poems", both);
    assert!(running.is_running(), "a pipe holds less than a poem");
    running.signal(Signal::INT);
    let ended = running.ended();
    assert_eq!(ended.code, Some(130));
}

#[test]
fn plain_lines_show_progress_if_stderr_is_no_terminal() {
    let (_poem, server) = small();
    let ended = crate::kit::run(&["get", &server.address()]);
    assert!(!ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
    let mut lines = ended.stderr.lines();
    let address = server.address();
    assert!(lines.next().unwrap().starts_with(&format!("tcp:{address}: a poem of 7 bytes in ")));
    assert!(lines.next().unwrap().starts_with("1 of 1 poems, 7 bytes in "));
    assert_eq!(lines.next(), None);
}
