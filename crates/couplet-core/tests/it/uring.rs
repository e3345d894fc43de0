//! The driver over io_uring, beyond the suite: its choice and the way back to epoll, crowds of random
//! connections, sockets that take all buffers, and connections that enter and leave the ring.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;

use couplet::{DriverChoice, Loop, LoopOptions, Transport, hooks};
use couplet_core::driver::{Driver, Mio};

use crate::apart;
use crate::logged::logged;
use crate::needed;
use crate::suite::kit::uring;
use couplet_testkit_loops::crowd::{Crowd, bytes_at, is_at, live};
use couplet_testkit_loops::doubles::on_data;
use couplet_testkit_loops::life::Dice;
use couplet_testkit_loops::until;

const READ_BUFFER: usize = 64 * 1024;

/// Denies io_uring_setup (425) to the program that it becomes, as containers do.
const DENY: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
class Program(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
program = Program(len(rules), ctypes.addressof(code))
long = ctypes.c_ulong
assert libc.prctl(38, long(1), long(0), long(0), long(0)) == 0
assert libc.prctl(22, long(2), ctypes.byref(program), long(0), long(0)) == 0
os.execv(sys.argv[1], sys.argv[1:])
";

/// Whether a loop with these options has a ring: its descriptor is one.
fn has_ring(options: LoopOptions) -> bool {
    let l = Loop::with_options(options).expect("a loop");
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&l.descriptor().expect("it has one"));
    let kind = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).expect("an open one");
    kind.to_string_lossy().contains("io_uring")
}

#[test]
fn c106b_a_loop_has_the_driver_that_is_chosen() {
    if uring(1).is_none() {
        return;
    }
    let with = |driver| has_ring(LoopOptions::default().driver(driver));
    assert!(with(DriverChoice::Uring));
    assert!(!with(DriverChoice::Epoll) && !with(DriverChoice::Auto));
    assert!(!has_ring(LoopOptions::default()));
}

#[test]
fn c106b_where_io_uring_is_forbidden_a_loop_logs_that_and_has_epoll() {
    if apart::told().is_some() {
        let options = LoopOptions::default().driver(DriverChoice::Uring);
        let (has_ring, lines) = logged(|| has_ring(options));
        assert!(!has_ring);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("io_uring is not available"), "{lines:?}");
        return;
    }
    if !needed::has("python3") {
        return;
    }
    let this = "uring::c106b_where_io_uring_is_forbidden_a_loop_logs_that_and_has_epoll";
    let mut denied = apart::again_by(&["python3", "-c", DENY], this, "denied");
    let ran = denied.output().expect("it starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn c106a_a_loop_over_io_uring_continues_in_the_parent_of_a_fork_only() {
    if uring(1).is_none() {
        return;
    }
    let options = LoopOptions::default().driver(DriverChoice::Uring);
    let l = Loop::with_options(options).expect("a loop");
    hooks::forked(&l.reactor(), false).expect("nothing to do for a parent");
    let error = hooks::forked(&l.reactor(), true).expect_err("a ring belongs to one process");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// Each seed of the crowds, and a size of the read buffer; `COUPLET_CROWDS` sets their number.
fn seeds() -> impl Iterator<Item = (u64, usize)> {
    let count: u64 = std::env::var("COUPLET_CROWDS").map_or(30, |n| n.parse().expect("a number"));
    (0..count).map(|seed| (seed, if seed.is_multiple_of(3) { 1000 } else { READ_BUFFER }))
}

#[test]
fn crowds_keep_their_bytes_and_end_once_in_the_ring() {
    for (seed, buffer) in seeds() {
        let Some(uring) = uring(buffer) else { return };
        live(uring.calm(0), Dice::seeded(seed));
    }
}

#[test]
fn crowds_keep_their_bytes_and_end_once_as_they_enter_and_leave_the_ring() {
    for (seed, buffer) in seeds() {
        let Some(uring) = uring(buffer) else { return };
        live(uring.calm(1 + seed as u8 % 4), Dice::seeded(seed));
    }
}

#[test]
fn crowds_keep_their_bytes_and_end_once_over_epoll() {
    for (seed, buffer) in seeds() {
        live(Mio::new(buffer).expect("a poll descriptor"), Dice::seeded(seed));
    }
}

/// Two connections in a ring.
fn two() -> Option<Crowd> {
    let mut crowd = Crowd::new(uring(READ_BUFFER)?.calm(0), Dice::seeded(1));
    crowd.connect();
    crowd.connect();
    Some(crowd)
}

#[test]
fn a_connection_that_takes_all_buffers_of_the_ring_starves_no_other() {
    let Some(mut crowd) = two() else { return };
    let flood = vec![0; 1 << 20];
    let mut peer = crowd.pairs[0].peer.take().expect("it is open");
    let end = crowd.pairs[0].end.clone();
    let mut sent = 0;
    for turn in 0..200 {
        while let Ok(n) = peer.write(&flood) {
            sent += n;
        }
        crowd.pairs[1].send(1);
        crowd.turn();
        let sent = crowd.pairs[1].sent;
        let received = crowd.pairs[1].end.borrow().received;
        assert!(received + 3 >= sent, "turn {turn}: {received} of {sent} bytes");
        end.borrow().transport.as_ref().expect("it was made").resume_producing();
        crowd.pairs[1].end.borrow().transport.as_ref().expect("made").resume_producing();
    }
    assert!(sent > 4 << 20, "it is a flood");
}

#[test]
fn a_paused_connection_holds_no_buffer_of_the_ring() {
    let Some(mut crowd) = two() else { return };
    let paused = crowd.pairs[0].end.borrow().transport.clone().expect("it was made");
    paused.pause_producing();
    crowd.turn();
    // More than all buffers of the ring, in messages smaller than one.
    for _ in 0..600 {
        crowd.pairs[0].send(100);
        crowd.turn();
    }
    assert_eq!(crowd.pairs[0].end.borrow().received, 0);
    crowd.pairs[1].send(13);
    crowd.until("the other one is served", |crowd| crowd.pairs[1].end.borrow().received == 13);
    crowd.end();
}

/// The system lists the operations in flight; 27 is a receive operation.
#[test]
fn c106b_a_connection_enters_the_ring_each_time_after_some_small_messages_and_not_before() {
    let Some(uring) = uring(READ_BUFFER) else { return };
    let ring = std::os::fd::AsRawFd::as_raw_fd(&uring.descriptor().expect("it has one"));
    let operations = || {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{ring}")).expect("open");
        info.lines().filter(|line| line.contains("op=27,")).count()
    };
    let mut crowd = Crowd::new(uring.calm(3), Dice::seeded(1));
    crowd.connect();
    for (sent, in_ring) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
        crowd.pairs[0].send(1);
        crowd.until("the message arrives", |crowd| crowd.pairs[0].end.borrow().received == sent);
        crowd.turn();
        assert_eq!(operations(), in_ring, "after {sent} messages");
    }
    // This message fills a buffer of the ring.
    crowd.pairs[0].send(20_000);
    crowd.until("a large message", |crowd| {
        let end = crowd.pairs[0].end.borrow();
        end.transport.as_ref().expect("it was made").resume_producing();
        end.received == 20_004
    });
    crowd.until("it leaves", |_| operations() == 0);
    // Then it needs as many small messages in a row again.
    const LARGE: usize = 20_003;
    let mut received = 20_004;
    for (len, in_ring) in [(LARGE, 0), (1, 0), (2, 0), (LARGE, 0), (1, 0), (2, 0), (3, 1)] {
        crowd.pairs[0].send(len);
        received += len;
        crowd.until("the message arrives", |crowd| {
            let end = crowd.pairs[0].end.borrow();
            end.transport.as_ref().expect("it was made").resume_producing();
            end.received == received
        });
        crowd.turn();
        assert_eq!(operations(), in_ring, "after {len} bytes");
    }
    crowd.end();
}

