//! Row 162: descriptors passed over UNIX sockets, including the facts of Twisted's
//! `SendFileDescriptorTests`. `tests/descriptors.rs` counts the descriptors.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use couplet::{Address, Protocol, Reason, Transport};

use crate::needed::Folder;
use crate::suite::kit::{Kit, Rig, Role};
use crate::suite::recorder::Script;

/// The events of an end, in order.
#[derive(Clone, Default)]
struct Seen(Rc<RefCell<Vec<Saw>>>);

#[derive(Debug)]
enum Saw {
    Descriptor(OwnedFd),
    Bytes(Vec<u8>),
    Lost,
}

impl Seen {
    fn bytes(&self) -> Vec<u8> {
        let seen = self.0.borrow();
        seen.iter()
            .flat_map(|saw| if let Saw::Bytes(bytes) = saw { &bytes[..] } else { &[] })
            .copied()
            .collect()
    }

    /// For each descriptor, the number of bytes that arrived before it.
    fn places(&self) -> Vec<usize> {
        let (mut places, mut bytes) = (Vec::new(), 0);
        for saw in &*self.0.borrow() {
            match saw {
                Saw::Descriptor(_) => places.push(bytes),
                Saw::Bytes(more) => bytes += more.len(),
                Saw::Lost => {}
            }
        }
        places
    }

    fn take_descriptors(&self) -> Vec<OwnedFd> {
        let seen = self.0.take().into_iter();
        seen.filter_map(|saw| if let Saw::Descriptor(fd) = saw { Some(fd) } else { None }).collect()
    }

    fn is_lost(&self) -> bool {
        self.0.borrow().iter().any(|saw| matches!(saw, Saw::Lost))
    }
}

type OnDescriptor = Box<dyn FnMut(&Transport)>;

/// Keeps the descriptors that it receives.
struct Keeper(Seen, OnDescriptor);

impl Protocol for Keeper {
    fn descriptor_received(&mut self, transport: &Transport, descriptor: OwnedFd) {
        self.0.0.borrow_mut().push(Saw::Descriptor(descriptor));
        (self.1)(transport);
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.0.0.borrow_mut().push(Saw::Bytes(data.to_vec()));
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.0.0.borrow_mut().push(Saw::Lost);
    }
}

/// A connected pair: a scripted sender and a keeper.
fn pair(rig: &mut Rig, on: impl FnMut(&Transport) + 'static) -> (Transport, Seen) {
    let (a, seen) = (rig.end(), Seen::default());
    let mut keeper = Some(Keeper(seen.clone(), Box::new(on)));
    let path = Folder::new();
    let port = rig.reactor.listen_unix(path.join("port"), move |_: &Address| keeper.take());
    port.expect("a free path");
    let mut plays = Some(a.plays(Script::new()));
    rig.reactor.connect_unix(path.join("port"), move |_: &Address| plays.take());
    rig.until("connection_made", || a.is_made());
    (a.transport(), seen)
}

/// A pipe: its reader, and a descriptor to pass. The reader sees the end when every copy of the
/// descriptor is closed.
fn pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (reader, writer.into())
}

