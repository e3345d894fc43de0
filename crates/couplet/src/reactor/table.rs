//! What the driver's keys mean to the loop. The driver's slots are dense, so this is a vector.

use std::rc::Rc;
use std::time::Instant;

use super::connecting::ConnectorCell;
use super::port::PortCell;
use super::timers::TimerKey;
use crate::driver::Key;
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
    /// Its due calls are queued.
    pub(super) queued: bool,
}

#[derive(Default)]
pub(super) struct Table {
    /// Law 9: one for each slot of the driver.
    places: Vec<(u32, Place)>,
    connections: usize,
}

impl Table {
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
        match self.places.get_mut(key.slot as usize) {
            Some((generation, Place::Connection(entry))) if *generation == key.generation => {
                Some(entry)
            }
            _ => None,
        }
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
        let before = l.core.table.keys(|_| true)[0];
        let now = Key { generation: before.generation + 1, ..before };
        let port = l.core.table.take(before);
        l.core.table.put(now, port);
        assert!(l.core.table.place(before).is_none() && !l.core.table.holds(before));
        assert!(matches!(l.core.table.take(before), Place::Empty));
        assert!(l.core.table.place(now).is_some() && l.core.table.holds(now));
    }

    #[test]
    fn a_table_gives_back_the_room_of_connections_that_have_left() {
        let mut l = Loop::new().expect("a loop");
        let any = "127.0.0.1:0".parse().expect("an address");
        l.reactor().listen_tcp(any, || Nobody).expect("a free port");
        l.turn(Some(Duration::ZERO)).expect("it listens");
        let key = l.core.table.keys(|_| true)[0];
        let Place::Port(port) = l.core.table.take(key) else { panic!("there is a port") };
        let key = |slot| Key { slot, generation: 1 };
        let mut table = Table::default();
        table.places.reserve_exact(1000);
        for slot in 0..1000 {
            table.put(key(slot), Place::Port(port.clone()));
        }
        let left = |table: &mut Table, of: std::ops::Range<u32>| {
            of.for_each(|slot| drop(table.take(key(slot))));
            table.shrink();
            (table.places.len(), table.places.capacity())
        };
        assert_eq!(left(&mut table, 500..600), (1000, 1000), "the last ones are still there");
        assert_eq!(left(&mut table, 250..1000), (250, 1000), "they are a quarter");
        assert_eq!(left(&mut table, 249..250), (249, 498));
        assert_eq!(left(&mut table, 32..249), (32, 64));
        assert_eq!(left(&mut table, 0..32), (0, 64), "a small one may stay");
    }
}
