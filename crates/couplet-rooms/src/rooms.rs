//! [`SharedRooms`] and [`Rooms`], the handles of the program.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use couplet_core::{Bytes, Reactor, Transport};

use crate::error::{JoinError, PublishError};
use crate::event::{Event, Present};
use crate::hub::Hub;
use crate::local::{Local, Outgoing};
use crate::member::Member;
use crate::options::{Limits, RoomOptions};
use crate::position::Position;

/// The name of a room: a string, a number, an enum of yours. Compared while a lock is held, so its
/// comparison must not use rooms.
pub trait Key: Ord + Clone + Send + Sync + 'static {}

impl<K: Ord + Clone + Send + Sync + 'static> Key for K {}

/// The metadata of a member, which all loops see.
pub trait Meta: Send + Sync + 'static {}

impl<M: Send + Sync + 'static> Meta for M {}

/// The rooms of a process, for all its loops: cheap to clone and to send to other threads. Each
/// loop [attaches](Self::attach) once.
///
/// ```
/// use couplet::rooms::{RoomOptions, SharedRooms};
/// use couplet::{Cluster, Protocol, Transport};
/// # struct Chat(couplet::rooms::Rooms<&'static str>);
/// # impl Protocol for Chat {
/// #     fn connection_made(&mut self, transport: &Transport) {
/// #         if self.0.join(&"lobby", transport, ()).is_err() {
/// #             transport.lose_connection();
/// #         }
/// #     }
/// #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
/// # }
///
/// let rooms = SharedRooms::new(|_room: &&str| RoomOptions::default());
/// let cluster = Cluster::new(2);
/// let port = cluster.bind("localhost:0")?;
/// cluster.run(|reactor| {
///     let rooms = rooms.attach(reactor);
///     port.listen(reactor, move || Chat(rooms.clone()))?;
/// #   reactor.stop();
///     Ok(())
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct SharedRooms<K: Key, M: Meta = ()> {
    hub: Arc<Hub<K, M>>,
}

impl<K: Key, M: Meta> SharedRooms<K, M> {
    /// Rooms with the options that `options` returns for the name of each.
    pub fn new(options: impl Fn(&K) -> RoomOptions + Send + Sync + 'static) -> SharedRooms<K, M> {
        SharedRooms::with_limits(Limits::default(), options)
    }

    /// [`new`](Self::new), with limits for all rooms together.
    pub fn with_limits(
        limits: Limits,
        options: impl Fn(&K) -> RoomOptions + Send + Sync + 'static,
    ) -> SharedRooms<K, M> {
        SharedRooms { hub: Arc::new(Hub::new(limits, Box::new(options))) }
    }

    /// The rooms as this loop sees them. Call it once in each loop, and clone the result.
    pub fn attach(&self, reactor: &Reactor) -> Rooms<K, M> {
        Rooms { local: Local::new(self.hub.clone(), reactor) }
    }
}

impl<K: Key, M: Meta> Clone for SharedRooms<K, M> {
    fn clone(&self) -> SharedRooms<K, M> {
        SharedRooms { hub: self.hub.clone() }
    }
}

impl<K: Key, M: Meta> fmt::Debug for SharedRooms<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRooms").field("rooms", &self.hub.rooms()).finish_non_exhaustive()
    }
}

/// Where a connection that joins begins to read its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next message.
    Now,
    /// With the oldest message of the history.
    Oldest,
    /// With the first message after this position. If the history lacks one of them, there is a
    /// gap, and the member begins with the next message.
    After(Position),
}

/// The messages of the history that a member gets before the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replay {
    /// The number of messages.
    pub messages: usize,
    /// The position after them: the next message has the next number.
    pub position: Position,
    /// False if there is a gap: the member has missed messages, and gets none of the history.
    pub is_complete: bool,
}

/// Numbers of a loop, since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages sent to members or queued for them, each once for each member.
    pub delivered: u64,
    /// Messages that members did not get, because their queues were full.
    pub dropped: u64,
    /// Members that were cut, because their queues were full.
    pub cut: u64,
    /// Messages that no member of the loop got, because the queue of the loop was full.
    pub missed: u64,
}

