//! Row 160g: the socket of a UDP port, passed on to another process: here to another loop.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;

use couplet::testing::{Manner, failure_of, success_of};
use couplet::{
    Datagram, DatagramEndpoint, DatagramOptions, DatagramPort, DatagramProtocol, DatagramSocket,
    DatagramTransport, Failure, Group, PortStopped, SendError, UnixAddress,
};
use couplet_os::datagrams::Outgoing;

use crate::suite::kit::{Kit, Rig};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Records datagrams, and answers each with its name.
#[derive(Clone)]
struct Named(&'static str, Rc<RefCell<Vec<Vec<u8>>>>);

impl Named {
    fn new(name: &'static str) -> Named {
        Named(name, Rc::default())
    }

    fn count(&self) -> usize {
        self.1.borrow().len()
    }
}

impl DatagramProtocol for Named {
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self.1.borrow_mut().push(datagram.data.to_vec());
        if datagram.data == b"leave" {
            transport.set_reading(false);
        }
        transport.answer(datagram, self.0).expect("it can be answered");
    }
}

/// A duplicate of a port's socket, as another process gets it.
fn passed(rig: &mut Rig, port: &DatagramTransport) -> DatagramSocket {
    let duplicate = port.duplicate();
    rig.turns(2);
    let descriptor: OwnedFd = success_of(duplicate).into();
    descriptor.try_into().expect("a UDP socket")
}

fn adopt<P: DatagramProtocol>(rig: &Rig, socket: DatagramSocket, protocol: P) -> DatagramPort<P> {
    let options = DatagramOptions::default();
    rig.reactor.listen_datagrams((socket, options), protocol).expect("a UDP socket")
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).expect("a free port");
    socket.set_nonblocking(true).expect("an option");
    socket
}

fn address(port: &DatagramTransport) -> SocketAddr {
    port.host().socket_addr().expect("a UDP port")
}

/// The next datagram that a socket receives while the loop turns.
fn received(rig: &mut Rig, socket: &UdpSocket) -> (String, SocketAddr) {
    let (mut bytes, mut got) = ([0; 100], None);
    rig.until("an answer", || {
        got = socket.recv_from(&mut bytes).ok();
        got.is_some()
    });
    let (n, from) = got.expect("it has arrived");
    (String::from_utf8_lossy(&bytes[..n]).into_owned(), from)
}

