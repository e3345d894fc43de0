//! Unit tests of the ring: the traps of io_uring that the driver over it relies on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

const SMALL: Size = Size { buffers: 4, buffer: 8 };
const SOON: Option<Duration> = Some(Duration::ZERO);

/// A ring, and the other end of the pipe that it watches.
fn ring(size: Size) -> (Ring, io::PipeWriter) {
    let (watched, writer) = io::pipe().expect("a pipe");
    (Ring::new(size, watched.into()).expect("a ring"), writer)
}

/// A socket that a ring may use, and its peer.
fn pair() -> (Owner, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (ours, _) = listener.accept().expect("it connects");
    ours.set_nonblocking(true).expect("a socket");
    (Owner::from(OwnedFd::from(ours)), peer)
}

/// The next completion, however long it takes.
fn next(ring: &mut Ring) -> Completion {
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        ring.enter(None).expect("an open ring");
    }
}

/// Receives `n` bytes with operations of this tag; other completions are dropped.
fn receive(ring: &mut Ring, tag: u64, socket: Handle, n: usize) -> Vec<u8> {
    let mut received = Vec::new();
    ring.receive(tag, socket);
    while received.len() < n {
        match next(ring) {
            Completion::Received { tag: of, is_last } if of == tag => {
                received.extend_from_slice(ring.lent());
                if is_last {
                    ring.receive(tag, socket);
                }
            }
            Completion::Stopped { tag: of } if of == tag => {
                ring.receive(tag, socket);
            }
            _ => {}
        }
    }
    received
}

#[test]
fn the_system_passes_the_self_test() {
    check().expect("the kernel of this machine allows io_uring");
}

#[test]
fn more_bytes_than_all_buffers_hold_arrive_in_order() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let bytes: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
    peer.write_all(&bytes).expect("the system takes it");
    assert_eq!(receive(&mut ring, 7, ours.handle(), bytes.len()), bytes);
}

/// Bundles are reported out of order by some kernels (6.13.11 to 6.14), and buffers that grow
/// (`IOU_PBUF_RING_INC`) can't be lent and given back: the ring must use neither.
#[test]
fn a_completion_has_one_buffer_from_its_beginning() {
    let (mut ring, _writer) = ring(Size { buffers: 2, buffer: 8 });
    let (ours, mut peer) = pair();
    peer.write_all(b"0123456789abcdefXY").expect("the system takes it");
    ring.receive(1, ours.handle());
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut next_piece = |ring: &mut Ring| loop {
        match next(ring) {
            Completion::Received { is_last, .. } => {
                pieces.push(ring.lent().to_vec());
                if is_last {
                    ring.receive(1, ours.handle());
                }
                return pieces.clone();
            }
            Completion::Stopped { .. } => drop(ring.receive(1, ours.handle())),
            other => panic!("{other:?}"),
        }
    };
    (0..2).for_each(|_| drop(next_piece(&mut ring)));
    assert_eq!(next_piece(&mut ring), [&b"01234567"[..], b"89abcdef", b"XY"]);
    // Each buffer was used for a short message, and is whole again.
    peer.write_all(b"pq").expect("the system takes it");
    assert_eq!(next_piece(&mut ring).last().map(Vec::len), Some(2));
    peer.write_all(b"ghijklmn").expect("the system takes it");
    assert_eq!(next_piece(&mut ring).last().map(Vec::len), Some(8));
}

#[test]
fn a_send_that_the_socket_accepts_needs_no_completion() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    ring.send(1, ours.handle(), b"ab".to_vec(), 0);
    ring.enter(SOON).expect("an open ring");
    assert_eq!(ring.peek(|queue| queue.count()), 0, "the kernel reports nothing");
    assert!(!ring.is_idle(), "the ring does");
    assert!(matches!(
        ring.next_completion(),
        Some(Completion::Sent { tag: 1, result: Ok(()), .. })
    ));
    assert!(ring.is_idle());
    peer.read_exact(&mut [0; 2]).expect("it was sent");
}

