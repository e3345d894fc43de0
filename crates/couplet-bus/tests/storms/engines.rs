//! The servers of a bus, as one value for each kind, so that each test is written once.

use std::time::Duration;

use couplet::Reactor;
use couplet::bus::{Bus, nats};

use crate::process::Server;

/// A kind of bus with servers.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    /// Starts a server; `None` if it is not installed.
    pub(crate) start: fn() -> Option<Server>,
    /// Connects to a server on this port of the loopback interface, with a queue of so many bytes.
    pub(crate) bus: fn(&Reactor, u16, usize) -> Bus,
}

pub(crate) const NATS: Engine = Engine {
    name: "nats",
    start: || Server::start(&[]),
    bus: |reactor, port, queue| {
        let options = nats::Options::new([format!("127.0.0.1:{port}")]).expect("it is valid");
        let first = Duration::from_millis(20);
        Bus::nats(reactor, options.queue(queue).back_off(first, first * 5))
    },
};

impl Engine {
    /// The engine of a node's process.
    pub(crate) fn named(name: &str) -> Engine {
        let engine = [NATS].into_iter().find(|engine| engine.name == name);
        engine.unwrap_or_else(|| panic!("there is no engine {name}"))
    }
}