/// Fills a socket with two writes in each turn. The second one flushes the output that is held for the
/// ring; once its buffer is nearly full, the system takes only a part.
#[test]
fn held_output_that_leaves_in_parts_arrives_whole_and_once() {
    const PART: usize = 16_000;
    let Some(uring) = uring(READ_BUFFER) else { return };
    let mut l = Loop::with_driver(uring.calm(0), LoopOptions::default());
    let (written, connection) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
    let (count, made) = (written.clone(), connection.clone());
    let factory = move || {
        let (count, made) = (count.clone(), made.clone());
        let next = |count: &Cell<usize>, len| bytes_at(count.replace(count.get() + len), len);
        on_data(move |transport: &Transport, _: &[u8]| {
            made.replace(Some(transport.clone()));
            transport.write(next(&count, PART));
            let (later, count) = (transport.clone(), count.clone());
            transport.reactor().call_soon(move || later.write(next(&count, 1000)));
        })
    };
    let is_full = || connection.borrow().as_ref().is_some_and(|it: &Transport| it.buffered() > 0);
    let port = l.reactor().listen("tcp:0:interface=127.0.0.1", factory).expect("a free port");
    let address = port.host().socket_addr().expect("a TCP port");
    let mut peer = TcpStream::connect(address).expect("it listens");
    peer.set_nonblocking(true).expect("a socket");
    let (mut received, mut buffer) = (0, vec![0; 1 << 20]);
    for round in 0..6 {
        until(&mut l, "a full socket", |_| {
            let _ = peer.write(b"x");
            is_full()
        });
        until(&mut l, "all bytes", |_| {
            while let Ok(n @ 1..) = peer.read(&mut buffer) {
                assert!(is_at(&buffer[..n], received), "round {round}, at {received}");
                received += n;
            }
            received == written.get()
        });
    }
}

/// Output that is held for the ring at the end is sent, of each connection.
#[test]
fn output_that_a_dropped_loop_still_holds_is_sent() {
    let Some(uring) = uring(READ_BUFFER) else { return };
    let mut l = Loop::with_driver(uring.calm(0), LoopOptions::default());
    let made: Rc<RefCell<Vec<Transport>>> = Rc::default();
    let keep = made.clone();
    let factory = move || {
        let keep = keep.clone();
        on_data(move |transport: &Transport, _: &[u8]| keep.borrow_mut().push(transport.clone()))
    };
    let port = l.reactor().listen("tcp:0:interface=127.0.0.1", factory).expect("a free port");
    let address = port.host().socket_addr().expect("a TCP port");
    let connect = |_| TcpStream::connect(address).expect("it listens");
    let mut peers: Vec<TcpStream> = (0..3).map(connect).collect();
    for round in 1..=2 {
        peers.iter_mut().for_each(|peer| peer.write_all(b"?").expect("room"));
        until(&mut l, "the questions", |_| made.borrow().len() == 3 * round);
    }
    for transport in &made.borrow()[3..] {
        transport.write("held");
    }
    l.turn(Some(std::time::Duration::ZERO)).expect("a turn");
    drop((l, made));
    for mut peer in peers {
        let mut said = String::new();
        peer.read_to_string(&mut said).expect("all of it, and the end");
        assert_eq!(said, "held");
    }
}
