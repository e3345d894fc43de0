//! [`Member`]: a connection in a room, and its queue.
//!
//! A message goes to the transport until that is full, and then into the member's queue, from which
//! it leaves when the transport has drained.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use couplet_core::{Bytes, Transport};

use crate::error::PublishError;
use crate::event::{Departure, MemberId};
use crate::history::Missed;
use crate::local::{Local, Outgoing};
use crate::options::{RoomOptions, WhenFull};
use crate::position::Position;
use crate::rooms::{Key, Meta};

/// A connection in a room; cheap to clone and to keep. Dropping it changes nothing: the connection
/// leaves when it is lost, or by [`leave`](Self::leave).
pub struct Member<K: Key, M: Meta> {
    pub(crate) cell: Rc<MemberCell<K>>,
    pub(crate) local: Rc<Local<K, M>>,
}

impl<K: Key, M: Meta> Member<K, M> {
    /// Identifies the member, from any thread.
    pub fn id(&self) -> MemberId {
        self.cell.id
    }

    /// The room.
    pub fn room(&self) -> &K {
        &self.cell.room
    }

    /// The connection.
    pub fn transport(&self) -> &Transport {
        &self.cell.transport
    }

    /// False once the connection has left the room.
    pub fn is_present(&self) -> bool {
        self.cell.standing.get() != Standing::Left
    }

    /// Leaves the room; queued messages are dropped. Returns false if it had left before.
    pub fn leave(&self) -> bool {
        self.local.leave(&self.cell, Departure::Left)
    }

    /// Changes the metadata: the others get an [`Event::Changed`](crate::Event::Changed). Returns
    /// false if the member has left.
    pub fn set_meta(&self, meta: M) -> bool {
        self.is_present() && self.local.set_meta(&self.cell, meta)
    }

    /// Publishes a message to the room, also to this member: see
    /// [`Rooms::publish`](crate::Rooms::publish).
    ///
    /// # Errors
    ///
    /// [`PublishError::NotMember`].
    pub fn publish(&self, bytes: impl Into<Bytes>) -> Result<Position, PublishError> {
        self.send(Outgoing { bytes: bytes.into(), by: Some(self.id()), except: None })
    }

    /// Publishes a message to the room, without sending it to this member.
    ///
    /// # Errors
    ///
    /// [`PublishError::NotMember`].
    pub fn publish_to_others(&self, bytes: impl Into<Bytes>) -> Result<Position, PublishError> {
        self.send(Outgoing { bytes: bytes.into(), by: Some(self.id()), except: Some(self.id()) })
    }

    fn send(&self, message: Outgoing) -> Result<Position, PublishError> {
        if !self.is_present() {
            return Err(PublishError::NotMember);
        }
        self.local.publish(&self.cell.room, message)
    }

    /// The number of messages that this member did not get: because its queue was full, or the
    /// queue of its loop.
    pub fn dropped(&self) -> u64 {
        self.cell.dropped.get()
    }

    /// The number of messages in the member's queue.
    pub fn queued(&self) -> usize {
        let queue = self.cell.queue.borrow();
        queue.missed.len() + queue.messages.len()
    }
}

impl<K: Key, M: Meta> Clone for Member<K, M> {
    fn clone(&self) -> Member<K, M> {
        Member { cell: self.cell.clone(), local: self.local.clone() }
    }
}

impl<K: Key, M: Meta> fmt::Debug for Member<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.cell.id)
            .field("connection", &self.cell.transport.id())
            .finish_non_exhaustive()
    }
}

/// How a connection belongs to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It gets no messages: those that its loop still has to deliver were published before.
    Joining,
    Joined,
    Left,
}

/// The outcome of a message for one member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Sent or queued, or of no use to a connection that is closing.
    Done,
    /// So many of its messages are dropped, beginning with this number.
    // Bound: the messages of the queue.
    Dropped(Vec<u64>),
    /// The member is to be cut.
    Cut,
}

/// The state of a member in its loop.
pub(crate) struct MemberCell<K> {
    pub(crate) id: MemberId,
    pub(crate) room: Arc<K>,
    pub(crate) transport: Transport,
    options: Arc<RoomOptions>,
    standing: Cell<Standing>,
    queue: RefCell<Queue>,
    pub(crate) dropped: Cell<u64>,
}