/// The rooms as one loop sees them; cheap to clone and to keep.
///
/// A request is recorded, and the turn carries it out: a message is sent after the callback that
/// publishes it, in the same turn; to many members, [in several](Limits::deliveries). All loops see
/// the messages and the events of a room in the same order. Dropping it changes nothing while a
/// connection of the loop is a member.
pub struct Rooms<K: Key, M: Meta = ()> {
    local: Rc<Local<K, M>>,
}

impl<K: Key, M: Meta> Rooms<K, M> {
    /// Rooms for this loop only, with the options that `options` returns for the name of each. For
    /// several loops, or with other limits: [`SharedRooms`].
    pub fn new(
        reactor: &Reactor,
        options: impl Fn(&K) -> RoomOptions + Send + Sync + 'static,
    ) -> Rooms<K, M> {
        SharedRooms::new(options).attach(reactor)
    }

    /// Makes a connection of this loop a member of a room, which gets the messages that are
    /// published from now on. A connection may be in many rooms, and leaves them when it is lost.
    ///
    /// # Errors
    ///
    /// See [`JoinError`].
    pub fn join(
        &self,
        room: &K,
        transport: &Transport,
        meta: M,
    ) -> Result<Member<K, M>, JoinError> {
        let (member, _) = self.local.join(room, transport, meta, Start::Now)?;
        Ok(member)
    }

    /// [`join`](Self::join), with messages of the history first: for a client that returns, exactly
    /// those that it missed, followed by new ones, in order.
    ///
    /// The client needs the position of the last message that it got: send it in each message, with
    /// [`publish_encoded`](Self::publish_encoded), or count the messages from the position of the
    /// [`Replay`].
    ///
    /// # Errors
    ///
    /// See [`JoinError`].
    pub fn join_from(
        &self,
        room: &K,
        transport: &Transport,
        meta: M,
        from: Start,
    ) -> Result<(Member<K, M>, Replay), JoinError> {
        self.local.join(room, transport, meta, from)
    }

    /// Sends a message to all members of a room, in all loops. The bytes are shared: no member's
    /// queue copies them. A room without members keeps it in its history.
    ///
    /// # Errors
    ///
    /// [`PublishError::TooManyRooms`].
    pub fn publish(&self, room: &K, bytes: impl Into<Bytes>) -> Result<Position, PublishError> {
        let message = Outgoing { bytes: bytes.into(), by: None, except: None };
        self.local.publish(room, message)
    }

    /// [`publish`](Self::publish) with the bytes that `encode` returns for the position of the
    /// message. `encode` is called again if another message takes that position first.
    ///
    /// # Errors
    ///
    /// [`PublishError::TooManyRooms`]; [`PublishError::Overtaken`] if `encode` publishes to the same
    /// room.
    pub fn publish_encoded(
        &self,
        room: &K,
        encode: impl FnMut(Position) -> Bytes,
    ) -> Result<Position, PublishError> {
        self.local.publish_encoded(room, encode)
    }

    /// Delivers all messages and events of this loop immediately: before a connection moves to
    /// another process, or before the program stops. The observer gets its events inside this call.
    pub fn flush(&self) {
        self.local.flush();
    }

    /// The members of a room in all loops, in the order in which they joined.
    pub fn present(&self, room: &K) -> Vec<Present<M>> {
        self.local.hub().present(room)
    }

    /// The position of the newest message of a room; `None` if it has neither members nor a
    /// history.
    pub fn position(&self, room: &K) -> Option<Position> {
        self.local.hub().position(room)
    }

    /// The number of rooms with a member in any loop, or a history.
    pub fn rooms(&self) -> usize {
        self.local.hub().rooms()
    }

    /// Sets the function that gets the events of all rooms, in their order, in place of the one
    /// before. The turn calls it, from the next event on: joins, leaves and messages of all loops,
    /// and dropped messages of this loop's members.
    ///
    /// The function lasts as long as this loop's rooms: keep no clone of `Rooms` in it.
    pub fn on_event(&self, observer: impl Fn(&Event<K, M>) + 'static) {
        self.local.observe(Rc::new(observer));
    }

    /// The numbers of this loop.
    pub fn counts(&self) -> Counts {
        self.local.counts()
    }
}

impl<K: Key, M: Meta> Clone for Rooms<K, M> {
    fn clone(&self) -> Rooms<K, M> {
        Rooms { local: self.local.clone() }
    }
}

impl<K: Key, M: Meta> fmt::Debug for Rooms<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
