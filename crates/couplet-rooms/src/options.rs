//! The options of a room, and the limits of all rooms together.
//!
//! Contract: 188, 191–193, 193b.

use std::time::Duration;

/// The action when a message does not fit into the queue of a member that reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Resets the connection of the member, which can return and read its history. The default.
    Cut,
    /// The member does not get this message: for messages that repeat, or that are worthless later.
    DropNewest,
    /// The oldest queued messages are dropped to make room for this one: for states, where only the
    /// last one matters.
    DropOldest,
}

/// The options of one room.
///
/// ```
/// use couplet::rooms::{RoomOptions, WhenFull};
/// use std::time::Duration;
///
/// let options = RoomOptions::default()
///     .when_full(WhenFull::DropOldest)
///     .queue(64, 64 * 1024)
///     .history(1000, 1024 * 1024, Duration::from_secs(600));
/// ```
#[derive(Clone, Debug)]
pub struct RoomOptions {
    pub(crate) when_full: WhenFull,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) history_messages: usize,
    pub(crate) history_bytes: usize,
    pub(crate) history_time: Duration,
}

impl Default for RoomOptions {
    fn default() -> RoomOptions {
        RoomOptions {
            when_full: WhenFull::Cut,
            queue_messages: 1024,
            queue_bytes: 1024 * 1024,
            history_messages: 0,
            history_bytes: 0,
            history_time: Duration::ZERO,
        }
    }
}

impl RoomOptions {
    /// Sets the action when a member's queue is full: by default, [`WhenFull::Cut`].
    pub fn when_full(mut self, action: WhenFull) -> RoomOptions {
        self.when_full = action;
        self
    }

    /// Sets the most messages and bytes in the queue of a member, which begins once its transport
    /// is [full](couplet_core::Transport::is_full): 1024, and 1 MiB by default. Messages of a
    /// history, for a member that has returned, come on top.
    pub fn queue(mut self, messages: usize, bytes: usize) -> RoomOptions {
        (self.queue_messages, self.queue_bytes) = (messages, bytes);
        self
    }

    /// Keeps the last messages: at most `messages`, of `bytes` in total, and none older than `time`.
    /// By default a room has no history.
    ///
    /// An expired message is in no replay. Later publishes and joins, also in other rooms, free its
    /// memory.
    pub fn history(mut self, messages: usize, bytes: usize, time: Duration) -> RoomOptions {
        (self.history_messages, self.history_bytes, self.history_time) = (messages, bytes, time);
        self
    }
}

/// The limits of all rooms of a [`SharedRooms`](crate::SharedRooms) together.
#[derive(Clone, Debug)]
pub struct Limits {
    pub(crate) rooms: usize,
    pub(crate) history_bytes: usize,
    pub(crate) loop_messages: usize,
    pub(crate) loop_bytes: usize,
    pub(crate) deliveries: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            rooms: 65_536,
            history_bytes: 256 * 1024 * 1024,
            loop_messages: 65_536,
            loop_bytes: 64 * 1024 * 1024,
            deliveries: 256,
        }
    }
}

impl Limits {
    /// Sets the most rooms: 65 536 by default. When a room needs the place, the empty one goes
    /// whose last message is the oldest, with its history.
    pub fn rooms(mut self, most: usize) -> Limits {
        self.rooms = most;
        self
    }

    /// Sets the most bytes in the histories of all rooms: 256 MiB by default. Beyond it, rooms lose
    /// their oldest messages in turns.
    pub fn history_bytes(mut self, most: usize) -> Limits {
        self.history_bytes = most;
        self
    }

    /// Sets the most messages and bytes on their way to a loop, which does not take them while one
    /// of its callbacks runs: 65 536 and 64 MiB by default. The members of the loop miss further
    /// messages, and the loop reports [`Event::Missed`](crate::Event::Missed).
    pub fn loop_queue(mut self, messages: usize, bytes: usize) -> Limits {
        (self.loop_messages, self.loop_bytes) = (messages, bytes);
        self
    }

    /// Sets the most messages that a loop gives to members in one turn, and events to its observer:
    /// 256 by default, at least 1. The rest follow in the next turns, in order, and other connections
    /// are served in between. When the [queue](Self::loop_queue) of the loop is half full, it is
    /// worked off first.
    pub fn deliveries(mut self, most: usize) -> Limits {
        self.deliveries = most;
        self
    }
}
