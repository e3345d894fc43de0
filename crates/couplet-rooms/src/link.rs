//! [`Link`]: a connection that is in rooms, and the queues of its members.
//!
//! A message goes to the transport until that is full, and then into the member's queue, from which
//! it leaves when the transport has drained. All members of a connection wait for that together.
//!
//! Contract: 188, 190.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::rc::Rc;

use couplet_core::{Bytes, Transport};
use couplet_defer::bounded::Bounded;

use crate::event::MemberId;
use crate::options::{RoomOptions, WhenFull};

/// Messages with their numbers.
pub(crate) type Backlog = VecDeque<(u64, Bytes)>;

/// While a transport has at most this many bytes, a message is copied to it: faster than queueing a
/// reference, and little memory if the peer does not read.
const COPIED: usize = 4096;

/// The outcome of a message for one member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Sent or queued, or of no use to a connection that is closing.
    Done,
    /// The messages with these numbers are dropped.
    Dropped(Vec<u64>),
    /// The member is to be cut.
    Cut,
}

/// A connection that is in rooms.
pub(crate) struct Link {
    pub(crate) transport: Transport,
    /// Whether the transport was full, and reports when it has drained.
    awaits_room: Cell<bool>,
    /// The queues that are not empty. INVARIANT: while there are any, the transport reports when it
    /// has drained, or is closing.
    queues: RefCell<BTreeMap<MemberId, Queue>>,
    /// The member whose queue was served last.
    served: Cell<MemberId>,
}

struct Queue {
    /// Messages of the history, ahead of the others.
    missed: Backlog,
    messages: Bounded<Backlog>,
    /// The bytes in `messages`.
    bytes: usize,
}

impl Link {
    pub(crate) fn new(transport: Transport) -> Rc<Link> {
        let (awaits_room, served) = (Cell::new(false), Cell::new(MemberId::NONE));
        Rc::new(Link { transport, awaits_room, queues: RefCell::default(), served })
    }

    /// The number of messages in a member's queue.
    pub(crate) fn queued(&self, id: MemberId) -> usize {
        self.queues.borrow().get(&id).map_or(0, Queue::len)
    }

    /// Drops the queue of a member.
    pub(crate) fn drop_queue(&self, id: MemberId) {
        let queue = self.queues.borrow_mut().remove(&id);
        drop(queue);
    }

    /// Sends a message to a member, or queues it.
    #[inline]
    pub(crate) fn send(
        self: &Rc<Self>,
        id: MemberId,
        options: &RoomOptions,
        number: u64,
        bytes: &Bytes,
    ) -> Delivery {
        if self.transport.is_closing() {
            return Delivery::Done;
        }
        if self.awaits_room.get() || self.transport.is_full() {
            return self.queue(id, options, number, bytes);
        }
        self.write(bytes);
        Delivery::Done
    }

    #[inline]
    fn write(&self, bytes: &Bytes) {
        if self.transport.buffered().saturating_add(bytes.len()) <= COPIED {
            self.transport.write(bytes);
        } else {
            self.transport.write_bytes(bytes.clone());
        }
    }

    #[cold]
    fn queue(
        self: &Rc<Self>,
        id: MemberId,
        options: &RoomOptions,
        number: u64,
        bytes: &Bytes,
    ) -> Delivery {
        let mut queue = self.queues.borrow_mut().remove(&id).unwrap_or_else(|| Queue::new(options));
        let (mut dropped, mut is_cut) = (Vec::new(), false);
        let could_fit = Queue::new(options).has_room(bytes.len(), options);
        if options.when_full == WhenFull::DropOldest && could_fit {
            while !queue.has_room(bytes.len(), options) {
                let Some((oldest, _)) = queue.next_message() else { break };
                dropped.push(oldest);
            }
        }
        if queue.has_room(bytes.len(), options) {
            queue.messages.edit().push_back((number, bytes.clone()));
            queue.bytes += bytes.len();
        } else if options.when_full == WhenFull::Cut {
            is_cut = true;
        } else {
            dropped.push(number);
        }
        self.keep(id, queue);
        self.await_room();
        match (is_cut, dropped.is_empty()) {
            (true, _) => Delivery::Cut,
            (false, true) => Delivery::Done,
            (false, false) => Delivery::Dropped(dropped),
        }
    }

