//! Buses that use a NATS server.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{Bus, Event, Message, Pattern, Subscription, nats};
use couplet::{Deferred, Loop, Result};

pub(crate) use crate::process::Server;

impl Server {
    pub(crate) fn options(&self) -> nats::Options {
        let first = Duration::from_millis(20);
        let options = nats::Options::new([self.url()]).expect("it is valid");
        options.back_off(first, first * 5)
    }
}

/// A loop for buses.
pub(crate) struct Client {
    pub(crate) l: Loop,
    log: Rc<RefCell<Vec<String>>>,
}

impl Client {
    pub(crate) fn new() -> Client {
        Client { l: Loop::new().expect("a loop"), log: Rc::default() }
    }

    /// A bus that has connected.
    pub(crate) fn bus(&mut self, options: nats::Options) -> Bus {
        let bus = self.begin(options);
        self.finish(bus.flush()).expect("it logs in");
        bus
    }

    /// A bus that connects.
    pub(crate) fn begin(&mut self, options: nats::Options) -> Bus {
        let bus = Bus::nats(&self.l.reactor(), options);
        let log = self.log.clone();
        bus.on_event(move |event| {
            let line = match event {
                Event::Connected { .. } => "connected".to_owned(),
                Event::Disconnected { why, .. } => format!("disconnected: {why}"),
                Event::AttemptFailed { why, .. } => format!("failed: {why}"),
                Event::Lost { messages } => format!("lost {messages}"),
                Event::ServerError { text } => format!("error: {text}"),
                event => format!("{event:?}"),
            };
            log.borrow_mut().push(line);
        });
        bus
    }

    pub(crate) fn finish<T: 'static>(&mut self, deferred: Deferred<T>) -> Result<T> {
        self.l.run_until(deferred)
    }

    /// Logs the messages of a pattern.
    pub(crate) fn subscribe(&self, bus: &Bus, pattern: impl Into<Pattern>) -> Subscription {
        let log = self.log.clone();
        let receive = move |message: Message| {
            let payload = String::from_utf8_lossy(message.payload());
            log.borrow_mut().push(format!("{} {payload}", message.subject()));
        };
        bus.subscribe(pattern, receive).expect("it is valid")
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.take()
    }

    /// Runs until a line of the log contains these words; returns the log up to it.
    pub(crate) fn until(&mut self, words: &str) -> Vec<String> {
        self.until_all(&[words])
    }

    /// Runs until the log contains each of these.
    pub(crate) fn until_all(&mut self, all: &[&str]) -> Vec<String> {
        let found =
            |log: &[String]| all.iter().all(|words| log.iter().any(|line| line.contains(words)));
        while !found(&self.log.borrow()) {
            let pause = self.l.reactor().sleep(Duration::from_millis(2));
            self.finish(pause).expect("time passes");
        }
        self.log()
    }
}
