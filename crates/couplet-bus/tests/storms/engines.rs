//! The servers of a bus, as one value for each kind, so that each test is written once.

use std::time::Duration;

use couplet::Reactor;
use couplet::bus::{Bus, nats, redis};

use crate::needed::Folder;
use crate::process::Server;

/// A kind of bus with servers.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    /// Whether nodes use a log.
    pub(crate) is_log: bool,
    /// Starts a server, which keeps its data in the folder; `None` if it is not installed.
    pub(crate) start: fn(&Folder) -> Option<Server>,
    /// Connects to a server on this port of the loopback interface, with a queue of this number of
    /// bytes.
    pub(crate) bus: fn(&Reactor, u16, usize) -> Bus,
}

pub(crate) const NATS: Engine = Engine {
    name: "nats",
    is_log: false,
    start: |_| Server::start(&[]),
    bus: |reactor, port, queue| {
        let options = nats::Options::new([format!("127.0.0.1:{port}")]).expect("it is valid");
        Bus::nats(reactor, options.queue(queue).back_off(BACK_OFF.0, BACK_OFF.1))
    },
};

pub(crate) const JETSTREAM: Engine = Engine {
    name: "jetstream",
    is_log: true,
    start: |folder| Server::start(&["-js", "-sd", &folder.path("")]),
    ..NATS
};

pub(crate) const REDIS: Engine = Engine {
    name: "redis",
    is_log: false,
    start: |_| Server::start_redis(&[]),
    bus: |reactor, port, queue| {
        let options = redis::Options::new(&format!("redis://127.0.0.1:{port}"));
        let options = options.expect("it is valid").queue(queue);
        Bus::redis(reactor, options.back_off(BACK_OFF.0, BACK_OFF.1))
    },
};

/// Each write is in the file before its reply.
pub(crate) const REDIS_STREAMS: Engine = Engine {
    name: "redis-streams",
    is_log: true,
    start: |_| Server::start_redis(&["--appendonly", "yes", "--appendfsync", "always"]),
    ..REDIS
};

const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

impl Engine {
    /// The engine of a node's process.
    pub(crate) fn named(name: &str) -> Engine {
        let mut engines = [NATS, JETSTREAM, REDIS, REDIS_STREAMS].into_iter();
        let engine = engines.find(|engine| engine.name == name);
        engine.unwrap_or_else(|| panic!("there is no engine {name}"))
    }
}
