//! The rooms as all loops share them: members, numbers, histories, and a queue to each loop.
//!
//! INVARIANT: a change and its items to the loops are made under one lock, so every loop sees the
//! items of a room in the same order. The only code of the user that runs under it compares keys.
//!
//! Contract: 186, 189–193b.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use couplet_core::{Bytes, ConnectionId, Reactor, Reason, Remote, hooks};
use couplet_defer::bounded::Bounded;

use crate::error::TooManyRooms;
use crate::event::{Departure, MemberId, Present};
use crate::history::{History, Missed};
use crate::local::Outgoing;
use crate::options::{Limits, RoomOptions};
use crate::position::Position;
use crate::rooms::{Key, Meta, Start};
use crate::wake;

/// Rooms looked at by each publish and join, for expired messages.
const SWEPT: usize = 2;

type ChooseOptions<K> = dyn Fn(&K) -> RoomOptions + Send + Sync;

pub(crate) struct Hub<K, M> {
    pub(crate) limits: Limits,
    choose: Box<ChooseOptions<K>>,
    state: Mutex<HubState<K, M>>,
}

/// A message or an event for a loop to deliver, in the order of the changes.
pub(crate) enum Item<K, M> {
    Message {
        room: Arc<K>,
        position: Position,
        message: Outgoing,
    },
    Joined {
        room: Arc<K>,
        member: Present<M>,
    },
    Changed {
        room: Arc<K>,
        member: Present<M>,
    },
    Left {
        room: Arc<K>,
        member: Present<M>,
        why: Departure,
    },
    /// Items for which the queue was too full.
    Missed {
        room: Arc<K>,
        refused: Refused,
    },
}

/// The number of items of a room for which a loop's queue was too full.
#[derive(Default)]
pub(crate) struct Refused {
    pub(crate) messages: u64,
    pub(crate) events: u64,
}

/// A new member.
pub(crate) struct Joined<K> {
    pub(crate) room: Arc<K>,
    pub(crate) id: MemberId,
    pub(crate) options: Arc<RoomOptions>,
    pub(crate) position: Position,
    pub(crate) missed: Missed,
    /// Older messages, which the loop reports as missed after the join.
    pub(crate) refused: u64,
}

struct HubState<K, M> {
    rooms: Bounded<BTreeMap<Arc<K>, Room<M>>>,
    loops: BTreeMap<u64, LoopQueue<K, M>>,
    /// The bytes in all histories.
    history_bytes: usize,
    /// The room that was looked at last.
    cursor: Option<Arc<K>>,
    last_loop: u64,
    last_member: u64,
}

struct Room<M> {
    options: Arc<RoomOptions>,
    history: History,
    present: BTreeMap<MemberId, (u64, Present<M>)>,
    /// The number of members in each loop that has any.
    by_loop: BTreeMap<u64, usize>,
}

/// The items on their way to one loop.
struct LoopQueue<K, M> {
    remote: Remote,
    /// The loop's number in its thread.
    slot: u64,
    /// Whether the loop needs the events of all rooms.
    observes: bool,
    items: VecDeque<Item<K, M>>,
    /// The refused items, which came after the others.
    refused: BTreeMap<Arc<K>, Refused>,
    /// The bytes of the messages.
    bytes: usize,
    /// Whether the loop takes the items: a call is on its way, or the next turn continues.
    is_called: bool,
}

/// The consequences of a change, for after the lock.
struct Effects<M> {
    calls: Vec<(u64, Remote, u64)>,
    removed: Vec<Bytes>,
    metas: Vec<Arc<M>>,
}

