//! Contract 155–160e: ports of datagrams.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::{
    Address, Datagram, DatagramEndpoint, DatagramOptions, DatagramPort, DatagramProtocol,
    DatagramTransport, Group, PortStopped, SendError, SocketOption, UnixAddress,
};

use super::kit::{Kit, LOOPBACK, Rig, own_address};
use super::recorder::Log;
use crate::needed::has_ipv6;

type Act = Box<dyn FnMut(&DatagramTransport, &Datagram<'_>)>;

/// The bytes of a datagram, and its sender.
type Got = (Vec<u8>, Address);

/// A protocol that records its datagrams, and acts on them.
#[derive(Clone, Default)]
pub(super) struct Far {
    log: Log,
    got: Rc<RefCell<Vec<Got>>>,
    act: Rc<RefCell<Option<Act>>>,
}

impl Far {
    fn acting(act: impl FnMut(&DatagramTransport, &Datagram<'_>) + 'static) -> Far {
        Far { act: Rc::new(RefCell::new(Some(Box::new(act)))), ..Far::default() }
    }

    fn echo() -> Far {
        Far::acting(|transport, datagram| {
            transport.answer(datagram, datagram.data).expect("it can be answered");
        })
    }

    pub(super) fn count(&self) -> usize {
        self.got.borrow().len()
    }

    fn data(&self) -> Vec<Vec<u8>> {
        self.got.borrow().iter().map(|(data, _)| data.clone()).collect()
    }

    fn senders(&self) -> Vec<Address> {
        self.got.borrow().iter().map(|(_, from)| from.clone()).collect()
    }
}

impl DatagramProtocol for Far {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        assert!(transport.is_listening());
        self.log.note("start");
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self.got.borrow_mut().push((datagram.data.to_vec(), datagram.from.clone()));
        let cut = if datagram.cut { ", cut" } else { "" };
        self.log.note(format!("datagram({}{cut})", datagram.data.len()));
        let act = self.act.borrow_mut().take();
        if let Some(mut act) = act {
            act(transport, datagram);
            self.act.borrow_mut().get_or_insert(act);
        }
    }

    fn connection_refused(&mut self, _: &DatagramTransport) {
        self.log.note("refused");
    }

    fn stop_protocol(&mut self, transport: &DatagramTransport) {
        assert!(!transport.is_listening());
        self.log.note("stop");
    }
}

/// Two ports of a fresh loop; `far` is the protocol of the second.
fn pair(kit: Kit, far: Far) -> (Rig, DatagramPort<Far>, DatagramPort<Far>, Far) {
    let mut rig = kit.rig();
    let [a, b] = [Far::default(), far.clone()].map(|far| plain(&rig, far));
    rig.turn();
    (rig, a, b, far)
}

fn plain<P: DatagramProtocol>(rig: &Rig, protocol: P) -> DatagramPort<P> {
    rig.datagrams(DatagramOptions::default(), protocol)
}

fn send<P: DatagramProtocol>(
    from: &DatagramPort<P>,
    to: Address,
    data: impl IntoIterator<Item: AsRef<[u8]>>,
) {
    for data in data {
        from.send_to(data.as_ref(), to.clone()).expect("there is room");
    }
}

pub(crate) fn c155_each_datagram_is_one_call_even_an_empty_one(kit: Kit) {
    let (mut rig, a, b, far) = pair(kit, Far::default());
    let sent: Vec<Vec<u8>> = [0, 1, 512, 9000, 0, 3].map(|n| vec![n as u8; n]).to_vec();
    send(&a, b.host(), &sent);
    rig.until("all", || far.count() == sent.len());
    assert_eq!(far.data(), sent);
    assert!(far.senders().iter().all(|from| *from == a.host()), "{:?}", far.senders());
}

pub(crate) fn c155_a_panic_in_a_callback_is_logged_and_the_port_stays_open(kit: Kit) {
    struct Fragile(Far);
    impl DatagramProtocol for Fragile {
        fn start_protocol(&mut self, _: &DatagramTransport) {
            panic!("at the start");
        }
        fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
            self.0.datagram_received(transport, datagram);
            assert_ne!(datagram.data, b"boom", "of a datagram");
        }
        fn stop_protocol(&mut self, _: &DatagramTransport) {
            panic!("at the end");
        }
    }
    let (mut rig, far, log) = (kit.rig(), Far::default(), Log::default());
    let a = plain(&rig, Far::default());
    let b = plain(&rig, Fragile(far.clone()));
    send(&a, b.host(), ["boom", "x", "boom", "y"]);
    rig.until("all", || far.count() == 4);
    log.watch("stopped", b.stop_listening().expect("it is open"));
    rig.until("stopped", || log.has("stopped: ok"));
}

