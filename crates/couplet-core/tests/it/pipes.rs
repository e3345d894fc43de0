//! Row 51b: non-socket descriptors, adopted as connections. The facts common to all connections are
//! in the suite, which also runs over pipes.

#![cfg(unix)]

use std::cell::RefCell;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use couplet::transport::Pipe;
use couplet::{Address, Loop, hooks};
use couplet_testkit_loops::until;

use crate::needed::inheritable;
use crate::secure::End;

const SOON: Option<Duration> = Some(Duration::ZERO);

/// A loop, and a connection over these descriptors.
fn adopt(pipe: impl Into<Pipe>) -> (Loop, End) {
    let mut l = Loop::new().expect("a loop");
    let end = End::default();
    let ours = end.clone();
    l.reactor().adopt_pipe(pipe, move || ours.clone()).expect("descriptors").detach();
    l.turn(SOON).expect("a turn");
    (l, end)
}

fn lost(l: &mut Loop, end: &End) -> String {
    until(l, "its end", |_| end.is_lost());
    end.reason().to_string()
}

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().expect("a pipe")
}

#[test]
fn c51b_a_connection_with_only_a_reading_end_receives_and_ends_cleanly() {
    let (reader, mut writer) = pipe();
    let (mut l, end) = adopt(reader);
    assert_eq!(*end.transport().peer(), Address::Pipe("pipe:".into()));
    writer.write_all(b"Rose is a rose").expect("room");
    until(&mut l, "all bytes", |_| end.received() == b"Rose is a rose");
    drop(writer);
    assert_eq!(lost(&mut l, &end), "connection closed by the peer");
}

#[test]
fn c51b_a_write_to_an_end_that_is_only_read_ends_it_with_an_error() {
    let (reader, _writer) = pipe();
    let (mut l, end) = adopt(reader);
    end.transport().write("x");
    let reason = lost(&mut l, &end);
    assert!(reason.contains("read-only"), "{reason}");
}

#[test]
fn c51b_a_connection_with_only_a_writing_end_ends_when_its_reader_closes() {
    let (mut reader, writer) = pipe();
    let (mut l, end) = adopt(writer);
    end.transport().write("Rose");
    l.turn(SOON).expect("a turn");
    let mut text = [0; 4];
    reader.read_exact(&mut text).expect("it was written");
    assert_eq!(&text, b"Rose");
    drop(reader);
    assert_eq!(lost(&mut l, &end), "connection closed by the peer");
}

#[test]
fn c51b_unread_bytes_fail_the_writer() {
    let (reader, writer) = pipe();
    let (mut l, end) = adopt(writer);
    end.transport().write(vec![b'x'; 1024 * 1024]);
    l.turn(SOON).expect("a turn");
    assert!(end.transport().buffered() > 0, "a pipe holds less");
    drop(reader);
    let reason = lost(&mut l, &end);
    assert!(reason.contains("broken pipe"), "{reason}");
}

#[test]
fn c51b_bytes_that_arrived_before_a_broken_pipe_are_delivered() {
    let ((reader, mut theirs), (gone, writer)) = (pipe(), pipe());
    let (mut l, end) = adopt(Pipe::both(reader, writer));
    theirs.write_all(b"Rose is a rose").expect("room");
    drop(gone);
    // A child that another test is starting may briefly hold the other end.
    until(&mut l, "the error", |_| {
        end.transport().write("x");
        end.transport().write_error().is_some()
    });
    drop(theirs);
    let reason = lost(&mut l, &end);
    assert_eq!(end.received(), b"Rose is a rose");
    assert!(reason.contains("broken pipe"), "{reason}");
}

fn turns(l: &mut Loop) {
    for _ in 0..5 {
        l.turn(SOON).expect("a turn");
    }
}

/// Both directions of a connection, and the peer's ends of them.
struct Halves {
    l: Loop,
    end: End,
    theirs: Box<dyn Write>,
    /// Dropping it ends the direction to the peer.
    gone: Option<Box<dyn FnOnce()>>,
}

/// Two pipes, and a UNIX socket whose peer can stop reading.
fn halves() -> [Halves; 2] {
    let ((reader, theirs), (gone, writer)) = (pipe(), pipe());
    let (l, end) = adopt(Pipe::both(reader, writer));
    let pipes = Halves { l, end, theirs: Box::new(theirs), gone: Some(Box::new(|| drop(gone))) };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let shared = theirs.try_clone().expect("a duplicate");
    let mut l = Loop::new().expect("a loop");
    let end = End::default();
    let seen = end.clone();
    l.reactor().adopt(OwnedFd::from(ours), move || seen.clone()).expect("a socket").detach();
    l.turn(SOON).expect("a turn");
    let gone = move || shared.shutdown(std::net::Shutdown::Read).expect("it is connected");
    [pipes, Halves { l, end, theirs: Box::new(theirs), gone: Some(Box::new(gone)) }]
}

