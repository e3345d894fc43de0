//! UDP ports over this system's sockets: facts that `tests/it/suite/datagrams.rs` can't test on
//! every driver.

#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use couplet::transport::SockRef;
use couplet::{
    Address, Datagram, DatagramEndpoint, DatagramOptions, DatagramPort, DatagramProtocol,
    DatagramTransport, Deferred, Group, Interface, Loop, Reactor, SocketOption, SocketOptionKind,
    UnixAddress,
};
use couplet_core::driver::{Commands, Driver, Event, Key, Mio};
use couplet_testkit::{PATIENCE, apart, needed};
use socket2::Socket;

use couplet_testkit::logged::logged;
use couplet_testkit::needed::{Folder, loopbacks};

use couplet_os::datagrams::{Batch, Flag, Outgoing};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const ANY_V6: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// An unbound address of loopback in each family of this machine.
fn both() -> impl Iterator<Item = SocketAddr> {
    loopbacks().into_iter().map(|ip| SocketAddr::new(ip, 0))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    data: Vec<u8>,
    from: Address,
    to: Option<std::net::IpAddr>,
    interface: Option<u32>,
    tos: Option<u8>,
    pid: Option<u32>,
}

/// Records received datagrams, and counts refusals.
#[derive(Clone, Default)]
struct Far(Rc<RefCell<Vec<Got>>>, Rc<Cell<usize>>);

impl Far {
    fn count(&self) -> usize {
        self.0.borrow().len()
    }

    fn last(&self) -> Got {
        self.0.borrow().last().expect("something arrived").clone()
    }
}

impl DatagramProtocol for Far {
    fn datagram_received(&mut self, _: &DatagramTransport, datagram: &Datagram<'_>) {
        self.0.borrow_mut().push(Got {
            data: datagram.data.to_vec(),
            from: datagram.from.clone(),
            to: datagram.to,
            interface: datagram.interface,
            tos: datagram.tos,
            pid: datagram.credentials.map(|peer| peer.pid),
        });
    }

    fn connection_refused(&mut self, _: &DatagramTransport) {
        self.1.set(self.1.get() + 1);
    }
}

struct Rig(Loop, Reactor);

impl Rig {
    fn new() -> Rig {
        let l = Loop::new().expect("a poll descriptor");
        let reactor = l.reactor();
        Rig(l, reactor)
    }

    fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.0.turn(Some(Duration::ZERO)).expect("the driver does not fail");
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        couplet_testkit_loops::until(&mut self.0, what, |_| done());
    }

    fn at(&self, address: SocketAddr, far: &Far) -> DatagramPort<Far> {
        self.1.listen_datagrams(address, far.clone()).expect("a free port")
    }

    fn unix(&self, name: &str, options: DatagramOptions, far: &Far) -> DatagramPort<Far> {
        self.1
            .listen_datagrams((UnixAddress::from(name), options), far.clone())
            .expect("a free name")
    }

    fn result(&mut self, deferred: Deferred<()>) -> couplet::Result<()> {
        self.until("a result", || deferred.has_fired());
        self.0.run_until(deferred)
    }

    fn roomy<P: DatagramProtocol>(&self, protocol: P) -> DatagramPort<P> {
        self.with(
            DatagramOptions::default().prepare(|it| it.set_recv_buffer_size(4 << 20)),
            protocol,
        )
    }

    fn with<P: DatagramProtocol>(&self, options: DatagramOptions, protocol: P) -> DatagramPort<P> {
        self.1.listen_datagrams((LOOPBACK, options), protocol).expect("a free port")
    }

    /// A port that answers each datagram with the same.
    fn echo(&self) -> SocketAddr {
        let echo = |port: &DatagramTransport, datagram: &Datagram<'_>| {
            port.answer(datagram, datagram.data).expect("it can be answered");
        };
        let port = self.1.listen_datagrams(LOOPBACK, echo).expect("a free port");
        port.host().socket_addr().expect("a UDP port")
    }
}

/// A loop with two open ports at this address, and the datagrams that the second receives.
fn two_at(address: SocketAddr) -> (Rig, DatagramPort<Far>, DatagramPort<Far>, Far) {
    let (mut rig, far) = (Rig::new(), Far::default());
    let (a, b) = (rig.at(address, &Far::default()), rig.at(address, &far));
    rig.turns(1);
    (rig, a, b, far)
}

fn number(port: &DatagramTransport) -> u16 {
    port.host().port().expect("a number")
}

#[test]
fn the_tos_byte_with_its_ecn_bits_is_sent_and_reported_also_by_a_dual_stack_port() {
    for (ip, both) in both().flat_map(|ip| [(ip, false), (ip, true)]) {
        let (mut rig, far) = (Rig::new(), Far::default());
        let a = rig.at(ip, &Far::default());
        let b = rig.at(if both { ANY_V6 } else { ip }, &far);
        rig.turns(1);
        a.set_option(SocketOption::Tos(0xb8 | 2));
        a.send_to("x", SocketAddr::new(ip.ip(), number(&b))).expect("there is room");
        rig.until("it", || far.count() == 1);
        assert_eq!(far.last().tos, Some(0xba), "{ip}, {both}");
        let datagram = Datagram::new(b"", b.host());
        assert_eq!(datagram.ecn(), None);
    }
}

#[test]
fn an_option_applies_only_to_later_datagrams() {
    let (mut rig, a, b, far) = two_at(LOOPBACK);
    // All in one turn.
    for tos in [0x20, 0x40] {
        a.send_to("before", b.host()).expect("there is room");
        a.set_option(SocketOption::Tos(tos));
    }
    a.send_to("after", b.host()).expect("there is room");
    rig.until("all three", || far.count() == 3);
    let tos = far.0.borrow().iter().map(|got| got.tos).collect::<Vec<_>>();
    assert_eq!(tos, [Some(0), Some(0x20), Some(0x40)]);
}

