//! [`Streams`]: the open streams of a connection. RFC 9113, 5.1.
//!
//! Contract: 175c.

use std::collections::VecDeque;
use std::ops::Range;

use couplet_defer::bounded::Bounded;
use couplet_http2::window::{ReceiveWindow, SendWindow};

/// Identifies an open stream of a connection; reused once the stream is closed.
pub(super) type Key = usize;

/// An open stream: at least one side may still send.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    pub(super) request: RequestState,
    /// The declared bytes of the request's body that have not arrived.
    pub(super) missing: Option<u64>,
    pub(super) response: ResponseState,
}

impl Stream {
    /// The bytes that the stream may take of the connection's window: the client may still send them,
    /// or they are unread.
    pub(super) fn claim(&self) -> i64 {
        match self.request {
            RequestState::Open => self.receive.size(),
            RequestState::Unread => 0,
            RequestState::Ended => self.receive.held(),
        }
    }
}

/// The client's side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestState {
    Open,
    /// The body's reader was dropped.
    Unread,
    /// END_STREAM has arrived.
    Ended,
}

/// Our side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseState {
    Open,
    /// END_STREAM was sent.
    Ended,
}

/// State of a stream by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamStage {
    Idle,
    Open(Key),
    /// We reset it; the client may not know yet.
    Reset,
    Closed,
}

#[derive(Debug)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<Key>,
    /// The open streams, by number.
    order: VecDeque<(u32, Key)>,
    /// The highest number of a request.
    last: u32,
    reset: Bounded<VecDeque<u32>>,
}

impl Streams {
    /// Remembers enough of the streams that we reset: a client that does not know yet may still send
    /// on as many as may be open, and on those that were refused.
    pub(super) fn new(max_open: u32, max_refused: u32) -> Streams {
        Streams {
            slots: Vec::new(),
            free: Vec::new(),
            order: VecDeque::new(),
            last: 0,
            reset: Bounded::new(max_open as usize + max_refused as usize),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The highest number of a request, 0 before the first.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Records the number of a request; those below that were left out are closed.
    pub(super) fn set_last(&mut self, id: u32) {
        self.last = id;
    }

    pub(super) fn state(&self, id: u32) -> StreamStage {
        // Even numbers belong to a server's pushes.
        if id > self.last || id.is_multiple_of(2) {
            return StreamStage::Idle;
        }
        match self.order.binary_search_by_key(&id, |&(id, _)| id) {
            Ok(at) => StreamStage::Open(self.order[at].1),
            Err(_) if self.reset.contains(&id) => StreamStage::Reset,
            Err(_) => StreamStage::Closed,
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Stream> {
        self.slots.get(key)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Stream> {
        self.slots.get_mut(key)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Stream)> {
        self.slots.iter().enumerate().filter_map(|(key, stream)| Some((key, stream.as_ref()?)))
    }

    /// All keys of open streams, among others.
    pub(super) fn keys(&self) -> Range<Key> {
        0..self.slots.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }

    /// Adds a stream, whose number is the highest.
    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let key = self.free.pop().unwrap_or(self.slots.len());
        if key == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[key] = Some(stream);
        self.order.push_back((id, key));
        debug_assert!(self.order.len() <= self.reset.most(), "law 9");
        key
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Stream> {
        let stream = self.slots.get_mut(key)?.take()?;
        self.free.push(key);
        if let Ok(at) = self.order.binary_search_by_key(&stream.id, |&(id, _)| id) {
            self.order.remove(at);
        }
        Some(stream)
    }

    /// Remembers a stream that we reset.
    pub(super) fn remember(&mut self, id: u32) {
        if self.reset.is_full() {
            self.reset.edit().pop_front();
        }
        self.reset.edit().push_back(id);
    }

    /// Frees the memory of closed streams, if none is open.
    pub(super) fn free_memory(&mut self) {
        if self.is_empty() {
            (self.slots, self.free, self.order) = (Vec::new(), Vec::new(), VecDeque::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet_http2::window::INITIAL_WINDOW;

    fn stream(id: u32) -> Stream {
        Stream {
            id,
            send: SendWindow::new(INITIAL_WINDOW),
            receive: ReceiveWindow::new(INITIAL_WINDOW),
            request: RequestState::Open,
            missing: None,
            response: ResponseState::Open,
        }
    }

    #[test]
    fn states_follow_the_numbers() {
        let mut streams = Streams::new(10, 20);
        let mut add = |id| {
            streams.set_last(id);
            streams.insert(stream(id))
        };
        let keys = [1, 5, 9].map(&mut add);
        assert_eq!(streams.state(5), StreamStage::Open(keys[1]));
        assert_eq!(streams.remove(keys[1]).map(|it| it.id), Some(5));
        assert_eq!(
            [3, 5, 11].map(|id| streams.state(id)),
            [StreamStage::Closed, StreamStage::Closed, StreamStage::Idle]
        );
        streams.remember(5);
        assert_eq!((streams.state(5), streams.state(2)), (StreamStage::Reset, StreamStage::Idle));
        streams.set_last(11);
        assert_eq!(streams.insert(stream(11)), keys[1]);
        assert_eq!((streams.len(), streams.state(11)), (3, StreamStage::Open(keys[1])));
        for id in 0..1000 {
            streams.remember(2 * id + 1);
        }
        assert_eq!(streams.reset.len(), 30);
    }
}
