//! The rows of docs/guarantees.md that no other test shows.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{Bus, Counts, Entry, Event, LogLimits, Memory, Start, Subscription, nats};
use couplet::services::Health;
use couplet::sim::{Fault, Sim, Weather, check};
use couplet::{Loop, LoopingCall, Reactor};
use rustix::process::Signal;

use crate::engines::NATS;
use crate::link::Link;
use crate::nats_server;
use crate::needed::Folder;

/// A bus with its own loop, which logs its messages and events.
struct Node {
    l: Loop,
    bus: Bus,
    log: Rc<RefCell<Vec<String>>>,
    _subscription: Subscription,
}

impl Node {
    fn new(bus: impl FnOnce(&Loop) -> Bus) -> Node {
        let l = Loop::new().expect("a loop");
        let bus = bus(&l);
        let log: Rc<RefCell<Vec<String>>> = Rc::default();
        let logging = log.clone();
        bus.on_event(move |event| {
            let line = match event {
                Event::Connected { .. } => "connected".to_owned(),
                Event::Disconnected { unconfirmed, .. } => {
                    format!("disconnected, {unconfirmed} unconfirmed")
                }
                Event::AttemptFailed { .. } => return,
                event => format!("{event:?}"),
            };
            logging.borrow_mut().push(line);
        });
        let logging = log.clone();
        let subscription = bus.subscribe("room", move |message| {
            let text = String::from_utf8_lossy(message.payload()).into_owned();
            logging.borrow_mut().push(text);
        });
        let _subscription = subscription.expect("it is valid");
        Node { l, bus, log, _subscription }
    }

    /// A node that has logged in at a port.
    fn nats(port: u16) -> Node {
        let mut node = Node::new(|l| (NATS.bus)(&l.reactor(), port, 4096));
        node.flush();
        assert_eq!(node.log.take(), ["connected"]);
        node
    }

    fn publish(&self, text: &str) {
        self.bus.publish("room", text.to_owned()).expect("there is room");
    }

    fn flush(&mut self) {
        let flushed = self.bus.flush();
        self.l.run_until(flushed).expect("it is connected");
    }

    /// Runs until the last line of the log is this one.
    fn until(&mut self, last: &str) -> Vec<String> {
        while self.log.borrow().last().is_none_or(|line| line != last) {
            let pause = self.l.reactor().sleep(Duration::from_millis(1));
            self.l.run_until(pause).expect("time passes");
        }
        self.log.take()
    }

    /// Confirmed, refused and unconfirmed messages.
    fn losses(&self) -> (u64, u64, u64) {
        let Counts { published, lost, unconfirmed, .. } = self.bus.counts();
        (published, lost, unconfirmed)
    }
}

#[test]
fn memory_messages_for_a_loop_that_ends_are_lost_and_not_counted() {
    let hub = Memory::new();
    let memory = |l: &Loop| Bus::memory(&l.reactor(), &hub);
    let (mut first, ends, third) = (Node::new(memory), Node::new(memory), Node::new(memory));
    let log = ends.log.clone();
    third.publish("1");
    drop(ends);
    third.publish("2");
    assert_eq!(first.until("2"), ["1", "2"], "the others get everything");
    assert!(log.borrow().is_empty());
    assert_eq!(third.losses(), (2, 0, 0));
}

#[test]
fn memory_a_drain_delivers_earlier_messages() {
    let hub = Memory::new();
    let memory = |l: &Loop| Bus::memory(&l.reactor(), &hub);
    let (mut drains, mut other) = (Node::new(memory), Node::new(memory));
    other.publish("1");
    drains.publish("2");
    let drained = drains.bus.drain();
    other.publish("too late for a bus that drains");
    drains.l.run_until(drained).expect("it needs no connection");
    assert_eq!(drains.log.take(), ["1", "2"]);
    let all = other.until("too late for a bus that drains");
    assert_eq!(all.len(), 3);
}

/// The numbers that a simulated host received.
type Heard = Rc<RefCell<Vec<u64>>>;

/// Two simulated hosts whose clocks jump: one calls `send` with numbers, the other one `receive`.
/// Fails if a number is missing.
fn jump_clocks<S: FnMut(u64) + 'static>(
    sim: &mut Sim,
    send: impl Fn(&Reactor) -> S + 'static,
    receive: impl Fn(&Reactor, Heard) -> Box<dyn Any> + 'static,
) -> couplet::Result<()> {
    let heard = Heard::default();
    let publisher = sim.host("publisher", move |reactor| {
        let (mut send, mut number) = (send(reactor), 0_u64);
        let call = LoopingCall::with_count(reactor, move |count| {
            // After a jump the call stands for many periods.
            for _ in 0..count {
                number += 1;
                send(number);
            }
        });
        call.start(Duration::from_millis(100)).detach();
        Ok(())
    });
    let hearing = heard.clone();
    let receiver = sim.host("receiver", move |reactor| {
        let receiving = receive(reactor, hearing.clone());
        reactor.sleep(Duration::MAX).map(move |()| drop(receiving)).detach();
        Ok(())
    });
    let second = Duration::from_secs(1);
    for host in [publisher, receiver] {
        sim.fault(second, second, Fault::ClockForward(host, JUMP));
        sim.fault(second * 2, second, Fault::ClockBack(host, JUMP));
    }
    sim.run_for(second * 4)?;
    let heard = heard.borrow();
    let first = heard.first().copied().unwrap_or_default();
    let are_all = heard.iter().zip(first..).all(|(number, wanted)| *number == wanted);
    match heard.len() as u64 > JUMP.as_secs() * 10 && first < 5 && are_all {
        true => Ok(()),
        false => sim.fail(format!("{} messages, not all in order", heard.len())),
    }
}