pub(crate) fn c156_a_round_takes_at_most_64_datagrams_of_a_port(kit: Kit) {
    const MANY: usize = 200;
    let (mut rig, a, b, far) = pair(kit, Far::default());
    // A UNIX socket queues few datagrams at its receiver: the others wait until it reads.
    send(&a, b.host(), (0..MANY as u32).map(u32::to_be_bytes));
    let mut most = 0;
    for _ in 0..5_000 {
        let before = far.count();
        rig.turn();
        most = most.max(far.count() - before);
        if far.count() == MANY {
            break;
        }
    }
    rig.until("all", || far.count() == MANY);
    assert!(most <= 64, "{most} in one turn");
    let all: Vec<_> = (0..MANY as u32).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(far.data(), all);
}

pub(crate) fn c156_the_size_can_be_set_and_a_cut_datagram_is_reported(kit: Kit) {
    let (mut rig, far) = (kit.rig(), Far::default());
    let a = plain(&rig, Far::default());
    let b = rig.datagrams(DatagramOptions::default().size(8), far.clone());
    send(&a, b.host(), ["01234567", "012345678", "x"]);
    rig.until("all", || far.count() == 3);
    assert_eq!(far.log.entries(), ["start", "datagram(8)", "datagram(8, cut)", "datagram(1)"]);
    assert_eq!(far.data()[1], b"01234567");
}

pub(crate) fn c157_an_answer_leaves_right_after_the_callback(kit: Kit) {
    let (mut rig, near) = (kit.rig(), Far::default());
    let a = plain(&rig, near.clone());
    let b = plain(&rig, Far::echo());
    rig.turn();
    send(&a, b.host(), ["one", "", "three"]);
    rig.until("all", || near.count() == 3);
    assert_eq!(near.data(), [&b"one"[..], b"", b"three"]);
    assert_eq!((a.buffered(), b.buffered()), (0, 0));
    assert_eq!((a.dropped(), b.dropped()), (0, 0));
}

/// Twice, since a queue that has drained is as empty as a new one.
pub(crate) fn c157_a_datagram_fits_up_to_the_last_byte_of_the_queue_or_is_dropped_and_counted(
    kit: Kit,
) {
    let (mut rig, far) = (kit.rig(), Far::default());
    let a = rig.datagrams(DatagramOptions::default().queue(1000), Far::default());
    let b = plain(&rig, far.clone());
    rig.turn();
    let send = |length: usize| a.send_to(vec![0; length], b.host());
    let (mut sent, mut dropped) = (0, 0);
    for (length, fits) in [(599, true), (600, true), (601, false)].repeat(2) {
        send(400).expect("the queue is empty");
        let refused = Err(SendError::Full { queued: 400 });
        assert_eq!(send(length), if fits { Ok(()) } else { refused }, "{length}");
        // One of no bytes always fits.
        send(0).expect("there are few datagrams");
        let queued = if fits { 400 + length } else { 400 };
        assert_eq!(send(1001 - queued), Err(SendError::Full { queued }));
        dropped += if fits { 1 } else { 2 };
        assert_eq!((a.dropped(), a.buffered()), (dropped, queued));
        sent += 2 + usize::from(fits);
        rig.until("those that fit", || far.count() == sent);
        assert_eq!(a.buffered(), 0);
    }
    // A single datagram may be longer than the queue.
    send(if kit.is_unix() { 1000 } else { 2000 }).expect("the queue is empty");
    rig.until("the long one", || far.count() == sent + 1);
    assert_eq!(a.dropped(), dropped);
}