/// Datagrams that were refused in the same turn are not waited for, and move no option.
#[test]
fn an_option_applies_only_to_later_datagrams_though_others_are_refused() {
    let (mut rig, far) = (Rig::new(), Far::default());
    let b = rig.at(LOOPBACK, &far);
    let a = rig.with(DatagramOptions::default().queue(20), Far::default());
    rig.turns(1);
    for round in 1..=2 {
        a.send_to("before", b.host()).expect("there is room");
        a.set_option(SocketOption::Tos(0x20));
        a.send_to([0; 20], b.host()).expect_err("it is full");
        a.send_to("after", b.host()).expect("there is room");
        a.set_option(SocketOption::Tos(0));
        a.send_to([0; 20], b.host()).expect_err("it is full");
        rig.until("both", || far.count() == 2 * round);
        rig.turns(1);
    }
    let tos = far.0.borrow().iter().map(|got| got.tos).collect::<Vec<_>>();
    assert_eq!(tos, [Some(0), Some(0x20), Some(0), Some(0x20)]);
}

#[test]
fn dropped_datagrams_are_counted_and_their_1st_2nd_4th_and_8th_is_logged() {
    let (mut rig, far) = (Rig::new(), Far::default());
    let b = rig.at(LOOPBACK, &far);
    let a = rig.with(DatagramOptions::default().queue(4), Far::default());
    rig.turns(1);
    // The count continues after the queue has drained.
    for (round, logged_drops) in [(1, &[1, 2, 4][..]), (2, &[8]), (3, &[16])] {
        a.send_to("full", b.host()).expect("the queue is empty");
        let ((), lines) = logged(|| {
            for _ in 0..6 {
                a.send_to("x", b.host()).expect_err("it is full");
            }
        });
        let seen = logged_drops.iter().zip(&lines).all(|(dropped, line)| {
            line.contains("datagrams are dropped") && line.contains(&format!("dropped={dropped} "))
        });
        assert!(seen && lines.len() == logged_drops.len(), "{round}: {lines:?}");
        assert_eq!(a.dropped(), 6 * round as u64);
        rig.until("the one that fits", || far.count() == round);
    }
}

#[test]
fn the_destination_address_and_the_interface_are_reported() {
    let (mut rig, far) = (Rig::new(), Far::default());
    let b = rig.at(ANY_V6, &far);
    for (n, from) in both().enumerate() {
        let a = rig.at(from, &Far::default());
        let to = if n == 0 { Ipv4Addr::new(127, 0, 0, 9).into() } else { from.ip() };
        a.send_to("x", SocketAddr::new(to, number(&b))).expect("there is room");
        rig.until("it", || far.count() > n);
        let got = far.last();
        assert_eq!((got.to, got.from), (Some(to), a.host()));
        assert!(got.interface.is_some_and(|number| number > 0));
    }
}

#[test]
fn a_thousand_datagrams_of_one_length_leave_joined_and_arrive_one_by_one() {
    let (mut rig, far) = (Rig::new(), Far::default());
    let b = rig.roomy(far.clone());
    let a = rig.at(LOOPBACK, &Far::default());
    rig.turns(1);
    // In portions that fit the smallest buffer.
    for portion in 0..10u32 {
        for n in 0..100u32 {
            let data = (portion * 100 + n).to_be_bytes().repeat(10);
            a.send_to(data, b.host()).expect("there is room");
        }
        rig.until("a portion", || far.count() == 100 * (portion as usize + 1));
    }
    let numbers = far.0.borrow().iter().map(|got| got.data.clone()).collect::<Vec<_>>();
    let all: Vec<_> = (0..1000u32).map(|n| n.to_be_bytes().repeat(10)).collect();
    assert!(numbers == all, "all of them, in order");
    assert_eq!(rig.0.snapshot().datagrams[0].counters.dropped, 0);
}

#[test]
fn the_answers_of_a_batch_leave_together() {
    let mut rig = Rig::new();
    let to = rig.echo();
    rig.turns(1);
    let socket = UdpSocket::bind(LOOPBACK).expect("a free port");
    socket.connect(to).expect("an address");
    couplet_os::datagrams::turn_on(socket.as_fd(), Flag::Gro).expect("Linux knows it");
    for _ in 0..8 {
        socket.send(b"answer").expect("there is room");
    }
    rig.turns(2);
    let mut batch = Batch::new(8, 1000);
    let messages = batch.receive(socket.as_fd(), 8, 1000).expect("they have arrived");
    assert_eq!((messages, batch.lengths(0)), (1, (48, 6)), "in one piece");
}

#[test]
fn a_refusal_of_an_earlier_datagram_does_not_drop_the_next() {
    let (mut rig, near) = (Rig::new(), Far::default());
    let gone = UdpSocket::bind(LOOPBACK).and_then(|socket| socket.local_addr());
    let port = rig
        .1
        .listen_datagrams(DatagramEndpoint::to(gone.expect("a free port")), near.clone())
        .expect("an address");
    rig.turns(1);
    // In one turn, but in two system calls: the second one reports the refusal.
    port.send("refused").expect("there is room");
    port.set_option(SocketOption::Tos(0x20));
    port.send("behind it").expect("there is room");
    rig.turns(1);
    assert_eq!((rig.0.snapshot().datagrams[0].counters.sent, port.dropped()), (2, 0));
    rig.until("the refusals", || near.1.get() == 2);
}

