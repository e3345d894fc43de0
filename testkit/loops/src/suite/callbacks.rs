//! A child's protocol that logs its callbacks, and the protocol of a client that asks a program, for
//! the system's processes and for simulated ones.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::process::{Process, ProcessEnd, ProcessProtocol};
use couplet::{Deferred, Protocol, Reason, Resolver, Transport};

/// The callbacks of a child, one entry each.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn push(&self, entry: String) {
        self.0.borrow_mut().push(entry);
    }

    pub fn entries(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    pub fn count(&self, entry: &str) -> usize {
        self.0.borrow().iter().filter(|has| *has == entry).count()
    }

    pub fn has(&self, entry: &str) -> bool {
        self.count(entry) > 0
    }

    pub fn last(&self) -> String {
        self.0.borrow().last().cloned().unwrap_or_default()
    }

    /// All output from this descriptor.
    pub fn text(&self, child_fd: i32) -> String {
        let prefix = format!("{child_fd}: ");
        let entries = self.0.borrow();
        entries.iter().filter_map(|entry| entry.strip_prefix(&prefix)).collect()
    }

    pub fn has_ended(&self) -> bool {
        self.0.borrow().iter().any(|entry| entry.starts_with("ended"))
    }
}

pub fn end_text(end: &ProcessEnd) -> String {
    match end {
        ProcessEnd::Exited(code) => code.to_string(),
        ProcessEnd::Signaled { signal, .. } => signal.to_string(),
        other => format!("{other:?}"),
    }
}

/// Logs its callbacks.
#[derive(Clone, Default)]
pub struct Logged {
    pub log: Log,
    pub panics_in_exited: bool,
}

impl ProcessProtocol for Logged {
    fn connection_made(&mut self, _: &Process) {
        self.log.push("made".to_owned());
    }

    fn child_data_received(&mut self, _: &Process, child_fd: i32, data: &[u8]) {
        self.log.push(format!("{child_fd}: {}", String::from_utf8_lossy(data)));
    }

    fn child_connection_lost(&mut self, _: &Process, child_fd: i32, reason: &Reason) {
        self.log.push(format!("lost {child_fd} {}", super::recorder::text(reason)));
    }

    fn process_exited(&mut self, process: &Process, end: &ProcessEnd) {
        assert_eq!(process.pid(), None, "it may be another's by now");
        self.log.push(format!("exited {}", end_text(end)));
        if self.panics_in_exited {
            panic!("on purpose");
        }
    }

    fn process_ended(&mut self, _: &Process, end: &ProcessEnd) {
        self.log.push(format!("ended {}", end_text(end)));
    }
}

/// Sends `says`, and fires with all bytes received until the end of the stream.
pub struct Asks {
    says: &'static str,
    got: Vec<u8>,
    done: Option<Resolver<Vec<u8>>>,
}

impl Asks {
    pub fn new(says: &'static str) -> (Asks, Deferred<Vec<u8>>) {
        let (answer, done) = Deferred::new();
        (Asks { says, got: Vec::new(), done: Some(done) }, answer)
    }
}

impl Protocol for Asks {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(self.says);
        transport.lose_write_connection();
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.got.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        assert!(reason.is_clean(), "{reason}");
        if let Some(done) = self.done.take() {
            done.callback(std::mem::take(&mut self.got));
        }
    }
}
