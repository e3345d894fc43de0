//! What the driver's keys mean to the loop. The driver's slots are dense, so this is a vector.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::connecting::ConnectorCell;
use super::port::PortCell;
use super::tasks::WakeQueue;
use super::timers::{Mark, TimerKey};
use super::{Reactor, waits};
use crate::driver::{Answer, Key, Receiver, Sent};
use crate::transport::connection::Life;

pub(super) enum Place {
    Empty,
    Port(Rc<PortCell>),
    Connecting(Rc<ConnectorCell>),
    Connection(Box<Entry>),
}

/// One connection, as the loop holds it.
pub(super) struct Entry {
    pub(super) life: Life,
    /// What made it, on the client's side.
    pub(super) connector: Option<Rc<ConnectorCell>>,
    pub(super) timer: Option<(TimerKey, Instant)>,
    /// Stands in the list of connections to write.
    pub(super) to_write: bool,
    /// Its due calls stand in line.
    pub(super) in_line: bool,
}

pub(super) struct Table {
    places: Vec<(u32, Place)>,
    connections: usize,
    reactor: Reactor,
    /// The time of this turn.
    pub(super) now: Instant,
    /// The first deadline as it was when the turn began, and what was asked for before it.
    pub(super) deadline: Option<Instant>,
    pub(super) mark: Mark,
    /// A turn in which nothing is left to do may be followed by the next at once.
    pub(super) runs_on: bool,
    woken: Arc<WakeQueue>,
    /// The connection that was served last, where it leaves something to settle.
    pub(super) left: Option<Key>,
}

impl Table {
    pub(super) fn new(reactor: Reactor, woken: Arc<WakeQueue>, now: Instant) -> Table {
        let mark = reactor.records.timers.borrow().mark();
        Table {
            places: Vec::new(),
            connections: 0,
            reactor,
            now,
            deadline: None,
            mark,
            runs_on: false,
            woken,
            left: None,
        }
    }

    /// The next turn begins: what is due in it is what was asked for by now.
    #[inline]
    pub(super) fn look_ahead(&mut self) {
        let mut timers = self.reactor.records.timers.borrow_mut();
        (self.deadline, self.mark) = (timers.next_deadline(), timers.mark());
    }

    /// The deadline that was seen ahead has come.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.deadline.is_some_and(|deadline| self.now >= deadline)
    }

    /// Something recorded or woken waits for the next turn.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.reactor.records.waits.get() != 0 || self.woken.door.is_any()
    }

    pub(super) fn put(&mut self, key: Key, place: Place) {
        let slot = key.slot as usize;
        if self.places.len() <= slot {
            self.places.resize_with(slot + 1, || (0, Place::Empty));
        }
        self.connections += usize::from(matches!(place, Place::Connection(_)));
        debug_assert!(matches!(self.places[slot].1, Place::Empty), "a key was given twice");
        self.places[slot] = (key.generation, place);
    }

    #[inline]
    pub(super) fn place(&mut self, key: Key) -> Option<&mut Place> {
        match self.places.get_mut(key.slot as usize) {
            Some((generation, place)) if *generation == key.generation => Some(place),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn connection(&mut self, key: Key) -> Option<&mut Entry> {
        connection(&mut self.places, key)
    }

    /// Takes out what the key means; it means nothing any more.
    pub(super) fn take(&mut self, key: Key) -> Place {
        let place = match self.place(key) {
            Some(place) => std::mem::replace(place, Place::Empty),
            None => Place::Empty,
        };
        self.connections -= usize::from(matches!(place, Place::Connection(_)));
        place
    }

    pub(super) fn holds(&self, key: Key) -> bool {
        let place = self.places.get(key.slot as usize);
        place.is_some_and(|(generation, place)| {
            *generation == key.generation && !matches!(place, Place::Empty)
        })
    }

    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Place)> {
        self.places.iter().enumerate().filter_map(|(slot, (generation, place))| match place {
            Place::Empty => None,
            place => Some((Key { slot: slot as u32, generation: *generation }, place)),
        })
    }

    pub(super) fn keys(&self, which: impl Fn(&Place) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, place)| which(place)).map(|(key, _)| key).collect()
    }

    /// Forgets the room of connections that have left.
    pub(super) fn shrink(&mut self) {
        while matches!(self.places.last(), Some((_, Place::Empty))) {
            self.places.pop();
        }
        if self.places.capacity() > 64 && self.places.len() < self.places.capacity() / 4 {
            self.places.shrink_to(self.places.len() * 2);
        }
    }
}

