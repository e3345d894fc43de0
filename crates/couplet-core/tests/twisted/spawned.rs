//! Programs: Twisted's `spawnProcess` starts one of ours, and `spawn_process` starts one of
//! Twisted's, which uses its `StandardIO`. With pipes, and in a terminal.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use couplet::process::{Command, Process, ProcessEnd, ProcessProtocol, WindowSize};
use couplet::{Loop, Reason};

use crate::peer::{HERE, Peer, has_twisted, python};

/// The path of the example that answers each line of its standard input in capitals.
fn ours() -> PathBuf {
    let test = std::env::current_exe().expect("a test runs from a file");
    let target = test.parent().and_then(|deps| deps.parent()).expect("it is in target/…/deps");
    let program = target.join("examples/stdio");
    assert!(
        program.exists(),
        "`cargo test` builds the examples, `cargo test --test twisted` does not"
    );
    program
}

#[test]
fn twisted_starts_our_program_with_pipes_and_in_a_terminal() {
    if !has_twisted() {
        return;
    }
    let program = ours();
    let program = program.to_str().expect("UTF-8");
    // The long line returns whole; `quit` and the end of the input end the program cleanly.
    let lines = ["answer ROSE IS A ROSE", "answer 3000 capitals"];
    for (over, end) in
        [("pipes", "eof"), ("pipes", "quit"), ("terminal", "eof"), ("terminal", "quit")]
    {
        let peer = Peer::start(&format!("spawn-{end}"), over, program, None);
        let said = peer.said.rest();
        assert_eq!(said[..said.len().min(2)], lines, "{over}, {end}: {said:?}");
        let why = if end == "eof" { "by the peer" } else { "by us" };
        let told = said.iter().any(|line| line.starts_with("error") && line.contains(why));
        assert!(told, "{over}, {end}: {said:?}");
        assert_eq!(said.last().map(String::as_str), Some("ended ProcessDone 0"), "{over}, {end}");
    }
}

/// Sends lines, and closes the program's stdin when all are answered.
struct Asks {
    to_say: Vec<Vec<u8>>,
    expects: Vec<u8>,
    got: Vec<u8>,
    in_terminal: bool,
    log: Rc<RefCell<Vec<String>>>,
}

impl ProcessProtocol for Asks {
    fn connection_made(&mut self, process: &Process) {
        self.to_say.drain(..).for_each(|line| process.write(line));
    }

    fn out_received(&mut self, process: &Process, data: &[u8]) {
        self.got.extend(data.iter().filter(|byte| **byte != b'\r'));
        if self.got.ends_with(&self.expects) {
            self.log.borrow_mut().push("answered".to_owned());
            match self.in_terminal {
                // Ctrl-D.
                true => process.write([4]),
                false => process.close_stdin(),
            }
        }
    }

    fn err_received(&mut self, _: &Process, data: &[u8]) {
        self.log.borrow_mut().push(String::from_utf8_lossy(data).trim().to_owned());
    }

    fn out_connection_lost(&mut self, _: &Process, reason: &Reason) {
        self.log.borrow_mut().push(reason.to_string());
    }

    fn process_ended(&mut self, process: &Process, end: &ProcessEnd) {
        self.log.borrow_mut().push(end.to_string());
        process.reactor().stop();
    }
}

#[test]
fn we_start_a_program_of_twisteds_with_pipes_and_in_a_terminal() {
    if !has_twisted() {
        return;
    }
    let python = python().expect("has_twisted() was checked");
    for in_terminal in [false, true] {
        // A terminal delivers lines of at most 4095 bytes, and echoes its input.
        let (length, count) = if in_terminal { (1000, 20) } else { (16_000, 200) };
        let line = |letter: u8| [&vec![letter; length][..], b"\n"].concat();
        let mut command = Command::new(python);
        command = command.arg(format!("{HERE}/peer.py")).args(["stdio", "program", "0"]);
        if in_terminal {
            command = command.terminal(WindowSize::default());
        }
        let log = Rc::default();
        let asks = Asks {
            to_say: (0..count).map(|_| line(b'p')).chain([b"last\n".to_vec()]).collect(),
            expects: [line(b'P'), b"LAST\n".to_vec()].concat(),
            got: Vec::new(),
            in_terminal,
            log: Rc::clone(&log),
        };
        let run = Loop::new().expect("a loop").run(|reactor| {
            reactor.spawn_process(command, asks)?;
            let late = reactor.clone();
            reactor.call_later(Duration::from_secs(100), move || late.stop());
            Ok(())
        });
        run.expect("a run");
        let end = ["connection closed by the peer", "the process exited cleanly"];
        let said =
            if in_terminal { vec!["answered"] } else { vec!["answered", "lost ConnectionDone"] };
        let log: Vec<String> = log.take();
        let mut expected = [said, end.to_vec()].concat();
        expected.sort_unstable();
        let mut sorted: Vec<&str> = log.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        assert_eq!(sorted, expected, "in a terminal: {in_terminal}");
        assert_eq!(log.last().map(String::as_str), Some("the process exited cleanly"));
    }
}