pub(crate) fn c157_a_datagram_that_is_too_long_or_for_a_wrong_address_is_an_error(kit: Kit) {
    let (mut rig, a, b, far) = pair(kit, Far::default());
    let wrong = |to: Address| {
        let refused = a.send_to("x", to.clone());
        assert_eq!(refused, Err(SendError::WrongAddress { host: a.host(), to }));
    };
    assert_eq!(a.send("x"), Err(SendError::NoPeer));
    if kit.is_unix() {
        let length = 256 * 1024 + 1;
        let most = length - 1;
        let refused = a.send_to(vec![0; length], b.host());
        assert_eq!(refused, Err(SendError::TooLong { length, most }));
        wrong(Address::udp(([127, 0, 0, 1], 9)));
        wrong(UnixAddress::Unnamed.into());
    } else {
        let (length, most) = (65_508, 65_507);
        let with_peer = rig.datagrams(DatagramOptions::default().peer(b.host()), Far::default());
        for refused in [a.send_to(vec![0; length], b.host()), with_peer.send(vec![0; length])] {
            assert_eq!(refused, Err(SendError::TooLong { length, most }));
        }
        wrong(Address::udp(([0, 0, 0, 0, 0, 0, 0, 1], 9)));
        wrong(Address::udp(([127, 0, 0, 1], 0)));
        wrong(UnixAddress::from("/a").into());
        // The longest that fits arrives.
        a.send_to(vec![7; most], b.host()).expect("it fits");
        rig.until("it", || far.count() == 1);
        assert_eq!(far.data()[0].len(), most);
    }
    assert_eq!(a.dropped(), 0);
}

pub(crate) fn c158_a_port_starts_and_stops_in_order(kit: Kit) {
    let (mut rig, far) = (kit.rig(), Far::default());
    let port = plain(&rig, far.clone());
    assert!(port.is_listening() && !far.log.has("start"), "it starts in the turn");
    rig.turn();
    far.log.watch("stopped", port.stop_listening().expect("it is open"));
    far.log.note("returned");
    assert!(port.stop_listening().is_none() && !port.is_listening());
    assert_eq!(port.send_to("x", port.host()), Err(SendError::Stopped));
    rig.until("stopped", || far.log.has("stopped"));
    assert_eq!(far.log.entries(), ["start", "returned", "stop", "stopped: ok"]);
    assert_eq!(Rc::strong_count(&far.got), 1, "the protocol is kept");
    // A port that never started.
    let (far, log) = (Far::default(), Log::default());
    let port = plain(&rig, far.clone());
    log.watch("stopped", port.stop_listening().expect("it is open"));
    rig.until("stopped", || log.has("stopped"));
    assert_eq!((far.log.len(), log.entries()), (0, vec!["stopped: ok".to_owned()]));
}

pub(crate) fn c158_a_port_that_stops_sends_what_waits_and_delivers_nothing(kit: Kit) {
    let (mut rig, a, b, far) = pair(kit, Far::default());
    a.send_to("one", b.host()).expect("there is room");
    drop(a.stop_listening());
    rig.until("one", || far.count() == 1);
    // Stopped in the middle of a batch.
    let a = plain(&rig, Far::default());
    let far = Far::acting(|transport, _| drop(transport.stop_listening()));
    let b = plain(&rig, far.clone());
    send(&a, b.host(), ["x"; 3]);
    rig.until("stop", || far.log.has("stop"));
    rig.turns(5);
    assert_eq!(far.log.entries(), ["start", "datagram(1)", "stop"]);
}

/// Ports may receive into the same buffers.
pub(crate) fn c158_a_port_that_stops_or_pauses_in_a_batch_holds_only_its_own_datagrams(kit: Kit) {
    let acts: [fn(&DatagramTransport); 2] =
        [|port| drop(port.stop_listening()), DatagramTransport::pause_producing];
    for (act, by_another) in acts.into_iter().flat_map(|act| [(act, false), (act, true)]) {
        let (mut rig, other) = (kit.rig(), Far::default());
        let a = plain(&rig, Far::default());
        let c = plain(&rig, other.clone());
        let its = c.clone();
        let first = Far::acting(move |own, _| act(if by_another { &its } else { own }));
        let b = plain(&rig, first.clone());
        rig.turn();
        if by_another {
            send(&a, c.host(), ["other"; 3]);
        }
        send(&a, b.host(), ["one", "two", "three"]);
        if by_another {
            rig.until("all of them", || first.count() == 3);
            assert_eq!(first.data(), [&b"one"[..], b"two", b"three"]);
        } else {
            send(&a, c.host(), ["other"; 3]);
            rig.until("those of the other port", || first.count() == 1 && other.count() == 3);
            rig.turns(5);
            assert_eq!(first.count(), 1);
        }
    }
}

