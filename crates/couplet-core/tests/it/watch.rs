//! Row 106: foreign descriptors, watched by the loop.

#![cfg(unix)]

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use couplet::reactor::NotWatching;
use couplet::testing::failure_of;
use couplet::{Failure, Interest, Loop, Ready, Watch};

use crate::logged::logged;
use crate::pace::real_loop;
use couplet_testkit_loops::doubles::Quiet;

const SOON: Option<Duration> = Some(Duration::ZERO);

/// A pair of sockets unknown to the library.
fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().expect("a pair");
    a.set_nonblocking(true).expect("a socket");
    b.set_nonblocking(true).expect("a socket");
    (a, b)
}

fn turn(l: &mut Loop) {
    l.turn(SOON).expect("a turn");
}

/// The bytes read, one per call.
type Seen = Rc<RefCell<Vec<u8>>>;

fn read_one(seen: &Seen) -> impl FnMut(&mut UnixStream, Ready) + 'static {
    let seen = seen.clone();
    move |socket, ready| {
        assert_eq!(ready, Ready::Readable, "only what was asked for");
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("it is ready");
        seen.borrow_mut().push(byte[0]);
    }
}

#[test]
fn c106_a_watch_is_called_again_while_something_is_left() {
    let mut l = real_loop();
    let (ours, mut theirs) = pair();
    let seen = Seen::default();
    l.reactor().watch(ours, Interest::Readable, read_one(&seen)).expect("a socket");
    turn(&mut l);
    assert!(seen.borrow().is_empty(), "nothing is ready");
    theirs.write_all(b"poem").expect("room in the buffer");
    for so_far in [&b"p"[..], b"po", b"poe", b"poem", b"poem"] {
        turn(&mut l);
        assert_eq!(*seen.borrow(), so_far, "once per turn");
    }
    theirs.write_all(b"s").expect("room in the buffer");
    turn(&mut l);
    assert_eq!(*seen.borrow(), b"poems", "called again for new data");
}

#[test]
fn c106_a_stopped_watch_is_not_called_again_even_in_that_turn() {
    let mut l = real_loop();
    let reactor = l.reactor();
    let ((a, mut to_a), (b, mut to_b)) = (pair(), pair());
    let watches: Rc<RefCell<Vec<Watch<UnixStream>>>> = Rc::default();
    let calls = Rc::new(Cell::new(0));
    for source in [a, b] {
        let (all, calls) = (watches.clone(), calls.clone());
        let stop_all = move |_: &mut UnixStream, _| {
            calls.set(calls.get() + 1);
            for watch in all.borrow().iter() {
                watch.stop().add_both(|_| Ok(())).detach();
            }
        };
        let watch = reactor.watch(source, Interest::Readable, stop_all).expect("a socket");
        watches.borrow_mut().push(watch);
    }
    to_a.write_all(b"x").expect("room in the buffer");
    to_b.write_all(b"x").expect("room in the buffer");
    for _ in 0..3 {
        turn(&mut l);
    }
    assert_eq!(calls.get(), 1, "both were ready, and the first call stopped both");
    assert!(watches.borrow().iter().all(|watch| !watch.is_watching()));
    assert_eq!(l.snapshot().watches, 0);
}

#[test]
fn c106_watches_are_called_next_to_connections_whatever_their_numbers() {
    let mut l = real_loop();
    let reactor = l.reactor();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut peers = Vec::new();
    for _ in 0..8 {
        let theirs = TcpStream::connect(address).expect("it listens");
        let (ours, _) = listener.accept().expect("a connection");
        reactor.adopt(ours, || Quiet).expect("a connected socket").detach();
        peers.push(theirs);
    }
    turn(&mut l);
    turn(&mut l);
    assert_eq!(l.snapshot().connections.len(), 8);
    for number in 0..16 {
        let (ours, mut theirs) = pair();
        let seen = Seen::default();
        reactor.watch(ours, Interest::Readable, read_one(&seen)).expect("a socket");
        theirs.write_all(&[number]).expect("room in the buffer");
        turn(&mut l);
        assert_eq!(*seen.borrow(), [number]);
    }
}

