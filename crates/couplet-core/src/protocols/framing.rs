//! [`Framer`]: a grammar, plus the behaviour that all framers share: buffering partial messages,
//! enforcing the limit, stopping at a pause, discarding after a close.
//!
//! A grammar gets bytes and delivers the first message in them, if it is complete. This module
//! decides which bytes it gets: slices of the received chunk where possible, the contents of the
//! [`FrameBuffer`] if a message was split.
//!
//! Contract: 50a, 51d, 51e, 84, 165, 166, 169, 169a.

use super::error::FramingError;
use crate::Transport;
use crate::hooks;
use crate::layers::PlaintextAfterUpgrade;

/// A user-defined framing: finds the messages in a stream, with the guarantees of
/// [all framers](super#framing).
///
/// You write [`step`](Self::step), which delivers one message, and forward two callbacks of your
/// [`Protocol`](crate::Protocol): `data_received` to [`frame`](Self::frame), and
/// `reading_resumed` to [`frame_held`](Self::frame_held). If a message may
/// [upgrade](Transport::upgrade) the connection, `upgraded` passes on the held bytes
/// ([`FrameBuffer::give_back`]).
///
/// ```
/// use couplet::protocols::{FrameBuffer, Framer};
/// use couplet::testing::{every_split, hold};
/// use couplet::{Protocol, Transport};
///
/// /// Numbers words of three bytes.
/// #[derive(Default)]
/// struct Threes {
///     buffer: FrameBuffer,
///     words: u32,
/// }
///
/// impl Framer for Threes {
///     type Transport = Transport;
///
///     fn step(&mut self, transport: &Transport, bytes: &[u8]) -> Option<usize> {
///         let word = bytes.get(..3)?;
///         self.words += 1;
///         transport.write(format!("{}: {}\n", self.words, word.escape_ascii()));
///         Some(3)
///     }
///     fn buffer(&mut self) -> &mut FrameBuffer {
///         &mut self.buffer
///     }
/// }
///
/// impl Protocol for Threes {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         self.frame(transport, data);
///     }
///     fn reading_resumed(&mut self, transport: &Transport) {
///         self.frame_held(transport);
///     }
/// }
///
/// every_split(b"onetwoth", |pieces| {
///     let mut held = hold(Threes::default());
///     for piece in pieces {
///         held.push(piece);
///     }
///     assert_eq!(held.wire.take(), b"1: one\n2: two\n");
/// });
/// ```
///
/// `examples/resp` implements part of Redis's protocol this way.
pub trait Framer: Sized {
    /// The transport that `step` gets: a [`Transport`], or a handle around one that frames output,
    /// such as a [`LineTransport`](super::LineTransport).
    type Transport: AsRef<Transport>;

    /// Delivers the first message in `bytes` and returns its length including framing, or `None` if
    /// `bytes` holds no complete message. `bytes` has at least one byte and at most
    /// [`limit`](Self::limit).
    ///
    /// On a grammar violation, [fails](Transport::fail) the transport and returns `None`. Never
    /// called while paused or closing, so it may deliver a message without checking for either.
    fn step(&mut self, transport: &Self::Transport, bytes: &[u8]) -> Option<usize>;

    /// This framer's buffer for partial messages.
    fn buffer(&mut self) -> &mut FrameBuffer;

    /// The maximum message length in bytes, including framing: 65 536 by default. If a peer sends
    /// more without completing a message, its connection fails with
    /// [`FramingError::MessageTooLong`], and nothing beyond the limit is buffered.
    #[inline]
    fn limit(&self) -> usize {
        MESSAGE_LIMIT
    }

    /// The number of bytes of `more` to append to `held`, an incomplete message, before the next
    /// step; more than `more.len()` if all of `more` can't complete the message.
    ///
    /// The default is all of `more`, which is always correct. A grammar that knows the length of
    /// its message can return it here, which saves a step for each piece of a long message.
    fn needs(&self, held: &[u8], more: &[u8]) -> usize {
        let _ = held;
        more.len()
    }

