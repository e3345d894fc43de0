//! Rows 51a and 64b: sockets that the loop did not open.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Cancelled;
use couplet::testing::{failure_of, success_of};
use couplet::{Address, ConnectError, Connection, Deferred, LoadLimits, Shutdown, hooks};

use crate::suite::kit::{Kit, LOOPBACK, Rig, tcp_options};
use crate::suite::recorder::{A, On, Recorder, Script};

/// A connected pair of system sockets: ours, and the peer's, whose reads block with a timeout.
pub(crate) fn sockets() -> (TcpStream, TcpStream) {
    let port = listening();
    let ours = TcpStream::connect(port.local_addr().expect("an address")).expect("it listens");
    let (theirs, _) = port.accept().expect("it connects");
    theirs.set_read_timeout(Some(Duration::from_secs(300))).expect("an option");
    (ours, theirs)
}

pub(crate) fn listening() -> TcpListener {
    TcpListener::bind(LOOPBACK).expect("a free port")
}

type Adopting = Deferred<Connection<Recorder>>;

/// Adopts a socket for A.
fn adopt(rig: &Rig, a: &A, script: Script, socket: TcpStream) -> Adopting {
    rig.reactor.adopt(socket, a.maker(script)).expect("a connected socket")
}

/// The peer and the host of each connection in a snapshot.
fn in_snapshot(rig: &mut Rig) -> Vec<(Address, Address)> {
    let snapshot = rig.l.snapshot();
    snapshot.connections.into_iter().map(|shown| (shown.peer, shown.host)).collect()
}

#[test]
fn c51a_a_snapshot_shows_the_real_addresses_of_adopted_connections() {
    // A connection accepted by a wildcard port.
    let mut rig = Kit::mio().rig();
    let socket = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let number = socket.local_addr().unwrap().port();
    let a = rig.end();
    let port = rig.reactor.adopt_port(socket, a.makes_many()).expect("a listening socket");
    assert_eq!(rig.l.snapshot().ports[0].host, SocketAddr::from(([0, 0, 0, 0], number)).into());
    let theirs = TcpStream::connect(("127.0.0.1", number)).expect("it listens");
    rig.until("connection_made", || a.log.count("made") == 1);
    let addresses = (theirs.local_addr().unwrap(), theirs.peer_addr().unwrap());
    assert_eq!(in_snapshot(&mut rig), [(addresses.0.into(), addresses.1.into())]);
    drop(port);
    // A connection reset by its peer.
    let (ours, theirs) = sockets();
    let real: (Address, Address) =
        (ours.peer_addr().unwrap().into(), ours.local_addr().unwrap().into());
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let seen: Rc<RefCell<Vec<(Address, Address)>>> = Rc::default();
    let sees = seen.clone();
    let script = Script::new().on(On::Lost, move |transport| {
        sees.borrow_mut().push((transport.peer().clone(), transport.host().clone()));
    });
    adopt(&rig, &a, script, ours).detach();
    socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(theirs);
    assert_eq!(rig.lost(&a), "Lost");
    assert_eq!(seen.take(), [real]);
}

#[test]
fn c51a_a_socket_that_stays_open_elsewhere_is_adopted_again() {
    let mut rig = Kit::mio().rig();
    let (ours, mut theirs) = sockets();
    for round in 1..=3 {
        let a = rig.end();
        // The next descriptor reuses the number of the last one.
        adopt(&rig, &a, Script::new(), ours.try_clone().expect("a descriptor")).detach();
        theirs.write_all(b"hello").expect("room");
        rig.until("data", || a.received_len() == 5);
        a.transport().set_close_at_once(true);
        a.transport().lose_connection();
        assert_eq!(rig.lost(&a), "Done(Us)", "in round {round}");
        rig.tick();
    }
}

#[test]
fn c64b_an_adopted_socket_keeps_its_options() {
    let mut rig = Kit::mio().rig();
    for (no_delay, keep_alive) in [(true, false), (false, true)] {
        let (ours, _theirs) = sockets();
        ours.set_nodelay(no_delay).expect("an option");
        socket2::SockRef::from(&ours).set_keepalive(keep_alive).expect("an option");
        let a = rig.end();
        adopt(&rig, &a, Script::new(), ours).detach();
        rig.until("connection_made", || a.is_made());
        assert_eq!(tcp_options(&a.transport()), (Some(no_delay), Some(keep_alive)));
    }
}

#[test]
fn c51a_an_adopted_connection_is_like_any_other() {
    let mut rig = Kit::mio().rig();
    let (ours, mut theirs) = sockets();
    let (peer, host) = (ours.peer_addr().unwrap(), ours.local_addr().unwrap());
    let number = ours.as_raw_fd();
    theirs.write_all(b"early").expect("room");
    let a = rig.end();
    let script = Script::new().once(On::Data, |transport| transport.write("answer"));
    let adopted = adopt(&rig, &a, script, ours);
    assert_eq!(a.log.len(), 0, "the turn does it");
    rig.until("bytes that came before", || a.received_len() == 5);
    let build = format!("build(tcp:{peer})");
    assert_eq!(a.log.entries(), ["do_start", &build, "do_stop", "made", "data(5)"]);
    let connection = success_of(adopted);
    assert_eq!(connection.transport(), a.transport());
    assert_eq!(a.transport().peer(), &peer.into());
    assert_eq!(a.transport().host(), &host.into());
    assert_eq!(hooks::descriptor(&a.transport()), Some(number));
    assert_eq!(in_snapshot(&mut rig), [(Address::from(peer), Address::from(host))]);
    let mut answer = [0; 6];
    theirs.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"answer");
    drop(theirs);
    assert_eq!(rig.lost(&a), "Done(Peer)");
    assert_eq!(hooks::descriptor(&a.transport()), None);
}

