//! TLS for a raw peer, in the suite and the random lives: the peer's bytes pass through a layer of
//! the library, driven by hand.

use std::ops::ControlFlow::Continue;
use std::rc::Rc;
use std::time::Instant;

use couplet::Reason;
use couplet::layers::tls::Tls;
use couplet::layers::{Layers, Outbox, Up};
use couplet::testing::Wire;

/// Maximum bytes queued during the handshake.
const EARLY: usize = 64 * 1024;

/// How a connection has ended at its raw peer, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saw {
    Open,
    Fin,
    Reset,
}

/// The socket of a raw peer.
pub trait Raw {
    /// Sends as much as fits in the buffers; `None` if the connection is broken, which a socket may
    /// report only once.
    fn send(&self, data: &[u8]) -> Option<usize>;

    /// Shuts down the write side.
    fn fin(&self);

    /// Reads at most `n` bytes, once.
    fn take(&self, n: usize) -> (Vec<u8>, Saw);
}

impl Raw for Wire {
    fn send(&self, data: &[u8]) -> Option<usize> {
        self.try_push(data).ok()
    }

    fn fin(&self) {
        Wire::fin(self);
    }

    fn take(&self, n: usize) -> (Vec<u8>, Saw) {
        let bytes = self.take_most(n);
        let saw = match (bytes.is_empty(), self.saw_reset(), self.saw_fin()) {
            (true, true, _) => Saw::Reset,
            (true, false, true) => Saw::Fin,
            _ => Saw::Open,
        };
        (bytes, saw)
    }
}

/// TLS on one connection of a raw peer.
pub struct Sealed {
    layers: Layers,
    above: Outbox,
    /// Plaintext that arrived before the peer took it.
    plain: Vec<u8>,
    now: Instant,
    /// A close_notify and a FIN follow the unsent bytes.
    ends: bool,
    /// The other end's close_notify arrived.
    said_goodbye: bool,
    failed: Option<Reason>,
    /// The end of the stream, if the handshake or a write has seen it.
    saw: Saw,
}

impl Sealed {
    pub fn new(tls: Tls, now: Instant) -> Sealed {
        let layers = Layers::new(tls, &Rc::default());
        let (above, plain) = (Outbox::new(Rc::default()), Vec::new());
        let (ends, said_goodbye, failed, saw) = (false, false, None, Saw::Open);
        Sealed { layers, above, plain, now, ends, said_goodbye, failed, saw }
    }

    /// Whether the handshake is complete.
    pub fn is_open(&self) -> bool {
        self.layers.is_open()
    }

    /// Sends the unsent bytes, and continues the handshake.
    pub fn pump(&mut self, raw: &impl Raw) {
        self.flush(raw);
        while !self.layers.is_open() && !self.said_goodbye && self.failed.is_none() {
            let (bytes, saw) = raw.take(64 * 1024);
            self.rise(&bytes);
            self.flush(raw);
            if self.saw == Saw::Open {
                self.saw = saw;
            }
            if bytes.is_empty() {
                break;
            }
        }
    }

    /// Sends as much as fits in the buffers, and queues at most one more record.
    pub fn send(&mut self, raw: &impl Raw, data: &[u8]) -> usize {
        if !self.layers.is_open() {
            // Queued behind the handshake.
            let room = EARLY.saturating_sub(self.above.len()).min(data.len());
            self.above.extend(&data[..room]);
            return room;
        }
        let mut sent = 0;
        for piece in data.chunks(16 * 1024) {
            self.flush(raw);
            if !self.is_flushed() {
                break;
            }
            self.above.extend(piece);
            sent += piece.len();
        }
        self.flush(raw);
        sent
    }

    /// Takes the plaintext of `n` bytes of the wire, or of more bytes while these contain none.
    pub fn take(&mut self, raw: &impl Raw, n: usize) -> (Vec<u8>, Saw) {
        loop {
            let (bytes, saw) = raw.take(n);
            self.rise(&bytes);
            self.flush(raw);
            if !self.plain.is_empty() {
                return (std::mem::take(&mut self.plain), Saw::Open);
            }
            if bytes.is_empty() {
                return (Vec::new(), if self.saw == Saw::Open { saw } else { self.saw });
            }
        }
    }

    /// The number of bytes that arrived with the handshake and were not taken.
    pub fn waiting(&self) -> usize {
        self.plain.len()
    }

    /// Sends a close_notify and a FIN after the unsent bytes.
    pub fn fin(&mut self, raw: &impl Raw) {
        self.ends = true;
        self.flush(raw);
    }

    /// Sends a close_notify after the unsent bytes, and keeps the socket open.
    pub fn say_goodbye(&mut self, raw: &impl Raw) {
        self.flush(raw);
        self.layers.close(&mut self.above, self.now);
        self.flush(raw);
    }

    /// Whether everything was sent.
    pub fn is_flushed(&mut self) -> bool {
        self.above.is_empty() && self.layers.held() == 0
    }

    /// Whether the other end's close_notify was taken.
    pub fn heard_goodbye(&self) -> bool {
        self.said_goodbye
    }

    /// The error in the other end's TLS, if any.
    pub fn failure(&self) -> Option<&Reason> {
        self.failed.as_ref()
    }

    fn rise(&mut self, bytes: &[u8]) {
        let Sealed { layers, plain, said_goodbye, failed, .. } = self;
        let _ = layers.feed(bytes, self.now, |up| {
            match up {
                Up::Data(data) => plain.extend_from_slice(data),
                Up::Closed => *said_goodbye = true,
                Up::Failed(reason) => *failed = Some(reason),
                _ => {}
            }
            Continue(())
        });
    }

    fn flush(&mut self, raw: &impl Raw) {
        loop {
            match self.ends && self.layers.is_open() {
                true => drop(self.layers.close(&mut self.above, self.now)),
                false => self.layers.down(&mut self.above, self.now),
            }
            let bottom = self.layers.bottom();
            let sent = if bottom.is_empty() { Some(0) } else { raw.send(bottom.first()) };
            if sent.is_none() && self.saw == Saw::Open {
                self.saw = Saw::Reset;
            }
            let sent = sent.unwrap_or(0);
            bottom.advance(sent);
            if sent == 0 {
                break;
            }
        }
        if self.ends && self.layers.is_open() && self.is_flushed() {
            raw.fin();
        }
    }
}
