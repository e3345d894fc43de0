//! The load of servers that return bytes: echoes, relays, fan-outs.
//!
//! A connection's bytes are a window that moves over a repeated random block of prime length; each
//! connection starts at another position. So a check is one `memcmp`, cheap enough not to slow the
//! load, and detects lost, doubled, reordered and mixed-up bytes.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use couplet_os::read_buffer::ReadBuffer;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::{Clients, Waiting, connect, cut, receive_some, send_all, stalled, wrong};
use crate::{interrupt, pause};

/// Bytes of a message in ping-pong and on a short connection.
pub(crate) const MESSAGE: usize = 64;
/// Short connections open at a time.
const PARALLEL: usize = 8;
/// Most bytes in flight on a connection in bulk. Without a bound the kernel's buffers grow by
/// megabytes, and the bench measures the caches.
const WINDOW: usize = 256 << 10;
/// Bytes that a slow reader reads at a time.
const SIP: usize = 4096;
/// A prime, so that a shift by a buffer's length is detected; at least `WINDOW`.
const PERIOD: usize = 262_147;
/// The same for lines: a prime number of messages.
const PERIOD_OF_LINES: usize = 4099 * MESSAGE;

/// The side that closes a short connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closer {
    Client,
    Server,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The connection on which a relay's output arrives; otherwise the echo returns on `stream`.
    far: Option<TcpStream>,
    /// Position of the first byte in the block.
    start: usize,
    sent: usize,
    received: usize,
}

/// The clients of one server.
#[derive(Debug)]
pub(crate) struct Load {
    server: SocketAddr,
    /// The listener for the relay's connections, if `server` is a relay.
    behind: Option<TcpListener>,
    /// The random block, twice, so that a window never wraps.
    block: Vec<u8>,
    /// Each message is a line, CRLF included.
    lines: bool,
    waiting: Waiting,
    connections: Vec<Option<Connection>>,
    /// Number of slow readers; they are the last connections.
    slow: usize,
    /// Answers since the slow readers have read.
    answers: usize,
    opened: usize,
    buffer: ReadBuffer,
}

impl Load {
    /// Clients for that server, none connected yet. `spin` if no other process needs the processor;
    /// `lines` if messages must be lines.
    pub(crate) fn new(server: SocketAddr, spin: bool, lines: bool) -> io::Result<Load> {
        let block = block(lines);
        Ok(Load {
            server,
            behind: None,
            block,
            lines,
            waiting: Waiting::new(spin)?,
            connections: Vec::new(),
            slow: 0,
            answers: 0,
            opened: 0,
            buffer: ReadBuffer::new(WINDOW),
        })
    }

    /// Makes the server a relay to `listener`: bytes sent to the relay arrive there. On every other
    /// connection the direction is reversed.
    pub(crate) fn behind(&mut self, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.behind = Some(listener);
        Ok(())
    }

    /// Opens `count` connections; each is tested with a round trip.
    pub(crate) fn connect(&mut self, count: usize) -> io::Result<()> {
        for slot in 0..count {
            self.connections.push(None);
            self.open(slot)?;
            self.send_message(slot)?;
            while !self.answered(slot)? {
                self.waiting.wait(&mut Vec::with_capacity(1))?;
            }
        }
        Ok(())
    }

    /// Opens `count` connections to a server that sends each message to all; each is tested with a
    /// message that all receive.
    pub(crate) fn gather(&mut self, count: usize) -> io::Result<()> {
        for slot in 0..count {
            self.connections.push(None);
            self.open(slot)?;
            if let [Some(first), .., Some(newest)] = self.connections.as_mut_slice() {
                // All receive the same bytes, so the newest begins at the others' position.
                newest.start = first.start;
                (newest.sent, newest.received) = (first.sent, first.received);
            }
            self.tell_all(slot)?;
        }
        Ok(())
    }

    /// One connection sends a message, and the next message once all have received it, until
    /// `deadline`; returns the number of messages received.
    pub(crate) fn fan_out(&mut self, deadline: Instant) -> io::Result<u64> {
        let mut heard = 0;
        while Instant::now() < deadline {
            self.tell_all(0)?;
            heard += self.connections.len() as u64;
        }
        Ok(heard)
    }

    fn tell_all(&mut self, speaker: usize) -> io::Result<()> {
        self.send_message(speaker)?;
        for slot in (0..self.connections.len()).filter(|&slot| slot != speaker) {
            open_in(&mut self.connections, slot).sent += MESSAGE;
        }
        self.await_all(|load, slot| load.answered(slot))
    }