#[test]
fn c156_joined_datagrams_are_delivered_in_portions_and_held_during_a_pause() {
    let (mut rig, far) = (Rig::new(), Rc::new(RefCell::new(Vec::new())));
    let records = far.clone();
    let b = rig.roomy(move |port: &DatagramTransport, datagram: &Datagram<'_>| {
        records.borrow_mut().push(datagram.data.to_vec());
        if datagram.data.starts_with(b"pause") {
            port.pause_producing();
        }
    });
    rig.turns(1);
    // Three sends of many datagrams each, which the kernel splits or delivers joined.
    let socket = UdpSocket::bind(LOOPBACK).expect("a free port");
    socket.connect(b.host().socket_addr().expect("a UDP port")).expect("an address");
    let mut sent = Vec::new();
    for send in 0..3u8 {
        let mut all: Vec<_> = (0..60u8).map(|n| vec![send, n, 9, 9, 9, 9, 9]).collect();
        all[30] = b"pause!!".to_vec();
        // The last is shorter.
        all.push(vec![send]);
        let joined = all.concat();
        let out = Outgoing { data: &joined, to: None, from: None, tos: None, segment: Some(7) };
        assert_eq!(couplet_os::datagrams::send(socket.as_fd(), &[out]).expect("there is room"), 1);
        sent.extend(all);
    }
    let (mut told, mut paused_at) = (0, 0);
    for _ in 0..100 {
        rig.0.turn(Some(Duration::from_millis(1))).expect("a turn");
        let now = far.borrow().len();
        assert!(now - told <= 64, "{} in one turn", now - told);
        told = now;
        let pauses = sent[..told].last().is_some_and(|last| last == b"pause!!");
        if pauses && told > paused_at {
            paused_at = told;
            rig.turns(2);
            assert_eq!(far.borrow().len(), told, "none during the pause");
            b.resume_producing();
        }
    }
    assert_eq!(paused_at, 2 * 61 + 31, "it paused three times");
    assert!(*far.borrow() == sent, "all of them, in order, each by itself");
}

#[test]
fn a_broadcast_needs_its_option_and_is_otherwise_dropped_and_counted_while_the_rest_arrives() {
    let (mut rig, far) = (Rig::new(), Far::default());
    let b = rig.at(([127, 255, 255, 255], 0).into(), &far);
    let a = rig.at(LOOPBACK, &far);
    rig.turns(1);
    a.send_to("no", b.host()).expect("there is room");
    a.send_to("to itself", a.host()).expect("there is room");
    rig.until("it", || far.count() == 1);
    assert_eq!((a.dropped(), far.last().data), (1, b"to itself".to_vec()));
    a.set_option(SocketOption::Broadcast(true));
    a.send_to("yes", b.host()).expect("there is room");
    rig.until("it", || far.count() == 2);
    assert_eq!((a.dropped(), far.last().data), (1, b"yes".to_vec()));
}

#[test]
fn two_sockets_of_a_group_get_each_multicast() {
    let (mut rig, one, two) = (Rig::new(), Far::default(), Far::default());
    let group = Group::new([239, 255, 77, 1]).interface(Ipv4Addr::LOCALHOST);
    let options = || DatagramOptions::default().reuse_addr(true);
    let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let a = rig.1.listen_datagrams((any(0), options()), one.clone()).expect("a free port");
    let port = number(&a);
    let b = rig.1.listen_datagrams((any(port), options()), two.clone()).expect("it is shared");
    for member in [&a, &b] {
        rig.result(member.join(group)).expect("loopback has groups");
    }
    a.set_option(SocketOption::MulticastInterface(Ipv4Addr::LOCALHOST.into()));
    // Loopback delivers these in spite of the options.
    for option in [SocketOption::MulticastTtl(1), SocketOption::MulticastLoop(false)] {
        a.set_option(option);
    }
    let to = SocketAddr::new(group.address, port);
    a.send_to("to both", to).expect("there is room");
    rig.until("both", || one.count() + two.count() == 2);
    assert_eq!((one.last().to, two.last().to), (Some(group.address), Some(group.address)));
}

#[test]
fn a_member_for_one_source_gets_no_other_datagrams() {
    let (mut rig, far) = (Rig::new(), Far::default());
    let source = Ipv4Addr::new(127, 0, 0, 77);
    let group = Group::new([232, 77, 77, 77]).interface(Ipv4Addr::LOCALHOST);
    let b = rig.at(([0, 0, 0, 0], 0).into(), &far);
    rig.result(b.join(group.source(source))).expect("loopback has groups");
    let twice = rig.result(b.join(group.source(source)));
    assert!(twice.is_err(), "it is a member already");
    let to = SocketAddr::new(group.address, number(&b));
    for from in [Ipv4Addr::LOCALHOST, source] {
        let a = rig.at((from, 0).into(), &Far::default());
        // Only the first address of loopback has an interface.
        a.set_option(SocketOption::MulticastInterface(Ipv4Addr::LOCALHOST.into()));
        a.send_to(from.octets(), to).expect("there is room");
        rig.turns(5);
    }
    rig.until("it", || far.count() == 1);
    assert_eq!(far.last().data, source.octets());
    rig.result(b.leave(group.source(source))).expect("it is a member");
    let a = rig.at((source, 0).into(), &Far::default());
    a.set_option(SocketOption::MulticastInterface(Ipv4Addr::LOCALHOST.into()));
    for to in [to, SocketAddr::from((Ipv4Addr::LOCALHOST, to.port()))] {
        a.send_to(to.ip().to_string(), to).expect("there is room");
    }
    rig.until("another", || far.count() > 1);
    assert_eq!((far.count(), far.last().data), (2, b"127.0.0.1".to_vec()), "it has left");
    let mixed = Group::new([232, 77, 77, 77]).source([0u16, 0, 0, 0, 0, 0, 0, 1]);
    assert!(rig.result(b.join(mixed)).is_err(), "of two families");
}

