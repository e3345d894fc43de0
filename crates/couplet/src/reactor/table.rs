//! Maps the driver's keys to the loop's resources. The driver's slots are dense, so this is a
//! vector.

use std::rc::Rc;
use std::time::Instant;

use super::connecting::ConnectorCell;
use super::port::PortCell;
use super::timers::TimerKey;
use crate::driver::Key;
use crate::slots::Slots;
use crate::transport::connection::Life;

pub(super) enum Resource {
    Port(Rc<PortCell>),
    Connecting(Rc<ConnectorCell>),
    Connection(Box<ConnectionEntry>),
}

/// One connection, as the loop holds it.
pub(super) struct ConnectionEntry {
    pub(super) life: Life,
    /// The connector that made it, on the client's side.
    pub(super) connector: Option<Rc<ConnectorCell>>,
    pub(super) timer: Option<(TimerKey, Instant)>,
    /// It is on the list of connections to write.
    pub(super) to_write: bool,
    /// Its due calls are queued.
    pub(super) queued: bool,
}

pub(super) struct Table {
    resources: Slots<Resource>,
    connections: usize,
}

impl Table {
    pub(super) fn new() -> Table {
        Table { resources: Slots::new(), connections: 0 }
    }

    pub(super) fn put(&mut self, key: Key, resource: Resource) {
        self.connections += usize::from(matches!(resource, Resource::Connection(_)));
        self.resources.put(key, resource);
    }

    #[inline]
    pub(super) fn resource(&mut self, key: Key) -> Option<&mut Resource> {
        self.resources.get_mut(key)
    }

    #[inline]
    pub(super) fn connection(&mut self, key: Key) -> Option<&mut ConnectionEntry> {
        match self.resources.get_mut(key) {
            Some(Resource::Connection(entry)) => Some(entry),
            _ => None,
        }
    }

    /// Removes the key's resource.
    pub(super) fn take(&mut self, key: Key) -> Option<Resource> {
        let resource = self.resources.retire(key)?;
        self.connections -= usize::from(matches!(resource, Resource::Connection(_)));
        Some(resource)
    }

    pub(super) fn holds(&self, key: Key) -> bool {
        self.resources.get(key).is_some()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Resource)> {
        self.resources.iter()
    }

    pub(super) fn keys(&self, which: impl Fn(&Resource) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, resource)| which(resource)).map(|(key, _)| key).collect()
    }

    /// Frees the memory of removed connections.
    pub(super) fn shrink(&mut self) {
        self.resources.shrink();
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
    fn a_stale_key_names_nothing_after_its_slot_is_reused() {
        let mut l = Loop::new().expect("a loop");
        let any = "127.0.0.1:0".parse().expect("an address");
        l.reactor().listen_tcp(any, || Nobody).expect("a free port");
        l.turn(Some(Duration::ZERO)).expect("it listens");
        let before = l.core.table.keys(|_| true)[0];
        let generation = before.generation.checked_add(1).expect("a small number");
        let now = Key { generation, ..before };
        let port = l.core.table.take(before).expect("the port");
        l.core.table.put(now, port);
        assert!(l.core.table.resource(before).is_none() && !l.core.table.holds(before));
        assert!(l.core.table.take(before).is_none());
        assert!(l.core.table.resource(now).is_some() && l.core.table.holds(now));
    }
}
