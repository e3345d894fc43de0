//! [`Streams`]: the open streams, and the last closed ones. RFC 9113, 5.1.
//!
//! Contract: 175c.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::MAX_STREAM;
use crate::Fields;
use crate::window::{ReceiveWindow, SendWindow};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    pub(super) unsent: Unsent,
    /// The stream has a place in `Connection::turns`.
    pub(super) has_turn: bool,
    /// The stream's producer waits for `Event::Writable`.
    pub(super) is_paused: bool,
}

impl Stream {
    /// The bytes that the stream may take of the connection's window: the peer may still send them, or
    /// the user has them.
    pub(super) fn claim(&self) -> i64 {
        match self.inbound {
            Inbound::Awaited(_) | Inbound::Open(_) => self.receive.size(),
            Inbound::Ended => self.receive.held(),
        }
    }
}

/// This end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// The peer's message on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// A response without its final head.
    Awaited(Method),
    /// With the rest of its Content-Length.
    Open(Option<u64>),
    Ended,
}

/// The method of a request, as far as it decides about the body of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// The response has no body, and the length of another one: RFC 9110, 9.3.2.
    Head,
    Other,
}

/// Our message on a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outbound {
    /// A response without its head.
    Awaited,
    Begun,
    /// The message ends after the unsent bytes, perhaps with trailers.
    Ending(Option<Fields>),
    Ended,
}

/// Bytes that wait for their windows or their turn.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Unsent {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        self.pieces.push_back(piece);
    }

    /// Moves the first bytes, which are there, to `out`.
    pub(super) fn take(&mut self, mut count: usize, out: &mut Vec<u8>) {
        self.length -= count;
        while count > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let part = count.min(piece.len());
            out.extend_from_slice(piece.get(..part).unwrap_or_default());
            piece.advance(part);
            count -= part;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

/// How a stream was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// By the ends of both sides, or by the peer's reset: no frame may follow.
    Ended,
    /// By our reset: frames may be on their way.
    Reset,
}

/// The state of a stream's number.
pub(super) enum NumberStage<'a> {
    Idle,
    Open(&'a mut Stream),
    /// Our reset closed it, it is beyond a last GOAWAY, or a client closed it long ago.
    Ignored,
    /// By the ends of both sides, or by the peer's reset.
    Ended,
    /// Skipped by the client, or closed long ago by its server.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Streams {
    pub(super) role: Role,
    /// In the order of their numbers.
    open: VecDeque<Stream>,
    closed: VecDeque<(u32, Closing)>,
    max_closed: usize,
    /// The highest number that the client used.
    last: u32,
    /// The highest number that a client may use, according to its server's GOAWAY.
    max: u32,
}

/// Closed streams that are remembered beyond those that may be open or refused.
const REMEMBERED: usize = 100;

impl Streams {
    pub(super) fn new(role: Role, max_streams: u32, max_resets: u32) -> Streams {
        let max_closed = REMEMBERED + max_streams as usize + max_resets as usize;
        Streams {
            role,
            open: VecDeque::new(),
            closed: VecDeque::new(),
            max_closed,
            last: 0,
            max: u32::MAX,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Law 9.
    #[inline]
    pub(super) fn check(&self) {
        debug_assert!(self.closed.len() <= self.max_closed, "law 9: closed streams");
    }

    pub(super) fn set_last(&mut self, id: u32) {
        self.last = id;
    }

    #[inline]
    fn position(&self, id: u32) -> Option<usize> {
        match self.open.back() {
            Some(last) if last.id == id => Some(self.open.len() - 1),
            _ => self.open.binary_search_by_key(&id, |stream| stream.id).ok(),
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        self.open.get(self.position(id)?)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        let at = self.position(id)?;
        self.open.get_mut(at)
    }

    pub(super) fn stage(&mut self, id: u32) -> NumberStage<'_> {
        if id > self.last {
            return if id > self.max { NumberStage::Ignored } else { NumberStage::Idle };
        }
        if let Some(at) = self.position(id)
            && let Some(stream) = self.open.get_mut(at)
        {
            return NumberStage::Open(stream);
        }
        match self.closed.iter().rev().find(|(closed, _)| *closed == id) {
            Some((_, Closing::Reset)) => NumberStage::Ignored,
            Some((_, Closing::Ended)) => NumberStage::Ended,
            // A client skips none of its numbers.
            None if self.role == Role::Client && !id.is_multiple_of(2) => NumberStage::Ignored,
            None => NumberStage::Unknown,
        }
    }

    /// Ignores the streams that the client has not used yet. Returns the last one that it used.
    pub(super) fn refuse_new(&mut self) -> u32 {
        self.max = self.last;
        self.last
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.open.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.open.iter_mut()
    }

    /// Adds the stream with the highest number.
    pub(super) fn open(&mut self, stream: Stream) {
        self.open.push_back(stream);
    }

    /// Removes a stream, if it is open, and remembers its end.
    pub(super) fn close(&mut self, id: u32, closing: Closing) -> Option<Stream> {
        if self.closed.len() >= self.max_closed {
            self.closed.pop_front();
        }
        self.closed.push_back((id, closing));
        self.open.remove(self.position(id)?)
    }

    /// Returns the number of a client's next stream; `None` if they are used up: RFC 9113, 5.1.1.
    pub(super) fn next(&self) -> Option<u32> {
        let next = if self.last == 0 { 1 } else { self.last + 2 };
        (next <= MAX_STREAM).then_some(next)
    }

    /// Returns the open streams beyond a number.
    pub(super) fn beyond(&self, last: u32) -> Vec<u32> {
        self.open.iter().map(|stream| stream.id).filter(|id| *id > last).collect()
    }

    /// Removes all streams.
    pub(super) fn clear(&mut self) {
        self.open = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_client_are_odd_and_end() {
        let mut streams = Streams::new(Role::Client, 1, 1);
        assert_eq!(streams.next(), Some(1));
        streams.set_last(MAX_STREAM - 2);
        assert_eq!(streams.next(), Some(MAX_STREAM));
        streams.set_last(MAX_STREAM);
        assert_eq!(streams.next(), None);
    }
}