impl<K: Key, M: Meta> Hub<K, M> {
    pub(crate) fn new(limits: Limits, choose: Box<ChooseOptions<K>>) -> Hub<K, M> {
        let state = HubState {
            rooms: Bounded::new(limits.rooms),
            loops: BTreeMap::new(),
            history_bytes: 0,
            cursor: None,
            last_loop: 0,
            last_member: 0,
        };
        Hub { limits, choose, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, HubState<K, M>> {
        // A comparison of keys that panics leaves the maps whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and then calls the loops that it concerns.
    fn change<R>(&self, change: impl FnOnce(&mut HubState<K, M>, &mut Effects<M>) -> R) -> R {
        let mut effects = Effects { calls: Vec::new(), removed: Vec::new(), metas: Vec::new() };
        let result = change(&mut self.lock(), &mut effects);
        for (number, remote, slot) in effects.calls {
            if remote.call(move |_| wake::deliver(slot)).is_err() {
                self.detach(number);
            }
        }
        result
    }

    /// Makes a change to a room, which is created if it does not exist.
    fn change_room<R>(
        &self,
        reactor: &Reactor,
        key: &K,
        change: impl FnOnce(&mut HubState<K, M>, &Arc<K>, &mut Effects<M>) -> R,
    ) -> Result<R, TooManyRooms> {
        let is_known = self.lock().rooms.contains_key(key);
        // Made without the lock: the user's code.
        let new = (!is_known).then(|| {
            let options = Arc::new((self.choose)(key));
            (Arc::new(key.clone()), options, hooks::random(reactor))
        });
        let change = |state: &mut HubState<K, M>, effects: &mut Effects<M>| {
            let known = state.rooms.get_key_value(key).map(|(room, _)| room.clone());
            let room = match (known, new) {
                (Some(room), _) => room,
                (None, Some((room, options, epoch))) => {
                    state.create(&room, options, epoch, effects)?;
                    room
                }
                // Removed since the look above.
                (None, None) => return Ok(Err(change)),
            };
            Ok(Ok(change(state, &room, effects)))
        };
        match self.change(change)? {
            Ok(result) => Ok(result),
            Err(change) => self.change_room(reactor, key, change),
        }
    }

    /// Adds a loop; returns its number.
    pub(crate) fn attach(&self, remote: Remote, slot: u64) -> u64 {
        self.change(|state, _| {
            state.last_loop += 1;
            let (items, refused) = (VecDeque::new(), BTreeMap::new());
            let (observes, bytes, is_called) = (false, 0, false);
            let queue = LoopQueue { remote, slot, observes, items, refused, bytes, is_called };
            state.loops.insert(state.last_loop, queue);
            state.last_loop
        })
    }

    /// Sends the events of all rooms to a loop.
    pub(crate) fn observe(&self, number: u64) {
        self.change(|state, _| {
            if let Some(queue) = state.loops.get_mut(&number) {
                queue.observes = true;
            }
        });
    }

    /// Removes a loop with its members.
    pub(crate) fn detach(&self, number: u64) {
        let _queue = self.change(|state, effects| {
            let queue = state.loops.remove(&number);
            let mut members = Vec::new();
            for (room, Room { present, .. }) in &*state.rooms {
                let of_loop = present.iter().filter(|(_, (of, _))| *of == number);
                members.extend(of_loop.map(|(id, _)| (room.clone(), *id)));
            }
            for (room, id) in members {
                let why = Departure::Lost(Reason::Shutdown);
                state.leave(number, &room, id, why, &self.limits, effects);
            }
            queue
        });
    }

    /// Takes the next item of a loop, which must ask again. After `None`, a new item brings a call.
    pub(crate) fn next_item(&self, number: u64) -> Option<Item<K, M>> {
        let mut state = self.lock();
        let queue = state.loops.get_mut(&number)?;
        let item = queue.pop();
        queue.is_called = item.is_some();
        item
    }

    /// Whether more than half of the queue of a loop is in use.
    pub(crate) fn is_crowded(&self, number: u64) -> bool {
        let (messages, bytes) = (self.limits.loop_messages / 2, self.limits.loop_bytes / 2);
        let state = self.lock();
        let queue = state.loops.get(&number);
        queue.is_some_and(|queue| queue.items.len() > messages || queue.bytes > bytes)
    }

    /// Adds a member.
    pub(crate) fn join(
        &self,
        reactor: &Reactor,
        number: u64,
        key: &K,
        (connection, meta): (ConnectionId, Arc<M>),
        from: Start,
    ) -> Result<Joined<K>, TooManyRooms> {
        let now = reactor.now();
        self.change_room(reactor, key, |state, room, effects| {
            state.sweep(room, now, effects);
            state.last_member += 1;
            let id = MemberId(state.last_member);
            let entry = state.rooms.get_mut(room).expect("it exists under this lock");
            let member = Present { id, connection, meta };
            entry.present.insert(id, (number, member.clone()));
            *entry.by_loop.entry(number).or_default() += 1;
            let missed = match from {
                Start::Now => Missed::nothing(true),
                Start::Oldest => entry.history.all(),
                Start::After(position) => entry.history.since(position),
            };
            let (options, position) = (entry.options.clone(), entry.history.position());
            let queue = state.loops.get(&number);
            let refused =
                queue.and_then(|queue| queue.refused.get(room)).map_or(0, |it| it.messages);
            let item = || Item::Joined { room: room.clone(), member: member.clone() };
            state.send(room, item, Some(number), &self.limits, effects);
            Joined { room: room.clone(), id, options, position, missed, refused }
        })
    }

    /// Removes a member. Returns its metadata, for the caller to drop: that may run user code.
    #[must_use]
    pub(crate) fn leave(
        &self,
        number: u64,
        room: &Arc<K>,
        id: MemberId,
        why: Departure,
    ) -> Vec<Arc<M>> {
        self.change(|state, effects| {
            state.leave(number, room, id, why, &self.limits, effects);
            std::mem::take(&mut effects.metas)
        })
    }

    /// Changes the metadata of a member. Returns false if it has left.
    pub(crate) fn set_meta(&self, room: &Arc<K>, id: MemberId, meta: Arc<M>) -> bool {
        let old = self.change(|state, effects| {
            let (_, member) = state.rooms.get_mut(room)?.present.get_mut(&id)?;
            let old = std::mem::replace(&mut member.meta, meta);
            let member = member.clone();
            let item = || Item::Changed { room: room.clone(), member: member.clone() };
            state.send(room, item, None, &self.limits, effects);
            Some(old)
        });
        old.is_some()
    }

    /// Publishes a message. With an expected position, returns `None` if another message took it.
    pub(crate) fn publish(
        &self,
        reactor: &Reactor,
        key: &K,
        message: Outgoing,
        expected: Option<Position>,
    ) -> Result<Option<Position>, TooManyRooms> {
        let now = reactor.now();
        self.change_room(reactor, key, |state, room, effects| {
            state.sweep(room, now, effects);
            let entry = state.rooms.get_mut(room).expect("it exists under this lock");
            if expected.is_some_and(|expected| expected != entry.history.next()) {
                return None;
            }
            let before = entry.history.bytes();
            let options = entry.options.clone();
            let position = entry.history.add(now, &message.bytes, &options, &mut effects.removed);
            state.history_bytes = state.history_bytes - before + entry.history.bytes();
            let item = || Item::Message { room: room.clone(), position, message: message.clone() };
            state.send(room, item, None, &self.limits, effects);
            state.trim(&self.limits, effects);
            state.remove_if_unused(room);
            Some(position)
        })
    }

    /// The position of the next message.
    pub(crate) fn next(&self, reactor: &Reactor, key: &K) -> Result<Position, TooManyRooms> {
        self.change_room(reactor, key, |state, room, _| state.rooms[room].history.next())
    }

    /// The position of the newest message; `None` if the room does not exist.
    pub(crate) fn position(&self, key: &K) -> Option<Position> {
        Some(self.lock().rooms.get(key)?.history.position())
    }

    /// The members of a room, in the order in which they joined.
    pub(crate) fn present(&self, key: &K) -> Vec<Present<M>> {
        let state = self.lock();
        let room = state.rooms.get(key);
        room.map(|room| room.present.values().map(|(_, member)| member.clone()).collect())
            .unwrap_or_default()
    }

    /// The number of rooms with a member or a history.
    pub(crate) fn rooms(&self) -> usize {
        self.lock().rooms.len()
    }
}

impl<K: Key, M: Meta> HubState<K, M> {
    fn create(
        &mut self,
        room: &Arc<K>,
        options: Arc<RoomOptions>,
        epoch: u64,
        effects: &mut Effects<M>,
    ) -> Result<(), TooManyRooms> {
        if self.rooms.is_full() {
            let empty = self.rooms.iter().filter(|(_, room)| room.present.is_empty());
            let oldest = empty.min_by_key(|(_, room)| room.history.newest());
            let oldest = oldest.map(|(room, _)| room.clone()).ok_or(TooManyRooms)?;
            self.remove(&oldest, effects);
        }
        let history = History::new(epoch, &options);
        let (present, by_loop) = (BTreeMap::new(), BTreeMap::new());
        self.rooms.edit().insert(room.clone(), Room { options, history, present, by_loop });
        Ok(())
    }

    fn remove(&mut self, room: &Arc<K>, effects: &mut Effects<M>) {
        let Some(mut removed) = self.rooms.edit().remove(room) else { return };
        self.history_bytes -= removed.history.bytes();
        effects.removed.extend(std::iter::from_fn(|| removed.history.remove_oldest()));
    }

    fn remove_if_unused(&mut self, room: &Arc<K>) {
        let is_unused = |room: &Room<M>| room.present.is_empty() && room.history.is_empty();
        if self.rooms.get(room).is_some_and(is_unused) {
            self.rooms.edit().remove(room);
        }
    }

    fn leave(
        &mut self,
        number: u64,
        room: &Arc<K>,
        id: MemberId,
        why: Departure,
        limits: &Limits,
        effects: &mut Effects<M>,
    ) {
        let Some(entry) = self.rooms.get_mut(room) else { return };
        let Some((_, member)) = entry.present.remove(&id) else { return };
        if let Some(members) = entry.by_loop.get_mut(&number) {
            *members -= 1;
            if *members == 0 {
                entry.by_loop.remove(&number);
            }
        }
        let item = || Item::Left { room: room.clone(), member: member.clone(), why: why.clone() };
        self.send(room, item, None, limits, effects);
        effects.metas.push(member.meta);
        self.remove_if_unused(room);
    }

    /// Queues an item for the loops with members in the room, and for those that observe; always
    /// for `own`.
    fn send(
        &mut self,
        room: &Arc<K>,
        item: impl Fn() -> Item<K, M>,
        own: Option<u64>,
        limits: &Limits,
        effects: &mut Effects<M>,
    ) {
        let Some(entry) = self.rooms.get(room) else { return };
        for (number, queue) in &mut self.loops {
            let is_own = own == Some(*number);
            if !queue.observes && !entry.by_loop.contains_key(number) {
                continue;
            }
            queue.push(room, item(), is_own, limits);
            if !std::mem::replace(&mut queue.is_called, true) {
                effects.calls.push((*number, queue.remote.clone(), queue.slot));
            }
        }
    }

    /// Removes expired messages of this room, and of the next ones after the cursor, and rooms
    /// without any.
    fn sweep(&mut self, room: &Arc<K>, now: Instant, effects: &mut Effects<M>) {
        self.expire(room, now, effects);
        for _ in 0..SWEPT {
            let Some(next) = self.advance() else { return };
            self.expire(&next, now, effects);
            if next != *room {
                self.remove_if_unused(&next);
            }
        }
    }

    fn expire(&mut self, room: &Arc<K>, now: Instant, effects: &mut Effects<M>) {
        let Some(entry) = self.rooms.get_mut(room) else { return };
        let before = entry.history.bytes();
        entry.history.expire(now, &entry.options, &mut effects.removed);
        self.history_bytes = self.history_bytes - before + entry.history.bytes();
    }

    /// Removes the oldest messages of the rooms in turns, while all have too many bytes.
    fn trim(&mut self, limits: &Limits, effects: &mut Effects<M>) {
        while self.history_bytes > limits.history_bytes {
            let Some(next) = self.advance() else { return };
            let Some(entry) = self.rooms.get_mut(&next) else { return };
            if let Some(bytes) = entry.history.remove_oldest() {
                self.history_bytes -= bytes.len();
                effects.removed.push(bytes);
            }
        }
    }

    /// Moves the cursor to the next room, from the last to the first.
    fn advance(&mut self) -> Option<Arc<K>> {
        let next = self.cursor.take().and_then(|cursor| {
            let after = (Bound::Excluded(cursor), Bound::Unbounded);
            self.rooms.range(after).next().map(|(room, _)| room.clone())
        });
        self.cursor = next.or_else(|| self.rooms.keys().next().cloned());
        self.cursor.clone()
    }
}

impl<K: Key, M: Meta> LoopQueue<K, M> {
    /// Queues an item, or counts it if there is no room. The `own` item of the loop, a member that
    /// joins there, is always queued: at most one for each connection.
    fn push(&mut self, room: &Arc<K>, item: Item<K, M>, own: bool, limits: &Limits) {
        let bytes = item.bytes();
        let is_full = !self.refused.is_empty()
            || self.items.len() >= limits.loop_messages
            || (self.bytes > 0 && bytes > limits.loop_bytes.saturating_sub(self.bytes));
        if own || !is_full {
            self.bytes += bytes;
            self.items.push_back(item);
            return;
        }
        let refused = self.refused.entry(room.clone()).or_default();
        match item {
            Item::Message { .. } => refused.messages += 1,
            _ => refused.events += 1,
        }
    }

    fn pop(&mut self) -> Option<Item<K, M>> {
        if let Some(item) = self.items.pop_front() {
            self.bytes -= item.bytes();
            return Some(item);
        }
        let (room, refused) = self.refused.pop_first()?;
        Some(Item::Missed { room, refused })
    }
}

impl<K, M> Item<K, M> {
    fn bytes(&self) -> usize {
        if let Item::Message { message, .. } = self { message.bytes.len() } else { 0 }
    }
}
