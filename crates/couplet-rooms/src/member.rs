//! [`Member`]: a connection in a room.
//!
//! Contract: 187.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use couplet_core::{Bytes, Transport};

use crate::error::PublishError;
use crate::event::{Departure, MemberId};
use crate::link::{Backlog, Delivery, Link};
use crate::local::{Local, Outgoing};
use crate::options::RoomOptions;
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
        &self.cell.link.transport
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
        self.cell.missed.borrow().len() + self.cell.link.queued(self.cell.id)
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
            .field("connection", &self.transport().id())
            .finish_non_exhaustive()
    }
}

/// How a connection belongs to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Gets no messages yet: those that its loop still has to deliver are older than the join.
    Joining,
    Joined,
    Left,
}

/// The state of a member in its loop.
pub(crate) struct MemberCell<K> {
    pub(crate) id: MemberId,
    pub(crate) room: Arc<K>,
    pub(crate) link: Rc<Link>,
    options: Arc<RoomOptions>,
    standing: Cell<Standing>,
    /// Messages of the history, until it has joined.
    missed: RefCell<Backlog>,
    /// Messages older than the join that its loop reports as missed after it.
    older: Cell<u64>,
    pub(crate) dropped: Cell<u64>,
}

impl<K: Key> MemberCell<K> {
    pub(crate) fn new(
        id: MemberId,
        room: Arc<K>,
        link: Rc<Link>,
        options: Arc<RoomOptions>,
        (missed, older): (Backlog, u64),
    ) -> MemberCell<K> {
        let (standing, dropped) = (Cell::new(Standing::Joining), Cell::new(0));
        let (missed, older) = (RefCell::new(missed), Cell::new(older));
        MemberCell { id, room, link, options, standing, missed, older, dropped }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// Begins with the messages that the member missed; returns the number that the transport took.
    pub(crate) fn activate(&self) -> usize {
        self.standing.set(Standing::Joined);
        self.link.replay(self.id, &self.options, self.missed.take())
    }

    /// Ends the membership. Returns false if it had ended before.
    pub(crate) fn leave(&self) -> bool {
        if self.standing.replace(Standing::Left) == Standing::Left {
            return false;
        }
        let missed = self.missed.take();
        self.link.drop_queue(self.id);
        drop(missed);
        true
    }

    pub(crate) fn count_dropped(&self, messages: u64) {
        self.dropped.set(self.dropped.get().saturating_add(messages));
    }

    /// Counts messages of the room that its loop had no place for, without those before the join.
    pub(crate) fn count_missed(&self, messages: u64) {
        self.count_dropped(messages.saturating_sub(self.older.take()));
    }

    /// Sends a message, or queues it.
    #[inline]
    pub(crate) fn offer(&self, number: u64, bytes: &Bytes) -> Delivery {
        if self.standing.get() != Standing::Joined {
            return Delivery::Done;
        }
        self.link.send(self.id, &self.options, number, bytes)
    }
}