#[test]
fn sends_are_reported_before_what_arrived_meanwhile() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    ring.receive(1, ours.handle());
    ring.enter(SOON).expect("an open ring");
    peer.write_all(b"x").expect("room");
    ring.send(2, ours.handle(), b"y".to_vec(), 0);
    ring.enter(None).expect("an open ring");
    assert!(matches!(ring.next_completion(), Some(Completion::Sent { tag: 2, .. })));
    assert!(matches!(ring.next_completion(), Some(Completion::Received { tag: 1, .. })));
}

#[test]
fn failed_attempts_are_found_though_the_completion_queue_overflows() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, peer) = pair();
    drop(peer);
    let count = COMPLETIONS as usize + 100;
    let (mut failed, mut sent) = (0, 0);
    // The first send succeeds: the peer has not reset the connection yet.
    ring.send(0, ours.handle(), b"x".to_vec(), 0);
    ring.enter(SOON).expect("an open ring");
    assert!(matches!(ring.next_completion(), Some(Completion::Sent { result: Ok(()), .. })));
    for tag in 0..count as u64 {
        ring.send(tag, ours.handle(), b"x".to_vec(), 0);
    }
    ring.enter(SOON).expect("an open ring");
    while let Some(completion) = ring.next_completion() {
        match completion {
            Completion::Sent { result: Ok(()), .. } => sent += 1,
            Completion::Sent { result: Err(_), .. } => failed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((failed, sent), (count, 0));
    assert!(ring.is_idle());
}

#[test]
fn a_lack_of_buffers_stops_a_receive_and_loses_nothing() {
    let (mut ring, _writer) = ring(Size { buffers: 1, buffer: 4 });
    let (ours, mut peer) = pair();
    peer.write_all(b"abcdefgh").expect("the system takes it");
    ring.receive(1, ours.handle());
    assert!(matches!(next(&mut ring), Completion::Received { tag: 1, .. }));
    assert_eq!(ring.lent(), b"abcd");
    assert!(matches!(next(&mut ring), Completion::Stopped { tag: 1 }));
    assert_eq!(receive(&mut ring, 1, ours.handle(), 4), b"efgh");
}

#[test]
fn a_cancelled_receive_ends_and_leaves_later_bytes_in_the_socket() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let operation = ring.receive(1, ours.handle());
    ring.enter(SOON).expect("it is submitted");
    assert!(ring.cancel(operation));
    assert!(matches!(next(&mut ring), Completion::Stopped { tag: 1 }));
    assert!(!ring.cancel(operation), "it has ended");
    peer.write_all(b"later").expect("the system takes it");
    assert_eq!(receive(&mut ring, 2, ours.handle(), 5), b"later");
}

#[test]
fn a_stopped_receive_reports_its_bytes_before_its_end() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let unsubmitted = ring.receive(1, ours.handle());
    assert!(ring.stop(unsubmitted).expect("an open ring"), "it has not begun");
    let idle = ring.receive(1, ours.handle());
    ring.enter(SOON).expect("it is submitted");
    assert!(ring.stop(idle).expect("an open ring"), "nothing arrived");
    assert!(ring.next_completion().is_none(), "so nothing is reported");
    let used = ring.receive(1, ours.handle());
    ring.enter(SOON).expect("it is submitted");
    peer.write_all(b"bytes").expect("the system takes it");
    ring.enter(None).expect("an open ring");
    assert!(ring.has_completed(used) && !ring.has_completed(idle));
    assert!(!ring.stop(used).expect("an open ring"));
    assert!(ring.has_completed(used), "reported next");
    assert!(matches!(
        ring.next_completion(),
        Some(Completion::Received { tag: 1, is_last: false })
    ));
    assert_eq!(ring.lent(), b"bytes");
    assert!(matches!(ring.next_completion(), Some(Completion::Stopped { tag: 1 })));
}

#[test]
fn a_send_to_a_full_socket_finishes_and_returns_its_buffer() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let bytes: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|n| (n / 3) as u8).collect();
    ring.send(3, ours.handle(), bytes.clone(), 100);
    let wanted = bytes[100..].to_vec();
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; wanted.len()];
        peer.read_exact(&mut received).expect("all of it");
        received == wanted
    });
    match next(&mut ring) {
        Completion::Sent { tag: 3, result, buffer } => {
            result.expect("the peer reads");
            assert!(buffer == bytes);
        }
        other => panic!("{other:?}"),
    }
    assert!(reader.join().expect("the reader returns"));
}

