//! Row 106a: loops of forked processes.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use couplet::{Interest, Loop, Protocol, Transport};

/// Echoes, and in its first call reports a fork whose child is this process.
struct Forking(Rc<Cell<bool>>);

impl Protocol for Forking {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if self.0.replace(true) {
            transport.reactor().forked(false).expect("nothing to do for a parent");
        } else {
            transport.reactor().forked(true).expect("a new epoll");
        }
        transport.write(data);
    }
}

fn read(stream: &mut impl Read) -> Option<u8> {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(1) => Some(byte[0]),
        Ok(_) => panic!("the stream has ended"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

fn turns(l: &mut Loop) {
    for _ in 0..4 {
        l.turn(Some(Duration::ZERO)).expect("a turn");
    }
}

#[test]
fn c106a_in_the_child_of_a_fork_connections_watches_and_calls_from_threads_continue() {
    let mut l = Loop::new().expect("a loop");
    let reactor = l.reactor();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (ours, _) = listener.accept().expect("a connection");
    peer.set_nonblocking(true).expect("a socket");
    let has_forked = Rc::<Cell<bool>>::default();
    let protocol = has_forked.clone();
    reactor.adopt(ours, move || Forking(protocol.clone())).expect("a socket").detach();
    let (watched, mut writes) = UnixStream::pair().expect("a pair");
    let seen: Rc<RefCell<Vec<u8>>> = Rc::default();
    let sees = seen.clone();
    let ready = move |socket: &mut UnixStream, _| sees.borrow_mut().extend(read(socket));
    reactor.watch(watched, Interest::Readable, ready).expect("a socket");
    for round in 0..4 {
        peer.write_all(&[round]).expect("room");
        writes.write_all(&[round]).expect("room");
        turns(&mut l);
        assert!(has_forked.get());
        assert_eq!((read(&mut peer), seen.borrow().len()), (Some(round), 1 + usize::from(round)));
    }
    let remote = reactor.remote();
    let calling = std::thread::spawn(move || remote.call(|reactor| reactor.stop()));
    // Runs until the call from the other thread.
    l.run(|_| Ok(())).expect("it runs");
    calling.join().expect("no panic").expect("the loop is there");
}
