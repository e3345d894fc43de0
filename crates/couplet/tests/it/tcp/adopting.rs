//! Row 51a: sockets that the loop did not open.

#![expect(clippy::disallowed_types, reason = "the sockets to adopt, and their peers")]

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Cancelled;
use couplet::testing::{failure_of, success_of};
use couplet::{Address, ConnectError, Connection, Deferred};

use crate::suite::kit::{Kit, LOOPBACK, Rig};
use crate::suite::recorder::{A, Maker, On, Recorder, Script};

/// A connected pair of the system's sockets: ours, and the peer's, which blocks for a while at most.
pub(crate) fn sockets() -> (TcpStream, TcpStream) {
    let port = listening();
    let ours = TcpStream::connect(port.local_addr().expect("an address")).expect("it listens");
    let (theirs, _) = port.accept().expect("it connects");
    theirs.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
    (ours, theirs)
}

pub(crate) fn listening() -> TcpListener {
    TcpListener::bind(LOOPBACK).expect("a free port")
}

type Adopting = Deferred<Connection<Recorder>>;

/// Adopts a socket for A.
fn adopt(rig: &Rig, a: &A, script: Script, socket: TcpStream) -> Adopting {
    let mut plays = Some(a.plays(script));
    let maker = Maker::new(&a.log, move |_: &Address| plays.take());
    rig.reactor.adopt(socket, maker).expect("a connected socket")
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
    assert_eq!(a.transport().descriptor(), Some(number));
    let mut answer = [0; 6];
    theirs.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"answer");
    drop(theirs);
    assert_eq!(rig.lost(&a), "Done(Peer)");
    assert_eq!(a.transport().descriptor(), None);
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
    // The loop is dropped before.
    let ((ours, theirs), a) = (sockets(), A::default());
    let outcome: Rc<RefCell<Option<bool>>> = Rc::default();
    let told = outcome.clone();
    let adopted = adopt(&rig, &a, Script::new(), ours);
    let tells = move |result: couplet::Result<_>| {
        *told.borrow_mut() = Some(result.is_ok());
        Ok(())
    };
    adopted.add_both(tells).detach();
    drop(rig);
    assert_eq!((outcome.take(), a.log.len()), (Some(false), 0));
    closed(theirs);
}

#[test]
fn c51a_an_adopted_port_is_like_any_other() {
    let mut rig = Kit::mio().rig();
    let socket = listening();
    let address = socket.local_addr().unwrap();
    // In its queue before it is adopted.
    let early = TcpStream::connect(address).expect("it listens");
    let a = rig.end();
    let end = a.clone();
    let builds = move |_: &Address| Some(end.plays(Script::new()));
    let port = rig.reactor.adopt_port(socket, builds).expect("a listening socket");
    assert_eq!(port.host(), address.into());
    rig.until("connection_made", || a.log.count("made") == 1);
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
