//! When the loop turns again immediately, and when it sleeps: it never sleeps while a request is
//! pending, and never spins once all work is done.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::testing::{Manner, Memory};
use couplet::{
    Address, Answers, Connection, Factory, Loop, LoopOptions, Protocol, Reactor, Transport, hooks,
};

use crate::defer_witness::Log;
use crate::pace::{TestLoop, settle};
use crate::suite::kit::LOOPBACK;
use crate::suite::tap::Tap;
use couplet_testkit_loops::doubles::Quiet;

/// Connects to another port as soon as its own port starts.
struct ConnectsAtStart {
    reactor: Reactor,
    to: u16,
}

impl Factory for ConnectsAtStart {
    type Protocol = Quiet;

    fn do_start(&mut self) {
        let stopping = self.reactor.clone();
        self.reactor
            .connect(("127.0.0.1", self.to), move || {
                stopping.stop();
                Quiet
            })
            .detach();
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Quiet> {
        None
    }
}

/// The memory driver's wait fails when nothing can ever happen, so a loop that slept with the
/// connect pending would end with that error.
#[test]
fn a_connect_requested_while_a_port_starts_is_begun() {
    let outcome = TestLoop::new(1).l.run(|reactor| {
        let server = reactor.listen(LOOPBACK, || Quiet)?;
        let to = server.host().port().expect("a TCP port has a number");
        reactor.listen(LOOPBACK, ConnectsAtStart { reactor: reactor.clone(), to })?;
        Ok(())
    });
    outcome.expect("the connect was begun and ended the run");
}

#[test]
fn a_turn_that_leaves_no_work_lets_the_next_one_sleep() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (memory, _network) = Memory::new(Manner::Readiness, 1);
    let (tap, tapped) = Tap::new(Box::new(memory));
    let mut l = Loop::with_driver(tap, LoopOptions::default());
    let reactor = l.reactor();
    let server = reactor.listen(LOOPBACK, || Quiet).expect("a port in memory is free");
    reactor
        .connect(server.host().to_string(), || Quiet)
        .map(move |connection| {
            // The call runs at the end of a turn, so it writes after all of the turn's events.
            reactor.call_later(HOUR, move || {
                connection.tell(|_, transport| transport.write("x"));
            });
        })
        .detach();
    for _ in 0..10 {
        l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    }
    tapped.pass(HOUR);
    tapped.waits.borrow_mut().clear();
    for _ in 0..2 {
        l.turn(Some(HOUR)).expect("memory does not fail");
    }
    assert_eq!(*tapped.waits.borrow(), [Some(HOUR), Some(HOUR * 2)]);
}

/// Calls itself again and again, more often than fits into any turn.
fn tell_again(connection: &Connection<Quiet>, told: &Rc<Cell<u32>>) {
    const FAR_TOO_OFTEN: u32 = 10_000;
    let (again, count) = (connection.clone(), told.clone());
    connection.tell(move |_, _| {
        count.set(count.get() + 1);
        if count.get() < FAR_TOO_OFTEN {
            tell_again(&again, &count);
        }
    });
}

#[test]
fn a_tell_that_requests_itself_again_does_not_prolong_the_turn() {
    let mut stage = TestLoop::new(1);
    let server = stage.listen(|| Quiet);
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    let connecting = stage.reactor.connect(server.host().to_string(), || Quiet);
    connecting.map(move |connection| tell_again(&connection, &count)).detach();
    let mut turns = 0;
    while told.get() < 100 {
        let before = told.get();
        stage.turn();
        let by_one_turn = told.get() - before;
        assert!(by_one_turn <= 3, "each round makes it once, and not {by_one_turn} times");
        turns += 1;
        assert!(turns < 1000, "it is reported in every turn");
    }
}

/// Forwards everything to the first connection of its port, and records the number of bytes
/// buffered there before.
struct Forwards {
    first: Rc<RefCell<Option<Transport>>>,
    buffered: Rc<RefCell<Vec<usize>>>,
}

impl Protocol for Forwards {
    fn connection_made(&mut self, transport: &Transport) {
        self.first.borrow_mut().get_or_insert_with(|| transport.clone());
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let first = self.first.borrow().clone().expect("the first connection is made");
        self.buffered.borrow_mut().push(first.buffered());
        first.write(data);
    }
}

/// Two connections forward `size` bytes each to a third in one turn. Returns the number of bytes
/// that the second finds buffered there.
fn left_by_an_earlier_event(size: usize) -> usize {
    let mut stage = TestLoop::new(1);
    let (first, buffered) = (Rc::default(), Rc::<RefCell<Vec<usize>>>::default());
    let noted = buffered.clone();
    let forwards = move || Forwards { first: Rc::clone(&first), buffered: noted.clone() };
    let server = stage.listen(forwards);
    let clients = Rc::<RefCell<Vec<Connection<Quiet>>>>::default();
    for _ in 0..3 {
        let made = clients.clone();
        let connecting = stage.reactor.connect(server.host().to_string(), || Quiet);
        connecting.map(move |connection| made.borrow_mut().push(connection)).detach();
    }
    stage.turns(10);
    for client in &clients.borrow()[1..] {
        client.tell(move |_, transport| transport.write(vec![b'x'; size]));
    }
    stage.turns(10);
    let buffered = buffered.borrow();
    assert_eq!((buffered.len(), buffered[0]), (2, 0));
    buffered[1]
}

