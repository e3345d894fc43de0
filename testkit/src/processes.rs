//! Processes that end with their test.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read};
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};

/// A process that is killed on drop.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Killed {
    pub fn start(command: &mut Command) -> Killed {
        Killed(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Deref for Killed {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Killed {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail if the process has ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a pipe. A thread reads them, so that the writer never waits for the test.
pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        // A send fails once the test is over.
        let read = BufReader::new(pipe).lines().map_while(Result::ok);
        read.for_each(|line| drop(sender.send(line)));
    });
    lines
}

/// The log of a process, and the first port in it. The log has to be a pipe.
pub fn lines_and_host(process: &mut Child) -> (impl Iterator<Item = String> + use<>, String) {
    let mut lines = lines(process.stderr.take().expect("a pipe")).into_iter();
    let host = lines.find_map(|line| Some(line.split_once("host=tcp:")?.1.to_owned()));
    (lines, host.expect("a port"))
}

/// A line of a process's status in KiB, such as `RssAnon`, its private memory: written pages, without
/// the program's own file.
pub fn memory(process: impl Display, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let number = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    number.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()).expect("a size")
}