    /// Whether the connection may move to another process now: a new framer gets the bytes of
    /// [`buffer`](Self::buffer), and no other state. No while a message is delivered in parts.
    fn may_move(&self) -> bool {
        true
    }

    /// Delivers the messages that `data` completes. Call it from `data_received`.
    #[inline]
    fn frame(&mut self, transport: &Self::Transport, data: &[u8]) {
        let rest = if self.buffer().is_empty() { data } else { complete(self, transport, data) };
        // INVARIANT: if the buffer still holds bytes and `rest` is not empty, no data is wanted
        // now.
        let taken = run(self, transport, rest);
        if taken < rest.len() {
            hold(self, transport, &rest[taken..]);
        }
    }

    /// Delivers the messages that a pause held back. Call it from `reading_resumed`, and when the
    /// grammar changed outside a step, so that it parses the held bytes differently.
    fn frame_held(&mut self, transport: &Self::Transport) {
        self.buffer().whole = true;
        complete(self, transport, &[]);
    }
}

/// The default maximum message length in bytes.
const MESSAGE_LIMIT: usize = 65_536;

/// The bytes that a [`Framer`] has received but not delivered: the start of a message and, while
/// reading is paused, the remaining bytes of the chunk. Between messages it is empty and owns no
/// memory.
///
/// Law 9: bounded by the message limit, plus one chunk while paused. Raw bytes that a protocol
/// returns and wants again in raw mode are the protocol's responsibility to bound.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    /// Bytes at the front that have already been delivered.
    start: usize,
    /// Whether it may hold complete messages, whose delivery a pause stopped.
    whole: bool,
}

impl FrameBuffer {
    /// Moves the held bytes to the end of `unread`. Call it from
    /// [`upgraded`](crate::ProtocolExtension::upgraded), so that the next protocol gets them.
    pub fn give_back(&mut self, unread: &mut Vec<u8>) {
        unread.extend_from_slice(self.as_slice());
        *self = FrameBuffer::default();
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Appends bytes. Capacity doubles each time, capped at `bound` if that suffices: nothing is
    /// allocated for announced bytes before they arrive.
    fn extend(&mut self, more: &[u8], bound: usize) {
        if self.bytes.capacity() - self.bytes.len() < more.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
            let len = self.bytes.len() + more.len();
            let room = (2 * self.bytes.capacity()).min(bound).max(len);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
        debug_assert!(self.start < self.bytes.len(), "nothing is held");
    }
}

/// Delivers the complete messages in `bytes` while they are wanted; returns the bytes consumed.
#[inline]
fn run<F: Framer>(framer: &mut F, transport: &F::Transport, bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() && transport.as_ref().wants_data() {
        let limit = framer.limit().max(1);
        let shown = &bytes[at..];
        let shown = &shown[..shown.len().min(limit)];
        match framer.step(transport, shown) {
            Some(taken) => {
                debug_assert!(taken <= shown.len(), "a step consumed more than its input");
                at += taken;
            }
            None => {
                if shown.len() == limit {
                    reject_oversized(transport.as_ref(), limit);
                }
                break;
            }
        }
    }
    at
}

/// Handles `limit` bytes without a complete message: fails the transport, unless the grammar has
/// already failed or paused it.
#[cold]
fn reject_oversized(transport: &Transport, limit: usize) {
    if transport.wants_data() {
        transport.fail(FramingError::MessageTooLong { limit });
    }
}

/// Completes and delivers the held message with as much of `data` as it needs; returns the
/// remaining `data`.
#[cold]
fn complete<'a, F: Framer>(
    framer: &mut F,
    transport: &F::Transport,
    mut data: &'a [u8],
) -> &'a [u8] {
    let plain = transport.as_ref();
    let mut held = std::mem::take(framer.buffer());
    if std::mem::take(&mut held.whole) {
        held.start += run(framer, transport, held.as_slice());
    }
    while !held.is_empty() && plain.wants_data() {
        let limit = framer.limit();
        // A message over the limit is passed up to the limit, and then rejected.
        let room = limit.saturating_sub(held.as_slice().len());
        let needs = framer.needs(held.as_slice(), data).min(room).max(1);
        let (now, later) = data.split_at(needs.min(data.len()));
        held.extend(now, limit);
        data = later;
        if needs > now.len() {
            break;
        }
        let taken = run(framer, transport, held.as_slice());
        held.start += taken;
        if taken == 0 && data.is_empty() {
            break;
        }
    }
    if hooks::is_starting_layer(plain) && !held.is_empty() {
        plain.fail(PlaintextAfterUpgrade);
    }
    // An empty buffer is freed.
    hooks::set_in_message(plain, !held.is_empty() || !framer.may_move());
    if !held.is_empty() && !plain.is_closing() {
        held.whole = !plain.wants_data();
        *framer.buffer() = held;
    }
    data
}