fn is_closed(reader: &std::io::PipeReader) -> bool {
    let mut ready = [rustix::event::PollFd::new(reader, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut ready, Some(&now)).expect("it can be polled");
    ready[0].revents().contains(rustix::event::PollFlags::HUP)
}

#[test]
fn c162_a_descriptor_is_delivered_before_the_bytes_it_came_with() {
    let mut rig = Kit::mio().rig();
    let (sender, seen) = pair(&mut rig, |_| {});
    let (mut reader, writer) = pipe();
    sender.send_descriptor(writer).expect("a UNIX socket");
    rig.turns(3);
    assert!(seen.0.borrow().is_empty(), "it waits for a byte");
    sender.write("hello");
    rig.until("bytes", || seen.bytes() == b"hello");
    assert_eq!(seen.places(), [0]);
    // It is the same pipe, and ours is closed.
    for descriptor in seen.take_descriptors() {
        assert!(
            rustix::io::fcntl_getfd(&descriptor)
                .expect("it is open")
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        File::from(descriptor).write_all(b"through the pipe").expect("it is open");
    }
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("every copy is closed");
    assert_eq!(text, "through the pipe");
}

#[test]
fn c162_descriptors_and_bytes_keep_their_order() {
    let mut rig = Kit::mio().rig();
    let (sender, seen) = pair(&mut rig, |_| {});
    let pipes: Vec<_> = (0..6).map(|_| pipe()).collect();
    let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    let mut writers = writers.into_iter();
    let big = vec![b'x'; 1024 * 1024];
    let mut wanted = Vec::new();
    let mut bytes = Vec::new();
    for piece in [&b"ab"[..], b"c", &big, b"de"] {
        if piece != b"ab" {
            // Two descriptors accompany the same byte.
            for _ in 0..2 {
                let descriptor = writers.next().expect("there are six");
                sender.send_descriptor(descriptor).expect("a UNIX socket");
                wanted.push(bytes.len());
            }
        }
        sender.write(piece);
        bytes.extend_from_slice(piece);
    }
    rig.until("bytes", || seen.bytes().len() == bytes.len());
    assert!(seen.bytes() == bytes);
    // The system may deliver earlier bytes together with the bytes that accompany a descriptor, but
    // never the other way round.
    let places = seen.places();
    assert!(
        places.len() == 6 && places.iter().zip(&wanted).all(|(at, most)| at <= most),
        "{places:?}"
    );
    assert!(places[4] > 3, "the last ones were not early: {places:?}");
    for (descriptor, reader) in seen.take_descriptors().into_iter().zip(readers) {
        assert!(!is_closed(&reader));
        drop(descriptor);
        assert!(is_closed(&reader), "each is its own pipe");
    }
}

#[test]
fn c162_a_pause_between_a_descriptor_and_its_bytes_holds_the_bytes() {
    let mut rig = Kit::mio().rig();
    let slot: Rc<RefCell<Option<Transport>>> = Rc::default();
    let pauses = slot.clone();
    let (sender, seen) = pair(&mut rig, move |transport| {
        transport.pause_producing();
        *pauses.borrow_mut() = Some(transport.clone());
    });
    let (_reader, writer) = pipe();
    sender.send_descriptor(writer).expect("a UNIX socket");
    sender.write("held");
    rig.until("a descriptor", || !seen.0.borrow().is_empty());
    sender.write(" back");
    rig.turns(5);
    assert!(seen.bytes().is_empty(), "{:?}", seen.0);
    slot.borrow().as_ref().expect("it is set").resume_producing();
    rig.until("bytes", || seen.bytes() == b"held back");
}

#[test]
fn c162_unclaimed_descriptors_are_closed() {
    // By a protocol that does not handle them.
    let mut rig = Kit::mio().unix().rig();
    let (a, b) = (rig.end(), rig.end());
    let port = rig.listen(&a, Script::new());
    let mut plays = Some(b.plays(Script::new()));
    rig.connect_with(port.host(), move |_: &Address| plays.take());
    rig.until("connection_made", || a.is_made() && b.is_made());
    let (reader, writer) = pipe();
    b.transport().send_descriptor(writer).expect("a UNIX socket");
    b.transport().write("x");
    rig.until("a byte", || a.received_len() == 1);
    assert!(is_closed(&reader));
    // By a connection that closes with its bytes unsent, or with no byte at all.
    for written in [true, false] {
        let (sender, seen) = pair(&mut rig, |_| {});
        let (reader, writer) = pipe();
        sender.send_descriptor(writer).expect("a UNIX socket");
        if written {
            sender.write("x");
            sender.abort_connection();
        } else {
            sender.lose_connection();
        }
        rig.until("connection_lost", || seen.is_lost());
        rig.turns(3);
        assert!(is_closed(&reader), "written: {written}");
        assert!(seen.take_descriptors().is_empty());
        let (_reader, writer) = pipe();
        sender.send_descriptor(writer).expect_err("it is closed");
    }
    // By a protocol that closes before their bytes.
    let (sender, seen) = pair(&mut rig, |transport| transport.abort_connection());
    let (readers, writers): (Vec<_>, Vec<_>) = (0..3).map(|_| pipe()).unzip();
    for writer in writers {
        sender.send_descriptor(writer).expect("a UNIX socket");
    }
    sender.write("x");
    rig.until("connection_lost", || seen.is_lost());
    assert!(seen.bytes().is_empty());
    assert_eq!(seen.take_descriptors().len(), 1, "the others are not even delivered");
    assert!(readers.iter().all(is_closed));
}

#[test]
fn c162_what_cannot_be_passed_is_given_back() {
    let mut rig = Kit::mio().rig();
    let (a, _b) = rig.pair(Role::Server, Script::new());
    let (reader, writer) = pipe();
    let writer = a.transport().send_descriptor(writer).expect_err("it is a TCP connection");
    assert!(!is_closed(&reader));
    // Up to 64 may wait.
    let (sender, seen) = pair(&mut rig, |_| {});
    for _ in 0..64 {
        sender.send_descriptor(writer.as_fd().try_clone_to_owned().expect("a copy")).expect("room");
    }
    let writer = sender.send_descriptor(writer).expect_err("there are too many");
    sender.write("x");
    rig.until("a byte", || seen.bytes() == b"x");
    assert_eq!(seen.places(), [0; 64]);
    sender.send_descriptor(writer).expect("there is room again");
}

#[test]
fn c162_a_flood_of_descriptors_does_not_starve_the_loop() {
    let mut rig = Kit::mio().rig();
    let (sender, seen) = pair(&mut rig, |_| {});
    let (_reader, writer) = pipe();
    for _ in 0..50 {
        sender.send_descriptor(writer.try_clone().expect("a copy")).expect("room");
        sender.write("x");
    }
    let rounds = Rc::new(std::cell::Cell::new(0));
    while seen.bytes().len() < 50 {
        rig.turn();
        rounds.set(rounds.get() + 1);
        assert!(rounds.get() < 10_000, "they never arrive");
    }
    assert!(rounds.get() >= 40, "one message a turn: {}", rounds.get());
}