#[test]
fn each_kind_of_membership_begins_once_and_ends_once() {
    let loopback = couplet_os::interfaces::interface_number("lo").expect("each host has one");
    let (v4, v6) = (Group::new([232, 77, 77, 78]), Group::new([0xff35, 0, 0, 0, 0, 0, 0, 0x78]));
    let (from_v4, from_v6) = ([127, 0, 0, 77], [0u16, 0, 0, 0, 0, 0, 0, 1]);
    let kinds = [
        v4.interface(Ipv4Addr::LOCALHOST),
        v4.interface(loopback),
        v4.interface(Ipv4Addr::LOCALHOST).source(from_v4),
        v4.interface(loopback).source(from_v4),
        v6.interface(loopback),
        v6.interface(loopback).source(from_v6),
    ];
    let mut rig = Rig::new();
    for group in kinds {
        let any =
            if group.address.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let a = rig.at(SocketAddr::new(any, 0), &Far::default());
        for _ in 0..2 {
            let joins = [(); 2].map(|()| rig.result(a.join(group)).is_ok());
            let leaves = [(); 2].map(|()| rig.result(a.leave(group)).is_ok());
            assert_eq!((joins, leaves), ([true, false], [true, false]), "{group:?}");
        }
    }
    let a = rig.at((Ipv6Addr::UNSPECIFIED, 0).into(), &Far::default());
    let mixed = [v6.interface(Ipv4Addr::LOCALHOST), v4.source(from_v6)];
    for group in mixed {
        for change in [a.join(group), a.leave(group)] {
            let failure = rig.result(change).expect_err("of two families");
            let error = failure.downcast_ref::<std::io::Error>().expect("an error of I/O");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{group:?}");
        }
    }
}

/// Runs this test again in a network namespace with a link, `near`, that has two IPv6 addresses,
/// because loopback does not deliver to IPv6 groups; packets on its loopback have at most 1280
/// bytes. Returns true in the namespace, and false outside. If namespaces are not available, which
/// is a failure in CI, the test is skipped.
fn in_a_namespace(test: &str) -> bool {
    if apart::told().is_some() {
        return true;
    }
    let setup = "ip link set lo up mtu 1280 && ip link add near type veth peer name far && ip link set near up && \
        ip link set far up && ip address add fd00::1/64 dev near nodad && \
        ip address add fd00::2/64 dev near nodad && exec \"$0\" \"$@\"";
    if !needed::has("ip") || !needed::has("unshare") {
        return false;
    }
    let mut command = apart::again_by(&["unshare", "--net", "sh", "-c", setup], test, "");
    let ended = command.output().expect("it is installed");
    let said = String::from_utf8_lossy(&ended.stderr);
    if said.contains("unshare failed") {
        needed::missing("right to make network namespaces");
        return false;
    }
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stdout));
    false
}

#[test]
fn datagrams_too_long_to_be_sent_joined_are_sent_singly() {
    if !in_a_namespace("datagrams_too_long_to_be_sent_joined_are_sent_singly") {
        return;
    }
    let (mut rig, a, b, far) = two_at(LOOPBACK);
    // Each datagram is longer than a packet, so the system has to fragment it.
    for n in 0..5 {
        a.send_to([n; 1400], b.host()).expect("there is room");
    }
    rig.until("all of them", || far.count() == 5);
    let got = far.0.borrow().iter().map(|got| (got.data.len(), got.data[0])).collect::<Vec<_>>();
    assert_eq!(got, [0, 1, 2, 3, 4].map(|n| (1400, n)));
    assert_eq!(a.dropped(), 0);
}

/// A port whose three datagrams, of a byte each, wait for a full socket.
fn three_wait(rig: &mut Rig, folder: &Folder) -> (DatagramPort<Far>, UnixDatagram) {
    let slow = UnixDatagram::bind(folder.path("slow")).expect("a free path");
    slow.set_nonblocking(true).expect("a socket");
    // Filled by another socket, so no event reports writability to ours.
    let other = UnixDatagram::unbound().expect("a socket");
    other.set_nonblocking(true).expect("a socket");
    while other.send_to(b"full", folder.path("slow")).is_ok() {}
    let a = rig.unix(&folder.path("a"), DatagramOptions::default(), &Far::default());
    rig.turns(1);
    for n in 0..3 {
        a.send_to([n], UnixAddress::from(folder.path("slow"))).expect("there is room");
    }
    rig.turns(2);
    assert_eq!(a.buffered(), 3);
    (a, slow)
}

#[test]
fn datagrams_queued_for_a_full_unix_socket_leave_when_it_has_room() {
    let (mut rig, folder) = (Rig::new(), Folder::new());
    let (a, slow) = three_wait(&mut rig, &folder);
    let mut data = [0; 4];
    while slow.recv(&mut data).is_ok_and(|n| n == 4) {}
    let mut got = Vec::new();
    // The send is retried without an event.
    rig.until("they leave", || {
        got.extend(read_all(&slow));
        got.len() == 3
    });
    assert_eq!((got, a.dropped()), (vec![vec![0], vec![1], vec![2]], 0));
}

/// The queue of a peer is the port's own: an event reports its room, each time.
#[test]
fn datagrams_queued_for_a_full_peer_leave_each_time_that_it_has_room() {
    const MANY: u32 = 40;
    let (mut rig, folder) = (Rig::new(), Folder::new());
    let peers = ["one", "two"].map(|name| outside(&folder, name));
    let ports = peers.each_ref().map(|(_, address)| {
        rig.unix("", DatagramOptions::default().peer(address.clone()), &Far::default())
    });
    rig.turns(1);
    for _ in 0..3 {
        for data in numbered(MANY) {
            ports.iter().for_each(|port| port.send(&data).expect("there is room"));
            rig.turns(1);
        }
        assert!(ports.iter().all(|port| port.buffered() > 0), "their queues are full");
        for ((socket, _), port) in peers.iter().zip(&ports) {
            let mut got = Vec::new();
            rig.until("all of them", || {
                got.extend(read_all(socket));
                got.len() == MANY as usize
            });
            assert_eq!((got, port.buffered(), port.dropped()), (numbered(MANY), 0, 0));
        }
    }
}

#[test]
fn datagrams_that_a_full_socket_does_not_take_are_dropped_with_their_port() {
    let (mut rig, folder) = (Rig::new(), Folder::new());
    let (a, _slow) = three_wait(&mut rig, &folder);
    let stopped = a.stop_listening().expect("it is open");
    rig.0.run_until(stopped).expect("it stops");
    assert_eq!((a.dropped(), a.buffered()), (3, 0));
}

