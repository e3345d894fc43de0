//! Handles: access to a protocol through its wrappers, shared factories, and a relay made of two
//! producers.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::testing::{Manner, Wire, hold, hold_on};
use couplet::transport::WrongProtocol;
use couplet::{
    Address, Connection, ConnectionLost, Connector, Factory, ProducerKind, Protocol,
    ProtocolExtension, Reactor, Reason, Seat, Shared, Transport,
};

use crate::defer_witness::given;
use crate::pace::TestLoop;

#[derive(Default)]
struct Inner {
    calls: u32,
}

impl Protocol for Inner {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// A typical user-written wrapper.
struct Wrapper<P>(P);

impl<P: Protocol> Protocol for Wrapper<P> {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.data_received(transport, data);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl<P: Protocol> ProtocolExtension for Wrapper<P> {
    fn inner(&mut self) -> Option<&mut dyn Protocol> {
        Some(&mut self.0)
    }
}

#[test]
fn is_closing_is_true_from_a_close_on() {
    let closes: [fn(&Transport); 3] =
        [Transport::lose_connection, Transport::abort_connection, |transport| {
            transport.fail(std::fmt::Error)
        }];
    for close in closes {
        let mut held = hold(Inner::default());
        let transport = held.connection.transport();
        transport.pause_producing();
        transport.lose_write_connection();
        held.settle();
        assert!(!transport.is_closing(), "it may still read");
        close(&transport);
        assert!(transport.is_closing());
        held.settle();
        assert!(transport.is_closing());
    }
    let held = &mut hold(Inner::default());
    held.wire.reset();
    held.settle();
    assert!(held.connection.transport().is_closing(), "by the peer");
}

#[test]
fn a_connection_finds_its_protocol_inside_wrappers() {
    let mut held = hold(Wrapper(Wrapper(Inner::default())));
    let inner: Connection<Inner> = held.connection.transport().connection();
    assert!(inner.tell(|inner, _| inner.calls += 1));
    inner.call_later(Duration::from_secs(5), |inner, _| inner.calls += 10);
    held.advance(Duration::from_secs(5));
    let calls = given(inner.ask(|inner, _| inner.calls));
    held.settle();
    assert_eq!(calls.take().unwrap(), 11);
}

#[test]
fn c50b_a_wrong_type_is_named_beside_the_right_one_and_the_callers_line() {
    struct Another;
    let mut held = hold(Wrapper(Inner::default()));
    let wrong: Connection<Another> = held.connection.transport().connection();
    let asked = wrong.ask(|_, _| ());
    let line = line!() - 1;
    held.settle();
    let failure = couplet::testing::failure_of(asked);
    let error = failure.downcast_ref::<WrongProtocol>().expect("it says what is wrong");
    assert_eq!((error.place.file(), error.place.line()), (file!(), line));
    assert!(error.wanted.ends_with("::Another") && error.found.contains("::Inner>"), "{error}");
    assert!(!held.connection.is_lost(), "an answer that cannot be had costs nothing else");

    assert!(wrong.tell(|_, _| unreachable!()), "it runs in the turn");
    let line = line!() - 1;
    let settled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| held.settle()));
    let told = settled.err().map(|panic| *panic.downcast::<String>().expect("a text"));
    assert_eq!(told.is_some(), cfg!(debug_assertions), "the test fails in debug builds");
    if let Some(told) = told {
        assert!(told.contains(&format!("{}:{line}:", file!())), "{told}");
        assert!(told.contains("::Another") && told.contains("::Inner>"), "{told}");
    }
}

#[test]
fn an_ask_fails_with_the_reason_of_a_connection_lost_before_it_runs() {
    for lost_first in [true, false] {
        let mut held = hold(Inner::default());
        held.connection.transport().abort_connection();
        if lost_first {
            held.settle();
        }
        let answer = given(held.connection.ask(|inner, transport| {
            transport.write("too late");
            inner.calls
        }));
        held.settle();
        assert!(!held.connection.tell(|inner, _| inner.calls += 1));
        let failure = answer.take().err();
        if lost_first {
            let lost =
                failure.as_ref().and_then(|failure| failure.downcast_ref::<ConnectionLost>());
            assert!(matches!(lost, Some(ConnectionLost(Reason::Aborted))), "{failure:?}");
        } else {
            // The request was queued before the loss, so it still runs.
            assert!(failure.is_none(), "{failure:?}");
        }
    }
}

