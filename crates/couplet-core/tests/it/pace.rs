//! A loop in memory for tests that drive its turns, its clock and its network.

use std::time::Duration;

use couplet::testing::{Manner, Memory, Network, Wire};
use couplet::{Address, IntoFactory, Loop, LoopOptions, Port, Reactor};

use crate::defer_witness::Log;
use crate::suite::kit::LOOPBACK;

pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A loop over the system's driver.
pub(crate) fn real_loop() -> Loop {
    Loop::new().expect("a loop")
}

/// Makes a few turns without advancing the clock.
pub(crate) fn settle(l: &mut Loop) {
    for _ in 0..8 {
        l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    }
}

/// Advances the clock, stopping at each deadline.
pub(crate) fn pass(l: &mut Loop, network: &Network, by: Duration) {
    settle(l);
    let until = network.elapsed() + by;
    while network.elapsed() < until {
        let left = until - network.elapsed();
        l.turn(Some(left)).expect("memory does not fail");
        settle(l);
    }
}

/// A loop in memory, and a log for its test.
pub(crate) struct TestLoop {
    pub(crate) l: Loop,
    pub(crate) network: Network,
    pub(crate) reactor: Reactor,
    pub(crate) log: Log,
}

impl TestLoop {
    pub(crate) fn new(seed: u64) -> TestLoop {
        TestLoop::on(Manner::Readiness, seed)
    }

    pub(crate) fn on(manner: Manner, seed: u64) -> TestLoop {
        let (driver, network) = Memory::new(manner, seed);
        let l = Loop::with_driver(driver, LoopOptions::default());
        TestLoop { reactor: l.reactor(), l, network, log: Log::default() }
    }

    pub(crate) fn turn(&mut self) {
        self.l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    }

    pub(crate) fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// Makes a few turns without advancing the clock.
    pub(crate) fn settle(&mut self) {
        settle(&mut self.l);
    }

    /// Advances the clock, stopping at each deadline.
    pub(crate) fn pass(&mut self, by: Duration) {
        pass(&mut self.l, &self.network, by);
    }

    /// Advances the clock in one step and makes a turn; returns the log so far.
    pub(crate) fn jump(&mut self, by: Duration) -> Vec<String> {
        self.network.advance(by);
        self.turn();
        self.log.lines()
    }

    /// A port at a free address.
    pub(crate) fn listen<K>(&self, factory: impl IntoFactory<K>) -> Port {
        self.reactor.listen(LOOPBACK, factory).expect("a port is free")
    }

    /// A client of a port, once both are connected.
    pub(crate) fn client(&mut self, to: impl Into<Address>) -> Wire {
        self.settle();
        let wire = self.network.connect(to).expect("it listens");
        self.settle();
        wire
    }

    /// Lets a peer act, and makes a few turns.
    pub(crate) fn after<T>(&mut self, act: impl FnOnce() -> T) {
        act();
        self.settle();
    }

    /// A run that is stopped in its first turn.
    pub(crate) fn run(&mut self) {
        let stopping = self.reactor.clone();
        self.reactor.call_soon(move || stopping.stop());
        self.l.run(|_| Ok(())).expect("the run ends");
    }
}
