//! Tests of the testing kit, which tests of protocols rely on.

mod clock;
mod datagrams;
mod memory_reactor;
mod pairs;
mod results;
mod run;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use couplet::{Protocol, Reason, Transport};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The panic message with which `f` fails a test.
fn failing<T>(f: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it did not fail"),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => (*payload.downcast::<&str>().expect("a text payload")).to_owned(),
        },
    }
}

/// Logs its callbacks, and sends a greeting.
#[derive(Clone, Default)]
struct Notes {
    log: Rc<RefCell<Vec<String>>>,
    pieces: Rc<RefCell<Vec<usize>>>,
    greeting: Vec<u8>,
    close: bool,
    /// Keeps the connection open in `read_closed`.
    aware: bool,
}

impl Notes {
    fn note(&self, entry: impl Into<String>) {
        self.log.borrow_mut().push(entry.into());
    }

    fn entries(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    fn take(&self) -> Vec<String> {
        self.log.take()
    }
}

impl Protocol for Notes {
    fn connection_made(&mut self, transport: &Transport) {
        self.note("made");
        transport.write(&self.greeting);
        if self.close {
            transport.lose_connection();
        }
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.pieces.borrow_mut().push(data.len());
        self.note(String::from_utf8_lossy(data));
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.note(format!("lost: {reason}"));
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.note("read_closed");
        if !self.aware {
            transport.lose_connection();
        }
    }

    fn write_closed(&mut self, _: &Transport) {
        self.note("write_closed");
    }

    fn reading_resumed(&mut self, _: &Transport) {
        self.note("resumed");
    }
}

fn saying(greeting: &str) -> Notes {
    Notes { greeting: greeting.into(), ..Notes::default() }
}