pub(crate) fn two_ports_share_an_address_only_if_both_allow_it(kit: Kit) {
    let rig = kit.rig();
    // The simulator's ports share nothing.
    let is_simulated = kit.has_a_system() && !kit.has_sockets();
    type Share = fn(DatagramOptions, bool) -> DatagramOptions;
    let ways: [Share; 2] = [DatagramOptions::reuse_addr, DatagramOptions::reuse_port];
    for (way, share) in ways.into_iter().enumerate() {
        for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
            let listen = |address, on| {
                let options = share(DatagramOptions::default(), on);
                rig.reactor.listen_datagrams((address, options), Far::default())
            };
            let a = listen(LOOPBACK, first).expect("a free port can be opened");
            let b = listen(a.host().socket_addr().expect("an address"), second);
            let taken = b.as_ref().err().map(|error| error.source.kind());
            let is_taken = !first || !second || is_simulated;
            let wanted = is_taken.then_some(std::io::ErrorKind::AddrInUse);
            assert_eq!(taken, wanted, "{way}, {first}, {second}");
            drop(a.stop_listening());
        }
    }
}

pub(crate) fn c158_a_stopped_reactor_closes_its_ports(kit: Kit) {
    let (mut rig, far) = (kit.rig(), Far::default());
    let port = plain(&rig, far.clone());
    rig.turn();
    rig.stop(Duration::from_millis(1));
    assert_eq!(far.log.entries(), ["start", "stop"]);
    assert!(!port.is_listening() && port.stop_listening().is_none());
    // A port that is dropped with its loop gets no further calls.
    let (far, log) = (Far::default(), Log::default());
    let port = plain(&rig, far.clone());
    rig.turn();
    log.watch("stopped", port.stop_listening().expect("it is open"));
    drop(rig);
    assert_eq!(
        (far.log.entries(), log.entries()),
        (vec!["start".to_owned()], vec!["stopped: failed".to_owned()])
    );
}

/// An address of this row at which no port listens any more.
pub(super) fn vacated(rig: &mut Rig, row: u8) -> SocketAddr {
    let there = rig.reactor.listen_datagrams(own_address(row, 0), Far::default());
    let there = there.expect("a free port can be opened");
    let to = there.host().socket_addr().expect("an address");
    drop(there.stop_listening());
    rig.turns(2);
    to
}

pub(crate) fn c159_a_refusal_is_connection_refused_and_the_port_stays_open(kit: Kit) {
    if kit.is_unix() {
        // A connect to an unused name fails immediately.
        let rig = kit.rig();
        let options = DatagramOptions::default().peer(UnixAddress::from("\0nobody"));
        assert!(
            rig.reactor.listen_datagrams((UnixAddress::from(""), options), Far::default()).is_err()
        );
        return;
    }
    let (mut rig, near, far) = (kit.rig(), Far::default(), Far::default());
    let to = vacated(&mut rig, 159);
    let a = rig
        .reactor
        .listen_datagrams(DatagramEndpoint::to(to), near.clone())
        .expect("there is a route");
    assert_eq!(a.peer(), Some(Address::udp(to)));
    a.send("nobody").expect("there is room");
    rig.until("refused", || near.log.has("refused"));
    assert!(a.is_listening());
    let b = rig.reactor.listen_datagrams(to, Far::echo()).expect("a free port can be opened");
    rig.turn();
    a.send("somebody").expect("there is room");
    rig.until("the echo", || near.count() == 1);
    assert_eq!((near.data(), near.senders()), (vec![b"somebody".to_vec()], vec![b.host()]));
    // Sent to an unused address, from a port without a peer: nothing is reported, and the port
    // stays open.
    let nobody = vacated(&mut rig, 159);
    let c = plain(&rig, far.clone());
    rig.turns(2);
    let before = rig.tapped.datagram_errors.get();
    c.send_to("x", nobody).expect("there is room");
    c.send_to("y", c.host()).expect("there is room");
    rig.until("its own", || far.count() == 1);
    assert_eq!(rig.tapped.datagram_errors.get(), before, "the driver reports none, either");
    assert!(!far.log.has("refused") && c.is_listening());
}

