//! The rooms as one loop has them: its members, and the items that it delivers.
//!
//! Everything is delivered in a call that the loop makes, never inside a call of the user. One item
//! is delivered at a time, and the observer runs while nothing is borrowed; after a panic of it, a
//! further call continues with the next.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use couplet_core::{Bytes, ConnectionId, Reactor, Reason, Transport};

use crate::error::{JoinError, PublishError};
use crate::event::{Departure, Event, MemberId};
use crate::hub::{Batch, Hub, Item, Refused};
use crate::member::{Delivery, Member, MemberCell, Standing};
use crate::position::Position;
use crate::rooms::{Counts, Key, Meta, Replay, Start};
use crate::wake::{self, Drain};

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
    // Bound: the rooms with a member in this loop, and one member for each connection.
    rooms: RefCell<BTreeMap<Arc<K>, MembersById<K>>>,
    /// The memberships of each connection that has joined, until it is lost.
    // Bound: one for each connection, with the rooms that it is in.
    connections: RefCell<BTreeMap<ConnectionId, Memberships<K>>>,
    /// The items to deliver, and then the refused ones.
    inbox: RefCell<Batch<K, M>>,
    /// Events of the item that was delivered last.
    // Bound: the messages that one message displaces, and one for each member that is cut.
    events: RefCell<VecDeque<Event<K, M>>>,
    observer: RefCell<Option<Observer<K, M>>>,
    counts: Cell<Counts>,
}

type Memberships<K> = BTreeMap<Arc<K>, Rc<MemberCell<K>>>;
type MembersById<K> = BTreeMap<MemberId, Rc<MemberCell<K>>>;

/// Calls the loop again if a panic ends the delivery.
struct Continuing<'a, K: Key, M: Meta>(&'a Local<K, M>);