#[test]
fn c51b_c60a_an_error_of_one_direction_leaves_the_other_to_its_end() {
    for pauses in [false, true] {
        // The peer's bytes come before or after the error.
        for early in [0, 1, 3] {
            for mut halves in halves() {
                let transport = halves.end.transport();
                let pieces = 3;
                let piece = |halves: &mut Halves| {
                    halves.theirs.write_all(&[b'p'; 1000]).expect("room");
                };
                (0..early).for_each(|_| piece(&mut halves));
                if pauses {
                    transport.pause_producing();
                }
                (halves.gone.take().expect("once"))();
                // A child that another test is starting may briefly hold the other end.
                until(&mut halves.l, "the error", |_| {
                    transport.write("x");
                    transport.write_error().is_some()
                });
                let dropped = hooks::dropped(&transport);
                transport.write("more");
                assert!(dropped > 0 && hooks::dropped(&transport) == dropped + 4);
                (early..pieces).for_each(|_| piece(&mut halves));
                turns(&mut halves.l);
                assert!(!halves.end.is_lost(), "its bytes are still wanted");
                halves.theirs = Box::new(std::io::sink());
                if pauses {
                    turns(&mut halves.l);
                    assert!(!halves.end.is_lost(), "it is paused");
                    transport.resume_producing();
                }
                let reason = lost(&mut halves.l, &halves.end);
                assert_eq!(halves.end.received().len(), 3000, "paused: {pauses}, early: {early}");
                assert!(reason.contains("broken pipe"), "{reason}");
            }
        }
    }
}

#[test]
fn c51b_a_connection_with_only_a_writing_end_ends_when_it_is_shut_down() {
    let (mut reader, writer) = pipe();
    let (mut l, end) = adopt(writer);
    end.transport().write("all of it");
    end.transport().lose_write_connection();
    lost(&mut l, &end);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("its end");
    assert_eq!(text, "all of it");
}

#[test]
fn c51b_c107_a_file_is_always_ready_to_its_end() {
    let folder = crate::needed::Folder::new();
    let (from, to) = (folder.join("from"), folder.join("to"));
    let poem = vec![b'p'; 300_000];
    std::fs::write(&from, &poem).expect("a file");
    let files = Pipe::both(File::open(from).expect("it"), File::create(&to).expect("a file"));
    let (mut l, end) = adopt(files);
    end.transport().write(&poem);
    lost(&mut l, &end);
    assert_eq!(end.received().len(), poem.len());
    assert_eq!(std::fs::read(to).expect("it was written"), poem);
}

#[test]
fn c107_a_file_is_read_in_turns_with_everything_else() {
    let folder = crate::needed::Folder::new();
    let poem = folder.write("poem", vec![b'p'; 8 << 20]);
    let (mut l, file) = adopt(Pipe::reader(File::open(poem).expect("it")));
    let (reader, mut writer) = pipe();
    let other = End::default();
    let ours = other.clone();
    l.reactor().adopt_pipe(reader, move || ours.clone()).expect("a descriptor").detach();
    l.turn(SOON).expect("a turn");
    let (mut turns, mut before) = (0, file.received().len());
    while !file.is_lost() {
        writer.write_all(b"!").expect("it is read");
        l.turn(SOON).expect("a turn");
        turns += 1;
        assert_eq!(other.received().len(), turns, "the other was served in the same turn");
        let read = file.received().len() - before;
        assert!(read <= 256 << 10, "{read} bytes in one turn");
        before += read;
    }
    assert!(before == 8 << 20 && turns > 32, "{before} bytes in {turns} turns");
}

#[test]
fn a_file_is_written_in_turns_with_everything_else() {
    let folder = crate::needed::Folder::new();
    let path = folder.join("poem");
    let (mut l, end) = adopt(Pipe::writer(File::create(&path).expect("a file")));
    let length = || std::fs::metadata(&path).expect("a file").len();
    for _ in 0..128 {
        end.transport().write_bytes(vec![b'p'; 64 << 10]);
    }
    let mut before = 0;
    while length() < 8 << 20 {
        l.turn(SOON).expect("a turn");
        let written = length() - before;
        assert!((1..=3 << 20).contains(&written), "{written} bytes in one turn");
        before += written;
    }
}

#[test]
fn c51b_c107_the_null_device_ends_at_once() {
    let null = File::options().read(true).write(true).open("/dev/null").expect("it");
    let (mut l, end) = adopt(Pipe::duplex(null).expect("a duplicate"));
    lost(&mut l, &end);
    assert!(end.received().is_empty());
}