#[test]
fn ends_and_errors_are_reported() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, peer) = pair();
    drop(peer);
    ring.receive(1, ours.handle());
    assert!(matches!(next(&mut ring), Completion::Ended { tag: 1, result: Ok(()) }));
    let reset = loop {
        ring.send(2, ours.handle(), b"x".to_vec(), 0);
        ring.enter(SOON).expect("an open ring");
        if let Completion::Sent { tag: 2, result: Err(error), buffer } = next(&mut ring) {
            assert_eq!(buffer, b"x");
            break error;
        }
    };
    assert_eq!(reset.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn an_operation_on_a_descriptor_that_was_closed_never_starts() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    ring.send(1, ours.handle(), b"unheard".to_vec(), 0);
    ring.receive(1, ours.handle());
    drop(ours);
    // The new socket probably has the number of the closed one.
    let (_other, mut silent) = pair();
    silent.set_nonblocking(true).expect("a socket");
    ring.enter(SOON).expect("an open ring");
    assert!(ring.next_completion().is_none());
    assert_eq!(peer.read(&mut [0; 8]).expect("an end"), 0);
    assert_eq!(
        silent.read(&mut [0; 8]).map_err(|error| error.kind()),
        Err(io::ErrorKind::WouldBlock)
    );
}

#[test]
fn a_socket_closes_when_its_cancelled_operation_ends() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let operation = ring.receive(1, ours.handle());
    ring.enter(SOON).expect("it is submitted");
    drop(ours);
    peer.set_nonblocking(true).expect("a socket");
    let blocked = peer.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(blocked, Err(io::ErrorKind::WouldBlock), "the operation holds the socket");
    ring.cancel(operation);
    assert!(matches!(next(&mut ring), Completion::Stopped { tag: 1 }));
    peer.set_nonblocking(false).expect("a socket");
    assert_eq!(peer.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn a_dropped_ring_ends_its_operations_and_closes_their_sockets() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let ours_too = ours.as_fd().try_clone_to_owned().expect("a socket");
    ring.receive(1, ours.handle());
    ring.send(2, ours.handle(), vec![0; 32 * 1024 * 1024], 0);
    ring.enter(SOON).expect("they are submitted");
    drop((ring, ours));
    // After that, the ring holds no file, and nothing has written to its buffers.
    drop(ours_too);
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    assert!(rest.len() < 32 * 1024 * 1024);
}

#[test]
fn the_watched_descriptor_is_reported_until_it_is_drained() {
    let (watched, mut writer) = io::pipe().expect("a pipe");
    let ours = watched.try_clone().expect("another one");
    let mut ring = Ring::new(SMALL, watched.into()).expect("a ring");
    ring.enter(SOON).expect("an open ring");
    assert!(ring.next_completion().is_none());
    writer.write_all(b"xy").expect("room");
    for _ in 0..2 {
        assert!(matches!(next(&mut ring), Completion::Watched));
        (&ours).read_exact(&mut [0]).expect("one byte");
    }
    ring.enter(SOON).expect("an open ring");
    assert!(ring.next_completion().is_none());
}

#[test]
fn no_bytes_are_lent_without_a_receive_completion() {
    let (mut ring, _writer) = ring(SMALL);
    assert!(ring.lent().is_empty());
    let (ours, mut peer) = pair();
    peer.write_all(b"x").expect("the system takes it");
    ring.receive(1, ours.handle());
    assert!(matches!(next(&mut ring), Completion::Received { .. }));
    assert_eq!(ring.lent(), b"x");
    assert!(ring.next_completion().is_none());
    assert!(ring.lent().is_empty(), "it was given back");
}

#[test]
fn more_operations_than_one_call_submits_are_submitted() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let handle = ours.handle();
    let count = SUBMISSIONS as usize * 2 + 1;
    for _ in 0..count {
        ring.send(5, handle, b"z".to_vec(), 0);
    }
    ring.enter(SOON).expect("an open ring");
    let mut bytes = vec![0; count];
    peer.read_exact(&mut bytes).expect("all of them");
    assert_eq!(bytes, vec![b'z'; count]);
}