impl<K: Key, M: Meta> Drop for Continuing<'_, K, M> {
    fn drop(&mut self) {
        if self.0.has_work() {
            let slot = self.0.slot;
            // A loop that was dropped delivers nothing.
            let _ = self.0.reactor.remote().call(move |_| wake::drain(slot));
        }
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
            inbox: RefCell::new(Batch { items: VecDeque::new(), refused: BTreeMap::new() }),
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
        let is_member = |of: &Memberships<K>| of.contains_key(key);
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
        let (id, room) = (joined.id, joined.room);
        let cell =
            MemberCell::new(id, room.clone(), transport.clone(), joined.options, joined.missed);
        let cell = Rc::new(cell);
        self.rooms.borrow_mut().entry(room).or_default().insert(id, cell.clone());
        self.add_membership(transport, &cell);
        Ok((Member { cell, local: self.clone() }, replay))
    }

    /// A connection leaves all rooms when it is lost. However often it joins, one Deferred waits for that.
    fn add_membership(self: &Rc<Self>, transport: &Transport, cell: &Rc<MemberCell<K>>) {
        let connection = transport.id();
        let mut connections = self.connections.borrow_mut();
        let is_new = !connections.contains_key(&connection);
        connections.entry(connection).or_default().insert(cell.room.clone(), cell.clone());
        drop(connections);
        if is_new {
            let local = self.clone();
            transport.lost().map(move |reason| local.connection_lost(connection, &reason)).detach();
        }
    }

    fn connection_lost(&self, connection: ConnectionId, reason: &Reason) {
        let memberships = self.connections.borrow_mut().remove(&connection);
        for cell in memberships.unwrap_or_default().into_values() {
            self.leave(&cell, Departure::Lost(reason.clone()));
        }
    }

    /// Ends a membership. Returns false if it had ended before.
    pub(crate) fn leave(&self, cell: &MemberCell<K>, why: Departure) -> bool {
        if !cell.leave() {
            return false;
        }
        let mut connections = self.connections.borrow_mut();
        let memberships = connections.get_mut(&cell.transport.id());
        let membership = memberships.and_then(|of| of.remove(&cell.room));
        drop(connections);
        let mut rooms = self.rooms.borrow_mut();
        let removed = rooms.get_mut(&cell.room).and_then(|members| members.remove(&cell.id));
        if rooms.get(&cell.room).is_some_and(BTreeMap::is_empty) {
            rooms.remove(&cell.room);
        }
        drop(rooms);
        drop((membership, removed));
        self.hub.leave(self.number.get(), &cell.room, cell.id, why);
        true
    }

    pub(crate) fn set_meta(&self, cell: &MemberCell<K>, meta: M) -> bool {
        self.hub.set_meta(&cell.room, cell.id, Arc::new(meta))
    }

    pub(crate) fn publish(&self, key: &K, message: Outgoing) -> Result<Position, PublishError> {
        let position = self.hub.publish(&self.reactor, key, message, None)?;
        position.ok_or(PublishError::Overtaken)
    }

    /// Publishes a message that is encoded with its position.
    pub(crate) fn publish_with(
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

    fn has_work(&self) -> bool {
        let inbox = self.inbox.borrow();
        !self.events.borrow().is_empty() || !inbox.items.is_empty() || !inbox.refused.is_empty()
    }

    /// Delivers one event or item. Returns false if nothing was left.
    fn step(self: &Rc<Self>) -> bool {
        let event = self.events.borrow_mut().pop_front();
        if let Some(event) = event {
            let observer = self.observer.borrow().clone();
            if let Some(observer) = observer {
                observer(&event);
            }
            return true;
        }
        let item = self.inbox.borrow_mut().items.pop_front();
        if let Some(item) = item {
            self.dispatch(item);
            return true;
        }
        let refused = self.inbox.borrow_mut().refused.pop_first();
        let Some((room, refused)) = refused else { return false };
        self.miss(room, refused);
        true
    }

    fn dispatch(self: &Rc<Self>, item: Item<K, M>) {
        match item {
            Item::Message { room, position, message } => self.send(room, position, message),
            Item::Joined { room, member } => {
                let cell = self.member(&room, member.id);
                cell.iter().for_each(MemberCell::activate);
                self.report(Event::Joined { room, member });
            }
            Item::Changed { room, member } => self.report(Event::Changed { room, member }),
            Item::Left { room, member, why } => self.report(Event::Left { room, member, why }),
        }
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

    /// Sends a message to the members of this loop.
    fn send(self: &Rc<Self>, room: Arc<K>, position: Position, message: Outgoing) {
        let Outgoing { bytes, by, except } = message;
        let (mut delivered, mut troubled) = (0, Vec::new());
        if let Some(members) = self.rooms.borrow().get(&room) {
            for (id, cell) in members {
                if Some(*id) == except {
                    continue;
                }
                match cell.offer(position.number, &bytes) {
                    Delivery::Done => delivered += 1,
                    delivery => troubled.push((cell.clone(), delivery)),
                }
            }
        }
        self.count(|counts| counts.delivered += delivered);
        self.report(Event::Published { room, position, bytes, by });
        for (cell, delivery) in troubled {
            match delivery {
                Delivery::Done => {}
                Delivery::Dropped(numbers) => self.report_dropped(&cell, position, numbers),
                Delivery::Cut => self.cut(&cell),
            }
        }
    }

    fn report_dropped(
        self: &Rc<Self>,
        cell: &Rc<MemberCell<K>>,
        newest: Position,
        numbers: Vec<u64>,
    ) {
        self.count(|counts| counts.dropped += numbers.len() as u64);
        for number in numbers {
            let member = Member { cell: cell.clone(), local: self.clone() };
            self.report(Event::Dropped { member, position: Position { number, ..newest } });
        }
    }

    /// Cuts a member that reads too slowly.
    fn cut(&self, cell: &MemberCell<K>) {
        self.count(|counts| counts.cut += 1);
        cell.transport.abort_connection();
        self.leave(cell, Departure::Cut);
    }

    /// The members of a room did not get messages.
    fn miss(&self, room: Arc<K>, refused: Refused) {
        let Refused { messages, events } = refused;
        if let Some(members) = self.rooms.borrow().get(&room) {
            let joined = members.values().filter(|cell| cell.standing() == Standing::Joined);
            joined.for_each(|cell| cell.count_dropped(messages));
        }
        self.count(|counts| counts.missed += messages);
        self.report(Event::Missed { room, messages, events });
    }
}

impl<K: Key, M: Meta> Drain for Local<K, M> {
    /// Delivers the items that were queued by now. Later ones bring a call of their own.
    fn drain(self: Rc<Self>) {
        if !self.has_work() {
            let batch = self.hub.take(self.number.get());
            let _empty = self.inbox.replace(batch);
        }
        let _continuing = Continuing(&*self);
        while self.step() {}
    }
}

impl<K: Key, M: Meta> Drop for Local<K, M> {
    fn drop(&mut self) {
        wake::unregister(self.slot);
        self.hub.detach(self.number.get());
    }
}