#[test]
fn c106_stop_gives_the_source_back_and_it_can_be_watched_again() {
    let mut l = real_loop();
    let (ours, mut theirs) = pair();
    let seen = Seen::default();
    let watch = l.reactor().watch(ours, Interest::Readable, read_one(&seen)).expect("a socket");
    let ours = l.run_until(watch.stop()).expect("it was watched");
    assert!(l.run_until(watch.stop()).expect_err("it was stopped").is::<NotWatching>());
    theirs.write_all(b"x").expect("room in the buffer");
    turn(&mut l);
    assert!(seen.borrow().is_empty());
    l.reactor().watch(ours, Interest::Readable, read_one(&seen)).expect("a socket");
    turn(&mut l);
    assert_eq!(*seen.borrow(), b"x");
}

#[test]
fn c106_a_callback_that_stops_its_own_watch_gets_the_source_when_it_has_returned() {
    let mut l = real_loop();
    let (ours, mut theirs) = pair();
    let watch: Rc<RefCell<Option<Watch<UnixStream>>>> = Rc::default();
    let back: Rc<RefCell<Option<UnixStream>>> = Rc::default();
    let while_lent = Rc::new(Cell::new(None));
    let (own, slot, seen) = (watch.clone(), back.clone(), while_lent.clone());
    let stop = move |_: &mut UnixStream, _| {
        let keep = slot.clone();
        let [stopping, again] = [(); 2].map(|()| own.borrow().as_ref().expect("it is set").stop());
        assert!(failure_of(again).is::<NotWatching>(), "it is stopping");
        stopping.map(move |source| *keep.borrow_mut() = Some(source)).detach();
        seen.set(Some(slot.borrow().is_some()));
    };
    *watch.borrow_mut() =
        Some(l.reactor().watch(ours, Interest::Readable, stop).expect("a socket"));
    theirs.write_all(b"x").expect("room in the buffer");
    turn(&mut l);
    assert_eq!(while_lent.get(), Some(false), "not while it is lent");
    assert!(back.borrow().is_some());
}

#[test]
fn c106_c107_watching_a_regular_file_is_an_error() {
    let mut l = real_loop();
    let file = std::fs::File::open(env!("CARGO_MANIFEST_PATH")).expect("this crate's manifest");
    let refused = l.reactor().watch(file, Interest::Readable, |_, _| unreachable!());
    assert!(refused.is_err(), "a regular file is always ready");
    assert_eq!(l.snapshot().watches, 0);
    turn(&mut l);
}

#[test]
fn c106_an_end_of_stream_makes_a_watch_ready() {
    let mut l = real_loop();
    let (ours, theirs) = pair();
    let ends = Rc::new(Cell::new(0));
    let seen = ends.clone();
    let read = move |socket: &mut UnixStream, ready: Ready| {
        assert!(ready.is_readable());
        assert_eq!(socket.read(&mut [0]).expect("no error"), 0);
        seen.set(seen.get() + 1);
    };
    l.reactor().watch(ours, Interest::Readable, read).expect("a socket");
    drop(theirs);
    turn(&mut l);
    turn(&mut l);
    assert_eq!(ends.get(), 2, "EOF stays readable until the watch is stopped");
}

#[test]
fn an_end_of_stream_a_hang_up_and_an_error_count_as_readable_and_writable() {
    let (ours, theirs) = pair();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (other_reader, other_writer) = std::io::pipe().expect("a pipe");
    let (far, near) = crate::terminal::raw();
    let sources: [(OwnedFd, OwnedFd, Interest); 4] = [
        (ours.into(), theirs.into(), Interest::Readable),
        (reader.into(), writer.into(), Interest::Readable),
        (other_writer.into(), other_reader.into(), Interest::Writable),
        (near, far, Interest::Readable),
    ];
    for (n, (ours, theirs, interest)) in sources.into_iter().enumerate() {
        let mut l = real_loop();
        let seen: Rc<RefCell<Vec<Ready>>> = Rc::default();
        let log = seen.clone();
        let ready = move |_: &mut OwnedFd, ready| {
            let mut log = log.borrow_mut();
            if log.last() != Some(&ready) {
                log.push(ready);
            }
        };
        l.reactor().watch(ours, interest, ready).expect("it can be watched");
        turn(&mut l);
        let before = if interest == Interest::Writable { &[Ready::Writable][..] } else { &[] };
        assert_eq!(*seen.borrow(), before, "{n}");
        drop(theirs);
        // A child that another test is starting may briefly hold the other end.
        let until = l.reactor().now() + Duration::from_secs(20);
        while seen.borrow().last() != Some(&Ready::Both) && l.reactor().now() < until {
            l.turn(Some(Duration::from_millis(1))).expect("a turn");
        }
        assert!(seen.borrow().ends_with(&[Ready::Both]), "{n}: {:?}", seen.borrow());
    }
}