#[test]
fn datagrams_queued_for_a_full_udp_socket_leave_when_it_has_room() {
    if !in_a_namespace("datagrams_queued_for_a_full_udp_socket_leave_when_it_has_room") {
        return;
    }
    let (mut rig, far) = (Rig::new(), Far::default());
    let b = rig.at(LOOPBACK, &far);
    let options =
        DatagramOptions::default().prepare(|socket| socket.set_send_buffer_size(16 * 1024));
    let a = rig.with(options, Far::default());
    rig.turns(1);
    let slow = "dev lo root tbf rate 16mbit burst 5000 limit 1000000";
    let slow = ["qdisc", "add"].into_iter().chain(slow.split(' '));
    let status = std::process::Command::new("tc").args(slow).status().expect("part of iproute2");
    assert!(status.success(), "the link is to be slow");
    // Different lengths, so that they are not sent joined.
    for length in 940..1000 {
        a.send_to(vec![7; length], b.host()).expect("there is room");
    }
    rig.turns(2);
    assert!(a.buffered() > 0, "the socket is full");
    rig.until("all of them", || far.count() == 60);
    let got = far.0.borrow().iter().map(|got| got.data.len()).collect::<Vec<_>>();
    assert_eq!((got, a.dropped()), ((940..1000).collect(), 0));
}

#[test]
fn c160c_a_port_gets_no_datagram_of_a_group_that_only_another_socket_has_joined() {
    let group = Ipv4Addr::new(239, 255, 77, 2);
    let member = UdpSocket::bind("0.0.0.0:0").expect("a free port");
    member.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).expect("loopback has groups");
    let own = Group::new([239, 255, 77, 3]).interface(Ipv4Addr::LOCALHOST);
    for any in [SocketAddr::from(([0; 4], 0)), ANY_V6] {
        let (mut rig, far) = (Rig::new(), Far::default());
        let (a, b) = (rig.at(LOOPBACK, &Far::default()), rig.at(any, &far));
        a.set_option(SocketOption::MulticastInterface(Ipv4Addr::LOCALHOST.into()));
        rig.result(b.join(own)).expect("loopback has groups");
        for to in [group.into(), own.address] {
            a.send_to("to the group", SocketAddr::new(to, number(&b))).expect("there is room");
        }
        rig.until("one", || far.count() > 0);
        rig.turns(3);
        assert_eq!((far.count(), far.last().to), (1, Some(own.address)), "{any}");
    }
}

#[test]
fn c160c_groups_of_ipv6_are_joined_by_interface_for_one_source_and_left() {
    if !in_a_namespace("c160c_groups_of_ipv6_are_joined_by_interface_for_one_source_and_left") {
        return;
    }
    let link = couplet_os::interfaces::interface_number("near").expect("it was made");
    let address = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
    let group = Group::new(Ipv6Addr::new(0xff35, 0, 0, 0, 0, 0, 0, 0x77)).interface(link);
    let (mut rig, all, one) = (Rig::new(), Far::default(), Far::default());
    let shared = || DatagramOptions::default().reuse_addr(true);
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let a = rig.1.listen_datagrams((any(0), shared()), all.clone()).expect("a free port");
    let to = SocketAddr::new(group.address, number(&a));
    let b = rig.1.listen_datagrams((any(to.port()), shared()), one.clone()).expect("it is shared");
    rig.result(a.join(group)).expect("a member");
    rig.result(b.join(group.source(address(1)))).expect("a member for one source");
    for (last, heard) in [(1, (1, 1)), (2, (2, 1))] {
        let from = rig.at((address(last), 0).into(), &Far::default());
        from.set_option(SocketOption::MulticastInterface(link.into()));
        from.set_option(SocketOption::MulticastTtl(3));
        from.send_to("to the group", to).expect("there is room");
        rig.until("the member", || all.count() == heard.0);
        rig.turns(3);
        assert_eq!((all.count(), one.count()), heard, "from fd00::{last}");
        assert_eq!((all.last().to, all.last().interface), (Some(group.address), Some(link)));
    }
    rig.result(a.leave(group)).expect("it was a member");
    let from = rig.at((address(1), 0).into(), &Far::default());
    from.set_option(SocketOption::MulticastInterface(link.into()));
    from.send_to("to the other", to).expect("there is room");
    rig.until("the other", || one.count() == 2);
    assert_eq!(all.count(), 2, "it has left");
}

#[test]
fn a_membership_fails_with_the_systems_error_or_with_the_stop_of_its_port() {
    let mut rig = Rig::new();
    let a = rig.at(LOOPBACK, &Far::default());
    let failure = rig.result(a.leave([239, 1, 1, 1])).expect_err("it is no member");
    assert!(failure.downcast_ref::<std::io::Error>().is_some(), "{failure}");
    let waits = a.join([239, 1, 1, 2]);
    drop(a.stop_listening());
    for stopped in [waits, a.join([239, 1, 1, 1])] {
        let failure = rig.result(stopped).expect_err("it is closed");
        assert!(failure.is::<couplet::PortStopped>(), "{failure}");
    }
}

