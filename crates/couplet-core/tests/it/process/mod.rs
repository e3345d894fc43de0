//! Rows 146 to 154: children, on the system's driver.

#![cfg(unix)]

mod endpoints;
mod ends;
mod output;
mod set_up;
mod terminals;
#[cfg(target_os = "linux")]
mod tethered;

use std::time::Duration;

use couplet::Loop;
use couplet::process::{Command, Process};

use couplet_testkit_loops::suite::callbacks::{Log, Logged};

#[cfg(target_os = "linux")]
use crate::apart;

/// A loop and its children.
struct Nursery {
    l: Loop,
}

impl Nursery {
    fn new() -> Nursery {
        Nursery { l: Loop::new().expect("a loop") }
    }

    fn spawn(&self, command: Command) -> (Process, Log) {
        let protocol = Logged::default();
        let log = protocol.log.clone();
        (self.l.reactor().spawn_process(command, protocol).expect("it starts"), log)
    }

    /// Spawns this command, and waits until its output contains a text.
    fn ready(&mut self, command: Command, text: &str) -> (Process, Log) {
        let (process, log) = self.spawn(command);
        self.until(text, || log.text(1).contains(text));
        (process, log)
    }

    /// The numbers of connections, watches and pending calls.
    fn left(l: &mut Loop) -> (usize, usize, usize) {
        let snapshot = l.snapshot();
        (snapshot.connections.len(), snapshot.watches, snapshot.pending_calls)
    }

    fn turn(&mut self) {
        self.l.turn(Some(Duration::ZERO)).expect("a turn");
    }

    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        self.until_loop(what, |_| done());
    }

    fn until_loop(&mut self, what: &str, done: impl FnMut(&mut Loop) -> bool) {
        couplet_testkit_loops::until(&mut self.l, what, done);
    }

    /// Turns until the process has ended, and returns its log.
    fn ended(&mut self, log: &Log) -> Vec<String> {
        self.until("process_ended", || log.has_ended());
        (0..3).for_each(|_| self.turn());
        let entries = log.entries();
        assert!(entries.last().is_some_and(|entry| entry.starts_with("ended")), "{entries:?}");
        entries
    }

    /// Turns until the process has ended, and asserts that its log has this entry.
    #[track_caller]
    fn ended_with(&mut self, log: &Log, entry: &str) {
        let entries = self.ended(log);
        assert!(log.has(entry), "{entries:?}");
    }

    /// Runs this command to its end.
    fn run(&mut self, command: Command) -> Log {
        let (_, log) = self.spawn(command);
        self.ended(&log);
        log
    }
}

/// Runs the test again in a separate process, which ignores SIGHUP and has no descriptors or
/// children of other tests. True inside that process.
#[cfg(target_os = "linux")]
fn is_alone(test: &str) -> bool {
    if apart::told().is_some() {
        return true;
    }
    let mut command =
        apart::again_by(&["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh"], test, "");
    let status = command.args(["--test-threads", "1"]).stdout(std::process::Stdio::null()).status();
    assert!(status.expect("it starts").success(), "{test}, alone");
    false
}

/// Kills a process that a test has left running.
fn kill(pid: &str) {
    let killed = rustix::process::kill_process(pid_of(pid), rustix::process::Signal::KILL);
    killed.expect("it still runs");
}

/// The process whose number a program has printed.
fn pid_of(line: &str) -> rustix::process::Pid {
    let number = line.trim().parse().expect("a number");
    rustix::process::Pid::from_raw(number).expect("not 0")
}

fn sh(script: &str) -> Command {
    Command::new("/bin/sh").args(["-c", script])
}
