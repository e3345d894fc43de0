//! The rooms as one loop has them: its members, and the items that it delivers.
//!
//! Everything is delivered in a call that the loop makes, never inside a call of the user, except
//! for a flush. A call gives a bounded number of messages to members; another one, in the next turn,
//! continues. The observer and the drops of messages run while nothing is borrowed; after a panic of
//! them, a further call continues as well.
//!
//! Contract: 186–190, 193–193b.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use couplet_core::{Bytes, ConnectionId, Reactor, Reason, Transport};

use crate::error::{JoinError, PublishError};
use crate::event::{Departure, Event, MemberId};
use crate::hub::{Hub, Item, Refused};
use crate::link::{Delivery, Link};
use crate::member::{Member, MemberCell, Standing};
use crate::position::Position;
use crate::rooms::{Counts, Key, Meta, Replay, Start};
use crate::wake::{self, Deliver};

/// A message to a room.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) bytes: Bytes,
    /// The member that publishes it.
    pub(crate) by: Option<MemberId>,
    /// The member that does not get it.
    pub(crate) except: Option<MemberId>,
}

type Observer<K, M> = Rc<dyn Fn(&Event<K, M>)>;

pub(crate) struct Local<K: Key, M: Meta> {
    hub: Arc<Hub<K, M>>,
    reactor: Reactor,
    /// The loop's number in the hub.
    number: Cell<u64>,
    /// The loop's number in its thread.
    slot: u64,
    rooms: RefCell<BTreeMap<Arc<K>, MembersById<K>>>,
    /// The connections that have joined, until they are lost.
    connections: RefCell<BTreeMap<ConnectionId, Connected<K>>>,
    /// The message that only some members have got.
    sending: RefCell<Option<Sending<K>>>,
    /// Events for the observer.
    events: RefCell<VecDeque<Event<K, M>>>,
    observer: RefCell<Option<Observer<K, M>>>,
    counts: Cell<Counts>,
}

type MembersById<K> = BTreeMap<MemberId, Rc<MemberCell<K>>>;

/// A connection that has joined.
struct Connected<K> {
    link: Rc<Link>,
    memberships: BTreeMap<Arc<K>, Rc<MemberCell<K>>>,
}

/// A message on its way to the members of this loop, in the order of their ids. A connection that
/// joins during the delivery is not yet active, and one that leaves is skipped.
struct Sending<K> {
    room: Arc<K>,
    position: Position,
    bytes: Bytes,
    /// The member that does not get it.
    except: Option<MemberId>,
    /// The last member that was served.
    served: MemberId,
}

/// Calls the loop again, unless it is forgotten: the delivery was stopped, by its bound or by a
/// panic.
struct Continuing<'a, K: Key, M: Meta>(&'a Local<K, M>);

impl<K: Key, M: Meta> Drop for Continuing<'_, K, M> {
    fn drop(&mut self) {
        let slot = self.0.slot;
        // A loop that was dropped delivers nothing.
        let _ = self.0.reactor.remote().call(move |_| wake::deliver(slot));
    }
}

impl<K: Key, M: Meta> Local<K, M> {
    pub(crate) fn new(hub: Arc<Hub<K, M>>, reactor: &Reactor) -> Rc<Local<K, M>> {
        let local = Rc::new_cyclic(|weak: &Weak<Local<K, M>>| Local {
            hub,
            reactor: reactor.clone(),
            number: Cell::new(0),
            slot: wake::register(weak.clone()),
            rooms: RefCell::default(),
            connections: RefCell::default(),
            sending: RefCell::default(),
            events: RefCell::default(),
            observer: RefCell::default(),
            counts: Cell::default(),
        });
        local.number.set(local.hub.attach(reactor.remote(), local.slot));
        local
    }

