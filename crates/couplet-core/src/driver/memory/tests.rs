//! Tests of the driver itself, without a loop: its events, also after a close or a cancel.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::driver::{DatagramOptions, ListenOptions, WriteOutcome};

const MANNERS: [Manner; 2] = [Manner::Readiness, Manner::Completion];

fn at(ip: impl Into<IpAddr>, port: u16) -> Address {
    Address::Tcp(SocketAddr::new(ip.into(), port))
}

/// An outbox with `bytes` bytes.
fn outbox(bytes: usize) -> Outbox {
    let mut out = Outbox::new(Rc::default());
    out.extend(&vec![b'x'; bytes]);
    out
}

fn queue(count: usize, to: &Address) -> DatagramQueue {
    let mut queue = DatagramQueue::default();
    (0..count).for_each(|n| queue.push(&[n as u8], Some(to.clone()), None));
    queue
}

/// A driver, its network and the events that it has reported.
struct Rig {
    driver: Memory,
    network: Network,
}

impl Rig {
    fn new(manner: Manner) -> Rig {
        let (driver, network) = Memory::new(manner, 1);
        Rig { driver, network }
    }

    /// Waits until the driver has an event, which stays there.
    fn wait(&mut self) {
        while !self.driver.has_more() {
            self.driver.wait(None).expect("something happens");
        }
    }

    /// Waits for an event, and takes it.
    fn event(&mut self) -> Event {
        loop {
            self.wait();
            if let Some(event) = self.driver.next() {
                return event;
            }
        }
    }

    fn listen(&mut self) -> (Key, Address) {
        let bound = self.network.bind(&at(Ipv4Addr::LOCALHOST, 0), &ListenOptions::default());
        let bound = bound.expect("a free port");
        let host = bound.host.clone();
        (self.driver.listen(bound).expect("a port"), host)
    }

    /// A connection of the driver, and its far end.
    fn stream(&mut self) -> (Key, Wire) {
        let (port, host) = self.listen();
        let wire = self.network.connect(host).expect("room");
        let Event::Accepted { key, .. } = self.event() else { panic!("not accepted") };
        self.driver.close(port, CloseMode::Normal);
        (key, wire)
    }

    fn datagrams(&mut self, options: &DatagramOptions) -> (Key, Address) {
        let host = Address::udp((Ipv4Addr::LOCALHOST, 0));
        let bound = self.network.bind_datagrams(&host, options).expect("a free port");
        let host = bound.host.clone();
        (self.driver.listen(bound).expect("a port"), host)
    }
}

/// The kinds of events with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Accept,
    Connect,
    FailedConnect,
    Read,
    End,
    Reset,
    Room,
    Sent,
    Datagram,
    DatagramError,
    DatagramRoom,
}

impl Rig {
    /// Arranges this event, and waits until it is the next one. Returns its key.
    fn prepare(&mut self, what: What) -> (Key, Option<Wire>) {
        let (key, wire) = match what {
            What::Accept => {
                let (key, host) = self.listen();
                (key, Some(self.network.connect(host).expect("room")))
            }
            What::Connect | What::FailedConnect => {
                let to = at(Ipv4Addr::LOCALHOST, 7);
                if what == What::Connect {
                    self.network.listen(to.clone(), 1).expect("a free port");
                }
                let key = self.driver.connect(&to, &ConnectOptions::default()).expect("a route");
                self.wait();
                (key, self.network.accept(to))
            }
            What::Read | What::End | What::Reset => {
                let (key, wire) = self.stream();
                match what {
                    What::Read => assert_eq!(wire.push(b"rose"), 4),
                    What::End => wire.fin(),
                    _ => wire.reset(),
                }
                (key, Some(wire))
            }
            What::Room => {
                let (key, wire) = self.stream();
                assert_eq!(self.driver.write(key, &mut outbox(1 << 20)), WriteOutcome::Blocked);
                wire.take();
                (key, Some(wire))
            }
            What::Sent => {
                let (key, wire) = self.stream();
                let outcome = self.driver.write(key, &mut outbox(10));
                assert_eq!(outcome, WriteOutcome::Taken(10));
                (key, Some(wire))
            }
            What::Datagram => {
                let (key, to) = self.datagrams(&DatagramOptions::default());
                let (sender, _) = self.datagrams(&DatagramOptions::default());
                let sent = self.driver.send_datagrams(sender, &mut queue(1, &to));
                assert!(matches!(sent, DatagramsSent::All));
                (key, None)
            }
            What::DatagramError => {
                let nobody = Address::udp((Ipv4Addr::LOCALHOST, 9));
                let (key, _) = self.datagrams(&DatagramOptions::default().peer(nobody.clone()));
                let _ = self.driver.send_datagrams(key, &mut queue(1, &nobody));
                (key, None)
            }
            What::DatagramRoom => {
                let nobody = Address::udp((Ipv4Addr::LOCALHOST, 9));
                let (key, _) = self.datagrams(&DatagramOptions::default());
                let sent = self.driver.send_datagrams(key, &mut queue(99, &nobody));
                assert!(matches!(sent, DatagramsSent::Blocked));
                (key, None)
            }
        };
        self.wait();
        (key, wire)
    }
}