/// A paused port whose peer has closed, with an unread refusal; and the peer's address.
fn refused_in_a_pause(kit: Kit, near: Far) -> (Rig, DatagramPort<Far>, SocketAddr) {
    let (mut rig, other) = (kit.rig(), Far::default());
    let to = vacated(&mut rig, 159);
    let [a, b] = [near, other.clone()].map(|far| {
        rig.reactor.listen_datagrams(DatagramEndpoint::to(to), far).expect("there is a route")
    });
    rig.turn();
    a.pause_producing();
    a.send("nobody").expect("there is room");
    rig.turn();
    // Sent later, and refused later.
    b.send("nobody").expect("there is room");
    rig.until("refused", || other.log.has("refused"));
    (rig, a, to)
}

pub(crate) fn c159_a_refusal_during_a_pause_is_reported_however_many_are_sent_then(kit: Kit) {
    let cases: [&[&str]; 3] = [&["one"], &["one", "two"], &["one", "two", "three", "four"]];
    for sent in cases {
        let near = Far::default();
        let (mut rig, a, _) = refused_in_a_pause(kit, near.clone());
        for data in sent {
            a.send(data).expect("there is room");
        }
        rig.turns(3);
        if kit.has_sockets() && cfg!(target_os = "linux") {
            assert!(near.log.has("refused"), "{sent:?}: the send was refused");
        }
        // On other systems a send may not report the refusal.
        a.resume_producing();
        rig.until("refused", || near.log.has("refused"));
        assert!(a.is_listening() && a.dropped() == 0, "{sent:?}");
    }
}

pub(crate) fn c159_datagrams_behind_a_refusal_are_delivered(kit: Kit) {
    let near = Far::default();
    let (mut rig, a, to) = refused_in_a_pause(kit, near.clone());
    let b = rig.reactor.listen_datagrams(to, Far::default()).expect("a free port can be opened");
    rig.turn();
    send(&b, a.host(), ["one", "two"]);
    rig.turns(3);
    assert_eq!(near.count(), 0, "it is paused");
    a.resume_producing();
    rig.until("both", || near.count() == 2);
    assert!(near.log.has("refused") && a.is_listening());
}

pub(crate) fn c159_refusals_drop_nothing_unless_two_concern_the_same_datagram(kit: Kit) {
    // How many of five datagrams each send takes before it reports a refusal, the datagrams that
    // are dropped, and the calls of `connection_refused`.
    let cases: [(&[usize], u64, usize); 5] =
        [(&[0], 0, 1), (&[1, 1, 2], 0, 3), (&[0, 0], 1, 1), (&[2, 0], 1, 1), (&[0, 0, 0, 1], 1, 3)];
    for (sends, dropped, calls) in cases {
        let (mut rig, near, far) = (kit.rig(), Far::default(), Far::default());
        let peer = rig.datagrams(DatagramOptions::default(), far.clone());
        let a = rig.datagrams(DatagramOptions::default().peer(peer.host()), near.clone());
        rig.turn();
        rig.tapped.refused_sends.borrow_mut().extend(sends);
        for n in 0..5u8 {
            a.send([n]).expect("there is room");
        }
        rig.turn();
        assert!(rig.tapped.refused_sends.borrow().is_empty(), "{sends:?}");
        // The datagrams that these sends took are lost.
        let arriving = 5 - sends.iter().sum::<usize>() - dropped as usize;
        rig.until("the others", || far.count() == arriving);
        let refused = near.log.entries().iter().filter(|entry| *entry == "refused").count();
        assert_eq!((a.dropped(), refused), (dropped, calls), "{sends:?}");
    }
}

pub(crate) fn c159_a_port_receives_only_from_its_peer(kit: Kit) {
    let (mut rig, near) = (kit.rig(), Far::default());
    let other = plain(&rig, Far::default());
    let peer = plain(&rig, Far::echo());
    rig.turn();
    let options = DatagramOptions::default().peer(peer.host());
    let a = rig.datagrams(options, near.clone());
    rig.turn();
    other.send_to("from another", a.host()).expect("there is room");
    rig.turns(5);
    a.send("to the peer").expect("there is room");
    a.send_to("to the peer", peer.host()).expect("it is the peer");
    let wrong = SendError::WrongAddress { host: a.host(), to: other.host() };
    assert_eq!(a.send_to("x", other.host()), Err(wrong));
    rig.until("both echoes", || near.count() == 2);
    rig.turns(5);
    assert_eq!(near.senders(), [peer.host(), peer.host()]);
}

