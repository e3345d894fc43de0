//! Foreign processes.

use std::io::{Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use couplet_testkit::processes::Killed;

/// A running program.
pub(crate) struct Program {
    child: Killed,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<u8>>>,
    listeners: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts the program with a pipe as stdin.
    pub(crate) fn start(command: &mut Command) -> Program {
        Program::start_with_stdin(command, Stdio::piped())
    }

    pub(crate) fn start_with_stdin(command: &mut Command, stdin: Stdio) -> Program {
        let command = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Killed::start(command);
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let listeners = vec![
            listen(child.stdout.take().expect("piped"), &said),
            listen(child.stderr.take().expect("piped"), &said),
        ];
        Program { stdin: child.stdin.take(), child, said, listeners }
    }

    /// The output on stdout and stderr so far.
    pub(crate) fn said(&self) -> String {
        self.output()()
    }

    /// A function that returns the output so far, like [`said`](Self::said).
    pub(crate) fn output(&self) -> impl Fn() -> String + 'static {
        let said = self.said.clone();
        move || String::from_utf8_lossy(&said.lock().expect("nobody panics")).into_owned()
    }

    /// Writes to the program's stdin.
    pub(crate) fn tell(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("it reads");
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
    }

    /// Whether the program succeeded, once it has ended and all its output was read.
    pub(crate) fn outcome(&mut self) -> Option<bool> {
        let status = self.child.try_wait().expect("a child of ours")?;
        for listener in self.listeners.drain(..) {
            listener.join().expect("nobody panics");
        }
        Some(status.success())
    }
}

fn listen(mut from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let to = to.clone();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            to.lock().expect("nobody panics").extend_from_slice(&bytes[..n]);
        }
    })
}