/// The events that this manner reports.
fn events_of(manner: Manner) -> Vec<What> {
    use What::{
        Accept, Connect, Datagram, DatagramError, DatagramRoom, End, FailedConnect, Read, Reset,
        Room, Sent,
    };
    let mut all = vec![Accept, Connect, FailedConnect, Read, End, Reset, Datagram, DatagramError];
    match manner {
        Manner::Readiness => all.push(Room),
        Manner::Completion => all.extend([Sent, DatagramRoom]),
    }
    all
}

fn is_of(event: &Event, what: What, key: Key) -> bool {
    match (what, event) {
        (What::Accept, Event::Accepted { port, .. }) => *port == key,
        (What::Connect, Event::Connected { key: connected, .. }) => *connected == key,
        (What::FailedConnect | What::Reset, Event::Failed(failed, _)) => *failed == key,
        (What::Read, Event::Received(other)) | (What::End, Event::Ended(other)) => *other == key,
        (What::Room | What::DatagramRoom, Event::Room(other)) => *other == key,
        (What::Sent, Event::Sent(other, n)) => *other == key && (1..=10).contains(n),
        (What::Datagram, Event::Datagram { key: port, more: false }) => *port == key,
        (What::DatagramError, Event::DatagramError(port, error)) => {
            *port == key && error.kind() == io::ErrorKind::ConnectionRefused
        }
        _ => false,
    }
}

#[test]
fn each_event_is_reported_once_in_its_turn() {
    for manner in MANNERS {
        for what in events_of(manner) {
            let mut rig = Rig::new(manner);
            let (key, _wire) = rig.prepare(what);
            let event = rig.driver.next().expect("an event");
            assert!(is_of(&event, what, key), "{what:?}: {event:?}");
            let next = rig.driver.next();
            assert!(next.is_none() && !rig.driver.has_more(), "{what:?}: {next:?}");
        }
    }
}

#[test]
fn a_key_closed_in_the_turn_of_its_event_reports_nothing() {
    for manner in MANNERS {
        for what in events_of(manner) {
            let mut rig = Rig::new(manner);
            let (key, wire) = rig.prepare(what);
            rig.driver.close(key, CloseMode::Normal);
            let next = rig.driver.next();
            assert!(next.is_none(), "{what:?}: {next:?}");
            for _ in 0..9 {
                rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
                let next = rig.driver.next();
                assert!(next.is_none(), "{what:?}: {next:?}");
            }
            if let Some(wire) = wire {
                // A port resets the connections of its queue, and a close those with input.
                let is_ended = wire.saw_reset() || wire.saw_fin() || wire.waiting() > 0;
                assert!(is_ended || what == What::Reset, "{what:?}");
            }
        }
    }
}

