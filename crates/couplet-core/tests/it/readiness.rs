//! Edge-triggered readiness: when one edge covers several events, the mio driver loses none.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::{Loop, Protocol, Transport};
use couplet_core::driver::{
    CloseMode, Commands, ConnectOptions, Driver, Event, Key, ListenOptions, Mio, Outbox,
    WriteOutcome,
};

use couplet_testkit_loops::PATIENCE;

use crate::suite::kit::LOOPBACK;
use crate::suite::peer::{B, Ground, PeerPort};

#[derive(Clone, Default)]
struct Got {
    bytes: Rc<RefCell<Vec<u8>>>,
    ended: Rc<Cell<bool>>,
}

impl Protocol for Got {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.bytes.borrow_mut().extend_from_slice(data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.ended.set(true);
        transport.lose_connection();
    }
}

#[test]
fn data_and_eof_that_arrive_with_the_connect_are_both_reported() {
    let peer = PeerPort::new(&Ground::Sockets, &LOOPBACK.into());
    let mut l = Loop::new().expect("a loop");
    let got = Got::default();
    let protocol = got.clone();
    l.reactor()
        .connect(("127.0.0.1", peer.address().port().expect("TCP")), move || protocol.clone())
        .detach();
    l.turn(Some(Duration::ZERO)).expect("the connect begins");
    // Everything arrives before the loop polls again: one edge covers connect, data and EOF.
    let peer = std::iter::repeat_with(|| peer.accept())
        .take(1000)
        .flatten()
        .next()
        .expect("the loop connects");
    peer.send(b"a poem");
    peer.fin();
    for _ in 0..10 {
        l.turn(Some(Duration::from_millis(20))).expect("a turn");
    }
    assert_eq!(*got.bytes.borrow(), b"a poem");
    assert!(got.ended.get(), "EOF is reported too");
}

fn listen(driver: &mut Mio) -> SocketAddr {
    let any = couplet::Address::from(SocketAddr::from(([127, 0, 0, 1], 0)));
    let bound = driver.world().bind(&any, &ListenOptions::default()).expect("a free port");
    let to = bound.host.socket_addr().expect("an address");
    driver.listen(bound).expect("it listens");
    to
}

/// The next connection that the driver accepts.
fn accepted(driver: &mut Mio) -> Key {
    let late = driver.world().now() + PATIENCE;
    while driver.world().now() < late {
        while let Some(event) = driver.next() {
            if let Event::Accepted { key, .. } = event {
                return key;
            }
        }
        let soon = driver.world().now() + Duration::from_millis(20);
        driver.wait(Some(soon)).expect("it waits");
    }
    panic!("no connection comes");
}

#[test]
fn a_stale_key_does_not_affect_the_connection_in_its_slot() {
    let mut driver = Mio::new(4096).expect("a driver");
    let to = listen(&mut driver);
    let _first = B::connect(to.into(), &Ground::Sockets).expect("it listens");
    let before = accepted(&mut driver);
    driver.close(before, CloseMode::Normal);
    let second = B::connect(to.into(), &Ground::Sockets).expect("it listens");
    driver.wait(None).expect("it waits");
    let now = accepted(&mut driver);
    assert_eq!(before.slot, now.slot, "the slot is reused");
    driver.receive(before, false);
    driver.shut_write(before);
    driver.close(before, CloseMode::Reset);
    second.send(b"a poem");
    driver.wait(None).expect("it waits");
    let event = driver.next();
    assert!(matches!(event, Some(Event::Received(key)) if key == now), "{event:?}");
    assert_eq!(driver.lent(now), b"a poem");
}

#[test]
fn a_closed_connections_edge_never_counts_for_the_next_one_in_its_slot() {
    let mut driver = Mio::new(4096).expect("a driver");
    let to = listen(&mut driver);
    let first = B::connect(to.into(), &Ground::Sockets).expect("it listens");
    let before = accepted(&mut driver);
    // One wait reports the next connection, then the first one's EOF.
    let _second = B::connect(to.into(), &Ground::Sockets).expect("it listens");
    first.fin();
    driver.wait(None).expect("it waits");
    driver.close(before, CloseMode::Normal);
    let now = accepted(&mut driver);
    while driver.next().is_some() {}
    assert!(!driver.peer_has_ended(now), "its peer has not sent a FIN");
}

#[test]
fn a_shrinking_table_drops_pending_rechecks() {
    if !crate::apart::allow_descriptors(1024) {
        return;
    }
    const ENOUGH_TO_SHRINK: usize = 256;
    let mut driver = Mio::new(4096).expect("a driver");
    let peer = PeerPort::new(&Ground::Sockets, &LOOPBACK.into());
    let to = peer.address();
    let options = ConnectOptions::default();
    let connect = |driver: &mut Mio| driver.connect(&to, &options).expect("the connect begins");
    let keys: Vec<Key> = (0..ENOUGH_TO_SHRINK).map(|_| connect(&mut driver)).collect();
    // New connections are rechecked in the next turn: data may have arrived with them.
    driver.wait(None).expect("it waits");
    let connected = std::iter::from_fn(|| driver.next().map(|event| format!("{event:?}")));
    assert!(connected.filter(|event| event.starts_with("Connected")).count() > 0);
    for key in keys {
        driver.close(key, CloseMode::Normal);
    }
    driver.wait(Some(driver.world().now())).expect("it does not wait");
    assert!(driver.next().is_none());
    assert_eq!(connect(&mut driver).slot, 0, "the table is empty");
}

#[test]
fn one_write_sends_a_bounded_part_of_many_pieces_and_the_rest_follows() {
    const SEND_LIMIT: usize = 512 * 1024;
    const PIECE: &[u8] = &[7; 8 * 1024];
    let mut driver = Mio::new(4096).expect("a driver");
    let to = listen(&mut driver);
    let _peer = B::connect(to.into(), &Ground::Sockets).expect("it listens");
    let key = accepted(&mut driver);
    let mut outbox = Outbox::new(Rc::default());
    for _ in 0..200 {
        outbox.push(PIECE.into());
    }
    let before = outbox.len();
    // The peer does not read, and the system's buffers hold more than the limit.
    assert_eq!(driver.write(key, &mut outbox), WriteOutcome::Blocked);
    assert_eq!(before - outbox.len(), SEND_LIMIT);
    driver.wait(Some(driver.world().now())).expect("it does not wait");
    let event = driver.next();
    assert!(matches!(event, Some(Event::Room(at)) if at == key), "{event:?}");
    assert_ne!(driver.write(key, &mut outbox), WriteOutcome::Taken(0));
    assert!(before - outbox.len() > SEND_LIMIT, "it goes on in the next turn");
}
