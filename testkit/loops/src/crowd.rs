//! Random lives of connections over real sockets: five in one loop, whose protocols and peers write,
//! read, pause, end and reset in any order. No byte is lost, duplicated or reordered, and each
//! connection ends once.
//!
//! A crowd depends on its dice and on the system's timing. The fuzzer makes crowds from its input
//! (`fuzz/src/crowds.rs`).

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use couplet::{Address, Loop, LoopOptions, Port, Protocol, Reason, Transport};
use couplet_core::driver::Driver;

use crate::PATIENCE;
use crate::life::Dice;

/// The byte of a stream at this offset.
fn byte_at(offset: usize) -> u8 {
    (offset % 251) as u8
}

/// The bytes of a stream from this offset.
pub fn bytes_at(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(byte_at).collect()
}

/// Whether these are the bytes of a stream from this offset.
pub fn is_at(bytes: &[u8], offset: usize) -> bool {
    bytes.iter().enumerate().all(|(n, byte)| *byte == byte_at(offset + n))
}

/// Mostly small, sometimes more than the system's buffers.
fn length(dice: &Dice) -> usize {
    match dice.roll(16) {
        0..=9 => 1 + dice.roll(200),
        10..=13 => dice.roll(20_000),
        _ => dice.roll(400_000),
    }
}

/// Our end of a connection.
#[derive(Default)]
pub struct End {
    pub transport: Option<Transport>,
    pub received: usize,
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
pub struct Pair {
    pub end: Rc<RefCell<End>>,
    pub peer: Option<TcpStream>,
    pub sent: usize,
    read: usize,
    has_fin: bool,
    is_reset: bool,
}

/// A loop over a driver, and its connections.
pub struct Crowd {
    l: Loop,
    port: Port,
    newcomers: Rc<RefCell<Vec<Rc<RefCell<End>>>>>,
    pub pairs: Vec<Pair>,
    dice: Dice,
}

impl Crowd {
    pub fn new(driver: impl Driver + 'static, dice: Dice) -> Crowd {
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let newcomers: Rc<RefCell<Vec<_>>> = Rc::default();
        let made = newcomers.clone();
        let factory = move |_: &Address| {
            let end = Rc::default();
            made.borrow_mut().push(Rc::clone(&end));
            Some(Near(end))
        };
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let port = l.reactor().listen(loopback, factory).expect("a free port");
        l.turn(Some(Duration::ZERO)).expect("a turn");
        Crowd { l, port, newcomers, pairs: Vec::new(), dice }
    }

    pub fn turn(&mut self) {
        self.l.turn(Some(Duration::from_millis(1))).expect("a turn");
    }

    /// Turns until `is` holds.
    pub fn until(&mut self, what: &str, mut is: impl FnMut(&mut Crowd) -> bool) {
        let late = self.l.reactor().now() + PATIENCE;
        while !is(self) {
            assert!(self.l.reactor().now() < late, "never: {what}");
            self.turn();
        }
    }

    pub fn connect(&mut self) {
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
        let (act, length) = (self.dice.roll(24), length(&self.dice));
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
        for _ in 0..self.dice.roll(3) {
            self.l.turn(Some(Duration::ZERO)).expect("a turn");
        }
        assert!(self.pairs.iter().all(|pair| !pair.end.borrow().is_wrong), "bytes out of order");
    }

    /// Everything that was sent arrives, at both ends, and each connection is lost once.
    pub fn end(&mut self) {
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
    pub fn send(&mut self, length: usize) {
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

/// A crowd's life.
pub fn live(driver: impl Driver + 'static, dice: Dice) {
    let mut crowd = Crowd::new(driver, dice);
    (0..5).for_each(|_| crowd.connect());
    for _ in 0..150 {
        if crowd.dice.are_spent() {
            break;
        }
        crowd.act();
    }
    crowd.end();
}
