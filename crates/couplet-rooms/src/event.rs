//! [`Event`]: a change or a message in a room, as one loop sees it.

use std::fmt;
use std::sync::Arc;

use couplet_core::{Bytes, ConnectionId, Reason};

use crate::member::Member;
use crate::position::Position;
use crate::rooms::{Key, Meta};

/// Identifies a member of a room, from any thread. Never reused by the same
/// [`SharedRooms`](crate::SharedRooms), and higher than the ids of earlier members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub(crate) u64);

impl MemberId {
    /// Below the id of every member.
    pub(crate) const NONE: MemberId = MemberId(0);
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A member as the others see it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Present<M> {
    /// The member.
    pub id: MemberId,
    /// The connection of the member, in its loop.
    pub connection: ConnectionId,
    /// The member's metadata: from its join, or set since.
    pub meta: Arc<M>,
}

impl<M> Clone for Present<M> {
    fn clone(&self) -> Present<M> {
        Present { id: self.id, connection: self.connection, meta: self.meta.clone() }
    }
}

/// The reason why a member left its room.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Departure {
    /// [`Member::leave`] was called.
    Left,
    /// The connection was lost.
    Lost(Reason),
    /// The member's queue was full, and the room [cuts](crate::WhenFull::Cut) such members.
    Cut,
}

/// A change or a message in a room: see [`Rooms::on_event`](crate::Rooms::on_event).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<K: Key, M: Meta> {
    /// A connection joined, in any loop.
    Joined {
        /// The room.
        room: Arc<K>,
        /// The member.
        member: Present<M>,
    },
    /// A member has [set](Member::set_meta) its metadata.
    Changed {
        /// The room.
        room: Arc<K>,
        /// The member, with the new metadata.
        member: Present<M>,
    },
    /// A member left, in any loop.
    Left {
        /// The room.
        room: Arc<K>,
        /// The member, with its last metadata.
        member: Present<M>,
        /// The reason.
        why: Departure,
    },
    /// A message was published, in any loop; the members of this loop get it after this event. A bus
    /// sends the message to other machines. Messages of other machines are published here too: the
    /// bus recognizes those by the position that `publish` has returned.
    Published {
        /// The room.
        room: Arc<K>,
        /// The position of the message.
        position: Position,
        /// The message.
        bytes: Bytes,
        /// The member that published it, if one did.
        by: Option<MemberId>,
    },
    /// A member of this loop did not get a message, because its queue was full.
    Dropped {
        /// The member.
        member: Member<K, M>,
        /// The position of the message.
        position: Position,
    },
    /// The queue of this loop was full: its members of the room did not get messages, and
    /// events of the room are missing. [`Rooms::present`](crate::Rooms::present) is up to date.
    Missed {
        /// The room.
        room: Arc<K>,
        /// The number of messages.
        messages: u64,
        /// The number of other events.
        events: u64,
    },
}