#[test]
fn an_option_that_the_system_refuses_is_logged_and_reads_as_before() {
    let mut rig = Rig::new();
    let a = rig.at(LOOPBACK, &Far::default());
    rig.turns(1);
    let ((), lines) = logged(|| {
        a.set_option(SocketOption::MulticastInterface(Ipv4Addr::new(192, 0, 2, 1).into()));
        // Only connections have this option.
        a.set_option(SocketOption::NoDelay(true));
        a.set_option(SocketOption::Ttl(7));
        rig.turns(1);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("cannot set an option"), "{lines:?}");
    let values = [SocketOptionKind::Ttl, SocketOptionKind::NoDelay].map(|kind| a.option(kind));
    assert_eq!(values, [Some(SocketOption::Ttl(7)), None]);
}

#[test]
fn c64d_a_port_reads_the_value_set_last_until_it_is_closed() {
    use SocketOption::{Broadcast, MulticastLoop, MulticastTtl, Tos, Ttl};
    for ip in both().chain([ANY_V6]) {
        let mut rig = Rig::new();
        let a = rig.at(ip, &Far::default());
        for pair in [
            [Broadcast(true), Broadcast(false)],
            [Ttl(7), Ttl(9)],
            [Tos(0x20), Tos(0xb8)],
            [MulticastTtl(2), MulticastTtl(3)],
            [MulticastLoop(false), MulticastLoop(true)],
        ] {
            let kind = kind_of(pair[0]);
            // Before the turn has set it, and after.
            for option in pair {
                a.set_option(pair[0]);
                a.set_option(option);
                assert_eq!(a.option(kind), Some(option), "{ip}");
                rig.turns(1);
                assert_eq!(a.option(kind), Some(option), "{ip}");
            }
        }
        a.set_option(SocketOption::ReceiveBuffer(64 * 1024));
        rig.turns(1);
        let buffer = a.option(SocketOptionKind::ReceiveBuffer);
        assert_eq!(buffer, Some(SocketOption::ReceiveBuffer(128 * 1024)), "twice, on Linux");
        drop(a.stop_listening());
        a.set_option(Ttl(8));
        assert_eq!(a.option(SocketOptionKind::Ttl), None);
        rig.turns(2);
        assert_eq!(a.option(SocketOptionKind::Ttl), None);
    }
}

fn kind_of(option: SocketOption) -> SocketOptionKind {
    match option {
        SocketOption::Broadcast(_) => SocketOptionKind::Broadcast,
        SocketOption::Ttl(_) => SocketOptionKind::Ttl,
        SocketOption::Tos(_) => SocketOptionKind::Tos,
        SocketOption::MulticastTtl(_) => SocketOptionKind::MulticastTtl,
        _ => SocketOptionKind::MulticastLoop,
    }
}

#[test]
fn a_port_has_a_descriptor_while_it_listens() {
    let mut rig = Rig::new();
    let a = rig.at(LOOPBACK, &Far::default());
    let number = a.descriptor();
    rig.turns(1);
    assert!(number.is_some() && a.descriptor() == number);
    drop(a.stop_listening());
    assert_eq!(a.descriptor(), None);
}

#[test]
fn a_plain_socket_sends_and_receives() {
    let mut rig = Rig::new();
    let to = rig.echo();
    let socket = UdpSocket::bind(LOOPBACK).expect("a free port");
    socket.set_nonblocking(true).expect("a socket");
    for length in [0, 1, 512, 9000, 65_507] {
        let sent = vec![length as u8; length];
        assert_eq!(socket.send_to(&sent, to).expect("there is room"), length);
        let (mut buffer, mut answer) = (vec![0; 65_536], None);
        rig.until("an answer", || {
            answer = socket.recv_from(&mut buffer).ok();
            answer.is_some()
        });
        assert!(answer == Some((length, to)) && buffer[..length] == sent, "{length}");
    }
}

#[test]
fn a_unix_socket_without_a_name_gets_one_and_its_sender_is_known() {
    let (mut rig, far) = (Rig::new(), Far::default());
    let a = rig.unix("", DatagramOptions::default(), &Far::default());
    let Address::Unix(UnixAddress::Abstract(name)) = a.host() else { panic!("{}", a.host()) };
    assert_eq!(name.len(), 5);
    let b = rig.unix("", DatagramOptions::default(), &far);
    rig.turns(1);
    a.send_to("x", b.host()).expect("there is room");
    rig.until("it", || far.count() == 1);
    let got = far.last();
    assert_eq!((got.from, got.pid), (a.host(), Some(std::process::id())));
}

#[test]
fn a_unix_socket_with_a_path_has_the_mode_asked_for_and_may_be_a_peer() {
    let folder = Folder::new();
    let path = folder.join("there");
    let (mut rig, far) = (Rig::new(), Far::default());
    let options = DatagramOptions::default().mode(0o600);
    rig.1.listen_datagrams((UnixAddress::from(&path), options), far.clone()).expect("a free path");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let peer = DatagramOptions::default().peer(UnixAddress::from(&path));
    let a = rig.unix("", peer, &Far::default());
    rig.turns(1);
    a.send("x").expect("there is room");
    rig.until("it", || far.count() == 1);
}

#[test]
fn a_unix_socket_has_a_lock_file_unless_that_is_off() {
    for (options, names) in [
        (DatagramOptions::default(), &["there", "there.lock"][..]),
        (DatagramOptions::default().lock_file(true), &["there", "there.lock"]),
        (DatagramOptions::default().lock_file(false), &["there"]),
    ] {
        let (mut rig, folder) = (Rig::new(), Folder::new());
        let a = rig.unix(&folder.path("there"), options, &Far::default());
        assert_eq!(folder.names(), names);
        drop(a.stop_listening());
        rig.turns(2);
        assert!(folder.names().is_empty(), "{:?}", folder.names());
    }
}

#[test]
fn a_socket_of_each_family_is_prepared_before_it_is_bound() {
    let (rig, folder) = (Rig::new(), Folder::new());
    let path = UnixAddress::from(folder.path("there"));
    let any = [SocketAddr::from(([0; 4], 0)), ANY_V6];
    for host in both().chain(any).map(Address::udp).chain([path.into()]) {
        let listen = |options| match host.clone() {
            Address::Unix(path) => rig.1.listen_datagrams((path, options), Far::default()),
            host => {
                let host = host.socket_addr().expect("an IP address");
                rig.1.listen_datagrams((host, options), Far::default())
            }
        };
        let seen: Arc<Mutex<Option<bool>>> = Arc::default();
        let sees = seen.clone();
        let options = DatagramOptions::default().prepare(move |socket| {
            let own = socket.local_addr()?;
            let is_free = own.as_socket().map_or(own.is_unnamed(), |own| own.port() == 0);
            *sees.lock().expect("no panic") = Some(is_free);
            Ok(())
        });
        let port = listen(options).expect("a free port");
        assert_eq!(*seen.lock().expect("no panic"), Some(true), "{host}");
        drop(port.stop_listening());
        let refuses = |_: SockRef<'_>| Err(std::io::Error::other("by wish"));
        let refused = listen(DatagramOptions::default().prepare(refuses));
        let text = refused.map(drop).expect_err("it is not prepared").to_string();
        assert!(text.contains("by wish"), "{text}");
    }
}

/// A port at this address, and a duplicate of its socket.
fn duplicated(rig: &mut Rig, address: SocketAddr, dual: bool) -> (DatagramPort<Far>, Socket) {
    let duplicate: Arc<Mutex<Option<Socket>>> = Arc::default();
    let keep = duplicate.clone();
    let options = DatagramOptions::default().dual_stack(dual).prepare(move |socket| {
        *keep.lock().expect("no panic") = Some(socket.try_clone()?);
        Ok(())
    });
    let port = rig.1.listen_datagrams((address, options), Far::default()).expect("a free port");
    rig.turns(1);
    let socket = duplicate.lock().expect("no panic").take().expect("it was prepared");
    (port, socket)
}

#[test]
fn each_option_reaches_the_socket_for_each_of_its_families() {
    use SocketOption::{MulticastInterface, MulticastLoop, MulticastTtl, Tos, Ttl};
    type Read = fn(&Socket) -> std::io::Result<u32>;
    let lo = couplet_os::interfaces::interface_number("lo").expect("each host has it");
    // An option, and its value for IPv4 and for IPv6.
    let ttl: [Read; 2] = [Socket::ttl_v4, Socket::unicast_hops_v6];
    let tos: [Read; 2] = [Socket::tos_v4, Socket::tclass_v6];
    let multicast_ttl: [Read; 2] = [Socket::multicast_ttl_v4, Socket::multicast_hops_v6];
    let multicast_loop: [Read; 2] = [
        |socket| socket.multicast_loop_v4().map(u32::from),
        |socket| socket.multicast_loop_v6().map(u32::from),
    ];
    let interface: [Read; 2] =
        [|socket| socket.multicast_if_v4().map(u32::from), Socket::multicast_if_v6];
    let own = u32::from(Ipv4Addr::LOCALHOST);
    let cases = [
        (Ttl(7), ttl, [7; 2]),
        (Tos(0x20), tos, [0x20; 2]),
        (MulticastTtl(9), multicast_ttl, [9; 2]),
        (MulticastLoop(false), multicast_loop, [0; 2]),
        (MulticastLoop(true), multicast_loop, [1; 2]),
        (MulticastInterface(Ipv4Addr::LOCALHOST.into()), interface, [own, 0]),
        (MulticastInterface(Interface::Any), interface, [0; 2]),
        (MulticastInterface(lo.into()), interface, [0, lo]),
        (MulticastInterface(Interface::Any), interface, [0; 2]),
    ];
    for (address, dual, families) in
        [(LOOPBACK, true, 0..1), (ANY_V6, true, 0..2), (ANY_V6, false, 1..2)]
    {
        let mut rig = Rig::new();
        let (a, socket) = duplicated(&mut rig, address, dual);
        for (option, reads, values) in &cases {
            if *option == MulticastInterface(Ipv4Addr::LOCALHOST.into()) && !families.contains(&0) {
                continue;
            }
            a.set_option(*option);
            rig.turns(1);
            for family in families.clone() {
                let value = reads[family](&socket).expect("there is such an option");
                assert_eq!(value, values[family], "{option:?} of {address}, {dual}");
            }
        }
    }
}

#[test]
fn a_multicast_leaves_by_the_interface_with_the_address_or_the_number() {
    let lo = couplet_os::interfaces::interface_number("lo").expect("each host has it");
    for interface in [Interface::Address(Ipv4Addr::LOCALHOST), Interface::Number(lo)] {
        let (mut rig, far) = (Rig::new(), Far::default());
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (a, b) = (rig.at(any, &Far::default()), rig.at(any, &far));
        let group = Group::new([239, 255, 77, 4]).interface(interface);
        rig.result(b.join(group)).expect("loopback has groups");
        a.set_option(SocketOption::MulticastInterface(interface));
        a.send_to("x", SocketAddr::new(group.address, number(&b))).expect("there is room");
        rig.until("it", || far.count() == 1);
        assert_eq!((far.last().to, far.last().interface), (Some(group.address), Some(lo)));
    }
}

#[test]
fn a_port_of_ipv6_for_both_families_may_have_a_peer_of_either() {
    for peer in both() {
        let (mut rig, near, far) = (Rig::new(), Far::default(), Far::default());
        let b = rig.at(peer, &far);
        let options = DatagramOptions::default().peer(b.host());
        let a = rig.1.listen_datagrams((ANY_V6, options), near.clone()).expect("a free port");
        rig.turns(1);
        a.send("x").expect("there is room");
        rig.until("it", || far.count() == 1);
        b.send_to("y", far.last().from).expect("there is room");
        rig.until("the answer", || near.count() == 1);
        assert_eq!(near.last().from, b.host());
    }
}

#[test]
fn a_port_of_size_zero_receives_one_byte() {
    let (mut rig, cut) = (Rig::new(), Rc::<Cell<Option<(usize, bool)>>>::default());
    let seen = cut.clone();
    let receive = move |_: &DatagramTransport, datagram: &Datagram<'_>| {
        seen.set(Some((datagram.data.len(), datagram.cut)));
    };
    let b = rig.with(DatagramOptions::default().size(0), receive);
    let a = rig.at(LOOPBACK, &Far::default());
    rig.turns(1);
    a.send_to("xy", b.host()).expect("there is room");
    rig.until("it", || cut.get().is_some());
    assert_eq!(cut.get(), Some((1, true)));
}

