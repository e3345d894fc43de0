//! The driver over io_uring, beyond the suite: its choice and the way back to epoll, crowds of random
//! connections, sockets that take all buffers, and connections that leave while it receives.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::{Driver, Mio, Uring};
use couplet::{Address, DriverChoice, Loop, LoopOptions, Port, Protocol, Reason, Transport};

use crate::apart;
use crate::logged::logged;
use crate::needed;

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
fn a_loop_has_the_driver_that_is_chosen() {
    let with = |driver| has_ring(LoopOptions::default().driver(driver));
    assert!(with(DriverChoice::Uring));
    assert!(!with(DriverChoice::Epoll) && !with(DriverChoice::Auto));
    assert!(!has_ring(LoopOptions::default()));
}

#[test]
fn where_io_uring_is_forbidden_a_loop_logs_that_and_has_epoll() {
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
    let this = "uring::where_io_uring_is_forbidden_a_loop_logs_that_and_has_epoll";
    let mut denied = apart::again_by(&["python3", "-c", DENY], this, "denied");
    let ran = denied.output().expect("it starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn c106a_a_loop_over_io_uring_continues_in_the_parent_of_a_fork_only() {
    let options = LoopOptions::default().driver(DriverChoice::Uring);
    let l = Loop::with_options(options).expect("a loop");
    l.reactor().forked(false).expect("nothing to do for a parent");
    let error = l.reactor().forked(true).expect_err("a ring belongs to one process");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// The byte of a stream at this offset.
fn byte_at(offset: usize) -> u8 {
    (offset % 251) as u8
}

fn bytes_at(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(byte_at).collect()
}

fn is_at(bytes: &[u8], offset: usize) -> bool {
    bytes.iter().enumerate().all(|(n, byte)| *byte == byte_at(offset + n))
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// Mostly small, sometimes more than the system's buffers.
    fn length(&mut self) -> usize {
        match self.roll(16) {
            0..=9 => 1 + self.roll(200),
            10..=13 => self.roll(20_000),
            _ => self.roll(400_000),
        }
    }
}

/// Our end of a connection.
#[derive(Default)]
struct End {
    transport: Option<Transport>,
    received: usize,
    written: usize,
    lost: u32,
    is_wrong: bool,
    has_ended: bool,
}

struct Near(Rc<RefCell<End>>);

impl Protocol for Near {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.borrow_mut().transport = Some(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let mut end = self.0.borrow_mut();
        end.is_wrong |= end.lost > 0 || end.has_ended || !is_at(data, end.received);
        end.received += data.len();
        // Some pause in the callback, and are resumed later.
        if end.received.is_multiple_of(7) {
            transport.pause_producing();
        }
    }

    fn read_closed(&mut self, _: &Transport) {
        self.0.borrow_mut().has_ended = true;
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.0.borrow_mut().lost += 1;
    }
}

/// A connection: both ends, and the peer's counts.
struct Pair {
    end: Rc<RefCell<End>>,
    peer: Option<TcpStream>,
    sent: usize,
    read: usize,
    has_fin: bool,
    is_reset: bool,
}

/// A loop over a driver, and its connections.
struct Crowd {
    l: Loop,
    port: Port,
    newcomers: Rc<RefCell<Vec<Rc<RefCell<End>>>>>,
    pairs: Vec<Pair>,
    dice: Dice,
}

impl Crowd {
    fn new(driver: impl Driver + 'static, seed: u64) -> Crowd {
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let newcomers: Rc<RefCell<Vec<_>>> = Rc::default();
        let made = newcomers.clone();
        let factory = move |_: &Address| {
            let end = Rc::default();
            made.borrow_mut().push(Rc::clone(&end));
            Some(Near(end))
        };
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let port = l.reactor().listen_tcp(loopback, factory).expect("a free port");
        l.turn(Some(Duration::ZERO)).expect("a turn");
        let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Crowd { l, port, newcomers, pairs: Vec::new(), dice }
    }

    fn turn(&mut self) {
        self.l.turn(Some(Duration::from_millis(1))).expect("a turn");
    }

    /// Turns until `is` holds.
    fn until(&mut self, what: &str, mut is: impl FnMut(&mut Crowd) -> bool) {
        for _ in 0..20_000 {
            if is(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}");
    }

    fn connect(&mut self) {
        let address = self.port.host().socket_addr().expect("a TCP port");
        let peer = TcpStream::connect(address).expect("it listens");
        peer.set_nonblocking(true).expect("a socket");
        self.until("a connection", |crowd| !crowd.newcomers.borrow().is_empty());
        let end = self.newcomers.borrow_mut().pop().expect("one");
        let peer = Some(peer);
        self.pairs.push(Pair { end, peer, sent: 0, read: 0, has_fin: false, is_reset: false });
    }

    /// One random act on one connection.
    fn act(&mut self) {
        let n = self.dice.roll(self.pairs.len());
        let (act, length) = (self.dice.roll(24), self.dice.length());
        let pair = &mut self.pairs[n];
        let transport = pair.end.borrow().transport.clone().expect("it was made");
        match act {
            0..=5 => pair.send(length),
            6..=9 => pair.take(length),
            10..=13 => {
                let mut end = pair.end.borrow_mut();
                if end.lost == 0 {
                    transport.write(bytes_at(end.written, length));
                    end.written += length;
                }
            }
            14 | 15 => transport.pause_producing(),
            16..=18 => transport.resume_producing(),
            19 if self.dice.roll(4) == 0 => pair.fin(),
            20 if self.dice.roll(12) == 0 => {
                // The system resets a connection that is closed with unread bytes.
                pair.is_reset = true;
                pair.peer = None;
            }
            21 if self.dice.roll(12) == 0 => {
                pair.is_reset = true;
                transport.abort_connection();
            }
            _ => {}
        }
        (0..self.dice.roll(3)).for_each(|_| self.turn());
        assert!(self.pairs.iter().all(|pair| !pair.end.borrow().is_wrong), "bytes out of order");
    }

    /// Everything that was sent arrives, at both ends, and each connection is lost once.
    fn end(&mut self) {
        self.until("all bytes arrive and all connections end", |crowd| {
            crowd.pairs.iter_mut().all(|pair| {
                let transport = pair.end.borrow().transport.clone().expect("it was made");
                transport.resume_producing();
                pair.take(usize::MAX);
                pair.fin();
                if pair.end.borrow().has_ended || pair.is_reset {
                    transport.lose_connection();
                }
                pair.end.borrow().lost > 0
            })
        });
        for pair in &mut self.pairs {
            pair.take(usize::MAX);
            let end = pair.end.borrow();
            assert_eq!(end.lost, 1);
            assert!(end.received <= pair.sent && pair.read <= end.written);
            if !pair.is_reset {
                assert_eq!((end.received, pair.read), (pair.sent, end.written));
            }
        }
    }
}

impl Pair {
    fn send(&mut self, length: usize) {
        if let Some(peer) = &mut self.peer
            && !self.has_fin
        {
            match peer.write(&bytes_at(self.sent, length)) {
                Ok(n) => self.sent += n,
                Err(error) => self.is_reset |= error.kind() != ErrorKind::WouldBlock,
            }
        }
    }

    fn take(&mut self, most: usize) {
        let mut buffer = vec![0; most.min(256 * 1024)];
        while let Some(peer) = &mut self.peer {
            match peer.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    assert!(is_at(&buffer[..n], self.read), "bytes out of order");
                    self.read += n;
                    if most < usize::MAX {
                        return;
                    }
                }
                Err(error) => {
                    self.is_reset |= error.kind() != ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    fn fin(&mut self) {
        if let Some(peer) = &self.peer
            && !std::mem::replace(&mut self.has_fin, true)
        {
            let _ = peer.shutdown(Shutdown::Write);
        }
    }
}

fn live(driver: impl Driver + 'static, seed: u64) {
    let mut crowd = Crowd::new(driver, seed);
    (0..5).for_each(|_| crowd.connect());
    (0..150).for_each(|_| crowd.act());
    crowd.end();
}

/// The seeds of the crowds; `COUPLET_CROWDS` sets their number.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("COUPLET_CROWDS").map_or(30, |n| n.parse().expect("a number"))
}

#[test]
fn crowds_keep_their_bytes_and_end_once_over_io_uring() {
    for seed in seeds() {
        let buffer = if seed.is_multiple_of(3) { 1000 } else { READ_BUFFER };
        live(Uring::new(buffer).expect("the kernel allows io_uring"), seed);
    }
}

#[test]
fn crowds_keep_their_bytes_and_end_once_over_epoll() {
    for seed in seeds() {
        let buffer = if seed.is_multiple_of(3) { 1000 } else { READ_BUFFER };
        live(Mio::new(buffer).expect("a poll descriptor"), seed);
    }
}

/// Two connections over io_uring.
fn two() -> Crowd {
    let mut crowd = Crowd::new(Uring::new(READ_BUFFER).expect("the kernel allows io_uring"), 1);
    crowd.connect();
    crowd.connect();
    crowd
}

#[test]
fn a_connection_that_takes_all_buffers_of_the_ring_starves_no_other() {
    let mut crowd = two();
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
    let mut crowd = two();
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