#[test]
fn the_interest_can_be_changed_inside_the_callback_and_outside() {
    let mut l = real_loop();
    let (ours, mut theirs) = pair();
    let seen: Rc<RefCell<Vec<Ready>>> = Rc::default();
    let watch: Rc<RefCell<Option<Watch<UnixStream>>>> = Rc::default();
    let (own, log) = (watch.clone(), seen.clone());
    let callback = move |_: &mut UnixStream, ready: Ready| {
        log.borrow_mut().push(ready);
        let own = own.borrow();
        own.as_ref().expect("it is set").set_interest(Interest::Readable).expect("a socket");
    };
    let made = l.reactor().watch(ours, Interest::Writable, callback).expect("a socket");
    *watch.borrow_mut() = Some(made.clone());
    for _ in 0..3 {
        turn(&mut l);
    }
    assert_eq!(*seen.borrow(), [Ready::Writable], "nothing to read");
    theirs.write_all(b"x").expect("room in the buffer");
    made.set_interest(Interest::Both).expect("a socket");
    turn(&mut l);
    assert_eq!(seen.borrow().last(), Some(&Ready::Both));
}

/// A source that records its drop.
struct Source {
    socket: UnixStream,
    dropped: Rc<Cell<bool>>,
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.dropped.set(true);
    }
}

#[test]
fn a_panic_in_the_callback_ends_only_that_watch() {
    let mut l = real_loop();
    let ((socket, mut to_first), (other, mut to_other)) = (pair(), pair());
    let dropped = Rc::new(Cell::new(false));
    let source = Source { socket, dropped: dropped.clone() };
    let watch = l
        .reactor()
        .watch(source, Interest::Readable, |_, _| panic!("not a poem"))
        .expect("a socket");
    let seen = Seen::default();
    l.reactor().watch(other, Interest::Readable, read_one(&seen)).expect("a socket");
    to_first.write_all(b"x").expect("room in the buffer");
    to_other.write_all(b"y").expect("room in the buffer");
    let ((), log) = logged(|| turn(&mut l));
    assert!(log.iter().any(|line| line.contains("not a poem")), "{log:?}");
    assert!(dropped.get() && !watch.is_watching());
    assert_eq!(*seen.borrow(), b"y");
    let over: Failure = l.run_until(watch.stop()).map(drop).expect_err("it was stopped");
    assert!(over.is::<NotWatching>());
}

#[test]
fn the_end_of_the_run_drops_watched_sources() {
    let mut l = real_loop();
    let (socket, _theirs) = pair();
    let dropped = Rc::new(Cell::new(false));
    let source = Source { socket, dropped: dropped.clone() };
    l.run(|reactor| {
        reactor.watch(source, Interest::Readable, |_, _| ())?;
        reactor.stop();
        Ok(())
    })
    .expect("it stops");
    assert!(dropped.get());
}

#[test]
fn readiness_of_both_kinds_is_readable_and_writable() {
    for (ready, is) in [
        (Ready::Readable, (true, false)),
        (Ready::Writable, (false, true)),
        (Ready::Both, (true, true)),
    ] {
        assert_eq!((ready.is_readable(), ready.is_writable()), is, "{ready:?}");
    }
}

#[test]
fn the_end_of_each_run_drops_all_watched_sources() {
    let mut l = real_loop();
    for _ in 0..2 {
        let (pairs, dropped) = ([(); 3].map(|()| pair()), [(); 3].map(|()| Rc::default()));
        let mut watches = Vec::new();
        l.run(|reactor| {
            for ((socket, _), dropped) in pairs.iter().zip(&dropped) {
                let socket = socket.try_clone()?;
                let source = Source { socket, dropped: Rc::<Cell<bool>>::clone(dropped) };
                watches.push(reactor.watch(source, Interest::Readable, |_, _| ())?);
            }
            reactor.stop();
            Ok(())
        })
        .expect("it stops");
        assert!(dropped.iter().all(|dropped| dropped.get()));
        assert!(!watches.iter().any(Watch::is_watching));
        assert_eq!(l.snapshot().watches, 0);
    }
}