/// A port of the driver on loopback, for datagrams of this size.
fn served(driver: &mut Mio, size: usize) -> (Key, SocketAddr) {
    let options = DatagramOptions::default().size(size);
    let bound = driver.world().bind_datagrams(&LOOPBACK.into(), &options).expect("a free port");
    let at = bound.host.socket_addr().expect("a UDP port");
    (driver.listen(bound).expect("it can be served"), at)
}

/// The next datagram of the driver, and whether more of its batch follow.
fn next_datagram(driver: &mut Mio) -> (Key, Vec<u8>, bool) {
    let late = driver.world().now() + PATIENCE;
    while driver.world().now() < late {
        if let Some(event) = driver.next() {
            let Event::Datagram { key, more } = event else { panic!("{event:?}") };
            return (key, driver.datagram().data.to_vec(), more);
        }
        let until = driver.world().now() + Duration::from_millis(10);
        driver.wait(Some(until)).expect("it does not fail");
    }
    panic!("no datagram came");
}

#[test]
fn a_port_for_longer_datagrams_changes_none_of_those_that_were_received_for_another() {
    // Served after the first, in the middle, before the last and after it.
    for reported in [1, 4, 7, 8] {
        let mut driver = Mio::new(4096).expect("a poll descriptor");
        let (short, at) = served(&mut driver, 64);
        let socket = UdpSocket::bind(LOOPBACK).expect("a free port");
        let sent: Vec<_> = (1..9u8).map(|n| vec![n; usize::from(n)]).collect();
        for data in &sent {
            socket.send_to(data, at).expect("there is room");
        }
        let mut got = Vec::new();
        let mut take = |driver: &mut Mio| {
            let (key, data, more) = next_datagram(driver);
            assert_eq!(key, short);
            got.push(data);
            more
        };
        for n in 1..=reported {
            assert_eq!(take(&mut driver), n < sent.len(), "one batch");
        }
        let (long, to) = served(&mut driver, 60_000);
        for _ in reported..sent.len() {
            take(&mut driver);
        }
        assert_eq!(got, sent, "after {reported}");
        socket.send_to(&[7; 50_000], to).expect("there is room");
        let (key, data, _) = next_datagram(&mut driver);
        assert!(key == long && data == [7; 50_000], "{} bytes", data.len());
    }
}