#[test]
fn large_output_for_another_connection_does_not_wait_for_the_end_of_the_turn() {
    assert_eq!(left_by_an_earlier_event(100), 100, "small output is sent together, in step 7");
    assert_eq!(left_by_an_earlier_event(16 * 1024), 0);
}

/// Suspends the turn for each chunk, and leaves the reply to the owner of the loop.
struct Suspending(Rc<RefCell<Vec<Transport>>>);

impl Protocol for Suspending {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        self.0.borrow_mut().push(transport.clone());
        hooks::suspend_turn(transport.reactor());
    }
}

#[test]
fn c86b_a_suspended_turn_continues_with_the_reply_and_the_next_event() {
    let (memory, network) = Memory::new(Manner::Readiness, 0);
    let mut l =
        Loop::with_driver(memory, LoopOptions::default().tune(|it| it.answers(Answers::AtOnce)));
    let (reactor, log) = (l.reactor(), Log::default());
    let received = Rc::<RefCell<Vec<Transport>>>::default();
    let kept = received.clone();
    let port = reactor.listen(LOOPBACK, move || Suspending(kept.clone()));
    let port = port.expect("a free port");
    let wires = [(); 2].map(|()| network.connect(port.host()).expect("it listens"));
    settle(&mut l);
    for wire in &wires {
        assert_eq!(wire.push(b"x"), 1);
    }
    for count in 1..=2 {
        while !l.is_suspended() {
            l.turn(Some(Duration::ZERO)).expect("a turn");
        }
        assert_eq!(received.borrow().len(), count, "one event at a time");
        let sent = || wires.iter().map(|wire| wire.take().len()).sum::<usize>();
        received.borrow()[count - 1].write(b"reply");
        // Timed calls are made, and the turn stays suspended.
        let timed = log.clone();
        reactor.call_later(Duration::ZERO, move || timed.say("timed"));
        assert!(l.make_timed_calls() && l.is_suspended());
        assert_eq!(log.take(), ["timed"]);
        assert_eq!(sent(), 0, "the reply waits");
        l.turn(Some(Duration::ZERO)).expect("the rest of the turn");
        assert_eq!(sent(), 5, "the reply is sent");
        assert_eq!(l.is_suspended(), count == 1, "the next event suspends it again");
    }
    // A flush sends the reply.
    for wire in &wires {
        assert_eq!(wire.push(b"x"), 1);
    }
    for count in 3..=4 {
        while !l.is_suspended() {
            l.turn(Some(Duration::ZERO)).expect("a turn");
        }
        let timed = log.clone();
        reactor.call_later(Duration::ZERO, move || timed.say("timed"));
        received.borrow()[count - 1].write(b"reply");
        assert!(l.flush() && l.is_suspended());
        let sent = || wires.iter().map(|wire| wire.take().len()).sum::<usize>();
        assert_eq!((sent(), log.take().len()), (5, 0), "timed calls wait");
        received.borrow()[count - 1].write(b"more");
        l.turn(Some(Duration::ZERO)).expect("the rest of the turn");
        assert!(l.make_timed_calls());
        assert_eq!((sent(), log.take().len()), (4, 1));
    }
    // A request outside a turn does not end the next one early.
    hooks::suspend_turn(&reactor);
    l.turn(Some(Duration::ZERO)).expect("a turn");
    assert!(!l.is_suspended());
}

#[test]
fn c86b_a_run_that_ends_in_a_suspended_turn_leaves_nothing_of_it() {
    let (memory, network) = Memory::new(Manner::Readiness, 0);
    let mut l = Loop::with_driver(memory, LoopOptions::default());
    for _ in 0..2 {
        let received = Rc::<RefCell<Vec<Transport>>>::default();
        let (kept, mut host) = (received.clone(), None);
        l.begin(|reactor| {
            let port = reactor.listen(LOOPBACK, move || Suspending(kept.clone()))?;
            host = Some(port.host());
            Ok(())
        })
        .expect("it begins");
        let wires = [(); 2].map(|()| network.connect(host.clone().expect("a port")));
        let wires = wires.map(|wire| wire.expect("it listens"));
        settle(&mut l);
        wires.iter().for_each(|wire| assert_eq!(wire.push(b"x"), 1));
        while !l.is_suspended() {
            l.turn(Some(Duration::ZERO)).expect("a turn");
        }
        assert_eq!(received.borrow().len(), 1);
        l.end().expect("it ends");
        assert!(!l.is_suspended() && wires.iter().all(|wire| wire.is_closed()));
        l.turn(Some(Duration::ZERO)).expect("a turn outside of a run");
    }
}