#[derive(Default)]
struct Queue {
    /// Messages of the history, ahead of the others.
    // Bound: the room's history.
    missed: VecDeque<(u64, Bytes)>,
    // Bound: `RoomOptions::queue`, by messages and bytes.
    messages: VecDeque<(u64, Bytes)>,
    /// The bytes in `messages`.
    bytes: usize,
    /// Whether the transport reports when it has drained.
    awaits_room: bool,
}

impl<K: Key> MemberCell<K> {
    pub(crate) fn new(
        id: MemberId,
        room: Arc<K>,
        transport: Transport,
        options: Arc<RoomOptions>,
        missed: Missed,
    ) -> MemberCell<K> {
        let queue = Queue { missed: missed.messages, ..Queue::default() };
        MemberCell {
            id,
            room,
            transport,
            options,
            standing: Cell::new(Standing::Joining),
            queue: RefCell::new(queue),
            dropped: Cell::new(0),
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// Begins with the messages that the member missed.
    pub(crate) fn activate(self: &Rc<Self>) {
        self.standing.set(Standing::Joined);
        self.send_queued();
    }

    /// Ends the membership. Returns false if it had ended before.
    pub(crate) fn leave(&self) -> bool {
        if self.standing.replace(Standing::Left) == Standing::Left {
            return false;
        }
        let mut queue = self.queue.borrow_mut();
        let queued = (std::mem::take(&mut queue.missed), std::mem::take(&mut queue.messages));
        queue.bytes = 0;
        drop(queue);
        drop(queued);
        true
    }

    pub(crate) fn count_dropped(&self, messages: u64) {
        self.dropped.set(self.dropped.get().saturating_add(messages));
    }

    /// Sends a message, or queues it.
    #[inline]
    pub(crate) fn offer(self: &Rc<Self>, number: u64, bytes: &Bytes) -> Delivery {
        if self.standing.get() != Standing::Joined || self.transport.is_closing() {
            return Delivery::Done;
        }
        if self.queue.borrow().awaits_room || self.transport.is_full() {
            return self.queue(number, bytes);
        }
        self.transport.write_bytes(bytes.clone());
        Delivery::Done
    }

    #[cold]
    fn queue(self: &Rc<Self>, number: u64, bytes: &Bytes) -> Delivery {
        // Declared before the borrow, so that the messages are dropped after it.
        let (mut removed, mut dropped) = (Vec::new(), Vec::new());
        let mut queue = self.queue.borrow_mut();
        let could_fit = Queue::default().has_room(bytes.len(), &self.options);
        if self.options.when_full == WhenFull::DropOldest && could_fit {
            while !queue.has_room(bytes.len(), &self.options) {
                let Some((oldest, bytes)) = queue.messages.pop_front() else { break };
                queue.bytes -= bytes.len();
                dropped.push(oldest);
                removed.push(bytes);
            }
        }
        if queue.has_room(bytes.len(), &self.options) {
            queue.messages.push_back((number, bytes.clone()));
            queue.bytes += bytes.len();
        } else if self.options.when_full == WhenFull::Cut {
            return Delivery::Cut;
        } else {
            dropped.push(number);
        }
        drop(queue);
        self.await_room();
        self.count_dropped(dropped.len() as u64);
        if dropped.is_empty() { Delivery::Done } else { Delivery::Dropped(dropped) }
    }

    /// Moves queued messages to the transport until it is full.
    fn send_queued(self: &Rc<Self>) {
        while !self.transport.is_full() && !self.transport.is_closing() {
            let next = self.queue.borrow_mut().next();
            let Some(bytes) = next else { return };
            self.transport.write_bytes(bytes);
        }
        self.await_room();
    }

    /// Sends queued messages when the transport has drained.
    fn await_room(self: &Rc<Self>) {
        if self.queue.borrow().is_empty() || self.queue.borrow().awaits_room {
            return;
        }
        self.queue.borrow_mut().awaits_room = true;
        let cell = self.clone();
        let sending = self.transport.drained().add_both(move |drained| {
            cell.queue.borrow_mut().awaits_room = false;
            // A failure is the loss of the connection, which ends the membership.
            if drained.is_ok() {
                cell.send_queued();
            }
            Ok(())
        });
        sending.detach();
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.missed.is_empty() && self.messages.is_empty()
    }

    fn has_room(&self, bytes: usize, options: &RoomOptions) -> bool {
        self.messages.len() < options.queue_messages
            && bytes <= options.queue_bytes.saturating_sub(self.bytes)
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some((_, bytes)) = self.missed.pop_front() {
            return Some(bytes);
        }
        let (_, bytes) = self.messages.pop_front()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }
}