fn kind(failure: &Failure) -> Option<ErrorKind> {
    failure.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

#[test]
fn c160g_two_ports_have_one_socket_and_one_of_them_reads() {
    for any in [([0, 0, 0, 0], 0).into(), SocketAddr::from(([0u16; 8], 0))] {
        let (mut first, mut second) = (Kit::mio().rig(), Kit::mio().rig());
        let old = first.reactor.listen_datagrams(any, Named::new("old")).expect("a free port");
        let socket = passed(&mut first, &old);
        assert_eq!(socket.address().expect("a name"), old.host());
        let new = adopt(&second, socket, Named::new("new"));
        new.set_reading(false);
        assert_eq!(new.host(), old.host());
        second.turns(2);
        let client = client();
        for (host, reader) in [("127.0.0.1", "old"), ("127.0.0.2", "new"), ("127.0.0.3", "old")] {
            old.set_reading(reader == "old");
            new.set_reading(reader == "new");
            first.turns(2);
            let to = SocketAddr::new(host.parse().expect("an address"), address(&old).port());
            client.send_to(b"x", to).expect("there is room");
            // The waiting loop turns first, and receives nothing.
            let (reads, waits) = match reader {
                "old" => (&mut first, &mut second),
                _ => (&mut second, &mut first),
            };
            waits.turns(3);
            assert_eq!(received(reads, &client), (reader.to_owned(), to));
        }
        // Both send from the same address.
        let to = client.local_addr().expect("a name");
        let from = SocketAddr::new(LOOPBACK.ip(), address(&old).port());
        for (port, rig, word) in [(&old, &mut first, "one"), (&new, &mut second, "two")] {
            port.send_to(word, to).expect("there is room");
            assert_eq!(received(rig, &client), (word.to_owned(), from));
        }
    }
}

#[test]
fn c160g_a_port_that_stops_reading_delivers_the_datagrams_already_read() {
    let (mut first, mut second) = (Kit::mio().rig(), Kit::mio().rig());
    let (old, new) = (Named::new("old"), Named::new("new"));
    let port = first.reactor.listen_datagrams(LOOPBACK, old.clone()).expect("a free port");
    let socket = passed(&mut first, &port);
    // More than one turn delivers, in one piece that the kernel may deliver as such.
    let client = client();
    client.connect(address(&port)).expect("an address");
    let sent: Vec<Vec<u8>> = (0..63u8).map(|n| vec![n; 5]).collect();
    let joined = [&b"leave"[..], &sent.concat()].concat();
    let out = Outgoing { data: &joined, to: None, from: None, tos: None, segment: Some(5) };
    for _ in 0..3 {
        couplet_os::datagrams::send(client.as_fd(), &[out]).expect("there is room");
    }
    first.until("the first", || old.count() > 0);
    first.turns(5);
    let count = old.count();
    assert!(count % 64 == 0, "{count}: whole sends were read");
    client.send(b"later").expect("there is room");
    first.turns(5);
    assert_eq!(old.count(), count);
    adopt(&second, socket, new.clone());
    second.until("the rest", || count + new.count() > 3 * 64);
    assert_eq!(new.1.borrow().last().expect("some"), b"later");
}

type Change = fn(&DatagramTransport);

#[test]
fn c160g_a_pause_of_the_protocol_is_another() {
    let mut rig = Kit::mio().rig();
    let far = Named::new("far");
    let port = rig.reactor.listen_datagrams(LOOPBACK, far.clone()).expect("a free port");
    let client = client();
    let send = || client.send_to(b"x", address(&port)).expect("there is room");
    port.set_reading(false);
    port.pause_producing();
    send();
    let changes: [(Change, usize); 4] = [
        (|port| port.set_reading(true), 0),
        (DatagramTransport::resume_producing, 1),
        (|port| port.set_reading(false), 1),
        (|port| port.set_reading(true), 2),
    ];
    for (n, (change, count)) in changes.into_iter().enumerate() {
        change(&port);
        rig.turns(3);
        if n == 2 {
            send();
        }
        rig.turns(3);
        assert_eq!(far.count(), count, "{n}");
    }
}

#[test]
fn c160g_no_other_descriptor_is_a_udp_socket() {
    let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    let refused: [OwnedFd; 5] = [
        TcpListener::bind(LOOPBACK).expect("a free port").into(),
        UnixDatagram::unbound().expect("a descriptor").into(),
        UnixDatagram::pair().expect("descriptors").0.into(),
        std::fs::File::open("/dev/null").expect("a device").into(),
        unbound.expect("a descriptor").into(),
    ];
    for (n, descriptor) in refused.into_iter().enumerate() {
        DatagramSocket::try_from(descriptor).expect_err(&n.to_string());
    }
    let bound: OwnedFd = client().into();
    DatagramSocket::try_from(bound).expect("a UDP socket");
}

#[test]
fn c160g_a_port_that_stops_or_has_no_udp_socket_has_no_duplicate() {
    let mut rig = Kit::mio().rig();
    let port = rig.reactor.listen_datagrams(LOOPBACK, Named::new("a")).expect("a free port");
    rig.turns(1);
    // Asked before the stop, it is answered first.
    let (early, stopped) = (port.duplicate(), port.stop_listening());
    stopped.expect("it listens").detach();
    let late = port.duplicate();
    rig.turns(2);
    success_of(early);
    for refused in [late, port.duplicate()] {
        assert!(failure_of(refused).is::<PortStopped>());
    }
    port.set_reading(true);
    let unix = UnixAddress::Unnamed;
    let options = DatagramOptions::default();
    let port = rig.reactor.listen_datagrams((unix, options), Named::new("u")).expect("a name");
    let asked = port.duplicate();
    rig.turns(2);
    assert_eq!(kind(&failure_of(asked)), Some(ErrorKind::Unsupported));
    let port = rig.reactor.listen_datagrams(LOOPBACK, Named::new("b")).expect("a free port");
    let asked = port.duplicate();
    drop(rig);
    failure_of(asked);
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let port = rig.reactor.listen_datagrams(LOOPBACK, Named::new("c")).expect("a free port");
    let asked = port.duplicate();
    let adopted = rig.reactor.listen_datagrams(
        (DatagramSocket::from(client()), DatagramOptions::default()),
        Named::new("d"),
    );
    assert_eq!(adopted.expect_err("no sockets").source.kind(), ErrorKind::Unsupported);
    rig.turns(2);
    assert_eq!(kind(&failure_of(asked)), Some(ErrorKind::Unsupported));
}

#[test]
fn c160g_an_adopted_socket_keeps_its_peer_its_families_and_its_groups() {
    let mut rig = Kit::mio().rig();
    let (peer, other) = (client(), client());
    let server = peer.local_addr().expect("a name");
    let port = rig
        .reactor
        .listen_datagrams(DatagramEndpoint::to(server), Named::new("a"))
        .expect("an address");
    let socket = passed(&mut rig, &port);
    let port = adopt(&rig, socket, Named::new("b"));
    assert_eq!(port.peer(), Some(couplet::Address::udp(server)));
    port.send("to the peer").expect("there is room");
    rig.turns(2);
    assert_eq!(received(&mut rig, &peer), ("to the peer".to_owned(), address(&port)));
    let elsewhere = port.send_to("x", other.local_addr().expect("a name"));
    assert!(matches!(elsewhere, Err(SendError::WrongAddress { .. })));

    let options = DatagramOptions::default().dual_stack(false);
    let any = SocketAddr::from(([0u16; 8], 0));
    let port = rig.reactor.listen_datagrams((any, options), Named::new("c")).expect("a free port");
    let socket = passed(&mut rig, &port);
    let port = adopt(&rig, socket, Named::new("d"));
    assert!(matches!(port.send_to("x", server), Err(SendError::WrongAddress { .. })));

    let group = Group::new([239, 255, 77, 9]).interface(Ipv4Addr::LOCALHOST);
    let port = rig.reactor.listen_datagrams(LOOPBACK, Named::new("e")).expect("a free port");
    let joined = port.join(group);
    let socket = passed(&mut rig, &port);
    success_of(joined);
    let port = adopt(&rig, socket, Named::new("f"));
    let joined = port.join(group);
    rig.turns(2);
    success_of(joined);
}

#[test]
fn c160g_datagrams_joined_by_the_kernel_are_delivered_singly_to_a_port_of_any_size() {
    let (mut first, mut second) = (Kit::mio().rig(), Kit::mio().rig());
    let far = Named::new("far");
    let port = first.reactor.listen_datagrams(LOOPBACK, Named::new("old")).expect("a free port");
    let socket = passed(&mut first, &port);
    port.set_reading(false);
    first.turns(2);
    let client = client();
    client.connect(address(&port)).expect("an address");
    let all: Vec<Vec<u8>> = (0..60u8).map(|n| vec![n; 7]).collect();
    let joined = all.concat();
    let out = Outgoing { data: &joined, to: None, from: None, tos: None, segment: Some(7) };
    couplet_os::datagrams::send(client.as_fd(), &[out]).expect("there is room");
    let options = DatagramOptions::default().size(10);
    second.reactor.listen_datagrams((socket, options), far.clone()).expect("a UDP socket");
    second.until("all", || far.count() >= 60);
    assert!(*far.1.borrow() == all);
}