/// Buffers undelivered bytes, unless the connection is closing.
#[cold]
pub(super) fn hold<F: Framer>(framer: &mut F, transport: &F::Transport, rest: &[u8]) {
    let plain = transport.as_ref();
    if plain.is_closing() {
        *framer.buffer() = FrameBuffer::default();
        return;
    }
    if hooks::is_starting_layer(plain) {
        // Plaintext after the message that requested encryption.
        return plain.fail(PlaintextAfterUpgrade);
    }
    hooks::set_in_message(plain, true);
    let limit = framer.limit();
    let buffer = framer.buffer();
    buffer.extend(rest, limit);
    buffer.whole = !plain.wants_data();
}

/// The callbacks that a framer forwards unchanged to the wrapped protocol, inside an
/// `impl Protocol`.
macro_rules! forward_callbacks {
    () => {
        fn connection_made(&mut self, transport: &Transport) {
            let transport = self.transport(transport);
            self.protocol.connection_made(&transport);
        }

        fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
            let transport = self.transport(transport);
            self.protocol.connection_lost(&transport, reason);
        }

        fn read_closed(&mut self, transport: &Transport) {
            let transport = self.transport(transport);
            self.protocol.read_closed(&transport);
        }

        fn write_closed(&mut self, transport: &Transport) {
            let transport = self.transport(transport);
            self.protocol.write_closed(&transport);
        }

        fn draining(&mut self, transport: &Transport) {
            let transport = self.transport(transport);
            self.protocol.draining(&transport);
        }

        fn extension(&mut self) -> Option<&mut dyn crate::ProtocolExtension> {
            Some(self)
        }
    };
}

/// The callbacks of the extension of a framer, inside an `impl ProtocolExtension`.
macro_rules! forward_extension {
    () => {
        fn handshake_completed(&mut self, transport: &Transport) {
            let transport = self.transport(transport);
            self.protocol.handshake_completed(&transport);
        }

        #[cfg(unix)]
        fn descriptor_received(&mut self, transport: &Transport, descriptor: std::os::fd::OwnedFd) {
            let transport = self.transport(transport);
            self.protocol.descriptor_received(&transport, descriptor);
        }

        fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
            if wanted == TypeId::of::<P>() {
                return Some(&mut self.protocol);
            }
            self.protocol.find(wanted)
        }

        fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
            self.buffer().give_back(unread);
            next
        }

        fn hand_over(&mut self) -> Option<crate::HandOver> {
            if !self.may_move() {
                return None;
            }
            let said = self.protocol.hand_over()?;
            let mut held = Vec::new();
            self.buffer().give_back(&mut held);
            Some(said.with_unread(held))
        }
    };
}

/// The callbacks in which a framer delivers messages, inside an `impl Protocol`.
macro_rules! frame_callbacks {
    () => {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            let transport = self.transport(transport);
            self.frame(&transport, data);
        }

        fn reading_resumed(&mut self, transport: &Transport) {
            let transport = self.transport(transport);
            self.protocol.reading_resumed(&transport);
            self.frame_held(&transport);
        }
    };
}