/// A UNIX socket outside of the loop, and its address.
fn outside(folder: &Folder, name: &str) -> (UnixDatagram, Address) {
    let socket = UnixDatagram::bind(folder.path(name)).expect("a free path");
    socket.set_nonblocking(true).expect("an option");
    (socket, UnixAddress::from(folder.path(name)).into())
}

fn read_all(socket: &UnixDatagram) -> Vec<Vec<u8>> {
    let mut data = [0; 1000];
    std::iter::from_fn(|| socket.recv(&mut data).ok().map(|count| data[..count].to_vec())).collect()
}

fn numbered(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| n.to_be_bytes().to_vec()).collect()
}

#[test]
fn c157a_a_unix_receiver_that_does_not_read_delays_no_other() {
    const MANY: u32 = 100;
    for stuck_first in [false, true] {
        let (mut rig, folder) = (Rig::new(), Folder::new());
        let port = rig.unix("", DatagramOptions::default(), &Far::default());
        rig.turns(1);
        let stuck = ["a", "b", "c"].map(|name| outside(&folder, name));
        let (reader, to) = outside(&folder, "reader");
        let mut read = Vec::new();
        for data in numbered(MANY) {
            let all = stuck.iter().map(|(_, address)| address);
            let all: Vec<_> = if stuck_first {
                all.chain([&to]).collect()
            } else {
                [&to].into_iter().chain(all).collect()
            };
            for address in all {
                port.send_to(&data, address.clone()).expect("there is room");
            }
            rig.turns(1);
            read.extend(read_all(&reader));
        }
        assert_eq!(read, numbered(MANY), "each arrived in its turn");
        assert!(port.buffered() > 0, "the others wait");
        // One after another reads again, and gets everything in order.
        for (socket, _) in &stuck {
            let mut got = Vec::new();
            rig.until("the datagrams of a receiver", || {
                got.extend(read_all(socket));
                got.len() == MANY as usize
            });
            assert_eq!(got, numbered(MANY));
        }
        assert_eq!((port.buffered(), port.dropped()), (0, 0));
        // The port still works: the first receiver gets another datagram.
        port.send_to("again", stuck[0].1.clone()).expect("there is room");
        rig.turns(1);
        assert_eq!(read_all(&stuck[0].0), [b"again"]);
    }
}

#[test]
fn c157a_a_full_unix_receiver_blocks_no_other_and_datagrams_to_a_closed_one_are_dropped() {
    let (mut rig, folder) = (Rig::new(), Folder::new());
    let port = rig.unix("", DatagramOptions::default().queue(400), &Far::default());
    rig.turns(1);
    let ((stuck, stuck_at), (reader, reader_at)) =
        (outside(&folder, "stuck"), outside(&folder, "reader"));
    let mut sent = 0;
    while port.send_to(u32::to_be_bytes(sent), stuck_at.clone()).is_ok() {
        sent += 1;
        rig.turns(1);
    }
    assert_eq!((port.buffered(), port.dropped()), (400, 1));
    for data in numbered(10) {
        port.send_to(data, reader_at.clone()).expect("the other gives way");
        rig.turns(1);
    }
    assert_eq!(read_all(&reader), numbered(10));
    assert_eq!((port.buffered(), port.dropped()), (396, 2), "one gives way for all of them");
    let mut got = Vec::new();
    rig.until("the others", || {
        got.extend(read_all(&stuck));
        port.buffered() == 0
    });
    assert_eq!(got, numbered(sent - 1), "the newest was dropped");

    while port.send_to("x", stuck_at.clone()).is_ok() && port.buffered() < 100 {
        rig.turns(1);
    }
    drop(stuck);
    rig.until("their drop", || port.buffered() == 0);
    assert!(port.dropped() >= 102);
}
