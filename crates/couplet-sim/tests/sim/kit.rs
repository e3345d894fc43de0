//! Worlds for the tests: two bare hosts with sockets that the test controls.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Fault, Host, Link, Listening, Sim, Socket};
use couplet::{Protocol, Reactor, Reason, Result, Transport};

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two bare hosts; the second listens, the first connects.
pub(crate) struct Two {
    pub(crate) sim: Sim,
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) port: Listening,
}

impl Two {
    /// With a one-way latency of 10 ms.
    pub(crate) fn new() -> Two {
        Two::seeded(1)
    }

    pub(crate) fn seeded(seed: u64) -> Two {
        let mut sim = Sim::new(seed);
        let (a, b) = (sim.bare_host("a"), sim.bare_host("b"));
        sim.set_default_link(Link::constant(ms(10)));
        let port = sim.listen(b, sim.at(b, 80), 50).expect("the port is free");
        Two { sim, a, b, port }
    }

    /// Starts a connect.
    pub(crate) fn connect(&self) -> Socket {
        self.sim.socket(self.a, self.port.address()).expect("a descriptor is free")
    }

    /// Makes a connection and returns a's end and b's end.
    pub(crate) fn joined(&mut self) -> (Socket, Socket) {
        let here = self.connect();
        // SYN, SYN-ACK, ACK.
        self.pass(ms(30));
        let there = self.port.accept().expect("the connect has arrived");
        assert!(here.is_open());
        (here, there)
    }

    /// A fault that begins now.
    pub(crate) fn fault(&mut self, lasts: Duration, fault: Fault) {
        self.sim.fault(self.sim.elapsed(), lasts, fault);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.sim.run_for(time).expect("no invariant is violated");
    }

    /// Lets time pass until `done` returns true, and returns how long that took.
    pub(crate) fn until(&mut self, done: impl Fn() -> bool) -> Duration {
        let before = self.sim.elapsed();
        let was_done = self.sim.run_until(s(4000), |_| done()).expect("no invariant is violated");
        assert!(was_done, "not done after 4000 s");
        self.sim.elapsed() - before
    }
}

/// A world with a server of this program, and a bare host's connection to it, half a second old.
pub(crate) fn served(program: impl Fn(&Reactor) -> Result<()> + 'static) -> (Sim, Host, Socket) {
    let mut sim = Sim::new(1);
    let (server, client) = (sim.host("server", program), sim.bare_host("client"));
    sim.run_for(ms(500)).unwrap();
    let socket = sim.socket(client, sim.at(server, 80)).unwrap();
    sim.run_for(ms(500)).unwrap();
    (sim, server, socket)
}

/// Takes all received bytes.
pub(crate) fn all(socket: &Socket) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match socket.take(usize::MAX) {
            more if more.is_empty() => return bytes,
            more => bytes.extend(more),
        }
    }
}

/// Bytes that encode their position.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(u32::to_le_bytes).take(len).collect()
}

/// A log that programs write to, in order.
#[derive(Clone, Default)]
pub(crate) struct Diary(Rc<RefCell<Vec<String>>>);

impl Diary {
    pub(crate) fn add(&self, text: impl Into<String>) {
        self.0.borrow_mut().push(text.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.0.take()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// Logs its callbacks and the data it receives.
pub(crate) struct Logger(pub(crate) Diary);

impl Protocol for Logger {
    fn connection_made(&mut self, _: &Transport) {
        self.0.add("made");
    }
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.0.add(String::from_utf8_lossy(data));
    }
    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.0.add(match reason {
            Reason::Lost(error) => format!("lost: {:?}", error.kind()),
            reason => format!("lost: {reason:?}"),
        });
    }
}