    pub(crate) fn hub(&self) -> &Hub<K, M> {
        &self.hub
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.get()
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    pub(crate) fn observe(&self, observer: Observer<K, M>) {
        self.hub.observe(self.number.get());
        let _old = self.observer.replace(Some(observer));
    }

    pub(crate) fn join(
        self: &Rc<Self>,
        key: &K,
        transport: &Transport,
        meta: M,
        from: Start,
    ) -> Result<(Member<K, M>, Replay), JoinError> {
        let connection = transport.id();
        if transport.is_closing() {
            return Err(JoinError::Closing);
        }
        let is_member = |of: &Connected<K>| of.memberships.contains_key(key);
        if self.connections.borrow().get(&connection).is_some_and(is_member) {
            return Err(JoinError::AlreadyMember);
        }
        let meta = (connection, Arc::new(meta));
        let joined = self.hub.join(&self.reactor, self.number.get(), key, meta, from)?;
        let replay = Replay {
            messages: joined.missed.messages.len(),
            position: joined.position,
            is_complete: joined.missed.is_complete,
        };
        let (id, room, link) = (joined.id, joined.room, self.link(transport));
        let missed = (joined.missed.messages, joined.refused);
        let cell = Rc::new(MemberCell::new(id, room.clone(), link, joined.options, missed));
        self.rooms.borrow_mut().entry(room.clone()).or_default().insert(id, cell.clone());
        if let Some(connected) = self.connections.borrow_mut().get_mut(&connection) {
            connected.memberships.insert(room, cell.clone());
        }
        Ok((Member { cell, local: self.clone() }, replay))
    }

    /// The link of a connection, which leaves all rooms when it is lost. However often it joins, one
    /// Deferred waits for that.
    fn link(self: &Rc<Self>, transport: &Transport) -> Rc<Link> {
        let connection = transport.id();
        if let Some(connected) = self.connections.borrow().get(&connection) {
            return connected.link.clone();
        }
        let link = Link::new(transport.clone());
        let connected = Connected { link: link.clone(), memberships: BTreeMap::new() };
        self.connections.borrow_mut().insert(connection, connected);
        let local = self.clone();
        transport.lost().map(move |reason| local.connection_lost(connection, &reason)).detach();
        link
    }

    fn connection_lost(&self, connection: ConnectionId, reason: &Reason) {
        let connected = self.connections.borrow_mut().remove(&connection);
        let cells = connected.into_iter().flat_map(|connected| connected.memberships.into_values());
        let lost = |cell: Rc<MemberCell<K>>| self.end(&cell, Departure::Lost(reason.clone()));
        // Dropped when all memberships have ended: a drop may panic.
        let _metas: Vec<_> = cells.map(lost).collect();
    }

    /// Ends a membership. Returns false if it had ended before.
    pub(crate) fn leave(&self, cell: &MemberCell<K>, why: Departure) -> bool {
        self.end(cell, why).is_some()
    }

    /// Ends a membership, and returns the metadata; `None` if it had ended before.
    fn end(&self, cell: &MemberCell<K>, why: Departure) -> Option<Vec<Arc<M>>> {
        if !cell.leave() {
            return None;
        }
        let mut connections = self.connections.borrow_mut();
        let connected = connections.get_mut(&cell.link.transport.id());
        let membership = connected.and_then(|of| of.memberships.remove(&cell.room));
        drop(connections);
        let mut rooms = self.rooms.borrow_mut();
        let removed = rooms.get_mut(&cell.room).and_then(|members| members.remove(&cell.id));
        if rooms.get(&cell.room).is_some_and(BTreeMap::is_empty) {
            rooms.remove(&cell.room);
        }
        drop(rooms);
        drop((membership, removed));
        Some(self.hub.leave(self.number.get(), &cell.room, cell.id, why))
    }

    pub(crate) fn set_meta(&self, cell: &MemberCell<K>, meta: M) -> bool {
        self.hub.set_meta(&cell.room, cell.id, Arc::new(meta))
    }

    pub(crate) fn publish(&self, key: &K, message: Outgoing) -> Result<Position, PublishError> {
        let position = self.hub.publish(&self.reactor, key, message, None)?;
        position.ok_or(PublishError::Overtaken)
    }

    /// Publishes a message that is encoded with its position.
    pub(crate) fn publish_encoded(
        &self,
        key: &K,
        mut encode: impl FnMut(Position) -> Bytes,
    ) -> Result<Position, PublishError> {
        /// Two loops that publish to one room take a position from each other, but rarely again.
        const ATTEMPTS: usize = 64;
        for _ in 0..ATTEMPTS {
            let next = self.hub.next(&self.reactor, key)?;
            let message = Outgoing { bytes: encode(next), by: None, except: None };
            if let Some(position) = self.hub.publish(&self.reactor, key, message, Some(next))? {
                return Ok(position);
            }
        }
        Err(PublishError::Overtaken)
    }

    /// Delivers everything that is queued.
    pub(crate) fn flush(self: &Rc<Self>) {
        self.work_off(usize::MAX);
    }

    /// Delivers until nothing is left, or until `most` messages were given to members and events to
    /// the observer; then the next turn continues. A queue that is more than half full is worked off
    /// beyond that number: otherwise it would overflow. Publishers wait longer for that turn to end.
    fn work_off(self: &Rc<Self>, most: usize) {
        let continuing = Continuing(self);
        let mut left = most.max(1);
        while left > 0 || self.hub.is_crowded(self.number.get()) {
            match self.step(left.max(1)) {
                Some(done) => left = left.saturating_sub(done.max(1)),
                None => return std::mem::forget(continuing),
            }
        }
    }

    /// Delivers an event, an item, or a message to at most `most` members. Returns the number of
    /// messages and events; `None` if nothing was left.
    fn step(self: &Rc<Self>, most: usize) -> Option<usize> {
        let event = self.events.borrow_mut().pop_front();
        if let Some(event) = event {
            let observer = self.observer.borrow().clone();
            if let Some(observer) = observer {
                observer(&event);
            }
            return Some(1);
        }
        let sending = self.sending.take();
        if let Some(sending) = sending {
            return Some(self.send(sending, most));
        }
        let item = self.hub.next_item(self.number.get())?;
        Some(self.dispatch(item))
    }

    fn dispatch(self: &Rc<Self>, item: Item<K, M>) -> usize {
        match item {
            Item::Message { room, position, message: Outgoing { bytes, by, except } } => {
                let served = MemberId::NONE;
                let sending =
                    Sending { room: room.clone(), position, bytes: bytes.clone(), except, served };
                self.sending.replace(Some(sending));
                self.report(Event::Published { room, position, bytes, by });
            }
            Item::Joined { room, member } => {
                let cell = self.member(&room, member.id);
                let replayed = cell.map_or(0, |cell| cell.activate());
                self.report(Event::Joined { room, member });
                return replayed;
            }
            Item::Changed { room, member } => self.report(Event::Changed { room, member }),
            Item::Left { room, member, why } => self.report(Event::Left { room, member, why }),
            Item::Missed { room, refused } => self.miss(room, refused),
        }
        0
    }

    fn member(&self, room: &Arc<K>, id: MemberId) -> Option<Rc<MemberCell<K>>> {
        self.rooms.borrow().get(room)?.get(&id).cloned()
    }

    /// Queues an event for the observer.
    fn report(&self, event: Event<K, M>) {
        if self.observer.borrow().is_some() {
            self.events.borrow_mut().push_back(event);
        }
    }

    /// Sends a message to the next members of this loop; returns their number.
    fn send(self: &Rc<Self>, sending: Sending<K>, most: usize) -> usize {
        let next = self.members_after(&sending.room, sending.served, most);
        let Sending { room, position, bytes, except, .. } = sending;
        if let Some(last) = next.last().filter(|_| next.len() == most) {
            let (served, bytes) = (last.id, bytes.clone());
            self.sending.replace(Some(Sending { room, position, bytes, except, served }));
        }
        let (count, mut delivered) = (next.len(), 0);
        for cell in next {
            if Some(cell.id) == except {
                continue;
            }
            match cell.offer(position.number, &bytes) {
                Delivery::Done => delivered += 1,
                Delivery::Dropped(numbers) => self.report_dropped(&cell, position, numbers),
                Delivery::Cut => self.cut(&cell),
            }
        }
        self.count(|counts| counts.delivered += delivered);
        count
    }

    fn members_after(&self, room: &Arc<K>, id: MemberId, most: usize) -> Vec<Rc<MemberCell<K>>> {
        let rooms = self.rooms.borrow();
        let after = (Bound::Excluded(id), Bound::Unbounded);
        let members = rooms.get(room).map(|members| members.range(after).take(most));
        members.map_or_else(Vec::new, |members| members.map(|(_, cell)| cell.clone()).collect())
    }

    fn report_dropped(
        self: &Rc<Self>,
        cell: &Rc<MemberCell<K>>,
        newest: Position,
        numbers: Vec<u64>,
    ) {
        cell.count_dropped(numbers.len() as u64);
        self.count(|counts| counts.dropped += numbers.len() as u64);
        for number in numbers {
            let member = Member { cell: cell.clone(), local: self.clone() };
            self.report(Event::Dropped { member, position: Position { number, ..newest } });
        }
    }

    /// Cuts a member that reads too slowly.
    fn cut(&self, cell: &MemberCell<K>) {
        self.count(|counts| counts.cut += 1);
        cell.link.transport.abort_connection();
        self.leave(cell, Departure::Cut);
    }

    /// The members of a room did not get messages.
    fn miss(&self, room: Arc<K>, refused: Refused) {
        let Refused { messages, events } = refused;
        if let Some(members) = self.rooms.borrow().get(&room) {
            let joined = members.values().filter(|cell| cell.standing() == Standing::Joined);
            joined.for_each(|cell| cell.count_missed(messages));
        }
        self.count(|counts| counts.missed += messages);
        self.report(Event::Missed { room, messages, events });
    }
}

impl<K: Key, M: Meta> Deliver for Local<K, M> {
    fn deliver(self: Rc<Self>) {
        self.work_off(self.hub.limits.deliveries);
    }
}

impl<K: Key, M: Meta> Drop for Local<K, M> {
    fn drop(&mut self) {
        wake::unregister(self.slot);
        self.hub.detach(self.number.get());
    }
}