    /// Sends messages of the history to a member, which gets its next ones behind them. Returns the
    /// number of messages that the transport took.
    pub(crate) fn replay(
        self: &Rc<Self>,
        id: MemberId,
        options: &RoomOptions,
        missed: Backlog,
    ) -> usize {
        self.keep(id, Queue { missed, ..Queue::new(options) });
        if self.awaits_room.get() { 0 } else { self.send_queued() }
    }

    fn keep(&self, id: MemberId, queue: Queue) {
        if queue.len() > 0 {
            self.queues.borrow_mut().insert(id, queue);
        }
    }

    /// Moves queued messages to the transport until it is full; returns their number.
    fn send_queued(self: &Rc<Self>) -> usize {
        let mut sent = 0;
        while !self.transport.is_full() && !self.transport.is_closing() {
            let Some(bytes) = self.next() else { return sent };
            self.write(&bytes);
            sent += 1;
        }
        self.await_room();
        sent
    }

    /// Takes the next queued message, of each member in turn.
    fn next(&self) -> Option<Bytes> {
        let mut queues = self.queues.borrow_mut();
        let others = (Bound::Excluded(self.served.get()), Bound::Unbounded);
        let next = queues.range(others).next().or_else(|| queues.first_key_value());
        let id = *next?.0;
        self.served.set(id);
        let queue = queues.get_mut(&id)?;
        let (_, bytes) = queue.next()?;
        if queue.len() == 0 {
            queues.remove(&id);
        }
        Some(bytes)
    }

    /// Sends queued messages when the transport has drained.
    fn await_room(self: &Rc<Self>) {
        if self.queues.borrow().is_empty() || self.awaits_room.replace(true) {
            return;
        }
        let link = self.clone();
        let sending = self.transport.writable().add_both(move |writable| {
            link.awaits_room.set(false);
            // A failure is the loss of the connection, which ends all memberships.
            if writable.is_ok() {
                link.send_queued();
            }
            Ok(())
        });
        sending.detach();
    }
}

impl Queue {
    fn new(options: &RoomOptions) -> Queue {
        let (missed, messages) = (Backlog::new(), Bounded::new(options.queue_messages));
        Queue { missed, messages, bytes: 0 }
    }

    fn len(&self) -> usize {
        self.missed.len() + self.messages.len()
    }

    fn has_room(&self, bytes: usize, options: &RoomOptions) -> bool {
        !self.messages.is_full() && bytes <= options.queue_bytes.saturating_sub(self.bytes)
    }

    fn next(&mut self) -> Option<(u64, Bytes)> {
        self.missed.pop_front().or_else(|| self.next_message())
    }

    fn next_message(&mut self) -> Option<(u64, Bytes)> {
        let (number, bytes) = self.messages.edit().pop_front()?;
        self.bytes -= bytes.len();
        Some((number, bytes))
    }
}

#[cfg(test)]
mod tests {
    use couplet::Protocol;
    use couplet::testing::MemoryReactor;

    use super::*;

    /// Takes nothing, and keeps its transport for the test.
    struct Kept(Rc<RefCell<Option<Transport>>>);

    impl Protocol for Kept {
        fn connection_made(&mut self, transport: &Transport) {
            *self.0.borrow_mut() = Some(transport.clone());
        }

        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn c188_all_members_of_a_blocked_connection_share_one_wait() {
        let mut memory = MemoryReactor::new();
        let made = Rc::<RefCell<Option<Transport>>>::default();
        let factory = {
            let made = made.clone();
            move || Kept(made.clone())
        };
        memory.reactor().listen("tcp:1", factory).expect("a port in memory is free");
        let wire = memory.connect(1);
        let link = Link::new(made.take().expect("it was made"));
        link.transport.set_write_marks(0, 0);
        link.transport.write(vec![b'x'; 1 << 20]);
        memory.settle();
        let (options, text) = (RoomOptions::default(), Bytes::from_static(b"y"));
        for id in (1..=10_000).map(MemberId) {
            assert_eq!(link.send(id, &options, 1, &text), Delivery::Done);
            assert_eq!(link.queued(id), 1);
            link.drop_queue(id);
        }
        assert_eq!(Rc::strong_count(&link), 2, "one wait");
        assert_eq!(link.send(MemberId(1), &options, 1, &text), Delivery::Done);
        let mut read = Vec::new();
        while read.last() != Some(&b'y') {
            read.extend(wire.take());
            memory.settle();
        }
        assert_eq!((read.len(), Rc::strong_count(&link)), ((1 << 20) + 1, 1));
    }
}