#[test]
fn a_key_paused_in_the_turn_of_its_event_reports_it_on_resume() {
    for manner in MANNERS {
        for what in [What::Accept, What::Read, What::Datagram] {
            let mut rig = Rig::new(manner);
            let (key, _wire) = rig.prepare(what);
            rig.driver.receive(key, false);
            for _ in 0..9 {
                let next = rig.driver.next();
                assert!(next.is_none(), "{what:?}: {next:?}");
                rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
            }
            rig.driver.receive(key, true);
            let event = rig.event();
            assert!(is_of(&event, what, key), "{what:?}: {event:?}");
        }
    }
}

#[test]
fn a_forgotten_lookup_or_job_is_not_reported_and_the_others_are() {
    type Call = fn(&mut Memory, Ticket);
    let kinds: [(Call, Call); 2] = [
        (
            |driver, ticket| driver.resolve(ticket, "localhost"),
            |driver, ticket| {
                driver.forget(ticket);
            },
        ),
        (
            |driver, ticket| driver.run_blocking(ticket, Box::new(|| ())),
            |driver, ticket| {
                driver.forget_job(ticket);
            },
        ),
    ];
    let cases = kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
    for ((begin, forget), is_done) in cases {
        for forgotten in 1..=3 {
            let mut rig = Rig::new(Manner::Readiness);
            (1..=3).for_each(|n| begin(&mut rig.driver, Ticket(n)));
            if is_done {
                rig.wait();
            }
            forget(&mut rig.driver, Ticket(forgotten));
            let reported = [(); 2].map(|()| match rig.event() {
                Event::Resolved(ticket, _) | Event::JobDone(ticket) => ticket.0,
                other => panic!("{other:?}"),
            });
            assert!(rig.driver.next().is_none(), "{forgotten} is reported");
            let expected: Vec<u64> = (1..=3).filter(|n| *n != forgotten).collect();
            assert_eq!(reported[..], expected);
        }
    }
}

#[test]
fn a_lookup_ends_at_its_time_and_a_forgotten_one_delays_no_wait() {
    let mut rig = Rig::new(Manner::Readiness);
    for (seconds, name) in [(1, "one"), (2, "two"), (3, "three")] {
        let address = IpAddr::from([10, 0, 0, seconds as u8]);
        rig.network.set_name(name, Duration::from_secs(seconds), Ok(vec![address]));
        rig.driver.resolve(Ticket(seconds), name);
    }
    rig.driver.forget(Ticket(1));
    for seconds in [2, 3] {
        let Event::Resolved(ticket, Ok(found)) = rig.event() else { panic!("not found") };
        assert_eq!((ticket, found), (Ticket(seconds), vec![[10, 0, 0, seconds as u8].into()]));
        assert_eq!(rig.network.elapsed(), Duration::from_secs(seconds));
    }
    assert!(rig.driver.wait(None).is_err(), "nothing is left");
}

#[test]
fn a_connect_comes_from_the_address_that_it_is_bound_to() {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let (other_v4, other_v6) = (IpAddr::from([127, 0, 0, 2]), "fd00::2".parse().expect("one"));
    for is_held in [false, true] {
        for (to, from, expected) in [
            (v4, None, (v4, None)),
            (v6, None, (v6, None)),
            (v4, Some((other_v4, 0)), (other_v4, None)),
            (v6, Some((other_v6, 0)), (other_v6, None)),
            (v4, Some((other_v4, 4000)), (other_v4, Some(4000))),
            (v6, Some((other_v6, 4000)), (other_v6, Some(4000))),
            (v4, Some((v4, 65_535)), (v4, Some(65_535))),
        ] {
            let mut rig = Rig::new(Manner::Readiness);
            let to = at(to, 7);
            let options = match from {
                None => ConnectOptions::default(),
                Some(from) => ConnectOptions::default().bind(from.into()),
            };
            if is_held {
                rig.network.hold_connects();
            } else {
                rig.network.listen(to.clone(), 1).expect("a free port");
            }
            let key = rig.driver.connect(&to, &options).expect("a route");
            let wire = if is_held { rig.network.complete(key) } else { None };
            let Event::Connected { host, .. } = rig.event() else { panic!("not connected") };
            let wire = wire.or_else(|| rig.network.accept(to.clone())).expect("its far end");
            assert_eq!(wire.address(), to);
            assert_eq!(host.ip(), Some(expected.0));
            match expected.1 {
                Some(port) => assert_eq!(host.port(), Some(port), "{from:?}"),
                None => assert!(host.port() >= Some(10_000), "{host:?}"),
            }
        }
    }
}

