//! What all framers share: keeping what is cut, stopping at a pause, dropping at a close.
//!
//! A [`Framer`] knows its grammar. It is shown bytes and hands on the first message in them, if
//! they hold a whole one. Here is decided which bytes it is shown: slices of what was received
//! wherever that is possible, and what was [`Held`] where a message was cut.

use std::ops::Deref;

use crate::Transport;

/// A grammar, and the protocol that is given its messages.
pub(super) trait Framer {
    /// What the protocol is shown as its transport.
    type Transport: Deref<Target = Transport>;

    /// Hands on the first message of `bytes`, which are at least one, and says how many bytes it
    /// took. `None` where `bytes` hold no whole message, or break the grammar: then the transport
    /// was failed.
    fn step(&mut self, transport: &Self::Transport, bytes: &[u8]) -> Option<usize>;

    /// How many bytes of `more` make it worth to show `held` with them to `step`: more than `more`
    /// has, if all of it is not enough.
    fn needs(&self, held: &[u8], more: &[u8]) -> usize;

    /// Bytes that an unfinished message may have: what is held grows to that many and no further.
    fn bound(&self, held: &[u8]) -> usize;

    fn held(&mut self) -> &mut Held;
}

/// What came and was not handed on: the beginning of a message; while reading is paused, the rest
/// of what was received. Law 9: bounded by the limit of a message, plus one chunk while paused. Raw
/// bytes that a protocol gives back and wants raw again are its own to bound.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// Bytes of it that were handed on meanwhile.
    start: usize,
    /// It may hold whole messages: a pause stopped their delivery.
    whole: bool,
}

impl Held {
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

/// Bytes came.
#[inline]
pub(super) fn feed<F: Framer>(framer: &mut F, transport: &F::Transport, data: &[u8]) {
    let rest = if framer.held().is_empty() { data } else { complete(framer, transport, data) };
    // INVARIANT: bytes are left while something is held only if none are wanted now.
    let taken = run(framer, transport, rest);
    if taken < rest.len() {
        hold(framer, transport, &rest[taken..]);
    }
}

/// Reading was resumed, or the grammar was changed: hands on what is held.
pub(super) fn go_on<F: Framer>(framer: &mut F, transport: &F::Transport) {
    framer.held().whole = true;
    complete(framer, transport, &[]);
}

/// Hands on the whole messages of `bytes` as long as they are wanted; how many bytes that took.
#[inline]
fn run<F: Framer>(framer: &mut F, transport: &F::Transport, bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() && transport.wants_data() {
        match framer.step(transport, &bytes[at..]) {
            Some(taken) => at += taken,
            None => break,
        }
    }
    at
}

/// Hands on what is held, completed with as much of `data` as it needs; gives the rest of `data`.
#[cold]
fn complete<'a, F: Framer>(
    framer: &mut F,
    transport: &F::Transport,
    mut data: &'a [u8],
) -> &'a [u8] {
    let mut held = std::mem::take(framer.held());
    if std::mem::take(&mut held.whole) {
        held.start += run(framer, transport, held.as_slice());
    }
    while !held.is_empty() && transport.wants_data() {
        let needs = framer.needs(held.as_slice(), data).max(1);
        let (now, later) = data.split_at(needs.min(data.len()));
        let bound = framer.bound(held.as_slice());
        held.extend(now, bound);
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
    if !held.is_empty() && !transport.is_closing() {
        held.whole = !transport.wants_data();
        *framer.held() = held;
    }
    data
}

/// Keeps what could not be handed on, unless nobody is going to want it.
#[cold]
pub(super) fn hold<F: Framer>(framer: &mut F, transport: &F::Transport, rest: &[u8]) {
    if transport.is_closing() {
        *framer.held() = Held::default();
        return;
    }
    let mut held = std::mem::take(framer.held());
    let bound = framer.bound(if held.is_empty() { rest } else { held.as_slice() });
    held.extend(rest, bound);
    held.whole |= !transport.wants_data();
    *framer.held() = held;
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
