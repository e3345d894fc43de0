//! [`Framer`]: a grammar, and what all framers share: keeping what is cut, enforcing the limit,
//! stopping at a pause, dropping at a close.
//!
//! A grammar is shown bytes and hands on the first message in them, if they hold a whole one. Here
//! is decided which bytes it is shown: slices of what was received wherever that is possible, and
//! what is in the [`FrameBuffer`] where a message was cut.

use super::error::FramingError;
use crate::Transport;

/// A framing of your own: finds the messages in a stream, and keeps the promises that
/// [all framers](super#framing) keep.
///
/// You write [`step`](Self::step), which hands on one message, and pass two callbacks of your
/// [`Protocol`](crate::Protocol) on: `data_received` to [`frame`](Self::frame), and
/// `reading_resumed` to [`frame_held`](Self::frame_held).
///
/// ```
/// use couplet::protocols::{FrameBuffer, Framer};
/// use couplet::testing::{every_split, hold};
/// use couplet::{Protocol, Transport};
///
/// /// Adds up words of three bytes.
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
/// `examples/resp.rs` speaks a part of Redis's protocol this way.
pub trait Framer: Sized {
    /// What `step` gets as its transport: a [`Transport`], or a handle around one that knows how to
    /// frame, such as a [`LineTransport`](super::LineTransport).
    type Transport: AsRef<Transport>;

    /// Hands on the first message of `bytes` and returns its length, its framing included; `None`
    /// when `bytes` hold no whole message. There is at least one byte, and there are no more than
    /// [`limit`](Self::limit).
    ///
    /// On an offence against the grammar it [fails](Transport::fail) the transport, and returns
    /// `None`. No step follows a pause or a close, so a message may be handed on without asking for
    /// either.
    fn step(&mut self, transport: &Self::Transport, bytes: &[u8]) -> Option<usize>;

    /// The buffer that it owns, for what is cut.
    fn buffer(&mut self) -> &mut FrameBuffer;

    /// The most bytes that a message may have, its framing included: 65 536 unless you say
    /// otherwise. The connection of a peer that sends more without an end fails with
    /// [`FramingError::MessageTooLong`], and nothing beyond is kept.
    #[inline]
    fn limit(&self) -> usize {
        MESSAGE_LIMIT
    }

    /// How many bytes of `more` are to be copied behind `held`, which is no whole message, before
    /// the next step; more than `more` has, when all of it can't complete the message.
    ///
    /// Unless you say otherwise it is all of `more`, which is always right. A grammar that knows
    /// the length of its message tells it here, and is spared a step for each piece of a long one.
    fn needs(&self, held: &[u8], more: &[u8]) -> usize {
        let _ = held;
        more.len()
    }

    /// Hands on the messages that `data` completes: for `data_received`.
    #[inline]
    fn frame(&mut self, transport: &Self::Transport, data: &[u8]) {
        let rest = if self.buffer().is_empty() { data } else { complete(self, transport, data) };
        // INVARIANT: bytes are left while something is held only if none are wanted now.
        let taken = run(self, transport, rest);
        if taken < rest.len() {
            hold(self, transport, &rest[taken..]);
        }
    }

    /// Hands on the messages that a pause held back: for `reading_resumed`. It is called as well
    /// when the grammar has changed outside of a step, so that what is held means something else.
    fn frame_held(&mut self, transport: &Self::Transport) {
        self.buffer().whole = true;
        complete(self, transport, &[]);
    }
}

/// Bytes that a message may have unless its grammar says otherwise.
const MESSAGE_LIMIT: usize = 65_536;

/// What a [`Framer`] received and did not hand on: the beginning of a message; while reading is
/// paused, the rest of what was received. It is empty, and owns no memory, between messages.
///
/// Law 9: bounded by the limit of a message, plus one chunk while paused. Raw bytes that a protocol
/// gives back and wants raw again are its own to bound.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    /// Bytes of it that were handed on meanwhile.
    start: usize,
    /// It may hold whole messages: a pause stopped their delivery.
    whole: bool,
}

impl FrameBuffer {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Adds bytes. The room is doubled each time, but not over `bound` as long as that is enough:
    /// what a peer announces is not set aside before it comes.
    fn extend(&mut self, more: &[u8], bound: usize) {
        if self.bytes.capacity() - self.bytes.len() < more.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
            let len = self.bytes.len() + more.len();
            let room = (2 * self.bytes.capacity()).min(bound).max(len);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
    }
}

/// Hands on the whole messages of `bytes` as long as they are wanted; how many bytes that took.
#[inline]
fn run<F: Framer>(framer: &mut F, transport: &F::Transport, bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() && transport.as_ref().wants_data() {
        let limit = framer.limit().max(1);
        let shown = &bytes[at..];
        let shown = &shown[..shown.len().min(limit)];
        match framer.step(transport, shown) {
            Some(taken) => at += taken,
            None => {
                if shown.len() == limit {
                    exceed(transport.as_ref(), limit);
                }
                break;
            }
        }
    }
    at
}

/// So many bytes are no whole message: unless the grammar has failed or paused the transport.
#[cold]
fn exceed(transport: &Transport, limit: usize) {
    if transport.wants_data() {
        transport.fail(FramingError::MessageTooLong { limit });
    }
}

/// Hands on what is held, completed with as much of `data` as it needs; gives the rest of `data`.
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
        // What is longer than the limit is shown as long as that, and is refused.
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
    // What is handed on entirely leaves no buffer behind.
    if !held.is_empty() && !plain.is_closing() {
        held.whole = !plain.wants_data();
        *framer.buffer() = held;
    }
    data
}

/// Keeps what could not be handed on, unless nobody is going to want it.
#[cold]
pub(super) fn hold<F: Framer>(framer: &mut F, transport: &F::Transport, rest: &[u8]) {
    let plain = transport.as_ref();
    if plain.is_closing() {
        *framer.buffer() = FrameBuffer::default();
        return;
    }
    let limit = framer.limit();
    let buffer = framer.buffer();
    buffer.extend(rest, limit);
    buffer.whole = !plain.wants_data();
}

/// The callbacks of a framer that go straight to what it wraps, in an `impl Protocol`.
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

        fn handshake_completed(&mut self, transport: &Transport) {
            let transport = self.transport(transport);
            self.protocol.handshake_completed(&transport);
        }

        fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
            if wanted == TypeId::of::<P>() {
                return Some(&mut self.protocol);
            }
            self.protocol.find(wanted)
        }
    };
}