#[test]
fn free_ports_begin_again_after_the_last_one_and_skip_those_that_are_taken() {
    let rig = Rig::new(Manner::Readiness);
    rig.network.net.borrow_mut().next_port = 65_533;
    for taken in [65_534, 10_001] {
        rig.network.listen(at(Ipv4Addr::LOCALHOST, taken), 1).expect("a free port");
    }
    let host = Address::udp((Ipv4Addr::LOCALHOST, 10_002));
    let _datagrams = rig.network.bind_datagrams(&host, &DatagramOptions::default());
    let ports = [(); 4].map(|()| rig.network.net.borrow_mut().free_port());
    assert_eq!(ports, [65_533, 65_535, 10_000, 10_003]);
}

/// Ports of both kinds, each at another address.
#[test]
fn a_port_is_reached_at_its_address_and_its_families() {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let (any_v4, any_v6) = (Ipv4Addr::UNSPECIFIED.into(), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    let other = IpAddr::from([127, 0, 0, 2]);
    for (bound, is_dual, reached) in [
        (v4, true, [true, false, false]),
        (v6, true, [false, false, true]),
        (any_v4, true, [true, true, false]),
        (any_v6, true, [true, true, true]),
        (any_v6, false, [false, false, true]),
    ] {
        for (ip, is_reached) in [v4, other, v6].into_iter().zip(reached) {
            for (port, is_reached) in [(7, is_reached), (8, false)] {
                let mut rig = Rig::new(Manner::Readiness);
                let options = ListenOptions::default().dual_stack(is_dual);
                let _bound = rig.network.bind(&at(bound, 7), &options).expect("a free port");
                let to = at(ip, port);
                let connected = rig.network.connect(to.clone()).is_ok();
                assert_eq!(connected, is_reached, "{to} at {bound}, {is_dual}");

                let options = DatagramOptions::default().dual_stack(is_dual);
                let host = Address::udp((bound, 7));
                let bound = rig.network.bind_datagrams(&host, &options).expect("a free port");
                let _port = rig.driver.listen(bound).expect("a port");
                let (sender, _) = rig.datagrams(&DatagramOptions::default());
                let to = Address::udp((ip, port));
                let _ = rig.driver.send_datagrams(sender, &mut queue(1, &to));
                rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
                let received = matches!(rig.driver.next(), Some(Event::Datagram { .. }));
                assert_eq!(received, is_reached, "{to} at {host}, {is_dual}");
            }
        }
    }
}

#[test]
fn datagrams_come_from_the_chosen_the_bound_or_the_local_address() {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let (any_v4, any_v6) = (Ipv4Addr::UNSPECIFIED.into(), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    let other = IpAddr::from([127, 0, 0, 2]);
    for (bound, to, chosen, expected) in [
        (any_v4, v4, None, v4),
        (any_v6, v6, None, v6),
        (any_v6, v4, None, v4),
        (other, v4, None, other),
        (any_v4, v4, Some(other), other),
        (other, v4, Some(v4), v4),
    ] {
        let mut rig = Rig::new(Manner::Readiness);
        for (ip, port) in [(to, 7), (bound, 9)] {
            let host = Address::udp((ip, port));
            let bound = rig.network.bind_datagrams(&host, &DatagramOptions::default());
            let key = rig.driver.listen(bound.expect("a free port")).expect("a port");
            if port == 9 {
                let mut out = DatagramQueue::default();
                out.push(b"x", Some(Address::udp((to, 7))), chosen);
                let _ = rig.driver.send_datagrams(key, &mut out);
            }
        }
        assert!(matches!(rig.event(), Event::Datagram { .. }));
        let datagram = rig.driver.datagram();
        assert_eq!((datagram.from, datagram.to), (Address::udp((expected, 9)), Some(to)));
    }
}

#[test]
fn a_batch_of_datagrams_ends_and_the_rest_follows_in_the_next_turn() {
    let mut rig = Rig::new(Manner::Readiness);
    let (_port, to) = rig.datagrams(&DatagramOptions::default());
    let (sender, _) = rig.datagrams(&DatagramOptions::default());
    let _ = rig.driver.send_datagrams(sender, &mut queue(100, &to));
    let mut seen = Vec::new();
    for count in [64, 36] {
        rig.driver.wait(None).expect("they came");
        for n in 1..=count {
            let Some(Event::Datagram { more, .. }) = rig.driver.next() else { panic!("none") };
            assert_eq!(more, n < count, "{n} of {count}");
            seen.extend_from_slice(rig.driver.datagram().data);
        }
        assert!(rig.driver.next().is_none());
    }
    assert_eq!(seen, (0..100).collect::<Vec<u8>>());
}

#[test]
fn a_datagram_port_receives_only_from_its_peer_and_frees_its_number_on_close() {
    let mut rig = Rig::new(Manner::Readiness);
    let (friend, friend_host) = rig.datagrams(&DatagramOptions::default());
    let (stranger, _) = rig.datagrams(&DatagramOptions::default());
    let (port, to) = rig.datagrams(&DatagramOptions::default().peer(friend_host.clone()));
    for (sender, is_heard) in [(stranger, false), (friend, true), (stranger, false)] {
        let _ = rig.driver.send_datagrams(sender, &mut queue(1, &to));
        rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
        let event = rig.driver.next();
        assert_eq!(event.is_some(), is_heard, "{event:?}");
        if event.is_some() {
            assert_eq!(rig.driver.datagram().from, friend_host);
        }
    }
    // The port number is free again.
    rig.driver.close(port, CloseMode::Normal);
    rig.network.bind_datagrams(&to, &DatagramOptions::default()).expect("a free port");
}

#[test]
fn a_full_datagram_port_takes_the_rest_as_it_has_room() {
    let mut rig = Rig::new(Manner::Completion);
    let (_port, to) = rig.datagrams(&DatagramOptions::default());
    let (sender, _) = rig.datagrams(&DatagramOptions::default());
    let mut out = queue(50, &to);
    // Sends as much as fits; a full port then takes nothing.
    let mut send = |rig: &mut Rig| {
        let left = out.len();
        let sent = rig.driver.send_datagrams(sender, &mut out);
        assert!(out.len() < left, "there is room");
        let left = out.len();
        let is_blocked = matches!(sent, DatagramsSent::Blocked);
        if is_blocked {
            let sent = rig.driver.send_datagrams(sender, &mut out);
            assert!(matches!(sent, DatagramsSent::Blocked) && out.len() == left);
        }
        is_blocked
    };
    let mut is_blocked = send(&mut rig);
    let mut seen = Vec::new();
    while seen.len() < 50 {
        match rig.event() {
            Event::Room(key) if key == sender => {
                assert!(is_blocked, "room is reported once");
                is_blocked = send(&mut rig);
            }
            Event::Datagram { .. } => seen.extend_from_slice(rig.driver.datagram().data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
}

/// The network keeps nothing for a closed port or for connections without a handle.
#[test]
fn a_port_that_closes_resets_each_connection_of_its_queue_and_leaves_nothing() {
    for manner in MANNERS {
        let mut rig = Rig::new(manner);
        for is_served in [false, true, true] {
            let bound = rig.network.bind(&at(Ipv4Addr::LOCALHOST, 0), &ListenOptions::default());
            let bound = bound.expect("a free port");
            let host = bound.host.clone();
            let wires = [(); 3].map(|()| rig.network.connect(host.clone()).expect("room"));
            match is_served {
                false => drop(bound),
                true => {
                    let key = rig.driver.listen(bound).expect("a port");
                    rig.driver.close(key, CloseMode::Normal);
                }
            }
            assert!(wires.iter().all(Wire::saw_reset), "{manner:?}");
            assert!(rig.network.connect(host).is_err(), "nobody listens");
            wires.iter().for_each(Wire::close);
            drop(wires);
            assert!(rig.network.net.borrow().links.is_empty(), "{manner:?}");
            // The slots are free when the operations have completed.
            for _ in 0..4 {
                rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
            }
            assert_eq!(rig.network.slots_in_use(), 0, "{manner:?}");
        }
    }
}

#[test]
fn a_held_connect_that_is_given_up_is_reset_also_when_it_was_completed() {
    let mut rig = Rig::new(Manner::Readiness);
    rig.network.hold_connects();
    for _ in 0..2 {
        let connect = |rig: &mut Rig, port: u16| {
            let to = at(Ipv4Addr::LOCALHOST, port);
            rig.driver.connect(&to, &ConnectOptions::default()).expect("a route")
        };
        let keys = [1, 2, 3].map(|port| connect(&mut rig, port));
        let wires = [0, 1].map(|n| rig.network.complete(keys[n]).expect("it is held"));
        assert_eq!(wires.each_ref().map(Wire::address), [1, 2].map(|n| at(Ipv4Addr::LOCALHOST, n)));
        assert!(rig.network.complete(keys[0]).is_none(), "once");
        // One before its event, and one that was not answered.
        rig.driver.close(keys[0], CloseMode::Normal);
        rig.driver.close(keys[2], CloseMode::Normal);
        assert!(wires[0].saw_reset() && !wires[1].saw_reset());
        assert!(!rig.network.is_held(keys[2]) && rig.network.complete(keys[2]).is_none());
        let Event::Connected { key, .. } = rig.event() else { panic!("not connected") };
        assert_eq!(key, keys[1]);
        rig.driver.close(key, CloseMode::Normal);
        assert!(wires[1].saw_fin() && rig.driver.next().is_none());
        // Also in the turn of its event.
        let key = connect(&mut rig, 4);
        let wire = rig.network.complete(key).expect("it is held");
        rig.wait();
        rig.driver.close(key, CloseMode::Reset);
        assert!(wire.saw_reset() && rig.driver.next().is_none());
        // One fails, beside another.
        let keys = [5, 6].map(|port| connect(&mut rig, port));
        assert!(rig.network.fail(keys[0], io::ErrorKind::TimedOut.into()));
        assert!(!rig.network.fail(keys[0], io::ErrorKind::TimedOut.into()), "once");
        assert!(matches!(rig.event(), Event::Failed(key, _) if key == keys[0]));
        assert!(rig.network.is_held(keys[1]));
        keys.iter().for_each(|key| rig.driver.close(*key, CloseMode::Normal));
    }
}

#[test]
fn each_name_has_its_own_address_while_connects_are_held() {
    let rig = Rig::new(Manner::Readiness);
    rig.network.hold_connects();
    let mut look_up = |name: &str| rig.network.net.borrow_mut().look_up(name).1.expect("any name");
    let found = ["rose", "lily", "rose", "localhost", "iris"].map(&mut look_up);
    assert_eq!(found[0], found[2]);
    let mut all: Vec<_> = found.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "{found:?}");
    assert_eq!(found[3], [IpAddr::from(Ipv4Addr::LOCALHOST)]);
}

#[test]
fn things_that_happen_together_are_all_reported_in_one_turn() {
    let mut rig = Rig::new(Manner::Readiness);
    for round in 0..2 {
        let takes = Duration::from_secs(5);
        for (n, name) in (1..).zip(["one", "two", "three"]) {
            rig.network.set_name(name, takes, Err(io::ErrorKind::TimedOut));
            rig.driver.resolve(Ticket(n), name);
        }
        rig.driver.run_blocking(Ticket(9), Box::new(|| ()));
        for signal in [Signal::Interrupt, Signal::User1, Signal::Interrupt] {
            rig.network.signal(signal);
        }
        let mut seen = Vec::new();
        while seen.len() < 7 {
            rig.driver.wait(None).expect("something happens");
            let before = seen.len();
            while let Some(event) = rig.driver.next() {
                seen.push(match event {
                    Event::Signal(signal) => format!("{signal:?}"),
                    Event::JobDone(ticket) => format!("job {}", ticket.0),
                    Event::Resolved(ticket, Err(_)) => format!("name {}", ticket.0),
                    other => panic!("{other:?}"),
                });
            }
            assert!(before == 0 && seen.len() == 4 || seen.len() == 7, "{seen:?}");
        }
        let signals = ["job 9", "Interrupt", "User1", "Interrupt"];
        assert_eq!(seen[..4], signals, "round {round}");
        assert_eq!(seen[4..], ["name 1", "name 2", "name 3"]);
        assert_eq!(rig.network.elapsed(), takes * (round + 1));
    }
}

#[test]
fn the_waits_without_progress_are_limited_and_counted_anew_after_each_progress() {
    let mut rig = Rig::new(Manner::Readiness);
    rig.network.set_limits(Duration::from_secs(100), 3);
    let now = |rig: &Rig| Some(rig.network.now());
    for _ in 0..3 {
        for _ in 0..3 {
            rig.driver.wait(now(&rig)).expect("so many are allowed");
        }
        rig.network.advance(Duration::ZERO);
        rig.driver.wait(now(&rig)).expect_err("one too many");
        assert!(rig.network.take_standstill() == Some(Standstill::BusyLoop));
        assert!(rig.network.take_standstill().is_none(), "once");
        rig.network.advance(Duration::from_secs(1));
    }
    rig.network.set_limits(Duration::from_secs(10), 3);
    rig.driver.wait(Some(rig.network.now() + Duration::from_secs(7))).expect("the last second");
    assert_eq!(rig.network.elapsed(), Duration::from_secs(10));
    let late = rig.network.now() + Duration::from_nanos(1);
    rig.driver.wait(Some(late)).expect_err("too long");
    assert!(rig.network.take_standstill() == Some(Standstill::TooLong));
    rig.driver.wait(None).expect_err("nothing can happen");
    assert!(rig.network.take_standstill() == Some(Standstill::Stalled));
    assert_eq!(rig.network.elapsed(), Duration::from_secs(10), "an error takes no time");
}

#[test]
fn a_socket_queues_256_datagrams_and_each_member_of_a_group_has_its_own_queue() {
    let mut rig = Rig::new(Manner::Readiness);
    let group = IpAddr::from([239, 1, 1, 1]);
    let any = Address::udp((Ipv4Addr::UNSPECIFIED, 7));
    let options = DatagramOptions::default().reuse_addr(true);
    let members = [(); 3].map(|()| {
        let bound = rig.network.bind_datagrams(&any, &options).expect("it is shared");
        let key = rig.driver.listen(bound).expect("a port");
        rig.driver.set_membership(key, &group.into(), Membership::Join).expect("a group");
        rig.driver.receive(key, false);
        key
    });
    rig.driver.set_membership(members[2], &group.into(), Membership::Leave).expect("a member");
    let (sender, _) = rig.datagrams(&DatagramOptions::default());
    let to = Address::udp((group, 7));
    for round in 0..2 {
        let mut out = DatagramQueue::default();
        (0..300_u32).for_each(|n| out.push(&n.to_be_bytes(), Some(to.clone()), None));
        assert!(matches!(rig.driver.send_datagrams(sender, &mut out), DatagramsSent::All));
        for key in members {
            rig.driver.receive(key, true);
            let mut seen = Vec::new();
            for _ in 0..5 {
                rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
                while let Some(event) = rig.driver.next() {
                    assert!(matches!(event, Event::Datagram { key: of, .. } if of == key));
                    seen.extend_from_slice(rig.driver.datagram().data);
                }
            }
            rig.driver.receive(key, false);
            let queued = if key == members[2] { 0 } else { 256 };
            let first: Vec<u8> = (0..queued).flat_map(u32::to_be_bytes).collect();
            assert!(seen == first, "round {round}: {} bytes", seen.len());
        }
    }
}

#[test]
fn a_refusal_is_reported_each_time_and_names_of_ports_differ() {
    let mut rig = Rig::new(Manner::Readiness);
    let nobody = Address::udp((Ipv4Addr::LOCALHOST, 9));
    let (key, _) = rig.datagrams(&DatagramOptions::default().peer(nobody));
    for _ in 0..3 {
        // Two refusals before the first is reported are one.
        for _ in 0..2 {
            let mut out = DatagramQueue::default();
            out.push(b"x", None, None);
            let _ = rig.driver.send_datagrams(key, &mut out);
        }
        assert!(matches!(rig.event(), Event::DatagramError(of, _) if of == key));
        rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
        assert!(rig.driver.next().is_none());
    }
    let unnamed = Address::Unix(crate::address::UnixAddress::Unnamed);
    let names = [(); 3].map(|()| {
        let bound = rig.network.bind_datagrams(&unnamed, &DatagramOptions::default());
        bound.expect("a free name").host
    });
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
}

#[test]
fn a_locked_file_is_free_again_when_its_own_lock_is_dropped() {
    let rig = Rig::new(Manner::Readiness);
    let lock = |path: &str| rig.network.lock_file(std::path::Path::new(path)).expect("files");
    for _ in 0..2 {
        let (one, two) = (lock("/one"), lock("/two"));
        assert!(one.is_some() && two.is_some());
        assert!(lock("/one").is_none() && lock("/two").is_none());
        drop(one);
        assert!(lock("/two").is_none(), "the other one stays");
        assert!(lock("/one").is_some(), "a lock that is not kept is none");
        drop(two);
    }
}

#[test]
fn a_port_accepts_all_that_wait_in_one_turn_in_order_and_again_after_a_pause() {
    for manner in MANNERS {
        let mut rig = Rig::new(manner);
        let (port, host) = rig.listen();
        for count in [3, 1, 4] {
            rig.driver.receive(port, false);
            let wires: Vec<_> =
                (0..count).map(|_| rig.network.connect(host.clone()).expect("room")).collect();
            rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
            assert!(rig.driver.next().is_none(), "it is paused");
            rig.driver.receive(port, true);
            rig.driver.wait(Some(rig.network.now())).expect("memory does not fail");
            let accepted = std::iter::from_fn(|| rig.driver.next()).map(|event| match event {
                Event::Accepted { port: at, peer, .. } if at == port => peer,
                other => panic!("{other:?}"),
            });
            let accepted: Vec<Address> = accepted.collect();
            assert_eq!(accepted, wires.iter().map(Wire::address).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_queue_of_the_network_takes_one_more_than_its_backlog_each_time() {
    let rig = Rig::new(Manner::Readiness);
    let host = rig.network.listen(at(Ipv4Addr::LOCALHOST, 0), 2).expect("a free port");
    for _ in 0..2 {
        let wires = [(); 4].map(|()| rig.network.connect(host.clone()).map_err(|it| it.kind()));
        let full = wires.each_ref().map(|wire| wire.as_ref().err().copied());
        assert_eq!(full, [None, None, None, Some(io::ErrorKind::WouldBlock)]);
        // The room of one is for one.
        let far = rig.network.accept(host.clone()).expect("one waits");
        assert!(rig.network.connect(host.clone()).is_ok());
        assert!(rig.network.connect(host.clone()).is_err(), "it is full again");
        drop(far);
        while rig.network.accept(host.clone()).is_some() {}
    }
    assert!(rig.network.listen(host, 2).is_err(), "the address is taken");
}
