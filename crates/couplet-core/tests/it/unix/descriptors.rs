//! Row 162: descriptors passed over UNIX sockets, including the facts of Twisted's
//! `SendFileDescriptorTests`. `tests/descriptors.rs` counts the descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use couplet::Transport;

use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::{A, Echo, On, Script};

/// For each received descriptor, the number of bytes that arrived before it.
fn places(a: &A) -> Vec<usize> {
    let (mut places, mut bytes) = (Vec::new(), 0);
    for entry in a.log.entries() {
        if entry == "descriptor" {
            places.push(bytes);
        }
        let data = entry.strip_prefix("data(").and_then(|rest| rest.strip_suffix(')'));
        bytes += data.map_or(0, |len| len.parse().expect("a length"));
    }
    places
}

fn pair(rig: &mut Rig, script: Script) -> (Transport, A) {
    let (a, b) = rig.couple(script, Script::new());
    (b.transport(), a)
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
    let mut rig = Kit::mio().unix().rig();
    let (sender, a) = pair(&mut rig, Script::new());
    let (mut reader, writer) = pipe();
    sender.send_descriptor(writer).expect("a UNIX socket");
    rig.turns(3);
    assert_eq!(a.log.entries(), ["made"], "it waits for a byte");
    sender.write("hello");
    rig.until("bytes", || a.received() == b"hello");
    assert_eq!(a.log.entries()[1..], ["descriptor", "data(5)"]);
    // The delivered descriptor leads to the same pipe, and our copy is closed.
    for descriptor in a.take_descriptors() {
        let flags = rustix::io::fcntl_getfd(&descriptor).expect("it is open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        File::from(descriptor).write_all(b"through the pipe").expect("it is open");
    }
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("every copy is closed");
    assert_eq!(text, "through the pipe");
}

#[test]
fn c162_descriptors_and_bytes_keep_their_order() {
    let mut rig = Kit::mio().unix().rig();
    let (sender, a) = pair(&mut rig, Script::new());
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
    rig.until("bytes", || a.received_len() == bytes.len());
    assert!(a.received() == bytes);
    // The system may deliver earlier bytes together with the bytes that accompany a descriptor, but
    // never the other way round.
    let places = places(&a);
    assert!(
        places.len() == 6 && places.iter().zip(&wanted).all(|(at, most)| at <= most),
        "{places:?}"
    );
    assert!(places[4] > 3, "the last ones were not early: {places:?}");
    for (descriptor, reader) in a.take_descriptors().into_iter().zip(readers) {
        assert!(!is_closed(&reader));
        drop(descriptor);
        assert!(is_closed(&reader), "each is its own pipe");
    }
}

#[test]
fn c162_a_pause_between_a_descriptor_and_its_bytes_holds_the_bytes() {
    let mut rig = Kit::mio().unix().rig();
    let script = Script::new().on(On::Descriptor, Transport::pause_producing);
    let (sender, a) = pair(&mut rig, script);
    let (_reader, writer) = pipe();
    sender.send_descriptor(writer).expect("a UNIX socket");
    sender.write("held");
    rig.until("a descriptor", || a.log.has("descriptor"));
    sender.write(" back");
    rig.turns(5);
    assert_eq!(a.log.entries(), ["made", "descriptor"]);
    a.transport().resume_producing();
    rig.until("bytes", || a.received() == b"held back");
}

#[test]
fn c162_a_connection_that_ends_with_held_bytes_takes_none_of_the_others() {
    let mut rig = Kit::mio().unix().rig();
    let pauses = || Script::new().on(On::Descriptor, Transport::pause_producing);
    let pairs: Vec<_> = (0..3).map(|_| pair(&mut rig, pauses())).collect();
    let pipes: Vec<_> = (0..3).map(|_| pipe()).collect();
    let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    for ((n, (sender, _)), writer) in (0..).zip(&pairs).zip(writers) {
        sender.send_descriptor(writer).expect("a UNIX socket");
        sender.write(vec![b'a' + n; 10 + usize::from(n)]);
    }
    rig.until("the descriptors", || pairs.iter().all(|(_, a)| a.log.has("descriptor")));
    for (n, (_, a)) in pairs.iter().enumerate().skip(1) {
        pairs[n - 1].1.transport().abort_connection();
        rig.until("connection_lost", || pairs[n - 1].1.is_lost());
        assert_eq!(pairs[n - 1].1.received_len(), if n == 1 { 0 } else { 11 });
        a.transport().resume_producing();
        rig.until("its bytes", || a.received() == vec![b'a' + n as u8; 10 + n]);
    }
    // The connection in the freed place gets only its own.
    let (sender, a) = pair(&mut rig, Script::new());
    sender.write("own");
    rig.until("bytes", || a.received() == b"own");
    pairs.iter().for_each(|(_, a)| drop(a.take_descriptors()));
    assert!(readers.iter().all(is_closed));
}

#[test]
fn c162_unclaimed_descriptors_are_closed() {
    // By a protocol that does not handle them.
    let mut rig = Kit::mio().unix().rig();
    let b = rig.end();
    let port = rig.listen_with(|| Echo);
    rig.connect_with(port.host(), b.once(Script::new()));
    rig.until("connection_made", || b.is_made());
    let (reader, writer) = pipe();
    b.transport().send_descriptor(writer).expect("a UNIX socket");
    b.transport().write("x");
    rig.until("an echo", || b.received_len() == 1);
    assert!(is_closed(&reader));
    // By a connection that closes with its bytes unsent, or with no byte at all.
    for written in [true, false] {
        let (sender, a) = pair(&mut rig, Script::new());
        let (reader, writer) = pipe();
        sender.send_descriptor(writer).expect("a UNIX socket");
        if written {
            sender.write("x");
            sender.abort_connection();
        } else {
            sender.lose_connection();
        }
        rig.until("connection_lost", || a.is_lost());
        rig.turns(3);
        assert!(is_closed(&reader), "written: {written}");
        assert!(!a.log.has("descriptor"));
        let (_reader, writer) = pipe();
        sender.send_descriptor(writer).expect_err("it is closed");
    }
    // By a protocol that closes before their bytes.
    let script = Script::new().on(On::Descriptor, Transport::abort_connection);
    let (sender, a) = pair(&mut rig, script);
    let (readers, writers): (Vec<_>, Vec<_>) = (0..3).map(|_| pipe()).unzip();
    for writer in writers {
        sender.send_descriptor(writer).expect("a UNIX socket");
    }
    sender.write("x");
    rig.until("connection_lost", || a.is_lost());
    assert_eq!(a.received_len(), 0);
    assert_eq!(a.take_descriptors().len(), 1, "the others are not even delivered");
    assert!(readers.iter().all(is_closed));
}

#[test]
fn c162_a_descriptor_that_cannot_be_passed_is_returned() {
    let (_tcp, a, _b) = Kit::mio().accept(Script::new());
    let (reader, writer) = pipe();
    let writer = a.transport().send_descriptor(writer).expect_err("it is a TCP connection");
    assert!(!is_closed(&reader));
    // Up to 64 may wait.
    let mut rig = Kit::mio().unix().rig();
    let (sender, a) = pair(&mut rig, Script::new());
    for _ in 0..64 {
        sender.send_descriptor(writer.as_fd().try_clone_to_owned().expect("a copy")).expect("room");
    }
    let writer = sender.send_descriptor(writer).expect_err("there are too many");
    sender.write("x");
    rig.until("a byte", || a.received() == b"x");
    assert_eq!(places(&a), [0; 64]);
    sender.send_descriptor(writer).expect("there is room again");
}

#[test]
fn c162_a_flood_of_descriptors_does_not_starve_the_loop() {
    let mut rig = Kit::mio().unix().rig();
    let (sender, a) = pair(&mut rig, Script::new());
    let (_reader, writer) = pipe();
    for _ in 0..50 {
        sender.send_descriptor(writer.try_clone().expect("a copy")).expect("room");
        sender.write("x");
    }
    let mut rounds = 0;
    while a.received_len() < 50 {
        rig.turn();
        rounds += 1;
        assert!(rounds < 10_000, "they never arrive");
    }
    assert!(rounds >= 40, "one message a turn: {rounds}");
}