    /// Makes the last `count` connections slow readers: while the others ping, each sends as much
    /// as the server takes, and reads a sip in each round of the others. The pace depends on the
    /// trips and not on the time, so a fast server has as much to do for each trip as a slow one.
    pub(crate) fn slow_down(&mut self, count: usize) -> io::Result<()> {
        self.slow = count;
        for slot in self.slow_ones() {
            self.waiting.remove(&open_in(&mut self.connections, slot).stream)?;
        }
        Ok(())
    }

    fn slow_ones(&self) -> Range<usize> {
        self.connections.len() - self.slow..self.connections.len()
    }

    fn sip(&mut self, slot: usize) -> io::Result<()> {
        self.send_stream(slot, usize::MAX)?;
        self.receive_from(slot, SIP)?.ok_or_else(cut).map(drop)
    }

    /// In each of `rounds` rounds, opens `PARALLEL` connections for one round trip each, and closes
    /// them when all answers have arrived. Calls `settle` after each step; returns the number of
    /// connections.
    pub(crate) fn short_in_lock_step(
        &mut self,
        rounds: u64,
        closer: Closer,
        settle: impl Fn() -> io::Result<()>,
    ) -> io::Result<u64> {
        for _ in 0..rounds {
            self.connections.resize_with(PARALLEL, || None);
            for slot in 0..PARALLEL {
                self.open(slot)?;
                self.send_message(slot)?;
            }
            self.await_all(|load, slot| {
                let finished = load.finished(slot, closer)?;
                if finished && closer == Closer::Server {
                    // Dropped, or its end would be reported repeatedly.
                    load.connections[slot] = None;
                }
                Ok(finished)
            })?;
            settle()?;
            self.connections.clear();
            settle()?;
        }
        Ok(rounds * PARALLEL as u64)
    }

    /// Waits until `done` has returned true for every connection.
    fn await_all(
        &mut self,
        mut done: impl FnMut(&mut Load, usize) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut out = self.connections.len();
        let mut events = Vec::with_capacity(1024);
        while out > 0 {
            self.waiting.wait(&mut events)?;
            for event in events.drain(..) {
                out -= usize::from(done(self, event.data.u64() as usize)?);
            }
        }
        Ok(())
    }

    /// Streams on every connection until `deadline`, then awaits the bytes in flight; returns the
    /// number of bytes received.
    pub(crate) fn bulk(&mut self, deadline: Instant) -> io::Result<u64> {
        let mut echoed = 0;
        let mut events = Vec::with_capacity(16);
        loop {
            let open = Instant::now() < deadline;
            let mut moved = 0;
            let mut under_way = 0;
            for slot in 0..self.connections.len() {
                let sent = if open { self.send_stream(slot, WINDOW)? } else { 0 };
                let received = self.receive_from(slot, WINDOW)?.ok_or_else(cut)?;
                echoed += received as u64;
                moved += sent + received;
                let connection = open_in(&mut self.connections, slot);
                under_way += connection.sent - connection.received;
            }
            if !open && under_way == 0 {
                return Ok(echoed);
            }
            if moved == 0 {
                // As bytes in flight arrive, more can be sent.
                self.waiting.wait(&mut events)?;
                events.clear();
            }
        }
    }

    /// Opens connections, `PARALLEL` at a time, for one round trip each, until `enough` returns
    /// true for their number; returns that number.
    pub(crate) fn short(
        &mut self,
        closer: Closer,
        mut enough: impl FnMut(u64) -> bool,
    ) -> io::Result<u64> {
        self.connections.clear();
        self.connections.resize_with(PARALLEL, || None);
        let mut begun = 0;
        let mut out = 0;
        for slot in 0..PARALLEL {
            out += u64::from(self.begin(slot, &mut begun, &mut enough)?);
        }
        let mut events = Vec::with_capacity(1024);
        while out > 0 {
            self.waiting.wait(&mut events)?;
            for event in events.drain(..) {
                let slot = event.data.u64() as usize;
                if self.finished(slot, closer)? {
                    self.connections[slot] = None;
                    out -= u64::from(!self.begin(slot, &mut begun, &mut enough)?);
                }
            }
        }
        Ok(begun)
    }

    fn begin(
        &mut self,
        slot: usize,
        begun: &mut u64,
        enough: &mut impl FnMut(u64) -> bool,
    ) -> io::Result<bool> {
        if enough(*begun) {
            return Ok(false);
        }
        *begun += 1;
        self.open(slot)?;
        self.send_message(slot)?;
        Ok(true)
    }

    /// True when a short connection's answer has arrived and, if the server is the closer, the
    /// server has closed.
    fn finished(&mut self, slot: usize, closer: Closer) -> io::Result<bool> {
        match self.receive_from(slot, WINDOW)? {
            None if open_in(&mut self.connections, slot).received < MESSAGE => Err(cut()),
            None if closer == Closer::Client => Err(cut()),
            None => Ok(true),
            Some(_) if closer == Closer::Server => Ok(false),
            Some(_) => Ok(open_in(&mut self.connections, slot).received == MESSAGE),
        }
    }