#[test]
fn a_send_to_a_full_socket_holds_no_other_wait_up() {
    let (mut ring, _writer) = ring(SMALL);
    let ((full, _silent), (other, mut peer)) = (pair(), pair());
    ring.send(1, full.handle(), vec![0; 32 << 20], 0);
    ring.receive(2, other.handle());
    ring.enter(SOON).expect("an open ring");
    peer.write_all(b"x").expect("room");
    assert!(matches!(next(&mut ring), Completion::Received { tag: 2, .. }));
}

#[test]
fn an_interrupted_wait_just_ends_each_time() {
    use std::sync::atomic::{AtomicBool, Ordering};

    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: an all-zero sigaction is a valid value, and the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        assert_eq!(libc::sigaction(libc::SIGVTALRM, &raw const action, std::ptr::null_mut()), 0);
    }
    let (mut ring, _writer) = ring(SMALL);
    let waiting = crate::signals::SignalledThread::current();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                waiting.send(libc::SIGVTALRM).expect("it waits");
                std::thread::yield_now();
            }
        });
        let waits = [(); 3].map(|()| ring.enter(None).map_err(|error| error.kind()));
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(waits, [Ok(()); 3]);
    });
    assert!(ring.next_completion().is_none());
    // The ring works as before.
    let (ours, mut peer) = pair();
    peer.write_all(b"later").expect("room");
    assert_eq!(receive(&mut ring, 1, ours.handle(), 5), b"later");
}

#[test]
fn of_sends_submitted_together_each_has_its_own_result_and_buffer() {
    let (mut ring, _writer) = ring(SMALL);
    let ((gone, peer), (ours, mut reads)) = (pair(), pair());
    drop(peer);
    // The first one after the peer's end succeeds, and is answered by a reset.
    let is_reset = |ring: &mut Ring| {
        ring.send(9, gone.handle(), b"x".to_vec(), 0);
        ring.enter(SOON).expect("an open ring");
        matches!(next(ring), Completion::Sent { result: Err(_), .. })
    };
    while !is_reset(&mut ring) {}
    for round in 0..3 {
        for tag in 0..4 {
            let socket = if tag % 2 == round % 2 { gone.handle() } else { ours.handle() };
            ring.send(tag, socket, vec![tag as u8; 3], 0);
        }
        ring.enter(SOON).expect("an open ring");
        let mut sent = [false; 4];
        for _ in 0..4 {
            match ring.next_completion() {
                Some(Completion::Sent { tag, result, buffer }) => {
                    assert_eq!(buffer, [tag as u8; 3]);
                    assert_eq!(result.is_err(), tag % 2 == round % 2, "{tag}");
                    assert!(!mem::replace(&mut sent[tag as usize], true), "once: {tag}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(ring.next_completion().is_none() && ring.is_idle());
        reads.read_exact(&mut [0; 6]).expect("two of them");
    }
}

#[test]
fn a_recorded_send_may_grow_or_be_taken_back() {
    let (mut ring, _writer) = ring(SMALL);
    let (ours, mut peer) = pair();
    let grows = ring.send(1, ours.handle(), b"_ab".to_vec(), 1);
    assert_eq!(ring.unsent(grows), 2);
    ring.recorded(grows).expect("it was not submitted").extend_from_slice(b"cd");
    let taken = ring.send(2, ours.handle(), b"xyz".to_vec(), 2);
    assert_eq!(ring.take_back(taken), Some((b"xyz".to_vec(), 2)));
    ring.enter(SOON).expect("an open ring");
    assert!(ring.recorded(grows).is_none() && ring.take_back(taken).is_none());
    assert!(!ring.is_recorded(grows));
    assert!(matches!(ring.next_completion(), Some(Completion::Sent { tag: 1, .. })));
    assert!(ring.next_completion().is_none());
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).expect("they were sent");
    assert_eq!(&bytes, b"abcd");
}