pub(crate) fn c160_the_senders_full_address_is_reported(kit: Kit) {
    if !has_ipv6() {
        return;
    }
    let mut rig = kit.rig();
    let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0));
    let any = SocketAddr::from(([0u16; 8], 0));
    let far = Far::default();
    let b = rig.reactor.listen_datagrams(any, far.clone()).expect("a free port can be opened");
    let port = b.host().port().expect("a number");
    let mut froms = Vec::new();
    for from in [LOOPBACK, v6] {
        let a =
            rig.reactor.listen_datagrams(from, Far::default()).expect("a free port can be opened");
        let to = SocketAddr::new(from.ip(), port);
        a.send_to("x", to).expect("there is room");
        froms.push(a.host());
    }
    rig.until("both", || far.count() == 2);
    let mut senders = far.senders();
    senders.sort();
    assert_eq!(senders, froms, "IPv4 as IPv4");
    // A port that does not take IPv4.
    let (far, alone) = (Far::default(), DatagramOptions::default().dual_stack(false));
    let b = rig.reactor.listen_datagrams((any, alone), far.clone());
    let b = b.expect("a free port can be opened");
    let port = b.host().port().expect("a number");
    assert!(b.send_to("x", SocketAddr::new(LOOPBACK.ip(), port)).is_err());
    for from in [LOOPBACK, v6] {
        let a =
            rig.reactor.listen_datagrams(from, Far::default()).expect("a free port can be opened");
        a.send_to("x", SocketAddr::new(from.ip(), port)).expect("there is room");
    }
    rig.until("one", || far.count() > 0);
    rig.turns(5);
    assert!(far.senders().iter().all(|from| from.ip() == Some(v6.ip())), "{:?}", far.senders());
}

pub(crate) fn c160a_a_pause_holds_at_once_and_loses_nothing(kit: Kit) {
    let all = 10;
    let far = Far::acting(|transport, _| transport.pause_producing());
    let (mut rig, a, b, far) = pair(kit, far);
    let other = Far::default();
    let c = plain(&rig, other.clone());
    send(&a, b.host(), (0..all).map(|n| [n]));
    for n in 1..=usize::from(all) {
        rig.until("one more", || far.count() == n);
        // During the pause another port receives into the same buffers.
        a.send_to([99], c.host()).expect("there is room");
        rig.until("the other's", || other.count() == n);
        rig.turns(3);
        assert_eq!(far.count(), n, "delivered during a pause");
        b.resume_producing();
    }
    assert_eq!(far.data(), (0..all).map(|n| vec![n]).collect::<Vec<_>>());
    // Paused from outside, before the port starts.
    let far = Far::default();
    let b = plain(&rig, far.clone());
    b.pause_producing();
    a.send_to("x", b.host()).expect("there is room");
    rig.turns(10);
    assert_eq!(far.count(), 0);
    b.resume_producing();
    rig.until("it", || far.count() == 1);
}

pub(crate) fn c160b_calls_into_a_protocol_run_in_the_turn_and_end_with_the_port(kit: Kit) {
    let ((mut rig, a, b, far), log) = (pair(kit, Far::default()), Log::default());
    let to = b.host();
    assert!(a.tell(move |_, transport| transport.send_to("told", to).expect("there is room")));
    rig.until("told", || far.count() == 1);
    log.watch("asked", b.ask(|far, _| far.count()));
    let panicked = b.ask(|_, _| -> () { panic!("in a call") });
    log.watch(
        "panicked",
        panicked.add_errback(
            |failure| {
                if failure.is::<PortStopped>() { Ok(()) } else { Err(failure) }
            },
        ),
    );
    rig.turn();
    assert_eq!(log.entries(), ["asked: ok", "panicked: failed"]);
    let (soon, note) = (Duration::from_secs(1), log.clone());
    let call = b.call_later(soon, move |far, _| note.note(format!("later: {}", far.count())));
    rig.turn();
    assert!(call.active());
    rig.pass(soon);
    rig.turn();
    assert!(log.has("later: 1"));
    // Calls that are pending when the port closes are dropped.
    let held = Rc::new(());
    let (in_tell, in_call) = (held.clone(), held.clone());
    let call = b.call_later(soon, move |_, _| drop(in_call));
    drop(b.stop_listening());
    let late = b
        .ask(move |_, _| drop(in_tell))
        .add_errback(|failure| if failure.is::<PortStopped>() { Err(failure) } else { Ok(()) });
    log.watch("too late", late);
    rig.turns(2);
    assert!(!b.tell(|_, _| panic!("it is closed")) && !call.active());
    assert_eq!((Rc::strong_count(&held), log.has("too late: failed")), (1, true));
}

