//! [`hold`]: one protocol on a connection whose far end the test controls.

use std::time::Duration;

use super::memory_loop::{MemoryLoop, capture};
use super::{Manner, Network, Wire};
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use crate::transport::{Connection, Transport};

/// One protocol whose far end the test controls. Made by [`hold`].
pub struct Held<P> {
    /// The far end.
    pub wire: Wire,
    /// The protocol's end.
    pub connection: Connection<P>,
    memory: MemoryLoop,
}

impl<P> std::fmt::Debug for Held<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// Connects `protocol` to a far end that the test controls.
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
///
/// A panic in a callback ends the connection, as in any loop, and then fails the test, so callbacks
/// may contain assertions. A test that expects a panic [takes](Held::take_panics) it.
///
/// ```should_panic
/// # use couplet::{Protocol, Reason, Transport, testing::hold};
/// struct Aborts;
/// impl Protocol for Aborts {
///     fn data_received(&mut self, transport: &Transport, _: &[u8]) {
///         transport.lose_connection();
///     }
///     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
///         assert!(matches!(reason, Reason::Aborted), "{reason}");
///     }
/// }
///
/// let mut held = hold(Aborts);
/// held.push(b"go away");
/// held.wire.fin();
/// held.settle(); // fails: it was not an abort
/// ```
#[track_caller]
pub fn hold<P: Protocol>(protocol: P) -> Held<P> {
    hold_on(Manner::Readiness, 0, protocol)
}

/// [`hold`] with a given driver manner and seed.
#[track_caller]
pub fn hold_on<P: Protocol>(manner: Manner, seed: u64, protocol: P) -> Held<P> {
    let mut memory = MemoryLoop::new(manner, seed);
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let port = memory.network.listen(any, 1).expect("a port in memory is free");
    let (client, made) = capture(protocol);
    let to = ("127.0.0.1", port.port().expect("TCP"));
    memory.l.reactor().connect(to, client).detach();
    let connection = memory.turn_until_made(&made);
    let wire = memory.network.accept(&port).expect("the connect completed");
    let mut held = Held { wire, connection, memory };
    held.settle();
    held
}

impl<P: Protocol> Held<P> {
    /// Pushes all the bytes, settling after each part that fits.
    #[track_caller]
    pub fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let n = self.wire.push(data);
            self.settle();
            assert!(n > 0, "the protocol has paused reading, and the buffers are full");
            data = &data[n..];
        }
    }

    /// Turns the loop until it is idle, without advancing the clock.
    ///
    /// # Panics
    ///
    /// Afterwards, if a callback or other code called by the loop panicked.
    #[track_caller]
    pub fn settle(&mut self) {
        self.memory.settle();
    }

    /// Advances the clock, stopping at each deadline on the way to run the calls that are due, and
    /// then settles. Twisted's `Clock.advance`.
    ///
    /// # Panics
    ///
    /// Afterwards, if a callback or other code called by the loop panicked.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) {
        self.memory.advance(by);
    }

    /// Runs `f` on the protocol and settles. `None` once the connection is lost.
    #[track_caller]
    pub fn with<R: 'static>(
        &mut self,
        f: impl FnOnce(&mut P, &Transport) -> R + 'static,
    ) -> Option<R> {
        self.memory.with(&self.connection, f)
    }

    /// Takes the panics that the loop has contained since the last call. A test that calls this
    /// expects panics: after the first call, they no longer fail the test.
    pub fn take_panics(&mut self) -> Vec<String> {
        self.memory.take_panics()
    }

    /// The protocol's reactor.
    pub fn reactor(&self) -> Reactor {
        self.memory.l.reactor()
    }

    /// The in-memory network.
    pub fn network(&self) -> &Network {
        &self.memory.network
    }
}