/// While the connection still waits for its peer.
#[test]
fn an_ask_after_a_panic_fails_with_the_panic() {
    let mut held = hold(Inner::default());
    held.take_panics();
    held.with(|_, _| panic!("no poem"));
    for _ in 0..2 {
        let answer = given(held.connection.ask(|inner, _| inner.calls));
        held.settle();
        assert!(!held.connection.is_lost());
        let failure = answer.take().expect_err("the protocol is not called any more");
        let lost = failure.downcast_ref::<ConnectionLost>();
        assert!(matches!(lost, Some(ConnectionLost(Reason::Panicked(_)))), "{failure:?}");
    }
}

#[test]
fn delayed_calls_are_dropped_with_their_connection() {
    let mut held = hold(Inner::default());
    let witness = Rc::new(());
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let kept = witness.clone();
            let call = held.connection.call_later(Duration::from_secs(60), move |_, _| drop(kept));
            assert!(call.active() && (n % 2 == 0 || call.cancel()));
            call
        })
        .collect();
    assert_eq!(Rc::strong_count(&witness), 51);
    held.wire.reset();
    held.settle();
    assert!(calls.iter().all(|call| !call.active()));
    assert_eq!(Rc::strong_count(&witness), 1);
    assert!(!held.connection.call_later(Duration::ZERO, |_, _| {}).active());
}

#[derive(Default)]
struct Counting {
    built: u32,
    log: Vec<&'static str>,
}

impl Factory for Counting {
    type Protocol = Inner;

    fn do_start(&mut self) {
        self.log.push("start");
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Inner> {
        self.built += 1;
        assert_ne!(self.built, 2, "the second one panics");
        Some(Inner::default())
    }

    fn do_stop(&mut self) {
        self.log.push("stop");
    }
}

#[test]
fn a_shared_factory_stays_usable_after_a_panic_and_runs_queued_calls() {
    let mut stage = TestLoop::new(7);
    let shared = Shared::new(Counting::default());
    shared.tell(|counting| counting.log.push("tell before its first use"));
    shared.tell(|counting| counting.log.push("another"));
    let [one, two] = [(); 2].map(|()| stage.listen(shared.clone()));
    let wires = [&one, &two, &one].map(|port| stage.client(port.host()));
    assert_eq!(wires.each_ref().map(Wire::is_closed), [false, true, false]);
    for port in [one, two] {
        port.stop_listening().unwrap().detach();
        stage.settle();
    }
    let seen = Rc::new(RefCell::new((0, Vec::new())));
    let slot = seen.clone();
    shared.tell(move |counting| *slot.borrow_mut() = (counting.built, counting.log.clone()));
    stage.settle();
    let (built, log) = seen.take();
    assert_eq!(built, 3);
    assert_eq!(log, ["start", "tell before its first use", "another", "stop"]);
}

/// Notes each reactor that it is attached to.
struct Moving(Rc<Cell<u32>>);

impl Factory for Moving {
    type Protocol = Inner;