#[test]
fn c51a_an_adoption_that_fails_says_why_and_closes_the_socket() {
    let mut rig = Kit::mio().rig();
    let closed = |mut theirs: TcpStream| {
        assert_eq!(theirs.read(&mut [0]).expect("an end of stream"), 0);
    };
    // Not connected.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let error = rig.reactor.adopt(socket, || A::default().plays(Script::new())).map(drop);
    assert_eq!(error.expect_err("it has no peer").kind(), ErrorKind::NotConnected);
    // A factory that builds nothing.
    let (ours, theirs) = sockets();
    let none = rig.reactor.adopt(ours, |_: &Address| None::<Recorder>).unwrap();
    rig.turns(3);
    let failure = failure_of(none);
    assert!(matches!(failure.downcast_ref(), Some(ConnectError::NoProtocol)), "{failure}");
    closed(theirs);
    // Cancelled before its turn.
    let ((ours, theirs), a) = (sockets(), rig.end());
    let cancelled = adopt(&rig, &a, Script::new(), ours);
    cancelled.cancel();
    rig.turns(3);
    assert!(failure_of(cancelled).is::<Cancelled>());
    assert_eq!(a.log.len(), 0);
    closed(theirs);
    // The loop is dropped first.
    let ((ours, theirs), a) = (sockets(), A::default());
    a.log.watch("adopted", adopt(&rig, &a, Script::new(), ours));
    drop(rig);
    assert_eq!(a.log.entries(), ["adopted: failed"]);
    closed(theirs);
}

#[test]
fn c22b_c51a_an_adopted_port_is_like_any_other() {
    let mut rig = Kit::mio().rig();
    let socket = listening();
    let (address, number) = (socket.local_addr().unwrap(), socket.as_raw_fd());
    // In the port's queue before the adoption.
    let early = TcpStream::connect(address).expect("it listens");
    let a = rig.end();
    let port = rig.reactor.adopt_port(socket, a.makes_many()).expect("a listening socket");
    assert_eq!(port.host(), address.into());
    assert_eq!(port.descriptor(), Some(number));
    let ports =
        |rig: &mut Rig| rig.l.snapshot().ports.iter().map(|p| p.host.clone()).collect::<Vec<_>>();
    assert_eq!(ports(&mut rig), [Address::from(address)], "before its first turn");
    rig.until("connection_made", || a.log.count("made") == 1);
    assert_eq!(ports(&mut rig), [Address::from(address)]);
    assert_eq!(in_snapshot(&mut rig), [(early.local_addr().unwrap().into(), address.into())]);
    port.stop_listening().expect("it listens").detach();
    rig.until("the end of the port", || !port.is_listening());
    rig.turns(2);
    TcpStream::connect(address).expect_err("it is closed");
    port.start_listening().expect("the address is free again");
    assert_eq!(port.host(), address.into());
    let late = TcpStream::connect(address).expect("it listens again");
    rig.until("another", || a.log.count("made") == 2);
    drop((early, late));
}

#[test]
fn c22e_adopted_connections_count_for_the_limit() {
    let mut rig = Kit::mio().rig();
    rig.reactor.set_load_limits(LoadLimits::default().connections(2));
    let a = rig.end();
    let port = rig.listen_with(a.makes_many());
    rig.turns(2);
    for round in 1..=2 {
        let mut adopted = [(); 2].map(|()| {
            let (end, (ours, theirs)) = (rig.end(), sockets());
            adopt(&rig, &end, Script::new(), ours).detach();
            rig.until("connection_made", || end.is_made());
            (end, Some(theirs))
        });
        let waits = rig.peer(&port);
        rig.turns(10);
        assert_eq!(a.log.count("made"), round - 1, "the loop is full");
        for (end, theirs) in &mut adopted {
            drop(theirs.take());
            rig.lost(end);
        }
        rig.until("the one that waits", || a.log.count("made") == round);
        waits.close();
        rig.until("its end", || a.log.count("lost") == round);
    }
}

#[test]
fn c51a_an_adoption_at_the_end_of_a_run_fails_and_closes_the_socket() {
    let (mut rig, mut peers) = (Kit::mio().rig(), Vec::new());
    let a = rig.end();
    for when in [Shutdown::During, Shutdown::After] {
        let ((ours, theirs), a, reactor) = (sockets(), a.clone(), rig.reactor.clone());
        peers.push(theirs);
        rig.reactor.on(when, move || {
            let adopting = reactor.adopt(ours, a.once(Script::new())).expect("a socket");
            a.log.watch("adopted", adopting);
        });
    }
    rig.stop(Duration::ZERO);
    assert_eq!(a.log.entries(), ["adopted: failed"; 2]);
    for mut theirs in peers {
        assert_eq!(theirs.read(&mut [0]).expect("an end of stream"), 0);
    }
    assert!(rig.l.snapshot().connections.is_empty());
}
