//! [`pair`]: two protocols connected in memory.

use std::net::SocketAddr;
use std::time::Duration;

use super::memory_loop::{MemoryLoop, capture};
use super::{Cut, Manner};
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use crate::transport::{Connection, Transport};

/// Two protocols on the two ends of a connection in memory. Made by [`pair`].
pub struct Pair<A, B> {
    /// The client's end.
    pub a: Connection<A>,
    /// The server's end.
    pub b: Connection<B>,
    memory: MemoryLoop,
}

impl<A, B> std::fmt::Debug for Pair<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("a", &self.a).field("b", &self.b).finish_non_exhaustive()
    }
}

/// Connects a client's protocol `a` with a server's protocol `b` in memory, and runs them until the
/// loop is idle.
///
/// ```
/// use couplet::testing::pair;
/// use couplet::{Protocol, Transport};
///
/// struct Asks(Vec<u8>);
/// impl Protocol for Asks {
///     fn connection_made(&mut self, transport: &Transport) {
///         transport.write("hello");
///     }
///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
///         self.0.extend_from_slice(data);
///     }
/// }
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// let mut pair = pair(Asks(Vec::new()), Echo);
/// assert_eq!(pair.with_a(|asks, _| asks.0.clone()), Some(b"hello".to_vec()));
/// ```
#[track_caller]
pub fn pair<A: Protocol, B: Protocol>(a: A, b: B) -> Pair<A, B> {
    pair_on(Manner::Readiness, Cut::Whole, 0, a, b)
}

/// [`pair`] with a given driver manner and seed, and streams cut from the beginning.
#[track_caller]
pub fn pair_on<A: Protocol, B: Protocol>(
    manner: Manner,
    cut: Cut,
    seed: u64,
    a: A,
    b: B,
) -> Pair<A, B> {
    let mut memory = MemoryLoop::new(manner, seed);
    memory.network.set_cut(cut);
    let reactor = memory.l.reactor();
    let (server, b_made) = capture(b);
    let port = reactor
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)), server)
        .expect("a port in memory is free");
    let to = port.host().port().unwrap_or(0);
    let (client, a_made) = capture(a);
    reactor.connect(("127.0.0.1", to), client).detach();
    let a = memory.turn_until_made(&a_made);
    let b = memory.turn_until_made(&b_made);
    if let Some(stopped) = port.stop_listening() {
        stopped.detach();
    }
    let mut pair = Pair { a, b, memory };
    pair.settle();
    pair
}

impl<A: Protocol, B: Protocol> Pair<A, B> {
    /// Turns the loop until it is idle, without advancing the clock.
    ///
    /// # Panics
    ///
    /// Afterwards, if a callback or other code called by the loop panicked.
    #[track_caller]
    pub fn settle(&mut self) {
        self.memory.settle();
    }

    /// Sets how later bytes of the streams are cut.
    pub fn set_cut(&mut self, cut: Cut) {
        self.memory.network.set_cut(cut);
    }

    /// Turns the loop once.
    pub fn turn(&mut self) {
        self.memory.turn();
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

    /// Runs `f` on the client's protocol and settles. `None` once the connection is lost.
    #[track_caller]
    pub fn with_a<R: 'static>(
        &mut self,
        f: impl FnOnce(&mut A, &Transport) -> R + 'static,
    ) -> Option<R> {
        self.memory.with(&self.a, f)
    }

    /// Runs `f` on the server's protocol and settles. `None` once the connection is lost.
    #[track_caller]
    pub fn with_b<R: 'static>(
        &mut self,
        f: impl FnOnce(&mut B, &Transport) -> R + 'static,
    ) -> Option<R> {
        self.memory.with(&self.b, f)
    }

    /// Takes the panics that the loop has contained since the last call. A test that calls this
    /// expects panics: after the first call, they no longer fail the test.
    pub fn take_panics(&mut self) -> Vec<String> {
        self.memory.take_panics()
    }

    /// The reactor of both protocols.
    pub fn reactor(&self) -> Reactor {
        self.memory.l.reactor()
    }
}
