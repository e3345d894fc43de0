//! Row 106a: loops of forked processes.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::epoll;

use couplet::{Interest, Loop, Protocol, Transport, hooks};
use socket2::Socket;

/// Echoes, and in each call reports a fork: this process is the child, then the parent, and so on.
struct Forking(Rc<Cell<u32>>);

impl Protocol for Forking {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let forks = self.0.replace(self.0.get() + 1);
        hooks::forked(transport.reactor(), forks.is_multiple_of(2))
            .expect("a new epoll, or nothing to do");
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

/// Whether both are the same epoll: what one has registered, the other has too.
fn is_same_epoll(before: &OwnedFd, l: &Loop) -> bool {
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    let data = epoll::EventData::new_u64(u64::MAX - 9);
    epoll::add(before, &writer, data, epoll::EventFlags::empty()).expect("an epoll");
    let now = l.descriptor().expect("an epoll");
    let is_same = epoll::delete(now, &writer).is_ok();
    if !is_same {
        epoll::delete(before, &writer).expect("it was added");
    }
    is_same
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
    let forks = Rc::<Cell<u32>>::default();
    let protocol = forks.clone();
    reactor.adopt(ours, move || Forking(protocol.clone())).expect("a socket").detach();
    let (watched, mut writes) = UnixStream::pair().expect("a pair");
    let seen: Rc<RefCell<Vec<u8>>> = Rc::default();
    let sees = seen.clone();
    let ready = move |socket: &mut UnixStream, _| sees.borrow_mut().extend(read(socket));
    reactor.watch(watched, Interest::Readable, ready).expect("a socket");
    let mut sees = |l: &mut Loop, round: u8| {
        peer.write_all(&[round]).expect("room");
        writes.write_all(&[round]).expect("room");
        turns(l);
        assert_eq!(forks.get(), 1 + u32::from(round));
        assert_eq!((read(&mut peer), seen.borrow().len()), (Some(round), 1 + usize::from(round)));
    };
    // The parent, and the parent's parent, keep the epolls before it.
    for round in 0..4 {
        let before = l.descriptor().expect("an epoll").try_clone_to_owned().expect("a duplicate");
        sees(&mut l, round);
        let is_own = round % 2 == 0;
        assert_eq!(is_same_epoll(&before, &l), !is_own, "round {round}");
    }
    let remote = reactor.remote();
    let calling = std::thread::spawn(move || remote.call(|reactor| reactor.stop()));
    // Runs until the call from the other thread.
    l.run(|_| Ok(())).expect("it runs");
    calling.join().expect("no panic").expect("the loop is there");
}

/// Pauses, and notes the arrival of its peer's end. Another process, represented by a duplicate,
/// also holds the first connection, which aborts after the fork.
#[derive(Clone, Default)]
struct Pausing {
    held: Rc<RefCell<Option<Socket>>>,
    ended: Rc<Cell<usize>>,
    is_child: bool,
}

impl Protocol for Pausing {
    fn connection_made(&mut self, transport: &Transport) {
        if self.held.borrow().is_some() {
            let ended = self.ended.clone();
            transport.pause_producing();
            transport.peer_ended().map(move |()| ended.set(ended.get() + 1)).detach();
            return;
        }
        let (this, ours) = (self.clone(), transport.clone());
        transport.with_socket(move |socket| {
            *this.held.borrow_mut() = Some(socket.try_clone()?);
            hooks::forked(ours.reactor(), this.is_child)?;
            ours.abort_connection();
            Ok(())
        });
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[test]
fn a_closed_connection_that_another_process_holds_disturbs_none_in_its_place() {
    for is_child in [false, true] {
        let (mut l, protocol) = (Loop::new().expect("a loop"), Pausing::default());
        let factory = Pausing { is_child, ..protocol.clone() };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let port = l.reactor().listen(any, move || factory.clone()).expect("a free port");
        let to = port.host().socket_addr().expect("TCP");
        let closed = TcpStream::connect(to).expect("it listens");
        turns(&mut l);
        assert!(protocol.held.borrow().is_some() && l.snapshot().connections.is_empty());
        let next = TcpStream::connect(to).expect("it listens");
        turns(&mut l);
        assert_eq!(l.snapshot().connections.len(), 1);
        drop(closed);
        turns(&mut l);
        assert_eq!(protocol.ended.get(), 0, "the end of the other, which the duplicate got");
        drop(next);
        turns(&mut l);
        assert_eq!(protocol.ended.get(), 1);
    }
}
