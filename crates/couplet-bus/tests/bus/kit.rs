//! A loop in memory with a bus, and the server's end of its connection, which the test plays.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{Bus, Event, Memory, Message, Pattern, Subscription, nats, redis};
use couplet::testing::{MemoryReactor, Wire};

pub(crate) const INFO: &str = r#"INFO {"headers":true,"max_payload":1048576}"#;

/// Longer than any delay between two attempts.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A log of lines that closures share.
pub(crate) type Log = Rc<RefCell<Vec<String>>>;

pub(crate) struct Scene {
    pub(crate) memory: MemoryReactor,
    pub(crate) bus: Bus,
    log: Log,
}

impl Scene {
    /// A client of one server, with these settings.
    pub(crate) fn nats(change: impl FnOnce(nats::Options) -> nats::Options) -> Scene {
        let options = nats::Options::new(["a.example"]).expect("it is valid");
        Scene::of(|memory| Bus::nats(&memory.reactor(), change(options)))
    }

    /// A client that has logged in, and the server's end.
    pub(crate) fn open(change: impl FnOnce(nats::Options) -> nats::Options) -> (Scene, Wire) {
        let mut scene = Scene::nats(change);
        let wire = scene.accept();
        assert_eq!(scene.log(), ["connected to a.example:4222"]);
        (scene, wire)
    }

    /// A client of Redis with these settings.
    pub(crate) fn redis(options: redis::Options) -> Scene {
        Scene::of(|memory| Bus::redis(&memory.reactor(), options))
    }

    pub(crate) fn hub(hub: &Memory) -> Scene {
        Scene::of(|memory| Bus::memory(&memory.reactor(), hub))
    }

    fn of(make: impl FnOnce(&MemoryReactor) -> Bus) -> Scene {
        let memory = MemoryReactor::new();
        let bus = make(&memory);
        let log = Log::default();
        let observed = log.clone();
        bus.on_event(move |event| observed.borrow_mut().push(line(event)));
        Scene { memory, bus, log }
    }

    /// Lets everything happen that is due.
    pub(crate) fn settle(&mut self) {
        self.memory.advance(Duration::ZERO);
    }

    /// Takes the lines of the log.
    pub(crate) fn log(&mut self) -> Vec<String> {
        self.settle();
        self.log.take()
    }

    /// Waits for the next attempt. Returns the time in milliseconds.
    pub(crate) fn delay(&mut self) -> u128 {
        let began = self.memory.elapsed();
        while self.memory.connecting().is_empty() {
            self.memory.advance(Duration::from_millis(1));
            assert!(self.memory.elapsed() < began + LONG, "there is no attempt");
        }
        (self.memory.elapsed() - began).as_millis()
    }

    /// Completes the next attempt.
    pub(crate) fn complete(&mut self) -> Wire {
        self.delay();
        let wire = self.memory.connecting().remove(0).complete();
        self.settle();
        wire
    }

    /// Completes the next attempt, and its login.
    pub(crate) fn accept(&mut self) -> Wire {
        let wire = self.complete();
        self.say(&wire, INFO);
        let login = self.take(&wire);
        assert!(login.starts_with("CONNECT {") && login.ends_with("}\r\nPING\r\n"), "{login}");
        self.say(&wire, "PONG");
        wire
    }

    /// Sends a line of the server.
    pub(crate) fn say(&mut self, wire: &Wire, line: &str) {
        let line = format!("{line}\r\n");
        assert_eq!(wire.push(line.as_bytes()), line.len(), "it fits");
        self.settle();
    }

    /// Takes the client's output.
    pub(crate) fn take(&mut self, wire: &Wire) -> String {
        self.settle();
        String::from_utf8(wire.take()).expect("a text")
    }

    /// Takes the client's output until there is no more.
    pub(crate) fn take_all(&mut self, wire: &Wire) -> String {
        let takes = std::iter::repeat_with(|| self.take(wire));
        takes.take_while(|output| !output.is_empty()).collect()
    }

    /// Resets a connection.
    pub(crate) fn reset(&mut self, wire: &Wire) {
        wire.reset();
        self.settle();
    }

    /// Publishes a text to "a".
    pub(crate) fn publish(&self, text: &str) {
        self.bus.publish("a", text.to_owned()).expect("there is room");
    }

    /// Logs the messages of a pattern.
    pub(crate) fn subscribe(&self, pattern: impl Into<Pattern>) -> Subscription {
        let log = self.log.clone();
        let receive = move |message: Message| {
            let payload = String::from_utf8_lossy(message.payload());
            log.borrow_mut().push(format!("{} {payload}", message.subject()));
        };
        self.bus.subscribe(pattern, receive).expect("it is valid")
    }
}

/// An event as a line.
fn line(event: &Event) -> String {
    match event {
        Event::Connected { server } => format!("connected to {server}"),
        Event::Disconnected { why, unconfirmed, .. } => {
            format!("disconnected with {unconfirmed} unconfirmed: {why}")
        }
        Event::AttemptFailed { server, why, .. } => format!("{server} failed: {why}"),
        Event::Lost { messages } => format!("lost {messages}"),
        Event::Missed { subject, messages } => format!("missed {messages} to {subject}"),
        Event::Slow { pattern } => format!("{pattern} is slow"),
        Event::ServerError { text } => format!("error: {text}"),
        Event::Oversized { pattern, size } => format!("{pattern}: {size} bytes"),
        event => format!("{event:?}"),
    }
}
