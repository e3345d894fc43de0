//! Buses that use a server.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{Bus, Event, Message, Pattern, Subscription, nats, redis};
use couplet::{Deferred, Loop, Result};

pub(crate) use crate::process::Server;

/// The delays of a client's attempts.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

/// The options of clients that soon connect again.
pub(crate) trait Serves {
    fn redis_options(&self) -> redis::Options;
    fn options(&self) -> nats::Options;
}

impl Serves for Server {
    fn redis_options(&self) -> redis::Options {
        let options = redis::Options::new(&self.url()).expect("it is valid");
        options.back_off(BACK_OFF.0, BACK_OFF.1)
    }

    fn options(&self) -> nats::Options {
        let options = nats::Options::new([self.url()]).expect("it is valid");
        options.back_off(BACK_OFF.0, BACK_OFF.1)
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

    /// A bus of Redis that has connected.
    pub(crate) fn redis_bus(&mut self, options: redis::Options) -> Bus {
        let bus = self.observe(Bus::redis(&self.l.reactor(), options));
        self.finish(bus.flush()).expect("it logs in");
        bus
    }

    /// A bus that connects.
    pub(crate) fn begin(&mut self, options: nats::Options) -> Bus {
        self.observe(Bus::nats(&self.l.reactor(), options))
    }

    /// Logs the events of a bus.
    pub(crate) fn observe(&self, bus: Bus) -> Bus {
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
        let log = self.log.clone();
        self.wait(|| found(&log.borrow()));
        self.log()
    }

    /// Runs until the condition holds.
    pub(crate) fn wait(&mut self, is_so: impl Fn() -> bool) {
        while !is_so() {
            let pause = self.l.reactor().sleep(Duration::from_millis(2));
            self.finish(pause).expect("time passes");
        }
    }
}