pub(crate) fn c160c_members_of_a_group_get_its_datagrams_until_they_leave(kit: Kit) {
    let mut rig = kit.rig();
    let options = || DatagramOptions::default().reuse_addr(kit.has_sockets());
    let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let group = Group::new([239, 255, 155, 160]).interface(std::net::Ipv4Addr::LOCALHOST);
    let (one, log) = (Far::default(), Log::default());
    let b = rig.reactor.listen_datagrams((any(0), options()), one.clone());
    let b = b.expect("a free port can be opened");
    let to = SocketAddr::new(group.address, b.host().port().expect("a number"));
    let a = plain(&rig, Far::default());
    a.set_option(SocketOption::MulticastInterface(std::net::Ipv4Addr::LOCALHOST.into()));
    log.watch("join", b.join(group));
    log.watch("not one", b.join([127, 0, 0, 1]));
    rig.until("joined", || log.len() == 2);
    assert_eq!((log.has("join: ok"), log.has("not one: failed")), (true, true));
    a.send_to("to all", to).expect("there is room");
    rig.until("it", || one.count() == 1);
    assert_eq!((one.data(), one.senders()), (vec![b"to all".to_vec()], vec![a.host()]));
    log.watch("left", b.leave(group));
    log.watch("left twice", b.leave(group));
    rig.until("left", || log.has("left twice: failed"));
    a.send_to("to nobody", to).expect("there is room");
    let port = b.host().port().expect("a number");
    a.send_to("to it", SocketAddr::new(LOOPBACK.ip(), port)).expect("there is room");
    rig.until("it", || one.count() == 2);
    assert_eq!(one.data()[1], b"to it");
}

pub(crate) fn c160d_an_answer_comes_from_the_address_that_was_asked(kit: Kit) {
    for any in [SocketAddr::from(([0, 0, 0, 0], 0)), SocketAddr::from(([0u16; 8], 0))] {
        let (mut rig, near) = (kit.rig(), Far::default());
        let b = rig.reactor.listen_datagrams(any, Far::echo()).expect("a free port can be opened");
        let port = b.host().port().expect("a number");
        let a = rig.reactor.listen_datagrams(LOOPBACK, near.clone());
        let a = a.expect("a free port can be opened");
        // Linux has all of 127.0.0.0/8.
        let asked = if kit.has_sockets() {
            own_address(160, port)
        } else {
            SocketAddr::new(LOOPBACK.ip(), port)
        };
        for count in 1..=2 {
            a.send_to("x", asked).expect("there is room");
            rig.until("the answer", || near.count() == count);
        }
        assert_eq!(near.senders(), [Address::udp(asked), Address::udp(asked)], "{any}");
    }
}

pub(crate) fn c160e_a_snapshot_counts_datagrams(kit: Kit) {
    let (mut rig, a, b, far) = pair(kit, Far::default());
    send(&a, b.host(), ["x", "y"]);
    b.pause_producing();
    b.resume_producing();
    rig.until("both", || far.count() == 2);
    let seen = rig.l.snapshot();
    let line = |port: &DatagramPort<Far>| {
        let host = port.host();
        let seen = seen.datagrams.iter().find(|seen| seen.host == host).expect("it is open");
        (
            seen.counters.received,
            seen.counters.sent,
            seen.counters.dropped,
            seen.buffered,
            seen.paused,
        )
    };
    assert_eq!((line(&a), line(&b)), ((0, 2, 0, 0, false), (2, 0, 0, 0, false)));
    let row = format!("datagrams   {} in 0 out 2 dropped 0 buffered 0\n", a.host());
    assert!(seen.to_string().contains(&row), "{seen}");
    assert!(!seen.is_empty());
}
