//! [`hold`]: one protocol, on a connection whose far end the test holds.

use std::time::Duration;

use super::pair::{advance, capture, fail_with_panics, settle, until_made, with};
use super::{Manner, Memory, Network, Wire};
use crate::protocol::Protocol;
use crate::reactor::{Loop, LoopOptions, Reactor};
use crate::transport::{Connection, Transport};

/// One protocol whose far end is in the test's hand. Made by [`hold`].
pub struct Held<P> {
    /// The far end.
    pub wire: Wire,
    /// The protocol's end.
    pub connection: Connection<P>,
    l: Loop,
    network: Network,
}

impl<P> std::fmt::Debug for Held<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// Puts `protocol` on a connection and gives the far end to the test.
///
/// ```
/// use couplet::testing::hold;
/// use couplet::{Protocol, Transport};
///
/// struct Shout;
/// impl Protocol for Shout {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data.to_ascii_uppercase());
///     }
/// }
///
/// let mut held = hold(Shout);
/// held.push(b"hello");
/// assert_eq!(held.wire.take(), b"HELLO");
/// held.wire.fin();
/// held.settle();
/// assert!(held.wire.saw_fin());
/// ```
pub fn hold<P: Protocol>(protocol: P) -> Held<P> {
    hold_on(Manner::Readiness, 0, protocol)
}

/// [`hold`] in a manner of the driver, from a seed.
pub fn hold_on<P: Protocol>(manner: Manner, seed: u64, protocol: P) -> Held<P> {
    let (driver, network) = Memory::new(manner, seed);
    let mut l = Loop::with_driver(Box::new(driver), LoopOptions::default());
    let port = network.listen(([127, 0, 0, 1], 0).into(), 1).expect("a port in memory is free");
    let (client, made) = capture(protocol);
    l.reactor().connect_tcp("127.0.0.1", port.port(), client);
    let connection = until_made(&mut l, &made);
    let wire = network.accept(port).expect("it was made");
    let mut held = Held { wire, connection, l, network };
    held.settle();
    held
}

impl<P: Protocol> Held<P> {
    /// Pushes bytes in, all of them, and settles after each part that fits.
    pub fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let n = self.wire.push(data);
            self.settle();
            assert!(n > 0, "the protocol has paused its reading, and the way to it is full");
            data = &data[n..];
        }
    }

    /// Turns until nothing more happens by itself; time stands still.
    ///
    /// # Panics
    ///
    /// After that, when a timed call panicked.
    pub fn settle(&mut self) {
        settle(&mut self.l, &self.network);
        fail_with_panics(&mut self.l);
    }

    /// Lets time pass, timers and all, and then settles. The clock stops at each deadline on the
    /// way, and what is due then runs. Twisted's `Clock.advance`.
    ///
    /// # Panics
    ///
    /// After that, when a timed call panicked.
    pub fn advance(&mut self, by: Duration) {
        advance(&mut self.l, &self.network, by);
        fail_with_panics(&mut self.l);
    }

    /// Runs `f` on the protocol, and settles. `None` once the connection is lost.
    pub fn with<R: 'static>(
        &mut self,
        f: impl FnOnce(&mut P, &Transport) -> R + 'static,
    ) -> Option<R> {
        with(&mut self.l, &self.network, &self.connection, f)
    }

    /// The reactor that it runs on.
    pub fn reactor(&self) -> Reactor {
        self.l.reactor()
    }

    /// The network that it runs on.
    pub fn network(&self) -> &Network {
        &self.network
    }
}