#[inline]
fn connection(places: &mut [(u32, Place)], key: Key) -> Option<&mut Entry> {
    match places.get_mut(key.slot as usize) {
        Some((generation, Place::Connection(entry))) if *generation == key.generation => {
            Some(entry)
        }
        _ => None,
    }
}

/// The way that most bytes go: what a protocol writes in answer to what came is sent at once, and
/// the loop sees by one look that nothing else was asked.
impl Receiver for Table {
    /// Step 2 of a turn.
    #[inline]
    fn woken(&mut self) -> bool {
        let records = &self.reactor.records;
        // Time never goes back, whatever a clock says.
        self.now = self.now.max(records.world.now());
        records.now.set(Some(self.now));
        if records.waits(waits::TASKS) {
            records.tasks.borrow_mut().begin_turn();
        }
        !records.waits(waits::ROUND)
    }

    /// The end of a turn in which nothing was due and nothing was asked for, and the beginning of
    /// the next: steps 4 to 7 would find nothing.
    #[inline]
    fn again(&mut self) -> Option<Option<Instant>> {
        if !self.runs_on || self.is_due() || self.is_waiting() {
            return None;
        }
        self.reactor.records.now.set(None);
        self.look_ahead();
        Some(self.deadline)
    }

    #[inline]
    fn received(&mut self, key: Key, data: &[u8]) -> Answer<'_> {
        let Table { places, reactor, now, left, .. } = self;
        let Some(entry) = connection(places, key) else {
            return Answer::Nothing;
        };
        entry.life.wire().set_marked(true);
        entry.life.feed(data, *now);
        if reactor.records.waits(waits::ROUND) || entry.life.leaves_more() {
            *left = Some(key);
            return Answer::Stop;
        }
        match entry.life.wire().to_send() {
            Some(out) if out.is_plain() && entry.life.writes_plainly() => {
                entry.life.wire().set_marked(false);
                Answer::Send(out)
            }
            Some(_) => {
                *left = Some(key);
                Answer::Stop
            }
            None => {
                entry.life.wire().set_marked(false);
                Answer::Nothing
            }
        }
    }

    #[cold]
    fn blocked(&mut self, key: Key, sent: Sent, n: usize) -> bool {
        let Table { places, now, left, .. } = self;
        let Some(entry) = connection(places, key) else {
            return true;
        };
        entry.life.wrote(sent, n, *now);
        if entry.life.leaves_more() {
            *left = Some(key);
        }
        left.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Loop, Protocol, Transport};

    struct Nobody;

    impl Protocol for Nobody {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn a_key_of_before_means_nothing_where_its_slot_is_in_use_again() {
        let mut l = Loop::new().expect("a loop");
        let any = "127.0.0.1:0".parse().expect("an address");
        l.reactor().listen_tcp(any, || Nobody).expect("a free port");
        l.turn(Some(Duration::ZERO)).expect("it listens");
        let before = l.table.keys(|_| true)[0];
        let now = Key { generation: before.generation + 1, ..before };
        let port = l.table.take(before);
        l.table.put(now, port);
        assert!(l.table.place(before).is_none() && !l.table.holds(before));
        assert!(matches!(l.table.take(before), Place::Empty));
        assert!(l.table.place(now).is_some() && l.table.holds(now));
    }
}