/// Less than a queue of appends.
const JUMP: Duration = Duration::from_secs(90);

fn hear(heard: &Heard, payload: &[u8]) {
    heard.borrow_mut().push(String::from_utf8_lossy(payload).parse().expect("a number"));
}

/// [`jump_clocks`] of hosts with these buses.
fn jump_clocks_of(
    sim: &mut Sim,
    bus: impl Fn(&Reactor) -> Bus + Clone + 'static,
) -> couplet::Result<()> {
    let publishing = bus.clone();
    let send = move |reactor: &Reactor| {
        let bus = publishing(reactor);
        move |number: u64| bus.publish("room", number.to_string()).expect("there is room")
    };
    jump_clocks(sim, send, move |reactor, heard| {
        let subscription = bus(reactor).subscribe("room", move |it| hear(&heard, it.payload()));
        Box::new(subscription.expect("it is valid"))
    })
}

#[test]
fn log_a_clock_that_jumps_loses_nothing() {
    check(0..5, Weather::Calm, |sim| {
        let hub = Memory::new();
        let reading = hub.clone();
        let log = |reactor: &Reactor, hub: &Memory| {
            Bus::memory(reactor, hub).log("room", LogLimits::default()).expect("it is valid")
        };
        let send = move |reactor: &Reactor| {
            let log = log(reactor, &hub);
            move |number: u64| {
                let appended = log.append(number.to_string());
                appended.map(drop).add_errback(|failure| panic!("{failure}")).detach();
            }
        };
        jump_clocks(sim, send, move |reactor, heard| {
            let log = log(reactor, &reading);
            Box::new(log.follow(Start::Oldest, move |entry| match entry {
                Entry::Message { payload, .. } => hear(&heard, &payload),
                other => panic!("{other:?}"),
            }))
        })
    });
}

#[test]
fn memory_a_clock_that_jumps_loses_nothing() {
    check(0..5, Weather::Calm, |sim| {
        let hub = Memory::new();
        jump_clocks_of(sim, move |reactor| Bus::memory(reactor, &hub))
    });
}

#[test]
fn nats_a_clock_that_jumps_loses_nothing() {
    check(0..5, Weather::Calm, |sim| {
        sim.host("bus", |reactor| nats_server::listen(reactor, 4222));
        jump_clocks_of(sim, |reactor| {
            Bus::nats(reactor, nats::Options::new(["bus"]).expect("it is valid"))
        })
    });
}

#[test]
fn nats_messages_that_a_killed_server_has_not_read_are_lost_and_counted() {
    let Some(mut server) = (NATS.start)(&Folder::new()) else { return };
    let (mut node, mut other) = (Node::nats(server.port), Node::nats(server.port));
    node.publish("before");
    node.flush();
    other.until("before");
    node.log.take();
    server.signal(Signal::STOP);
    (0..10).for_each(|number| node.publish(&number.to_string()));
    let pause = node.l.reactor().sleep(Duration::from_millis(5));
    node.l.run_until(pause).expect("time passes");
    server.kill();
    node.until("disconnected, 10 unconfirmed");
    other.until("disconnected, 0 unconfirmed");
    assert!(matches!(node.bus.health(), Health::Degraded(_)));
    server.start_again();
    node.flush();
    other.flush();
    node.publish("after");
    node.flush();
    assert_eq!(other.until("after"), ["connected", "after"]);
    assert_eq!(node.losses(), (12, 0, 10));
}

#[test]
fn nats_a_subscriber_that_is_cut_off_misses_messages_between_two_events() {
    let Some(server) = (NATS.start)(&Folder::new()) else { return };
    let mut link = Link::to(server.port);
    let (mut publisher, mut cut_off) = (Node::nats(server.port), Node::nats(link.port));
    publisher.publish("1");
    publisher.flush();
    cut_off.until("1");
    link.cut();
    cut_off.until("disconnected, 0 unconfirmed");
    assert!(matches!(cut_off.bus.health(), Health::Degraded(_)));
    publisher.publish("2");
    publisher.flush();
    // Messages of the node that is cut off wait.
    cut_off.publish("3");
    link.heal();
    cut_off.flush();
    assert_eq!(cut_off.bus.health(), Health::Ready);
    publisher.publish("4");
    publisher.flush();
    assert_eq!(cut_off.until("4"), ["connected", "3", "4"], "2 is missed");
    assert_eq!(publisher.until("4"), ["1", "2", "3", "4"]);
    assert_eq!(publisher.losses(), (3, 0, 0), "no count of the publisher has it");
    assert_eq!(cut_off.losses(), (1, 0, 0));
}