    fn attach(&mut self, _: &Reactor) {
        self.0.set(self.0.get() + 1);
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Inner> {
        Some(Inner::default())
    }
}

#[test]
fn a_shared_factory_moves_to_the_next_loop() {
    let attached = Rc::new(Cell::new(0));
    let shared = Shared::new(Moving(attached.clone()));
    for number in 1..=3 {
        let mut stage = TestLoop::new(7);
        let _ports = [(); 2].map(|()| stage.listen(shared.clone()));
        assert_eq!(attached.get(), number, "once for each loop");
        let told = Rc::new(Cell::new(false));
        let slot = told.clone();
        shared.tell(move |_| slot.set(true));
        stage.settle();
        assert!(told.get(), "loop {number}");
    }
}

#[test]
fn a_seat_holds_all_its_places_until_it_is_dropped() {
    let places = [Rc::new(()), Rc::new(()), Rc::new(())];
    let held = || places.each_ref().map(Rc::strong_count);
    let [one, two, three] = places.each_ref().map(|place| Seat::new(place.clone()));
    let seat = one.and(two.and(three)).and(Seat::default());
    assert_eq!(held(), [2; 3]);
    drop(seat);
    assert_eq!(held(), [1; 3]);
}

/// Tries a second port when the first one has failed.
#[derive(Default)]
struct TriesTwo {
    me: Option<(Shared<TriesTwo>, Reactor)>,
    attached: u32,
    failed: u32,
}

impl Factory for TriesTwo {
    type Protocol = Inner;

    fn attach(&mut self, _: &Reactor) {
        self.attached += 1;
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Inner> {
        Some(Inner::default())
    }

    fn client_connection_failed(&mut self, _: &Connector, _: &Reason) {
        self.failed += 1;
        if let Some((me, reactor)) = self.me.take() {
            reactor.connect(("127.0.0.1", 2), me).detach();
        }
    }
}

#[test]
fn a_shared_factory_can_be_used_again_from_its_own_callback() {
    let mut stage = TestLoop::new(7);
    let shared = Shared::new(TriesTwo::default());
    let me = (shared.clone(), stage.reactor.clone());
    shared.tell(move |factory| factory.me = Some(me));
    stage.reactor.connect(("127.0.0.1", 1), shared.clone()).detach();
    stage.turns(200);
    let seen = Rc::new(Cell::new((0, 0)));
    let slot = seen.clone();
    shared.tell(move |factory| slot.set((factory.attached, factory.failed)));
    stage.settle();
    assert_eq!(seen.get(), (1, 2));
}

#[test]
fn closures_are_factories_with_and_without_the_peers_address() {
    let mut stage = TestLoop::new(7);
    let default = stage.listen(Inner::default);
    let closure = stage.listen(|| Inner { calls: 1 });
    let picky = stage.listen(|peer: &Address| peer.ip()?.is_ipv6().then(Inner::default));
    let closed = [default, closure, picky].map(|port| stage.client(port.host()).is_closed());
    assert_eq!(closed, [false, false, true]);
}

/// Forwards received bytes, no faster than the other side drains.
struct Relay {
    other: Transport,
}

impl Protocol for Relay {
    fn connection_made(&mut self, transport: &Transport) {
        self.other.register_producer(transport.clone(), ProducerKind::Push).unwrap();
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.other.write(data);
    }
}

#[test]
fn a_one_line_relay_has_bounded_buffers() {
    for manner in [Manner::Readiness, Manner::Completion] {
        let mut out = hold_on(manner, 1, Inner::default());
        let other = out.connection.transport();
        let target = other.clone();
        let relay = move || Relay { other: target.clone() };
        let port = out.reactor().listen(SocketAddr::from(([127, 0, 0, 1], 0)), relay).unwrap();
        out.settle();
        let wire = out.network().connect(port.host().socket_addr().unwrap()).unwrap();
        out.settle();
        let data: Vec<u8> = (0..2_000_000u32).map(|n| (n / 7) as u8).collect();
        let (mut sent, mut received, mut most) = (0, Vec::new(), 0);
        while received.len() < data.len() {
            sent += wire.push(&data[sent..]);
            out.settle();
            most = most.max(other.buffered());
            received.extend(out.wire.take_most(10_000));
            out.settle();
        }
        assert_eq!(received, data);
        assert!(most <= 64 * 1024 + 256 * 1024, "{most} bytes were buffered");
        // When the reader disconnects, `stop_producing` closes the relay too.
        out.wire.reset();
        out.settle();
        assert!(wire.saw_fin() || wire.saw_reset());
    }
}