    fn open(&mut self, slot: usize) -> io::Result<()> {
        let mut stream = connect(self.server)?;
        let mut far = self.behind.as_ref().map(accept).transpose()?;
        if let Some(far) = far.as_mut().filter(|_| slot % 2 == 1) {
            mem::swap(far, &mut stream);
        }
        let reader = far.as_ref().unwrap_or(&stream);
        self.waiting.add(reader, slot)?;
        self.opened += 1;
        let start = match self.lines {
            true => self.opened * 1031 * MESSAGE % self.period(),
            false => self.opened * 104_729 % self.period(),
        };
        self.connections[slot] = Some(Connection { stream, far, start, sent: 0, received: 0 });
        Ok(())
    }

    fn period(&self) -> usize {
        self.block.len() / 2
    }

    fn send_message(&mut self, slot: usize) -> io::Result<()> {
        let period = self.period();
        let connection = open_in(&mut self.connections, slot);
        let at = (connection.start + connection.sent) % period;
        connection.sent += MESSAGE;
        send_all(&connection.stream, &self.block[at..at + MESSAGE])
    }

    /// Sends as much as the window and the kernel allow; returns the number of bytes.
    fn send_stream(&mut self, slot: usize, window: usize) -> io::Result<usize> {
        let period = self.period();
        let connection = open_in(&mut self.connections, slot);
        let room = (window - (connection.sent - connection.received)).min(WINDOW);
        if room == 0 {
            return Ok(0);
        }
        let at = (connection.start + connection.sent) % period;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&connection.stream, &self.block[at..at + room], flags) {
            Ok(length) => {
                connection.sent += length;
                Ok(length)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives and checks available bytes, at most `most` and a window; returns their number,
    /// `None` at the end of the stream.
    fn receive_from(&mut self, slot: usize, most: usize) -> io::Result<Option<usize>> {
        let connection = open_in(&mut self.connections, slot);
        let reader = connection.far.as_ref().unwrap_or(&connection.stream);
        let data = match receive_some(reader, &mut self.buffer[..most])? {
            None => return Ok(None),
            Some(data) => data,
        };
        let length = data.len();
        let at = (connection.start + connection.received) % (self.block.len() / 2);
        connection.received += length;
        if connection.received > connection.sent {
            return Err(wrong("more bytes came back than were sent"));
        }
        if data != &self.block[at..at + length] {
            return Err(wrong("other bytes came back than were sent"));
        }
        Ok(Some(length))
    }

    /// Receives available bytes; true when every byte sent has been received.
    fn answered(&mut self, slot: usize) -> io::Result<bool> {
        self.receive_from(slot, WINDOW)?.ok_or_else(cut)?;
        let connection = open_in(&mut self.connections, slot);
        Ok(connection.received == connection.sent)
    }
}

impl Clients for Load {
    /// Slow readers are not part of the measured load.
    fn count(&self) -> usize {
        self.connections.len() - self.slow
    }

    fn send(&mut self, slot: usize, requests: usize) -> io::Result<()> {
        (0..requests).try_for_each(|_| self.send_message(slot))
    }

    fn receive(&mut self, slot: usize) -> io::Result<usize> {
        let is_answered = self.answered(slot)?;
        self.answers += usize::from(is_answered);
        if self.slow > 0 && self.answers >= self.count() {
            self.answers = 0;
            self.slow_ones().try_for_each(|slot| self.sip(slot))?;
        }
        Ok(usize::from(is_answered))
    }

    fn waiting(&self) -> &Waiting {
        &self.waiting
    }
}

/// Accepts the relay's connection for the one just opened.
fn accept(behind: &TcpListener) -> io::Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        match behind.accept() {
            Ok((stream, _)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                interrupt::check()?;
                pause(Duration::from_micros(50));
            }
            Err(error) => return Err(error),
        }
    }
    Err(stalled())
}

fn open_in(connections: &mut [Option<Connection>], slot: usize) -> &mut Connection {
    connections[slot].as_mut().expect("a slot is used while its connection is open")
}

/// A random block, twice, so that a window never wraps.
fn block(lines: bool) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period = if lines { PERIOD_OF_LINES } else { PERIOD };
    let mut block: Vec<u8> = (0..period).map(|_| random_byte(&mut state)).collect();
    for line in block.chunks_exact_mut(MESSAGE).filter(|_| lines) {
        line.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        line[MESSAGE - 2..].copy_from_slice(b"\r\n");
    }
    block.extend_from_within(..);
    block
}

fn random_byte(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}
