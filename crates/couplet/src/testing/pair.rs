//! [`pair`]: two protocols, joined in memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::{Cut, Manner, Memory, Network};
use crate::address::Address;
use crate::protocol::Protocol;
use crate::reactor::{Loop, LoopOptions, Reactor};
use crate::transport::{Connection, Transport};

/// Two protocols on the two ends of a connection in memory. Made by [`pair`].
pub struct Pair<A, B> {
    /// The client's end.
    pub a: Connection<A>,
    /// The server's end.
    pub b: Connection<B>,
    l: Loop,
    network: Network,
}

impl<A, B> std::fmt::Debug for Pair<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("a", &self.a).field("b", &self.b).finish_non_exhaustive()
    }
}

/// Joins a client's protocol `a` and a server's protocol `b`, and runs them until nothing more
/// happens by itself.
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
pub fn pair<A: Protocol, B: Protocol>(a: A, b: B) -> Pair<A, B> {
    pair_on(Manner::Readiness, Cut::Whole, 0, a, b)
}

/// [`pair`] in a manner of the driver, with the streams cut from the beginning, from a seed.
pub fn pair_on<A: Protocol, B: Protocol>(
    manner: Manner,
    cut: Cut,
    seed: u64,
    a: A,
    b: B,
) -> Pair<A, B> {
    let (driver, network) = Memory::new(manner, seed);
    network.set_cut(cut);
    let mut l = Loop::with_driver(Box::new(driver), LoopOptions::default());
    let reactor = l.reactor();
    let (server, b_made) = capture(b);
    let port =
        reactor.listen_tcp(([127, 0, 0, 1], 0).into(), server).expect("a port in memory is free");
    let to = port.host().port().unwrap_or(0);
    let (client, a_made) = capture(a);
    reactor.connect_tcp("127.0.0.1", to, client);
    let a = until_made(&mut l, &a_made);
    let b = until_made(&mut l, &b_made);
    if let Some(stopped) = port.stop_listening() {
        stopped.detach();
    }
    let mut pair = Pair { a, b, l, network };
    pair.settle();
    pair
}

/// Keeps the transport of a protocol when its connection is made, whatever becomes of it then.
pub(super) struct Capture<B> {
    protocol: B,
    made: Made,
}

type Made = Rc<RefCell<Option<Transport>>>;

/// A factory of this one protocol, and where its transport is going to be.
pub(super) fn capture<P: Protocol>(
    protocol: P,
) -> (impl FnMut(&Address) -> Option<Capture<P>>, Made) {
    let made = Made::default();
    let mut protocol = Some(Capture { protocol, made: made.clone() });
    (move |_: &Address| protocol.take(), made)
}

pub(super) fn until_made<P: Protocol>(l: &mut Loop, made: &Made) -> Connection<P> {
    loop {
        if let Some(transport) = made.borrow_mut().take() {
            return transport.connection();
        }
        l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    }
}

impl<B: Protocol> Protocol for Capture<B> {
    fn connection_made(&mut self, transport: &Transport) {
        *self.made.borrow_mut() = Some(transport.clone());
        self.protocol.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.protocol.data_received(transport, data);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &crate::Reason) {
        self.protocol.connection_lost(transport, reason);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.protocol.read_closed(transport);
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.protocol.write_closed(transport);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.protocol.reading_resumed(transport);
    }

    fn handshake_completed(&mut self, transport: &Transport) {
        self.protocol.handshake_completed(transport);
    }

    fn find(&mut self, wanted: std::any::TypeId) -> Option<&mut dyn std::any::Any> {
        if wanted == std::any::TypeId::of::<B>() {
            return Some(&mut self.protocol);
        }
        self.protocol.find(wanted)
    }
}

impl<A: Protocol, B: Protocol> Pair<A, B> {
    /// Turns until nothing more happens by itself; time stands still.
    ///
    /// # Panics
    ///
    /// After that, when a timed call panicked.
    pub fn settle(&mut self) {
        settle(&mut self.l, &self.network);
        fail_with_panics(&mut self.l);
    }

    /// How the streams are cut from now on.
    pub fn set_cut(&mut self, cut: Cut) {
        self.network.set_cut(cut);
    }

    /// One turn.
    pub fn turn(&mut self) {
        self.l.turn(Some(Duration::ZERO)).expect("memory does not fail");
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

    /// Runs `f` on the client's protocol, and settles. `None` once the connection is lost.
    pub fn with_a<R: 'static>(
        &mut self,
        f: impl FnOnce(&mut A, &Transport) -> R + 'static,
    ) -> Option<R> {
        with(&mut self.l, &self.network, &self.a, f)
    }

    /// Runs `f` on the server's protocol, and settles. `None` once the connection is lost.
    pub fn with_b<R: 'static>(
        &mut self,
        f: impl FnOnce(&mut B, &Transport) -> R + 'static,
    ) -> Option<R> {
        with(&mut self.l, &self.network, &self.b, f)
    }

    /// The reactor that both run on.
    pub fn reactor(&self) -> Reactor {
        self.l.reactor()
    }
}

pub(super) fn settle(l: &mut Loop, network: &Network) {
    loop {
        let before = network.activity();
        let waiting = l.is_waiting();
        l.turn(Some(Duration::ZERO)).expect("memory does not fail");
        if !waiting && !l.is_waiting() && network.activity() == before {
            return;
        }
    }
}

/// A panic of a timed call was contained as in any loop; the test fails with it all the same.
pub(super) fn fail_with_panics(l: &mut Loop) {
    if let Some(text) = l.take_panic() {
        panic!("a timed call panicked: {text}");
    }
}

pub(super) fn advance(l: &mut Loop, network: &Network, by: Duration) {
    let until = network.elapsed().saturating_add(by);
    settle(l, network);
    while network.elapsed() < until {
        let left = until - network.elapsed();
        l.turn(Some(left)).expect("memory does not fail");
        settle(l, network);
    }
}

pub(super) fn with<P: Protocol, R: 'static>(
    l: &mut Loop,
    network: &Network,
    connection: &Connection<P>,
    f: impl FnOnce(&mut P, &Transport) -> R + 'static,
) -> Option<R> {
    let answer = Rc::new(RefCell::new(None));
    let slot = answer.clone();
    connection.tell(move |protocol, transport| *slot.borrow_mut() = Some(f(protocol, transport)));
    settle(l, network);
    answer.take()
}