#[test]
fn c51b_a_descriptor_is_blocking_again_after_its_connection() {
    use rustix::fs::{OFlags, fcntl_getfl};
    let ((reader, _writer), (_reader, writer)) = (pipe(), pipe());
    let (_far, near) = crate::terminal::raw();
    let duplicates: [std::io::Result<OwnedFd>; 3] =
        [reader.try_clone().map(Into::into), writer.try_clone().map(Into::into), near.try_clone()];
    let pipes = [reader.into(), writer.into(), Pipe::duplex(near).expect("a duplicate")];
    for (shared, pipe) in duplicates.into_iter().zip(pipes) {
        let shared = shared.expect("a duplicate");
        let blocks = || !fcntl_getfl(&shared).expect("flags").contains(OFlags::NONBLOCK);
        let (mut l, end) = adopt(pipe);
        assert!(!blocks());
        end.transport().lose_connection();
        lost(&mut l, &end);
        l.turn(SOON).expect("a turn");
        assert!(blocks());
    }
}

fn inherit(descriptor: &impl AsFd) -> (Loop, End) {
    let number = inheritable(descriptor);
    let (l, end) = adopt(Pipe::inherited(number).expect("it is open"));
    assert_eq!(*end.transport().peer(), Address::Pipe(format!("fd:{number}").into()));
    (l, end)
}

#[test]
fn an_inherited_descriptor_is_read_and_written_as_it_was_opened() {
    let (reader, mut writer) = pipe();
    let (mut l, end) = inherit(&reader);
    writer.write_all(b"Rose").expect("room");
    until(&mut l, "all bytes", |_| end.received() == b"Rose");
    end.transport().write("x");
    let reason = lost(&mut l, &end);
    assert!(reason.contains("read-only"), "{reason}");
    let (mut reader, writer) = pipe();
    let (mut l, end) = inherit(&writer);
    end.transport().write("Rose");
    l.turn(SOON).expect("a turn");
    let mut text = [0; 4];
    reader.read_exact(&mut text).expect("it was written");
    drop(reader);
    assert_eq!((&text, &*lost(&mut l, &end)), (b"Rose", "connection closed by the peer"));
    let (far, near) = crate::terminal::raw();
    let (mut l, end) = inherit(&near);
    let mut far = File::from(far);
    far.write_all(b"Rose").expect("room");
    until(&mut l, "all bytes", |_| end.received() == b"Rose");
    end.transport().write("nose");
    l.turn(SOON).expect("a turn");
    far.read_exact(&mut text).expect("it was written");
    assert!(text == *b"nose" && !end.is_lost());
    Pipe::inherited(i32::MAX - 1).expect_err("it is not open");
}

#[test]
fn c51b_a_duplicate_that_stays_open_elsewhere_disturbs_nothing() {
    let (reader, mut writer) = pipe();
    let shared = reader.try_clone().expect("a duplicate");
    let (mut l, end) = adopt(reader);
    // The first query makes the descriptor readable, because requests are already recorded.
    l.descriptor().expect("an epoll descriptor");
    end.transport().abort_connection();
    lost(&mut l, &end);
    l.turn(Some(Duration::ZERO)).expect("a turn");
    writer.write_all(b"late").expect("room");
    let polled = l.descriptor().expect("an epoll descriptor");
    let mut polled =
        [rustix::event::PollFd::from_borrowed_fd(polled, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec::default();
    assert_eq!(rustix::event::poll(&mut polled, Some(&now)), Ok(0), "it wakes nobody");
    // The next connection gets the same slot.
    let (next, mut theirs) = pipe();
    let other = End::default();
    let ours = other.clone();
    l.reactor().adopt_pipe(next, move || ours.clone()).expect("a pipe").detach();
    theirs.write_all(b"fine").expect("room");
    until(&mut l, "all bytes", |_| other.received() == b"fine");
    assert!(!other.is_lost());
    drop(shared);
}

#[test]
fn c51b_the_hang_up_of_a_terminal_is_its_end_and_is_reported_during_a_pause() {
    let (far, near) = crate::terminal::raw();
    let (mut l, end) = adopt(Pipe::duplex(near).expect("a duplicate"));
    end.transport().pause_producing();
    let heard = Rc::new(RefCell::new(false));
    let hears = heard.clone();
    end.transport().peer_ended().map(move |()| *hears.borrow_mut() = true).detach();
    l.turn(SOON).expect("a turn");
    assert!(!*heard.borrow());
    drop(far);
    until(&mut l, "the hang-up", |_| *heard.borrow());
    assert!(!end.is_lost());
    end.transport().resume_producing();
    assert_eq!(lost(&mut l, &end), "connection closed by the peer");
}
