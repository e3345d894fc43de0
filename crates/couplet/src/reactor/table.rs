//! What the driver's keys mean to the loop. The driver's slots are dense, so this is a vector.

use std::rc::Rc;
use std::time::Instant;

use super::connecting::ConnectorCell;
use super::port::PortCell;
use super::timers::TimerKey;
use crate::driver::Key;
use crate::slots::Slots;
use crate::transport::connection::Life;

pub(super) enum Place {
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

pub(super) struct Table {
    places: Slots<Place>,
    connections: usize,
}

impl Table {
    pub(super) fn new() -> Table {
        Table { places: Slots::new(), connections: 0 }
    }

    pub(super) fn put(&mut self, key: Key, place: Place) {
        self.connections += usize::from(matches!(place, Place::Connection(_)));
        self.places.put(key, place);
    }

    #[inline]
    pub(super) fn place(&mut self, key: Key) -> Option<&mut Place> {
        self.places.get_mut(key)
    }

    #[inline]
    pub(super) fn connection(&mut self, key: Key) -> Option<&mut Entry> {
        match self.places.get_mut(key) {
            Some(Place::Connection(entry)) => Some(entry),
            _ => None,
        }
    }

    /// Takes out what the key means; it means nothing any more.
    pub(super) fn take(&mut self, key: Key) -> Option<Place> {
        let place = self.places.retire(key)?;
        self.connections -= usize::from(matches!(place, Place::Connection(_)));
        Some(place)
    }

    pub(super) fn holds(&self, key: Key) -> bool {
        self.places.get(key).is_some()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Place)> {
        self.places.iter()
    }

    pub(super) fn keys(&self, which: impl Fn(&Place) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, place)| which(place)).map(|(key, _)| key).collect()
    }

    /// Gives back the memory of connections that have left.
    pub(super) fn shrink(&mut self) {
        self.places.shrink();
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
        let generation = before.generation.checked_add(1).expect("a small number");
        let now = Key { generation, ..before };
        let port = l.core.table.take(before).expect("the port");
        l.core.table.put(now, port);
        assert!(l.core.table.place(before).is_none() && !l.core.table.holds(before));
        assert!(l.core.table.take(before).is_none());
        assert!(l.core.table.place(now).is_some() && l.core.table.holds(now));
    }
}
